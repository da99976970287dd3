"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch

from labs.hunts.detection import check_anchor_order
from tests.hunts.lesson_cells import run_cell

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


def turn_the_other_way(anchors, strides):
    area = anchors.prod(-1).mean(-1)
    return (anchors.flip(0) if area[0] < area[-1] else anchors) / column(strides)


def test_the_planted_bug_fails():
    verdict = check_anchor_order(run_cell(LESSON, "hunt-bug")["anchors_in_cells"])
    passed = [probe.passed for probe in verdict.probes]
    assert passed == [True, False, False, False, False, True, True]


def test_the_solution_passes():
    assert check_anchor_order(run_cell(LESSON, "hunt-solution")["anchors_in_cells"])


@pytest.mark.parametrize("fix", [sort_the_rows, check_the_order_after_dividing_back])
def test_other_right_fixes_pass(fix):
    verdict = check_anchor_order(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    "fix",
    [
        never_turn,
        always_turn,
        judge_pixels_but_turn_cells,
        turn_all_axes,
        judge_the_first_anchor_in_cells,
        stay_in_pixels,
        divide_in_place,
        turn_the_other_way,
    ],
)
def test_wrong_fixes_fail(fix):
    assert not check_anchor_order(fix)
