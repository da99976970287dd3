import gc
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as tv

from labs.data import faults
from labs.data.batch import WatchedLoader, collate
from labs.data.pictures import to_tensor
from labs.data.robust import RobustImageDataset
from labs.data.scan import scan_images
from labs.imagefile import BadImageError
from tests.data.trees import as_plain_user, broken_tree, smooth_picture, write_tree

WORKERS = pytest.mark.parametrize("workers", [0, 2])


def loader_of(data, workers=0, batch_size=4, shuffle=False):
    loader = DataLoader(
        data, batch_size=batch_size, shuffle=shuffle, num_workers=workers, collate_fn=collate
    )
    return WatchedLoader(loader)


def shrink(image):
    return image[:, ::4, ::4]


def divide_by_zero(image):
    return image / (1 // 0)


# Pixels and labels, against torchvision


def test_pixels_labels_and_classes_are_torchvisions(tmp_path):
    write_tree(tmp_path, classes=["10", "2", "x"])
    ours, theirs = RobustImageDataset(tmp_path), ImageFolder(tmp_path)
    assert ours.classes == tuple(theirs.classes) == ("10", "2", "x")
    assert [str(path) for path in ours.paths] == [path for path, _ in theirs.samples]
    assert ours.labels == theirs.targets
    for (image, label), (expected, target) in zip(ours, theirs, strict=True):
        assert label == target
        torch.testing.assert_close(image, tv.to_dtype(tv.pil_to_tensor(expected), scale=True))


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
def test_every_eight_bit_mode_becomes_what_torchvisions_loader_makes_of_it(mode):
    image = smooth_picture(0).convert(mode)
    expected = tv.pil_to_tensor(image.convert("RGB")).float() / 255
    torch.testing.assert_close(to_tensor(image), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_shown_upright(orientation, tmp_path):
    upright = np.asarray(smooth_picture(0))
    rotate, mirror = np.rot90, np.fliplr  # rot90 turns to the left
    stored = {
        1: upright,
        2: mirror(upright),
        3: rotate(upright, 2),
        4: np.flipud(upright),
        5: rotate(mirror(upright), 1),
        6: rotate(upright, 1),
        7: rotate(mirror(upright), 3),
        8: rotate(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    image, _ = RobustImageDataset([tmp_path / "a.png"])[0]
    assert (image * 255).round().byte().permute(1, 2, 0).equal(torch.from_numpy(upright.copy()))


def test_sixteen_bits_keep_their_range():
    values = np.array([[0, 257, 65_535]], dtype=np.uint16)
    image = to_tensor(Image.fromarray(values))
    expected = torch.tensor([0, 1 / 255, 1.0]).expand(3, 1, 3)
    torch.testing.assert_close(image, expected)


def test_a_mode_without_a_white_is_refused():
    image = Image.new("F", (2, 2), 7)
    with pytest.raises(BadImageError, match=r"unknown range: mode F .* from 7 to 7, expected 0 to"):
        to_tensor(image)


def test_labels_may_be_given(tmp_path):
    paths = write_tree(tmp_path, each=1)
    data = RobustImageDataset(paths, labels=np.array([7, 0, 7]))
    assert data.labels == [7, 0, 7]
    assert data.classes == ()
    assert repr(data) == "RobustImageDataset(3 files, 2 classes, on_error=stop)"


def test_paths_are_labelled_by_their_folders(tmp_path):
    paths = write_tree(tmp_path, each=1)
    data = RobustImageDataset(paths[::-1])
    assert data.labels == [2, 1, 0]
    assert data.classes == ("ant", "bee", "cow")


def test_a_split_that_lacks_a_class_keeps_the_numbers_of_the_others(tmp_path):
    write_tree(tmp_path / "test", classes=["cow"])
    data = RobustImageDataset(tmp_path / "test", classes=("ant", "bee", "cow"))
    assert set(data.labels) == {2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"classes": ["ant", "bees", "cow"]}, "did you mean 'bees'", id="class"),
        pytest.param({"labels": [0] * 11}, "got 11 labels for 12 files", id="too few labels"),
        pytest.param({"labels": [0.5] * 12}, r"got 0\.5 for sample 0", id="float label"),
        pytest.param({"labels": [0] * 11 + [None]}, "got None for sample 11", id="no label"),
        pytest.param({"on_error": "skp"}, "did you mean 'skip'", id="policy"),
        pytest.param({"placeholder": torch.zeros(3, 2, 2)}, "is for on_error='replace'", id="use"),
    ],
)
def test_what_cannot_be_is_refused(settings, message, tmp_path):
    write_tree(tmp_path)
    with pytest.raises(ValueError, match=message):
        RobustImageDataset(tmp_path, **settings)


def test_files_in_no_class_folder_and_no_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="found none in"):
        RobustImageDataset(tmp_path)
    with pytest.raises(ValueError, match="found none in"):
        RobustImageDataset([])
    smooth_picture(0).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected root/class/file"):
        RobustImageDataset(tmp_path)


