import filecmp
import os
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from PIL import Image, ImageOps

from labs.data import faults
from tests.data.trees import as_plain_user, smooth_picture, write_tree

SINGLE = [kind for kind in faults.FAULTS if kind is not faults.swapped_label]
BOTH_FORMATS = pytest.mark.parametrize("suffix", [".jpg", ".png"])


def one_of_a_tree(root, suffix=".jpg"):
    return next(path for path in write_tree(root) if path.suffix == suffix)


def snapshot(root):
    """Return what lies under root: name, type and bytes of every entry."""
    entries = {}
    for path in sorted(root.rglob("*")):
        kind = path.lstat().st_mode
        held = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        entries[path.relative_to(root).as_posix()] = kind, held
    return entries


def decodes(path):
    """Ask Pillow and NumPy, not our own reader, whether pixels can be had."""
    if not path.is_file():  # False for loops, pipes and folders as well
        return False
    if path.suffix == ".npy":
        try:
            return np.load(path).size > 0
        except ValueError:
            return False
    try:
        with Image.open(path) as image:
            image.load()
    except Exception:
        return False
    return True


def test_there_are_many_kinds_and_each_is_one_function():
    names = [kind.__name__ for kind in faults.FAULTS]
    assert len(names) == len(set(names)) == 31
    assert all(
        getattr(faults, name) is kind for name, kind in zip(names, faults.FAULTS, strict=True)
    )


@BOTH_FORMATS
@pytest.mark.parametrize("kind", SINGLE, ids=lambda kind: kind.__name__)
def test_each_fault_says_what_it_did(kind, suffix, tmp_path):
    path = one_of_a_tree(tmp_path, suffix)
    before = snapshot(tmp_path)
    fault = kind(path)
    assert snapshot(tmp_path) != before
    assert (fault.kind, fault.source) == (kind.__name__, path)
    assert os.path.lexists(fault.path)
    assert fault.did.endswith(".")
    assert bool(fault.problem) == (fault.verdict != "unseen")
    assert fault.decodable == decodes(fault.path)


@pytest.mark.parametrize("kind", SINGLE, ids=lambda kind: kind.__name__)
def test_no_fault_overwrites_a_file_that_was_there(kind, tmp_path):
    path = one_of_a_tree(tmp_path)
    for suffix in (".png", ".gif", ".npy"):
        path.with_suffix(suffix).write_text("somebody else's")
    path.with_name("000_copy.jpg").write_text("somebody else's")
    kind(path)
    for name in ("000.png", "000.gif", "000.npy", "000_copy.jpg"):
        assert path.with_name(name).read_text() == "somebody else's"


NEEDS_A_PICTURE = [
    *(faults.truncated, faults.grey_band, faults.bit_rot, faults.wrong_extension, faults.blank),
    *(faults.nan_array, faults.palette, faults.exif_rotated, faults.animated, faults.one_pixel),
]


@pytest.mark.parametrize("kind", NEEDS_A_PICTURE, ids=lambda kind: kind.__name__)
def test_damaging_a_file_twice_is_refused(kind, tmp_path):
    path = one_of_a_tree(tmp_path)
    faults.html(path)
    with pytest.raises(ValueError, match="damage each file once"):
        kind(path)
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_truncated_opens_and_does_not_load(tmp_path):
    fault = faults.truncated(one_of_a_tree(tmp_path))
    image = Image.open(fault.path)
    assert image.size == (48, 32)
    with pytest.raises(OSError, match="truncated"):
        image.load()


def test_bit_rot_in_a_jpeg_changes_colours_silently(tmp_path):
    path = one_of_a_tree(tmp_path)
    before = np.asarray(Image.open(path))
    assert faults.bit_rot(path).verdict == "unseen"
    assert (np.asarray(Image.open(path)) != before).any()


def test_bit_rot_never_makes_a_jpeg_fail_loudly(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 40, 40, 3), dtype=np.uint8)
    for pixels in noise:
        Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
        before = np.asarray(Image.open(tmp_path / "a.jpg"))
        faults.bit_rot(tmp_path / "a.jpg")
        assert (np.asarray(Image.open(tmp_path / "a.jpg")) != before).any()


def test_grey_band_ends_in_the_grey_of_the_decoder(tmp_path):
    fault = faults.grey_band(one_of_a_tree(tmp_path, ".png"))
    assert (np.asarray(Image.open(fault.path))[-8:] == 128).all()


def test_palette_holds_classes_that_convert_would_renumber(tmp_path):
    mask = Image.open(faults.palette(one_of_a_tree(tmp_path)).path)
    assert np.unique(np.asarray(mask)).tolist() == [0, 1]
    assert np.unique(np.asarray(mask.convert("L"))).tolist() == [0, 5]


