"""Start figures in the style of the book: one palette, one column, ink that can be read."""

from __future__ import annotations

from typing import Any

from cycler import cycler
from matplotlib import rc_context
from matplotlib.figure import Figure

COLOURS = (
    "#0072B2",  # blue
    "#D55E00",  # vermillion
    "#009E73",  # green
    "#CC79A7",  # purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#000000",  # black
    "#F0E442",  # yellow: for areas, too pale for a line
)
"""The palette of Okabe and Ito (2008), which colour-blind readers can tell apart."""
DPI = 96
"""Pixels of a page per inch, as CSS counts them."""
_COLUMN = 7.5
"""The width of a figure that fills the column of a page, in inches."""
_PANEL, _INK = "#FBFBF9", "#222222"

# An opaque light panel, so that dark ink stays readable when the page around it is dark.
_STYLE: Any = {
    **dict.fromkeys(["figure.facecolor", "axes.facecolor"], _PANEL),
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor"], _INK),
    **dict.fromkeys(["xtick.color", "ytick.color"], _INK),
    **dict.fromkeys(["axes.spines.top", "axes.spines.right"], False),
    **dict.fromkeys(["axes.grid", "axes.axisbelow"], True),
    "axes.prop_cycle": cycler(color=COLOURS),
    "font.size": 9,
    "grid.color": "#DDDDDA",
    "grid.linewidth": 0.6,
}


def new(
    width: float = _COLUMN, height: float = 3.2, rows: int = 1, columns: int = 1
) -> tuple[Any, Any]:
    """Start a figure in the style of the book; the settings of matplotlib stay as they are.

    Args:
        width: In inches, of :data:`DPI` pixels each. The default fills the column of a page.
        height: In inches.
        rows: Rows of axes.
        columns: Columns of axes.

    Returns:
        The figure, and its axes as ``plt.subplots`` gives them: one, an array, or rows of them.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns)
