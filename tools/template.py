"""Check that a lesson has every beat of the template in CONTRIBUTING.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import Any

from tools.cells import CHECKED, defined, is_folded, what_hides

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
MAX_LINES, MEDIAN_LINES, MAX_COLUMNS = 40, 8, 86
HUNT_LINE = re.compile(
    r"\*\*Difficulty\*\* [123] of 3 · \*\*Importance\*\* [123] of 3 · \*\*Time\*\* \d+ min"
)


def faults(notebook: Any) -> list[str]:
    """Return one sentence for each thing that the lesson lacks; none when it is complete.

    Args:
        notebook: The lesson, as nbformat reads it; outputs are not looked at.
    """
    return [*_of_cells(notebook), *_of_beats(notebook), *_of_hunt(notebook)]


def faults_of_form(notebook: Any) -> list[str]:
    """Return one sentence for each thing in which a lesson leaves the form of a page.

    Args:
        notebook: The lesson, as nbformat reads it; outputs are not looked at.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        *what_hides(code),
        *_of_columns(code),
        *_of_predictions(notebook.cells),
        *_of_hidden_cause(notebook),
        *_of_time(notebook),
    ]


def _of_columns(code: list[Any]) -> Iterator[str]:
    seen = [cell for cell in code if not is_folded(cell.source, _tags(cell))]
    lengths = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in seen]
    if lengths and median(lengths) > MEDIAN_LINES:
        yield f"the median visible cell has {median(lengths):g} lines, at most {MEDIAN_LINES} may"
    for number, cell in enumerate(code, 1):
        longest = max(map(len, cell.source.splitlines()), default=0)
        if longest > MAX_COLUMNS:
            yield f"code cell {number} has a line of {longest} columns, at most {MAX_COLUMNS} fit"


def _of_predictions(cells: list[Any]) -> Iterator[str]:
    """A question is the last thing before code, so that the page can fold what answers it."""
    for cell, following in pairwise(cells):
        if "} Predict" in cell.source:
            if following.cell_type != "code":
                yield "a Predict box is not followed by the code that answers it"
            if not cell.source.rstrip().endswith(":::"):
                yield "a Predict box is not the last thing in its cell"


def _of_hidden_cause(notebook: Any) -> Iterator[str]:
    cells = section(notebook, "Bug hunt")
    if not HUNT_LINE.search(_text(cells)):
        yield "'Bug hunt' lacks its line **Difficulty** … · **Importance** … of 3 · **Time** … min"
    places = [i for i, cell in enumerate(cells) if "hunt-solution" in _tags(cell)]
    hints = [i for i, cell in enumerate(cells) if "{dropdown} Hint 3" in cell.source]
    if places and hints:
        if not cells[hints[-1]].source.rstrip().endswith(":::"):
            yield "words stand below the hints of the hunt, in sight"
        if any(cell.cell_type == "markdown" for cell in cells[hints[-1] + 1 : places[0]]):
            yield "words stand between the hints of the hunt and its solution"
    bugs = [cell for cell in cells if "hunt-bug" in _tags(cell)]
    if bugs and places:
        same = defined(bugs[0].source) & defined(cells[places[0]].source)
        for name in sorted(same):
            yield f"the solution of the hunt defines {name} as the planted cell does: rename it"


def _of_time(notebook: Any) -> Iterator[str]:
    card = next((cell.source for cell in notebook.cells if "Your card" in cell.source), "")
    _, _, time = card.partition("**Time**")
    for part in ("read", "debug", "experiment", "reproduce", "hunt", "exercises"):
        if not re.search(rf"{part} \d+ min", time):
            yield f"the card does not say the minutes of: {part}"


def _of_cells(notebook: Any) -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lengths = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code]
    for number, length in enumerate(lengths, 1):
        if length > MAX_LINES:
            yield f"code cell {number} has {length} lines, at most {MAX_LINES} are allowed"
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
    debug = section(notebook, "Debug")
    if "} Predict" not in _text(debug):
        yield "'Debug' never asks for a prediction"
    if "ablate(" not in _text(section(notebook, "Experiment")):
        yield "'Experiment' has no one-variable ablation (labs.ablation.ablate)"
    if "{cite" not in _text(section(notebook, "Reproduce")):
        yield "'Reproduce' cites no paper"
    exercises = _text(section(notebook, "Exercises"))
    asked, solved = (len(re.findall(p, exercises)) for p in (r"\*\*Exercise \d", r"Solution \d"))
    if not 2 <= asked <= 4 or solved < asked:
        yield f"expected 2 to 4 exercises, each solved; got {asked} with {solved} solutions"


def _of_hunt(notebook: Any) -> Iterator[str]:
    cells = section(notebook, "Bug hunt")
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


def section(notebook: Any, title: str) -> list[Any]:
    """Return the cells of a beat, from its heading on; none when the lesson lacks it."""
    return next((cells for name, cells in _sections(notebook) if name == title), [])


def _text(cells: list[Any]) -> str:
    return "\n".join(cell.source for cell in cells)


def _tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])
