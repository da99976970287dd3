"""Read the command line, train, and write: ``python -m labs.recipes --help``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record

import labs.recipes
from labs.data.scenes.things import KINDS
from labs.ddp import Place, join
from labs.ddp_train import Settings, add_options, how_to_go_on, settings_of, train
from labs.ddp_train.__main__ import INTERRUPTED
from labs.recipes import own_folder
from labs.recipes.detectors import DETECTORS
from labs.recipes.task import DIGITS, TEST, detection_task, held_out, measure
from labs.recipes.trained import unknown
from labs.recipes.weights import compact, fill, write
from labs.repro import seed_everything, versions

DEFAULT = Settings(epochs=10, batch_size=16, lr=2e-3, warm_up=0.1, clip=10.0, ema=0.99)
WHERE = ("checkpoint", "save_every", "resume", "out", "report")  # change nothing that is learnt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "labs.recipes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(labs.recipes.__doc__ or "").replace("::\n", ":\n"),
    )
    parser.add_argument("name", help=f"one of {', '.join(DETECTORS)}")
    add_options(parser, DEFAULT)
    add = parser.add_argument
    add("--scenes", type=int, default=2000, help="training scenes in an epoch; none comes twice")
    add("--data-seed", type=int, default=0, help="of the training scenes")
    add("--things", default=DIGITS["things"], help=f"what scenes hold: {', '.join(KINDS)}")
    add("--one-class", action="store_true", help="call all things the same: find, and name nothing")
    add("--out", type=Path, help="write the weights to this .safetensors file")
    own_folder.add_options(parser)
    return parser


@record  # so that torchrun can show the traceback of the rank that failed first
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a bad choice ends it with one sentence and status 1."""
    parser = _parser()
    chosen = vars(parser.parse_args(arguments))
    with join() as place:
        try:
            _refuse(chosen)
            made_with = {key: parser.get_default(key) for key in chosen}
            run = own_folder.run if chosen["data"] else _run
            run(chosen, place, command(chosen, made_with))
        except (ValueError, FileExistsError, FileNotFoundError) as error:
            sys.exit(f"labs.recipes: {error}")
        except KeyboardInterrupt:
            print(f"\nlabs.recipes: {how_to_go_on(chosen)}", file=sys.stderr)
            sys.exit(INTERRUPTED)


def command(chosen: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return the shortest command line that trains the same weights and writes such a file."""
    words = ["python", "-m", "labs.recipes", chosen["name"]]
    for key, value in chosen.items():
        if key != "name" and key not in WHERE and value != defaults[key]:
            option = f"--{'from' if key == 'start' else key.replace('_', '-')}"
            if value is True:
                words += [option]
            else:
                words += [option, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join([*words, "--out", chosen["out"].name if chosen["out"] else "FILE"])


def _run(chosen: Mapping[str, Any], place: Place, made_by: str) -> None:
    settings, name = settings_of(chosen), chosen["name"]
    kind = {key: chosen[key] for key in DIGITS}
    judged = dict(TEST) | ({} if kind == DIGITS else kind)
    test = held_out(judged, settings.limit)
    arguments = {"num_classes": len(test.classes)}
    seed_everything(settings.seed)  # before the first weight is drawn
    detector = DETECTORS[name](**arguments)
    world = chosen["scenes"], chosen["data_seed"], settings.limit, kind
    task = detection_task(detector, *world)
    saving = chosen["checkpoint"], chosen["save_every"], chosen["resume"]
    run = train(settings, place, *saving, task, progress=True)
    # What the file says is measured with what the file holds: rounded weights.
    weights = compact(run.best_guess)
    fill(detector.network, weights, name)
    metrics = measure(detector, test, place)
    if not place.first:
        return
    print("test", *(f"{metric} {value:.4f}" for metric, value in metrics.items()), flush=True)
    if chosen["out"]:
        recipe = {
            "command": made_by,
            "versions": asdict(versions()),
            "seed": settings.seed,
            "steps": run.step,
            "processes": place.world_size,
            "test": judged | {"n": len(test)},
        }
        header = {"detector": name, "arguments": arguments, "classes": test.classes}
        write(chosen["out"], weights, header | {"metrics": metrics, "recipe": recipe})
        print(f"wrote {chosen['out']}: {chosen['out'].stat().st_size / 1e6:.2f} MB")


def _refuse(chosen: Mapping[str, Any]) -> None:
    """Refuse now what would else be found out after the training."""
    own_folder.refuse(chosen)
    if chosen["name"] not in DETECTORS:
        raise ValueError(unknown("detector", chosen["name"], DETECTORS))
    if chosen["things"] not in KINDS:
        raise ValueError(unknown("kind of --things", chosen["things"], KINDS))
    out = chosen["out"]
    if out and (out.suffix != ".safetensors" or not out.parent.is_dir()):
        raise ValueError(f"--out: expected FOLDER/NAME.safetensors, FOLDER there, got {out}")


if __name__ == "__main__":
    main()
