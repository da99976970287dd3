"""Stack the objects of a batch, however many each image has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labs.assigners.targets import Target, check_forms, check_values


@dataclass(frozen=True, eq=False)
class Truths:
    """Hold the objects of a whole batch in one list.

    Attributes:
        boxes: xyxy in pixels, [T,4].
        labels: int64, [T].
        image: Which image of the batch each is in, int64, [T], ascending.
    """

    boxes: Tensor
    labels: Tensor
    image: Tensor

    @classmethod
    def of(
        cls,
        targets: Sequence[Target],
        like: Tensor,
        classes: int | None = None,
        canvas: tuple[int, int] | None = None,
        who: str = "Truths.of",
    ) -> Truths:
        """Stack targets from any device, in the dtype and on the device of ``like``.

        Args:
            targets: One per image: ``boxes`` [n,4], xyxy in pixels, and ``labels`` [n].
            like: A floating tensor.
            classes: How many there are; labels at or above are refused.
            canvas: Height and width of the images in pixels; boxes wholly outside are refused.
            who: Asks, and is named in errors.

        Raises:
            ValueError: When a target cannot be true, see :mod:`labs.assigners.targets`.
        """
        check_forms(who, targets)
        counts = torch.tensor([len(target["labels"]) for target in targets], device=like.device)
        image = torch.arange(len(targets), device=like.device).repeat_interleave(counts)
        boxes = [target["boxes"].reshape(-1, 4).to(like) for target in targets]
        labels = [target["labels"].to(like.device, torch.int64) for target in targets]
        truths = cls(
            torch.cat([like.new_zeros(0, 4), *boxes]), torch.cat([image[:0], *labels]), image
        )
        size = like.new_tensor([torch.inf] * 2 if canvas is None else canvas[::-1])
        check_values(who, truths.boxes, truths.labels, image, classes, size)
        return truths

    def padded(self, images: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the objects image by image, filled up to the most of an image.

        Args:
            images: How many the batch has, N.

        Returns:
            Boxes [N,G,4], 0 where there is none; labels [N,G], the same; which exist, [N,G].
        """
        count = torch.bincount(self.image, minlength=images)
        most = int(count.max()) if len(self) else 0
        before = (count.cumsum(0) - count)[self.image]
        rank = torch.arange(len(self), device=self.image.device) - before
        boxes, labels = self.boxes.new_zeros(images, most, 4), self.labels.new_zeros(images, most)
        boxes[self.image, rank], labels[self.image, rank] = self.boxes, self.labels
        return boxes, labels, torch.arange(most, device=count.device) < count[:, None]

    def __len__(self) -> int:
        return len(self.labels)
