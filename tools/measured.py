"""Keep what each execution measured: one file per lesson, so that two never meet in a merge.

``lessons/measured/01_foundations/07_feel_the_residual.json`` holds the last execution on each kind
of device, ``cpu`` and ``gpu``. The budgets that the whole book has to keep are here too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from labs.stamp import ROOT
from tools import reference

FOLDER = ROOT / "lessons" / "measured"

# Of one core of the machine that `tools.reference` describes; a record says how fast its own was.
# Two lessons run at a time, so 46 of the mean length take 25 minutes.
LESSON_SECONDS = 90
MEAN_SECONDS = 65
TOTAL_MINUTES = 25

Record = dict[str, dict[str, Any]]  # from the kind of device to what was measured on it


def record_file(name: str) -> Path:
    """Return the file that holds the record of a lesson, such as ``lessons/01_start/01_count``."""
    return FOLDER / f"{name.removeprefix('lessons/')}.json"


def read(name: str) -> Record:
    """Return the record of a lesson; empty when it was never measured.

    Raises:
        ValueError: When the file holds something else, such as the marks of a merge.
    """
    path = record_file(name)
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        record = error
    if not isinstance(record, dict) or not all(isinstance(run, dict) for run in record.values()):
        raise ValueError(
            f"{path}: expected JSON from a kind of device to what was measured, got {record!r}; "
            f"delete the file and measure again: python -m tools.execute {name} --force"
        )
    return record


def read_all() -> dict[str, Record]:
    """Return the record of every lesson that has one, in reading order."""
    files = sorted(FOLDER.rglob("*.json"))
    names = [f"lessons/{path.relative_to(FOLDER).as_posix()}"[: -len(".json")] for path in files]
    return {name: read(name) for name in names}


def text(record: Record) -> str:
    """Return the content of a record's file: the same measurements give the same bytes."""
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def orphans(names: Iterable[str]) -> list[Path]:
    """List the files among the records that belong to no lesson of these names."""
    known = {record_file(name) for name in names}
    return sorted(path for path in FOLDER.rglob("*") if path.is_file() and path not in known)


def over_budget(measured: Mapping[str, Record]) -> list[str]:
    """Say which lessons take too long on a CPU, and whether all of them together do."""
    on_cpu = {name: kinds["cpu"] for name, kinds in measured.items() if "cpu" in kinds}
    seconds = {name: comparable(run) for name, run in on_cpu.items()}
    return [*_too_long(seconds), *_too_long_together(list(seconds.values()))]


def comparable(run: Mapping[str, Any]) -> float:
    """Return the processor seconds of a run as the machine of the budgets would have needed.

    A record without a reference counts as it is.
    """
    slowness = run.get("reference_seconds", reference.SECONDS) / reference.SECONDS
    return round(run["cpu_seconds"] / slowness, 1)


def _too_long(seconds: Mapping[str, float]) -> Iterator[str]:
    for name, took in seconds.items():
        if took > LESSON_SECONDS:
            yield f"{name}: expected at most {LESSON_SECONDS} s of one core, got {took:g}"


def _too_long_together(seconds: list[float]) -> Iterator[str]:
    if seconds and mean(seconds) > MEAN_SECONDS:
        yield f"expected at most {MEAN_SECONDS} s a lesson on average, got {mean(seconds):.1f}"
    if (minutes := sum(seconds) / 60 / 2) > TOTAL_MINUTES:
        yield f"expected all lessons in {TOTAL_MINUTES} minutes, two at a time, got {minutes:.1f}"
