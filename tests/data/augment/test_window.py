"""Resizing, cutting and moving: each entry of a truth must follow its object, to the pixel."""

import pytest
import torch
from torch.nn.functional import interpolate

from labs.data.augment.window import _FOLLOWING, GREY, chosen, cut, following, joined, moved, resize
from tests.data.solids import Solids, assert_honest

FULL = {
    "boxes": torch.tensor([[2.0, 1.0, 7.0, 5.0], [0.0, 0.0, 3.0, 3.0]]),
    "labels": torch.tensor([4, 2]),
    "track_ids": torch.tensor([104, 102]),
    "iscrowd": torch.tensor([True, False]),
    "ignore": torch.tensor([False, True]),
}


def pixel_masks(h, w):
    """Return one mask for each pixel of a picture, and its box."""
    masks = torch.eye(h * w).view(h * w, h, w).bool()
    ys, xs = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    return masks, torch.stack([xs, ys, xs + 1, ys + 1], 1).float()


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 5), (10, 7), (5, 10)])
def test_a_mask_is_sampled_at_the_centres_of_the_new_pixels(size):
    """Nearest to its centre: pixel i of n shows what lay at (i + 0.5) / n of the picture."""
    ids = torch.arange(35).view(1, 5, 7)
    masks = ids == torch.arange(35)[:, None, None]
    target = {"boxes": torch.zeros(35, 4), "labels": torch.arange(35), "masks": masks}
    _, found = resize((torch.zeros(3, 5, 7), target), size)
    rows, columns = (
        ((torch.arange(n) + 0.5) * whole / n).long() for n, whole in zip(size, (5, 7), strict=True)
    )
    assert torch.equal(found["masks"].long().argmax(0), ids[0][rows][:, columns])
    assert found["masks"].dtype == torch.bool
    assert (found["masks"].sum(0) == 1).all()  # a pixel belongs to one object, as before


def test_a_mirrored_picture_is_resized_to_the_mirrored_masks():
    """What rounds to one side is seen here: left and right must be treated alike."""
    mask = torch.zeros(1, 6, 9).bool()
    mask[:, 1:4, 2:5] = True
    there = []
    for turned in (mask, mask.flip(2)):
        target = {"boxes": torch.zeros(1, 4), "labels": torch.zeros(1), "masks": turned}
        there.append(resize((torch.zeros(3, 6, 9), target), (6, 3))[1]["masks"])
    assert torch.equal(there[0], there[1].flip(2))


def test_boxes_are_scaled_by_their_own_side():
    image, target = resize((torch.rand(3, 10, 20), dict(FULL)), (30, 10))
    assert image.shape == (3, 30, 10)
    assert target["boxes"].tolist() == [[1.0, 3.0, 3.5, 15.0], [0.0, 0.0, 1.5, 9.0]]
    for name in _FOLLOWING:
        if name not in ("boxes", "masks"):
            assert torch.equal(target[name], FULL[name])


