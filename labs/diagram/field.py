"""Measure which pixels one place of a feature map sees, and draw it on the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from labs.diagram.replay import apart
from labs.hooks.layers import bare, eager, find_layers
from labs.plot import COLOURS, overlay
from labs.repro import random_state_kept

_IMAGES = 4  # a max pooling passes the gradient of one pixel; in another image it is another one


@dataclass(frozen=True, eq=False, repr=False)
class Field:
    """Hold the receptive field of one place of a map.

    Attributes:
        layer: The name of the layer.
        cell: Row and column of the place.
        reach: x1, y1, x2, y2 in pixels: the pixels outside cannot change the place, whatever the
            weights. It ends at the border of the image.
        influence: How much a small change of each pixel changes the place with the weights as they
            are, [H,W], in [0, 1], where 1 is the pixel with the largest influence.
    """

    layer: str
    cell: tuple[int, int]
    reach: tuple[int, int, int, int]
    influence: Tensor

    def table(self) -> pd.DataFrame:
        """Return one row: ``layer``, ``cell``, ``width`` and ``height`` of the reach in pixels."""
        x1, y1, x2, y2 = self.reach
        row = {"layer": self.layer, "cell": self.cell, "width": x2 - x1, "height": y2 - y1}
        return pd.DataFrame([row])

    def __repr__(self) -> str:
        x1, y1, x2, y2 = self.reach
        return f"Field({x2 - x1} × {y2 - y1} pixels, seen by {self.layer} at {self.cell})"


def receptive_field(model: nn.Module, image: Tensor, layer: str, cell: tuple[int, int]) -> Field:
    """Measure by gradients which pixels a place of a feature map sees.

    The influence is what Luo et al. 2016 call the effective receptive field
    (https://arxiv.org/abs/1701.04128): the gradient of the place, summed over its channels, with
    respect to the image. For the reach the weights of a copy are made positive, so that nothing
    cancels out and no ReLU is closed.

    The model runs as a copy in eval mode, in float64 on the CPU, where what is no part of the sum
    is exactly zero; it stays as it is.

    Args:
        model: Any network of one image.
        image: [3,H,W] or [1,H,W], what the model takes without its batch.
        layer: The name of a layer that returns maps [N,C,h,w] and runs once.
        cell: Row and column of the place in these maps.

    Raises:
        KeyError: When the layer does not exist; the message names the nearest ones.
        ValueError: When the layer does not return maps, runs more or less than once, has no such
            place, or the place depends on no pixel.
    """
    if image.ndim != 3:
        raise ValueError(f"receptive_field: expected an image [C,H,W], got {tuple(image.shape)}")
    model = bare(model)
    find_layers(model, [layer])
    with random_state_kept(), eager(), torch.inference_mode(False), torch.enable_grad():
        twin = apart(model).cpu().double().requires_grad_(False)
        real = image.detach().clone().cpu().double()[None]
        influence = _gradient(twin, real, layer, cell)[0]
        generator = torch.Generator().manual_seed(0)
        _make_positive(twin, generator)
        drawn = torch.rand((_IMAGES, *image.shape), generator=generator, dtype=torch.float64)
        seen = _gradient(twin, drawn, layer, cell).amax(0) > 0  # [H,W]
    if not seen.any():
        raise ValueError(f"receptive_field: layer {layer!r} at {cell} depends on no pixel")
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    reach = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    scaled = influence / influence.max().clamp(min=1e-300)
    return Field(layer, cell, reach, scaled.float())


def draw_field(ax: Axes, image: Tensor, field: Field) -> Axes:
    """Draw the influence of each pixel over the image, and a frame around the reach.

    Args:
        ax: Where to draw; it is returned.
        image: [3,H,W] or [1,H,W], in [0, 1].
        field: From :func:`receptive_field`.

    Raises:
        ValueError: When the image and the field differ in size, or a value is out of range.
    """
    # Influence falls off like a bell; its root shows also where it is small.
    overlay(ax, image, field.influence.sqrt())
    x1, y1, x2, y2 = field.reach
    look: Any = {"fill": False, "edgecolor": COLOURS[1], "linewidth": 1.5}
    ax.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, clip_on=False, **look))
    return ax


def _gradient(model: nn.Module, images: Tensor, layer: str, cell: tuple[int, int]) -> Tensor:
    """Return the size of the gradient of a place with respect to each pixel, [N,H,W]."""
    found: list[Any] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        found.append(output)
        return output.clone() if isinstance(output, Tensor) else None  # for what writes over it

    images.requires_grad_()
    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        model(images)
    finally:
        handle.remove()
    got = [tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__ for f in found]
    if len(found) != 1 or not isinstance(found[0], Tensor) or found[0].ndim != 4:
        raise ValueError(
            f"receptive_field: expected layer {layer!r} to run once and return maps [N,C,h,w], "
            f"got {got}; choose another layer"
        )
    (row, column), (rows, columns) = cell, found[0].shape[2:]
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"receptive_field: expected a cell within {rows} rows and {columns} columns, got {cell}"
        )
    score = found[0][:, :, row, column].sum()
    if not score.requires_grad:
        return torch.zeros_like(images[:, 0])
    (gradient,) = torch.autograd.grad(score, images, allow_unused=True)
    return torch.zeros_like(images[:, 0]) if gradient is None else gradient.abs().amax(1)


def _make_positive(model: nn.Module, generator: torch.Generator) -> None:
    """Make every weight an average with positive weights, and every norm nearly the identity."""
    with torch.no_grad():
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is None or not tensor.is_floating_point():
                        continue
                    if tensor.ndim >= 2:
                        drawn = 0.5 + torch.rand(tensor.shape, generator=generator)
                        tensor.copy_(drawn / max(1, tensor[:1].numel()))
                    else:
                        tensor.fill_(0.0 if "bias" in name or "mean" in name else 1.0)
