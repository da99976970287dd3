"""Run a command of this package: ``python -m labs doctor``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from labs import doctor
from labs.near_miss import did_you_mean

COMMANDS: Mapping[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "doctor": (doctor.main, "tell what this machine can do, and how to mend the rest"),
}


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name, and return its exit status; 2 when unknown."""
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]][0](arguments[1:])
    if list(arguments) in (["-h"], ["--help"]):
        print(_usage())
        return 0
    print(f"{_complaint(arguments)}\n\n{_usage()}", file=sys.stderr)
    return 2


def _complaint(arguments: Sequence[str]) -> str:
    if not arguments:
        return "python -m labs: expected a command, got none"
    guess = did_you_mean(arguments[0], COMMANDS)
    return f"python -m labs: unknown command {arguments[0]!r}{guess}"


def _usage() -> str:
    lines = [f"  python -m labs {name:<8} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["The commands are:", *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
