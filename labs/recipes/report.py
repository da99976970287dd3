"""Write down how a detector did on own pictures: curves, errors, the worst pictures, a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from labs import plot
from labs.detection import Prediction
from labs.metrics import coco_map, error_breakdown
from labs.recipes.tuning import Tuned

_SCORE = 0.25  # from where a find counts for the worst pictures
_WORST = 6
_FALSE = ("classification", "localisation", "both", "duplicate", "background")


def write_report(tuned: Tuned, folder: Path, ending: str = "") -> None:
    """Write ``report.txt``, ``curves.png``, ``errors.png`` and ``worst.png``.

    Args:
        tuned: What is reported.
        folder: Made when it is not there; files of these names are replaced.
        ending: The last lines of the text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = tuned.pictures
    part, paths = pictures.parts[pictures.judge], pictures.paths[pictures.judge]
    found = tuned.detector.detect(part.images.float().div_(255))
    errors = error_breakdown(found, part.targets, pictures.classes)
    worst = worst_pictures(found, part.targets)
    _draw_curves(tuned, folder / "curves.png")
    figure, ax = plot.new(height=2.6)
    errors.plot(ax)
    figure.savefig(folder / "errors.png", dpi=plot.DPI)
    shown = worst.index[:_WORST].tolist()
    _draw_worst(shown, tuned, found, folder / "worst.png")
    names = [paths[k].name for k in shown]
    scores = coco_map(found, part.targets, pictures.classes)
    each = {
        name: {
            "objects": n,
            "AP": scores.average_precision(name),
            "AP50": scores.average_precision(name, 0.5),
        }
        for name, n in zip(scores.classes, scores.objects, strict=True)
        if n
    }
    blocks = [
        repr(tuned),
        repr(pictures),
        *(f"left out: {line}" for line in pictures.faults),
        *(f"note: {line}" for line in pictures.notices),
        repr(tuned.start) if tuned.start else "started from random weights",
        _caution(tuned),
        pd.DataFrame(tuned.scores).to_string(index=False, float_format="{:.4f}".format),
        pd.DataFrame(each).T.to_string(float_format="{:.3f}".format),
        errors.table().to_string(float_format="{:.3f}".format),
        worst.iloc[:_WORST].assign(file=names).to_string(index=False),
        ending,
    ]
    text = "\n\n".join(block for block in blocks if block)
    (folder / "report.txt").write_text(f"{text}\n", encoding="utf-8")


def worst_pictures(
    found: Sequence[Prediction], targets: Sequence[Mapping[str, Tensor]]
) -> pd.DataFrame:
    """Return one row per picture, the worst first: ``missed`` objects, and ``false`` finds.

    Only what is found with a score from 0.25 on counts.
    """
    sure = [{k: v[one["scores"] >= _SCORE] for k, v in one.items()} for one in found]
    rows = []
    for one, target in zip(sure, targets, strict=True):
        verdicts = error_breakdown([one], [target]).predictions["verdict"]
        passed = [target[name] for name in ("iscrowd", "ignore") if name in target]
        objects = len(target["labels"]) - int(sum(passed, torch.zeros(1)).gt(0).sum())
        rows.append((objects - int((verdicts == "found").sum()), int(verdicts.isin(_FALSE).sum())))
    table = pd.DataFrame(rows, columns=["missed", "false"])
    order = table.sum(axis=1).sort_values(ascending=False, kind="stable").index
    return table.loc[order]


def _caution(tuned: Tuned) -> str:
    pictures = tuned.pictures
    if pictures.judge == "test":
        return "the scores below are of the test pictures, which chose nothing"
    return (
        f"the scores below are of the {len(pictures.parts['val'])} validation pictures, which also "
        "chose the epoch, so they flatter a little; a part named test would be neutral"
    )


def _draw_curves(tuned: Tuned, path: Path) -> None:
    table = pd.DataFrame(tuned.scores)
    figure, axes = plot.new(height=2.6, columns=2)
    axes[0].plot(table["epoch"], table["loss"])
    axes[0].set(xlabel="epoch", ylabel="training loss")
    for name in ("AP50", "AP"):
        axes[1].plot(table["epoch"], table[name], label=name)
    axes[1].axvline(tuned.best, color="grey", linewidth=1, linestyle=":")
    axes[1].set(xlabel="epoch (dotted: the best)", ylabel="on validation pictures", ylim=(0, 1))
    axes[1].legend()
    figure.savefig(path, dpi=plot.DPI)


def _draw_worst(
    which: Sequence[int], tuned: Tuned, found: Sequence[Prediction], path: Path
) -> None:
    part = tuned.pictures.parts[tuned.pictures.judge]
    columns = min(3, len(which))
    rows = -(-len(which) // columns)
    figure, axes = plot.new(height=2.6 * rows, rows=rows, columns=columns)
    cells = axes.ravel().tolist() if hasattr(axes, "ravel") else [axes]
    plot.images(cells, part.images[list(which)].float().div(255))
    for ax, k in zip(cells, which, strict=False):
        sure = found[k]["boxes"][found[k]["scores"] >= _SCORE]
        _draw_boxes(ax, part.targets[k]["boxes"], plot.COLOURS[0], "-")
        _draw_boxes(ax, sure, plot.COLOURS[1], "--")
    figure.suptitle("solid: labelled; dashed: found", fontsize="small")
    figure.savefig(path, dpi=plot.DPI)


def _draw_boxes(ax: Axes, boxes: Tensor, colour: Any, line: str) -> None:
    for x1, y1, x2, y2 in boxes.tolist():
        shape = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False)
        shape.set(edgecolor=colour, linestyle=line, linewidth=1.2)
        ax.add_patch(shape)
