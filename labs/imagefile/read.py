"""Read and decode one image file to its last pixel, or say why that cannot be done."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

# Each module registers a format. ``Image.init()`` would import forty, and some of those start other
# programs to read a picture: EPS calls Ghostscript.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from labs.imagefile.error import BadImageError
from labs.imagefile.words import describe

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
_UNREAD = {errno.ENOENT: "vanished", errno.EACCES: "no permission", errno.EPERM: "no permission"}
_lock = threading.RLock()  # Pillow's switches, which strict_pillow turns, belong to the process


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
        image = open_header(data, max_pixels)
        load(image, data, max_pixels)
    return image


def upright(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF orientation asks."""
    turn = _TURN.get(orientation(image))
    return image if turn is None else image.transpose(turn)


@contextmanager
def exclusive() -> Iterator[None]:
    """Let no other thread decode meanwhile, nor hold Pillow's switches turned."""
    with _lock:
        yield


@contextmanager
def strict_pillow() -> Iterator[list[warnings.WarningMessage]]:
    """Decode by the rules of this module, collect warnings, and put Pillow's switches back."""
    with _lock, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see capped()
        before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
        try:
            yield said
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


@contextmanager
def capped(max_pixels: int) -> Iterator[None]:
    """Let Pillow refuse, with an error, to allocate more pixels, wherever it looks by itself.

    A size can change after the header was judged: a frame of a GIF enlarges its screen, and an
    icon holds a picture of its own. Call it inside :func:`strict_pillow`.
    """
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels / 2  # type: ignore[assignment]  # it refuses twice as many
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def open_header(data: bytes, max_pixels: int) -> Image.Image:
    """Read what the file says of itself, and no pixel; call it inside :func:`strict_pillow`.

    Raises:
        BadImageError: When the bytes are no image in one of ``FORMATS``.
    """
    if size := _webp_size(data):  # its decoder allocates the canvas when it opens
        refuse_large(size, max_pixels)
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except MemoryError as error:
        raise BadImageError(why_undecoded(error)) from error
    except Exception as error:  # not only UnidentifiedImageError: each plugin has errors of its own
        with capped(1_000_000):  # what an icon holds
            raise BadImageError(describe(data, FORMATS)) from error


def load(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Decode the pixels of an opened image, its first frame, in place.

    Raises:
        BadImageError: When they are damaged, or the header claims more than ``max_pixels``.
    """
    refuse_large(image.size, max_pixels)
    try:
        with capped(max_pixels):
            if image.format == "PNG":
                _check_sums(data)
            image.load()
    except Exception as error:
        raise BadImageError(why_undecoded(error)) from error


def _check_sums(data: bytes) -> None:
    """Compare the checksum of each chunk of a PNG, which decoding does not look at for the pixels.

    Pillow's ``verify`` does the same, but opens the file once more and uses that image up.

    Raises:
        OSError: When the file ends before its last chunk, ``IEND``, begins.
        SyntaxError: When a checksum is wrong or cut off.
    """
    at, rest = 8, memoryview(data)  # behind the signature
    while True:
        if at + 8 > len(data):
            raise OSError("truncated PNG file")
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return
        end = at + 8 + length
        if end > len(data):
            raise OSError("Truncated File Read")
        if end + 4 > len(data):
            raise SyntaxError(f"broken PNG file (incomplete checksum in {kind!r})")
        if zlib.crc32(rest[at + 4 : end]) != int.from_bytes(rest[end : end + 4]):
            raise SyntaxError(f"broken PNG file (bad header checksum in {kind!r})")
        at = end + 4


def refuse_large(size: tuple[int, int], max_pixels: int) -> None:
    """Raise a ``BadImageError`` when a picture claims more pixels than may be decoded."""
    width, height = size
    if width * height > max_pixels:
        claim = f"claims {width} x {height}"
        raise BadImageError(f"too many pixels: {claim}, the limit is {max_pixels:,}")


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, which is upright, when there is none."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return found if found in _TURN else 1


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height as the header of a WebP file states them (RFC 9649)."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind, bits = data[12:16], int.from_bytes(data[21:25], "little")
    if kind == b"VP8X":  # the canvas of an animation, or of a picture with a profile
        sides = data[24:27], data[27:30]
        return 1 + int.from_bytes(sides[0], "little"), 1 + int.from_bytes(sides[1], "little")
    if kind == b"VP8L":
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    both = int.from_bytes(data[26:30], "little")
    return (both & 0x3FFF, both >> 16 & 0x3FFF) if kind == b"VP8 " else None


def _file_type(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _why_unread(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "symlink loop: the link leads back to itself"
    if error.errno == errno.ENOENT and path.is_symlink():
        return f"dangling symlink: {os.readlink(path)!a} does not exist"
    return f"{_UNREAD.get(error.errno or 0, 'cannot be read')}: {error.strerror}"


def why_undecoded(error: Exception) -> str:
    """Return the reason for an error of a decoder, as ``problem: what was seen``."""
    if isinstance(error, MemoryError):
        return "out of memory: the decoded picture does not fit"
    words = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        claimed, allowed = (int(float(n)) for n in re.findall(r"[\d.]+", words)[:2])
        return f"too many pixels: claims {claimed:,}, the limit is {allowed:,}"
    return f"{'truncated' if 'truncat' in words.lower() else 'corrupt'}: {words}"
