"""Carry failures along with the samples, so that a worker process cannot lose them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class Failure:
    """Hold one sample that could not be read.

    Attributes:
        index: The sample that was asked for.
        path: Its file.
        reason: What is wrong with the file.
        action: What was delivered instead: ``"skipped"``, ``"replaced by a placeholder"`` or
            ``"replaced by sample 12"``.
    """

    index: int
    path: Path
    reason: str
    action: str


@dataclass(frozen=True, eq=False)
class Sample:
    """Hold one sample; unpacks as ``image, label``.

    Attributes:
        image: [3,H,W], or ``None`` when the sample failed and is to be skipped.
        label: The class.
        index: Which sample the *pixels* are of: after a replacement not the one asked for, and -1
            for a placeholder.
        failure: Set when the sample asked for could not be read.
    """

    image: Tensor | None
    label: int
    index: int
    failure: Failure | None = None

    def __iter__(self) -> Iterator[Tensor | int | None]:
        return iter((self.image, self.label))


@dataclass(frozen=True, eq=False)
class Batch:
    """Hold the samples that have pixels, and the failures; unpacks as ``images, labels``.

    Attributes:
        images: [n,3,H,W]; [0,3,0,0] when no sample of the batch has pixels.
        labels: [n] of int64.
        indices: [n] of int64: which sample the pixels are of, -1 for a placeholder.
        failures: What could not be read.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.labels))

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory; a ``DataLoader(pin_memory=True)`` calls this."""
        return Batch(
            self.images.pin_memory(),
            self.labels.pin_memory(),
            self.indices.pin_memory(),
            self.failures,
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack the samples that have pixels, and keep the failures; for ``DataLoader(collate_fn=)``.

    The batch may be smaller than ``batch_size``, and empty when every sample failed. The mean loss
    of an empty batch is NaN, so test ``len(batch)``, or let :class:`WatchedLoader` leave it out.

    Raises:
        ValueError: When the images differ in size.
    """
    kept = [(sample, sample.image) for sample in samples if sample.image is not None]
    sizes = {tuple(image.shape) for _, image in kept}
    if len(sizes) > 1:
        raise ValueError(
            f"collate: expected images of one size, got {sorted(sizes)}; resize them in `transform`"
        )
    images = torch.stack([image for _, image in kept]) if kept else torch.empty(0, 3, 0, 0)
    labels = torch.tensor([sample.label for sample, _ in kept], dtype=torch.int64)
    indices = torch.tensor([sample.index for sample, _ in kept], dtype=torch.int64)
    failures = tuple(sample.failure for sample in samples if sample.failure is not None)
    return Batch(images, labels, indices, failures)


@dataclass(frozen=True)
class Epoch:
    """Hold what one pass over the data delivered.

    Attributes:
        indices: Which samples the delivered pixels were of, in order, -1 for a placeholder.
        labels: Their labels, in the same order.
        failures: What could not be read, each once.
        complete: False when the loop was left before the last batch.
    """

    indices: tuple[int, ...]
    labels: tuple[int, ...]
    failures: tuple[Failure, ...]
    complete: bool

    def table(self) -> pd.DataFrame:
        """Return one row per failure: ``index``, ``path``, ``reason``, ``action``."""
        names = ["index", "path", "reason", "action"]
        rows = [asdict(failure) | {"path": str(failure.path)} for failure in self.failures]
        return pd.DataFrame(rows, columns=names).sort_values("index", ignore_index=True)

    def __repr__(self) -> str:
        again = sum(n - 1 for index, n in Counter(self.indices).items() if index >= 0)
        end = "" if self.complete else ", left early"
        return (
            f"Epoch({len(self.indices)} samples delivered, {again} of them again, "
            f"{len(self.failures)} failed{end})"
        )


class WatchedLoader:
    """Go through a ``DataLoader`` and record, here in this process, what each epoch delivered.

    The failures arrive inside the batches, so nothing is lost in a worker process, whose copy of
    the data set, and of any list in it, dies with the worker. Batches without a single sample are
    recorded and left out.

    Args:
        loader: A loader with ``collate_fn=collate``.
    """

    def __init__(self, loader: DataLoader[Sample]) -> None:
        if loader.collate_fn is not collate:
            raise ValueError(
                f"WatchedLoader: expected a loader with collate_fn=labs.data.batch.collate, got "
                f"{getattr(loader.collate_fn, '__name__', loader.collate_fn)}"
            )
        self.loader = loader
        self.epochs: list[Epoch] = []

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        indices: list[int] = []
        labels: list[int] = []
        failures: list[Failure] = []
        complete = False
        try:
            for batch in self.loader:
                indices += batch.indices.tolist()
                labels += batch.labels.tolist()
                failures += batch.failures
                if len(batch):
                    yield batch
            complete = True
        finally:
            self.epochs.append(Epoch(tuple(indices), tuple(labels), tuple(failures), complete))
