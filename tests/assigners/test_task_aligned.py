"""The task-aligned assigner against a slow version, which follows the paper a number at a time."""

import pytest
import torch

from labs.assigners import TaskAligned
from labs.assigners.task_aligned import _first_best
from labs.boxes import cell_centres, overlap


def grid(size=64, strides=(8, 16)):
    """Return points of a square image, [P,2]."""
    cells = [
        cell_centres(size // s, size // s, torch.zeros(())).reshape(-1, 2) * s for s in strides
    ]
    return torch.cat(cells)


def random_boxes(n, generator, size=64):
    corners = torch.rand(n, 2, 2, generator=generator) * (size + 16) - 8
    return torch.cat([corners.amin(1), corners.amax(1)], -1)


def slowly(assigner, scores, boxes, points, object_boxes, object_labels):
    """Assign one image: objects [P] and quality [P]."""
    count = len(points)
    claims = [[] for _ in range(count)]  # (overlap, object) of each point
    every = overlap(object_boxes[:, None], boxes, "ciou").tolist()
    metric, agreement = {}, {}
    for g, (truth, label) in enumerate(zip(object_boxes, object_labels, strict=True)):
        x1, y1, x2, y2 = truth.tolist()
        for p in range(count):
            x, y = points[p].tolist()
            if x1 < x < x2 and y1 < y < y2:
                agreement[g, p] = max(every[g][p], 0.0)
                score = scores[p, label].item()
                metric[g, p] = score**assigner.alpha * agreement[g, p] ** assigner.beta
        mine = sorted((p for h, p in metric if h == g), key=lambda p: (-metric[g, p], p))
        for p in mine[: assigner.topk]:
            if metric[g, p] > 0:
                claims[p].append((agreement[g, p], -g))
    objects = [-max(claim)[1] if claim else -1 for claim in claims]
    quality = [0.0] * count
    for g in range(len(object_boxes)):
        mine = [p for p in range(count) if objects[p] == g]
        for p in mine:
            best = max(metric[g, q] for q in mine)
            quality[p] = metric[g, p] / best * max(agreement[g, q] for q in mine)
    return torch.tensor(objects), torch.tensor(quality, dtype=torch.float64)


def check(assigner, scores, boxes, points, targets):
    """Compare a batch, in float64, with one image after the other."""
    scores, boxes, points = scores.double(), boxes.double(), points.double()
    most = max(len(labels) for _, labels in targets)
    padded = torch.zeros(len(targets), most, 4, dtype=torch.float64)
    labels = torch.zeros(len(targets), most, dtype=torch.int64)
    exists = torch.zeros(len(targets), most, dtype=torch.bool)
    for i, (truth, label) in enumerate(targets):
        padded[i, : len(label)], labels[i, : len(label)] = truth.double(), label
        exists[i, : len(label)] = True
    found = assigner(scores, boxes, points, padded, labels, exists)
    for i, (truth, label) in enumerate(targets):
        objects, quality = slowly(assigner, scores[i], boxes[i], points, truth.double(), label)
        assert torch.equal(found.objects[i], objects)
        torch.testing.assert_close(found.quality[i], quality, rtol=1e-9, atol=1e-12)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_slow_version(seed):
    generator = torch.Generator().manual_seed(seed)
    points = grid()
    count = len(points)
    scores = torch.rand(3, count, 4, generator=generator)
    sides = torch.rand(3, count, 4, generator=generator) * 30
    boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)
    targets = []
    for _ in range(3):  # none, one or many objects, in one batch
        n = int(torch.randint(0, 7, (), generator=generator))
        labels = torch.randint(0, 4, (n,), generator=generator)
        targets.append((random_boxes(n, generator), labels))
    assigner = TaskAligned(topk=[1, 3, 10, 500][seed % 4], alpha=[0.5, 1, 0][seed % 3])
    check(assigner, scores, boxes, points, targets)


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_slow_version_where_nearly_everything_is_tied(seed):
    """Scores of 1/4 and 1 and boxes of two kinds make most metrics and overlaps equal."""
    generator = torch.Generator().manual_seed(seed)
    points = grid()
    shape = (2, len(points), 2)
    scores = torch.tensor([0.25, 1.0])[torch.randint(0, 2, shape, generator=generator)]
    kinds = torch.tensor([[8.0, 8, 40, 40], [24.0, 24, 56, 56]])
    boxes = kinds[torch.randint(0, 2, shape[:2], generator=generator)]
    truth = kinds[[0, 1, 0, 0]]  # twice the same object, even of the same class
    labels = torch.tensor([0, 1, 1, 0])
    found = check(TaskAligned(topk=5), scores, boxes, points, [(truth, labels)] * 2)
    assert (found.objects >= 0).any()


