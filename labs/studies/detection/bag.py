"""Take one trick at a time out of a small YOLOv4: Mish, CIoU, label smoothing, mosaic."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import torch
from torch import nn

from labs.boxes import k_means, lay_onto_strides
from labs.criteria import YOLOv3Criterion
from labs.data.augment import Augmented, mosaic
from labs.data.scenes import Rendered, Scenes
from labs.detection import Detector
from labs.models import YOLOv4
from labs.postprocess import YOLOv3Postprocess
from labs.recipes.detectors import EPS, MOMENTUM, STRIDES
from labs.studies.detection.learning import drawn, judge_boxes, learn
from labs.studies.experiment import Experiment

SIDE = 128
TRICKS = ("nothing", "Mish", "CIoU", "smoothing", "mosaic")
"""What can be taken out. In its place: leaky ReLU, squared errors, targets 0 and 1, no mosaic."""


def train_without(out: str, scenes: int, steps: int, judged: int) -> Iterator[dict[str, float]]:
    """Train the detector without a trick; yield losses, then ``AP50``, ``AP75`` and ``AP``.

    Args:
        out: One of ``TRICKS``.
        scenes: To train on, of digits and of photographed things on photographs.
        steps: Of 16 scenes each.
        judged: Scenes of the validation split that are scored.

    Raises:
        ValueError: When ``out`` is no trick.
    """
    if out not in TRICKS:
        raise ValueError(f"bag: expected out to be one of {', '.join(TRICKS)}, got {out!r}")
    val = _val(judged)
    plain = drawn(lambda seed: Rendered(_scenes("train", scenes, seed)))
    detector = build(out, plain)
    train = plain if out == "mosaic" else half_mosaics(plain)
    yield from learn(detector, train, judge_boxes(val), val.images, steps)


def build(out: str, train: Rendered) -> Detector:
    """Build it with fresh weights, and six anchors from the sizes in the data."""
    sizes = torch.cat([t["boxes"][:, 2:] - t["boxes"][:, :2] for t in train.targets])  # [n,2]
    shapes = k_means(sizes.clamp(min=2).log(), 6).exp()
    anchors = lay_onto_strides(shapes, STRIDES).tolist()
    box, weight = ("squared", 1.0) if out == "CIoU" else ("ciou", 0.07)
    criterion = YOLOv3Criterion(
        anchors,
        STRIDES,
        box=box,
        box_weight=weight,
        ignore=0.7,
        smoothing=0.0 if out == "smoothing" else 0.1,
    )
    network = YOLOv4(
        len(train.classes),
        strides=STRIDES,
        depths=(1, 1, 1),
        width=0.25,
        stem_stride=2,
        activation=partial(nn.LeakyReLU, 0.1) if out == "Mish" else nn.Mish,
        eps=EPS,
        momentum=MOMENTUM,
    )
    return Detector(network, criterion, YOLOv3Postprocess(anchors, STRIDES))


def half_mosaics(train: Rendered) -> Rendered:
    """Return as many pictures, every second of them a mosaic of four."""
    mixed = Augmented(train, partial(mosaic, size=(SIDE, SIDE), scale=(0.75, 1.25)), partners=3)
    found = {index: mixed[index] for index in range(0, len(train), 2)}
    half = Rendered(train)
    for index, (picture, target) in found.items():
        half.images[index] = picture.mul(255).round().byte()
        half.targets[index] = {key: target[key] for key in ("boxes", "labels")}
    return half


@cache
def _val(judged: int) -> Rendered:
    return Rendered(_scenes("val", judged, 0))


def _scenes(split: str, n: int, seed: int) -> Scenes:
    return Scenes(split, n, seed, things=("digits", "photos"))


EXPERIMENT = Experiment(
    name="bag",
    question="What is each of four tricks of YOLOv4 worth to a small one?",
    run=train_without,
    base={"out": "nothing", "scenes": 3000, "steps": 1500, "judged": 300},
    vary="out",
    values=TRICKS,
    seeds=(0, 1, 2, 3, 4),
)
