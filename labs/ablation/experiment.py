"""Run an ablation: one setting changes, the seeds repeat, everything else stays."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Executor, Future, as_completed
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

from labs.ablation.pool import refuse
from labs.ablation.run import NotAScoreError, Run, Score, execute, failed
from labs.ablation.store import Store, canonical, open_store
from labs.ablation.study import Study, label
from labs.near_miss import did_you_mean
from labs.progress import bar

Call = tuple[Callable[..., Score], dict[str, Any], str, int]


def ablate(
    fn: Callable[..., Score],
    base: Mapping[str, Any],
    vary: str,
    values: Iterable[Any],
    seeds: Iterable[int] = range(3),
    executor: Executor | None = None,
    store: str | Path | None = None,
    progress: bool | None = None,
) -> Study:
    """Run ``fn`` once per value and seed, with everything else as in ``base``.

    Python, NumPy and PyTorch are seeded before each call, so build the model and draw the split
    inside ``fn``. Afterwards the random state is as it was. A run that raises is a row with its
    error, and the others go on. Ctrl-C ends the study and keeps the finished runs.

    Without an executor the runs are made here, one after another: a function defined in a notebook
    cannot be imported by another process. With one they are made there, with the same numbers:
    ``processes(4)`` on this machine; ``Client(cluster).get_executor()`` on a Dask cluster, which
    ``dask_jobqueue.SLURMCluster(processes=1, cores=1, …)`` starts under SLURM (one thread per
    worker, since a process makes one run at a time; Dask draws from Python's ``random`` itself, so
    only NumPy's and PyTorch's numbers repeat there); ``mpi4py.futures.MPIPoolExecutor()`` under
    ``mpiexec -n 8 python -m mpi4py.futures study.py``. Set ``OMP_NUM_THREADS`` for workers that
    you start yourself.

    Args:
        fn: Called as ``fn(**base)`` with ``vary`` replaced; returns a score or a dict of scores,
            or yields such dicts on its way (``step`` among them), the score last: ``.curves()``.
        base: The settings of the reference run, ``vary`` among them.
        vary: The one setting to change. It is one name, so two cannot change at once.
        values: What to try. The others are compared with ``base[vary]`` when it is among them, and
            with the first value otherwise.
        seeds: One run per seed and value. At least two, or no spread can be seen.
        executor: Where to run: any ``concurrent.futures.Executor`` but one of threads.
        store: A folder that keeps every finished run on disk. The same call goes on where a killed
            one was, and tries again only what failed; values and seeds may be added later.
        progress: Whether to show a bar of the runs on stderr; None shows it on a terminal and in a
            notebook only. ``TQDM_DISABLE=1`` in the environment silences it.

    Returns:
        The study: ``.table()``, ``.frame()``, ``.plot(ax)``, ``.to_markdown()``, ``.warning``.

    Raises:
        KeyError: When ``vary`` is not a setting in ``base``.
        TypeError: When ``fn`` does not take these settings, the executor cannot run it, or
            ``progress`` is not a bool or None.
        NotAScoreError: When ``fn`` returns something else than numbers; the study ends at once.
        ValueError: When there are fewer than two values or two seeds, or one is given twice; or
            when ``store`` holds another study.
        RuntimeError: When another study has the store open.

    Warns:
        RuntimeWarning: When runs failed.
    """
    _refuse_unknown(vary, base)
    arms, repeats = _distinct("values", values), _whole(_distinct("seeds", seeds))
    _refuse_signature(fn, base)
    if store is not None:
        _distinct("values as the store writes them", [canonical(value) for value in arms])
    if executor is not None:
        refuse(executor, fn, [dict(base), arms])
    plan = [(value, seed) for value in arms for seed in repeats]
    done: dict[int, Run] = {}
    with _record(store, fn, base, vary) as record:
        for place, (value, seed) in enumerate(plan):
            if record is not None and (run := record.find(value, seed)) is not None:
                done[place] = replace(run, value=value)
        calls: dict[int, Call] = {
            place: (fn, {**base, vary: value}, vary, seed)
            for place, (value, seed) in enumerate(plan)
            if place not in done
        }
        interrupted = _collect(calls, executor, record, done, progress)
    runs = tuple(done[place] for place in sorted(done))
    study = Study(vary, tuple(arms), base[vary], runs, interrupted)
    if study.failures:
        warnings.warn(study.failures, RuntimeWarning, stacklevel=2)
    return study


def _collect(
    calls: dict[int, Call],
    executor: Executor | None,
    record: Store | None,
    done: dict[int, Run],
    progress: bool | None,
) -> bool:
    """Make the calls, put each run into ``done`` and on disk; say whether Ctrl-C ended it."""
    runs = _here(calls) if executor is None else _elsewhere(executor, calls)
    vary = next((call[2] for call in calls.values()), "")
    total = len(calls) + len(done)
    with closing(runs), bar(None, progress, vary, total, len(done)) as shown:
        try:
            for place, run in runs:
                _, settings, _, _ = calls[place]
                run = replace(run, value=settings[vary])  # not the copy that a process sent back
                if record is not None:
                    record.add(run)
                done[place] = run
                shown.update()
        except KeyboardInterrupt:
            if not done:
                raise
            return True
    return False


def _here(calls: dict[int, Call]) -> Generator[tuple[int, Run], None, None]:
    for place, call in calls.items():
        yield place, execute(*call)


def _elsewhere(
    executor: Executor, calls: dict[int, Call]
) -> Generator[tuple[int, Run], None, None]:
    futures = {executor.submit(execute, *call): place for place, call in calls.items()}
    try:
        for future in as_completed(futures):
            place = futures[future]
            yield place, _result(future, calls[place])
    finally:
        for future in futures:
            future.cancel()


def _result(future: Future[Run], call: Call) -> Run:
    try:
        return future.result()
    except NotAScoreError:
        raise
    except Exception as problem:  # not the run itself failed, but what should have made it
        _, settings, vary, seed = call
        return failed(settings[vary], seed, problem)


def _record(
    store: str | Path | None, fn: Callable[..., Score], base: Mapping[str, Any], vary: str
) -> AbstractContextManager[Store | None]:
    return nullcontext() if store is None else open_store(store, fn, base, vary)


def _refuse_unknown(vary: str, base: Mapping[str, Any]) -> None:
    if not isinstance(vary, str):
        raise TypeError(f"ablate: expected the name of one setting as vary, got {vary!r}")
    if vary not in base:
        hint = did_you_mean(vary, base)
        raise KeyError(f"ablate: {vary!r} is not in base; there are {', '.join(base)}{hint}")


def _distinct(name: str, given: Iterable[Any]) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"ablate: expected a list or a range as {name}, got {given!r}")
    items = list(given)
    if len(items) < 2:
        raise ValueError(f"ablate: expected two or more {name}, got {len(items)}")
    labels = [label(item) for item in items]
    if len(set(labels)) < len(labels):
        twice = next(item for item in labels if labels.count(item) > 1)
        raise ValueError(
            f"ablate: {twice!r} is given twice in {name}; the same run twice is no new evidence"
        )
    return items


def _whole(seeds: list[Any]) -> list[int]:
    for seed in seeds:
        if not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
            raise ValueError(f"ablate: expected integers in [0, 2**32) as seeds, got {seed!r}")
    return [int(seed) for seed in seeds]


def _refuse_signature(fn: Callable[..., Score], base: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(fn)
    except ValueError:  # some functions written in C do not tell
        return
    try:
        signature.bind(**base)
    except TypeError as problem:
        name = getattr(fn, "__name__", repr(fn))
        raise TypeError(f"ablate: {name}{signature} cannot take base: {problem}") from problem
