"""Read the shipped photographs that pictures are composed from: objects cut out, and backgrounds.

Each object and each background belongs to one split, so that nothing a network was trained on is in
a test picture.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

from labs.data.shipped import read_asset

_SHA256 = {
    "cutouts.zip": "8de723378799d664873fd1b2232478090739b79406cc13630992ed70e975c212",
    "backgrounds.zip": "e5cf69651a7ec4238611643ea7035af09918ccac8afe005def1daad656fdedff",
}
SPLITS = ("train", "val", "test")
CLASSES = (
    "birds",
    "fish",
    "flowers",
    "fruit",
    "insects",
    "mammals",
    "vegetables",
    "vehicles",
)
GROUPS = ("green", "bare", "water", "street", "indoors")


@dataclass(frozen=True)
class Cutout:
    """Hold one object: an RGBA picture of at most 160 pixels, cropped to it.

    Attributes:
        name: Which object it is, such as ``"crow"``.
        kind: Its class, one of ``CLASSES``.
        source: A number that only pictures of the same object share.
        split: ``"train"``, ``"val"`` or ``"test"``.
        picture: Alpha is the mask of the object.
    """

    name: str
    kind: str
    source: int
    split: str
    picture: Image.Image


@dataclass(frozen=True)
class Background:
    """Hold one photograph of a place: an RGB picture, 320x240.

    Attributes:
        name: Which place it is, such as ``"forest"``.
        group: What kind of place, one of ``GROUPS``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        picture: The photograph.
    """

    name: str
    group: str
    split: str
    picture: Image.Image


@cache
def load_cutouts() -> tuple[Cutout, ...]:
    """Return all objects; they are decoded once, so do not change their pictures.

    Raises:
        DamagedAssetError: When the shipped file is missing or changed.
    """
    return tuple(
        Cutout(_stem(row["file"]), row["class"], row["source"], row["split"], picture)
        for row, picture in _read("cutouts.zip", "RGBA")
    )


@cache
def load_backgrounds() -> tuple[Background, ...]:
    """Return all backgrounds; they are decoded once, so do not change their pictures.

    Raises:
        DamagedAssetError: When the shipped file is missing or changed.
    """
    return tuple(
        Background(_stem(row["file"]), row["group"], row["split"], picture)
        for row, picture in _read("backgrounds.zip", "RGB")
    )


def _read(name: str, mode: str) -> list[tuple[dict[str, Any], Image.Image]]:
    with zipfile.ZipFile(io.BytesIO(read_asset(name, _SHA256[name]))) as archive:
        return [
            (row, Image.open(io.BytesIO(archive.read(row["file"]))).convert(mode))
            for row in json.loads(archive.read("index.json"))
        ]


def _stem(file: str) -> str:
    return file.rsplit("/", 1)[-1].removesuffix(".webp")
