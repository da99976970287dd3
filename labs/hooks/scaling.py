"""Know by what a loss was multiplied before its gradients were computed."""

from __future__ import annotations

import math

from torch.amp import GradScaler

LossScale = float | GradScaler


def loss_scale(scale: LossScale) -> float:
    """Return the factor in front of the loss, as a number.

    Raises:
        ValueError: When it is not finite and above zero.
    """
    factor = scale.get_scale() if isinstance(scale, GradScaler) else float(scale)
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(
            f"expected a scale above 0, got {factor}; pass the GradScaler, or the number by which "
            "the loss was multiplied"
        )
    return factor
