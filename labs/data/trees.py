"""Read the shipped aerial photographs of forests: real pictures with real boxes, one class."""

from __future__ import annotations

import io
import json
import zipfile
from functools import cache
from typing import Any

import torch
from torch.utils.data import Dataset

from labs.data.augment.window import Example, cut
from labs.data.cutouts import SPLITS
from labs.data.pictures import to_tensor
from labs.data.scenes.knobs import is_integer, refuse_unknown
from labs.data.shipped import read_asset
from labs.imagefile import decode

_SHA256 = "46ccb715afab5bd307257124883122d052b1b017e318e52d6caaa815e95a0f1d"
_MIN_VISIBLE = 0.3  # of a tree at the edge of a tile


class AerialTrees(Dataset[Example]):
    """Serve one photograph, whole or in square tiles; made by :func:`aerial_trees`.

    Attributes:
        split: ``"train"``, ``"val"`` or ``"test"``.
        classes: ``("tree",)``.
        site: The name of the photograph.
        corners: For each tile, x1, y1, x2, y2 in pixels of the photograph.
    """

    classes: tuple[str, ...] = ("tree",)

    def __init__(self, split: str, tile: int | None) -> None:
        refuse_unknown("split", split, SPLITS)
        self.site, self._photograph = _load()[split]
        self.split = split
        h, w = self._photograph[0].shape[1:]
        if tile is not None and not (is_integer(tile) and 32 <= tile <= min(h, w)):
            raise ValueError(
                f"aerial_trees: expected tile None or an integer in [32, {min(h, w)}], got {tile}"
            )
        self.corners = [
            (x, y, x + (tile or w), y + (tile or h))
            for y in _starts(h, tile or h)
            for x in _starts(w, tile or w)
        ]

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> Example:
        image, target = cut(self._photograph, self.corners[index], min_visible=_MIN_VISIBLE)
        return image.clone(), target

    def __repr__(self) -> str:
        x1, y1, x2, y2 = self.corners[0]
        trees = len(self._photograph[1]["labels"])
        return (
            f"AerialTrees({len(self)} of {self.split!r}, 3x{y2 - y1}x{x2 - x1}, {trees} trees on "
            f"{self.site})"
        )


def aerial_trees(split: str = "train", tile: int | None = None) -> AerialTrees:
    """Return photographs of forests from above, with the box of every tree crown.

    Every split is one photograph of another site, taken by NEON and annotated by the authors of
    DeepForest (Weinstein et al., 2019, doi:10.3390/rs11111309): 279 trees in Yellowstone to learn
    from, 37 at Soaproot Saddle, most of them dead, to choose by, and 61 in Florida to test on. So
    a score tells how well something carries over to another forest, and hangs on one photograph.

    Args:
        split: ``"train"`` (1035x1249 pixels), ``"val"`` or ``"test"`` (400x400).
        tile: The side of square tiles that cover the photograph, as evenly as they fit, with as
            little overlap as can be; ``None`` for all of it. A tree of which less than 30 % lies
            in a tile is left out there.

    Raises:
        ValueError: When the split is unknown or the tile too large.
        DamagedAssetError: When the shipped file is missing or changed.
    """
    return AerialTrees(split, tile)


def _starts(whole: int, part: int) -> list[int]:
    """Return where parts begin that cover the whole with the least overlap, evenly spread."""
    count = -(-whole // part)
    return [(whole - part) * k // max(1, count - 1) for k in range(count)]


@cache
def _load() -> dict[str, tuple[str, Example]]:
    with zipfile.ZipFile(io.BytesIO(read_asset("trees.zip", _SHA256))) as archive:
        rows = json.loads(archive.read("index.json"))
        return {row["split"]: (row["file"][:-5], _example(archive, row)) for row in rows}


def _example(archive: zipfile.ZipFile, row: dict[str, Any]) -> Example:
    boxes = torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4)
    target = {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64)}
    return to_tensor(decode(archive.read(row["file"]))), target
