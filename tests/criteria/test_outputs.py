"""What no criterion may take: outputs and targets that cannot belong together."""

from dataclasses import replace

import pytest
import torch

from labs.assigners import Truths
from labs.criteria import (
    YOLOv1Criterion,
    YOLOv3Criterion,
    YOLOv5Criterion,
    YOLOv7Criterion,
    YOLOv8Criterion,
)
from labs.criteria.yolo_v8 import stack_objects

CLASSES, BINS, HEIGHT, WIDTH = 3, 4, 48, 64
STRIDES = (8, 16)
ANCHORS = (((8, 10), (14, 9), (30, 12)), ((20, 30), (44, 40), (60, 44)))


def maps(channels, strides=STRIDES, images=2):
    torch.manual_seed(0)
    return tuple(torch.randn(images, channels, HEIGHT // s, WIDTH // s) for s in strides)


def at_anchors(kind, **settings):
    return kind(ANCHORS, STRIDES, **settings), maps(3 * (5 + CLASSES))


def v8(masks):
    criterion = YOLOv8Criterion(CLASSES, STRIDES, BINS)
    raw = maps(4 * BINS + CLASSES + 5 * masks)
    return criterion, (*raw, torch.randn(2, 5, HEIGHT // 4, WIDTH // 4)) if masks else raw


VERSIONS = {
    "v1": lambda: (YOLOv1Criterion(16), maps(2 * 5 + CLASSES, (16,))),
    "v3": lambda: at_anchors(YOLOv3Criterion),
    "v4": lambda: at_anchors(YOLOv3Criterion, box="ciou", smoothing=0.1),
    "v5": lambda: at_anchors(YOLOv5Criterion, balance=(4.0, 1.0)),
    "v7": lambda: at_anchors(YOLOv7Criterion, balance=(4.0, 1.0)),
    "v8": lambda: v8(masks=False),
    "v8 with masks": lambda: v8(masks=True),
}


@pytest.fixture(params=VERSIONS)
def version(request):
    return VERSIONS[request.param]()


def target(*boxes, labels=None, **others):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.ones(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    masks = torch.ones(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    return {"boxes": boxes, "labels": labels, "masks": masks} | others


GOOD = target([5, 5, 25, 25])
NAN, INF = float("nan"), float("inf")
BAD = {
    "no labels": (
        {"boxes": GOOD["boxes"], "masks": GOOD["masks"], "label": GOOD["labels"]},
        r"expected 'labels', got \['boxes', 'label', 'masks'\]; did you mean 'label'",
    ),
    "no boxes": ({"bboxes": GOOD["boxes"], "labels": GOOD["labels"]}, "did you mean 'bboxes'"),
    "boxes as a list": (
        target(boxes=[[5, 5, 25, 25]], labels=[1]),
        r"expected boxes as a tensor, got a list in image 1; use torch.as_tensor\(boxes\)",
    ),
    "one box without its dimension": (
        target(boxes=torch.tensor([5.0, 5, 25, 25]), labels=[1]),
        r"expected boxes \[n,4\], got \[4\] .*boxes\[None\]",
    ),
    "five numbers a box": (
        target(boxes=torch.ones(1, 5), labels=[1]),
        r"boxes \[n,4\], got \[1, 5",
    ),
    "boxes of bool": (
        target(boxes=torch.ones(1, 4) > 0, labels=[1]),
        "boxes of numbers, got torch",
    ),
    "one label too many": (
        target([5, 5, 25, 25], labels=[1, 1]),
        r"expected labels \[1\], got \[2\] in image 1; give each box a label",
    ),
    "labels as a column": (target([5, 5, 25, 25], labels=[[1]]), r"labels \[1\], got \[1, 1\]"),
    "labels of float": (
        target([5, 5, 25, 25], labels=[1.0]),
        r"labels of whole numbers, got torch.float32 in image 1; .*labels.long\(\)",
    ),
    "labels of bool": (target([5, 5, 25, 25], labels=[True]), "whole numbers, got torch.bool"),
    "label -1": (
        target([5, 5, 25, 25], [9, 9, 19, 19], labels=[1, -1]),
        "labels of at least 0 and below 3, the number of classes, got -1 in image 1; number",
    ),
    "label C": (target([5, 5, 25, 25], labels=[3]), "below 3, the number of classes, got 3 in im"),
    "NaN": (
        target([5, 5, 25, 25], [NAN, 5, 25, 25]),
        r"boxes of finite numbers, got \[nan, 5.0, 25.0, 25.0\] in image 1; look",
    ),
    "infinite": (target([5, 5, INF, 25]), "boxes of finite numbers, got"),
    "all infinite": (target([-INF, -INF, INF, INF]), "boxes of finite numbers, got"),
    "x2 < x1": (
        target([25, 5, 5, 25]),
        r"x1 <= x2 and y1 <= y2, got \[25.0, 5.0, 5.0, 25.0\] in image 1; .* flips must swap",
    ),
    "y2 < y1": (target([5, 25, 25, 5]), "x1 <= x2 and y1 <= y2, got"),
    "right of the image": (
        target([65, 5, 90, 25]),
        r"touch the image of 64x48 pixels, got \[65.0, 5.0, 90.0, 25.0\] in image 1; drop",
    ),
    "above the image": (target([5, -30, 25, -1]), "boxes that touch the image"),
    "below the image": (target([5, 49, 25, 60]), "boxes that touch the image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_target_that_cannot_be_true_is_refused_by_all_in_the_same_words(version, name):
    criterion, raw = version
    bad, words = BAD[name]
    with pytest.raises(
        ValueError, match=rf"^{type(criterion).__name__}: expected .*image 1"
    ) as told:
        criterion(raw, [GOOD, bad])
    assert told.match(words)


def test_fractions_of_the_image_are_no_pixels(version):
    criterion, raw = version
    fractions = target([0.1, 0.1, 0.4, 0.5])
    with pytest.raises(ValueError, match=r"boxes in pixels, .* multiply .* 64x48 here"):
        criterion(raw, [target(), fractions])
    assert all(term.isfinite() for term in criterion(raw, [GOOD, fractions]).values())
    corner = target([0, 0, 1, 1])
    assert all(term.isfinite() for term in criterion(raw, [corner, corner]).values())


NOTHING = {
    "as in the contract": target(),
    "empty list": {"boxes": torch.tensor([]), "labels": torch.tensor([])},
    "with masks of nothing": {
        "boxes": torch.zeros(0), "labels": torch.zeros(0).long(), "masks": torch.zeros(0)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_no_objects_may_be_said_in_several_ways(version, name):
    criterion, raw = version
    expected = criterion(raw, [GOOD, target()])
    got = criterion(raw, [GOOD, NOTHING[name]])
    assert {k: v.item() for k, v in got.items()} == {k: v.item() for k, v in expected.items()}
    assert all(v.isfinite() for v in criterion(raw, [NOTHING[name]] * 2).values())


@pytest.mark.parametrize("boxes", [torch.int64, torch.uint8, torch.float16, torch.float64])
@pytest.mark.parametrize("labels", [torch.uint8, torch.int32])
def test_the_types_of_whole_pixels_and_labels_change_nothing(version, boxes, labels):
    criterion, raw = version
    two = target([5, 5, 25, 25], [10, 8, 50, 40], labels=[2, 0])
    other = two | {"boxes": two["boxes"].to(boxes), "labels": two["labels"].to(labels)}
    expected = criterion(raw, [two, GOOD])
    for name, value in criterion(raw, [other, GOOD]).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "box",
    [
        [-20, 5, 25, 25],
        [40, 30, 90, 70],
        [-1e4, -1e4, 1e4, 1e4],
        [0, 0, 1280, 960],
        [60, 40, 64, 48],
    ],
    ids=str,
)
def test_a_box_that_reaches_beyond_the_image_never_earns_anything(version, box):
    criterion, raw = version
    for name, value in criterion(raw, [target(box), GOOD]).items():
        assert value.isfinite(), name
        assert value >= 0, name


@pytest.mark.parametrize("box", [[20, 20, 20, 30], [20, 20, 30, 20], [64, 48, 64, 48]], ids=str)
def test_a_box_without_area_costs_something_finite(version, box):
    criterion, raw = version
    raw = tuple(level.requires_grad_() for level in raw)
    loss = sum(criterion(raw, [target(box), GOOD]).values())
    loss.backward()
    assert loss.isfinite()
    assert all(level.grad.isfinite().all() for level in raw)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_targets_than_images_is_refused(version, count):
    criterion, raw = version
    words = rf"expected one target per image.*maps of \[2\] images and {count} targets"
    with pytest.raises(ValueError, match=words):
        criterion(raw, [GOOD] * count)


def wrong_outputs():
    v3, v8_raw = maps(3 * (5 + CLASSES)), maps(4 * BINS + CLASSES)
    five = YOLOv5Criterion(ANCHORS, STRIDES, balance=(4.0, 1.0))
    eight = YOLOv8Criterion(CLASSES, STRIDES, BINS)
    one, one_raw = YOLOv1Criterion(16, num_classes=CLASSES), maps(2 * 5 + CLASSES, (16,))
    named = {
        name: (kind(ANCHORS, STRIDES, num_classes=CLASSES, **more), v3)
        for name, kind, more in (
            ("v3", YOLOv3Criterion, {}),
            ("v5", YOLOv5Criterion, {"balance": (4.0, 1.0)}),
            ("v7", YOLOv7Criterion, {"balance": (4.0, 1.0)}),
        )
    }
    fewer = tuple(level[:2] for level in ANCHORS)
    for name, (criterion, raw) in named.items():
        yield f"{name}: classes", replace(criterion, num_classes=4), raw, r"C = 4, got \[24, 24\]"
        yield f"{name}: anchors", replace(criterion, anchors=fewer), raw, r"2 anchors \* \(5 \+ C\)"
        yield (
            f"{name}: strides",
            replace(criterion, strides=(8, 32)),
            raw,
            r"strides \(8, 32\), got",
        )
        yield f"{name}: order", criterion, raw[::-1], "cells, which cover"
        yield f"{name}: levels", criterion, raw[:1], r"expected 2 maps .* got 1 of shapes"
        yield f"{name}: a tensor", criterion, raw[0], r"got one tensor \[2, 24, 6, 8\]"
        yield f"{name}: whole numbers", criterion, [m.long() for m in raw], "got .torch.int64"
    yield "no class left", five, maps(15), r"3 anchors \* \(5 \+ C\) channels, got \[15, 15\]"
    yield "not to be shared out", five, maps(25), r"channels, got \[25, 25\]; give the network"
    yield "levels of other classes", five, (v3[0], maps(27)[1]), r"got \[24, 27\]"
    yield "v1: classes", replace(one, num_classes=4), one_raw, r"2 boxes \* 5 \+ C .* C = 4, got"
    yield "v1: boxes", replace(one, boxes=1), one_raw, r"1 boxes \* 5 \+ C .* C = 3, got \[13\]"
    yield "v1: two maps", one, one_raw * 2, "expected 1 maps"
    yield (
        "v8: classes",
        replace(eight, num_classes=4),
        v8_raw,
        r"4 \* 4 \+ 4 .* C = 4, got \[19, 19",
    )
    yield "v8: bins", replace(eight, reg_max=5), v8_raw, r"4 \* 5 \+ 3 .*got \[19, 19\]"
    yield "v8: strides", replace(eight, strides=(8, 32)), v8_raw, r"strides \(8, 32\), got"
    yield "v8: fewer levels", replace(eight, strides=(8,)), v8_raw, "19 coefficients of prototypes"
    yield "v8: more levels", replace(eight, strides=(8, 16, 32)), v8_raw, "expected 3 maps"
    raw = v8(masks=True)[1]
    yield "v8: prototypes of other sizes", eight, (*raw[:2], raw[2][..., 1:]), "one map of prototyp"
    yield "v8: prototypes twice", eight, (*raw, raw[2]), "got .19|one map of prototypes|channels"
    yield "v8: more prototypes", eight, (*raw[:2], torch.randn(2, 6, 12, 16)), "6 coefficients"


@pytest.mark.parametrize(
    ("criterion", "raw", "words"),
    [pytest.param(*case[1:], id=case[0]) for case in wrong_outputs()],
)
def test_outputs_of_another_network_are_refused(criterion, raw, words):
    with pytest.raises(ValueError, match=rf"^{type(criterion).__name__}: expected ") as told:
        criterion(raw, [GOOD, GOOD])
    assert told.match(words)


BAD_MASKS = {
    "none": ({k: v for k, v in GOOD.items() if k != "masks"}, "expected 'masks', got"),
    "of float": (GOOD | {"masks": GOOD["masks"].float()}, "masks of bool, got torch.float32"),
    "one too many": (GOOD | {"masks": GOOD["masks"].repeat(2, 1, 1)}, r"masks \[1,41..48,57..64\]"),
    "of another size": (GOOD | {"masks": GOOD["masks"][:, ::2, ::2]}, r"got \[1, 24, 32\] in im"),
    "larger than the image": (GOOD | {"masks": torch.ones(1, 48, 65) > 0}, r"got \[1, 48, 65\]"),
    "without its dimension": (GOOD | {"masks": GOOD["masks"][0]}, r"got \[48, 64\] in image 1"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_masks_that_cannot_be_of_the_image_are_refused(name):
    criterion, raw = v8(masks=True)
    bad, words = BAD_MASKS[name]
    with pytest.raises(ValueError, match=r"^YOLOv8Criterion: expected .* image 1") as told:
        criterion(raw, [GOOD, bad])
    assert told.match(words)


@pytest.mark.parametrize(
    "read", [stack_objects, lambda targets: Truths.of(targets, like=torch.zeros(()))]
)
def test_targets_alone_are_checked_as_well(read):
    for name in ("NaN", "x2 < x1", "label -1", "labels of float", "no boxes", "one label too many"):
        with pytest.raises(ValueError, match=r"^(stack_objects|Truths.of): expected .*image 1"):
            read([GOOD, BAD[name][0]])
    read([target([900, 5, 990, 25], labels=[99])])  # neither image nor classes are known


def test_objects_are_padded_image_by_image():
    targets = [target([5, 5, 25, 25]), target(), target([1, 2, 3, 4], [5, 6, 7, 8], labels=[2, 0])]
    boxes, labels, exists = stack_objects(targets)
    assert exists.tolist() == [[True, False], [False, False], [True, True]]
    assert boxes[exists].tolist() == [[5, 5, 25, 25], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert labels.tolist() == [[1, 0], [0, 0], [2, 0]]
    assert stack_objects([target()] * 2)[0].shape == (2, 0, 4)
