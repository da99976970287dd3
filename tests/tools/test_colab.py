"""The copies for Colab: complete, foldable, without a directive, and hunts that do not spoil."""

import json
import re

import nbformat
import pytest

from labs.stamp import ROOT
from tools import colab
from tools.lesson import find

COPIES = {lesson.name: colab.for_colab(lesson) for lesson in find()}
each_lesson = pytest.mark.parametrize("lesson", find(), ids=lambda lesson: lesson.name)


def words(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_the_committed_copies_are_those_of_the_lessons():
    assert colab.problems() == [], "run python -m tools.colab"


@each_lesson
def test_a_copy_holds_every_cell_of_code_and_runs_them_in_order(lesson):
    code = [cell.source for cell in COPIES[lesson.name].cells if cell.cell_type == "code"]
    own = [cell.source for cell in lesson.read_source().cells if cell.cell_type == "code"]
    assert code[0] == colab.INSTALL
    assert [re.sub(r"^#@title .*\n", "", source) for source in code[1:]] == own
    nbformat.validate(COPIES[lesson.name])


@each_lesson
def test_nothing_is_left_that_colab_does_not_render(lesson):
    text = words(COPIES[lesson.name])
    assert not re.search(r"^:::|\{\w+(:\w+)?\}`|\]\((?!https?:|#)", text, re.M)
    assert text.count("<details>") == text.count("</details>") >= 3


@each_lesson
def test_links_lead_to_pages_that_there_are(lesson):
    links = re.findall(rf"\({re.escape(colab.SITE)}/([^)#]+)\.html", words(COPIES[lesson.name]))
    assert links
    for link in links:
        assert any((ROOT / f"{link}{kind}").exists() for kind in (".ipynb", ".md")), link


@each_lesson
def test_the_solution_is_folded_and_the_planted_bug_is_not(lesson):
    cells = [cell for cell in COPIES[lesson.name].cells if cell.cell_type == "code"]
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if "hunt-solution" in tags:
            assert cell.metadata["cellView"] == "form"
        if "hunt-bug" in tags:
            assert "cellView" not in cell.metadata
    assert sum("hunt-solution" in cell.metadata.get("tags", []) for cell in cells) == 1


def test_the_first_cell_does_nothing_elsewhere():
    assert 'if "google.colab" in sys.modules:' in colab.INSTALL
    after = colab.INSTALL.partition("sys.modules:\n")[2]
    assert all(line.startswith("    ") for line in after.splitlines())


def test_boxes_folds_citations_and_links_become_plain():
    text = (
        ":::{admonition} Predict\n:class: predict\nWhich wins?\n:::\n\n"
        ":::{dropdown} Hint 1\nLook.\n:::\n\n"
        "{cite:t}`he2016deep` and {cite:p}`he2016deep,lin2017fpn`; an {term}`anchor <anchor box>`, "
        "see [One](02_watch) and [](../../book/workbench/snapshots.md#here)."
    )
    assert colab.plain(text, "lessons/01_foundations/04_feel") == (
        "> **Predict**\n>\n> Which wins?\n\n"
        "<details><summary>Hint 1</summary>\n\nLook.\n\n</details>\n\n"
        "He et al. (2016) and (He et al., 2016; Lin et al., 2017); an anchor, "
        f"see [One]({colab.SITE}/lessons/01_foundations/02_watch.html) and "
        f"[snapshots]({colab.SITE}/book/workbench/snapshots.html#here)."
    )


def test_a_check_names_what_is_missing_old_or_superfluous(tmp_path, monkeypatch):
    monkeypatch.setattr(colab, "FOLDER", tmp_path)
    first, second = find()[:2]
    monkeypatch.setattr(colab, "find", lambda: [first, second])
    assert len(colab.problems()) == 2
    assert colab.main() == 0
    assert colab.problems() == []
    assert colab.main(["--check"]) == 0
    (old,) = tmp_path.rglob(f"{first.notebook.name}")
    old.write_text(json.dumps({}))
    (tmp_path / "gone.ipynb").write_text("{}")
    assert len(colab.problems()) == 2
    assert colab.main(["--check"]) == 1
    assert colab.main() == 0
    assert not (tmp_path / "gone.ipynb").exists()
