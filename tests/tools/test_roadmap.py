"""Every line of the notes has a row, and every answer of a row is there."""

import re
from dataclasses import replace

import pytest

from labs.stamp import ROOT
from tools import roadmap
from tools.roadmap import Line, Section

NOTES = ROOT.parent / "shared/seed-notes.md"  # beside some checkouts only
RESIDUAL = "lessons/01_foundations/07_feel_the_residual"
CELL = f"{RESIDUAL}#the-idea @ torch.autograd.grad("
TEST = "tests/hooks/test_capture.py::test_structures_are_kept"


def row(*answers, notes="- 调试残差连接", says="Debug it", to_come=""):
    return Line(notes, says, answers, to_come)


def table(*lines):
    return [Section("# 深度学习", "Deep learning", lines)]


def test_every_answer_is_there_and_every_line_has_one_or_says_what_is_to_come():
    assert roadmap.problems(roadmap.read()) == []


@pytest.mark.skipif(not NOTES.exists(), reason="the notes are not beside this checkout")
def test_the_table_holds_the_notes_line_by_line():
    notes = roadmap.lines_in(NOTES.read_text(encoding="utf-8"))
    assert roadmap.lines_of(roadmap.read()) == notes


def test_the_table_is_as_long_as_the_notes_where_they_are_not():
    assert len(roadmap.lines_of(roadmap.read())) == 196


def test_a_line_is_left_out_of_the_comparison_only_when_it_says_nothing():
    notes = "# 深度学习\n\n```bash\nls\n\n  cp\n```\n"
    assert roadmap.lines_in(notes) == ["# 深度学习", "ls", "cp"]
    assert roadmap.lines_of(table(row(notes="ls\n   cp"))) == roadmap.lines_in(notes)
    assert roadmap.lines_of(table(row(notes="cp\nls"))) != roadmap.lines_in(notes)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(row(), "expected `answers`, `to_come` or both", id="nothing"),
        pytest.param(row(CELL, says=""), "expected `says` in English, got ''", id="not said"),
        pytest.param(
            row(CELL, says="调试"), "expected `says` in English, got '调试'", id="Chinese"
        ),
        pytest.param(row("book/ledger.md"), "a page that nothing runs is no answer", id="a page"),
        pytest.param(row(f"{RESIDUAL}#the-idea"), "expected .* @ CODE", id="no code named"),
        pytest.param(row(RESIDUAL), "a page that nothing runs is no answer", id="a whole lesson"),
        pytest.param(
            row(CELL.replace("feel", "feal")),
            "no lesson .*feal_the_residual; did you mean .*07_feel_the_residual",
            id="lesson",
        ),
        pytest.param(
            row(CELL.replace("idea", "ideas")),
            r"has no heading #the-ideas; did you mean the-idea\?",
            id="heading",
        ),
        pytest.param(
            row(f"{RESIDUAL}#in-practice @ torch"), "has 0 cells of code", id="words, no cell"
        ),
        pytest.param(row(f"{CELL}nothing"), "none with 'torch.autograd.grad.nothing'", id="code"),
        pytest.param(row(CELL, TEST + "s"), "has no test test_structures_are_kepts", id="test"),
        pytest.param(row("tests/hooks/test_captures.py::test_a"), "mean .*capture.py", id="file"),
    ],
)
def test_a_wrong_row_is_named(line, said):
    (problem,) = roadmap.problems(table(line))
    assert re.match(f"- 调试残差连接: .*{said}", problem), problem


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(row(CELL), id="a cell"),
        pytest.param(row(TEST), id="a test"),
        pytest.param(row(CELL, TEST, to_come="the rest"), id="in part"),
        pytest.param(row(to_come="all of it"), id="to come"),
        pytest.param(row(notes="常用命令："), id="announces"),
        pytest.param(row(notes="**避坑指南**："), id="announces in bold"),
        pytest.param(
            row("tests/tools/test_ledger.py::TestLedger::test_keeps_the_reading_order_and_"
                "can_be_limited_to_a_stage"), id="a test of a class",
        ),
    ],
)  # fmt: skip
def test_a_right_row_is_no_problem(line):
    assert roadmap.problems(table(line)) == []


def test_a_key_that_is_misspelt_is_refused(tmp_path):
    wrong = '[[section]]\nnotes = ""\ntitle = "A"\n[[section.line]]\nnotes = "a"\nsay = "b"\n'
    (tmp_path / "a.toml").write_text(wrong)
    with pytest.raises(TypeError, match="'say'"):
        roadmap.read(tmp_path / "a.toml")


def test_the_page_counts_the_rows_and_links_to_the_heading():
    lines = [row(CELL, CELL, TEST), row(CELL, to_come="a | b"), row(to_come="all"), row(notes="：")]
    page = roadmap.page(table(*lines))
    assert page.count("Of 3 lines: 1 done, 1 in part, 1 to come.") == 2
    link = f"[Feel the residual: The idea](/{RESIDUAL}.ipynb#the-idea)"
    test = "the test “structures are kept” in `tests/hooks/test_capture.py`"
    assert f"| Debug it | done | {link} · {test} |" in page
    assert f"| Debug it | in part | {link} · *to come*: a \\| b |" in page
    assert "| Debug it | to come | *to come*: all |" in page
    assert "| Debug it |  |  |" in page


def test_states_are_those_of_the_page():
    states = {line.state for section in roadmap.read() for line in section.lines}
    assert states == {*roadmap.STATES, ""}


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("Debug: two suspects", "debug-two-suspects"),
        ("Start it with `torchrun`", "start-it-with-torchrun"),
        ("Without `detach`: one, two", "without-detach-one-two"),
        ("The same in Weights & Biases", "the-same-in-weights--biases"),
    ],
)
def test_a_heading_has_the_name_that_the_book_gives_it(heading, name):
    assert roadmap.slug(heading) == name


def test_two_headings_of_one_name_are_refused(monkeypatch):
    parts = [roadmap.Part("A b", ()), roadmap.Part("A `b`", ())]

    class Twice:
        name = "lessons/x"

        def read_source(self):
            from nbformat.v4 import new_markdown_cell, new_notebook

            return new_notebook(cells=[new_markdown_cell(f"## {part.heading}") for part in parts])

    monkeypatch.setattr(roadmap, "find", lambda: [Twice()])
    with pytest.raises(ValueError, match="two headings are called 'a-b'"):
        roadmap.parts_of("lessons/x")


def test_a_row_for_each_lesson_that_stands():
    """A new lesson answers something: fill its rows when it comes."""
    held = {answer.split("#")[0] for s in roadmap.read() for x in s.lines for answer in x.answers}
    stages = {one.name for one in roadmap.find()}
    assert stages <= held, f"no row of book/roadmap.toml names {sorted(stages - held)}"


def test_the_command_names_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(roadmap, "read", lambda: table(replace(row(CELL), answers=("x",))))
    assert roadmap.main() == 1
    assert "got 'x'" in capsys.readouterr().out
    assert roadmap.main(RESIDUAL) == 0
    assert f"{RESIDUAL}#the-idea\n    " in capsys.readouterr().out
