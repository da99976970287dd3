"""Read the command line, and train: ``python -m labs.ddp_train --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

import labs.ddp_train
from labs.ddp import join
from labs.ddp_train.loop import train
from labs.ddp_train.state import Settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "labs.ddp_train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(labs.ddp_train.__doc__ or "").replace("::\n", ":\n"),
    )
    add, default = parser.add_argument, Settings()
    add("--epochs", type=int, default=default.epochs)
    add("--batch-size", type=int, default=default.batch_size, help="images per step, of all ranks")
    add("--accumulate", type=int, default=1, help="micro-batches per step and rank")
    add("--lr", type=float, default=default.lr, help="the largest learning rate")
    add("--seed", type=int, default=0)
    add("--limit", type=int, help="use only the first N images of each split")
    add("--ema", type=float, default=0.0, help="decay of averaged weights, such as 0.99; 0: none")
    add("--amp", action="store_true", help="bf16 on a CPU, fp16 with a loss scale on a GPU")
    add("--sync-bn", action="store_true", help="batch norm over all ranks; GPUs only")
    add("--checkpoint", type=Path, help="a folder to save to, after every epoch")
    add("--save-every", type=int, default=0, help="save after every N steps as well")
    add("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    return parser


@record  # so that torchrun can show the traceback of the rank that failed first
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a bad choice ends it with one sentence and status 1."""
    chosen = vars(_parser().parse_args(arguments))
    settings = Settings(**{part.name: chosen[part.name] for part in fields(Settings)})
    with join() as place:
        try:
            train(settings, place, chosen["checkpoint"], chosen["save_every"], chosen["resume"])
        except (ValueError, FileExistsError) as error:
            sys.exit(f"labs.ddp_train: {error}")


if __name__ == "__main__":
    main()
