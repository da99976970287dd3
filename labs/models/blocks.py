"""The blocks that more than one YOLO is built of; what only one version has stands in its own file.

Layer names follow this book, not any other program. A block alone has the batch norm of the YOLO
line since v5, :func:`norm`; a network gives all of its own the settings of its version with
:func:`set_norms`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d


def norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch norm with eps 1e-3 and momentum 0.03, as the programs of v5, v7 and v8 do."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


def set_norms(network: nn.Module, eps: float, momentum: float) -> None:
    """Give all batch norms of a network the same settings, in place.

    Weights learnt with one eps are wrong with another wherever a channel hardly varies: with a
    variance of 0.001 the output is 29 % smaller at 1e-3 than at 1e-5.

    Args:
        network: Or a part of one.
        eps: What is added to each variance; above 0.
        momentum: Weight of each new batch in the running statistics, in (0, 1].

    Raises:
        ValueError: When one of them is outside of its range.
    """
    if not (0 < eps < math.inf and 0 < momentum <= 1):
        raise ValueError(
            f"{type(network).__name__}: expected eps above 0 and a momentum in (0, 1], such as "
            f"eps=1e-3 and momentum=0.03, got eps={eps} and momentum={momentum}"
        )
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps, part.momentum = eps, momentum


class Conv(nn.Module):
    """Convolve without bias, normalise, activate: [N,C_in,H,W] to [N,C_out,H/stride,W/stride].

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        kernel: Side of the square kernel; odd, so that ``kernel // 2`` keeps the size.
        stride: Of the convolution.
        padding: ``kernel // 2`` when None.
        groups: Of the convolution.
        activation: A fresh module, such as ``nn.Mish()``; SiLU when None.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)
        self.bn = norm(c_out)
        self.act = nn.SiLU() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H/stride,W/stride], rounded up."""
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Convolve twice, and add the input where the channels allow it (He et al. 2016).

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        hidden: Channels between the two convolutions; ``c_out`` when None.
        kernels: Sides of the two kernels: (1, 3) in v3 and v5, (3, 3) in v8.
        shortcut: Add the input when ``c_in == c_out``.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        hidden: int | None = None,
        kernels: tuple[int, int] = (1, 3),
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        hidden = c_out if hidden is None else hidden
        self.first = Conv(c_in, hidden, kernels[0])
        self.second = Conv(hidden, c_out, kernels[1])
        self.add = shortcut and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        y = self.second(self.first(x))
        return x + y if self.add else y


class SPP(nn.Module):
    """See the same place at several sizes: pool in parallel, and stack (He et al. 2014).

    The stack is that of v4's published configuration: the largest pool first, the input last.

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        kernels: Sides of the max-pools, odd.
        activation: Makes the activation of each of the two convolutions.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernels: tuple[int, ...] = (5, 9, 13),
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        hidden = c_in // 2
        self.kernels = kernels
        self.reduce = Conv(c_in, hidden, activation=activation())
        self.mix = Conv(hidden * (len(kernels) + 1), c_out, activation=activation())

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        x = self.reduce(x)
        pooled = [max_pool2d(x, k, stride=1, padding=k // 2) for k in self.kernels]
        return self.mix(torch.cat([*reversed(pooled), x], 1))  # as in yolov4.cfg: 13, 9, 5, x


class SPPF(nn.Module):
    """Do what :class:`SPP` does with sides 5, 9 and 13, faster: pool with 5 three times in a row.

    The stack is that of v5's published networks: the input first, the largest pool last. So weights
    of the one fit the other once the input channels of ``mix`` are turned round, a pool at a time.

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        kernel: Side of the max-pool, odd.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 5) -> None:
        super().__init__()
        hidden = c_in // 2
        self.kernel = kernel
        self.reduce = Conv(c_in, hidden)
        self.mix = Conv(hidden * 4, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        stages = [self.reduce(x)]
        for _ in range(3):
            stages.append(max_pool2d(stages[-1], self.kernel, stride=1, padding=self.kernel // 2))
        return self.mix(torch.cat(stages, 1))
