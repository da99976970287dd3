"""Find the first module that produces a NaN or an infinity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from labs.hooks.apart import buffers_apart, checkpoints_off
from labs.hooks.layers import bare, eager, find_layers, named_inputs
from labs.hooks.nested import map_tensors, named_tensors, tensors
from labs.hooks.ranks import refuse_sharded
from labs.hooks.values import numbers
from labs.repro import random_state_kept

_LOSS = "(loss)"


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
        tensor: The first tensor that held one of them: ``output``, a part of it as in
            ``output[0]['boxes']``, or ``input[1] of 'head'`` when the module's own code spoiled
            what it handed to a layer inside; for a gradient, where it was going: to
            ``parameter 'head.weight'``, ``output of 'stem'``, ``a value inside`` or ``an input``.
    """

    name: str
    call: int
    kind: str
    module: str
    nan: int
    inf: int
    values: int
    tensor: str = "output"

    def table(self) -> pd.DataFrame:
        """Return one row per fact, with columns ``what`` and ``value``."""
        return pd.DataFrame(asdict(self).items(), columns=["what", "value"])

    def __repr__(self) -> str:
        place = f"{self.name or 'the model itself'} ({self.module}), call {self.call}"
        part = "" if self.tensor == self.kind else f", at {self.tensor}"
        seen = f"{self.nan} NaN and {self.inf} infinite of {self.values} values"
        return f"Culprit({self.kind} of {place}{part}: {seen})"


