"""Build the small SSD of the lessons: the class of paper scale on a narrow backbone of its own.

VGG's last map has no cell left in a scene of 128 x 128 pixels, so the backbone is another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from labs.boxes.default_boxes import DefaultBoxes
from labs.criteria import SSDCriterion
from labs.detection import Detector
from labs.models import SSD
from labs.models.blocks import Conv
from labs.postprocess import SSDPostprocess

STRIDES = (8, 16, 32, 64)
MINI_SSD_BOXES = DefaultBoxes(
    # 23, 36, 49 and 70 pixels of 128: the digits of training scenes have sides of 14 to 47.
    scales=(0.18, 0.28, 0.38, 0.55, 0.8),
    ratios=((2, 3), (2, 3), (2,), (2,)),
    strides=STRIDES,
)
"""Four maps of a scene of 128 x 128 pixels, with 16, 8, 4 and 2 cells a side."""


class _SmallMaps(nn.Module):
    """Map images to one map for each of :data:`STRIDES`, as VGG does: small kernels, ever coarser.

    Unlike in VGG each convolution has a batch norm, so that it learns from nothing.

    Args:
        channels: Of the maps, finest first.

    Attributes:
        channels: Of the maps.
    """

    def __init__(self, channels: Sequence[int] = (48, 64, 48, 48)) -> None:
        super().__init__()
        self.channels = tuple(channels)
        first, second, third, fourth = self.channels
        self.stages = nn.ModuleList(
            [
                nn.Sequential(
                    _conv(3, 16, stride=2),
                    _conv(16, 32, stride=2),
                    _conv(32, 32),
                    _conv(32, first, stride=2),
                    _conv(first, first),
                ),
                nn.Sequential(_conv(first, second, stride=2), _conv(second, second)),
                nn.Sequential(_conv(second, 32, 1), _conv(32, third, stride=2)),
                nn.Sequential(_conv(third, 32, 1), _conv(32, fourth, stride=2)),
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images [N,3,H,W] in [0,1] to four maps."""
        maps = []
        x = images - 0.5
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def mini_ssd(num_classes: int, default_boxes: DefaultBoxes = MINI_SSD_BOXES) -> Detector:
    """Build an :class:`labs.models.SSD` of four maps.

    Args:
        num_classes: Background not counted.
        default_boxes: Of the four maps.
    """
    backbone = _SmallMaps()
    return Detector(
        SSD(backbone, backbone.channels, default_boxes, num_classes),
        SSDCriterion(num_classes),
        SSDPostprocess(num_classes),
    )


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> Conv:
    return Conv(inputs, outputs, kernel, stride, activation=nn.ReLU())
