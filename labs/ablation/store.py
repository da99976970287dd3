"""Keep the record of a study on disk, so that a killed one goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from labs.ablation.run import Run

_PATIENCE_SECONDS = 10.0
"""How long to wait for another study: a killed one may leave data-loading processes behind."""


class Store:
    """Know the finished runs of one study, and append to them.

    The file ``runs.jsonl`` has one line of JSON that says which study it is, and one per run. A
    line is appended in one write and forced to disk before the study goes on. A line that a crash
    left without its end is cut off when the store is opened: that run was not finished.
    """

    def __init__(self, path: Path, study: Mapping[str, Any]) -> None:
        """Read the file, or start it.

        Args:
            path: The file. The caller holds the lock.
            study: What all its runs have in common, as JSON can hold it.

        Raises:
            ValueError: When the file is of another study, or a line of it is no record.
        """
        self._path = path
        self._finished: dict[str, Run] = {}
        lines = _whole_lines(path)
        if not lines:
            self._append(study)
        for number, line in enumerate(lines, 1):
            self._read(number, line, study)

    def find(self, value: Any, seed: int) -> Run | None:
        """Return the finished run of that value and seed. One that failed is not finished."""
        return self._finished.get(_key(canonical(value), seed))

    def add(self, run: Run) -> None:
        """Append the run, and return when it is on disk."""
        record = {
            "value": canonical(run.value),
            "seed": run.seed,
            "metrics": run.metrics,
            "error": run.error,
            "traceback": run.traceback,
            "seconds": run.seconds,
            "curve": list(run.curve),
        }
        self._append(record)

    def _append(self, record: Mapping[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            written = os.write(file, line)
            if written < len(line):
                raise OSError(f"{self._path}: {written} of {len(line)} bytes written; disk full?")
            os.fsync(file)
        finally:
            os.close(file)

    def _read(self, number: int, line: bytes, study: Mapping[str, Any]) -> None:
        try:
            record = json.loads(line)
            if number == 1:
                _refuse_another_study(self._path, record, study)
            elif not record["error"]:
                run = Run(**record)
                run = replace(run, curve=tuple(run.curve))  # JSON has lists alone
                self._finished[_key(run.value, run.seed)] = run
        except (KeyError, TypeError, json.JSONDecodeError) as problem:
            raise ValueError(
                f"{self._path}, line {number}: not a record of a study; delete that line, or "
                "choose another store"
            ) from problem


@contextmanager
def open_store(
    folder: str | Path, fn: Callable[..., Any], base: Mapping[str, Any], vary: str
) -> Iterator[Store]:
    """Open the record of a study, for this process alone.

    Args:
        folder: Where ``runs.jsonl`` lies, or will.
        fn: Known by its module and name. Its code is not looked at: after changing what it
            measures, choose another folder.
        base: The settings that stay; ``vary`` may be among them and is left out.
        vary: The setting that changes.

    Raises:
        ValueError: When the folder holds another study, or a setting cannot be written down.
        RuntimeError: When another study, in this process or in another, has the store open.
    """
    from filelock import FileLock, Timeout

    fixed = {name: canonical(value) for name, value in base.items() if name != vary}
    study = {"fn": canonical(fn), "vary": vary, "base": fixed}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=_PATIENCE_SECONDS)  # ends with the process
    try:
        lock.acquire()
    except Timeout as problem:
        raise RuntimeError(
            f"ablate: {folder} is in use by another study; wait for it, or choose another store"
        ) from problem
    try:
        yield Store(folder / "runs.jsonl", study)
    finally:
        lock.release()


def canonical(value: Any) -> Any:
    """Write a setting as JSON can hold it, the same way in every process.

    Args:
        value: None, a number, a string, a list, a tuple, a dict; a named function or class, which
            becomes its name; or anything whose ``repr`` tells it apart and is always the same.

    Raises:
        ValueError: When the ``repr`` holds an address or leaves something out (a lambda, an
            object without its own repr, a long array).
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: canonical(item) for key, item in value.items()}
    name = getattr(value, "__qualname__", "")
    written = f"{value.__module__}.{name}" if name and "<lambda>" not in name else repr(value)
    if " at 0x" in written or "..." in written:
        raise ValueError(
            f"ablate: cannot write {written} into the store, since it reads differently in the "
            "next process; use a named function, or a name that fn looks up"
        )
    return written


def _key(value: Any, seed: int) -> str:
    return json.dumps([value, seed], sort_keys=True)


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return content[:whole].splitlines()


def _refuse_another_study(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    new = json.loads(json.dumps(new))
    if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):
        return
    was, now = {**old["base"], **old}, {**new["base"], **new}
    names = [name for name in {**was, **now} if name != "base"]
    changed = [
        f"{name} was {was.get(name, 'absent')!r} and is {now.get(name, 'absent')!r}"
        for name in names
        if json.dumps(was.get(name, "absent")) != json.dumps(now.get(name, "absent"))
    ]
    raise ValueError(
        f"ablate: {path.parent} holds another study: {'; '.join(changed)}; choose another store"
    )
