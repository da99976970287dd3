"""Say which anchor of which cell answers for which object of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """Hold which place answers for which object, one pair per entry; all int64, [m].

    An object may have many places; whether a place may have many objects is the assigner's choice.

    Attributes:
        level: Index of the map.
        image: Index in the batch.
        anchor: Index among the anchors of the level.
        row: Of the cell.
        column: Of the cell.
        truth: Index into the objects of the batch.
    """

    level: Tensor
    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    truth: Tensor

    @classmethod
    def join(cls, parts: Sequence[Pairs]) -> Pairs:
        """Return the pairs of all parts, in their order."""
        return cls(*map(torch.cat, zip(*(part.columns for part in parts), strict=True)))

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """All indices: level, image, anchor, row, column, truth."""
        return self.level, *self.places, self.truth

    @property
    def places(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Indices into a map [N,A,H,W,...] of one level."""
        return self.image, self.anchor, self.row, self.column

    @property
    def corners(self) -> Tensor:
        """Column and row of each cell, [m,2]."""
        return torch.stack([self.column, self.row], -1)

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, which: Tensor) -> Pairs:
        """Return some of the pairs, by a mask or by indices."""
        return Pairs(*(column[which] for column in self.columns))
