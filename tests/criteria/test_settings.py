"""Every setting of every criterion has the published value, and changes what it says it changes."""

from dataclasses import MISSING, fields, replace

import pytest
import torch

from labs.assigners import TaskAligned
from labs.criteria import (
    YOLOv1Criterion,
    YOLOv3Criterion,
    YOLOv5Criterion,
    YOLOv7Criterion,
    YOLOv8Criterion,
)
from labs.models import V3_ANCHORS
from tests.criteria.test_outputs import ANCHORS, CLASSES, VERSIONS, maps, target

ANCHORED = {"strides": (8, 16, 32), "balance": (4.0, 1.0, 0.4), "ratio": 4.0, "num_classes": None}
PUBLISHED = {
    YOLOv1Criterion: {"stride": 64, "boxes": 2, "coord": 5.0, "noobj": 0.5, "num_classes": None},
    YOLOv3Criterion: {
        "anchors": V3_ANCHORS,
        "strides": (8, 16, 32),
        "ignore": 0.5,
        "box": "squared",
        "box_weight": 1.0,
        "smoothing": 0.0,
        "stretch": 1.0,
        "num_classes": None,
    },
    YOLOv5Criterion: ANCHORED
    | {"box_weight": 0.05, "objectness_weight": 1.0, "class_weight": 0.5}
    | {"smoothing": 0.0, "neighbours": True},
    YOLOv7Criterion: ANCHORED
    | {"box_weight": 0.05, "objectness_weight": 0.7, "class_weight": 0.3}
    | {"box_cost": 3.0, "top": 10},
    YOLOv8Criterion: {
        "num_classes": 80,
        "strides": (8, 16, 32),
        "reg_max": 16,
        "class_weight": 0.5,
        "box_weight": 7.5,
        "dfl_weight": 1.5,
        "mask_weight": 7.5,
    },
    TaskAligned: {"topk": 10, "alpha": 0.5, "beta": 6.0, "least_side": 0.0},
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_defaults_are_the_published_values(kind):
    defaults = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    told = PUBLISHED[kind]
    assert {name: value for name, value in defaults.items() if name in told} == told
    assert set(defaults) <= {*told, "anchors"}


CHANGED = {
    "v1": {"coord": 1.0, "noobj": 1.0},
    "v3": {"ignore": 0.1, "box": "ciou", "box_weight": 2.0, "smoothing": 0.2, "stretch": 1.2},
    "v4": {"box": "giou", "box_weight": 2.0, "smoothing": 0.0, "stretch": 1.2},
    "v5": {"box_weight": 1.0, "objectness_weight": 2.0, "class_weight": 1.0, "smoothing": 0.1}
    | {"balance": (1.0, 4.0), "ratio": 1.5, "neighbours": False},
    "v7": {"box_weight": 1.0, "objectness_weight": 2.0, "class_weight": 1.0}
    | {"balance": (1.0, 4.0), "ratio": 1.5, "box_cost": 0.1, "top": 1},
    "v8 with masks": {"class_weight": 1.0, "box_weight": 1.0, "dfl_weight": 1.0, "mask_weight": 1.0}
    | {"assigner": TaskAligned(topk=1)},
}
MANY = [
    target([5, 5, 25, 25], [30, 8, 60, 40], [2, 30, 20, 46], [28, 6, 58, 38], labels=[2, 0, 1, 0]),
    target([0, 0, 64, 48], labels=[1]),
]


def nearly_right(raw):
    """Return outputs of small numbers, so that boxes are about as large as anchors and objects."""
    return tuple(0.3 * level for level in raw)


@pytest.mark.parametrize(
    ("name", "setting"), [(name, one) for name, them in CHANGED.items() for one in them]
)
def test_each_setting_changes_the_loss(name, setting):
    criterion, raw = VERSIONS[name]()
    raw = nearly_right(raw)
    other = replace(criterion, **{setting: CHANGED[name][setting]})
    before, after = criterion(raw, MANY), other(raw, MANY)
    assert {k: v.item() for k, v in before.items()} != {k: v.item() for k, v in after.items()}


def test_the_ratio_bounds_the_candidates_of_both():
    truth = target([16, 16, 36, 30])  # from 3/7 to 2.5 times the anchors
    counts = {}
    for kind in (YOLOv5Criterion, YOLOv7Criterion):
        for ratio in (1.2, 4.0):
            criterion = kind(ANCHORS, (8, 16), balance=(4.0, 1.0), ratio=ratio)
            box = criterion(maps(3 * (5 + CLASSES)), [truth, target()])["box"].item()
            counts[kind, ratio] = box
    assert counts[YOLOv5Criterion, 1.2] == counts[YOLOv7Criterion, 1.2] == 0  # no anchor fits
    assert counts[YOLOv5Criterion, 4.0] > 0
    assert counts[YOLOv7Criterion, 4.0] > 0


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_at_160_cells_half_precision_is_widened_before_anything_is_calculated(name, dtype):
    criterion, raw = VERSIONS[name]()
    strides = getattr(criterion, "strides", (16,))
    wide = [
        torch.randn(1, level.shape[1], 16 * scale, 160 * scale)
        for level, scale in zip(raw, scales(name), strict=True)
    ]
    half = [level.to(dtype) for level in wide]
    width, height = 160 * scales(name)[0] * strides[0], 16 * scales(name)[0] * strides[0]
    x = width - 150.0
    objects = target([x, 9, x + 101, 75], [x + 60, 30, x + 81, 42], labels=[0, 2])
    objects["masks"] = torch.ones(2, height, width, dtype=torch.bool)
    got = criterion(half, [objects])
    expected = criterion([level.float() for level in half], [objects])
    for term, value in got.items():
        assert value.item() == expected[term].item(), term


def scales(name):
    """Return the sides of each level's map, in those of the coarsest."""
    return (1,) if name == "v1" else (2, 1) if "masks" not in name else (2, 1, 4)
