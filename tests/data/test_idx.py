import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST, FashionMNIST

from labs.data import clothes, digits


def write_idx(path: Path, array, compress=False):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    content = head + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if compress else content)


def publish(folder, n, compress=False):
    rng = np.random.default_rng(0)
    end = ".gz" if compress else ""
    for prefix in ("train", "t10k"):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{end}", pixels, compress)
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{end}", labels, compress)


@pytest.mark.parametrize(
    ("load", "split", "sizes"),
    [
        pytest.param(digits, "train", {2000}, id="digits train"),
        pytest.param(clothes, "train", {1000}, id="clothes train"),
        pytest.param(clothes, "test", {200}, id="clothes test"),
    ],
)
def test_shipped_subsets_are_balanced_and_in_range(load, split, sizes):
    data = load(split)
    assert set(data.counts().values()) == sizes
    assert data.images.shape[1:] == (1, 28, 28)
    assert data.images.dtype == torch.float32
    assert data.images.min() == 0
    assert data.images.max() == 1
    assert data.sources.unique().numel() == len(data)


def test_all_ten_thousand_test_digits_ship():
    data = digits("test")
    assert len(data) == 10_000
    # The counts that the authors publish for the test set.
    assert list(data.counts().values()) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert sorted(data.sources.tolist()) == list(range(60_000, 70_000))


@pytest.mark.parametrize("load", [digits, clothes])
def test_splits_share_no_source_and_no_image(load):
    train, test = load("train"), load("test")
    assert not set(train.sources.tolist()) & set(test.sources.tolist())
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)


@pytest.mark.parametrize("load", [digits, clothes])
@pytest.mark.parametrize("n", [10, 95, 1000])
def test_first_n_hold_the_classes_evenly(load, n):
    whole, first = load("test"), load("test", n=n)
    for name, count in first.counts().items():
        assert abs(count - n * whole.counts()[name] / len(whole)) <= 1
    assert torch.equal(first.images, whole.images[:n])


def test_order_is_shuffled():
    labels = digits("train", n=1000).labels
    blocks = {tuple(block.tolist()) for block in labels.view(100, 10)}
    assert len(blocks) > 90
    assert all(sorted(block) == list(range(10)) for block in blocks)


@pytest.mark.parametrize("compress", [False, True], ids=["raw", "gzipped"])
def test_root_reads_published_files(tmp_path, compress):
    publish(tmp_path, 7, compress)
    data = digits("test", root=tmp_path)
    assert data.images.shape == (7, 1, 28, 28)
    assert data.sources.tolist() == list(range(60_000, 60_007))
    assert len(digits("train", n=3, root=tmp_path)) == 3


@pytest.mark.parametrize(("load", "reference"), [(digits, MNIST), (clothes, FashionMNIST)])
@pytest.mark.parametrize("train", [True, False])
def test_root_equals_torchvision(tmp_path, load, reference, train):
    publish(tmp_path / reference.__name__ / "raw", 5)
    theirs = reference(tmp_path, train=train)
    ours = load("train" if train else "test", root=tmp_path)
    assert torch.equal((ours.images[:, 0] * 255).round().byte(), theirs.data)
    assert torch.equal(ours.labels, theirs.targets)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", bytes([0, 0, 8, 3]), bytes([0, 0, 8, 1, 0, 0, 0, 9]) + b"12"],
    ids=["empty", "web page", "only a magic number", "truncated labels"],
)
def test_malformed_idx_file_is_refused(tmp_path, content):
    publish(tmp_path, 2)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected an idx file of bytes with 1 dimensions, got"):
        digits("train", root=tmp_path)


def test_errors_say_expected_and_got(tmp_path):
    with pytest.raises(ValueError, match="expected split 'train' or 'test', got 'valid'"):
        digits("valid")
    with pytest.raises(ValueError, match=r"1 <= n <= 2,000 test images, got 2,001; the full set"):
        clothes("test", n=2001)
    with pytest.raises(ValueError, match="got 0"):
        digits(n=0)
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*download=True"):
        digits(root=tmp_path)
