"""The long files of tests come first, and each of them exists."""

import re
from pathlib import Path
from types import SimpleNamespace

from tests.conftest import pytest_collection_modifyitems
from tests.order import LONGEST

ROOT = Path(__file__).parents[1]


def items(*names):
    return [SimpleNamespace(path=ROOT / name, name=number) for number, name in enumerate(names)]


def test_long_files_come_first_and_nothing_else_changes_its_place():
    first, second = LONGEST[0], LONGEST[-1]
    found = items("tests/b.py", second, "tests/a.py", first, second, "tests/b.py", first)
    pytest_collection_modifyitems(SimpleNamespace(rootpath=ROOT), found)
    assert [item.name for item in found] == [3, 6, 1, 4, 0, 2, 5]


def test_a_file_outside_of_the_project_comes_last():
    found = items("tests/b.py", LONGEST[0])
    found[0].path = Path("/elsewhere/test_a.py")
    pytest_collection_modifyitems(SimpleNamespace(rootpath=ROOT), found)
    assert [item.name for item in found] == [1, 0]


def test_every_long_file_exists_and_is_named_once():
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)


def test_make_hands_out_the_files_in_this_order():
    make = (ROOT / "Makefile").read_text()
    runs = re.findall(r"-m pytest .*--dist loadfile .*\btests\)$", make, re.MULTILINE)
    assert len(runs) == 2
    assert all("--no-loadscope-reorder" in run for run in runs)
