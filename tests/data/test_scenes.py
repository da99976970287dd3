from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from torch.utils.data import DataLoader

from labs import plot
from labs.data.cutouts import SPLITS
from labs.data.scenes import Knobs, Scenes, collate, preview
from labs.data.scenes.layout import _tint, draw_noise
from labs.data.scenes.things import load_pool

ALL = ("digits", "clothes", "photos")
LABELS = [["2", "3"], ["3"], ["7", "2", "3"], ["8", "4", "0"]]
MEANS = [0.3891, 0.5552, 0.5836, 0.5576]


def assert_equal(first, second):
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            assert_equal(first[name], second[name])
    else:
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)


def slow_box(mask):
    ys, xs = torch.nonzero(mask, as_tuple=True)
    return [float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]


def assert_truth(target, canvas):
    n = len(target["labels"])
    for name in ("masks", "masks_amodal"):
        assert target[name].shape == (n, *canvas)
        assert target[name].dtype == torch.bool
    for boxes, masks in (("boxes", "masks"), ("boxes_amodal", "masks_amodal")):
        assert target[boxes].shape == (n, 4)
        assert target[boxes].dtype == torch.float32
        assert target[boxes].tolist() == [slow_box(mask) for mask in target[masks]]
    assert target["masks"].sum(0).le(1).all()  # a pixel shows one object
    assert (target["masks"] <= target["masks_amodal"]).all()
    part = target["masks"].sum((1, 2)) / target["masks_amodal"].sum((1, 2))
    assert torch.allclose(target["visible"], part)
    semantic = torch.zeros(canvas, dtype=torch.int64)
    for mask, label in zip(target["masks"], target["labels"], strict=True):
        semantic[mask] = label + 1
    assert torch.equal(target["semantic"], semantic)
    assert target["labels"].dtype == target["track_ids"].dtype == torch.int64


def test_a_scene_keeps_the_conventions():
    data = Scenes("train", 30, things=ALL, objects=(2, 6), canvas=(96, 160))
    for image, target in data:
        assert image.shape == (3, 96, 160)
        assert image.dtype == torch.float32
        assert image.is_contiguous()
        assert 0 <= image.min() < image.max() <= 1
        assert_truth(target, (96, 160))
    assert len(data.classes) == 28
    assert repr(data) == (
        "Scenes(30 of 'train', 3x96x160, 2 to 6 of digits and clothes and photos, 28 classes, "
        "seed 0)"
    )


def test_scenes_are_those_of_every_machine():
    """Pixels may round another way with another Pillow, so means are compared, not bytes."""
    data = Scenes("test", 4, seed=5)
    names = [[data.classes[k] for k in target["labels"]] for _, target in data]
    assert names == LABELS
    assert [image.mean().item() for image, _ in data] == pytest.approx(MEANS, abs=1e-3)


def test_a_scene_depends_on_no_order_and_no_global_generator():
    few, many = Scenes("val", 6, seed=3, things=ALL), Scenes("val", 50, seed=3, things=ALL)
    first = [few[i] for i in range(6)]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    for i in (4, 0, 5, 2, 1, 3):
        assert_equal(many[i], first[i])
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(few[-1], first[5])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    data = Scenes("train", 9, things=ALL, clutter=1)
    here = list(DataLoader(data, 4, collate_fn=collate))
    there = list(DataLoader(data, 4, collate_fn=collate, num_workers=workers))
    assert_equal(here, there)


def test_split_seed_and_index_change_the_scene():
    images = [Scenes(split, 1)[0][0] for split in SPLITS]
    images += [Scenes("train", 2)[1][0], Scenes("train", 1, seed=1)[0][0]]
    images += [Scenes("train", 1, seed=2**64 - 1)[0][0]]
    assert not any(torch.equal(a, b) for a, b in combinations(images, 2))


