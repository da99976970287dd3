"""Check files in a process that may die, and go on when it does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from labs.data.child import Child
from labs.imagefile import FileReport, Rules

_AT_ONCE = 64  # files that a decoder takes at a time, at most


class Decoder:
    """Own one process that checks files, and replace it when a file kills or hangs it."""

    def __init__(self, rules: Rules, timeout: float) -> None:
        self._rules = rules
        self._timeout = timeout
        self._child: Child | None = None
        self._lock = threading.Lock()  # a process is not started while we close, nor after
        self._closed = False
        self._fork = True  # the quickest start, until one is silent

    def check(self, paths: Sequence[Path]) -> list[FileReport]:
        """Report files; one that kills its process twice, or is too slow, is bad.

        Not so in a fork, in which a sound file might be held up by a lock of this process: after
        its death or silence a started interpreter is asked, for this file and from then on.
        """
        reports: list[FileReport] = []
        deaths = 0  # over the file that is next
        while len(reports) < len(paths):
            child = self._running()
            answers = child.answers(paths[len(reports) :], self._timeout)
            reports += answers
            deaths = 0 if answers else deaths
            if len(reports) == len(paths):
                break
            reason = self._why_silent(child)
            deaths += 1  # the memory may have been filled by another process: try once more
            if deaths == 2 or (child.timed_out and not child.forked):
                reports.append(FileReport(paths[len(reports)], reason=reason))
                deaths = 0
        return reports

    def close(self) -> None:
        """End the process; a check that is under way returns a report of no worth."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.end()

    def _running(self) -> Child:
        with self._lock:
            if self._closed:
                raise RuntimeError("the scan was stopped")
            if self._child is None:
                self._child = Child(self._rules, self._fork)
            return self._child

    def _why_silent(self, child: Child) -> str:
        """Say why there is no answer, before the process is killed, which would be the reason."""
        code = None if child.timed_out else child.exit_code()
        with self._lock:
            child.end()
            self._child = None
            self._fork = False
        if child.timed_out:
            return f"timeout: no answer in {self._timeout:g} s"
        return f"crash: the decoder {_how_it_ended(code, child.memory_was_full())}"


@contextmanager
def decoders(count: int, rules: Rules, timeout: float) -> Iterator[_Decoders]:
    """Open ``count`` decoders, and leave none of their processes behind, whatever happens."""
    pool = _Decoders([Decoder(rules, timeout) for _ in range(count)])
    try:
        yield pool
    finally:
        pool.close()


class _Decoders:
    """Share files out among decoders."""

    def __init__(self, members: list[Decoder]) -> None:
        self._members = members
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        for member in members:
            self._idle.put(member)
        self._threads = ThreadPoolExecutor(len(members))

    def check(self, paths: Sequence[Path]) -> Iterator[FileReport]:
        """Yield one report per path, in order. A decoder starts its process with its first file."""
        waiting = 10_000  # bounds the memory of what is done before it is asked for
        for start in range(0, len(paths), waiting):
            part = paths[start : start + waiting]
            size = min(_AT_ONCE, 1 + len(part) // (8 * len(self._members)))  # nobody waits long
            portions = [part[at : at + size] for at in range(0, len(part), size)]
            for reports in self._threads.map(self._check_some, portions):
                yield from reports

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for member in self._members:
            member.close()
        self._threads.shutdown(wait=True)

    def _check_some(self, paths: Sequence[Path]) -> list[FileReport]:
        decoder = self._idle.get()
        try:
            return decoder.check(paths)
        finally:
            self._idle.put(decoder)


def _how_it_ended(code: int | None, memory_was_full: bool) -> str:
    if code is None:
        return "closed its output and went on"
    if code == -signal.SIGKILL:
        why = "because the memory was full" if memory_was_full else "by SIGKILL, not by this scan"
        return f"was killed {why}"
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
