"""Share the maps of a small Cascade R-CNN among its heads: by weights, or by their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from labs.assigners import BalancedSampling
from labs.boxes import AnchorGrid
from labs.criteria import CascadeRCNNCriterion
from labs.criteria.cascade_rcnn import CASCADE_STAGES, CascadeStage
from labs.data.scenes import Rendered, Scenes
from labs.detection import Detector, Prediction, Target
from labs.metrics import coco_map
from labs.models import (
    CascadeRCNN,
    FeaturePyramid,
    RegionProposals,
    RoIFeatures,
    RoIHead,
    TwoLayers,
)
from labs.postprocess import CascadeRCNNPostprocess
from labs.recipes import trained
from labs.studies.detection.learning import drawn, learn
from labs.studies.experiment import Experiment

SIZE = 128
"""Height and width of the scenes."""
CHANNELS, STRIDES = (64, 128), (8, 16)
"""Of the maps of the shipped YOLOv8's backbone."""
WIDTH, HIDDEN = 24, 48
"""Channels of every map of the pyramid, and of the layers that judge a region."""
IOUS = (0.5, 0.75, 0.9)
"""At which the average precision is recorded."""
_ANCHORS = AnchorGrid(((32,), (48,), (64,)))
WHOLE = tuple(CascadeStage(stage.iou, stage.deltas, 1.0) for stage in CASCADE_STAGES)
"""The stages of the paper, each with all of its loss."""


def train_sharing(sharing: str, scenes: int, steps: int, judged: int) -> Iterator[dict[str, float]]:
    """Train from fresh weights, and yield losses, then average precisions.

    Args:
        sharing: ``"weights"`` counts the heads' losses by 1, 1/2 and 1/4, as the paper and
            MMDetection do; ``"gradients"`` counts them whole and divides what they send into the
            maps by three, as detectron2 does.
        scenes: To train on, with one or two digits, all of one class.
        steps: Of 8 scenes each.
        judged: Scenes of the validation split that are scored.
    """
    seen, val = _val(judged)
    train = drawn(lambda seed: kept_maps(scenes_of("train", scenes, seed)))
    detector = build(WHOLE, shared=True) if sharing == "gradients" else build()

    def judge(found: list[Prediction]) -> dict[str, float]:
        return precisions(found, val)

    pictures = seen.pictures * 255  # as ``learn`` expects them
    yield from learn(detector, train, judge, pictures, steps, (0.5, 1.0), 8, average=True)


class Laid(nn.Module):
    """Take the maps of a backbone out of the picture as which :func:`kept_maps` keeps them."""

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Map pictures [N,2,H,W] to maps [N,64,H/8,W/8] and [N,128,H/16,W/16]."""
        pairs = zip(CHANNELS, STRIDES, strict=True)
        return [
            pixel_unshuffle(pictures[:, [row]], stride)[:, :channels]
            for row, (channels, stride) in enumerate(pairs)
        ]


def build(stages: Sequence[CascadeStage] = CASCADE_STAGES, shared: bool = False) -> Detector:
    """Build a small Cascade R-CNN with fresh weights, for one class, on maps that are kept.

    Args:
        stages: How each head learns; there are as many.
        shared: As of the network.
    """
    network = CascadeRCNN(
        nn.Sequential(Laid(), FeaturePyramid(CHANNELS, WIDTH)),
        RegionProposals(WIDTH, _ANCHORS, before=(100, 60), after=(40, 30)),
        RoIFeatures(STRIDES),
        [new_head() for _ in stages],
        1,
        (0.0, 0.0),
        (1.0, 1.0),
        shared,
    )
    criterion = CascadeRCNNCriterion(
        1,
        sample_anchors=BalancedSampling(64, 0.5),
        sample_proposals=BalancedSampling(32, 0.25),
        stages=tuple(stages),
    )
    deltas = [stage.deltas for stage in stages]
    return Detector(network, criterion, CascadeRCNNPostprocess(1, deltas))


def new_head() -> RoIHead:
    """Build a head with fresh weights, for maps of :data:`WIDTH` channels."""
    return RoIHead(TwoLayers(WIDTH, hidden=HIDDEN), HIDDEN, 1, each_class=False)


def precisions(found: list[Prediction], data: Rendered) -> dict[str, float]:
    """Return ``AP``, and the average precision at each of :data:`IOUS`, such as ``AP90``."""
    scores = {"AP": coco_map(found, data.targets).AP}
    for iou in IOUS:
        scores[f"AP{100 * iou:.0f}"] = coco_map(found, data.targets, ious=[iou]).AP
    return scores


def scenes_of(split: str, n: int, seed: int) -> Rendered:
    """Draw scenes of one to three digits that hide no part of each other, all of one class."""
    data = Rendered(Scenes(split, n, seed, size=(24, 56), objects=(1, 3), occlusion=0.0))
    for target in data.targets:
        target["labels"].zero_()
    data.classes = ("digit",)
    return data


@torch.no_grad()
def kept_maps(data: Rendered) -> Kept:
    """Run the shipped YOLOv8's backbone once over all scenes, and keep what it says.

    It is frozen in every training here, so that nothing is lost. The numbers of its maps are laid
    out as two channels of a picture: what takes pictures takes them.
    """
    backbone = trained("yolo_v8").detector.network.eval().backbone
    pictures = []
    for part in data.images.split(50):
        maps = backbone(part.float() / 255)
        laid = [
            pixel_shuffle(pad(m, (0, 0, 0, 0, 0, stride**2 - m.shape[1])), stride)
            for m, stride in zip(maps, STRIDES, strict=True)
        ]
        pictures.append(torch.cat(laid, 1))
    return Kept(torch.cat(pictures), data.targets)


@dataclass(frozen=True)
class Kept:
    """Hold scenes as a backbone sees them.

    Attributes:
        pictures: The maps, laid out, [N,2,H,W].
        targets: One per scene.
    """

    pictures: Tensor
    targets: Sequence[Target]

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, list[Target]]]:
        """Yield one pass through the scenes in an order that the seed decides."""
        order = np.random.default_rng(seed).permutation(len(self.targets))
        for start in range(0, len(order), size):
            rows = order[start : start + size].tolist()
            yield self.pictures[rows], [self.targets[row] for row in rows]


@cache
def _val(judged: int) -> tuple[Kept, Rendered]:
    scenes = scenes_of("val", judged, 0)
    return kept_maps(scenes), scenes


EXPERIMENT = Experiment(
    name="cascade",
    question="Do a Cascade R-CNN's heads share its maps better by weights or by gradients?",
    run=train_sharing,
    base={"sharing": "weights", "scenes": 1000, "steps": 300, "judged": 200},
    vary="sharing",
    values=("weights", "gradients"),
    seeds=(0, 1, 2),
    tolerance=0.01,  # as in levels: another order of sums moves the tenth step by a thousandth
)
