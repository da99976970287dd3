"""Tell the command line how to train on a folder of own pictures: ``--data FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labs.ddp import Place
from labs.ddp_train import settings_of
from labs.recipes.own_pictures import OwnPictures, own_pictures
from labs.recipes.report import write_report
from labs.recipes.tuning import AUGMENTS, Tuned, tune
from labs.recipes.weights import compact, write
from labs.repro import versions

_ONLY_WITH_DATA = {
    "size": 128,
    "val_share": 0.2,
    "skip_faults": False,
    "start": None,
    "freeze": 0,
    "augment": AUGMENTS[0],
    "classes": None,
    "report": None,
}
_SHOWN = 10  # lines of faults or notices


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for own pictures."""
    add = parser.add_argument_group("own pictures").add_argument
    add("--data", type=Path, metavar="FOLDER", help="COCO, Pascal VOC or YOLO, in place of scenes")
    add("--size", type=int, default=128, help="side that pictures are letterboxed to, of 32 n")
    add("--val-share", type=float, default=0.2, help="of the files, where FOLDER has no val part")
    add("--skip-faults", action="store_true", help="leave damaged pictures out, and their labels")
    add(
        "--from",
        dest="start",
        metavar="WEIGHTS",
        help="start from a shipped detector, or from a .safetensors file",
    )
    add("--freeze", type=int, default=0, help="epochs in which the backbone stays as it is")
    add("--augment", default=AUGMENTS[0], choices=AUGMENTS, help="no flip for letters and arrows")
    add("--classes", nargs="+", metavar="NAME", help="of labels 0, 1, …, where FOLDER tells none")
    add("--report", type=Path, help="folder to write; beside --out, named like it, by default")


def refuse(chosen: Mapping[str, Any]) -> None:
    """Refuse options that would be passed over.

    Raises:
        ValueError: When an option needs ``--data``, or contradicts it.
    """
    if chosen["data"] is None:
        given = [name for name, default in _ONLY_WITH_DATA.items() if chosen[name] != default]
        if given:
            option = "from" if given[0] == "start" else given[0].replace("_", "-")
            raise ValueError(f"--{option}: expected --data FOLDER with it, got none")


def run(chosen: Mapping[str, Any], place: Place, made_by: str) -> None:
    """Check the folder, train, write the weights and a report, and say how to use them."""
    settings, name = settings_of(chosen), chosen["name"]
    pictures = own_pictures(
        chosen["data"],
        chosen["size"],
        share=chosen["val_share"],
        seed=settings.seed,
        classes=chosen["classes"],
        skip_faults=chosen["skip_faults"],
        limit=settings.limit,
    )
    if place.first:
        _say_what_there_is(pictures)
    tuned = tune(
        name,
        pictures,
        settings,
        place,
        start=chosen["start"],
        freeze=chosen["freeze"],
        augment=chosen["augment"],
        checkpoint=chosen["checkpoint"],
        save_every=chosen["save_every"],
        resume=chosen["resume"],
        progress=True,
        told=lambda line: print(line, flush=True) if place.first else None,
    )
    if not place.first:
        return
    print(f"best epoch {tuned.best};", pictures.judge, end="")
    print("", *(f"{metric} {value:.4f}" for metric, value in tuned.metrics.items()), flush=True)
    out, report = chosen["out"], chosen["report"]
    if out:
        _write(out, tuned, made_by, settings.seed, place)
        print(f"wrote {out}: {out.stat().st_size / 1e6:.2f} MB")
        report = report or out.with_name(f"{out.stem}-report")
    if report:
        write_report(tuned, report, _how_to_use(out) if out else "")
        print(f"wrote {report}: report.txt, curves.png, errors.png and worst.png")
    if out:
        print(_how_to_use(out))


def _how_to_use(out: Path) -> str:
    """Return the lines that run the written detector on a picture."""
    return "\n".join(
        [
            "find things in a picture of any size with",
            "    from pathlib import Path",
            "    from labs.data.pictures import read_tensor",
            "    from labs.recipes import trained",
            f'    detector = trained("{out.as_posix()}")',
            '    found = detector.find(read_tensor(Path("picture.jpg")))',
            '    [detector.classes[label] for label in found["labels"]], found["boxes"]',
        ]
    )


def _say_what_there_is(pictures: OwnPictures) -> None:
    print(pictures)
    for kind, lines in (("left out", pictures.faults), ("note", pictures.notices)):
        for line in lines[:_SHOWN]:
            print(f"{kind}: {line}")
        if len(lines) > _SHOWN:
            print(f"{kind}: … and {len(lines) - _SHOWN} more")
    print(pictures.table().to_string(), flush=True)


def _write(out: Path, tuned: Tuned, made_by: str, seed: int, place: Place) -> None:
    pictures = tuned.pictures
    header = {
        "detector": tuned.name,
        "arguments": tuned.arguments,
        "classes": pictures.classes,
        "metrics": tuned.metrics,
        "recipe": {
            "command": made_by,
            "versions": asdict(versions()),
            "seed": seed,
            "steps": tuned.steps,
            "processes": place.world_size,
            "image_size": pictures.size,
            "data": pictures.digest,
            "test": {"split": pictures.judge, "n": len(pictures.parts[pictures.judge])},
        },
    }
    write(out, compact(tuned.detector.network), header)
