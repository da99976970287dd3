"""Put on the page what a lesson knows of itself.

- Under the title: time, memory, date and device of the last execution, the claims, both files.
- On each figure: the alternative text that ``labs.plot.show`` stored beside it. A figure without
  one is a warning, and a warning fails the build.
- On each box: a class made from its title, such as ``admonition-your-card``, for the style sheet.
- On each folded cell: words that say what unfolds.
- Behind "Suggest edit": the ``.py`` file, because the notebook is made from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from tools.ledger import facts, read
from tools.lesson import Lesson

LOGGER = logging.getLogger(__name__)

# What unfolds, by tag; the first tag that a cell has decides.
FOLDED = {
    "hunt-solution": "the fix",
    "hide-input": "the code",
    "hide-output": "the output",
    "hide-cell": "the code",
}


def prepare(notebook: dict[str, Any], line: str) -> dict[str, Any]:
    """Return a copy of the notebook (JSON) with the facts under its title and its folds named.

    Args:
        notebook: The notebook as ``json.loads`` gives it.
        line: One line of Markdown.
    """
    cells = [_named_fold(cell) for cell in notebook["cells"]]
    first = next(i for i, cell in enumerate(cells) if cell["cell_type"] == "markdown")
    title, _, rest = "".join(cells[first]["source"]).partition("\n")
    cells[first] = cells[first] | {"source": f"{title}\n\n{{.lesson-facts}}\n{line}\n{rest}"}
    return notebook | {"cells": cells}


def _named_fold(cell: dict[str, Any]) -> dict[str, Any]:
    tags = cell["metadata"].get("tags", [])
    what = next((text for tag, text in FOLDED.items() if tag in tags), None)
    if what is None:
        return cell
    prompts = {"code_prompt_show": f"Show {what}", "code_prompt_hide": f"Hide {what}"}
    return cell | {"metadata": cell["metadata"] | {"mystnb": prompts}}


def alternative_texts(cell: Mapping[str, Any]) -> list[str]:
    """Return the alternative text of each picture among a code cell's outputs, in order.

    A picture without one gives an empty text.
    """
    return [
        output.get("metadata", {}).get(mime, {}).get("alt", "")
        for output in cell.get("outputs", [])
        for mime in [next((m for m in output.get("data", {}) if m.startswith("image/")), None)]
        if mime
    ]


def _on_source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    if _is_lesson(app, docname):
        source[0] = json.dumps(prepare(json.loads(source[0]), facts(read(Lesson(docname)))))


def _on_doctree_read(app: Sphinx, doctree: nodes.document) -> None:
    if not _is_lesson(app, docname := app.env.docname):
        return
    for box in doctree.findall(nodes.admonition):
        box["classes"].append(nodes.make_id(f"admonition-{box[0].astext()}"))
    cells = json.loads(Lesson(docname).notebook.read_text(encoding="utf-8"))["cells"]
    for cell in doctree.findall(_is_code_cell):
        texts = alternative_texts(cells[cell["cell_index"]])
        for pictures, text in zip(_pictures(cell), texts, strict=True):
            for picture in pictures:
                picture["alt"] = text
            if not text:
                where = f"{docname}, cell {cell['cell_index']}"
                LOGGER.warning("%s: a figure without alt text; end the cell with show()", where)


def _on_page_context(
    app: Sphinx, docname: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    if _is_lesson(app, docname):
        edit_source(context["header_buttons"])


def edit_source(buttons: list[dict[str, Any]]) -> None:
    """Point the edit button, wherever it is among the buttons of a page, at the source file."""
    for button in buttons:
        edit_source(button.get("buttons", []))
        if button.get("label") == "source-edit-button":
            button["url"] = button["url"].replace(".ipynb", ".py")


def _is_lesson(app: Sphinx, docname: str) -> bool:
    return docname.startswith("lessons/") and app.env.doc2path(docname).endswith(".ipynb")


def _is_code_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def _pictures(cell: nodes.Element) -> list[list[nodes.image]]:
    """Return the image nodes of each output that has any: one for each format it is offered in."""
    outputs = cell.findall(
        lambda n: isinstance(n, nodes.container) and n.get("nb_element") == "mime_bundle"
    )
    found = [list(output.findall(nodes.image)) for output in outputs]
    return [images for images in found if images]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the events with Sphinx."""
    app.connect("source-read", _on_source_read)
    app.connect("doctree-read", _on_doctree_read)
    app.connect("html-page-context", _on_page_context, priority=600)  # after the theme's buttons
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
