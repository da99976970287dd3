"""Find the first module that produces a NaN or an infinity."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from labs.hooks.layers import bare, eager, find_layers
from labs.hooks.nested import map_tensors, tensors

LOSS = "(loss)"


@dataclass(frozen=True, repr=False)
class Culprit:
    """Name the module where the first non-finite value arose, and say what was seen.

    Attributes:
        name: The module, as in ``model.named_modules()``: ``""`` is the code of the model itself,
            between its layers, and ``"(loss)"`` the code that made the loss.
        call: Which call of this module, from 0.
        kind: ``output``: it got finite inputs and computed something that is not.
            ``gradient``: what it passed back is the first gradient that is not finite.
            ``input``: the model's own inputs were not finite, and here they reached an output.
        module: The class of the module.
        nan: How many values are NaN.
        inf: How many values are infinite.
        values: Out of how many values.
    """

    name: str
    call: int
    kind: str
    module: str
    nan: int
    inf: int
    values: int

    def table(self) -> pd.DataFrame:
        """Return one row per fact, with columns ``what`` and ``value``."""
        return pd.DataFrame(asdict(self).items(), columns=["what", "value"])

    def __repr__(self) -> str:
        place = f"{self.name or 'the model itself'} ({self.module}), call {self.call}"
        seen = f"{self.nan} NaN and {self.inf} infinite of {self.values} values"
        return f"Culprit({self.kind} of {place}: {seen})"


def first_bad(
    model: nn.Module, *inputs: Any, loss: Callable[[Any], Tensor] | None = None
) -> Culprit | None:
    """Run the model forwards and backwards once, and name the first module that spoils a value.

    A module is to blame when what it received is finite and what it made of it is not: the
    innermost one, in the order of execution. When every output is finite, the gradients are
    followed back from the loss in the same way. (Minus infinity alone in an input is taken for an
    attention mask.)

    Nothing stays behind: hooks, modes, buffers (so also the statistics of batch norms in train
    mode), ``.grad``, the inputs and the random state are as before. The model runs in the mode
    that it is in, with the random numbers that its next call will draw again.

    Args:
        model: Any module.
        inputs: What the model takes.
        loss: From the model's output to one number. The sum of all outputs when it is not given;
            give the real one when the trouble is in the gradients.

    Returns:
        The culprit, or ``None`` when every output and every gradient is finite.

    Raises:
        TypeError: When hooks cannot see a layer (TorchScript).
        ValueError: When the loss is not one number.
        Exception: Whatever the model raises, unless a culprit was found before.
    """
    model, trace = bare(model), _Trace()
    find_layers(model, [name for name, _ in model.named_modules()])  # refuses what hooks cannot see
    try:
        with eager(), _random_state_kept(), torch.inference_mode(False), torch.enable_grad():
            copies = map_tensors(_private_copy, inputs)
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            with trace.following(model):
                output = torch.func.functional_call(model, buffers, copies)
            if trace.culprit is None:
                value = _total(output) if loss is None else loss(output)
                trace.follow_back(value, [*model.parameters(), *tensors(copies)])
    except Exception:
        if trace.culprit is None:  # else the NaN came first, and may well be the reason
            raise
    return trace.culprit


@dataclass(frozen=True)
class _Run:
    """Hold one call of a module, with the census of what it received."""

    name: str
    call: int
    module: str
    received: tuple[int, int, int]


class _Trace:
    """Follow one pass: which module runs inside which, and which made each node of the graph."""

    def __init__(self) -> None:
        self.culprit: Culprit | None = None
        self._outside = _Run(LOSS, 0, "function", (0, 0, 0))
        self._running = [self._outside]
        self._calls: Counter[str] = Counter()
        self._maker: dict[Node, _Run] = {}

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Watch every module while the block runs."""
        handles: list[RemovableHandle] = []
        try:
            for name, module in model.named_modules():
                enter, leave = partial(self._enter, name), partial(self._leave, name)
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def follow_back(self, value: Tensor, sources: list[Tensor]) -> None:
        """Differentiate ``value``, and blame the first node that spoils a gradient."""
        if value.numel() != 1:
            raise ValueError(
                f"first_bad: expected one number as loss, got shape {tuple(value.shape)}; "
                "use .mean()"
            )
        self._claim([value], self._outside)
        nan, inf, values = _census([value])
        if nan + inf:
            self._accuse(self._outside, "output", (nan, inf, values))
            return
        wanted = [source for source in sources if source.requires_grad]
        if not wanted or not value.requires_grad:
            return
        handles = [
            node.register_hook(partial(self._back, run)) for node, run in self._maker.items()
        ]
        try:
            torch.autograd.grad(value, wanted, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        received = tensors((args, kwargs))
        self._claim(received, self._running[-1])
        run = _Run(name, self._calls[name], type(module).__name__, _census(received, masks=True))
        self._calls[name] += 1
        self._running.append(run)

    def _leave(self, name: str, _module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        run = self._running.pop()
        while run.name != name:  # it raised, and the module around it carried on
            run = self._running.pop()
        made = tensors(output)
        self._claim(made, run)
        nan, inf, values = _census(made)
        if nan + inf:
            self._blame(run, (nan, inf, values))

    def _blame(self, run: _Run, seen: tuple[int, int, int]) -> None:
        """Blame the innermost module around the bad output whose own inputs were finite."""
        for suspect in [run, *reversed(self._running[1:])]:
            if suspect.received[:2] == (0, 0):
                self._accuse(suspect, "output", seen)
                return
            seen = suspect.received
        self._accuse(run, "input", run.received)

    def _back(self, run: _Run, passed_on: Any, _received: Any) -> None:
        nan, inf, values = _census(tensors(passed_on))
        if nan + inf:
            self._accuse(run, "gradient", (nan, inf, values))

    def _accuse(self, run: _Run, kind: str, seen: tuple[int, int, int]) -> None:
        if self.culprit is None:
            self.culprit = Culprit(run.name, run.call, kind, run.module, *seen)

    def _claim(self, made: list[Tensor], run: _Run) -> None:
        """Note ``run`` as the maker of all nodes behind these tensors that are still unclaimed."""
        waiting = [tensor.grad_fn for tensor in made if tensor.grad_fn is not None]
        while waiting:
            node = waiting.pop()
            # An AccumulateGrad node belongs to a parameter, not to this pass.
            if node in self._maker or type(node).__name__ == "AccumulateGrad":
                continue
            self._maker[node] = run
            waiting.extend(before for before, _ in node.next_functions if before is not None)


def _census(found: list[Tensor], masks: bool = False) -> tuple[int, int, int]:
    """Count NaN, infinities and all values; with ``masks``, minus infinity does not count."""
    nan = inf = values = 0
    for tensor in found:
        values += tensor.numel()
        if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.isfinite().all():
            continue
        nan += int(tensor.isnan().sum())
        inf += int((tensor.isposinf() if masks else tensor.isinf()).sum())
    return nan, inf, values


def _total(output: Any) -> Tensor:
    """Add up, in float64, everything in the output that a gradient can reach."""
    parts = [t.double().sum() for t in tensors(output) if t.requires_grad and not t.is_complex()]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def _private_copy(tensor: Tensor) -> Tensor:
    """Copy an input, because the model may write over it."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Put the random state of Python, NumPy and PyTorch (CPU and CUDA) back after the block."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the global generator
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
