"""Check that a lesson has every beat of the template in CONTRIBUTING.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import median
from typing import Any

from tools.cells import CHECKED

BEATS = (
    "The symptom",
    "The idea",
    "The block",
    "Debug",
    "Experiment",
    "Reproduce",
    "Bug hunt",
    "Exercises",
    "In practice",
    "You can now",
)
CARD_LINES = ("You will be able to", "You need", "Time")
PROVEN_BEATS = ("The block", "Debug", "Experiment", "Reproduce", "Bug hunt")
MAX_LINES, MEDIAN_LINES = 40, 8


def faults(notebook: Any) -> list[str]:
    """Return one sentence for each thing that the lesson lacks; none when it is complete.

    Args:
        notebook: The lesson, as nbformat reads it; outputs are not looked at.
    """
    return [*_of_cells(notebook), *_of_beats(notebook), *_of_hunt(notebook)]


def _of_cells(notebook: Any) -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lengths = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code]
    for number, length in enumerate(lengths, 1):
        if length > MAX_LINES:
            yield f"code cell {number} has {length} lines, at most {MAX_LINES} are allowed"
    if lengths and median(lengths) > MEDIAN_LINES:
        yield f"the median cell has {median(lengths):g} lines, at most {MEDIAN_LINES} are allowed"
    for number, cell in enumerate(code, 1):
        if re.search(r"^\s*claim\(", cell.source, re.M) and CHECKED not in _tags(cell):
            yield f"code cell {number} makes a claim but is not tagged {CHECKED}"


def _of_beats(notebook: Any) -> Iterator[str]:
    first = notebook.cells[0].source if notebook.cells else ""
    if not re.match(r"# \S", first):
        yield "the first cell does not start with a level-one title"
    card = next((cell.source for cell in notebook.cells if "Your card" in cell.source), "")
    for line in CARD_LINES:
        if f"**{line}**" not in card:
            yield f"the card lacks the line **{line}**"
    found = [title for title, _ in _sections(notebook)]
    if found != list(BEATS):
        yield f"expected the headings {', '.join(BEATS)} in this order, got {', '.join(found)}"
    for title, cells in _sections(notebook):
        if title in PROVEN_BEATS and not any("claim(" in cell.source for cell in cells):
            yield f"'{title}' makes no claim"
    debug = _section(notebook, "Debug")
    if "} Predict" not in _text(debug):
        yield "'Debug' never asks for a prediction"
    if "ablate(" not in _text(_section(notebook, "Experiment")):
        yield "'Experiment' has no one-variable ablation (labs.ablation.ablate)"
    if "{cite" not in _text(_section(notebook, "Reproduce")):
        yield "'Reproduce' cites no paper"
    exercises = _text(_section(notebook, "Exercises"))
    asked, solved = (len(re.findall(p, exercises)) for p in (r"\*\*Exercise \d", r"Solution \d"))
    if not 2 <= asked <= 4 or solved < asked:
        yield f"expected 2 to 4 exercises, each solved; got {asked} with {solved} solutions"


def _of_hunt(notebook: Any) -> Iterator[str]:
    cells = _section(notebook, "Bug hunt")
    for tag in ("hunt-bug", "hunt-solution"):
        tagged = [cell for cell in cells if tag in _tags(cell)]
        if len(tagged) != 1:
            yield f"'Bug hunt' needs one cell tagged {tag}, got {len(tagged)}"
        if tag == "hunt-solution" and tagged and "hide-cell" not in _tags(tagged[0]):
            yield "the solution of the hunt is not folded (tag hide-cell)"
    for hint in ("Hint 1", "Hint 2", "Hint 3"):
        if f"{{dropdown}} {hint}" not in _text(cells):
            yield f"'Bug hunt' lacks {hint}"
    if "https://github.com/" not in _text(cells):
        yield "'Bug hunt' does not say where the bug was met (a link)"


def _sections(notebook: Any) -> list[tuple[str, list[Any]]]:
    """Split the cells at level-two headings, and name each by its words before a colon."""
    sections: list[tuple[str, list[Any]]] = []
    for cell in notebook.cells:
        heading = re.match(r"## ([^:\n]+)", cell.source) if cell.cell_type == "markdown" else None
        if heading:
            sections.append((heading[1].strip(), []))
        if sections:
            sections[-1][1].append(cell)
    return sections


def _section(notebook: Any, title: str) -> list[Any]:
    return next((cells for name, cells in _sections(notebook) if name == title), [])


def _text(cells: list[Any]) -> str:
    return "\n".join(cell.source for cell in cells)


def _tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])
