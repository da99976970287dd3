"""YOLO v1: one network looks once, and each cell of a grid says what has its centre there.

After Redmon et al. 2016, "You Only Look Once: Unified, Real-Time Object Detection",
https://arxiv.org/abs/1506.02640: 24 convolutions and 2 fully connected layers (figure 3). The
paper has no batch norm; the configurations that its authors released later have it, and a narrow
network trained from scratch for a minute needs it, so it is an argument.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labs.models.settings import refuse_counts, refuse_factors


class YOLOv1(nn.Module):
    """Map images [N,3,H,W] of one fixed size to one map [N,boxes*5+num_classes,rows,columns].

    The channels of a cell: for each box x, y (the centre, in cells from the cell's upper left
    corner), the square roots of width and height (in widths and heights of the image) and the
    confidence; then one probability per class, shared by the boxes. All are plain numbers, trained
    with squared errors: there is no sigmoid and no softmax.

    Args:
        num_classes: How many classes; 20 in the paper.
        image_size: Height and width in pixels; multiples of ``stride`` and of ``reduction``.
        stride: Side of a cell in pixels. At 448 and 64 the grid is 7x7, as in the paper.
        boxes: Boxes that each cell predicts.
        width: Factor on the channels of every convolution.
        hidden: Outputs of the first fully connected layer. None has one 1x1 convolution in place of
            both, as v2 does: what is learnt in one cell then holds in all, which a network that
            sees few images needs. ``reduction`` must then equal ``stride``.
        pairs: How often the two pairs of 1x1 and 3x3 convolutions repeat.
        reduction: How much smaller than the image the last map is: 64 in the paper. For small
            images, with 32 the last strided convolution keeps the size, and with 16 the last
            pooling does too.
        norm: Use batch norm, which the paper does not; eps is 1e-5, as in the authors' program, and
            momentum 0.1, ten times theirs, for shorter trainings.
        dropout: Share of the hidden outputs that training drops; without them it has no effect.

    Attributes:
        grid: Rows and columns.
        stride: As given; criterion and postprocess need it.

    Raises:
        ValueError: When the image size does not divide into cells, ``reduction`` is another, or a
            count or factor is not above 0.
    """

    def __init__(
        self,
        num_classes: int = 20,
        *,
        image_size: tuple[int, int] = (448, 448),
        stride: int = 64,
        boxes: int = 2,
        width: float = 1.0,
        hidden: int | None = 4096,
        pairs: tuple[int, int] = (4, 2),
        reduction: int = 64,
        norm: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        counts = {"num_classes": num_classes, "stride": stride, "boxes": boxes}
        refuse_counts("YOLOv1", counts | ({} if hidden is None else {"hidden": hidden}))
        refuse_factors("YOLOv1", {"width": width})
        _refuse_bad_sizes(image_size, stride, reduction, hidden)
        self.image_size, self.stride = image_size, stride
        self.grid = image_size[0] // stride, image_size[1] // stride
        self.boxes, self.num_classes = boxes, num_classes
        self.features = _make_features(width, pairs, reduction, norm)
        pixels = image_size[0] * image_size[1] // reduction**2
        per_cell = boxes * 5 + num_classes
        last = scale(1024, width)
        if hidden is None:
            self.head = nn.Sequential(nn.Conv2d(last, per_cell, 1))
        else:  # every output sees the whole image, and each cell has weights of its own
            self.head = nn.Sequential(
                nn.Flatten(),
                nn.Linear(last * pixels, hidden),
                nn.LeakyReLU(0.1),
                nn.Dropout(dropout),
                nn.Linear(hidden, per_cell * self.grid[0] * self.grid[1]),
            )
        self.apply(_init_weights)
        self.init_outputs()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Map images [N,3,H,W] in [0,1] to a tuple of one map [N,boxes*5+classes,rows,columns]."""
        if images.shape[2:] != self.image_size:
            raise ValueError(
                f"YOLOv1: expected images of {self.image_size}, got {tuple(images.shape[2:])}; "
                "its fully connected layers take one size: give image_size=, or resize"
            )
        out = self.head(self.features(images))
        return (out.view(-1, self.boxes * 5 + self.num_classes, *self.grid),)

    def init_outputs(self) -> None:
        """Start from a box a quarter of the image wide and high in the middle of each cell.

        The choice is ours: boxes of no size have no overlap with anything, and so no confidence.
        """
        last = self.head[-1]
        assert isinstance(last, nn.Linear | nn.Conv2d)
        assert last.bias is not None
        cell = torch.zeros(self.boxes * 5 + self.num_classes)
        for box in range(self.boxes):
            cell[box * 5 : box * 5 + 4] = 0.5  # x, y, and the roots of a quarter
        cell[self.boxes * 5 :] = 1 / self.num_classes
        with torch.no_grad():
            # A linear layer has a bias for each cell of a channel, a convolution one for all.
            last.bias.copy_(cell.repeat_interleave(len(last.bias) // len(cell)))


def _make_features(
    width: float, pairs: tuple[int, int], reduction: int, norm: bool
) -> nn.Sequential:
    """Stack the 24 convolutions; the comments give the sizes at 448x448 and width 1."""

    def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
        c_in = c_in if c_in == 3 else scale(c_in, width)
        return _convolve(c_in, scale(c_out, width), kernel, stride, norm)

    first = [layer for _ in range(pairs[0]) for layer in (conv(512, 256, 1), conv(256, 512, 3))]
    second = [layer for _ in range(pairs[1]) for layer in (conv(1024, 512, 1), conv(512, 1024, 3))]
    return nn.Sequential(
        *(conv(3, 64, 7, 2), nn.MaxPool2d(2)),  # [64,112,112]
        *(conv(64, 192, 3), nn.MaxPool2d(2)),  # [192,56,56]
        *(conv(192, 128, 1), conv(128, 256, 3), conv(256, 256, 1), conv(256, 512, 3)),
        nn.MaxPool2d(2),  # [512,28,28]
        *first,
        *(conv(512, 512, 1), conv(512, 1024, 3)),
        nn.Identity() if reduction == 16 else nn.MaxPool2d(2),  # [1024,14,14]
        *second,
        # So far it is what the authors trained on ImageNet; four more convolutions detect.
        *(conv(1024, 1024, 3), conv(1024, 1024, 3, 2 if reduction == 64 else 1)),  # [1024,7,7]
        *(conv(1024, 1024, 3), conv(1024, 1024, 3)),
    )


def _convolve(c_in: int, c_out: int, kernel: int, stride: int, norm: bool) -> nn.Sequential:
    """Convolve and activate with a leak of 0.1: [N,c_in,H,W] to [N,c_out,H/stride,W/stride]."""
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=not norm)
    ]
    if norm:
        layers.append(nn.BatchNorm2d(c_out))
    return nn.Sequential(*layers, nn.LeakyReLU(0.1))


def scale(channels: int, width: float) -> int:
    """Return the channels of a narrower network, at least 4."""
    return max(4, round(channels * width))


def _init_weights(module: nn.Module) -> None:
    """Draw weights so that 24 layers without batch norm keep the signal's size (He et al. 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0.1, nonlinearity="leaky_relu")


def _refuse_bad_sizes(
    image_size: tuple[int, int], stride: int, reduction: int, hidden: int | None
) -> None:
    """Raise unless both sides divide into cells and into places of the last map."""
    uneven = any(side % stride or side % reduction for side in image_size)
    if reduction not in (16, 32, 64) or uneven or (hidden is None and reduction != stride):
        raise ValueError(
            "YOLOv1: expected reduction 16, 32 or 64, an image size that divides by it and by the "
            f"stride, and with hidden=None both equal, got image_size={image_size}, "
            f"stride={stride}, reduction={reduction}, hidden={hidden}"
        )