def test_a_class_folder_that_cannot_be_listed_is_not_left_out():
    with as_plain_user() as folder:
        write_tree(folder)
        (folder / "bee").chmod(0)
        with pytest.raises(PermissionError, match=r"bee: no permission: .* chmod"):
            RobustImageDataset(folder)
        (folder / "bee").chmod(0o700)


def test_an_index_may_be_negative_and_not_too_large(tmp_path):
    write_tree(tmp_path, each=1)
    data = RobustImageDataset(tmp_path)
    assert data[-1].index == 2
    with pytest.raises(IndexError):
        data[3]


# Stop


@WORKERS
def test_stop_names_the_file_the_reason_and_the_mend(workers, tmp_path, monkeypatch):
    # After an error PyTorch waits 5 s for each worker of a loader that is garbage; not here.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1, raising=False)
    paths = broken_tree(tmp_path)
    watched = loader_of(RobustImageDataset(tmp_path), workers)
    message = rf"sample 1, {paths[1]}, gives no pixels \(not an image: an HTML page\); remove"
    with pytest.raises(BadImageError, match=message):
        list(watched)
    gc.collect()
    assert not watched.epochs[0].complete


def test_stop_says_nothing_of_a_sound_folder(tmp_path):
    write_tree(tmp_path)
    assert sum(len(batch) for batch in loader_of(RobustImageDataset(tmp_path))) == 12


# Skip


@WORKERS
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_skip_delivers_each_good_sample_once_and_reports_each_bad_one_once(
    workers, shuffle, tmp_path
):
    paths = broken_tree(tmp_path)
    data = RobustImageDataset(tmp_path, on_error="skip")
    watched = loader_of(data, workers, shuffle=shuffle)
    for _ in range(2):
        seen = [index for batch in watched for index in batch.indices.tolist()]
        assert sorted(seen) == [0, 2, 3, 6, 7, 8, 10, 11]
    assert len(watched.epochs) == 2
    for epoch in watched.epochs:
        table = epoch.table()
        assert table["index"].tolist() == [1, 4, 5, 9]
        assert table["path"].tolist() == [str(paths[i]) for i in (1, 4, 5, 9)]
        assert set(table["action"]) == {"skipped"}
        assert set(table["reason"]) == {"not an image: an HTML page"}
        assert epoch.complete
        assert repr(epoch) == "Epoch(8 samples delivered, 0 of them again, 4 failed)"


@WORKERS
def test_images_stay_with_their_labels_when_neighbours_are_left_out(workers, tmp_path):
    broken_tree(tmp_path)
    data = RobustImageDataset(tmp_path, on_error="skip")
    for batch in loader_of(data, workers):
        for image, label, index in zip(*batch, batch.indices.tolist(), strict=True):
            assert label == data.labels[index]
            torch.testing.assert_close(image, data[index].image)


@WORKERS
def test_a_batch_of_failures_is_counted_and_left_out(workers, tmp_path):
    broken_tree(tmp_path, broken=(4, 5, 6, 7))
    data = RobustImageDataset(tmp_path, on_error="skip")
    watched = loader_of(data, workers)
    assert [len(batch) for batch in watched] == [4, 4]
    assert len(watched.epochs[0].failures) == 4
    raw = list(DataLoader(data, 4, collate_fn=collate, num_workers=workers))
    full, empty = (4, 3, 32, 48), (0, 3, 0, 0)
    assert [tuple(batch.images.shape) for batch in raw] == [full, empty, full]


def test_a_folder_of_failures_gives_no_batch_and_all_the_failures(tmp_path):
    broken_tree(tmp_path, broken=range(12))
    watched = loader_of(RobustImageDataset(tmp_path, on_error="skip"))
    assert list(watched) == []
    assert len(watched.epochs[0].failures) == 12


def test_a_failed_sample_does_not_look_like_a_picture(tmp_path):
    broken_tree(tmp_path)
    data = RobustImageDataset(tmp_path, on_error="skip")
    image, label = data[1]
    assert image is None
    assert (label, data[1].index, data[1].failure.index) == (0, 1, 1)
    with pytest.raises(TypeError, match="default_collate"):
        next(iter(DataLoader(data, 4)))


# Replace


@WORKERS
def test_replace_keeps_the_class_balance_and_tells_which_samples_came_twice(workers, tmp_path):
    broken_tree(tmp_path)
    data = RobustImageDataset(tmp_path, on_error="replace")
    watched = loader_of(data, workers)
    batches = list(watched)
    (epoch,) = watched.epochs
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert Counter(epoch.labels) == {0: 4, 1: 4, 2: 4}
    assert [data.labels[index] for index in epoch.indices] == list(epoch.labels)
    assert not {1, 4, 5, 9} & set(epoch.indices)
    assert epoch.table()["index"].tolist() == [1, 4, 5, 9]
    for failure in epoch.failures:
        assert failure.action == f"replaced by sample {epoch.indices[failure.index]}"
    assert repr(epoch) == "Epoch(12 samples delivered, 4 of them again, 4 failed)"


