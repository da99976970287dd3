"""Describe an experiment that is too long for a lesson."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Point = Mapping[str, float]


@dataclass(frozen=True)
class Experiment:
    """Hold what a recorded study consists of: one setting changes, the seeds repeat.

    Attributes:
        name: Of the study and of its record, as in ``labs study NAME``.
        question: What it asks, as one sentence.
        run: A generator: ``run(**settings)`` yields a dict of numbers, with ``step``, at every step
            that is recorded; the last one holds the scores. It draws its model and its data from
            the global random state, which is seeded before, and lives in a module.
        base: The settings of the reference run, ``vary`` among them.
        vary: The one setting that changes.
        values: What is tried.
        seeds: One run per seed and value.
        first: So many points at the start of a run are made again by a lesson, and by
            ``labs study --revalidate``; the cost of a lesson, so small.
        tolerance: By how much such a point may differ from the record, relative to the larger of
            the recorded number and 1: another processor rounds otherwise, and training
            amplifies it.

    Raises:
        TypeError: When ``run`` is no generator, or does not take these settings.
        ValueError: When the plan is empty, or ``vary`` is not a setting.
    """

    name: str
    question: str
    run: Callable[..., Iterator[Point]]
    base: Mapping[str, Any]
    vary: str
    values: tuple[Any, ...]
    seeds: tuple[int, ...]
    first: int = 3
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse now what would be found out after an hour."""
        if not inspect.isgeneratorfunction(self.run):
            raise TypeError(
                f"study {self.name!r}: expected a generator as run, got {self.run!r}; "
                "yield a dict of numbers at every step to record"
            )
        inspect.signature(self.run).bind(**self.base)  # raises a TypeError that names the setting
        if self.vary not in self.base or len(self.values) < 2 or len(self.seeds) < 2:
            raise ValueError(
                f"study {self.name!r}: expected a setting of base as vary, two values and two "
                f"seeds or more, got {self.vary!r}, {self.values!r} and {self.seeds!r}"
            )
        if self.first < 1 or self.tolerance <= 0:
            raise ValueError(
                f"study {self.name!r}: expected first >= 1 and tolerance > 0, got {self.first} "
                f"and {self.tolerance}"
            )

    def settings(self, value: Any) -> dict[str, Any]:
        """Return the settings of the arm that tries ``value``.

        Raises:
            ValueError: When the study does not try it.
        """
        if value not in self.values:
            raise ValueError(
                f"study {self.name!r}: {self.vary} is one of {self.values!r}, got {value!r}"
            )
        return {**self.base, self.vary: value}
