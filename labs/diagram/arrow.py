"""Draw an arrow along its way, with round corners."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

from labs.diagram.routes import Arrow, Point

_HEAD, _ROUND = 8.0, 5.0


def draw_arrow(arrow: Arrow, way: Sequence[Point], colour: str) -> str:
    """Return an arrow as SVG; its names are a tool tip.

    Args:
        arrow: The names at its ends.
        way: Its corners, from the side of a box to the side of another.
        colour: Of line and head.
    """
    (x1, y1), (x2, y2) = way[-2:]
    length = abs(x1 - x2) + abs(y1 - y2)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    neck = (x2 - _HEAD * dx, y2 - _HEAD * dy)
    wing = _HEAD * 0.45
    wings = [(neck[0] - side * dy, neck[1] + side * dx) for side in (wing, -wing)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x2, y2), *wings])
    return (
        f'<g class="arrow"><title>{escape(" → ".join(arrow))}</title>'
        f'<path d="{_path([*way[:-1], neck])}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        f'<polygon points="{points}" fill="{colour}"/></g>'
    )


def _path(way: Sequence[Point]) -> str:
    """Write a line with rounded corners."""
    said = [f"M{way[0][0]:.1f},{way[0][1]:.1f}"]
    for (before, corner), (_, after) in pairwise(pairwise(way)):
        enter, leave = _towards(corner, before), _towards(corner, after)
        said.append(f"L{enter[0]:.1f},{enter[1]:.1f}")
        said.append(f"Q{corner[0]:.1f},{corner[1]:.1f} {leave[0]:.1f},{leave[1]:.1f}")
    return " ".join([*said, f"L{way[-1][0]:.1f},{way[-1][1]:.1f}"])


def _towards(corner: Point, other: Point) -> Point:
    """Return the point a little on the way from a corner to another, at most half of it."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    share = min(0.5, _ROUND / max(abs(dx) + abs(dy), 1e-9))
    return corner[0] + share * dx, corner[1] + share * dy
