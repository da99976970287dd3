"""Run a lesson where something is different, and record which of its claims hold there.

The lesson itself is not changed: no notebook is written. A claim that does not hold is recorded and
the lesson goes on; so does it after a cell that raises.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

from labs.stamp import ROOT
from tools.execute import CELL_TIMEOUT, ENVIRONMENT
from tools.lesson import Lesson

HELD, FALLEN = "✓ ", "✗ "
FELL = ": no longer holds here"


@dataclass(frozen=True)
class Trial:
    """Hold what became of the claims of a lesson.

    Attributes:
        held: Claims that were made and held, in order.
        fallen: Claims that were made and did not hold.
        errors: The first line of the error of every cell that raised.
    """

    held: tuple[str, ...]
    fallen: tuple[str, ...]
    errors: tuple[str, ...]


def run(lesson: Lesson, environment: Mapping[str, str], first: str = "") -> Trial:
    """Execute a lesson in memory.

    Args:
        lesson: Which.
        environment: What is different: set before Python starts in the kernel, on top of what
            every execution of a lesson sets.
        first: Code that runs before the first cell, such as one that plants a fault.
    """
    notebook = lesson.read_source()
    notebook.cells.insert(0, new_code_cell(first or "pass"))
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(lesson.source.parent)}},
    )
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    changed = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path, "LABS_CLAIMS": "warn"}
    client.execute(env=changed | dict(environment))
    return _read(notebook)


def _read(notebook: object) -> Trial:
    held: list[str] = []
    fallen: list[str] = []
    errors: list[str] = []
    for cell in notebook.cells:  # type: ignore[attr-defined]
        for out in cell.get("outputs", []):
            if out.output_type == "error":
                errors.append(f"{out.ename}: {out.evalue}".splitlines()[0])
            for line in out.get("text", "").splitlines() if out.get("name") == "stdout" else []:
                if line.startswith(HELD):
                    held.append(line.removeprefix(HELD))
                elif line.startswith(FALLEN) and FELL in line:
                    fallen.append(line.removeprefix(FALLEN).split(FELL)[0])
    return Trial(tuple(held), tuple(fallen), tuple(errors))
