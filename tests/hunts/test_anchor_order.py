"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch

from labs.hunts.detection import check_anchor_order
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/02_detection/05_fit_anchors_and_read_source"


def column(strides):
    return torch.tensor(strides).view(-1, 1, 1)


def sort_the_rows(anchors, strides):
    return anchors[anchors.prod(-1).mean(-1).argsort()] / column(strides)


def check_the_order_after_dividing_back(anchors, strides):
    cells = anchors / column(strides)
    pixels = cells * column(strides)
    wrong = pixels[0].prod(-1).sum() > pixels[-1].prod(-1).sum()
    return (pixels.flip(0) if wrong else pixels) / column(strides)


def never_turn(anchors, strides):
    return anchors / column(strides)


def always_turn(anchors, strides):
    return anchors.flip(0) / column(strides)


def judge_pixels_but_turn_cells(anchors, strides):
    cells, area = anchors / column(strides), anchors.prod(-1).mean(-1)
    return cells.flip(0) if area[0] > area[-1] else cells


def turn_all_axes(anchors, strides):
    area = anchors.prod(-1).mean(-1)
    return (anchors.flip(0, 1) if area[0] > area[-1] else anchors) / column(strides)


def judge_the_first_anchor_in_cells(anchors, strides):
    cells = anchors / column(strides)
    return (anchors.flip(0) if cells[0, 0].prod() > cells[-1, 0].prod() else anchors) / column(
        strides
    )


def stay_in_pixels(anchors, strides):
    return anchors[anchors.prod(-1).mean(-1).argsort()]


def divide_in_place(anchors, strides):
    if anchors[0].prod(-1).mean() > anchors[-1].prod(-1).mean():
        anchors = anchors.flip(0)
    return anchors.div_(column(strides))


def double_what_was_given(anchors, strides):
    cells = sort_the_rows(anchors, strides)
    anchors.mul_(2)
    return cells


def coarse_first(anchors, strides):
    return bool(anchors[0, 0, 0] > anchors[-1, 0, 0])


def turn_the_other_way(anchors, strides):
    area = anchors.prod(-1).mean(-1)
    return (anchors.flip(0) if area[0] < area[-1] else anchors) / column(strides)


def square(anchors, strides):
    return bool((anchors[..., 0] == anchors[..., 1]).all())


def whole(anchors, strides):
    return len(anchors) == 3 and not square(anchors, strides) and bool((anchors % 1 == 0).all())


def not_three(anchors, strides):
    return len(anchors) not in (1, 3)


def look_at_the_second_level(anchors, strides):
    anchors[1]
    return sort_the_rows(anchors, strides)


def a_ten_thousandth_too_large(anchors, strides):
    return sort_the_rows(anchors, strides) * 1.0001


def lose_a_level(anchors, strides):
    return sort_the_rows(anchors, strides)[:1]


WRONG = {
    when(whole, always_turn, sort_the_rows): "✗✓✓✓✓✓✓",
    when(square, always_turn, sort_the_rows): "✓✗✓✓✓✓✓",
    when(whole, never_turn, sort_the_rows): "✓✓✗✓✓✓✓",
    when(square, never_turn, sort_the_rows): "✓✓✓✗✓✓✓",
    when(not_three, never_turn, sort_the_rows): "✓✓✓✓✗✓✓",
    when(not_three, always_turn, sort_the_rows): "✓✓✓✓✗✓✓",
    look_at_the_second_level: "✓✓✓✓✓✗✓",
    when(
        lambda a, s: square(a, s) and coarse_first(a, s), double_what_was_given, sort_the_rows
    ): "✓✓✓✓✓✓✗",
    when(
        lambda a, s: whole(a, s) and coarse_first(a, s), double_what_was_given, sort_the_rows
    ): "✓✓✓✓✓✓✗",
    divide_in_place: "✓✓✓✓✓✓✗",
    never_turn: "✓✓✗✗✗✓✓",
    always_turn: "✗✗✓✓✗✓✓",
    judge_pixels_but_turn_cells: "✓✓✗✗✗✓✓",
    turn_all_axes: "✓✓✗✓✗✓✓",
    judge_the_first_anchor_in_cells: "✓✗✓✓✗✓✓",
    stay_in_pixels: "✗✗✗✗✗✗✓",
    turn_the_other_way: "✗✗✗✗✗✓✓",
    a_ten_thousandth_too_large: "✗✗✗✗✗✗✓",
    lose_a_level: "✗✗✗✗✗✓✓",
}


def test_the_planted_bug_fails():
    verdict = check_anchor_order(run_cell(LESSON, "hunt-bug")["anchors_in_cells"])
    passed = [probe.passed for probe in verdict.probes]
    assert passed == [True, False, False, False, False, True, True]


def test_the_solution_passes():
    assert check_anchor_order(run_cell(LESSON, "hunt-solution")["ordered_in_cells"])


@pytest.mark.parametrize("fix", [sort_the_rows, check_the_order_after_dividing_back])
def test_other_right_fixes_pass(fix):
    verdict = check_anchor_order(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_anchor_order(fix)
    assert marks(verdict) == refused, verdict
