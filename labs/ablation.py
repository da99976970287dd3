"""Change one thing, repeat it over seeds, and see whether it mattered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

from labs.repro import seed_everything

Run = Callable[..., float | Mapping[str, float]]


@dataclass(frozen=True)
class Study:
    """Hold every run of an ablation: the value tried, the seed, and what was measured."""

    vary: str
    runs: tuple[Mapping[str, Any], ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Name what was measured, in the order of the first run."""
        return tuple(key for key in self.runs[0] if key not in (self.vary, "seed"))

    def frame(self) -> pd.DataFrame:
        """Return one row per run: the value, the seed, and each metric."""
        return pd.DataFrame(self.runs)

    def table(self, metric: str | None = None) -> pd.DataFrame:
        """Return one row per value: mean, standard deviation, 95 % interval, n, and Δ to the first.

        Args:
            metric: Which metric to summarise. The first one when it is not given.

        Returns:
            Columns ``mean``, ``std`` (n - 1), ``ci95`` (half width, by Student's t), ``n``,
            ``delta`` (against the first value) and ``p`` (Welch's t-test against the first value).

        Raises:
            KeyError: When no run has that metric.
        """
        metric = metric or self.metrics[0]
        if metric not in self.metrics:
            raise KeyError(f"metric {metric!r} not measured; there are {', '.join(self.metrics)}")
        groups = self.frame().groupby(self.vary, sort=False, dropna=False)[metric]
        arms = {value: scores.to_numpy() for value, scores in groups}
        base = next(iter(arms.values()))
        rows = {value: _summary(scores, base) for value, scores in arms.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(self.vary)

    def __repr__(self) -> str:
        tried = self.frame()[self.vary].nunique()
        return f"Study(vary={self.vary!r}, {tried} values, {len(self.runs)} runs)"


def ablate(
    fn: Run,
    base: Mapping[str, Any],
    vary: str,
    values: Iterable[Any],
    seeds: Iterable[int] = range(3),
) -> Study:
    """Run ``fn`` once per value and seed, with everything else as in ``base``.

    The seed is set before ``fn`` is called, so that a model built inside it starts from that seed.

    Args:
        fn: Called as ``fn(**base)`` with ``vary`` replaced; returns a score or a dict of scores.
        base: The settings of the reference run, ``vary`` among them.
        vary: The one setting to change. It is one name, so two cannot change at once.
        values: What to try. Put the reference first: the table compares with the first value.
        seeds: One run per seed and value. At least two, or no spread can be seen.

    Returns:
        The study, with ``.table()``.

    Raises:
        KeyError: When ``vary`` is not a setting in ``base``.
        ValueError: When there are fewer than two values or two seeds.
    """
    if vary not in base:
        raise KeyError(f"ablate: {vary!r} is not in base; there are {', '.join(base)}")
    arms, repeats = list(values), list(seeds)
    if len(arms) < 2 or len(repeats) < 2:
        raise ValueError(
            f"ablate: expected two or more values and seeds, got {len(arms)} and {len(repeats)}"
        )
    runs = []
    for value, seed in tqdm([(v, s) for v in arms for s in repeats], desc=vary, leave=False):
        seed_everything(seed)
        score = fn(**{**base, vary: value})
        measured = score if isinstance(score, Mapping) else {"score": score}
        runs.append({vary: value, "seed": seed, **measured})
    return Study(vary, tuple(runs))


def _summary(scores: np.ndarray, base: np.ndarray) -> dict[str, float]:
    n, std = len(scores), scores.std(ddof=1)
    # Two arms without any spread, and an arm against itself, leave nothing to test.
    testable = scores is not base and (std > 0 or base.std() > 0)
    return {
        "mean": scores.mean(),
        "std": std,
        "ci95": stats.t.ppf(0.975, n - 1) * std / n**0.5,
        "n": n,
        "delta": scores.mean() - base.mean(),
        "p": stats.ttest_ind(scores, base, equal_var=False).pvalue if testable else float("nan"),
    }
