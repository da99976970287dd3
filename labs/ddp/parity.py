"""Compare the gradients of several processes with those of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from labs.ddp.group import current_place
from labs.ddp.launcher import launch
from labs.ddp.shards import rows, shard
from labs.repro import device, random_state_kept, seed_everything

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class ParameterParity:
    """Hold how far the gradient of one parameter is from the reference.

    Attributes:
        parameter: Its name, as in ``model.named_parameters()``.
        shape: Its shape.
        max_abs_diff: The largest difference of one value, over all ranks; infinite where NaN.
        max_abs: The largest absolute value of the reference gradient.
    """

    parameter: str
    shape: tuple[int, ...]
    max_abs_diff: float
    max_abs: float


@dataclass(frozen=True, repr=False)
class GradientParity:
    """Hold the comparison, parameter by parameter, and what may explain a difference."""

    parameters: tuple[ParameterParity, ...]
    world_size: int
    notes: tuple[str, ...]

    @property
    def worst(self) -> ParameterParity:
        """Return the parameter with the largest difference."""
        return max(self.parameters, key=lambda row: row.max_abs_diff)

    @property
    def max_abs_diff(self) -> float:
        """Return the largest difference between two gradient values."""
        return self.worst.max_abs_diff

    def table(self) -> pd.DataFrame:
        """Return one row per parameter, in the order of the model: see :class:`ParameterParity`."""
        columns = list(ParameterParity.__dataclass_fields__)
        return pd.DataFrame([vars(row) for row in self.parameters], columns=columns)

    def __repr__(self) -> str:
        notes = "".join(f"; {note}" for note in self.notes)
        return (
            f"GradientParity({self.world_size} ranks, {len(self.parameters)} parameters, "
            f"max_abs_diff {self.max_abs_diff:.2g} in {self.worst.parameter}{notes})"
        )


def gradient_parity(
    make_model: Callable[[], nn.Module],
    loss_fn: Loss,
    batch: Any,
    world_size: int = 2,
    find_unused_parameters: bool = False,
    timeout: float = 120,
) -> GradientParity:
    """Compare the gradients of ``DistributedDataParallel`` with those of one process.

    Each rank gets a :func:`labs.ddp.shard` of the batch and computes its mean loss; the loss is
    weighted by the size of the shard, so that an uneven split is right too. The reference is the
    same model with the whole batch, in this process and outside of any group, so that a loss which
    asks the other ranks (:func:`labs.ddp.mean_over_ranks`) is put to the test as well. Convolutions
    on a GPU do not use TF32 here.

    These differ for a reason, and not by rounding: a batch norm in train mode, which normalises by
    its shard (use ``SyncBatchNorm``, ``GroupNorm`` or eval mode); dropout, which draws differently
    for each shard; a loss that is not a mean over samples (a sum, or a mean over boxes or pixels of
    which each sample has another number); a loss over pairs in the batch. ``notes`` names the first
    two when the model has them.

    Args:
        make_model: An importable function without arguments (or a ``functools.partial``) that
            builds the model. It is called here and in each rank, after seeding with 0; the ranks
            get the weights of the one here.
        loss_fn: ``loss_fn(model, batch)`` returns the mean loss, like
            :func:`labs.train.cross_entropy`. Importable too.
        batch: Tensors [N,...], all with the same N >= ``world_size``, in tuples, lists and dicts.
        world_size: How many ranks.
        find_unused_parameters: Handed to ``DistributedDataParallel``.
        timeout: As for :func:`labs.ddp.launch`, in seconds.

    Returns:
        The comparison. In float32, ``max_abs_diff`` is below 1e-6 for gradients of the order of 1.

    Raises:
        ValueError: When the batch cannot be split; when the model has nothing to train; and when a
            parameter gets no gradient although ``find_unused_parameters`` is off:
            ``DistributedDataParallel`` would stop at the second step.
        RuntimeError: When this process is in a process group itself.
        RankFailed: When a rank fails. What the model raises on the whole batch arrives as it is.
    """
    shards = [_part(batch, shard(rows(batch), rank, world_size)) for rank in range(world_size)]
    if rows(batch) < world_size:
        raise ValueError(
            f"gradient_parity: expected a sample for each of {world_size} ranks, got {rows(batch)}"
        )
    _refuse_group()
    reference = _alone(make_model, loss_fn, batch)
    if not reference.gradients:
        raise ValueError("gradient_parity: expected a parameter that requires a gradient, got none")
    if reference.missing and not find_unused_parameters:
        raise ValueError(
            f"gradient_parity: no gradient for {', '.join(reference.missing)}; "
            "DistributedDataParallel would stop at the second step: freeze them, use them, or pass "
            "find_unused_parameters=True"
        )
    args = (make_model, loss_fn, reference, shards, rows(batch), find_unused_parameters)
    compared = launch(_compare, world_size, args, timeout)
    found = compared[0]
    ranks = [[diff for _, _, diff, _ in rows_of_rank] for rows_of_rank in compared]
    parameters = [
        ParameterParity(name, shape, max(diffs), size)
        for (name, shape, _, size), diffs in zip(found, zip(*ranks, strict=True), strict=True)
    ]
    return GradientParity(tuple(parameters), world_size, reference.notes)


Row = tuple[str, tuple[int, ...], float, float]


@dataclass(frozen=True, eq=False)
class _Reference:
    """Hold what one process without a group makes of the whole batch, and with which weights."""

    state: dict[str, Tensor]
    gradients: dict[str, Tensor]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def _alone(make_model: Callable[[], nn.Module], loss_fn: Loss, batch: Any) -> _Reference:
    """Compute the reference here: in a group, a loss that asks the ranks would ask them twice."""
    with random_state_kept(), _without_tf32():
        seed_everything(0)
        model = make_model().to(device())
        state = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if trained:
            loss_fn(model, _to(batch, device())).backward()
    missing = tuple(name for name, p in trained.items() if p.grad is None)
    none = {name: torch.zeros_like(p, device="cpu") for name, p in trained.items()}
    found = {name: p.grad.cpu() for name, p in trained.items() if p.grad is not None}
    return _Reference(state, none | found, missing, _notes(model))


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _refuse_group() -> None:
    if dist.is_available() and dist.is_initialized():
        raise RuntimeError(
            "gradient_parity: expected to be called outside of a process group, because it starts "
            "its own; call it in the program that is not launched"
        )


def _compare(
    rank: int,
    make_model: Callable[[], nn.Module],
    loss_fn: Loss,
    reference: _Reference,
    shards: list[Any],
    samples: int,
    find_unused_parameters: bool,
) -> list[Row]:
    """Return what this rank found: a row per parameter."""
    home = current_place().device
    seed_everything(0)
    model = make_model().to(home)
    model.load_state_dict(reference.state)
    ddp = DistributedDataParallel(model, find_unused_parameters=find_unused_parameters)
    mine = _to(shards[rank], home)
    weight = len(shards) * rows(mine) / samples  # DDP takes the plain mean over ranks
    with _without_tf32():
        (weight * loss_fn(ddp, mine)).backward()
    parameters = dict(model.named_parameters())
    return [_row(name, one, parameters[name]) for name, one in reference.gradients.items()]


def _row(name: str, expected: Tensor, many: nn.Parameter) -> Row:
    got = torch.zeros_like(expected) if many.grad is None else many.grad.cpu()
    diff = (got - expected).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    return name, tuple(many.shape), diff.max().item(), expected.abs().max().item()


def _notes(model: nn.Module) -> tuple[str, ...]:
    modules = [module for module in model.modules() if module.training]
    norms = sum(isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm) for m in modules)
    drops = sum(isinstance(m, _DropoutNd) and m.p > 0 for m in modules)
    notes = []
    if norms:
        notes.append(f"{norms} batch norms in train mode normalise by their shard")
    if drops:
        notes.append(f"{drops} dropouts draw differently for each shard")
    return tuple(notes)


def _part(batch: Any, indices: range) -> Any:
    """Return these samples of every tensor of the batch."""
    n = rows(batch)

    def take(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != n:
            raise ValueError(
                f"gradient_parity: expected tensors with {n} samples, got {tuple(tensor.shape)}; "
                "put what is not per sample into loss_fn"
            )
        return tensor[list(indices)]

    return _map(take, batch)


def _to(batch: Any, home: torch.device) -> Any:
    return _map(lambda tensor: tensor.to(home), batch)


def _map(fn: Callable[[Tensor], Tensor], batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return fn(batch)
    if isinstance(batch, Mapping):
        return {key: _map(fn, value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(_map(fn, value) for value in batch)
    return batch
