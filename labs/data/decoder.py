"""Check files in a process that may die, and go on when it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import labs
from labs.imagefile import FileReport, Rules

_PROGRAM = [sys.executable, "-P", "-m", "labs.imagefile"]
_START_TIMEOUT = 120.0  # seconds; a cold disk can make an interpreter slow to start


class Decoder:
    """Own one process that checks files, and replace it when a file kills or hangs it.

    The process runs :mod:`labs.imagefile` and nothing of your program: it needs no
    ``if __name__ == "__main__"``, imports no notebook, and ends by itself when this process does.
    """

    def __init__(self, rules: Rules, timeout: float) -> None:
        self._rules = json.dumps(asdict(rules))
        self._timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()  # a process is not started while we close, nor after
        self._closed = False

    def check(self, path: Path) -> FileReport:
        """Report one file; a file that kills its process twice, or is too slow, is bad."""
        for _ in range(2):  # the memory may have been filled by another process: try once more
            process = self._running()
            with _Alarm(process, self._timeout) as alarm:
                answer = _ask(process, path)
            if not answer or alarm.rang:
                self._discard(process)
            if answer:
                return _report(path, answer)
            if alarm.rang:
                return FileReport(path, reason=f"timeout: no answer in {self._timeout:g} s")
        return FileReport(path, reason=f"crash: the decoder {_how_it_ended(process)}")

    def close(self) -> None:
        """End the process; a check that is under way returns a report of no worth."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                _end(self._process)

    def _running(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the scan was stopped")
            if self._process is None:
                self._process = _start(self._rules)
            return self._process

    def _discard(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            _end(process)
            self._process = None


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

    def check(self, paths: Sequence[Path], at_once: int = 10_000) -> Iterator[FileReport]:
        """Yield one report per path, in order. ``at_once`` bounds the memory of the waiting."""
        for start in range(0, len(paths), at_once):
            yield from self._threads.map(self._check_one, paths[start : start + at_once])

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for member in self._members:
            member.close()
        self._threads.shutdown(wait=True)

    def _check_one(self, path: Path) -> FileReport:
        decoder = self._idle.get()
        try:
            return decoder.check(path)
        finally:
            self._idle.put(decoder)


class _Alarm:
    """Kill the process when the time is up; ``rang`` tells whether that happened."""

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        self.rang = False
        self._process = process
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True

    def _ring(self) -> None:
        self.rang = True
        self._process.kill()

    def __enter__(self) -> _Alarm:
        self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        self._timer.join()


def _start(rules: str) -> subprocess.Popen[str]:
    here = str(Path(labs.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])}
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        process = subprocess.Popen(
            [*_PROGRAM, rules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
            text=True,
            encoding="ascii",
        )
        with _Alarm(process, _START_TIMEOUT):
            ready = _out(process).readline()
        if ready == "ready\n":
            return process
        _end(process)
        complaints.seek(0)
        raise RuntimeError(
            "scan_images: a decoding process did not start; pass workers=0 to decode in this "
            f"process. It said:\n{complaints.read()[-2000:]}"
        )


def _ask(process: subprocess.Popen[str], path: Path) -> str:
    """Return the answer as one line, or nothing when the process died first."""
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(os.fspath(path)) + "\n")
        process.stdin.flush()
        line = _out(process).readline()
    except (OSError, ValueError):  # the pipe broke, or was closed
        return ""
    return line if line.endswith("\n") else ""


def _out(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _report(path: Path, answer: str) -> FileReport:
    said = json.loads(answer)
    return FileReport(**said | {"path": path, "warnings": tuple(said["warnings"])})


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def _how_it_ended(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    if code == -signal.SIGKILL:
        return "was killed, most likely because the memory was full"
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