def test_one_object_that_covers_everything_gets_its_best_few():
    points = grid()
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(1, len(points), 3, generator=generator)
    boxes = torch.tensor([0.0, 0, 64, 64]).expand(1, len(points), 4)
    whole = torch.tensor([[0.0, 0, 64, 64]])
    found = check(TaskAligned(topk=10), scores, boxes, points, [(whole, torch.tensor([2]))])
    chosen = (found.objects[0] == 0).nonzero().flatten()
    assert set(chosen.tolist()) == set(scores[0, :, 2].topk(10).indices.tolist())
    assert found.quality.max() == 1  # the best box is the object


def test_topk_may_exceed_the_candidates_and_all_points():
    points = grid()
    scores = torch.ones(1, len(points), 1)
    small = torch.tensor([[10.0, 10, 14, 14]])  # one centre, (12, 12), at stride 8, none at 16
    boxes = small.expand(1, len(points), 4)
    found = check(TaskAligned(topk=1000), scores, boxes, points, [(small, torch.tensor([0]))])
    assert (found.objects >= 0).sum() == 1


def test_objects_without_a_point_or_without_overlap_get_nothing():
    points = grid()
    scores = torch.ones(1, len(points), 1)
    boxes = torch.tensor([60.0, 60, 64, 64]).expand(1, len(points), 4)
    truth = torch.tensor([[13.0, 13, 14, 14], [0.0, 0, 30, 30]])  # between the points; far away
    found = check(TaskAligned(), scores, boxes, points, [(truth, torch.tensor([0, 0]))])
    assert (found.objects == -1).all()
    assert found.quality.sum() == 0


def test_no_objects_at_all():
    points = grid()
    scores, boxes = torch.ones(2, len(points), 3), torch.zeros(2, len(points), 4)
    nothing = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0).bool()
    found = TaskAligned()(scores, boxes, points, *nothing)
    assert (found.objects == -1).all()
    assert found.objects.shape == found.quality.shape == (2, len(points))
    assert repr(found) == "Assignment(0 of 160 predictions answer for an object)"


def test_three_hundred_objects():
    generator = torch.Generator().manual_seed(0)
    points = grid(128)
    scores = torch.rand(1, len(points), 3, generator=generator)
    sides = torch.rand(1, len(points), 4, generator=generator) * 20
    boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)
    corner = torch.rand(300, 2, generator=generator) * 110
    truth = torch.cat([corner, corner + 5 + 15 * torch.rand(300, 2, generator=generator)], -1)
    labels = torch.randint(0, 3, (300,), generator=generator)
    found = TaskAligned()(
        scores, boxes, points, truth[None], labels[None], torch.ones(1, 300).bool()
    )
    chosen = found.objects[0] >= 0
    x, y = points[chosen].unbind(-1)
    x1, y1, x2, y2 = truth[found.objects[0][chosen]].unbind(-1)
    assert ((x1 < x) & (x < x2) & (y1 < y) & (y < y2)).all()
    assert torch.bincount(found.objects[0][chosen]).max() <= 10
    assert chosen.sum() > 100


