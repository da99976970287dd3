from collections import Counter

import pytest
import torch

from labs.data import flowers, flowers_with_masks, photos, photos_with_masks
from labs.data.cutouts import CLASSES, GROUPS, SPLITS, load_backgrounds, load_cutouts
from labs.evaluate import evaluating
from labs.models.mobilenet import mobilenet_v2

NAMES = [
    "dumper",
    "marigold",
    "otter",
    "coraltrout",
    "turkey",
    "hornet",
    "apple_sierra_beauty",
    "carrot",
]
MEANS = [0.4949, 0.365, 0.4158, 0.4515, 0.4152, 0.3898, 0.5416, 0.4231]


def test_pictures_keep_the_conventions():
    found = photos_with_masks("val", n=9, size=40)
    assert found.data.images.shape == (9, 3, 40, 40)
    assert found.data.images.dtype == torch.float32
    assert found.data.images.is_contiguous()
    assert found.data.images.min() >= 0
    assert found.data.images.max() <= 1
    assert found.data.classes == CLASSES
    assert found.masks.shape == (9, 40, 40)
    assert found.masks.dtype == torch.bool
    assert len(found.groups) == len(found.places) == 9
    assert repr(found).startswith("Composed(ImageSet(9 images 3x40x40, 8 classes)")


def test_same_arguments_same_pictures():
    first, again = photos(n=12, size=32, seed=3), photos(n=12, size=32, seed=3)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, photos(n=12, size=32, seed=4).images)


def test_first_pictures_of_more_are_the_same():
    few, many = photos("test", n=10, size=32), photos("test", n=30, size=32)
    assert torch.equal(few.images, many.images[:10])
    assert torch.equal(few.sources, many.sources[:10])


def test_pictures_are_those_of_every_machine():
    """Resampling may round another way on another processor, so means are compared, not bytes."""
    data = photos("test", n=8, size=32, seed=0)
    names = {cutout.source: cutout.name for cutout in load_cutouts()}
    assert [names[source] for source in data.sources.tolist()] == NAMES
    assert torch.allclose(data.images.mean((1, 2, 3)), torch.tensor(MEANS), atol=1e-3)


@pytest.mark.parametrize("make", [photos_with_masks, flowers_with_masks])
def test_splits_share_no_object_and_no_background(make):
    found = {split: make(split, n=120, size=16) for split in SPLITS}
    for what in (lambda c: c.data.sources.tolist(), lambda c: c.places):
        train, val, test = (set(what(composed)) for composed in found.values())
        assert train.isdisjoint(val | test)
        assert val.isdisjoint(test)


def test_all_objects_and_backgrounds_of_a_split_are_used():
    found = photos_with_masks("test", n=160, size=16)
    assert set(found.data.sources.tolist()) == {
        c.source for c in load_cutouts() if c.split == "test"
    }
    assert set(found.places) == {b.name for b in load_backgrounds() if b.split == "test"}


@pytest.mark.parametrize("n", [1, 8, 20, 80])
def test_photos_are_balanced(n):
    counts = photos("train", n=n, size=16).counts().values()
    assert max(counts) - min(counts) <= 1


def test_labels_name_what_is_shown():
    kinds = {cutout.source: cutout.kind for cutout in load_cutouts()}
    data = photos("train", n=64, size=16)
    shown = [kinds[source] for source in data.sources.tolist()]
    assert [data.classes[label] for label in data.labels] == shown


def test_flowers_are_half_and_the_others_come_evenly():
    kinds = {cutout.source: cutout.kind for cutout in load_cutouts()}
    data = flowers("train", n=140, size=16)
    assert data.counts() == {"flower": 70, "other": 70}
    shown = Counter(kinds[source] for source in data.sources.tolist())
    assert shown.pop("flowers") == 70
    assert shown == dict.fromkeys((kind for kind in CLASSES if kind != "flowers"), 10)


def test_mask_is_where_the_object_is():
    """Only the object stays when the background changes, so the mask can be measured."""
    on_grass = {kind: {"green": 1} for kind in CLASSES}
    indoors = {kind: {"indoors": 1} for kind in CLASSES}
    here = photos_with_masks("train", n=40, size=64, backgrounds=on_grass)
    there = photos_with_masks("train", n=40, size=64, backgrounds=indoors)
    assert torch.equal(here.masks, there.masks)
    assert torch.equal(here.data.sources, there.data.sources)
    difference = (here.data.images - there.data.images).abs().mean(1)  # [N,H,W]
    assert difference[here.masks].mean() < 0.03
    assert difference[~here.masks].mean() > 0.15
    share = here.masks.float().mean((1, 2))
    assert (share > 0.02).all()
    assert (share < 0.6).all()


