"""Serve a data set augmented, and let transforms of torchvision see boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from labs.data.augment.window import Example, chosen, following, redraw
from labs.data.scenes.coco import Labelled
from labs.data.scenes.truth import Target

Augment = Callable[[Sequence[Example], np.random.Generator], Example]


class Augmented(Dataset[Example]):
    """Apply one augmentation to the examples of a data set; wrap again for the next one.

    What happens to an example depends on seed, epoch and index alone: not on the order, on other
    examples, or on the process. In each epoch it is something else, once :meth:`set_epoch` is
    called, also for data loaders whose workers stay.

    Args:
        dataset: Single pictures with truths.
        augment: Maps a list of an example and its partners, and a generator, to a new example.
            With options, pass ``functools.partial(mosaic, size=(128, 128))``.
        partners: How many other examples it gets: 3 for a mosaic, 1 for a mixture.
        chance: How probable it is that an example is augmented; otherwise it is given as it is.
        seed: Any integer in [0, 2**64). Give each layer another one.

    Attributes:
        classes: The class names.
        split: The split.

    Raises:
        ValueError: When an argument is out of range.
    """

    def __init__(
        self,
        dataset: Labelled,
        augment: Augment,
        *,
        partners: int = 0,
        chance: float = 1.0,
        seed: int = 0,
    ) -> None:
        if partners < 0 or not 0 <= chance <= 1 or not 0 <= seed < 2**64:
            raise ValueError(
                "Augmented: expected partners >= 0, chance in [0, 1] and seed in [0, 2**64), got "
                f"partners={partners}, chance={chance}, seed={seed}"
            )
        self.dataset, self.augment = dataset, augment
        self.partners, self.chance, self.seed = partners, chance, seed
        self.classes, self.split = dataset.classes, dataset.split
        # Shared, because workers that live on have their own copy of everything else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, here and in the augmented data sets inside this one.

        Raises:
            ValueError: When the epoch is negative.
        """
        if epoch < 0:
            raise ValueError(f"set_epoch: expected an epoch >= 0, got {epoch}")
        self._epoch.fill_(epoch)
        if isinstance(self.dataset, Augmented):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"Augmented: expected an index in [{-len(self)}, {len(self)}), got {index}"
            )
        index = int(index) % len(self)
        key = np.array([self.seed, int(self._epoch)], np.uint64)
        counter = np.array([0, 0, 0, index], np.uint64)  # a stream of its own for each index
        rng = np.random.Generator(np.random.Philox(key=key, counter=counter))
        example = self.dataset[index]
        if rng.random() >= self.chance:
            image, target = example
            return image, following(target)
        others = rng.integers(len(self), size=self.partners).tolist()
        return self.augment([example, *(self.dataset[k] for k in others)], rng)

    def __repr__(self) -> str:
        return f"Augmented({self.dataset!r}, {self.augment!r}, epoch {int(self._epoch)})"


@dataclass(frozen=True)
class Transformed:
    """Apply a transform of ``torchvision.transforms.v2`` to a picture, its boxes and its masks.

    It draws from torch's global generator, which is seeded for it and then put back.

    Attributes:
        transform: Takes ``(Image, dict)`` of tv_tensors.
        tight: Whether boxes are drawn anew around the masks, if there are masks: a turned box is
            larger than the box of the turned object.
        min_side: Objects whose box is narrower or lower than this, in pixels, are dropped, and so
            are those whose mask is empty; must be above 0.
    """

    transform: Callable[..., Any]
    tight: bool = False
    min_side: float = 1.0

    def __post_init__(self) -> None:
        if not self.min_side > 0:
            raise ValueError(f"Transformed: expected min_side > 0, got {self.min_side}")

    def __call__(self, examples: Sequence[Example], generator: np.random.Generator) -> Example:
        """Return the first of the examples, transformed.

        Raises:
            ValueError: When the transform drops objects itself.
        """
        image, target = examples[0]
        known = _wrapped(target, tuple(image.shape[1:]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**63)))
            image, known = self.transform(tv_tensors.Image(image), known)
        bare = {name: value.as_subclass(Tensor) for name, value in known.items()}
        rows = {name: len(value) for name, value in bare.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(
                f"Transformed: expected a transform that keeps all objects, got rows {rows}; leave "
                "SanitizeBoundingBoxes out, degenerate boxes are dropped here"
            )
        return image.as_subclass(Tensor), self._cleaned(bare)

    def _cleaned(self, target: Target) -> Target:
        if "masks" in target:
            target = chosen(target, target["masks"].any(2).any(1))
            if self.tight:
                redraw(target, torch.ones(len(target["boxes"]), dtype=torch.bool))
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        return chosen(target, (x2 - x1 >= self.min_side) & (y2 - y1 >= self.min_side))


def _wrapped(target: Target, size: tuple[int, ...]) -> dict[str, Tensor]:
    known: dict[str, Tensor] = dict(following(target))
    known["boxes"] = tv_tensors.BoundingBoxes(known["boxes"], format="XYXY", canvas_size=size)
    if "masks" in known:
        known["masks"] = tv_tensors.Mask(known["masks"])
    return known
