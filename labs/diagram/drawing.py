"""Draw the wiring of a network as SVG: a box per part, and every arrow that was found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from labs.diagram.arrow import draw_arrow
from labs.diagram.box import INK, LINE, TEXT, draw_box, label, text_width
from labs.diagram.layout import Rows, place
from labs.diagram.routes import Arrow
from labs.diagram.wiring import Wiring
from labs.near_miss import did_you_mean
from labs.plot import COLOURS

_PANEL = "#FBFBF9"  # of labs.plot: opaque and light, as the page around it may be dark
_TINTS = ("#DCEBF7", "#FBE3D3", "#D6F0E6", "#F6E3EE", "#FCEFD2")  # of the first COLOURS
_FONT = "'DejaVu Sans', Verdana, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True, repr=False)
class Drawing:
    """Hold a picture that a notebook shows; ``labs.plot.show`` gives it a caption.

    Attributes:
        svg: The text of the picture. It needs no other file.
        width: In CSS pixels, at most 700; no text is smaller than 12 of them.
        height: In CSS pixels.
    """

    svg: str
    width: int
    height: int

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Drawing({self.width} × {self.height} pixels)"


def draw(
    wiring: Wiring,
    rows: Rows,
    groups: Mapping[str, Sequence[str]] | None = None,
    accent: Collection[Arrow] = (),
) -> Drawing:
    """Draw every part of a wiring in its place, and every arrow around the boxes.

    ::

        draw(wiring, [["input", "enc1", None, "dec1", "output"],
                      [None, None, "middle", None, None]])

    A box says its name, the shape of what the part returned, without the batch, and how many
    numbers it learns.

    Args:
        wiring: From :func:`trace`.
        rows: Where the parts stand on the page; ``None`` leaves a place empty.
        groups: Parts that belong together, by the name of the group; they share a colour, which a
            line below explains. At most five.
        accent: Arrows to draw in another colour.

    Raises:
        KeyError: When rows or groups name a part that there is not, or an arrow that was not found.
        TypeError: When rows is no list of lists.
        ValueError: When a part has no place or two, the picture would be wider than 700 pixels, or
            there are more than five groups.
    """
    groups = groups or {}
    tints = _tints(wiring, groups)
    chosen = {(start, end) for start, end in accent}
    for start, end in chosen - set(wiring.arrows):
        raise KeyError(f"draw: no arrow from {start!r} to {end!r} was found")
    batch = _have_a_batch(wiring)
    labels = {part.name: label(part, batch) for part in wiring.parts}
    sizes = {name: shown.size() for name, shown in labels.items()}
    layout = place(rows, sizes, wiring.arrows, chosen)
    drawn = [
        draw_box(shown, layout.boxes[name], *tints.get(name, ())) for name, shown in labels.items()
    ]
    drawn += [
        draw_arrow(arrow, layout.ways[arrow], COLOURS[1] if arrow in chosen else INK)
        for arrow in sorted(layout.ways, key=chosen.__contains__)  # what is accented lies on top
    ]
    height = layout.height
    if groups:
        drawn.append(_legend(list(groups), height))
        height += LINE + 4
    return _framed(drawn, round(layout.width), round(height))


def _framed(drawn: Sequence[str], width: int, height: int) -> Drawing:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{_FONT}" font-size="{TEXT}">'
    )
    panel = f'<rect width="{width}" height="{height}" fill="{_PANEL}"/>'
    return Drawing("\n".join([head, panel, *drawn, "</svg>"]), width, height)


def _tints(wiring: Wiring, groups: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Return fill and stroke of each part in a group."""
    if len(groups) > len(_TINTS):
        raise ValueError(f"draw: expected at most {len(_TINTS)} groups, got {len(groups)}")
    known, tints = [part.name for part in wiring.parts], {}
    for (group, names), *colours in zip(groups.items(), _TINTS, COLOURS, strict=False):
        for name in names:
            if name not in known:
                raise KeyError(
                    f"draw: group {group!r}: no part {name!r} in the wiring"
                    f"{did_you_mean(name, known)}"
                )
            tints[name] = (colours[0], colours[1])
    return tints


def _have_a_batch(wiring: Wiring) -> bool:
    """Tell whether all tensors begin with the same size, which then is the batch."""
    firsts = {shape[:1] for part in wiring.parts for shape in part.shapes}
    return len(firsts) == 1 and firsts != {()}


def _legend(groups: Sequence[str], top: float) -> str:
    drawn, x = [], 10.0
    for group, fill, stroke in zip(groups, _TINTS, COLOURS, strict=False):
        drawn.append(
            f'<rect x="{x:.1f}" y="{top:.1f}" width="12" height="12" rx="3" fill="{fill}" '
            f'stroke="{stroke}"/><text x="{x + 18:.1f}" y="{top + 11:.1f}" fill="{INK}">'
            f"{escape(group)}</text>"
        )
        x += 18 + text_width(group, TEXT) + 18
    return f'<g class="legend">{"".join(drawn)}</g>'
