"""Teach one cell of an object, or many, or both in two heads: who needs suppression?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from labs.assigners import TaskAligned
from labs.criteria import YOLOv8Criterion
from labs.data.scenes import Rendered, Scenes
from labs.detection import Detector, Prediction, Target
from labs.metrics import coco_map
from labs.models import YOLOv8
from labs.postprocess import YOLOv8Postprocess
from labs.studies.detection.learning import RenderedWhenDrawn, drawn, learn
from labs.studies.experiment import Experiment

CLASSES, STRIDES, BINS = 10, (8, 16), 8
_SHOWN = dict.fromkeys("345689", 0.0)  # zeros, ones, twos and sevens are left


def train_heads(heads: str, scenes: int, steps: int, judged: int) -> Iterator[dict[str, float]]:
    """Train, and yield losses, then the scores of the head that answers, see :func:`judge_twice`.

    Args:
        heads: ``"many"`` cells of an object are taught, or ``"one"``, or ``"both"``: two heads on
            one trunk, of which the one-to-one head answers and the other one teaches the trunk.
        scenes: To train on.
        steps: Of 16 scenes each.
        judged: Scenes of the validation split that are scored.
    """
    val = _val(judged)
    train = drawn(lambda seed: RenderedWhenDrawn(_scenes("train", scenes, seed)))
    plain = YOLOv8(CLASSES, width=0.125, strides=STRIDES, reg_max=BINS, image_size=64)
    detector = detector_of(plain, heads)
    yield from learn(detector, train, lambda found: judge_twice(found, val), val.images, steps)


def detector_of(plain: YOLOv8, heads: str) -> Detector:
    """Put a network and its criterion together; what answers is never suppressed."""
    settings = plain.num_classes, plain.strides, plain.reg_max
    many, one = (YOLOv8Criterion(*settings, TaskAligned(topk=k)) for k in (10, 1))
    answers = YOLOv8Postprocess(*settings, iou_threshold=1.0, max_detections=300)
    if heads == "both":
        return Detector(TwoHeads(plain), Both(many, one), answers)
    return Detector(plain, many if heads == "many" else one, answers)


class TwoHeads(nn.Module):
    """Give a YOLOv8 a second head of the same form, with weights that start as the first's.

    In train mode it returns the maps of the one-to-one head and behind them those of the
    one-to-many head; in eval mode those of the one-to-one head alone. Gradients of the one-to-one
    head stop in front of the trunk.

    Args:
        plain: The network whose own head becomes the one-to-many head.
    """

    def __init__(self, plain: YOLOv8) -> None:
        super().__init__()
        self.plain = plain
        self.one = copy.deepcopy(plain.head)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images [N,3,H,W] to logits, level by level, head by head."""
        maps = self.plain.neck(self.plain.backbone(images))
        one = self.one([x.detach() for x in maps])
        return (*one, *self.plain.head(maps)) if self.training else one


@dataclass(frozen=True)
class Both:
    """Sum the losses of two heads, each with an assigner of its own.

    Attributes:
        many: Judges the one-to-many head, the second half of the maps.
        one: Judges the one-to-one head.
    """

    many: YOLOv8Criterion
    one: YOLOv8Criterion

    def __call__(self, raw: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the terms of the two, each under its name and its head."""
        half = len(raw) // 2
        terms = {f"one {k}": v for k, v in self.one(raw[:half], targets).items()}
        return terms | {f"many {k}": v for k, v in self.many(raw[half:], targets).items()}


def judge_twice(found: Sequence[Prediction], data: Rendered) -> Mapping[str, float]:
    """Score predictions as they are, and after suppression.

    Returns:
        ``AP``, ``AP50``, and ``AP with NMS``, ``AP50 with NMS``; the ``gain of NMS``, the
        difference in AP; and ``boxes per object``: how many boxes an object has without
        suppression, above the score at which suppression leaves one box per object of the data.
    """
    kept = [suppressed(one) for one in found]
    plain = coco_map(found, data.targets, data.classes)
    clean = coco_map(kept, data.targets, data.classes)
    return {
        "AP": plain.AP,
        "AP50": plain.AP50,
        "AP with NMS": clean.AP,
        "AP50 with NMS": clean.AP50,
        "gain of NMS": clean.AP - plain.AP,
        "boxes per object": boxes_per_object(found, kept, data.targets),
    }


def suppressed(found: Prediction, iou: float = 0.6) -> Prediction:
    """Keep of the boxes of one class that overlap by more than ``iou`` the best one."""
    keep = batched_nms(found["boxes"], found["scores"], found["labels"], iou)
    return {key: found[key][keep] for key in ("boxes", "scores", "labels")}


def boxes_per_object(
    found: Sequence[Prediction], kept: Sequence[Prediction], targets: Sequence[Target]
) -> float:
    """Count what is found per object, above the score at which ``kept`` has one box per object."""
    objects = sum(len(target["boxes"]) for target in targets)
    scores = torch.cat([one["scores"] for one in kept]).sort(descending=True).values
    least = scores[min(objects, len(scores)) - 1]
    return sum(int((one["scores"] >= least).sum()) for one in found) / objects


@cache
def _val(judged: int) -> Rendered:
    return Rendered(_scenes("val", judged, 0))


def _scenes(split: str, n: int, seed: int) -> Scenes:
    size = {"canvas": (64, 64), "size": (18, 36)}
    return Scenes(split, n, seed, objects=(2, 3), weights=_SHOWN, **size)


EXPERIMENT = Experiment(
    name="one_to_one",
    question="Does a head that learns one cell of an object need suppression, and who trains it?",
    run=train_heads,
    base={"heads": "both", "scenes": 800, "steps": 500, "judged": 200},
    vary="heads",
    values=("both", "one", "many"),
    seeds=(0, 1, 2),
    tolerance=0.01,  # as in levels: another order of sums moves the tenth step by a thousandth
)
