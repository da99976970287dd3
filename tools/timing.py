"""Time two things in turn, or one thing many times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from timeit import timeit


@dataclass(frozen=True)
class Pair:
    """Hold the paired timings of two things, in seconds."""

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Return second over first, pair by pair."""
        return [b / a for a, b in zip(self.first, self.second, strict=True)]

    def line(self, name: str) -> str:
        """Return one line for a person: the two medians and the ratio with its quartiles."""
        low, _, high = quantiles(self.ratios, n=4)
        return (
            f"{name:<58} {1e3 * median(self.first):9.2f} ms {1e3 * median(self.second):9.2f} ms   "
            f"x{median(self.ratios):.3f} ({low:.3f} to {high:.3f})"
        )


@dataclass(frozen=True)
class Rate:
    """Hold how long a fixed number of things took, several times, in seconds."""

    items: int
    seconds: tuple[float, ...]

    def line(self, name: str) -> str:
        """Return one line for a person: how many a second, and milliseconds for each."""
        low, middle, high = (1e3 * s / self.items for s in quantiles(self.seconds, n=4))
        return f"{name:<58} {1e3 / middle:9.0f} a second {middle:6.3f} ms ({low:.3f} to {high:.3f})"


def pair(first: Callable[[], object], second: Callable[[], object], repeats: int) -> Pair:
    """Time two things in turn; which goes first alternates, so that drift hurts both alike."""
    first(), second()  # warm up
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        for which in (0, 1) if turn % 2 else (1, 0):
            started = time.perf_counter()
            (first, second)[which]()
            times[which].append(time.perf_counter() - started)
    return Pair(tuple(times[0]), tuple(times[1]))


def rate(make: Callable[[], object], items: int, repeats: int) -> Rate:
    """Time what makes ``items`` things."""
    make()  # warm up
    return Rate(items, tuple(timeit(make, number=1) for _ in range(repeats)))
