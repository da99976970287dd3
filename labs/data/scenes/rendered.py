"""Keep scenes in memory, drawn once, for training that goes over them many times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.scenes.coco import Labelled
from labs.data.scenes.knobs import is_integer
from labs.data.scenes.truth import Target


class Rendered(Dataset[tuple[Tensor, Target]]):
    """Hold the pictures and truths of a data set; what it gives out equals what it was made from.

    Args:
        dataset: Single pictures of one size whose values are n/255, as those of :class:`Scenes`.
        keys: What to keep of each truth. A mask takes as many bytes as it has pixels.

    Attributes:
        images: [N,3,H,W], uint8.
        targets: One truth per picture.
        classes: The class names.
        split: The split.

    Raises:
        ValueError: When the pictures differ in size, are sequences, have other values than n/255,
            or a truth lacks a key.
    """

    def __init__(self, dataset: Labelled, keys: Sequence[str] = ("boxes", "labels")) -> None:
        self.classes, self.split = dataset.classes, dataset.split
        self.targets: list[Target] = []
        pictures: list[Tensor] = []
        for index in range(len(dataset)):
            image, target = dataset[index]
            pictures.append(_bytes(image, pictures[0].shape if pictures else image.shape, index))
            self.targets.append(_chosen(target, keys))
        self.images = torch.stack(pictures)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.images[index].float().div_(255), dict(self.targets[index])

    def batches(self, size: int, seed: int | None = None) -> Batches:
        """Return all pictures in batches.

        :func:`labs.train.fit` and :meth:`labs.detection.Detector.score` take them.

        Args:
            size: How many pictures in a batch, at least 1; the last batch may have fewer.
            seed: ``None`` keeps the order; an integer >= 0 gives another order in every pass.

        Raises:
            ValueError: When the size or the seed is out of range.
        """
        return Batches(self, size, seed)

    @property
    def nbytes(self) -> int:
        """Return how many bytes the pictures and the truths take."""
        kept = [tensor for target in self.targets for tensor in target.values()]
        return self.images.nbytes + sum(tensor.nbytes for tensor in kept)

    def __repr__(self) -> str:
        _, _, h, w = self.images.shape
        return (
            f"Rendered({len(self)} of {self.split!r}, 3x{h}x{w}, {len(self.classes)} classes, "
            f"{self.nbytes / 1e6:.1f} MB)"
        )


class Batches:
    """Go through rendered pictures again and again, as ``(images [B,3,H,W], B truths)``.

    Pass ``k`` of two equal objects has the same order; what is random comes from the seed alone.

    Attributes:
        passes: How many passes have begun.
    """

    def __init__(self, data: Rendered, size: int, seed: int | None) -> None:
        good = seed is None or (is_integer(seed) and seed >= 0)
        if not (is_integer(size) and size >= 1 and good):
            raise ValueError(
                f"batches: expected size an integer >= 1 and seed None or an integer >= 0, got "
                f"size={size}, seed={seed}"
            )
        self.data, self.size, self.seed = data, size, seed
        self.passes = 0

    def __len__(self) -> int:
        return -(-len(self.data) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, list[Target]]]:
        order = torch.arange(len(self.data))
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, self.passes])
            order = torch.from_numpy(rng.permutation(len(self.data)))
        self.passes += 1
        for rows in order.split(self.size):
            truths = [dict(self.data.targets[row]) for row in rows.tolist()]
            yield self.data.images[rows].float().div_(255), truths


def _bytes(image: Tensor, shape: torch.Size, index: int) -> Tensor:
    if image.ndim != 3 or image.shape != shape:
        raise ValueError(
            f"Rendered: expected single pictures of one size, [3,H,W], got {list(image.shape)} at "
            f"{index} after {list(shape)}; letterbox them first, and take scenes with frames=None"
        )
    pixels = image.mul(255).round_().byte()
    if not torch.equal(pixels.float().div_(255), image):
        raise ValueError(
            f"Rendered: expected values that are n/255, got others at {index}; augment after "
            "rendering, not before"
        )
    return pixels


def _chosen(target: dict[str, Any], keys: Sequence[str]) -> Target:
    if missing := [key for key in keys if key not in target]:
        raise ValueError(
            f"Rendered: expected truths with {', '.join(keys)}, got none of {', '.join(missing)}; "
            f"choose keys= from {', '.join(target)}"
        )
    return {key: target[key].clone() for key in keys}
