"""Choose the precision that coordinates and losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(values: Tensor) -> Tensor:
    """Return half precision as float32, and the others as they are.

    A coordinate of 1,000 pixels has steps of half a pixel in float16 and of 4 in bfloat16, and a
    sum over cells rounds away what it adds.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
