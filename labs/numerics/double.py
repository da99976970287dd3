"""Run a function on float64 copies of its inputs, and of a module's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labs.hooks.layers import own_tensors
from labs.hooks.nested import map_tensors, named_tensors, tensors
from labs.repro import random_state_kept


@dataclass(frozen=True)
class DoubleRun:
    """Call a function on float64 copies of its inputs, and return one number."""

    fn: Callable[..., Any]
    inputs: tuple[Any, ...]
    named: dict[str, Any]
    state: dict[str, Tensor]
    leaves: dict[str, Tensor]

    @classmethod
    def of(
        cls, fn: Callable[..., Any], inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> DoubleRun:
        """Copy what the function is called with, and choose what to differentiate by."""
        chosen = [tensor.requires_grad for tensor in tensors((inputs, named))]
        copies, copies_named = map_tensors(_double, (inputs, named))
        given = {f"input {i}": tensor for i, tensor in enumerate(tensors(copies))}
        for name, value in copies_named.items():
            given |= {f"input {name}{path}": part for path, part in named_tensors(value).items()}
        leaves = {
            name: tensor
            for (name, tensor), wanted in zip(given.items(), chosen, strict=True)
            if tensor.is_floating_point() and (wanted or not any(chosen))
        }
        state: dict[str, Tensor] = {}
        if isinstance(fn, nn.Module):
            state = _double_state(fn)
            trained = {id(state[name]) for name, p in own_tensors(fn).items() if p.requires_grad}
            once = {id(t): (name, t) for name, t in reversed(state.items()) if id(t) in trained}
            leaves |= dict(reversed(once.values()))
        if not leaves:
            raise TypeError(
                "check_gradients: expected a floating-point tensor or a trainable parameter to "
                "differentiate by, got none"
            )
        for leaf in leaves.values():
            leaf.requires_grad_()
        return cls(fn, copies, copies_named, state, leaves)

    def __call__(self) -> Tensor:
        """Call the function once, from the same random state and buffers as the last time."""
        # Clones: it may write over what it is given.
        inputs, named = map_tensors(torch.clone, (self.inputs, self.named))
        with random_state_kept():
            if not isinstance(self.fn, nn.Module):
                return _weighted_sum(self.fn(*inputs, **named))
            buffers = {id(buffer) for buffer in self.fn.buffers()}
            fixed = [name for name, t in own_tensors(self.fn).items() if id(t) in buffers]
            state = self.state | {name: self.state[name].clone() for name in fixed}
            call = torch.func.functional_call
            return _weighted_sum(call(self.fn, state, inputs, named, tie_weights=False))

    def at(self, leaf: Tensor, place: int, shift: float) -> float:
        """Return the value with one number of ``leaf`` moved by ``shift``."""
        numbers = leaf.detach().view(-1)  # shares memory with the leaf
        before = numbers[place].clone()
        numbers[place] += shift
        try:
            return self().item()
        finally:
            numbers[place] = before


def _weighted_sum(output: Any) -> Tensor:
    """Add up every floating-point number of the output, each with its own weight in (-1, 1]."""
    parts = [tensor for tensor in tensors(output) if tensor.is_floating_point()]
    if not parts:
        raise TypeError(
            "check_gradients: expected a floating-point output, got "
            f"{type(output).__name__} without one"
        )
    for part in parts:
        if part.dtype != torch.float64:
            raise ValueError(
                f"check_gradients: expected a float64 output, got {part.dtype}; differences need "
                "every digit, so remove casts such as .float() from the function"
            )
    flat = torch.cat([part.flatten() for part in parts])
    return (flat * torch.arange(len(flat), dtype=torch.float64, device=flat.device).cos()).sum()


def _double(tensor: Tensor) -> Tensor:
    """Copy a tensor; a floating-point one to float64, in one block of memory."""
    wide = torch.float64 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(wide, copy=True).contiguous()


def _double_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy parameters and buffers to float64; tied ones stay tied."""
    copies = {id(tensor): _double(tensor) for tensor in own_tensors(model).values()}
    return {name: copies[id(tensor)] for name, tensor in own_tensors(model).items()}
