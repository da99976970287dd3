"""YOLOv5, v7 and v8 compute what their published tables of layers say, with published names.

The other side is a plain interpreter that knows nothing of `labs`; `load_published` carries its
weights over by name.
"""

from copy import deepcopy
from functools import cache

import pytest
import torch

from labs.models import YOLOv5, YOLOv7, YOLOv8, load_published
from labs.models.yolo_v5 import COCO_ANCHORS
from labs.models.yolo_v7 import COCO_ANCHORS as V7_COCO_ANCHORS
from labs.postprocess import YOLOv5Postprocess, YOLOv8Postprocess
from tests.parity import boxes
from tests.parity.modules import Setting, run
from tests.parity.plain import Weights, close, images
from tests.parity.tables import (
    V5,
    V5_ANCHORS,
    V5_SCALES,
    V7,
    V7_ANCHORS,
    V8,
    V8_MASKS,
    V8_SCALES,
)

SIZES = [(1, 64, 96), (3, 32, 512)]  # so wide that the largest pool does not see all of it
RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-12}


def v5(scale, width=None):
    depth, published = V5_SCALES[scale]
    return V5, Setting(depth, width or published), YOLOv5(80, scale, width=width)


def v7(width, classes=80):
    return V7, Setting(width=width, classes=classes), YOLOv7(classes, width=width)


def v8(scale, width=None, masks=False):
    depth, published, most = V8_SCALES[scale]
    setting = Setting(depth, width or published, most)
    return V8_MASKS if masks else V8, setting, YOLOv8(80, scale, masks, width=width)


CASES = {
    "v5n": lambda: v5("n"),
    "v5m, narrow": lambda: v5("m", 0.125),
    "v5x, narrow": lambda: v5("x", 0.125),
    "v7, narrow": lambda: v7(0.25),
    "v8n": lambda: v8("n"),
    "v8n with masks": lambda: v8("n", masks=True),
    "v8m, narrow": lambda: v8("m", 0.125),
    "v8l, narrow": lambda: v8("l", 0.125),
}
PAPER = {
    "v5s": lambda: v5("s"),
    "v5m": lambda: v5("m"),
    "v7": lambda: v7(1.0),
    "v8s": lambda: v8("s"),
    "v8l": lambda: v8("l"),
    "v8m with masks": lambda: v8("m", masks=True),
}


@cache
def pair(case):
    """Return the plain side with drawn weights, and the network of `labs` that has loaded them."""
    torch.manual_seed(0)
    table, setting, network = (CASES | PAPER)[case]()
    weights = Weights()
    with torch.no_grad():
        run(table, weights, images(2, 64, 96, seed=0), setting)
    network.double()
    load_published(network, weights.tensors, "ultralytics")
    return table, setting, weights, network.eval()


def plain_maps(case, x):
    """Return the maps of the published table, finest first, in the precision of the images."""
    table, setting, weights, _ = pair(case)
    weights.dtype = x.dtype
    with torch.no_grad():
        return run(table, weights, x, setting)


def differs(case, sizes, dtype):
    """Return which of the maps differ from those of the published table."""
    wrong, network = [], deepcopy(pair(case)[-1]).to(dtype)
    for size in sizes:
        x = images(*size, dtype)
        with torch.no_grad():
            found, expected = network(x), plain_maps(case, x)
        assert len(found) == len(expected)
        ok = [close(a, b, RELATIVE[dtype]) for a, b in zip(found, expected, strict=True)]
        wrong += [(size, i) for i, fits in enumerate(ok) if not fits]
    return wrong


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_map_is_that_of_the_published_table(case, dtype):
    assert not differs(case, SIZES, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("case", PAPER)
def test_every_map_is_that_of_the_published_table_at_paper_scale(case):
    for dtype in RELATIVE:
        assert not differs(case, SIZES[:1], dtype)
    pair.cache_clear()


@pytest.mark.parametrize("case", ["v5n", "v7, narrow", "v8n"])
def test_every_box_is_where_its_formula_puts_it(case):
    network, x = pair(case)[-1], images(2, 96, 64)
    plain = plain_maps(case, x)
    with torch.no_grad():
        if case == "v8n":
            expected, postprocess = boxes.v8(plain), YOLOv8Postprocess()
        elif case == "v5n":
            expected, postprocess = boxes.v5(plain, V5_ANCHORS), YOLOv5Postprocess(COCO_ANCHORS)
        else:
            expected = boxes.v5(plain, V7_ANCHORS)
            postprocess = YOLOv5Postprocess(V7_COCO_ANCHORS)
        found, _ = postprocess.candidates(network(x))
    size = (expected[..., 2:] - expected[..., :2]).amax(-1, keepdim=True).clamp(min=1)
    # The postprocess of v8 computes in float32, in which a place of 100 pixels is known to 1e-5.
    assert ((found - expected).abs() / size).max() < (2e-5 if case == "v8n" else 1e-12)
