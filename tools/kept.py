"""Make many trials of lessons, and keep each on disk as soon as it is done.

A result is one JSON line for a lesson under a condition. It counts for as long as neither the
lesson, nor what it uses of ``labs``, nor the condition has changed; a stopped run goes on from it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Lock

from labs.stamp import ROOT
from tools.lesson import Lesson, current_stamp
from tools.trial import Fate, Made, Trial, judge, made_in, run

KEPT = ROOT / ".cache" / "idle" / "results.jsonl"
NOTHING = ""
"""The name of the condition under which nothing is different."""


@dataclass(frozen=True)
class Condition:
    """Say what is different where a lesson runs.

    Attributes:
        name: What it is called.
        environment: Variables that are set before Python starts.
        first: Code that runs before the lesson's first cell.
        depends: What else decides the result, such as the source of that code.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    first: str = ""
    depends: str = ""

    def key(self, lesson: Lesson) -> str:
        """Return a hash of all that decides what the lesson does under this condition."""
        parts = [current_stamp(lesson), dict(self.environment), self.first, self.depends]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """Hold what became of the claims of one lesson under one condition.

    Attributes:
        condition: Its name.
        lesson: Its name.
        key: What decided the result; see :meth:`Condition.key`.
        fates: One per claim that the lesson makes where nothing is different.
        seconds: How long it took.
    """

    condition: str
    lesson: str
    key: str
    fates: tuple[Fate, ...]
    seconds: float = 0.0

    def count(self, fate: str) -> int:
        """Return how many claims had this fate."""
        return sum(one.fate == fate for one in self.fates)


class Store:
    """Keep results in a file, one JSON line each; of two with one key the later one counts."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()
        self._results: dict[tuple[str, str, str], Result] = {}
        for number, line in enumerate(self._whole_lines(), 1):
            self._remember(self._read(line, number))

    def find(self, condition: Condition, lesson: Lesson) -> Result | None:
        """Return the result of a lesson under a condition, unless something has changed since."""
        return self._results.get((condition.name, lesson.name, condition.key(lesson)))

    def add(self, result: Result) -> None:
        """Write a result down, and remember it."""
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps(asdict(result), ensure_ascii=False) + "\n"
            with self.path.open("ab", buffering=0) as file:
                file.write(line.encode())  # at once, so that two programs may share the file
            self._remember(result)

    def _remember(self, result: Result) -> None:
        self._results[result.condition, result.lesson, result.key] = result

    def _whole_lines(self) -> list[str]:
        """Return the lines, and cut off one that was being written when the program was killed."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self.path, len(whole))
        return whole.decode().split("\n")[:-1]  # a claim may hold other ends of lines

    def _read(self, line: str, number: int) -> Result:
        try:
            row = json.loads(line)
            fates = tuple(Fate(**fate) for fate in row.pop("fates"))
            return Result(**row, fates=fates)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{self.path}:{number}: expected a result as this program writes it, got "
                f"{line[:60]!r} ({error}); remove the line, and that lesson runs again"
            ) from error


