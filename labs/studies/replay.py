"""Make the first steps of a recorded run again, and compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pandas as pd

from labs.repro import random_state_kept, seed_everything
from labs.studies.experiment import Experiment, Point
from labs.studies.record import Record


@dataclass(frozen=True, repr=False)
class Replay:
    """Hold the first points of a run, made again, beside the recorded ones.

    Attributes:
        value: Of the arm.
        seed: Of the run.
        here: What was yielded now.
        recorded: What the record holds.
        tolerance: See :class:`labs.studies.Experiment`.
    """

    value: Any
    seed: int
    here: tuple[Point, ...]
    recorded: tuple[Point, ...]
    tolerance: float

    @property
    def worst(self) -> float:
        """Return the largest difference, relative to the larger of the recorded number and 1.

        Infinite when one of the two lacks a point or a number that the other has.
        """
        if len(self.here) != len(self.recorded):
            return float("inf")
        pairs = zip(self.here, self.recorded, strict=True)
        return max((_apart(a, b) for a, b in pairs), default=float("inf"))

    @property
    def agrees(self) -> bool:
        """Tell whether every number agrees with the record within the tolerance."""
        return self.worst <= self.tolerance

    def table(self) -> pd.DataFrame:
        """Return one row per point, each number beside the recorded one."""
        here, recorded = pd.DataFrame(list(self.here)), pd.DataFrame(list(self.recorded))
        return here.join(recorded.add_suffix(" (recorded)"))

    def __repr__(self) -> str:
        verdict = "agrees" if self.agrees else "differs"
        return (
            f"Replay({self.value!r}, seed {self.seed}: {len(self.here)} points, {verdict}, worst "
            f"{self.worst:.2g} of {self.tolerance:g})"
        )


def replay(experiment: Experiment, record: Record, value: Any, seed: int) -> Replay:
    """Run the first points of one recorded run again; the caller's random state is kept.

    Args:
        experiment: What was recorded.
        record: Of that experiment.
        value: Of the arm.
        seed: Of the run.

    Raises:
        KeyError: When the record has no such run.
        ValueError: When the experiment does not try that value.
    """
    recorded = record.points(value, seed)[: experiment.first]
    with random_state_kept():
        seed_everything(seed)
        made = experiment.run(**experiment.settings(value))
        here = tuple(islice(made, experiment.first))
        made.close()  # type: ignore[attr-defined]  # it is a generator: Experiment refuses others
    return Replay(value, seed, tuple(_floats(p) for p in here), recorded, experiment.tolerance)


def _floats(point: Point) -> Point:
    return {name: float(x) for name, x in point.items()}


def _apart(here: Point, recorded: Point) -> float:
    if here.keys() != recorded.keys():
        return float("inf")
    gaps: Sequence[float] = [
        abs(here[name] - recorded[name]) / max(abs(recorded[name]), 1.0) for name in recorded
    ]
    if any(math.isnan(gap) for gap in gaps):  # a NaN is no agreement, and max may pass it over
        return float("inf")
    return max(gaps, default=float("inf"))
