"""List the bug hunts, and the symptoms that the lessons answer."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from labs.hunts.symptoms import Symptom, symptoms

if TYPE_CHECKING:
    import pandas as pd

_HERE = Path(__file__).resolve().parent
_LESSONS = _HERE.parent.parent / "lessons"


@dataclass(frozen=True)
class Hunt:
    """Hold one hunt.

    Attributes:
        name: Of its module, such as ``mish``.
        lesson: The file of its lesson, where the book is; the stage where only the package is.
        check: How to get the function that checks a fix.
        what: What the hunt is about, in one line.
    """

    name: str
    lesson: str
    check: str
    what: str


@dataclass(frozen=True, repr=False)
class Hunts:
    """Hold every hunt, in the order of the stages."""

    hunts: tuple[Hunt, ...]

    def table(self) -> pd.DataFrame:
        """Return one row per hunt: ``name``, ``lesson``, ``check``, ``what``."""
        import pandas as pd

        return pd.DataFrame([asdict(hunt) for hunt in self.hunts])

    def __repr__(self) -> str:
        lines = [f"{h.name}  ({h.lesson})\n  {h.what}\n  {h.check}" for h in self.hunts]
        return "\n".join(lines)


def hunts() -> Hunts:
    """Read which hunts there are; nothing is imported, so it takes no time."""
    lessons = {path: path.read_text(encoding="utf-8") for path in sorted(_LESSONS.glob("*/*.py"))}
    found = [_hunt(path, name, what, lessons) for path, name, what in _checks()]
    return Hunts(tuple(sorted(found, key=lambda hunt: hunt.lesson)))


def main(arguments: Sequence[str] = ()) -> int:
    """Print the hunts and the symptoms, or the symptoms that hold some words; return 0 or 1.

    Returns 1 when no symptom holds all of the words.
    """
    said = "list the bug hunts with what checks your fix, and the symptoms that lessons answer"
    parser = argparse.ArgumentParser("labs hunts", description=said)
    parser.add_argument("words", nargs="*", help="only symptoms that hold all of these: nan loss")
    words = parser.parse_args(list(arguments)).words
    if not words:
        print(repr(hunts()))
        print("All of them run on your fix as `check_...(fix)`, and tell what they saw.")
    found = symptoms(words)
    print(*_lines(found), sep="\n")
    if not found:
        print(f"No symptom holds all of: {' '.join(words)}. `labs hunts` lists them all.")
    return int(not found)


def _lines(found: Sequence[Symptom]) -> Iterator[str]:
    """Yield what the terminal shows of the symptoms, below the places where they show."""
    for where, group in groupby(found, key=lambda symptom: symptom.where):
        yield f"\n{where}"
        for symptom in group:
            yield f"  {symptom.words}"
            yield f"    look: {symptom.reveals.replace('`', '')}"
            yield f"    read: {symptom.lesson}, {symptom.heading.replace('`', '')}"


def _checks() -> Iterator[tuple[Path, str, str]]:
    """Yield the file, the name and the first words of each function that checks a hunt."""
    for path in sorted(_HERE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("check_"):
                said = ast.get_docstring(node) or ""
                yield path, node.name, " ".join(said.partition("\n\n")[0].split())


def _hunt(path: Path, check: str, what: str, lessons: dict[Path, str]) -> Hunt:
    stage = path.parent.name if path.parent != _HERE else path.stem
    holding = [lesson for lesson, text in lessons.items() if f"{check}(" in text]
    lesson = f"{holding[0].parent.name}/{holding[0].stem}" if holding else f"stage {stage}"
    module = ".".join(path.with_suffix("").relative_to(_HERE.parent.parent).parts)
    return Hunt(path.stem, lesson, f"from {module} import {check}", what)
