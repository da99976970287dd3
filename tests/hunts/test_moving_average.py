"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import copy

import pytest
import torch

from labs.hunts.detection import check_moving_average
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

LESSON = "lessons/02_detection/07_drop_the_anchors"


class Average:
    """Hold the copy; each fix below is one way to write ``update``."""

    def __init__(self, net, decay):
        self.net, self.decay = copy.deepcopy(net).eval(), decay

    def pairs(self, net):
        return zip(self.net.state_dict().values(), net.state_dict().values(), strict=True)


class CopyBuffers(Average):
    @torch.no_grad()
    def update(self, net):
        for mine, new in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.mul_(self.decay).add_(new, alpha=1 - self.decay)
        for mine, new in zip(self.net.buffers(), net.buffers(), strict=True):
            mine.copy_(new)


class FloatsOnly(Average):
    @torch.no_grad()
    def update(self, net):
        for mine, new in self.pairs(net):
            if mine.is_floating_point():
                mine.lerp_(new, 1 - self.decay)


class OwnBuffers(Average):
    @torch.no_grad()
    def update(self, net):
        for mine, new in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.lerp_(new, 1 - self.decay)
        for mine, new in zip(self.net.buffers(), self.net.buffers(), strict=True):
            mine.copy_(new)


class AliasBuffers(Average):
    @torch.no_grad()
    def update(self, net):
        for mine, new in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.lerp_(new, 1 - self.decay)
        for mine, new in zip(self.net.modules(), net.modules(), strict=True):
            mine._buffers = new._buffers


class DecayTurnedRound(Average):
    @torch.no_grad()
    def update(self, net):
        for mine, new in self.pairs(net):
            mine.copy_(new * self.decay + mine * (1 - self.decay))


class Replace(Average):
    def update(self, net):
        self.net.load_state_dict(net.state_dict())


class WithGraph(Average):
    def update(self, net):
        for module, other in zip(self.net.modules(), net.modules(), strict=True):
            for name, new in other._parameters.items():
                if new is not None:
                    old = module._parameters.pop(name, None)
                    old = getattr(module, name) if old is None else old
                    setattr(module, name, old * self.decay + new * (1 - self.decay))
            for name, new in other._buffers.items():
                module._buffers[name].copy_(new)


class MeanOnly(Average):
    @torch.no_grad()
    def update(self, net):
        for name, new in net.state_dict().items():
            if "var" not in name:
                mine = self.net.state_dict()[name]
                mine.lerp_(new, 1 - self.decay) if mine.is_floating_point() else mine.copy_(new)


class WriteBack(CopyBuffers):
    def update(self, net):
        super().update(net)
        net.load_state_dict(self.net.state_dict())


class EvalOnline(CopyBuffers):
    def update(self, net):
        super().update(net.eval())


class NeverQuiteNew(CopyBuffers):
    """Take a decay of 0 for none given."""

    def __init__(self, net, decay):
        super().__init__(net, decay or 1e-3)


class ALittleSlow(CopyBuffers):
    def __init__(self, net, decay):
        super().__init__(net, decay and decay + 3e-4)


class StatisticsOnlyAtOnce(Average):
    """Let the statistics follow only where there is nothing to average."""

    @torch.no_grad()
    def update(self, net):
        for name, new in net.state_dict().items():
            mine = self.net.state_dict()[name]
            if "running" not in name:
                mine.lerp_(new, 1 - self.decay) if mine.is_floating_point() else mine.copy_(new)
            elif self.decay == 0 or not name.endswith(self.left_out):
                mine.copy_(new)


class MeanStays(StatisticsOnlyAtOnce):
    left_out = "mean"


class VarianceStays(StatisticsOnlyAtOnce):
    left_out = "var"


class CountsInFloats(CopyBuffers):
    def update(self, net):
        super().update(net)
        self.net[1].num_batches_tracked = net[1].num_batches_tracked.float()


class ResetsTheOnlineCount(CopyBuffers):
    def update(self, net):
        super().update(net)
        net[1].num_batches_tracked += 1
        self.net[1].num_batches_tracked.copy_(net[1].num_batches_tracked)


class KeepsAGraph(Average):
    """Freeze the copy, and then average with a graph."""

    def __init__(self, net, decay):
        super().__init__(net, decay)
        self.net.requires_grad_(False)

    def update(self, net):
        for mine, new in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.mul_(self.decay).add_(new, alpha=1 - self.decay)
        for mine, new in zip(self.net.buffers(), net.buffers(), strict=True):
            mine.copy_(new)


class FreezesOnline(CopyBuffers):
    def update(self, net):
        super().update(net)
        net.requires_grad_(self.decay != 0.5)


WRONG = {
    NeverQuiteNew: "✗✓✓✓✓✓",
    Replace: "✓✗✓✓✓✓",
    ALittleSlow: "✓✗✓✓✓✓",
    KeepsAGraph: "✓✗✓✓✓✓",
    MeanStays: "✓✓✗✓✓✓",
    VarianceStays: "✓✓✗✓✓✓",
    FloatsOnly: "✓✓✓✗✓✓",
    CountsInFloats: "✓✓✓✗✓✓",
    EvalOnline: "✓✓✓✓✗✓",
    ResetsTheOnlineCount: "✓✓✓✓✗✓",
    FreezesOnline: "✓✓✓✓✗✓",
    AliasBuffers: "✓✓✓✓✓✗",
    OwnBuffers: "✗✓✗✗✓✓",
    DecayTurnedRound: "✗✗✓✗✓✓",
    WithGraph: "✗✗✓✓✓✓",
    MeanOnly: "✗✓✗✓✓✓",
    WriteBack: "✓✗✓✓✗✓",
}


def test_the_planted_bug_fails():
    verdict = check_moving_average(run_cell(LESSON, "hunt-bug")["MovingAverage"])
    assert [probe.passed for probe in verdict.probes] == [False, True, False, False, True, True]


def test_the_solution_passes():
    assert check_moving_average(run_cell(LESSON, "hunt-solution")["WholeAverage"])


def test_another_right_fix_passes():
    verdict = check_moving_average(CopyBuffers)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_moving_average(fix)
    assert marks(verdict) == refused, verdict
