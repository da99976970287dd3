"""Check a function that shrinks photographs: none may lie on its side, and nothing else is lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from labs.hunts import Verdict, examine

ShrinkPhoto = Callable[[Path, Path, int], object]

_ORIENTATION = 0x0112  # the EXIF tag that says how the stored pixels have to be turned
_LONGEST = 48
_TOLERANCE = 12.0  # mean grey levels: JPEG and the filter cost at most 7, a wrong turn 38 or more

# How a camera stores an upright picture under each tag: the inverse of what a reader must do.
_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def take_photo(path: Path, size: tuple[int, int], orientation: int | None = None) -> Image.Image:
    """Write a JPEG whose four corners differ, as a camera held in that orientation stores it.

    Args:
        path: Where to write; a name that ends in ``.jpg``.
        size: Width and height of the *upright* picture, in pixels.
        orientation: The EXIF tag, 1 to 8. No tag at all when it is not given.

    Returns:
        The upright picture.
    """
    corners = np.array([[(230, 40, 40), (40, 200, 60)], [(40, 70, 220), (240, 220, 60)]], np.uint8)
    upright = Image.fromarray(corners).resize(size, Image.Resampling.NEAREST)
    turn = _STORED[orientation or 1]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    if orientation is not None:
        exif[_ORIENTATION] = orientation
    stored.save(path, quality=95, exif=exif)
    return upright


def check_shrink_photo(shrink_photo: ShrinkPhoto) -> Verdict:
    """Check that shrinking keeps every photograph upright, and loses nothing else.

    Args:
        shrink_photo: ``shrink_photo(source, target, longest)`` writes a JPEG to ``target`` that
            shows the picture of ``source`` upright, no side longer than ``longest`` pixels.

    Returns:
        The verdict: true only when every probe passed.
    """
    probes: dict[str, Callable[[ShrinkPhoto], str]] = {
        "a photo without a tag keeps its picture": partial(_same_picture, size=(96, 64)),
        "all eight orientations come out upright": partial(_upright, size=(96, 64)),
        "also when the photo is square": partial(_upright, size=(80, 80)),
        "no viewer turns the small copy again": _not_turned_again,
        "no side is longer than asked, and no small photo grows": _fits,
        "a PNG with transparency can be shrunk": _takes_png,
        "the original file stays as it was": _leaves_original,
    }
    return examine("Photos on their side", shrink_photo, probes)


def _shrunk(shrink_photo: ShrinkPhoto, source: Path) -> Image.Image:
    target = source.with_name("small.jpg")
    target.unlink(missing_ok=True)
    shrink_photo(source, target, _LONGEST)
    assert target.is_file(), f"expected a file {target.name}, got none: nothing was saved there"
    with Image.open(target) as small:
        small.load()
        return small


def _difference(small: Image.Image, upright: Image.Image) -> float:
    """Return the mean difference in grey levels, or infinity when the shapes differ."""
    wanted = upright.copy()
    wanted.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BOX)
    if max(abs(a - b) for a, b in zip(small.size, wanted.size, strict=True)) > 1:
        return float("inf")
    pixels = [np.asarray(i.convert("RGB").resize(wanted.size), float) for i in (small, wanted)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def _same_picture(shrink_photo: ShrinkPhoto, size: tuple[int, int]) -> str:
    with TemporaryDirectory() as folder:
        source = Path(folder, "photo.jpg")
        upright = take_photo(source, size)
        off = _difference(_shrunk(shrink_photo, source), upright)
    assert off < _TOLERANCE, f"{off:.0f} grey levels off"
    return "it does"


def _upright(shrink_photo: ShrinkPhoto, size: tuple[int, int]) -> str:
    wrong = []
    with TemporaryDirectory() as folder:
        source = Path(folder, "photo.jpg")
        for tag in _STORED:
            upright = take_photo(source, size, tag)
            if _difference(_shrunk(shrink_photo, source), upright) >= _TOLERANCE:
                wrong.append(str(tag))
    assert not wrong, f"wrong for tag {', '.join(wrong)}"
    return "they do"


def _not_turned_again(shrink_photo: ShrinkPhoto) -> str:
    with TemporaryDirectory() as folder:
        source = Path(folder, "photo.jpg")
        take_photo(source, (96, 64), 6)
        tag = _shrunk(shrink_photo, source).getexif().get(_ORIENTATION, 1)
    assert tag == 1, f"the copy carries tag {tag}: who reads tags sees another picture"
    return "it carries no turn"


def _fits(shrink_photo: ShrinkPhoto) -> str:
    with TemporaryDirectory() as folder:
        source = Path(folder, "photo.jpg")
        take_photo(source, (300, 100), 8)
        long = _shrunk(shrink_photo, source).size
        take_photo(source, (30, 20))
        tiny = _shrunk(shrink_photo, source).size
    assert max(long) == _LONGEST, f"a long photo became {long[0]}x{long[1]}, asked for {_LONGEST}"
    assert tiny == (30, 20), f"a photo of 30x20 became {tiny[0]}x{tiny[1]}"
    return "they fit"


def _takes_png(shrink_photo: ShrinkPhoto) -> str:
    with TemporaryDirectory() as folder:
        source = Path(folder, "photo.png")
        Image.new("RGBA", (96, 64), (200, 30, 30, 255)).save(source)
        colour = np.asarray(_shrunk(shrink_photo, source).convert("RGB"), float).mean((0, 1))
    off = np.abs(colour - (200, 30, 30)).max()
    assert off < _TOLERANCE, f"red is {off:.0f} grey levels off"
    return "it can"


def _leaves_original(shrink_photo: ShrinkPhoto) -> str:
    with TemporaryDirectory() as folder:
        source = Path(folder, "photo.jpg")
        take_photo(source, (96, 64), 3)
        before = source.read_bytes()
        _shrunk(shrink_photo, source)
        assert source.read_bytes() == before, "it was written to"
    return "it does"
