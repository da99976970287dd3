"""Draw repeated runs as lines with bands."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes


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
