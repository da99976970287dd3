"""Write the page that JupyterLab opens on: the lessons in order, and how to read a notebook.

    python -m tools.start_page

``make lab`` writes it anew each time, from ``_toc.yml`` and the notebooks, so it names the lessons
that there are; git ignores it.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import yaml

from labs.stamp import ROOT
from tools.colab import plain
from tools.ledger import Entry, hours, read
from tools.lesson import Lesson

PAGE = ROOT / "lessons" / "start.md"
HEAD = ROOT / "tools/jupyterlab/start.md"
"""The words above the tables."""


def start_page(toc: Any, lessons: dict[str, Entry]) -> str:
    """Return the page as Markdown.

    Args:
        toc: What ``_toc.yml`` holds; its order is that of the page.
        lessons: What is known of each lesson, by its path without extension.
    """
    stages = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    tables = (_table(stage, lessons) for stage in stages)
    return "\n".join([HEAD.read_text(encoding="utf-8"), *filter(None, tables)])


def _table(stage: dict[str, Any], lessons: dict[str, Entry]) -> str:
    files = [section["file"] for section in stage.get("sections", ())]
    rows = [_row(lessons[file]) for file in files if file in lessons]
    columns = "| lesson | you will be able to | your time |\n|---|---|---|\n"
    head = f"## {stage.get('title', '')}\n\n{columns}"
    return head + "".join(rows) if rows else ""


def _row(lesson: Entry) -> str:
    link = PurePosixPath(lesson.name).relative_to("lessons").with_suffix(".ipynb")
    name = f"[{lesson.number} {lesson.title}]({link})"
    time = hours(lesson.minutes).replace(" ", "\u00a0")  # it stays on one line
    return f"| {name} | {plain(lesson.abilities, lesson.name)} | {time} |\n"


def lessons_of(toc: Any) -> dict[str, Entry]:
    """Read the lessons that ``_toc.yml`` names, by their path without extension."""
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    files = [section["file"] for one in chapters for section in one.get("sections", ())]
    return {file: read(Lesson(file)) for file in files if file.startswith("lessons/")}


if __name__ == "__main__":
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    PAGE.write_text(start_page(contents, lessons_of(contents)), encoding="utf-8")
