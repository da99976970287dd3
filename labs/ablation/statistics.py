"""Compare the scores of two arms, and say in words what the seeds can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_LEVEL = 0.05
"""Below this probability a difference counts as one, after division by the number of arms."""


def summarise(scores: np.ndarray, base: np.ndarray | None) -> dict[str, Any]:
    """Describe one arm, and compare it with the reference.

    Args:
        scores: Of the arm's runs; those that are not finite are left out.
        base: The scores of the reference; ``None`` when the arm is the reference.

    Returns:
        ``mean``, ``std`` (n - 1), ``ci95`` (half the width of the interval, by Student's t), ``n``,
        ``delta`` (of the means) and ``p`` (Welch's t-test, two-sided). What these runs cannot give
        is NaN: spread needs two scores, and the test a spread in one of the arms.
    """
    from scipy import stats

    mean, std, n = _moments(scores)
    other, other_std, other_n = (mean, std, n) if base is None else _moments(base)
    testable = base is not None and min(n, other_n) > 1 and max(std, other_std) > 0
    p = (
        stats.ttest_ind_from_stats(mean, std, n, other, other_std, other_n, equal_var=False).pvalue
        if testable
        else np.nan
    )
    ci95 = stats.t.ppf(0.975, n - 1) * std / n**0.5 if n > 1 else np.nan
    return {"mean": mean, "std": std, "ci95": ci95, "n": n, "delta": mean - other, "p": p}


def differs(row: Mapping[str, Any], comparisons: int) -> bool:
    """Say whether an arm differs from the reference.

    Args:
        row: From :func:`summarise`.
        comparisons: With how many arms the reference is compared. Of twenty arms without any
            effect one has p < 0.05 by luck, so the level is divided by their number (Bonferroni).
    """
    return bool(row["p"] < _LEVEL / comparisons)


def detectable(std: float, n: int, comparisons: int, power: float = 0.8) -> float:
    """Return the smallest difference of two means that the test would find with that power.

    What a study cannot tell apart may still differ by less than this (Cohen 1988, chapter 2). Both
    arms are taken to have ``n`` runs and the same spread, so this is Student's test.

    Args:
        std: Standard deviation of the runs of one arm.
        n: Runs per arm, two or more.
        comparisons: As in :func:`differs`.
        power: Probability that the test finds the difference, in (0, 1).

    Returns:
        In the unit of the scores; NaN when there is no spread or fewer than two runs.
    """
    from scipy import optimize, stats

    if n < 2 or not std > 0:
        return np.nan
    free = 2 * n - 2
    limit = stats.t.ppf(1 - _LEVEL / comparisons / 2, free)

    def missing(effect: float) -> float:
        found = stats.nct.sf(limit, free, effect * (n / 2) ** 0.5)
        return float(found) - power  # the other tail never matters here

    return std * float(optimize.brentq(missing, 0, 1000 / n**0.5))


def conclude(row: Mapping[str, Any], comparisons: int, higher: str, lower: str) -> str:
    """Say in a few words how an arm compares with the reference.

    Args:
        row: From :func:`summarise`, of an arm that is not the reference.
        comparisons: As in :func:`differs`.
        higher: The word for a mean above the reference's.
        lower: The word for one below.
    """
    delta, p = row["delta"], row["p"]
    if differs(row, comparisons):
        return f"{higher if delta > 0 else lower} by {abs(delta):.2g} ({_probability(p)})"
    if not np.isnan(p):
        return f"not told apart ({_probability(p)})"
    if np.isnan(delta):
        return "no score to compare"
    if np.isnan(row["std"]):
        return "too few scores to tell"
    return "the same at every seed" if delta == 0 else f"{delta:+.2g}, but no spread to judge it by"


def _moments(scores: np.ndarray) -> tuple[float, float, int]:
    finite = scores[np.isfinite(scores)]
    n = len(finite)
    if n == 0:
        return np.nan, np.nan, 0
    # Rounding would give identical scores a tiny spread, and any difference would look certain.
    identical = np.ptp(finite) == 0
    mean = float(finite[0] if identical else finite.mean())
    spread = 0.0 if identical else float(finite.std(ddof=1))
    return mean, spread if n > 1 else np.nan, n


def _probability(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
