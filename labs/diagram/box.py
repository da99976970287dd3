"""Draw the box of a part: its picture, its name, its shape, and how many numbers it learns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from xml.sax.saxutils import escape

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from torch import Tensor

from labs.diagram.routes import Box
from labs.diagram.thumbnail import to_uri
from labs.diagram.wiring import Part

INK = "#222222"
TEXT, LINE = 12, 16
"""Size of the text and distance of lines, in pixels."""
_NAME, _PAD, _PICTURE, _BELOW = 13, 8, 64, 6
_PALE = "#5A5A58"
_MOST_SHAPES = 3
_CRISP = 'style="image-rendering:pixelated" '  # so that the cells of a small map can be counted


@dataclass(frozen=True)
class Label:
    """Hold what a box shows.

    Attributes:
        name: Of the part, in bold.
        shapes: One line each.
        learns: The last line, paler, or nothing.
        picture: Above the name.
    """

    name: str
    shapes: tuple[str, ...]
    learns: str
    picture: Tensor | None

    def size(self) -> tuple[float, float]:
        """Return the width and height that the box needs, in pixels."""
        texts = [text_width(line, TEXT) for line in self.lines()[1:]]
        width = max([56.0, text_width(self.name, _NAME, "bold"), *texts])
        height = float(LINE * len(self.lines()))
        if self.picture is not None:
            across, down = _picture_size(self.picture)
            width, height = max(width, across), height + down + _BELOW
        return width + 2 * _PAD, height + 2 * _PAD

    def lines(self) -> list[str]:
        """Return the text, line by line."""
        return [self.name, *self.shapes, *([self.learns] if self.learns else [])]


def label(part: Part, batch: bool) -> Label:
    """Say what the box of a part shows.

    Args:
        part: Its facts.
        batch: Leave out the first number of each shape.
    """
    shapes = dict.fromkeys(shape[1:] if batch else shape for shape in part.shapes)
    said = [" × ".join(map(str, shape)) for shape in shapes if shape]
    if len(said) > _MOST_SHAPES:
        said = [*said[: _MOST_SHAPES - 1], f"… {said[-1]}"]
    learns = f"{_short(part.parameters)} params" if part.parameters else ""
    return Label(part.name, tuple(said), learns, part.picture)


def draw_box(shown: Label, box: Box, fill: str = "#FFFFFF", stroke: str = _PALE) -> str:
    """Return a box as SVG, with what it shows in the middle."""
    x, y = box.centre[0], box.centre[1] - shown.size()[1] / 2 + _PAD
    drawn = [
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
        f'rx="6" fill="{fill}" stroke="{stroke}" stroke-width="1.2"/>'
    ]
    if shown.picture is not None:
        width, height = _picture_size(shown.picture)
        drawn.append(
            f'<image x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'{_CRISP if shown.picture.ndim == 2 else ""}href="{to_uri(shown.picture)}"/>'
        )
        y += height + _BELOW
    pale = [False] * (1 + len(shown.shapes)) + [True]
    for number, (line, is_pale) in enumerate(zip(shown.lines(), pale, strict=False)):
        bold = f' font-size="{_NAME}" font-weight="bold"' if number == 0 else ""
        drawn.append(
            f'<text x="{x:.1f}" y="{y + TEXT + LINE * number:.1f}" text-anchor="middle"{bold} '
            f'fill="{_PALE if is_pale else INK}">{escape(line)}</text>'
        )
    return f'<g class="part">{"".join(drawn)}</g>'


@cache
def text_width(text: str, size: int, weight: str = "normal") -> float:
    """Measure a text in DejaVu Sans, which is wider than what most readers will see."""
    if not text.strip():
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight=weight)
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width)


def _short(count: int) -> str:
    """Write a count with three digits: 9,408 is 9.41 k."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + unit
    return str(count)


def _picture_size(picture: Tensor) -> tuple[float, float]:
    height, width = picture.shape[-2:]
    scale = _PICTURE / max(height, width)
    return width * scale, height * scale
