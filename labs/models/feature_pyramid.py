"""FPN: maps of every scale that all know what the coarsest one knows.

After Lin et al. 2017, "Feature Pyramid Networks for Object Detection",
https://arxiv.org/abs/1612.03144.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

from labs.models.resnet import ResNet
from labs.models.settings import refuse_counts


class ResNetMaps(nn.Module):
    """Return the maps of a ResNet's stages instead of its classes.

    Args:
        resnet: Its stem and stages are used, not copied.
        stages: How many of its stages, from the first on.
        first: Of which stage the first map is, from 0.

    Attributes:
        channels: Of the maps.
        strides: Pixels from cell to cell of the maps.
    """

    def __init__(self, resnet: ResNet, stages: int = 4, first: int = 0) -> None:
        super().__init__()
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        given = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4][:stages]
        self.stages = nn.ModuleList(given)
        self.first = first
        self.channels = tuple(_last_channels(stage) for stage in given[first:])
        stem = 4 if isinstance(resnet.maxpool, nn.MaxPool2d) else 1
        self.strides = tuple(stem * 2**index for index in range(first, stages))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images [N,3,H,W] to one map per stage from the first asked for, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[self.first :]


def _last_channels(stage: nn.Module) -> int:
    convolutions = [part for part in stage[-1].children() if isinstance(part, nn.Conv2d)]  # type: ignore[index]
    return convolutions[-1].out_channels


class FeaturePyramid(nn.Module):
    """Bring maps to one width, add each coarser one to the next finer, and smooth.

    Args:
        channels: Of the maps that come in, finest first.
        width: Of the maps that come out.
        extra: How many maps to append, each of every second cell of the one before.
    """

    def __init__(self, channels: Sequence[int], width: int = 256, extra: int = 1) -> None:
        super().__init__()
        counts = {f"channels[{i}]": n for i, n in enumerate(channels)}
        refuse_counts("FeaturePyramid", counts | {"width": width, "number of maps": len(channels)})
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.extra = extra
        for layer in [*self.lateral, *self.smooth]:
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [N,C_l,H_l,W_l], finest first, to as many maps [N,width,H_l,W_l] and the extra."""
        sideways = [layer(one) for layer, one in zip(self.lateral, maps, strict=True)]
        merged = [sideways[-1]]
        for finer in reversed(sideways[:-1]):
            # To the finer map's own size: where it has an odd number of rows, twice is too many.
            merged.insert(0, finer + interpolate(merged[0], size=finer.shape[-2:], mode="nearest"))
        out = [layer(one) for layer, one in zip(self.smooth, merged, strict=True)]
        for _ in range(self.extra):
            out.append(out[-1][..., ::2, ::2])
        return out
