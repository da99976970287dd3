"""What detectors with references do besides what every detector does: export, and their edges."""

import math

import pytest
import torch

from labs.export import parity, to_onnx
from labs.models import RoIFeatures, level_of
from tests.criteria import cascade_rcnn, faster_rcnn, ssd
from tests.export_candidates import Candidates


@pytest.mark.parametrize(
    "make",
    [ssd.ssd, faster_rcnn.faster_rcnn, cascade_rcnn.cascade_rcnn],
    ids=["SSD", "Faster R-CNN", "Cascade R-CNN"],
)
def test_network_and_candidates_export_with_any_batch(tmp_path, make):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    version = make()
    network = version.network()
    if make is not ssd.ssd:  # so that objectness and boxes differ from place to place
        torch.nn.init.normal_(network.proposals.objectness.weight, std=1.0)
        torch.nn.init.normal_(network.proposals.boxes.weight, std=0.3)
    model = Candidates(network, version.postprocess).eval()
    path = to_onnx(model, torch.rand(2, 3, 96, 128), tmp_path / "it.onnx", dynamic={0: "batch"})
    result = parity(model, path, [torch.rand(n, 3, 96, 128) for n in (1, 2, 5)], atol=1e-3)
    assert result.ok
    assert math.isfinite(result.worst.max_abs)


def constant_maps(strides, size):
    """Return a map per stride whose every cell holds the number of its level."""
    return [
        torch.full((2, 1, size // stride, size // stride), float(level))
        for level, stride in enumerate(strides)
    ]


def squares(*sides):
    corners = torch.zeros(len(sides), 2)
    return torch.cat([corners, corners + torch.tensor(sides)[:, None]], 1).float()


def test_a_region_of_224_pixels_is_of_level_4_and_half_of_it_one_level_finer():
    strides = (4, 8, 16, 32)  # levels 2 to 5
    sides = [1, 55, 56, 111, 112, 223, 224, 447, 448, 5000]
    expected = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert level_of(squares(*sides), strides).tolist() == expected
    assert level_of(squares(*sides), (8, 16)).tolist() == [0] * 6 + [1] * 4
    assert level_of(torch.tensor([[5.0, 5, 5, 9]]), strides).tolist() == [0]  # without area


def test_regions_come_back_in_their_order():
    strides = (4, 8, 16, 32)
    sides = [448, 56, 224, 112, 60, 448]
    rois = torch.cat([torch.zeros(6, 1), squares(*sides)], 1)
    cells = RoIFeatures(strides)(constant_maps(strides, 512), rois)
    assert cells.shape == (6, 1, 7, 7)
    assert cells[:, 0, 3, 3].tolist() == [3, 0, 2, 1, 0, 3]


@pytest.mark.parametrize(("aligned", "expected"), [(True, 4.0), (False, 4.5)])
def test_what_stands_in_a_region_is_its_mean_place_on_a_ramp(aligned, expected):
    # The pixel of value 3.5 has its centre at 3.5: a region from 1 to 7 has its centre at 4.
    ramp = (torch.arange(16.0) + 0.5).expand(1, 1, 16, 16)
    cut = RoIFeatures((1,), size=1, aligned=aligned)([ramp], torch.tensor([[0.0, 1, 1, 7, 7]]))
    assert cut.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("strides", [(), (3,), (4, 16), (8, 4), (0, 1)])
def test_strides_that_are_no_pyramid_are_refused(strides):
    with pytest.raises(ValueError, match="powers of two, each twice the one before"):
        RoIFeatures(strides)


def test_proposals_are_constants_for_the_second_stage():
    torch.manual_seed(0)
    version = faster_rcnn.faster_rcnn()
    raw = version.network()(torch.rand(1, 3, 64, 96))
    assert not raw.proposals.boxes.requires_grad
    assert not raw.proposals.scores.requires_grad
    assert raw.estimates.deltas.requires_grad


def test_how_many_proposals_there_are_follows_the_mode_of_now():
    torch.manual_seed(0)
    network = faster_rcnn.faster_rcnn().network()
    images = torch.rand(1, 3, 128, 128)
    assert network(images).proposals.boxes.shape == (1, 100, 4)
    assert network.eval()(images).proposals.boxes.shape == (1, 50, 4)
    assert network.train()(images).proposals.boxes.shape == (1, 100, 4)


def test_an_image_with_fewer_proposals_is_filled_up_and_what_fills_is_never_found():
    torch.manual_seed(0)
    version = faster_rcnn.faster_rcnn()
    network = version.network().eval()
    torch.nn.init.constant_(network.proposals.boxes.bias, 100.0)  # far outside: no area is left
    raw = network(torch.rand(1, 3, 128, 128))
    assert raw.proposals.found.sum() < raw.proposals.found.numel()
    _, scores = version.postprocess.candidates(raw)
    assert (scores[~raw.proposals.found] == 0).all()
