import pytest
import torch

from labs.postprocess import YOLOv8Postprocess
from labs.postprocess.yolo_v8 import _draw, within
from tests.criteria.yolo_v8 import encode

STRIDES, BINS, CLASSES = (8, 16), 5, 2


def noise(masks=False):
    generator = torch.Generator().manual_seed(0)
    channels = 4 * BINS + CLASSES + (32 if masks else 0)
    maps = [torch.randn(2, channels, 48 // s, 64 // s, generator=generator) for s in STRIDES]
    return (*maps, torch.randn(2, 32, 12, 16, generator=generator)) if masks else tuple(maps)


def slowly(raw, image):
    """Decode one image cell by cell, in float64."""
    boxes, scores = [], []
    for level, stride in zip(raw, STRIDES, strict=True):
        for row in range(level.shape[2]):
            for column in range(level.shape[3]):
                cell = level[image, :, row, column].double()
                sides = []
                for side in range(4):
                    shares = cell[BINS * side : BINS * (side + 1)].exp()
                    shares = shares / shares.sum()
                    sides.append(sum(k * shares[k].item() for k in range(BINS)) * stride)
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                left, top, right, bottom = sides
                boxes.append([x - left, y - top, x + right, y + bottom])
                logits = cell[4 * BINS : 4 * BINS + CLASSES]
                scores.append((1 / (1 + (-logits).exp())).tolist())
    return torch.tensor(boxes), torch.tensor(scores)


@pytest.mark.parametrize("masks", [False, True])
def test_candidates_equal_the_slow_version(masks):
    raw = noise(masks)
    boxes, scores = YOLOv8Postprocess(CLASSES, STRIDES, BINS).candidates(raw)
    for image in range(2):
        expected = slowly(raw[:2], image)
        torch.testing.assert_close(boxes[image], expected[0], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(scores[image], expected[1])


def test_half_precision_is_decoded_in_single():
    raw = tuple(level.bfloat16() for level in noise())
    boxes, scores = YOLOv8Postprocess(CLASSES, STRIDES, BINS).candidates(raw)
    assert boxes.dtype == scores.dtype == torch.float32
    expected = slowly(raw, 0)[0]
    torch.testing.assert_close(boxes[0], expected, rtol=1e-5, atol=1e-4)


def test_a_detection_knows_its_candidate():
    raw = noise()
    postprocess = YOLOv8Postprocess(CLASSES, STRIDES, BINS, score_threshold=0.5)
    boxes, scores = postprocess.candidates(raw)
    for i, one in enumerate(postprocess(raw)):
        assert len(one["boxes"]) > 3
        assert torch.equal(one["boxes"], boxes[i, one["places"]])
        assert torch.equal(one["scores"], scores[i, one["places"], one["labels"]])


@pytest.mark.parametrize(
    "setting", [{"score_threshold": 0.7}, {"iou_threshold": 0.1}, {"max_detections": 2}]
)
def test_each_setting_leaves_fewer(setting):
    def count(**settings):
        found = YOLOv8Postprocess(CLASSES, STRIDES, BINS, **settings)(noise())
        return sum(len(one["boxes"]) for one in found)

    assert count(**setting) < count()


def test_masks_lie_in_their_boxes_and_follow_the_truth():
    y, x = torch.arange(96)[:, None], torch.arange(128)
    discs = torch.stack(
        [((x - a) ** 2 + (y - b) ** 2).sqrt() < 20 for a, b in ((30, 40), (90, 50))]
    )
    boxes = torch.tensor([[10.0, 20, 50, 60], [70, 30, 110, 70]])
    target = {"boxes": boxes, "labels": torch.tensor([0, 2]), "masks": discs}
    raw = encode([target], 96, 128, masks=True)
    (found,) = YOLOv8Postprocess(3, (8, 16), score_threshold=0.5)(raw)
    assert found["masks"].shape == (2, 96, 128)
    assert found["masks"].dtype == torch.bool
    order = found["labels"].argsort()
    shared = (found["masks"][order] & discs).sum((1, 2)) / (found["masks"][order] | discs).sum(
        (1, 2)
    )
    assert (shared > 0.9).all()
    assert not (found["masks"] & ~within(found["boxes"], 96, 128)).any()


def test_no_detection_has_no_mask():
    (one, other) = YOLOv8Postprocess(CLASSES, STRIDES, BINS, score_threshold=1)(noise(masks=True))
    assert one["masks"].shape == other["masks"].shape == (0, 48, 64)


def test_draw_enlarges_and_cuts():
    logits = torch.ones(1, 2, 3)
    mask = _draw(logits, torch.tensor([[1.0, 2.0, 5.0, 6.0]]), 4)
    expected = torch.zeros(1, 8, 12, dtype=torch.bool)
    expected[0, 2:6, 1:5] = True
    assert torch.equal(mask, expected)
