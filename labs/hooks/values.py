"""Read the numbers of any tensor: quantised, float8, complex, sparse, nested or in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Numbers:
    """Hold what a tensor stores, in a form with which PyTorch can compute.

    Attributes:
        values: Of any shape; dense, on a device that has values, of a type that can be added up.
        absent: How many more values the tensor has, all of them zero: a sparse one stores none.
    """

    values: Tensor
    absent: int = 0

    @property
    def count(self) -> int:
        """Return how many values the tensor has."""
        return self.values.numel() + self.absent


def numbers(tensor: Tensor) -> Numbers | None:
    """Return the values of a tensor, or ``None`` where there are none that could be read.

    There are none on the ``meta`` device, in a fake tensor, under ``vmap``, and in types without
    arithmetic, such as ``float4_e2m1fn_x2``. Of a ``DTensor`` the values are those of all ranks, so
    every rank must ask. Quantised values are what they stand for.

    Args:
        tensor: Any. Where it requires a gradient and gradients are on, so do the values.
    """
    try:
        found = _read(tensor)
        found.values.flatten()[:1].sum().item()  # raises where there are shapes and no values
    except (RuntimeError, TypeError, ValueError):  # NotImplementedError is a RuntimeError
        return None
    return found


def _shape_of(tensor: Tensor) -> tuple[int | None, ...]:
    """Return the shape of a tensor, with ``None`` where the parts of a nested one differ."""
    if not tensor.is_nested:
        return tuple(tensor.shape)
    return tuple(_size(tensor, dim) for dim in range(tensor.dim()))


def describe(tensor: Tensor) -> dict[str, Any]:
    """Return the shape of a tensor, and what can be said of how its values lie.

    Returns:
        ``shape``; and where there are values ``mean``, ``std``, ``min``, ``max`` and ``zeros``, the
        share of exact zeros in [0, 1]. Complex values have no order and no real mean, so theirs
        are only ``std`` (of the distance from the mean) and ``zeros``.
    """
    row: dict[str, Any] = {"shape": _shape_of(tensor)}
    with torch.no_grad():
        found = numbers(tensor)
        if found is None or found.count == 0:
            return row
        return row | _statistics(found)


def norm_of(tensor: Tensor) -> float:
    """Return the Euclidean norm of all values of a tensor; NaN where they cannot be read."""
    with torch.no_grad():
        found = numbers(tensor)
        if found is None:
            return float("nan")
        values, wide = found.values, _wide(found.values)
        if not (values.is_floating_point() or values.is_complex()):
            values = values.to(wide)
        # In float64: a float16 norm overflows at 65,504, and 1e-30 squared is zero in float32.
        return torch.linalg.vector_norm(values, dtype=wide).item()


def _read(tensor: Tensor) -> Numbers:
    whole: Any = getattr(tensor, "full_tensor", None)  # a DTensor
    if whole is not None:
        tensor = whole()
    absent = 0
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    elif tensor.is_nested:
        parts = [part.flatten() for part in tensor.unbind()]
        tensor = torch.cat(parts) if parts else torch.zeros(0)
    elif tensor.layout == torch.sparse_coo or tensor.layout in _COMPRESSED:
        stored = (tensor.coalesce() if tensor.layout == torch.sparse_coo else tensor).values()
        tensor, absent = stored, tensor.numel() - stored.numel()
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_floating_point() and tensor.dtype not in _PLAIN:  # float8
        tensor = tensor.float()
    return Numbers(
        tensor.to(torch.complex64) if tensor.dtype == torch.complex32 else tensor, absent
    )


def _statistics(found: Numbers) -> dict[str, float]:
    values, count = found.values.to(_wide(found.values)), found.count
    mean = values.sum() / count
    spread = (values - mean).abs().square().sum() + found.absent * mean.abs().square()
    zeros = found.absent + int((values == 0).sum())
    both = {"std": (spread / count).sqrt().item(), "zeros": zeros / count}
    if values.is_complex():
        return both
    ends = (
        values.flatten() if not found.absent else torch.cat([values.flatten(), mean.new_zeros(1)])
    )
    return both | {"mean": mean.item(), "min": ends.min().item(), "max": ends.max().item()}


def _wide(values: Tensor) -> torch.dtype:
    return torch.complex128 if values.is_complex() else torch.float64


def _size(tensor: Tensor, dim: int) -> int | None:
    try:
        size = tensor.size(dim)
    except RuntimeError:  # the parts differ
        return None
    return size if type(size) is int else None
