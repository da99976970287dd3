"""Executing a lesson must be repeatable to the byte, and must never lose a good notebook."""

import base64
import io
import re
import subprocess
import sys

import pytest
from PIL import Image

from labs.stamp import ROOT
from tools import execute, lesson, measured
from tools.lesson import Lesson, current_stamp, find

SOURCE = """\
# %% [markdown]
# # Count

# %%
import random

total = sum(range(5))
total

# %% tags=["nbval-check-output"]
print("✓ the sum is ten" if total == 10 else "no")
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Build a project with one lesson, and point the tools at it."""
    for module in (execute, lesson):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "lessons/measured")
    monkeypatch.setattr(lesson, "LESSONS", tmp_path / "lessons")
    (tmp_path / "lessons/00_stage").mkdir(parents=True)
    (tmp_path / "lessons/00_stage/01_count.py").write_text(SOURCE)
    return Lesson("lessons/00_stage/01_count")


def run(lesson):
    return execute._execute(lesson)


def edit(lesson, old, new):
    text = lesson.source.read_text()
    assert old in text
    lesson.source.write_text(text.replace(old, new))


@pytest.mark.slow
def test_a_second_run_gives_the_same_bytes_and_a_failure_keeps_them(small, capsys):
    assert small.stale() == ["notebook"]
    assert run(small) == 0
    first = small.notebook.read_bytes()
    assert small.stale() == []
    assert not small.drifted()

    assert run(small) == 0
    assert small.notebook.read_bytes() == first

    edit(small, "range(5)", "range(0, 5, 0)")
    assert small.stale() == ["cells"]
    assert run(small) == 1
    assert "must not be zero" in capsys.readouterr().out
    assert small.notebook.read_bytes() == first


@pytest.mark.slow
def test_a_false_claim_ends_execution_and_nbval_whatever_a_reader_had_set(
    small, monkeypatch, capsys
):
    monkeypatch.setenv("LABS_CLAIMS", "warn")  # as `make lab` sets it
    edit(small, "import random\n", "from labs.claims import claim\n")
    edit(
        small,
        'print("✓ the sum is ten" if total == 10 else "no")',
        'claim("the sum is ten", total == 9)',
    )
    assert run(small) == 0  # a reader's own run goes on
    assert "✗ the sum is ten: no longer holds here" in small.notebook.read_text()

    for name, value in execute.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert run(small) == 1
    assert "ClaimFailedError" in capsys.readouterr().out

    monkeypatch.setenv("LABS_CLAIMS", "warn")
    command = re.search(r"^NBVAL := (.*) lessons$", (ROOT / "Makefile").read_text(), re.MULTILINE)[
        1
    ]
    command = command.replace("$(PY)", sys.executable) + f" {small.notebook}"
    shell = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert shell.returncode == 1
    assert "ClaimFailedError" in shell.stdout


@pytest.mark.slow
def test_a_picture_that_looks_the_same_changes_nothing_when_the_lesson_is_executed_again(small):
    shown = "import io\nfrom PIL import Image as I\nf = io.BytesIO()\n"
    shown += "I.new('RGB', (9, 9), 'red').save(f, 'PNG', compress_level=9)\n"
    shown += "from IPython.display import Image, display\ndisplay(Image(f.getvalue()))"
    edit(small, "total\n", f"total\n\n# %%\n{shown}\n")
    assert run(small) == 0
    old = small.read_notebook()
    picture = next(
        o
        for cell in old.cells
        for o in cell.get("outputs", [])
        if "data" in o and "image/png" in o.data
    )
    image = Image.open(io.BytesIO(base64.b64decode(picture.data["image/png"])))
    image.save(file := io.BytesIO(), "PNG", compress_level=0)  # as another version would write it
    picture.data["image/png"] = base64.b64encode(file.getvalue()).decode()
    execute._write(small, old)
    before = small.notebook.read_bytes()

    assert run(small) == 0
    assert small.notebook.read_bytes() == before
    edit(small, "'red'", "'blue'")
    assert run(small) == 0
    assert small.notebook.read_bytes() != before


