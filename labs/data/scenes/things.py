"""Give out the objects that scenes are composed of, each from one split only.

Digits and clothes for ``"test"`` are from the published test files. Of the shipped training images
the last fifth is for ``"val"``, the others for ``"train"``. Cut-outs and backgrounds have a split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labs.data import cutouts, idx
from labs.data.images import ImageSet

KINDS = ("digits", "clothes", "photos")
_NAMES = {"digits": idx.DIGITS, "clothes": idx.CLOTHES, "photos": cutouts.CLASSES}
_LOADERS: dict[str, Callable[[str], ImageSet]] = {"digits": idx.digits, "clothes": idx.clothes}


@dataclass(frozen=True, eq=False)
class Thing:
    """Hold one object to be drawn.

    Attributes:
        kind: ``"digits"``, ``"clothes"`` or ``"photos"``.
        source: Which object it is: a row of the published file, or the number of the cut-out.
        picture: Mode RGBa: red, green, blue times alpha, and alpha; cropped to the object.
    """

    kind: str
    source: int
    picture: Image.Image


class Pool:
    """Hold all objects of one kind and split, by class.

    Attributes:
        sources: What each object is, as in :class:`Thing`.
    """

    def __init__(self, kind: str, pictures: list[Image.Image] | NDArray[np.uint8]) -> None:
        self.kind = kind
        self.pictures = pictures
        self.sources: list[int] = []
        self.rows: list[list[int]] = [[] for _ in classes_of(kind)]

    def add(self, source: int, label: int) -> None:
        """Say what the next picture is."""
        self.rows[label].append(len(self.sources))
        self.sources.append(source)

    def pick(self, label: int, rng: np.random.Generator) -> Thing:
        """Return any object of the class."""
        row = self.rows[label][int(rng.integers(len(self.rows[label])))]
        picture = self.pictures[row]
        if isinstance(picture, np.ndarray):
            picture = _with_alpha(self.kind, picture)
        return Thing(self.kind, self.sources[row], picture)


def classes_of(kind: str) -> tuple[str, ...]:
    """Return the class names of one kind of things."""
    return _NAMES[kind]


@cache
def load_pool(kind: str, split: str) -> Pool:
    """Return the objects of one kind and split; they are read once in each process.

    Raises:
        DamagedAssetError: When a shipped file is missing or changed.
    """
    if kind == "photos":
        return _load_photos(split)
    data = _LOADERS[kind]("test" if split == "test" else "train")
    cut = len(data) * 4 // 5
    part = {"train": slice(cut), "val": slice(cut, None), "test": slice(None)}[split]
    pool = Pool(kind, data.images[part, 0].mul(255).round().byte().numpy().copy())
    for source, label in zip(data.sources[part].tolist(), data.labels[part].tolist(), strict=True):
        pool.add(source, label)
    return pool


@cache
def load_places(split: str) -> tuple[cutouts.Background, ...]:
    """Return the backgrounds of one split.

    Raises:
        DamagedAssetError: When a shipped file is missing or changed.
    """
    return tuple(place for place in cutouts.load_backgrounds() if place.split == split)


def _load_photos(split: str) -> Pool:
    found = [cutout for cutout in cutouts.load_cutouts() if cutout.split == split]
    pool = Pool(
        "photos", [_cropped(np.asarray(cutout.picture.convert("RGBa"))) for cutout in found]
    )
    for cutout in found:
        pool.add(cutout.source, cutouts.CLASSES.index(cutout.kind))
    return pool


def _with_alpha(kind: str, grey: NDArray[np.uint8]) -> Image.Image:
    """Return a white digit whose ink is its alpha, or a grey garment on nothing."""
    ink = grey.astype(np.uint16)
    # Only what is nearly black is see-through around clothes, which are grey themselves.
    alpha = ink if kind == "digits" else np.minimum(255, 4 * ink)
    colour = alpha if kind == "digits" else ink * alpha // 255
    return _cropped(np.stack([colour, colour, colour, alpha], axis=-1).astype(np.uint8))


def _cropped(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return the part of [h,w,4] in which something covers at least half of a pixel."""
    inside = pixels[..., 3] > 127
    rows, columns = (np.flatnonzero(np.any(inside, axis=axis)) for axis in (1, 0))
    part = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.frombytes("RGBa", part.shape[1::-1], part.tobytes())
