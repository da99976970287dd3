"""Number the figures of a lesson, and keep their pictures in files that load when they are seen.

A notebook holds each figure whole, pictures and all, so that it can be read alone. Its number is
given here and nowhere stored: a figure that is added renumbers those behind it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

FIGURE = '<figure class="labs-figure"'
EMBEDDED = re.compile(r'src="data:image/(\w+)(?:\+xml)?(;base64)?,([^"]+)"')
FOLDER = "_images"
PNG = "image/png"


def html_of(output: Mapping[str, Any]) -> str:
    """Return the HTML of an output that is a figure; nothing for any other."""
    html = "".join(output.get("data", {}).get("text/html", ""))
    return html if html.startswith(FIGURE) else ""


def numbered(cell: dict[str, Any], place: str, before: int, site: Path) -> dict[str, Any]:
    """Return a copy of a code cell with its figures numbered and their pictures in files.

    Args:
        cell: A code cell, as JSON.
        place: Stage and lesson, such as ``"2.3"``.
        before: How many figures stand above.
        site: Where the site is written.
    """
    outputs = []
    for output in cell["outputs"]:
        if html := html_of(output):
            before += 1
            shown = with_number(to_files(html, site, "../../"), f"{place}.{before}")
            output = output | {"data": {"text/html": shown}}
        elif alt := output.get("metadata", {}).get(PNG, {}).get("alt"):
            data = "".join(output["data"][PNG]).replace("\n", "")
            image = f'<img src="data:{PNG};base64,{data}" alt="{escape(alt)}">'
            output = output | {"data": {"text/html": to_files(image, site, "../../")}}
        outputs.append(output)
    return cell | {"outputs": outputs}


def decoded(found: re.Match[str]) -> bytes:
    """Return the file behind a match of :data:`EMBEDDED`."""
    return base64.b64decode(found[3]) if found[2] else unquote_to_bytes(found[3])


def count(cell: Mapping[str, Any]) -> int:
    """Return how many figures a cell shows."""
    return sum(bool(html_of(output)) for output in cell.get("outputs", ()))


def with_number(html: str, number: str) -> str:
    """Return the HTML of a figure with its number before the caption, as a link to itself."""
    name = f"figure-{number.replace('.', '-')}"
    link = f'<a class="figure-number" href="#{name}">Figure {number}</a> '
    html = html.replace(FIGURE, f'<figure id="{name}"{FIGURE.removeprefix("<figure")}', 1)
    return html.replace("<figcaption>", f"<figcaption>{link}", 1)


def to_files(html: str, site: Path, up: str) -> str:
    """Write the pictures that HTML holds to files of the site, and return HTML that names them.

    Args:
        html: With pictures in base64.
        site: Where the site is written.
        up: From the page to the root of the site, such as ``"../../"``.
    """
    folder = site / FOLDER
    folder.mkdir(parents=True, exist_ok=True)

    def name(found: re.Match[str]) -> str:
        data = decoded(found)
        file = folder / f"{sha256(data).hexdigest()[:16]}.{found[1]}"
        if not file.exists():
            file.write_bytes(data)
        return f'src="{up}{FOLDER}/{file.name}" loading="lazy"'

    return EMBEDDED.sub(name, html).replace(' loading="lazy" loading="lazy"', ' loading="lazy"')
