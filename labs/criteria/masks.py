"""Say how wrong masks are that a network mixes from prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, pad

from labs.assigners.targets import Target, check_masks
from labs.postprocess.yolo_v8 import within


def check_prototypes(
    who: str, prototypes: Sequence[Tensor], finest: Tensor, stride: int, targets: Sequence[Target]
) -> None:
    """Raise unless there are no prototypes, or one map of them and masks that fit.

    Args:
        who: The criterion, named in errors.
        prototypes: What the network returned after its levels.
        finest: The map of the finest level, [N,K,H,W].
        stride: Of that level.
        targets: One per image, with boxes and labels that are right.

    Raises:
        ValueError: When prototypes are not of half the finest stride, or masks not of the image.
    """
    if not prototypes:
        return
    images, _, rows, columns = finest.shape
    size = (images, 2 * rows, 2 * columns)
    if len(prototypes) > 1 or (len(prototypes[0]), *prototypes[0].shape[2:]) != size:
        raise ValueError(
            f"{who}: expected one map of prototypes [{images},M,{2 * rows},{2 * columns}] after "
            f"the levels, got {[list(one.shape) for one in prototypes]}; give the network and its "
            "criterion the same strides"
        )
    check_masks(who, targets, (rows * stride, columns * stride), stride)


def mean_mask_loss(
    prototypes: Tensor,
    chosen: Sequence[tuple[Tensor, Tensor]],
    targets: Sequence[Target],
    boxes: Tensor,
    stride: int,
) -> Tensor:
    """Return the mean over the chosen cells of all images of the cross entropy of their masks.

    Args:
        prototypes: Of each image, [N,M,h,w].
        chosen: Of each image the coefficients of its chosen cells, [F,M], and their objects, [F].
        targets: Of each image, with ``masks`` [n,H,W], on any device.
        boxes: Of the objects, [N,G,4].
        stride: Pixels per cell of the prototypes.
    """
    # One image at a time: prototypes gathered for each cell would fill gigabytes.
    wrong = [
        _mask_loss(torch.einsum("fm,mhw->fhw", mixing, shapes), target["masks"], true, mine, stride)
        for shapes, (mixing, mine), target, true in zip(
            prototypes, chosen, targets, boxes, strict=True
        )
        if len(mine)
    ]
    every = torch.cat([prototypes.new_zeros(0), *wrong])
    # Zero without objects, but still a function of the prototypes: they get a gradient of 0.
    return every.sum() / max(len(every), 1) + 0 * prototypes.sum()


def _mask_loss(logits: Tensor, masks: Tensor, boxes: Tensor, mine: Tensor, stride: int) -> Tensor:
    """Return the cross entropy of each mask [F,h,w], averaged over its object's box: [F]."""
    height, width = logits.shape[1:]
    masks = masks[:, None].to(logits)  # [n,1,H,W]
    below, right = height * stride - masks.shape[2], width * stride - masks.shape[3]
    # The share of each cell that the object covers; the image ends before the last cell does.
    share = avg_pool2d(pad(masks, (0, right, 0, below)), stride)[:, 0]
    inside = within(boxes[: len(masks)], height, width, stride)[mine]
    wrong = binary_cross_entropy_with_logits(logits, share[mine], reduction="none")
    return (wrong * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