def test_a_point_goes_to_the_object_it_overlaps_most_and_of_equals_to_the_first():
    points = torch.tensor([[12.0, 12.0]])
    box = torch.tensor([[[4.0, 4, 24, 24]]])
    truth = torch.tensor([[[0.0, 0, 40, 40], [4.0, 4, 24, 25], [4.0, 4, 24, 25]]])
    scores = torch.tensor([[[1.0, 0.1]]])
    found = TaskAligned()(
        scores, box, points, truth, torch.tensor([[0, 1, 1]]), torch.ones(1, 3).bool()
    )
    assert found.objects.item() == 1


@pytest.mark.parametrize("name", ["topk", "alpha", "beta"])
def test_each_setting_matters(name):
    generator = torch.Generator().manual_seed(1)
    points = grid()
    scores = torch.rand(1, len(points), 2, generator=generator)
    sides = torch.rand(1, len(points), 4, generator=generator) * 30
    boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)
    truth = torch.tensor([[[4.0, 4, 50, 50]]]), torch.tensor([[1]]), torch.ones(1, 1).bool()
    other = {"topk": 4, "alpha": 2.0, "beta": 1.0}[name]
    first = TaskAligned()(scores, boxes, points, *truth)
    second = TaskAligned(**{name: other})(scores, boxes, points, *truth)
    assert not torch.equal(first.quality, second.quality)


def test_equal_values_are_taken_in_their_order():
    values = torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0, 1.0]])
    assert _first_best(values, 4).tolist() == [[True, True, True, True, False, False]]
    assert _first_best(values, 9).all()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"expected topk >= 1, .* got topk=0"):
        TaskAligned(topk=0)
    with pytest.raises(ValueError, match="beta=-1"):
        TaskAligned(beta=-1)


THIN = {"110x3": [9.0, 13, 119, 16], "2x117": [45.0, 5, 47, 122]}  # between the cells' centres


def thin_case(name):
    points = grid(128)
    truth = torch.tensor([THIN[name]])
    boxes = (truth + torch.tensor([-2.0, -2, 2, 2])).expand(1, len(points), 4)
    return torch.ones(1, len(points), 1), boxes, points, [(truth, torch.tensor([0]))]


@pytest.mark.parametrize("name", THIN)
def test_a_thin_object_between_the_points_is_learned_only_with_a_least_side(name):
    scores, boxes, points, targets = thin_case(name)
    (truth, labels), everything = targets[0], torch.ones(1, 1).bool()
    lost = TaskAligned()(scores, boxes, points, truth[None], labels[None], everything)
    found = TaskAligned(least_side=16)(scores, boxes, points, truth[None], labels[None], everything)
    assert (lost.objects >= 0).sum() == 0
    assert (found.objects >= 0).sum() == 10
    x, y = points[found.objects[0] >= 0].T
    x1, y1, x2, y2 = THIN[name]
    across = (x - (x1 + x2) / 2).abs() < max(x2 - x1, 16) / 2
    assert (across & ((y - (y1 + y2) / 2).abs() < max(y2 - y1, 16) / 2)).all()
    assert found.quality.max() == overlap(truth, boxes[0, :1], "ciou")  # of the box as it is


def test_a_least_side_changes_nothing_for_what_is_larger():
    generator = torch.Generator().manual_seed(3)
    points = grid()
    scores = torch.rand(1, len(points), 2, generator=generator)
    sides = torch.rand(1, len(points), 4, generator=generator) * 30
    boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)
    truth = torch.tensor([[[4.0, 4, 20, 50], [30, 8, 60, 24]]])
    rest = torch.tensor([[1, 0]]), torch.ones(1, 2).bool()
    one, other = (TaskAligned(least_side=n)(scores, boxes, points, truth, *rest) for n in (0, 16))
    assert torch.equal(one.objects, other.objects)
    assert torch.equal(one.quality, other.quality)
    assert (one.objects >= 0).any()


