"""Write the parts of a page that are read from somewhere else, so that they cannot fall behind.

A page holds an empty block, such as

    ```{lesson-table} 01_foundations
    ```

and the Markdown made for it takes its place before the page is parsed, so its headings count.

- ``{lesson-table} STAGE``: a stage's lessons, or all, with what they give and how long they run.
- ``{lesson-ledger}``: every lesson with its measurements and claims.
- ``{lesson-figure} LESSON N``: the N-th figure of a lesson, with a link to it.
- ``{lesson-hunt} LESSON``: the planted cell of a lesson and what the checker says of it.
- ``{side-by-side}``: the shipped detectors, measured on the same scenes.
- ``{symptoms}``: what people report, by where it shows, with the section that answers it.
- ``{course-map}``: the stages and their lessons, with what each needs and how long it takes.
- ``{roadmap}``: every line of the notes that the book grew from, with what answers it.
- ``{module-table}``: the modules of ``labs``, each with the first line of its docstring.

Within a line, ``{stage-time}`STAGE` `` is the time that the lessons of a stage take a person.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from docutils.nodes import make_id
from sphinx.application import Sphinx

from book._ext import figures
from labs.stamp import ROOT
from tools import roadmap, side_by_side, symptoms
from tools.course_map import course_map
from tools.ledger import entries, hours, ledger_page, read, stage_table, table
from tools.lesson import Lesson


def lesson_figure(lesson: str, number: int, site: Path) -> str:
    """Return the HTML that shows one figure of a lesson, with a link to it.

    Args:
        lesson: The lesson's path without extension.
        number: Counts the lesson's figures from 1.
        site: Where the site is written.

    Raises:
        IndexError: When the lesson has fewer figures.
    """
    outputs = [o for cell in Lesson(lesson).read_notebook().cells for o in cell.get("outputs", [])]
    found = [html for output in outputs if (html := figures.html_of(output))]
    if not 0 < number <= len(found):
        raise IndexError(f"{lesson}: expected a figure number from 1 to {len(found)}, got {number}")
    entry = read(Lesson(lesson))
    name = f"Figure {entry.number}.{number}"
    link = (
        f'<a href="../{lesson}.html#figure-{entry.number.replace(".", "-")}-{number}">{name}</a> '
    )
    html = figures.to_files(found[number - 1], site, "../")
    return html.replace("<figcaption>", f"<figcaption>{link}", 1)


def lesson_hunt(lesson: str) -> str:
    """Return the planted cell of a lesson, the verdict on it, and a link to the hunt, as Markdown.

    Args:
        lesson: The lesson's path without extension.

    Raises:
        LookupError: When the notebook holds no planted cell, or no verdict that refuses it.
    """
    cells = Lesson(lesson).read_notebook().cells
    planted = [i for i, cell in enumerate(cells) if "hunt-bug" in cell.metadata.get("tags", ())]
    verdicts = [said for cell in cells[planted[0] :] for said in _refusals(cell)] if planted else []
    if not verdicts:
        raise LookupError(f"{lesson}: expected a cell with the tag hunt-bug and a ✗ below it")
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    heading = next(line for line in prose.splitlines() if line.startswith("## Bug hunt"))
    title = next(line for line in prose.splitlines() if line.startswith("# "))[2:]
    place = make_id(heading.removeprefix("## "))
    return (
        f"```python\n{cells[planted[0]].source.strip()}\n```\n\n```text\n{verdicts[0]}\n```\n\n"
        f'<p class="find-it"><a href="../{lesson}.html#{place}">Find it</a> in '
        f"<em>{escape(title)}</em>: the page has three hints, and a checker for your repair.</p>"
    )


def _refusals(cell: Any) -> list[str]:
    """Return what the outputs of a cell say of a repair that was refused."""
    outputs = cell.get("outputs", ())
    said = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
    return [text.strip() for text in said if "not solved" in text and "✗" in text]


def stage_time(stage: str) -> str:
    """Return how long the lessons of a stage take a person, hunts and exercises included."""
    return hours(sum(lesson.minutes for lesson in entries(stage)))


def module_table(package: Path = ROOT / "labs") -> str:
    """Return a table of the public modules of a package, each linked to its page."""
    rows = [
        [f"[`{package.name}.{name}`]({name}.md)", _first_line(path)]
        for name, path in public_modules(package).items()
    ]
    return table(["module", "what it is for"], rows)


def public_modules(package: Path = ROOT / "labs") -> dict[str, Path]:
    """Return the modules and packages right inside a package, with the file of each."""
    inits = {path.parent.name: path for path in package.glob("*/__init__.py")}
    files = {path.stem: path for path in package.glob("*.py")}
    found = {**files, **inits}
    return {name: found[name] for name in sorted(found) if not name.startswith("_")}


def _first_line(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("``", "`")


WRITERS: dict[str, Callable[[str, Path], str]] = {
    "lesson-table": lambda stage, _: stage_table(entries(stage)),
    "lesson-ledger": lambda *_: ledger_page(entries()),
    "lesson-figure": lambda which, site: lesson_figure(
        which.split()[0], int(which.split()[1]), site
    ),
    "lesson-hunt": lambda lesson, _: lesson_hunt(lesson),
    "module-table": lambda *_: module_table(),
    "symptoms": lambda *_: symptoms.page(symptoms.read()),
    "course-map": lambda *_: course_map(),
    "roadmap": lambda *_: roadmap.page(roadmap.read()),
    "side-by-side": lambda *_: side_by_side.page(side_by_side.read()),
}
BLOCK = re.compile(rf"^```\{{({'|'.join(WRITERS)})\}} *(.*)\n```$", re.MULTILINE)

INLINE = re.compile(r"\{stage-time\}`(\w+)`")


def fill(page: str, site: Path) -> str:
    """Replace each block of a page by the Markdown made for it, and write pictures to the site."""
    timed = INLINE.sub(lambda found: stage_time(found[1]), page)
    return BLOCK.sub(lambda block: WRITERS[block[1]](block[2], site), timed)


def _on_source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname.startswith("book/"):
        source[0] = fill(source[0], Path(app.outdir))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the event with Sphinx."""
    app.connect("source-read", _on_source_read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