def test_sixteen_bit_turns_white_when_converted(tmp_path):
    path = one_of_a_tree(tmp_path, ".png")
    gray = np.asarray(Image.open(path).convert("L"))
    wide = Image.open(faults.sixteen_bit(path).path)
    assert (np.asarray(wide) == gray.astype(np.int64) * 257).all()
    assert (np.asarray(wide.convert("RGB"))[gray > 0] == 255).all()


def test_exif_rotated_lies_on_its_side_and_shows_upright(tmp_path):
    path = one_of_a_tree(tmp_path, ".png")
    upright = np.asarray(Image.open(path), dtype=float)
    lying = Image.open(faults.exif_rotated(path).path)
    assert lying.size == (32, 48)
    shown = np.asarray(ImageOps.exif_transpose(lying), dtype=float)
    assert abs(shown - upright).mean() < 5  # JPEG is lossy
    assert abs(shown[::-1, ::-1] - upright).mean() > 20  # the other way round would not do


def test_alpha_hides_colours_that_convert_shows_again(tmp_path):
    path = one_of_a_tree(tmp_path, ".png")
    before = np.asarray(Image.open(path))
    image = Image.open(faults.alpha(path).path)
    assert (np.asarray(image)[:, :24, 3] == 0).all()
    assert (np.asarray(image.convert("RGB")) == before).all()


def test_bomb_is_tiny_on_disk_and_claims_ten_thousand_million_pixels(tmp_path):
    fault = faults.bomb(one_of_a_tree(tmp_path))
    assert fault.path.stat().st_size < 100
    with pytest.raises(Image.DecompressionBombError, match="10000000000 pixels"):
        Image.open(fault.path)


def test_nan_array_has_finite_pixels_too(tmp_path):
    pixels = np.load(faults.nan_array(one_of_a_tree(tmp_path)).path)
    assert (pixels.shape, pixels.dtype) == ((32, 48, 3), np.float32)
    assert np.isnan(pixels).sum() == 4 * 4 * 3
    assert np.nanmin(pixels) >= 0
    assert np.nanmax(pixels) <= 1


def test_unreadable_is_honest_about_who_is_stopped():
    with as_plain_user() as folder:
        smooth_picture(0).save(folder / "a.png")
        assert faults.unreadable(folder / "a.png").verdict == "bad"


def test_wrong_label_moves_the_file_always_to_the_same_class(tmp_path):
    a, b = one_of_a_tree(tmp_path / "a"), one_of_a_tree(tmp_path / "b")
    held = a.read_bytes()
    fault, again = faults.wrong_label(a), faults.wrong_label(b)
    assert fault.path.parent.name == again.path.parent.name != "ant"
    assert fault.path.read_bytes() == held
    assert not a.exists()


def test_wrong_label_needs_another_class(tmp_path):
    (path,) = write_tree(tmp_path, classes=["only"], each=1)
    with pytest.raises(ValueError, match="root/class/file"):
        faults.wrong_label(path)


def test_swapped_label_exchanges_two_pictures(tmp_path):
    paths = write_tree(tmp_path)
    a, b = paths[0], paths[4]
    bytes_a, bytes_b = a.read_bytes(), b.read_bytes()
    first, second = faults.swapped_label(a, b)
    assert (a.read_bytes(), b.read_bytes()) == (bytes_b, bytes_a)
    assert (first.path, first.source, second.path, second.source) == (a, b, b, a)


def test_swapped_label_refuses_one_class_and_two_suffixes(tmp_path):
    ant0, ant1, ant2, _, _, bee1 = write_tree(tmp_path)[:6]
    with pytest.raises(ValueError, match="different folders"):
        faults.swapped_label(ant0, ant2)
    with pytest.raises(ValueError, match="one suffix"):
        faults.swapped_label(ant0, bee1)
    assert ant1.exists()


def test_the_same_seed_does_the_same_damage(tmp_path):
    for name in ("a", "b", "c"):
        write_tree(tmp_path / name, each=20)
    a = faults.damage(tmp_path / "a", share=0.8, seed=1)
    b = faults.damage(tmp_path / "b", share=0.8, seed=1)
    c = faults.damage(tmp_path / "c", share=0.8, seed=2)
    assert a.table().equals(b.table())
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    assert not a.table().equals(c.table())


def test_damage_deals_the_kinds_out_evenly_and_each_file_meets_one(tmp_path):
    write_tree(tmp_path, each=40)
    key = faults.damage(tmp_path, share=0.5, seed=3)
    assert len({fault.source for fault in key.faults}) == len(key.faults)
    dealt = Counter(fault.kind for fault in key.faults)
    assert set(dealt) == {kind.__name__ for kind in faults.FAULTS}
    dealt["swapped_label"] //= 2  # each swap takes two files
    assert set(dealt.values()) <= {1, 2}
    assert 60 <= len(key.faults) <= 61
    assert repr(key).startswith(f"Damage({tmp_path.name}: {len(key.faults)} faults of 31 kinds; ")


