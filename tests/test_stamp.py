"""The stamp must change with the code that a lesson runs, and with nothing else."""

import json

import pytest

from labs.stamp import changed, stamp

LESSON = ["from labs.hooks import capture", "import torch\n%matplotlib inline\n!ls"]


@pytest.fixture
def package(tmp_path):
    """Build a package of small modules; labs.data only lists what it imports."""
    files = {
        "labs/__init__.py": '"""Say nothing."""',
        "labs/hooks.py": "from labs.names import near\n\ndef capture():\n    return near()",
        "labs/names.py": "def near():\n    return 1  # the nearest",
        "labs/data/__init__.py": (
            '"""List."""\nfrom labs.data.idx import digits\n'
            'from labs.data.scan import scan\n__all__ = ["digits", "scan"]'
        ),
        "labs/data/idx.py": "def digits():\n    import labs.names\n    return 10",
        "labs/data/scan.py": "def scan():\n    return []",
        "labs/hunts/__init__.py": "def examine():\n    return True",
        "labs/hunts/first.py": "from labs.hunts import examine",
        "labs/near_miss.py": "def did_you_mean():\n    return ''\n\ndef count():\n    return 1",
        "labs/boxes.py": "from labs.near_miss import did_you_mean",
        "labs/worker/__init__.py": '"""List."""',
        "labs/worker/__main__.py": "from labs.names import near",
        "labs/start.py": 'RUN = ["python", "-P", "-m", "labs.worker"]',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edit(package, name, old, new):
    path = package / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_imports_are_followed_through_other_modules(package):
    assert set(stamp(LESSON, package)) == {"cells", "labs.hooks", "labs.names"}


def test_imports_inside_functions_count(package):
    assert "labs.names" in stamp(["from labs.data import digits"], package)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param("from labs.data import digits", {"labs.data.idx"}, id="name"),
        pytest.param("from labs.data import digits as d", {"labs.data.idx"}, id="renamed"),
        pytest.param("from labs.data.scan import scan", {"labs.data.scan"}, id="module"),
        pytest.param("import labs.data", {"labs.data.idx", "labs.data.scan"}, id="whole package"),
        pytest.param("from labs import data", {"labs.data.idx", "labs.data.scan"}, id="attribute"),
        pytest.param("from labs.data import *", {"labs.data.idx", "labs.data.scan"}, id="star"),
        pytest.param(
            "from labs.hunts.first import x", {"labs.hunts", "labs.hunts.first"}, id="real"
        ),
        pytest.param("import numpy, labsome", set(), id="foreign"),
    ],
)
def test_a_package_that_only_lists_names_is_followed_by_name(package, code, expected):
    assert set(stamp([code], package)) - {"cells", "labs.names"} == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("# the nearest", "# the nearest, by distance", id="comment"),
        pytest.param("return 1", "\n    return 1", id="blank line"),
        pytest.param("def near():", 'def near():\n    """Return one."""', id="docstring"),
    ],
)
def test_comments_layout_and_docstrings_change_nothing(package, old, new):
    before = stamp(LESSON, package)
    edit(package, "labs/names.py", old, new)
    assert changed(before, stamp(LESSON, package)) == []


def test_one_changed_line_names_the_module_for_its_importers_only(package):
    other = ["from labs.data import scan"]
    before, before_other = stamp(LESSON, package), stamp(other, package)
    edit(package, "labs/names.py", "return 1", "return 2")
    assert changed(before, stamp(LESSON, package)) == ["labs.names"]
    assert changed(before_other, stamp(other, package)) == []


def test_an_edited_cell_and_a_new_import_are_named(package):
    before = stamp(LESSON, package)
    after = stamp([*LESSON, "import labs.hunts.first"], package)
    assert changed(before, after) == ["cells", "labs.hunts", "labs.hunts.first"]


def test_moving_code_between_cells_counts(package):
    assert changed(stamp(["a = 1\nb = 2"], package), stamp(["a = 1", "b = 2"], package)) == [
        "cells"
    ]


class TestPrograms:
    """What a lesson starts in another process is code that it runs, too."""

    @pytest.mark.parametrize(
        "code",
        [
            pytest.param("import labs.start", id="by a module"),
            pytest.param('run([*torchrun, "-m", "labs.worker", "--steps"])', id="list"),
            pytest.param('run(("python", "-m", "labs.worker"))', id="tuple"),
            pytest.param('start("-m", "labs.worker")', id="arguments"),
            pytest.param("!python -m labs.worker --steps 3", id="shell"),
            pytest.param('os.system("python -m labs.worker")', id="one string"),
            pytest.param("from labs.worker import __main__", id="import"),
        ],
    )
    def test_its_main_module_is_followed(self, package, code):
        assert {"labs.worker.__main__", "labs.names"} <= set(stamp([code], package))

    @pytest.mark.parametrize(
        "code", ['run(["-m", "pip"])', 'f("labs.worker")', 'run(["-m", "labsome"])', '["-m", 3]']
    )
    def test_nothing_else_is(self, package, code):
        assert set(stamp([code], package)) == {"cells"}

    def test_a_relative_import_is_refused_because_it_is_not_followed(self, package):
        edit(package, "labs/boxes.py", "from labs.near_miss", "from .near_miss")
        with pytest.raises(ValueError, match=r"boxes\.py, line 1: .* got a relative import"):
            stamp(["import labs.boxes"], package)


