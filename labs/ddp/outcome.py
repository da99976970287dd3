"""Judge how ranks ended: which one is guilty, and which only lost its peer."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

_LAST_OUTPUT = 2000  # characters of a failed rank's output that its error shows


class RankFailed(Exception):
    """Report the rank that made a launch fail.

    Attributes:
        rank: The guilty rank: the first that failed by itself, not one that lost its peer.
        traceback: Its traceback, or the stack at which it hung; empty when it was killed.
    """

    def __init__(self, message: str, rank: int, traceback: str) -> None:
        super().__init__(message, rank, traceback)
        self.rank = rank
        self.traceback = traceback

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Failure:
    """Hold how one rank failed; ``when`` in seconds since the epoch."""

    rank: int
    when: float
    reason: str
    text: str = ""
    lost_peer: bool = False


def status_of(process: Popen) -> int | None:
    """Return how a rank ended, or None while it runs; a negative number is a signal.

    Where the system can tell without forgetting the process, its number stays taken, so that
    killing its process group later cannot meet another one.
    """
    if process.returncode is not None or not hasattr(os, "waitid"):
        return process.poll()
    end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if end is None:
        return None
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status


def failure_of(folder: Path, rank: int, process: Popen) -> Failure | None:
    """Return how this rank failed, or None while it runs or when it returned a result."""
    record = folder / f"failure-{rank}"
    if record.exists():
        told = json.loads(record.read_bytes())
        return Failure(rank, told["time"], told["reason"], told["text"], told["lost_peer"])
    status = status_of(process)
    if status is None or (status == 0 and (folder / f"result-{rank}").exists()):
        return None
    if record.exists():  # written between our look and its end
        return failure_of(folder, rank, process)
    return Failure(rank, time.time(), _ended(status))


def _ended(status: int) -> str:
    if status >= 0:
        return f"its process ended with exit status {status}, without a result"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = "; was the memory full?" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


def _guilty(failures: Sequence[Failure]) -> Failure:
    """Choose the failure that came first, among those that no other rank's end explains."""
    return min(failures, key=lambda failure: (failure.lost_peer, failure.when))


def crash(failures: Sequence[Failure], folder: Path, world_size: int) -> RankFailed:
    """Make the error for ranks that failed."""
    worst = _guilty(failures)
    lines = [f"rank {worst.rank} of {world_size} failed: {worst.reason}"]
    if worst.text:
        lines += ["", worst.text.rstrip()]
    lines += _output(folder, worst.rank)
    returned = [r for r in range(world_size) if (folder / f"result-{r}").exists()]
    if worst.lost_peer and returned:
        lines += [
            "",
            f"Rank {returned[0]} had returned while rank {worst.rank} still waited for it: do all "
            "ranks make the same collective calls (all_reduce, backward, ...)?",
        ]
    return RankFailed("\n".join(lines), worst.rank, worst.text)


def hang(
    stacks: Mapping[int, str | None], folder: Path, world_size: int, timeout: float
) -> RankFailed:
    """Make the error for ranks that did not end in time.

    Args:
        stacks: The stack of each rank that still runs; empty when it did not answer, None when it
            had not started.
        folder: Where the ranks left their output.
        world_size: How many ranks there were.
        timeout: How long they had, in seconds.
    """
    busy = [rank for rank, stack in stacks.items() if not _waits(stack)]
    shown = busy or list(stacks)
    who = ", ".join(f"rank {rank}" for rank in shown)
    lines = [f"{who} of {world_size} did not end within {timeout:g} s"]
    if not busy:
        lines += ["All of them wait for another rank: do all make the same collective calls?"]
    elif len(busy) < len(stacks):
        lines += ["The other ranks waited for it in a collective call."]
    for rank in shown:
        lines += ["", f"rank {rank} was here:", *_where(stacks[rank]), *_output(folder, rank)]
    return RankFailed("\n".join(lines), shown[0], stacks[shown[0]] or "")


def _waits(stack: str | None) -> bool:
    """Tell whether it is in a collective call, or in the backward pass, which makes them."""
    frames = [line.replace("\\", "/") for line in (stack or "").splitlines() if "File " in line]
    return bool(frames) and (
        "/torch/distributed/" in frames[0] or "/torch/autograd/graph.py" in frames[0]
    )


def _where(stack: str | None) -> list[str]:
    if stack is None:
        return ["  it was still starting: give it a longer timeout"]
    if not stack:
        return ["  it did not answer: it is stopped, or this system cannot ask"]
    frames = [line for line in stack.splitlines() if line.lstrip().startswith("File ")]
    ours = [i for i, line in enumerate(frames) if 'rank.py", line' in line]  # and what called it
    return frames[: ours[-1]] if ours and ours[-1] else frames


def _output(folder: Path, rank: int) -> list[str]:
    text = (folder / f"output-{rank}").read_text(errors="replace").strip()
    return ["", f"Last output of rank {rank}:", text[-_LAST_OUTPUT:]] if text else []
