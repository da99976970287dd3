"""Check the bug hunts: a hunt passes only when the bug is gone and nothing else broke."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from labs.repro import random_state_kept, seed_everything


@dataclass(frozen=True)
class Probe:
    """Hold what one probe asked of your fix, and what it saw."""

    question: str
    passed: bool
    seen: str


@dataclass(frozen=True)
class Verdict:
    """Hold the answers of every probe. True only when all of them passed."""

    hunt: str
    probes: tuple[Probe, ...]

    @property
    def passed(self) -> bool:
        """Tell whether every probe passed."""
        return all(probe.passed for probe in self.probes)

    def __bool__(self) -> bool:
        return self.passed

    def table(self) -> pd.DataFrame:
        """Return one row per probe, with columns ``question``, ``passed`` and ``seen``."""
        return pd.DataFrame([vars(probe) for probe in self.probes])

    def __repr__(self) -> str:
        held = sum(probe.passed for probe in self.probes)
        state = "solved" if self.passed else "not solved"
        head = f"{self.hunt}: {state} ({held}/{len(self.probes)} probes)"
        return "\n".join(
            [head, *(f"  {'✓' if p.passed else '✗'} {p.question}: {p.seen}" for p in self.probes)]
        )


def examine(hunt: str, candidate: Any, probes: Mapping[str, Callable[[Any], str]]) -> Verdict:
    """Put every probe to the candidate, and collect the answers; a probe that raises has failed.

    Each probe starts from the same seed, and the caller's random state is left as it was.

    Args:
        hunt: The name of the hunt, shown in the verdict.
        candidate: What the reader repaired: a function, a class or a module.
        probes: From a question to a function of the candidate. The function returns a few words on
            what it saw, and raises ``AssertionError`` with a few words when the answer is wrong.

    Returns:
        The verdict, with the probes in the order given.
    """
    return Verdict(
        hunt, tuple(_ask(question, probe, candidate) for question, probe in probes.items())
    )


def _ask(question: str, probe: Callable[[Any], str], candidate: Any) -> Probe:
    try:
        with random_state_kept():
            seed_everything(0)
            return Probe(question, True, probe(candidate))
    except AssertionError as wrong:
        return Probe(question, False, _one_line(str(wrong)) or "the assertion failed")
    except (
        Exception
    ) as error:  # a fix that crashes is a wrong fix, and the reader wants to know how
        return Probe(question, False, _one_line(f"{type(error).__name__}: {error}"))


def _one_line(message: str, longest: int = 160) -> str:
    text = " ".join(message.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
