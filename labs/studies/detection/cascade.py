"""Let the heads of a small Cascade R-CNN share their maps, by the recipes of three programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, islice, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle
from torch.optim.lr_scheduler import OneCycleLR

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
    YOLOv8,
)
from labs.postprocess import CascadeRCNNPostprocess
from labs.recipes import trained
from labs.repro import device, random_state_kept
from labs.studies.detection.learning import drawn
from labs.studies.experiment import Experiment
from labs.train import fit

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


def train_recipe(recipe: str, scenes: int, steps: int, judged: int) -> Iterator[dict[str, float]]:
    """Train from fresh weights by gradient descent, and yield losses, then average precisions.

    Plain gradient descent with momentum, as all three programs use it: Adam would divide the weight
    of a loss out again.

    Args:
        recipe: How the three heads share the maps. ``"authors"``: the maps take 1, 1/2 and 1/4 of
            the heads' gradients, and each head learns whole: its loss counts so much, and its
            learning rate as much more. ``"mmdetection"``: the losses count 1, 1/2 and 1/4, with
            one learning rate for all. ``"detectron2"``: the maps take a third of each head's
            gradient, and each head learns whole.
        scenes: To train on, with one to three digits, all of one class.
        steps: Of 8 scenes each, more than 10.
        judged: Scenes of the validation split that are scored.
    """
    seen, val = judged_scenes(judged)
    train, order = drawn(lambda seed: (KeptWhenDrawn(scenes_of("train", scenes, seed)), seed))
    detector = detector_of(recipe)
    network = detector.network.to(device())
    assert isinstance(network, CascadeRCNN)
    descent = torch.optim.SGD(groups_of(network, recipe), RATE, momentum=0.9, weight_decay=1e-4)
    rates = [group["lr"] for group in descent.param_groups]
    cycle = OneCycleLR(descent, rates, total_steps=steps, pct_start=0.15, cycle_momentum=False)

    def clip(model: nn.Module, _: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)

    batches = train.batches(8, order)
    for start, end in pairwise((0, 1, 5, 10, steps)):
        part = list(islice(batches, end - start))
        history = fit(network, part, descent, 1, detector.loss, cycle, watch=clip)
        point = {"step": end, "loss": history.table()["loss"].mean()}
        if end == steps:
            point |= precisions(detector.detect(seen.pictures), val)
        yield point


RATE = 0.05
"""The highest learning rate of the study."""


def detector_of(recipe: str) -> Detector:
    """Build the detector with fresh weights, and with the losses of a recipe."""
    return build(WHOLE, shared=True) if recipe == "detectron2" else build()


def groups_of(network: CascadeRCNN, recipe: str) -> list[dict[str, Any]]:
    """Give each head a learning rate, behind all else; only the authors' recipe makes them differ.

    Returns:
        Groups of parameters, as optimisers take them.
    """
    heads = list(network.heads)
    within = {id(p) for head in heads for p in head.parameters()}
    rest = [p for p in network.parameters() if id(p) not in within]
    rates = [1 / stage.weight if recipe == "authors" else 1.0 for stage in CASCADE_STAGES]
    groups = [
        {"params": list(head.parameters()), "lr": rate * RATE}
        for head, rate in zip(heads, rates, strict=True)
    ]
    return [{"params": rest, "lr": RATE}, *groups]


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
    whole = coco_map(found, data.targets)
    scores = {f"AP{100 * iou:.0f}": whole.average_precision(iou=iou) for iou in IOUS}
    return {"AP": whole.AP, **scores}


def scenes_of(split: str, n: int, seed: int) -> Rendered:
    """Draw scenes of one to three digits that hide no part of each other, all of one class."""
    data = Rendered(Scenes(split, n, seed, size=(24, 56), objects=(1, 3), occlusion=0.0))
    for target in data.targets:
        target["labels"].zero_()
    data.classes = ("digit",)
    return data


def kept_maps(data: Rendered) -> Kept:
    """Run the shipped YOLOv8's backbone once over all scenes, and keep what it says.

    It is frozen in every training here, so that nothing is lost. The numbers of its maps are laid
    out as two channels of a picture: what takes pictures takes them.
    """
    return Kept(torch.cat([_laid(part) for part in data.images.split(50)]), data.targets)


@torch.no_grad()
def _laid(images: Tensor) -> Tensor:
    """Map images [N,3,H,W], uint8, to what :class:`Laid` takes apart again, [N,2,H,W]."""
    laid = [
        pixel_shuffle(pad(m, (0, 0, 0, 0, 0, stride**2 - m.shape[1])), stride)
        for m, stride in zip(_backbone()(images.float() / 255), STRIDES, strict=True)
    ]
    return torch.cat(laid, 1)


@cache
def _backbone() -> nn.Module:
    with random_state_kept():  # a run must not depend on whether it is the first of its process
        network = trained("yolo_v8").detector.network.eval()
    assert isinstance(network, YOLOv8)
    return network.backbone


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


class KeptWhenDrawn:
    """Keep what a backbone says of a scene when a batch first asks for it.

    So the first steps of a run are cheap.

    Args:
        data: The scenes.
    """

    def __init__(self, data: Rendered) -> None:
        self.data = data
        self._kept: dict[int, Tensor] = {}

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, list[Target]]]:
        """Yield batches without end, pass after pass, in an order that the seed decides."""
        for passes in count():
            order = np.random.default_rng([seed, passes]).permutation(len(self.data.targets))
            for start in range(0, len(order), size):
                rows = order[start : start + size].tolist()
                missing = [row for row in rows if row not in self._kept]
                if missing:
                    laid = _laid(self.data.images[missing])
                    self._kept.update(zip(missing, laid, strict=True))
                pictures = torch.stack([self._kept[row] for row in rows])
                yield pictures, [self.data.targets[row] for row in rows]


@cache
def judged_scenes(n: int) -> tuple[Kept, Rendered]:
    """Return the scenes on which all is judged, as the backbone sees them and as they are."""
    scenes = scenes_of("val", n, 1)
    return kept_maps(scenes), scenes


EXPERIMENT = Experiment(
    name="cascade",
    question="How should the heads of a Cascade R-CNN share their maps?",
    run=train_recipe,
    base={"recipe": "authors", "scenes": 600, "steps": 300, "judged": 150},
    vary="recipe",
    values=("authors", "mmdetection", "detectron2"),
    seeds=(0, 1, 2, 3),
    tolerance=0.01,  # as in levels: another order of sums moves the tenth step by a thousandth
)
