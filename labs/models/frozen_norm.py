"""Keep the batch norms of a network as they were learnt."""

from __future__ import annotations

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def freeze_norms(network: nn.Module) -> nn.Module:
    """Replace every batch norm by one with the same numbers that never changes, in place.

    A detector sees one or two large images at a time, too few for means and variances of their
    own. What was learnt on ImageNet stays, weight and bias too: they are buffers from then on, so
    the network has fewer parameters.

    Args:
        network: Is changed; its weights are kept.

    Returns:
        The network itself, or what stands for it when it is a batch norm.
    """
    if isinstance(network, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(network.num_features, eps=network.eps)
        state = {k: v for k, v in network.state_dict().items() if k != "num_batches_tracked"}
        frozen.load_state_dict(state)
        return frozen.to(network.running_mean)
    for name, part in network.named_children():
        setattr(network, name, freeze_norms(part))
    return network
