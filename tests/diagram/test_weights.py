"""No weight stays what it was, and signals stay of a size that can be followed."""

import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from labs.diagram.weights import draw_weights


def drawn(model, seed=0):
    draw_weights(model, torch.Generator().manual_seed(seed))
    return model


def test_weights_scales_and_statistics():
    net = drawn(nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64)))
    weight, norm = net[0].weight, net[1]
    torch.testing.assert_close(weight.std() * (16 * 9) ** 0.5, torch.tensor(1.0), rtol=0.05, atol=0)
    assert abs(weight.mean()) < 0.01
    for scale in (norm.weight, norm.running_var):
        assert scale.min() >= 0.5
        assert scale.max() <= 1.5
        assert scale.std() > 0.2
    for shift in (net[0].bias, norm.bias, norm.running_mean):
        assert 0.3 < shift.std() < 0.7
        assert shift.min() < 0 < shift.max()
    assert norm.num_batches_tracked == 0


def test_frozen_norms_have_weights_too_and_other_buffers_stay():
    net = FrozenBatchNorm2d(8)
    net.weight.zero_()
    net.register_buffer("mask", torch.zeros(3, 3))
    assert (drawn(net).weight >= 0.5).all()
    assert (net.mask == 0).all()


def test_integers_stay():
    net = nn.Module()
    net.table = nn.Parameter(torch.arange(4), requires_grad=False)
    assert drawn(net).table.tolist() == [0, 1, 2, 3]


def test_the_seed_decides():
    first, again, other = (drawn(nn.BatchNorm2d(3), seed) for seed in (1, 1, 2))
    matrices = [drawn(nn.Linear(3, 3), seed).weight for seed in (1, 1, 2)]
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensors = [getattr(net, name) for net in (first, again, other)]
        assert torch.equal(tensors[0], tensors[1])
        assert not torch.equal(tensors[0], tensors[2])
    assert torch.equal(matrices[0], matrices[1])
    assert not torch.equal(matrices[0], matrices[2])


def test_weights_of_nothing():
    net = nn.Module()
    net.none, net.empty = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.empty(3, 0))
    assert drawn(net).none.shape == (0, 3)


def test_signals_neither_vanish_nor_overflow_in_a_deep_network():
    net = drawn(resnet50().eval())
    with torch.no_grad():
        spread = net(torch.rand(2, 3, 64, 64)).std()
    assert 1e-2 < spread < 1e8
