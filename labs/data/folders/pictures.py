"""Read pictures and check boxes, for every layout alike."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from labs.data.pictures import read_tensor
from labs.imagefile import BadImageError, read
from labs.imagefile.read import MAX_BYTES, MAX_PIXELS, open_header, orientation, strict_pillow

Target = dict[str, Tensor]
SLACK = 1.0  # px: tools round, so a box may reach this far beyond its picture, and is clipped
_LYING = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Return a picture as RGB, upright by its EXIF tag: [3,H,W], float32 in [0, 1].

    Args:
        path: Any format and mode that :func:`labs.data.scan_images` calls good.
        size: Height and width it must have, if they are known.

    Raises:
        FileNotFoundError: When there is no such file.
        BadImageError: When the file gives no pixels.
        ValueError: When it has another size.
    """
    _refuse_missing(path)
    try:
        image = read_tensor(path)
    except BadImageError as bad:
        raise _bad(path, bad) from bad
    found = tuple(image.shape[1:])
    if size is not None and found != size:
        raise ValueError(
            f"{path}: expected height and width {size} as annotated, got {found}; "
            f"{_why_other_size(path, size, found)}"
        )
    return image


def picture_size(path: Path) -> tuple[int, int]:
    """Return height and width of the upright picture, from its header alone.

    Raises:
        FileNotFoundError: When there is no such file.
        BadImageError: When it has no sound header.
    """
    _refuse_missing(path)
    try:
        data = read(path, MAX_BYTES)
        with strict_pillow():
            image = open_header(data, MAX_PIXELS)
            # Pillow turns a TIFF itself, and says so in its size.
            lying = orientation(image) in _LYING and image.format != "TIFF"
    except BadImageError as bad:
        raise _bad(path, bad) from bad
    return image.size if lying else image.size[::-1]


def checked_size(height: int, width: int, where: str) -> tuple[int, int]:
    """Return height and width when a picture can have them.

    Raises:
        ValueError: When one is not above 0, or they are too large to be read.
    """
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        raise ValueError(
            f"{where}: expected height and width above 0, of {MAX_PIXELS:,} pixels at most, got "
            f"{shown(height)} and {shown(width)}"
        )
    return height, width


def checked_box(box: list[float], size: tuple[int, int], where: str) -> list[float] | None:
    """Return x1, y1, x2, y2 clipped to the picture, or ``None`` when the box has no area.

    Args:
        box: x1, y1, x2, y2 in pixels at their edges.
        size: Height and width of the picture.
        where: Names the annotation in the error.

    Raises:
        ValueError: When the box reaches more than a pixel beyond the picture, is inside out, or is
            not finite.
    """
    (h, w), (x1, y1, x2, y2) = size, box
    inside = -SLACK <= x1 <= x2 <= w + SLACK and -SLACK <= y1 <= y2 <= h + SLACK
    if not inside:  # not finite is not inside
        raise ValueError(
            f"{where}: expected x1 <= x2 in [0, {w}] and y1 <= y2 in [0, {h}], got the box "
            f"[{', '.join(shown(v) for v in box)}]; is it in another format, or of another picture?"
        )
    x1, x2 = max(0.0, x1), min(float(w), x2)
    y1, y2 = max(0.0, y1), min(float(h), y2)
    return [x1, y1, x2, y2] if x2 > x1 and y2 > y1 else None


def looks_normalised(box: list[float]) -> bool:
    """Tell whether a box lies inside the first pixel, which fractions of a picture do."""
    return max(box) <= 1 and any(v != int(v) for v in box)


def shown(value: object) -> str:
    """Return a value for an error message, short whatever a file holds."""
    text = str(round(value, 2)) if isinstance(value, float) else _repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def inside(folder: Path, name: str, where: str) -> Path:
    """Return the path of a name in a folder.

    Raises:
        ValueError: When the name is absolute, leads out of the folder, or can be no name.
    """
    parts = name.replace("\\", "/").split("/")
    absolute = name.startswith(("/", "\\")) or name[1:3] in (":/", ":\\")
    if not name.strip() or absolute or ".." in parts or "\0" in name:
        raise ValueError(
            f"{where}: expected the name of a file in {folder}, got {shown(name)}; write it "
            "without a leading folder and without .."
        )
    return folder / name


def _repr(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a picture, got no file; is the folder complete?")


def _bad(path: Path, bad: BadImageError) -> BadImageError:
    return BadImageError(
        f"{path}: expected a picture, got a file that gives no pixels ({bad}); restore it, or take "
        "it out of the labels: labs.data.scan_images finds all such files"
    )


def _why_other_size(path: Path, size: tuple[int, int], found: tuple[int, ...]) -> str:
    if found != size[::-1]:
        return "a resized picture needs resized boxes"
    with strict_pillow():
        turned = orientation(open_header(read(path), MAX_PIXELS)) in _LYING
    if turned:
        return "its EXIF tag turns it, and the labels are of the picture as stored: remove the tag"
    return "the two are exchanged"
