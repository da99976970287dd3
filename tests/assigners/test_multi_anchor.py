import math

import pytest
import torch

from labs.assigners import MultiAnchor, Pairs, Truths

ANCHORS = [[[8.0, 10.0], [20.0, 14.0]], [[30.0, 40.0], [70.0, 50.0]]]
STRIDES = (8, 16)


def maps(height, width, images=3):
    sizes = [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]
    return [torch.zeros(images, 2, *size, 7) for size in sizes]


def truths(boxes, image=None, labels=None):
    boxes = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    none = torch.zeros(len(boxes), dtype=torch.int64)
    return Truths(
        boxes, none if labels is None else labels, none if image is None else torch.tensor(image)
    )


def as_set(pairs):
    listed = list(zip(*(column.tolist() for column in pairs.columns), strict=True))
    assert len(set(listed)) == len(listed)
    return set(listed)


def slowly(levels, truth, ratio=4.0, neighbours=True):
    """Follow the rule object by object, anchor by anchor, cell by cell."""
    pairs = set()
    for level, (one, stride) in enumerate(zip(levels, STRIDES, strict=True)):
        height, width = one.shape[2:4]
        for t, (x1, y1, x2, y2) in enumerate(truth.boxes.tolist()):
            x, y = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
            column = min(max(math.floor(x), 0), width - 1)
            row = min(max(math.floor(y), 0), height - 1)
            cells = [(row, column)]
            if neighbours and x - column != 0.5:
                cells.append((row, column - 1 if x - column < 0.5 else column + 1))
            if neighbours and y - row != 0.5:
                cells.append((row - 1 if y - row < 0.5 else row + 1, column))
            for a, (w, h) in enumerate(ANCHORS[level]):
                sides = [(x2 - x1) / w, (y2 - y1) / h]
                if min(sides) <= 0 or max(max(r, 1 / r) for r in sides) >= ratio:
                    continue
                for r, c in cells:
                    if 0 <= r < height and 0 <= c < width:
                        pairs.add((level, truth.image[t].item(), a, r, c, t))
    return pairs


@pytest.mark.parametrize("neighbours", [True, False])
@pytest.mark.parametrize("ratio", [1.5, 4.0])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 112), (100, 36)])
def test_equal_to_the_slow_rule(height, width, ratio, neighbours):
    torch.manual_seed(height + width)
    corner = torch.rand(60, 2).double() * torch.tensor([width, height]) * 0.9
    size = 80 * torch.rand(60, 2).double() ** 2 + 1
    truth = truths(torch.cat([corner, corner + size], 1), torch.randint(3, (60,)).tolist())
    levels = maps(height, width)
    pairs = MultiAnchor(ANCHORS, STRIDES, ratio, neighbours)(levels, truth)
    expected = slowly(levels, truth, ratio, neighbours)
    assert as_set(pairs) == expected
    assert len(expected) > 5


def test_a_centre_takes_the_two_nearest_neighbours():
    # Centre (20, 12): cell (1, 2) of stride 8, at 0.5 across (no neighbour) and 0.5 down (none).
    box = [[16, 7, 24, 17]]
    between = MultiAnchor([[[8, 10]]], [8])(maps(64, 64)[:1], truths(box))
    assert as_set(between) == {(0, 0, 0, 1, 2, 0)}
    left = MultiAnchor([[[8, 10]]], [8])(maps(64, 64)[:1], truths([[14, 7.5, 22, 17.5]]))
    assert as_set(left) == {(0, 0, 0, 1, 2, 0), (0, 0, 0, 1, 1, 0), (0, 0, 0, 2, 2, 0)}


