"""Start from trained weights: say which carry over to other classes, and which begin anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labs.detection import Detector
from labs.recipes.detectors import DETECTORS
from labs.recipes.trained import trained


@dataclass(frozen=True, repr=False)
class Start:
    """Hold what was carried over into a detector.

    Attributes:
        source: Where the weights come from.
        carried: How many numbers are the source's.
        total: How many there are.
        fresh: The names of the tensors that keep their random start.
        why: Why these are fresh.
    """

    source: str
    carried: int
    total: int
    fresh: tuple[str, ...]
    why: str

    def __repr__(self) -> str:
        kept = f"from {self.source}: {self.carried:,} of {self.total:,} weights"
        if not self.fresh:
            return f"{kept}; none is fresh, because {self.why}"
        names = ", ".join(self.fresh[:4]) + (", …" if len(self.fresh) > 4 else "")
        return f"{kept}; fresh, because {self.why}: {names}"


def carry_over(
    detector: Detector,
    name: str,
    arguments: Mapping[str, Any],
    classes: Sequence[str],
    source: str | Path,
) -> Start:
    """Put the weights of a trained detector into another one of the same architecture.

    Layers whose shape depends on the number of classes keep their random start, unless the classes
    are the same in the same order: row 3 of them answers for class 3, whatever its name is now.

    Args:
        detector: What is filled, in place.
        name: Of the detector in :data:`labs.recipes.DETECTORS`.
        arguments: What it was built with.
        classes: Its classes.
        source: As for :func:`labs.recipes.trained`.

    Raises:
        ValueError: When the source is of another architecture, or nothing fits.
    """
    found = trained(source)
    if found.name != name:
        raise ValueError(
            f"--from {source}: expected weights of {name}, got those of {found.name}; train "
            f"{found.name}, or start from a {name}"
        )
    same = found.classes == tuple(classes)
    heads = set() if same else _depending_on_classes(name, arguments)
    own, theirs = detector.network.state_dict(), found.detector.network.state_dict()
    fitting = {
        key: tensor
        for key, tensor in theirs.items()
        if key in own and own[key].shape == tensor.shape and key not in heads
    }
    if not fitting:
        raise ValueError(f"--from {source}: expected weights that fit {name}, got none")
    detector.network.load_state_dict(own | fitting)
    count = sum(own[key].numel() for key in fitting)
    total = sum(tensor.numel() for tensor in own.values())
    fresh = tuple(key for key in own if key not in fitting)
    return Start(str(source), count, total, fresh, _why(found.classes, tuple(classes)))


def _depending_on_classes(name: str, arguments: Mapping[str, Any]) -> set[str]:
    """Name the tensors whose shape is another one with one more class."""
    with torch.random.fork_rng(devices=[]):
        here = DETECTORS[name](**arguments).network.state_dict()
        more = arguments["num_classes"] + 1
        there = DETECTORS[name](**{**arguments, "num_classes": more}).network.state_dict()
    return {key for key in here if key not in there or here[key].shape != there[key].shape}


def _why(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    if theirs == ours:
        return "the classes are the same"
    if set(theirs) == set(ours):
        return "the same classes stand in another order"
    return f"its {len(theirs)} classes are others"
