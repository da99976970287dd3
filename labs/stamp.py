"""Tell what a lesson's outputs were computed from, so that a stale one can be named.

A stamp maps ``cells`` and every ``labs`` module that the lesson imports, directly or not, to a
hash. Modules are hashed by their syntax tree without docstrings: a comment changes nothing. A
package whose ``__init__`` only imports names is a table of contents; it is followed by name, so
that a lesson which takes ``digits`` from ``labs.data`` does not depend on all of ``labs.data``.
A module that is started as a program (``"-m", "labs.imagefile"``) counts as one that is imported.

A recorded study that is read (``read_record("levels")``) counts too, under the path of its file:
what it says of itself, its plan and its runs. What ``labs study --revalidate`` renews is left out,
for it renews nothing unless the first steps of every arm agree with the runs: see :data:`RENEWED`.

The words of errors count: lessons print errors, and hunts and failed runs of an ablation show them.
A few functions do not, see :data:`PLUMBING`.

Only the standard library is used, and the hash is the same for every Python version.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = "labs"

# Functions of which no output can show the work. A module reached through nothing else is left out
# of a stamp, unless a cell imports it. What can change a number, a figure or a table is never here.
PLUMBING = {
    "labs.near_miss.did_you_mean": "ends the words of an error about a name that does not exist",
    "labs.ablation.pool.refuse": "raises for an executor that cannot make these runs, or is silent",
    "labs.extras.optional": "imports exactly the module it is given, or says how to install it",
}

RENEWED = ("code", "revalidated")
"""Fields in the head of a record that a renewal writes; no table or figure is drawn from them."""

_RECORDS = "labs/studies/records"
_Import = tuple[str, str | None]  # module, and the name taken from it (None: the module itself)


def stamp(cells: Sequence[str], root: Path = ROOT) -> dict[str, str]:
    """Return the hash of the code cells, and of each module and record they depend on, by name.

    Args:
        cells: The sources of the code cells, in order.
        root: The folder that holds the ``labs`` package.
    """
    tree = ast.parse("\n".join(_without_magics(cell) for cell in cells))
    typed = re.findall(rf"(?<!\S)-m\s+({_PACKAGE}(?:\.\w+)*)", "\n".join(cells))
    programs = [(_program(name, root), None) for name in (*_programs(tree), *typed)]
    modules = _dependencies([*_imports(tree), *programs], root)
    hashes = {name: _summary(_file(name, root)).hash for name in modules}
    hashes |= {path: _record_hash(root / path) for path in _record_paths(tree, modules, root)}
    return {"cells": _hash("\0".join(cells)), **dict(sorted(hashes.items()))}


def changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Name the parts (``cells``, modules, records) by which two stamps differ.

    A module that only the old stamp holds, and that holds plumbing, has not changed: it was not
    left out yet.
    """
    left_out = {function.rpartition(".")[0] for function in PLUMBING} - new.keys()
    names = (old.keys() | new.keys()) - left_out
    return sorted(name for name in names if old.get(name) != new.get(name))


def _dependencies(imports: Iterable[_Import], root: Path = ROOT) -> set[str]:
    """Follow imports into the package, and return the names of all modules reached.

    Args:
        imports: Those of a lesson. They are followed as they are; those of a module of the package
            are followed unless they take :data:`PLUMBING` only.
        root: The folder that holds the ``labs`` package.
    """
    reached: set[str] = set()
    todo = [module for module, name in imports for module in _resolve(module, name, root)]
    while todo:
        if (module := todo.pop()) in reached:
            continue
        reached.add(module)
        found = _summary(_file(module, root))
        programs = [(_program(name, root), None) for name in found.programs]
        for inner, name in (*found.imports, *programs):
            todo += _resolve(inner, name, root, frozenset(PLUMBING))
    return reached


def _resolve(
    module: str, name: str | None, root: Path, exempt: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield the modules that ``from module import name`` runs code of."""
    if f"{module}.{name}" in exempt:
        return
    if module.split(".")[0] != _PACKAGE or _file(module, root) is None:
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
                yield from _resolve(inner, inner_name, root, exempt)


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


def _imports(tree: ast.Module) -> list[_Import]:
    return [(module, name) for module, name, _ in _bindings(tree)]


def _programs(tree: ast.Module) -> Iterator[str]:
    """Yield what a command in a list or in the arguments of a call starts: ``"-m", "labs"``."""
    for node in ast.walk(tree):
        words = node.elts if isinstance(node, ast.List | ast.Tuple) else ()
        words = node.args if isinstance(node, ast.Call) else words
        for flag, name in pairwise(getattr(word, "value", None) for word in words):
            if flag == "-m" and isinstance(name, str) and name.split(".")[0] == _PACKAGE:
                yield name


def _program(module: str, root: Path) -> str:
    """Return the module whose code ``python -m module`` runs."""
    return f"{module}.__main__" if _file(f"{module}.__main__", root) else module


def _record_paths(cells: ast.Module, modules: Iterable[str], root: Path) -> set[str]:
    """Return the paths of the records that cells and modules read, from the root.

    A name that only the run of a cell knows stands for every record. A module that is given the
    name reads what a cell has named.
    """
    names = {name for module in modules for name in _records(_tree(_file(module, root)))}
    asked = set(_records(cells))
    if None in asked:
        asked |= {path.stem for path in (root / _RECORDS).glob("*.jsonl")}
    return {f"{_RECORDS}/{name}.jsonl" for name in names | asked if name is not None}


def _records(tree: ast.Module) -> Iterator[str | None]:
    """Yield the name in each call of ``read_record``; ``None`` where it is not written there."""
    reader = "read_record"
    known = {reader, *(bound for _, name, bound in _bindings(tree) if name == reader)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if getattr(node.func, "attr", getattr(node.func, "id", None)) in known:
            given = [*node.args, *(word.value for word in node.keywords if word.arg == "name")]
            name = getattr(given[0], "value", None) if given else None
            yield name if isinstance(name, str) else None


def _record_hash(path: Path) -> str:
    """Return a hash of what a record says, but for what a renewal writes."""
    if not path.is_file():
        return "missing"
    head, _, runs = path.read_text(encoding="utf-8").partition("\n")
    said = {name: value for name, value in json.loads(head).items() if name not in RENEWED}
    return _hash(json.dumps(said, sort_keys=True) + runs)


def _file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    found = [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return found[0] if found else None


class _Summary(NamedTuple):
    """Hold what a stamp needs to know of one module."""

    hash: str
    imports: tuple[_Import, ...]
    programs: tuple[str, ...]


def _summary(path: Path | None) -> _Summary:
    assert path is not None, "only modules that exist are followed"
    return _summarise(path, path.stat().st_mtime_ns)


@cache
def _summarise(path: Path, _modified: int) -> _Summary:
    tree = _tree(path)
    return _Summary(_hash(_skeleton(tree)), tuple(_imports(tree)), tuple(_programs(tree)))


def _tree(path: Path | None) -> ast.Module:
    assert path is not None, "only modules that exist are followed"
    return _parse(path, path.stat().st_mtime_ns)


@cache
def _parse(path: Path, _modified: int) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(
                f"{path}, line {node.lineno}: expected `from {_PACKAGE}… import …`, got a relative "
                "import, which a stamp does not follow; write the whole name"
            )
    return tree


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
