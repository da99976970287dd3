"""Tell what a lesson's outputs were computed from, so that a stale one can be named.

A stamp maps ``cells`` and every ``labs`` module that the lesson imports, directly or not, to a
hash. Modules are hashed by their syntax tree without docstrings: a comment changes nothing. A
package whose ``__init__`` only imports names is a table of contents; it is followed by name, so
that a lesson which takes ``digits`` from ``labs.data`` does not depend on all of ``labs.data``.

Only the standard library is used, and the hash is the same for every Python version.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "labs"

Import = tuple[str, str | None]  # module, and the name taken from it (None: the module itself)


def stamp(cells: Sequence[str], root: Path = ROOT) -> dict[str, str]:
    """Return the hash of the code cells and of each module they depend on, sorted by name.

    Args:
        cells: The sources of the code cells, in order.
        root: The folder that holds the ``labs`` package.
    """
    code = "\n".join(_without_magics(cell) for cell in cells)
    modules = dependencies(_imports(ast.parse(code)), root)
    hashes = {name: _hash(_skeleton(_tree(_file(name, root)))) for name in modules}
    return {"cells": _hash("\0".join(cells)), **dict(sorted(hashes.items()))}


def changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Name the parts (``cells`` or modules) by which two stamps differ."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def dependencies(imports: Iterable[Import], root: Path = ROOT) -> set[str]:
    """Follow imports into the package, and return the names of all modules reached."""
    reached: set[str] = set()
    todo = list(imports)
    while todo:
        for module in _resolve(*todo.pop(), root):
            if module not in reached:
                reached.add(module)
                todo += _imports(_tree(_file(module, root)))
    return reached


def _resolve(module: str, name: str | None, root: Path) -> Iterator[str]:
    """Yield the modules that ``from module import name`` runs code of."""
    if module.split(".")[0] != PACKAGE or _file(module, root) is None:
        return
    if name and _file(f"{module}.{name}", root):
        module, name = f"{module}.{name}", None
    parents = [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
    yield from (p for p in parents if _file(p, root) and not _is_contents(p, root))
    if not _is_contents(module, root):
        yield module
    else:  # a name no import line binds is one that Python will not find either
        for inner, inner_name, bound in _bindings(_tree(_file(module, root))):
            if name in (None, "*", bound):
                yield from _resolve(inner, inner_name, root)


def _is_contents(module: str, root: Path) -> bool:
    path = _file(module, root)
    if path is None or path.name != "__init__.py":
        return False
    body = [node for node in _tree(path).body if not _is_docstring(node)]
    return all(isinstance(node, ast.Import | ast.ImportFrom) or _assigns_all(node) for node in body)


def _assigns_all(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [getattr(target, "id", None) for target in targets] == ["__all__"]


def _bindings(tree: ast.Module) -> Iterator[tuple[str, str | None, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ((node.module, a.name, a.asname or a.name) for a in node.names)


def _imports(tree: ast.Module) -> list[Import]:
    return [(module, name) for module, name, _ in _bindings(tree)]


def _file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    found = [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return found[0] if found else None


def _tree(path: Path | None) -> ast.Module:
    assert path is not None, "only modules that exist are followed"
    return _parse(path, path.stat().st_mtime_ns)


@cache
def _parse(path: Path, _modified: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _skeleton(node: object) -> str:
    """Write a syntax tree without positions, docstrings and empty fields.

    ``ast.dump`` would do, but what it leaves out differs between Python 3.12 and 3.13.
    """
    if isinstance(node, ast.AST):
        fields = ((name, _skeleton(value)) for name, value in ast.iter_fields(node))
        inner = ",".join(f"{name}={text}" for name, text in fields if text not in ("[]", "None"))
        return f"{type(node).__name__}({inner})"
    if isinstance(node, list):
        kept = [item for item in node if not (isinstance(item, ast.stmt) and _is_docstring(item))]
        return f"[{','.join(map(_skeleton, kept))}]"
    return repr(node)


def _without_magics(cell: str) -> str:
    lines = cell.splitlines()
    return "\n".join("pass" if line.lstrip()[:1] in ("%", "!") else line for line in lines)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