class Trials:
    """Run lessons under conditions; what is kept is not run again."""

    def __init__(self, store: Store, jobs: int = 2) -> None:
        self.store, self.jobs = store, jobs
        self._running: set[int] = set()
        self._stopped, self._lock = False, Lock()

    def make(self, wanted: Sequence[tuple[Condition, Lesson]]) -> list[Result]:
        """Return the results, in the order in which they are wanted; Ctrl-C keeps what is done.

        A lesson whose notebook is stale first runs with nothing different, to see its claims.
        """
        lessons = dict.fromkeys(lesson for _, lesson in wanted)
        unknown = [(Condition(NOTHING), one) for one in lessons if one.stale()]
        if self._all(unknown, self._plain):
            self._all(wanted, self._changed)
        found = (self.store.find(*pair) for pair in wanted)
        return [result for result in found if result is not None]

    def _all(
        self,
        pairs: Iterable[tuple[Condition, Lesson]],
        work: Callable[[Condition, Lesson], Result],
    ) -> bool:
        """Do what is not kept, and say whether all of it was done."""
        due = [pair for pair in pairs if self.store.find(*pair) is None]
        with ThreadPoolExecutor(max(1, self.jobs)) as pool:
            asked = [pool.submit(self._timed, work, *pair) for pair in due]
            try:
                for number, done in enumerate(as_completed(asked), 1):
                    result = done.result()
                    if result is not None:
                        self.store.add(result)
                        _say(f"[{number}/{len(due)}] {_line(result)}")
            except BaseException as error:
                self._stop()
                pool.shutdown(wait=True, cancel_futures=True)
                if not isinstance(error, KeyboardInterrupt):
                    raise
                _say("stopped; what was finished is kept, and the same command goes on from it")
        return not self._stopped

    def _timed(
        self,
        work: Callable[[Condition, Lesson], Result],
        condition: Condition,
        lesson: Lesson,
    ) -> Result | None:
        if self._stopped:
            return None
        began = time.monotonic()
        result = work(condition, lesson)
        if self._stopped:  # its process was ended, which says nothing about the lesson
            return None
        return Result(**{**vars(result), "seconds": round(time.monotonic() - began, 1)})

    def _plain(self, condition: Condition, lesson: Lesson) -> Result:
        trial = self._run(condition, lesson)
        if trial.errors:
            raise RuntimeError(
                f"{lesson.name}: expected it to run where nothing is different, got "
                f"{next(iter(trial.errors.values()))}; mend it first: make lessons "
                f"LESSON={lesson.name}"
            )
        return _judged(condition, lesson, trial.made, trial)

    def _changed(self, condition: Condition, lesson: Lesson) -> Result:
        return _judged(condition, lesson, self._claims(lesson), self._run(condition, lesson))

    def _claims(self, lesson: Lesson) -> Sequence[Made]:
        """Return the claims that hold where nothing is different."""
        if not lesson.stale():
            made: Iterable[Made] = made_in(lesson.read_notebook(), before=0)
        else:
            known = self.store.find(Condition(NOTHING), lesson)
            assert known is not None
            made = (Made(one.cell, one.text, one.fate == "green") for one in known.fates)
        return [claim for claim in made if claim.held]

    def _run(self, condition: Condition, lesson: Lesson) -> Trial:
        """Run a lesson in a process that :meth:`_stop` knows for as long as it lives."""
        mine: set[int] = set()

        def note(process: int) -> None:
            with self._lock:
                mine.add(process)
                self._running.add(process)
            if self._stopped:
                _end(process)

        try:
            return run(lesson, condition.environment, condition.first, note)
        finally:
            with self._lock:
                self._running -= mine

    def _stop(self) -> None:
        self._stopped = True
        with self._lock:
            for process in self._running:
                _end(process)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every program which makes trials has."""
    parser.add_argument("--lesson", default="", help="one lesson, by path or part of it")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default 2)")
    parser.add_argument("--table", action="store_true", help="run nothing, show what is known")
    parser.add_argument("--kept", type=Path, default=KEPT, help="the file of results")


def collect(chosen: argparse.Namespace, wanted: Sequence[tuple[Condition, Lesson]]) -> list[Result]:
    """Return the results that are wanted: those that are kept, and unless ``--table`` the others.

    Args:
        chosen: What :func:`add_options` reads.
        wanted: The conditions, each with a lesson.
    """
    store = Store(chosen.kept)
    if not chosen.table:
        return Trials(store, chosen.jobs).make(wanted)
    return [result for pair in wanted if (result := store.find(*pair)) is not None]


def missing(results: Sequence[Result], wanted: int) -> list[str]:
    """Say how many results are not known yet; nothing when all are."""
    unknown = wanted - len(results)
    said = f"{unknown} of {wanted} runs are not known yet; the command without --table makes them"
    return ["", said] if unknown else []


def _judged(condition: Condition, lesson: Lesson, wanted: Sequence[Made], trial: Trial) -> Result:
    fates = tuple(judge(wanted, trial))
    return Result(condition.name, lesson.name, condition.key(lesson), fates)


def _end(process: int) -> None:
    """End a kernel, which leads a process group of its own, with what it started there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def _line(result: Result) -> str:
    """Say what came of one trial."""
    counts = ", ".join(f"{result.count(fate)} {fate}" for fate in ("green", "red", "error"))
    under = result.condition or "nothing changed"
    return f"{under} | {result.lesson}: {counts} ({result.seconds:g} s)"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
