"""Lead whoever follows the old address of a page to where it is now.

A page that is renamed keeps its old address as a page that sends the reader on. The addresses are
in ``book/moved.toml``, old on the left, new on the right, both without ``.html``.
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

TABLE = Path(__file__).parents[1] / "moved.toml"


def moved(table: Path = TABLE) -> dict[str, str]:
    """Read where pages were and where they are."""
    return {old: str(new) for old, new in tomllib.loads(table.read_text("utf-8")).items()}


def faults(places: Mapping[str, str], pages: set[str]) -> Iterator[str]:
    """Yield what is wrong with a table of moved pages.

    Args:
        places: Old addresses and new ones.
        pages: All pages that there are.
    """
    for old, new in places.items():
        if old in pages:
            yield f"{old}: expected an address without a page, got one that has a page"
        if new not in pages:
            yield f"{old}: expected a page at {new}, got none; name the page where it is now"


def leading(old: str, new: str, base: str) -> str:
    """Return a page that leads from one address to another.

    Args:
        old: Where the page stands.
        new: Where it leads, with no step in between.
        base: Of the published site, with a slash at its end.
    """
    there = escape(f"{posixpath.relpath(new, posixpath.dirname(old))}.html")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<link rel="canonical" href="{escape(base + new)}.html">'
        f'<meta http-equiv="refresh" content="0; url={there}">'
        "<title>This page has moved</title></head>"
        f'<body><p>This page has moved: <a href="{there}">go there</a>.</p></body></html>\n'
    )


def _on_finished(app: Sphinx, failed: Exception | None) -> None:
    if failed is not None or app.builder.format != "html":
        return
    places = moved()
    if wrong := [*faults(places, app.env.found_docs)]:
        raise ExtensionError("book/moved.toml: " + "; ".join(wrong))
    base = str(app.config.html_baseurl).rstrip("/") + "/"
    for old, new in places.items():
        page = Path(app.outdir, f"{old}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(leading(old, new, base), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the event with Sphinx."""
    app.connect("build-finished", _on_finished)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
