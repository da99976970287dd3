"""The pyramid, and the norms that stay as they were learnt."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from labs.models import FeaturePyramid, ResNetMaps, freeze_norms, resnet18, resnet_cifar


def test_it_equals_torchvisions_on_maps_of_odd_sizes():
    torch.manual_seed(0)
    ours = FeaturePyramid((5, 7, 11), 13)
    theirs = FeaturePyramidNetwork([5, 7, 11], 13, LastLevelMaxPool())
    for one, other in zip(ours.lateral, theirs.inner_blocks, strict=True):
        other[0].load_state_dict(one.state_dict())
    for one, other in zip(ours.smooth, theirs.layer_blocks, strict=True):
        other[0].load_state_dict(one.state_dict())
    sizes = [(5, 25, 37), (7, 13, 19), (11, 7, 10)]
    maps = [torch.rand(2, *size) for size in sizes]
    expected = theirs({str(i): one for i, one in enumerate(maps)}).values()
    for one, other in zip(ours(maps), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_maps_of_a_resnet_have_the_strides_and_channels_that_it_says():
    body = ResNetMaps(resnet18(width=8))
    assert (body.strides, body.channels) == ((4, 8, 16, 32), (8, 16, 32, 64))
    shapes = [tuple(one.shape) for one in body(torch.rand(1, 3, 64, 96))]
    assert shapes == [
        (1, c, 64 // s, 96 // s) for s, c in zip(body.strides, body.channels, strict=True)
    ]
    late = ResNetMaps(resnet18(width=8), stages=3, first=2)
    assert (late.strides, late.channels) == ((16,), (32,))
    assert [tuple(one.shape) for one in late(torch.rand(1, 3, 64, 96))] == [(1, 32, 4, 6)]


def test_the_stem_for_small_images_does_not_shrink():
    body = ResNetMaps(resnet_cifar(8, width=4), stages=3)
    assert body.strides == (1, 2, 4)


def test_frozen_norms_compute_what_the_norms_did_and_never_change():
    torch.manual_seed(0)
    network = resnet18(width=8)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    images = torch.rand(2, 3, 64, 64)
    expected = network.eval()(images)
    frozen = freeze_norms(copy.deepcopy(network)).train()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in frozen.modules())
    torch.testing.assert_close(frozen(images), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(frozen.eval()(images), expected, rtol=1e-4, atol=1e-5)
    norms = sum(2 * p.num_features for p in network.modules() if isinstance(p, nn.BatchNorm2d))
    counts = [sum(p.numel() for p in n.parameters()) for n in (network, frozen)]
    assert counts[0] - counts[1] == norms


def test_a_norm_alone_is_replaced_by_what_is_returned():
    assert not list(freeze_norms(nn.BatchNorm2d(3)).parameters())


@pytest.mark.parametrize("channels", [(), (4, 0), (4, 2.5)])
def test_a_pyramid_of_nothing_is_refused(channels):
    with pytest.raises(ValueError, match="FeaturePyramid: expected"):
        FeaturePyramid(channels)


def test_the_eps_of_norms_frozen_before_or_now_can_be_given():
    x, norm = torch.rand(1, 3, 4, 4), nn.BatchNorm2d(3)
    norm.running_var.fill_(1e-6)  # small enough for eps to count
    kept, bare = freeze_norms(copy.deepcopy(norm)), freeze_norms(copy.deepcopy(norm), eps=0.0)
    torch.testing.assert_close(kept(x), norm.eval()(x))
    torch.testing.assert_close(bare(x), x / 1e-3)
    torch.testing.assert_close(freeze_norms(nn.Sequential(kept), eps=0.0)(x), x / 1e-3)
