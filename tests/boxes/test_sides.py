import pytest
import torch

from labs.boxes import (
    cell_centres,
    distribution_focal_loss,
    expected_side,
    from_sides,
    overlap,
    to_sides,
)
from labs.numerics import check_gradients

POINTS = cell_centres(3, 5, torch.zeros(0)).reshape(-1, 2) * 8


def test_the_sides_of_a_box_checked_by_hand():
    box, point = torch.tensor([10.0, 20, 40, 60]), torch.tensor([12.0, 50])
    assert to_sides(box, point).tolist() == [2, 30, 28, 10]
    assert from_sides(torch.tensor([2.0, 30, 28, 10]), point).tolist() == box.tolist()


def test_a_point_outside_has_a_negative_side():
    assert to_sides(torch.tensor([10.0, 20, 40, 60]), torch.tensor([5.0, 50])).tolist() == [
        -5,
        30,
        35,
        10,
    ]


def test_there_and_back_for_each_box_at_each_point():
    boxes = torch.tensor([[0.0, 0, 40, 24], [7.0, 3, 8, 4], [5.0, 5, 5, 5]])
    sides = to_sides(boxes[:, None], POINTS)
    assert sides.shape == (3, 15, 4)
    assert torch.equal(from_sides(sides, POINTS), boxes[:, None].expand(3, 15, 4))


def paper(logits, y):
    """Calculate equation 6 of Li et al. 2020 for one distribution."""
    share = torch.tensor(logits, dtype=torch.float64).softmax(0)
    low = min(int(y), len(logits) - 2)
    return -((low + 1 - y) * share[low].log() + (y - low) * share[low + 1].log()).item()


@pytest.mark.parametrize("target", [0.0, 1.0, 14.0, 15.0, 0.25, 7.5, 14.99])
def test_the_loss_is_the_formula_at_whole_and_at_broken_targets(target):
    logits = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = distribution_focal_loss(logits, torch.tensor(target, dtype=torch.float64))
    assert found.item() == pytest.approx(paper(logits.tolist(), target), rel=1e-14)


@pytest.mark.parametrize("whole", range(16))
def test_at_a_whole_target_it_is_the_cross_entropy(whole):
    logits = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = torch.full((3,), whole)
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(
        distribution_focal_loss(logits, target), expected, rtol=0, atol=1e-14
    )


def test_gradients_equal_finite_differences():
    logits = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
    target = torch.linspace(0, 7, 16).view(4, 4)
    assert not check_gradients(distribution_focal_loss, logits, target).failures
    assert not check_gradients(expected_side, logits).failures


@pytest.mark.parametrize("target", [0.0, 0.3, 4.0, 6.5, 7.0])
def test_the_best_distribution_has_the_target_as_its_mean(target):
    low = min(int(target), 6)
    share = torch.full((8,), 1e-30, dtype=torch.float64)
    share[low], share[low + 1] = max(low + 1 - target, 1e-30), max(target - low, 1e-30)
    logits = share.log().requires_grad_()
    assert expected_side(logits).item() == pytest.approx(target)
    (gradient,) = torch.autograd.grad(
        distribution_focal_loss(logits, torch.tensor(target, dtype=torch.float64)), logits
    )
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize(("target", "end"), [(-3.0, 0.0), (15.5, 15.0), (50.0, 15.0), (1e9, 15.0)])
def test_a_target_outside_counts_as_the_nearest_end(target, end):
    logits = torch.randn(16, generator=torch.Generator().manual_seed(3))
    found, nearest = (distribution_focal_loss(logits, torch.tensor(y)) for y in (target, end))
    assert found.item() == nearest.item()


def test_what_does_not_fit_a_level_is_cut_off():
    """A box of 400 pixels on stride 8 with 16 bins comes back as 240, so with IoU 0.36."""
    box, point = torch.tensor([0.0, 0, 400, 400]), torch.tensor([200.0, 200])
    logits = 1e4 * torch.nn.functional.one_hot(torch.full((4,), 15), 16).float()  # as far as it can
    assert distribution_focal_loss(logits, to_sides(box, point) / 8).tolist() == [0] * 4
    found = from_sides(expected_side(logits) * 8, point)
    assert found.tolist() == [80, 80, 320, 320]
    assert overlap(found, box).item() == pytest.approx(0.36)


def test_extreme_logits_and_half_precision_stay_finite():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        logits = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 0.0, 6e4]]).to(dtype).requires_grad_()
        loss = distribution_focal_loss(logits, torch.tensor([1.5, 0.0], dtype=dtype))
        (loss.sum() + expected_side(logits).sum()).backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        assert logits.grad.isfinite().all()


def test_autocast_does_not_round_the_mean():
    logits = torch.randn(100, 16, generator=torch.Generator().manual_seed(4))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = expected_side(logits)
    torch.testing.assert_close(rounded, expected_side(logits))


def test_no_distributions():
    assert distribution_focal_loss(torch.zeros(0, 4, 16), torch.zeros(0, 4)).shape == (0, 4)
    assert expected_side(torch.zeros(0, 4, 16)).shape == (0, 4)


@pytest.mark.parametrize(
    ("logits", "target"), [((5, 4, 16), (5,)), ((5, 16), (5, 4)), ((5, 1), (5,))]
)
def test_shapes_that_do_not_belong_together(logits, target):
    with pytest.raises(ValueError, match=r"expected logits \[...,reg_max\] with reg_max >= 2"):
        distribution_focal_loss(torch.zeros(logits), torch.zeros(target))
