"""ResNet: deep residual learning (He et al. 2015, https://arxiv.org/abs/1512.03385).

A block computes a *change* to its input and adds it: ``relu(x + branch(x))``. The plain twin of a
network (``shortcut=False``) has the same layers, widths and strides without the addition:
``relu(branch(x))``. That is the comparison of the paper, and the only difference between the two.

Names of layers and parameters are torchvision's, so its weights load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from labs.models.settings import refuse_counts

Shortcut = Literal["project", "pad", "none"]
Stem = Literal["imagenet", "cifar"]


class BasicBlock(nn.Module):
    """Stack two 3x3 convolutions, the block of ResNet-18 and -34 and of the CIFAR networks.

    Args:
        in_channels: Channels of the input.
        channels: Channels inside and at the output.
        stride: Of the first convolution; 2 halves height and width.
        shortcut: How the input reaches the addition where the shapes differ: by a 1x1 convolution
            and a batch norm (``project``, option B) or beside zeros (``pad``, option A); ``none``:
            not at all, in any block.
    """

    expansion = 1  # output channels = channels * expansion

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, shortcut: Shortcut = "project"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _make_shortcut(in_channels, channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,in_channels,H,W] to [N,channels,H/stride,W/stride], rounded up."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            out = out + self.downsample(x)
        return self.relu(out)  # after the addition: the branch itself may be negative


class Bottleneck(nn.Module):
    """Squeeze with 1x1, convolve with 3x3, widen four times with 1x1: the block of ResNet-50.

    The stride is on the 3x3 convolution, as in torchvision ("v1.5"). The paper has it on the first
    1x1, which then never sees three of four pixels.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the 3x3 convolution; the output has four times as many.
        stride: Of the 3x3 convolution; 2 halves height and width.
        shortcut: How the input reaches the addition where the shapes differ: by a 1x1 convolution
            and a batch norm (``project``, option B) or beside zeros (``pad``, option A); ``none``:
            not at all, in any block.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, shortcut: Shortcut = "project"
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample = _make_shortcut(in_channels, out_channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,in_channels,H,W] to [N,4*channels,H/stride,W/stride], rounded up."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            out = out + self.downsample(x)
        return self.relu(out)


class _ZeroPad(nn.Module):
    """Carry the input over without parameters: take every ``stride``-th pixel, add zero channels.

    It is option A of the paper, used in its CIFAR-10 networks, so that a residual network and its
    plain twin have exactly the same parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.extra = out_channels - in_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,in_channels,H,W] to [N,out_channels,H/stride,W/stride], rounded up."""
        x = x[:, :, :: self.stride, :: self.stride]
        # Pairs from the last dimension on: width, height, channels.
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.extra))


