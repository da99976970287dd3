"""Run ``labs study``: make the record of a study, or find out which records are due.

    labs study                       list the studies, and whether their records are fresh
    labs study NAME [--jobs 2]       run what is missing of it, and write its record
    labs study --revalidate [NAME]   make the first steps of stale records again, and compare
    labs study --stale [--jobs 2]    revalidate what is stale, and run what then is still due

Ctrl-C keeps every finished run; the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from labs.ablation import processes
from labs.studies.catalogue import STUDIES, find
from labs.studies.making import make, revalidate, stale, store_of
from labs.studies.record import read_record


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; return 0, 1 when something is due or interrupted, 2 on misuse."""
    options = _options(arguments)
    names = [options.name] if options.name else list(STUDIES)
    try:
        for name in names:
            find(name)
    except ValueError as problem:
        print(f"labs study: {problem}", file=sys.stderr)
        return 2
    if options.revalidate or options.stale:
        due = [name for name in names if not _renewed(name)]
        return _run(due, options) if options.stale else int(bool(due))
    if options.name:
        return _run(names, options)
    states = {name: _state(name) for name in names}
    for name, state in states.items():
        print(f"{name:<12} {state:<40} {find(name).question}")
    return int(any(state != "fresh" for state in states.values()))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="labs study", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="", help="one study")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at a time (default 1)")
    parser.add_argument("--revalidate", action="store_true", help="renew what still agrees")
    parser.add_argument("--stale", action="store_true", help="run what is due")
    parser.add_argument(
        "--store", type=Path, default=Path(".cache/studies"), help="where finished runs are kept"
    )
    return parser.parse_args(arguments)


def _run(names: Sequence[str], options: argparse.Namespace) -> int:
    pool = processes(options.jobs) if options.jobs > 1 else nullcontext()
    with pool as executor:
        for name in names:
            experiment = find(name)
            record = make(experiment, store_of(experiment, options.store), executor)
            if record is None:
                print(f"{name}: stopped; what was finished is kept, the same command goes on")
                return 1
            print(f"{record!r}\n{record.study.to_markdown()}")
    return 0


def _renewed(name: str) -> bool:
    """Say in a line how the record stands, and whether it may stay."""
    experiment = find(name)
    try:
        record = read_record(name)
        old = stale(experiment, record)
        if not old:
            print(f"{name}: fresh")
            return True
        replays = revalidate(experiment, record)
    except (FileNotFoundError, ValueError) as problem:
        print(f"{name}: due: {problem}")
        return False
    agrees = all(one.agrees for one in replays)
    verdict = "agrees, renewed" if agrees else "differs, due"
    worst = max(one.worst for one in replays)
    print(
        f"{name}: {', '.join(old)} changed; the first steps of every arm: {verdict} ({worst:.2g})"
    )
    return agrees


def _state(name: str) -> str:
    try:
        old = stale(find(name), read_record(name))
    except (FileNotFoundError, ValueError):
        return "no record"
    return f"stale: {len(old)} parts changed" if old else "fresh"