def test_splits_share_no_object_and_no_background():
    sources, places = {}, {}
    for split in SPLITS:
        data = Scenes(split, 150, things=ALL, clutter=1, objects=(4, 8))
        layouts = [data.layout(i) for i in range(len(data))]
        sources[split] = {(s.kind, s.source) for layout in layouts for s in layout.sprites}
        places[split] = {name for layout in layouts for name in layout.places}
        assert {kind for kind, _ in sources[split]} == set(ALL)
    for a, b in combinations(SPLITS, 2):
        assert sources[a].isdisjoint(sources[b])
        assert places[a].isdisjoint(places[b])


def test_pools_of_the_splits_are_disjoint_and_whole():
    from labs.data.scenes.things import load_places, load_pool

    for kind, total in (("digits", 30_000), ("clothes", 12_000)):
        pools = [set(load_pool(kind, split).sources) for split in SPLITS]
        assert sum(map(len, pools)) == len(set.union(*pools)) == total
        assert all(all(load_pool(kind, split).rows) for split in SPLITS)  # each class has some
        pixels = [{p.tobytes() for p in load_pool(kind, split).pictures} for split in SPLITS]
        assert not any(a & b for a, b in combinations(pixels, 2))
    pools = [set(load_pool("photos", split).sources) for split in SPLITS]
    assert sum(map(len, pools)) == len(set.union(*pools))
    names = [{place.name for place in load_places(split)} for split in SPLITS]
    assert sum(map(len, names)) == len(set.union(*names))


