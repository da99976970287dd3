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

    What two of them say of themselves must agree: ``strides``, ``stride``, ``boxes``, ``reg_max``
    and ``num_classes``, and ``anchors`` (how many, or which). A wrong one can leave maps of the
    right shape, so that nothing else would notice.

    Attributes:
        network: Maps images [N,3,H,W] in [0,1] to raw outputs, as its criterion and its
            postprocess take them.
        criterion: ``criterion(raw, targets)`` returns the terms of the loss, as scalars by name.
        postprocess: ``postprocess(raw)`` returns one dict per image: ``boxes`` [n,4] xyxy in
            pixels, ``scores`` [n] in [0, 1], highest first, ``labels`` [n].

    Raises:
        ValueError: When two parts contradict each other.
    """

    network: nn.Module
    criterion: Callable[[Any, Sequence[Target]], Mapping[str, Tensor]]
    postprocess: Callable[[Any], list[Prediction]]

    def __post_init__(self) -> None:
        for name in ("strides", "stride", "boxes", "reg_max", "num_classes", "anchors"):
            self._refuse_contradiction(name)

    def _refuse_contradiction(self, name: str) -> None:
        """Raise unless all parts that have a setting of this name have the same."""
        said = {
            part: plain
            for part in ("network", "criterion", "postprocess")
            if (plain := _plain(getattr(getattr(self, part), name, None))) is not None
        }
        if isinstance(said.get("network"), int) and name == "anchors":  # it only counts them
            count = said.pop("network")
            odd = [p for p in said if any(len(level) != count for level in said[p])]
            said = {"network": count, odd[0]: said[odd[0]]} if odd else said
        if any(value != other for value in said.values() for other in said.values()):
            told = ", ".join(f"{value} of the {part}" for part, value in said.items())
            raise ValueError(
                f"Detector: expected parts with the same {name}, got {told}; "
                "build them with the same settings"
            )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of the terms, as :func:`labs.train.fit` takes it.

        Args:
            model: The network, or what wraps it, such as ``DistributedDataParallel``.
            batch: Images [N,3,H,W] and N targets, on any device.

        Raises:
            ValueError: When there is not one target per image, or a term is not one number.
        """
        images, targets = batch
        if len(images) != len(targets):
            raise ValueError(
                f"Detector.loss: expected one target per image, got {len(images)} images and "
                f"{len(targets)} targets; an image without objects has boxes of shape [0,4]"
            )
        home = _home(model, images)
        raw = model(images.to(home))
        terms = self.criterion(raw, [_moved(target, home) for target in targets])
        return _total(terms)

    def detect(self, images: Tensor, batch_size: int = 64) -> list[Prediction]:
        """Detect in eval mode, without gradients; the dicts are on the CPU.

        Args:
            images: [N,3,H,W] in [0,1], on any device.
            batch_size: How many at a time, at least 1.

        Raises:
            ValueError: When ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"Detector.detect: expected batch_size >= 1, got {batch_size}")
        home = _home(self.network, images)
        found: list[Prediction] = []
        with evaluating(self.network) as network:
            for start in range(0, len(images), batch_size):
                part = images[start : start + batch_size].to(home)
                found += self.postprocess(network(part))
        return [_moved(prediction, torch.device("cpu")) for prediction in found]

    def score(
        self, batches: Iterable[Batch], classes: Sequence[str] | None = None
    ) -> AveragePrecision:
        """Score as COCO does, over all batches of images and targets.

        Args:
            batches: Such as a ``DataLoader`` with :func:`labs.data.scenes.collate`.
            classes: The name of label i is ``classes[i]``.
        """
        predictions: list[Prediction] = []
        targets: list[Target] = []
        for images, truths in batches:
            predictions += self.detect(images)
            targets += truths
        return coco_map(predictions, targets, classes)


def _home(model: nn.Module, images: Tensor) -> torch.device:
    """Return the device of the model; that of the images when it has no parameters."""
    return next((parameter.device for parameter in model.parameters()), images.device)


def _moved(target: Target, device: torch.device) -> Prediction:
    # What is no tensor is left to the criterion, which says so in words.
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in target.items()}


def _plain(value: Any) -> Any:
    """Return a number, or numbers nested in a tensor, lists or tuples, such that == compares."""
    if isinstance(value, Tensor):
        value = None if value.is_meta else value.tolist()
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    if isinstance(value, float):
        return float(f"{value:.6g}")  # what was kept in float32 is still the same
    return value if isinstance(value, int) else None


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    wrong = {name: list(term.shape) for name, term in terms.items() if term.ndim}
    if wrong or not terms:
        raise ValueError(
            "Detector.loss: expected a criterion that returns numbers by name, got "
            + (f"tensors of shape {wrong}; sum or average them" if wrong else "no terms")
        )
    return torch.stack(list(terms.values())).sum()
