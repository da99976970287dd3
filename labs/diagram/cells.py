"""Draw the cells of a feature map on the image, and where in its cell a centre lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor

from labs.plot import COLOURS


def draw_cells(
    ax: Axes,
    size: tuple[int, int],
    stride: int,
    centres: Tensor | Sequence[Sequence[float]] = (),
    colour: str = COLOURS[0],
) -> Axes:
    """Draw the grid of a map; of each centre, fill the cell, and draw its offset as an arrow.

    Args:
        ax: Where the image is drawn, for instance by :func:`labs.plot.images`; it is returned.
        size: Height and width of the image, in pixels.
        stride: Width of a cell, in pixels. Where it does not divide the size, the last cells go on
            beyond the image and are cut off.
        centres: x and y in pixels, [n,2], where the upper left corner of the image is (0, 0). An
            arrow leads to each from the upper left corner of its cell.
        colour: Of the grid and the cells.

    Raises:
        ValueError: When the stride is not above 0, or a centre is not on the image.
    """
    height, width = size
    if stride <= 0:
        raise ValueError(f"draw_cells: expected a stride above 0, got {stride}")
    lines: Any = {"colors": colour, "linewidth": 0.7, "alpha": 0.8}
    ax.vlines([x - 0.5 for x in range(0, width + 1, stride)], -0.5, height - 0.5, **lines)
    ax.hlines([y - 0.5 for y in range(0, height + 1, stride)], -0.5, width - 0.5, **lines)
    for x, y in centres.tolist() if isinstance(centres, Tensor) else centres:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"draw_cells: expected centres within {width} × {height} pixels, got ({x:g}, {y:g})"
            )
        left, top = x // stride * stride - 0.5, y // stride * stride - 0.5
        ax.add_patch(Rectangle((left, top), stride, stride, facecolor=colour, alpha=0.35))
        ax.add_patch(_arrow((left, top), (x - 0.5, y - 0.5)))
        ax.plot(x - 0.5, y - 0.5, "o", color=COLOURS[1], markersize=4)
    return ax


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> FancyArrowPatch:
    look: Any = {"color": COLOURS[1], "linewidth": 1.2, "mutation_scale": 8}
    return FancyArrowPatch(start, end, arrowstyle="-|>", shrinkA=0, shrinkB=0, **look)
