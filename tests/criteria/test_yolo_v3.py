import math

import pytest
import torch

from labs.boxes import KINDS, overlap
from labs.criteria import YOLOv3Criterion

ANCHORS = (((8, 10), (14, 9)), ((20, 30), (44, 40)))
STRIDES, SIZES, C = (8, 16), ((6, 10), (3, 5)), 4  # an image of 48 x 80
HEIGHT, WIDTH = 48, 80


def make_case(seed):
    generator = torch.Generator().manual_seed(seed)
    raw = tuple(
        torch.randn(3, 2 * (5 + C), *size, generator=generator, dtype=torch.float64)
        for size in SIZES
    )
    targets = []
    for n in (6, 0, 12):
        corners = torch.rand(n, 2, 2, generator=generator, dtype=torch.float64)
        corners = (corners * torch.tensor([WIDTH, HEIGHT])).sort(1).values
        labels = torch.randint(C, (n,), generator=generator)
        targets.append({"boxes": corners.flatten(1), "labels": labels})
    return raw, targets


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def entropy(logit, target):
    p = sigmoid(logit)
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def predictions(raw, image, stretch):
    """Go through all predictions of an image: (level, anchor, row, column), numbers, box."""
    for level, shapes in enumerate(ANCHORS):
        stride, (rows, columns) = STRIDES[level], SIZES[level]
        for a, (aw, ah) in enumerate(shapes):
            for row in range(rows):
                for column in range(columns):
                    first = a * (5 + C)
                    t = raw[level][image, first : first + 5 + C, row, column].tolist()
                    cx = (column + sigmoid(t[0]) * stretch - (stretch - 1) / 2) * stride
                    cy = (row + sigmoid(t[1]) * stretch - (stretch - 1) / 2) * stride
                    w, h = aw * math.exp(t[2]), ah * math.exp(t[3])
                    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                    yield (level, a, row, column), t, torch.tensor(box, dtype=torch.float64)


def shape_iou(w, h, anchor):
    shared = min(w, anchor[0]) * min(h, anchor[1])
    return shared / (w * h + anchor[0] * anchor[1] - shared)


def choose(target):
    """Return the object of each place that has one."""
    winners = {}
    for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
        w, h = box[2] - box[0], box[3] - box[1]
        _, level, a = max(
            (shape_iou(w, h, anchor), level, a)
            for level, shapes in enumerate(ANCHORS)
            for a, anchor in enumerate(shapes)
        )
        column = int((box[0] + box[2]) / 2 // STRIDES[level])
        row = int((box[1] + box[3]) / 2 // STRIDES[level])
        key = (level, a, row, column)
        winners[key] = max(winners.get(key, (0,)), (w * h, box, label))
    return winners


def slow_terms(raw, targets, box="squared", weight=1.0, ignore=0.5, smoothing=0.0, stretch=1.0):
    names = ("centre", "size") if box == "squared" else ("box",)
    terms = dict.fromkeys((*names, "objectness", "no_object", "classes"), 0.0)
    for image, target in enumerate(targets):
        winners = choose(target)
        for key, t, decoded in predictions(raw, image, stretch):
            if key not in winners:
                ious = [overlap(decoded, truth).item() for truth in target["boxes"]]
                if max(ious, default=0) <= ignore:
                    terms["no_object"] += entropy(t[4], 0)
                continue
            _, truth, label = winners[key]
            level, a, row, column = key
            terms["objectness"] += entropy(t[4], 1)
            for c in range(C):
                wanted = (c == label) * (1 - smoothing) + smoothing / 2
                terms["classes"] += entropy(t[5 + c], wanted)
            if box != "squared":
                exact = torch.tensor(truth, dtype=torch.float64)
                terms["box"] += weight * (1 - overlap(decoded, exact, box).item())
                continue
            w, h = truth[2] - truth[0], truth[3] - truth[1]
            small = weight * (2 - w * h / (WIDTH * HEIGHT))
            tx = (truth[0] + truth[2]) / 2 / STRIDES[level] - column
            ty = (truth[1] + truth[3]) / 2 / STRIDES[level] - row
            for logit, inside in ((t[0], tx), (t[1], ty)):
                terms["centre"] += small * entropy(logit, (inside + (stretch - 1) / 2) / stretch)
            for said, side, anchor in (
                (t[2], w, ANCHORS[level][a][0]),
                (t[3], h, ANCHORS[level][a][1]),
            ):
                terms["size"] += small * (said - math.log(side / anchor)) ** 2 / 2
    return {name: term / len(targets) for name, term in terms.items()}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="as in v3"),
        pytest.param({"ignore": 0.2, "stretch": 1.2}, id="ignoring more, reaching further"),
        pytest.param({"box": "ciou", "weight": 0.07, "smoothing": 0.1, "ignore": 0.7}, id="v4"),
        *(pytest.param({"box": kind}, id=kind) for kind in KINDS[:3]),
    ],
)
def test_each_term_equals_a_loop_over_predictions(settings):
    raw, targets = make_case(len(settings))
    given = {("box_weight" if name == "weight" else name): s for name, s in settings.items()}
    terms = YOLOv3Criterion(ANCHORS, STRIDES, **given)(raw, targets)
    expected = slow_terms(raw, targets, **settings)
    assert list(terms) == list(expected)
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name], rel=1e-9), name


