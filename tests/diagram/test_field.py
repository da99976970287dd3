"""The receptive field is that of the formula, and its influence that of the weights."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from labs.diagram import Field, draw_field, receptive_field
from labs.models import YOLOv3
from labs.plot import COLOURS, new
from tests.models import DictOutput, InplaceAfterConv


@pytest.mark.parametrize(
    ("layer", "stride", "side"), [("conv1", 2, 7), ("maxpool", 4, 11), ("layer1", 4, 43)]
)
def test_the_reach_is_that_of_the_formula(layer, stride, side):
    cell = 64 // stride
    found = receptive_field(resnet18(), torch.rand(3, 128, 128), layer, (cell, cell - 1))
    x1, y1, x2, y2 = found.reach
    assert (x2 - x1, y2 - y1) == (side, side)
    assert (y1 + y2 - 1) / 2 == 64  # padding is half a kernel: the place sits on its stride
    assert (x1 + x2 - 1) / 2 == 64 - stride


def test_the_reach_ends_at_the_border():
    found = receptive_field(resnet18(), torch.rand(3, 64, 96), "layer1", (0, 23))
    assert found.reach == (71, 0, 96, 22)


def test_the_reach_does_not_depend_on_the_weights():
    net = YOLOv3(1, width=0.125, depths=(1, 1, 1), strides=(2, 4, 8))
    image = torch.rand(3, 64, 64)
    fresh = receptive_field(net, image, "backbone.stages.1", (8, 8)).reach
    for parameter in net.parameters():
        nn.init.constant_(parameter, -1.0)  # every ReLU is closed
    assert receptive_field(net, image, "backbone.stages.1", (8, 8)).reach == fresh


def edge():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False))
    kernel = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 4.0, 0.0], [0.0, -2.0, 0.0]])
    with torch.no_grad():
        net[0].weight.copy_(kernel)
    return net, kernel


def test_the_influence_is_the_size_of_the_weights():
    net, kernel = edge()
    found = receptive_field(net, torch.rand(1, 6, 8), "0", (2, 5))
    expected = torch.zeros(6, 8)
    expected[1:4, 4:7] = kernel.abs() / 4
    torch.testing.assert_close(found.influence, expected)
    assert found.reach == (4, 1, 7, 4)


def test_a_place_that_ignores_its_pixels_has_no_influence():
    net, _ = edge()
    nn.init.zeros_(net[0].weight)
    assert (receptive_field(net, torch.rand(1, 6, 8), "0", (2, 5)).influence == 0).all()


def test_the_model_stays_as_it_is():
    net, image = resnet18().train(), torch.rand(3, 32, 32)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    with torch.inference_mode():
        found = receptive_field(net, image, "layer1", (4, 4))
    assert not found.influence.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(module.training for module in net.modules())
    assert not net.layer1._forward_hooks
    assert not image.requires_grad


def test_the_table_and_the_words():
    found = receptive_field(edge()[0], torch.rand(1, 6, 8), "0", (0, 5))
    assert found.table().to_dict("records") == [
        {"layer": "0", "cell": (0, 5), "width": 3, "height": 2}
    ]
    assert repr(found) == "Field(3 × 2 pixels, seen by 0 at (0, 5))"


def test_it_is_drawn_over_the_image():
    image = torch.rand(1, 6, 8)
    found = receptive_field(edge()[0], image, "0", (2, 5))
    _, ax = new(2, 2)
    assert draw_field(ax, image, found) is ax
    (frame,) = ax.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((3.5, 0.5), 3, 3)
    assert not frame.get_fill()
    heat = ax.images[1].get_array()
    assert heat[2, 4] == pytest.approx(0.5)  # the root of a quarter
    with pytest.raises(ValueError, match="of the same size"):
        draw_field(ax, torch.rand(1, 6, 9), found)
    assert COLOURS[1].lower().startswith("#")


def test_a_layer_whose_output_is_overwritten_keeps_its_gradient():
    net = InplaceAfterConv()
    nn.init.constant_(net[0].bias, -100.0)  # the ReLU that follows is closed
    found = receptive_field(net, torch.rand(1, 6, 8), "0", (2, 5))
    assert found.influence.max() == 1


class Ignores(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.last(torch.ones_like(x))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.last(self.last(x))


IMAGE = torch.rand(1, 6, 8)


@pytest.mark.parametrize(
    ("model", "image", "layer", "cell", "kind", "words"),
    [
        (edge()[0], IMAGE[None], "0", (0, 0), ValueError, r"an image \[C,H,W\], got \(1, 1, 6, 8"),
        (edge()[0], IMAGE, "last", (0, 0), KeyError, "layer 'last' not found"),
        (edge()[0], IMAGE, "0", (6, 0), ValueError, r"within 6 rows and 8 columns, got \(6, 0\)"),
        (edge()[0], IMAGE, "0", (0, 8), ValueError, r"within 6 rows and 8 columns, got \(0, 8\)"),
        (edge()[0], IMAGE, "0", (-1, 0), ValueError, r"got \(-1, 0\)"),
        (edge()[0], IMAGE, "0", (0, -1), ValueError, r"got \(0, -1\)"),
        (Twice(), IMAGE, "last", (0, 0), ValueError, r"to run once and return maps.*, got \[\(1"),
        (nn.Flatten(), IMAGE, "", (0, 0), ValueError, r"maps \[N,C,h,w\], got \[\(1, 48\)\]"),
        (DictOutput(), torch.rand(1, 5, 3), "1", (0, 0), ValueError, "got \\['OrderedDict'"),
        (Ignores(), IMAGE, "last", (0, 0), ValueError, "layer 'last' at .* depends on no pixel"),
    ],
)
def test_errors_say_what_was_expected(model, image, layer, cell, kind, words):
    with pytest.raises(kind, match=words):
        receptive_field(model, image, layer, cell)


@pytest.mark.parametrize("kind", [Field])
def test_results_are_frozen(kind):
    assert kind.__dataclass_params__.frozen
