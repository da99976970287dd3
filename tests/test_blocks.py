"""The batch norms of every YOLO: the eps and momentum of its own published program."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, silu

from labs.models import RepConv, YOLOv1, YOLOv3, YOLOv4, YOLOv5, YOLOv7, YOLOv8
from labs.models.blocks import SPP, Conv, set_norms
from labs.recipes import mini_yolo_v3, mini_yolo_v4
from tests.shaken_norms import shake

SMALL = {"strides": (8, 16), "depths": (1, 1, 1), "width": 0.25, "stem_stride": 2}
DARKNET, LATER = (1e-5, 0.01), (1e-3, 0.03)
# darknet, src/blas_kernels.cu: sqrt(variance + .00001f); src/batchnorm_layer.c: .99 old, .01 new.
# The programs of v5, v7 and v8 set eps 1e-3 and momentum 0.03 on every batch norm once it is built.
PUBLISHED = {
    "v3": (partial(YOLOv3, 3, **SMALL), DARKNET),
    "v4": (partial(YOLOv4, 3, **SMALL), DARKNET),
    "v5": (partial(YOLOv5, 3, width=0.125, strides=(8, 16)), LATER),
    "v7": (partial(YOLOv7, 3, width=0.125, strides=(8, 16)), LATER),
    "v7 with E-ELAN": (partial(YOLOv7, 3, width=0.125, strides=(8,), extended=True), LATER),
    "v8": (partial(YOLOv8, 3, width=0.125, strides=(8, 16), masks=True), LATER),
}


def norms(module):
    """Return the settings of all batch norms, and how many there are."""
    found = [(m.eps, m.momentum) for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    return set(found), len(found)


@pytest.mark.parametrize("version", PUBLISHED)
def test_every_batch_norm_has_the_settings_of_its_program(version):
    build, published = PUBLISHED[version]
    network = build()
    settings, count = norms(network)
    assert settings == {published}
    assert count == sum(isinstance(m, nn.Conv2d) and m.bias is None for m in network.modules()) + (
        sum(isinstance(m, RepConv) and m.identity is not None for m in network.modules())
    )
    assert norms(build(eps=1e-4, momentum=0.2))[0] == {(1e-4, 0.2)}


def test_what_v1_may_have_of_it_has_the_eps_of_darknet():
    sizes = {"image_size": (64, 64), "stride": 16, "reduction": 16, "hidden": None}
    assert {eps for eps, _ in norms(YOLOv1(3, width=0.0625, norm=True, **sizes))[0]} == {1e-5}


@pytest.mark.parametrize("build", [mini_yolo_v3, mini_yolo_v4])
def test_the_minis_keep_what_they_were_trained_with(build):
    assert norms(build(3).network)[0] == {LATER}


@pytest.mark.parametrize(
    "given", [(0, 0.1), (-1e-3, 0.1), (1e-3, 0), (1e-3, 1.5), (float("nan"), 1)]
)
@pytest.mark.parametrize("version", PUBLISHED)
def test_settings_that_no_batch_norm_has_are_refused(version, given):
    with pytest.raises(ValueError, match=r"YOLOv\d: expected eps above 0 and a momentum in \(0, 1"):
        PUBLISHED[version][0](eps=given[0], momentum=given[1])


def test_setting_norms_leaves_weights_and_statistics_alone():
    block = shake(Conv(3, 4))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    set_norms(block, 1e-2, 0.5)
    assert norms(block) == ({(1e-2, 0.5)}, 1)
    assert all(torch.equal(before[name], value) for name, value in block.state_dict().items())


def test_eps_shows_where_a_channel_hardly_varies():
    network = {eps: YOLOv3(3, **SMALL, eps=eps).backbone.stem.eval() for eps in (1e-5, 1e-3)}
    for stem in network.values():
        nn.init.dirac_(stem.conv.weight)
        stem.bn.running_var.fill_(1e-3)
    x = torch.rand(1, 3, 8, 8)
    strict, loose = (stem(x)[:, :3] for stem in network.values())
    assert (loose / strict).mean().item() == pytest.approx(((1e-3 + 1e-5) / 2e-3) ** 0.5)


def plainly(norm, x):
    """Normalise with the statistics of training, and eps 1e-3."""
    one, shape = norm.state_dict(), (1, -1, 1, 1)
    y = (x - one["running_mean"].view(shape)) / (one["running_var"].view(shape) + 1e-3).sqrt()
    return y * one["weight"].view(shape) + one["bias"].view(shape)


def test_every_branch_of_a_rep_conv_is_normalised_with_the_same_eps_and_momentum():
    torch.manual_seed(0)
    block = shake(RepConv(3, 3)).double()
    assert norms(block) == ({LATER}, 3)
    for norm in (block.wide[1], block.narrow[1], block.identity):
        norm.running_var.mul_(1e-3)  # so small that eps decides
    x = torch.randn(2, 3, 6, 5).double()
    wide = plainly(block.wide[1], conv2d(x, block.wide[0].weight, padding=1))
    narrow = plainly(block.narrow[1], conv2d(x, block.narrow[0].weight))
    expected = silu(wide + narrow + plainly(block.identity, x))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(block.fused()(x), expected, rtol=0, atol=1e-10)


def test_one_batch_moves_every_branch_of_a_rep_conv_by_three_hundredths():
    block, x = RepConv(3, 3).train(), torch.randn(4, 3, 6, 5) + 2
    block(x)
    expected = 0.03 * x.mean((0, 2, 3))
    torch.testing.assert_close(block.identity.running_mean, expected)
    for conv, norm in (block.wide, block.narrow):
        torch.testing.assert_close(norm.running_mean, 0.03 * conv(x).mean((0, 2, 3)))


def test_spp_stacks_the_largest_pool_first_and_the_input_last():
    block = SPP(4, 2).eval()
    x = torch.randn(1, 4, 20, 20)
    seen = []
    block.mix.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    block(x)
    reduced = block.reduce(x)
    pools = [nn.functional.max_pool2d(reduced, k, 1, k // 2) for k in (13, 9, 5)]
    assert torch.equal(seen[0], torch.cat([*pools, reduced], 1))
