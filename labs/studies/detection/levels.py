"""Predict on one map, on two, on three: which sizes does a small YOLOv3 find?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch

from labs.boxes import k_means, lay_onto_strides
from labs.criteria import YOLOv3Criterion
from labs.data.scenes import Rendered, Scenes
from labs.detection import Detector, Prediction
from labs.metrics import coco_map
from labs.models import YOLOv3
from labs.postprocess import YOLOv3Postprocess
from labs.studies.detection.learning import drawn, learn, longer
from labs.studies.experiment import Experiment

BINS = {"8-16 px": (0, 16), "17-32 px": (16, 32), "33-64 px": (32, 128)}
"""Of the longer side of an object, in pixels: above the first number, up to the second."""


def train_on(
    strides: tuple[int, ...], scenes: int, steps: int, judged: int
) -> Iterator[dict[str, float]]:
    """Train with maps of these strides, and yield losses, then ``AP50`` and recall by size.

    Args:
        strides: Of the maps that predict, finest first. Six anchors are shared out among them, and
            the backbone ends at the last.
        scenes: To train on: digits of one class, 8 to 64 pixels large.
        steps: Of 16 scenes each.
        judged: Scenes of the validation split that are scored.
    """
    train = drawn(lambda seed: scenes_of("train", scenes, seed))
    val = _val(judged)
    detector = build(strides, train)
    yield from learn(detector, train, lambda found: by_size(found, val), val.images, steps)


def build(strides: Sequence[int], train: Rendered) -> Detector:
    """Build the detector with fresh weights, and six anchors from the sizes in the data."""
    sizes = torch.cat([t["boxes"][:, 2:] - t["boxes"][:, :2] for t in train.targets])  # [n,2]
    # Of logarithms: what counts is a ratio. A stroke may be one pixel wide, and log(1) is no size.
    shapes = k_means(sizes.clamp(min=2).log(), 6).exp()
    anchors = lay_onto_strides(shapes, strides).tolist()
    halvings = strides[-1].bit_length() - 2  # after a stem of stride 2
    network = YOLOv3(
        1,
        anchors=len(anchors[0]),
        strides=strides,
        depths=(1,) * halvings,
        width=0.1875,
        stem_stride=2,
        eps=1e-3,
        momentum=0.03,  # statistics that follow within the length of such a training
    )
    return Detector(network, YOLOv3Criterion(anchors, strides), YOLOv3Postprocess(anchors, strides))


def by_size(found: list[Prediction], data: Rendered) -> dict[str, float]:
    """Return ``AP50``, and the share of the objects of each size that the ten best boxes find."""
    scores = {"AP50": coco_map(found, data.targets, ious=[0.5]).AP}
    for name, (low, high) in BINS.items():
        sides = [longer(t["boxes"]) for t in data.targets]
        others = [
            {**t, "ignore": (side <= low) | (side > high)}
            for t, side in zip(data.targets, sides, strict=True)
        ]
        seen = coco_map(found, others, ious=[0.5], max_detections=[10])
        scores[name] = seen.average_recall()
    return scores


def scenes_of(split: str, n: int, seed: int) -> Rendered:
    """Draw scenes of three to six digits, all of one class."""
    data = Rendered(Scenes(split, n, seed, size=(8, 64), objects=(3, 6), occlusion=0.0))
    for target in data.targets:
        target["labels"] = torch.zeros_like(target["labels"])
    data.classes = ("digit",)
    return data


@cache
def _val(judged: int) -> Rendered:
    return scenes_of("val", judged, 0)


EXPERIMENT = Experiment(
    name="levels",
    question="Which sizes of digits does a small YOLOv3 find with one, two and three maps?",
    run=train_on,
    base={"strides": (8, 16, 32), "scenes": 1500, "steps": 500, "judged": 200},
    vary="strides",
    values=((32,), (16,), (16, 32), (8, 16, 32)),
    seeds=(0, 1, 2, 3),
    tolerance=0.01,  # two threads alone move the tenth step by a thousandth
)
