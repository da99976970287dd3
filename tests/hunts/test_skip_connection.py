"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch
from torch import nn

from labs.hunts.foundations import check_skip_connection
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

LESSON = "lessons/01_foundations/07_feel_the_residual"


class Block(nn.Module):
    """Hold the two convolutions; each fix below is one way to write ``forward``."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def rest(self, x):
        return self.second(torch.relu(self.first(x)))


class CloneFirst(Block):
    def forward(self, x):
        return x.clone() + self.rest(torch.relu_(x.clone()))


class BranchFirst(Block):
    def forward(self, x):
        return self.rest(torch.relu(x)) + x


class RenameOnly(Block):
    def forward(self, x):
        identity = x
        return identity + self.rest(torch.relu_(x))


class CloneTooLate(Block):
    def forward(self, x):
        change = self.rest(torch.relu_(x))
        return x.clone() + change


class DropTheRelu(Block):
    def forward(self, x):
        return x + self.rest(x)


class ReluOnBoth(Block):
    def forward(self, x):
        x = torch.relu(x)
        return x + self.rest(x)


class DetachTheSkip(Block):
    def forward(self, x):
        return x.detach().clone() + self.rest(torch.relu(x))


class RescueTheSkipOnly(Block):
    def forward(self, x):
        identity = x.clone()
        return identity + self.rest(torch.relu_(x))


class AddANorm(Block):
    def __init__(self, channels):
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.rest(torch.relu(self.norm(x)))


class NoSkip(Block):
    def forward(self, x):
        return self.rest(torch.relu(x))


class AddAHair(Block):
    def forward(self, x):
        return x + self.rest(torch.relu(x)) + 2e-6


class OffWithoutGradients(Block):
    """Be right where gradients are computed; else a little off, where there is a branch."""

    def forward(self, x):
        branch = self.rest(torch.relu(x))
        return x + branch + (0 if torch.is_grad_enabled() else 5e-4 * (branch != 0))


class ScaleTheGradient(Block):
    def forward(self, x):
        out = x + self.rest(torch.relu(x))
        return 1.0002 * out - 0.0002 * out.detach()


class HoldASpare(Block):
    def __init__(self, channels):
        super().__init__(channels)
        self.spare = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x + self.rest(torch.relu(x))


class HoldAThird(Block):
    def __init__(self, channels):
        super().__init__(channels)
        self.third = nn.Conv2d(channels, channels, 3)

    def forward(self, x):
        return x + self.rest(torch.relu(x))


class DetachAll(Block):
    def forward(self, x):
        return (x + self.rest(torch.relu(x))).detach()


class NaNSomewhere(Block):
    def forward(self, x):
        out = x + self.rest(torch.relu(x))
        return torch.where(out == out.max(), torch.nan, out)


WRONG = {
    AddAHair: "✗✓✓✓✓",
    RescueTheSkipOnly: "✓✗✓✓✓",
    OffWithoutGradients: "✓✓✗✓✓",
    DetachTheSkip: "✓✓✓✗✓",
    ScaleTheGradient: "✓✓✓✗✓",
    DetachAll: "✓✓✓✗✓",
    HoldASpare: "✓✓✓✓✗",
    RenameOnly: "✗✗✗✗✓",
    CloneTooLate: "✗✗✗✗✓",
    DropTheRelu: "✓✓✗✗✓",
    ReluOnBoth: "✗✓✗✗✓",
    AddANorm: "✓✓✗✗✗",
    HoldAThird: "✓✓✗✗✗",
    NoSkip: "✗✓✗✗✓",
    NaNSomewhere: "✗✓✗✗✓",
}


def test_the_planted_bug_fails():
    verdict = check_skip_connection(run_cell(LESSON, "hunt-bug")["PreActBlock"])
    assert [probe.passed for probe in verdict.probes] == [False, False, False, False, True]


def test_the_solution_passes():
    assert check_skip_connection(run_cell(LESSON, "hunt-solution")["CleanBlock"])


@pytest.mark.parametrize("fix", [CloneFirst, BranchFirst])
def test_other_right_fixes_pass(fix):
    verdict = check_skip_connection(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_skip_connection(fix)
    assert marks(verdict) == refused, verdict
