"""Name the entries of ResNet and MobileNetV2 as torchvision does: they are called so here, too."""

from __future__ import annotations

from torch import nn

from labs.models.published.layout import Layout


def same_names(network: nn.Module) -> Layout:
    """Return the names of a state dict as they are; torchvision normalises with eps 1e-5."""
    return Layout({name: name for name in network.state_dict()}, eps=1e-5)
