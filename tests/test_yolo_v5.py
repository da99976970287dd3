"""The YOLOv5 network: its published counts, its blocks against plain formulas, its export."""

import pytest
import torch
from torch.nn.functional import conv2d, silu

from labs.export import check, parity, to_onnx
from labs.models import YOLOv5
from labs.models.blocks import SPP, SPPF
from labs.models.yolo_v5 import C3
from labs.postprocess import YOLOv5Postprocess
from tests.export_candidates import Candidates
from tests.shaken_norms import shake


def count(build):
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


@pytest.mark.parametrize(
    ("scale", "published"),
    [
        ("n", 1_872_157),
        ("s", 7_235_389),
        ("m", 21_190_557),
        ("l", 46_563_709),
        ("x", 86_749_405),
    ],
)
def test_the_published_number_of_parameters(scale, published):
    assert count(lambda: YOLOv5(80, scale)) == published


def test_a_mini_is_small():
    assert count(lambda: YOLOv5(10, strides=(4, 8, 16), image_size=128)) == 520_199


def plainly(conv, x):
    """Compute what a Conv block should, from its weights."""
    y = conv2d(x, conv.conv.weight, None, conv.conv.stride, conv.conv.padding)
    bn = conv.bn
    shape = (1, -1, 1, 1)
    y = (y - bn.running_mean.view(shape)) / (bn.running_var.view(shape) + 1e-3).sqrt()
    return silu(y * bn.weight.view(shape) + bn.bias.view(shape))


@pytest.mark.parametrize("shortcut", [True, False])
def test_c3_is_its_formula(shortcut):
    torch.manual_seed(0)
    block = shake(C3(6, 8, 2, shortcut)).double()
    x = torch.randn(2, 6, 7, 5).double()
    y = plainly(block.inner, x)
    for bottleneck in block.blocks:
        z = plainly(bottleneck.second, plainly(bottleneck.first, y))
        y = y + z if shortcut else z
    expected = plainly(block.mix, torch.cat([y, plainly(block.around, x)], 1))
    torch.testing.assert_close(block(x), expected)


def test_sppf_is_spp_stacked_the_other_way_round():
    torch.manual_seed(0)
    slow, fast = shake(SPP(8, 6)).double(), shake(SPPF(8, 6)).double()
    state = slow.state_dict()
    pools = state["mix.conv.weight"].chunk(4, 1)  # SPP stacks 13, 9, 5, x; SPPF x, 5, 9, 13
    fast.load_state_dict(state | {"mix.conv.weight": torch.cat(pools[::-1], 1)})
    x = torch.randn(2, 8, 17, 9).double()
    torch.testing.assert_close(slow(x), fast(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (100, 68)], ids=str)
def test_a_map_per_stride(size):
    network = YOLOv5(3, width=0.125, strides=(4, 8, 16), anchors=2, image_size=128).eval()
    raw = network(torch.rand(1, 3, *size))
    expected = [(1, 2 * 8, -(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16)]
    assert [tuple(level.shape) for level in raw] == expected


def test_it_begins_with_few_objects():
    network = YOLOv5(10, width=0.125, strides=(8, 16), image_size=128).eval()
    with torch.no_grad():
        fine, coarse = network(torch.zeros(1, 3, 128, 128))
    # Each of three anchors expects eight objects: of 16*16 cells, and of 8*8.
    for level, cells in ((fine, 256), (coarse, 64)):
        expected = level.view(3, 15, -1)[:, 4].sigmoid().mean() * cells
        assert 4 < expected < 16


@pytest.mark.parametrize("strides", [(8, 32), (2, 4), (16, 8), (), (32, 64)], ids=str)
def test_strides_that_do_not_double_are_refused(strides):
    with pytest.raises(ValueError, match="YOLOv5: expected strides that double"):
        YOLOv5(3, strides=strides)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="expected a scale of n, s, m, l, x, got 'tiny'"):
        YOLOv5(3, "tiny")


@pytest.mark.slow
def test_the_network_and_its_candidates_export(tmp_path):
    torch.manual_seed(0)
    anchors = torch.tensor([[[12.0, 14.0], [30.0, 20.0]], [[40.0, 60.0], [90.0, 80.0]]])
    network = YOLOv5(3, width=0.125, strides=(8, 16), anchors=2, image_size=64)
    model = Candidates(network, YOLOv5Postprocess(anchors, (8, 16))).eval()
    path = to_onnx(model, torch.rand(2, 3, 64, 96), tmp_path / "v5.onnx", {0: "batch"})
    check(path)
    parity(model, path, inputs=[torch.rand(1, 3, 64, 96), torch.rand(5, 3, 64, 96)])
