"""Start one process per rank, and end them all, whatever happens."""

from __future__ import annotations

import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

import torch

from labs.ddp.outcome import Failure, RankFailed, crash, failure_of, hang, status_of
from labs.ddp.rank import MAIN

_POLL = 0.02  # seconds between two looks at the ranks
_GRACE = 3.0  # seconds in which the rank that made another lose its peer must show up
_ANSWER = 2.0  # seconds in which a hanging rank must say where it is
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pathlib import Path; "
    "from labs.ddp.rank import main; main(Path(sys.argv[2]), float(sys.argv[3]))"
)


def launch(
    worker: Callable[..., Any],
    world_size: int = 2,
    args: Sequence[Any] = (),
    timeout: float = 120,
) -> list[Any]:
    """Call ``worker(rank, *args)`` in ``world_size`` fresh processes that share a process group.

    The group is gloo over the loopback interface, or nccl where there is a GPU for each rank; the
    processes meet at a temporary file, so no port is taken. A rank sees the environment that
    ``torchrun`` would give it, except ``MASTER_ADDR`` and ``MASTER_PORT``, and an equal share of
    the threads of this process. What a rank prints is kept from you, and shown when it fails.

    No process outlives the call. Each rank is the head of a process group of its own, which is
    killed at the end, with whatever the rank started; and a rank ends by itself when this process
    is gone, because it watches the pipe that this process holds.

    Args:
        worker: A function of an importable module. Its results and ``args`` travel by pickle:
            tensors are copied, never shared. Put results on the CPU.
        world_size: How many processes, at least 1.
        args: What every rank gets after its rank.
        timeout: How long all of it may take, in seconds, with the start (several seconds).

    Returns:
        What each rank returned, in the order of the ranks.

    Raises:
        RankFailed: When a rank raises, ends without a result, is killed, or takes longer than
            ``timeout``. It names the guilty rank, and comes at most ten seconds after ``timeout``.
        TypeError: When ``worker`` cannot be imported by another process, or ``args`` not pickled.
        ValueError: When ``world_size`` or ``timeout`` is out of range.
    """
    if world_size < 1 or not 0 < timeout < float("inf"):
        raise ValueError(
            f"launch: expected world_size >= 1 and a finite timeout > 0, got {world_size} and "
            f"{timeout}"
        )
    work = _pickle_work(worker, tuple(args))
    deadline = time.monotonic() + timeout
    ranks: list[Popen] = []
    with tempfile.TemporaryDirectory(prefix="labs-ddp-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "work.pickle").write_bytes(work)
        try:
            for rank in range(world_size):
                # One by one: when a start fails, those before it are ended.
                ranks.append(_start(folder, rank, world_size, timeout))  # noqa: PERF401
            _wait(folder, ranks, deadline, timeout)
            return [_result(folder, rank, world_size) for rank in range(world_size)]
        finally:
            _end(ranks)


def _pickle_work(worker: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    function: Any = worker
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__name__)
    home = getattr(function, "__module__", None)
    if home == "__main__":
        raise TypeError(f"launch: {name!r} is of __main__; {MAIN}")
    if "<locals>" in name or "<lambda>" in name:
        raise TypeError(
            f"launch: {name!r} has no name to import it by; define it with `def` at the "
            "top level of a module"
        )
    try:
        return pickle.dumps((worker, args))
    except Exception as error:
        raise TypeError(
            f"launch: worker {name!r} and its args travel by pickle, which failed: {error}"
        ) from error


def _start(folder: Path, rank: int, world_size: int, timeout: float) -> Popen:
    threads = max(1, torch.get_num_threads() // world_size)
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    with (folder / f"output-{rank}").open("wb") as output:
        return Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(folder), str(timeout)],
            stdin=subprocess.PIPE,  # its end of file tells the rank that we are gone
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {key: str(value) for key, value in place.items()},
            start_new_session=True,  # Ctrl-C is for us, who then end the rank and its children
        )


def _wait(folder: Path, ranks: Sequence[Popen], deadline: float, timeout: float) -> None:
    while any(status_of(rank) is None for rank in ranks) or _failures(folder, ranks):
        if _failures(folder, ranks):
            raise crash(_settled(folder, ranks), folder, len(ranks))
        if time.monotonic() > deadline:
            raise hang(_stacks(folder, ranks), folder, len(ranks), timeout)
        time.sleep(_POLL)


def _failures(folder: Path, ranks: Sequence[Popen]) -> list[Failure]:
    found = [failure_of(folder, rank, process) for rank, process in enumerate(ranks)]
    return [failure for failure in found if failure is not None]


def _settled(folder: Path, ranks: Sequence[Popen]) -> list[Failure]:
    """Return the failures once one of them is a cause, or none can come any more."""
    until = time.monotonic() + _GRACE
    while True:
        alive = any(status_of(rank) is None for rank in ranks)
        failures = _failures(folder, ranks)
        if not (alive and all(f.lost_peer for f in failures) and time.monotonic() < until):
            return failures
        time.sleep(_POLL)


def _stacks(folder: Path, ranks: Sequence[Popen]) -> dict[int, str | None]:
    """Ask every rank that still runs where it is."""
    running = [rank for rank, process in enumerate(ranks) if status_of(process) is None]
    files = {rank: folder / f"stack-{rank}" for rank in running}
    asked = [rank for rank in running if files[rank].exists()]
    for rank in asked:
        os.kill(ranks[rank].pid, signal.SIGUSR1)
    until = time.monotonic() + _ANSWER
    while not all(files[r].stat().st_size for r in asked) and time.monotonic() < until:
        time.sleep(_POLL)
    time.sleep(_POLL)  # the last lines of the last answer
    return {rank: files[rank].read_text() if rank in asked else None for rank in running}


def _result(folder: Path, rank: int, world_size: int) -> Any:
    try:
        return pickle.loads((folder / f"result-{rank}").read_bytes())  # written by our own rank
    except Exception as error:
        raise RankFailed(
            f"rank {rank} of {world_size} returned what this process cannot load: {error!r}",
            rank,
            "",
        ) from error


def _end(ranks: Sequence[Popen]) -> None:
    for process in ranks:
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):  # nobody is left
                os.killpg(process.pid, signal.SIGKILL)  # what a finished rank started, too
        else:
            process.kill()
    for process in ranks:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
