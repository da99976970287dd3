"""Tell the outside what a page is: description, address, picture, a sitemap, a page for lost links.

The description is the first paragraph of the page, for a lesson what its card promises. The address
is that of the published site, so a copy on a disk or a branch is no second book.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

LONGEST = 200  # letters of a description; what is longer is cut by those who show it
PICTURE = "_static/share.png"


def description(doctree: nodes.document) -> str:
    """Return one or two sentences on a page: of its card, or of its first paragraph of words."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if promise := re.match(r"(?:• )?You will be able to:? (.+)", text):
            return _cut(f"You will be able to {promise[1]}")
        if len(text) > 60 and "lesson-" not in " ".join(paragraph["classes"]):
            return _cut(text)
    return ""


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST - 1].rpartition(" ")[0].rstrip(".,;:·") + " …"


def tags(title: str, said: str, address: str, base: str) -> Iterator[str]:
    """Yield the tags of a page's head.

    Args:
        title: Of the page.
        said: Its description; none is written when empty.
        address: Of the page on the published site.
        base: Of the site, with a slash at its end.
    """
    if said:
        yield f'<meta name="description" content="{escape(said)}">'
        yield f'<meta property="og:description" content="{escape(said)}">'
    yield f'<meta property="og:title" content="{escape(title)}">'
    yield '<meta property="og:type" content="article">'
    yield f'<meta property="og:url" content="{escape(address)}">'
    yield f'<meta property="og:image" content="{escape(base + PICTURE)}">'


def sitemap(base: str, pages: list[str]) -> str:
    """Return the sitemap of a site as XML."""
    places = "".join(f"<url><loc>{escape(f'{base}{page}.html')}</loc></url>\n" for page in pages)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        f"{places}</urlset>\n"
    )


def lost(base: str) -> str:
    """Return the page that is served where there is none."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>No such page · Computer Vision, Debugged</title></head>"
        '<body style="font: 1rem/1.5 sans-serif; max-width: 34rem; margin: 4rem auto">'
        "<h1>No such page</h1><p>The page was moved or renamed, or the link has a slip.</p>"
        f'<p><a href="{escape(base)}book/index.html">The first page of the book</a> · '
        f'<a href="{escape(base)}book/before-you-start.html">All lessons on a map</a> · '
        f'<a href="{escape(base)}book/symptoms.html">Symptoms</a></p></body></html>\n'
    )


def _base(app: Sphinx) -> str:
    return str(app.config.html_baseurl).rstrip("/") + "/"


def _on_page_context(
    app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    if doctree is None:
        return
    title = re.sub("<[^>]+>", "", context.get("title", ""))
    if title == context.get("docstitle"):  # the first page is called as the book is: once is enough
        context["docstitle"] = ""
    found = tags(title, description(doctree), f"{_base(app)}{name}.html", _base(app))
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(found) + "\n"


def _on_finished(app: Sphinx, failed: Exception | None) -> None:
    if failed is None and app.builder.format == "html":
        pages = sorted(app.env.found_docs)
        out = Path(app.outdir)
        (out / "sitemap.xml").write_text(sitemap(_base(app), pages), encoding="utf-8")
        (out / "404.html").write_text(lost(_base(app)), encoding="utf-8")
        (out / "robots.txt").write_text(f"User-agent: *\nSitemap: {_base(app)}sitemap.xml\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the events with Sphinx."""
    app.connect("html-page-context", _on_page_context)
    app.connect("build-finished", _on_finished)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
