"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, pad

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from labs.hunts.engineering import check_any_size
from tests.hunts.lesson_cells import run_cell

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


def test_the_planted_bug_fails():
    verdict = check_any_size(run_cell(LESSON, "hunt-bug")["AnySize"])
    assert [probe.passed for probe in verdict.probes] == [True, True, True, False, True]


def test_the_solution_passes():
    assert check_any_size(run_cell(LESSON, "hunt-solution")["AnySize"])


@pytest.mark.parametrize("fix", [RoundUp, JoinZeros, AlwaysThree])
def test_other_right_fixes_pass(fix):
    verdict = check_any_size(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    "fix",
    [
        AskBothSides,
        FourWhereNoneIsMissing,
        Mirror,
        OtherCorner,
        SidesSwapped,
        Stretch,
        NoPadding,
    ],
)
def test_wrong_fixes_fail(fix):
    assert not check_any_size(fix)
