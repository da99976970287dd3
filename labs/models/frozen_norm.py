"""Keep the batch norms of a network as they were learnt."""

from __future__ import annotations

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def freeze_norms(network: nn.Module, eps: float | None = None) -> nn.Module:
    """Replace every batch norm by one with the same numbers that never changes, in place.

    A detector sees one or two large images at a time, too few for means and variances of their
    own. What was learnt on ImageNet stays, weight and bias too: they are buffers from then on, so
    the network has fewer parameters.

    Args:
        network: Is changed; its weights are kept.
        eps: Of the norms from now on, those that were frozen before too; as it is when None.
            torchvision's file ``FasterRCNN_ResNet50_FPN_Weights.COCO_V1`` was learnt with 0.

    Returns:
        The network itself, or what stands for it when it is a batch norm.
    """
    if isinstance(network, nn.BatchNorm2d):
        kept = network.eps if eps is None else eps
        frozen = FrozenBatchNorm2d(network.num_features, eps=kept)
        state = {k: v for k, v in network.state_dict().items() if k != "num_batches_tracked"}
        frozen.load_state_dict(state)
        return frozen.to(network.running_mean)
    if isinstance(network, FrozenBatchNorm2d) and eps is not None:
        network.eps = eps
    for name, part in network.named_children():
        setattr(network, name, freeze_norms(part, eps))
    return network
