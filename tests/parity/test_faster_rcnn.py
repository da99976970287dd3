"""Faster R-CNN computes what torchvision's computes: proposals, losses, gradients, detections."""

import copy
from functools import cache

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN as FasterRCNNOfTorchvision
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from labs.criteria import FasterRCNNCriterion
from labs.models import faster_rcnn_resnet50, load_published
from labs.postprocess import FasterRCNNPostprocess

CLASSES = 5
SIZE = (128, 192)


def target(boxes, labels):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels).long()}


TARGETS = [
    target([[10.3, 15.7, 90.1, 112.6], [112.2, 22.1, 187.7, 116.3]], [3, 0]),
    target([[22.3, 30.9, 67.7, 60.1]], [1]),
    target([], []),
]
TERMS = {
    "objectness": "loss_objectness",
    "proposal box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
}


@cache
def twins():
    """Return ours and torchvision's, with the same random weights, loaded by name."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, trainable_layers=3, norm_layer=FrozenBatchNorm2d
    )
    theirs = FasterRCNNOfTorchvision(
        backbone, CLASSES + 1, min_size=SIZE[0], max_size=SIZE[1], rpn_batch_size_per_image=64
    )
    spread_out(theirs)
    ours = faster_rcnn_resnet50(CLASSES)
    loaded = load_published(ours, theirs.state_dict())
    assert len(loaded.names) == len(ours.state_dict()) == len(theirs.state_dict())
    return ours.double(), theirs.double()


def spread_out(model):
    """Draw norms, biases and heads such that no part is idle, and the boxes differ."""
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, FrozenBatchNorm2d):
                part.weight.uniform_(0.3, 0.7)
                part.bias.normal_(std=0.1)
                part.running_mean.normal_(std=0.1)
                part.running_var.uniform_(0.5, 1.5)
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(weight, std=0.1)
        nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.3)
        nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.1)
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.3)
        nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.3)


@cache
def pictures():
    seeded = torch.Generator().manual_seed(1)
    return torch.rand(len(TARGETS), 3, *SIZE, generator=seeded).double()


def targets(shift=0):
    return [{"boxes": t["boxes"], "labels": t["labels"] + shift} for t in TARGETS]


@cache
def expected_proposals(training):
    _, theirs = twins()
    theirs.eval()
    theirs.rpn.train(training)
    seen, _ = theirs.transform(list(pictures()))
    with torch.no_grad():
        return theirs.rpn(seen, theirs.backbone(seen.tensors), targets())[0]


@pytest.mark.parametrize("training", [False, True])
def test_proposals_are_equal(training):
    ours, _ = twins()
    ours.train(training)
    with torch.no_grad():
        found = ours(pictures()).proposals
    for boxes, alive, expected in zip(
        found.boxes, found.found, expected_proposals(training), strict=True
    ):
        assert len(expected) > 100
        torch.testing.assert_close(boxes[alive], expected, rtol=1e-6, atol=1e-4)


@cache
def losses_and_gradients():
    """Return the terms of both, each by its own name, and the gradients by our names."""
    ours, theirs = twins()
    both = []
    for model in (ours.train(), theirs.train()):
        model.zero_grad()
        theirs.transform.eval()  # in train mode it draws the size of the image
        torch.manual_seed(3)  # the samplers draw in the same order
        if model is ours:
            criterion = FasterRCNNCriterion(CLASSES, sample_anchors=sampler_of(theirs))
            terms = criterion(model(pictures()), targets())
        else:
            terms = model(list(pictures()), targets(shift=1))  # it counts the background
        sum(terms.values()).backward()
        both.append(terms)
    return both


def sampler_of(theirs):
    from labs.assigners import BalancedSampling

    told = theirs.rpn.fg_bg_sampler
    return BalancedSampling(told.batch_size_per_image, told.positive_fraction)


def test_losses_and_their_gradients_are_equal():
    ours, theirs = twins()
    terms, expected = losses_and_gradients()
    for name, other in TERMS.items():
        torch.testing.assert_close(
            terms[name].double(), expected[other].double(), rtol=1e-5, atol=1e-8
        )
    pairs = {
        ours.backbone.body.stages[1][0].conv1.weight: theirs.backbone.body.layer2[0].conv1.weight,
        ours.backbone.pyramid.lateral[3].weight: theirs.backbone.fpn.inner_blocks[3][0].weight,
        ours.proposals.boxes.weight: theirs.rpn.head.bbox_pred.weight,
        ours.head.body.fc6.weight: theirs.roi_heads.box_head.fc6.weight,
        ours.head.boxes.weight: theirs.roi_heads.box_predictor.bbox_pred.weight,
    }
    for one, other in pairs.items():
        assert other.grad.abs().max() > 0
        assert (one.grad - other.grad).abs().max() < 1e-4 * other.grad.abs().max()


def test_the_same_parameters_learn():
    ours, _ = twins()
    losses_and_gradients()
    frozen = [sum(p.numel() for p in m.parameters() if not p.requires_grad) for m in twins()]
    assert frozen[0] == frozen[1] > 0
    asked = [p for p in ours.parameters() if p.requires_grad]
    assert asked
    assert all(p.grad is not None for p in asked)


def test_detections_are_equal():
    ours, theirs = twins()
    with torch.no_grad():
        expected = theirs.eval()(list(pictures()))
        found = FasterRCNNPostprocess(CLASSES)(ours.eval()(pictures()))
    for one, other in zip(found, expected, strict=True):
        assert len(one["scores"]) == 100
        torch.testing.assert_close(one["scores"].double(), other["scores"], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(one["boxes"].double(), other["boxes"], rtol=1e-5, atol=1e-3)
        assert torch.equal(one["labels"], other["labels"] - 1)


@pytest.mark.parametrize(
    "fault",
    [
        lambda net: setattr(net.pooling, "aligned", True),
        lambda net: setattr(net.pooling, "samples", 1),
        lambda net: setattr(net.pooling, "strides", (8, 16, 32, 64)),
        lambda net: setattr(net, "mean", (0.5, 0.5, 0.5)),
        lambda net: setattr(net.proposals, "iou_threshold", 0.3),
        lambda net: setattr(net.proposals, "before", (400, 50)),
        lambda net: net.train(),
    ],
    ids=["aligned", "samples", "level", "mean", "nms", "before", "mode"],
)
def test_a_planted_fault_is_seen(fault):
    broken = copy.deepcopy(narrow())
    fault(broken)
    pairs = zip(outcome(broken), outcome(narrow()), strict=True)
    assert not all(
        len(found) == len(sound) and torch.allclose(found, sound, rtol=1e-5, atol=1e-3)
        for found, sound in pairs
    )


def test_a_copy_without_a_fault_is_not_accused():
    pairs = zip(outcome(copy.deepcopy(narrow())), outcome(narrow()), strict=True)
    assert all(torch.equal(found, sound) for found, sound in pairs)


@cache
def narrow():
    """Return a network as above but a small one, to compare with itself."""
    torch.manual_seed(0)
    network = faster_rcnn_resnet50(CLASSES, width=8)
    for layer in (network.proposals.objectness, network.head.classes, network.head.boxes):
        nn.init.normal_(layer.weight, std=0.3)
    nn.init.normal_(network.proposals.boxes.weight, std=0.1)
    for layer in network.backbone.pyramid.smooth:
        layer.weight.data /= 200  # frozen norms that never learnt let the maps grow
    network.proposals.before, network.proposals.after = (400, 200), (200, 100)
    return network.eval()


def outcome(network):
    """Return the proposals and the detections of an image."""
    with torch.no_grad():
        raw = network(pictures()[:1].float())
        found = FasterRCNNPostprocess(CLASSES)(raw)[0]["boxes"]
    return raw.proposals.boxes[raw.proposals.found], found


def test_on_a_single_map_the_network_cannot_take_published_weights():
    with pytest.raises(ValueError, match="pyramid=True"):
        load_published(faster_rcnn_resnet50(CLASSES, pyramid=False, width=8), {})
