import pytest
import torch

from labs.hooks import capture
from labs.models import DigitNet
from labs.train import fit


def test_every_layer_runs_once_with_the_shapes_of_the_comments():
    model = DigitNet()
    layers = [name for name, _ in model.named_children()]
    with capture(model, *layers) as maps:
        logits = model(torch.rand(3, 1, 28, 28))
    assert logits.shape == (3, 10)
    assert {name: tuple(maps[name].shape[1:]) for name in ("conv1", "pool1", "conv2", "pool2")} == {
        "conv1": (16, 28, 28),
        "pool1": (16, 14, 14),
        "conv2": (32, 14, 14),
        "pool2": (32, 7, 7),
    }


@pytest.mark.parametrize("settings", [(10, 3, 8), (4, 1, 12)])
def test_its_settings_change_classes_channels_and_filters(settings):
    num_classes, in_channels, filters = settings
    model = DigitNet(num_classes, in_channels, filters)
    assert model.conv1.weight.shape == (filters, in_channels, 7, 7)
    assert model(torch.rand(2, in_channels, 28, 28)).shape == (2, num_classes)


def test_it_learns_to_tell_stripes_apart():
    torch.manual_seed(0)
    grid = torch.arange(28.0)
    horizontal = (grid[:, None] * 1.2).sin().expand(28, 28)
    images = torch.stack([horizontal, horizontal.T]).repeat(16, 1, 1)[:, None]
    images = images + 0.3 * torch.randn(images.shape)
    labels = torch.arange(2).repeat(16)
    model = DigitNet(num_classes=2)
    fit(model, [(images, labels)], torch.optim.AdamW(model.parameters(), 1e-2), epochs=5)
    assert (model.eval()(images).argmax(1) == labels).all()
