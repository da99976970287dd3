"""Say in words what the bytes of a file are that no wanted decoder takes for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from PIL import Image

# A decoder of its own, written for old files and seldom tested, is a risk that a data set of
# pictures need not take. These are named, so that you can convert them.
LEFT_OUT = (
    *("BLP", "CUR", "DCX", "DDS", "DIB", "EPS", "FITS", "FLI", "FTEX", "GBR", "ICNS", "ICO", "IM"),
    *("IMT", "IPTC", "MCIDAS", "MSP", "PCD", "PCX", "PIXAR", "PSD", "QOI", "SGI", "SPIDER", "SUN"),
    *("TGA", "WMF", "XBM", "XPM", "XVTHUMB"),
)
_CHANCE = {"DIB", "FLI", "GBR", "PCX", "XBM"}  # a few bytes that other files begin with, too
_STARTS = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<svg": "an SVG drawing",
    b"\x00\x05\x16\x07": "a macOS resource fork; the picture is the file without the leading ._",
    b"\x1f\x8b": "gzip data",
    b"\x93NUMPY": "a NumPy array",
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF",
    b"\x89HDF": "HDF5 data",
    b"GRIB": "GRIB weather data",
    b"BUFR": "BUFR weather data",
    b"\x00\x00\x01\xb3": "an MPEG video",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the picture with git lfs pull",
}
_JPEG_XL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a")


def describe(data: bytes, formats: Sequence[str]) -> str:
    """Return why these bytes are no picture in one of the formats, as ``problem: what was seen``.

    Args:
        data: The whole file.
        formats: Pillow's names of the formats that are read.
    """
    head = data[:512].lstrip()
    for start, name in _STARTS.items():
        if head.lower().startswith(start.lower()):
            return f"not an image: {name}"
    if not any(data[:512]):
        return "not an image: nothing but zeros"
    text = _text(head)
    if claim := _claimed(data, formats, bool(text)):
        why = _why_no_header(data, claim)
        return f"corrupt: claims to be {claim} by its first bytes, but has no sound header ({why})"
    if name := _left_out(data):
        return (
            f"left out on purpose: {name}, which neither scans nor data sets read; save it as PNG"
        )
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("ascii", "replace")
        return f"not an image: a {brand} file (HEIC photograph or video)"
    if text:
        return f"not an image: text, {text[:40].strip()!r}"
    return f"not an image: unknown content, {data[:8].hex(' ')}"


def _claimed(data: bytes, formats: Sequence[str], text: bool) -> str:
    """Return the format whose signature the file begins with, or nothing."""
    for name in formats:
        accept = Image.OPEN[name][1]
        chance = name in ("BMP", "PPM")  # two letters, with which prose may begin as well
        if accept is not None and not (chance and text) and accept(data[:16]):
            return name
    return ""


def _why_no_header(data: bytes, name: str) -> str:
    try:
        Image.OPEN[name][0](BytesIO(data), "")
    except Exception as error:  # whatever it is, it is the answer
        return str(error) or type(error).__name__
    return f"{len(data):,} bytes"


def _left_out(data: bytes) -> str:
    """Return the format among those left out that the file is in, or nothing."""
    if data.startswith(_JPEG_XL):
        return "JPEG XL"
    Image.init()
    known = [name for name in LEFT_OUT if name in Image.OPEN]
    for name in known:
        try:
            Image.open(BytesIO(data), formats=[name]).close()
            return name
        except Image.DecompressionBombError:  # it was recognized first
            return name
        except Exception:  # another format, or damaged; then the first bytes must do
            continue
    marked = [name for name in known if name not in _CHANCE and _accepts(name, data[:16])]
    return marked[0] if marked else ""


def _accepts(name: str, prefix: bytes) -> bool:
    accept = Image.OPEN[name][1]
    try:
        return accept is not None and bool(accept(prefix))
    except Exception:  # fewer bytes than it looks at
        return False


def _text(head: bytes) -> str:
    text = head.decode("utf-8", "ignore")
    return text if all(c.isprintable() or c.isspace() for c in text) else ""
