"""Describe DETR to the sanity tests."""

import torch
from torchvision.ops import box_convert

from labs.criteria import DETRCriterion
from labs.models import DETR, ResNetMaps, SetEstimates, resnet18
from labs.postprocess import DETRPostprocess
from tests.criteria.version import CLASSES, Version

SURE = 20.0
KINDS = ("weight", "bias")
# The decoder begins with queries of zeros: what the first self-attention reads is the same whoever
# reads from whom, and so what decides that hears nothing, ever. What multiplies those zeros hears
# nothing before the biases have moved.
SILENT = (
    *(f"decoder.layers.0.self_attn.{part}.{kind}" for part in ("query", "key") for kind in KINDS),
    "decoder.layers.0.self_attn.value.weight",
    "decoder.layers.0.self_attn.out.weight",
    "decoder.layers.0.norm1.weight",
)


def network(norm_first=False):
    body = ResNetMaps(resnet18(width=8), first=3)
    return DETR(body, body.channels[-1], CLASSES, 24, 3, 2, 2, 32, 20, norm_first=norm_first)


def encode(targets, height, width):
    """Let one query say each object, and the others nothing; the first layer says nothing."""
    most = max(2, *(len(target["boxes"]) for target in targets))
    logits = torch.full((1, len(targets), most, CLASSES + 1), -SURE)
    logits[..., -1] = SURE
    boxes = torch.full((1, len(targets), most, 4), 0.5)
    scale = torch.tensor([width, height, width, height])
    for image, target in enumerate(targets):
        for query, (box, label) in enumerate(zip(target["boxes"], target["labels"], strict=True)):
            logits[0, image, query, -1], logits[0, image, query, label] = -SURE, SURE
            boxes[0, image, query] = box_convert(box, "xyxy", "cxcywh") / scale
    return SetEstimates(logits, boxes, torch.tensor([[height, width]]).expand(len(targets), 2))


def detr(norm_first=False):
    return Version(
        lambda: network(norm_first),
        DETRCriterion(CLASSES),
        DETRPostprocess(CLASSES),
        encode,
        silent=(*SILENT, "decoder.layers.0.norm2.weight") if norm_first else SILENT,
    )
