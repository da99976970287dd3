"""Fork a process that checks files: the quickest start of one, where Linux runs.

A fork copies this process and only the thread that forks; a lock that another thread holds stays
locked in the copy for ever. This is sound here because the copy needs no such lock: all that it
imports is imported before, it decodes with Pillow only, it runs neither torch nor OpenMP, and it
ends without running what this process has registered for its end. Should it be silent all the
same, :mod:`labs.data.decoder` asks a started interpreter before it calls a file bad.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import subprocess
import threading
import time
import warnings
from contextlib import suppress
from typing import NoReturn

# pixels and arrays are imported by the first file that needs them: here, before the fork.
from labs.imagefile import Rules, arrays, pixels  # noqa: F401
from labs.imagefile.read import exclusive
from labs.imagefile.serve import limit_memory, serve

_HOLD = 0.02  # seconds; see serve(): what is lost is asked for again


class Forked:
    """Hold a forked process as :class:`subprocess.Popen` holds a started one.

    Attributes:
        stdin: Takes a list of paths per line, as JSON.
        stdout: Gives ``ready``, then one report per line.

    Raises:
        OSError: When the system makes no further process.
    """

    def __init__(self, rules: Rules) -> None:
        self._code: int | None = None
        self._lock = threading.Lock()  # no signal is sent to a number that is free again
        asked, ask = os.pipe()
        answer, answered = os.pipe()
        self.stdin = os.fdopen(ask, "wb", buffering=0)
        self.stdout = os.fdopen(answer, "rb", buffering=0)
        try:
            self._pid = _fork(asked, answered, rules)
        except OSError:
            self.stdin.close()
            self.stdout.close()
            raise
        finally:
            os.close(asked)
            os.close(answered)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, minus the number of the signal if one ended it.

        Raises:
            subprocess.TimeoutExpired: When it still runs after ``timeout`` seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self._poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("the forked decoder", timeout or 0)
            time.sleep(0.001)
        return code

    def kill(self) -> None:
        """Kill the process unless it has ended."""
        if self._poll() is None:
            with self._lock:
                if self._code is None:
                    os.kill(self._pid, signal.SIGKILL)

    def _poll(self) -> int | None:
        with self._lock:
            if self._code is None:
                try:
                    pid, status = os.waitpid(self._pid, os.WNOHANG)
                except ChildProcessError:  # this program ignores SIGCHLD: nobody knows the code
                    pid, status = self._pid, 0
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
            return self._code


def _fork(asked: int, answered: int, rules: Rules) -> int:
    """Return the number of the new process, in which this call does not return.

    No other thread of ours decodes meanwhile, so that Pillow's switches are as they should be.
    Python 3.12 and later warn when a process with threads is forked; the head of this file says
    why it is sound here.
    """
    with exclusive(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            if pid := os.fork():
                return pid
            _live(asked, answered, rules)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live(asked: int, answered: int, rules: Rules) -> NoReturn:
    """Be the new process, and end it whatever happens, without a word of what it is a copy of."""
    code = 1
    try:
        _forget_signals()
        requests, answers = _keep_only(asked, answered)
        gc.freeze()  # what was there before is not ours to collect, nor to finalize
        logging.disable()
        limit_memory(rules)
        with os.fdopen(requests, encoding="ascii") as lines:
            serve(lines, os.fdopen(answers, "w", encoding="ascii"), rules, hold=_HOLD)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        os._exit(code)


def _forget_signals() -> None:
    """Leave every signal to the system, but Ctrl-C to the scan, which then ends us."""
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _keep_only(asked: int, answered: int) -> tuple[int, int]:
    """Close all that is open but two pipes, and return those; what is printed goes nowhere.

    An end of another decoder's pipe that stayed open here would keep that decoder alive.
    """
    import fcntl  # there is none on Windows

    kept = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in (asked, answered))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with suppress(OSError):  # the list itself
                os.close(int(name))
    return kept[0], kept[1]
