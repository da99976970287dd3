import numpy as np
import pytest
import torch

from labs.data.augment import copy_paste, mixup
from labs.data.scenes import Scenes
from tests.data.solids import Solids, assert_honest, seen

PAIR = Solids([(40, 60), (50, 30)], [[(0, 0, 20, 20), (30, 10, 60, 40)], [(5, 5, 30, 50)]])
plain = {"scale": (1.0, 1.0), "flip": 0.0, "min_visible": 0.0}


def test_mixup_blends_and_keeps_all_objects_where_they_are():
    (first, a), (second, b) = PAIR
    image, target = mixup([*PAIR], np.random.default_rng(0))
    share = np.random.default_rng(0).beta(1.5, 1.5)
    assert image.shape == (3, 50, 60)
    both = share * first[:, :40, :30] + (1 - share) * second[:, :40, :30]
    torch.testing.assert_close(image[:, :40, :30], both)
    assert torch.equal(target["boxes"], torch.cat([a["boxes"], b["boxes"]]))
    assert target["labels"].tolist() == [0, 1, 2]
    assert target["masks"].shape == (3, 50, 60)
    assert target["masks"].sum((1, 2)).tolist() == [400, 900, 25 * 45]


def test_mixup_of_a_picture_with_itself_changes_no_pixel():
    image, _ = PAIR[0]
    mixed, target = mixup([PAIR[0], PAIR[0]], np.random.default_rng(0))
    torch.testing.assert_close(mixed, image)
    assert target["labels"].tolist() == [0, 1, 0, 1]


def test_mixup_shares_follow_alpha():
    black, white = (torch.zeros(3, 2, 2), PAIR[0][1]), (torch.ones(3, 2, 2), PAIR[0][1])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    spread = []
    for alpha in (0.2, 32.0):
        rng = np.random.default_rng(0)
        pair = [(black[0], empty), (white[0], empty)]
        values = [mixup(pair, rng, alpha=alpha)[0][0, 0, 0].item() for _ in range(300)]
        spread.append(np.std(values))
        assert np.mean(values) == pytest.approx(0.5, abs=0.08)
    expected = [(1 / (4 * (2 * alpha + 1))) ** 0.5 for alpha in (0.2, 32.0)]
    assert spread == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("seed", range(40))
def test_pasted_objects_hide_what_is_under_them(seed):
    """Rectangles that cover each other in part: a box must be the blob, whatever is hidden."""
    onto = Solids([(40, 60)] * 2, [[(0, 0, 20, 20), (30, 10, 60, 40)], [(15, 5, 45, 35)]])
    rng = np.random.default_rng(seed)
    image, target = copy_paste([*onto], rng, **{**plain, "flip": 0.5, "share": 0.7})
    assert_honest(image, target)


@pytest.mark.parametrize("seed", range(40))
def test_a_source_of_another_size_is_cut_at_the_border(seed):
    pair = Solids([(40, 60), (90, 30)], [[(0, 0, 9, 9)], [(0, 0, 15, 20), (5, 40, 30, 90)]])
    image, target = copy_paste([*pair], np.random.default_rng(seed), share=1.0, **plain)
    assert image.shape == (3, 40, 60)
    assert_honest(image, target)


def test_copy_paste_of_nothing_changes_nothing():
    image, target = copy_paste([*PAIR], np.random.default_rng(0), share=0.0)
    assert torch.equal(image, PAIR[0][0])
    assert all(torch.equal(target[name], PAIR[0][1][name]) for name in PAIR[0][1])


def test_copy_paste_onto_itself_changes_no_pixel():
    pair = [PAIR[0], PAIR[0]]
    image, target = copy_paste(pair, np.random.default_rng(0), share=1.0, **plain)
    assert torch.equal(image, PAIR[0][0])
    assert target["labels"].tolist() == [0, 1]  # those below are hidden, and dropped


def test_hidden_parts_and_the_least_that_must_be_visible():
    pair = Solids([(20, 20)] * 2, [[(0, 0, 10, 10)], [(2, 0, 20, 20)]])
    options = {"scale": (1.0, 1.0), "flip": 0.0, "share": 1.0}
    for least, labels in ((0.19, [0, 1]), (0.21, [1])):
        _, target = copy_paste([*pair], np.random.default_rng(0), min_visible=least, **options)
        assert target["labels"].tolist() == labels
    assert seen(copy_paste([*pair], np.random.default_rng(0), **options)[0])[0] == [0, 0, 2, 10]


def test_the_inputs_are_left_alone():
    before = [(image.clone(), target["boxes"].clone()) for image, target in PAIR]
    pair = [*PAIR]
    for augment in (mixup, copy_paste):
        augment(pair, np.random.default_rng(0))
    for (image, boxes), (now, target) in zip(before, pair, strict=True):
        assert torch.equal(image, now)
        assert torch.equal(boxes, target["boxes"])


def test_scenes_stay_sound():
    scenes = Scenes("train", 30, things=("photos", "digits"), objects=(0, 6))
    for k in range(30):
        rng = np.random.default_rng(k)
        image, target = copy_paste([scenes[k], scenes[(k + 1) % 30]], rng)
        assert image.shape == (3, 128, 128)
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
        assert target["masks"].sum(0).le(1).all()
        assert {len(rows) for rows in target.values()} == {len(target["labels"])}


def test_errors():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="mixup: expected 2 examples and alpha > 0, got 1"):
        mixup([PAIR[0]], rng)
    with pytest.raises(ValueError, match="alpha=0"):
        mixup([*PAIR], rng, alpha=0)
    bare = Solids(PAIR.sizes, PAIR.boxes, masks=False)
    with pytest.raises(ValueError, match=r"2 examples with masks, got 2 with \[\['boxes', 'labels"):
        copy_paste([*bare], rng)
    with pytest.raises(ValueError, match=r"share=1\.5"):
        copy_paste([*PAIR], rng, share=1.5)


def test_a_mirrored_source_mirrors_pixels_boxes_and_masks():
    """Nothing is below: what is pasted must be the second picture, seen in a mirror."""
    pair = Solids([(20, 20)] * 2, [[], [(1, 2, 7, 12)]])
    image, target = copy_paste([*pair], np.random.default_rng(0), **{**plain, "flip": 1.0}, share=1)
    assert target["boxes"].tolist() == [[13, 2, 19, 12]]
    assert_honest(image, target)


def test_a_blend_shows_each_picture_by_its_share():
    """The first picture has the share, and the second one what is left."""
    truth = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    pair = [(torch.ones(3, 4, 4), truth), (torch.zeros(3, 4, 4), truth)]
    for seed in range(5):
        share = np.random.default_rng(seed).beta(1.5, 1.5)
        image, _ = mixup(pair, np.random.default_rng(seed))
        torch.testing.assert_close(image, torch.full((3, 4, 4), share).float())
