"""Our ResNets compute what torchvision's compute with the same weights."""

from copy import deepcopy
from functools import cache

import pytest
import torch
import torchvision
from torch import nn

from labs.models import BasicBlock, Bottleneck, resnet18, resnet34, resnet50, resnet_cifar
from labs.models.resnet import _make_shortcut, _ZeroPad

PAIRS = {
    "resnet18": (resnet18, torchvision.models.resnet18),
    "resnet34": (resnet34, torchvision.models.resnet34),
    "resnet50": (resnet50, torchvision.models.resnet50),
}
TOLERANCE = {"rtol": 0, "atol": 1e-5}


def key_map(reference):
    """Map each of torchvision's keys to ours: the names are the same on purpose."""
    return {key: key for key in reference.state_dict()}


@cache
def twins(name):
    """Build both networks, with random weights and statistics, the same in both."""
    torch.manual_seed(0)
    ours, theirs = (build(num_classes=7) for build in PAIRS[name])
    for key, value in theirs.state_dict().items():
        if key.endswith(("bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")):
            nn.init.uniform_(value, 0.5, 1.0)  # above 1 the values would grow with depth
        elif key.endswith(("bias", "running_mean")):
            nn.init.normal_(value, std=0.1)
        elif key.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 1.5)
    renamed = {key_map(theirs)[key]: value for key, value in theirs.state_dict().items()}
    ours.load_state_dict(renamed, strict=True)
    return ours, theirs


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_outputs_and_gradients_are_equal(name, batch, training):
    ours, theirs = (deepcopy(model).train(training) for model in twins(name))
    images = torch.rand(batch, 3, 65, 41, requires_grad=True)  # odd and not square
    same = images.detach().clone().requires_grad_()
    a, b = ours(images), theirs(same)
    torch.testing.assert_close(a, b, **TOLERANCE)
    a.square().mean().backward()
    b.square().mean().backward()
    torch.testing.assert_close(images.grad, same.grad, **TOLERANCE)
    mine = dict(ours.named_parameters())
    for key, parameter in theirs.named_parameters():
        torch.testing.assert_close(mine[key_map(theirs)[key]].grad, parameter.grad, **TOLERANCE)
    for (key, buffer), reference in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, reference, **TOLERANCE, msg=key)


def test_a_plain_twin_loads_the_weights_except_the_projections():
    residual, plain = resnet18(width=8), resnet18(width=8, shortcut=False)
    missing, extra = plain.load_state_dict(residual.state_dict(), strict=False)
    assert missing == []
    assert {key.rsplit(".", 2)[0] for key in extra} == {
        f"layer{stage}.0.downsample" for stage in (2, 3, 4)
    }


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_adds_its_input_and_its_twin_does_not(block):
    residual = block(4 * block.expansion, 4)
    plain = block(4 * block.expansion, 4, shortcut="none")
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(2, 4 * block.expansion, 5, 7)
    branch = nn.Sequential(*[m for name, m in plain.named_children() if name != "relu"])
    silent = list(branch)[-1]  # the last batch norm
    seen = []
    silent.register_forward_hook(lambda module, args, out: seen.append(out))
    torch.testing.assert_close(plain(x), seen[0].relu())
    torch.testing.assert_close(residual(x), (seen[0] + x).relu())
    assert (seen[0] < 0).any()  # no ReLU before the addition: the branch can also take away


def test_the_stride_is_on_the_first_3x3():
    basic, bottleneck = BasicBlock(4, 8, stride=2), Bottleneck(4, 8, stride=2)
    x = torch.randn(1, 4, 9, 6)
    assert basic.conv1(x).shape == (1, 8, 5, 3)
    assert bottleneck.conv1(x).shape == (1, 8, 9, 6)
    assert bottleneck.conv2(bottleneck.conv1(x)).shape == (1, 8, 5, 3)
    assert basic(x).shape == (1, 8, 5, 3)
    assert bottleneck(x).shape == (1, 32, 5, 3)


def test_option_a_takes_every_second_pixel_and_adds_zero_channels():
    x = torch.randn(2, 3, 5, 4)
    out = _make_shortcut(3, 5, 2, "pad")(x)
    torch.testing.assert_close(out[:, :3], x[:, :, ::2, ::2], rtol=0, atol=0)
    assert out[:, 3:].eq(0).all()
    assert out.shape == (2, 5, 3, 2)


def test_shortcuts_are_identities_wherever_shapes_allow():
    model = resnet_cifar(20)
    kinds = [type(m.downsample) for m in model.modules() if isinstance(m, BasicBlock)]
    assert kinds == [nn.Identity] * 3 + [_ZeroPad, nn.Identity, nn.Identity] * 2
    plain = resnet_cifar(20, shortcut=False)
    assert all(m.downsample is None for m in plain.modules() if isinstance(m, BasicBlock))
    assert plain.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_the_cifar_network_has_the_depth_of_its_name_and_the_maps_of_the_paper(depth):
    model = resnet_cifar(depth, width=4, in_channels=1)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth
    shapes = {}
    for stage in ("layer1", "layer2", "layer3"):
        model.get_submodule(stage).register_forward_hook(
            lambda m, args, out, stage=stage: shapes.update({stage: tuple(out.shape[1:])})
        )
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    assert shapes == {"layer1": (4, 32, 32), "layer2": (8, 16, 16), "layer3": (16, 8, 8)}


def test_the_small_stem_keeps_the_size_of_the_image():
    model = resnet18(num_classes=5, in_channels=1, width=8, stem="cifar")
    x = torch.rand(2, 1, 28, 20)
    assert model.maxpool(model.conv1(x)).shape == (2, 8, 28, 20)
    assert model(x).shape == (2, 5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: resnet_cifar(21), r"depth = 6n \+ 2 \(8, 14, 20, ...\), got 21"),
        (lambda: resnet_cifar(2), "got 2"),
        (lambda: resnet18(stem="tiny"), "stem 'imagenet' or 'cifar', got depths=.*'tiny'"),
        (lambda: BasicBlock(4, 4, shortcut=False), "'project', 'pad' or 'none', got False"),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("build", [resnet18, resnet34, resnet50])
def test_convolutions_begin_with_a_variance_of_two_over_what_goes_out(build):
    torch.manual_seed(0)
    for name, part in build(num_classes=7).named_modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 20_000:
            fan_out = part.out_channels * part.kernel_size[0] ** 2
            assert part.weight.var().item() == pytest.approx(2 / fan_out, rel=0.1), name
