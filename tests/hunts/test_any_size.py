"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, pad

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from labs.hunts.engineering import check_any_size
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

LESSON = "lessons/06_engineering/04_export_to_onnx_and_run_anywhere"


class Net(nn.Module):
    """Hold the two layers; each fix below is one way to write ``fill``."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 4, stride=4)
        self.up = nn.ConvTranspose2d(4, 1, 4, stride=4)

    def forward(self, x):
        height, width = x.shape[-2:]
        return self.up(self.down(self.fill(x)).relu())[..., :height, :width]


class RoundUp(Net):
    def fill(self, x):
        height, width = x.shape[-2:]
        return pad(x, (0, (width + 3) // 4 * 4 - width, 0, (height + 3) // 4 * 4 - height))


class JoinZeros(Net):
    def fill(self, x):
        height, width = x.shape[-2:]
        x = torch.cat([x, x.new_zeros(*x.shape[:-1], -width % 4)], -1)
        return torch.cat([x, x.new_zeros(*x.shape[:-2], -height % 4, x.shape[-1])], -2)


class AskBothSides(Net):
    def fill(self, x):
        height, width = x.shape[-2:]
        if height % 4:
            x = pad(x, (0, 0, 0, -height % 4))
        return pad(x, (0, -width % 4)) if width % 4 else x


class AlwaysThree(Net):
    def fill(self, x):  # the convolution leaves out what does not fill a cell
        return pad(x, (0, 3, 0, 3))


class FourWhereNoneIsMissing(Net):
    def fill(self, x):
        height, width = x.shape[-2:]
        return pad(x, (0, 4 - width % 4, 0, 4 - height % 4))


class Mirror(Net):
    def fill(self, x):
        height, width = x.shape[-2:]
        return pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")


class OtherCorner(Net):
    def fill(self, x):
        height, width = x.shape[-2:]
        return pad(x, (-width % 4, 0, -height % 4, 0))


class SidesSwapped(Net):
    def fill(self, x):
        height, width = x.shape[-2:]
        return pad(x, (0, -height % 4, 0, -width % 4))


class Stretch(Net):
    def fill(self, x):
        height, width = x.shape[-2:]
        return interpolate(x, ((height + 3) // 4 * 4, (width + 3) // 4 * 4))


class NoPadding(Net):
    def fill(self, x):
        return x


class UncutInPyTorch(RoundUp):
    def forward(self, x):
        out = self.up(self.down(self.fill(x)).relu())
        return out[..., : x.shape[-2], : x.shape[-1]] if torch.compiler.is_exporting() else out


class OffInPyTorch(RoundUp):
    def forward(self, x):
        return super().forward(x) + (0 if torch.compiler.is_exporting() else 1e-3)


class OffWhenExportedFromThirty(RoundUp):
    def forward(self, x):
        odd = torch.compiler.is_exporting() and x.shape[-2] % 4 == 2
        return super().forward(x) + (1e-3 if odd else 0)


class OtherKernel(RoundUp):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 5, stride=4, padding=1)


WRONG = {
    OffInPyTorch: "✓✗✓✓✓",
    FourWhereNoneIsMissing: "✓✓✗✓✓",
    AskBothSides: "✓✓✓✗✓",
    OffWhenExportedFromThirty: "✓✓✓✓✗",
    UncutInPyTorch: "✗✗✓✓✓",
    Mirror: "✓✗✓✗✗",
    OtherCorner: "✓✗✓✗✗",
    Stretch: "✓✗✓✗✗",
    SidesSwapped: "✗✗✗✗✗",
    NoPadding: "✗✗✗✗✗",
    OtherKernel: "✗✗✗✗✗",
}
TOGETHER = {
    "in PyTorch, every map has the size of its picture": "values of another shape are not equal"
}


def test_the_planted_bug_fails():
    verdict = check_any_size(run_cell(LESSON, "hunt-bug")["AnySize"])
    assert [probe.passed for probe in verdict.probes] == [True, True, True, False, True]


def test_the_solution_passes():
    assert check_any_size(run_cell(LESSON, "hunt-solution")["AlwaysPadded"])


@pytest.mark.parametrize("fix", [RoundUp, JoinZeros, AlwaysThree])
def test_other_right_fixes_pass(fix):
    verdict = check_any_size(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_any_size(fix)
    assert marks(verdict) == refused, verdict