@pytest.mark.parametrize(("height", "width"), [(48, 112), (112, 48)])
@pytest.mark.parametrize("x", ["first", "last"])
@pytest.mark.parametrize("y", ["first", "last"])
def test_a_centre_on_the_border_belongs_to_the_last_cell(height, width, x, y):
    # The bug of a limit at W instead of W-1, seen only at the right and lower border.
    centre = torch.tensor([0.0 if x == "first" else width, 0.0 if y == "first" else height])
    size = torch.tensor([8.0, 10.0])
    levels = maps(height, width)
    pairs = MultiAnchor(ANCHORS, STRIDES)(
        levels, truths(torch.cat([centre - size / 2, centre + size / 2]))
    )
    assert len(pairs)
    for level, one in enumerate(levels):
        here = pairs[pairs.level == level]
        row, column = (
            (0 if y == "first" else one.shape[2] - 1),
            (0 if x == "first" else one.shape[3] - 1),
        )
        assert set(here.row.tolist()) <= {row}
        assert set(here.column.tolist()) <= {column}
        one[here.places]  # an index error, were it out of range


@pytest.mark.parametrize(
    "boxes", [[], [[30, 30, 30, 30]], [[0, 0, 1, 1]], [[0, 0, 64, 0]]], ids=str
)
def test_what_no_anchor_fits_has_no_place(boxes):
    pairs = MultiAnchor(ANCHORS, STRIDES)(maps(64, 64), truths(boxes))
    assert len(pairs) == 0
    assert all(column.dtype == torch.int64 for column in pairs.columns)


def test_the_limit_of_the_ratio_is_excluded():
    fits = MultiAnchor([[[10, 10]]], [8]).fits(0, torch.tensor([[0, 0, 40, 10], [0, 0, 39.9, 2.6]]))
    assert fits.tolist() == [[False], [True]]


def test_more_neighbours_mean_up_to_three_times_the_places():
    box = truths([[26, 26, 34, 36]])
    many, few = (
        MultiAnchor(ANCHORS, STRIDES, neighbours=n)(maps(64, 64), box) for n in (True, False)
    )
    assert len(many) == 3 * len(few) > 0


def test_anchors_may_be_a_tensor():
    box, levels = truths([[26, 26, 34, 36]]), maps(64, 64)
    ours = MultiAnchor(torch.tensor(ANCHORS), STRIDES)(levels, box)
    assert as_set(ours) == as_set(MultiAnchor(ANCHORS, STRIDES)(levels, box))


@pytest.mark.parametrize(
    ("anchors", "strides"), [(ANCHORS, (8,)), ([[[8, 8]], [[8, 8], [9, 9]]], (8, 16))], ids=str
)
def test_anchors_that_do_not_fit_the_strides_are_refused(anchors, strides):
    with pytest.raises(ValueError, match="expected one row of anchors per stride"):
        MultiAnchor(anchors, strides)


def test_truths_are_stacked_image_by_image():
    targets = [
        {"boxes": torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]), "labels": torch.tensor([4, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": torch.tensor([[2.0, 2, 3, 3]]), "labels": torch.tensor([1])},
    ]
    stacked = Truths.of(targets, like=torch.zeros(1, dtype=torch.float64))
    assert stacked.image.tolist() == [0, 0, 2]
    assert stacked.labels.tolist() == [4, 2, 1]
    assert stacked.boxes.dtype == torch.float64
    assert len(stacked) == 3


def test_pairs_can_be_picked_and_joined():
    pairs = Pairs(*torch.arange(18).view(6, 3))
    again = Pairs.join([pairs[torch.tensor([0])], pairs[torch.tensor([False, True, True])]])
    assert [column.tolist() for column in again.columns] == torch.arange(18).view(6, 3).tolist()
    assert pairs.corners.tolist() == [[12, 9], [13, 10], [14, 11]]  # column, row


@pytest.mark.parametrize("box", [[30, 10, 10, 24], [10, 24, 30, 10], [30, 24, 10, 10]], ids=str)
def test_a_box_inside_out_fits_no_anchor(box):
    assert not MultiAnchor(ANCHORS, STRIDES).fits(0, torch.tensor([box]).float()).any()
    assert len(MultiAnchor(ANCHORS, STRIDES)(maps(64, 64), truths([box]))) == 0
