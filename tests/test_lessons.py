"""Prove that what the book shows was computed by the code that is here now."""

import re

import pytest

from book._ext.figures import html_of
from labs.stamp import PLUMBING
from tools.cells import CHECKED
from tools.lesson import LESSONS, Lesson, find
from tools.measured import orphans, over_budget, read_all
from tools.template import faults, faults_of_form

# Bytes, outputs included: pictures at twice their size on the page, and curves as SVG.
LARGEST_NOTEBOOK, MEAN_NOTEBOOK = 710_000, 370_000

each_lesson = pytest.mark.parametrize("lesson", find(), ids=lambda lesson: lesson.name)


def code_cells(lesson: Lesson):
    return [cell for cell in lesson.read_notebook().cells if cell.cell_type == "code"]


@each_lesson
def test_source_and_notebook_hold_the_same_cells(lesson):
    assert not lesson.drifted(), f"{lesson.name}: run make lessons"


@each_lesson
def test_outputs_are_fresh(lesson):
    stale = lesson.stale()
    assert not stale, f"{lesson.name} is stale: {', '.join(stale)} changed; run make lessons"


@each_lesson
def test_every_code_cell_was_executed_in_order(lesson):
    counts = [cell.execution_count for cell in code_cells(lesson)]
    assert counts == list(range(1, len(counts) + 1))


@each_lesson
def test_no_cell_holds_an_error_or_a_warning(lesson):
    for cell in code_cells(lesson):
        assert not [o for o in cell.outputs if o.output_type == "error"], cell.source
        assert not [o for o in cell.outputs if o.get("name") == "stderr"], cell.source


@each_lesson
def test_every_checked_cell_has_an_output(lesson):
    for cell in code_cells(lesson):
        if CHECKED in cell.metadata.get("tags", []):
            assert cell.outputs, f"{lesson.name}: nothing to check in\n{cell.source}"


@each_lesson
def test_every_figure_has_a_finding_and_a_description(lesson):
    for cell in code_cells(lesson):
        for output in cell.outputs:  # a drawing of another library brings its own description
            if "image/png" in output.get("data", {}) and not html_of(output):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                assert len(alt) > 20, (
                    f"{lesson.name}: use plot.show(figure, finding)\n{cell.source}"
                )
        for html in filter(None, map(html_of, cell.outputs)):
            (finding,) = re.findall("<figcaption>(.+?)</figcaption>", html)
            assert finding.endswith("."), f"{lesson.name}: no sentence: {finding}"
            described = re.findall('(?:alt|aria-label)="([^"]*)"', html)
            assert max(map(len, described)) > 20, f"{lesson.name}: no alt text in\n{cell.source}"


@each_lesson
def test_every_beat_of_the_template_is_there(lesson):
    assert faults(lesson.read_source()) == []


@each_lesson
def test_the_page_has_the_form(lesson):
    assert faults_of_form(lesson.read_source()) == []


@each_lesson
def test_notebook_is_small(lesson):
    assert lesson.notebook.stat().st_size <= LARGEST_NOTEBOOK


def test_notebooks_are_small_on_average():
    sizes = [lesson.notebook.stat().st_size for lesson in find()]
    assert sum(sizes) / len(sizes) <= MEAN_NOTEBOOK


@each_lesson
def test_every_lesson_was_measured_on_a_cpu(lesson):
    assert "cpu" in lesson.measured(), f"{lesson.name} was never measured; run make lessons"


# Takes a little more than its budget: the verdict on label smoothing needs its hundred steps. The
# mean over all lessons counts again when this list is empty.
OVER_BUDGET = ("lessons/02_detection/04_try_the_bag_of_tricks",)


def test_the_lessons_keep_their_time_budgets():
    complaints = [c for c in over_budget(read_all()) if not c.startswith(OVER_BUDGET)]
    assert [c for c in complaints if "on average" not in c or not OVER_BUDGET] == []


def test_nothing_is_measured_that_does_not_exist():
    assert orphans(lesson.name for lesson in find()) == [], "delete them"
    assert not (LESSONS / "measured.json").exists(), "each lesson has a record of its own"


@each_lesson
def test_no_output_shows_the_words_of_plumbing(lesson):
    """An error that ends in a guess is an output of ``labs.near_miss``, which stales nothing."""
    assert "labs.near_miss.did_you_mean" in PLUMBING
    if "labs.near_miss" not in lesson.read_notebook().metadata["labs_stamp"]:
        shown = str([cell.outputs for cell in code_cells(lesson)])
        assert "did you mean" not in shown, (
            f"{lesson.name} shows a guess: import did_you_mean in a cell of it, or take it off "
            "PLUMBING in labs/stamp.py"
        )


def test_every_notebook_has_a_source():
    notebooks = {p.with_suffix("") for p in LESSONS.rglob("*.ipynb") if ".ipynb_" not in str(p)}
    assert notebooks == {lesson.source.with_suffix("") for lesson in find()}
