"""Put the parts of a detector together: network, criterion, postprocess."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labs.evaluate import evaluating
from labs.metrics import AveragePrecision, coco_map

Target = Mapping[str, Tensor]
Prediction = dict[str, Tensor]
Batch = tuple[Tensor, Sequence[Target]]


@dataclass(frozen=True)
class Detector:
    """Hold a detector: separate objects that can be tested, exchanged and used alone.

    Attributes:
        network: Maps images [N,3,H,W] in [0,1] to raw outputs, as its criterion and its
            postprocess take them.
        criterion: ``criterion(raw, targets)`` returns the terms of the loss, as scalars by name.
        postprocess: ``postprocess(raw)`` returns one dict per image: ``boxes`` [n,4] xyxy in
            pixels, ``scores`` [n] in [0, 1], highest first, ``labels`` [n].
    """

    network: nn.Module
    criterion: Callable[[Any, Sequence[Target]], Mapping[str, Tensor]]
    postprocess: Callable[[Any], list[Prediction]]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of the terms, as :func:`labs.train.fit` takes it.

        Args:
            model: The network, or what wraps it, such as ``DistributedDataParallel``.
            batch: Images [N,3,H,W] and N targets, on any device.
        """
        images, targets = batch
        home = next(model.parameters()).device
        terms = self.criterion(model(images.to(home)), [to(target, home) for target in targets])
        return torch.stack(list(terms.values())).sum()

    def detect(self, images: Tensor, batch_size: int = 64) -> list[Prediction]:
        """Detect in eval mode, without gradients; the dicts are on the CPU.

        Args:
            images: [N,3,H,W] in [0,1], on any device.
            batch_size: How many at a time, at least 1.
        """
        home = next(self.network.parameters()).device
        found: list[Prediction] = []
        with evaluating(self.network) as network:
            for part in images.split(batch_size):
                found += self.postprocess(network(part.to(home)))
        return [to(prediction, torch.device("cpu")) for prediction in found]

    def score(
        self, batches: Iterable[Batch], classes: Sequence[str] | None = None
    ) -> AveragePrecision:
        """Score as COCO does, over all batches of images and targets."""
        predictions: list[Prediction] = []
        targets: list[Target] = []
        for images, truths in batches:
            predictions += self.detect(images)
            targets += truths
        return coco_map(predictions, targets, classes)


def to(target: Target, device: torch.device) -> Prediction:
    """Return the dict with every tensor on the device."""
    return {name: value.to(device) for name, value in target.items()}
