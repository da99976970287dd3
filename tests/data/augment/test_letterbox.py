import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labs.data.augment import letterbox, letterboxed, unletterbox
from labs.data.augment.window import GREY
from labs.data.scenes import collate
from tests.data.solids import Solids, assert_honest, seen


def test_a_picture_of_the_size_is_not_changed():
    data = Solids([(64, 96)], [[(0, 0, 20, 20), (30, 10, 96, 64)]])
    image, target = letterbox(data[0], (64, 96))
    assert torch.equal(image, data[0][0])
    assert all(torch.equal(target[name], rows) for name, rows in data[0][1].items())


@pytest.mark.parametrize(
    ("size", "room"), [((64, 30), (0, 17, 64, 47)), ((20, 64), (0, 0, 0, 0)), ((63, 63), None)]
)
def test_room_is_split_and_grey(size, room):
    data = Solids([size], [[(0, 0, size[1], size[0])]])
    image, target = letterbox(data[0], (64, 64))
    assert image.shape == (3, 64, 64)
    x1, y1, x2, y2 = (int(v) for v in target["boxes"][0].tolist())
    left, right, top, bottom = x1, 64 - x2, y1, 64 - y2
    assert min(left, top) == 0
    assert abs(left - right) <= 1
    assert abs(top - bottom) <= 1
    outside = torch.ones(64, 64).bool()
    outside[y1:y2, x1:x2] = False
    assert (image[:, outside] == torch.tensor(GREY)).all()
    assert seen(image)[0] == target["boxes"][0].tolist()
    assert torch.equal(target["masks"][0], ~outside)


def test_boxes_are_the_blobs_when_nothing_is_scaled():
    data = Solids([(64, 31), (40, 64)], [[(0, 0, 11, 13), (20, 10, 31, 64)], [(0, 30, 1, 31)]])
    for example in data:
        assert_honest(*letterbox(example, (64, 64)))


@given(
    h=st.integers(1, 500),
    w=st.integers(1, 500),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    corners=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_the_inverse_brings_boxes_back(h, w, size, corners):
    (xa, ya, xb, yb), most = corners, torch.tensor([w, h, w, h])
    box = torch.tensor([[min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)]]) * most
    picture = torch.zeros(3, h, w)
    target = {"boxes": box, "labels": torch.tensor([0])}
    _, there = letterbox((picture, target), size)
    if len(there["boxes"]):  # a box without area is dropped
        back = unletterbox(there["boxes"], (h, w), size)
        torch.testing.assert_close(back, box, atol=1e-3 * max(h, w) / min(size), rtol=1e-4)


def test_the_inverse_clips_to_the_original():
    boxes = torch.tensor([[-5.0, -5.0, 64.0, 64.0]])
    assert unletterbox(boxes, (32, 64), (64, 64)).tolist() == [[0, 0, 64, 32]]
    assert unletterbox(torch.zeros(0, 4), (32, 64), (64, 64)).shape == (0, 4)


def test_pictures_of_different_sizes_can_be_collated():
    data = Solids([(40, 60), (90, 30)], [[(0, 0, 20, 20)], []])
    with pytest.raises(ValueError, match="resize them first"):
        collate([*data])
    images, targets = collate([*letterboxed(data, (64, 64))])
    assert images.shape == (2, 3, 64, 64)
    assert [len(target["boxes"]) for target in targets] == [1, 0]


def test_errors():
    with pytest.raises(ValueError, match=r"sizes \(height, width\) >= 1, got \(4, 4\) into \(0, 8"):
        letterbox((torch.zeros(3, 4, 4), {"boxes": torch.zeros(0, 4)}), (0, 8))
