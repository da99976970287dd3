"""At 160 cells a coordinate has no place in half precision, so none is calculated in it."""

import pytest
import torch

from labs.postprocess import (
    YOLOv1Postprocess,
    YOLOv3Postprocess,
    YOLOv5Postprocess,
    YOLOv8Postprocess,
)

ANCHORS = (((12, 10), (20, 24)), ((30, 40), (50, 40)))
MADE = {
    "v1": (YOLOv1Postprocess(8), 2 * 5 + 3, 1),
    "v3": (YOLOv3Postprocess(ANCHORS, (8, 16)), 2 * 8, 2),
    "v5": (YOLOv5Postprocess(ANCHORS, (8, 16)), 2 * 8, 2),
    "v8": (YOLOv8Postprocess(3, (8, 16), 4), 4 * 4 + 3, 2),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MADE)
def test_the_boxes_of_half_precision_are_those_of_the_same_numbers_in_float32(name, dtype):
    postprocess, channels, levels = MADE[name]
    torch.manual_seed(0)
    half = [torch.randn(1, channels, 1 + (i == 0), 320 // 2**i).to(dtype) for i in range(levels)]
    boxes, scores = postprocess.candidates(half)
    expected = postprocess.candidates([level.float() for level in half])
    assert boxes.dtype == scores.dtype == torch.float32
    assert torch.equal(boxes, expected[0])
    assert torch.equal(scores, expected[1])
    assert boxes[..., 2].max() > 2500
