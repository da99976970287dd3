"""Refuse the settings that no network can be built with, before a layer fails in its own words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real


def refuse_counts(name: str, counts: Mapping[str, int]) -> None:
    """Raise ValueError unless all of these are whole numbers from 1.

    Args:
        name: Of the network.
        counts: What each argument is called, and what was given.
    """
    for what, given in counts.items():
        if isinstance(given, bool) or not isinstance(given, Integral) or given < 1:
            raise ValueError(f"{name}: expected {what} to be a whole number from 1, got {given!r}")


def refuse_factors(name: str, factors: Mapping[str, float]) -> None:
    """Raise ValueError unless all of these are finite numbers above 0; arguments as above."""
    for what, given in factors.items():
        if isinstance(given, bool) or not isinstance(given, Real) or not 0 < given < math.inf:
            raise ValueError(f"{name}: expected {what} to be a number above 0, got {given!r}")
