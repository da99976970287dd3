"""Rewrite what README.md shows of the project itself: its tree, and one picture of a lesson.

    python -m tools.readme

A test fails when the counts have drifted by more than a fifth or the picture is not the lesson's.
"""

from __future__ import annotations

import re

from book._ext.figures import EMBEDDED, decoded, html_of
from labs.stamp import ROOT
from tools.lesson import find

README = ROOT / "README.md"
PICTURE = ROOT / "book/_static/lesson.svg"
PICTURE_OF = (
    "07_feel_the_residual",
    "a simple probe finds no class",
)  # lesson, words of the code cell
TREE = {
    "lessons/": "one folder per stage; edit the `.py`, the `.ipynb` beside it is generated",
    "book/": "the other pages of the site: stages, how-to, API, glossary",
    "labs/": "the package that lessons import and you keep",
    "labs/claims.py": "a finding, stated so that a machine can refuse it",
    "labs/repro.py": "seeds, device, budget, versions",
    "labs/near_miss.py": "what somebody meant who wrote a name that does not exist",
    "labs/extras.py": "packages that only some readers need",
    "labs/doctor.py": "what this machine can do, and the command that mends the rest",
    "labs/progress.py": "a bar where somebody watches",
    "labs/stamp.py": "what an output was computed from",
    "labs/data/": "small real image sets; how image files break, and how to survive it",
    "labs/imagefile/": "one untrusted image file, read with care",
    "labs/hooks/": "capture, grad_cam, gradient_health, edit_gradients, first_bad",
    "labs/numerics/": "stress a loss, check a gradient",
    "labs/models/": "one file per architecture, written to be read",
    "labs/boxes/": "overlap, sides, anchors, suppression",
    "labs/assigners/": "which prediction answers for which object, from YOLO v1 to v8",
    "labs/criteria/": "how wrong a detector is, in named terms",
    "labs/postprocess/": "from raw maps to boxes, with and without suppression",
    "labs/detection.py": "network, criterion and postprocess, put together",
    "labs/recipes/": "train a small detector with one command, and load one that is trained",
    "labs/train.py": "fit: one function, no Trainer",
    "labs/evaluate.py": "predictions and accuracy, without a trace",
    "labs/ablation/": "one variable, several seeds, one table",
    "labs/studies/": "experiments longer than a lesson, recorded, and run again from the start",
    "labs/metrics/": "COCO's average precision, and what each kind of error costs",
    "labs/export/": "ONNX: convert, check, compare layer by layer, quantise, time",
    "labs/ddp/": "processes that cannot hang, gradients that are equal",
    "labs/ddp_train/": "a small trainer for one process or many machines",
    "labs/diagram/": "a network drawn from a real run, every arrow proven",
    "labs/plot/": "figures for light, dark and colour-blind readers",
    "labs/hunts/": "the checkers of the bug hunts",
    "tools/": "what keeps the book true: execute, stamp, check, render",
    "tests/": "parity with references, edges, error messages, the rendered site",
}
BLOCK = re.compile(r"(<!-- tree -->\n```text\n).*?(```\n<!-- /tree -->)", re.S)


def tree() -> str:
    """Return the annotated tree, with the lines of code of each place."""
    width = max(map(len, TREE)) + 1
    rows = (f"{place:<{width}} {lines(place):>6}   {clause}" for place, clause in TREE.items())
    return "".join(f"{row}\n" for row in rows)


def lines(place: str) -> int:
    """Count the lines of the Python files (Markdown for ``book/``) in a file or folder."""
    path = ROOT / place
    suffix = "*.md" if place == "book/" else "*.py"
    files = [path] if path.is_file() else [p for p in path.rglob(suffix) if "_build" not in p.parts]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def picture() -> bytes:
    """Return the figure that the README shows, as the lesson's committed output holds it.

    Raises:
        LookupError: When no cell of the lesson has those words and a figure.
    """
    name, words = PICTURE_OF
    for cell in find(name)[0].read_notebook().cells:
        for output in cell.get("outputs", []):
            if words in cell.source and (found := EMBEDDED.search(html_of(output))):
                return decoded(found)
    raise LookupError(f"{name}: no cell with {words!r} shows a figure; see PICTURE_OF")


def rewrite(text: str) -> str:
    """Return the README with the tree of now."""
    return BLOCK.sub(lambda block: block[1] + tree() + block[2], text)


def shown_counts(text: str) -> dict[str, int]:
    """Read the line counts that a README states, by place."""
    block = BLOCK.search(text)
    rows = re.findall(r"^(\S+) +(\d+) ", block[0] if block else "", re.M)
    return {place: int(count) for place, count in rows}


def main() -> None:
    """Rewrite README.md and its picture in place."""
    shown = picture()  # before anything is written: it may not be there
    README.write_text(rewrite(README.read_text(encoding="utf-8")), encoding="utf-8")
    PICTURE.write_bytes(shown)


if __name__ == "__main__":
    main()
