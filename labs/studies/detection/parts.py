"""Take one part at a time out of a small YOLOv8: fine map, distribution loss, averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from labs.criteria import YOLOv8Criterion
from labs.data.scenes import Rendered, Scenes
from labs.detection import Detector
from labs.models import YOLOv8
from labs.postprocess import YOLOv8Postprocess
from labs.studies.detection.learning import RenderedWhenDrawn, drawn, judge_boxes, learn
from labs.studies.experiment import Experiment

SMALL = 20.0
"""Pixels: up to this longer side an object counts as small; a quarter of all are."""


def train_without(part: str, scenes: int, steps: int, judged: int) -> Iterator[dict[str, float]]:
    """Train without a part; yield losses, then ``AP50``, ``AP75``, ``AP``, ``APs`` (small objects).

    Args:
        part: ``"nothing"``, ``"fine map"`` (the level of stride 8), ``"distribution loss"`` or
            ``"average"`` (of the weights).
        scenes: To train on, of digits from 12 to 48 pixels.
        steps: Of 16 scenes each.
        judged: Scenes of the validation split that are scored.
    """
    strides = (16,) if part == "fine map" else (8, 16)
    val = _val(judged)
    train = drawn(lambda seed: RenderedWhenDrawn(_scenes("train", scenes, seed)))
    classes = len(val.classes)
    network = YOLOv8(classes, strides=strides, image_size=128)
    dfl = 0.0 if part == "distribution loss" else 1.5
    detector = Detector(
        network,
        YOLOv8Criterion(classes, strides, network.reg_max, dfl_weight=dfl),
        YOLOv8Postprocess(classes, strides, network.reg_max),
    )
    yield from learn(
        detector, train, judge_boxes(val, SMALL), val.images, steps, average=part != "average"
    )


@cache
def _val(judged: int) -> Rendered:
    return Rendered(_scenes("val", judged, 0))


def _scenes(split: str, n: int, seed: int) -> Scenes:
    return Scenes(split, n, seed, size=(12, 48), objects=(2, 5))


EXPERIMENT = Experiment(
    name="parts",
    question="What does each of three parts of a small YOLOv8 contribute?",
    run=train_without,
    base={"part": "nothing", "scenes": 6000, "steps": 1000, "judged": 300},
    vary="part",
    values=("nothing", "fine map", "distribution loss", "average"),
    seeds=(0, 1, 2),
    tolerance=0.01,  # as in levels: another order of sums moves the tenth step by a thousandth
)
