"""Cascade R-CNN computes what three ``RoIHeads`` of torchvision compute one after the other."""

import copy
from functools import cache

import pytest
import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image

from labs.assigners import BalancedSampling
from labs.criteria import CascadeRCNNCriterion
from labs.criteria.cascade_rcnn import CASCADE_STAGES
from labs.models import cascade_rcnn_resnet50, load_published
from labs.models.published import cascade_rcnn
from labs.postprocess import CascadeRCNNPostprocess

CLASSES, SIZE = 4, (128, 192)
BETA = 1 / 9  # torchvision has no other
DRAWN = 48, 0.25  # regions of an image, and the share of objects among them
WEIGHTS = [(10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)]


def target(boxes, labels):
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4).double(),
        "labels": torch.tensor(labels).long(),
    }


TARGETS = [
    target([[10.3, 15.7, 90.1, 112.6], [112.2, 22.1, 187.7, 116.3]], [3, 0]),
    target([[22.3, 30.9, 67.7, 60.1]], [1]),
    target([], []),
]


@cache
def ours():
    torch.manual_seed(0)
    network = cascade_rcnn_resnet50(CLASSES, width=8, aligned=False)
    for part in network.backbone.pyramid.smooth:
        part.weight.data /= 200  # frozen norms that never learnt let the maps grow
    for head in network.heads:
        nn.init.normal_(head.classes.weight, std=0.3)
        nn.init.normal_(head.boxes.weight, std=0.1)
        nn.init.normal_(head.boxes.bias, std=0.3)
    network.proposals.before, network.proposals.after = (200, 100), (120, 60)
    nn.init.normal_(network.proposals.objectness.weight, std=0.3)
    nn.init.normal_(network.proposals.boxes.weight, std=0.1)
    return network.double()


@cache
def theirs():
    """Return torchvision's heads with our weights; the one correction stands for every class."""
    stages = []
    for head, iou, weights in zip(ours().heads, (0.5, 0.6, 0.7), WEIGHTS, strict=True):
        box_head, predictor = TwoMLPHead(256 * 49, 1024), FastRCNNPredictor(1024, CLASSES + 1)
        box_head.load_state_dict(head.body.state_dict())
        predictor.cls_score.load_state_dict(head.classes.state_dict())
        predictor.bbox_pred.load_state_dict(
            {
                name: value.repeat(CLASSES + 1, *[1] * (value.ndim - 1))
                for name, value in head.boxes.state_dict().items()
            }
        )
        pooler = MultiScaleRoIAlign([str(level) for level in range(4)], 7, 2)
        stages.append(
            RoIHeads(pooler, box_head, predictor, iou, iou, *DRAWN, weights, 0.05, 0.5, 100)
        )
    return [stage.double() for stage in stages]


@cache
def pictures():
    seeded = torch.Generator().manual_seed(1)
    return torch.rand(len(TARGETS), 3, *SIZE, generator=seeded).double()


@cache
def seen():
    """Return our maps by torchvision's names, and our proposals in training and afterwards."""
    network, given = ours(), {}
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (network.mean, network.std))
    with torch.no_grad():
        maps = network.backbone((pictures() - mean) / std)
        for training in (True, False):
            network.train(training)
            found = network(pictures()).proposals
            pairs = zip(found.boxes, found.found, strict=True)
            given[training] = [boxes[alive] for boxes, alive in pairs]
    return {str(level): one for level, one in enumerate(maps[:4])}, given


def counted():
    return [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in TARGETS]  # from 1 there


def judged(stage, boxes):
    maps, _ = seen()
    features = stage.box_roi_pool(maps, boxes, [SIZE] * len(boxes))
    return stage.box_predictor(stage.box_head(features))


def moved(stage, corrections, boxes):
    """Return where a stage puts the boxes of each image: its first column stands for all."""
    decoded = stage.box_coder.decode(corrections[:, :4], boxes)[:, 0]
    return clip_boxes_to_image(decoded, SIZE).split([len(b) for b in boxes])


@cache
def expected_losses():
    """Return the class and box losses of each stage, as torchvision computes them."""
    (_, given), stages = seen(), theirs()
    boxes, losses = given[True], []
    torch.manual_seed(3)  # the samplers draw in the same order
    for stage in stages:
        objects = [t["boxes"] for t in TARGETS]
        boxes, _, labels, aims = stage.select_training_samples(boxes, counted())
        logits, corrections = judged(stage, boxes)
        losses.append(fastrcnn_loss(logits, corrections, labels, aims))
        with torch.no_grad():
            new = moved(stage, corrections, boxes)
            boxes = [
                after[~(before[:, None] == known).all(-1).any(1)]
                for after, before, known in zip(new, boxes, objects, strict=True)
            ]
    return losses


def our_losses(network, **changes):
    network.train()
    settings = {"box_beta": BETA, "sample_proposals": BalancedSampling(*DRAWN)} | changes
    torch.manual_seed(3)
    # The anchors are drawn first; they must not take from the same chance.
    criterion = CascadeRCNNCriterion(CLASSES, sample_anchors=lambda found: found >= 0, **settings)
    return criterion(network(pictures()), TARGETS)


def test_losses_of_each_stage_are_equal():
    terms = our_losses(ours())
    for number, (both, weight) in enumerate(zip(expected_losses(), (1, 0.5, 0.25), strict=True), 1):
        for name, expected in zip(("class", "box"), both, strict=True):
            assert expected > 0
            assert terms[f"{name} {number}"].item() == pytest.approx(
                weight * expected.item(), rel=1e-6
            )


