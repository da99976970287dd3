"""Let a model run without a trace: on copies of its buffers, and without activation checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction


@contextmanager
def buffers_apart(model: nn.Module) -> Iterator[None]:
    """Give the model copies of its buffers for the block, such as the statistics of batch norms.

    Unlike ``torch.func.functional_call`` this also holds for code that runs again in the backward
    pass. A buffer that several modules share is one copy.
    """
    held = [
        (module._buffers, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in held}
    try:
        for buffers, name, buffer in held:
            buffers[name] = copies[id(buffer)]
        yield
    finally:
        for buffers, name, buffer in held:
            buffers[name] = buffer


@contextmanager
def checkpoints_off() -> Iterator[None]:
    """Run what is checkpointed with ``use_reentrant=True`` as ordinary code in the block.

    Such a segment runs without a graph at first and builds one only in ``backward()``, so that
    nothing can be followed through it, and ``torch.autograd.grad`` refuses it. The values are the
    same. Other threads compute the same as well, with more memory.
    """
    before = vars(CheckpointFunction).get("apply")  # None: it is inherited

    def run(function: Callable[..., Any], _preserve: bool, *args: Any) -> Any:
        # Where no input requires a gradient, such a segment passes none to its parameters either.
        wanted = any(isinstance(value, Tensor) and value.requires_grad for value in args)
        with torch.set_grad_enabled(wanted and torch.is_grad_enabled()):
            return function(*args)

    CheckpointFunction.apply = run
    try:
        yield
    finally:
        if before is None:
            del CheckpointFunction.apply
        else:
            CheckpointFunction.apply = before
