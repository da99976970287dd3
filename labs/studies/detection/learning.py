"""Train a small detector step by step, and say how it does along the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice, pairwise, repeat
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from labs.data.scenes import Rendered
from labs.data.scenes.coco import Labelled
from labs.detection import Detector, Prediction, Target
from labs.metrics import coco_map
from labs.repro import device
from labs.train import fit

Judge = Callable[[list[Prediction]], Mapping[str, float]]
T = TypeVar("T")
_Batch = tuple[Tensor, Sequence[Target]]
_Tensors = tuple[Tensor, ...] | list[Tensor]
_FIRST = (1, 5, 10)
"""Steps whose loss is recorded, so that a lesson can make them again."""


def learn(
    detector: Detector,
    train: Source,
    judge: Judge,
    pictures: Tensor,
    steps: int,
    scored: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    batch: int = 16,
    rate: float = 5e-3,
    average: bool = False,
) -> Iterator[dict[str, float]]:
    """Train in place, and yield ``step`` and ``loss`` at first, scores of the judge later.

    Adam with decoupled weight decay, one cycle of the learning rate, gradients cut at a norm of 10.

    Args:
        detector: With fresh weights.
        train: Gone through in an order that the global random state decides.
        judge: From the predictions for ``pictures`` to scores.
        pictures: [N,3,H,W], uint8, not trained on.
        steps: How many in all, more than 10.
        scored: At which parts of the training to score, the last 1.
        batch: Images per step.
        rate: The highest learning rate.
        average: Score a moving average of the weights instead of the weights.
    """
    network = detector.network.to(device()).to(memory_format=torch.channels_last)
    adam = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    cycle = OneCycleLR(adam, rate, total_steps=steps, pct_start=0.15)
    averaged = AveragedModel(network, multi_avg_fn=_warming, use_buffers=True) if average else None

    def watch(model: nn.Module, _: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        if averaged is not None:
            averaged.update_parameters(model)

    endless = chain.from_iterable(repeat(train.batches(batch, _drawn_seed())))
    stops = [round(part * steps) for part in scored]
    for start, end in pairwise((0, *_FIRST, *stops)):
        part = list(islice(endless, end - start))
        history = fit(network, part, adam, 1, detector.loss, cycle, watch=watch)
        point = {"step": end, "loss": history.table()["loss"].mean()}
        if end in stops:
            best = network if averaged is None else averaged.module
            point |= judge(_found(detector, best, pictures))
        yield point


class Source(Protocol):
    """Give batches of pictures and truths, as :class:`labs.data.scenes.Rendered` does."""

    def batches(self, size: int, seed: int) -> Iterable[_Batch]:
        """Return batches in an order that the seed decides."""


class RenderedWhenDrawn:
    """Render a scene when a batch first asks for it, so that the first steps of a run are cheap.

    Args:
        scenes: What to render; single pictures.
    """

    def __init__(self, scenes: Labelled) -> None:
        self.scenes = scenes
        self._kept: dict[int, tuple[Tensor, Target]] = {}

    def batches(self, size: int, seed: int) -> Iterator[_Batch]:
        """Yield what ``Rendered(scenes).batches(size, seed)`` gives, pass after pass, without end.

        Args:
            size: Pictures in a batch; the last one of a pass may have fewer.
            seed: An integer >= 0.
        """
        for passes in count():
            order = np.random.default_rng([seed, passes]).permutation(len(self.scenes)).tolist()
            for start in range(0, len(order), size):
                drawn = [self._one(row) for row in order[start : start + size]]
                images = torch.stack([image for image, _ in drawn])
                yield images.float().div_(255), [dict(target) for _, target in drawn]

    def _one(self, row: int) -> tuple[Tensor, Target]:
        if row not in self._kept:
            image, target = self.scenes[row]
            truth = {key: target[key].clone() for key in ("boxes", "labels")}
            self._kept[row] = image.mul(255).round_().byte(), truth
        return self._kept[row]


def drawn(make: Callable[[int], T]) -> T:
    """Make a data set from a seed of the global random state: another one for every seed."""
    return make(_drawn_seed())


def judge_boxes(data: Rendered, small: float = 0.0) -> Judge:
    """Return a judge of boxes: ``AP50``, ``AP75``, ``AP``, and ``APs`` of small objects.

    Args:
        data: Pictures and truths.
        small: Objects whose longer side is at most so many pixels are small; 0: no ``APs``.
    """

    def judge(found: list[Prediction]) -> dict[str, float]:
        whole = coco_map(found, data.targets, data.classes)
        scores = {"AP50": whole.AP50, "AP75": whole.AP75, "AP": whole.AP}
        if small:
            others = [{**t, "ignore": longer(t["boxes"]) > small} for t in data.targets]
            scores["APs"] = coco_map(found, others, data.classes).AP
        return scores

    return judge


def longer(boxes: Tensor) -> Tensor:
    """Return the longer side of boxes [n,4], xyxy: [n]."""
    return (boxes[:, 2:] - boxes[:, :2]).amax(1)


def _warming(averaged: _Tensors, current: _Tensors, updates: Tensor | int) -> None:
    """Average over a tenth of the steps so far, up to the last 500."""
    decay = min(0.998, (1 + int(updates)) / (10 + int(updates)))
    get_ema_multi_avg_fn(decay)(averaged, current, updates)


def _found(detector: Detector, network: nn.Module, pictures: Tensor) -> list[Prediction]:
    best = Detector(network, detector.criterion, detector.postprocess)
    found: list[Prediction] = []
    for part in pictures.split(64):
        found += best.detect(part.float().div_(255))
    return found


def _drawn_seed() -> int:
    return int(torch.randint(2**31, ()))
