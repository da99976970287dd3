"""Write what the search of the book reads: every section with its words, its code and its address.

Sphinx's own index knows pages, and roots of words in small letters, so that "mAP" is any map. Here
a section, a term of the glossary and a name of the API are each an entry that can be found, and
letters stay as they are. What a page folds, hints and solutions, is left out: a result that shows
it would spoil the hunt. The script that reads the index is ``book/_static/search.js``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

INDEX = "_static/sections.js"
# Folded on the page, and what a lesson measured of itself, which is no reading matter.
SKIPPED = {"sd-dropdown", "tag_hunt-solution", "tag_hide-cell", "lesson-facts", "lesson-place"}
APART = (nodes.section, nodes.title, nodes.raw, nodes.math, nodes.math_block, addnodes.desc)
Entry = list[str]  # anchor, title, prose, code: a list, because JSON has no tuples


def entries(doctree: nodes.document) -> Iterator[Entry]:
    """Yield what of a page can be found: its sections, terms and documented names.

    Args:
        doctree: Of a page, with its references resolved.
    """
    for section in doctree.findall(nodes.section):
        title = next(iter(section.findall(nodes.title)), None)
        if title is not None and title.parent is section:
            yield _entry(section, _words(title))
    for term in doctree.findall(nodes.term):
        if term["ids"] and isinstance(term.parent, nodes.definition_list_item):
            yield [term["ids"][0], _words(term), _words(term.parent[-1]), ""]
    for named in doctree.findall(addnodes.desc):
        signature = next(iter(named.findall(addnodes.desc_signature)), None)
        content = next(iter(named.findall(addnodes.desc_content)), None)
        if signature is not None and signature["ids"] and content is not None:
            yield _entry(content, signature["ids"][0], signature["ids"][0])


def _entry(node: nodes.Element, title: str, anchor: str = "") -> Entry:
    prose: list[str] = []
    code: list[str] = []
    _gather(node, prose, code)
    return [anchor or node["ids"][0], title, " ".join(prose), " ".join(code)]


def _gather(node: nodes.Element, prose: list[str], code: list[str]) -> None:
    for child in node.children:
        if isinstance(child, APART) or SKIPPED & set(_classes(child)):
            continue
        if isinstance(child, nodes.literal_block):
            code.append(_words(child))
        elif isinstance(child, nodes.Element) and not isinstance(child, nodes.TextElement):
            _gather(child, prose, code)
        elif text := _words(child):
            prose.append(text)


def _classes(node: nodes.Node) -> list[str]:
    return node.get("classes", []) if isinstance(node, nodes.Element) else []


def _words(node: nodes.Node) -> str:
    return " ".join(node.astext().split())


def index(pages: dict[str, list[Entry]]) -> str:
    """Return the script that holds the entries of all pages."""
    rows = [[page, *entry] for page in sorted(pages) for entry in pages[page]]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f"window.SECTIONS = [\n{lines}\n];\n"


def _on_page_context(
    app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    if doctree is not None:
        _found(app)[name] = [*entries(doctree)]


def _found(app: Sphinx) -> dict[str, list[Entry]]:
    """Return the entries of the pages, kept with the environment for a build of a few pages."""
    found: dict[str, list[Entry]] = app.env.__dict__.setdefault("search_entries", {})
    return found


def _on_finished(app: Sphinx, failed: Exception | None) -> None:
    if failed is None and app.builder.format == "html":
        Path(app.outdir, INDEX).write_text(index(_found(app)), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the events with Sphinx."""
    app.connect("html-page-context", _on_page_context)
    app.connect("build-finished", _on_finished)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
