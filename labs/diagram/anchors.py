"""Draw anchors on the image, to scale."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from labs.plot import COLOURS


def draw_anchors(
    ax: Axes,
    shapes: Tensor | Sequence[Sequence[float]],
    centre: tuple[float, float],
    colour: str = COLOURS[4],
) -> Axes:
    """Draw the anchors of one place around its centre, as large as they are.

    Args:
        ax: Where the image is drawn, for instance by :func:`labs.plot.images`; it is returned. Its
            limits stay, so an anchor that is larger than the image is cut off.
        shapes: Width and height in pixels, [A,2].
        centre: x and y in pixels, where the upper left corner of the image is (0, 0).
        colour: Of the outlines.

    Raises:
        ValueError: When a width or height is not above 0.
    """
    limits = ax.get_xlim(), ax.get_ylim()
    x, y = centre
    for width, height in shapes.tolist() if isinstance(shapes, Tensor) else shapes:
        if not (width > 0 and height > 0):
            raise ValueError(
                f"draw_anchors: expected widths and heights above 0, got {width:g} × {height:g}"
            )
        corner = (x - 0.5 - width / 2, y - 0.5 - height / 2)  # the first pixel begins at -0.5
        ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.5))
    ax.plot(x - 0.5, y - 0.5, "+", color=colour, markersize=7)
    ax.set(xlim=limits[0], ylim=limits[1])
    return ax