def test_the_picture_is_smoothed_and_stays_in_its_range():
    image = (torch.arange(16.0).view(1, 4, 4) % 2).expand(3, 4, 4)
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}
    small, _ = resize((image, target), (2, 2))
    expected = interpolate(image[None], (2, 2), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(small, expected.clamp(0, 1))
    assert 0.3 < small.min() <= small.max() < 0.7  # nearest would give 0 or 1


@pytest.mark.parametrize("corners", [(0, 0, 7, 5), (1, 0, 6, 4), (-2, -1, 4, 3), (3, 2, 10, 8)])
def test_a_window_keeps_exactly_its_pixels(corners):
    masks, boxes = pixel_masks(5, 7)
    image = torch.rand(3, 5, 7)
    target = {"boxes": boxes, "labels": torch.arange(35), "masks": masks}
    shown, found = cut((image, target), corners)
    x1, y1, x2, y2 = corners
    assert shown.shape == (3, y2 - y1, x2 - x1)
    inside = [(y, x) for y in range(5) for x in range(7) if y1 <= y < y2 and x1 <= x < x2]
    assert found["labels"].tolist() == [7 * y + x for y, x in inside]
    for (y, x), box, mask in zip(inside, found["boxes"].tolist(), found["masks"], strict=True):
        assert box == [x - x1, y - y1, x - x1 + 1, y - y1 + 1]
        assert mask.nonzero().tolist() == [[y - y1, x - x1]]
        assert torch.equal(shown[:, y - y1, x - x1], image[:, y, x])
    outside = torch.ones(y2 - y1, x2 - x1).bool()
    for y, x in inside:
        outside[y - y1, x - x1] = False
    assert (shown[:, outside] == torch.tensor(GREY)).all()


def test_what_is_cut_away_goes_with_all_that_is_its_own():
    masks = torch.zeros(2, 8, 8).bool()
    masks[0, 1:5, 2:7], masks[1, :3, :3] = True, True
    _, found = cut((torch.zeros(3, 8, 8), {**FULL, "masks": masks}), (4, 0, 8, 8))
    assert {name: len(rows) for name, rows in found.items()} == dict.fromkeys(found, 1)
    assert found["labels"].tolist() == [4]
    assert found["track_ids"].tolist() == [104]
    assert found["iscrowd"].tolist() == [True]
    assert found["ignore"].tolist() == [False]
    assert found["boxes"].tolist() == [[0, 1, 3, 5]]


@pytest.mark.parametrize("with_masks", [True, False])
def test_the_visible_part_is_that_of_the_mask_or_of_the_box(with_masks):
    """A triangle: the left half of its box holds a quarter of it."""
    triangle = (torch.arange(8)[:, None] >= 7 - torch.arange(8))[None]
    target = {"boxes": torch.tensor([[0.0, 0, 8, 8]]), "labels": torch.tensor([0])}
    if with_masks:
        target["masks"] = triangle
    part = (triangle[:, :, :4].sum() / triangle.sum()).item() if with_masks else 0.5
    for least, count in ((part - 0.01, 1), (part + 0.01, 0)):
        _, found = cut((torch.zeros(3, 8, 8), target), (0, 0, 4, 8), min_visible=least)
        assert len(found["labels"]) == count


def test_moving_moves_boxes_and_masks_alike():
    _, target = Solids([(10, 12)], [[(1, 2, 5, 6), (6, 0, 12, 3)]])[0]
    there = moved(target, 7, 4, (20, 30))
    assert torch.equal(there["boxes"], target["boxes"] + torch.tensor([7, 4, 7, 4]))
    assert there["masks"].shape == (2, 20, 30)
    assert torch.equal(there["masks"][:, 4:14, 7:19], target["masks"])
    assert there["masks"].sum() == target["masks"].sum()


def test_helpers_keep_rows_together_and_leave_their_input_alone():
    before = {name: rows.clone() for name, rows in FULL.items()}
    some = chosen(FULL, torch.tensor([False, True]))
    assert {name: rows.tolist() for name, rows in some.items()} == {
        name: rows[1:].tolist() for name, rows in FULL.items()
    }
    both = joined([FULL, {name: some[name] for name in some if name != "ignore"}])
    assert set(both) == set(FULL) - {"ignore"}
    assert both["labels"].tolist() == [4, 2, 2]
    assert set(following({**FULL, "semantic": 1, "visible": 2, "area": 3})) == set(FULL)
    assert all(torch.equal(FULL[name], rows) for name, rows in before.items())


def test_a_window_over_solids_is_honest():
    data = Solids([(20, 30)], [[(0, 0, 6, 7), (10, 5, 30, 20)]])
    for corners in ((0, 0, 30, 20), (3, 2, 28, 19), (-5, -5, 12, 12)):
        assert_honest(*cut(data[0], corners))
