"""Place boxes on a grid, and find room between them for the arrows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from labs.diagram.routes import Arrow, Box, Point, find_routes
from labs.near_miss import did_you_mean

Rows = Sequence[Sequence[str | None]]
"""Names of parts as they stand on the page, row by row; ``None`` leaves a place empty."""

_WIDEST = 700.0  # CSS pixels: the column of the book, in which 12 px of text stay 12
_GAP, _TRACK, _MARGIN, _EMPTY = 28.0, 9.0, 10.0, 24.0
_TRACKS = ((1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3), (4, 4), (5, 5), (6, 6))


@dataclass(frozen=True)
class Layout:
    """Hold where everything is, in pixels.

    Attributes:
        boxes: By name.
        ways: The corners of each arrow.
        width: Of the whole.
        height: Of the whole.
    """

    boxes: dict[str, Box]
    ways: dict[Arrow, list[Point]]
    width: float
    height: float


def place(
    rows: Rows,
    sizes: Mapping[str, tuple[float, float]],
    arrows: Sequence[Arrow],
    alone: Collection[Arrow] = (),
) -> Layout:
    """Place the boxes, with as little room between them as lets no arrow touch another.

    Args:
        rows: The grid.
        sizes: Width and height of each box, by name. All boxes get the same width, where that fits
            on the page, or else those of a column; those of a row get the same height.
        arrows: Between the boxes.
        alone: Those that share no line with others.

    Raises:
        KeyError: When the grid names a part that there is not.
        ValueError: When it leaves one out or names it twice, or is wider than the page.
    """
    _refuse_other(rows, sizes)
    found: list[tuple[int, Layout]] = []
    for across, down in _TRACKS:
        boxes, xs, ys = _grid(rows, sizes, across, down)
        routes = find_routes(boxes, arrows, xs, ys, alone)
        layout = _trimmed(boxes, routes.ways)
        if not found and layout.width > _WIDEST:
            raise ValueError(
                f"draw: expected a diagram of at most {_WIDEST:.0f} pixels, got {layout.width:.0f} "
                f"with {max(map(len, rows))} columns; use more rows, or shorter names"
            )
        if layout.width <= _WIDEST:
            found.append((routes.touching, layout))
        if routes.touching == 0:
            break
    return min(found, key=lambda tried: tried[0])[1]


def _grid(
    rows: Rows, sizes: Mapping[str, tuple[float, float]], across: int, down: int
) -> tuple[dict[str, Box], list[float], list[float]]:
    """Return the boxes, and where vertical and horizontal lines may run between them."""
    count = max(map(len, rows))
    columns = [[row[c] for row in rows if c < len(row)] for c in range(count)]
    needed = [_largest(column, sizes, 0) for column in columns]
    alike = [max(needed)] * count
    room = _WIDEST - 2 * _MARGIN - (count - 1) * _gap(across)
    lefts, widths, xs = _spread(alike if sum(alike) <= room else needed, across)
    tops, heights, ys = _spread([_largest(row, sizes, 1) for row in rows], down)
    boxes = {
        name: Box(lefts[c], tops[r], widths[c], heights[r])
        for r, row in enumerate(rows)
        for c, name in enumerate(row)
        if name is not None
    }
    return boxes, xs, ys


def _gap(tracks: int) -> float:
    return _GAP + _TRACK * (tracks - 1)


def _largest(
    names: Sequence[str | None], sizes: Mapping[str, tuple[float, float]], axis: int
) -> float:
    return max((sizes[name][axis] for name in names if name is not None), default=_EMPTY)


def _spread(
    lengths: Sequence[float], tracks: int
) -> tuple[list[float], Sequence[float], list[float]]:
    """Return where each length begins, the lengths, and the tracks in the gaps around them."""
    gap, at = _gap(tracks), 0.0
    begins, lines = [], []
    for length in [*lengths, 0.0]:
        lines += [at + _GAP / 2 + _TRACK * track for track in range(tracks)]
        begins.append(at + gap)
        at += gap + length
    return begins[:-1], lengths, lines


def _trimmed(boxes: Mapping[str, Box], ways: Mapping[Arrow, list[Point]]) -> Layout:
    """Cut off the room around the outside that no arrow needed."""
    corners = [corner for way in ways.values() for corner in way]
    corners += [
        corner for box in boxes.values() for corner in ((box.x, box.y), (box.right, box.bottom))
    ]
    left, top = (min(corner[axis] for corner in corners) - _MARGIN for axis in (0, 1))
    right, bottom = (max(corner[axis] for corner in corners) + _MARGIN for axis in (0, 1))
    moved = {
        name: Box(box.x - left, box.y - top, box.width, box.height) for name, box in boxes.items()
    }
    shifted = {arrow: [(x - left, y - top) for x, y in way] for arrow, way in ways.items()}
    return Layout(moved, shifted, right - left, bottom - top)


def _refuse_other(rows: Rows, known: Mapping[str, object]) -> None:
    if isinstance(rows, str) or any(isinstance(row, str) for row in rows):
        raise TypeError('draw: expected a list of rows, each a list of names: [["input", "stem"]]')
    named = Counter(name for row in rows for name in row if name is not None)
    for name, times in named.items():
        if name not in known:
            raise KeyError(f"draw: no part {name!r} in the wiring{did_you_mean(name, known)}")
        if times > 1:
            raise ValueError(f"draw: expected each part in one place, got {name!r} in {times}")
    if missing := [name for name in known if name not in named]:
        raise ValueError(
            f"draw: the rows leave out {', '.join(map(repr, missing))}; give each part a place, or "
            "trace fewer parts"
        )
