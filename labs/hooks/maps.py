"""Keep what layers return, and the gradients that come back to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from labs.hooks.layers import eager, find_layers
from labs.hooks.nested import map_tensors, tensors
from labs.hooks.values import describe


@dataclass(frozen=True, eq=False)
class _Call:
    """Hold one call of a layer: what it returned, and one gradient per tensor of that."""

    output: Any
    gradients: list[Tensor | None]

    def gradient(self) -> Any:
        """Return the gradients in the structure of the output."""
        arrived = iter(self.gradients)
        return map_tensors(lambda _: next(arrived), self.output)


@dataclass(frozen=True, eq=False, repr=False)
class Maps:
    """Hold what the watched layers returned; ``maps["layer1"]`` reads one of them.

    Every tensor is a detached copy, on the device and in the number format of the original, so
    nothing that happens later changes it, and it keeps no graph alive.
    """

    _calls: Mapping[str, list[_Call]]
    _with_gradients: bool

    def __getitem__(self, layer: str) -> Any:
        """Return what the layer returned: the value itself, or a list when it ran several times.

        Raises:
            KeyError: When the layer was not asked for, or did not run.
        """
        return _only(self.calls(layer))

    def calls(self, layer: str) -> list[Any]:
        """Return what the layer returned at each call, as a list also when it ran once."""
        return [call.output for call in self._ran(layer)]

    def gradient(self, layer: str) -> Any:
        """Return the gradient of the loss with respect to what the layer returned.

        It has the structure of ``maps[layer]``, with ``None`` where a tensor got no gradient.
        Several backward passes add up, as they do in ``.grad``. It is the gradient of whatever
        ``backward()`` was called on: where a ``GradScaler`` scaled the loss, divide it by
        ``scaler.get_scale()``.

        Raises:
            KeyError: When the layer was not asked for, or did not run.
            ValueError: When no gradient was asked for, or none arrived.
        """
        if not self._with_gradients:
            raise ValueError("no gradients were kept; use capture(..., gradients=True)")
        ran = self._ran(layer)
        if all(gradient is None for call in ran for gradient in call.gradients):
            raise ValueError(
                f"no gradient arrived at layer {layer!r}; call backward() inside the `with` block, "
                "and check that the loss depends on the layer and that its output requires a "
                "gradient (no frozen parameters all the way, no torch.no_grad()); a view that an "
                "in-place layer overwrites has none: watch the layer before it"
            )
        return _only([call.gradient() for call in ran])

    def keys(self) -> list[str]:
        """Return the names of the watched layers that ran."""
        return [layer for layer, ran in self._calls.items() if ran]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def table(self) -> pd.DataFrame:
        """Return one row per tensor: where it came from, its shape, and how its values lie.

        Returns:
            Columns ``layer``, ``call`` and ``part`` (both from 0), ``shape``, ``mean``, ``std``,
            ``min``, ``max`` and ``zeros``, the share of exact zeros in [0, 1]. Of an unusual tensor
            the table says what can be said: a size that differs from part to part is ``None``, and
            a number that there is none of (a mean on the ``meta`` device) is NaN. Quantised values
            are what they stand for. Of a ``DTensor`` the row describes the whole, so that every
            rank has to ask for the table.
        """
        rows = [
            {"layer": layer, "call": index, "part": part, **describe(tensor)}
            for layer in self.keys()
            for index, output in enumerate(self.calls(layer))
            for part, tensor in enumerate(tensors(output))
        ]
        numbers = ["mean", "std", "min", "max", "zeros"]
        return pd.DataFrame(rows, columns=["layer", "call", "part", "shape", *numbers])

    def __repr__(self) -> str:
        ran = [f"{name or 'the model'} ({len(self._calls[name])})" for name in self.keys()]
        return f"Maps(layers and their calls: {', '.join(ran) or 'none yet'})"

    def _ran(self, layer: str) -> list[_Call]:
        if layer not in self._calls:
            raise KeyError(f"layer {layer!r} was not captured; there are {', '.join(self._calls)}")
        if not self._calls[layer]:
            raise KeyError(
                f"layer {layer!r} did not run inside the `with` block; either the model was not "
                "called there, or its forward never calls this layer as a module"
            )
        return self._calls[layer]


@contextmanager
def capture(
    model: nn.Module,
    *layers: str,
    gradients: bool = False,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Maps]:
    """Keep what these layers return while the block runs.

    ::

        with capture(model, "layer1", "layer4.1.conv2") as maps:
            model(images)
        maps["layer1"].shape

    The model computes what it computes without it: its outputs, gradients and modes are the same.
    All hooks are gone after the block, also when the model raises. Code from ``torch.compile``
    runs eagerly inside the block, because compiled code skips hooks. A layer under activation
    checkpointing runs again during ``backward()``, and this may show as one more call.

    Args:
        model: Any module. It is not called, and its mode is left alone.
        layers: Names as in ``model.named_modules()``, or patterns: ``"layer*.conv1"`` is every
            ``conv1`` in ``layer1``, ``layer2``... (``*`` also crosses dots). ``""`` is the model.
        gradients: Also keep the gradient of each output. Call ``backward()`` inside the block, then
            read it with ``maps.gradient(name)``.
        reduce: Keep only what this makes of each tensor, and of each gradient: a small tensor,
            like ``Tensor.std`` or ``lambda map: map.mean((0, 2, 3))``. It runs at once, so that
            the memory of a long loop stays flat. It must not write to its argument.

    Yields:
        The maps. They fill up while the model runs.

    Raises:
        KeyError: When a layer does not exist or a pattern matches none; the message names the
            nearest ones.
        TypeError: When hooks cannot see a layer (TorchScript, ``DataParallel`` on several
            devices), or ``reduce`` returns no tensor.
        ValueError: When no layer is named.
        RuntimeError: When a second backward pass goes through a forward pass whose gradients
            were reduced, because what was reduced cannot be added up.
    """
    if not layers:
        raise ValueError('capture: expected the name of at least one layer, got none; "" is all')
    found = find_layers(model, layers)
    calls: dict[str, list[_Call]] = {name: [] for name in found}
    handles: list[RemovableHandle] = []
    try:
        with eager():
            for name, module in found.items():
                keep = partial(_keep, calls[name], handles if gradients else None, reduce)
                handles.append(module.register_forward_hook(keep))
            yield Maps(calls, gradients)
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    calls: list[_Call],
    handles: list[RemovableHandle] | None,
    reduce: Callable[[Tensor], Tensor] | None,
    _module: nn.Module,
    _inputs: Any,
    output: Any,
) -> None:
    call = _Call(map_tensors(partial(_kept, reduce), output), [None] * len(tensors(output)))
    calls.append(call)
    if handles is None:
        return
    for slot, tensor in enumerate(tensors(output)):
        if tensor.requires_grad:
            # A hook on the tensor: a module's full backward hook forbids in-place layers after it.
            handles.append(tensor.register_hook(partial(_add_up, call.gradients, slot, reduce)))


def _add_up(
    gradients: list[Tensor | None],
    slot: int,
    reduce: Callable[[Tensor], Tensor] | None,
    gradient: Tensor,
) -> None:
    before, new = gradients[slot], _kept(reduce, gradient)
    if before is not None and reduce is not None:
        raise RuntimeError(
            "capture: a second backward pass went through the same forward pass, and gradients "
            "that were reduced cannot be added up; leave `reduce` out, or use a block per pass"
        )
    gradients[slot] = new if before is None else before + new


def _kept(reduce: Callable[[Tensor], Tensor] | None, tensor: Tensor) -> Tensor:
    # Without a graph of its own: `reduce` may be a layer, and what that saved would stay alive, and
    # be missing where a checkpoint runs the segment again.
    with torch.no_grad():
        kept = tensor.detach() if reduce is None else reduce(tensor.detach())
        if not isinstance(kept, Tensor):
            raise TypeError(f"capture: expected `reduce` to return a tensor, got {kept!r}")
        # A copy, because the next layer may be a ReLU(inplace=True) that writes over this output,
        # and because a view would keep the whole of it alive.
        return kept.detach().clone()


def _only(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values
