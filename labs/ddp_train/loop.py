"""Train for some epochs on this rank's part of every batch, and measure on all images."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from tqdm import tqdm

from labs.data import ImageSet, digits
from labs.ddp import Place, accumulate, gather_exact, shard
from labs.ddp_train.checkpoint import load, save
from labs.ddp_train.state import Run, Settings, build
from labs.evaluate import predict
from labs.train import cross_entropy

CLIP = 5.0  # largest norm of all gradients together
WARM_UP = 0.3  # share of the steps in which the learning rate rises
FILE = "checkpoint.pt"


def train(
    settings: Settings,
    place: Place,
    checkpoint: Path | None = None,
    save_every: int = 0,
    resume: bool = False,
) -> Run:
    """Train for all epochs, from the checkpoint where there is one to resume.

    Args:
        settings: Of the run.
        place: Of this process.
        checkpoint: A folder. Only rank 0 reads and writes it, so machines need not share it.
        save_every: Save after so many steps, besides after every epoch; 0: only then.
        resume: Go on from the checkpoint in the folder; from the start when there is none.

    Raises:
        ValueError: When the batch cannot be divided evenly, SyncBatchNorm is impossible, or the
            checkpoint is of other settings.
        FileExistsError: When a checkpoint is there and ``resume`` is off.
    """
    data, test = _data("train", settings.limit), _data("test", settings.limit)
    _check(settings, place, len(data))
    run = build(settings, place)
    path = checkpoint / FILE if checkpoint else None
    if path:
        load(run, settings, place, path, resume)
    for epoch in range(len(run.scores), settings.epochs):
        loss = train_epoch(run, settings, place, data, epoch, path, save_every)
        score = {"epoch": epoch + 1, "step": run.step, "loss": loss}
        run.scores.append(score | {"accuracy": measure(run.best_guess, test, place)})
        run.loss_sum.zero_()
        if path:
            save(run, settings, place, path)
        if place.first:
            print(*(f"{name} {value:.6g}" for name, value in run.scores[-1].items()), flush=True)
    return run


def train_epoch(
    run: Run,
    settings: Settings,
    place: Place,
    data: ImageSet,
    epoch: int,
    checkpoint: Path | None = None,
    save_every: int = 0,
) -> float:
    """Train on what is left of this epoch, and return the mean loss of its steps.

    Step k of an epoch sees the same samples however many ranks share them: ``DistributedSampler``
    deals one shuffled order out like cards. Samples that fill no global batch are left out.

    Args:
        run: What is trained, in place. ``run.step`` says how much of the epoch is done.
        settings: Of the run.
        place: Of this process.
        data: The training images.
        epoch: Which epoch, from 0: decides the order.
        checkpoint: The file to save to, if any.
        save_every: After how many steps; 0 saves none here.
    """
    steps = len(data) // settings.batch_size
    pairs = TensorDataset(data.images, data.labels)
    sampler: DistributedSampler = DistributedSampler(
        pairs, place.world_size, place.rank, seed=settings.seed, drop_last=True
    )
    sampler.set_epoch(epoch)  # without it every epoch has the order of the first
    size = settings.batch_size // (place.world_size * settings.accumulate)
    loader = DataLoader(pairs, size, sampler=sampler, drop_last=True)
    done = run.step - epoch * steps
    batches = islice(loader, done * settings.accumulate, steps * settings.accumulate)
    bar = tqdm(
        total=steps,
        initial=done,
        desc=f"epoch {epoch + 1}",
        leave=False,
        disable=None if place.first else True,  # None: silent where nobody watches
    )
    for micro in accumulate(run.model, batches, settings.accumulate):
        if micro.first:
            # Noise that depends on step and rank alone: other noise per rank, none to save.
            torch.manual_seed(settings.seed + run.step * place.world_size + place.rank)
            loss_here = torch.zeros_like(run.loss_sum)
        kind = torch.float16 if place.device.type == "cuda" else torch.bfloat16
        with torch.autocast(place.device.type, kind, enabled=settings.amp):
            loss = micro.weight * cross_entropy(run.model, micro.batch)
        run.scaler.scale(loss).backward()
        loss_here += loss.detach()
        if micro.last:
            take_step(run, learning_rate(run.step, steps * settings.epochs, settings.lr))
            run.loss_sum += _mean_over_ranks(loss_here)
            bar.update()
            if checkpoint and save_every and run.step % save_every == 0:
                save(run, settings, place, checkpoint)
    bar.close()
    return run.loss_sum.item() / steps


def take_step(run: Run, rate: float) -> None:
    """Let the optimizer use the gradients, once they are those of the whole global batch."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.scaler.unscale_(run.optimizer)  # first: the limit is for gradients, not for scaled ones
    nn.utils.clip_grad_norm_(run.network.parameters(), CLIP)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    if run.ema is not None:
        run.ema.update_parameters(run.network)
    run.step += 1


def learning_rate(step: int, total: int, peak: float) -> float:
    """Return the rate of a step: a line up to ``peak``, then half a cosine down to zero.

    It depends on the step alone, so there is nothing to save.
    """
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def measure(network: nn.Module, data: ImageSet, place: Place) -> float:
    """Return the accuracy in [0, 1] on all of ``data``, each image judged once, by one rank.

    Batch norms count what their own rank saw, so first all ranks take the buffers of rank 0, whose
    weights are the ones that are saved.
    """
    if dist.is_initialized():
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
    indices = shard(len(data), place.rank, place.world_size)
    mine = data.take(torch.tensor(indices, dtype=torch.int64))  # a short set leaves ranks none
    hits = torch.empty(0, dtype=torch.uint8)
    if len(mine):
        hits = (predict(network, mine.images).argmax(1) == mine.labels).byte()
    return gather_exact(hits.to(place.device), len(data)).double().mean().item()


def _mean_over_ranks(value: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def _data(split: str, limit: int | None) -> ImageSet:
    data = digits(split)
    return data if limit is None else data.take(slice(limit))


def _check(settings: Settings, place: Place, n: int) -> None:
    parts = place.world_size * settings.accumulate
    whole = settings.batch_size > 0 and parts > 0 and settings.batch_size % parts == 0
    if not whole or n < settings.batch_size or settings.epochs < 1:
        raise ValueError(
            f"expected epochs >= 1 and a batch of at most {n} images that divides by "
            f"{place.world_size} ranks x {settings.accumulate} micro-batches, got "
            f"{settings.epochs} epochs and a batch of {settings.batch_size}"
        )
