"""Draw the map of the course: every lesson with what it needs and how long it takes.

Written as HTML with the words as text, so that it can be read on a phone, searched and spoken. What
a lesson needs is read from the links on its card; stages without lessons are shown as to come.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path, PurePosixPath

from labs.stamp import ROOT
from tools.ledger import Entry, entries
from tools.lesson import Lesson

NEEDS = re.compile(r"\*\*You need\*\*(.+?)(?=\n\s*\n|\n- \*\*|\n:::)", re.DOTALL)
LINK = re.compile(r"\]\((?:\.\./)?(?:[\w/]+/)?(\d\d_\w+)\)")
YOLO = "02_detection"
"""The stage through which the line of YOLO runs; its lessons have a colour of their own."""


def needs(lesson: str) -> list[str]:
    """Return the lessons that the card of a lesson links to, without their stages."""
    notebook = Lesson(lesson).read_source()
    cards = [cell.source for cell in notebook.cells if "Your card" in cell.source]
    said = NEEDS.search("\n".join(cards))
    return list(dict.fromkeys(LINK.findall(said[1]))) if said else []


def stages(pages: Path = ROOT / "book") -> dict[str, str]:
    """Return the title of each stage by the name of its page, in order."""
    return {
        page.stem: page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        for page in sorted(pages.glob("[0-9][0-9]_*.md"))
    }


def course_map(lessons: Sequence[Entry] | None = None, pages: Path = ROOT / "book") -> str:
    """Write the map as HTML: a row for each stage, a card for each lesson."""
    found = entries() if lessons is None else lessons
    numbers = {PurePosixPath(entry.name).name: entry.number for entry in found}
    rows = []
    for stage, title in stages(pages).items():
        here = [entry for entry in found if entry.name.startswith(f"lessons/{stage}/")]
        name = f"{int(stage[:2])} · {escape(title)}"
        cards = "".join(_card(entry, numbers) for entry in here) or "<li>to come</li>"
        row = "stage" if here else "stage to-come"
        head = f'<p class="stage-name"><a href="{stage}.html">{name}</a></p>'
        rows.append(f'<div class="{row}">{head}<ul>{cards}</ul></div>')
    return '<div class="course-map">\n' + "\n".join(rows) + "\n</div>\n"


def _card(entry: Entry, numbers: dict[str, str]) -> str:
    needed = sorted(numbers[name] for name in needs(entry.name) if name in numbers)
    said = f"after {', '.join(needed)}" if needed else "needs no other lesson"
    colour = ' class="yolo"' if f"/{YOLO}/" in entry.name else ""
    hours, minutes = divmod(entry.minutes, 60)
    time = f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
    return (
        f'<li{colour}><a href="../{entry.name}.html">{entry.number} {escape(entry.title)}</a>'
        f'<span class="facts">{time} · {said}</span></li>'
    )
