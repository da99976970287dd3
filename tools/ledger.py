"""List every lesson with what its last execution measured, and every claim it makes.

    python -m tools.ledger

Nothing here is written by hand or kept in a file: the notebooks and ``lessons/measured`` are
read when the book is rendered, so the page cannot fall behind them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import PurePosixPath
from typing import Any

from tools.cells import CHECKED
from tools.lesson import Lesson, find

TICK = "✓ "
# To the end of the item of a list, or of the paragraph.
ABILITIES = re.compile(r"\*\*You will be able to\*\*:?\s*(.+?)(?=\n\s*\n|\n\s*- |\n:::)", re.DOTALL)

TIME = re.compile(r"\*\*Time\*\*(.+?)(?=\n\s*\n|\n:::|\Z)", re.DOTALL)  # what people need


@dataclass(frozen=True)
class Run:
    """Hold what one execution of a lesson measured, on one kind of device."""

    seconds: float
    peak_mb: int
    date: str
    device: str
    python: str
    torch: str

    def machine(self) -> str:
        """Name the device and the versions that the lesson ran with."""
        return f"{self.device}; Python {self.python}, torch {self.torch}"


@dataclass(frozen=True)
class Entry:
    """Hold what the book says of one lesson: all of it read from the lesson itself."""

    name: str
    title: str
    abilities: str = ""
    claims: tuple[str, ...] = ()
    runs: tuple[Run, ...] = field(default=())
    minutes: int = 0

    @property
    def number(self) -> str:
        """Return stage and lesson as numbers, such as ``2.3``; read from the names of the files."""
        stage, lesson = (
            int(re.match(r"\d+", part)[0]) for part in PurePosixPath(self.name).parts[-2:]
        )
        return f"{stage}.{lesson}"

    @property
    def anchor(self) -> str:
        """Name the section of the ledger that lists the claims of this lesson."""
        return f"claims-{PurePosixPath(self.name).name}"


def read(lesson: Lesson) -> Entry:
    """Read what the book says of a lesson from its executed notebook and its measurements."""
    notebook = lesson.read_notebook()
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    title = re.search(r"^# (.+)$", prose, re.MULTILINE)
    if title is None:
        raise ValueError(f"{lesson.name}: expected a Markdown cell with a `# Title`, found none")
    abilities = ABILITIES.search(prose)
    return Entry(
        name=lesson.name,
        title=title[1].strip(),
        abilities=" ".join(abilities[1].split()) if abilities else "",
        claims=tuple(_claims(notebook.cells)),
        runs=tuple(_run(*item) for item in sorted(lesson.measured().items())),
        minutes=sum(map(int, re.findall(r"(\d+) min", time[1])))
        if (time := TIME.search(prose))
        else 0,
    )


def entries(stage: str = "") -> list[Entry]:
    """Read all lessons in reading order, or those of one stage such as ``01_foundations``."""
    return [read(one) for one in find() if not stage or one.name.startswith(f"lessons/{stage}/")]


def ledger_page(lessons: Sequence[Entry]) -> str:
    """Write the body of the ledger in Markdown: one table, then the claims of each lesson."""
    total = sum(len(lesson.claims) for lesson in lessons)
    head = f"{_count(len(lessons), 'lesson')}, {_count(total, 'claim')}.\n"
    rows = [row for lesson in lessons for row in _ledger_rows(lesson)]
    header = ["Lesson", "Time", "Peak memory", "Claims", "Executed", "On"]
    machines = {row[-1] for row in rows if row[-1]}
    if len(machines) == 1:  # a column that says one thing is a sentence
        head += f"\nAll were executed on {machines.pop()}.\n"
        rows, header = [row[:-1] for row in rows], header[:-1]
    return "\n".join([head, table(header, rows), *map(_claim_list, lessons)])


def stage_table(lessons: Sequence[Entry]) -> str:
    """Write the table of a stage in Markdown: each lesson, what it gives, how long it runs."""
    rows = [
        [f"[](/{lesson.name}.ipynb)", lesson.abilities, "".join(map(_time, lesson.runs[:1]))]
        for lesson in lessons
    ]
    return table(["Lesson", "You will be able to", "Runs in"], rows)


def facts(lesson: Entry) -> str:
    """Write the line under a lesson's title: its measurements, its claims, its two files."""
    run = [f"{_time(r)} and {r.peak_mb} MB on {r.device} ({r.date})" for r in lesson.runs]
    parts = [f"Runs in {text}" for text in run]
    if lesson.claims:
        parts.append(f"[{_count(len(lesson.claims), 'claim')}](#{lesson.anchor})")
    stem = PurePosixPath(lesson.name).name
    parts += [f"{{download}}`{kind} <{stem}{kind}>`" for kind in (".ipynb", ".py")]
    return " · ".join(parts)


