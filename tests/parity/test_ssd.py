"""SSD300 computes what torchvision's computes: maps, default boxes, losses and detections."""

from functools import cache

import pytest
import torch
from torch import nn
from torchvision.models import vgg16 as vgg16_of_torchvision
from torchvision.models.detection import ssd300_vgg16 as ssd_of_torchvision

from labs.criteria import SSDCriterion
from labs.models import load_published, ssd300_vgg16, vgg16
from labs.postprocess import SSDPostprocess

CLASSES = 5
TARGETS = [
    {"boxes": torch.tensor([[10.0, 20, 120, 150], [100.0, 100, 280, 290]]), "labels": [3, 0]},
    {"boxes": torch.tensor([[30.0, 40, 90, 80]]), "labels": [1]},
]


@cache
def twins():
    """Return ours and torchvision's, with the same random weights, loaded by name."""
    torch.manual_seed(0)
    theirs = ssd_of_torchvision(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(weight, std=0.1)
        theirs.backbone.scale_weight.uniform_(5, 20)  # as it is drawn, all are 20
    ours = ssd300_vgg16(CLASSES)
    loaded = load_published(ours, theirs.state_dict())
    assert len(loaded.names) == len(ours.state_dict()) == len(theirs.state_dict())
    return ours.double().eval(), theirs.double().eval()


def pictures(batch, size):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1)).double()


def plain(model, images):
    """Return corrections and logits of torchvision, without its resizing."""
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in moments(model))
    said = model.head(list(model.backbone((images - mean) / std).values()))
    return said["bbox_regression"], said["cls_logits"]


def moments(model):
    return model.transform.image_mean, model.transform.image_std


def test_outputs_are_equal():
    ours, theirs = twins()
    images = pictures(2, (268, 301))
    with torch.no_grad():
        found, expected = ours(images), plain(theirs, images)
    torch.testing.assert_close(found.deltas, expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.logits, expected[1], rtol=1e-9, atol=1e-9)


def targets(shift=0):
    return [{"boxes": t["boxes"], "labels": torch.tensor(t["labels"]) + shift} for t in TARGETS]


def test_losses_and_their_gradients_are_equal():
    ours, theirs = twins()
    images = pictures(2, (300, 300))
    theirs.train()
    expected = theirs(list(images), targets(shift=1))  # torchvision counts the background
    theirs.eval()
    terms = SSDCriterion(CLASSES)(ours(images), targets())
    torch.testing.assert_close(terms["class"], expected["classification"], rtol=1e-6, atol=0)
    torch.testing.assert_close(terms["box"], expected["bbox_regression"], rtol=1e-5, atol=0)
    for model, loss in ((ours, sum(terms.values())), (theirs, sum(expected.values()))):
        model.zero_grad()
        loss.backward()
    torch.testing.assert_close(
        ours.backbone.scale.grad, theirs.backbone.scale_weight.grad, rtol=1e-5, atol=1e-9
    )
    first, other = ours.backbone.to_conv4[0].weight.grad, theirs.backbone.features[0].weight.grad
    assert (first - other).abs().max() < 1e-4 * other.abs().max()  # losses are in float32


def test_detections_are_equal():
    ours, theirs = twins()
    images = pictures(2, (300, 300))
    with torch.no_grad():
        expected = theirs(list(images))
        found = SSDPostprocess(CLASSES)(ours(images))
    for one, other in zip(found, expected, strict=True):
        assert len(one["scores"]) == 200
        torch.testing.assert_close(one["scores"].double(), other["scores"], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(one["boxes"].double(), other["boxes"], rtol=1e-5, atol=1e-3)
        assert torch.equal(one["labels"], other["labels"] - 1)


@pytest.mark.parametrize(
    "fault",
    [
        lambda net: net.backbone.to_conv4.__setitem__(16, nn.MaxPool2d(2)),  # rounds down
        lambda net: setattr(net.backbone.to_conv7[8], "dilation", (5, 5)),
        lambda net: setattr(net.backbone.to_conv7[8], "padding", (7, 7)),
        lambda net: net.backbone.to_conv7.__setitem__(7, nn.MaxPool2d(5, 1, padding=2)),
        lambda net: net.backbone.scale.data.fill_(20),
        lambda net: setattr(net.backbone, "gain", 1.0),
    ],
    ids=["ceil", "dilation", "padding", "pool5", "scale", "range"],
)
def test_a_planted_fault_is_seen(fault):
    ours, _ = twins()
    broken = ssd300_vgg16(CLASSES)
    broken.load_state_dict(ours.state_dict())
    broken = broken.double().eval()
    fault(broken)
    with torch.no_grad():
        found = broken(pictures(1, (277, 277)))
    expected = logits_of_a_small_image()
    same = found.logits.shape == expected.shape
    assert not (same and torch.allclose(found.logits, expected, rtol=1e-5, atol=1e-6))


@cache
def logits_of_a_small_image():
    with torch.no_grad():
        return plain(twins()[1], pictures(1, (277, 277)))[1]


def test_vgg_has_the_names_and_the_outputs_of_torchvision():
    torch.manual_seed(0)
    ours, theirs = vgg16(10, hidden=16), vgg16_of_torchvision(num_classes=10)
    theirs.classifier[0] = nn.Linear(512 * 49, 16)
    theirs.classifier[3] = nn.Linear(16, 16)
    theirs.classifier[6] = nn.Linear(16, 10)
    load_published(ours, theirs.state_dict())
    images = torch.rand(2, 3, 65, 97)
    a, b = ours.eval()(images), theirs.eval()(images)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert a.std() > 1e-4


def test_an_image_that_is_too_small_is_refused():
    ours, _ = twins()
    with pytest.raises(ValueError, match=r"at least 268 pixels a side, got 300x267"):
        ours(pictures(1, (300, 267)))