def test_the_key_lists_all_that_changed(tmp_path):
    paths = write_tree(tmp_path / "t", each=10)
    before = snapshot(tmp_path / "t")
    key = faults.damage(tmp_path / "t", share=0.6, seed=0)
    after = snapshot(tmp_path / "t")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == set(key.table()["path"])
    gone = set(before) - set(after)
    assert gone <= set(key.table()["source"])
    assert len(paths) == 30


def test_damage_takes_exact_counts(tmp_path):
    write_tree(tmp_path)
    counts = {faults.html: 3, faults.swapped_label: 2}
    table = faults.damage(tmp_path, counts=counts).table()
    assert table["kind"].value_counts().to_dict() == {"swapped_label": 4, "html": 3}
    columns = ["path", "kind", "verdict", "problem", "decodable", "source", "did"]
    assert list(table.columns) == columns


def test_no_damage_is_a_table_too(tmp_path):
    write_tree(tmp_path)
    assert len(faults.damage(tmp_path, share=0).table()) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"share": 1.5}, r"share in \[0, 1\] .* got 1.5", id="share too large"),
        pytest.param({"kinds": []}, "one or more kinds", id="no kinds"),
        pytest.param({"counts": {faults.html: 13}}, "lower `counts`", id="more than there are"),
        pytest.param({"counts": {faults.swapped_label: 7}}, "lower `counts`", id="no pair left"),
    ],
)
def test_damage_refuses_before_it_damages(settings, message, tmp_path):
    write_tree(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=message):
        faults.damage(tmp_path, **settings)
    assert snapshot(tmp_path) == before


def test_label_faults_never_leave_the_root(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_tree(tmp_path / "root", classes=["."])
    with pytest.raises(ValueError, match=r"kinds=faults\.FILE_FAULTS"):
        faults.damage(tmp_path / "root")
    faults.damage(tmp_path / "root", share=1, kinds=faults.FILE_FAULTS)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_swap_without_a_partner_is_refused(tmp_path):
    write_tree(tmp_path, classes=["ant"], suffixes=[".jpg"])
    write_tree(tmp_path, classes=["bee"], suffixes=[".png"])
    with pytest.raises(ValueError, match=r"no \.\w+ file of another class is left"):
        faults.damage(tmp_path, kinds=[faults.swapped_label])


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected JPEG or PNG files"):
        faults.damage(tmp_path)


LABELS = st.lists(st.integers(-3, 9), min_size=2, max_size=60).filter(lambda v: len(set(v)) > 1)


@given(LABELS, st.floats(0, 1), st.integers(0, 99))
def test_mislabel_changes_exactly_the_share(labels, share, seed):
    noise = faults.mislabel(labels, share, seed=seed)
    assert noise.true.tolist() == labels
    assert int(noise.wrong.sum()) == round(share * len(labels)) == len(noise.table())
    assert set(noise.labels.tolist()) <= set(labels)


@given(st.integers(2, 6), st.integers(1, 12), st.floats(0, 1), st.integers(0, 99))
def test_swapping_labels_keeps_every_class_its_size(classes, each, share, seed):
    labels = list(range(classes)) * each
    try:
        noise = faults.mislabel(labels, share, swap=True, seed=seed)
    except ValueError:
        reject()  # one class was drawn too often; tested below
    assert Counter(noise.labels.tolist()) == Counter(labels)
    assert int(noise.wrong.sum()) == round(share * len(labels)) // 2 * 2


def test_swapping_all_of_a_balanced_set_always_works():
    labels = torch.arange(10).repeat(20)
    noise = faults.mislabel(labels, 1.0, swap=True)
    assert bool(noise.wrong.all())
    assert noise.labels.bincount().tolist() == [20] * 10
    assert (labels == torch.arange(10).repeat(20)).all()  # the ones given are untouched


def test_random_labels_reach_every_other_class():
    noise = faults.mislabel([0] * 300 + [1, 2, 3], 1.0)
    assert noise.labels[:300].bincount().tolist()[1:] == pytest.approx([100] * 3, abs=30)
    assert repr(noise) == "Mislabelled(303 of 303 labels)"


def test_mislabel_refuses_what_cannot_be_done():
    with pytest.raises(ValueError, match=r"share in \[0, 1\]"):
        faults.mislabel([0, 1], 1.1)
    with pytest.raises(ValueError, match=r"two or more classes, got 0\.5 and 1"):
        faults.mislabel([1, 1], 0.5)
    with pytest.raises(ValueError, match="more than half"):
        faults.mislabel([0] * 9 + [1], 1.0, swap=True)


def test_duplicate_is_a_true_copy(tmp_path):
    fault = faults.duplicate(one_of_a_tree(tmp_path))
    assert filecmp.cmp(fault.path, fault.source, shallow=False)
