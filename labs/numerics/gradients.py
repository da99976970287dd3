"""Compare gradients with finite differences, in float64, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from labs.hooks.layers import named_inputs
from labs.numerics.double import DoubleRun

_FAILING = ("no gradient", "not finite", "wrong")  # from the worst to the least bad
_SEVERITY = (*_FAILING, "kink", "ok", "unused")


@dataclass(frozen=True)
class InputGradient:
    """Hold the comparison for one input or parameter, at its worst element.

    Attributes:
        name: ``input 0``, ``input mask`` for one given by name, or the name of a parameter.
        shape: Its shape.
        checked: How many of its elements were compared.
        index: The element where the two differ most.
        analytic: The gradient there that autograd gives; NaN when it gives none.
        numeric: The slope there by a central difference.
        relative_error: ``|analytic - numeric| / max(|analytic|, |numeric|)``; 0 when both are 0.
        verdict: ``ok``; ``unused``: no gradient, and none is due, since the output does not change;
            ``kink``: the slopes to the left and to the right differ, and the gradient is between
            them, as of ReLU at 0; ``wrong``; ``not finite``; ``no gradient``: the output changes
            with this input, and yet the graph does not lead to it (``detach``, ``.data``, NumPy).
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    index: tuple[int, ...]
    analytic: float
    numeric: float
    relative_error: float
    verdict: str


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """Hold the comparison for every input and parameter.

    Attributes:
        function: The name of what was differentiated.
        inputs: One comparison for each, inputs first.
    """

    function: str
    inputs: tuple[InputGradient, ...]

    @property
    def failures(self) -> tuple[InputGradient, ...]:
        """Return what has a wrong gradient, one that is not finite, or none where one is due."""
        return tuple(row for row in self.inputs if row.verdict in _FAILING)

    @property
    def kinks(self) -> tuple[InputGradient, ...]:
        """Return what was looked at where it has no derivative; move these inputs a little."""
        return tuple(row for row in self.inputs if row.verdict == "kink")

    @property
    def ok(self) -> bool:
        """Say whether nothing failed; a kink is no failure."""
        return not self.failures

    def table(self) -> pd.DataFrame:
        """Return one row per input or parameter; see :class:`InputGradient`."""
        columns = list(InputGradient.__dataclass_fields__)
        return pd.DataFrame([vars(row) for row in self.inputs], columns=columns)

    def __repr__(self) -> str:
        notes = [_describe(row) for row in (*self.failures, *self.kinks)]
        head = f"GradientCheck({self.function}: {len(self.inputs) - len(notes)}"
        return "; ".join([f"{head} of {len(self.inputs)} as expected", *notes]) + ")"


def check_gradients(
    fn: Callable[..., Any],
    *inputs: Any,
    step: float = 1e-6,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    elements: int = 100,
    kwargs: Mapping[str, Any] | None = None,
) -> GradientCheck:
    """Compare the gradients of a function, or of a module and its parameters, with differences.

    Each number ``x`` is moved by ``step`` both ways, and ``(f(x + step) - f(x - step)) / 2 step``
    must be within ``atol + rtol * |slope|`` of what autograd gives. An output of many numbers is
    first summed with weights that all differ: a plain sum would be blind to the gradient of a
    softmax, whose sum is always 1.

    The inputs, and a module's parameters and buffers, are copied to float64; the originals, their
    ``.grad``, modes and the random state stay as they were. Each call starts from the same random
    state, so a dropout draws one mask throughout. In train mode a batch norm is checked as such.

    Args:
        fn: A loss, any other function of tensors, or an ``nn.Module`` (its trainable parameters
            are then checked as well). What it returns may be nested.
        inputs: What it is called with. Those that require a gradient are checked; if none does,
            every floating-point tensor.
        step: How far to move each number.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        elements: How many numbers of each input to check at most, drawn with a fixed seed.
        kwargs: What it is called with by name; checked like ``inputs``.

    Returns:
        The report.

    Raises:
        TypeError: When there is nothing to check, or no floating-point output; when ``fn`` cannot
            be called or ``kwargs`` is no mapping from names.
        ValueError: When the function computes in less than float64 inside, or gives another value
            when it is called again; or when ``step`` or ``elements`` is not positive.
    """
    if step <= 0 or elements < 1:
        raise ValueError(
            f"check_gradients: expected step > 0 and elements >= 1, got {step} and {elements}"
        )
    if not callable(fn):
        raise TypeError(
            f"check_gradients: expected a function or a module, got a {type(fn).__name__}; pass "
            "the function and its inputs, not its result"
        )
    named = named_inputs("check_gradients", kwargs)
    with torch.inference_mode(False), torch.enable_grad():
        run = DoubleRun.of(fn, inputs, named)
        value = run()
        if not _same(value, run()):
            raise ValueError(
                "check_gradients: expected the same value when called again, got another; "
                "make the function draw from PyTorch's global generator, or from none"
            )
        leaves = list(run.leaves.values())
        gradients: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if value.requires_grad:
            gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        rows = [
            _check(run, name, gradient, _Limits(step, rtol, atol, elements))
            for name, gradient in zip(run.leaves, gradients, strict=True)
        ]
    return GradientCheck(getattr(fn, "__name__", type(fn).__name__), tuple(rows))


