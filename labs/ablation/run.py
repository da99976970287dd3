"""Make one run: seed, call, and turn whatever comes of it into a record."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from labs.machine import first_line

Point = Mapping[str, float]
Score = float | Point | Iterator[Point]
SEED, ERROR = "seed", "error"
"""The names of columns, which a metric cannot have."""
_STEP = "step"
"""Where on its curve a point lies: no metric."""

# The random state is one for all threads of a process, so a process makes one run at a time. The
# lock can be taken again by the same thread: a run may hold an ablation of its own.
_ALONE = threading.RLock()


class NotAScoreError(TypeError):
    """Report a function that gave neither a number nor a dict of numbers."""


@dataclass(frozen=True)
class Run:
    """Hold what one run measured, or why it failed.

    Attributes:
        value: Of the varied setting.
        seed: Set before the function was called.
        metrics: By name; empty when the run failed.
        error: One line, with the type of the exception; empty when the run finished.
        traceback: The whole of it, as Python prints it.
        seconds: How long the run took.
        curve: What the function yielded on the way, in that order, when it is a generator; the
            last point, less its ``step``, is ``metrics``.
    """

    value: Any
    seed: int
    metrics: Mapping[str, float]
    error: str = ""
    traceback: str = field(default="", repr=False)
    seconds: float = 0.0
    curve: tuple[Point, ...] = field(default=(), repr=False)


def execute(fn: Callable[..., Score], settings: Mapping[str, Any], vary: str, seed: int) -> Run:
    """Seed everything, call ``fn(**settings)``, and put the random state back.

    This is what an executor runs, so it lives in a module that every worker can import.

    Args:
        fn: Returns a score or a dict of scores; or it is a generator, and yields such a dict at
            every step that is to be recorded, the score last; ``step`` in it is no metric.
        settings: What it is called with.
        vary: The setting that the study changes.
        seed: For Python, NumPy and PyTorch.

    Returns:
        The run; if ``fn`` raised, with the error.

    Raises:
        NotAScoreError: When ``fn`` gave something else than numbers.
    """
    from labs.repro import random_state_kept, seed_everything  # PyTorch, which only a run needs

    with _ALONE, random_state_kept():
        seed_everything(seed)
        started = time.perf_counter()
        try:
            result = fn(**settings)
            curve = tuple(result) if isinstance(result, Iterator) else ()  # a generator runs here
        except Exception as problem:
            took = time.perf_counter() - started
            return failed(settings[vary], seed, problem, took)
        took = time.perf_counter() - started
    points = tuple(_metrics(point, vary) for point in curve)
    if isinstance(result, Iterator):
        last = points[-1] if points else {}
        metrics = _metrics({name: x for name, x in last.items() if name != _STEP}, vary)
    else:
        metrics = _metrics(result, vary)
    return Run(settings[vary], seed, metrics, seconds=took, curve=points)


def failed(value: Any, seed: int, problem: BaseException, seconds: float = 0.0) -> Run:
    """Return the record of a run that ended with an exception."""
    trace = "".join(traceback.format_exception(problem))
    return Run(value, seed, {}, first_line(problem).removesuffix(": "), trace, seconds)


def _metrics(result: Any, vary: str) -> dict[str, float]:
    named = result if isinstance(result, Mapping) else {"score": result}
    if not named:
        raise NotAScoreError(
            "ablate: fn gave no score: an empty dict, or nothing yielded; return or yield one"
        )
    for name in named:
        if not isinstance(name, str) or name in (vary, SEED, ERROR):
            raise NotAScoreError(
                f"ablate: fn named a metric {name!r}; expected a string other than "
                f"{vary!r}, {SEED!r} and {ERROR!r}, which are columns already"
            )
    return {name: _number(name, value) for name, value in named.items()}


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError) as problem:
        shape = getattr(value, "shape", None)
        kind = type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
        raise NotAScoreError(
            f"ablate: fn returned {kind} as {name!r}; expected one number, or a dict of them: "
            "reduce it first, or add the missing `return`"
        ) from problem
