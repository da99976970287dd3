"""Choose the precision that a loss is computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(values: Tensor) -> Tensor:
    """Return half precision as float32, and the others as they are: sums over cells need it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