@WORKERS
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_every_epoch_has_the_same_replacements(workers, shuffle, tmp_path):
    write_tree(tmp_path, classes=["ant"], each=30)
    for path in sorted((tmp_path / "ant").iterdir())[::3]:
        faults.html(path)
    watched = loader_of(RobustImageDataset(tmp_path, on_error="replace"), workers, shuffle=shuffle)
    for _ in range(3):
        list(watched)
    first, *others = [epoch.table() for epoch in watched.epochs]
    assert len(first) == 10
    assert first["action"].nunique() > 3  # the peers are many, so a new draw would be another one
    assert all(other.equals(first) for other in others)


def test_a_replacement_hangs_on_no_random_state(tmp_path):
    write_tree(tmp_path, classes=["ant"], each=30)
    for path in sorted((tmp_path / "ant").iterdir())[::3]:
        faults.html(path)
    data = RobustImageDataset(tmp_path, on_error="replace")
    drawn = []
    for seed in range(3):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        drawn.append([data[index].index for index in range(0, 30, 3)])
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_replacement_has_the_pixels_it_claims_and_is_the_same_in_every_epoch(tmp_path):
    broken_tree(tmp_path)
    data = RobustImageDataset(tmp_path, on_error="replace")
    sample, again = data[4], data[4]
    assert sample.index == again.index in (6, 7)
    torch.testing.assert_close(sample.image, data[sample.index].image)


@WORKERS
def test_a_placeholder_is_counted_and_claims_no_sample(workers, tmp_path):
    broken_tree(tmp_path)
    gray = torch.full((3, 32, 48), 0.5)
    data = RobustImageDataset(tmp_path, on_error="replace", placeholder=gray)
    watched = loader_of(data, workers)
    images = torch.cat([batch.images for batch in watched])
    (epoch,) = watched.epochs
    assert [i for i, index in enumerate(epoch.indices) if index == -1] == [1, 4, 5, 9]
    assert all(images[i].equal(gray) for i in (1, 4, 5, 9))
    assert set(epoch.table()["action"]) == {"replaced by a placeholder"}


def test_a_class_without_a_good_picture_cannot_be_replaced(tmp_path):
    broken_tree(tmp_path, broken=(4, 5, 6, 7))
    data = RobustImageDataset(tmp_path, on_error="replace")
    with pytest.raises(BadImageError, match=r"sample 4, .* any other of its class, 1; pass a"):
        data[4]


# What is a failure, and what is not


@pytest.mark.parametrize("policy", ["stop", "skip", "replace"])
def test_an_error_in_the_transform_is_never_taken_for_a_bad_file(policy, tmp_path):
    write_tree(tmp_path)
    data = RobustImageDataset(tmp_path, transform=divide_by_zero, on_error=policy)
    with pytest.raises(ZeroDivisionError):
        data[0]


def test_the_data_set_fails_on_what_the_scan_calls_bad_and_on_nothing_else(tmp_path):
    write_tree(tmp_path, each=40)
    faults.damage(tmp_path, share=0.9)
    bad = {path for path, _ in scan_images(tmp_path, workers=0).bad}
    data = RobustImageDataset(tmp_path, on_error="skip")
    failed = {data.paths[i] for i in range(len(data)) if data[i].failure is not None}
    assert failed == bad
    assert len(bad) > 40


def test_what_a_scan_calls_good_can_be_trained_on(tmp_path):
    write_tree(tmp_path, each=40)
    faults.damage(tmp_path, share=0.9)
    data = RobustImageDataset(scan_images(tmp_path, workers=0).good)
    assert data.classes == ("ant", "bee", "cow")
    for image, _ in data:
        assert image.dtype == torch.float32
        assert image.ndim == 3
        assert image.shape[0] == 3
        assert image.min() >= 0
        assert image.max() <= 1


def test_a_truncated_file_fails_even_where_pillow_is_told_to_invent(tmp_path, monkeypatch):
    faults.truncated(write_tree(tmp_path, classes=["ant"], each=1)[0])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadImageError, match="truncated"):
        RobustImageDataset(tmp_path)[0]


def test_the_limit_of_pixels_is_kept(tmp_path):
    write_tree(tmp_path, classes=["ant"], each=1)
    assert RobustImageDataset(tmp_path, max_pixels=48 * 32)[0].image is not None
    with pytest.raises(BadImageError, match="too many pixels"):
        RobustImageDataset(tmp_path, max_pixels=48 * 32 - 1)[0]


def test_the_transform_is_applied(tmp_path):
    write_tree(tmp_path)
    image, _ = RobustImageDataset(tmp_path, transform=shrink)[0]
    assert image.shape == (3, 8, 12)
