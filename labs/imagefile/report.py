"""Examine one image file: can its pixels be used, and what should you look at first?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from labs.imagefile.read import (
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    BadImageError,
    load,
    open_header,
    orientation,
    read,
    strict_pillow,
)

SUFFIXES = {s: f for s, f in Image.registered_extensions().items() if f in FORMATS} | {
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
            said += [f"decoder's warning: {note.message}" for note in notes]
    except BadImageError as bad:
        return FileReport(path, reason=str(bad), **facts)
    return FileReport(path, warnings=tuple(said), **facts)


def _inspect_image(data: bytes, path: Path, rules: Rules, facts: dict[str, Any]) -> list[str]:
    image = open_header(data)
    facts |= {"format": image.format, "mode": image.mode}
    facts |= {"width": image.width, "height": image.height}
    load(image, data, rules.max_pixels)
    facts["orientation"] = orientation(image)
    said = _about_name(path, "JPEG" if image.format == "MPO" else str(image.format))
    said += _about_layout(image, rules.modes) + _about_pixels(image)
    return said + _about_frames(data, rules.max_pixels)


def _inspect_array(path: Path, rules: Rules, facts: dict[str, Any]) -> list[str]:
    facts["format"] = "NPY"
    try:  # mapped, not read: the header is judged before a number is touched
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        problem = "needs pickle" if "object" in str(error).lower() else "corrupt"
        raise BadImageError(f"{problem}: {error}") from error
    facts["mode"] = str(array.dtype)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] <= 4):
        facts["height"], facts["width"] = array.shape[:2]
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise BadImageError(f"not a picture: an array {array.shape} of {array.dtype}")
    if array.size > 4 * rules.max_pixels:  # four channels at most
        raise BadImageError(f"too many pixels: an array {array.shape}")
    if odd := int(np.count_nonzero(~np.isfinite(array))):
        raise BadImageError(f"not finite: {odd:,} of {array.size:,} values are NaN or infinite")
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


def _about_layout(image: Image.Image, modes: tuple[str, ...]) -> list[str]:
    said = []
    if image.mode not in modes:
        name = "16-bit" if image.mode.startswith("I;16") else image.mode
        expected = " or ".join(modes)
        said.append(f"{_MODE_NAMES.get(name, name)}: mode {image.mode}, expected {expected}")
    if (turn := orientation(image)) != 1:
        said.append(f"EXIF rotation: orientation {turn}, the stored pixels are not upright")
    short, long = sorted(image.size)
    if short < SMALL_SIDE:
        said.append(f"tiny: {image.width} x {image.height} pixels")
    if long > LONG_SIDE * short:
        said.append(f"extreme shape: {image.width} x {image.height} pixels")
    return said


def _about_pixels(image: Image.Image) -> list[str]:
    extrema: Any = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    if all(low == high for low, high in bands):
        return [f"blank: every pixel is {tuple(low for low, _ in bands)}"]
    if image.format in ("JPEG", "MPO") and (rows := _grey_rows(image)) >= GREY_ROWS:
        return [f"grey band: the last {rows} of {image.height} rows are the decoder's grey"]
    return []


def _about_frames(data: bytes, max_pixels: int) -> list[str]:
    image = open_header(data)
    try:
        count = getattr(image, "n_frames", 1)
        for at in range(1, min(count, max_pixels // (image.width * image.height))):
            image.seek(at)
            image.load()
    except Exception as error:
        return [f"damaged frame: only the first is known to be sound, {error}"]
    return [f"several frames: {count} in one file, only the first is used"] if count > 1 else []


def _grey_rows(image: Image.Image) -> int:
    """Count the rows at the bottom that are filled with the grey of a JPEG that ended early."""
    pixels = np.asarray(image)
    if image.mode not in ("L", "RGB") or (pixels[-GREY_ROWS:] != GREY).any():
        return 0
    other = (pixels != GREY).reshape(len(pixels), -1).any(axis=1)
    return int(np.argmax(other[::-1]))
