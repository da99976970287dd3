"""Train for some epochs on this rank's part of every batch, and score on all samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from labs.ddp import Place, accumulate, mean_over_ranks
from labs.ddp_train.checkpoint import load, save
from labs.ddp_train.interrupt import stop_between_steps
from labs.ddp_train.state import Run, Settings, build
from labs.ddp_train.task import Task, digit_task
from labs.progress import bar

FILE = "checkpoint.pt"


def train(
    settings: Settings,
    place: Place,
    checkpoint: Path | None = None,
    save_every: int = 0,
    resume: bool = False,
    task: Task | None = None,
    progress: bool = False,
) -> Run:
    """Train for all epochs, from the checkpoint where there is one to resume.

    Args:
        settings: Of the run.
        place: Of this process.
        checkpoint: A folder. Only rank 0 reads and writes it, so machines need not share it.
        save_every: Save after so many batches, besides after every epoch; 0: only then.
        resume: Go on from the checkpoint in the folder; from the start when there is none.
        task: What is learnt; the digits when None.
        progress: Show a bar per epoch on rank 0, where somebody watches a terminal.

    Raises:
        ValueError: When the batch cannot be divided evenly, SyncBatchNorm is impossible, or the
            checkpoint is of other settings.
        FileExistsError: When a checkpoint is there and ``resume`` is off.
        KeyboardInterrupt: After Ctrl-C, at the end of a step and with the checkpoint saved when
            there is one process; at once when there are more.
    """
    task = task or digit_task(settings.seed, settings.limit)
    _check(settings, place, len(task.data(0)))
    run = build(settings, place, task.network)
    path = checkpoint / FILE if checkpoint else None
    choices = asdict(settings) | dict(task.facts)
    if path:
        load(run, choices, place, path, resume)

    def keep(regularly: bool = False) -> None:
        if path and not (regularly and (not save_every or run.batches % save_every)):
            save(run, choices, place, path)

    with stop_between_steps(place.world_size == 1) as stopping:

        def after_step() -> None:
            keep(regularly=not stopping())
            if stopping():
                raise KeyboardInterrupt

        for epoch in range(len(run.scores), _epochs(settings, task)):
            loss = _train_epoch(run, settings, place, task, epoch, after_step, progress)
            _finish_epoch(run, place, task, loss)
            keep()
    return run


def _train_epoch(
    run: Run,
    settings: Settings,
    place: Place,
    task: Task,
    epoch: int,
    after_step: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> float:
    """Train on what is left of this epoch, and return the mean loss of its batches.

    Step k of an epoch sees the same samples however many ranks share them: ``DistributedSampler``
    deals one shuffled order out like cards. Samples that fill no global batch are left out.

    Args:
        run: What is trained, in place. ``run.batches`` says how much of the epoch is done.
        settings: Of the run.
        place: Of this process.
        task: What is learnt.
        epoch: Which epoch, from 0: decides the order.
        after_step: Called after every batch, when the run can be saved.
        progress: Show a bar, as in :func:`train`.
    """
    data = task.data(epoch)
    each = len(data) // settings.batch_size
    total = _total(settings, each)
    end = min(each, total - epoch * each)  # the last epoch may be a short one
    done = run.batches - epoch * each
    shown = None if progress and place.first else False  # None: where somebody watches
    steps = bar(None, shown, f"epoch {epoch + 1}", total=end, done=done)
    kind = torch.float16 if place.device.type == "cuda" else torch.bfloat16
    with steps:
        batches = _batches(data, settings, place, task, epoch, done, end)
        for micro in accumulate(run.model, batches, settings.accumulate):
            if micro.first:
                # Noise that depends on step and rank alone: other noise per rank, none to save.
                torch.manual_seed(settings.seed + run.batches * place.world_size + place.rank)
                loss_here = torch.zeros_like(run.loss_sum)
            with torch.autocast(place.device.type, kind, enabled=settings.amp):
                loss = micro.weight * task.loss(run.model, micro.batch)
            run.scaler.scale(loss).backward()
            loss_here += loss.detach()
            if micro.last:
                rate = _learning_rate(run.batches, total, settings.lr, settings.warm_up)
                take_step(run, rate, settings.clip)
                run.loss_sum += mean_over_ranks(loss_here)
                steps.update()
                after_step()
    return run.loss_sum.item() / end


def take_step(run: Run, rate: float, clip: float = Settings.clip) -> None:
    """Let the optimizer use the gradients, once they are those of the whole global batch.

    Under fp16 the loss scale skips a step whose gradients are not finite, and takes a smaller scale
    from then on. Such a step is none: neither the moving average nor ``run.step`` sees it.

    Args:
        run: What is changed.
        rate: The learning rate of this step.
        clip: The largest norm of all gradients together.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.scaler.unscale_(run.optimizer)  # first: the limit is for gradients, not for scaled ones
    nn.utils.clip_grad_norm_(run.network.parameters(), clip)
    stepped = _step_unless_skipped(run)
    run.optimizer.zero_grad(set_to_none=True)
    run.batches += 1
    if not stepped:
        return
    if run.ema is not None:
        run.ema.update_parameters(run.network)
    run.step += 1