class TestRecords:
    """A recorded study is what a lesson draws from: new runs must stale the lesson."""

    LEVELS, PARTS = (f"labs/studies/records/{name}.jsonl" for name in ("levels", "parts"))

    @pytest.fixture
    def recorded(self, package):
        (package / "labs/studies/records").mkdir(parents=True)
        head = {"name": "levels", "date": "2026-11-01", "code": {"a": "1"}, "revalidated": "today"}
        for path in (self.LEVELS, self.PARTS):
            (package / path).write_text(json.dumps(head) + '\n{"seed": 0, "curve": [0.5]}\n')
        (package / "labs/studies/__init__.py").write_text(
            "from labs.studies.record import read_record"
        )
        (package / "labs/studies/record.py").write_text("def read_record(name):\n    return name")
        return package

    @pytest.mark.parametrize(
        "code",
        [
            pytest.param('from labs.studies import read_record\nread_record("levels")', id="name"),
            pytest.param('from labs.studies import read_record as r\nr("levels")', id="renamed"),
            pytest.param('import labs.studies\nlabs.studies.read_record("levels")', id="whole"),
            pytest.param('replay(PLAN, read_record(name="levels"), 1, 0)', id="keyword"),
        ],
    )
    def test_the_record_that_is_read_counts_and_no_other(self, recorded, code):
        assert [name for name in stamp([code], recorded) if "/" in name] == [self.LEVELS]

    def test_one_that_a_module_reads_counts(self, recorded):
        edit(recorded, "labs/names.py", "return 1", 'return read_record("levels")')
        assert self.LEVELS in stamp(LESSON, recorded)

    def test_a_name_that_is_not_written_there_stands_for_every_record(self, recorded):
        assert {self.LEVELS, self.PARTS} <= set(stamp(["read_record(PLAN.name)"], recorded))
        edit(recorded, "labs/names.py", "return 1", "return read_record(name)")
        assert not {self.LEVELS, self.PARTS} & set(stamp(LESSON, recorded))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            pytest.param("[0.5]", "[0.6]", id="run"),
            pytest.param("2026-11-01", "2026-11-02", id="date of the runs"),
        ],
    )
    def test_new_runs_stale_the_lesson(self, recorded, old, new):
        before = stamp(['read_record("levels")'], recorded)
        edit(recorded, self.LEVELS, old, new)
        assert changed(before, stamp(['read_record("levels")'], recorded)) == [self.LEVELS]

    def test_one_that_was_renewed_does_not(self, recorded):
        before = stamp(['read_record("levels")'], recorded)
        edit(recorded, self.LEVELS, '"1"}, "revalidated": "today"', '"2"}, "revalidated": "now"')
        assert changed(before, stamp(['read_record("levels")'], recorded)) == []

    def test_one_that_is_not_there_yet_is_compared(self, recorded):
        before = stamp(['read_record("levels")'], recorded)
        (recorded / self.LEVELS).unlink()
        assert changed(before, stamp(['read_record("levels")'], recorded)) == [self.LEVELS]

    def test_lessons_that_read_a_record_name_it(self):
        from tools.lesson import current_stamp, find

        assert self.LEVELS in current_stamp(find("03_see_at_three_scales")[0])


class TestPlumbing:
    def test_a_module_reached_through_nothing_else_is_left_out(self, package):
        before = stamp(["import labs.boxes"], package)
        assert set(before) == {"cells", "labs.boxes"}
        edit(package, "labs/near_miss.py", "return ''", "return '?'")
        assert changed(before, stamp(["import labs.boxes"], package)) == []

    @pytest.mark.parametrize(
        "code",
        [
            pytest.param("import labs.boxes\nfrom labs.near_miss import did_you_mean", id="cell"),
            pytest.param("import labs.near_miss", id="module"),
            pytest.param("from labs.near_miss import *", id="star"),
            pytest.param("from labs import near_miss", id="attribute"),
        ],
    )
    def test_a_cell_that_imports_it_counts_it(self, package, code):
        assert "labs.near_miss" in stamp([code], package)

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param("from labs.near_miss import count", id="another name"),
            pytest.param("from labs.near_miss import did_you_mean, count", id="both"),
            pytest.param("from labs import near_miss", id="module"),
            pytest.param("import labs.near_miss", id="import"),
            pytest.param("from labs.near_miss import *", id="star"),
        ],
    )
    def test_a_module_that_takes_more_than_plumbing_counts_it(self, package, line):
        (package / "labs/boxes.py").write_text(line)
        assert "labs.near_miss" in stamp(["import labs.boxes"], package)

    def test_a_stamp_from_before_the_list_is_not_stale(self):
        old = {"cells": "1", "labs.near_miss": "2", "labs.boxes": "3"}
        assert changed(old, {"cells": "1", "labs.boxes": "3"}) == []
        assert changed({"cells": "1", "labs.gone": "2"}, {"cells": "1"}) == ["labs.gone"]

    def test_a_module_that_left_the_list_or_is_imported_now_is_compared(self):
        new = {"cells": "1", "labs.near_miss": "2"}
        assert changed({"cells": "1"}, new) == ["labs.near_miss"]
        assert changed({"cells": "1", "labs.near_miss": "0"}, new) == ["labs.near_miss"]