def first_bad(
    model: nn.Module,
    *inputs: Any,
    loss: Callable[[Any], Tensor] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Culprit | None:
    """Run the model forwards and backwards once, and name the first module that spoils a value.

    A module is to blame when what it received is finite and what it made of it is not: the
    innermost one, in the order of execution. When every output is finite, the gradients are
    followed back from the loss in the same way. (Minus infinity alone in an input is taken for an
    attention mask.)

    Nothing stays behind: hooks, modes, buffers (so also the statistics of batch norms in train
    mode), ``.grad``, the inputs and the random state are as before. The model runs in the mode
    that it is in, with the random numbers that its next call will draw again. What is checkpointed
    with ``use_reentrant=True`` runs as if it were not, so that its inside can be followed back. A
    tensor whose values cannot be read (on the ``meta`` device) counts as finite.

    Args:
        model: Any module.
        inputs: What the model takes.
        loss: From the model's output to one number. The sum of all outputs when it is not given;
            give the real one when the trouble is in the gradients.
        kwargs: What the model takes by name: ``{"pixel_values": images}``.

    Returns:
        The culprit, or ``None`` when every output and every gradient is finite.

    Raises:
        TypeError: When hooks cannot see a layer (TorchScript), the model is no module, ``kwargs``
            is no mapping from names, or this rank holds only parts of parameters.
        ValueError: When the loss is not one number.
        Exception: Whatever the model raises, unless a culprit was found before.
    """
    model, named = bare(model), named_inputs("first_bad", kwargs)
    refuse_sharded("first_bad", model, "call it on the model as it is before it is divided")
    trace = _Trace({parameter: name for name, parameter in model.named_parameters()})
    find_layers(model, [name for name, _ in model.named_modules()])  # refuses what hooks cannot see
    try:
        with eager(), random_state_kept(), torch.inference_mode(False), torch.enable_grad():
            args, by_name = map_tensors(_private_copy, (inputs, named))
            # Backwards too: a checkpoint runs its segment a second time there.
            with buffers_apart(model), checkpoints_off():
                with trace.following(model):
                    output = model(*args, **by_name)
                if trace.culprit is None:
                    value = _total(output) if loss is None else loss(output)
                    trace.follow_back(value, [*model.parameters(), *tensors((args, by_name))])
    except Exception:
        if trace.culprit is None:  # else the NaN came first, and may well be the reason
            raise
    return trace.culprit


@dataclass(frozen=True)
class _Census:
    """Hold the counts over some tensors, and the first of them that is not finite."""

    nan: int = 0
    inf: int = 0
    values: int = 0
    tensor: str = ""

    @property
    def bad(self) -> bool:
        return self.nan + self.inf > 0


@dataclass(frozen=True)
class _Run:
    """Hold one call of a module, with the census of what it received."""

    name: str
    call: int
    module: str
    received: _Census


class _Trace:
    """Follow one pass: which module runs inside which, and which made each node of the graph."""

    def __init__(self, parameters: Mapping[Tensor, str]) -> None:
        self.culprit: Culprit | None = None
        self._parameters = parameters
        self._outside = _Run(_LOSS, 0, "function", _Census())
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
        if (seen := _census({"output": value})).bad:
            self._accuse(self._outside, "output", seen)
            return
        wanted = [source for source in sources if source.requires_grad]
        if not wanted or not value.requires_grad:
            return
        handles = [
            node.register_hook(partial(self._back, run, node)) for node, run in self._maker.items()
        ]
        try:
            torch.autograd.grad(value, wanted, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        alone = len(args) == 1 and not kwargs
        received = _named("input", args[0] if alone else {**dict(enumerate(args)), **kwargs})
        self._claim(received.values(), self._running[-1])
        run = _Run(name, self._calls[name], type(module).__name__, _census(received, masks=True))
        self._calls[name] += 1
        self._running.append(run)

    def _leave(self, name: str, _module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        run = self._running.pop()
        while run.name != name:  # it raised, and the module around it carried on
            run = self._running.pop()
        made = _named("output", output)
        self._claim(made.values(), run)
        if (seen := _census(made)).bad:
            self._blame(run, seen)

    def _blame(self, run: _Run, seen: _Census) -> None:
        """Blame the innermost module around the bad output whose own inputs were finite."""
        for suspect in [run, *reversed(self._running[1:])]:
            if not suspect.received.bad:
                self._accuse(suspect, "output", seen)
                return
            handed_on = f"{suspect.received.tensor} of {suspect.name!r}"
            seen = replace(suspect.received, tensor=handed_on)
        self._accuse(run, "input", run.received)

    def _back(self, run: _Run, node: Node, passed_on: Any, _received: Any) -> None:
        if self.culprit is not None:
            return
        found = {str(i): part for i, part in enumerate(passed_on) if isinstance(part, Tensor)}
        if (seen := _census(found)).bad:
            receiver = node.next_functions[int(seen.tensor)][0]
            self._accuse(run, "gradient", replace(seen, tensor=self._owner(receiver, run)))

    def _owner(self, node: Node | None, run: _Run) -> str:
        """Say in words where a gradient goes that arrives at this node."""
        while node is not None and self._maker.get(node) is run:  # a weight.T on the way to weight
            onwards = [after for after, _ in node.next_functions if after is not None]
            if len(onwards) != 1:
                return "a value inside"
            node = onwards[0]
        if node is not None and node in self._maker:
            return f"output of {self._maker[node].name!r}"
        leaf = getattr(node, "variable", None)
        name = None if leaf is None else self._parameters.get(leaf)
        return "an input" if name is None else f"parameter {name!r}"

    def _accuse(self, run: _Run, kind: str, seen: _Census) -> None:
        if self.culprit is None:
            counts = (seen.nan, seen.inf, seen.values)
            self.culprit = Culprit(run.name, run.call, kind, run.module, *counts, seen.tensor)

    def _claim(self, made: Iterable[Tensor], run: _Run) -> None:
        """Note ``run`` as the maker of all nodes behind these tensors that are still unclaimed."""
        waiting = [tensor.grad_fn for tensor in made if tensor.grad_fn is not None]
        while waiting:
            node = waiting.pop()
            # An AccumulateGrad node belongs to a parameter, not to this pass.
            if node in self._maker or type(node).__name__ == "AccumulateGrad":
                continue
            self._maker[node] = run
            waiting.extend(before for before, _ in node.next_functions if before is not None)


def _named(what: str, value: Any) -> dict[str, Tensor]:
    """Return every tensor in ``value``, under names like ``output[0]``."""
    return {f"{what}{path}": tensor for path, tensor in named_tensors(value).items()}


@torch.no_grad()  # what a check would save for backward() is missing when a checkpoint runs again
def _census(found: Mapping[str, Tensor], masks: bool = False) -> _Census:
    """Count NaN, infinities and all values; with ``masks``, minus infinity does not count."""
    nan = inf = values = 0
    first = ""
    for name, tensor in found.items():
        read = numbers(tensor)
        if read is None:
            continue
        values += read.count
        stored = read.values
        if not (stored.is_floating_point() or stored.is_complex()) or stored.isfinite().all():
            continue
        nan += int(stored.isnan().sum())
        inf += int(
            (stored.isposinf() if masks and not stored.is_complex() else stored.isinf()).sum()
        )
        first = first or (name if nan + inf else "")
    return _Census(nan, inf, values, first)


def _total(output: Any) -> Tensor:
    """Add up, in float64, everything in the output that a gradient can reach."""
    found = [numbers(tensor) for tensor in tensors(output) if tensor.requires_grad]
    parts = [read.values.double().sum() for read in found if read and not read.values.is_complex()]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def _private_copy(tensor: Tensor) -> Tensor:
    """Copy an input, because the model may write over it."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)
