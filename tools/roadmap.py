"""Say of each line of the notes that the book grew from where the book answers it.

    python -m tools.roadmap             # name what is wrong with the table
    python -m tools.roadmap LESSON      # list what a row may name: headings, and the code below

``book/roadmap.toml`` holds the lines in their own order and words. A line is answered by a cell of
a lesson, by a test, or not yet; a page that nothing runs is no answer.
"""

from __future__ import annotations

import ast
import difflib
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from labs.stamp import ROOT
from tools.ledger import table
from tools.lesson import find

TABLE = ROOT / "book/roadmap.toml"
CELL = re.compile(r"(?P<lesson>lessons/[^#]+)#(?P<slug>\S+) @ (?P<code>.+)")
TEST = re.compile(r"(?P<file>tests/\S+\.py)::(?P<test>[\w:]+)")
STATES = ("done", "in part", "to come")


@dataclass(frozen=True)
class Line:
    """Hold one line of the notes, or a few that belong together, and what answers them."""

    notes: str
    says: str
    answers: tuple[str, ...] = ()
    to_come: str = ""

    @property
    def state(self) -> str:
        """Return one of ``STATES``; empty for a line that only announces what follows it."""
        if self.answers:
            return "in part" if self.to_come else "done"
        return "to come" if self.to_come else ""


@dataclass(frozen=True)
class Section:
    """Hold the lines below one heading of the notes; ``notes`` is empty where they have none."""

    notes: str
    title: str
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Part:
    """Hold what stands below one heading of a lesson, up to the next heading of any level."""

    heading: str
    cells: tuple[str, ...]


def read(path: Path = TABLE) -> list[Section]:
    """Read the table.

    Raises:
        TypeError: When a section or a line has a key that it should not have, or lacks one.
    """
    sections = tomllib.loads(path.read_text(encoding="utf-8"))["section"]
    return [_section(**section) for section in sections]


def _section(notes: str, title: str, line: Sequence[Mapping[str, Any]] = ()) -> Section:
    lines = (Line(**(one | {"answers": tuple(one.get("answers", ()))})) for one in map(dict, line))
    return Section(notes, title, tuple(lines))


def problems(sections: Sequence[Section]) -> list[str]:
    """Name each row that has no translation, no answer where it needs one, or a wrong answer."""
    return [
        f"{line.notes.strip().splitlines()[0]}: {problem}"
        for section in sections
        for line in section.lines
        for problem in _problems(line)
    ]


def _problems(line: Line) -> Iterator[str]:
    if not line.says or re.search(r"[\u4e00-\u9fff]", line.says):
        yield f"expected `says` in English, got {line.says!r}"
    if not line.state and not line.notes.rstrip("* \n").endswith((":", "：")):
        yield (
            "expected `answers`, `to_come` or both: only a line that ends with a colon is "
            "answered by those below it"
        )
    yield from filter(None, map(wrong, line.answers))


def wrong(answer: str) -> str:
    """Say why there is no such cell or test; return nothing when there is."""
    if cell := CELL.fullmatch(answer):
        return _wrong_cell(cell["lesson"], cell["slug"], cell["code"])
    if test := TEST.fullmatch(answer):
        return _wrong_test(test["file"], test["test"])
    return (
        "expected lessons/STAGE/LESSON#HEADING @ CODE or tests/FILE.py::TEST, "
        f"got {answer!r}: a page that nothing runs is no answer"
    )


def _wrong_cell(lesson: str, slug: str, code: str) -> str:
    lessons = [one.name for one in find()]
    if lesson not in lessons:
        return f"no lesson {lesson}{_near(lesson, lessons)}"
    parts = parts_of(lesson)
    if slug not in parts:
        return f"{lesson} has no heading #{slug}{_near(slug, parts)}"
    cells = parts[slug].cells
    if any(code in cell for cell in cells):
        return ""
    lines = [line.strip() for cell in cells for line in cell.splitlines()]
    return f"{lesson}#{slug} has {len(cells)} cells of code, none with {code!r}{_near(code, lines)}"


