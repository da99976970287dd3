import math

import pytest
import torch
from torchvision.ops import nms

from labs.boxes import suppress


def candidates(images, count, classes, seed=0, low=0.0):
    chance = torch.Generator().manual_seed(seed)
    corner = low + 100 * torch.rand(images, count, 2, generator=chance)
    boxes = torch.cat([corner, corner + 1 + 40 * torch.rand(images, count, 2, generator=chance)], 2)
    return boxes, torch.rand(images, count, classes, generator=chance)


def class_by_class(boxes, scores, score_threshold, iou_threshold):
    """Run torchvision's NMS on each class alone, and sort: (score, label, box)."""
    kept = []
    for label in range(scores.shape[1]):
        strong = scores[:, label] > score_threshold
        score, box = scores[strong, label], boxes[strong]
        stay = nms(box, score, iou_threshold)
        kept += [(s.item(), label, b.tolist()) for s, b in zip(score[stay], box[stay], strict=True)]
    return sorted(kept, reverse=True)


def rows(found):
    numbers = (found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist())
    return list(zip(*numbers, strict=True))


@pytest.mark.parametrize("low", [0.0, -70.0], ids=["inside", "beyond the border"])
@pytest.mark.parametrize("count", [5, 60, 1500])
@pytest.mark.parametrize("classes", [1, 3])
def test_equals_torchvision_class_by_class(classes, count, low):
    boxes, scores = candidates(2, count, classes, seed=count + classes, low=low)
    found = suppress(boxes, scores, 0.3, 0.5, max_detections=9999, max_candidates=9999)
    for image in range(2):
        assert rows(found[image]) == class_by_class(boxes[image], scores[image], 0.3, 0.5)


def test_classes_never_meet_where_coordinates_are_negative():
    boxes = torch.tensor([[[5.0, 5, 10, 10], [-6.0, -6, -1, -1]]])
    scores = torch.tensor([[[0.9, 0.0], [0.0, 0.8]]])  # 11 to the right, the second is the first
    assert suppress(boxes, scores)[0]["labels"].tolist() == [0, 1]


def test_one_pixel_boxes_of_the_last_class_of_many():
    boxes = torch.tensor([[[3999.0, 3999, 4000, 4000], [3999.2, 3999, 4000.2, 4000]]])
    scores = torch.zeros(1, 2, 1000)
    scores[0, :, 999] = torch.tensor([0.9, 0.8])  # their IoU is 0.8 / 1.2 = 0.667
    assert len(suppress(boxes, scores, iou_threshold=0.66)[0]["scores"]) == 1
    assert len(suppress(boxes, scores, iou_threshold=0.67)[0]["scores"]) == 2


def test_a_candidate_may_be_two_classes_at_once():
    boxes, scores = torch.tensor([[[0.0, 0, 9, 9]]]), torch.tensor([[[0.4, 0.7]]])
    (found,) = suppress(boxes, scores)
    assert found["labels"].tolist() == [1, 0]
    assert found["boxes"].tolist() == [[0, 0, 9, 9]] * 2


@pytest.mark.parametrize(
    ("shape", "classes"), [((2, 0, 4), 3), ((2, 7, 4), 0), ((0, 7, 4), 3)], ids=str
)
def test_nothing_to_choose_from(shape, classes):
    found = suppress(torch.zeros(shape), torch.zeros(*shape[:2], classes))
    assert len(found) == shape[0]
    for image in found:
        assert image["boxes"].shape == (0, 4)
        assert image["scores"].shape == image["labels"].shape == (0,)
        assert image["labels"].dtype == torch.int64


def test_images_without_a_strong_score_are_empty_and_the_others_are_not():
    boxes, scores = candidates(3, 20, 2)
    scores[1] = 0.3  # only higher scores count
    found = suppress(boxes, scores, score_threshold=0.3)
    assert [len(image["scores"]) > 0 for image in found] == [True, False, True]


def test_of_equal_scores_the_first_stays():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0.0, 0, 10, 9], [50.0, 50, 60, 60]]])
    (found,) = suppress(boxes, torch.full((1, 3, 1), 0.5))
    assert found["boxes"].tolist() == [[0, 0, 10, 10], [50, 50, 60, 60]]


def test_at_most_so_many_and_the_best():
    boxes, scores = candidates(1, 300, 2)
    everything = suppress(boxes, scores, 0.0, 1.0, max_detections=600)[0]["scores"]
    assert len(everything) == 600
    for limits in ({"max_detections": 25}, {"max_candidates": 25}):
        (found,) = suppress(boxes, scores, 0.0, 1.0, **limits)
        assert torch.equal(found["scores"], everything[:25])


