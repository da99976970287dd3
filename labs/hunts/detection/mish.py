"""Check an activation written by hand: Mish must be right in value, in gradient, and everywhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from labs.hunts import Verdict, examine
from labs.hunts.answer import tensor_of

Activation = Callable[[Tensor], Tensor]


def check_mish(mish: Activation) -> Verdict:
    """Check that a function is Mish, x * tanh(ln(1 + e^x)), for every number a network may meet.

    Args:
        mish: Maps a tensor of any shape to one of the same shape and type.

    Returns:
        The verdict of six probes: on ordinary, large and very negative inputs, on the gradient, on
        bfloat16, and on what must not change.
    """
    return examine(
        "Mish by hand",
        mish,
        {
            "from -5 to 5 the values are right": _near_zero,
            "from -10,000 to 10,000 the values are right": _far_out,
            "from -18 to -6 at least three digits are right": _digits_of_small_values,
            "from -10,000 to 10,000 the gradient is right": _gradient,
            "in bfloat16, value and gradient are right": _half,
            "shape and type stay, and so does the input": _leaves_no_trace,
        },
    )


def _far() -> Tensor:
    middle = torch.linspace(-30, 120, 301)
    return torch.cat([torch.tensor([-1e4, -1e3, -100]), middle, torch.tensor([1e3, 1e4])])


def _asked(mish: Activation, x: Tensor) -> Tensor:
    return tensor_of(mish(x), x.shape)


def _near_zero(mish: Activation) -> str:
    x = torch.linspace(-5, 5, 101)
    return _values_agree(x, _asked(mish, x.clone()), functional.mish(x))


def _far_out(mish: Activation) -> str:
    x = _far()
    return _values_agree(x, _asked(mish, x.clone()), functional.mish(x))


def _digits_of_small_values(mish: Activation) -> str:
    x = torch.linspace(-18, -6, 49)
    exact = functional.mish(x.double())
    off = ((_asked(mish, x.clone()).double() - exact) / exact).abs()
    worst = int(off.nan_to_num(nan=float("inf")).argmax())
    assert off[worst] < 1e-3, f"off by {off[worst]:.0%} at x = {x[worst]:g}"
    return "they are"


def _gradient(mish: Activation) -> str:
    x = _far()
    return _gradients_agree(x, mish, 1e-4)


def _half(mish: Activation) -> str:
    x = torch.tensor([-100, -20, -2, -0.5, 0, 0.5, 2, 20, 100, 1000]).bfloat16()
    _values_agree(x, _asked(mish, x.clone()), functional.mish(x.double()), 0.05)
    return _gradients_agree(x, mish, 0.05)


def _leaves_no_trace(mish: Activation) -> str:
    x = torch.linspace(-3, 3, 24).view(2, 3, 4)
    before, y = x.clone(), _asked(mish, x)
    assert y.dtype == x.dtype, f"{x.dtype} became {y.dtype}"
    assert torch.equal(x, before), "the input was written over"
    return "they do"


def _values_agree(x: Tensor, got: Tensor, wanted: Tensor, slack: float = 1e-5) -> str:
    off = (got.double() - wanted.double()).abs() / (1 + wanted.double().abs())
    return _say(x, off, got, "value", slack)


def _gradients_agree(x: Tensor, mish: Activation, slack: float) -> str:
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    value = _asked(mish, leaf)
    assert value.requires_grad, "no gradient comes back"
    (got,) = torch.autograd.grad(value.sum(), leaf)
    (wanted,) = torch.autograd.grad(functional.mish(exact).sum(), exact)
    return _say(x, (got.double() - wanted).abs(), got, "gradient", slack)


def _say(x: Tensor, off: Tensor, got: Tensor, what: str, slack: float) -> str:
    lost = ~got.isfinite()
    if lost.any():
        first = int(lost.nonzero()[0])
        raise AssertionError(
            f"{int(lost.sum())} of {len(x)} {what}s are not finite, such as {got[first]:g} at "
            f"x = {x[first]:g}"
        )
    worst = int(off.argmax())
    assert off[worst] < slack, f"the {what} at x = {x[worst]:g} is {got[worst]:g}"
    return "they are" if what == "value" else "it is"