def place(lesson: Entry) -> str:
    """Say where a lesson stands and how long it takes: ``Stage 2 · Lesson 3 of 7 · 2 h 5 min``."""
    stage, number = lesson.number.split(".")
    folder = PurePosixPath(lesson.name).parts[-2]
    beside = sum(one.name.startswith(f"lessons/{folder}/") for one in find())
    time = f" · {hours(lesson.minutes)}" if lesson.minutes else ""
    return f"Stage {stage} · Lesson {number} of {beside}{time}"


def hours(minutes: int) -> str:
    """Write a time as people say it: ``45 min``, ``2 h 5 min``; nothing when there is none."""
    whole, rest = divmod(minutes, 60)
    said = [f"{whole} h"] * bool(whole) + [f"{rest} min"] * bool(rest)
    return " ".join(said)


def anchor_of_claim(lesson: str, number: int) -> str:
    """Name the entry of the ledger that holds the claim of that number, counted from 1."""
    return f"claim-{PurePosixPath(lesson).name.replace('_', '-')}-{number}"


def _claims(cells: Sequence[Any]) -> Iterator[str]:
    for cell in cells:
        if cell.cell_type == "code" and CHECKED in cell.metadata.get("tags", []):
            printed = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
            yield from (
                line.removeprefix(TICK) for line in printed.splitlines() if line.startswith(TICK)
            )


def _run(kind: str, measured: dict[str, Any]) -> Run:
    # Without a GPU a lesson runs on one thread, and its processor time is what a quiet machine
    # needs; the time on the clock is also that of whatever else ran here.
    seconds = measured["cpu_seconds" if kind == "cpu" else "seconds"]
    facts = {name: measured[name] for name in Run.__dataclass_fields__ if name != "seconds"}
    return Run(seconds=seconds, **facts)


def _ledger_rows(lesson: Entry) -> list[list[str]]:
    link, count = f"[](/{lesson.name}.ipynb)", f"[{len(lesson.claims)}](#{lesson.anchor})"
    return [
        [link, _time(run), f"{run.peak_mb}\u00a0MB", count, run.date, run.machine()]
        for run in lesson.runs
    ] or [[link, "", "", count, "", ""]]


def _claim_list(lesson: Entry) -> str:
    lines = "".join(_claim(lesson.name, n, text) for n, text in enumerate(lesson.claims, 1))
    count = _count(len(lesson.claims), "claim")
    body = (
        f'<details class="claims-of"><summary>{count}</summary>\n'
        f'<ul class="claims">\n{lines}</ul>\n</details>'
        if lines
        else "It makes no claim yet."
    )
    return "\n".join(["", f"({lesson.anchor})=", f"## {lesson.title}", "", body, ""])


def _claim(lesson: str, number: int, text: str) -> str:
    page = f"../{lesson}.html#claim-{number}"
    return (
        f'<li id="{anchor_of_claim(lesson, number)}">'
        f'<a href="{page}" aria-label="where this was checked">✓</a> {escape(text)}</li>\n'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _time(run: Run) -> str:
    return f"{run.seconds:.0f}\u00a0s"  # a number and its unit stay on one line


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


if __name__ == "__main__":
    sys.stdout.write(ledger_page(entries()))
