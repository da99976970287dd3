"""Draw what the book shows: figures with one style, readable by everyone, in light and in dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from cycler import cycler
from matplotlib import pyplot, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from labs.extras import optional

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


def new(width: float = 7, height: float = 3.2, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Start a figure in the style of the book; the settings of matplotlib stay as they are.

    Args:
        width: In inches, of :data:`DPI` pixels each.
        height: In inches.
        rows: Rows of axes.
        columns: Columns of axes.

    Returns:
        The figure, and its axes as ``plt.subplots`` gives them: one, an array, or rows of them.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns)


def show(figure: Figure, alt: str) -> None:
    """Display the figure once, as a PNG with a description for those who do not see it.

    Titles move to the left. The figure is closed, so a notebook does not display it again. The PNG
    has a palette of 256 colours: no eye can tell, and notebooks are a third of the size.

    Args:
        figure: From :func:`new`, or any other.
        alt: What the figure shows and what is to be seen in it, in one or two sentences.

    Raises:
        ImportError: When IPython is not installed; the figure is untouched then, and
            ``figure.savefig`` writes it without.
        ValueError: When ``alt`` is empty.
    """
    if not alt.strip():
        raise ValueError("show: expected alt text, got none; say in a sentence what is to be seen")
    display = optional("IPython.display", "labs.plot.show").display  # only notebooks need it
    for ax in figure.axes:
        title, font = ax.get_title(), ax.title.get_fontproperties().copy()
        if title:
            ax.set_title("", loc="center")
            ax.set_title(title, loc="left", fontproperties=font)
    png = _draw(figure)
    pyplot.close(figure)
    data = {"image/png": base64.b64encode(png).decode(), "text/plain": alt}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def _draw(figure: Figure) -> bytes:
    exact, small = io.BytesIO(), io.BytesIO()
    figure.savefig(exact, format="png", dpi=DPI)
    Image.open(exact).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return small.getvalue()


def images(
    axes: Any,
    pictures: Tensor,
    titles: Sequence[str] | None = None,
    limits: tuple[float, float] | None = (0.0, 1.0),
    cmap: str = "gray",
) -> Any:
    """Draw one picture on each of the axes, without ticks.

    Args:
        axes: One ``Axes`` or an array of them, as many as pictures or more (which go blank). They
            are returned.
        pictures: [n,3,H,W], [n,1,H,W] or [n,H,W].
        titles: One per picture.
        limits: The values drawn as black and as white. With ``None`` each picture is stretched from
            its own minimum to its own maximum, so two of them cannot be compared by eye.
        cmap: The colour map of pictures with one channel; ``"RdBu"`` for values with a sign.

    Raises:
        ValueError: When shapes or counts do not fit, or a value lies outside ``limits``.
    """
    cells = np.atleast_1d(axes).ravel()
    pictures = _with_channels(pictures)
    titles = [""] * len(pictures) if titles is None else titles
    if len(pictures) > len(cells) or len(titles) != len(pictures):
        raise ValueError(
            f"images: expected at most {len(cells)} pictures, one for each of the axes, and a "
            f"title for each, got {len(pictures)} pictures and {len(titles)} titles"
        )
    for ax in cells:
        ax.set_axis_off()
    for ax, picture, title in zip(cells, pictures, titles, strict=False):
        low, high = _limits(picture, limits)
        shown = (picture.permute(1, 2, 0) - low) / max(high - low, 1e-12)  # [H,W,C]
        ax.imshow(shown.clamp(0, 1).numpy(), cmap=cmap, vmin=0, vmax=1)
        ax.set_title(title, fontsize=8)
    return axes


def overlay(ax: Axes, picture: Tensor, heat: Tensor) -> Axes:
    """Draw a heat map over a picture in grey: the hotter, the more colour.

    Args:
        ax: Where to draw; it is returned.
        picture: [3,H,W] or [1,H,W], in [0, 1].
        heat: [H,W], in [0, 1], for instance one map of ``grad_cam``.

    Raises:
        ValueError: When the sizes differ, or a value lies outside [0, 1].
    """
    if picture.ndim != 3 or heat.shape != picture.shape[1:]:
        raise ValueError(
            "overlay: expected a picture [C,H,W] and heat [H,W] of the same size, "
            f"got {tuple(picture.shape)} and {tuple(heat.shape)}"
        )
    _limits(heat, (0.0, 1.0))
    images(ax, picture.float().mean(0)[None])
    hot = heat.detach().float().cpu().numpy()
    ax.imshow(hot, cmap="inferno", vmin=0, vmax=1, alpha=0.85 * hot)
    return ax


def curves(ax: Axes, table: pd.DataFrame, x: str, y: str, group: str | None = None) -> Axes:
    """Draw the mean of repeated runs as a line, and from the lowest to the highest as a band.

    Args:
        ax: Where to draw; it is returned, labelled with the names of the columns.
        table: One row per measurement; the rows with the same ``x`` (and group) are repetitions.
        x: The column along the horizontal axis.
        y: The column of the values.
        group: The column that tells the lines apart, if there are several.

    Raises:
        KeyError: When the table lacks a column.
    """
    lacking = [column for column in (x, y, group) if column and column not in table]
    if lacking:
        raise KeyError(f"curves: no column {lacking[0]!r}; there are {', '.join(table.columns)}")
    parts = [("", table)] if group is None else list(table.groupby(group, sort=False))
    for name, part in parts:
        runs = part.groupby(x)[y].agg(["mean", "min", "max"])
        (line,) = ax.plot(runs.index, runs["mean"], label=str(name))
        ax.fill_between(runs.index, runs["min"], runs["max"], color=line.get_color(), alpha=0.2)
    if group is not None:
        ax.legend(title=group)
    ax.set(xlabel=x, ylabel=y)
    return ax


def _with_channels(pictures: Tensor) -> Tensor:
    channels = pictures[:, None] if pictures.ndim == 3 else pictures
    if channels.ndim != 4 or channels.shape[1] not in (1, 3):
        raise ValueError(
            f"images: expected [n,3,H,W], [n,1,H,W] or [n,H,W], got {tuple(pictures.shape)}"
        )
    return channels.detach().float().cpu()


def _limits(picture: Tensor, limits: tuple[float, float] | None) -> tuple[float, float]:
    low, high = (value.item() for value in torch.aminmax(picture.detach()))
    if limits is None:
        return low, high
    slack = 1e-3 * (limits[1] - limits[0])  # interpolation overshoots a little
    if not limits[0] - slack <= low <= high <= limits[1] + slack:
        raise ValueError(
            f"expected values in [{limits[0]:g}, {limits[1]:g}], got [{low:.3g}, {high:.3g}]; "
            "undo the normalisation, or choose other limits"
        )
    return limits
