import pytest
import torch

from labs.assigners import BestAnchor
from labs.boxes import overlap

ANCHORS = (((8, 10), (14, 9)), ((20, 30), (44, 40)))
STRIDES, SIZES = (8, 16), ((6, 10), (3, 5))  # an image of 48 x 80
PLACES = 2 * 6 * 10 + 2 * 3 * 5


def random_boxes(n, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=generator, dtype=torch.float64)
    return (corners.sort(1).values * torch.tensor([80, 48])).flatten(1)


def shape_iou(box, anchor):
    w, h = box[2] - box[0], box[3] - box[1]
    shared = min(w, anchor[0]) * min(h, anchor[1])
    return shared / (w * h + anchor[0] * anchor[1] - shared)


def slow(boxes, image):
    """Choose by sorting every object's anchors, and settle collisions in a dict."""
    winners = {}
    for t, box in enumerate(boxes.tolist()):
        choices = [
            (shape_iou(box, anchor), level, a)
            for level, shapes in enumerate(ANCHORS)
            for a, anchor in enumerate(shapes)
        ]
        _, level, a = max(choices)
        column = int((box[0] + box[2]) / 2 // STRIDES[level])
        row = int((box[1] + box[3]) / 2 // STRIDES[level])
        area = (box[2] - box[0]) * (box[3] - box[1])
        key = (int(image[t]), level, a, row, column)
        winners[key] = max(winners.get(key, (0, -1)), (area, t))
    return {(t, *key) for key, (_, t) in winners.items()}


@pytest.mark.parametrize("seed", range(4))
def test_it_equals_a_loop_over_objects(seed):
    boxes, image = random_boxes(60, seed), torch.arange(60) // 30
    found = BestAnchor(ANCHORS, STRIDES)(boxes, image, SIZES)
    columns = (found.target, found.image, found.level, found.anchor, found.row, found.column)
    assert {tuple(map(int, row)) for row in zip(*columns, strict=True)} == slow(boxes, image)
    assert len(found.target) < 60


def test_the_place_counts_by_level_anchor_row_column():
    places = [
        (level, a, row, column)
        for level, (rows, columns) in enumerate(SIZES)
        for a in range(2)
        for row in range(rows)
        for column in range(columns)
    ]
    assert len(places) == PLACES
    boxes = random_boxes(40, 9)
    found = BestAnchor(ANCHORS, STRIDES)(boxes, torch.zeros(40, dtype=torch.int64), SIZES)
    named = zip(found.level, found.anchor, found.row, found.column, strict=True)
    assert [places[int(p)] for p in found.place] == [tuple(map(int, row)) for row in named]


def test_an_object_of_the_shape_of_an_anchor_fits_it_exactly():
    sizes = torch.tensor([shape for level in ANCHORS for shape in level], dtype=torch.float64)
    corner = torch.tensor([[7.5, 3.25]], dtype=torch.float64).expand(4, 2)
    fit = BestAnchor(ANCHORS, STRIDES).fit(torch.cat([corner, corner + sizes], 1))
    assert fit.argmax(1).tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(fit.diagonal(), torch.ones(4, dtype=torch.float64))
    assert (fit <= 1).all()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_ignored_are_the_predictions_that_overlap_an_object_of_their_image(threshold):
    predicted = random_boxes(3 * 20, 1).view(3, 20, 4)
    boxes, image = random_boxes(9, 2), torch.tensor([0, 0, 0, 0, 0, 2, 2, 2, 2])  # none in image 1
    predicted[:, :9] = boxes + 1  # so that some overlap much, in each image
    ignored = BestAnchor(ANCHORS, STRIDES, threshold).ignored(predicted, boxes, image)
    for i in range(3):
        for p in range(20):
            mine = [
                overlap(predicted[i, p], b) > threshold
                for b, at in zip(boxes, image, strict=True)
                if at == i
            ]
            assert ignored[i, p] == any(mine)
    assert 0 < ignored.sum() < ignored.numel()


def test_ignoring_concerns_single_predictions_not_whole_maps():
    predicted = torch.zeros(1, PLACES, 4, dtype=torch.float64)
    predicted[0, 17] = torch.tensor([8.0, 8.0, 16.0, 18.0])
    truth = torch.tensor([[8.0, 8.0, 16.0, 17.0]], dtype=torch.float64)
    ignored = BestAnchor(ANCHORS, STRIDES).ignored(predicted, truth, torch.tensor([0]))
    assert ignored.nonzero().tolist() == [[0, 17]]


def test_a_centre_on_the_far_edge_belongs_to_the_last_cell():
    edge = torch.tensor([[80.0, 48.0, 80.0, 48.0], [60.0, 28.0, 100.0, 68.0]])
    found = BestAnchor(ANCHORS, STRIDES)(edge, torch.tensor([0, 0]), SIZES)
    cells = {
        (int(lv), int(r), int(c))
        for lv, r, c in zip(found.level, found.row, found.column, strict=True)
    }
    assert cells == {(0, 5, 9), (1, 2, 4)}


def test_no_object_no_match_and_nothing_ignored():
    assigner, nothing = BestAnchor(ANCHORS, STRIDES), torch.zeros(0, 4)
    found = assigner(nothing, torch.zeros(0, dtype=torch.int64), SIZES)
    assert [len(part) for part in vars(found).values()] == [0] * 7
    ignored = assigner.ignored(torch.ones(2, PLACES, 4), nothing, torch.zeros(0, dtype=torch.int64))
    assert ignored.shape == (2, PLACES)
    assert not ignored.any()


def test_of_anchors_that_fit_equally_the_first_answers():
    square = torch.tensor([[10.0, 10, 30, 30]])
    found = BestAnchor((((10, 40), (40, 10)), ((10, 40), (40, 10))), STRIDES)(
        square, torch.tensor([0]), SIZES
    )
    assert (found.level.item(), found.anchor.item()) == (0, 0)


def test_of_equally_large_objects_in_a_place_the_first_stays():
    twice = torch.tensor([[10.0, 10, 30, 30], [10, 10, 30, 30], [9, 9, 29, 29]])
    found = BestAnchor(ANCHORS, STRIDES)(twice, torch.zeros(3).long(), SIZES)
    assert found.target.tolist() == [0]


def test_an_overlap_of_just_the_threshold_is_not_ignored():
    truth = torch.tensor([[0.0, 0, 16, 16]])
    predicted = torch.tensor([[[0.0, 0, 16, 8], [0.0, 0, 16, 8.5]]])  # IoU 1/2, and more
    ignored = BestAnchor(ANCHORS, STRIDES, 0.5).ignored(predicted, truth, torch.tensor([0]))
    assert ignored.tolist() == [[False, True]]