def _step_unless_skipped(run: Run) -> bool:
    """Let the optimizer step, and say whether it did."""
    stepped: list[bool] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A fused optimizer is called all the same, told what was found, and moves nothing then.
        stepped.append(not getattr(optimizer, "found_inf", False))

    # Not by the scale, which is halved after a skipped step: 0, where halving ends, stays 0.
    handle = run.optimizer.register_step_post_hook(note)
    try:
        run.scaler.step(run.optimizer)
    finally:
        handle.remove()
    run.scaler.update()
    return any(stepped)


def _learning_rate(step: int, total: int, peak: float, warm_up: float = Settings.warm_up) -> float:
    """Return the rate of a step: a line up to ``peak``, then half a cosine down to zero.

    It depends on the step alone, so there is nothing to save.

    Args:
        step: Which one, in [0, total).
        total: How many there are.
        peak: The largest rate.
        warm_up: The share of the steps in which the rate rises, in [0, 1].
    """
    warm = max(1, round(warm_up * total))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _batches(
    data: Any, settings: Settings, place: Place, task: Task, epoch: int, done: int, end: int
) -> DataLoader:
    """Load this rank's part of the global batches ``done`` to ``end`` of an epoch."""
    sampler: DistributedSampler = DistributedSampler(
        data, place.world_size, place.rank, seed=settings.seed, drop_last=True
    )
    sampler.set_epoch(epoch)  # without it every epoch has the order of the first
    size = settings.batch_size // (place.world_size * settings.accumulate)
    each = size * settings.accumulate
    indices = list(sampler)[done * each : end * each]  # what is done is not even loaded
    return DataLoader(data, size, sampler=indices, drop_last=True, collate_fn=task.collate)


def _finish_epoch(run: Run, place: Place, task: Task, loss: float) -> None:
    score = {"epoch": len(run.scores) + 1, "step": run.step, "loss": loss}
    _take_buffers_of_first(run.best_guess)
    run.scores.append(score | dict(task.score(run.best_guess, place)))
    run.loss_sum.zero_()
    if place.first:
        print(*(f"{name} {value:.6g}" for name, value in run.scores[-1].items()), flush=True)


def _take_buffers_of_first(network: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, whose weights are the ones that are saved.

    Batch norms count what their own rank saw.
    """
    if dist.is_initialized():
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


def _total(settings: Settings, each: int) -> int:
    return settings.epochs * each if settings.steps is None else settings.steps


def _epochs(settings: Settings, task: Task) -> int:
    each = len(task.data(0)) // settings.batch_size
    return math.ceil(_total(settings, each) / each)


def _check(settings: Settings, place: Place, n: int) -> None:
    parts = place.world_size * settings.accumulate
    whole = settings.batch_size > 0 and parts > 0 and settings.batch_size % parts == 0
    if not whole or n < settings.batch_size or _total(settings, 1) < 1:
        raise ValueError(
            f"expected epochs >= 1 (or steps) and a batch of at most {n} images that divides by "
            f"{place.world_size} ranks x {settings.accumulate} micro-batches, got "
            f"epochs={settings.epochs}, steps={settings.steps} and a batch of {settings.batch_size}"
        )