def test_an_object_has_the_pixels_of_its_source():
    from labs.data import digits

    data = Scenes("train", 20, objects=(1, 1), size=(20, 20))
    shipped, checked = digits(), 0
    rows = {row: i for i, row in enumerate(shipped.sources.tolist())}
    for i in range(len(data)):
        (sprite,) = data.layout(i).sprites
        picture = shipped.images[rows[sprite.source], 0]
        assert shipped.labels[rows[sprite.source]] == sprite.label
        ys, xs = torch.nonzero(picture > 0.5, as_tuple=True)
        cut = picture[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        if max(cut.shape) == 20:  # nothing was scaled
            assert torch.equal((cut * 255).round().byte(), torch.tensor(sprite.alpha))
            checked += 1
    assert checked


def test_pixels_without_an_object_are_the_background():
    data = Scenes("train", 10, things=("photos",), clutter=2)
    for i in range(len(data)):
        image, target = data[i]
        layout = data.layout(i)
        ground = torch.tensor(layout.background).permute(2, 0, 1) / 255
        changed = (image != ground).any(0)
        assert changed.any()
        for x1, y1, x2, y2 in _drawn(layout):
            changed[y1:y2, x1:x2] = False
        assert not changed.any()
        assert target["masks"].any()


def _drawn(layout):
    for sprite in layout.sprites:
        (x, y), (h, w) = sprite.path[0], sprite.alpha.shape
        yield x, y, x + w, y + h


def test_no_overlap_when_none_is_allowed():
    data = Scenes("train", 40, objects=(8, 12), occlusion=0.0)
    for _, target in data:
        assert torch.equal(target["masks"], target["masks_amodal"])
        assert (target["visible"] == 1).all()


@pytest.mark.parametrize("most", [0.2, 0.6])
def test_occlusion_is_bounded_and_used(most):
    data = Scenes("train", 40, things=("clothes",), objects=(10, 10), occlusion=most)
    visible = torch.cat([target["visible"] for _, target in data])
    assert visible.min() >= 1 - most - 1e-6
    assert visible.min() < 1 - most + 0.1


def test_hidden_objects_are_left_out():
    data = Scenes("train", 5, things=("clothes",), objects=(60, 60), occlusion=1.0, size=(16, 60))
    counts = [len(target["labels"]) for _, target in data]
    assert max(counts) < 60
    for i, (_, target) in enumerate(data):
        assert len(data.layout(i).sprites) == 60
        assert_truth(target, (128, 128))


@pytest.mark.parametrize("count", [0, 1, 300])
def test_number_of_objects(count):
    data = Scenes("train", 2, objects=(count, count), occlusion=1.0, size=(4, 8))
    for i, (image, target) in enumerate(data):
        assert len(data.layout(i).sprites) == count
        assert_truth(target, (128, 128))
        assert torch.isfinite(image).all()


def test_fewer_objects_when_there_is_no_room():
    data = Scenes("train", 5, objects=(50, 50), size=(60, 60), occlusion=0.0, things=("clothes",))
    assert all(1 <= len(target["labels"]) < 50 for _, target in data)


def test_objects_reach_all_borders():
    data = Scenes("train", 60, canvas=(32, 48), size=(32, 32), objects=(1, 1))
    boxes = torch.cat([target["boxes"] for _, target in data])
    assert boxes.amin(0).tolist()[:2] == [0, 0]
    assert boxes.amax(0).tolist()[2:] == [48, 32]


def test_sizes_are_kept():
    data = Scenes("train", 60, things=ALL, size=(20, 30), occlusion=0.0)
    boxes = torch.cat([target["boxes"] for _, target in data])
    longest = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    assert longest.max() <= 30
    assert longest.median() >= 20


def test_clutter_changes_pixels_and_has_no_label():
    plain, cluttered = (
        Scenes("train", 5, objects=(0, 0)),
        Scenes("train", 5, objects=(0, 0), clutter=4),
    )
    for i in range(5):
        assert len(cluttered.layout(i).places) == 5
        assert not torch.equal(plain[i][0], cluttered[i][0])
        assert len(cluttered[i][1]["labels"]) == 0
        assert not cluttered[i][1]["semantic"].any()


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_noise_has_its_deviation_and_changes_nothing_else(noise):
    plain, noisy = (Scenes("train", 6, things=ALL, noise=part) for part in (0.0, noise))
    inner = []
    for (clean, target), (image, found) in zip(plain, noisy, strict=True):
        assert_equal(target, found)
        assert 0 <= image.min() <= image.max() <= 1
        torch.testing.assert_close(image, image.mul(255).round().div(255))  # still bytes
        free = (clean > 4 * noise) & (clean < 1 - 4 * noise)  # not clipped
        inner.append((image - clean)[free])
    found = torch.cat(inner)
    assert found.std().item() == pytest.approx(noise, rel=0.02)
    assert found.mean().item() == pytest.approx(0, abs=noise / 50)
    assert_equal(noisy[-1], noisy[5])


def test_noise_differs_by_scene_frame_and_colour():
    dark = {"objects": (0, 0), "noise": 0.1, "frames": 2, "speed": 0.0}
    (video, _), (other, _) = Scenes("train", 2, **dark)
    still = Scenes("train", 1, **(dark | {"noise": 0.0}))[0][0]
    grains = [video[0] - still[0], video[1] - still[1]]
    assert abs(torch.corrcoef(torch.stack([g.flatten() for g in grains]))[0, 1]) < 0.05
    assert abs(torch.corrcoef(grains[0].flatten(1))[0, 1]) < 0.1
    assert not torch.equal(video, other)


def test_weights_make_classes_rare():
    weights = {"0": 10.0, "1": 0.0}
    labels = torch.cat([t["labels"] for _, t in Scenes("train", 200, size=(8, 8), weights=weights)])
    counts = torch.bincount(labels, minlength=10) / len(labels)
    assert counts[1] == 0
    assert counts[0] == pytest.approx(10 / 18, abs=0.08)
    assert (counts[2:] > 0).all()


# -------------------------------------------------------------------------------- sequences


def test_sequences_have_a_truth_for_every_frame():
    data = Scenes("train", 4, frames=5, things=ALL, objects=(3, 6), canvas=(64, 96))
    for video, truths in data:
        assert video.shape == (5, 3, 64, 96)
        assert len(truths) == 5
        for target in truths:
            assert_truth(target, (64, 96))
            assert target["visible"].min() >= 0.7 - 1e-6
    images, truths = next(iter(DataLoader(data, 2, collate_fn=collate)))
    assert images.shape == (2, 5, 3, 64, 96)
    assert [len(truth) for truth in truths] == [5, 5]
    assert "5 frames" in repr(data)


def test_tracks_move_smoothly_and_keep_shape_and_label():
    speed, moved = 3.0, 0.0
    for _, truths in Scenes("train", 5, frames=12, speed=speed, things=ALL, occlusion=0.9):
        for target, after in pairwise(truths):
            assert torch.equal(target["track_ids"], after["track_ids"])  # nobody vanishes at 0.9
            assert torch.equal(target["labels"], after["labels"])
            step = after["boxes_amodal"] - target["boxes_amodal"]
            assert torch.equal(step[:, :2], step[:, 2:])  # the same width and height
            assert step.abs().max() <= speed + 0.5
            moved += step.abs().sum().item()
    assert moved > 0


def test_a_track_comes_back_after_it_was_hidden():
    knobs = {"things": ("clothes",), "occlusion": 1.0, "objects": (6, 6), "size": (16, 64)}
    returned = set()
    scenes = Scenes("train", 10, frames=20, speed=6.0, canvas=(64, 64), **knobs)
    for i, (_, truths) in enumerate(scenes):
        here = [set(target["track_ids"].tolist()) for target in truths]
        for t, (before, now) in enumerate(pairwise(here), start=1):
            gone = set.union(*here[:t]) - before
            returned |= {(i, track) for track in now & gone}
    assert returned


def test_an_object_turns_back_at_the_border():
    from labs.data.scenes.layout import _bounce

    assert _bounce(2, room=4, step=256, frames=9) == [2, 3, 4, 3, 2, 1, 0, 1, 2]
    assert _bounce(1, room=4, step=-384, frames=4) == [1, 1, 2, 4]  # -0.5 is 0.5, rounded up
    assert _bounce(0, room=0, step=300, frames=3) == [0, 0, 0]


def test_nothing_moves_at_speed_zero():
    video, truths = Scenes("train", 1, frames=3, speed=0)[0]
    assert torch.equal(video[0], video[2])
    assert_equal(truths[0], truths[2])


# --------------------------------------------------------------------------------- anything


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(16, 80),
    width=st.integers(16, 80),
    data=st.data(),
    objects=st.integers(0, 12),
    occlusion=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
)
def test_boxes_lie_within_the_canvas(height, width, data, objects, occlusion, seed):
    low = data.draw(st.integers(4, min(height, width)))
    high = data.draw(st.integers(low, min(height, width)))
    scenes = Scenes(
        "train", 1, seed, canvas=(height, width), objects=(0, objects), size=(low, high),
        occlusion=occlusion, things=ALL, frames=2, speed=20.0,
    )  # fmt: skip
    for target in scenes[0][1]:
        assert_truth(target, (height, width))
        boxes = torch.cat([target["boxes"], target["boxes_amodal"]])
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (target["visible"] >= 1 - occlusion - 1e-6).all()


