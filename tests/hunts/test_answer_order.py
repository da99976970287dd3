"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest

from labs.boxes import answers_in_a_row
from labs.hunts.detection import check_answer_order
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/02_detection/09_propose_then_refine"


def right(scores, deltas):
    images, _, rows, columns = scores.shape
    four = deltas.view(images, -1, 4, rows, columns)
    return scores.permute(0, 2, 3, 1).flatten(1), four.permute(0, 3, 4, 1, 2).flatten(1, 3)


def as_labs_does(scores, deltas):
    return answers_in_a_row(scores, 1)[..., 0], answers_in_a_row(deltas, 4)


def scores_with(flatten):
    """Build a fix that is right but for its scores."""

    def fix(scores, deltas):
        return flatten(scores), right(scores, deltas)[1]

    return fix


def deltas_with(flatten):
    """Build a fix that is right but for its corrections."""

    def fix(scores, deltas):
        return right(scores, deltas)[0], flatten(deltas)

    return fix


def anchor_by_anchor(scores):
    return scores.flatten(1)


def column_by_column(scores):
    return scores.permute(0, 3, 2, 1).flatten(1)


def anchors_before_columns(scores):
    return scores.permute(0, 2, 1, 3).flatten(1)


def all_x_first(deltas):
    """Read the channels as four groups of A, not as A groups of four."""
    images, channels, rows, columns = deltas.shape
    four = deltas.view(images, 4, channels // 4, rows, columns)
    return four.permute(0, 3, 4, 2, 1).flatten(1, 3)


def channels_last_but_uncut(deltas):
    return deltas.flatten(1).view(len(deltas), -1, 4)


def corrections_column_by_column(deltas):
    images, _, rows, columns = deltas.shape
    return deltas.view(images, -1, 4, rows, columns).permute(0, 4, 3, 1, 2).flatten(1, 3)


def without_gradient(scores, deltas):
    return right(scores.detach(), deltas)


def first_image_for_all(scores, deltas):
    a, b = right(scores[:1], deltas[:1])
    return a.expand(len(scores), -1), b.expand(len(deltas), -1, -1)


def on(**size):
    """Say whether a map has this number of anchors, rows or images."""
    axis = {"images": 0, "anchors": 1, "rows": 2}

    def holds(scores, deltas):
        return all(scores.shape[axis[name]] == n for name, n in size.items())

    return holds


BY_ANCHOR, BY_COLUMN = scores_with(anchor_by_anchor), scores_with(column_by_column)
SMALL = on(images=1, anchors=2, rows=2)

WRONG = {
    when(SMALL, BY_ANCHOR, right): "✗✓✓✓✓✓",
    when(SMALL, deltas_with(all_x_first), right): "✓✗✓✓✓✓",
    when(on(rows=5), BY_COLUMN, right): "✓✓✗✓✓✓",
    when(on(rows=5), deltas_with(corrections_column_by_column), right): "✓✓✗✓✓✓",
    when(on(images=3), first_image_for_all, right): "✓✓✓✗✓✓",
    when(on(anchors=1), BY_COLUMN, right): "✓✓✓✓✗✓",
    without_gradient: "✓✓✓✓✓✗",
    BY_ANCHOR: "✗✓✗✗✓✓",
    BY_COLUMN: "✗✓✗✗✗✓",
    scores_with(anchors_before_columns): "✗✓✗✗✓✓",
    deltas_with(all_x_first): "✓✗✗✗✓✓",
    deltas_with(channels_last_but_uncut): "✓✗✗✗✗✓",
    deltas_with(corrections_column_by_column): "✓✗✗✗✗✓",
    first_image_for_all: "✓✓✓✗✓✗",
    lambda scores, deltas: right(scores, deltas)[0]: "✗✗✗✗✗✗",
}


def test_the_planted_bug_fails():
    verdict = check_answer_order(run_cell(LESSON, "hunt-bug")["in_anchor_order"])
    assert marks(verdict) == "✗✓✗✗✓✓"
    assert "10 of 12" in verdict.probes[0].seen


def test_the_solution_passes():
    verdict = check_answer_order(run_cell(LESSON, "hunt-solution")["as_anchors_are_listed"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [right, as_labs_does])
def test_other_right_fixes_pass(fix):
    verdict = check_answer_order(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_answer_order(fix)
    assert marks(verdict) == refused, verdict
