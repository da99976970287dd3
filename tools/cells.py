"""Tell what a code cell of a lesson is for, by reading it: a figure, a claim, or what is taught.

A page folds figures and claims, because they draw or check what another cell did. What is taught
is never folded: the block, the assignment, the training, the experiment, the hunt.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

CHECKED = "nbval-check-output"  # the tests compare the output of these cells, so claims stand there
SHOWING = ("plot.show", "plot.slide")
TAUGHT = ("fit", "ablate", "replay", "backward", "launch", "train_net")
"""Calls that make a cell one that is never folded."""
FOLDED = {
    "figure": "Code of this figure",
    "claim": "Code of this check",
    "solution": "Show the fix",
    "folded": "Show the code",
}
"""What unfolds a cell, by its kind: on the page and on Colab."""


def kind(source: str, tags: Iterable[str] = ()) -> str:
    """Return ``figure``, ``claim``, ``solution``, ``folded`` (by its tag) or ``taught``."""
    tags = set(tags)
    if "hunt-solution" in tags:
        return "solution"
    if tags & {"hide-cell", "hide-input"}:
        return "folded"
    called = set(calls(source))
    if called & set(SHOWING):
        return "figure"
    return "claim" if CHECKED in tags and "claim" in called else "taught"


def is_folded(source: str, tags: Iterable[str] = ()) -> bool:
    """Tell whether a page folds the cell."""
    return kind(source, tags) != "taught"


def calls(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that the cell calls."""
    yield from _calls(source)


# Each cell of a lesson is asked about again for every folded cell above it: read it once.
@lru_cache(maxsize=1024)
def _calls(source: str) -> tuple[str, ...]:
    nodes = ast.walk(ast.parse(source))
    return tuple(ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call))


def what_hides(cells: Sequence[Any]) -> Iterator[str]:
    """Yield a sentence for each folded cell that a reader would miss.

    Args:
        cells: The code cells of a lesson, in order, as nbformat reads them.
    """
    for number, cell in enumerate(cells, 1):
        tags = cell.metadata.get("tags", [])
        if kind(cell.source, tags) not in ("figure", "claim"):
            continue
        for called in sorted({name.split(".")[-1] for name in calls(cell.source)} & set(TAUGHT)):
            yield f"code cell {number} is folded but calls {called}(): give that a cell of its own"
        if any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(cell.source))):
            yield f"code cell {number} is folded but defines a class"
        for name in sorted(defined(cell.source) & _used_where_seen(cells[number:])):
            yield f"code cell {number} is folded but defines {name}, which a visible cell uses"


def _used_where_seen(cells: Sequence[Any]) -> set[str]:
    """Return the names that visible cells use before any of these cells has bound them."""
    used: set[str] = set()
    bound: set[str] = set()
    for cell in cells:
        seen = not is_folded(cell.source, cell.metadata.get("tags", []))
        for read, binds in _names(cell.source):
            if seen:
                used |= read - bound
            bound |= binds
    return used


@lru_cache(maxsize=1024)
def _names(source: str) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    """Return for each statement of a cell which names it reads, and which it binds."""
    body = ast.parse(source).body
    return tuple((frozenset(_read(one)), frozenset(_bound(one))) for one in body)


def defined(source: str) -> set[str]:
    """Return the names that a cell binds, imports excepted."""
    body = ast.parse(source).body
    kept = [one for one in body if not isinstance(one, ast.Import | ast.ImportFrom)]
    return set().union(*map(_bound, kept)) if kept else set()


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds for the statements after it."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    names = {
        a.asname or a.name
        for n in ast.walk(statement)
        for a in getattr(n, "names", [])
        if isinstance(a, ast.alias)
    }
    local = {
        id(inner) for n in ast.walk(statement) if isinstance(n, _SCOPES) for inner in ast.walk(n)
    }
    return names | {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in local
    }


def _read(statement: ast.stmt) -> set[str]:
    """Return the names that a statement reads and does not bind itself, roughly."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr):
        own: set[str] = set()  # the value is read before the target is bound
    else:
        own = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and _stores(n)}
    inside = {
        n.id
        for scope in ast.walk(statement)
        if isinstance(scope, _SCOPES)
        for n in ast.walk(scope)
        if isinstance(n, ast.Name) and _stores(n)
    }
    arguments = {n.arg for n in ast.walk(statement) if isinstance(n, ast.arg)}
    read = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and not _stores(n)}
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        read.add(statement.target.id)
    return read - own - inside - arguments


def _stores(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


_SCOPES = (
    ast.FunctionDef,
    ast.Lambda,
    ast.ClassDef,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)
