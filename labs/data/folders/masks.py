"""Check polygons and run lengths, and turn them into masks.

pycocotools draws the polygons in C, without a look at what it is given: one ``null``, or one vertex
far outside, ends the process. So nothing reaches it that was not checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labs.data.folders.notices import Notices
from labs.data.folders.pictures import SLACK, shown
from labs.extras import optional

Code = list[list[float]] | NDArray[np.int64]  # polygons, or run lengths
_MAX_MASK_BYTES = 4 * 2**30
_MAX_OUTLINE = 2_000_000  # pixels; 40 bytes are needed for each


def mask_codec() -> Any:
    """Return the module of pycocotools that codes masks.

    Raises:
        ImportError: When it is not installed.
    """
    return optional("pycocotools.mask", "masks of COCO folders")


def checked_code(code: Any, size: tuple[int, int], where: str, notices: Notices) -> Code:
    """Return the polygons, or the run lengths, of a ``segmentation`` of COCO.

    Args:
        code: A list of polygons ``[x1, y1, x2, y2, …]`` in pixels, or ``{"size", "counts"}``. A
            polygon of one or two points among others has no area and is left out.
        size: Height and width of the picture.
        where: Names the annotation in the error.
        notices: Is told what was left out.

    Raises:
        ValueError: When it is anything else, or does not fit the picture.
    """
    if isinstance(code, dict):
        return _checked_runs(code, size, where)
    if not isinstance(code, list) or not code:
        raise ValueError(
            f"{where}: expected a segmentation, got {shown(code) if code else 'none'}; open the "
            "folder with masks=False"
        )
    if not all(isinstance(part, list) for part in code):
        raise ValueError(
            f"{where}: expected a list of polygons, [[x1, y1, x2, y2, …]], got {shown(code)}; "
            "put a single polygon in a list of its own"
        )
    for part in code:
        _check_polygon(part, size, where)
    if (outline := sum(map(_outline, code))) > _MAX_OUTLINE:
        raise ValueError(
            f"{where}: expected an outline of {_MAX_OUTLINE:,} pixels at most, got {outline:,.0f}; "
            "the memory that drawing takes grows with it"
        )
    whole = [part for part in code if len(part) >= 6]
    if not whole:
        raise ValueError(
            f"{where}: expected a polygon of three points, which are six numbers, or more, got "
            f"{shown(code)}"
        )
    if len(whole) < len(code):
        notices.add("polygon of fewer than three points left out", where.rpartition(", ")[2])
    return whole


def to_masks(codes: Sequence[Code], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Draw checked polygons and run lengths as [n,H,W], bool.

    Raises:
        ValueError: When the masks would take more than 4 GiB.
        ImportError: When there are polygons, and pycocotools is not installed.
    """
    h, w = size
    if len(codes) * h * w > _MAX_MASK_BYTES:
        raise ValueError(
            f"{where}: expected masks of {_MAX_MASK_BYTES:,} bytes at most, got {len(codes)} of "
            f"{h} x {w} pixels; open the folder with masks=False"
        )
    masks = np.zeros((len(codes), h, w), bool)
    for mask, code in zip(masks, codes, strict=True):
        if isinstance(code, list):
            codec = mask_codec()
            mask[:] = codec.decode(codec.merge(codec.frPyObjects(code, h, w)))
        else:  # column by column, beginning with zeros
            mask[:] = np.repeat(np.arange(len(code)) % 2, code).reshape(w, h).T
    return masks


def _check_polygon(part: list[Any], size: tuple[int, int], where: str) -> None:
    numbers = set(map(type, part)) <= {int, float}
    if not numbers or not part or len(part) % 2:
        wrong = [shown(v) for v in part if type(v) not in (int, float)]
        got = f"{wrong[0]} among them" if wrong else f"{len(part)} numbers"
        raise ValueError(f"{where}: expected a polygon of pairs of numbers, x and y, got {got}")
    for values, side, axis in ((part[::2], size[1], "x"), (part[1::2], size[0], "y")):
        for value in values:
            if not -SLACK <= value <= side + SLACK:  # nor is one that is not finite
                raise ValueError(
                    f"{where}: expected polygons with {axis} in [0, {side}], got {shown(value)}; "
                    "is it of another picture?"
                )


def _outline(part: list[float]) -> float:
    """Return the length of a closed polygon, each side as many pixels as it is wide or high."""
    points = np.array(part, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _checked_runs(code: dict[str, Any], size: tuple[int, int], where: str) -> NDArray[np.int64]:
    found: Any = code.get("size")
    counts: Any = code.get("counts")
    if not _integers(found) or found != list(size):
        raise ValueError(
            f"{where}: expected run lengths of the size {list(size)} of the picture, height and "
            f"width, got {shown(found)}; a resized picture needs new masks"
        )
    if isinstance(counts, str):
        counts = _uncompressed(counts, where)
    if not _integers(counts) or not all(0 <= run <= size[0] * size[1] for run in counts):
        raise ValueError(
            f"{where}: expected run lengths, integers from 0 to {size[0] * size[1]:,}, got "
            f"{shown(counts)}"
        )
    if (total := sum(counts)) != size[0] * size[1]:
        raise ValueError(
            f"{where}: expected run lengths of {size[0] * size[1]:,} pixels in all, got {total:,}; "
            "they were cut, or are of another picture"
        )
    return np.array(counts, dtype=np.int64)


def _integers(values: Any) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {int}


def _uncompressed(text: str, where: str) -> list[int]:
    """Return the run lengths of COCO's compressed form: base 32, from the third on differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 60:
            raise ValueError(
                f"{where}: expected compressed run lengths, got {shown(text)}; {shown(character)} "
                "cannot be at its place in them"
            )
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:  # goes on
            continue
        value -= (1 << shift) if digit & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError(
            f"{where}: expected compressed run lengths, got {shown(text)}, which ends early"
        )
    return runs
