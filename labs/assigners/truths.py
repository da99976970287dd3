"""Stack the objects of a batch, however many each image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Truths:
    """Hold the objects of a whole batch in one list.

    Attributes:
        boxes: xyxy in pixels, [T,4].
        labels: int64, [T].
        image: Which image of the batch each is in, int64, [T].
    """

    boxes: Tensor
    labels: Tensor
    image: Tensor

    @classmethod
    def of(cls, targets: Sequence[Mapping[str, Tensor]], like: Tensor) -> Truths:
        """Stack targets, in the dtype and on the device of ``like``."""
        counts = torch.tensor([len(target["labels"]) for target in targets], device=like.device)
        images = torch.arange(len(targets), device=like.device)
        return cls(
            torch.cat([target["boxes"].reshape(-1, 4) for target in targets]).to(like),
            torch.cat([target["labels"] for target in targets]).to(like.device),
            images.repeat_interleave(counts),
        )

    def __len__(self) -> int:
        return len(self.labels)
