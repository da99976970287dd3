"""Examine one image file: can its pixels be used, and what should you look at first?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from labs.imagefile.error import BadImageError
from labs.imagefile.frames import about_frames
from labs.imagefile.read import (
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    load,
    open_header,
    orientation,
    read,
    strict_pillow,
    why_undecoded,
)

SUFFIXES = {s: f for s, f in Image.EXTENSION.items() if f in FORMATS} | {
    ".mpo": "JPEG",  # an MPO is a JPEG with further pictures behind it; telephones write them
    ".npy": "NPY",
}
SMALL_SIDE = 8  # pixels
LONG_SIDE = 10  # times the short side
GREY = 128  # what a JPEG decoder fills in for rows that never came
GREY_ROWS = 4  # fewer can be chance
_MODE_NAMES = {"L": "grayscale", "P": "palette", "RGBA": "alpha", "LA": "alpha", "PA": "alpha"}


@dataclass(frozen=True)
class Rules:
    """Say what is expected of a file, and how much of it may be read.

    Attributes:
        modes: Pillow's names of the pixel layouts that raise no warning.
        max_pixels: A picture that claims more than this many pixels is never decoded.
        max_bytes: A larger file is never read.
    """

    modes: tuple[str, ...] = ("RGB",)
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True)
class FileReport:
    """Hold what was found out about one file; ``None`` where nothing could be.

    Attributes:
        path: The file.
        reason: Why it cannot be used, as ``problem: what was seen``; empty when it can.
        warnings: Why to look at it before using it, each as ``problem: what was seen``.
        format: The format of the content, whatever the name says.
        mode: Pillow's name of the pixel layout, or the type of a NumPy array.
        width: Pixels, as stored, before any EXIF rotation.
        height: Pixels, as stored, before any EXIF rotation.
        orientation: The EXIF orientation, 1 to 8, where 1 is upright.
        bytes: The size of the file.
        sha256: The checksum of the file.
        duplicate_of: The first usable file of the scan with the same bytes.
    """

    path: Path
    reason: str = ""
    warnings: tuple[str, ...] = ()
    format: str | None = None
    mode: str | None = None
    width: int | None = None
    height: int | None = None
    orientation: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    duplicate_of: Path | None = None

    @property
    def ok(self) -> bool:
        """Tell whether the pixels can be used."""
        return not self.reason


def check_file(path: Path, rules: Rules) -> FileReport:
    """Read and decode one file to its last pixel, and report it; a bad file raises nothing."""
    facts: dict[str, Any] = {}
    try:
        data = read(path, rules.max_bytes)
        facts |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if data.startswith(b"\x93NUMPY"):
            said = _inspect_array(path, rules, facts)
        else:
            with strict_pillow() as notes:
                said = _inspect_image(data, path, rules, facts)
            said += dict.fromkeys(f"decoder's warning: {note.message}" for note in notes)
    except BadImageError as bad:
        return FileReport(path, reason=str(bad), **facts)
    except Exception as error:  # a file that nobody foresaw must not end the scan of the others
        return FileReport(path, reason=why_undecoded(error), **facts)
    return FileReport(path, warnings=tuple(said), **facts)


def _inspect_image(data: bytes, path: Path, rules: Rules, facts: dict[str, Any]) -> list[str]:
    image = open_header(data, rules.max_pixels)
    facts |= {"format": image.format, "mode": image.mode}
    facts |= {"width": image.width, "height": image.height}
    load(image, data, rules.max_pixels)
    facts["orientation"] = turn = orientation(image)
    said = _about_name(path, "JPEG" if image.format == "MPO" else str(image.format))
    said += _about_layout(image, turn, rules.modes)
    return said + _about_pixels(image) + about_frames(image, data, rules.max_pixels)


def _inspect_array(path: Path, rules: Rules, facts: dict[str, Any]) -> list[str]:
    from labs.imagefile.arrays import read_array  # NumPy, half of the start of a process

    facts["format"] = "NPY"
    array = read_array(path, rules.max_pixels)
    facts |= {"mode": str(array.dtype), "height": array.shape[0], "width": array.shape[1]}
    flat = [f"blank: every value is {array.flat[0]}"] if array.min() == array.max() else []
    return _about_name(path, "NPY") + flat


def _about_name(path: Path, format: str) -> list[str]:
    said = []
    if SUFFIXES.get(path.suffix.lower()) != format:
        named = f"named {path.suffix}" if path.suffix else "without a suffix"
        said.append(f"wrong extension: {format} content in a file {named}")
    if not path.name.isprintable():  # a line break, or bytes that are not UTF-8
        said.append(f"unprintable name: {path.name!a}")
    return said


def _about_layout(image: Image.Image, turn: int, modes: tuple[str, ...]) -> list[str]:
    said = []
    if image.mode not in modes:
        name = "16-bit" if image.mode.startswith("I;16") else image.mode
        expected = " or ".join(modes)
        said.append(f"{_MODE_NAMES.get(name, name)}: mode {image.mode}, expected {expected}")
    if turn != 1:
        said.append(f"EXIF rotation: orientation {turn}, the stored pixels are not upright")
    short, long = sorted(image.size)
    if short < SMALL_SIDE:
        said.append(f"tiny: {image.width} x {image.height} pixels")
    if long > LONG_SIDE * short:
        said.append(f"extreme shape: {image.width} x {image.height} pixels")
    return said


def _about_pixels(image: Image.Image) -> list[str]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        from labs.imagefile.pixels import white_of  # NumPy, as above

        white_of(image)  # as the data sets will ask
        if image.mode not in ("I", "F"):
            image = image.convert("I")  # getextrema() refuses some byte orders
    if blank := _blank(image):
        return [blank]
    if image.format in ("JPEG", "MPO") and (rows := _grey_rows(image)) >= GREY_ROWS:
        return [f"grey band: the last {rows} of {image.height} rows are the decoder's grey"]
    return []


def _blank(image: Image.Image) -> str:
    """Return the warning about an image of one colour; nothing for another one."""
    middle = image.getpixel((image.width // 2, image.height // 2))
    if image.getpixel((0, 0)) != middle:  # as in most pictures, and the rest need not be looked at
        return ""
    extrema: Any = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    same = all(low == high for low, high in bands)
    return f"blank: every pixel is {tuple(low for low, _ in bands)}" if same else ""


def _grey_rows(image: Image.Image) -> int:
    """Count the rows at the bottom that are filled with the grey of a JPEG that ended early."""
    if image.mode not in ("L", "RGB"):
        return 0
    corner = image.getpixel((0, image.height - 1))
    if corner not in (GREY, (GREY,) * 3):  # not even the last row
        return 0
    rows, step = 0, GREY_ROWS
    while rows < image.height:  # few rows at a time: a copy of a large picture is large
        top = max(0, image.height - rows - step)
        strip = image.crop((0, top, image.width, image.height - rows))
        grey = Image.new(strip.mode, strip.size, (GREY,) * len(strip.getbands()))
        if box := ImageChops.difference(strip, grey).getbbox():
            return rows + strip.height - box[3]
        rows, step = rows + strip.height, 64
    return rows
