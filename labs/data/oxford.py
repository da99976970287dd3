"""Load Oxford's photographs of 102 kinds of flowers from where torchvision put them."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets import Flowers102
from torchvision.transforms import v2

from labs.data.images import ImageSet

_FIRST_SOURCE = {"train": 0, "val": 1020, "test": 2040}  # the splits hold 1,020, 1,020 and 6,149


def flowers102(
    root: str | Path, split: str = "train", n: int | None = None, size: int = 64, seed: int = 0
) -> ImageSet:
    """Load the 102 flowers of Nilsback and Zisserman (2008), which do not ship with the book.

    Fetch them once, 345 MB: ``torchvision.datasets.Flowers102(root, download=True)``.

    Args:
        root: The folder given to torchvision.
        split: ``"train"``, ``"val"`` or ``"test"``, as published.
        n: How many images, the first of a shuffled order; all when None.
        size: Height and width in pixels: the shorter side is scaled to it, the rest cut off.
        seed: Of the order.

    Returns:
        Images [n,3,size,size]. ``sources`` number all images of the three splits.

    Raises:
        FileNotFoundError: When ``root`` does not hold the set.
        ValueError: When the split is unknown or ``n`` is out of range.
    """
    if split not in _FIRST_SOURCE:
        raise ValueError(f"flowers102: expected split 'train', 'val' or 'test', got {split!r}")
    scale = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
    try:
        data = Flowers102(root, split, transform=scale)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"flowers102: expected the set in {Path(root, 'flowers-102')}, got: {error}; fetch it "
            f"with torchvision.datasets.Flowers102({str(root)!r}, download=True)"
        ) from error
    if n is not None and not 1 <= n <= len(data):
        raise ValueError(f"flowers102: expected 1 <= n <= {len(data):,} {split} images, got {n:,}")
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:n]
    images, labels = zip(*(data[row] for row in rows.tolist()), strict=True)
    return ImageSet(
        torch.stack(images).float().div_(255),
        torch.tensor(labels),
        tuple(Flowers102.classes),
        rows + _FIRST_SOURCE[split],
    )
