"""Train as several layers, run as one: re-parameterisation, exact in eval mode."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from labs.models.blocks import Conv, norm


class RepConv(nn.Module):
    """Train 3x3, 1x1 and identity side by side; run one 3x3 (RepVGG, Ding et al. 2021).

    All three are linear, so their sum is one convolution. The paper's rule for planning: where the
    output meets another copy of the input (a residual, a stack), leave the identity out.

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        identity: Add the normalised input, where ``c_in == c_out``.
    """

    def __init__(self, c_in: int, c_out: int, identity: bool = True) -> None:
        super().__init__()
        self.wide = _linear(c_in, c_out, 3)
        self.narrow = _linear(c_in, c_out, 1)
        with_identity = identity and c_in == c_out
        self.identity = norm(c_in) if with_identity else None
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        total = self.wide(x) + self.narrow(x)
        return self.act(total if self.identity is None else total + self.identity(x))

    def fused(self) -> nn.Sequential:
        """Return the same function in one convolution: what this one computes in eval mode."""
        still = deepcopy(self).eval()
        one = fuse_conv_bn_eval(*still.wide)
        others = [fuse_conv_bn_eval(*still.narrow)]
        if still.identity is not None:
            same = nn.Conv2d(one.in_channels, one.out_channels, 1, bias=False).to(one.weight)
            nn.init.dirac_(same.weight)
            others.append(fuse_conv_bn_eval(same.eval(), still.identity))
        with torch.no_grad():
            for conv in others:
                one.weight += pad(conv.weight, (1, 1, 1, 1))  # 1x1 is 3x3 with zeros around
                one.bias += conv.bias
        return nn.Sequential(one, still.act)


def _linear(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    """Make a convolution and its batch norm without an activation."""
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, norm(c_out))


class ImplicitConv(nn.Module):
    """Answer with a linear layer between two learned constants (YOLOR, Wang et al. 2021).

    What does not depend on the image is learned apart from it: a shift of each input channel, and
    a scale of each output channel.

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.empty(c_in, 1, 1).normal_(0.0, 0.02))
        self.conv = nn.Conv2d(c_in, c_out, 1)
        self.scale = nn.Parameter(torch.empty(c_out, 1, 1).normal_(1.0, 0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        return self.conv(x + self.shift) * self.scale

    def fused(self) -> nn.Conv2d:
        """Return the same function in one convolution."""
        one = deepcopy(self.conv)
        assert one.bias is not None
        with torch.no_grad():
            one.bias += (one.weight[:, :, 0, 0] @ self.shift[:, 0]).flatten()
            one.bias *= self.scale.flatten()
            one.weight *= self.scale[..., None]
        return one


def fuse(network: nn.Module) -> nn.Module:
    """Return a network in eval mode that computes the same with plain convolutions only.

    Batch norms, the branches of :class:`RepConv` and the constants of :class:`ImplicitConv` are
    worked into the weights of one convolution each. The network given is left as it was.

    Args:
        network: Built of these layers and :class:`~labs.models.blocks.Conv`; other parts are kept.
    """
    return _fuse_inside(deepcopy(network).eval()).eval()  # the new parts begin in train mode


def _fuse_inside(module: nn.Module) -> nn.Module:
    """Replace every part below a module that one convolution can stand for."""
    for name, part in module.named_children():
        if isinstance(part, Conv):
            fused: nn.Module = nn.Sequential(fuse_conv_bn_eval(part.conv, part.bn), part.act)
        elif isinstance(part, RepConv | ImplicitConv):
            fused = part.fused()
        else:
            fused = _fuse_inside(part)
        setattr(module, name, fused)
    return module
