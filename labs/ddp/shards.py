"""Divide work over ranks so that every sample counts exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def shard(n: int, rank: int, world_size: int) -> range:
    """Return the indices in [0, n) that are this rank's: each index is exactly one rank's.

    ``DistributedSampler`` makes the shards equally long by repeating samples (or dropping some),
    and a metric then counts those twice. These are uneven by at most one. A range works as the
    ``sampler`` of a ``DataLoader`` and as an index of a tensor's rows.

    Args:
        n: How many samples there are, at least 0.
        rank: Which rank, in [0, world_size).
        world_size: How many ranks.

    Raises:
        ValueError: When ``n`` is negative or ``rank`` out of range.
    """
    if n < 0 or not 0 <= rank < world_size:
        raise ValueError(
            f"shard: expected n >= 0 and 0 <= rank < world_size, got n={n}, rank={rank}, "
            f"world_size={world_size}"
        )
    return range(rank, n, world_size)


def gather_exact(local: Tensor, n: int) -> Tensor:
    """Collect what each rank computed on its :func:`shard` of ``n`` samples, in dataset order.

    Every rank must call it. Without a process group, ``local`` is all there is.

    Args:
        local: [k,...], one row for each index of ``shard(n, rank, world_size)``, in that order, on
            the device of the process group. A rank without samples passes any empty tensor.
        n: How many samples there are over all ranks.

    Returns:
        [n,...] on every rank: row i belongs to sample i.

    Raises:
        ValueError: On every rank, when one has another number of rows than its shard, or rows of
            another shape or type.
    """
    rank, world = _rank(), _world_size()
    forms: list[Any] = [(len(local), tuple(local.shape[1:]), local.dtype)]
    if world > 1:
        forms = [None] * world
        dist.all_gather_object(forms, (len(local), tuple(local.shape[1:]), local.dtype))
    lengths = [form[0] for form in forms]
    kinds = list(dict.fromkeys(form[1:] for form in forms if form[0]))
    expected = [len(shard(n, r, world)) for r in range(world)]
    if lengths != expected or len(kinds) > 1:
        raise ValueError(
            f"gather_exact: expected {expected} rows from ranks 0 to {world - 1} for n={n}, all of "
            f"one shape and type, got {lengths} of {kinds}; index the data with shard(n, rank, "
            "world_size)"
        )
    if world == 1 or n == 0:
        return local
    shape, dtype = kinds[0]
    padded = torch.zeros(len(shard(n, 0, world)), *shape, dtype=dtype, device=local.device)
    padded[: lengths[rank]] = local
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)[:n]  # [rows,world,...]: row k of rank r is k*world+r


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks; the tensor itself without a process group.

    A loss that divides by a number of objects divides by this mean of it, as DETR does (Carion et
    al. 2020): the plain mean of the gradients that ``DistributedDataParallel`` takes is then that
    of one process with all objects, however many of them each rank has. Every rank must call it.

    Args:
        value: Of any shape, the same on all ranks. No gradient flows through it.
    """
    if _world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / _world_size()


@dataclass(frozen=True)
class Micro:
    """Hold one micro-batch of a step that is made of several.

    Attributes:
        batch: What the loader gave.
        first: Whether it begins a step.
        weight: Multiply the mean loss of this batch with it, before ``backward``.
        last: Whether the gradient is now that of the whole step: time for the optimizer.
        samples: How many samples the whole step has, over all ranks.
    """

    batch: Any
    first: bool
    weight: float
    last: bool
    samples: int


def accumulate(model: nn.Module, batches: Iterable[Any], steps: int) -> Iterator[Micro]:
    """Group batches by ``steps``, so that each group has the gradient of one large batch.

    Loop over it, with the forward and the backward pass in the loop::

        for micro in accumulate(model, loader, steps=4):
            (micro.weight * loss(model, micro.batch)).backward()
            if micro.last:
                optimizer.step()
                optimizer.zero_grad()

    When ``model`` is a ``DistributedDataParallel``, the ranks exchange gradients only in the last
    backward pass of a group (``no_sync`` before). The weights make the gradient that of the mean
    loss over all samples of the group on all ranks, whatever their sizes: the last group may be
    short, and the last batch smaller.

    Args:
        model: The network, wrapped or not.
        batches: This rank's batches. The first tensor of a batch has one row per sample.
        steps: How many batches make one step, at least 1.

    Yields:
        One :class:`Micro` per batch.

    Raises:
        ValueError: When ``steps`` < 1, or a batch holds no sample or no tensor.
        RuntimeError: On every rank, when one runs out of batches before the others, who would
            otherwise wait for it for ever.
    """
    if steps < 1:
        raise ValueError(f"accumulate: expected steps >= 1, got {steps}")
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    iterator = iter(batches)
    while True:
        group = list(islice(iterator, steps))
        sizes = [rows(batch) for batch in group]
        counts = _gather_counts(sum(sizes), home)
        if not any(counts):
            return
        if not all(counts):
            raise RuntimeError(
                f"accumulate: the ranks have {counts} samples in this step, so one ran out of "
                "batches; give every rank equally many batches (drop_last=True)"
            )
        samples = sum(counts)
        for i, (batch, size) in enumerate(zip(group, sizes, strict=True)):
            last = i == len(group) - 1
            # DDP divides the sum over ranks by their number, hence the factor.
            weight = size * len(counts) / samples
            with nullcontext() if last else _no_sync(model):
                yield Micro(batch, i == 0, weight, last, samples)


def rows(batch: Any) -> int:
    """Return how many samples a batch has: the length of its first tensor.

    Raises:
        ValueError: When there is no sample or no tensor in it.
    """
    tensor = _first_tensor(batch)
    if tensor is None or tensor.ndim == 0 or len(tensor) == 0:
        got = "no tensor" if tensor is None else f"a tensor of shape {tuple(tensor.shape)}"
        raise ValueError(f"expected a batch of at least one sample, its tensors [n,...], got {got}")
    return len(tensor)


def _first_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return next((t for part in batch if (t := _first_tensor(part)) is not None), None)
    return None


def _no_sync(model: nn.Module) -> Any:
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _gather_counts(count: int, home: torch.device) -> list[int]:
    if _world_size() == 1:
        return [count]
    counts = torch.zeros(_world_size(), dtype=torch.int64, device=home)
    counts[_rank()] = count
    dist.all_reduce(counts)
    return counts.tolist()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
