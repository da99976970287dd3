"""Hold a labelled set of images: the type that every image set of this package returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Hold images with their labels; works as the dataset of a ``DataLoader``.

    Attributes:
        images: [N,1,H,W] or [N,3,H,W], float32 in [0, 1].
        labels: [N], int64, each the index of a name in ``classes``.
        classes: The class names.
        sources: [N], int64: which original object an image shows. Two images of one object share
            it, so a split that keeps sources apart leaks nothing.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    sources: Tensor

    def __post_init__(self) -> None:
        sizes = len(self.images), len(self.labels), len(self.sources)
        if self.images.ndim != 4 or len(set(sizes)) > 1:
            raise ValueError(
                "ImageSet: expected images [N,C,H,W] with N labels and N sources, got images "
                f"{tuple(self.images.shape)}, {sizes[1]} labels and {sizes[2]} sources"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def take(self, indices: Tensor | list[int] | slice) -> ImageSet:
        """Return the images at these indices (or where this mask is true), in that order."""
        rows = indices if isinstance(indices, slice) else torch.as_tensor(indices)
        return ImageSet(self.images[rows], self.labels[rows], self.classes, self.sources[rows])

    def counts(self) -> dict[str, int]:
        """Return how many images each class has."""
        found = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    def __repr__(self) -> str:
        n, c, h, w = self.images.shape
        return f"ImageSet({n} images {c}x{h}x{w}, {len(self.classes)} classes)"
