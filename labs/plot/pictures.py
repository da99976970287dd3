"""Draw pictures on axes, alone or under a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor


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
