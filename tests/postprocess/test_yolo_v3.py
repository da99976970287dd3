import math

import pytest
import torch

from labs.postprocess import YOLOv3Postprocess
from labs.postprocess.yolo_v3 import _LARGEST, decode_anchors, flatten_anchors, lay_anchors

ANCHORS = (((8, 10), (14, 9), (5, 5)), ((20, 30), (44, 40), (60, 50)))
STRIDES, SIZES, C = (8, 16), ((4, 6), (2, 3)), 2  # an image of 32 x 48


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def make_raw(n=2):
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(n, 3 * (5 + C), *size, generator=generator, dtype=torch.float64)
        for size in SIZES
    )


def test_boxes_and_scores_equal_a_loop_over_levels_anchors_rows_and_columns():
    raw, stretch = make_raw(), 1.1
    boxes, scores = YOLOv3Postprocess(ANCHORS, STRIDES, stretch).candidates(raw)
    expected_boxes, expected_scores = [], []
    for n in range(2):
        for level, (rows, columns) in enumerate(SIZES):
            for a, (aw, ah) in enumerate(ANCHORS[level]):
                for row in range(rows):
                    for column in range(columns):
                        first = a * (5 + C)
                        t = raw[level][n, first : first + 5 + C, row, column].tolist()
                        cx = (column + sigmoid(t[0]) * stretch - 0.05) * STRIDES[level]
                        cy = (row + sigmoid(t[1]) * stretch - 0.05) * STRIDES[level]
                        w, h = aw * math.exp(t[2]), ah * math.exp(t[3])
                        expected_boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                        expected_scores.append([sigmoid(t[4]) * sigmoid(c) for c in t[5:]])
    torch.testing.assert_close(boxes.flatten(0, 1), torch.tensor(expected_boxes).double())
    torch.testing.assert_close(scores.flatten(0, 1), torch.tensor(expected_scores).double())


def test_a_network_that_says_0_says_an_anchor_in_the_middle_of_every_cell():
    """Grids of swapped sides were met in the wild; they show only where H is not W."""
    raw = tuple(torch.zeros_like(level[:1]) for level in make_raw())
    boxes, _ = YOLOv3Postprocess(ANCHORS, STRIDES).candidates(raw)
    centres = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
    lattice = [
        (stride * (column + 0.5), stride * (row + 0.5))
        for stride, (rows, columns) in zip(STRIDES, SIZES, strict=True)
        for _ in range(3)
        for row in range(rows)
        for column in range(columns)
    ]
    torch.testing.assert_close(centres, torch.tensor(lattice).double())
    sizes = boxes[0, :, 2:] - boxes[0, :, :2]
    wanted = [
        s for shapes, n in zip(ANCHORS, (24, 6), strict=True) for s in shapes for _ in range(n)
    ]
    torch.testing.assert_close(sizes, torch.tensor(wanted).double())


def test_no_number_makes_a_box_infinite():
    places = torch.tensor([[0.0, 0, 459, 401, 32]])
    box = decode_anchors(torch.tensor([[-1e4, 1e4, 1e4, 1e4]]), places)
    assert box.isfinite().all()
    assert (box[0, 2] - box[0, 0]).item() == pytest.approx(459 * math.exp(_LARGEST))


def test_the_lists_of_numbers_and_of_places_have_one_order():
    raw = make_raw(1)
    for level, shapes, stride in zip(raw, ANCHORS, STRIDES, strict=True):
        rows, columns = level.shape[2:]
        for a, (w, h) in enumerate(shapes):  # write into each prediction where it stands
            marks = level.view(1, 3, 5 + C, rows, columns)[0, a]
            marks[0] = torch.arange(columns) * stride
            marks[1] = torch.arange(rows)[:, None] * stride
            marks[2], marks[3], marks[4] = w, h, stride
    listed = flatten_anchors(raw, ANCHORS)[0, :, :5]
    torch.testing.assert_close(listed, lay_anchors(raw, ANCHORS, STRIDES))


def test_forward_keeps_one_box_per_object_and_class():
    raw = tuple(torch.full_like(level[:1], -20.0) for level in make_raw())
    for level in raw:
        level.view(1, 3, 5 + C, *level.shape[2:])[:, :, :4] = 0
    raw[0][0, [4, 5, 6], 1, 2] = torch.tensor([20.0, 20.0, 1.0]).double()  # one box, two classes
    (found,) = YOLOv3Postprocess(ANCHORS, STRIDES, score_threshold=0.1)(raw)
    assert found["labels"].tolist() == [0, 1]
    torch.testing.assert_close(found["scores"], torch.tensor([1.0, sigmoid(1)]).double())
    assert (found["boxes"] == torch.tensor([16.0, 7, 24, 17])).all()
