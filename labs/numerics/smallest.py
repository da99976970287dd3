"""Make a failing input small: fewer rows, fewer elements, rounder numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labs.numerics.cases import Case

_TRIES = 200  # calls of the loss that one failing input may cost at most,
_NUMBERS = 4_000_000  # and how many numbers they may be given in all


@dataclass(frozen=True, eq=False, repr=False)
class Smallest:
    """Hold the smallest input found that still fails in the same way.

    Attributes:
        case: The case from which it was made.
        dtype: The dtype of its floating-point tensors, such as ``"float32"``.
        verdict: What went wrong.
        inputs: What to call the loss with, to see it again.
    """

    case: str
    dtype: str
    verdict: str
    inputs: tuple[Any, ...]

    @property
    def values(self) -> int:
        """Count the numbers in all inputs."""
        return _count(self.inputs)

    def __repr__(self) -> str:
        shown = ", ".join(_show(value) for value in self.inputs)
        return f"Smallest({self.verdict} in {self.dtype} at {shown}; from case {self.case!r})"


def shrink(
    fails: Callable[[tuple[Any, ...]], bool],
    case: Case,
    inputs: tuple[Any, ...],
    rows_only: bool = False,
) -> tuple[Any, ...]:
    """Return a smaller input for which ``fails`` is still true.

    Rows go first, then slices along the other axes, by dropping ever smaller chunks (Zeller and
    Hildebrandt, 2002: "Simplifying and isolating failure-inducing input"); last, each number
    becomes the first of ``case.simpler`` that keeps the failure. The effort is limited, so an input
    of very many numbers may stay larger than it need be.

    Args:
        fails: Says whether an input fails as the first one did.
        case: Says which inputs are predictions, and which numbers are simple.
        inputs: An input that fails.
        rows_only: Keep the shape of a row and its numbers.
    """
    still_fails = _Trial(fails)
    for axis in range(1 if rows_only else inputs[case.wrt[0]].ndim):
        inputs = _drop(still_fails, inputs, inputs[case.wrt[0]], axis)
    for index in () if rows_only else case.wrt:
        inputs = _round(still_fails, inputs, index, case.simpler)
    return inputs


class _Trial:
    """Say whether an input fails, until so many calls or numbers are spent; then always no."""

    def __init__(self, fails: Callable[[tuple[Any, ...]], bool]) -> None:
        self.fails = fails
        self.tries = self.numbers = 0

    @property
    def spent(self) -> bool:
        return self.tries >= _TRIES or self.numbers >= _NUMBERS

    def __call__(self, inputs: tuple[Any, ...]) -> bool:
        if self.spent:
            return False
        self.tries, self.numbers = self.tries + 1, self.numbers + _count(inputs)
        return self.fails(inputs)


def _count(inputs: tuple[Any, ...]) -> int:
    return sum(value.numel() for value in inputs if isinstance(value, Tensor))


def _drop(fails: _Trial, inputs: tuple[Any, ...], lead: Tensor, axis: int) -> tuple[Any, ...]:
    """Drop slices along ``axis``, in chunks of half the length, a quarter, and so on down to 1."""
    kept = torch.arange(lead.shape[axis], device=lead.device)
    chunk = len(kept) // 2 if lead.numel() else 0
    while chunk and not fails.spent:
        start = 0
        while start < len(kept) and not fails.spent:
            rest = torch.cat([kept[:start], kept[start + chunk :]])
            if len(rest) and fails(_take(inputs, lead, axis, rest)):
                kept = rest
            else:
                start += chunk
        chunk //= 2
    return _take(inputs, lead, axis, kept)


def _take(inputs: tuple[Any, ...], lead: Tensor, axis: int, kept: Tensor) -> tuple[Any, ...]:
    """Keep these slices of every input that runs along with ``lead``."""

    def along(value: Any) -> bool:
        if not isinstance(value, Tensor) or value.ndim <= axis:
            return False
        return value.shape == lead.shape or (axis == 0 and len(value) == len(lead))

    return tuple(v.index_select(axis, kept) if along(v) else v for v in inputs)


def _round(
    fails: _Trial,
    inputs: tuple[Any, ...],
    index: int,
    simpler: tuple[float, ...],
) -> tuple[Any, ...]:
    """Replace each number of one input by the first smaller one of ``simpler`` that still fails."""
    for place in range(inputs[index].numel() if simpler else 0):
        if fails.spent:
            break
        old = inputs[index].flatten()[place].abs()
        for number in (number for number in simpler if abs(number) < old):
            changed = inputs[index].clone(memory_format=torch.contiguous_format)
            changed.view(-1)[place] = number
            trial = tuple(changed if i == index % len(inputs) else v for i, v in enumerate(inputs))
            if fails(trial):
                inputs = trial
                break
    return inputs


def _show(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    if not 0 < value.numel() <= 16:
        return f"a tensor {list(value.shape)}"
    return str(_digits(value.tolist()))


def _digits(value: Any) -> Any:
    """Cut the digits that a number owes to being stored in binary."""
    if isinstance(value, list):
        return [_digits(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
