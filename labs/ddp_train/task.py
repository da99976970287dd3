"""Hold what the trainer does not know by itself: what is to be learnt, from what, how judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from labs.data import ImageSet, digits
from labs.ddp import Place, gather_exact, shard
from labs.evaluate import predict
from labs.models import DigitNet
from labs.repro import seed_everything
from labs.train import Loss, cross_entropy


class Samples(Protocol):
    """Describe a training set: it has a length, and a sample at each index below."""

    def __len__(self) -> int:
        """Return how many samples there are."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return one sample."""
        ...


@dataclass(frozen=True)
class Task:
    """Say what is learnt: everything of a run that its settings do not decide.

    Attributes:
        network: What is trained, with its initial weights.
        data: ``data(epoch)`` is the training set of an epoch, from 0; all have the same length.
            A sample depends on nothing but the epoch and its index, so that a resumed run sees
            what it would have seen.
        loss: ``loss(model, batch)`` is the mean loss of a batch.
        score: ``score(network, place)`` after each epoch, on every rank at once, with the weights
            of rank 0: what is printed and kept, the same on every rank.
        collate: Makes a batch of a list of samples; PyTorch's own when None.
        facts: What else decides the result, such as the seed of the data: it is kept in the
            checkpoint, and a run is resumed only with the same.
    """

    network: nn.Module
    data: Callable[[int], Samples]
    loss: Loss
    score: Callable[[nn.Module, Place], Mapping[str, float]]
    collate: Callable[[Sequence[Any]], Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def digit_task(seed: int = 0, limit: int | None = None) -> Task:
    """Return the task of the command line: a :class:`labs.models.DigitNet` that reads digits.

    Args:
        seed: Of the initial weights.
        limit: Use only the first so many images of each split; all when None.
    """
    train, test = _first("train", limit), _first("test", limit)
    pairs: Any = TensorDataset(train.images, train.labels)
    seed_everything(seed)
    return Task(
        DigitNet(),
        lambda epoch: pairs,
        cross_entropy,
        lambda network, place: {"accuracy": measure(network, test, place)},
    )


def measure(network: nn.Module, data: ImageSet, place: Place) -> float:
    """Return the accuracy in [0, 1] on all of ``data``, each image judged once, by one rank."""
    indices = shard(len(data), place.rank, place.world_size)
    mine = data.take(torch.tensor(indices, dtype=torch.int64))  # a short set leaves ranks none
    hits: Tensor = torch.empty(0, dtype=torch.uint8)
    if len(mine):
        hits = (predict(network, mine.images).argmax(1) == mine.labels).byte()
    return gather_exact(hits.to(place.device), len(data)).double().mean().item()


def _first(split: str, limit: int | None) -> ImageSet:
    data = digits(split)
    return data if limit is None else data.take(slice(limit))
