"""Say what was done to one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from labs.imagefile import BadImageError
from labs.imagefile.pixels import read_rgb


@dataclass(frozen=True)
class Fault:
    """Hold what was done to one file, and what a careful scan should answer.

    Attributes:
        kind: The name of the function that did it.
        path: Where the damaged file lies now.
        source: Where its picture came from. It differs from ``path`` when the file was renamed,
            moved, copied or exchanged; the folder of ``source`` is the true class.
        did: What was done, in one sentence.
        verdict: ``"bad"``: no pixels can be used. ``"warning"``: they can, but look first.
            ``"unseen"``: the file decodes like any other, so a scan cannot be blamed for silence.
        problem: The word with which the scan's reason or warning begins; empty for ``"unseen"``.
        decodable: Whether a decoder can still produce pixels, right or wrong.
    """

    kind: str
    path: Path
    source: Path
    did: str
    verdict: Literal["bad", "warning", "unseen"]
    problem: str = ""
    decodable: bool = False


def picture(path: Path) -> Image.Image:
    """Return the picture in RGB, upright, with 8 bits.

    Raises:
        ValueError: When the file holds none, for example because it was damaged before.
    """
    try:
        pixels = read_rgb(path)
    except BadImageError as bad:
        raise ValueError(
            f"faults: expected a sound image, got {path} ({bad}); damage each file once"
        ) from bad
    if pixels.dtype.kind == "f":
        pixels = (pixels * 255).round().astype(np.uint8)
    return Image.fromarray(pixels)


def save(path: Path, image: Image.Image, suffix: str, **options: Any) -> Path:
    """Put the image in the place of ``path``, under a name with this suffix; return where."""
    target = renamed(path, suffix)
    format = Image.registered_extensions()[suffix]
    path.unlink()
    image.save(target, format=format, **options)
    return target


def renamed(path: Path, suffix: str) -> Path:
    """Return ``path`` when it has the suffix, else a free name beside it that has."""
    same = {".jpeg": ".jpg"}.get(path.suffix.lower(), path.suffix.lower()) == suffix
    return path if same else free(path.with_suffix(suffix))


def free(path: Path) -> Path:
    """Return ``path``, or ``name_2``, ``name_3`` … beside it when that is taken."""
    candidate, n = path, 1
    while candidate.is_symlink() or candidate.exists():
        n += 1
        candidate = path.with_name(f"{path.stem}_{n}{path.suffix}")
    return candidate
