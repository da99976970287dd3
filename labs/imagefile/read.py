"""Read and decode one image file to its last pixel, or say why that cannot be done."""

from __future__ import annotations

import errno
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

Image.init()
# Pillow reads more, but some of it by starting other programs: EPS calls Ghostscript.
_WANTED = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"}
FORMATS = tuple(sorted(_WANTED & set(Image.OPEN)))
MAX_PIXELS = 100_000_000
MAX_BYTES = 500_000_000

_ORIENTATION = 0x0112  # the EXIF tag
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STARTS = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<svg": "an SVG drawing",
    b"\x00\x05\x16\x07": "a macOS resource fork; the picture is the file without the leading ._",
    b"\x1f\x8b": "gzip data",
    b"\x93NUMPY": "a NumPy array",
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF",
}
_UNREAD = {errno.ENOENT: "vanished", errno.EACCES: "no permission", errno.EPERM: "no permission"}
_lock = threading.RLock()  # Pillow's switches, which strict_pillow turns, belong to the process


class BadImageError(Exception):
    """Report a file that gives no usable pixels: ``problem: what was seen``."""


def read(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file; a pipe or a device, which could block, is not opened.

    Raises:
        BadImageError: When there is no such file, it may not be read, or it is empty or larger
            than ``max_bytes``.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BadImageError(f"not a file: {_file_type(status.st_mode)}")
        if status.st_size == 0:
            raise BadImageError("empty: 0 bytes")
        if status.st_size > max_bytes:
            raise BadImageError(f"too many bytes: {status.st_size:,}, the limit is {max_bytes:,}")
        return path.read_bytes()
    except OSError as error:
        raise BadImageError(_why_unread(path, error)) from error


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file's bytes fully: its first frame, as stored, not yet turned upright.

    A truncated file is an error here even where ``ImageFile.LOAD_TRUNCATED_IMAGES`` is set,
    because the missing rows would be invented.

    Raises:
        BadImageError: When the bytes are no image, are damaged, or claim more than ``max_pixels``.
    """
    with strict_pillow():
        image = open_header(data)
        load(image, data, max_pixels)
    return image


def upright(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF orientation asks."""
    turn = _TURN.get(orientation(image))
    return image if turn is None else image.transpose(turn)


@contextmanager
def strict_pillow() -> Iterator[list[warnings.WarningMessage]]:
    """Decode by the rules of this module, collect warnings, and put Pillow's switches back."""
    with _lock, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
        try:
            yield said
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def open_header(data: bytes) -> Image.Image:
    """Read what the file says of itself, and no pixel; call it inside :func:`strict_pillow`.

    Raises:
        BadImageError: When the bytes are no image.
    """
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImageError(f"not an image: {_describe(data)}") from None
    except Exception as error:
        raise BadImageError(_why_undecoded(error)) from error


def load(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Decode the pixels of an opened image, its first frame, in place.

    Raises:
        BadImageError: When they are damaged, or the header claims more than ``max_pixels``.
    """
    if image.width * image.height > max_pixels:
        claim = f"claims {image.width} x {image.height}"
        raise BadImageError(f"too many pixels: {claim}, the limit is {max_pixels:,}")
    try:
        if image.format == "PNG":  # its checksums, which decoding does not look at
            Image.open(BytesIO(data), formats=["PNG"]).verify()
        image.load()
    except Exception as error:
        raise BadImageError(_why_undecoded(error)) from error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, which is upright, when there is none."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return found if found in _TURN else 1


def _describe(data: bytes) -> str:
    head = data[:512].lstrip()
    for start, name in _STARTS.items():
        if head.lower().startswith(start.lower()):
            return name
    if data[4:8] == b"ftyp":
        return f"a {data[8:12].decode('ascii', 'replace')} file (HEIC photograph or video)"
    if not any(data[:512]):
        return "nothing but zeros"
    text = head.decode("utf-8", "ignore")
    if text and all(c.isprintable() or c.isspace() for c in text):
        return f"text, {text[:40].strip()!r}"
    return f"unknown content, {data[:8].hex(' ')}"


def _file_type(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _why_unread(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "symlink loop: the link leads back to itself"
    if error.errno == errno.ENOENT and path.is_symlink():
        return f"dangling symlink: {os.readlink(path)!a} does not exist"
    return f"{_UNREAD.get(error.errno or 0, 'cannot be read')}: {error.strerror}"


def _why_undecoded(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "out of memory: the decoded picture does not fit"
    words = str(error) or type(error).__name__
    return f"{'truncated' if 'truncat' in words.lower() else 'corrupt'}: {words}"
