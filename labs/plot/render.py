"""Turn a figure into the pictures that a page shows: one, or one for each column of panels."""

from __future__ import annotations

import base64
import io
import re
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from matplotlib import pyplot, rc_context
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from labs.plot.style import DPI

SHARP = 2
"""Pixels of a raster picture for each pixel of the page, along each side."""
_MARKS = 4000  # points of lines and marks beyond which a drawing is larger than a picture of it
_SVG: Any = {"svg.fonttype": "none", "svg.hashsalt": "labs"}  # text stays text, names stay the same
_UNDATED: Any = {"Date": None, "Creator": None}


class Drawing(Protocol):
    """Ask of a drawing that is no figure of Matplotlib, such as a diagram, for its SVG."""

    @property
    def svg(self) -> str:
        """Return a whole ``<svg>`` with ``width`` and ``height`` in pixels of the page."""


@dataclass(frozen=True)
class Picture:
    """Hold one picture as a page shows it.

    Attributes:
        mime: ``image/svg+xml`` or ``image/webp``.
        data: The file.
        width: In pixels of the page.
        height: In pixels of the page.
        text: The size of the smallest letters, in pixels of the page; 0 without letters.
    """

    mime: str
    data: bytes
    width: int
    height: int
    text: float

    @property
    def encoded(self) -> str:
        """Return the file in base64."""
        return base64.b64encode(self.data).decode()

    def html(self, alt: str, lazy: bool = False) -> str:
        """Return an ``<img>`` that holds the picture."""
        late = ' loading="lazy"' if lazy else ""
        return (
            f'<img src="data:{self.mime};base64,{self.encoded}" alt="{escape(alt)}"'
            f' width="{self.width}" height="{self.height}" data-text="{self.text:.1f}"{late}'
            ' style="max-width:100%;height:auto">'
        )


def render(figure: Figure | Drawing, split: bool = True) -> list[Picture]:
    """Return the pictures of a figure, from left to right, and close it.

    Columns of panels become pictures of their own, so that a narrow page can put one below the
    other, unless ``split`` is false. A figure without images is drawn as SVG with text as text. Any
    other is a WebP at :data:`SHARP` times the size on the page: without loss and with a palette,
    or as a photograph where that is less than half as large.
    """
    if not isinstance(figure, Figure):
        return [_of_svg(figure.svg)]
    figure.draw_without_rendering()  # panels take their places
    figure.set_layout_engine("none")
    write = _raster if _is_painted(figure) else _vector
    cuts = _cuts(figure) if split else _sides(figure)
    pictures = [_strip(figure, left, right, write) for left, right in pairwise(cuts)]
    pyplot.close(figure)
    return pictures


def _of_svg(svg: str) -> Picture:
    root = re.search(r"<svg[^>]*>", svg)
    sizes = (
        [re.search(rf'\b{side}="([\d.]+)', root[0]) for side in ("width", "height")] if root else []
    )
    if not sizes or not all(sizes):
        raise ValueError(f"expected an <svg> with width and height, got {svg[:60]!r}")
    width, height = (round(float(found[1])) for found in sizes if found)
    letters = [float(size) for size in re.findall(r'font-size[:=]\s*"?([\d.]+)', svg)]
    return Picture("image/svg+xml", svg.encode(), width, height, min(letters, default=0.0))


def _is_painted(figure: Figure) -> bool:
    if any(ax.images for ax in figure.axes):
        return True
    marks = [len(np.asarray(line.get_xdata())) for line in figure.findobj(Line2D)]
    marks += [len(np.asarray(some.get_offsets())) for some in figure.findobj(Collection)]
    return sum(marks) > _MARKS


def _sides(figure: Figure) -> list[int]:
    return [0, round(figure.get_figwidth() * DPI)]


