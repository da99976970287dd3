"""Be one rank: the program that :func:`labs.ddp.launch` starts in each process.

It leaves its result, or its failure, as a file that appears whole or not at all.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

from labs.ddp.group import join

MAIN = (
    "spawn cannot import a function defined in a notebook cell or in the script that was started: "
    "put it into a module (a .py file) and import it"
)


def main(folder: Path, timeout: float) -> None:
    """Run the worker that lies in ``folder`` as the rank that the environment names.

    Args:
        folder: Holds ``work.pickle``, the meeting point, and what the ranks leave.
        timeout: What :func:`labs.ddp.launch` was given, in seconds.
    """
    _end_with_parent()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _answer_with_stack(folder / f"stack-{rank}")
    _stay_on_this_machine()
    try:
        worker, args = _load(folder / "work.pickle")
        store = dist.FileStore(str(folder / "meeting"), world)
        # Longer than the launcher waits: it, and not a waiting rank, decides that a rank hangs.
        with join(store, timeout + 60):
            result = worker(rank, *args)
        _write_whole(folder / f"result-{rank}", _pickled(result))
    except BaseException as error:  # sys.exit too: a rank that ends without a result has failed
        _write_whole(folder / f"failure-{rank}", json.dumps(_describe(error)).encode())
        sys.exit(1)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that others see complete or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _end_with_parent() -> None:
    """Kill this process, and what it started, when the launcher is gone, however it ended.

    The launcher holds the other end of standard input, so its end is our end of file.
    """
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a worker that asks for input gets none
    os.close(nothing)

    def watch() -> None:
        os.read(lifeline, 1)
        if hasattr(os, "killpg"):
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _answer_with_stack(path: Path) -> None:
    """Write the main thread's stack to ``path`` whenever the launcher asks, even if it hangs."""
    if hasattr(faulthandler, "register"):  # not on Windows
        # The file stays open for as long as the process lives.
        faulthandler.register(signal.SIGUSR1, path.open("w"), all_threads=False)


def _stay_on_this_machine() -> None:
    loopback = {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback.pop())


def _load(path: Path) -> tuple:
    try:
        return pickle.loads(path.read_bytes())  # written by our own launcher
    except (AttributeError, ImportError) as error:
        what = MAIN if "__main__" in str(error) else "a rank imports what the worker needs afresh"
        raise ImportError(f"launch: this process cannot load the worker: {what}") from error


def _pickled(result: object) -> bytes:
    try:
        return pickle.dumps(result)
    except Exception as error:
        raise TypeError(
            f"launch: the worker's result, of type {type(result).__name__}, cannot be pickled "
            f"({error}); return tensors, numbers, strings, or lists and dicts of them"
        ) from error


def _describe(error: BaseException) -> dict[str, object]:
    text = "".join(traceback.format_exception(type(error), error, _beyond(error.__traceback__)))
    reason = traceback.format_exception_only(error)[-1].strip()
    return {"time": time.time(), "reason": reason, "text": text, "lost_peer": _lost_peer(error)}


def _beyond(trace: TracebackType | None) -> TracebackType | None:
    """Skip our own frames, so that the traceback starts in the worker."""
    step = trace
    while step is not None and step.tb_frame.f_code.co_filename == __file__:
        step = step.tb_next
    return step or trace


def _lost_peer(error: BaseException | None) -> bool:
    """Tell whether this error, or what it came from, is about the connection to another rank."""
    if error is None:
        return False
    text = str(error).lower()
    network = isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text
    return network or _lost_peer(error.__cause__ or error.__context__)
