"""Make a pool of processes in which runs do not disturb each other."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def processes(workers: int | None = None) -> ProcessPoolExecutor:
    """Start processes that share the threads of this one evenly, for ``ablate(executor=…)``.

    ::

        with processes(4) as pool:
            study = ablate(train, base, "norm", ["batch", "group"], executor=pool)

    They are spawned, so CUDA works in them; a start takes as long as ``import torch``, and several
    studies can use one pool. Four processes on a GPU share it, memory included. The processes end
    with the ``with`` block, on Ctrl-C (then start new ones), and when this process is killed.

    Args:
        workers: How many. One per core that this process may use when it is not given.

    Returns:
        The executor. In each process PyTorch, MKL, OpenMP and OpenBLAS use the threads of this
        process divided by ``workers``, at least one: more would wait for each other.

    Raises:
        ValueError: When ``workers`` < 1.
    """
    import torch

    workers = _cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"processes: expected workers >= 1, got {workers}")
    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _prepare_worker, (threads,))
    with _environment(dict.fromkeys(_THREAD_SETTINGS, str(threads))):
        for _ in range(workers):  # libraries read the environment once, when they are loaded
            pool.submit(os.getpid)
    return pool


def refuse(executor: Any, fn: Any, settings: list[Any]) -> None:
    """Refuse an executor that cannot make these runs, or would make them wrongly.

    Args:
        executor: What the caller gave.
        fn: The function to be run.
        settings: What it will be called with.

    Raises:
        TypeError: When it is no executor, runs in threads, or cannot be sent the function.
    """
    if not isinstance(executor, Executor):
        raise TypeError(
            "ablate: expected a concurrent.futures.Executor, for example processes(2), "
            f"got {executor!r}"
        )
    if isinstance(executor, ThreadPoolExecutor):
        raise TypeError(
            "ablate: threads share one random state, so runs at the same time would draw each "
            "other's numbers; use processes(2), or leave out executor"
        )
    if isinstance(executor, ProcessPoolExecutor):
        _refuse_what_cannot_be_sent(fn, settings)


def _refuse_what_cannot_be_sent(fn: Any, settings: list[Any]) -> None:
    name = getattr(fn, "__qualname__", repr(fn))
    fix = (
        "; move it into a file, say my_runs.py, and `from my_runs import …`, or leave out "
        "executor to run here"
    )
    try:
        sent = pickle.dumps((fn, settings))
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        said = f"ablate: {name} or a setting cannot be sent to another process ({problem})"
        raise TypeError(said + fix) from problem
    if b"__main__" in sent:  # so its partials and its classes are found too
        raise TypeError(
            f"ablate: {name} or a setting is defined in this notebook or script (__main__), which "
            f"another process cannot import{fix}"
        )


def _prepare_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process, and says nothing
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # an orphan would go on with a run that a resumed study makes again


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