@pytest.mark.slow
def test_a_change_of_text_keeps_the_outputs(small):
    run(small)
    before = [cell.get("outputs") for cell in small.read_notebook().cells]
    edit(small, "# # Count", "# # Count to ten")
    assert small.drifted()
    assert small.stale() == []
    execute._write(small, execute._with_old_outputs(small))
    assert not small.drifted()
    assert [cell.get("outputs") for cell in small.read_notebook().cells] == before
    assert small.stale() == []


def check(monkeypatch, capsys):
    """Call the command with --check, and return its status and what it printed."""
    monkeypatch.setattr(sys, "argv", ["execute", "--check"])
    return execute.main(), capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param("range(5)", "range(6)", " is stale: cells changed;", id="code"),
        pytest.param("# # Count", "# # Sum", ": its text is not in the notebook;", id="text"),
        pytest.param(' tags=["nbval-check-output"]', "", ": its text is not in", id="tag"),
    ],
)
def test_the_check_names_what_is_not_up_to_date_and_writes_nothing(
    small, monkeypatch, capsys, old, new, said
):
    execute._write(small, _stamped(small, current_stamp(small)))
    assert check(monkeypatch, capsys) == (0, "")
    before = small.notebook.read_bytes()
    edit(small, old, new)
    status, printed = check(monkeypatch, capsys)
    assert (status, len(printed.splitlines())) == (1, 1)
    assert printed.startswith(small.name + said)
    assert printed.endswith(f"; make lessons LESSON={small.name}\n")
    assert small.notebook.read_bytes() == before


def test_a_tag_counts_as_drift(small):
    execute._write(small, _stamped(small))
    edit(small, ' tags=["nbval-check-output"]', "")
    assert small.drifted()


def test_what_the_book_folds_is_folded_in_jupyterlab(small):
    edit(small, '"nbval-check-output"', '"hunt-solution", "hide-cell"')
    execute._write(small, _stamped(small))
    folded = {"outputs_hidden": True, "source_hidden": True}
    cells = small.read_notebook().cells
    assert [cell.metadata.get("jupyter") for cell in cells] == [None, None, folded]
    assert not small.drifted()


@pytest.mark.parametrize(
    ("source", "folded"),
    [
        ('claim("so", True)', {"source_hidden": True}),
        ("plot.show(figure, 'So it is.')", {"source_hidden": True}),
        ("train(1)", None),
    ],
)
def test_figures_and_claims_are_folded_in_jupyterlab_and_their_outputs_are_not(
    small, source, folded
):
    edit(small, 'print("✓ the sum is ten" if total == 10 else "no")', source)
    execute._write(small, _stamped(small))
    assert small.read_notebook().cells[-1].metadata.get("jupyter") == folded


def _stamped(lesson, stamp=None):
    notebook = lesson.read_source()
    notebook.metadata["labs_stamp"] = stamp or {}
    return notebook


def test_measurements_of_two_devices_stand_side_by_side(small):
    execute._record(small, {"kind": "cpu", "seconds": 3.0})
    execute._record(small, {"kind": "gpu", "seconds": 1.0})
    execute._record(small, {"kind": "cpu", "seconds": 2.0})
    assert small.measured() == {"cpu": {"seconds": 2.0}, "gpu": {"seconds": 1.0}}
    files = [path for path in measured.FOLDER.rglob("*") if path.is_file()]
    assert files == [measured.FOLDER / "00_stage/01_count.json"]


@pytest.mark.parametrize(
    "name",
    [
        "lessons/00_stage/01_count",
        "lessons/00_stage/01_count.py",
        "./lessons/00_stage/01_count.ipynb",
        "count",
        "",
    ],
)
def test_a_lesson_is_found_by_any_of_its_names(small, name):
    assert find(name) == [small]


def test_a_name_that_fits_none_lists_what_there_is(small):
    with pytest.raises(LookupError, match="got 0:\n  lessons/00_stage/01_count"):
        find("yolo")


def test_a_notebook_that_was_never_made_says_how_to_make_it(small):
    with pytest.raises(FileNotFoundError, match="make lessons LESSON="):
        small.read_notebook()
