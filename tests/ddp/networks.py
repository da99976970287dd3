"""Build the networks of torchvision whose gradients are compared."""

from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18


def small_mobilenet():
    """Build a torchvision network without batch norm and without dropout."""
    return mobilenet_v3_small(
        num_classes=5, width_mult=0.25, norm_layer=lambda c: nn.GroupNorm(1, c), dropout=0.0
    )


def frozen_resnet():
    """Build a torchvision network in eval mode: its batch norms use their running statistics."""
    return resnet18(num_classes=5).eval()
