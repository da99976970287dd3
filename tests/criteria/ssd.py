"""Describe SSD to the sanity tests."""

import torch
from torch import nn

from labs.assigners import Bipartite
from labs.boxes import DefaultBoxes, Estimates
from labs.criteria import SSDCriterion
from labs.models import SSD
from labs.models.ssd import SSD_DELTAS
from labs.postprocess import SSDPostprocess
from tests.criteria.version import CLASSES, Version

# The scales reach from the smallest to the largest object of the tests.
BOXES = DefaultBoxes(scales=(0.1, 0.25, 0.5, 1.0), ratios=((2,), (2, 3), (2,)))
SURE = 20.0


class Maps(nn.Module):
    """Return maps of strides 8, 16 and 32."""

    channels = (8, 12, 16)

    def __init__(self):
        super().__init__()
        sizes = [(3, 8, 8), (8, 12, 2), (12, 16, 2)]
        self.layers = nn.ModuleList(nn.Conv2d(i, o, by + 1, by, padding=1) for i, o, by in sizes)

    def forward(self, images):
        maps = [images]
        for layer in self.layers:
            maps.append(layer(maps[-1]).relu())
        return maps[1:]


def encode(targets, height, width):
    """Let the default boxes that answer for an object say just where it is."""
    maps = [torch.zeros(1, 1, -(-height // by), -(-width // by)) for by in (8, 16, 32)]
    references = BOXES(maps, (height, width))
    deltas = torch.zeros(len(targets), len(references), 4)
    logits = torch.full((len(targets), len(references), CLASSES + 1), -SURE)
    logits[..., 0] = SURE
    for image, target in enumerate(targets):
        match = Bipartite()(target["boxes"], references)
        mine = match >= 0
        boxes = target["boxes"][match[mine]]
        deltas[image, mine] = SSD_DELTAS.encode(boxes, references[mine])
        logits[image, mine, 0] = -SURE
        logits[image, mine, target["labels"][match[mine]] + 1] = SURE
    return Estimates(deltas, logits, references, (height, width))


def ssd():
    return Version(
        lambda: SSD(Maps(), Maps.channels, BOXES, CLASSES),
        SSDCriterion(CLASSES),
        SSDPostprocess(CLASSES),
        encode,
    )
