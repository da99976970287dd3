"""Save a run so that a crash loses little, and take it up again."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from labs.ddp import Place
from labs.ddp_train.state import Run

Choices = Mapping[str, Any]


def save(run: Run, choices: Choices, place: Place, path: Path) -> None:
    """Write the checkpoint on rank 0, so that a crash leaves the old one or the new one whole."""
    if not place.first:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(_state(run) | {"settings": dict(choices)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load(run: Run, choices: Choices, place: Place, path: Path, resume: bool) -> None:
    """Put every rank where the checkpoint is, if there is one; rank 0 reads it for all.

    Args:
        run: What is filled.
        choices: All that decides the result; the checkpoint must have been made with the same.
        place: Of this process.
        path: The file; the run stays as it is when there is none.
        resume: Whether a file may be there at all.

    Raises:
        FileExistsError: When there is a checkpoint and ``resume`` is off.
        ValueError: When it was made with other choices.
    """
    content = [path.read_bytes() if place.first and path.exists() else None]
    if dist.is_initialized():
        dist.broadcast_object_list(content, 0, device=place.device)
    if content[0] is None:
        return
    if not resume:
        raise FileExistsError(f"{path} is there: pass --resume to go on, or another --checkpoint")
    state = torch.load(io.BytesIO(content[0]), map_location=place.device, weights_only=True)
    other = [k for k, v in choices.items() if state["settings"].get(k) != v]
    if other:
        was = ", ".join(f"{name}={state['settings'].get(name)}" for name in other)
        raise ValueError(f"{path} was made with {was}: use the same, or another --checkpoint")
    run.network.load_state_dict(state["network"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    if run.ema is not None:
        run.ema.load_state_dict(state["ema"])
    run.loss_sum.fill_(state["loss_sum"])
    run.batches, run.step, run.scores = state["batches"], state["step"], state["scores"]


def _state(run: Run) -> dict[str, Any]:
    return {
        "network": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "ema": None if run.ema is None else run.ema.state_dict(),
        "loss_sum": run.loss_sum.item(),
        "batches": run.batches,
        "step": run.step,
        "scores": run.scores,
    }
