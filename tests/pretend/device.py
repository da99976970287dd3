"""Pretend that there is an accelerator: tensors say ``pretend:0``, and the CPU computes.

It shows on any machine what only a second device shows: two devices in one operation, a target or a
constant left on the CPU, a missing ``.cpu()`` before NumPy. It says nothing about speed, memory,
kernels, streams or number formats.

Three parts make it. PyTorch's backend for devices written in Python lets autograd know the device.
A tensor subclass holds the CPU tensor and claims another device. And a dispatch mode sees every
operator: it refuses operands of two devices as CUDA does, unwraps, computes, wraps.

The name of the backend stays until the process ends, so run it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.backend_registration as backends
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
CPU = torch.device("cpu")
aten = torch.ops.aten

COPIES = {aten.copy_.default, aten._to_copy.default, aten.copy.default}
"""What moves values from one device to another."""

READS = {aten.index.Tensor, aten._unsafe_index.Tensor}
"""What takes indices, which may lie on the CPU whatever is indexed."""

WRITES = {aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""The same for writing; the values must lie with what is written to, but for a single one."""


class Driver:
    """Answer what PyTorch asks of the module ``torch.pretend``."""

    def is_available(self) -> bool:
        """Say yes."""
        return True

    is_initialized = is_available

    def _is_in_bad_fork(self) -> bool:
        return False

    def _lazy_init(self) -> None:
        """Need no preparation."""

    def device_count(self) -> int:
        """Return that there is one."""
        return 1

    def current_device(self) -> int:
        """Return the index of that one."""
        return 0

    def synchronize(self, device: object = None) -> None:
        """Have nothing to wait for."""

    def manual_seed_all(self, seed: int) -> None:
        """Leave it to the CPU, whose numbers are drawn."""

    manual_seed = manual_seed_all

    def get_rng_state(self, device: object = None) -> Tensor:
        """Return the state of the CPU."""
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        """Leave it to the CPU."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return what autocast may use."""
        return [torch.float16, torch.bfloat16]


backends._setup_privateuseone_for_python_backend(NAME, backend_module=Driver())
DEVICE = torch.device(NAME, 0)


class Pretended(Tensor):
    """Hold a tensor of the CPU, ``held``, and say that it is on the device."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[Pretended], held: Tensor) -> Pretended:
        """Wrap a plain tensor of the CPU."""
        kind = {"dtype": held.dtype, "layout": held.layout, "device": DEVICE}
        where = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        out: Pretended = Tensor._make_wrapper_subclass(cls, held.shape, **where, **kind)
        out.held = held
        return out

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, also where the mode does not look, as in a backward pass."""
        return compute(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {DEVICE}"

    def tolist(self) -> Any:
        """Return the values, as from any device."""
        return self.held.tolist()


class Operators(TorchDispatchMode):
    """See every operator, also those that are to make a tensor on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the device what belongs there."""
        return compute(func, args, kwargs or {})


class Makers(TorchFunctionMode):
    """Let what makes tensors from Python's numbers make them on the CPU, and move them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take the wanted device away, and put what was made on it."""
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], Pretended):
            func, kwargs = torch.tensor, {"dtype": args[0].dtype, "device": DEVICE} | kwargs
            args = args[1:]
        device = kwargs.get("device")
        makers = (torch.tensor, torch.as_tensor, torch.asarray)
        if func not in makers or device is None or torch.device(device).type != NAME:
            return func(*args, **kwargs)
        wanted = kwargs.pop("requires_grad", False)
        made: Tensor = func(*args, **(kwargs | {"device": None})).to(DEVICE)
        return made.requires_grad_(wanted)


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Believe in the device while the block runs."""
    with ExitStack() as stack:
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(Makers())
        stack.enter_context(Operators())
        yield DEVICE


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Call an operator on the CPU, and let its results be where a real device would have them.

    Raises:
        RuntimeError: When operands are on two devices that may not meet.
    """
    operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    here = [x for x in operands if isinstance(x, Pretended)]
    device = kwargs.get("device")
    told = None if device is None else torch.device(device).type == NAME
    if not here and not told:
        return func(*args, **kwargs)
    refuse_guests(func, args, here, operands)
    plain_args, plain = tree_map(held_of, (args, kwargs))
    if told:
        plain |= {"device": CPU}
    plain.pop("non_blocking", None)
    out = func(*plain_args, **plain)
    if func._schema.is_mutable:  # in place, and out=: the very tensor that was given
        given = {id(held_of(x)): x for x in operands}
        return tree_map(lambda x: given.get(id(x), wrapped(x)), out)
    return out if told is False else tree_map(wrapped, out)


def refuse_guests(func: Any, args: Any, here: list[Pretended], operands: list[Tensor]) -> None:
    """Raise where CUDA would: a tensor of the CPU, but for single numbers, indices and copies."""
    guests = [x for x in operands if not isinstance(x, Pretended) and x.dim()]
    if not guests or func in COPIES:
        return
    at_home = isinstance(args[0], Pretended)
    if at_home and (func in READS or (func in WRITES and all(x is not args[2] for x in guests))):
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} "
        f"and cpu: {func} of shapes {[tuple(x.shape) for x in here]} there and "
        f"{[tuple(x.shape) for x in guests]} on the CPU"
    )


def held_of(value: Any) -> Any:
    """Return the plain tensor of a pretended one, and anything else as it is."""
    return value.held if isinstance(value, Pretended) else value


def wrapped(value: Any) -> Any:
    """Return a plain tensor as one of the device, and anything else as it is."""
    plain = isinstance(value, Tensor) and not isinstance(value, Pretended)
    return Pretended(value) if plain else value
