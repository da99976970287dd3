"""Guess what somebody meant who wrote a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[object], most: int = 1, cutoff: float = 0.6) -> str:
    """Return the end of an error message, such as ``"; did you mean 'layer4'?"``.

    Args:
        name: What was asked for.
        known: The names there are.
        most: How many guesses to offer at most.
        cutoff: How alike a guess must be, in [0, 1]; 1 is equal (``difflib``).

    Returns:
        The guesses, the likeliest first, or nothing when no name is alike.
    """
    near = get_close_matches(str(name), [str(other) for other in known], most, cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
