"""Bring the truth of a batch into the form that criteria compute with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def gather_targets(
    targets: Sequence[Mapping[str, Tensor]], like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the objects of all images in one list: image [n], boxes [n,4] and labels [n].

    Args:
        targets: Of each image ``boxes`` [n,4] and ``labels`` [n]; n may be 0.
        like: Whose device, and for the boxes whose dtype, to use.
    """
    counts = torch.tensor([len(target["labels"]) for target in targets])
    image = torch.arange(len(targets)).repeat_interleave(counts).to(like.device)
    boxes = torch.cat([target["boxes"].reshape(-1, 4) for target in targets])
    labels = torch.cat([target["labels"] for target in targets])
    return image, boxes.to(like), labels.to(like.device)


def widen(values: Tensor) -> Tensor:
    """Return half precision as float32, and the others as they are: sums over cells need it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
