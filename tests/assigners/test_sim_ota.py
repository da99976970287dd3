import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy, one_hot
from torchvision.ops import box_iou

from labs.assigners import MultiAnchor, Pairs, SimOTA, Truths
from labs.assigners.sim_ota import _choose, _distinct, class_cost
from labs.boxes.anchored import decode_anchored

ANCHORS = [[[12.0, 10.0], [20.0, 24.0]], [[30.0, 40.0], [50.0, 40.0]]]
STRIDES = (8, 16)
CLASSES = 4


def batch(seed, objects=12, images=3, height=48, width=80):
    """Return random maps and objects in float64; the network is sometimes nearly right."""
    torch.manual_seed(seed)
    maps = [
        torch.randn(images, 2, height // s, width // s, 5 + CLASSES, dtype=torch.float64)
        for s in STRIDES
    ]
    corner = torch.rand(objects, 2).double() * torch.tensor([width, height]) * 0.7
    boxes = torch.cat([corner, corner + 8 + 30 * torch.rand(objects, 2).double()], 1)
    image = torch.randint(images, (objects,)).sort().values
    return maps, Truths(boxes, torch.randint(CLASSES, (objects,)), image)


def slowly(maps, truths, candidates, box_cost=3.0, top=10):
    """Follow the definition with one loop per noun."""
    places = sorted(
        {
            tuple(column[i].item() for column in candidates.columns[:-1])
            for i in range(len(candidates))
        }
    )
    costs, chosen = {}, {}
    for t in range(len(truths)):
        ious = []
        for place in places:
            level, image, anchor, row, column = place
            if image != truths.image[t]:
                continue
            answer = maps[level][image, anchor, row, column]
            box = decode_anchored(
                answer[:4], torch.tensor([column, row]), torch.tensor(ANCHORS[level][anchor]),
                STRIDES[level],
            )  # fmt: skip
            iou = box_iou(box[None], truths.boxes[t][None]).item()
            p = (answer[4].sigmoid() * answer[5:].sigmoid()).sqrt()
            wanted = one_hot(truths.labels[t], CLASSES).double()
            classes = binary_cross_entropy(p, wanted, reduction="sum").item()
            costs[t, place] = classes - box_cost * math.log(max(iou, 1e-8))
            ious.append(iou)
        k = max(int(sum(sorted(ious)[-top:])), 1)
        mine = sorted((cost, place) for (owner, place), cost in costs.items() if owner == t)
        chosen[t] = {place for _, place in mine[:k]}
    pairs = set()
    for place in places:
        rivals = [(costs[t, place], t) for t in chosen if place in chosen[t]]
        if rivals:
            pairs.add((*place, min(rivals)[1]))
    return pairs


def as_set(pairs):
    return set(zip(*(column.tolist() for column in pairs.columns), strict=True))


@pytest.mark.parametrize("top", [3, 10])
@pytest.mark.parametrize("box_cost", [0.5, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_slow_definition(seed, box_cost, top):
    maps, truths = batch(seed)
    rule = MultiAnchor(ANCHORS, STRIDES)
    pairs = SimOTA(rule, ANCHORS, STRIDES, box_cost, top)(maps, truths)
    expected = slowly(maps, truths, rule(maps, truths), box_cost, top)
    assert as_set(pairs) == expected
    assert len(pairs) == len(expected) > 8


def test_no_place_serves_two_objects():
    # Two objects almost in one place compete for the same predictions.
    maps, _ = batch(0)
    boxes = torch.tensor([[10.0, 10, 30, 34], [11, 10, 31, 34], [10, 11, 30, 35]]).double()
    none = torch.zeros(3, dtype=torch.int64)
    assigner = SimOTA(MultiAnchor(ANCHORS, STRIDES), ANCHORS, STRIDES)
    pairs = assigner(maps, Truths(boxes, none, none))
    places = torch.stack(pairs.columns[:-1], 1)
    assert len(places.unique(dim=0)) == len(places) > 0


def test_rivals_lose_to_the_cheapest_as_by_trying_all():
    iou = torch.tensor([[0.9, 0.9, 0.2], [0.8, 0.9, 0.9]])  # k = 2 for both
    cost = torch.tensor([[1.0, 2.0, 9.0], [3.0, 1.5, 1.0]])
    truth, place = _choose(iou, cost)
    # Both want place 1; the second object has it cheaper. The first keeps place 0.
    assert list(zip(truth.tolist(), place.tolist(), strict=True)) == [(0, 0), (1, 1), (1, 2)]


def test_an_object_gets_as_many_places_as_its_ious_sum_to():
    iou = torch.tensor([[0.9, 0.8, 0.7, 0.1, 0.0], [0.1, 0.0, 0.0, 0.0, 0.0]])
    cost = torch.tensor([[5.0, 4, 3, 2, 1], [9, 9, 9, 9, 8.5]])
    truth, _ = _choose(iou, cost)
    assert truth.tolist() == [0, 0]  # two for 2.5; the other wanted one of the two as well
    alone, _ = _choose(iou[1:], cost[1:])
    assert alone.tolist() == [0]  # at least one


@pytest.mark.parametrize(("objects", "places"), [(0, 5), (3, 0), (0, 0)])
def test_nobody_to_pair(objects, places):
    truth, place = _choose(torch.zeros(objects, places), torch.zeros(objects, places))
    assert len(truth) == len(place) == 0


def test_an_image_without_candidates_gets_none():
    truth, place = _choose(torch.zeros(1, 4), torch.full([1, 4], torch.inf))
    assert len(truth) == len(place) == 0


def test_the_order_of_the_objects_changes_nothing():
    maps, truths = batch(4)
    order = torch.randperm(len(truths))
    turned = Truths(truths.boxes[order], truths.labels[order], truths.image[order])
    assigner = SimOTA(MultiAnchor(ANCHORS, STRIDES), ANCHORS, STRIDES)
    back = {(*pair[:-1], order[pair[-1]].item()) for pair in as_set(assigner(maps, turned))}
    assert back == as_set(assigner(maps, truths))


def test_distinct_places():
    columns = [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1], [2, 0, 2, 2], [3, 0, 3, 4], [5, 1, 2, 7]]
    places = _distinct(Pairs(*torch.tensor(columns)))
    assert as_set(places) == {(0, 0, 1, 2, 3, 2), (0, 0, 1, 2, 4, 7), (1, 0, 0, 0, 0, 1)}
    assert places.level.tolist() == [0, 0, 1]


def test_class_cost_stays_finite_where_the_network_is_sure():
    answers = torch.tensor([[100.0, 100, -100], [-100.0, -100, 100]], requires_grad=True)
    cost = class_cost(answers, torch.tensor([0, 1]))
    assert cost.isfinite().all()
    assert cost[0, 0] < 1e-4 < 10 < cost[1, 0]


def test_it_carries_no_gradient_and_leaves_the_maps_alone():
    maps, truths = batch(1)
    maps = [level.requires_grad_() for level in maps]
    before = [level.detach().clone() for level in maps]
    SimOTA(MultiAnchor(ANCHORS, STRIDES), ANCHORS, STRIDES)(maps, truths)
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))
    assert all(level.grad is None for level in maps)


def test_of_equal_costs_the_first_object_has_the_place():
    iou, cost = torch.full([2, 1], 0.9), torch.ones(2, 1)
    assert [part.tolist() for part in _choose(iou, cost)] == [[0], [0]]


def test_places_are_counted_once_however_many_objects_propose_them():
    maps, _ = batch(0)
    box = torch.tensor([[10.0, 10, 30, 34]]).double().expand(5, 4)
    none = torch.zeros(5, dtype=torch.int64)
    rule = MultiAnchor(ANCHORS, STRIDES)
    one = SimOTA(rule, ANCHORS, STRIDES)(maps, Truths(box[:1], none[:1], none[:1]))
    five = SimOTA(rule, ANCHORS, STRIDES)(maps, Truths(box, none, none))
    assert {pair[:-1] for pair in as_set(five)} == {pair[:-1] for pair in as_set(one)}
