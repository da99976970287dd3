"""Draw a scene with what is true of it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from labs import plot
from labs.data.scenes.truth import Target


def preview(ax: Axes, image: Tensor, target: Target, classes: Sequence[str]) -> Axes:
    """Draw a scene with its boxes, class names and the outlines of its masks.

    Args:
        ax: Where to draw; it is returned. See :func:`labs.plot.new`.
        image: [3,H,W], in [0, 1].
        target: With ``boxes`` [n,4] and ``labels`` [n]. ``masks`` [n,H,W] are drawn if it has
            them, and ``track_ids`` [n] keep the colour of an object over the frames.
        classes: The class names.

    Raises:
        ValueError: When the image has another shape or range, or a label has no name.
    """
    labels = target["labels"].tolist()
    if labels and not 0 <= min(labels) <= max(labels) < len(classes):
        raise ValueError(
            f"preview: expected labels in [0, {len(classes)}), got {sorted(set(labels))}; pass the "
            "classes of the data set"
        )
    plot.images(ax, image[None])
    tracks = target["track_ids"].tolist() if "track_ids" in target else range(len(labels))
    for k, (box, label) in enumerate(zip(target["boxes"].tolist(), labels, strict=True)):
        colour = plot.COLOURS[tracks[k] % 6]
        if "masks" in target:
            ax.contour(target["masks"][k].float().numpy(), [0.5], colors=[colour], linewidths=0.8)
        x, y = box[0] - 0.5, box[1] - 0.5  # the first pixel is drawn from -0.5 to 0.5
        size = box[2] - box[0], box[3] - box[1]
        ax.add_patch(Rectangle((x, y), *size, fill=False, edgecolor=colour, linewidth=1.5))
        side = "top" if box[1] < image.shape[1] / 10 else "bottom"  # no name above the picture
        text = ax.text(x, y, classes[label], color="white", fontsize=8, va=side, clip_on=True)
        text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])
    return ax
