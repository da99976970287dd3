"""MobileNetV2 with the weights that ship with the book: a network that has already seen ImageNet.

The layers are torchvision's, after Sandler et al. 2018, arXiv:1801.04381. It is the one network of
the book that is not written here: lessons use it as the backbone that they transfer from.
"""

from __future__ import annotations

import torch
import torchvision
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from labs.data.shipped import read_asset

_SHA256 = "98159cb902782f59bb1a43391dd659e9c59ef5b8a7409c81d7031a527a80bb3e"


class _Normalize(nn.Module):
    """Bring images in [0,1] to the mean and deviation that the ImageNet weights were trained at."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 3, 1, 1)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("mean", mean.view(channels), persistent=False)
        self.register_buffer("std", std.view(channels), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N,3,H,W] in [0,1] to normalised ones of the same shape."""
        return (images - self.mean) / self.std


class MobileNetV2(nn.Module):
    """Classify images [N,3,H,W] in **[0,1]**; the normalisation of ImageNet happens inside.

    Layer names are torchvision's (``features.0`` to ``features.18``, ``classifier.1``), and so are
    the keys of its state dict. H and W may be anything from 32 pixels; the weights saw 224.

    Args:
        num_classes: Outputs of the last layer.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        reference = torchvision.models.mobilenet_v2(num_classes=num_classes)
        self.normalize = _Normalize()
        self.features = reference.features
        self.classifier = reference.classifier

    def embed(self, images: Tensor) -> Tensor:
        """Map images [N,3,H,W] in [0,1] to what the classifier is given, [N,1280], each >= 0."""
        return adaptive_avg_pool2d(self.features(self.normalize(images)), 1).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N,3,H,W] in [0,1] to logits [N,num_classes]."""
        return self.classifier(self.embed(images))


def mobilenet_v2(pretrained: bool = True, num_classes: int = 1000) -> MobileNetV2:
    """Build MobileNetV2, by default with the shipped ImageNet weights, in float32 and train mode.

    The weights ship in half precision. The 1,000 classes are those of
    ``torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]``.

    Args:
        pretrained: Load the weights. With another number of classes than 1,000 the last layer
            keeps its random start, drawn from the global generator.
        num_classes: Outputs of the last layer.

    Raises:
        DamagedAssetError: When the shipped file is missing or changed.
    """
    model = MobileNetV2(num_classes)
    if pretrained:
        state = load(read_asset("mobilenet_v2.safetensors", _SHA256))
        if num_classes != 1000:
            state |= {f"classifier.{name}": t for name, t in model.classifier.state_dict().items()}
        model.load_state_dict(state)  # copying into float32 parameters casts
    return model
