"""Run the lessons as other machines would, and with other seeds, and name the claims that fail.

    python -m tools.elsewhere                             # every lesson, every condition
    python -m tools.elsewhere avx2 --lesson residual --jobs 1
    python -m tools.elsewhere --table                     # what is known, without a run

The seeds are those that ``labs.repro.seed_everything`` is given, and so those of ``ablate``; a
generator that is seeded by itself, and the seeds of data such as ``Scenes(seed=)``, stay. A claim
is marked as recorded when its cell uses a stored record: that was made on one machine, with the
seeds as they are written, so another one may rightly miss it.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from labs.near_miss import did_you_mean
from tools.kept import Condition, Result, add_options, collect, missing
from tools.lesson import Lesson, find
from tools.trial import GREEN

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
TWO_THREADS = {f"{library}_NUM_THREADS": "2" for library in ("OMP", "MKL", "OPENBLAS")}
CONDITIONS = (
    Condition("avx2", AVX2),
    Condition("two threads", TWO_THREADS),
    Condition("seeds + 1000", {"LABS_SEED_SHIFT": "1000"}),
    Condition("seeds + 2000", {"LABS_SEED_SHIFT": "2000"}),
)
RECORDS = {"read_record", "replay"}
"""The names in ``labs.studies`` that bring a stored record into a lesson."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and not known yet, and print the claims that fail."""
    chosen = _options(arguments)
    try:
        conditions = [named(chosen.condition)] if chosen.condition else CONDITIONS
        lessons = find(chosen.lesson)
    except LookupError as error:
        print(f"tools.elsewhere: {error.args[0]}", file=sys.stderr)
        return 2
    wanted = [(condition, lesson) for lesson in lessons for condition in conditions]
    results = collect(chosen, wanted)
    print(report(results, len(wanted)), end="")
    failed = any(one.count(GREEN) < len(one.fates) for one in results)
    return int(failed or len(results) < len(wanted))


def named(name: str) -> Condition:
    """Return the condition of this name.

    Raises:
        LookupError: When there is none; the message names the nearest one.
    """
    known = {condition.name: condition for condition in CONDITIONS}
    if name not in known:
        hint = did_you_mean(name, known)
        raise LookupError(f"expected a condition of {', '.join(known)}; got {name!r}{hint}")
    return known[name]


def report(results: Sequence[Result], wanted: int) -> str:
    """List the claims that fail, with lesson, condition, and why a claim was never made.

    Args:
        results: In the order of the list.
        wanted: How many there should be.
    """
    lines = []
    for result in results:
        recorded = recorded_cells(Lesson(result.lesson).read_source())
        for one in result.fates:
            if one.fate != GREEN:
                mark = " [recorded]" if one.cell in recorded else ""
                why = f": {one.why}" if one.why else ""
                claim = f"{one.fate}{mark} | {one.text}{why}"
                lines.append(f"{result.lesson} | {result.condition} | {claim}")
    total = sum(len(result.fates) for result in results)
    lines.append(f"{len(lines)} of {total} claims fail, in {len(results)} runs")
    lines += missing(results, wanted)
    return "\n".join(lines) + "\n"


def recorded_cells(notebook: Any) -> set[int]:
    """Return the numbers of the code cells that use a stored record, directly or through a name."""
    names, found = set(RECORDS), set()
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for number, source in enumerate(code):
        plain = "\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))
        for statement in ast.parse(plain).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                names |= {
                    alias.asname or alias.name
                    for alias in statement.names
                    if alias.name.rpartition(".")[2] in RECORDS
                }
            elif names & _used(statement):
                found.add(number)
                names |= _bound(statement)
    return found


def _used(statement: ast.stmt) -> set[str]:
    """Return the names that a statement reads, those of attributes included."""
    nodes = list(ast.walk(statement))
    plain = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return plain | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement gives to values, functions and classes."""
    nodes: Iterable[ast.AST] = list(ast.walk(statement))
    plain = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    kinds = (ast.FunctionDef, ast.ClassDef)
    return plain | {n.name for n in nodes if isinstance(n, kinds)}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = "\n".join(
        f"  {one.name:<14} {' '.join(f'{key}={value}' for key, value in one.environment.items())}"
        for one in CONDITIONS
    )
    parser = argparse.ArgumentParser(
        "python -m tools.elsewhere",
        description=f"{(__doc__ or '').strip()}\n\nconditions:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("condition", nargs="?", default="", help="one; all when not given")
    add_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
