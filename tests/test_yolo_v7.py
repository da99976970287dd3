"""The YOLOv7 network: its published counts, its blocks against plain formulas, its fusion."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d

from labs.export import check, parity, to_onnx
from labs.models import YOLOv7
from labs.models.blocks import Conv
from labs.models.fusion import ImplicitConv, RepConv, fuse
from labs.models.yolo_v7 import ELAN, MP, SPPCSPC, ExtendedELAN
from labs.postprocess import YOLOv5Postprocess
from tests.export_candidates import Candidates
from tests.shaken_norms import shake


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def on_meta(build):
    with torch.device("meta"):
        return build()


def mini(**settings):
    torch.manual_seed(0)
    return YOLOv7(3, width=0.125, strides=(8, 16), anchors=2, image_size=64, **settings)


# --- Counts ------------------------------------------------------------------------------------


def test_the_published_number_of_parameters_of_the_network_to_train():
    assert parameters(on_meta(YOLOv7)) == 37_622_682


def test_fusing_takes_away_what_the_paper_does_not_count():
    network = on_meta(YOLOv7)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    shifts = sum(norm.bias.numel() for norm in norms)  # a scale goes, a shift becomes a bias
    reps = network.head.rep
    # The 1x1 branch goes, with the bias that its own batch norm would have left.
    branches = sum(rep.narrow[0].weight.numel() + rep.narrow[1].bias.numel() for rep in reps)
    implicit = sum(level.shift.numel() + level.scale.numel() for level in network.head.levels)
    assert (shifts, branches, implicit) == (24_864, 688_128 + 1_792, 2_557)
    # Both are printed for a fused network: with the implicit constants, and without.
    assert 37_622_682 - shifts - branches == 36_907_898
    fused = 37_622_682 - shifts - branches - implicit
    assert fused == 36_905_341
    assert round(fused / 1e6, 1) == 36.9  # table 1 of the paper


def test_extended_elan_adds_to_e6_what_the_paper_says_it_adds():
    # Channels in, out and inside of every ELAN of YOLOv7-E6, which has three pairs of convolutions.
    backbone = [(c, c, h) for c, h in ((160, 64), (320, 128), (640, 256), (960, 384), (1280, 512))]
    up = [(960, 480, 384), (640, 320, 256), (320, 160, 128)]
    down = [(640, 320, 256), (960, 480, 384), (1280, 640, 512)]

    def total(block):
        first = [block(*sizes, pairs=3) for sizes in backbone]
        second = [block(i, o, h, h // 2, pairs=3, every=True) for i, o, h in up + down]
        return sum(map(parameters, first + second))

    with torch.device("meta"):
        more = total(ExtendedELAN) - total(ELAN)
    assert round(more / 1e6, 1) == round(151.7 - 97.2, 1)  # E6E and E6 in table 2


# --- Blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [1, 2, 3])
@pytest.mark.parametrize("every", [False, True])
def test_elan_is_its_formula(pairs, every):
    torch.manual_seed(0)
    block = shake(ELAN(6, 10, 4, 3, pairs, every)).double()
    x = torch.randn(2, 6, 7, 5).double()
    stack, y = [block.start(x), block.around(x)], block.start(x)
    for i in range(pairs):
        y = block.row[2 * i](y)
        if every:
            stack.insert(0, y)  # the deepest first
        y = block.row[2 * i + 1](y)
        stack.insert(0, y)
    torch.testing.assert_close(block(x), block.mix(torch.cat(stack, 1)))


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("every", [False, True])
def test_extended_elan_is_a_sum_of_elans(groups, every):
    torch.manual_seed(0)
    elans = [shake(ELAN(6, 10, 4, 3, 2, every)).double() for _ in range(groups)]
    extended = ExtendedELAN(6, 10, 4, 3, 2, every, groups).double().eval()
    states = [elan.state_dict() for elan in elans]
    stacked = {
        name: torch.cat([state[name] for state in states]) if value.ndim else value
        for name, value in states[0].items()
    }
    extended.load_state_dict(stacked, strict=True)
    x = torch.randn(2, 6, 7, 5).double()
    expected = torch.stack([elan(x) for elan in elans]).sum(0)
    torch.testing.assert_close(extended(x), expected, rtol=0, atol=1e-12)


def test_sppcspc_is_its_formula():
    torch.manual_seed(0)
    block = shake(SPPCSPC(8, 6)).double()
    x = torch.randn(2, 8, 9, 15).double()
    y = block.before[2](block.before[1](block.before[0](x)))
    pools = [max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13)]
    y = block.after[1](block.after[0](torch.cat([y, *pools], 1)))
    torch.testing.assert_close(block(x), block.mix(torch.cat([y, block.around(x)], 1)))


@pytest.mark.parametrize("size", [(8, 12), (7, 9)], ids=str)
def test_mp_halves_the_side(size):
    block = MP(4, 3).eval()
    x = torch.randn(2, 4, *size)
    y = block(x)
    assert y.shape == (2, 6, -(-size[0] // 2), -(-size[1] // 2))
    pooled = block.pooled(max_pool2d(x, 2, ceil_mode=True))
    torch.testing.assert_close(y, torch.cat([block.strided(x), pooled], 1))


def test_the_extended_network_has_more_of_the_same():
    images = torch.rand(1, 3, 64, 96)
    plain, extended = mini().eval(), mini(extended=True).eval()
    assert [r.shape for r in plain(images)] == [r.shape for r in extended(images)]
    assert parameters(extended) > parameters(plain)
    assert any(isinstance(m, ExtendedELAN) for m in extended.modules())


def test_depth_adds_pairs():
    assert len(mini(depth=3).backbone.stages[0].row) == 6
    assert len(mini().backbone.stages[0].row) == 4


# --- Re-parameterisation -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "identity"),
    [
        pytest.param((4, 4), True, id="three branches"),
        pytest.param((4, 4), False, id="identity left out"),
        pytest.param((4, 6), True, id="no identity possible"),
    ],
)
def test_a_fused_rep_conv_is_one_equal_convolution(channels, identity):
    torch.manual_seed(0)
    block = shake(RepConv(*channels, identity)).double()
    assert (block.identity is not None) == (identity and channels[0] == channels[1])
    x = torch.randn(3, 4, 6, 5).double()
    one = block.fused()
    assert [type(part) for part in one] == [nn.Conv2d, nn.SiLU]
    torch.testing.assert_close(one(x), block(x), rtol=0, atol=1e-12)


def test_a_rep_conv_adds_its_branches():
    torch.manual_seed(0)
    block = shake(RepConv(4, 4))
    x = torch.randn(3, 4, 6, 5)
    expected = nn.functional.silu(block.wide(x) + block.narrow(x) + block.identity(x))
    torch.testing.assert_close(block(x), expected)


def test_a_fused_implicit_conv_is_one_equal_convolution():
    torch.manual_seed(0)
    block = ImplicitConv(4, 6).double()
    x = torch.randn(3, 4, 6, 5).double()
    one = block.fused()
    assert type(one) is nn.Conv2d
    torch.testing.assert_close(one(x), block(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("extended", [False, True])
def test_a_fused_network_is_plain_and_equal(dtype, atol, extended):
    network = shake(mini(extended=extended)).to(dtype)
    fused = network.fuse()
    special = nn.BatchNorm2d, Conv, RepConv, ImplicitConv
    assert not any(isinstance(part, special) or part.training for part in fused.modules())
    images = torch.rand(2, 3, 64, 96, dtype=dtype)
    with torch.no_grad():
        for a, b in zip(fused(images), network(images), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_fusing_leaves_the_network_as_it_was():
    network = mini().train()
    before = deepcopy(network.state_dict())
    fused = fuse(network)
    assert not fused.training
    assert network.training
    assert any(isinstance(part, RepConv) for part in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


# --- The network -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (100, 68)], ids=str)
def test_a_map_per_stride(size):
    network = YOLOv7(3, width=0.0625, strides=(4, 8, 16), anchors=2, image_size=128).eval()
    raw = network(torch.rand(1, 3, *size))
    expected = [(1, 2 * 8, -(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16)]
    assert [tuple(level.shape) for level in raw] == expected


def test_strides_that_do_not_double_are_refused():
    with pytest.raises(ValueError, match=r"YOLOv7: expected strides that double.*got \(8, 32\)"):
        YOLOv7(3, strides=(8, 32))


@pytest.mark.slow
def test_the_fused_network_and_its_candidates_export(tmp_path):
    anchors = torch.tensor([[[12.0, 14.0], [30.0, 20.0]], [[40.0, 60.0], [90.0, 80.0]]])
    model = Candidates(mini().fuse(), YOLOv5Postprocess(anchors, (8, 16))).eval()
    path = to_onnx(model, torch.rand(2, 3, 64, 96), tmp_path / "v7.onnx", {0: "batch"})
    check(path)
    parity(model, path, inputs=[torch.rand(1, 3, 64, 96), torch.rand(5, 3, 64, 96)])
