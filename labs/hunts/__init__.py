"""Check the bug hunts: a hunt passes only when the bug is gone and nothing else broke."""

from __future__ import annotations

import textwrap
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from labs.hunts.answer import refusal
from labs.hunts.fix import Fix
from labs.repro import random_state_kept, seed_everything

_WIDTH = 86  # columns, as many as a cell of a lesson has
_LONGEST = 160  # letters of an answer


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
        if held == 0 and len(seen := {probe.seen for probe in self.probes}) == 1:
            return f"{head}\n{_wrapped(f'✗ every probe: {seen.pop()}')}"
        lines = [f"{'✓' if p.passed else '✗'} {p.question}: {p.seen}" for p in self.probes]
        return "\n".join([head, *map(_wrapped, lines)])


def examine(
    hunt: str,
    candidate: Any,
    probes: Mapping[str, Callable[[Any], str]],
    expects: str = "function",
) -> Verdict:
    """Put every probe to the candidate, and collect the answers; a probe that raises has failed.

    Each probe starts from the same seed, and the caller's random state is left as it was. Whatever
    the candidate is or does, the verdict says it in a sentence, and no error leaves this function.

    Args:
        hunt: The name of the hunt, shown in the verdict.
        candidate: What the reader repaired: a function, a class or a module.
        probes: From a question to a function of the candidate. The function returns a few words on
            what it saw, and raises ``AssertionError`` with a few words when the answer is wrong.
        expects: ``"function"``, or ``"class"`` for what is called to make an object.

    Returns:
        The verdict, with the probes in the order given.
    """
    if isinstance(candidate, Fix):
        refused = refusal(candidate.make_net, "class") or refusal(candidate.loss, "function")
    else:
        refused = refusal(candidate, expects)
    if refused:
        return Verdict(hunt, tuple(Probe(question, False, refused) for question in probes))
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
    # A fix that crashes, or leaves the program, is a wrong fix, and the reader wants to know how.
    except (Exception, SystemExit) as error:
        return Probe(question, False, _one_line(_told(error)))


def _told(error: BaseException) -> str:
    """Say what was raised, and where in the reader's code, if it was there."""
    message = str(error).strip()
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    here = str(Path(__file__).parent)
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(here)]
    # The first frame that is not a checker's is the reader's; what it calls is of a library.
    where = f" (from line {own[0].lineno} of {own[0].name})" if own else ""
    return f"expected an answer, got {what[: _LONGEST - len(where) - 25]}{where}"


def _one_line(message: str, longest: int = _LONGEST) -> str:
    text = " ".join(message.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _wrapped(line: str) -> str:
    return textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")
