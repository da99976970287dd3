"""Each probe of each hunt must be needed: there is a wrong fix that no other probe refuses."""

import ast
import importlib
from pathlib import Path

import pytest

import labs.hunts

FOLDER = Path(labs.hunts.__file__).parent
NOT_HUNTS = {"__init__", "answer", "fix", "listing", "symptoms"}
HUNTS = sorted(path for path in FOLDER.rglob("*.py") if path.stem not in NOT_HUNTS)


def table_of(hunt):
    """Return the rows of a hunt's table, its excuses, and the names of its probes."""
    tests = importlib.import_module(f"tests.hunts.test_{hunt.stem}")
    rows = [row[1] if isinstance(row, tuple) else row for row in tests.WRONG.values()]
    return rows, getattr(tests, "TOGETHER", {}), questions(hunt)


def questions(hunt):
    """Read the names of the probes from the checker's source: the keys of its one dict of them."""
    (check,) = [
        node
        for node in ast.parse(hunt.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    ]
    (probes,) = [node for node in ast.walk(check) if isinstance(node, ast.Dict)]
    return [key.value for key in probes.keys]


@pytest.mark.parametrize("hunt", HUNTS, ids=lambda path: path.stem)
def test_each_probe_alone_refuses_some_wrong_fix(hunt):
    if hunt.stem == "any_size":
        pytest.importorskip("onnxscript")
    rows, together, probes = table_of(hunt)
    assert {len(row) for row in rows} == {len(probes)}
    alone = {probes[row.index("✗")] for row in rows if row.count("✗") == 1}
    assert alone | set(together) == set(probes)
    assert not alone & set(together)  # an excuse that is not needed
    assert all("✗" in row for row in rows)


@pytest.mark.parametrize("hunt", HUNTS, ids=lambda path: path.stem)
def test_probes_that_never_fail_alone_fail_with_one_other_and_say_why(hunt):
    if hunt.stem == "any_size":
        pytest.importorskip("onnxscript")
    rows, together, probes = table_of(hunt)
    for question, reason in together.items():
        at = probes.index(question)
        assert any(row[at] == "✗" and row.count("✗") == 2 for row in rows), question
        assert len(reason.split()) > 3


def test_every_hunt_is_exported_by_its_stage():
    for hunt in HUNTS:
        if hunt.parent != FOLDER:
            stage = importlib.import_module(f"labs.hunts.{hunt.parent.name}")
            assert any(
                getattr(stage, name).__module__.endswith(hunt.stem) for name in stage.__all__
            )