def test_boxes_without_area_suppress_nothing():
    flat = torch.tensor([[[5.0, 5, 5, 9], [5.0, 5, 5, 9], [2.0, 2, 2, 2], [0.0, 0, 10, 10]]])
    (found,) = suppress(flat, torch.tensor([0.9, 0.8, 0.7, 0.6]).view(1, 4, 1))
    assert found["boxes"].tolist() == flat[0].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_what_float32_keeps(dtype):
    boxes, scores = (part.to(dtype) for part in candidates(2, 80, 3, seed=5))
    found = suppress(boxes, scores, 0.3)
    wide = suppress(boxes.float(), scores.float(), 0.3)
    for half, full in zip(found, wide, strict=True):
        assert half["boxes"].dtype == half["scores"].dtype == dtype
        assert torch.equal(half["scores"].float().sort().values, full["scores"].sort().values)


def test_scores_fall():
    for found in suppress(*candidates(3, 100, 3, seed=6)):
        assert torch.equal(found["scores"], found["scores"].sort(descending=True).values)


def test_scores_that_are_nan():
    boxes, scores = candidates(2, 10, 3)
    scores[1, 4, 2] = float("nan")
    with pytest.raises(ValueError, match="of the scores to be a number, got 1 of 60 that are not"):
        suppress(boxes, scores)


def test_boxes_that_are_not_finite_matter_only_above_the_threshold():
    boxes, scores = candidates(1, 10, 1)
    boxes[0, 3, 2] = float("inf")
    scores[0, 3] = 0.0
    assert len(suppress(boxes, scores)[0]["scores"]) > 0
    scores[0, 3] = 0.9
    with pytest.raises(ValueError, match="of the boxes to be finite, got 1 of 40"):
        suppress(boxes, scores)


def test_a_score_of_just_the_threshold_does_not_count():
    boxes = torch.tensor([[[0.0, 0, 8, 8], [20, 20, 28, 28]]])
    (found,) = suppress(boxes, torch.tensor([[[0.5], [0.5000001]]]), 0.5)
    assert found["places"].tolist() == [1]


def test_an_overlap_of_just_the_threshold_suppresses_nothing():
    boxes = torch.tensor([[[0.0, 0, 8, 8], [0, 0, 8, 4]]])
    scores = torch.tensor([[[0.9], [0.8]]])
    assert len(suppress(boxes, scores, iou_threshold=0.5)[0]["boxes"]) == 2
    assert len(suppress(boxes, scores, iou_threshold=0.4999)[0]["boxes"]) == 1


def test_each_class_may_have_boxes_of_its_own():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 0, 30, 10]], [[1, 0, 11, 10], [40, 0, 50, 10]]])
    scores = torch.tensor([[0.9, 0.6], [0.8, 0.7]])
    (found,) = suppress(boxes[None], scores[None])
    # Of the first class the second candidate overlaps the first; of the second class they do not.
    assert found["boxes"].tolist() == [[0, 0, 10, 10], [40, 0, 50, 10], [20, 0, 30, 10]]
    assert found["labels"].tolist() == [0, 1, 1]
    assert found["places"].tolist() == [0, 1, 0]


class TestSoft:
    """Soft-NMS, Bodla et al. 2017: scores fade by exp(-iou ** 2 / sigma)."""

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 10]])
    scores = torch.tensor([[0.9], [0.8], [0.7]])

    def found(self, scores=None, **settings):
        scores = self.scores if scores is None else scores
        (one,) = suppress(self.boxes[None], scores[None], sigma=0.5, **settings)
        return one

    def test_what_overlaps_fades_and_comes_later(self):
        one = self.found()
        assert one["places"].tolist() == [0, 2, 1]
        faded = 0.8 * math.exp(-(0.5**2) / 0.5)
        assert one["scores"].tolist() == pytest.approx([0.9, 0.7, faded])

    def test_what_fades_below_the_threshold_is_dropped(self):
        assert self.found(score_threshold=0.5)["places"].tolist() == [0, 2]

    def test_other_classes_do_not_fade(self):
        apart = torch.tensor([[0.9, 0.0], [0.0, 0.8], [0.7, 0.0]])
        assert self.found(apart)["scores"].tolist() == pytest.approx([0.9, 0.8, 0.7])

    def test_it_stops_at_the_most_detections_and_takes_none(self):
        assert self.found(max_detections=2)["places"].tolist() == [0, 2]
        (none,) = suppress(torch.zeros(1, 0, 4), torch.zeros(1, 0, 3), sigma=0.5)
        assert none["boxes"].shape == (0, 4)
