"""Turn a detector and endless scenes into a task for the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from labs.data.scenes import Rendered, Scenes, collate
from labs.ddp import Place, shard
from labs.ddp_train import Task
from labs.detection import Detector, Prediction
from labs.metrics import coco_map

_ENDLESS = 2**40  # scenes are drawn when they are asked for
TEST: Mapping[str, Any] = {"split": "test", "n": 500, "seed": 0}
"""The scenes that decide what is claimed about a checkpoint."""
VAL: Mapping[str, Any] = {"split": "val", "n": 200, "seed": 0}
"""The scenes that each epoch is scored on."""
DIGITS: Mapping[str, Any] = {"things": "digits", "one_class": False}
"""What scenes hold when nothing else is asked for."""
THING = "thing"
"""What everything is called where there is one class."""
_BATCH = 64  # images that are judged at a time


class _OneClass:
    """Call all objects of scenes the same."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes, self.split = scenes, scenes.split
        self.classes: tuple[str, ...] = (THING,)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, truth = self.scenes[index]
        assert isinstance(truth, dict)  # single pictures
        return image, {**truth, "labels": torch.zeros_like(truth["labels"])}


def _scenes(split: str, n: int, seed: int, kind: Mapping[str, Any]) -> Scenes | _OneClass:
    scenes = Scenes(split, n, seed, things=(kind["things"],))
    return _OneClass(scenes) if kind["one_class"] else scenes


@dataclass(frozen=True)
class _Stretch:
    """Cut the ``n`` scenes from ``start`` out of a data set, with boxes and labels alone."""

    scenes: Scenes | _OneClass
    start: int
    n: int

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, truth = self.scenes[self.start + range(self.n)[index]]
        assert isinstance(truth, dict)  # single pictures
        return image, {key: truth[key] for key in ("boxes", "labels")}


def detection_task(
    detector: Detector,
    scenes: int,
    data_seed: int = 0,
    limit: int | None = None,
    kind: Mapping[str, Any] = DIGITS,
) -> Task:
    """Return the task to train a detector on objects in scenes; no epoch repeats a scene.

    After each epoch it is scored on the same scenes of the validation split.

    Args:
        detector: What is trained, in place.
        scenes: How many make an epoch.
        data_seed: Of the training scenes.
        limit: Use at most so many scenes in an epoch, and for scoring.
        kind: What the objects are, ``things`` and ``one_class`` as of :func:`held_out`.
    """
    each = scenes if limit is None else min(scenes, limit)
    world = _scenes("train", _ENDLESS, data_seed, kind)
    judged = held_out({**VAL, **kind}, limit)

    def score(network: nn.Module, place: Place) -> dict[str, float]:
        found = measure(replace(detector, network=network), judged, place)
        return {name: found[name] for name in ("AP50", "AP")}

    return Task(
        # The memory order in which convolutions are fastest, on a CPU and on a GPU.
        detector.network.to(memory_format=torch.channels_last),
        lambda epoch: _Stretch(world, epoch * each, each),
        detector.loss,
        score,
        collate,
        {"scenes": each, "data_seed": data_seed} | ({} if kind == DIGITS else dict(kind)),
    )


def held_out(which: Mapping[str, Any], limit: int | None = None) -> Rendered:
    """Draw the scenes of :data:`TEST` or :data:`VAL`, or the first ``limit`` of them.

    Args:
        which: ``split``, ``n`` and ``seed``; besides them ``things``, what the objects are, and
            ``one_class``, whether all are called the same, :data:`THING`; digits if not given.
        limit: At most so many.
    """
    n = which["n"] if limit is None else min(which["n"], limit)
    return Rendered(_scenes(which["split"], n, which["seed"], {**DIGITS, **which}))


def measure(detector: Detector, data: Rendered, place: Place) -> dict[str, float]:
    """Return COCO's ``AP``, ``AP50``, ``AP75`` and ``AR``, each image seen by one rank.

    Every rank must call it, with the same weights, and gets the same figures.
    """
    mine = torch.tensor(shard(len(data), place.rank, place.world_size), dtype=torch.int64)
    found: list[Prediction] = []
    for part in mine.split(_BATCH):
        found += detector.detect(data.images[part].float().div_(255)) if len(part) else []
    parts: list[Any] = [found]
    if dist.is_initialized():
        parts = [None] * place.world_size
        dist.all_gather_object(parts, found)
    ordered = [parts[i % len(parts)][i // len(parts)] for i in range(len(data))]
    result = coco_map(ordered, data.targets, data.classes)
    return {name: getattr(result, name) for name in ("AP", "AP50", "AP75", "AR")}