def one_object(box, seed=0):
    raw, _ = make_case(seed)
    raw = tuple(level[:1].clone().requires_grad_() for level in raw)
    target = {"boxes": torch.tensor([box], dtype=torch.float64), "labels": torch.tensor([3])}
    return raw, [target]


def test_the_gradient_of_the_box_is_prediction_minus_truth_as_the_paper_says():
    box = [33.0, 18.0, 41.0, 28.0]  # the shape of anchor 0: centre (37, 23), cell (4, 2)
    raw, targets = one_object(box)
    terms = YOLOv3Criterion(ANCHORS, STRIDES)(raw, targets)
    (terms["centre"] + terms["size"]).backward()
    t, gradient = raw[0][0, :4, 2, 4].detach(), raw[0].grad[0, :4, 2, 4]
    inside = torch.tensor([37 / 8 - 4, 23 / 8 - 2], dtype=torch.float64)
    difference = torch.cat([t[:2].sigmoid() - inside, t[2:]])  # log(1) = 0 is asked of w and h
    torch.testing.assert_close(gradient, (2 - 80 / (WIDTH * HEIGHT)) * difference)
    assert raw[0].grad.count_nonzero() == 4


def test_the_weight_of_an_object_depends_on_its_size_and_not_on_its_place():
    """A weight of 2 - x*y, for 2 - w*h, was met in the wild."""
    criterion = YOLOv3Criterion(ANCHORS, STRIDES)

    def size_term(x, y, w, h):
        raw = tuple(torch.ones(1, 2 * (5 + C), *size, dtype=torch.float64) for size in SIZES)
        box = torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]], dtype=torch.float64)
        return criterion(raw, [{"boxes": box, "labels": torch.tensor([0])}])["size"].item()

    assert size_term(12, 12, 8, 10) == pytest.approx(size_term(68, 36, 8, 10))
    error = (1 - 0) ** 2  # both ask for factors whose logarithm is 0, and are told 1
    assert size_term(40, 24, 8, 10) == pytest.approx((2 - 80 / 3840) * error)
    assert size_term(40, 24, 44, 40) == pytest.approx((2 - 1760 / 3840) * error)


def test_classes_do_not_compete():
    raw, targets = one_object([33.0, 18.0, 41.0, 28.0])
    YOLOv3Criterion(ANCHORS, STRIDES)(raw, targets)["classes"].backward()
    logits, gradient = raw[0][0, 5 : 5 + C, 2, 4].detach(), raw[0].grad[0, 5 : 5 + C, 2, 4]
    wanted = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(gradient, logits.sigmoid() - wanted)


def test_a_near_miss_is_neither_object_nor_background():
    raw, targets = one_object([32.0, 15.0, 40.0, 25.0])
    raw = tuple(level.detach() for level in raw)
    raw[0][:, 2:4] = raw[0][:, 9 + 2 : 9 + 4] = 0  # every box has the size of its anchor
    raw[0][:, 0:2] = raw[0][:, 9 : 9 + 2] = 0  # and stands in the middle of its cell
    for level in raw:
        level.requires_grad_()
    YOLOv3Criterion(ANCHORS, STRIDES)(raw, targets)["no_object"].backward()
    quiet = raw[0].grad[0].view(2, 5 + C, *SIZES[0])[:, 4] == 0
    assert quiet.nonzero().tolist() == [[0, 2, 4], [1, 2, 4]]  # the match, and its neighbour


def test_an_unknown_box_loss_is_refused():
    with pytest.raises(ValueError, match="'squared' or iou, giou, diou, ciou, got 'l1'"):
        YOLOv3Criterion(box="l1")


@pytest.mark.parametrize("box", [[-400.0, -400, 480, 480], [20.0, 20, 4000, 40]], ids=str)
def test_what_reaches_beyond_the_image_weighs_as_much_as_what_fills_it(box):
    raw = tuple(torch.ones(1, 2 * (5 + C), *size, dtype=torch.float64) for size in SIZES)
    target = {"boxes": torch.tensor([box], dtype=torch.float64), "labels": torch.tensor([0])}
    size = YOLOv3Criterion(ANCHORS, STRIDES)(raw, [target])["size"].item()
    w, h = box[2] - box[0], box[3] - box[1]
    share = min(w * h / (WIDTH * HEIGHT), 1)
    least = min(
        sum((1 - math.log(s / a)) ** 2 for s, a in zip((w, h), anchor, strict=True)) / 2
        for level in ANCHORS
        for anchor in level
    )
    assert size >= (2 - share) * least > 0


def test_a_prediction_that_overlaps_by_just_the_threshold_is_background():
    """Only above it a prediction is left alone."""
    square = (((16, 16), (400, 400)), ((500, 500), (600, 600)))
    raw = tuple(torch.zeros(1, 2 * (5 + C), *size, dtype=torch.float64) for size in SIZES)
    box = torch.tensor([[36.0, 12, 52, 28]], dtype=torch.float64)  # centre of cell (5, 2)
    target = {"boxes": box, "labels": torch.tensor([0])}
    overlap_of_the_next = overlap(box + torch.tensor([8.0, 0, 8, 0]), box).item()  # 1/3
    terms = {
        limit: YOLOv3Criterion(square, STRIDES, ignore=limit)(raw, [target])["no_object"].item()
        for limit in (overlap_of_the_next, overlap_of_the_next - 1e-9)
    }
    first, second = terms.values()
    assert first - second == pytest.approx(4 * math.log(2))  # the four neighbours
