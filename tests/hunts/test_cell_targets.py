"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch
from torch.nn.functional import one_hot

from labs.hunts.detection import check_cell_targets
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/02_detection/02_predict_on_a_grid"


def write(boxes, stride, rows, columns, swap_offsets=False, swap_sides=False, roots=True, from_=0):
    target = torch.zeros(5, rows, columns)
    sides = (rows, columns) if swap_sides else (columns, rows)
    size = torch.tensor(sides) * stride
    for box in boxes:
        centre = (box[:2] + box[2:]) / 2 / stride
        column, row = centre.long().tolist()
        offset = centre - torch.tensor([column, row])
        target[:2, row, column] = (offset.flip(0) if swap_offsets else offset) - from_
        share = (box[2:] - box[:2]) / size
        target[2:4, row, column] = share.sqrt() if roots else share
        target[4, row, column] = 1
    return target


def all_at_once(boxes, stride, rows, columns):
    """Write without a loop, and by products of one-hot rows and columns."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / stride
    share = (boxes[:, 2:] - boxes[:, :2]) / torch.tensor([columns, rows]) / stride
    values = torch.cat([centre % 1, share.sqrt(), torch.ones(len(boxes), 1)], 1)
    across, down = one_hot(centre[:, 0].long(), columns), one_hot(centre[:, 1].long(), rows)
    return torch.einsum("nc,nh,nw->chw", values, down.float(), across.float())


def transposed_only_when_square(boxes, stride, rows, columns):
    target = write(boxes, stride, rows, columns)
    return target.transpose(1, 2) if rows == columns else target


def turned_afterwards(boxes, stride, rows, columns):
    """Transpose the map of the other grid: cells are right, but the sides are swapped too."""
    target = torch.zeros(5, columns, rows)
    size = torch.tensor([rows, columns]) * stride
    for box in boxes:
        centre = (box[:2] + box[2:]) / 2 / stride
        i, j = centre.long().tolist()
        target[:2, i, j] = centre - torch.tensor([i, j])
        target[2:4, i, j] = ((box[2:] - box[:2]) / size).sqrt()
        target[4, i, j] = 1
    return target.transpose(1, 2)


def last_only(boxes, stride, rows, columns):
    return write(boxes[-1:], stride, rows, columns)


def cell_of_the_corner(boxes, stride, rows, columns):
    target = torch.zeros(5, rows, columns)
    for box, right in zip(boxes, write(boxes, stride, rows, columns)[None], strict=False):
        column, row = (box[:2] / stride).long().tolist()
        target[:, row, column] = right.amax((1, 2))
    return target


def wrong(**change):
    return lambda *given: write(*given, **change)


def nothing(boxes, stride, rows, columns):
    return torch.zeros(5, rows, columns)


def off(part, by=1e-4):
    def targets(*given):
        target = write(*given)
        target[part] += by * target[4]
        return target

    return targets


def middle(boxes, stride, rows, columns):
    return len(boxes) == 1 and bool(((boxes[0, :2] + boxes[0, 2:]) / 2 / stride).long().eq(1).all())


def corner(boxes, stride, rows, columns):
    return len(boxes) == 1 and not middle(boxes, stride, rows, columns)


def of(number):
    return lambda boxes, stride, rows, columns: len(boxes) == number and rows == columns


def no_mark(*given):
    target = write(*given)
    target[:, 0, 0] = 1
    return target


WRONG = {
    when(middle, nothing, write): "✗✓✓✓✓✓",
    when(of(2), last_only, write): "✓✗✓✓✓✓",
    when(corner, transposed_only_when_square, write): "✓✓✗✓✓✓",
    when(of(3), last_only, write): "✓✓✓✗✓✓",
    wrong(swap_sides=True): "✓✓✓✓✗✓",
    when(lambda b, s, rows, columns: rows < columns, nothing, write): "✓✓✓✓✗✓",
    when(lambda b, s, rows, columns: rows > columns, nothing, write): "✓✓✓✓✗✓",
    turned_afterwards: "✓✓✓✓✗✓",
    when(of(0), no_mark, write): "✓✓✓✓✓✗",
    wrong(swap_offsets=True): "✓✗✗✗✗✓",
    wrong(roots=False): "✗✗✗✗✗✓",
    wrong(from_=0.5): "✗✗✗✗✗✓",
    off(slice(0, 2)): "✗✗✗✗✗✓",
    off(slice(2, 4)): "✗✗✗✗✗✓",
    off(slice(4, 5)): "✗✗✗✗✗✓",
    transposed_only_when_square: "✓✓✗✗✓✓",
    last_only: "✓✗✓✗✗✓",
    cell_of_the_corner: "✓✗✓✗✗✓",
}


def test_the_planted_bug_fails_off_the_diagonal():
    verdict = check_cell_targets(run_cell(LESSON, "hunt-bug")["cell_targets"])
    assert [probe.passed for probe in verdict.probes] == [True, True, False, False, False, True]


def test_the_solution_passes():
    assert check_cell_targets(run_cell(LESSON, "hunt-solution")["targets_by_row"])


@pytest.mark.parametrize("fix", [write, all_at_once])
def test_other_right_fixes_pass(fix):
    verdict = check_cell_targets(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_cell_targets(fix)
    assert marks(verdict) == refused, verdict
