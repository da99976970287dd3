"""Refuse outputs and targets that do not belong together, in the same words for every criterion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from labs.assigners.targets import Target
from labs.assigners.truths import Truths
from labs.boxes.anchors import Anchors


@dataclass(frozen=True)
class Outputs:
    """Describe the maps that a criterion reads: ``answers * (fixed + C)`` channels a cell.

    Attributes:
        who: The criterion, named in errors.
        strides: Of the levels, finest first.
        answers: How often a cell of each level speaks: its anchors, or 1.
        fixed: Numbers of an answer that are no classes.
        num_classes: C; None takes what the channels leave.
        made_of: What the channels are, in words, such as ``"3 anchors * (5 + C)"``.
    """

    who: str
    strides: Sequence[int]
    answers: Sequence[int]
    fixed: int
    num_classes: int | None
    made_of: str

    @classmethod
    def at_anchors(
        cls, who: str, anchors: Anchors, strides: Sequence[int], num_classes: int | None
    ) -> Outputs:
        """Describe maps that say x, y, w, h, objectness and classes for each anchor of a cell."""
        counts = [len(shapes) for shapes in anchors]
        made_of = f"{' or '.join(map(str, sorted(set(counts))))} anchors * (5 + C)"
        return cls(who, strides, counts, 5, num_classes, made_of)

    def truths(self, maps: Sequence[Tensor], targets: Sequence[Target]) -> Truths:
        """Return the objects of the batch on the device of the maps, in float32 at least.

        Args:
            maps: What the network says, one map per level, [N,K,H,W].
            targets: One per image, on any device.

        Raises:
            ValueError: When levels, batch, sizes or channels do not fit the settings of the
                criterion, or the targets cannot be true of such images.
        """
        self._check_levels(maps)
        self._check_batch(maps, targets)
        canvas = self._canvas(maps)
        like = maps[0].new_empty((), dtype=torch.promote_types(maps[0].dtype, torch.float32))
        return Truths.of(targets, like, self._classes(maps), canvas, self.who)

    def _check_levels(self, maps: Sequence[Tensor]) -> None:
        expected = f"{len(self.strides)} maps [N,K,H,W], one per stride of {tuple(self.strides)}"
        if isinstance(maps, Tensor):
            got = f"one tensor {list(maps.shape)}"
        elif len(maps) != len(self.strides) or any(m.ndim != 4 for m in maps):
            got = f"{len(maps)} of shapes {[list(m.shape) for m in maps]}"
        elif len(self.answers) != len(self.strides):
            got = f"{len(self.answers)} levels of anchors"
        elif not all(m.is_floating_point() for m in maps):
            got = f"{[m.dtype for m in maps]}"
        else:
            return
        self._refuse(expected, got, "give the network and its criterion the same strides")

    def _check_batch(self, maps: Sequence[Tensor], targets: Sequence[Target]) -> None:
        sizes = {len(m) for m in maps}
        if sizes != {len(targets)} or not targets:
            told = "an image without objects has boxes [0,4] and labels [0]"
            got = f"maps of {sorted(sizes)} images and {len(targets)} targets"
            self._refuse("one target per image, and at least one", got, told)

    def _canvas(self, maps: Sequence[Tensor]) -> tuple[int, int]:
        """Return height and width of the images, rounded up to whole cells of the finest level."""
        sizes = [(m.shape[2] * s, m.shape[3] * s) for m, s in zip(maps, self.strides, strict=True)]
        levels = list(zip(sizes, self.strides, strict=True))
        for (one, fine), (other, coarse) in combinations(levels, 2):
            # Each covers the image, and is less than one of its cells larger.
            if max(abs(a - b) for a, b in zip(one, other, strict=True)) >= max(fine, coarse):
                cells = [tuple(m.shape[2:]) for m in maps]
                expected = f"maps of one image at strides {tuple(self.strides)}"
                told = "give the network and its criterion the same strides"
                self._refuse(expected, f"{cells} cells, which cover {sizes} pixels", told)
        return sizes[0]

    def _classes(self, maps: Sequence[Tensor]) -> int:
        channels = [m.shape[1] for m in maps]
        found = {
            count / often - self.fixed for count, often in zip(channels, self.answers, strict=True)
        }
        classes = min(found)
        wanted = classes if self.num_classes is None else self.num_classes
        if found != {wanted} or classes < 1 or classes != int(classes):
            known = "" if self.num_classes is None else f" with C = {self.num_classes}"
            told = "give the network and its criterion the same strides, anchors, bins, classes"
            self._refuse(f"{self.made_of} channels{known}", f"{channels}", told)
        return int(classes)

    def _refuse(self, expected: str, got: str, told: str) -> None:
        raise ValueError(f"{self.who}: expected {expected}, got {got}; {told}")
