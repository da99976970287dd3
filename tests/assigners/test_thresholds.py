"""Assignment by two thresholds, and what is drawn of it."""

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import box_iou

from labs.assigners import BalancedSampling, Thresholds

OBJECT = torch.tensor([[0.0, 0, 10, 10]])


def wide(*widths):
    """Return references whose IoU with the object is their width by ten."""
    return torch.tensor([[0.0, 0, width, 10] for width in widths])


def test_between_the_thresholds_a_reference_is_neither():
    found = Thresholds(0.3, 0.7, rescue=False)(OBJECT, wide(2, 3, 5, 7, 9))
    assert found.tolist() == [-1, -2, -2, 0, 0]


def test_the_best_reference_answers_however_bad_it_is():
    assert Thresholds(rescue=True)(OBJECT, wide(1, 2)).tolist() == [-1, 0]
    assert Thresholds(rescue=False)(OBJECT, wide(1, 2)).tolist() == [-1, -1]


def test_an_object_that_nothing_touches_rescues_nobody():
    assert Thresholds()(OBJECT + 100, wide(1, 2)).tolist() == [-1, -1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rescue", [True, False])
def test_it_agrees_with_torchvision(seed, rescue):
    torch.manual_seed(seed)
    corners = torch.rand(60, 2) * 60
    references = torch.cat([corners, corners + 5 + 40 * torch.rand(60, 2)], 1)
    boxes = references[:7] + 6 * torch.rand(7, 4)
    matcher = Matcher(0.5, 0.3, allow_low_quality_matches=False)
    expected = Matcher(0.5, 0.3, allow_low_quality_matches=rescue)(box_iou(boxes, references))
    assert (matcher(box_iou(boxes, references)) >= 0).any()
    assert torch.equal(Thresholds(0.3, 0.5, rescue)(boxes, references), expected)


def test_without_objects_all_is_background():
    assert Thresholds()(torch.zeros(0, 4), wide(1, 2)).tolist() == [-1, -1]
    assert Thresholds()(OBJECT, torch.zeros(0, 4)).tolist() == []


@pytest.mark.parametrize(("low", "high"), [(0.7, 0.3), (-0.1, 0.5), (0.5, 1.1)])
def test_thresholds_in_the_wrong_order_are_refused(low, high):
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        Thresholds(low, high)


MATCHED = torch.tensor([0, 1, 2, 0, *[-1] * 20, *[-2] * 5])


def test_the_sample_has_its_size_and_no_more_objects_than_its_share():
    drawn = BalancedSampling(12, 0.25)(MATCHED)
    assert drawn.sum() == 12
    assert (drawn & (MATCHED >= 0)).sum() == 3
    assert not (drawn & (MATCHED == -2)).any()


def test_background_takes_the_place_of_missing_objects():
    drawn = BalancedSampling(20, 0.5)(MATCHED)
    assert (drawn & (MATCHED >= 0)).sum() == 4
    assert (drawn & (MATCHED == -1)).sum() == 16


def test_it_draws_what_torchvision_draws():
    torch.manual_seed(3)
    drawn = BalancedSampling(12, 0.25)(MATCHED)
    labels = torch.where(MATCHED >= 0, 1, torch.where(MATCHED == -1, 0, -1))
    torch.manual_seed(3)
    positive, negative = BalancedPositiveNegativeSampler(12, 0.25)([labels])
    assert torch.equal(drawn, (positive[0] | negative[0]).bool())


def test_everything_is_drawn_where_there_is_less():
    assert BalancedSampling(100)(MATCHED).tolist() == (MATCHED > -2).tolist()
    assert BalancedSampling(4)(torch.zeros(0, dtype=torch.int64)).tolist() == []
