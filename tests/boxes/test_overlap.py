import math
from functools import partial

import pytest
import torch
from torchvision import ops

from labs.boxes import KINDS, overlap
from labs.numerics import Case, check_gradients, stress

TORCHVISION = {
    "iou": ops.box_iou,
    "giou": ops.generalized_box_iou,
    "diou": ops.distance_box_iou,
    "ciou": ops.complete_box_iou,
}
LOSSES = {
    "giou": ops.generalized_box_iou_loss,
    "diou": ops.distance_box_iou_loss,
    "ciou": ops.complete_box_iou_loss,
}
UNIT = [10.0, 20.0, 30.0, 60.0]


def random_boxes(count, seed, size=40.0):
    chance = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, count, 2, generator=chance, dtype=torch.float64)
    return torch.cat([size * corner, size * corner + 1 + size * side], -1)


def slowly(a, b, kind):
    """Calculate one pair with the formulas of the papers, in Python's own numbers."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    iou = width * height / union
    hull_w, hull_h = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    if kind == "giou":
        return iou - (hull_w * hull_h - union) / (hull_w * hull_h)
    apart = math.dist(
        ((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2)
    )
    diou = iou - apart**2 / (hull_w**2 + hull_h**2)
    ratios = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (ratios[0] - ratios[1]) ** 2
    return {"iou": iou, "diou": diou, "ciou": diou - (v * v / (1 - iou + v) if v else 0.0)}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_formulas_of_the_papers(kind):
    a, b = random_boxes(300, 0), random_boxes(300, 1)
    expected = [slowly(x, y, kind) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    torch.testing.assert_close(
        overlap(a, b, kind), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


def test_iou_counts_the_pixels_of_a_raster():
    chance = torch.Generator().manual_seed(3)
    corner = torch.randint(0, 12, (200, 2), generator=chance)
    boxes = torch.cat([corner, corner + torch.randint(1, 9, (200, 2), generator=chance)], 1)
    y, x = torch.meshgrid(torch.arange(20) + 0.5, torch.arange(20) + 0.5, indexing="ij")
    x1, y1, x2, y2 = (side[:, None, None] for side in boxes.unbind(1))
    inside = (x1 < x) & (x < x2) & (y1 < y) & (y < y2)  # [200,20,20]
    a, b = inside[:100].flatten(1), inside[100:].flatten(1)
    counted = (a & b).sum(1) / (a | b).sum(1)
    torch.testing.assert_close(overlap(boxes[:100], boxes[100:]), counted, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torchvision_each_with_each(kind, dtype):
    a, b = random_boxes(40, 4).to(dtype), random_boxes(30, 5).to(dtype)
    found = overlap(a[:, None], b, kind)
    assert found.shape == (40, 30)
    assert found.dtype == dtype
    torch.testing.assert_close(found, TORCHVISION[kind](a, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_equals_the_losses_of_torchvision_in_value_and_gradient(kind):
    a, b = random_boxes(200, 6), random_boxes(200, 7)
    mine, theirs = a.clone().requires_grad_(), a.clone().requires_grad_()
    found, expected = 1 - overlap(mine, b, kind), LOSSES[kind](theirs, b)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind):
    a, b = random_boxes(6, 8), random_boxes(6, 9)
    measure = partial(overlap, kind=kind)
    if kind == "ciou":  # alpha is a constant in the gradient, so only its own parts can be checked
        a[:, 2:] = a[:, :2] + 1.5 * (b[:, 2:] - b[:, :2])  # of the same shape: v is at its minimum
    assert not check_gradients(measure, a, b).failures


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_survive_what_training_meets(kind):
    report = stress(lambda a, b: 1 - overlap(a, b, kind), "boxes")
    assert report.ok, report.table()[report.table()["failed"]]


LINE, POINT = [10.0, 40.0, 30.0, 40.0], [20.0, 40.0, 20.0, 40.0]
DEGENERATE = [
    ("the same line", LINE, LINE),
    ("crossing lines", LINE, [20.0, 20.0, 20.0, 60.0]),
    ("a line and its end", LINE, [30.0, 40.0, 30.0, 40.0]),
    ("a point and an unlike box", POINT, [0.0, 0.0, 1000.0, 1.0]),
    ("thinner than eps", [0.0, 0.0, 1e-6, 1000.0], [0.0, 0.0, 1e-6, 1000.0]),
    ("both inside out", [30.0, 60.0, 10.0, 20.0], [30.0, 60.0, 10.0, 20.0]),
    ("far beyond float32's 24 bits", [0.0, 0.0, 1.0, 1.0], [1e8, 1e8, 1e8 + 8, 1e8 + 8]),
]


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_survive_two_degenerate_boxes(kind):
    table = [
        Case(name, (torch.tensor([a]), torch.tensor([b])), wrt=(0, 1)) for name, a, b in DEGENERATE
    ]
    report = stress(lambda a, b: 1 - overlap(a, b, kind), table)
    assert report.ok, report.table()[report.table()["failed"]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [1e-3, 1.0, 37.0, 1e6])
def test_equal_boxes_score_exactly_1_at_any_size(kind, side):
    box = torch.tensor([5.0, 7.0, 5.0 + side, 7.0 + side])
    assert overlap(box, box, kind).item() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_eps_does_not_move_one_pixel_boxes(kind):
    a, b = torch.tensor([100.0, 100, 101, 101]), torch.tensor([100.25, 100, 101.25, 101])
    assert overlap(a, b, kind, eps=1e-7).item() == overlap(a, b, kind, eps=1e-30).item()
    assert overlap(a, b).item() == pytest.approx(0.75 / 1.25)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_symmetry_and_scale(kind):
    a, b = random_boxes(500, 10).float(), random_boxes(500, 11).float()
    found = overlap(a, b, kind)
    assert found.max() <= 1
    assert found.min() >= {"iou": 0, "giou": -1, "diou": -1, "ciou": -2}[kind]
    torch.testing.assert_close(overlap(b, a, kind), found)
    torch.testing.assert_close(overlap(8 * a, 8 * b, kind), found)
    torch.testing.assert_close(overlap(a + 3, b + 3, kind), found, rtol=1e-4, atol=1e-5)


def test_iou_never_rounds_above_1():
    a = random_boxes(20_000, 12).float()
    inner = torch.cat([a[:, :2], torch.nextafter(a[:, 2:], a[:, :2])], 1)
    assert overlap(a, inner).max() <= 1


def test_all_but_iou_pull_boxes_together_that_are_apart():
    target = torch.tensor([200.0, 300, 220, 340])
    for kind in KINDS:
        box = torch.tensor(UNIT, requires_grad=True)
        (1 - overlap(box, target, kind)).backward()
        centre = box.grad[:2] + box.grad[2:]
        assert bool((centre < 0).all()) == (kind != "iou"), kind  # downhill is right and down


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_calculated_in_float32(dtype):
    a, b = (random_boxes(50, seed, 600).to(dtype) for seed in (13, 14))
    for kind in KINDS:
        found = overlap(a, b, kind)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, overlap(a.float(), b.float(), kind), rtol=0, atol=0)


def test_alpha_weighs_the_shape_even_of_boxes_apart():
    a, b = torch.tensor(UNIT), torch.tensor([200.0, 300, 240, 320])
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    assert (overlap(a, b, "diou") - overlap(a, b, "ciou")).item() == pytest.approx(v * v / (1 + v))


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="expected a kind of iou, giou, diou, ciou, got 'gio'"):
        overlap(torch.zeros(1, 4), torch.zeros(1, 4), "gio")
