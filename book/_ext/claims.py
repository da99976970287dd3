"""Show a claim as a line that leads to its entry in the ledger."""

from __future__ import annotations

from html import escape
from typing import Any

from tools.ledger import TICK, anchor_of_claim


def linked(cell: dict[str, Any], lesson: str, before: int) -> dict[str, Any]:
    """Return a copy of a code cell whose claims are lines of a list, each with its own address.

    Args:
        cell: A code cell whose printed lines are claims, as JSON.
        lesson: The lesson's path without extension.
        before: How many claims stand above.
    """
    lines = claims(cell)
    items = "".join(_item(lesson, number, line) for number, line in enumerate(lines, before + 1))
    html = {
        "output_type": "display_data",
        "metadata": {},
        "data": {"text/html": f'<ul class="claims">{items}</ul>'},
    }
    others = [output for output in cell["outputs"] if not _printed(output)]
    return cell | {"outputs": [html, *others] if lines else others}


def _item(lesson: str, number: int, line: str) -> str:
    entry = f"../../book/ledger.html#{anchor_of_claim(lesson, number)}"
    said = '<span class="visually-hidden">This claim in the ledger</span>'
    link = f'<a href="{entry}"><span aria-hidden="true">✓</span>{said}</a>'
    return f'<li id="claim-{number}">{link} {escape(line)}</li>'


def claims(cell: dict[str, Any]) -> list[str]:
    """Return the claims that a cell printed."""
    lines = "".join(map(_printed, cell.get("outputs", ()))).splitlines()
    return [line.removeprefix(TICK) for line in lines if line.startswith(TICK)]


def _printed(output: dict[str, Any]) -> str:
    return "".join(output["text"]) if output.get("name") == "stdout" else ""
