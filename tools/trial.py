"""Run a lesson where something is different, and tell what becomes of each of its claims there.

The lesson itself is not changed: no notebook is written. A claim that does not hold is recorded and
the lesson goes on; so does it after a cell that raises.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell

from labs.stamp import ROOT
from tools.execute import CELL_TIMEOUT, ENVIRONMENT
from tools.lesson import Lesson

HELD, FALLEN = "✓ ", "✗ "
FELL = ": no longer holds here"
GREEN, RED, ERROR = "green", "red", "error"
PLANTING = -1
"""The number of the cell that runs before the lesson's own."""


@dataclass(frozen=True)
class Made:
    """Hold a claim as a cell printed it.

    Attributes:
        cell: Which code cell of the lesson, from 0.
        text: The claim.
        held: Whether it held.
    """

    cell: int
    text: str
    held: bool


@dataclass(frozen=True)
class Trial:
    """Hold what a lesson printed and raised.

    Attributes:
        made: Every claim that was made, in order.
        errors: The first line of the error of every code cell that raised, by its number; that of
            the code before the lesson has the number :data:`PLANTING`.
    """

    made: tuple[Made, ...]
    errors: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fate:
    """Hold what became of a claim.

    Attributes:
        cell: Which code cell of the lesson makes it, from 0.
        text: The claim as it reads where nothing is different.
        fate: ``"green"`` (it held), ``"red"`` (it did not) or ``"error"`` (it was never made).
        why: The error because of which it was never made; empty otherwise.
    """

    cell: int
    text: str
    fate: str
    why: str = ""


def run(
    lesson: Lesson,
    environment: Mapping[str, str],
    first: str = "",
    started: Callable[[int], object] | None = None,
) -> Trial:
    """Execute a lesson in memory.

    Args:
        lesson: Which.
        environment: What is different: set before Python starts in the kernel, on top of what
            every execution of a lesson sets.
        first: Code that runs before the first cell, such as one that plants a fault.
        started: Is given the process that executes the lesson, as soon as it runs.

    Raises:
        RuntimeError: When ``first`` raises: then nothing is different.
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
    if started is not None:
        kernel: Any = client  # as the process of a local kernel is known
        client.on_notebook_start = lambda **_: started(kernel.km.provisioner.pid)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    changed = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path, "LABS_CLAIMS": "warn"}
    broken: dict[int, str] = {}
    try:
        client.execute(env=changed | dict(environment))
    except (DeadKernelError, CellTimeoutError) as error:  # the claims from here on are not made
        broken[client.code_cells_executed - 2] = _first_line(type(error).__name__, str(error))
    trial = Trial(tuple(made_in(notebook)), errors_in(notebook) | broken)
    if PLANTING in trial.errors:
        raise RuntimeError(f"{lesson.name}: nothing was changed: {trial.errors[PLANTING]}")
    return trial


def made_in(notebook: Any, before: int = 1) -> Iterator[Made]:
    """Yield the claims that a notebook shows.

    Args:
        notebook: With outputs.
        before: How many code cells at its beginning are not the lesson's.
    """
    for number, cell in enumerate(_code(notebook), -before):
        shown = "".join(out.text for out in cell.outputs if out.get("name") == "stdout")
        for line in shown.splitlines():
            if line.startswith(HELD):
                yield Made(number, line.removeprefix(HELD), True)
            elif line.startswith(FALLEN) and FELL in line:
                yield Made(number, line.removeprefix(FALLEN).split(FELL)[0], False)


def errors_in(notebook: Any, before: int = 1) -> dict[int, str]:
    """Return the first line of each error by the number of its code cell, unless it is meant."""
    return {
        number: _first_line(out.ename, out.evalue)
        for number, cell in enumerate(_code(notebook), -before)
        for out in cell.outputs
        if "raises-exception" not in cell.metadata.get("tags", []) and out.output_type == "error"
    }


def judge(wanted: Sequence[Made], trial: Trial) -> list[Fate]:
    """Tell what became of each claim that a lesson makes where nothing is different.

    A claim is known by its cell and its place among the claims of that cell, because its words may
    hold a number that is another one here.

    Args:
        wanted: The claims that are made where nothing is different.
        trial: What happened where something is.
    """
    made, asked = _by_cell(trial.made), _by_cell(wanted)
    fates = []
    for cell, claims in asked.items():
        here = made.get(cell, [])
        for claim, answer in zip(claims, [*here, *[None] * len(claims)], strict=False):
            if answer is None:
                why = _reason(cell, trial.errors)
                fates.append(Fate(cell, claim.text, ERROR, why))
            else:
                fates.append(Fate(cell, claim.text, GREEN if answer.held else RED))
    return fates


def _reason(cell: int, errors: Mapping[int, str]) -> str:
    """Return the error that kept a cell from a claim: its own, or else the last one before it."""
    earlier = [number for number in errors if number <= cell]
    return errors[max(earlier)] if earlier else "the cell ended without making it"


def _by_cell(claims: Sequence[Made]) -> dict[int, list[Made]]:
    found: dict[int, list[Made]] = {}
    for claim in claims:
        found.setdefault(claim.cell, []).append(claim)
    return found


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _first_line(kind: str, message: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", f"{kind}: {message}")
    return plain.strip().splitlines()[0]
