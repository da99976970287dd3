"""Change what a part returned, in every number, and tell whether something changed with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from labs.hooks.nested import map_tensors, tensors

SIZES = (1.0, -1.0, 10.0, -10.0)
"""In standard deviations of the tensor. Both signs, as a ReLU may hide one; small and large, as a
saturated sigmoid hides the small, and a clamp may hide the large."""


def changed(value: Any, name: str, generator: torch.Generator) -> Iterator[Any]:
    """Yield copies of a value in which every number that can be another one is.

    Numbers move by one half to one and a half times each of :data:`SIZES`, each with a sign of its
    own; integers are drawn anew between the smallest and the largest there are, as they may be
    indices; truth values are flipped, half of them at first. What is not finite stays.

    Args:
        value: What a part returned at all of its calls, nested.
        name: Of the part, for the error.
        generator: On the CPU.

    Raises:
        ValueError: When nothing in the value can be changed, or a number is NaN.
    """
    held = tensors(value)
    if any(bool(tensor.isnan().any()) for tensor in held):
        raise ValueError(
            f"trace: part {name!r} holds NaN, so no change of it can be followed; find where it "
            "begins with first_bad(model, example)"
        )
    for size in SIZES:
        twin = map_tensors(partial(_changed, size, generator), value)
        if all(torch.equal(a, b) for a, b in zip(held, tensors(twin), strict=True)):
            raise ValueError(
                f"trace: part {name!r} holds nothing that can be changed: no tensor, empty ones, "
                "one integer, or infinities only; leave it out"
            )
        yield twin


def distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the largest difference between two lists of tensors; infinite between two shapes."""
    if [tensor.shape for tensor in first] != [tensor.shape for tensor in second]:
        return float("inf")
    return max(map(_distance, first, second), default=0.0)


def _changed(size: float, generator: torch.Generator, tensor: Tensor) -> Tensor:
    if tensor.numel() == 0:
        return tensor.clone()
    chance = torch.rand(tensor.shape, generator=generator).to(tensor.device)
    if tensor.dtype == torch.bool:
        return tensor ^ ((chance < 0.5) if abs(size) == 1 else torch.ones_like(tensor))
    if not (tensor.is_floating_point() or tensor.is_complex()):
        low, high = int(tensor.min()), int(tensor.max())
        return (low + (chance * (high - low + 1)).floor()).to(tensor.dtype)
    spread = _spread(tensor) if tensor.isfinite().all() else _spread(tensor[tensor.isfinite()])
    share = 2 * chance + torch.where(chance < 0.5, -1.5, -0.5)  # 0.5 to 1.5, down or up
    moved = tensor + (size * spread * share).to(tensor.dtype)
    return torch.where(tensor.isfinite() & moved.isfinite(), moved, tensor)


def _spread(tensor: Tensor) -> float:
    """Return the standard deviation, or where there is none the mean size, or 1."""
    spread = float(tensor.std()) if tensor.numel() > 1 else 0.0
    return spread or (float(tensor.abs().mean()) if tensor.numel() else 0.0) or 1.0


def _distance(a: Tensor, b: Tensor) -> float:
    if torch.equal(a, b):  # nearly always, and many times faster
        return 0.0
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    a, b = a.cpu().to(wide), b.cpu().to(wide)  # some GPUs have no float64
    same = (a == b) | (a.isnan() & b.isnan())  # an infinity less itself is NaN
    apart = torch.where(same, 0.0, (a - b).abs())
    return float(apart.nan_to_num(float("inf"), float("inf")).max()) if apart.numel() else 0.0
