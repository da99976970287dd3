"""Join the process group that a launcher prepared, or work alone where there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from labs.repro import device


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
    place = current_place()
    on_gpu = place.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(place.device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=timeout),
    )
    yield place
    dist.destroy_process_group()


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
