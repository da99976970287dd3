"""Write the lessons as notebooks for Google Colab, which renders neither directives nor citations.

    python -m tools.colab            # write colab/STAGE/LESSON.ipynb for all lessons
    python -m tools.colab --check    # name those that are missing, old or superfluous

A copy has no outputs. Its first cell installs the package, and does so only there; hints and
solutions are folded by ``<details>``, boxes are quotations, and a citation is its names and year.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pybtex.database import Person, parse_file

from labs.stamp import ROOT
from tools.cells import FOLDED, kind
from tools.lesson import Lesson, find

FOLDER = ROOT / "colab"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
SITE = CONFIG["html"]["baseurl"]
INSTALL = f"""\
#@title Install the book's package (only on Colab)
import os, sys

if "google.colab" in sys.modules:
    %pip install --quiet "cv-debugged[lessons] @ git+{CONFIG["repository"]["url"]}"
    os.environ["LABS_CLAIMS"] = "warn"  # a finding that fails here is said, and stops nothing"""
BOX = re.compile(r"^:::\{(\w+)\} ?([^\n]*)\n((?::\w+:[^\n]*\n)*)(.*?)^:::$", re.M | re.S)
ROLE = re.compile(r"\{(\w+(?::\w+)?)\}`([^`]+)`")
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)((?:#[\w-]+)?)\)")


def for_colab(lesson: Lesson) -> Any:
    """Return a lesson as a notebook that Colab shows as it is meant."""
    cells = [new_markdown_cell(_above(lesson)), new_code_cell(INSTALL, metadata=_folded())]
    for cell in lesson.read_source().cells:
        if cell.cell_type == "markdown":
            cells.append(new_markdown_cell(plain(cell.source, lesson.name)))
        else:
            cells.append(_code(cell.source, cell.metadata.get("tags", ())))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # drawn at random otherwise, and every copy would be new
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(
        cells=cells, metadata={"kernelspec": kernel, "colab": {"toc_visible": True}}
    )


def plain(text: str, lesson: str) -> str:
    """Return Markdown without directives and roles: boxes, folds, citations, links to the site.

    Args:
        text: Of a cell, as the lesson holds it.
        lesson: The path of the lesson without extension, from which its links start.
    """
    text = ROLE.sub(lambda role: _role(role[1], role[2]), text)
    text = LINK.sub(lambda link: _link(link[1], link[2], link[3], lesson), text)
    return BOX.sub(lambda box: _box(box[1], box[2], box[4].strip()), text)


def _box(what: str, title: str, inside: str) -> str:
    if what == "dropdown":
        return f"<details><summary>{title}</summary>\n\n{inside}\n\n</details>"
    if what == "figure":
        return inside
    return "\n".join(f"> {line}".rstrip() for line in [f"**{title}**", "", *inside.splitlines()])


def _role(name: str, said: str) -> str:
    shown = re.sub(r"\s*<[^>]+>$", "", said)
    if not name.startswith("cite"):
        return shown
    named = [cited(key.strip()) for key in said.split(",")]
    if name == "cite:t":
        return ", ".join(f"{names} ({year})" for names, year in named)
    return "(" + "; ".join(f"{names}, {year}" for names, year in named) + ")"


def cited(key: str) -> tuple[str, str]:
    """Return the names and the year of what stands under a key in the bibliography."""
    entry = bibliography()[key]
    names = [_surname(person) for person in entry.persons["author"]]
    said = names[0] if len(names) == 1 else " and ".join(names)
    return (said if len(names) < 3 else f"{names[0]} et al."), entry.fields["year"]


def _surname(person: Person) -> str:
    said = " ".join([*person.prelast_names, *person.last_names])
    return str(re.sub(r"[{}]|\\.", "", said))


@cache
def bibliography() -> Mapping[str, Any]:
    """Return the entries of ``references.bib`` by key."""
    entries: Mapping[str, Any] = parse_file(ROOT / "references.bib").entries
    return entries


def _link(words: str, target: str, anchor: str, lesson: str) -> str:
    page = re.sub(r"\.(md|ipynb)$", "", target)
    start = Path("/") if page.startswith("/") else (Path("/") / lesson).parent
    place = (start / page.lstrip("/")).resolve().as_posix()
    shown = words or Path(page).name.lstrip("0123456789_").replace("_", " ")
    return f"[{shown}]({SITE}{place}.html{anchor})"


def _above(lesson: Lesson) -> str:
    book = f"[Computer Vision, Debugged]({SITE})"
    return f"This is a lesson of {book}. [Its page]({SITE}/{lesson.name}.html) shows every output."


def _code(source: str, tags: Sequence[str]) -> Any:
    title = FOLDED.get(kind(source, tags))
    if title is None:
        return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})
    return new_code_cell(f"#@title {title}\n{source}", metadata=_folded() | {"tags": list(tags)})


def _folded() -> dict[str, Any]:
    return {"cellView": "form"}


def written() -> Iterator[tuple[Path, str]]:
    """Yield each file of the folder, and what it should hold."""
    for lesson in find():
        path = FOLDER / Path(lesson.name).relative_to("lessons").with_suffix(".ipynb")
        yield path, nbformat.writes(for_colab(lesson), version=4) + "\n"


def problems() -> list[str]:
    """Name the files that are missing, old, or of no lesson."""
    wanted = dict(written())
    there = {path: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.ipynb")}
    names = sorted(path for path in wanted | there if wanted.get(path) != there.get(path))
    return [path.relative_to(FOLDER).as_posix() for path in names]


def main(arguments: Sequence[str] = ()) -> int:
    """Write the notebooks, or check them; return 1 when a check finds a wrong one."""
    if "--check" in arguments:
        old = problems()
        print(*old, sep="\n")
        return int(bool(old))
    wanted = dict(written())
    for path in FOLDER.rglob("*.ipynb"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