@dataclass(frozen=True)
class _Limits:
    """Hold how far to step, what to tolerate, and how much to check."""

    step: float
    rtol: float
    atol: float
    elements: int

    def apart(self, a: float, b: float) -> bool:
        return not abs(a - b) <= self.atol + self.rtol * abs(b)


def _check(run: DoubleRun, name: str, gradient: Tensor | None, limits: _Limits) -> InputGradient:
    """Compare the gradient of one leaf, element by element, and keep the worst."""
    leaf, here = run.leaves[name], run().item()
    places = _draw(leaf.numel(), limits.elements)
    found = []
    for place in places:
        right = run.at(leaf, place, limits.step)
        left = run.at(leaf, place, -limits.step)
        slopes = ((here - left) / limits.step, (right - here) / limits.step)
        analytic = math.nan if gradient is None else float(gradient.flatten()[place])
        numeric = (right - left) / (2 * limits.step)
        verdict = _verdict(gradient is None, analytic, numeric, slopes, limits)
        found.append(
            (_SEVERITY.index(verdict), -_error(analytic, numeric), place, analytic, numeric)
        )
    if not found:  # nothing in it
        return InputGradient(name, tuple(leaf.shape), 0, (), math.nan, math.nan, 0.0, "ok")
    rank, error, place, analytic, numeric = min(found, key=lambda row: row[:2])
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), leaf.shape))
    return InputGradient(
        name, tuple(leaf.shape), len(places), index, analytic, numeric, -error, _SEVERITY[rank]
    )


def _verdict(
    missing: bool, analytic: float, numeric: float, slopes: tuple[float, float], limits: _Limits
) -> str:
    """Judge one element; ``slopes`` are those to its left and to its right."""
    if missing:
        return "no gradient" if limits.apart(numeric, 0.0) or limits.apart(*slopes) else "unused"
    if not (math.isfinite(analytic) and math.isfinite(numeric)):
        return "not finite"
    if not limits.apart(analytic, numeric):
        return "ok"
    slack = limits.atol + limits.rtol * max(map(abs, slopes))
    between = min(slopes) - slack <= analytic <= max(slopes) + slack
    return "kink" if limits.apart(*slopes) and between else "wrong"


def _error(analytic: float, numeric: float) -> float:
    """Return the relative error; infinite when one of the two is not finite."""
    if not (math.isfinite(analytic) and math.isfinite(numeric)):
        return math.inf
    scale = max(abs(analytic), abs(numeric))
    return abs(analytic - numeric) / scale if scale else 0.0


def _draw(count: int, most: int) -> list[int]:
    """Choose at most ``most`` of ``count`` places, the same ones each time."""
    if count <= most:
        return list(range(count))
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].tolist()


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def _describe(row: InputGradient) -> str:
    place = "" if not row.index else f" at {row.index}"
    if row.verdict == "no gradient":
        return f"no gradient flows to {row.name}, though its slope{place} is {row.numeric:.4g}"
    return f"{row.verdict}: {row.name}{place}: {row.analytic:.4g}, by differences {row.numeric:.4g}"
