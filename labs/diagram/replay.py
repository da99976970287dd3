"""Run a network once and keep what its parts return; run it again with that held in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labs.hooks.nested import map_tensors, named_tensors, tensors


@dataclass(frozen=True, eq=False)
class Inputs:
    """Hold what a model is called with.

    Attributes:
        example: A tuple is several arguments.
        kwargs: What it takes by name.
    """

    example: Any
    kwargs: Mapping[str, Any]

    def call(self, model: nn.Module) -> Any:
        """Run the model on copies, as it may write over what it is given; the luck is the same."""
        torch.manual_seed(0)  # inside of random_state_kept
        example, kwargs = map_tensors(Tensor.clone, (self.example, dict(self.kwargs)))
        args = example if type(example) is tuple else (example,)
        return model(*args, **kwargs)

    def whole(self) -> Any:
        """Return the inputs in one structure, in which ``[1]`` is the second argument."""
        if not self.kwargs:
            return self.example
        args = self.example if type(self.example) is tuple else (self.example,)
        return {**dict(enumerate(args)), **self.kwargs}

    def replaced(self, others: Mapping[str, Tensor]) -> Inputs:
        """Return the inputs with other tensors at these paths of :meth:`whole`."""
        paths = iter(named_tensors(self.whole()))
        new = map_tensors(lambda tensor: others.get(next(paths), tensor), self.whole())
        if not self.kwargs:
            return Inputs(new, {})
        args = tuple(held for key, held in new.items() if isinstance(key, int))
        return Inputs(args, {key: new[key] for key in self.kwargs})


@dataclass(frozen=True, eq=False)
class Call:
    """Hold one call of a layer: what it returned, and which of its inputs it wrote that over.

    Attributes:
        output: A copy.
        over: For each tensor of the output, the number of the input tensor whose place it took, as
            in a ``ReLU(inplace=True)``, or ``None``.
    """

    output: Any
    over: tuple[int | None, ...]


@contextmanager
def unhurried_attention() -> Iterator[None]:
    """Run attention layer by layer in the block: PyTorch's fast path calls none of the layers."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def apart(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode that shares nothing with the model, without its hooks."""
    twin = deepcopy(model).eval()
    for module in twin.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()
        for backward in (module._backward_hooks, module._backward_pre_hooks):
            backward.clear()
    return twin


def record(
    model: nn.Module, layers: Mapping[str, str], inputs: Inputs
) -> tuple[dict[str, list[Call]], Any]:
    """Run a model, and return the calls of its layers and what it returned itself.

    Args:
        model: A copy of your own.
        layers: From the names of parts to the names of layers.
        inputs: What to run it on.

    Raises:
        ValueError: When one of the layers does not run.
    """
    calls: dict[str, list[Call]] = {name: [] for name in layers}

    def keep(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: _kept(calls[name], forward, args, kwargs)

    with _replaced(model, layers, keep):
        returned = map_tensors(Tensor.clone, inputs.call(model))
    for name, ran in calls.items():
        if not ran:
            raise ValueError(
                f"trace: part {name!r} (layer {layers[name]!r}) did not run; the model's forward "
                "never calls it as a module; name a layer around it, or leave it out"
            )
    return calls, returned


def replay(
    model: nn.Module, layers: Mapping[str, str], calls: Mapping[str, list[Call]], inputs: Inputs
) -> tuple[dict[str, list[Tensor]], Any]:
    """Run what lies between the layers, each of which returns what is held for it.

    Returns:
        The tensors that each layer was given, and what the model returned.
    """
    given: dict[str, list[Tensor]] = {name: [] for name in layers}
    turns = {name: iter(held) for name, held in calls.items()}

    def stand_in(name: str, _forward: Callable[..., Any]) -> Callable[..., Any]:
        def play(*args: Any, **kwargs: Any) -> Any:
            arrived = tensors((args, kwargs))
            given[name] += [tensor.clone() for tensor in arrived]
            # A change can make a loop longer; then the last call goes on.
            return _played(next(turns[name], calls[name][-1]), arrived)

        return play

    with _replaced(model, layers, stand_in):
        return given, inputs.call(model)


@contextmanager
def _replaced(
    model: nn.Module,
    layers: Mapping[str, str],
    make: Callable[[str, Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """Give each layer another ``forward`` in the block, made from its name and its own."""
    modules = {name: model.get_submodule(layer) for name, layer in layers.items()}
    own = {name: module.forward for name, module in modules.items()}
    try:
        for name, module in modules.items():
            vars(module)["forward"] = make(name, own[name])
        yield
    finally:
        for name, module in modules.items():
            vars(module)["forward"] = own[name]


def _kept(
    calls: list[Call],
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    arrived = tensors((args, kwargs))
    versions = [tensor._version for tensor in arrived]
    output = forward(*args, **kwargs)
    written = [i for i, before in enumerate(versions) if arrived[i]._version != before]
    over = tuple(
        next((i for i in written if _is_one(arrived[i], out)), None) for out in tensors(output)
    )
    calls.append(Call(map_tensors(Tensor.clone, output), over))
    return output


def _played(call: Call, arrived: list[Tensor]) -> Any:
    places = iter(call.over)

    def put(tensor: Tensor) -> Tensor:
        place = next(places)
        if place is None or place >= len(arrived) or arrived[place].shape != tensor.shape:
            return tensor.clone()
        return arrived[place].copy_(tensor)

    return map_tensors(put, call.output)


def _is_one(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape
