"""Say how sure a number is when what varies is the source: the object, photograph, crop or take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """Hold a measured number and the interval that other sources would have put it in.

    Attributes:
        value: Of all sources.
        low: Lower end.
        high: Upper end.
        sources: How many there are.
        level: How often such an interval holds the true number, in (0, 1).
    """

    value: float
    low: float
    high: float
    sources: int
    level: float

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def __repr__(self) -> str:
        return (
            f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}] ({self.level:.0%} over "
            f"{self.sources} sources)"
        )


def resample(
    statistic: Callable[[np.ndarray], float],
    sources: int,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Draw the sources again with replacement, and see how far the number moves (Efron 1979).

    Seeds are not all that varies: a hundred crops of one photograph are one source, and five
    seeds on three photographs know nothing of a fourth. For a difference of two arms, return the
    difference from ``statistic``, so that both arms are judged on the same sources.

    Args:
        statistic: From the places [n] of the drawn sources, each in ``range(sources)`` and some
            more than once, to one number, such as the mean of ``score[places]``. A NaN (no object
            in any drawn source) is left out.
        sources: How many there are: at least 2; below about 10 the interval is too narrow.
        level: In (0, 1).
        resamples: How often to draw.
        seed: Of the draws.

    Returns:
        The percentile interval.

    Raises:
        ValueError: When there are fewer than two sources, or ``level`` or ``resamples`` is out of
            range.
    """
    if sources < 2 or not 0 < level < 1 or resamples < 1:
        raise ValueError(
            "resample: expected two or more sources, a level in (0, 1) and resamples >= 1, got "
            f"{sources}, {level} and {resamples}"
        )
    draws = np.random.default_rng(seed).integers(sources, size=(resamples, sources))
    moved = np.array([statistic(places) for places in draws], dtype=float)
    edges = (1 - level) / 2, (1 + level) / 2
    low, high = np.nanquantile(moved, edges, method="inverted_cdf")
    whole = float(statistic(np.arange(sources)))
    return Interval(whole, float(low), float(high), sources, level)
