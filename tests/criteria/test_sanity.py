"""What no detector may fail. A version is one line of the table."""

import pytest
import torch

from labs.metrics import coco_map
from tests.criteria import (
    anchored,
    cascade_rcnn,
    deformable_detr,
    detr,
    faster_rcnn,
    ssd,
    yolo_v1,
    yolo_v3,
    yolo_v8,
)
from tests.criteria.version import CLASSES, SIZE

VERSIONS = {
    "v1": yolo_v1.version(hidden=64),
    "v1 with a convolution as head": yolo_v1.version(hidden=None),
    "v3": yolo_v3.v3(),
    "v4": yolo_v3.v4(),
    "v5": anchored.yolo_v5(),
    "v7": anchored.yolo_v7(),
    "v8": yolo_v8.version(masks=False),
    "v8 with masks": yolo_v8.version(masks=True),
    "SSD": ssd.ssd(),
    "Faster R-CNN": faster_rcnn.faster_rcnn(),
    "Faster R-CNN, one correction": faster_rcnn.faster_rcnn(each_class=False),
    "Cascade R-CNN": cascade_rcnn.cascade_rcnn(),
    "Cascade R-CNN, gradients shared": cascade_rcnn.cascade_rcnn(shared=True),
    "DETR": detr.detr(),
    "DETR, pre-norm": detr.detr(norm_first=True),
    "Deformable DETR": deformable_detr.deformable_detr(),
    "Deformable DETR, refined": deformable_detr.deformable_detr(refine=True),
    "Deformable DETR, two stages": deformable_detr.deformable_detr(True, True),
}


@pytest.fixture(params=VERSIONS)
def version(request):
    torch.manual_seed(0)
    return VERSIONS[request.param]


def target(boxes, labels=None, height=SIZE, width=SIZE):
    """Return a target whose objects fill their boxes."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.arange(len(boxes)) % CLASSES if labels is None else torch.tensor(labels)
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)
    masks = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    return {"boxes": boxes, "labels": labels, "masks": masks}


NOTHING = target([])
FEW = target([[10, 20, 40, 60], [60, 60, 100, 90], [85, 5, 110, 30]])
LARGE = target([[0, 0, 128, 128]])
UNUSUAL = {
    "one pixel": target([[50, 50, 51, 51]]),
    "at the border": target([[0, 0, 20, 30], [100, 90, 128, 128], [0, 64, 128, 80]]),
    "the whole image": LARGE,
    "without area": target([[30, 30, 30, 30]]),
    "twice the same": target([[10, 20, 40, 60], [10, 20, 40, 60]], [1, 1]),
}


def forward(version, targets, height=SIZE, width=SIZE):
    """Return the network and the loss of a batch of noise with these targets."""
    network = version.network()
    terms = version.criterion(network(torch.rand(len(targets), 3, height, width)), targets)
    return network, terms


def check_it_trains(network, terms):
    assert all(value.ndim == 0 for value in terms.values())
    loss = torch.stack(list(terms.values())).sum()
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in network.parameters())


def test_the_truth_as_raw_output_scores_1(version):
    targets = [FEW, NOTHING, LARGE]
    score = coco_map(version.postprocess(version.encode(targets, SIZE, SIZE)), targets)
    assert score.average_precision() == 1


def test_the_truth_as_raw_output_costs_next_to_nothing(version):
    targets = [FEW, LARGE]
    right = version.criterion(version.encode(targets, SIZE, SIZE), targets)
    wrong = version.criterion(version.encode([LARGE, FEW], SIZE, SIZE), targets)
    assert sum(right.values()) < 0.1 * sum(wrong.values())


def test_an_image_without_objects_trains(version):
    check_it_trains(*forward(version, [NOTHING, FEW]))


def test_a_batch_without_objects_trains_and_evaluates(version):
    network, terms = forward(version, [NOTHING, NOTHING])
    check_it_trains(network, terms)
    with torch.no_grad():
        found = version.postprocess(network.eval()(torch.rand(2, 3, SIZE, SIZE)))
    assert [set(one) >= {"boxes", "scores", "labels"} for one in found] == [True, True]


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_boxes_train(version, name):
    check_it_trains(*forward(version, [UNUSUAL[name], FEW]))


def test_three_hundred_objects_train(version):
    corners = torch.rand(300, 2) * 100
    many = target(torch.cat([corners, corners + 4 + 24 * torch.rand(300, 2)], 1).tolist())
    check_it_trains(*forward(version, [many, NOTHING]))


def test_an_image_that_is_not_square_trains(version):
    if version.square:
        pytest.skip("takes square images only")
    boxes = [[10, 20, 40, 60], [60, 60, 150, 90]]
    network, terms = forward(version, [target(boxes, None, 96, 160)] * 2, 96, 160)
    check_it_trains(network, terms)
    targets = [target(boxes, None, 96, 160)]
    score = coco_map(version.postprocess(version.encode(targets, 96, 160)), targets)
    assert score.average_precision() == 1


def test_a_batch_of_one_trains(version):
    check_it_trains(*forward(version, [FEW]))


def test_bfloat16_stays_finite(version):
    with torch.autocast("cpu", torch.bfloat16):
        network, terms = forward(version, [FEW, LARGE, NOTHING])
    assert all(value.dtype == torch.float32 for value in terms.values())
    check_it_trains(network, terms)


def test_the_order_of_the_objects_changes_nothing(version):
    raw = version.network()(torch.rand(2, 3, SIZE, SIZE))
    terms = version.criterion(raw, [FEW, LARGE])
    turned = {name: values.flip(0) for name, values in FEW.items()}
    others = version.criterion(raw, [turned, LARGE])
    assert terms.keys() == others.keys()
    for name, value in terms.items():
        torch.testing.assert_close(others[name], value, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient(version):
    # Objects of all sizes, so that every level has some.
    corners = [[x, y] for x in (2, 34, 66, 98) for y in (2, 34, 66, 98)]
    small = target([[x, y, x + 24, y + 24] for x, y in corners])
    network, terms = forward(version, [small, LARGE, FEW])
    torch.stack(list(terms.values())).sum().backward()
    unreached = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 1e-12
    ]
    assert unreached == list(version.silent)


def test_the_criterion_leaves_the_targets_alone(version):
    before = {name: values.clone() for name, values in FEW.items()}
    forward(version, [FEW])
    assert all(torch.equal(FEW[name], values) for name, values in before.items())
