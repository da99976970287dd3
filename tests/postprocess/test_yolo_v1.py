import torch

from labs.postprocess import YOLOv1Postprocess
from labs.postprocess.yolo_v1 import decode_cells

STRIDE, ROWS, COLUMNS, B, C = 16, 3, 5, 2, 4


def test_decoding_equals_a_loop_on_a_grid_that_is_not_square():
    raw = torch.rand(2, B * 5 + C, ROWS, COLUMNS, dtype=torch.float64)
    boxes = decode_cells(raw, STRIDE, B)
    assert boxes.shape == (2, ROWS, COLUMNS, B, 4)
    for n in range(2):
        for row in range(ROWS):
            for column in range(COLUMNS):
                for b in range(B):
                    x, y, rw, rh = raw[n, b * 5 : b * 5 + 4, row, column].tolist()
                    cx, cy = (column + x) * STRIDE, (row + y) * STRIDE
                    w, h = rw**2 * COLUMNS * STRIDE, rh**2 * ROWS * STRIDE
                    expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                    torch.testing.assert_close(
                        boxes[n, row, column, b], torch.tensor(expected, dtype=torch.float64)
                    )


def test_the_score_is_the_confidence_times_the_probability_both_within_0_and_1():
    raw = torch.zeros(1, B * 5 + C, ROWS, COLUMNS)
    raw[0, 4, 1, 2], raw[0, 9, 1, 2] = 0.5, 1.5  # the confidences of the two boxes of a cell
    raw[0, 10:, 1, 2] = torch.tensor([0.8, -0.3, 0.0, 2.0])
    _, scores = YOLOv1Postprocess(STRIDE, B).candidates((raw,))
    assert scores.shape == (1, ROWS * COLUMNS * B, C)
    here = (1 * COLUMNS + 2) * B
    torch.testing.assert_close(scores[0, here], torch.tensor([0.4, 0.0, 0.0, 0.5]))
    torch.testing.assert_close(scores[0, here + 1], torch.tensor([0.8, 0.0, 0.0, 1.0]))
    assert scores.sum() == scores[0, here : here + 2].sum()


def test_forward_suppresses_and_sorts():
    raw = torch.zeros(1, B * 5 + C, ROWS, COLUMNS)
    raw[0, [0, 1, 5, 6], 1, 2] = 0.5
    raw[0, [2, 3, 7, 8], 1, 2] = 0.4  # both boxes of the cell say the same
    raw[0, 4, 1, 2], raw[0, 9, 1, 2], raw[0, 11, 1, 2] = 0.6, 0.9, 1.0
    (found,) = YOLOv1Postprocess(STRIDE, B)((raw,))
    assert found["labels"].tolist() == [1]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9]))
    w, h = 0.16 * COLUMNS * STRIDE / 2, 0.16 * ROWS * STRIDE / 2
    torch.testing.assert_close(found["boxes"], torch.tensor([[40 - w, 24 - h, 40 + w, 24 + h]]))
    assert not len(YOLOv1Postprocess(STRIDE, B, score_threshold=0.95)((raw,))[0]["scores"])
