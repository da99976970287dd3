"""YOLO v3 and v4 compute what their published configurations say, with weights in darknet's order.

The other side is a plain interpreter that knows nothing of `labs`; `load_published` reads its flat
list of numbers.
"""

from copy import deepcopy
from functools import cache

import pytest
import torch

from labs.models import V2_ANCHORS, V3_ANCHORS, V4_ANCHORS, YOLOv3, YOLOv4, load_published
from labs.postprocess import YOLOv3Postprocess
from tests.parity import boxes, cfg
from tests.parity.darknet import file, flat, run
from tests.parity.plain import Weights, close, images

SIZES = [(1, 64, 96), (3, 32, 512)]  # so wide that the largest pool does not see all of it
RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-12}
NARROW, PAPER = 0.125, 1.0
VERSIONS = {  # table, anchors there, network, anchors here
    "v3": (cfg.V3, cfg.V3_ANCHORS, YOLOv3, V3_ANCHORS),
    "v4": (cfg.V4, cfg.V4_ANCHORS, YOLOv4, V4_ANCHORS),
}


def finest_first(table, maps):
    """Sort the maps by the first anchor of their mask; the smallest anchors are on the finest."""
    masks = [row[1] for row in table if row[0] == "yolo"]
    return [level for _, level in sorted(zip(masks, maps, strict=True), key=lambda pair: pair[0])]


@cache
def pair(version, width=NARROW):
    """Return the plain side with drawn weights, and the network of `labs` that has loaded them."""
    torch.manual_seed(0)
    table, _, build, _ = VERSIONS[version]
    weights, network = Weights(), build(width=width).double()
    with torch.no_grad():
        run(table, weights, images(2, 64, 96, seed=0), width)
    load_published(network, flat(table, weights), "darknet")
    return table, weights, network.eval()


def plain_maps(version, x, width=NARROW):
    """Return the maps of the configuration, finest first, in the precision of the images."""
    table, weights, _ = pair(version, width)
    weights.dtype = x.dtype
    with torch.no_grad():
        return finest_first(table, run(table, weights, x, width))


def differs(version, sizes, dtype, width=NARROW):
    """Return which of the maps differ from those of the published configuration."""
    wrong, network = [], deepcopy(pair(version, width)[-1]).to(dtype)
    for size in sizes:
        x = images(*size, dtype)
        with torch.no_grad():
            found, expected = network(x), plain_maps(version, x, width)
        ok = [close(a, b, RELATIVE[dtype]) for a, b in zip(found, expected, strict=True)]
        wrong += [(size, i) for i, fits in enumerate(ok) if not fits]
    return wrong


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_map_is_that_of_the_published_configuration(version, dtype):
    assert not differs(version, SIZES, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_map_is_that_of_the_published_configuration_at_paper_scale(version):
    for dtype in RELATIVE:
        assert not differs(version, SIZES[:1], dtype, PAPER)
    pair.cache_clear()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_box_is_where_its_formula_puts_it(version):
    table, theirs, _, ours = VERSIONS[version]
    x = images(2, 96, 64)
    plain = plain_maps(version, x)
    with torch.no_grad():
        network = pair(version)[-1]
        found, _ = YOLOv3Postprocess(ours).candidates(network(x))
    masks = sorted(row[1:] for row in table if row[0] == "yolo")
    expected = boxes.v3(plain, [[theirs[i] for i in mask] for mask in masks])
    size = (expected[..., 2:] - expected[..., :2]).amax(-1, keepdim=True).clamp(min=1)
    assert ((found - expected).abs() / size).max() < 1e-12


def test_the_anchors_of_v2_are_published_in_cells():
    expected = [(32 * w, 32 * h) for w, h in cfg.V2_ANCHORS]
    assert [list(shape) for shape in V2_ANCHORS[0]] == [pytest.approx(shape) for shape in expected]


@pytest.mark.parametrize(
    ("version", "sections", "numbers"), [("v3", 107, 62_001_757), ("v4", 162, 64_429_405)]
)
def test_the_table_has_the_sections_and_the_numbers_of_the_published_files(
    version, sections, numbers
):
    table = VERSIONS[version][0]
    assert len(table) == sections
    # Read off the size of yolov3.weights and yolov4.weights: 20 bytes, and 4 for each number.
    total, made, c = 0, [], 3
    for kind, *args in table:
        if kind == "convolutional":
            filters, k, _, how = args
            total += filters * c * k * k + (filters if how == "linear" else 4 * filters)
            c = filters
        elif kind == "route":
            c = sum(made[j] for j in args)
        made.append(c)
    assert total == numbers


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("number", [(0, 1, 0), (0, 2, 5)], ids=str)
def test_a_file_and_its_content_load_like_its_numbers(tmp_path, version, number):
    table, weights, network = pair(version)
    path = tmp_path / "some.weights"
    path.write_bytes(file(table, weights, number))
    for source in (path, str(path), path.read_bytes()):
        loaded = VERSIONS[version][2](width=NARROW).eval()
        load_published(loaded, source, "darknet")
        expected = deepcopy(network).float().state_dict()
        for name, value in loaded.state_dict().items():
            assert torch.equal(value, expected[name]), name
