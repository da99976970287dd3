"""Load the two classic sets of 28x28 pictures: handwritten digits and clothes.

MNIST: LeCun, Cortes and Burges, 1998. Fashion-MNIST: Xiao, Rasul and Vollgraf, 2017,
arXiv:1708.07747. ``idx`` is the file format in which both are published.
"""

from __future__ import annotations

import gzip
import io
import lzma
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from labs.data.images import ImageSet
from labs.data.shipped import read_asset

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_SHA256 = {
    "digits-train.npz.xz": "4569e0af02b6c3f598e3b26609d4908b35d97f2858be7d5f5708fda0195ebff2",
    "digits-test.npz.xz": "809afca88f84b34dc728519af01d491a57492889a7db88b766e178a21e1878dc",
    "clothes-train.npz.xz": "090fcd9ffbc19bf105e61368720931e6e0b89d97e3d1d8f7f0dc40b015916c5b",
    "clothes-test.npz.xz": "a2d0e170b77e2d37e508c208f5d039f9b0c864066ed1f4f633b1f51c847b2868",
}
_PREFIX = {"train": "train", "test": "t10k"}  # the published file names
_TEST_OFFSET = 60_000  # sources: rows of the training file, then those of the test file

_Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]


def digits(split: str = "train", n: int | None = None, root: str | Path | None = None) -> ImageSet:
    """Load handwritten digits (MNIST).

    Without ``root`` come the shipped ones, in a shuffled order in which any first ``n`` hold the
    classes evenly: 2,000 training images of each digit, and all 10,000 test images.

    Args:
        split: ``"train"`` or ``"test"``.
        n: How many images, from the first; all when None.
        root: A folder with the published idx files, gzipped or not, in itself or in ``MNIST/raw``,
            where ``torchvision.datasets.MNIST(root, download=True)`` puts them. Then come all
            60,000 or 10,000 images, in the order of the file.

    Returns:
        Images [n,1,28,28]. ``sources`` are rows of the published training file; the rows of the
        test file follow from 60,000.

    Raises:
        ValueError: When the split is unknown, ``n`` is out of range, or an idx file is malformed.
        FileNotFoundError: When ``root`` holds no such file.
        DamagedAssetError: When a shipped file is missing or changed.
    """
    return _load("digits", "MNIST", DIGITS, split, n, root)


def clothes(split: str = "train", n: int | None = None, root: str | Path | None = None) -> ImageSet:
    """Load pictures of clothes (Fashion-MNIST), a harder set of the same shape as the digits.

    Without ``root`` come 1,000 training and 200 test images of each of the 10 classes, in a
    shuffled order in which any first ``n`` hold the classes evenly.

    Args:
        split: ``"train"`` or ``"test"``.
        n: How many images, from the first; all when None.
        root: A folder with the published idx files, gzipped or not, in itself or in
            ``FashionMNIST/raw``, where ``torchvision.datasets.FashionMNIST(root, download=True)``
            puts them. Then come all 60,000 or 10,000 images, in the order of the file.

    Returns:
        Images [n,1,28,28]. ``sources`` are rows of the published training file; the rows of the
        test file follow from 60,000.

    Raises:
        ValueError: When the split is unknown, ``n`` is out of range, or an idx file is malformed.
        FileNotFoundError: When ``root`` holds no such file.
        DamagedAssetError: When a shipped file is missing or changed.
    """
    return _load("clothes", "FashionMNIST", CLOTHES, split, n, root)


def _load(
    name: str,
    published: str,
    classes: tuple[str, ...],
    split: str,
    n: int | None,
    root: str | Path | None,
) -> ImageSet:
    if split not in _PREFIX:
        raise ValueError(f"{name}: expected split 'train' or 'test', got {split!r}")
    if root is None:
        images, labels, rows = _shipped(f"{name}-{split}.npz.xz")
    else:
        images, labels, rows = _published([Path(root), Path(root, published, "raw")], split)
    if n is not None and not 1 <= n <= len(images):
        more = f"; the full set has more, see {name}(root=...)" if root is None else ""
        raise ValueError(
            f"{name}: expected 1 <= n <= {len(images):,} {split} images, got {n:,}{more}"
        )
    return ImageSet(
        torch.from_numpy(images[:n, None]).float().div_(255),
        torch.from_numpy(labels[:n]).long(),
        classes,
        torch.from_numpy(rows[:n]).long(),
    )


def _shipped(file: str) -> _Arrays:
    content = lzma.decompress(read_asset(file, _SHA256[file]))
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"], arrays["rows"]


def _published(folders: list[Path], split: str) -> _Arrays:
    images = _read_idx(_find(folders, f"{_PREFIX[split]}-images-idx3-ubyte"), ndim=3)
    labels = _read_idx(_find(folders, f"{_PREFIX[split]}-labels-idx1-ubyte"), ndim=1)
    first = _TEST_OFFSET if split == "test" else 0
    return images, labels, np.arange(first, first + len(labels), dtype=np.int32)


def _find(folders: list[Path], name: str) -> Path:
    candidates = [folder / file for folder in folders for file in (name, f"{name}.gz")]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"expected {name} or {name}.gz in {' or '.join(map(str, folders))}, got neither; fetch it "
        "with torchvision.datasets.MNIST (or FashionMNIST), download=True"
    )


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an idx file: 0, 0, 8 (bytes), ndim, then each size as big-endian int32, then pixels."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    head = 4 + 4 * ndim
    magic, sizes = content[:4], np.frombuffer(content[4:head].ljust(4 * ndim, b"\0"), ">i4")
    if magic != bytes([0, 0, 8, ndim]) or len(content) - head != sizes.prod(dtype=np.int64):
        raise ValueError(
            f"{path}: expected an idx file of bytes with {ndim} dimensions, got {len(content):,} "
            f"bytes that start with {content[:head].hex(' ')}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes).copy()
