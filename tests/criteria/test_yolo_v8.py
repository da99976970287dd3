"""The terms of YOLOv8 against a slow version in float64, one chosen cell at a time."""

import math

import pytest
import torch
from torchvision.ops import complete_box_iou

from labs.assigners import TaskAligned
from labs.criteria import YOLOv8Criterion
from labs.criteria.yolo_v8 import stack_objects
from labs.postprocess import YOLOv8Postprocess

STRIDES, BINS, CLASSES = (8, 16), 6, 3
SIZE = (48, 64)


def raw_output(masks=False, batch=2):
    generator = torch.Generator().manual_seed(0)
    channels = 4 * BINS + CLASSES + (4 if masks else 0)
    shapes = [(batch, channels, SIZE[0] // s, SIZE[1] // s) for s in STRIDES]
    shapes += [(batch, 4, SIZE[0] // 4, SIZE[1] // 4)] if masks else []
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def make_targets():
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 3:30, 4:25], masks[1, 20:44, 30:60] = True, True
    masks[0, 3:10, 4:12] = False  # not a rectangle
    boxes = torch.tensor([[4.0, 3, 25, 30], [30.0, 20, 60, 44]])
    labels = torch.tensor([2, 0])
    first = {"boxes": boxes, "labels": labels, "masks": masks}
    return [first, {name: values[1:] for name, values in first.items()}]


def cells():
    """Return centre and side of each cell, in the order of the candidates."""
    return [
        ((column + 0.5) * s, (row + 0.5) * s, s)
        for s in STRIDES
        for row in range(SIZE[0] // s)
        for column in range(SIZE[1] // s)
    ]


def slowly(raw, targets, assigner):
    """Return the four terms without their weights, the mask's only for raw outputs with masks."""
    flat = torch.cat([level.flatten(2) for level in raw[:2]], 2).double()  # [N,K,P]
    boxes, scores = YOLOv8Postprocess(CLASSES, STRIDES, BINS).candidates(raw)
    points = torch.tensor([cell[:2] for cell in cells()])
    found = assigner(scores, boxes, points, *stack_objects(targets))
    sums = {"class": 0.0, "box": 0.0, "dfl": 0.0, "mask": 0.0}
    total, chosen = 0.0, 0
    for i, target in enumerate(targets):
        for p, (x, y, stride) in enumerate(cells()):
            mine, quality = found.objects[i, p].item(), found.quality[i, p].item()
            total += quality
            for k in range(CLASSES):
                probability = 1 / (1 + math.exp(-flat[i, 4 * BINS + k, p].item()))
                wanted = quality if mine >= 0 and target["labels"][mine] == k else 0.0
                sums["class"] -= wanted * math.log(probability)
                sums["class"] -= (1 - wanted) * math.log(1 - probability)
            if mine < 0:
                continue
            chosen += 1
            true = target["boxes"][mine]
            agreement = complete_box_iou(boxes[i, p : p + 1].double(), true[None].double()).item()
            sums["box"] += (1 - agreement) * quality
            x1, y1, x2, y2 = true.tolist()
            for side, length in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                length = min(length / stride, BINS - 1)
                log_share = flat[i, BINS * side : BINS * (side + 1), p].log_softmax(0)
                low = min(int(length), BINS - 2)
                spread = (low + 1 - length) * log_share[low] + (length - low) * log_share[low + 1]
                sums["dfl"] -= spread.item() / 4 * quality
            if len(raw) > 2:
                logits = sum(
                    c * m for c, m in zip(flat[i, -4:, p], raw[2][i].double(), strict=True)
                )
                sums["mask"] += mask_slowly(logits, target["masks"][mine], (x1, y1, x2, y2))
    scale = max(total, 1)
    terms = {name: sums[name] / scale for name in ("class", "box", "dfl")}
    return terms | ({"mask": sums["mask"] / chosen} if len(raw) > 2 else {})


def mask_slowly(logits, mask, box):
    wrong = []
    for row in range(logits.shape[0]):
        for column in range(logits.shape[1]):
            x, y = column * 4 + 2, row * 4 + 2
            if box[0] <= x < box[2] and box[1] <= y < box[3]:
                share = (
                    mask[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].double().mean().item()
                )
                probability = 1 / (1 + math.exp(-logits[row, column].item()))
                wrong.append(
                    -share * math.log(probability) - (1 - share) * math.log(1 - probability)
                )
    return sum(wrong) / len(wrong)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("topk", [3, 10])
def test_the_terms_equal_the_slow_version(masks, topk):
    raw, targets, assigner = raw_output(masks), make_targets(), TaskAligned(topk)
    criterion = YOLOv8Criterion(CLASSES, STRIDES, BINS, assigner)
    weights = {"class": 0.5, "box": 7.5, "dfl": 1.5, "mask": 7.5}
    terms = criterion(raw, targets)
    expected = slowly(raw, targets, assigner)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(weights[name] * value, rel=1e-5)


def test_each_weight_scales_its_term():
    raw, targets = raw_output(masks=True), make_targets()
    once = YOLOv8Criterion(CLASSES, STRIDES, BINS)(raw, targets)
    weights = {"class_weight": 1.0, "box_weight": 15.0, "dfl_weight": 3.0, "mask_weight": 15.0}
    twice = YOLOv8Criterion(CLASSES, STRIDES, BINS, **weights)(raw, targets)
    for name, value in once.items():
        torch.testing.assert_close(twice[name], 2 * value)


def test_without_objects_only_the_classes_cost():
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, *SIZE, dtype=torch.bool),
    }
    raw = raw_output(masks=True)
    terms = YOLOv8Criterion(CLASSES, STRIDES, BINS)(raw, [nothing] * 2)
    assert terms["class"] > 0
    assert terms["box"] == terms["dfl"] == terms["mask"] == 0


def test_masks_may_end_before_the_last_cell_does():
    """An image of 45x61 pixels has maps as one of 48x64; the rest counts as background."""
    raw, targets = raw_output(masks=True), make_targets()
    cut = [t | {"masks": t["masks"][:, :45, :61]} for t in targets]
    criterion = YOLOv8Criterion(CLASSES, STRIDES, BINS)
    torch.testing.assert_close(criterion(raw, cut), criterion(raw, targets))


def test_objects_are_stacked_with_padding():
    boxes, labels, exists = stack_objects(make_targets())
    assert boxes.shape == (2, 2, 4)
    assert labels.tolist() == [[2, 0], [0, 0]]
    assert exists.tolist() == [[True, True], [True, False]]


def test_a_small_sum_of_qualities_does_not_blow_the_loss_up():
    """Below 1 the sum no longer divides: an untrained network would get a huge gradient."""
    raw, targets = raw_output(), make_targets()[1:]
    raw, assigner = tuple(level[1:] for level in raw), TaskAligned(topk=1)
    points = torch.tensor([cell[:2] for cell in cells()])
    boxes, scores = YOLOv8Postprocess(CLASSES, STRIDES, BINS).candidates(raw)
    found = assigner(scores, boxes, points, *stack_objects(targets))
    assert 0 < found.quality.sum() < 1
    terms = YOLOv8Criterion(CLASSES, STRIDES, BINS, assigner)(raw, targets)
    expected = slowly(raw, targets, assigner)
    for name, weight in {"class": 0.5, "box": 7.5, "dfl": 1.5}.items():
        assert terms[name].item() == pytest.approx(weight * expected[name], rel=1e-5)


def test_the_class_term_is_exact_where_the_network_is_sure():
    """A sum over all cells minus a sum over the chosen ones would leave the noise of both."""
    raw, targets = raw_output(), make_targets()
    raw = tuple(level.clone() for level in raw)
    for level in raw:
        level[:, 4 * BINS :] = -2000.0
        level[:, [4 * BINS + 2, 4 * BINS]] = 2000.0
    criterion = YOLOv8Criterion(CLASSES, STRIDES, BINS)
    got = criterion(raw, targets)["class"].item()
    expected = slowly_sure(raw, targets, criterion)
    assert got == pytest.approx(expected, rel=1e-6)


def slowly_sure(raw, targets, criterion):
    boxes, scores = YOLOv8Postprocess(CLASSES, STRIDES, BINS).candidates(raw)
    points = torch.tensor([cell[:2] for cell in cells()])
    found = criterion.assigner(scores, boxes, points, *stack_objects(targets))
    logits = torch.cat([level.flatten(2) for level in raw], 2)[:, 4 * BINS :].mT.double()
    wanted = torch.zeros_like(logits)
    for i, target in enumerate(targets):
        for p in (found.objects[i] >= 0).nonzero()[:, 0].tolist():
            wanted[i, p, target["labels"][found.objects[i, p]]] = found.quality[i, p].item()
    wrong = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    return 0.5 * wrong.item() / max(found.quality.double().sum().item(), 1)


def test_the_gradient_of_the_classes_is_score_minus_quality():
    raw, targets = raw_output(), make_targets()
    raw = tuple(level.requires_grad_() for level in raw)
    assigner = TaskAligned()
    YOLOv8Criterion(CLASSES, STRIDES, BINS, assigner, class_weight=1.0)(raw, targets)[
        "class"
    ].backward()
    boxes, scores = YOLOv8Postprocess(CLASSES, STRIDES, BINS).candidates(raw)
    points = torch.tensor([cell[:2] for cell in cells()])
    found = assigner(scores, boxes, points, *stack_objects(targets))
    wanted = torch.zeros_like(scores)
    for i, target in enumerate(targets):
        for p in (found.objects[i] >= 0).nonzero()[:, 0].tolist():
            wanted[i, p, target["labels"][found.objects[i, p]]] = found.quality[i, p]
    gradient = torch.cat([level.grad.flatten(2) for level in raw], 2)
    expected = (scores - wanted).detach() / found.quality.sum().clamp(min=1)
    torch.testing.assert_close(gradient[:, 4 * BINS :].mT, expected)
    assert not gradient[:, : 4 * BINS].any()
