"""Run the cells of a lesson's bug hunt as they stand in the lesson."""

from typing import Any

from tools.lesson import find


def run_cell(lesson: str, tag: str) -> dict[str, Any]:
    """Execute the one cell of the lesson with this tag, and return the names it defined."""
    cells = find(lesson)[0].read_source().cells
    sources = [cell.source for cell in cells if tag in cell.metadata.get("tags", [])]
    assert len(sources) == 1, f"{lesson}: expected one cell tagged {tag}, got {len(sources)}"
    names: dict[str, Any] = {"__name__": "hunt"}
    exec(sources[0], names)
    return names
