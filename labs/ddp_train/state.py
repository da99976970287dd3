"""Hold what a training run is: its settings, and all that changes while it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from labs.ddp import Place
from labs.repro import seed_everything


@dataclass(frozen=True)
class Settings:
    """Hold what decides the result of a run; the help of the command line explains each."""

    epochs: int = 3
    steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 0.01
    warm_up: float = 0.3
    clip: float = 5.0
    seed: int = 0
    limit: int | None = None
    ema: float = 0.0
    amp: bool = False
    sync_bn: bool = False


@dataclass
class Run:
    """Hold all that changes while training, and so all that a checkpoint saves.

    Attributes:
        network: The plain network; its weights are what is saved and evaluated.
        model: The network as it is trained: wrapped when there is a process group.
        optimizer: AdamW.
        scaler: Scales the loss under fp16; does nothing otherwise.
        ema: The moving average of the network, when it is wanted.
        batches: Global batches used; one more than ``step`` for each step that the loss scale
            skipped, because a gradient was not finite.
        step: Optimizer steps taken.
        loss_sum: Of the mean losses of this epoch's batches, over all ranks; a scalar.
        scores: One record per finished epoch.
    """

    network: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: AveragedModel | None
    loss_sum: Tensor
    batches: int = 0
    step: int = 0
    scores: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_guess(self) -> nn.Module:
        """Return the weights to use: the moving average where there is one."""
        return self.network if self.ema is None else self.ema.module


def build(settings: Settings, place: Place, network: nn.Module) -> Run:
    """Build what a run needs around a network: all ranks start with the weights of rank 0.

    Args:
        settings: Of the run.
        place: Of this process; with more than one, the process group must be there.
        network: What to train, in place.

    Raises:
        ValueError: When SyncBatchNorm is asked for without a GPU.
    """
    seed_everything(settings.seed)
    network = network.to(place.device)
    on_gpu = place.device.type == "cuda"
    if settings.sync_bn and not on_gpu:
        raise ValueError(
            "SyncBatchNorm works on CUDA only, in PyTorch itself; on a CPU each rank normalises by "
            "its own part of the batch: drop --sync-bn"
        )
    if settings.sync_bn:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    average = _warming_average(settings.ema)
    ema = AveragedModel(network, multi_avg_fn=average, use_buffers=True) if settings.ema else None
    model = network
    if dist.is_initialized():
        model = DistributedDataParallel(network, device_ids=[place.device] if on_gpu else None)
    return Run(
        network,
        model,
        torch.optim.AdamW(network.parameters(), lr=settings.lr),
        torch.amp.GradScaler(place.device.type, enabled=settings.amp and on_gpu),
        ema,
        torch.zeros((), device=place.device),
    )


def _warming_average(decay: float) -> Callable[..., None]:
    """Average over a tenth of the steps so far until that is what ``decay`` averages over.

    Otherwise the first weights, which are random, weigh e^-1 after 1 / (1 - decay) steps, and batch
    norms with such a variance in their average give nothing.
    """

    def update(averaged: Any, current: Any, updates: Any) -> None:
        now = min(decay, (1 + int(updates)) / (10 + int(updates)))
        get_ema_multi_avg_fn(now)(averaged, current, updates)

    return update
