"""Read the command line, and train: ``python -m labs.ddp_train --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.errors import record

import labs.ddp_train
from labs.ddp import join
from labs.ddp_train.loop import train
from labs.ddp_train.options import add_options, how_to_go_on, settings_of

INTERRUPTED = 130  # what shells give a program that Ctrl-C ended


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "labs.ddp_train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(labs.ddp_train.__doc__ or "").replace("::\n", ":\n"),
    )
    add_options(parser)
    return parser


@record  # so that torchrun can show the traceback of the rank that failed first
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a bad choice ends it with one sentence and status 1."""
    chosen = vars(_parser().parse_args(arguments))
    with join() as place:
        try:
            saving = chosen["checkpoint"], chosen["save_every"], chosen["resume"]
            train(settings_of(chosen), place, *saving, progress=True)
        except (ValueError, FileExistsError) as error:
            sys.exit(f"labs.ddp_train: {error}")
        except KeyboardInterrupt:
            print(f"\nlabs.ddp_train: {how_to_go_on(chosen)}", file=sys.stderr)
            sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
