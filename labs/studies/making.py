"""Make a record, find out whether it still says what the code does, and renew it."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path

from labs.ablation import ablate
from labs.repro import versions
from labs.stamp import changed, stamp
from labs.studies.experiment import Experiment
from labs.studies.record import FOLDER, Record, plan, read_record, write_record
from labs.studies.replay import Replay, replay


def make(
    experiment: Experiment,
    store: Path,
    executor: Executor | None = None,
    folder: Path = FOLDER,
) -> Record | None:
    """Run what is missing of a study, and write its record.

    Args:
        experiment: The study.
        store: A folder that keeps every finished run, so that a killed study goes on where it was.
            Runs of other code must not lie there: see :func:`store_of`.
        executor: Where to run, as :func:`labs.ablation.ablate` takes it; here when None.
        folder: Where the records lie.

    Returns:
        The record; ``None`` when Ctrl-C ended the study: the same call goes on.
    """
    code = _hashes(experiment)  # before the runs: an edit made meanwhile must count as stale
    e = experiment
    study = ablate(e.run, e.base, e.vary, e.values, e.seeds, executor=executor, store=store)
    if study.interrupted:
        return None
    today = dt.date.today().isoformat()
    record = Record(
        name=e.name,
        question=e.question,
        command=f"labs study {e.name}",
        study=study,
        code=code,
        versions=asdict(versions()),
        seconds=round(sum(run.seconds for run in study.runs), 1),
        date=today,
        revalidated=today,
    )
    write_record(record, e, folder)
    return read_record(e.name, folder)


def stale(experiment: Experiment, record: Record) -> list[str]:
    """Name what changed since the record was made or revalidated: the ``plan``, or modules."""
    return changed(dict(record.code), _hashes(experiment))


def revalidate(experiment: Experiment, record: Record, folder: Path = FOLDER) -> tuple[Replay, ...]:
    """Make the first steps of every arm again; if all agree, renew the hashes and the date.

    Hours must not be spent for a renamed variable. What only the later part of a run reaches is not
    seen by this, so let the first points of a study touch all that it does.

    Args:
        experiment: The study, as it is now.
        record: As it was made.
        folder: Where the records lie.

    Returns:
        One replay an arm, of its first seed. The record is as it was unless all of them agree.

    Raises:
        ValueError: When the plan is another one: then only new runs will do.
    """
    now = _hashes(experiment)
    if now["plan"] != record.code["plan"]:
        raise ValueError(
            f"study {experiment.name!r}: other settings, values or seeds than its record; make it "
            f"again with `labs study {experiment.name}`"
        )
    seed = experiment.seeds[0]
    replays = tuple(replay(experiment, record, value, seed) for value in experiment.values)
    if all(one.agrees for one in replays):
        today = dt.date.today().isoformat()
        write_record(replace(record, code=now, revalidated=today), experiment, folder)
    return replays


def _hashes(experiment: Experiment) -> dict[str, str]:
    """Return a hash of the plan, and one of every module that a run of the study can reach."""
    code = stamp([f"import {experiment.run.__module__}"])
    code["plan"] = stamp([f"PLAN = {plan(experiment)!r}"])["cells"]
    del code["cells"]
    return dict(sorted(code.items()))


def store_of(experiment: Experiment, caches: Path) -> Path:
    """Name the folder of the finished runs of a study and of exactly this code."""
    return caches / experiment.name / stamp([repr(_hashes(experiment))])["cells"]
