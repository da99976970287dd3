"""Describe the settings of a run to a command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from labs.ddp_train.state import Settings


def add_options(parser: argparse.ArgumentParser, default: Settings | None = None) -> None:
    """Add an option for each setting of a run, and those that say where and when it is saved.

    Args:
        parser: What is added to.
        default: The settings of a command line without options.
    """
    add, default = parser.add_argument, default or Settings()
    add("--epochs", type=int, default=default.epochs)
    add("--steps", type=int, default=default.steps, help="batches in all, in place of --epochs")
    add("--batch-size", type=int, default=default.batch_size, help="images per step, of all ranks")
    add("--accumulate", type=int, default=default.accumulate, help="micro-batches per step, rank")
    add("--lr", type=float, default=default.lr, help="the largest learning rate")
    add("--warm-up", type=float, default=default.warm_up, help="share of steps in which it rises")
    add("--clip", type=float, default=default.clip, help="largest norm of all gradients together")
    add("--seed", type=int, default=default.seed)
    add("--limit", type=int, help="use only the first N images of each split")
    add("--ema", type=float, default=default.ema, help="decay of averaged weights, such as 0.99")
    add("--amp", action="store_true", help="bf16 on a CPU, fp16 with a loss scale on a GPU")
    add("--sync-bn", action="store_true", help="batch norm over all ranks; GPUs only")
    add("--checkpoint", type=Path, help="a folder to save to, after every epoch")
    add("--save-every", type=int, default=0, help="save after every N batches as well")
    add("--resume", action="store_true", help="go on from the checkpoint, if there is one")


def settings_of(chosen: Mapping[str, Any]) -> Settings:
    """Return the settings that a parsed command line holds."""
    return Settings(**{part.name: chosen[part.name] for part in fields(Settings)})


def how_to_go_on(chosen: Mapping[str, Any]) -> str:
    """Tell somebody who stopped a run what is left of it."""
    if chosen["checkpoint"] is None:
        return "stopped; nothing is kept: next time, pass --checkpoint FOLDER"
    return (
        f"stopped; the run is kept in {chosen['checkpoint']}: the same command with --resume goes "
        "on where it was"
    )
