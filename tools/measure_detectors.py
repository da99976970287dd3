"""Measure shipped detectors on the same scenes: AP, the time of a training step, and pictures."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from labs import plot
from labs.data.scenes import Rendered
from labs.detection import Detector, Prediction
from labs.metrics import coco_map, error_breakdown
from labs.plot.render import render
from labs.recipes import DETECTORS, SHIPPED, TEST, Trained, held_out, trained

UNIT = "yolo_v8"
PAIRS, BATCH = 9, 16
SCORE, IOU = 0.3, 0.5
"""A drawn box has at least this score, and is right at this overlap with a digit of its class."""


def measure_all(names: Sequence[str], scenes: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what is known of those that ship, for the record, and pictures as WebP by their names.

    Args:
        names: In the order of the page.
        scenes: How many are drawn.
    """
    data = held_out(TEST)
    small = torch.cat([_sides(t) for t in data.targets]).quantile(1 / 3).round().item()
    crowded = [i for i, target in enumerate(data.targets) if len(target["boxes"]) >= 3][:scenes]
    rows: list[dict[str, Any]] = []
    pictures: dict[str, bytes] = {}
    for name in [name for name in names if name in SHIPPED]:
        known = trained(name)
        if known.recipe["test"] != TEST:  # of other things than digits
            continue
        found = known.detector.detect(data.images.float().div_(255))
        right, wrong, figure = drawn(known, data, [found[i] for i in crowded], crowded)
        panels = {f"{name}-{i}.webp": panel for i, panel in enumerate(render(figure))}
        pictures |= {file: panel.data for file, panel in panels.items()}
        rows.append(
            {
                "name": name,
                "sha256": SHIPPED[name],
                "command": known.recipe["command"],
                "parameters": sum(p.numel() for p in known.detector.network.parameters()),
                **precision(found, data, small),
                "step": 1.0 if name == UNIT else round(_step(name, data), 3),
                "pictures": {file: [one.width, one.height] for file, one in panels.items()},
                "found": right,
                "false": wrong,
            }
        )
        print(rows[-1], flush=True)
    return {
        "date": dt.date.today().isoformat(),
        "torch": torch.__version__.partition("+")[0],
        "scenes": len(data),
        "objects": sum(len(target["boxes"]) for target in data.targets),
        "small": small,
        "unit": UNIT,
        "pairs": PAIRS,
        "score": SCORE,
        "shown": sum(len(data.targets[i]["boxes"]) for i in crowded),
        "rows": rows,
    }, pictures


def _sides(target: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the square root of the area of each box, [n]."""
    return (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(1).sqrt()


def precision(found: Sequence[Prediction], data: Rendered, small: float) -> dict[str, float]:
    """Return COCO's figures, and ``AP small`` of the objects below that side, in pixels.

    Larger objects are neither to be found then nor held against a prediction that meets them.
    """
    whole = coco_map(found, data.targets, data.classes)
    others = [{**target, "ignore": _sides(target) >= small} for target in data.targets]
    scores = {
        "AP": whole.AP,
        "AP50": whole.AP50,
        "AP75": whole.AP75,
        "AP small": coco_map(found, others, data.classes).AP,
    }
    return {key: round(value, 4) for key, value in scores.items()}


def _step(name: str, data: Rendered) -> float:
    """Return how long a training step takes, as a multiple of one of the unit; on one core."""
    batch = data.images[:BATCH].float().div_(255), data.targets[:BATCH]
    steps = [_stepping(DETECTORS[one](len(data.classes)), batch) for one in (UNIT, name)]
    ratios = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(PAIRS + 2):  # the first two warm up
            seconds = []
            for step in steps:
                start = time.process_time()
                step()
                seconds.append(time.process_time() - start)
            ratios.append(seconds[1] / seconds[0])
    finally:
        torch.set_num_threads(threads)
    return median(ratios[2:])


def _stepping(detector: Detector, batch: Any) -> Any:
    optimizer = torch.optim.SGD(detector.network.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        detector.loss(detector.network, batch).backward()
        optimizer.step()

    return step


def drawn(
    known: Trained, data: Rendered, found: Sequence[Prediction], places: Sequence[int]
) -> tuple[int, int, Any]:
    """Draw scenes with truth and detections; count the digits that are found, and false boxes."""
    figure, axes = plot.new(columns=len(places), height=2.6)
    plot.images(axes, data.images[list(places)].float() / 255)
    sure = [{key: rows[one["scores"] >= SCORE] for key, rows in one.items()} for one in found]
    targets = [data.targets[place] for place in places]
    judged = error_breakdown(sure, targets, known.classes, IOU).predictions
    met = judged.set_index(["image", "prediction"])["verdict"].eq("found")
    for image, (ax, one) in enumerate(zip(np.ravel(axes), sure, strict=True)):
        for box in targets[image]["boxes"]:
            _box(ax, box, plot.COLOURS[6], "--")
        for index, (box, label) in enumerate(zip(one["boxes"], one["labels"], strict=True)):
            colour = plot.COLOURS[0 if met[image, index] else 1]
            _box(ax, box, colour, "-")
            ax.text(
                box[0],
                box[1] - 2,
                known.classes[label],
                color=colour,
                fontsize=9,
                weight="bold",
                path_effects=[withStroke(linewidth=2.2, foreground="white")],
            )
    return int(met.sum()), int((~met).sum()), figure


def _box(ax: Axes, box: torch.Tensor, colour: str, line: str) -> None:
    x1, y1, x2, y2 = box.tolist()
    ax.add_patch(
        Rectangle(
            (x1, y1),
            x2 - x1,
            y2 - y1,
            fill=False,
            edgecolor=colour,
            ls=line,
            lw=1.4,
            path_effects=[withStroke(linewidth=2.6, foreground="white")],  # seen on dark ground
        )
    )
