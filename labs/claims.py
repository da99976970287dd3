"""State a finding so that a machine can refuse it."""

from __future__ import annotations

import os
from typing import Any

WARN = "warn"
"""The value of the environment variable ``LABS_CLAIMS`` with which a false claim raises nothing."""


class ClaimFailedError(AssertionError):
    """Report a claim that the measurement does not support."""


def claim(text: str, condition: object, measured: Any = None) -> None:
    """Print ``✓ text`` when the condition holds, raise when it does not.

    With ``LABS_CLAIMS=warn`` in the environment, as ``make lab`` sets it, a claim that does not
    hold prints ``✗ text`` with what was measured, and the notebook runs on: change a number and see
    which findings fall. Lessons are executed and tested without it.

    The line must read the same on every machine, so write the bound into ``text``
    ("at least 98 % of the test digits are right") and leave the measured digits to the next cell.

    Args:
        text: The finding as one sentence on one line, with its bound.
        condition: The test of that sentence. A ``bool``, or a one-element tensor or array.
        measured: What was measured. It is shown only when the claim is false.

    Raises:
        ClaimFailedError: When ``condition`` is false.
        TypeError: When ``condition`` has no single truth value (a list, a string, a vector).
        ValueError: When ``text`` is empty or longer than one line.
    """
    if not text.strip() or "\n" in text:
        raise ValueError(
            f"claim: expected one line of text, got {text!r}; split it into two claims"
        )
    if not _truth(condition):
        seen = "" if measured is None else f"; measured: {_written(measured)}"
        if os.environ.get("LABS_CLAIMS") == WARN:
            print(f"✗ {text}: no longer holds here{seen}")
            return
        raise ClaimFailedError(f"claim is false: {text}{seen}")
    print(f"✓ {text}")


def _written(measured: object) -> str:
    try:
        return repr(measured)
    except Exception as broken:  # the claim is false all the same
        return f"a {type(measured).__name__} whose repr raises {type(broken).__name__}"


def _truth(condition: object) -> bool:
    if isinstance(condition, bool):
        return condition
    # A non-empty list is "true" whatever it says, so only things that hold one value pass.
    if getattr(condition, "ndim", None) == 0 or getattr(condition, "size", None) == 1:
        return bool(condition)
    if callable(numel := getattr(condition, "numel", None)) and numel() == 1:
        return bool(condition)
    kind = type(condition).__name__
    raise TypeError(
        f"claim: expected a bool as condition, got {kind}; reduce it first, for example with .all()"
    )
