"""Start from weights that know digits, or from nothing: for how long does it show on trees?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from labs.data import AerialTrees, aerial_trees
from labs.data.augment import Augmented, letterboxed
from labs.data.augment.window import Example
from labs.data.scenes import collate
from labs.detection import Detector, Prediction, Target
from labs.metrics import coco_map
from labs.recipes import DETECTORS, carry_over
from labs.studies.detection.learning import drawn, learn
from labs.studies.experiment import Experiment

DETECTOR, SIZE, TILE, HELD_OUT = "yolo_v8", 128, 259, 4
"""Tiles of 259 pixels cover the photograph with the least overlap, at most 12 pixels."""


def compare_starts(start: str, tiles: int, lengths: tuple[int, ...]) -> Iterator[dict[str, float]]:
    """Train once for every length, each time anew, and yield losses, then scores.

    Scores are ``AP50 after N`` steps on tiles of the same photograph that were held out, and
    ``elsewhere after N`` on two photographs of other forests.

    Args:
        start: ``"digits"``, the shipped weights, or ``"nothing"``, random ones.
        tiles: To learn from, drawn anew for every seed, as are the four that are held out.
        lengths: In steps of 4 tiles; each is one whole cycle of the learning rate.
    """
    whole, judged = _tiles("train"), [*_tiles("val"), *_tiles("test")]
    order = drawn(lambda seed: np.random.default_rng(seed).permutation(len(whole)).tolist())
    near = [whole[k] for k in order[:HELD_OUT]]
    train = Mirrored(Few([whole[k] for k in order[HELD_OUT : HELD_OUT + tiles]]))
    pictures = torch.stack([image for image, _ in [*near, *judged]]).mul(255).round().byte()
    scores: dict[str, float] = {}
    before = 0

    def judge(found: list[Prediction]) -> dict[str, float]:
        parts = {"AP50": (found[:HELD_OUT], near), "elsewhere": (found[HELD_OUT:], judged)}
        return {name: _ap50(some, [truth for _, truth in ex]) for name, (some, ex) in parts.items()}

    for steps in lengths:
        made = learn(begin(start), train, judge, pictures, steps, (1.0,), batch=4, rate=4e-3)
        for point in made:
            if "AP50" in point:
                scores |= {f"{name} after {steps}": point[name] for name in ("AP50", "elsewhere")}
            now = {"step": before + point["step"], "loss": point["loss"]}
            yield now | (scores if steps == lengths[-1] and "AP50" in point else {})
        before += steps


def begin(start: str) -> Detector:
    """Build the detector for one class, with the weights of the digits or without."""
    detector = DETECTORS[DETECTOR](num_classes=1)
    if start == "digits":
        carry_over(detector, DETECTOR, {"num_classes": 1}, AerialTrees.classes, DETECTOR)
    return detector


class Few:
    """Serve some examples as a data set of trees."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.classes, self.split = AerialTrees.classes, "train"

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


class Mirrored:
    """Give batches of pictures, each of them mirrored or turned by chance: from above, none is up.

    Args:
        data: Square pictures.
    """

    def __init__(self, data: Few) -> None:
        self.data = data

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, list[Target]]]:
        """Yield batches without end, in an order and with turns that the seed decides."""
        varied = Augmented(self.data, mirror, seed=seed)
        rng = np.random.default_rng(seed)
        for passes in range(2**31):
            varied.set_epoch(passes)
            order = rng.permutation(len(self.data)).tolist()
            for at in range(0, len(order), size):
                yield collate([varied[k] for k in order[at : at + size]])


def mirror(examples: Sequence[Example], generator: np.random.Generator) -> Example:
    """Return one of the eight views of a square picture from above, with its boxes."""
    image, target = examples[0]
    side, boxes = image.shape[1], target["boxes"]
    if generator.random() < 0.5:
        image, boxes = image.flip(2), _swapped(boxes, side, 0)
    if generator.random() < 0.5:
        image, boxes = image.flip(1), _swapped(boxes, side, 1)
    if generator.random() < 0.5:
        image, boxes = image.transpose(1, 2), boxes[:, [1, 0, 3, 2]]
    return image, {**target, "boxes": boxes}


def _swapped(boxes: Tensor, side: int, axis: int) -> Tensor:
    turned = boxes.clone()
    turned[:, axis], turned[:, axis + 2] = side - boxes[:, axis + 2], side - boxes[:, axis]
    return turned


def _ap50(found: Sequence[Prediction], truths: Sequence[Target]) -> float:
    return coco_map(found, truths, AerialTrees.classes).AP50


@cache
def _tiles(split: str) -> list[Example]:
    fitted = letterboxed(aerial_trees(split, TILE), (SIZE, SIZE))
    return [fitted[k] for k in range(len(fitted))]


EXPERIMENT = Experiment(
    name="transfer",
    question="For how long do weights that learnt digits help a detector of trees?",
    run=compare_starts,
    base={"start": "nothing", "tiles": 16, "lengths": (60, 120, 360)},
    vary="start",
    values=("nothing", "digits"),
    seeds=(0, 1, 2, 3),
    tolerance=0.02,  # another order of sums moves the tenth step by a thousandth and more
)
