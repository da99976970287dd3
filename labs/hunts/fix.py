"""Hold what a reader repaired, where the bug can be mended in more than one part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

MakeNet = Callable[[], nn.Module]
Loss = Callable[[nn.Module, Any], Tensor]


class Fix(NamedTuple):
    """Hold a network's constructor and the loss that trains it: the bug may be in either."""

    make_net: MakeNet
    loss: Loss
