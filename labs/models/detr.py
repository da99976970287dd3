"""DETR: read an image as tokens, and let a fixed number of queries answer with a set of boxes.

After Carion et al. 2020, "End-to-End Object Detection with Transformers",
https://arxiv.org/abs/2005.12872. No anchors, and nothing to suppress: each query says one object,
or that it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from labs.models.faster_rcnn import IMAGENET_MEAN, IMAGENET_STD
from labs.models.feature_pyramid import ResNetMaps
from labs.models.frozen_norm import freeze_norms
from labs.models.position import SinePositions
from labs.models.resnet import resnet50
from labs.models.settings import refuse_counts
from labs.models.transformer import (
    Activation,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    FeedForward,
)


class SetEstimates(NamedTuple):
    """Hold what each layer of a decoder says: a set of boxes for each image.

    Attributes:
        logits: Of the classes, [layers,N,Q,K]. In DETR K is C + 1, and the last is "no object".
        boxes_norm: Centre, width and height, in shares of the picture, [layers,N,Q,4].
        sizes: Height and width of each picture in pixels, without padding, [N,2].
        first: What an encoder says at each of its T cells, where it proposes the queries: logits
            [N,T,K] and boxes [N,T,4] as above.
    """

    logits: Tensor
    boxes_norm: Tensor
    sizes: Tensor
    first: tuple[Tensor, Tensor] | None = None


class DETR(nn.Module):
    """Map images to a set of boxes, by an encoder over the cells of one map and a decoder.

    Args:
        backbone: Maps images to a list of maps; the last is read.
        channels: Of that map.
        num_classes: C; the network has one more, "no object", the last.
        width: Channels of the tokens.
        heads: Of every attention.
        encoder_layers: How many.
        decoder_layers: How many; each of them answers.
        hidden: Channels of the feed-forward parts.
        queries: The most objects of an image.
        dropout: Of the layers.
        norm_first: As of :class:`labs.models.EncoderLayer`; the paper's is post-norm.
        mean: Of the channels of images, which are standardised first.
        std: The same.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int = 91,
        width: int = 256,
        heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        hidden: int = 2048,
        queries: int = 100,
        dropout: float = 0.1,
        norm_first: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        counts = {"channels": channels, "num_classes": num_classes, "queries": queries}
        layers = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
        refuse_counts("DETR", counts | layers)
        self.num_classes, self.mean, self.std = num_classes, tuple(mean), tuple(std)
        self.backbone = backbone
        self.project = nn.Conv2d(channels, width, 1)
        self.positions = SinePositions(width)
        relu: Activation = "relu"
        settings = (width, heads, hidden, dropout, relu, norm_first)
        last = nn.LayerNorm(width) if norm_first else None
        self.encoder = Encoder([EncoderLayer(*settings) for _ in range(encoder_layers)], last)
        self.decoder = Decoder(
            [DecoderLayer(*settings) for _ in range(decoder_layers)], nn.LayerNorm(width)
        )
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.classes = nn.Linear(width, num_classes + 1)
        self.boxes = box_head(width)
        for part in (self.encoder, self.decoder):
            draw_feed_forward(part)

    def forward(self, images: Tensor, padding: Tensor | None = None) -> SetEstimates:
        """Say a set of boxes for each image, once per layer of the decoder.

        Args:
            images: [N,3,H,W] in [0, 1]; smaller pictures stand at the top left.
            padding: Pixels that belong to no picture, True in [N,H,W]; none do, when None.
        """
        features = self.project(self.backbone(standardised(images, self.mean, self.std))[-1])
        hidden = shrunk(padding, features)
        place = self.positions(hidden, features.dtype).flatten(1, 2)
        away = None if padding is None else hidden.flatten(1)
        tokens = features.flatten(2).mT  # [N,T,width], row by row
        memory = self.encoder(tokens, place, padding=away)
        empty = torch.zeros_like(self.queries).expand(len(images), -1, -1)
        said = self.decoder(empty, memory, self.queries, place, padding=away)
        sizes = picture_sizes(images, padding)
        return SetEstimates(self.classes(said), self.boxes(said).sigmoid(), sizes)


def box_head(width: int) -> nn.Sequential:
    """Build three layers that turn a token [...,width] into four numbers."""
    return nn.Sequential(
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 4),
    )


def draw_feed_forward(part: nn.Module) -> None:
    """Draw the matrices of feed-forward parts and of what attention puts out as the authors do."""
    for one in part.modules():
        if isinstance(one, FeedForward):
            nn.init.xavier_uniform_(one.linear1.weight)
            nn.init.xavier_uniform_(one.linear2.weight)
        elif isinstance(getattr(one, "out", None), nn.Linear):
            nn.init.xavier_uniform_(one.out.weight)  # type: ignore[union-attr, arg-type]


def standardised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return images [N,C,H,W] in units of the standard deviation of each channel."""
    centre, scale = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    return (images - centre) / scale


def shrunk(padding: Tensor | None, features: Tensor) -> Tensor:
    """Return which cells of a map [N,C,h,w] are padding, [N,h,w]: as their first pixel is."""
    if padding is None:
        shape = (len(features), *features.shape[-2:])
        return torch.zeros(shape, dtype=torch.bool, device=features.device)
    return interpolate(padding[None].float(), features.shape[-2:])[0].bool()


def picture_sizes(images: Tensor, padding: Tensor | None) -> Tensor:
    """Return height and width of each picture in pixels, [N,2].

    Raises:
        ValueError: When the padding is not of bool or has another shape than the images.
    """
    n, _, h, w = images.shape
    if padding is None:
        return torch.tensor([[h, w]], device=images.device).expand(n, 2)
    if padding.dtype != torch.bool or padding.shape != (n, h, w):
        raise ValueError(
            f"DETR: expected padding of bool, [{n},{h},{w}] as the images, got {padding.dtype} "
            f"{list(padding.shape)}; it is True where there is no picture"
        )
    inside = ~padding
    return torch.stack([inside[:, :, 0].sum(1), inside[:, 0].sum(1)], 1)


def detr_resnet50(num_classes: int = 91, frozen_stages: int = 2) -> DETR:
    """Build DETR on ResNet-50 with frozen batch norms.

    With 91 classes it has 41,524,768 parameters, of which 41,302,368 learn.

    Args:
        num_classes: C, "no object" not counted; 91 for COCO, whose ids reach 90.
        frozen_stages: How many parts of the backbone never learn: 1 is the stem, 2 the first
            stage too.
    """
    backbone = ResNetMaps(freeze_norms(resnet50()), first=3)  # type: ignore[arg-type]
    for part in [backbone.stem, *backbone.stages][:frozen_stages]:
        part.requires_grad_(False)
    return DETR(backbone, backbone.channels[-1], num_classes)
