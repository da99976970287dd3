"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch
from torch.nn import functional

from labs.hunts.detection import check_mish
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/02_detection/04_try_the_bag_of_tricks"


def naive(x):
    return x * torch.tanh(torch.log(1 + torch.exp(x)))


RIGHT = {
    "the library's": functional.mish,
    "log1p of a limited exponent": lambda x: x * torch.log1p(x.clamp(max=20).exp()).tanh(),
    "the sigmoid's logarithm": lambda x: x * torch.tanh(-functional.logsigmoid(-x)),
}


def half(x):
    return x.dtype == torch.bfloat16


def plus_gradient(x, share):
    """Leave the value, and add to the gradient."""
    return functional.mish(x) + share * (x - x.detach())


def spends_its_input(x):
    y = functional.mish(x)
    if not x.requires_grad:
        x.zero_()
    return y


def near_zero(x):
    return torch.where((x.abs() < 0.3) & (x != 0), 0 * x, functional.mish(x))


WRONG = {
    "nothing near zero": (near_zero, "✗✓✓✓✓✓"),
    "a constant too much far out": (
        lambda x: functional.mish(x) + 0.5 * (x > 500),
        "✓✗✓✓✓✓",
    ),
    "two digits where it is small": (
        lambda x: functional.mish(x) * torch.where(x < -10, 1.01, 1.0),
        "✓✓✗✓✓✓",
    ),
    "a gradient a thousandth off": (lambda x: plus_gradient(x, 1e-3), "✓✓✓✗✓✓"),
    "naive in bfloat16": (when(half, naive, functional.mish), "✓✓✓✓✗✓"),
    "a value off in bfloat16": (
        when(half, lambda x: functional.mish(x) + 0.3, functional.mish),
        "✓✓✓✓✗✓",
    ),
    "a gradient off in bfloat16": (
        when(half, lambda x: plus_gradient(x, 0.5), functional.mish),
        "✓✓✓✓✗✓",
    ),
    "no gradient in bfloat16": (
        when(half, lambda x: functional.mish(x.detach()), functional.mish),
        "✓✓✓✓✗✓",
    ),
    "float64 stays": (lambda x: functional.mish(x.double()), "✓✓✓✓✓✗"),
    "the input spent": (spends_its_input, "✓✓✓✓✓✗"),
    "two in ten thousand": (lambda x: 1.0002 * functional.mish(x), "✗✗✓✗✓✓"),
    "the NaN replaced in the output": (lambda x: naive(x).nan_to_num(), "✓✓✗✗✗✓"),
    "where, after the damage": (lambda x: torch.where(x > 20, x, naive(x)), "✓✓✗✗✗✓"),
    "log1p, but no limit": (lambda x: x * torch.tanh(torch.log1p(torch.exp(x))), "✓✓✓✗✗✓"),
    "a limit, but log": (lambda x: x * torch.log(1 + x.clamp(max=20).exp()).tanh(), "✓✓✗✓✓✓"),
    "the limit on x everywhere": (lambda x: naive(x.clamp(max=20)), "✓✗✗✗✗✓"),
    "float64": (lambda x: naive(x.double()), "✓✓✓✗✗✗"),
    "float64 and back": (lambda x: naive(x.double()).to(x.dtype), "✓✓✓✗✗✓"),
    "the gate detached": (lambda x: x * functional.softplus(x).tanh().detach(), "✓✓✓✗✗✓"),
    "SiLU": (functional.silu, "✗✗✗✗✗✓"),
    "ReLU": (torch.relu, "✗✗✗✗✗✓"),
    "in place": (lambda x: x.mul_(functional.softplus(x).tanh()), "✓✓✓✗✗✗"),
    "flat": (lambda x: functional.mish(x).flatten(), "✓✓✓✓✓✗"),
}


def test_the_planted_bug_fails_where_the_forward_pass_is_fine():
    verdict = check_mish(run_cell(LESSON, "hunt-bug")["mish"])
    assert [probe.passed for probe in verdict.probes] == [True, True, False, False, False, True]


def test_the_solution_passes():
    verdict = check_mish(run_cell(LESSON, "hunt-solution")["steady_mish"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", RIGHT.values(), ids=RIGHT.keys())
def test_other_right_fixes_pass(fix):
    verdict = check_mish(fix)
    assert verdict, verdict


@pytest.mark.parametrize(("fix", "refused"), WRONG.values(), ids=WRONG.keys())
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_mish(fix)
    assert marks(verdict) == refused, verdict
