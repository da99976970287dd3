"""Join the process group that a launcher prepared, or work alone where there is none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from labs.repro import device

_POLL = 0.01  # seconds between two looks into the store


@dataclass(frozen=True)
class Place:
    """Say which process this is.

    Attributes:
        rank: Its number among all processes of all machines, from 0.
        world_size: How many processes there are in all.
        local_rank: Its number among the processes of this machine.
        device: What it computes on: a GPU of its own, or the CPU.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Tell whether this process is the one that prints and saves."""
        return self.rank == 0


@contextmanager
def join(store: dist.Store | None = None, timeout: float = 1800) -> Iterator[Place]:
    """Join the process group for the length of a ``with`` block, and say which process this is.

    The same line works under ``torchrun``, under :func:`labs.ddp.launch`, and alone: the launcher
    describes the group in the environment variables ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and
    ``LOCAL_WORLD_SIZE``. Without them there is no group, and the place is rank 0 of 1.

    The backend is nccl where :func:`labs.repro.device` is a GPU and the machine has one for each of
    its processes, and gloo on the CPU otherwise.

    Args:
        store: Where the processes meet. When None, at ``MASTER_ADDR:MASTER_PORT``, which
            ``torchrun`` sets.
        timeout: How long a process waits for the others in one collective call, in seconds.

    Yields:
        The place of this process. The group is left at the end of the block; after an exception it
        is left open, so that no other process fails before this one could tell why.
    """
    if "RANK" not in os.environ:
        yield Place(0, 1, 0, device())
        return
    place, patience = current_place(), timedelta(seconds=timeout)
    on_gpu = place.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(place.device)
    if store is None:
        shared, *_ = next(rendezvous("env://", place.rank, place.world_size, timeout=patience))
        store = _unused_part(shared, place.rank, place.world_size, timeout)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.world_size,
        timeout=patience,
    )
    yield place
    dist.destroy_process_group()


def _unused_part(store: dist.Store, rank: int, world_size: int, timeout: float) -> dist.Store:
    """Agree on a part of the store that no earlier attempt has written to.

    ``torchrun`` keeps one store through all restarts. A rank that starts faster than rank 0 would
    find there the address at which the last rank 0 listened, and knock at a closed door.

    Args:
        store: What all ranks reach, with whatever earlier attempts left in it. No process of
            theirs runs any more.
        rank: The rank of this process.
        world_size: How many processes do the same.
        timeout: How long to wait for the others, in seconds.

    Returns:
        The store behind a prefix that rank 0 drew.

    Raises:
        TimeoutError: On rank 0, when others do not come; it names them.
        torch.distributed.DistError: On the others, when rank 0 does not come.
    """
    if rank > 0:
        question = uuid4().hex  # an answer to it cannot be an old one
        store.set(f"question/{rank}", question)
        store.wait([f"answer/{question}"], timedelta(seconds=timeout))
        name = store.get(f"answer/{question}").decode()
        store.set(f"heard/{name}/{rank}", "")
        return dist.PrefixStore(name, store)
    name, missing = uuid4().hex, set(range(1, world_size))
    deadline = time.monotonic() + timeout
    while missing:
        if time.monotonic() > deadline:
            raise TimeoutError(f"join: ranks {sorted(missing)} did not come within {timeout:g} s")
        for other in sorted(missing):
            if store.check([f"question/{other}"]):  # perhaps still the one of an earlier attempt
                store.set(f"answer/{store.get(f'question/{other}').decode()}", name)
            if store.check([f"heard/{name}/{other}"]):
                missing.remove(other)
        time.sleep(_POLL)
    return dist.PrefixStore(name, store)


def current_place() -> Place:
    """Return the place that the launcher's environment variables describe.

    Raises:
        KeyError: When there is no launcher, so no ``RANK`` or ``WORLD_SIZE``.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", rank))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    enough = device().type == "cuda" and torch.cuda.device_count() >= here
    return Place(rank, world, local, torch.device("cuda", local) if enough else torch.device("cpu"))
