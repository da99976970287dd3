"""Deformable attention: read a few points of each map, at places that the query chooses.

After Zhu et al. 2020, "Deformable DETR", https://arxiv.org/abs/2010.04159, section 4.1. What it
costs grows with the number of queries, and not with the number of queries times that of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from labs.boxes.precision import widen
from labs.models.settings import refuse_counts

Shapes = Sequence[tuple[int, int]]


def sample_levels(values: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of what lies at some places of maps, [N,Q,heads*D].

    Between the centres of cells values are interpolated; outside the map there are zeros.

    Args:
        values: The cells of all maps, map after map, row after row, [N,T,heads,D].
        shapes: Rows and columns of each map.
        places: Where to look, x and y, each from 0 to 1 over a map, [N,Q,heads,levels,points,2].
        weights: How much to take of each, [N,Q,heads,levels,points].
    """
    n, _, heads, _ = values.shape
    total: Tensor | None = None
    for level, cells in enumerate(widen(values).split([h * w for h, w in shapes], 1)):
        picture = cells.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, shapes[level])
        grid = (
            (2 * places[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        )  # [N*heads,Q,points,2]
        # A place of 0 is the outer edge of the first cell, not its centre.
        read = grid_sample(picture, grid.to(picture), align_corners=False)  # [N*heads,D,Q,points]
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        part = (read * share).sum(-1)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("sample_levels: expected at least one map, got no shapes")
    return total.unflatten(0, (n, heads)).permute(0, 3, 1, 2).flatten(2)


class DeformableAttention(nn.Module):
    """Choose points around a reference on each map, weigh them, and read them.

    Args:
        width: Channels of the tokens.
        heads: Into how many the channels are divided; each chooses points of its own.
        levels: Number of maps.
        points: That a head reads on each map.

    Raises:
        ValueError: When the heads do not divide the channels.
    """

    def __init__(self, width: int, heads: int, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        counts = {"width": width, "heads": heads, "levels": levels, "points": points}
        refuse_counts("DeformableAttention", counts)
        if width % heads:
            raise ValueError(
                "DeformableAttention: expected a width that the heads divide, got "
                f"width={width}, heads={heads}"
            )
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj, self.output_proj = nn.Linear(width, width), nn.Linear(width, width)
        self._init_weights()

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: Shapes,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Return what each query has read, [N,Q,width].

        Args:
            queries: [N,Q,width]; they decide where to look.
            references: Where they look from, in shares of each map: x and y, [N,Q,levels,2], or a
                box, centre, width and height, [N,Q,levels,4].
            memory: The cells of all maps, map after map, row after row, [N,T,width].
            shapes: Rows and columns of each map.
            padding: Cells that belong to no picture, True in [N,T]: they are read as zeros.

        Raises:
            ValueError: When maps and cells do not belong together.
        """
        cells = sum(h * w for h, w in shapes)
        if len(shapes) != self.levels or memory.shape[1] != cells:
            raise ValueError(
                f"DeformableAttention: expected the {cells} cells of {self.levels} maps, got "
                f"{memory.shape[1]} cells and {len(shapes)} shapes"
            )
        values = self.value_proj(memory)
        if padding is not None:
            values = values.masked_fill(padding[..., None], 0)
        places, weights = self.sampling(queries, references, shapes)
        values = values.unflatten(-1, (self.heads, -1))
        return self.output_proj(sample_levels(values, shapes, places, weights).to(values))

    def sampling(
        self, queries: Tensor, references: Tensor, shapes: Shapes
    ) -> tuple[Tensor, Tensor]:
        """Return where each query looks, and how much it takes of each place.

        Arguments as of :meth:`forward`.

        Returns:
            Places, x and y in shares of each map, [N,Q,heads,levels,points,2]; weights, which add
            up to 1 over all maps and points of a head, [N,Q,heads,levels,points].
        """
        form = (self.heads, self.levels, self.points)
        offsets = widen(self.sampling_offsets(queries)).unflatten(-1, (*form, 2))
        weights = widen(self.attention_weights(queries)).unflatten(-1, (self.heads, -1))
        weights = weights.softmax(-1).unflatten(-1, form[1:])
        around = references[:, :, None, :, None]  # [N,Q,1,levels,1,2 or 4]
        if references.shape[-1] == 4:  # in halves of the box, so that large objects are seen whole
            return around[..., :2] + offsets / self.points * around[..., 2:] / 2, weights
        # In cells, x first: a map of 4 rows and 8 columns is 8 cells wide.
        cells = offsets.new_tensor([[w, h] for h, w in shapes])[:, None]
        return around + offsets / cells, weights

    def _init_weights(self) -> None:
        """Let each head look in a direction of its own, each point a cell farther."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # onto a square
        steps = torch.arange(1, self.points + 1)[:, None]
        start = (direction[:, None, None] * steps).expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)  # the softmax of zeros is uniform
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
