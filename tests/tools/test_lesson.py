"""A lesson is parsed once, again when it was edited, and nobody spoils it for another reader."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools import lesson
from tools.lesson import Lesson


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(lesson, "ROOT", tmp_path)
    (tmp_path / "one.py").write_text("# %%\na = 1\n")
    shown = new_output("stream", name="stdout", text="1\n")
    notebook = new_notebook(cells=[new_code_cell("a = 1", outputs=[shown])])
    nbformat.write(notebook, tmp_path / "one.ipynb")
    return Lesson("one")


def test_a_source_is_parsed_once_and_again_when_it_was_edited(small, monkeypatch):
    real, parsed = lesson.jupytext.reads, []
    monkeypatch.setattr(
        lesson.jupytext, "reads", lambda text, fmt: parsed.append(text) or real(text, fmt)
    )
    small.source.write_text("# %%\nonly = 'here'\n")
    for _ in range(3):
        assert [cell.source for cell in small.read_source().cells] == ["only = 'here'"]
    assert len(parsed) == 1
    small.source.write_text("# %%\na = 2\n\n# %%\nb = 3\n")
    assert [cell.source for cell in small.read_source().cells] == ["a = 2", "b = 3"]


def test_an_executed_notebook_is_read_again_when_it_was_written(small):
    assert small.read_notebook().cells[0].outputs[0].text == "1\n"
    nbformat.write(new_notebook(cells=[new_code_cell("b = 2")]), small.notebook)
    assert [cell.source for cell in small.read_notebook().cells] == ["b = 2"]


@pytest.mark.parametrize("read", [Lesson.read_source, Lesson.read_notebook])
def test_what_one_caller_changes_no_other_sees(small, read):
    mine = read(small)
    mine.cells[0].source = "spoilt"
    mine.cells[0].metadata["tags"] = ["spoilt"]
    mine.metadata["spoilt"] = True
    again = read(small)
    assert again.cells[0].source == "a = 1"
    assert "tags" not in again.cells[0].metadata
    assert "spoilt" not in again.metadata