def _cuts(figure: Figure) -> list[int]:
    """Return where to cut the figure, in pixels of the page: its two sides, and between columns."""
    whole = _sides(figure)
    columns: dict[int, list[Axes]] = defaultdict(list)
    for ax in figure.axes:
        place = ax.get_subplotspec()
        if place is not None:
            place = place.get_topmost_subplotspec()
            if len(place.colspan) > 1:
                return whole
            columns[place.colspan.start].append(ax)
    over_all = [*figure.texts, *figure.legends, *figure.artists, *figure.lines, *figure.patches]
    if len(columns) < 2 or over_all or _has_title(figure):
        return whole
    for ax in figure.axes:  # a colour bar belongs to the column that it stands in
        if ax.get_subplotspec() is None:
            columns[min(columns, key=lambda c: _distance(ax, columns[c][0]))].append(ax)
    spans = [_span(columns[column]) for column in sorted(columns)]
    if any(before[1] > after[0] for before, after in pairwise(spans)):
        return whole
    middles = [(before[1] + after[0]) / 2 for before, after in pairwise(spans)]
    return [0, *(round(x * DPI / figure.dpi) for x in middles), whole[1]]


def _has_title(figure: Figure) -> bool:
    return bool(figure.get_suptitle() or figure.get_supxlabel() or figure.get_supylabel())


def _distance(ax: Axes, other: Axes) -> float:
    return abs(ax.get_position().x0 - other.get_position().x1)


def _span(column: list[Axes]) -> tuple[float, float]:
    boxes = [box for ax in column if (box := ax.get_tightbbox()) is not None]
    return min(box.x0 for box in boxes), max(box.x1 for box in boxes)


def _strip(figure: Figure, left: int, right: int, write: Any) -> Picture:
    """Draw what stands between two places, and nothing else."""

    def within(ax: Axes) -> bool:
        box = ax.get_position()
        return left <= (box.x0 + box.x1) / 2 * figure.get_figwidth() * DPI <= right

    shown = [ax for ax in figure.axes if ax.get_visible()]
    for ax in shown:
        ax.set_visible(within(ax))
    inches = Bbox([[left / DPI, 0], [right / DPI, figure.get_figheight()]])
    mime, data = write(figure, inches)
    text = min(_letters(figure), default=0.0)
    for ax in shown:
        ax.set_visible(True)
    return Picture(mime, data, right - left, round(figure.get_figheight() * DPI), text)


def _letters(figure: Figure) -> list[float]:
    hidden = {id(text) for ax in figure.axes if not ax.get_visible() for text in ax.findobj(Text)}
    hidden |= {id(t) for ax in figure.axes if not ax.axison for t in ax.xaxis.findobj(Text)}
    hidden |= {id(t) for ax in figure.axes if not ax.axison for t in ax.yaxis.findobj(Text)}
    return [
        float(text.get_fontsize()) / 72 * DPI
        for text in figure.findobj(Text)
        if isinstance(text, Text) and id(text) not in hidden
        if text.get_visible() and text.get_text().strip()
    ]


def _vector(figure: Figure, inches: Bbox) -> tuple[str, bytes]:
    file = io.BytesIO()
    with rc_context(_SVG):
        figure.savefig(file, format="svg", bbox_inches=inches, metadata=_UNDATED)
    return "image/svg+xml", file.getvalue()


def _raster(figure: Figure, inches: Bbox) -> tuple[str, bytes]:
    exact, flat, photograph = io.BytesIO(), io.BytesIO(), io.BytesIO()
    figure.savefig(exact, format="png", dpi=SHARP * DPI, bbox_inches=inches)
    picture = Image.open(exact).convert("RGB")
    # No eye can tell 256 colours from all, and flat areas are kept to the pixel.
    picture.quantize(256).convert("RGB").save(flat, "WEBP", lossless=True, method=6)
    picture.save(photograph, "WEBP", quality=85, method=6)
    is_photograph = len(photograph.getvalue()) < len(flat.getvalue()) / 2
    return "image/webp", (photograph if is_photograph else flat).getvalue()
