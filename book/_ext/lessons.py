"""Put on the page what a lesson knows of itself.

- Above the title: the stage, the place among its lessons, and how long people need.
- Under it: time, memory, date and device of the last execution, the claims, both files.
- Figures numbered, their pictures in files; their code folded, as that of claims.
- Claims as lines that lead to the ledger; answers to Predict boxes folded; terms linked.
- On each box: a class made from its title, such as ``admonition-your-card``, for the style sheet.
- Behind "Suggest edit": the ``.py`` file, because the notebook is made from it; behind "Colab": the
  copy that is made for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from book._ext import answers, claims, figures, terms
from labs.stamp import ROOT
from tools.cells import CHECKED, FOLDED, kind
from tools.ledger import Entry, facts, place, read
from tools.lesson import Lesson

LOGGER = logging.getLogger(__name__)
# On the page from the start, so that nothing moves when the script (marks.js) finds it.
MARKS = (
    '<p class="lesson-marks pst-js-only" role="group" '
    'aria-label="Your marks, kept in this browser">'
    '<label><input type="checkbox" data-part="lesson"> Lesson done</label> '
    '<label><input type="checkbox" data-part="hunt"> Bug found</label></p>'
)


def prepare(notebook: dict[str, Any], entry: Entry, site: Path) -> dict[str, Any]:
    """Return a copy of the notebook (JSON) as the page shows it.

    Args:
        notebook: The notebook as ``json.loads`` gives it.
        entry: What is known of the lesson.
        site: Where the site is written.
    """
    cells, drawn, claimed = [], 0, 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            said = claims.claims(cell) if CHECKED in cell["metadata"].get("tags", ()) else []
            shown = figures.numbered(_named_fold(cell), entry.number, drawn, site)
            drawn += figures.count(cell)
            cell = claims.linked(shown, entry.name, claimed) if said else shown
            claimed += len(said)
        cells.append(cell)
    first = next(i for i, cell in enumerate(cells) if cell["cell_type"] == "markdown")
    title, _, rest = "".join(cells[first]["source"]).partition("\n")
    above = f"{{.lesson-place}}\n{place(entry)}\n\n{{.lesson-facts}}\n{facts(entry)}\n\n{MARKS}\n"
    cells[first] = cells[first] | {"source": f"{title}\n\n{above}{rest}"}
    return notebook | {"cells": cells}


def _kind(cell: Mapping[str, Any]) -> str:
    return kind("".join(cell["source"]), cell["metadata"].get("tags", ()))


def _named_fold(cell: dict[str, Any]) -> dict[str, Any]:
    what = FOLDED.get(_kind(cell))
    if what is None:
        return cell
    tags = [*cell["metadata"].get("tags", ())]
    if not {"hide-cell", "hide-input"} & set(tags):
        tags.append("hide-input")
    shown = {
        "tags": [*tags, f"kind-{_kind(cell)}"],
        "mystnb": {"code_prompt_show": what, "code_prompt_hide": what},
    }
    return cell | {"metadata": cell["metadata"] | shown}


def _on_source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    if _is_lesson(app, docname):
        entry = read(Lesson(docname))
        source[0] = json.dumps(prepare(json.loads(source[0]), entry, Path(app.outdir)))


def _on_doctree_read(app: Sphinx, doctree: nodes.document) -> None:
    if not _is_lesson(app, docname := app.env.docname):
        return
    for box in doctree.findall(nodes.admonition):
        box["classes"].append(nodes.make_id(f"admonition-{box[0].astext()}"))
    cells = Lesson(docname).read_notebook().cells
    kinds = {
        i: kind(cell.source, cell.metadata.get("tags", ()))
        for i, cell in enumerate(cells)
        if cell.cell_type == "code"
    }
    for complaint in answers.fold(doctree, kinds):
        LOGGER.warning("%s: %s", docname, complaint)
    terms.link(doctree, terms.terms(ROOT / "book/glossary.md"), docname)


def _on_page_context(
    app: Sphinx, docname: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    if _is_lesson(app, docname):
        point_buttons(context["header_buttons"])


def point_buttons(buttons: list[dict[str, Any]]) -> None:
    """Point the buttons of a page, wherever they are, at the right file.

    The source is edited, not the notebook; Colab opens the copy that is made for it.
    """
    for button in buttons:
        point_buttons(button.get("buttons", []))
        if button.get("label") == "source-edit-button":
            button["url"] = button["url"].replace(".ipynb", ".py")
        if "colab.research.google.com" in button.get("url", ""):
            button["url"] = button["url"].replace("/lessons/", "/colab/")


def _is_lesson(app: Sphinx, docname: str) -> bool:
    return docname.startswith("lessons/") and app.env.doc2path(docname).endswith(".ipynb")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the events with Sphinx."""
    app.connect("source-read", _on_source_read)
    app.connect("doctree-read", _on_doctree_read)
    app.connect("html-page-context", _on_page_context, priority=600)  # after the theme's buttons
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
