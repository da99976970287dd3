"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch

from labs.boxes import overlap
from labs.hunts.detection import check_objectness_targets
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/02_detection/03_see_at_three_scales"


def targets_with(leave_out, finish=lambda wanted, counted: counted | wanted.bool()):
    """Build the function from the line that leaves out, and what is done at the end."""

    def objectness_targets(boxes, anchors, grid, stride, ignore=0.5):
        wanted = torch.zeros(len(anchors), *grid)
        counted = torch.ones(len(anchors), *grid, dtype=torch.bool)
        for box in boxes:
            size = box[2:] - box[:2]
            shared = torch.minimum(size, anchors).prod(1)
            fit = shared / (size.prod() + anchors.prod(1) - shared)
            column, row = ((box[:2] + box[2:]) / 2 / stride).long().tolist()
            leave_out(counted, fit, fit > ignore, row, column)
            wanted[fit.argmax(), row, column] = 1
        return wanted, finish(wanted, counted)

    return objectness_targets


def in_the_cell(counted, fit, near, row, column):
    counted[near, row, column] = False


def everywhere(counted, fit, near, row, column):
    counted[near] = False


def nowhere(counted, fit, near, row, column):
    pass


def in_the_row(counted, fit, near, row, column):
    counted[near, row] = False


def the_whole_cell(counted, fit, near, row, column):
    counted[:, row, column] = False


def all_but_the_best(counted, fit, near, row, column):
    counted[:, row, column] &= fit == fit.max()


def at_a_fixed_threshold(counted, fit, near, row, column):
    counted[fit > 0.5, row, column] = False


def with_numbers_as_index(counted, fit, near, row, column):
    counted[near.long(), row, column] = False


def transposed(counted, fit, near, row, column):
    row, column = min(column, counted.shape[1] - 1), min(row, counted.shape[2] - 1)
    counted[near, row, column] = False


def by_lists(boxes, anchors, grid, stride, ignore=0.5):
    """Do the same without a loop."""
    shapes = torch.cat([torch.zeros_like(anchors), anchors], 1)
    sizes = boxes - boxes[:, :2].repeat(1, 2)
    fit = overlap(sizes[:, None], shapes)  # [n,A]
    column, row = ((boxes[:, :2] + boxes[:, 2:]) / 2 / stride).long().unbind(1)
    wanted = torch.zeros(len(anchors), *grid)
    wanted[fit.argmax(1), row, column] = 1
    near, anchor = (fit > ignore).nonzero().unbind(1)
    counted = torch.ones(len(anchors), *grid)
    counted[anchor, row[near], column[near]] = 0
    return wanted, torch.maximum(counted, wanted) > 0


RIGHT = targets_with(in_the_cell)


def keep_counts(wanted, counted):
    return counted


def change(wanted_at=None, count=None, leave=None):
    """Be right, and then set one place of ``wanted``, or count one place, or leave it out."""

    def objectness_targets(*given):
        wanted, counted = RIGHT(*given)
        if wanted_at is not None:
            wanted[wanted_at] = 1
        if count is not None:
            counted[count] = True
        if leave is not None:
            counted[leave] = False
        return wanted, counted

    return objectness_targets


def many(boxes, *_):
    return len(boxes) > 1


def square(boxes, anchors, grid, *_):
    return grid == (13, 13)


def one_on_wide(boxes, anchors, grid, *_):
    return len(boxes) == 1 and grid == (7, 13)


def empty(boxes, *_):
    return not len(boxes)


OWN = (slice(None), 2, 6)
WRONG = {
    when(many, change(wanted_at=(0, 6, 12)), RIGHT): "✗✓✓✓✓✓✓✓",
    when(square, change(leave=(0, 0, 0)), RIGHT): "✓✗✓✓✓✓✓✓",
    when(square, change(count=OWN), RIGHT): "✓✓✗✓✓✓✓✓",
    when(one_on_wide, change(leave=(2, 0, 0)), RIGHT): "✓✓✓✗✓✓✓✓",
    when(many, targets_with(in_the_cell, keep_counts), RIGHT): "✓✓✓✓✗✓✓✓",
    when(many, change(leave=(2, 0, 0)), RIGHT): "✓✓✓✓✗✓✓✓",
    targets_with(at_a_fixed_threshold): "✓✓✓✓✓✗✓✓",
    when(lambda b, *_: len(b) and b[0, 0] == 40, change(leave=(2, 0, 0)), RIGHT): "✓✓✓✓✓✓✗✓",
    when(lambda b, *_: len(b) and b[0, 0] == 40, change((2, 0, 0)), RIGHT): "✓✓✓✓✓✓✗✓",
    when(empty, change(wanted_at=(0, 0, 0)), RIGHT): "✓✓✓✓✓✓✓✗",
    when(empty, change(leave=(0, 0, 0)), RIGHT): "✓✓✓✓✓✓✓✗",
    targets_with(everywhere): "✓✗✓✗✗✗✓✓",
    targets_with(nowhere): "✓✓✗✗✗✗✓✓",
    targets_with(in_the_row): "✓✗✓✗✗✗✓✓",
    targets_with(the_whole_cell): "✓✓✗✗✗✗✓✓",
    targets_with(all_but_the_best): "✓✓✗✗✗✗✓✓",
    targets_with(with_numbers_as_index): "✓✓✓✓✗✗✓✓",
    targets_with(transposed): "✓✗✗✗✗✗✓✓",
    targets_with(in_the_cell, keep_counts): "✓✓✗✗✗✗✓✓",
}


def test_the_planted_bug_fails():
    verdict = check_objectness_targets(run_cell(LESSON, "hunt-bug")["objectness_targets"])
    failed = [probe.question for probe in verdict.probes if not probe.passed]
    assert "cells that hold no centre are all counted" in failed
    assert verdict.probes[0].passed
    assert verdict.probes[-1].passed


def test_the_solution_passes():
    verdict = check_objectness_targets(run_cell(LESSON, "hunt-solution")["counted_near_objects"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [targets_with(in_the_cell), by_lists], ids=["by cell", "by lists"])
def test_other_right_fixes_pass(fix):
    verdict = check_objectness_targets(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_objectness_targets(fix)
    assert marks(verdict) == refused, verdict
