"""Deformable DETR: a DETR of which every token looks at a few points of four maps.

After Zhu et al. 2020, https://arxiv.org/abs/2010.04159; iterative refinement and the two-stage form
are those of its appendix A.4.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labs.models.attention import MultiHeadAttention
from labs.models.deformable_attention import DeformableAttention, Shapes
from labs.models.detr import (
    SetEstimates,
    box_head,
    draw_feed_forward,
    picture_sizes,
    shrunk,
    standardised,
)
from labs.models.faster_rcnn import IMAGENET_MEAN, IMAGENET_STD
from labs.models.feature_pyramid import ResNetMaps
from labs.models.frozen_norm import freeze_norms
from labs.models.position import SinePositions, sine_positions
from labs.models.resnet import resnet50
from labs.models.settings import refuse_counts
from labs.models.transformer import FeedForward


class Cells(NamedTuple):
    """Hold the cells of all maps in one list, finest map first, row by row.

    Attributes:
        tokens: [N,T,width].
        position: What says where each is, and on which map, [N,T,width].
        shapes: Rows and columns of each map.
        padding: Cells that belong to no picture, True in [N,T]; None when none do.
        ratios: Which share of each map is picture, width and height, [N,levels,2].
    """

    tokens: Tensor
    position: Tensor
    shapes: Shapes
    padding: Tensor | None
    ratios: Tensor


class DeformableEncoderLayer(nn.Module):
    """Let each cell read a few points of all maps, then change it alone; post-norm."""

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, levels: int, points: int
    ) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(width, heads, levels, points)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Cells, references: Tensor) -> Tensor:
        """Map the cells to tokens [N,T,width]; references are their own places, [N,T,levels,2]."""
        x, shapes, padding = cells.tokens, cells.shapes, cells.padding
        read = self.self_attn(x + cells.position, references, x, shapes, padding)
        x = self.norm1(x + self.dropout(read))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DeformableDecoderLayer(nn.Module):
    """Let queries talk, read a few points of all maps, then change each alone; post-norm."""

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, levels: int, points: int
    ) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(width, heads, dropout)
        self.cross_attn = DeformableAttention(width, heads, levels, points)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Tensor, position: Tensor, references: Tensor, cells: Cells
    ) -> Tensor:
        """Map queries [N,Q,width] to as many.

        Args:
            queries: [N,Q,width].
            position: Is added to them where it is decided who reads what, [N,Q,width].
            references: Points or boxes in shares of each map, [N,Q,levels,2 or 4].
            cells: What is read.
        """
        placed = queries + position
        x = self.norm1(queries + self.dropout(self.self_attn(placed, placed, queries)))
        read = self.cross_attn(x + position, references, cells.tokens, cells.shapes, cells.padding)
        x = self.norm2(x + self.dropout(read))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class DeformableDETR(nn.Module):
    """Map images to a set of boxes, by points on several maps.

    Args:
        backbone: Maps images to a list of maps, finest first.
        channels: Of these maps.
        num_classes: C; each has a sigmoid, and there is no "no object".
        width: Channels of the tokens.
        heads: Of every attention.
        encoder_layers: How many.
        decoder_layers: How many; each of them answers.
        hidden: Channels of the feed-forward parts.
        queries: How many; the most proposals, with ``two_stage``.
        levels: Number of maps; those beyond the backbone's halve the one before.
        points: That a head reads on each map.
        dropout: Of the layers.
        refine: Whether each decoder layer corrects the boxes of the one before, with a head of its
            own, instead of a point that never moves.
        two_stage: Whether the queries are the best cells of the encoder; needs ``refine``.
        groups: Of the norm of each projected map.
        mean: Of the channels of images, which are standardised first.
        std: The same.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        num_classes: int = 91,
        width: int = 256,
        heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        hidden: int = 1024,
        queries: int = 300,
        levels: int = 4,
        points: int = 4,
        dropout: float = 0.1,
        refine: bool = False,
        two_stage: bool = False,
        groups: int = 32,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        counts = {"num_classes": num_classes, "queries": queries, "number of maps": len(channels)}
        layers = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
        refuse_counts("DeformableDETR", counts | layers)
        if levels < len(channels) or (two_stage and not refine):
            raise ValueError(
                "DeformableDETR: expected at least as many levels as maps, and refine=True for "
                f"two_stage=True, got levels={levels}, {len(channels)} maps, refine={refine}, "
                f"two_stage={two_stage}"
            )
        self.num_classes, self.mean, self.std = num_classes, tuple(mean), tuple(std)
        self.refine, self.two_stage, self.proposed = refine, two_stage, queries
        self.backbone = backbone
        self.project = nn.ModuleList(_projections(channels, levels, width, groups))
        self.positions = SinePositions(width, offset=0.5)
        self.level = nn.Parameter(torch.randn(levels, width))
        settings = (width, heads, hidden, dropout, levels, points)
        self.encoder = nn.ModuleList(
            DeformableEncoderLayer(*settings) for _ in range(encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DeformableDecoderLayer(*settings) for _ in range(decoder_layers)
        )
        for part in (self.encoder, self.decoder):
            draw_feed_forward(part)
        if two_stage:
            self.first, self.first_norm = nn.Linear(width, width), nn.LayerNorm(width)
            self.placed, self.placed_norm = nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width)
        else:
            self.queries = nn.Parameter(torch.randn(queries, 2 * width))
            self.references = nn.Linear(width, 2)
            nn.init.xavier_uniform_(self.references.weight)
            nn.init.zeros_(self.references.bias)
        count = decoder_layers + two_stage if refine else 1  # one pair of heads, or one a layer
        self.classes, self.boxes = _heads(count, width, num_classes, two_stage)

    def forward(self, images: Tensor, padding: Tensor | None = None) -> SetEstimates:
        """Say a set of boxes for each image, once per layer of the decoder.

        Args:
            images: [N,3,H,W] in [0, 1]; smaller pictures stand at the top left.
            padding: Pixels that belong to no picture, True in [N,H,W]; none do, when None.
        """
        cells = self._encoded(self._cells(images, padding))
        first, position, queries, references = self._asked(cells)
        logits, boxes = [], []
        for index, layer in enumerate(self.decoder):
            ratios = cells.ratios.repeat(1, 1, references.shape[-1] // 2)
            queries = layer(queries, position, references[:, :, None] * ratios[:, None], cells)
            head = index if self.refine else 0
            corrected = corrected_boxes(self.boxes[head](queries), references)
            logits.append(self.classes[head](queries))
            boxes.append(corrected)
            if self.refine:  # the next layer is taught its own correction alone
                references = corrected.detach()
        sizes = picture_sizes(images, padding)
        return SetEstimates(torch.stack(logits), torch.stack(boxes), sizes, first)

    def _cells(self, images: Tensor, padding: Tensor | None) -> Cells:
        """Project the maps to one width, add coarser ones, and put all cells in one list."""
        maps = self.backbone(standardised(images, self.mean, self.std))
        features: list[Tensor] = []
        for index, project in enumerate(self.project):
            # The first map beyond the backbone's is made of its last, each other of the one before.
            beyond = index > len(maps)
            features.append(project(features[-1] if beyond else maps[min(index, len(maps) - 1)]))
        hidden = [shrunk(padding, one) for one in features]
        position = [
            self.positions(away, one.dtype).flatten(1, 2) + level
            for away, one, level in zip(hidden, features, self.level, strict=True)
        ]
        exact = torch.promote_types(features[0].dtype, torch.float32)
        inside = [(~away).to(exact) for away in hidden]
        ratios = [torch.stack([one[:, 0].mean(1), one[:, :, 0].mean(1)], -1) for one in inside]
        return Cells(
            torch.cat([one.flatten(2).mT for one in features], 1),
            torch.cat(position, 1),
            [(one.shape[2], one.shape[3]) for one in features],
            None if padding is None else torch.cat([away.flatten(1) for away in hidden], 1),
            torch.stack(ratios, 1),
        )

    def _encoded(self, cells: Cells) -> Cells:
        """Let every cell look around from where it is."""
        places = _centres(cells)[:, :, None] * cells.ratios[:, None]  # [N,T,levels,2]
        for layer in self.encoder:
            cells = cells._replace(tokens=layer(cells, places))
        return cells

    def _asked(self, cells: Cells) -> tuple[tuple[Tensor, Tensor] | None, Tensor, Tensor, Tensor]:
        """Return what the encoder says, and position, content and reference of each query."""
        if not self.two_stage:
            both = self.queries.expand(len(cells.tokens), -1, -1)
            position, content = both.chunk(2, -1)
            return None, position, content, self.references(position).sigmoid()
        tokens, proposals = self._proposals(cells)
        logits = self.classes[-1](tokens)
        coordinates = self.boxes[-1](tokens) + proposals
        best = logits[..., 0].topk(self.proposed, 1)[1]
        chosen = coordinates.gather(1, best[..., None].expand(-1, -1, 4)).detach()
        references = chosen.sigmoid()
        codes = sine_positions(references * 2 * math.pi, tokens.shape[-1] // 2).flatten(-2)
        position, content = self.placed_norm(self.placed(codes)).chunk(2, -1)
        return (logits, coordinates.sigmoid()), position, content, references

    def _proposals(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Return a token for each cell, and a box around it as the inverse of a sigmoid."""
        centres = _centres(cells)
        sides = torch.cat(
            [
                centres.new_full((h * w,), 0.05 * 2.0**level)
                for level, (h, w) in enumerate(cells.shapes)
            ]
        )
        boxes = torch.cat([centres, sides[None, :, None].expand(len(centres), -1, 2)], -1)
        outside = ~((boxes > 0.01) & (boxes < 0.99)).all(-1)
        if cells.padding is not None:
            outside = outside | cells.padding
        boxes = (boxes / (1 - boxes)).log().masked_fill(outside[..., None], torch.inf)
        tokens = cells.tokens.masked_fill(outside[..., None], 0)
        return self.first_norm(self.first(tokens)), boxes


def corrected_boxes(said: Tensor, references: Tensor, eps: float = 1e-5) -> Tensor:
    """Return boxes [...,4] in shares of the picture: what is said, added to the references.

    Both are added before the sigmoid, so that no number leaves [0, 1].

    Args:
        said: Corrections, [...,4].
        references: In [0, 1]: points, [...,2], which move the centre only; or boxes, [...,4].
        eps: References nearer to 0 or 1 are taken as this far from it.
    """
    start = references.logit(eps)
    if references.shape[-1] == 4:
        return (said + start).sigmoid()
    return torch.cat([said[..., :2] + start, said[..., 2:]], -1).sigmoid()


def _projections(
    channels: Sequence[int], levels: int, width: int, groups: int
) -> list[nn.Sequential]:
    """Build what brings each map to one width, and what halves the coarsest."""
    layers = [nn.Conv2d(count, width, 1) for count in channels]
    come = channels[-1]
    for _ in range(levels - len(channels)):
        layers.append(nn.Conv2d(come, width, 3, stride=2, padding=1))
        come = width
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return [nn.Sequential(layer, nn.GroupNorm(groups, width)) for layer in layers]


def _heads(
    count: int, width: int, num_classes: int, two_stage: bool
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Build pairs of heads that all begin alike: rare objects, and boxes at their references."""
    classes, boxes = nn.Linear(width, num_classes), box_head(width)
    nn.init.constant_(classes.bias, -math.log((1 - 0.01) / 0.01))
    last = boxes[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    pairs = (
        nn.ModuleList(copy.deepcopy(classes) for _ in range(count)),
        nn.ModuleList(copy.deepcopy(boxes) for _ in range(count)),
    )
    if not two_stage:  # a point says nothing of width and height: begin with an eighth
        with torch.no_grad():
            pairs[1][0][-1].bias[2:] = -2  # type: ignore[index]
    return pairs


def _centres(cells: Cells) -> Tensor:
    """Return the centre of each cell, x and y in shares of the picture, [N,T,2]."""
    places = []
    for level, (h, w) in enumerate(cells.shapes):
        like = cells.ratios
        y = (torch.arange(h, device=like.device, dtype=like.dtype) + 0.5) / h
        x = (torch.arange(w, device=like.device, dtype=like.dtype) + 0.5) / w
        grid = torch.stack([x.expand(h, -1), y[:, None].expand(-1, w)], -1).flatten(0, 1)
        places.append(grid / like[:, None, level])
    return torch.cat(places, 1)


def deformable_detr_resnet50(
    num_classes: int = 91, refine: bool = False, two_stage: bool = False, frozen_stages: int = 2
) -> DeformableDETR:
    """Build Deformable DETR on the last three stages of ResNet-50 with frozen batch norms.

    With 91 classes it has 40,069,665 parameters.

    Args:
        num_classes: C.
        refine: As of :class:`DeformableDETR`, and so is the next.
        two_stage: See there.
        frozen_stages: How many parts of the backbone never learn: 1 is the stem, 2 the first
            stage too.
    """
    backbone = ResNetMaps(freeze_norms(resnet50()), first=1)  # type: ignore[arg-type]
    for part in [backbone.stem, *backbone.stages][:frozen_stages]:
        part.requires_grad_(False)
    return DeformableDETR(
        backbone, backbone.channels, num_classes, refine=refine, two_stage=two_stage
    )
