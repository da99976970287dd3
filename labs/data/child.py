"""Talk to one process that checks files, and notice when it dies or is silent."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

import labs
from labs.data.forked import Forked
from labs.imagefile import FileReport, Rules

# Without the site module, whose files can start half an environment: all paths are handed over.
_PROGRAM = [sys.executable, "-S", "-P", "-m", "labs.imagefile"]
_OURS = tuple(_PROGRAM)
_START_TIMEOUT = 120.0  # seconds; a cold disk can make an interpreter slow to start
_FORK_TIMEOUT = 10.0  # seconds; nothing is read from a disk, and what is slower is started instead
_END_TIMEOUT = 10.0  # seconds from the end of its output to its end
_AHEAD = 16_384  # bytes of paths that may wait for the process; with one more they fit a pipe


class Child:
    """Hold one process that checks files.

    It is a fork of this one where that can be had, and else a started interpreter, which runs
    :mod:`labs.imagefile` and nothing of your program. Both need no ``if __name__ == "__main__"``,
    import no notebook, and end by themselves when this process does.

    Attributes:
        timed_out: Whether the last file took too long.
        forked: Whether it is a fork; then its silence is no proof against a file.

    Args:
        rules: What is expected of the files.
        fork: Whether a fork will do.

    Raises:
        RuntimeError: When it cannot be started.
    """

    def __init__(self, rules: Rules, fork: bool = False) -> None:
        self.timed_out = False
        self._kills = _kills_for_memory()
        self._rest = b""
        self.forked = fork and _can_fork() and self._fork(rules)
        if not self.forked:
            self._start(rules)

    def _fork(self, rules: Rules) -> bool:
        """Fork, and return whether the copy came to life."""
        try:
            self._process: Forked | subprocess.Popen[bytes] = Forked(rules)
        except OSError:  # no memory for a second process of this size, or too many processes
            return False
        if self._line(_FORK_TIMEOUT) == "ready\n":
            return True
        self.end()
        self.timed_out, self._rest = False, b""
        return False

    def _start(self, rules: Rules) -> None:
        here = str(Path(labs.__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])}
        with tempfile.TemporaryFile("w+", errors="replace") as complaints:
            self._process = subprocess.Popen(
                [*_PROGRAM, json.dumps(asdict(rules))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=environment,
                bufsize=0,
            )
            if self._line(_START_TIMEOUT) == "ready\n":
                return
            self.end()
            complaints.seek(0)
            raise RuntimeError(
                "scan_images: a decoding process did not start; pass workers=0 to decode in this "
                f"process. It said:\n{complaints.read()[-2000:]}"
            )

    def answers(self, paths: Sequence[Path], timeout: float) -> list[FileReport]:
        """Return the reports of the first of these files: all of them, unless it dies or is slow.

        Args:
            paths: The files.
            timeout: Seconds for each of them.
        """
        reports: list[FileReport] = []
        asked = 0
        while len(reports) < len(paths):
            if asked == len(reports):  # it has nothing to do
                asked += self._ask(paths[asked:])
            line = self._line(timeout)
            if not line:
                break
            said = json.loads(line)
            said["warnings"] = tuple(said["warnings"])
            reports.append(FileReport(paths[len(reports)], **said))
        return reports

    def exit_code(self) -> int | None:
        """Return the code of a process that is ending; minus the signal's number if it was one."""
        try:
            return self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            return None

    def memory_was_full(self) -> bool:
        """Tell whether the system has killed some process for memory since this one started."""
        return _kills_for_memory() > self._kills

    def end(self) -> None:
        """Kill the process, if it still runs, and leave nothing open."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _ask(self, paths: Sequence[Path]) -> int:
        """Ask for the first of these files, at least one, and return for how many."""
        assert self._process.stdin is not None
        names = [os.fspath(path) for path in paths]
        sizes = accumulate((6 * len(name) for name in names), initial=0)  # as JSON, at most
        count = sum(size <= _AHEAD for size in list(sizes)[:-1])
        line = json.dumps(names[:count]).encode("ascii") + b"\n"
        with suppress(OSError, ValueError):  # the pipe broke or was closed: no answer will come
            self._process.stdin.write(line)
        return count

    def _line(self, timeout: float) -> str:
        """Return the next line of output; nothing when the process died, or the time is up."""
        assert self._process.stdout is not None
        until = time.monotonic() + timeout
        try:
            while b"\n" not in self._rest:
                seconds = max(0.0, until - time.monotonic())
                if not select.select([self._process.stdout], [], [], seconds)[0]:
                    self.timed_out = True
                    return ""
                read = os.read(self._process.stdout.fileno(), 65_536)
                if not read:
                    return ""
                self._rest += read
        except (OSError, ValueError):  # closed while we waited
            return ""
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("ascii") + "\n"


def _can_fork() -> bool:
    """Tell whether a fork may check files: on Linux, when it would do as the program does.

    macOS has ``os.fork`` as well, but its own frameworks may crash in a copy.
    """
    return sys.platform == "linux" and tuple(_PROGRAM) == _OURS


def _kills_for_memory() -> int:
    """Return how many processes Linux has killed for memory since it started; 0 elsewhere."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