@pytest.mark.parametrize("canvas", [(16, 3000), (3000, 16)])
def test_long_thin_canvas(canvas):
    image, target = Scenes("train", 1, canvas=canvas, size=(8, 16))[0]
    assert image.shape == (3, *canvas)
    assert_truth(target, canvas)


def test_a_digit_on_a_large_light_ground_is_dark():
    light = np.full((1700, 1700, 3), 255, np.uint8)  # the sum does not fit 32 bits
    assert _tint("digits", light, np.random.default_rng(0)).max() < 64
    assert _tint("digits", light // 3, np.random.default_rng(0)).min() >= 192


# ----------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "vall"}, "split of train, val, test, got 'vall'; did you mean 'val'"),
        ({"seed": 1.5}, "got n=1, seed=1.5"),
        ({"n": 0}, "n >= 1 and seed in .* got n=0"),
        ({"seed": -1}, "got n=1, seed=-1"),
        ({"canvass": (64, 64)}, "got 'canvass'; did you mean 'canvas'"),
        ({"canvas": (64, 8)}, r"canvas .* >= 16, got \(64, 8\); change canvas="),
        ({"canvas": 64}, "canvas two integers, got 64"),
        ({"objects": (3, 2)}, r"objects 0 <= least <= most <= 1000, got \(3, 2\)"),
        ({"size": (8, 200)}, r"most <= 128, the shorter side of the canvas, got \(8, 200\)"),
        ({"size": (8.5, 20)}, "size two integers"),
        ({"occlusion": 1.5}, r"occlusion a part in \[0, 1\], got 1.5"),
        ({"occlusion": float("nan")}, "occlusion a part"),
        ({"clutter": -1}, "clutter an integer >= 0"),
        ({"clutter": 1.5}, "clutter an integer >= 0, got 1.5"),
        ({"noise": -0.1}, r"noise a deviation in \[0, 1\], got -0.1"),
        ({"frames": 0}, "frames None or an integer >= 1, got 0"),
        ({"speed": -1.0}, "speed finite pixels"),
        ({"things": "digits"}, r"got 'digits'; for one kind write things=\('digits',\)"),
        ({"things": ("digit",)}, "got 'digit'; did you mean 'digits'"),
        ({"things": ()}, "different kinds"),
        ({"weights": {"bird": 1}, "things": ("photos",)}, "did you mean 'birds'"),
        ({"weights": {"1": -1}}, "weights finite and >= 0"),
        ({"weights": dict.fromkeys("0123456789", 0)}, "weights above 0 for at least one class"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**({"split": "train", "n": 1} | arguments))


def test_other_errors():
    with pytest.raises(IndexError, match=r"index in \[-3, 3\), got 3"):
        Scenes("train", 3)[3]
    images = [(torch.zeros(3, 8, 8), {}), (torch.zeros(3, 8, 9), {})]
    with pytest.raises(ValueError, match="images of one size"):
        collate(images)


def test_knobs_are_kept():
    assert Scenes("train", 1, clutter=2).knobs == Knobs(clutter=2)


# ---------------------------------------------------------------------------------- preview


def test_preview_draws_every_object():
    data = Scenes("train", 1, objects=(3, 3), occlusion=0.0)
    image, target = data[0]
    _, ax = plot.new()
    assert preview(ax, image, target, data.classes) is ax
    assert [text.get_text() for text in ax.texts] == [data.classes[k] for k in target["labels"]]
    drawn = [[p.get_x() + 0.5, p.get_y() + 0.5, p.get_width(), p.get_height()] for p in ax.patches]
    x1, y1, x2, y2 = target["boxes"].T
    assert drawn == torch.stack([x1, y1, x2 - x1, y2 - y1], 1).tolist()


def test_preview_needs_only_boxes_and_labels_and_keeps_names_inside():
    image, label = torch.zeros(3, 50, 50), torch.tensor([0])
    sides = []
    for top in (0.0, 20.0):
        bare = {"boxes": torch.tensor([[5.0, top, 20.0, 40.0]]), "labels": label}
        ax = preview(plot.new()[1], image, bare, ("cat",))
        assert not ax.collections  # no outline
        sides += [text.get_verticalalignment() for text in ax.texts]
    assert sides == ["top", "bottom"]


def test_preview_keeps_the_colour_of_a_track():
    box, label = torch.tensor([[5.0, 5.0, 20.0, 20.0]]), torch.tensor([0])
    target = {"boxes": box, "labels": label, "track_ids": torch.tensor([4])}
    ax = preview(plot.new()[1], torch.zeros(3, 50, 50), target, ("cat",))
    assert to_hex(ax.patches[0].get_edgecolor()).upper() == plot.COLOURS[4]


def test_preview_refuses_labels_without_a_name():
    image, target = Scenes("train", 1)[0]
    with pytest.raises(ValueError, match=r"labels in \[0, 0\)"):
        preview(plot.new()[1], image, target, ())


# ------------------------------------------------------------------- what belongs to whom


def hidden_scenes():
    """Yield layouts of sequences, with the truth of each frame, in which objects vanish."""
    knobs = {"things": ("clothes",), "occlusion": 1.0, "objects": (8, 8), "size": (16, 64)}
    scenes = Scenes("train", 4, frames=8, speed=6.0, canvas=(64, 64), **knobs)
    for i, (_, truths) in enumerate(scenes):
        yield scenes.layout(i), truths


def test_a_track_id_is_the_number_of_its_object_whoever_is_hidden():
    """Ids must not move up when an earlier object vanishes: label and shape tell who it is."""
    gaps = 0
    for layout, truths in hidden_scenes():
        for frame, target in enumerate(truths):
            ids = target["track_ids"].tolist()
            gaps += ids != list(range(len(ids)))
            for row, track in enumerate(ids):
                sprite = layout.sprites[track]
                assert target["labels"][row] == sprite.label
                (x, y), (h, w) = sprite.path[frame], sprite.mask.shape
                whole = torch.zeros(64, 64).bool()
                whole[y : y + h, x : x + w] = torch.tensor(sprite.mask)
                assert torch.equal(target["masks_amodal"][row], whole)
    assert gaps  # or nobody was hidden before another


def test_what_is_visible_is_what_no_later_object_covers():
    """Draw the owners again, from the sprites alone: the last one at a pixel is seen there."""
    hidden = 0
    for layout, truths in hidden_scenes():
        for frame, target in enumerate(truths):
            owner = torch.full((64, 64), -1)
            for number, sprite in enumerate(layout.sprites):
                (x, y), (h, w) = sprite.path[frame], sprite.mask.shape
                owner[y : y + h, x : x + w][torch.tensor(sprite.mask)] = number
            assert target["track_ids"].tolist() == [n for n in owner.unique().tolist() if n >= 0]
            for mask, track in zip(target["masks"], target["track_ids"], strict=True):
                assert torch.equal(mask, owner == track)
            hidden += int((target["visible"] < 1).sum())
    assert hidden


@pytest.mark.parametrize("things", [("digits",), ("clothes",), ("photos",)])
def test_splits_share_no_pixels_of_their_sources(things):
    """Not by number: the pictures themselves, as they are drawn from, are in one split only."""
    pools = [load_pool(things[0], split) for split in SPLITS]
    pixels = [{np.asarray(p).tobytes() for p in pool.pictures} for pool in pools]
    assert not any(a & b for a, b in combinations(pixels, 2))
    assert all(len(pool.sources) == len(pool.pictures) for pool in pools)


def test_splits_share_no_stream_of_chance():
    """The same seed and index must not draw the same places and sizes in another split."""
    same_place = [Scenes(split, 1, seed=4, objects=(6, 6), occlusion=1.0) for split in SPLITS]
    paths = [[sprite.path for sprite in data.layout(0).sprites] for data in same_place]
    assert not any(a == b for a, b in combinations(paths, 2))
    grains = []
    for split in SPLITS:
        knobs = Knobs(noise=0.1)
        grains.append(torch.tensor(draw_noise(split, 4, 0, 0, knobs)).float().flatten())
    assert torch.corrcoef(torch.stack(grains)).fill_diagonal_(0).abs().max() < 0.05


def test_noise_is_added_once_and_to_every_frame():
    """With the drawn noise at hand, the picture must be exactly the clean one plus it."""
    knobs = {"things": ("photos",), "frames": 2}
    clean, noisy = Scenes("val", 2, **knobs), Scenes("val", 2, noise=0.05, **knobs)
    for i in range(2):
        for frame in range(2):
            grain = torch.tensor(draw_noise("val", 0, i, frame, noisy.knobs)).permute(2, 0, 1)
            expected = (clean[i][0][frame].mul(255).round() + grain).clamp(0, 255) / 255
            torch.testing.assert_close(noisy[i][0][frame], expected)
