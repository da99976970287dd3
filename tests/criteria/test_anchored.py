"""The criteria of YOLOv5 and v7, term by term, against loops in float64."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import complete_box_iou_loss

from labs.assigners import Truths
from labs.boxes.anchored import decode_anchored, split_anchors
from labs.criteria import YOLOv5Criterion, YOLOv7Criterion

ANCHORS = (((12, 10), (20, 24)), ((30, 40), (50, 40)))
STRIDES = (8, 16)
CLASSES = 4
BALANCE = (4.0, 1.0)
MADE = {
    "v5": YOLOv5Criterion(ANCHORS, STRIDES, balance=BALANCE),
    "v7": YOLOv7Criterion(ANCHORS, STRIDES, balance=BALANCE),
}


def batch(seed=0, height=48, width=80):
    torch.manual_seed(seed)
    raw = [
        torch.randn(3, 2 * (5 + CLASSES), height // s, width // s, dtype=torch.float64)
        for s in STRIDES
    ]
    targets = []
    for count in (5, 0, 2):
        corner = torch.rand(count, 2).double() * torch.tensor([width, height]) * 0.7
        boxes = torch.cat([corner, corner + 8 + 25 * torch.rand(count, 2).double()], 1)
        targets.append({"boxes": boxes, "labels": torch.randint(CLASSES, (count,))})
    return raw, targets


def slowly(criterion, raw, targets, smoothing=0.0):
    """Add up the terms pair by pair."""
    maps = [split_anchors(level, 2) for level in raw]
    truths = Truths.of(targets, like=raw[0])
    pairs = criterion.assigner()(maps, truths)
    assert len(pairs) > 5
    terms = {"box": 0.0, "objectness": 0.0, "class": 0.0}
    for level, one in enumerate(maps):
        wanted = torch.zeros_like(one[..., 4])
        boxes, classes = [], []
        for i in range(len(pairs)):
            at, image, anchor, row, column, t = (c[i].item() for c in pairs.columns)
            if at != level:
                continue
            answer, truth = one[image, anchor, row, column], truths.boxes[t]
            corner = torch.tensor([column, row])
            shape = torch.tensor(ANCHORS[level][anchor])
            box = decode_anchored(answer[:4], corner, shape, STRIDES[level])
            boxes.append(complete_box_iou_loss(box, truth).item())
            wanted[image, anchor, row, column] = max(
                wanted[image, anchor, row, column].item(), 1 - boxes[-1], 0.0
            )
            for c in range(CLASSES):
                y = (1 - smoothing if c == truths.labels[t] else 0) + smoothing / 2
                p = answer[5 + c].sigmoid().item()
                classes.append(-y * math.log(p) - (1 - y) * math.log(1 - p))
        terms["box"] += sum(boxes) / max(len(boxes), 1) * criterion.box_weight
        terms["class"] += sum(classes) / max(len(classes), 1) * criterion.class_weight
        every = binary_cross_entropy_with_logits(one[..., 4], wanted).item()
        terms["objectness"] += every * BALANCE[level] * criterion.objectness_weight
    return terms


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("seed", range(3))
def test_every_term_is_what_the_loops_say(name, seed):
    raw, targets = batch(seed)
    terms = MADE[name](raw, targets)
    expected = slowly(MADE[name], raw, targets)
    assert terms.keys() == expected.keys()
    for term, value in terms.items():
        assert value.item() == pytest.approx(expected[term], rel=1e-6)  # eps differs in CIoU


def test_smoothing_moves_the_targets_of_the_classes():
    raw, targets = batch()
    smooth = YOLOv5Criterion(ANCHORS, STRIDES, balance=BALANCE, smoothing=0.1)
    expected = slowly(smooth, raw, targets, smoothing=0.1)
    assert smooth(raw, targets)["class"].item() == pytest.approx(expected["class"], rel=1e-9)
    assert smooth(raw, targets)["class"] != MADE["v5"](raw, targets)["class"]


@pytest.mark.parametrize("kind", [YOLOv5Criterion, YOLOv7Criterion])
@pytest.mark.parametrize(
    ("weight", "term"),
    [("box_weight", "box"), ("objectness_weight", "objectness"), ("class_weight", "class")],
)
def test_each_weight_scales_its_term_alone(kind, weight, term):
    raw, targets = batch()
    one = kind(ANCHORS, STRIDES, balance=BALANCE, **{weight: 1.0})(raw, targets)
    three = kind(ANCHORS, STRIDES, balance=BALANCE, **{weight: 3.0})(raw, targets)
    for name in one:
        torch.testing.assert_close(three[name], one[name] * (3 if name == term else 1))


def test_the_target_of_objectness_is_a_constant():
    # Nothing but its own logits may move the objectness: not the boxes it is measured on.
    raw, targets = batch()
    raw = [level.requires_grad_() for level in raw]
    MADE["v5"](raw, targets)["objectness"].backward()
    for level in raw:
        gradient = split_anchors(level.grad, 2)
        assert gradient[..., 4].ne(0).all()
        assert not gradient[..., :4].any()
        assert not gradient[..., 5:].any()


def test_where_two_objects_meet_the_higher_iou_is_the_target():
    raw, _ = batch()
    same = torch.tensor([[10.0, 10, 30, 34], [10, 10, 29, 30]]).double()
    nothing = {"boxes": same[:0], "labels": torch.zeros(0, dtype=torch.int64)}
    target = {"boxes": same, "labels": torch.tensor([0, 1])}
    expected = slowly(MADE["v5"], raw, [target, nothing, nothing])
    got = MADE["v5"](raw, [target, nothing, nothing])["objectness"].item()
    assert got == pytest.approx(expected["objectness"], rel=1e-6)


def test_without_neighbours_fewer_places_learn():
    raw, targets = batch()
    maps, truths = [split_anchors(level, 2) for level in raw], Truths.of(targets, like=raw[0])
    alone = YOLOv5Criterion(ANCHORS, STRIDES, balance=BALANCE, neighbours=False)
    assert len(alone.assigner()(maps, truths)) < len(MADE["v5"].assigner()(maps, truths))
    assert alone(raw, targets)["box"] != MADE["v5"](raw, targets)["box"]


@pytest.mark.parametrize("kind", [YOLOv5Criterion, YOLOv7Criterion])
def test_a_balance_for_other_levels_is_refused(kind):
    with pytest.raises(ValueError, match=r"balance for each of the strides \(8, 16\)"):
        kind(ANCHORS, STRIDES)


@pytest.mark.parametrize("kind", [YOLOv5Criterion, YOLOv7Criterion])
def test_at_paper_scale_the_defaults_fit_together(kind):
    raw = [torch.zeros(1, 3 * 85, 64 // s, 96 // s) for s in (8, 16, 32)]
    target = {"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([79])}
    assert all(value > 0 for value in kind()(raw, [target]).values())
