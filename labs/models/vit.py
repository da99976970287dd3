"""ViT: an image is a row of words (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929).

The image is cut into patches, each patch becomes a token, a class token is put in front, every
token is told its place, and a pre-norm encoder does the rest.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from labs.models.position import SinePositions, resize_positions
from labs.models.settings import refuse_counts
from labs.models.transformer import Encoder, EncoderLayer

Pool = Literal["class", "mean"]
Positions = Literal["learnt", "sine", "none"]


class ViT(nn.Module):
    """Classify an image by a transformer over its patches.

    Args:
        image_size: Height and width in pixels of the images that it is built for; a square of one
            number. Other sizes are taken too: the codes of places are interpolated then.
        patch_size: Side of a patch in pixels; it divides height and width.
        width: Channels of a token.
        depth: Layers of the encoder.
        heads: Of each layer.
        hidden: Channels of each feed-forward part.
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.
        dropout: Of the tokens at the start and of every layer.
        pool: What is classified: the ``"class"`` token, or the ``"mean"`` of all others, and then
            there is no class token.
        positions: ``"learnt"``; ``"sine"``: fixed waves of row and column; ``"none"``: the network
            sees a set of patches.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        pool: Pool = "class",
        positions: Positions = "learnt",
    ) -> None:
        super().__init__()
        refuse_counts(
            "ViT",
            {"patch_size": patch_size, "width": width, "depth": depth, "heads": heads}
            | {"hidden": hidden, "num_classes": num_classes, "in_channels": in_channels},
        )
        if pool not in ("class", "mean") or positions not in ("learnt", "sine", "none"):
            raise ValueError(
                "ViT: expected pool 'class' or 'mean' and positions 'learnt', 'sine' or 'none', "
                f"got pool={pool!r}, positions={positions!r}"
            )
        self.patch_size, self.pool = patch_size, pool
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.grid = self._grid(*size)
        # A convolution that steps from patch to patch is a linear layer of each patch.
        self.patches = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.extra = 1 if pool == "class" else 0
        self.class_token = nn.Parameter(torch.zeros(1, self.extra, width))
        self._place(positions, width)
        self.dropout = nn.Dropout(dropout)
        layers = [
            EncoderLayer(width, heads, hidden, dropout, "gelu", norm_first=True, eps=1e-6)
            for _ in range(depth)
        ]
        self.encoder = Encoder(layers, nn.LayerNorm(width, eps=1e-6))
        self.head = nn.Linear(width, num_classes)
        self._init_weights()

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N,in_channels,H,W] to logits [N,num_classes]."""
        tokens = self.encoder(self.tokens(images))
        # The mean is taken of what is normalised: the two steps may not change places.
        return self.head(tokens[:, 0] if self.pool == "class" else tokens.mean(1))

    def tokens(self, images: Tensor) -> Tensor:
        """Return the row of words that the encoder reads, [N,extra+rows*columns,width].

        Raises:
            ValueError: When patches do not fill the image.
        """
        grid = self._grid(*images.shape[-2:])
        patches = self.patches(images).flatten(2).transpose(1, 2)  # [N,T,width], row by row
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1)
        if self.positions is not None:  # of the class token too
            tokens = tokens + resize_positions(self.positions[0], self.grid, grid, self.extra)
        return self.dropout(tokens)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns of patches an image has."""
        side = self.patch_size
        if height % side or width % side or not height or not width:
            raise ValueError(
                f"ViT: expected height and width that patches of {side} pixels fill, got "
                f"{height}x{width}; resize or pad the images"
            )
        return height // side, width // side

    def _place(self, kind: Positions, width: int) -> None:
        """Make the codes of places: learnt, fixed, or none."""
        rows, columns = self.grid
        if kind == "learnt":
            codes = torch.empty(1, self.extra + rows * columns, width)
            self.positions = nn.Parameter(nn.init.normal_(codes, std=0.02))
            return
        table = None
        if kind == "sine":
            codes = SinePositions(width)(torch.zeros(1, rows, columns, dtype=torch.bool))
            table = pad(codes.flatten(1, 2), (0, 0, self.extra, 0))  # none for the class token
        self.register_buffer("positions", table, persistent=False)

    def _init_weights(self) -> None:
        """Draw as the authors' program does: small normal codes, and a head that says nothing."""
        fan_in = self.patches.weight[0].numel()
        nn.init.trunc_normal_(self.patches.weight, std=fan_in**-0.5)
        assert self.patches.bias is not None
        nn.init.zeros_(self.patches.bias)
        for layer in self.encoder.layers:
            for linear in (layer.feed_forward.linear1, layer.feed_forward.linear2):  # type: ignore[union-attr]
                nn.init.xavier_uniform_(linear.weight)  # type: ignore[union-attr, arg-type]
                nn.init.normal_(linear.bias, std=1e-6)  # type: ignore[union-attr, arg-type]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


def vit_b_16(num_classes: int = 1000, image_size: int | tuple[int, int] = 224) -> ViT:
    """Build ViT-B/16: 86,567,656 parameters with 1,000 classes at 224 pixels."""
    return ViT(image_size, 16, 768, 12, 12, 3072, num_classes)
