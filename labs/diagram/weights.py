"""Draw the weights of a network at random, so that none of them hides a connection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var", "weight", "bias")  # the last two: frozen batch norms


def draw_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Overwrite every parameter, and the statistics of every norm, with random numbers.

    What training starts at zero (the last scale of a residual branch) becomes another number, and
    signals neither vanish nor overflow: weights are N(0, 1/fan-in), scales and variances lie in
    [0.5, 1.5], shifts and means are N(0, 0.25). Other buffers, such as masks, stay.

    Args:
        model: Of your own: it is changed.
        generator: On the CPU.
    """
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module._parameters.items():
                _overwrite(name, parameter, generator)
            for name, buffer in module._buffers.items():
                if name in _STATISTICS:
                    _overwrite(name, buffer, generator)


def _overwrite(name: str, tensor: Tensor | None, generator: torch.Generator) -> None:
    if tensor is None or not tensor.is_floating_point():
        return
    if tensor.ndim >= 2:
        fan_in = tensor[:1].numel()
        drawn = torch.randn(tensor.shape, generator=generator) / max(fan_in, 1) ** 0.5
    elif "bias" in name or "mean" in name:
        drawn = torch.randn(tensor.shape, generator=generator) / 2
    else:
        drawn = 0.5 + torch.rand(tensor.shape, generator=generator)
    tensor.copy_(drawn)
