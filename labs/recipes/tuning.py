"""Train a detector on somebody's own pictures, and keep the weights that judged them best."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from labs.boxes import k_means, lay_onto_strides
from labs.data.augment import Augmented
from labs.data.augment.window import Example, cut, resize
from labs.data.scenes import Rendered, collate
from labs.ddp import Place
from labs.ddp_train import Settings, Task, train
from labs.detection import Detector
from labs.recipes.best import Best
from labs.recipes.detectors import ANCHORS, DETECTORS, STRIDES
from labs.recipes.own_pictures import OwnPictures
from labs.recipes.start import Start, carry_over
from labs.recipes.task import measure
from labs.recipes.weights import compact, fill
from labs.repro import seed_everything

AUGMENTS = ("flip+zoom", "zoom", "none")
"""How pictures are varied from epoch to epoch; mirrored letters and digits are other things."""
_FACTORS = (0.75, 1.25)  # how much larger or smaller a window is than its picture


@dataclass(frozen=True, repr=False, eq=False)
class Tuned:
    """Hold a detector that was trained on own pictures, and how that went.

    Attributes:
        detector: With the weights of the best epoch, rounded as they are written.
        name: Of the detector in :data:`labs.recipes.DETECTORS`.
        arguments: What it was built with.
        pictures: What it learnt from.
        start: What was carried over, if it did not start fresh.
        scores: One record per epoch: ``epoch``, ``loss``, and on the validation pictures ``AP``
            and ``AP50``.
        best: The epoch whose weights these are, from 1.
        steps: How many were taken.
        metrics: ``AP``, ``AP50``, ``AP75`` and ``AR`` on the part ``pictures.judge``.
    """

    detector: Detector
    name: str
    arguments: Mapping[str, Any]
    pictures: OwnPictures
    start: Start | None
    scores: tuple[Mapping[str, float], ...]
    best: int
    steps: int
    metrics: Mapping[str, float]

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value:.3f}" for name, value in self.metrics.items())
        return f"Tuned({self.name}, epoch {self.best} of {len(self.scores)}, {told})"


def tune(
    name: str,
    pictures: OwnPictures,
    settings: Settings,
    place: Place,
    *,
    start: str | Path | None = None,
    freeze: int = 0,
    augment: str = AUGMENTS[0],
    checkpoint: Path | None = None,
    save_every: int = 0,
    resume: bool = False,
    progress: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> Tuned:
    """Train a detector on own pictures; after each epoch the validation pictures judge it.

    Args:
        name: Of a detector in :data:`labs.recipes.DETECTORS`.
        pictures: From :func:`own_pictures`.
        settings: Of the run; the epochs are all of them.
        place: Of this process.
        start: What :func:`carry_over` takes its weights from; fresh ones when None.
        freeze: In so many first epochs the backbone stays as it is, with the statistics of its
            batch norms. The learning rate rises and falls once before the thaw and once after it.
        augment: One of :data:`AUGMENTS`.
        checkpoint: A folder to save to.
        save_every: Save after so many batches, too.
        resume: Go on from the checkpoint.
        progress: Show a bar per epoch where somebody watches a terminal.
        told: Is told what was carried over, and when the backbone begins to learn.

    Raises:
        ValueError: When a setting is out of range, or the weights to start from do not fit.
        FileExistsError: When a checkpoint is there and ``resume`` is off.
        KeyboardInterrupt: As :func:`labs.ddp_train.train` raises it.
    """
    _refuse(name, settings, freeze, augment)
    arguments = _arguments(name, pictures)
    seed_everything(settings.seed)  # before the first weight is drawn
    detector = DETECTORS[name](**arguments)
    carried = carry_over(detector, name, arguments, pictures.classes, start) if start else None
    if carried:
        told(repr(carried))
    facts = {
        "name": name,
        "data": pictures.digest,
        "size": pictures.size,
        "start": None if start is None else Path(start).name,
        "freeze": freeze,
        "augment": augment,
    }
    best = Best(checkpoint, {**facts, **asdict(settings)})
    if resume:
        best.read(place)
    network = detector.network.to(memory_format=torch.channels_last)
    scores: list[Mapping[str, float]] = []
    steps = 0
    stages = [(True, freeze)] if freeze else []
    for frozen, epochs in [*stages, (False, settings.epochs - freeze)]:
        before = len(scores)
        epochs_of = _Epochs(pictures.parts["train"], augment, settings.seed, before)
        task = Task(
            network,
            epochs_of,
            detector.loss,
            _Judge(detector, pictures.parts["val"], best, epochs_of),
            collate,
            facts,
        )
        folder = checkpoint / "frozen" if checkpoint and frozen else checkpoint
        _freeze(network, frozen)
        if freeze:
            told(f"the backbone {'stays as it is' if frozen else 'learns from here on'}")
        run = train(
            replace(settings, epochs=epochs), place, folder, save_every, resume, task, progress
        )
        scores += [
            {**score, "epoch": before + score["epoch"], "step": steps + score["step"]}
            for score in run.scores
        ]
        steps += run.step
        with torch.no_grad():  # the averaged weights are where the thaw begins
            network.load_state_dict(run.best_guess.state_dict())
    _freeze(network, False)
    assert best.weights is not None  # there was an epoch
    fill(network, best.weights, name)
    fill(network, compact(network), name)  # what is measured is what is written
    metrics = measure(detector, pictures.parts[pictures.judge], place)
    return Tuned(
        detector, name, arguments, pictures, carried, tuple(scores), best.epoch, steps, metrics
    )


def _refuse(name: str, settings: Settings, freeze: int, augment: str) -> None:
    if not hasattr(DETECTORS[name](1).network, "backbone") and freeze:
        raise ValueError(f"--freeze: expected a detector with a backbone, got {name}")
    if settings.steps is not None:
        raise ValueError("--data: expected --epochs, got --steps; every epoch is judged")
    if not 0 <= freeze < settings.epochs:
        raise ValueError(
            f"--freeze: expected epochs from 0 to {settings.epochs - 1}, got {freeze}; the last "
            "epoch at least trains all"
        )
    if augment not in AUGMENTS:
        raise ValueError(f"--augment: expected one of {', '.join(AUGMENTS)}, got {augment!r}")


def _arguments(name: str, pictures: OwnPictures) -> dict[str, Any]:
    """Return what the detector is built with: its anchors, if it has any, from the boxes."""
    taken = inspect.signature(DETECTORS[name]).parameters
    arguments: dict[str, Any] = {"num_classes": len(pictures.classes)}
    if "image_size" in taken:
        arguments["image_size"] = pictures.size
    shapes, count = pictures.shapes, sum(map(len, ANCHORS))
    if "anchors" in taken and len(shapes.unique(dim=0)) >= count:
        anchors = lay_onto_strides(k_means(shapes, count), STRIDES)
        arguments["anchors"] = [
            [[round(v, 1) for v in row] for row in level] for level in anchors.tolist()
        ]
    return arguments


def _freeze(network: nn.Module, frozen: bool) -> None:
    """Stop or start the learning of the backbone, and of what its batch norms count."""
    backbone = getattr(network, "backbone", None)
    if isinstance(backbone, nn.Module):
        backbone.requires_grad_(not frozen).train(not frozen)


@dataclass(frozen=True)
class _Learnable(Dataset[Example]):
    """Leave crowds out: a box around many is not a box of one."""

    data: Rendered
    classes: tuple[str, ...]
    split: str = "train"

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Example:
        image, target = self.data[index]
        one = ~target["iscrowd"]
        return image, {key: target[key][one] for key in ("boxes", "labels")}


class _Epochs:
    """Give the training pictures of each epoch, varied anew."""

    def __init__(self, data: Rendered, augment: str, seed: int, first: int) -> None:
        self._data: Any = _Learnable(data, data.classes)
        self._augment, self._seed, self._first = augment, seed, first
        self.now = first  # which epoch of the whole run is being trained, from 0

    def __call__(self, epoch: int) -> Any:
        self.now = self._first + epoch
        if self._augment == "none":
            return self._data
        vary = _Vary(self._augment.startswith("flip"))
        varied = Augmented(self._data, vary, seed=self._seed)
        varied.set_epoch(self.now)
        return varied


@dataclass(frozen=True)
class _Vary:
    """Look at a picture through a window that is larger or smaller, and sometimes in a mirror."""

    mirror: bool

    def __call__(self, examples: Any, generator: np.random.Generator) -> Example:
        image, target = examples[0]
        size = image.shape[1]
        side = round(size * generator.uniform(*_FACTORS))
        x, y = (round(generator.uniform(min(0, size - side), max(0, size - side))) for _ in "xy")
        corners = (x, y, x + side, y + side)
        image, target = resize(cut((image, target), corners, min_visible=0.3), (size, size))
        if self.mirror and generator.random() < 0.5:
            x1, y1, x2, y2 = target["boxes"].unbind(1)
            target["boxes"] = torch.stack([size - x2, y1, size - x1, y2], 1)
            image = image.flip(2)
        return image, target


@dataclass(frozen=True)
class _Judge:
    """Score on the validation pictures, and keep the best."""

    detector: Detector
    data: Rendered
    best: Best
    epochs: _Epochs

    def __call__(self, network: nn.Module, place: Place) -> dict[str, float]:
        found = measure(replace(self.detector, network=network), self.data, place)
        self.best.offer(network, found["AP"], self.epochs.now + 1, place)
        return {name: found[name] for name in ("AP50", "AP")}
