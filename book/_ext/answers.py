"""Fold what answers a Predict box: the output, the paragraph that reads it, and its claims.

The reader first sees the question and the code that answers it. What it returned, and what follows
from that, opens on a click; a switch at the top of the page opens all, and is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from docutils import nodes

OPEN = '<details class="answer"><summary>Show the answer</summary>'
CLOSE = "</details>"
# On the page from the start, so that nothing moves when the script finds it.
SWITCH = (
    '<label class="answer-switch pst-js-only"><input type="checkbox"> '
    "Show the answers to all predictions</label>"
)


def fold(doctree: nodes.document, kinds: Mapping[int, str]) -> Iterator[str]:
    """Fold the answers of a page in place, and yield a sentence for each box without one.

    Below the first box of the page, the card, stands a switch that opens them all.

    Args:
        doctree: Of a lesson, before cells are rendered.
        kinds: What each code cell is, by index; see :func:`tools.cells.kind`.
    """
    boxes = [*doctree.findall(nodes.admonition)]
    for box in boxes:
        if "predict" in box["classes"]:
            yield from _fold_after(box, kinds)
    if any("predict" in box["classes"] for box in boxes):
        card = boxes[0]
        card.parent.insert(card.parent.index(card) + 1, _raw(SWITCH))


def _fold_after(box: nodes.Element, kinds: Mapping[int, str]) -> Iterator[str]:
    parent = box.parent
    start = parent.index(box) + 1
    following = parent.children[start:]
    cells = []
    for node in following:
        if not is_code_cell(node):
            break
        cells.append(node)
    answer, seen = [], []
    for cell in cells:
        output = next((n for n in cell.children if _is_output(n)), None)
        if kinds[cell["cell_index"]] != "taught":
            answer.append(cell)
        elif output is None:
            seen.append(cell)
        else:  # the code stays in sight, and only what it returned is folded
            cell.remove(output)
            seen.append(cell)
            answer.append(_alone(cell, output))
    if not answer:
        yield f"a Predict box is followed by no output: {box.astext()[:60]!r}"
        return
    end = start + len(cells)
    if end < len(parent) and isinstance(parent[end], nodes.paragraph):
        answer.append(parent[end])
        end += 1
        while end < len(parent) and is_code_cell(parent[end]) and _claims(parent[end], kinds):
            answer.append(parent[end])
            end += 1
    between = [_raw(OPEN), *answer, _raw(CLOSE)]
    parent.children[start:end] = []
    parent.insert(start, [*seen, *between])


def _alone(cell: nodes.Element, output: nodes.Node) -> nodes.Element:
    apart = nodes.container(classes=[*cell["classes"], "output-alone"], nb_element="cell_code")
    apart["cell_index"] = cell["cell_index"]
    apart["exec_count"] = cell.get("exec_count")
    apart += output
    return apart


def is_code_cell(node: nodes.Node) -> bool:
    """Tell whether a node is a code cell with its outputs."""
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def _claims(cell: nodes.Element, kinds: Mapping[int, str]) -> bool:
    return kinds[cell["cell_index"]] == "claim"


def _is_output(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code_output"


def _raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")
