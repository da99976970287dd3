"""Read and write the record of a study: one file of plain text, committed with the book."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from labs.ablation import Run, Study
from labs.ablation.store import canonical
from labs.near_miss import did_you_mean
from labs.studies.experiment import Experiment, Point

FOLDER = Path(__file__).parent / "records"
DIGITS = 6
"""Significant digits that are kept: more would be noise of the processor."""


@dataclass(frozen=True, repr=False)
class Record:
    """Hold a study that was run once, and when, where and with what.

    Attributes:
        name: Of the study.
        question: What it asks.
        command: What makes it again.
        study: All runs, as ``labs.ablation.ablate`` returned them.
        code: A hash per module that the runs reached, and one of the plan itself (``plan``).
        versions: Of Python, PyTorch and the rest, and the device.
        seconds: That the runs took, added up.
        date: When it was run, ``YYYY-MM-DD``.
        revalidated: When the first steps of every arm were last found to agree with it.
    """

    name: str
    question: str
    command: str
    study: Study
    code: Mapping[str, str]
    versions: Mapping[str, Any]
    seconds: float
    date: str
    revalidated: str

    def curves(self) -> pd.DataFrame:
        """Return one row per recorded step: the value, the seed, ``step`` and what was logged."""
        return self.study.curves()

    def points(self, value: Any, seed: int) -> tuple[Point, ...]:
        """Return what one run yielded, in order.

        Raises:
            KeyError: When there is no such run.
        """
        for run in self.study.runs:
            if run.seed == seed and canonical(run.value) == canonical(value):
                return run.curve
        raise KeyError(
            f"study {self.name!r}: no run with {self.study.vary}={value!r} and seed {seed}; it "
            f"tries {', '.join(map(repr, self.study.values))}"
        )

    @property
    def label(self) -> str:
        """Say what stands under a table drawn from it: ``recorded: 5 seeds, 41 min, date``."""
        seeds = len({run.seed for run in self.study.runs})
        took = f"{self.seconds / 60:.0f} min" if self.seconds >= 120 else f"{self.seconds:.0f} s"
        return f"recorded: {seeds} seeds, {took} of one core, {self.date}"

    def __repr__(self) -> str:
        return f"Record({self.name}: {len(self.study.runs)} runs, {self.label})"


def read_record(name: str, folder: Path = FOLDER) -> Record:
    """Read the record of a study.

    Args:
        name: Of the study: the name of the file without ``.jsonl``.
        folder: Where the records lie.

    Raises:
        FileNotFoundError: When there is none of that name; near misses are listed.
        ValueError: When a line of it is no record.
    """
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        there = sorted(p.stem for p in folder.glob("*.jsonl"))
        raise FileNotFoundError(
            f"no record of a study {name!r}{did_you_mean(name, there)}; `labs study {name}` makes "
            f"it; there are {', '.join(there) or 'none'}"
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        head, *rows = map(json.loads, lines)
        plan = head.pop("plan")
        runs = tuple(_run(row) for row in rows)
        values = tuple(map(_plain, plan["values"]))
        study = Study(plan["vary"], values, _plain(plan["base"][plan["vary"]]), runs)
        return Record(study=study, **head)
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(
            f"{path.name}: expected a header and one line of JSON per run ({problem}); restore the "
            f"committed file, or make it again with `labs study {name}`"
        ) from problem


def write_record(record: Record, experiment: Experiment, folder: Path = FOLDER) -> Path:
    """Write the record of a study whole, or not at all.

    Args:
        record: What to write.
        experiment: Whose plan goes into the header.
        folder: Where the records lie.
    """
    head = {name: x for name, x in vars(record).items() if name != "study"}
    head |= {"code": dict(record.code), "versions": dict(record.versions), "plan": plan(experiment)}
    rows = [head, *(_row(run) for run in record.study.runs)]
    path = folder / f"{record.name}.jsonl"
    part = path.with_suffix(".part")
    folder.mkdir(parents=True, exist_ok=True)
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)
    return path


def plan(experiment: Experiment) -> dict[str, Any]:
    """Write down what decides the runs, as JSON can hold it."""
    return {
        "run": canonical(experiment.run),
        "base": canonical(dict(experiment.base)),
        "vary": experiment.vary,
        "values": canonical(list(experiment.values)),
        "seeds": list(experiment.seeds),
    }


def _row(run: Run) -> dict[str, Any]:
    """Write one run: its error too, since a run that failed belongs to the result."""
    row = asdict(run) | {"value": canonical(run.value), "seconds": round(run.seconds, 1)}
    row["metrics"] = _rounded(run.metrics)
    row["curve"] = [_rounded(point) for point in run.curve]
    del row["traceback"]  # it names paths of the machine
    return row


def _rounded(point: Point) -> Point:
    return {name: float(f"{x:.{DIGITS}g}") for name, x in point.items()}


def _run(row: dict[str, Any]) -> Run:
    return Run(**row | {"value": _plain(row["value"]), "curve": tuple(row["curve"])})


def _plain(value: Any) -> Any:
    """Make a tuple of what JSON gives as a list, so that it can name a row of a table."""
    return (
        tuple(map(_plain, value))
        if isinstance(value, Sequence | list) and not isinstance(value, str)
        else value
    )
