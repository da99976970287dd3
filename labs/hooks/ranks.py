"""Tell which parameters are not this process's own: averaged over ranks, or held in parts."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def refuse_averaged(verb: str, parameters: Iterable[Tensor], fix: str) -> None:
    """Raise when ``DistributedDataParallel`` averages the gradients of one of these parameters.

    The network inside does not know that it is wrapped, so in a process group all objects of the
    program are looked through for a wrapper that holds it (a third to half of a second).

    Raises:
        TypeError: It names the verb that refuses, and the fix.
    """
    if _belong_to(DistributedDataParallel, parameters):
        raise TypeError(
            f"{verb}: expected a model outside of DistributedDataParallel, which averages the "
            f"gradients of all ranks, got parameters that it owns (also its `.module`); {fix}"
        )


def refuse_sharded(verb: str, model: nn.Module, fix: str) -> None:
    """Raise when this rank holds only a part of a parameter (FSDP, tensor parallelism).

    Raises:
        TypeError: It names the verb that refuses, the parameter, and the fix.
    """
    refuse_flattened(verb, model)
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor"):  # a DTensor
            raise TypeError(
                f"{verb}: expected whole parameters, got {name!r} as a DTensor, of which this rank "
                f"may hold a part (fully_shard, tensor parallelism); {fix}"
            )
    # After a forward pass the parts may be together, in parameters that look like any other.
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and _belong_to(fsdp.FSDPModule, model.parameters()):
        raise TypeError(
            f"{verb}: expected whole parameters, got those of a model in fully_shard, which puts "
            f"them together for the length of a pass; {fix}"
        )


def refuse_flattened(verb: str, model: nn.Module) -> None:
    """Raise when ``FullyShardedDataParallel`` has cut up the parameters, or a wrapper around did.

    Raises:
        TypeError: It names the verb that refuses, and the fix.
    """
    if any(getattr(p, "_fsdp_flattened", False) for p in model.parameters()):  # FSDP's own mark
        raise TypeError(
            f"{verb}: expected parameters in their own shapes, got some of a model in "
            "FullyShardedDataParallel, which flattens and cuts them; use fully_shard, or look at "
            "the plain model before it is wrapped"
        )


def _belong_to(kind: type[nn.Module], parameters: Iterable[Tensor]) -> bool:
    """Tell whether a living module of this kind, anywhere in the program, holds one of these."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    wanted = set(map(id, parameters))
    living = _living(kind) if wanted else []
    return any(wanted & set(map(id, module.parameters())) for module in living)


def _living(kind: type[nn.Module]) -> list[Any]:
    """Return every object of this class, or of one that inherits from it."""
    kinds, waiting = {kind}, [kind]
    while waiting:
        more = set(waiting.pop().__subclasses__()) - kinds
        kinds |= more
        waiting.extend(more)
    # By type(), as isinstance() would run the code of objects that pretend to be another.
    return [found for found in gc.get_objects() if type(found) in kinds]