def _make_shortcut(
    in_channels: int, out_channels: int, stride: int, shortcut: Shortcut
) -> nn.Module | None:
    """Make the path around a block: the identity wherever the shapes allow it.

    Args:
        in_channels: Channels of the block's input.
        out_channels: Channels of the block's output.
        stride: Stride of the block.
        shortcut: What to do where the shapes differ. ``project``: a 1x1 convolution and a batch
            norm (option B). ``pad``: zeros (option A). ``none``: no path at all, in any block.

    Raises:
        ValueError: When ``shortcut`` is another word.
    """
    if shortcut not in ("project", "pad", "none"):
        raise ValueError(f"expected shortcut 'project', 'pad' or 'none', got {shortcut!r}")
    if shortcut == "none":
        return None
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if shortcut == "pad":
        return _ZeroPad(in_channels, out_channels, stride)
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """Stack blocks in stages; each stage after the first halves the image and doubles the width.

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        depths: Blocks per stage, three or four of them.
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.
        width: Channels of the first stage (64 for ImageNet, 16 for CIFAR in the paper).
        shortcut: As the blocks take it; ``none`` gives the plain twin.
        stem: ``imagenet``: 7x7 convolution and max pooling, which make the image four times
            smaller. ``cifar``: one 3x3 convolution, which keeps its size; for images below 64 px.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        shortcut: Shortcut = "project",
        stem: Stem = "imagenet",
    ) -> None:
        super().__init__()
        if len(depths) not in (3, 4) or stem not in ("imagenet", "cifar"):
            raise ValueError(
                "ResNet: expected three or four depths and stem 'imagenet' or 'cifar', "
                f"got depths={tuple(depths)}, stem={stem!r}"
            )
        counts = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
        refuse_counts("ResNet", counts | {f"depths[{i}]": n for i, n in enumerate(depths)})
        large = stem == "imagenet"
        size, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, width, size, stride, padding=size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()

        stages, channels = [], width
        for index, depth in enumerate(depths):
            inner, stride = width * 2**index, 1 if index == 0 else 2
            stages.append(_make_stage(block, depth, channels, inner, stride, shortcut))
            channels = inner * block.expansion
        self.layer1, self.layer2, self.layer3 = stages[:3]
        self.layer4 = stages[3] if len(depths) == 4 else nn.Identity()

        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N,in_channels,H,W] to logits [N,num_classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.avgpool(x).flatten(1)  # [N,C,1,1] -> [N,C]
        return self.fc(x)


def _make_stage(
    block: type[BasicBlock | Bottleneck],
    depth: int,
    in_channels: int,
    channels: int,
    stride: int,
    shortcut: Shortcut,
) -> nn.Sequential:
    """Stack ``depth`` blocks; only the first one strides and changes the number of channels."""
    first = block(in_channels, channels, stride, shortcut)
    others = [block(channels * block.expansion, channels, 1, shortcut) for _ in range(1, depth)]
    return nn.Sequential(first, *others)


def _init_weights(module: nn.Module) -> None:
    """Draw convolution weights from N(0, 2/fan_out) (He et al. 2015, arXiv:1502.01852)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(
    num_classes: int = 1000,
    in_channels: int = 3,
    shortcut: bool = True,
    width: int = 64,
    stem: Stem = "imagenet",
) -> ResNet:
    """Build ResNet-18 (11,689,512 parameters), or with ``shortcut=False`` its plain twin.

    The twin has no projections: 173,824 parameters fewer. Arguments as for :class:`ResNet`.
    """
    path: Shortcut = "project" if shortcut else "none"
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, width, path, stem)


def resnet34(
    num_classes: int = 1000,
    in_channels: int = 3,
    shortcut: bool = True,
    width: int = 64,
    stem: Stem = "imagenet",
) -> ResNet:
    """Build ResNet-34 (21,797,672 parameters), or its plain twin (173,824 fewer)."""
    path: Shortcut = "project" if shortcut else "none"
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, width, path, stem)


def resnet50(
    num_classes: int = 1000,
    in_channels: int = 3,
    shortcut: bool = True,
    width: int = 64,
    stem: Stem = "imagenet",
) -> ResNet:
    """Build ResNet-50 (25,557,032 parameters), or its plain twin (2,776,576 fewer)."""
    path: Shortcut = "project" if shortcut else "none"
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, width, path, stem)


def resnet_cifar(
    depth: int = 20,
    width: int = 16,
    shortcut: bool = True,
    num_classes: int = 10,
    in_channels: int = 3,
) -> ResNet:
    """Build the network for 32x32 images of section 4.2, or with ``shortcut=False`` its plain twin.

    Three stages of n blocks, on maps of full, half and quarter size. The shortcuts pad with zeros
    (option A), so the twin has exactly as many parameters: 269,722 at depth 20.

    Args:
        depth: Layers with weights, 6n + 2: 20, 32, 44, 56 and 110 in the paper.
        width: Channels of the first stage; 16 in the paper.
        shortcut: ``False`` gives the plain twin.
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.

    Raises:
        ValueError: When ``depth`` is not 6n + 2 with n >= 1.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"resnet_cifar: expected depth = 6n + 2 (8, 14, 20, ...), got {depth}")
    path: Shortcut = "pad" if shortcut else "none"
    return ResNet(BasicBlock, (blocks,) * 3, num_classes, in_channels, width, path, "cifar")
