"""Run a command of this package: ``labs doctor``, or ``python -m labs doctor``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labs.near_miss import did_you_mean

COMMANDS: Mapping[str, tuple[str, str]] = {
    "doctor": ("labs.doctor", "tell what this machine can do, and how to mend the rest"),
    "study": ("labs.studies.command", "make, revalidate or list the recorded studies"),
    "hunts": ("labs.hunts.listing", "list the bug hunts, and symptoms: labs hunts nan loss"),
    "recipes": ("labs.recipes.__main__", "train a small detector: labs recipes --help"),
}
"""By name, the module whose ``main`` runs it, and what it does; a command loads only its own."""


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name, and return its exit status; 2 when unknown."""
    if arguments and arguments[0] in COMMANDS:
        command: Callable[..., Any] = importlib.import_module(COMMANDS[arguments[0]][0]).main
        return int(command(list(arguments[1:])) or 0)
    if list(arguments) in (["-h"], ["--help"]):
        print(_usage())
        return 0
    print(f"{_complaint(arguments)}\n\n{_usage()}", file=sys.stderr)
    return 2


def run() -> int:
    """Run the command line of this process: the console script ``labs``."""
    return main(sys.argv[1:])


def _complaint(arguments: Sequence[str]) -> str:
    if not arguments:
        return "labs: expected a command, got none"
    guess = did_you_mean(arguments[0], COMMANDS)
    known = f"expected one of {', '.join(COMMANDS)}"
    return f"labs: {known}; unknown command {arguments[0]!r}{guess}"


def _usage() -> str:
    lines = [f"  labs {name:<8} {what}" for name, (_, what) in COMMANDS.items()]
    heading = "The commands are (`python -m labs doctor` is the same as `labs doctor`):"
    return "\n".join([heading, *lines])


if __name__ == "__main__":
    sys.exit(run())
