from collections import Counter

import numpy as np

from labs.data.cutouts import CLASSES, GROUPS, SPLITS, load_backgrounds, load_cutouts


def test_every_class_and_group_is_in_every_split():
    assert {(c.kind, c.split) for c in load_cutouts()} == {(k, s) for k in CLASSES for s in SPLITS}
    assert {(b.group, b.split) for b in load_backgrounds()} == {
        (g, s) for g in GROUPS for s in SPLITS
    }


def test_an_object_and_a_place_are_in_one_split_only():
    assert len({(c.source, c.split) for c in load_cutouts()}) == len(
        {c.source for c in load_cutouts()}
    )
    pixels = Counter(
        picture.picture.tobytes() for picture in (*load_cutouts(), *load_backgrounds())
    )
    assert set(pixels.values()) == {1}


def test_recoloured_apple_shares_its_source():
    apples = {c.name: c for c in load_cutouts() if c.name in ("apple_red", "apple_green")}
    assert len(apples) == 2
    assert apples["apple_red"].source == apples["apple_green"].source


def test_cutouts_are_cropped_to_their_object():
    for cutout in load_cutouts():
        assert cutout.picture.mode == "RGBA"
        assert max(cutout.picture.size) <= 160
        alpha = np.asarray(cutout.picture)[..., 3]
        assert alpha.max() == 255, cutout.name
        seen = alpha > 15
        assert seen.any(0).mean() > 0.95, cutout.name
        assert seen.any(1).mean() > 0.95, cutout.name
        assert 0.05 < (alpha > 127).mean() < 0.95, cutout.name


def test_no_background_shows_an_object_of_the_classes():
    left_out = {"flower-bed", "flowers", "garden-rock", "pathway", "lake"}
    assert not left_out & {b.name for b in load_backgrounds()}
    assert {b.picture.size for b in load_backgrounds()} == {(320, 240)}