@pytest.mark.parametrize("least_side", [0.0, 16.0])
def test_what_only_fills_up_a_batch_is_never_chosen(least_side):
    points = grid()
    scores = torch.ones(2, len(points), 2)
    whole = torch.tensor([0.0, 0, 64, 64])
    boxes = whole.expand(2, len(points), 4)
    small, nothing = torch.tensor([20.0, 20, 50, 50]), torch.zeros(4)
    truth = torch.stack([torch.stack([small, whole]), torch.stack([nothing, whole])])
    labels, exists = torch.zeros(2, 2).long(), torch.tensor([[True, False], [False, False]])
    found = TaskAligned(topk=500, least_side=least_side)(
        scores, boxes, points, truth, labels, exists
    )
    inside = ((points > 20) & (points < 50)).all(1)
    assert torch.equal(found.objects[0] >= 0, inside)
    assert found.objects.max() == 0
    assert (found.objects[1] == -1).all()
    assert not found.quality[1].any()


def test_a_point_on_the_rim_is_not_inside():
    points = torch.tensor([[12.0, 12.0]])
    boxes = torch.tensor([[[8.0, 8, 30, 30]]])
    for rim in ([12.0, 4, 30, 30], [4.0, 12, 30, 30], [4.0, 4, 12, 30], [4.0, 4, 30, 12]):
        truth = torch.tensor([[rim]])
        found = TaskAligned()(
            torch.ones(1, 1, 1), boxes, points, truth, torch.zeros(1, 1).long(), truth[..., 0] > 0
        )
        assert found.objects.item() == -1


def test_a_point_goes_to_nobody_who_did_not_choose_it():
    """The public program gives the second point to the first object, which it overlaps most."""
    points = torch.tensor([[10.0, 10], [14.0, 14]])
    truth = torch.tensor([[[0.0, 0, 20, 20], [0.0, 0, 24, 24]]])
    boxes = torch.tensor([[[0.0, 0, 20, 20], [0.0, 0, 21, 21]]])
    scores = torch.tensor([[[1.0, 0.01], [0.5, 1.0]]])
    found = TaskAligned(topk=1)(
        scores, boxes, points, truth, torch.tensor([[0, 1]]), torch.ones(1, 2).bool()
    )
    assert overlap(truth[0, 0], boxes[0, 1]) > overlap(truth[0, 1], boxes[0, 1])
    assert found.objects.tolist() == [[0, 1]]


def test_a_small_overlap_is_scaled_up_whole():
    """The public program's 1e-9 in the denominator would leave about a fiftieth of it."""
    points = torch.tensor([[8.0, 8.0]])
    truth, boxes = torch.tensor([[[0.0, 0, 16, 16]]]), torch.tensor([[[7.0, 7, 9.4, 9.4]]])
    found = TaskAligned()(
        torch.ones(1, 1, 1), boxes, points, truth, torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    )
    agreement = overlap(truth, boxes, "ciou").item()
    assert agreement**6 < 1e-9
    assert found.quality.item() == pytest.approx(agreement, rel=1e-6)


def test_scores_choose_by_their_power_and_overlaps_by_theirs():
    """With the powers swapped the second prediction would win."""
    points = torch.tensor([[8.0, 8.0], [9.0, 9.0]])
    truth = torch.tensor([[[0.0, 0, 16, 16]]])
    boxes = torch.tensor([[[0.0, 0, 16, 15], [0.0, 0, 16, 8]]])
    scores = torch.tensor([[[0.2], [0.9]]])
    found = TaskAligned(topk=1)(
        scores, boxes, points, truth, torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    )
    assert found.objects.tolist() == [[0, -1]]


def test_a_negative_least_side_is_refused():
    with pytest.raises(ValueError, match=r"least_side >= 0, got .*least_side=-1"):
        TaskAligned(least_side=-1)
