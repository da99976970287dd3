"""Draw the logo and the favicon: a bug on a pixel grid, found by a bounding box.

    python -m tools.draw_logo

Writes three SVG files to ``book/_static``. The picture is the text below; edit it and run this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"

# l: leg or feeler, h: head, b: wing case, s: spot, m: the seam between the wing cases
BUG = """
..l.....l..
...l...l...
....hhh....
l..hhhhh..l
.l.bbmbb.l.
..bsbmbsb..
llbbbmbbbll
..bsbmbsb..
..bbbmbbb..
.l.bsmsb.l.
l...bmb...l
"""
# The same animal in fewer pixels, for 16 x 16.
SMALL_BUG = """
.l...l.
..hhh..
.bbmbb.
lbbmbbl
.bbmbb.
lbbmbbl
..bmb..
"""
LIGHT = {"l": "#1f2a37", "h": "#1f2a37", "b": "#d55e00", "s": "#7a3300", "m": "#f4a261"}
DARK = {"l": "#cbd5e1", "h": "#cbd5e1", "b": "#ff8c42", "s": "#8a3d00", "m": "#ffd1a8"}
BOTH = {"l": "#64748b", "h": "#64748b", "b": "#e8680c", "m": "#ffc08a"}  # on any browser tab
BOX_LIGHT, BOX_DARK, BOX_BOTH = "#0072b2", "#56b4e9", "#2b8fd0"


def main() -> None:
    """Write the logo for each theme, and the favicon."""
    _write("logo-light.svg", _picture(BUG, LIGHT, BOX_LIGHT))
    _write("logo-dark.svg", _picture(BUG, DARK, BOX_DARK))
    _write("favicon.svg", _picture(SMALL_BUG, BOTH, BOX_BOTH, stroke=6, inset=9))


def _picture(
    bug: str, colours: Mapping[str, str], box: str, stroke: float = 3.5, inset: float = 10
) -> list[str]:
    return [*_pixels(bug, colours, inset), *_corners(box, stroke)]


def _pixels(bug: str, colours: Mapping[str, str], inset: float) -> list[str]:
    """Draw one square per letter, centred in the 64 x 64 canvas."""
    rows = bug.split()
    size = (64 - 2 * inset) / max(len(rows), len(rows[0]))
    left, top = (64 - size * len(rows[0])) / 2, (64 - size * len(rows)) / 2
    return [
        f'<rect x="{left + x * size:.2f}" y="{top + y * size:.2f}" width="{size * 0.94:.2f}" '
        f'height="{size * 0.94:.2f}" fill="{colours[letter]}"/>'
        for x, y, letter in pixels(bug)
    ]


def pixels(bug: str) -> Iterator[tuple[int, int, str]]:
    """Yield column, row and letter of each pixel of a drawing, without those left empty."""
    for y, row in enumerate(bug.split()):
        yield from ((x, y, letter) for x, letter in enumerate(row) if letter != ".")


def _corners(colour: str, stroke: float) -> list[str]:
    """Draw the four corners of the bounding box."""
    near, far, arm = 4, 60, 15
    path = " ".join(
        f"M{x} {y + down} V{y} H{x + right}"
        for x, right in ((near, arm), (far, -arm))
        for y, down in ((near, arm), (far, -arm))
    )
    return [f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{stroke}"/>']


def _write(name: str, shapes: list[str]) -> None:
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
    title = "<title>A bug inside a bounding box</title>"
    (STATIC / name).write_text("\n".join([head, title, *shapes, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
