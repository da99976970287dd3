"""Know by what a loss was multiplied before its gradients were computed."""

from __future__ import annotations

import math
from numbers import Real

from torch.amp import GradScaler

LossScale = float | GradScaler


def loss_scale(scale: LossScale) -> float:
    """Return the factor in front of the loss, as a number.

    Raises:
        TypeError: When it is neither a number nor a ``GradScaler``.
        ValueError: When it is not finite and above zero.
    """
    if not isinstance(scale, (Real, GradScaler)):
        raise TypeError(f"expected a number or a GradScaler as scale, got a {type(scale).__name__}")
    factor = scale.get_scale() if isinstance(scale, GradScaler) else float(scale)
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(
            f"expected a scale above 0, got {factor}; pass the GradScaler, or the number by which "
            "the loss was multiplied"
        )
    return factor