def test_gradients_into_the_heads_are_equal():
    network = ours()
    network.zero_grad()
    sum(our_losses(network).values()).backward()
    for stage in theirs():
        stage.zero_grad()
    expected_losses.cache_clear()
    weighted = zip(expected_losses(), (1, 0.5, 0.25), strict=True)
    sum(weight * (a + b) for (a, b), weight in weighted).backward()
    for head, stage in zip(network.heads, theirs(), strict=True):
        wanted = stage.box_predictor.bbox_pred.weight.grad.unflatten(0, (CLASSES + 1, 4)).sum(0)
        assert wanted.abs().max() > 0
        deep = stage.box_head.fc6.weight.grad
        assert deep.abs().max() > 0
        assert (head.boxes.weight.grad - wanted).abs().max() < 1e-6 * wanted.abs().max()
        assert (head.body.fc6.weight.grad - deep).abs().max() < 1e-6 * deep.abs().max()


@torch.no_grad()
def expected_detections():
    _, given = seen()
    boxes, logits = given[False], []
    for stage in theirs():
        said, corrections = judged(stage, boxes)
        logits.append(said)
        boxes = list(moved(stage, corrections, boxes))
    scores = torch.stack(logits).mean(0).softmax(-1)[:, 1:]
    found = []
    for box, score in zip(boxes, scores.split([len(b) for b in boxes]), strict=True):
        row, label = (score > 0.05).nonzero(as_tuple=True)
        kept = batched_nms(box[row], score[row, label], label, 0.5)[:100]
        found.append((box[row[kept]], score[row[kept], label[kept]], label[kept]))
    return found


def our_detections(network):
    with torch.no_grad():
        return CascadeRCNNPostprocess(CLASSES)(network.eval()(pictures()))


def test_detections_are_equal():
    for one, (boxes, scores, labels) in zip(
        our_detections(ours()), expected_detections(), strict=True
    ):
        assert len(scores) > 10
        torch.testing.assert_close(one["boxes"], boxes, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one["scores"], scores, rtol=1e-6, atol=1e-9)
        assert torch.equal(one["labels"], labels)


def swapped(network):
    network.heads[1], network.heads[2] = network.heads[2], network.heads[1]


@pytest.mark.parametrize(
    "change",
    [
        {"box_beta": 1.0},
        {"stages": CASCADE_STAGES[::-1]},
        {"stages": (CASCADE_STAGES[0],) * 3},
    ],
    ids=["beta", "falling bar", "one bar"],
)
def test_a_planted_setting_is_seen(change):
    sound, terms = our_losses(ours()), our_losses(ours(), **change)
    assert any(abs(terms[name] - sound[name]) > 1e-6 for name in sound)


def test_swapped_heads_are_seen():
    broken = copy.deepcopy(ours())
    swapped(broken)
    sound, terms = our_losses(ours()), our_losses(broken)
    assert terms["class 1"] == sound["class 1"]
    assert abs(terms["class 2"] - sound["class 2"]) > 1e-6
    pairs = zip(our_detections(broken), expected_detections(), strict=True)
    assert any(
        len(one["scores"]) != len(scores) or not torch.allclose(one["scores"], scores)
        for one, (_, scores, _) in pairs
    )


def test_shared_gradients_are_a_third_in_the_maps_and_whole_in_the_heads():
    whole, shared = copy.deepcopy(ours()), copy.deepcopy(ours())
    shared.shared = True
    grads = []
    for network in (whole, shared):
        network.zero_grad()
        terms = our_losses(network)
        heads = [value for name, value in terms.items() if name.startswith(("class", "box"))]
        sum(heads).backward()
        grads.append(
            (network.heads[0].body.fc6.weight.grad, network.backbone.pyramid.lateral[0].weight.grad)
        )
    (head, maps), (head_shared, maps_shared) = grads
    assert maps.abs().max() > 0
    torch.testing.assert_close(head_shared, head)
    torch.testing.assert_close(maps_shared, maps / 3)


def test_other_numbers_of_stages_are_refused():
    raw = ours()(pictures())
    with pytest.raises(ValueError, match="got 2 for 3"):
        CascadeRCNNCriterion(CLASSES, stages=CASCADE_STAGES[:2])(raw, TARGETS)
    with pytest.raises(ValueError, match="got 1 for 3"):
        CascadeRCNNPostprocess(CLASSES, [CASCADE_STAGES[0].deltas])(raw)


def test_weights_of_mmdetection_go_where_they_belong():
    network = cascade_rcnn_resnet50(CLASSES, width=8)
    shapes = {
        "backbone.layer3.5.bn2.running_var": network.backbone.body.stages[2][5].bn2.running_var,
        "neck.lateral_convs.3.conv.bias": network.backbone.pyramid.lateral[3].bias,
        "rpn_head.rpn_reg.weight": network.proposals.boxes.weight,
        "roi_head.bbox_head.2.shared_fcs.1.weight": network.heads[2].body.fc7.weight,
        "roi_head.bbox_head.1.fc_reg.bias": network.heads[1].boxes.bias,
        "roi_head.bbox_head.0.fc_cls.bias": network.heads[0].classes.bias,
    }
    names = cascade_rcnn.layout(network).names
    assert len(names) == 311  # of MMDetection 3.3.0, without the counts of batches
    own = network.state_dict()
    file = {theirs: torch.rand_like(own[ours]) for theirs, ours in names.items()}
    file |= {
        n.replace("running_var", "num_batches_tracked"): torch.tensor(9)
        for n in names
        if n.endswith("running_var")
    }
    loaded = load_published(network, file, "mmdetection")
    assert len(loaded.extras) == 53
    for theirs, ours_now in shapes.items():
        expected = file[theirs]
        if "fc_cls" in theirs:  # background stands last there, and first here
            expected = torch.cat([expected[-1:], expected[:-1]])
        assert torch.equal(ours_now, expected), theirs
