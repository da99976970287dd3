"""Keep the bytes of a picture that looks the same, so that executing again changes nothing.

A new version of Matplotlib, Pillow or zlib writes other bytes for the same pixels. Each version of
a notebook stays in the history of the repository, pictures and all.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from PIL import Image, ImageSequence, UnidentifiedImageError

EMBEDDED = re.compile(r"(?<=data:image/)(\w+);base64,([A-Za-z0-9+/=\n]+)")  # in HTML or SVG
DRAWING = re.compile(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)")
LARGE = re.compile(r"data:image/webp;base64,([A-Za-z0-9+/=]{24000,})")
PLAIN = " !$'()*+,-./:;=?@[]^_`{|}~"  # what a quoted attribute may hold as it is
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
Look = tuple[Any, ...]  # what can be seen of a picture, and its format


def keep_old_bytes(new: Any, old: Any) -> None:
    """Put the pictures of an older execution into a notebook wherever they look the same.

    Only pictures of the same cell are compared: the one with the same source and, where several
    have it, the same place among them. Formats are not mixed, and texts are left alone.

    Args:
        new: The notebook as it was just executed. It is changed in place.
        old: The notebook as it was.
    """
    before = dict(_cells(old))
    for key, cell in _cells(new):
        known = {look: data for data, look in _pictures(before[key])} if key in before else {}
        for output in cell.get("outputs", []) if known else []:
            bundle = output.get("data", {})
            for mime, data in bundle.items():
                bundle[mime] = _with_old_bytes(mime, data, known)


def write_drawings_small(notebook: Any) -> None:
    """Write the figures of a notebook in place as small as they are without a visible loss.

    Drawings become text without what nobody sees, large pictures lose what no eye misses.

    Base64 makes a file a third larger. Comments, white space between elements and digits beyond a
    tenth of a point go.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html")
            if isinstance(html, str):
                html = DRAWING.sub(_as_text, html)
                output["data"]["text/html"] = LARGE.sub(_as_photograph, html)


def _as_text(found: re.Match[str]) -> str:
    svg = base64.b64decode(found[1]).decode()
    svg = re.sub(
        r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S
    )
    svg = re.sub(r"\s*\n\s*", " ", re.sub(r">\s+<", "><", svg))
    svg = re.sub(r"<[^>]*>", _smaller_tag, svg).strip()
    return f"data:image/svg+xml,{quote(svg, safe=PLAIN)}"


def _as_photograph(found: re.Match[str]) -> str:
    """Write a large picture with loss where that makes it less than two thirds as large."""
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")
    picture.save(file, "WEBP", quality=80, method=6)
    smaller = base64.b64encode(file.getvalue()).decode()
    return f"data:image/webp;base64,{smaller}" if len(smaller) < len(found[1]) / 1.5 else found[0]


def _smaller_tag(tag: re.Match[str]) -> str:
    """Shorten what a tag says; between tags stand the words and numbers that are read."""
    # Names of fonts need no quotes, and then attributes may have the ones that HTML leaves free.
    shorter = re.sub(r"'([A-Z][\w ]*)'(?=[,;\"])", r"\1", tag[0]).replace('"', "'")
    return re.sub(r"(\d\.\d)\d+", r"\1", shorter)


def _cells(notebook: Any) -> Iterator[tuple[tuple[str, int], Any]]:
    seen: dict[str, int] = defaultdict(int)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            seen[cell.source] += 1
            yield (cell.source, seen[cell.source]), cell


def _pictures(cell: Any) -> Iterator[tuple[str, Look]]:
    """Yield each picture among the outputs of a cell, in base64, with what can be seen of it."""
    for output in cell.get("outputs", []):
        for mime, data in output.get("data", {}).items():
            for kind, picture in _found(mime, data):
                if look := _look(kind, picture):
                    yield picture, look


def _found(mime: str, data: Any) -> list[tuple[str, str]]:
    if not isinstance(data, str):
        return []
    if mime in ("text/html", "image/svg+xml"):
        return EMBEDDED.findall(data)
    return [(mime.removeprefix("image/"), data)] if mime.startswith("image/") else []


def _with_old_bytes(mime: str, data: Any, known: dict[Look, str]) -> Any:
    if mime in ("text/html", "image/svg+xml") and isinstance(data, str):
        return EMBEDDED.sub(lambda m: f"{m[1]};base64,{known.get(_look(m[1], m[2]), m[2])}", data)
    found = _found(mime, data)
    return known.get(_look(*found[0]), data) if found else data


def _look(kind: str, picture: str) -> Look:
    """Return the format and, of every frame, size, pixels, colour space and time; () if damaged."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        frames = tuple(_frame(frame) for frame in ImageSequence.Iterator(image))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, binascii.Error):
        return ()
    return kind, image.info.get("loop"), frames


def _frame(frame: Image.Image) -> Look:
    shown = frame.convert("RGBA") if frame.mode in EIGHT_BIT else frame
    space = frame.info.get("gamma"), frame.info.get("icc_profile"), frame.info.get("duration")
    return shown.mode, shown.size, shown.tobytes(), *space
