"""Plant one fault at a time, run the lessons it concerns, and name the claims that stay green.

    python -m tools.idle                                  # every fault, all its lessons
    python -m tools.idle "learning off" --lesson residual --jobs 1
    python -m tools.idle --table                          # what is known, without a run

A claim that stays green where its reason is gone is idle: it would hold in any world. Red is a
claim that fell; a claim that was never made, because its cell or one before it raised, is red too,
and is counted as an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tools.faults import FAULTS, Fault, named
from tools.kept import Condition, Result, add_options, collect, missing
from tools.lesson import Lesson, find
from tools.trial import ERROR, GREEN, RED

Pair = tuple[Condition, Lesson]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and not known yet, and print the table of it."""
    chosen = _options(arguments)
    try:
        wanted = pairs([named(chosen.fault)] if chosen.fault else FAULTS, chosen.lesson)
    except LookupError as error:
        print(f"tools.idle: {error.args[0]}", file=sys.stderr)
        return 2
    results = collect(chosen, wanted)
    print(report(results, len(wanted)), end="")
    return int(len(results) < len(wanted))


def pairs(faults: Sequence[Fault], lesson: str = "") -> list[Pair]:
    """Return each fault with each lesson that it concerns, or with the one that is named.

    Raises:
        LookupError: When there is no such lesson, or none of the faults concerns it.
    """
    (only,) = find(lesson) if lesson else (None,)
    asked = [(condition(fault), one) for fault in faults for one in fault.lessons()]
    found = [pair for pair in asked if only in (None, pair[1])]
    if not found:
        places = ", ".join(dict.fromkeys(one.name for _, one in asked))
        raise LookupError(f"expected a lesson of {places}; got {lesson!r}")
    return found


def condition(fault: Fault) -> Condition:
    """Return the condition under which a fault is planted."""
    first = f"from tools.faults import plant; plant({fault.name!r})"
    return Condition(fault.name, first=first, depends=fault.source())


def report(results: Sequence[Result], wanted: int) -> str:
    """Write a table of the counts, then the claims that stayed green, lesson by lesson.

    Args:
        results: In the order of the table.
        wanted: How many there should be.
    """
    lines = ["| fault | lesson | green | red | error |", "|---|---|---|---|---|"]
    for one in results:
        counts = " | ".join(str(one.count(fate)) for fate in (GREEN, RED, ERROR))
        lines.append(f"| {one.condition} | {one.lesson} | {counts} |")
    lines += missing(results, wanted)
    for name in dict.fromkeys(one.lesson for one in results):
        lines += ["", f"## {name}", ""]
        lines += _green([one for one in results if one.lesson == name])
    return "\n".join(lines) + "\n"


def _green(results: Sequence[Result]) -> list[str]:
    """List the claims of a lesson that stayed green, each with the faults that it survived."""
    survived: dict[tuple[int, str], list[str]] = {}
    for result in results:
        for one in result.fates:
            if one.fate == GREEN:
                survived.setdefault((one.cell, one.text), []).append(result.condition)
    lines = []
    for (_, text), faults in sorted(survived.items(), key=lambda item: item[0][0]):
        every = f"all {len(results)}: " if len(faults) == len(results) else ""
        lines.append(f"- {text} ({every}{', '.join(faults)})")
    return lines or ["No claim stayed green."]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    faults = "\n".join(f"  {fault.name:<24} {fault.says}" for fault in FAULTS)
    parser = argparse.ArgumentParser(
        "python -m tools.idle",
        description=f"{(__doc__ or '').strip()}\n\nfaults:\n{faults}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fault", nargs="?", default="", help="one fault; all when not given")
    add_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
