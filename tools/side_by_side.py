"""Measure the shipped detectors side by side, and write the page that compares them.

    python -m tools.side_by_side    # measure; writes book/side_by_side.json and a picture for each

All of them judge the test scenes, of digits, that training never saw. What is written names the
weights that it was measured with, so that a test can say when it is old.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from labs.stamp import ROOT
from tools.ledger import entries, table

RECORD = ROOT / "book" / "side_by_side.json"
PICTURES = ROOT / "book" / "_static" / "side_by_side"
SCENES = 3
"""So many test scenes are drawn: the first that hold three objects or more."""
ABOUT: Mapping[str, tuple[str, str, str]] = {
    "yolo_v3": (
        "YOLOv3",
        "02_detection/03_see_at_three_scales",
        "the one anchor whose shape fits an object best, at the cell of its centre",
    ),
    "ssd": (
        "SSD",
        "02_detection/08_cover_the_image_with_default_boxes",
        "the default box that fits an object best, and every one above an overlap of one half",
    ),
    "faster_rcnn": (
        "Faster R-CNN",
        "02_detection/09_propose_then_refine",
        "anchors by overlap to propose, then proposals by overlap, a drawn sample of each",
    ),
    "yolo_v5": (
        "YOLOv5",
        "02_detection/05_fit_anchors_and_read_source",
        "all anchors of about the shape of an object, at the nearest three cells",
    ),
    "yolo_v7": (
        "YOLOv7",
        "02_detection/06_plan_the_gradient_path",
        "as YOLOv5, of which those with the lowest loss stay (SimOTA)",
    ),
    "yolo_v8": (
        "YOLOv8",
        "02_detection/07_drop_the_anchors",
        "points inside an object, those that classify and place it best (task-aligned)",
    ),
}
"""Of each shipped detector its name, its lesson, and what answers for an object in training."""


def main() -> None:
    """Measure every shipped detector that :data:`ABOUT` knows; write record and pictures."""
    # Here, because who renders the book has no PyTorch.
    from tools.measure_detectors import measure_all

    record, pictures = measure_all(list(ABOUT), SCENES)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    for name, content in pictures.items():
        (PICTURES / name).write_bytes(content)
    print(page(record))


def read() -> dict[str, Any]:
    """Read what was measured last."""
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def page(record: Mapping[str, Any]) -> str:
    """Write the body of the page in Markdown: a table of figures, one of rules, and the scenes."""
    rows, small = record["rows"], record["small"]
    numbers = {entry.name.removeprefix("lessons/"): entry for entry in entries()}
    figures = [
        [
            ABOUT[row["name"]][0],
            f"{row['parameters']:,}",
            *(f"{row[key]:.3f}" for key in ("AP", "AP50", "AP75", "AP small")),
            f"{row['step']:.2f}",
        ]
        for row in rows
    ]
    head = ["detector", "parameters", "AP", "AP50", "AP75", f"AP, under {small:.0f} px", "step"]
    rules = []
    for row in rows:
        name, lesson, assigns = ABOUT[row["name"]]
        told = numbers.get(lesson)
        link = f"[{told.number}](../{told.name})" if told else ""
        rules.append([name, link, assigns])
    return "\n".join(
        [
            table(head, figures),
            "",
            f"Measured on {record['scenes']} scenes with {record['objects']} digits, on "
            f"{record['date']}, with PyTorch {record['torch']}. A small digit is one of the "
            f"smallest third: the square root of its box's area is under {small:.0f} pixels. "
            f"*Step* is the time of a training step of 16 scenes on one core, as a multiple of "
            f"that of {ABOUT[record['unit']][0]}: the median of {record['pairs']} pairs, measured "
            "in turn.",
            "",
            "## What answers for an object",
            "",
            table(["detector", "lesson", "assigns"], rules),
            "",
            "## The same three scenes",
            "",
            "Dashed is the truth, blue is found, orange is false.",
            "",
            *(_figure(row, record) for row in rows),
            "## How they were trained",
            "",
            "Each file tells the command that made it:",
            "",
            "```bash",
            *(row["command"] for row in rows),
            "```",
        ]
    )


def _figure(row: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    name = ABOUT[row["name"]][0]
    false = "no false box" if not row["false"] else f"{row['false']} false"
    if row["false"]:
        false += " box" if row["false"] == 1 else " boxes"
    said = (
        f"{name} finds {row['found']} of the {record['shown']} digits, with {false}, at scores "
        f"above {record['score']:.1f}."
    )
    panels = "".join(
        f'<img src="../_static/side_by_side/{file}" alt="" width="{width}" height="{height}"'
        ' loading="lazy" style="max-width:100%;height:auto">'
        for file, (width, height) in row["pictures"].items()
    )
    return (
        f'<figure class="labs-figure"><div role="img" aria-label="{escape(said)}">{panels}</div>'
        f"<figcaption>{escape(said)}</figcaption></figure>\n"
    )


def problems(record: Mapping[str, Any], shipped: Mapping[str, str]) -> Sequence[str]:
    """Name what is old or missing: rows of other weights, and shipped weights without a row."""
    told = {row["name"]: row["sha256"] for row in record["rows"]}
    wanted = {name: digest for name, digest in shipped.items() if name in ABOUT}
    wrong = [
        f"{name}: measured with other weights than those that ship"
        for name in sorted(told.keys() & wanted.keys())
        if told[name] != wanted[name]
    ]
    wrong += [f"{name}: ships, and was not measured" for name in sorted(wanted.keys() - told)]
    drawn = {file for row in record["rows"] for file in row["pictures"]}
    there = {path.name for path in PICTURES.glob("*")}
    wrong += [f"{file}: is drawn, or lies there, and not both" for file in sorted(drawn ^ there)]
    return wrong + [f"{name}: ships no longer" for name in sorted(told.keys() - wanted)]


if __name__ == "__main__":
    main()