def test_backgrounds_follow_their_shares():
    shares = {"flower": {"green": 9, "street": 1}, "other": {"indoors": 0.5}}
    found = flowers_with_masks("train", n=400, size=16, backgrounds=shares)
    of_flowers = Counter(g for g, y in zip(found.groups, found.data.labels, strict=True) if y == 0)
    assert set(of_flowers) == {"green", "street"}
    assert 165 <= of_flowers["green"] <= 195  # 180 of 200 are expected, give or take 3.5 deviations
    assert {g for g, y in zip(found.groups, found.data.labels, strict=True) if y == 1} == {
        "indoors"
    }


def test_class_that_is_not_named_has_all_backgrounds():
    found = flowers_with_masks("test", n=200, size=16, backgrounds={"flower": {"water": 1}})
    others = [g for g, y in zip(found.groups, found.data.labels, strict=True) if y == 1]
    assert set(others) == set(GROUPS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "expected split 'train', 'val' or 'test', got 'valid'"),
        ({"n": 0}, "expected n >= 1"),
        ({"size": 15}, "size >= 16, seed >= 0, got n=800, size=15"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        photos(**arguments)


@pytest.mark.parametrize(
    ("backgrounds", "message"),
    [
        pytest.param({"bird": {"green": 1}}, "got 'bird'; did you mean 'birds'", id="class"),
        pytest.param({"birds": {"gren": 1}}, "got 'gren'; did you mean 'green'", id="group"),
        pytest.param({"birds": {"green": 0}}, "at least one above it, got", id="no share"),
        pytest.param({"birds": {}}, "at least one above it", id="empty"),
        pytest.param({"birds": {"green": -1, "bare": 2}}, "from 0 on", id="negative"),
        pytest.param({"birds": {"green": float("nan")}}, "finite shares", id="nan"),
    ],
)
def test_bad_backgrounds_are_refused(backgrounds, message):
    with pytest.raises(ValueError, match=message):
        photos(backgrounds=backgrounds)


@pytest.mark.slow
def test_features_beat_pixels():
    train, test = photos("train", n=240, size=96), photos("test", n=120, size=96)
    model = mobilenet_v2()
    with evaluating(model):
        far, near = (
            torch.nn.functional.normalize(
                torch.cat([model.embed(batch) for batch in data.images.split(32)])
            )
            for data in (train, test)
        )
    by_features = nearest_neighbour_accuracy(far, near, train.labels, test.labels)
    pixels = train.images.flatten(1), test.images.flatten(1)
    by_pixels = nearest_neighbour_accuracy(*pixels, train.labels, test.labels)
    assert by_pixels < 0.3  # 0.125 is chance
    assert by_features > by_pixels + 0.2


def nearest_neighbour_accuracy(train, test, train_labels, test_labels):
    nearest = torch.cdist(test, train).argmin(1)
    return (train_labels[nearest] == test_labels).float().mean().item()


@pytest.mark.parametrize("split", SPLITS)
def test_objects_and_places_are_those_of_the_split(split):
    """Also when a split is asked for alone: nothing of another one is in it."""
    found = photos_with_masks(split, n=64, size=16)
    assert set(found.data.sources.tolist()) <= {
        c.source for c in load_cutouts() if c.split == split
    }
    assert set(found.places) <= {b.name for b in load_backgrounds() if b.split == split}
    groups = {b.name: b.group for b in load_backgrounds()}
    assert [groups[place] for place in found.places] == list(found.groups)


def test_splits_share_no_stream_of_chance():
    """The same seed must not deal the same classes in the same order to two splits."""
    orders = {tuple(photos(split, n=64, size=16, seed=2).labels.tolist()) for split in SPLITS}
    assert len(orders) == len(SPLITS)


def test_a_mask_is_where_the_object_is_seen_to_half():
    """The object is drawn twice, on other ground: alpha is what the ground does not show."""
    places = [{kind: {group: 1} for kind in CLASSES} for group in ("green", "indoors")]
    here, there = (photos_with_masks("val", n=16, size=48, backgrounds=p) for p in places)
    changed = (here.data.images - there.data.images).abs().amax(1) > 0.02
    for mask, moved in zip(here.masks, changed, strict=True):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        inner = (
            mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        )
        assert moved[1:-1, 1:-1][inner].float().mean() < 0.2  # inside, the ground does not matter
        assert 0 <= xs.min() <= xs.max() < 48
        assert 0 <= ys.min() <= ys.max() < 48
