"""VGG: small convolutions, stacked deep (Simonyan and Zisserman 2015).

"Very Deep Convolutional Networks for Large-Scale Image Recognition",
https://arxiv.org/abs/1409.1556. Names of layers and parameters are torchvision's, so its weights
load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from labs.models.settings import refuse_counts


class VGG(nn.Module):
    """Halve the image after each of five stages of 3x3 convolutions, then classify.

    Args:
        depths: Convolutions of each stage.
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.
        width: Channels of the first stage, 64 in the paper; each later stage has twice as many, at
            most eight times.
        hidden: Channels of the two linear layers, 4,096 in the paper.
    """

    def __init__(
        self,
        depths: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        hidden: int = 4096,
    ) -> None:
        super().__init__()
        counts = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
        counts |= {"hidden": hidden} | {f"depths[{i}]": n for i, n in enumerate(depths)}
        refuse_counts("VGG", counts)
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, depth in enumerate(depths):
            wide = width * min(2**stage, 8)
            for _ in range(depth):
                layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU()]
                channels = wide
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(channels * 49, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N,in_channels,H,W] to logits [N,num_classes]; H and W are at least 32."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _init_weights(module: nn.Module) -> None:
    """Draw convolutions from N(0, 2/fan_out) (He et al. 2015), linear layers from N(0, 0.01)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


def vgg16(
    num_classes: int = 1000, in_channels: int = 3, width: int = 64, hidden: int = 4096
) -> VGG:
    """Build VGG-16, configuration D of the paper (138,357,544 parameters)."""
    return VGG((2, 2, 3, 3, 3), num_classes, in_channels, width, hidden)
