from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.data.augment import Augmented, mosaic
from labs.data.scenes import Scenes
from tests.data.solids import Solids, assert_honest

SIZES = [(40, 60), (64, 64), (90, 30), (33, 77)]  # none of them the size of the result
BOXES = [
    [(0, 0, 11, 13), (20, 10, 60, 40)],  # at the corner; at two borders
    [(3, 5, 4, 6), (30, 30, 64, 64)],  # one pixel
    [(0, 80, 30, 90), (10, 0, 20, 9)],
    [(0, 0, 77, 33)],  # the whole tile
]
same = partial(mosaic, size=(64, 96), scale=(1.0, 1.0), min_visible=0.0)


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes alone"])
@pytest.mark.parametrize("seed", range(40))
def test_every_box_is_the_blob_of_its_colour(seed, masks):
    image, target = same([*Solids(SIZES, BOXES, masks)], np.random.default_rng(seed))
    assert image.shape == (3, 64, 96)
    assert_honest(image, target)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_any_sizes_and_boxes(seed, data):
    sizes, boxes = [], []
    for _ in range(4):
        h, w = data.draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
        x, y = data.draw(st.tuples(st.integers(0, w - 1), st.integers(0, h - 1)))
        x2, y2 = data.draw(st.tuples(st.integers(x + 1, w), st.integers(y + 1, h)))
        sizes.append((h, w))
        boxes.append([(x, y, x2, y2)])
    assert_honest(*same([*Solids(sizes, boxes)], np.random.default_rng(seed)))


def test_scaled_tiles_have_scaled_boxes():
    """At a factor of one half, blobs at even pixels stay sharp but for the antialiased rim."""
    boxes = [[(4, 4, 20, 20)], [(16, 4, 32, 24)], [(0, 0, 20, 32)], [(16, 12, 28, 32)]]
    tiles = [*Solids([(32, 32)] * 4, boxes)]  # so small that none is cut
    image, target = mosaic(
        tiles, np.random.default_rng(1), size=(64, 64), scale=(0.5, 0.5), min_visible=1.0
    )
    assert target["labels"].tolist() == [0, 1, 2, 3]
    for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
        x1, y1, x2, y2 = box
        assert mask.sum() == mask[y1:y2, x1:x2].sum() == (x2 - x1) * (y2 - y1)
        inner = image[:, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].flatten(1)
        assert inner.std(1).max() < 0.01  # one colour


def test_minimum_visible_part():
    tiles = [*Solids(SIZES, BOXES)]
    few = {}
    for part in (0.0, 0.3, 1.0):
        targets = [
            mosaic(tiles, np.random.default_rng(k), size=(64, 96), scale=(1, 1), min_visible=part)[
                1
            ]
            for k in range(30)
        ]
        few[part] = sum(len(target["labels"]) for target in targets)
        for target in targets:
            whole = torch.tensor([143, 1200, 1, 1156, 300, 90, 2541])[target["labels"]]
            assert (target["masks"].sum((1, 2)) >= part * whole).all()
    assert few[0.0] > few[0.3] > few[1.0] > 0


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes alone"])
def test_no_box_is_a_line(masks):
    keys = ("boxes", "labels", *(["masks"] if masks else []))
    scenes = Scenes("train", 40, things=("photos",), objects=(0, 6))
    tiles = [(image, {key: target[key] for key in keys}) for image, target in scenes]
    for k in range(60):
        rng = np.random.default_rng(k)
        chosen = [tiles[i] for i in rng.integers(40, size=4)]
        _, target = mosaic(chosen, rng, size=(128, 96), min_visible=0.0)
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
        assert (sides > 0).all()
        assert (target["boxes"] >= 0).all()
        assert (target["boxes"] <= torch.tensor([96, 128, 96, 128])).all()
        if masks:
            assert target["masks"].any(2).any(1).all()


def test_a_cut_object_has_a_tight_box_unless_it_is_not_wanted():
    """A disc: what is left of it is smaller than what is left of its box."""
    odd = 2 * torch.arange(64) - 63
    mask = (odd[:, None] ** 2 + odd**2 <= 64**2)[None]
    target = {"boxes": torch.tensor([[0.0, 0, 64, 64]]), "labels": torch.tensor([0]), "masks": mask}
    tiles = [(torch.zeros(3, 64, 64), target)] * 4
    tight, loose = (
        same(tiles, np.random.default_rng(0), tight=tight)[1] for tight in (True, False)
    )
    assert torch.equal(tight["masks"], loose["masks"])
    assert not torch.equal(tight["boxes"], loose["boxes"])
    for box, mask in zip(tight["boxes"].tolist(), tight["masks"], strict=True):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_pictures_without_objects():
    image, target = same([*Solids(SIZES, [[], [], [], []])], np.random.default_rng(0))
    assert image.shape == (3, 64, 96)
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 64, 96)
    assert target["labels"].dtype == torch.int64


def test_errors():
    tiles = [*Solids(SIZES, BOXES)]
    with pytest.raises(ValueError, match=r"expected 4 examples.* got 1.*partners=3"):
        mosaic(tiles[:1], np.random.default_rng(0), size=(64, 64))
    with pytest.raises(ValueError, match=r"scale\[0\]"):
        mosaic(tiles, np.random.default_rng(0), size=(64, 64), scale=(0, 1))


def test_as_a_data_set():
    data = Augmented(Scenes("train", 5), partial(mosaic, size=(128, 128)), partners=3)
    assert {image.shape for image, _ in data} == {(3, 128, 128)}


@pytest.mark.parametrize("seed", range(5))
def test_each_quadrant_has_the_labels_of_its_own_picture(seed):
    """Four pictures that are full of one object: the label of a quadrant is that of its tile."""
    tiles = [*Solids([(64, 96)] * 4, [[(0, 0, 96, 64)]] * 4)]
    image, target = same(tiles, np.random.default_rng(seed))
    assert target["labels"].tolist() == target["track_ids"].sub(100).tolist() == [0, 1, 2, 3]
    right, below = (target["boxes"][:, k] > 0 for k in (0, 1))
    assert right.tolist() == [False, True, False, True]
    assert below.tolist() == [False, False, True, True]
    assert target["boxes"][0, 2:].tolist() == target["boxes"][3, :2].tolist()  # they meet there
    assert target["masks"].sum(0).eq(1).all()  # every pixel is one tile's
    assert_honest(image, target)
