"""Link the first use of each term of the glossary on a page of a lesson."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

GLOSSARY = re.compile(r"^```\{glossary\}.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NO_PROSE = (
    nodes.reference,
    nodes.literal,
    nodes.title,
    nodes.raw,
    addnodes.pending_xref,
    nodes.math,
    nodes.math_block,
    nodes.literal_block,
    nodes.caption,
    nodes.citation_reference,
)


_ALSO_PLAIN = {"claim"}  # as a verb it is a word like any other: link the noun by hand


def terms(glossary: Path) -> list[str]:
    """Return the terms that a glossary defines, as they are written there."""
    body = GLOSSARY.search(glossary.read_text(encoding="utf-8"))
    lines = body[1].splitlines() if body else []
    return [line.strip() for line in lines if line and not line[0].isspace()]


def link(doctree: nodes.document, words: list[str], docname: str) -> None:
    """Make the first use of each term in the prose of a page a reference to the glossary, in place.

    Headings, code, formulas and links are left as they are. A plural in ``s`` or ``es`` counts.
    """
    left = {
        word.lower(): word for word in words if word.lower() not in _linked(doctree) | _ALSO_PLAIN
    }
    for text in [*_prose(doctree)]:
        rest: nodes.Text | None = text
        while left and rest is not None:
            pattern = "|".join(re.escape(word) for word in sorted(left, key=len, reverse=True))
            found = re.search(
                rf"(?<![\w-])({pattern})(?:e?s)?(?![\w-])", rest.astext(), re.IGNORECASE
            )
            rest = _replace(rest, found, left.pop(found[1].lower()), docname) if found else None


def _linked(doctree: nodes.document) -> set[str]:
    found = doctree.findall(addnodes.pending_xref)
    return {node["reftarget"].lower() for node in found if node.get("reftype") == "term"}


def _prose(doctree: nodes.document) -> Iterator[nodes.Text]:
    for paragraph in doctree.findall(nodes.paragraph):
        for text in paragraph.findall(nodes.Text):
            above = text.parent
            while above is not paragraph and not isinstance(above, _NO_PROSE):
                above = above.parent
            if above is paragraph and not _in_heading(paragraph):
                yield text


def _in_heading(node: nodes.Node) -> bool:
    while node is not None:
        if isinstance(node, nodes.title) or (
            isinstance(node, nodes.container) and node.get("nb_element")
        ):
            return True
        node = node.parent
    return False


def _replace(text: nodes.Text, found: re.Match[str], term: str, docname: str) -> nodes.Text:
    """Put the reference in its place, and return the text behind it."""
    words = text.astext()
    reference = addnodes.pending_xref(
        "",
        nodes.inline("", found[0], classes=["xref", "std", "std-term"]),
        refdomain="std",
        reftype="term",
        reftarget=term,
        refexplicit=True,
        refwarn=True,
        refdoc=docname,
    )
    before, behind = nodes.Text(words[: found.start()]), nodes.Text(words[found.end() :])
    text.parent.replace(text, [before, reference, behind])
    return behind
