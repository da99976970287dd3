"""Write the page of symptoms: what people report, with the instrument and the section of a lesson.

    python -m tools.symptoms    # name what is wrong with the table

The table is ``labs/hunts/symptoms.toml``; ``labs hunts`` prints the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import PurePosixPath
from runpy import run_path
from typing import TYPE_CHECKING

from labs.stamp import ROOT
from tools.ledger import Entry, entries, table
from tools.lesson import Lesson, find
from tools.roadmap import parts_of, slug
from tools.template import section

if TYPE_CHECKING:
    from labs.hunts.symptoms import Symptom

ALWAYS = ("Bug hunt", "Debug")
"""The beats of each lesson that the table must lead to."""


def read() -> list[Symptom]:
    """Read all symptoms; ``labs.hunts`` is not imported, because rendering has no PyTorch."""
    found: list[Symptom] = run_path(str(ROOT / "labs/hunts/symptoms.py"))["symptoms"]()
    return found


def page(found: Sequence[Symptom]) -> str:
    """Write the body of the page in Markdown: a table for each place where symptoms show."""
    numbers = {PurePosixPath(entry.name).name: entry for entry in entries()}
    parts = []
    for where, group in groupby(found, key=lambda symptom: symptom.where):
        rows = [[one.words, one.reveals, _link(one, numbers[one.lesson])] for one in group]
        parts.append(f"## {where}\n\n{table(['You see', 'Look with', 'Answered in'], rows)}")
    return "\n".join(parts)


def problems(found: Sequence[Symptom]) -> list[str]:
    """Name each row that leads nowhere, and each hunt and Debug beat to which no row leads."""
    return [*_wrong(found), *_missing(found)]


def _wrong(found: Sequence[Symptom]) -> Iterator[str]:
    names = [PurePosixPath(lesson.name).name for lesson in find()]
    places = [where for where, _ in groupby(found, key=lambda symptom: symptom.where)]
    for where in sorted({where for where in places if places.count(where) > 1}):
        yield f"{where}: expected its rows one after the other"
    for one in found:
        if one.lesson not in names:
            yield f"{one.words} expected a lesson, got {one.lesson!r}"
        elif not heading(one):
            yield f"{one.words} {one.lesson} has no heading {one.heading!r}"


def _missing(found: Sequence[Symptom]) -> Iterator[str]:
    led_to = {(one.lesson, heading(one)) for one in found}
    for lesson in find():
        name = PurePosixPath(lesson.name).name
        for beat in ALWAYS:
            if not any((name, part) in led_to for part in _headings(lesson, beat)):
                yield f"no symptom leads to {name}, {beat}"


def heading(symptom: Symptom) -> str:
    """Return the heading of the lesson that a symptom names, whole; empty when there is none."""
    lessons = [one.name for one in find() if PurePosixPath(one.name).name == symptom.lesson]
    whole = [part.heading for lesson in lessons for part in parts_of(lesson).values()]
    named = [one for one in whole if one == symptom.heading]
    named += [one for one in whole if one.startswith(f"{symptom.heading}:")]
    return named[0] if named else ""


def _headings(lesson: Lesson, beat: str) -> list[str]:
    """Return the heading of a beat, and those of its sections."""
    cells = section(lesson.read_source(), beat)
    words = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.findall(r"^#{2,3} (.+)$", words, re.MULTILINE)


def _link(symptom: Symptom, entry: Entry) -> str:
    whole = heading(symptom)
    return f"[{entry.number} {entry.title}: {whole}](/{entry.name}.ipynb#{slug(whole)})"


def main() -> int:
    """Print what is wrong with the table; return 1 when something is."""
    found = problems(read())
    print(*found, f"{len(read())} symptoms", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
