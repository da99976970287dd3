"""Find lessons, and read the two files of one: the source people edit, the notebook they read."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from labs.stamp import ROOT, changed, stamp
from tools.measured import Record, read

LESSONS = ROOT / "lessons"


@dataclass(frozen=True)
class Lesson:
    """Name one lesson by its path without extension, as in ``lessons/01_foundations/02_watch``."""

    name: str

    @property
    def source(self) -> Path:
        """Return the ``py:percent`` file."""
        return ROOT / f"{self.name}.py"

    @property
    def notebook(self) -> Path:
        """Return the executed notebook."""
        return ROOT / f"{self.name}.ipynb"

    def read_source(self) -> Any:
        """Read the source as a notebook without outputs, which the caller may change."""
        return deepcopy(_source(self.source.read_text(encoding="utf-8")))

    def read_notebook(self) -> Any:
        """Read the executed notebook, which the caller may change.

        Raises:
            FileNotFoundError: When the lesson was never executed, with the command that does it.
        """
        if not self.notebook.exists():
            raise FileNotFoundError(
                f"{self.name}.ipynb is missing: make lessons LESSON={self.name}"
            )
        return deepcopy(_notebook(self.notebook.read_text(encoding="utf-8")))

    def stale(self) -> list[str]:
        """Name what changed since the outputs were computed: cells, modules, or records."""
        if not self.notebook.exists():
            return ["notebook"]
        return changed(self.read_notebook().metadata.get("labs_stamp", {}), current_stamp(self))

    def drifted(self) -> bool:
        """Tell whether source and notebook hold different cells (text, kind or tags)."""
        return [*map(_essence, self.read_source().cells)] != [
            *map(_essence, self.read_notebook().cells)
        ]

    def measured(self) -> Record:
        """Return what the last execution measured, by device kind (``cpu``, ``gpu``)."""
        return read(self.name)


def find(chosen: str = "") -> list[Lesson]:
    """List all lessons in reading order, or the one that ``chosen`` names.

    Args:
        chosen: A path with or without extension, or a part of a name that only one lesson has.

    Raises:
        LookupError: When no lesson or several have that name; the message lists the candidates.
    """
    names = [p.relative_to(ROOT).with_suffix("").as_posix() for p in sorted(LESSONS.rglob("*.py"))]
    wanted = chosen.removesuffix(".py").removesuffix(".ipynb").removeprefix("./")
    hits = [name for name in names if name == wanted] or [name for name in names if wanted in name]
    if wanted and len(hits) != 1:
        listed = "\n  ".join(hits or names)
        raise LookupError(f"expected one lesson for LESSON={chosen}, got {len(hits)}:\n  {listed}")
    return [Lesson(name) for name in hits]


def current_stamp(lesson: Lesson) -> dict[str, str]:
    """Compute the stamp that outputs made now from the lesson's source would carry."""
    return stamp([cell.source for cell in lesson.read_source().cells if cell.cell_type == "code"])


# Parsing and validating takes a tenth of a second and more, and one process reads a lesson often.
# What is kept belongs to a text and not to a file, so an edited lesson is parsed again.
@lru_cache(maxsize=64)
def _source(text: str) -> Any:
    return jupytext.reads(text, fmt="py")


@lru_cache(maxsize=64)
def _notebook(text: str) -> Any:
    return nbformat.reads(text, as_version=4)


def _essence(cell: Any) -> tuple[str, str, tuple[str, ...]]:
    return cell.cell_type, cell.source, tuple(cell.metadata.get("tags", ()))
