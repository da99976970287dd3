"""Time a model in PyTorch and in ONNX Runtime, fairly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from labs.export.arguments import Keywords, checked, positional
from labs.export.layers import copied
from labs.export.session import CPU, CUDA, TENSORRT, Session, session
from labs.extras import optional
from labs.hooks.layers import refuse_train_mode
from labs.hooks.nested import map_tensors
from labs.machine import first_line

if TYPE_CHECKING:
    import pandas as pd

_Call = tuple[tuple[Any, ...], dict[str, Any]]
Contender = nn.Module | Session | str | Path | Callable[..., Any]


@dataclass(frozen=True)
class Timing:
    """Hold the timings of one contender.

    Attributes:
        name: What it was called.
        device: What computed: ``cpu``, ``cuda:0``, or the provider of ONNX Runtime.
        median_ms: The median of one call, in milliseconds.
        p90_ms: The time below which nine calls of ten stay.
        ratio: The median, over rounds, of its time over the first contender's in the same round;
            below 1 is faster.
        n: How many calls were timed.
        why_not: One line when it could not run, or runs elsewhere than was asked; often empty.
    """

    name: str
    device: str
    median_ms: float
    p90_ms: float
    ratio: float
    n: int
    why_not: str


@dataclass(frozen=True)
class Benchmark:
    """Hold one timing per contender, in the order given, and the number of CPU threads."""

    timings: tuple[Timing, ...]
    threads: int

    def table(self) -> pd.DataFrame:
        """Return one row per contender, with the fields of :class:`Timing` and ``threads``."""
        import pandas as pd

        return pd.DataFrame([{**asdict(t), "threads": self.threads} for t in self.timings])

    def __getitem__(self, name: str) -> Timing:
        """Return the timing of one contender."""
        for timing in self.timings:
            if timing.name == name:
                return timing
        names = ", ".join(timing.name for timing in self.timings)
        raise KeyError(f"no contender {name!r}; there are {names}")

    def __repr__(self) -> str:
        lines = [f"Benchmark({self.threads} CPU threads)"]
        for t in self.timings:
            figures = f"{t.median_ms:9.2f} ms  p90 {t.p90_ms:9.2f} ms  x{t.ratio:.2f}  n={t.n}"
            lines.append(f"  {t.name}: {figures if t.n else 'did not run'}  {t.device} {t.why_not}")
        return "\n".join(lines)


def contenders(model: nn.Module, path: str | Path) -> dict[str, Contender]:
    """Name every way to run a model that :func:`benchmark` can compare.

    They are PyTorch eager and compiled, and ONNX Runtime on the CPU, with CUDA and with TensorRT.
    One that cannot run here becomes a row that says why.

    Args:
        model: The module, in eval mode.
        path: The ONNX file made from it.
    """
    return {
        "torch eager": model,
        "torch compiled": torch.compile(model),
        "onnx CPU": session(path, [CPU]),
        "onnx CUDA": session(path, [CUDA]),
        "onnx TensorRT": session(path, [TENSORRT]),
    }


def benchmark(
    models: Mapping[str, Contender],
    x: Any,
    rounds: int = 30,
    warmup: int = 3,
    threads: int | None = None,
    *,
    kwargs: Keywords | None = None,
) -> Benchmark:
    """Time several models on one input, in rounds in which each of them runs once.

    A disturbance so hits all alike, and each is compared with the first in the same round. The
    input lies on the contender's device before the clock starts; a GPU has finished when it stops.

    Args:
        models: By name, the reference first: a module in eval mode, an ONNX file, a
            :class:`labs.export.Session`, or anything that can be called with the input.
        x: What ``forward`` takes: one argument, or a tuple of arguments.
        rounds: How many timed calls of each.
        warmup: How many calls of each before that; the first one compiles.
        threads: CPU threads for PyTorch and for the files given by path; as now when not given.
            A ``Session`` keeps its own, and one that fell back to the CPU is a row that says why.
        kwargs: The keyword arguments of ``forward``.

    Returns:
        Median, 90th percentile, ratio, n and device of each, with ``.table()``. A contender that
        fails is a row that says why.

    Raises:
        ValueError: When there is no contender, ``rounds``, ``warmup`` or ``threads`` is below 1,
            or a module is in train mode.
    """
    threads = torch.get_num_threads() if threads is None else threads
    if not models or min(rounds, warmup, threads) < 1:
        raise ValueError(
            f"benchmark: expected models, rounds, warmup and threads, each at least 1, got "
            f"{len(models)}, {rounds}, {warmup} and {threads}"
        )
    for model in models.values():
        if isinstance(model, nn.Module):
            refuse_train_mode("benchmark", model)
    call = positional(x), checked("benchmark", kwargs)
    with _threads(threads), torch.inference_mode():
        runners = [_prepared(name, model, call, threads) for name, model in models.items()]
        ready = [_warmed_up(runner, warmup) for runner in runners]
        seconds = _race([runner for runner in ready if runner.call], rounds)
    return Benchmark(tuple(_timing(runner, seconds, ready[0].name) for runner in ready), threads)


@dataclass(frozen=True)
class _Runner:
    """Hold one contender, ready to be called; ``call`` is None when it cannot run."""

    name: str
    device: str
    call: Callable[[], Any] | None
    why_not: str = ""


def _prepared(name: str, model: Contender, call: _Call, threads: int) -> _Runner:
    """Make a contender ready; one that does not load or take the input keeps the reason."""
    try:
        if isinstance(model, (str, Path)):
            return _of_file(name, session(model, threads=threads), call)
        if isinstance(model, Session) and model.fallback:
            # It was asked for, so the CPU in its place would be another row.
            return _Runner(name, model.asked[0], None, "; ".join(model.fallback))
        if isinstance(model, Session):
            return _of_file(name, model, call)
        return _of_module(name, model, call)
    except FileNotFoundError:
        raise
    except Exception as error:  # ONNX Runtime raises a class of its own for each status
        return _Runner(name, "", None, first_line(error))


def _of_module(name: str, model: Callable[..., Any], call: _Call) -> _Runner:
    device = torch.device("cpu")
    if isinstance(model, nn.Module):
        device = next((parameter.device for parameter in model.parameters()), device)
    there, named = map_tensors(lambda tensor: tensor.to(device), copied(call))

    def run() -> None:
        model(*there, **named)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return _Runner(name, str(device), run)


def _of_file(name: str, model: Session, call: _Call) -> _Runner:
    value = optional("onnxruntime", "labs.export").OrtValue
    binding = model.runtime.io_binding()
    for entry, array in model.feed(*call[0], **call[1]).items():
        binding.bind_ortvalue_input(entry, value.ortvalue_from_numpy(array, model.device, 0))
    for entry in model.outputs:
        binding.bind_output(entry, model.device)

    def run() -> None:
        model.runtime.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return _Runner(name, model.provider, run, "; ".join(model.fallback))


def _warmed_up(runner: _Runner, calls: int) -> _Runner:
    """Call it a few times; a contender that fails keeps the reason and loses its call."""
    try:
        for _ in range(calls if runner.call else 0):
            assert runner.call is not None
            runner.call()
    except Exception as error:  # whatever a compiler or a driver raises is its reason
        return _Runner(runner.name, runner.device, None, first_line(error))
    return runner


def _race(runners: list[_Runner], rounds: int) -> dict[str, np.ndarray]:
    """Return the seconds of each call; who begins a round rotates."""
    seconds: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for turn in range(rounds if runners else 0):
        first = turn % len(runners)
        for runner in runners[first:] + runners[:first]:
            assert runner.call is not None
            started = time.perf_counter()
            runner.call()
            seconds[runner.name].append(time.perf_counter() - started)
    return {name: np.array(measured) for name, measured in seconds.items()}


def _timing(runner: _Runner, seconds: Mapping[str, np.ndarray], first: str) -> Timing:
    nan = float("nan")
    if runner.name not in seconds:
        return Timing(runner.name, runner.device, nan, nan, nan, 0, runner.why_not)
    taken = seconds[runner.name]
    ratio = float(np.median(taken / seconds[first])) if first in seconds else nan
    middle, slow = (1e3 * np.quantile(taken, (0.5, 0.9))).tolist()
    return Timing(runner.name, runner.device, middle, slow, ratio, len(taken), runner.why_not)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
