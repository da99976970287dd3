"""Mend what the theme, pandas and Sphinx write that a screen reader cannot make sense of.

Each function here takes the HTML of a page and mends one thing; axe-core, in
``tests/site``, says whether it is enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

EMPTY_HEAD = re.compile(r"<th([^>]*)>\s*</th>")
BRANCH = re.compile(
    r'(<a class="reference internal" href="[^"]*">(.*?)</a>\s*<details[^>]*>\s*)<summary>',
    re.DOTALL,
)
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
PARAMETERS = re.compile(r"<(/?)(dl|dd)>")
SEARCH_FIELD = re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"')
HOME = re.compile(r'<div class="sidebar-primary-item">(\s*<a class="navbar-brand logo")')


def without_empty_heads(page: str) -> str:
    """Make the empty head of a column, as above the index of a DataFrame, a plain cell."""
    return EMPTY_HEAD.sub(r"<td\1></td>", page)


def with_named_branches(page: str) -> str:
    """Give each fold of the table of contents the name of what it unfolds."""

    def named(found: re.Match[str]) -> str:
        title = unescape(re.sub("<[^>]+>", "", found[2])).strip().replace('"', "&quot;")
        return f'{found[1]}<summary aria-label="Pages of {title}">'

    return BRANCH.sub(named, page)


def with_plain_signatures(page: str) -> str:
    """Write the lines of a long signature as lines: Sphinx makes them a list without terms."""

    def plain(found: re.Match[str]) -> str:
        return PARAMETERS.sub(
            lambda tag: "</span>" if tag[1] else f'<span class="sig-{tag[2]}">', found[0]
        )

    return SIGNATURE.sub(plain, page)


def with_plain_bibliography(page: str) -> str:
    """Take away roles that have been withdrawn from the standard, and a list of more than items."""
    page = page.replace(' role="doc-biblioentry"', "")
    return page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')


def with_spoken_buttons(page: str) -> str:
    """Let the search field be called by what stands in it, and the logo belong to a landmark."""
    page = SEARCH_FIELD.sub(r"\1", page)
    return HOME.sub(
        r'<div class="sidebar-primary-item" role="navigation" aria-label="Book">\1', page
    )


def with_folds_called_as_they_read(page: str) -> str:
    """Let the fold of a cell be called by the words on it, such as "Code of this figure"."""
    return page.replace('<summary aria-label="Toggle hidden content">', "<summary>")


MENDS: tuple[Callable[[str], str], ...] = (
    without_empty_heads,
    with_named_branches,
    with_plain_signatures,
    with_plain_bibliography,
    with_spoken_buttons,
    with_folds_called_as_they_read,
)


def mend(page: str) -> str:
    """Return a page with all of it mended; once mended, it stays as it is."""
    for mended in MENDS:
        page = mended(page)
    return page


def _on_finished(app: Sphinx, failed: Exception | None) -> None:
    if failed is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            page = path.read_text("utf-8")
            if (mended := mend(page)) != page:
                path.write_text(mended, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the event with Sphinx."""
    app.connect("build-finished", _on_finished, priority=800)  # before pages are made light
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
