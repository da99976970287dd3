import pytest
import torch

from labs.assigners import GridCell
from labs.boxes import overlap

STRIDE, ROWS, COLUMNS = 16, 4, 6


def random_boxes(n, seed, height=ROWS * STRIDE, width=COLUMNS * STRIDE):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=generator, dtype=torch.float64)
    corners = corners.sort(1).values * torch.tensor([width, height])
    return corners.flatten(1)  # x1, y1, x2, y2


def slow(predicted, boxes, image):
    """Go through images, cells and boxes one by one."""
    found = set()
    for i in range(len(predicted)):
        for row in range(ROWS):
            for column in range(COLUMNS):
                here = []
                for t, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
                    if image[t] == i and (cx // STRIDE, cy // STRIDE) == (column, row):
                        here.append(((x2 - x1) * (y2 - y1), t))
                if here:
                    t = max(here)[1]
                    ious = [overlap(box, boxes[t]).item() for box in predicted[i, row, column]]
                    far = [(box - boxes[t]).square().sum() for box in predicted[i, row, column]]
                    box = ious.index(max(ious)) if max(ious) > 0 else far.index(min(far))
                    found.add((t, i, row, column, box, round(ious[box], 9)))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_it_equals_a_loop_over_cells(seed):
    predicted = random_boxes(3 * ROWS * COLUMNS * 2, seed).view(3, ROWS, COLUMNS, 2, 4)
    boxes = random_boxes(30, seed + 100)  # 30 centres in 72 cells: several share one
    image = torch.arange(30) % 3
    found = GridCell(STRIDE)(predicted, boxes, image)
    rows = zip(found.target, found.image, found.row, found.column, found.box, strict=True)
    fast = {
        (*map(int, row), round(float(iou), 9)) for row, iou in zip(rows, found.iou, strict=True)
    }
    assert fast == slow(predicted, boxes, image)
    assert len(found.target) < 30


def test_row_is_y_and_column_is_x():
    predicted = torch.zeros(1, ROWS, COLUMNS, 2, 4)
    found = GridCell(STRIDE)(predicted, torch.tensor([[84.0, 2.0, 92.0, 10.0]]), torch.tensor([0]))
    assert (found.row.item(), found.column.item()) == (0, 5)


def test_the_largest_of_two_objects_in_a_cell_is_kept_in_either_order():
    predicted = torch.zeros(1, ROWS, COLUMNS, 2, 4)
    boxes = torch.tensor([[20.0, 20.0, 26.0, 26.0], [4.0, 4.0, 44.0, 44.0]])
    for order in ([0, 1], [1, 0]):
        found = GridCell(STRIDE)(predicted, boxes[order], torch.tensor([0, 0]))
        assert boxes[order][found.target].tolist() == [[4.0, 4.0, 44.0, 44.0]]


def test_the_nearer_box_is_responsible_where_none_overlaps():
    predicted = torch.zeros(1, ROWS, COLUMNS, 2, 4)
    predicted[0, 0, 0] = torch.tensor([[90.0, 60.0, 91.0, 61.0], [12.0, 12.0, 13.0, 13.0]])
    found = GridCell(STRIDE)(predicted, torch.tensor([[2.0, 2.0, 8.0, 8.0]]), torch.tensor([0]))
    assert (found.box.item(), found.iou.item()) == (1, 0.0)


def test_a_centre_on_the_far_edge_belongs_to_the_last_cell():
    predicted = torch.zeros(1, ROWS, COLUMNS, 2, 4)
    found = GridCell(STRIDE)(predicted, torch.tensor([[96.0, 64.0, 96.0, 64.0]]), torch.tensor([0]))
    assert (found.row.item(), found.column.item()) == (ROWS - 1, COLUMNS - 1)


def test_no_object_no_assignment():
    found = GridCell(STRIDE)(
        torch.zeros(2, ROWS, COLUMNS, 2, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    )
    assert [len(part) for part in vars(found).values()] == [0] * 6


def test_of_boxes_that_fit_equally_the_first_is_responsible():
    predicted = torch.tensor([10.0, 10, 30, 30]).expand(1, ROWS, COLUMNS, 2, 4)
    truth = torch.tensor([[10.0, 10, 30, 34]])
    assert GridCell(STRIDE)(predicted, truth, torch.tensor([0])).box.item() == 0
