import torch

from labs.postprocess import YOLOv5Postprocess

ANCHORS = (((12, 10), (20, 24)), ((30, 40), (50, 40)))


def raw(height=48, width=80):
    torch.manual_seed(0)
    return [torch.randn(2, 2 * 8, height // s, width // s, dtype=torch.float64) for s in (8, 16)]


def test_candidates_are_what_a_loop_decodes():
    maps = raw()
    boxes, scores = YOLOv5Postprocess(ANCHORS, (8, 16)).candidates(maps)
    i = 0
    for level, stride, shapes in zip(maps, (8, 16), ANCHORS, strict=True):
        for a, (w, h) in enumerate(shapes):
            for row in range(level.shape[2]):
                for column in range(level.shape[3]):
                    s = level[1, 8 * a : 8 * a + 8, row, column].sigmoid()
                    x = (column + 2 * s[0] - 0.5) * stride
                    y = (row + 2 * s[1] - 0.5) * stride
                    half_w, half_h = w * (2 * s[2]) ** 2 / 2, h * (2 * s[3]) ** 2 / 2
                    box = torch.stack([x - half_w, y - half_h, x + half_w, y + half_h])
                    torch.testing.assert_close(boxes[1, i], box)
                    torch.testing.assert_close(scores[1, i], s[4] * s[5:])
                    i += 1
    assert boxes.shape[1] == scores.shape[1] == i


def test_it_returns_dicts_as_torchvision_does():
    found = YOLOv5Postprocess(ANCHORS, (8, 16), score_threshold=0.3, max_detections=5)(raw())
    assert len(found) == 2
    for one in found:
        assert len(one["boxes"]) == len(one["scores"]) == len(one["labels"]) <= 5
        assert (one["scores"] > 0.3).all()
        assert one["scores"].tolist() == sorted(one["scores"].tolist(), reverse=True)


def test_a_low_iou_threshold_leaves_fewer():
    kept = [
        sum(len(one["boxes"]) for one in YOLOv5Postprocess(ANCHORS, (8, 16), 0.3, limit)(raw()))
        for limit in (0.1, 0.9)
    ]
    assert kept[0] < kept[1]


def test_half_precision_is_decoded_in_float32():
    half = [level.bfloat16() for level in raw()]
    boxes, scores = YOLOv5Postprocess(ANCHORS, (8, 16)).candidates(half)
    assert boxes.dtype == scores.dtype == torch.float32