def _wrong_test(file: str, test: str) -> str:
    path = ROOT / file
    if not path.is_file():
        names = [one.relative_to(ROOT).as_posix() for one in (ROOT / "tests").rglob("test_*.py")]
        return f"no file {file}{_near(file, names)}"
    tests = tests_of(path)
    return "" if test in tests else f"{file} has no test {test}{_near(test, tests)}"


def _near(name: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(close)}?" if close else ""


@cache
def parts_of(lesson: str) -> dict[str, Part]:
    """Return what stands below each heading of a lesson, by the name that a link gives it.

    Raises:
        ValueError: When two headings have one name, so that a link could mean either.
    """
    found: list[Part] = []
    for cell in next(one for one in find() if one.name == lesson).read_source().cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#{1,3} (.+)$", cell.source, re.MULTILINE)
            found += [Part(heading, ()) for heading in headings]
        elif cell.cell_type == "code" and found:
            found[-1] = Part(found[-1].heading, (*found[-1].cells, cell.source))
    slugs = [slug(part.heading) for part in found]
    if twice := [name for name, n in Counter(slugs).items() if n > 1]:
        raise ValueError(f"{lesson}: two headings are called {twice[0]!r}; a link needs one")
    return dict(zip(slugs, found, strict=True))


def slug(heading: str) -> str:
    """Return the name that a link gives a heading, as MyST and GitHub do."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def tests_of(path: Path) -> list[str]:
    """Return the tests of a file as pytest names them, without their parameters."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
            found += [f"{node.name}::{one.name}" for one in methods]
    return [name for name in found if name.rpartition("::")[2].startswith("test_")]


def lines_of(sections: Sequence[Section]) -> list[str]:
    """Return every line of the notes that the table holds, in order."""
    held = [part for s in sections for part in (s.notes, *(line.notes for line in s.lines))]
    return lines_in("\n".join(held))


def lines_in(notes: str) -> list[str]:
    """Return the lines of a text that say something: empty ones and code fences do not."""
    lines = map(str.strip, notes.splitlines())
    return [line for line in lines if line and not line.startswith("```")]


def page(sections: Sequence[Section]) -> str:
    """Write the body of the page in Markdown: the counts, then a table for each section."""
    head = f"{_counts([line for section in sections for line in section.lines])}\n"
    return "\n".join([head, *map(_section_of_page, sections)])


def _counts(lines: Sequence[Line]) -> str:
    count = Counter(line.state for line in lines if line.state)
    return f"Of {count.total()} lines: " + ", ".join(f"{count[s]} {s}" for s in STATES) + "."


def _section_of_page(section: Section) -> str:
    text = f"## {section.title}\n"
    if not section.lines:
        return text
    rows = [[line.says.replace("|", r"\|"), line.state, _where(line)] for line in section.lines]
    header = ["The notes say", "State", "Where it is answered"]
    return f"{text}\n{_counts(section.lines)}\n\n{table(header, rows)}"


def _where(line: Line) -> str:
    links = list(dict.fromkeys(map(_link, line.answers)))
    if line.to_come:
        links.append(f"*to come*: {line.to_come.replace('|', chr(92) + '|')}")
    return " · ".join(links)


def _link(answer: str) -> str:
    cell = CELL.fullmatch(answer)
    if cell is None:
        file, _, test = answer.partition("::")
        words = test.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        return f"the test “{words}” in `{file}`"  # its own name is too long for a narrow page
    parts = parts_of(cell["lesson"])
    title = next(iter(parts.values())).heading
    return f"[{title}: {parts[cell['slug']].heading}](/{cell['lesson']}.ipynb#{cell['slug']})"


def main(chosen: str = "") -> int:
    """Print what is wrong with the table, or what a row may name in one lesson."""
    if chosen:
        (lesson,) = find(chosen)
        for name, part in parts_of(lesson.name).items():
            print(f"{lesson.name}#{name}")
            print(*(f"    {code.splitlines()[0]}" for code in part.cells), sep="\n")
        return 0
    found = problems(read())
    print(*found, _counts([line for section in read() for line in section.lines]), sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
