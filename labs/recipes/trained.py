"""Load a detector that somebody trained, with what is known about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from labs.data.augment import letterbox, unletterbox
from labs.data.shipped import read_asset
from labs.detection import Detector, Prediction
from labs.near_miss import did_you_mean
from labs.recipes.detectors import DETECTORS
from labs.recipes.weights import fill, read

SHIPPED: dict[str, str] = {
    "yolo_v3": "7effe6c9dad475def36c79dcd020a3dbf4f65259315db2b7e59e1f69a43ff2af",
    "yolo_v5": "c79b8f1f428092dfc9449edb502f1e7fef10418644eb1ab1f3c14f350644400c",
    "yolo_v7": "fc625a62b40d3e0bf2c794e60b0d762b403712d1a410c2e7ee5a38dbcb192e6e",
    "yolo_v8": "2b8d93e6cd0f7c1f9fd6397794d29a3116c23c825baaa9a6fa48a5d9c7384635",
    "ssd": "93b7b75e6d39fefd2aef8d82207d9436d7d53eb3a5fd0c147645de55194abd6c",
}
"""The checkpoints that ship with the book, ``NAME.safetensors``, each with its SHA-256."""
_SCENE = 128  # px: the side of the scenes of digits


@dataclass(frozen=True, repr=False)
class Trained:
    """Hold a trained detector and what its file says about it.

    Attributes:
        detector: In train mode, on the CPU, in float32.
        name: Of the detector in :data:`labs.recipes.DETECTORS`.
        classes: The name of label i is ``classes[i]``.
        metrics: What the run measured on the test scenes: ``AP``, ``AP50``, ``AP75``, ``AR``.
        recipe: How it was made: ``command``, ``versions``, ``seed``, ``steps``, ``processes``, and
            the ``test`` scenes; of one that learnt from own pictures also ``image_size``.
    """

    detector: Detector
    name: str
    classes: tuple[str, ...]
    metrics: Mapping[str, float]
    recipe: Mapping[str, Any]

    def table(self) -> pd.DataFrame:
        """Return one row per metric, with columns ``metric`` and ``value``."""
        return pd.DataFrame(self.metrics.items(), columns=["metric", "value"])

    @property
    def image_size(self) -> tuple[int, int]:
        """Return height and width of the pictures that it was trained on."""
        side = self.recipe.get("image_size", _SCENE)
        return side, side

    def find(self, image: Tensor, score: float = 0.25) -> Prediction:
        """Return what is found in a picture of any size, in pixels of the picture.

        Args:
            image: [3,H,W] in [0, 1], such as :func:`labs.data.pictures.read_tensor` gives it.
            score: The lowest score that is returned, in [0, 1].

        Raises:
            ValueError: When there is not one picture of three channels.
        """
        if image.ndim != 3 or len(image) != 3:
            raise ValueError(
                f"Trained.find: expected a picture [3,H,W], got {list(image.shape)}; for a batch "
                "of pictures of one size call .detector.detect"
            )
        none = {"boxes": image.new_zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        small, _ = letterbox((image, none), self.image_size)
        (found,) = self.detector.detect(small[None])
        found = {name: rows[found["scores"] >= score] for name, rows in found.items()}
        h, w = image.shape[1:]
        return {**found, "boxes": unletterbox(found["boxes"], (h, w), self.image_size)}

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={value:.3f}" for name, value in self.metrics.items())
        weights = sum(p.numel() for p in self.detector.network.parameters())
        return (
            f"Trained({self.name}, {weights:,} parameters, {len(self.classes)} classes, {figures}, "
            f"made by `{self.recipe['command']}`)"
        )


def trained(source: str | Path) -> Trained:
    """Load a trained detector with its classes, its metrics and its recipe.

    Args:
        source: The name of a shipped checkpoint (a key of :data:`SHIPPED`), or the path of a file
            that ``python -m labs.recipes NAME --out FILE`` wrote, which ends with ``.safetensors``.

    Raises:
        ValueError: When there is no such checkpoint, the file is without the header, or its weights
            do not fit the detector that it names.
        FileNotFoundError: When there is no such file.
        DamagedAssetError: When a shipped file is missing or changed.
    """
    weights, header = read(_content(source), str(source))
    name = header["detector"]
    if name not in DETECTORS:
        raise ValueError(f"{source}: {unknown('detector', name, DETECTORS)}")
    try:
        detector = DETECTORS[name](**header["arguments"])
    except TypeError as error:
        raise ValueError(
            f"{source}: expected arguments of {name!r}, got {header['arguments']}: {error}"
        ) from error
    fill(detector.network, weights, str(source))
    return Trained(detector, name, tuple(header["classes"]), header["metrics"], header["recipe"])


def load(source: str | Path) -> Detector:
    """Load the detector alone; :func:`trained` says what it takes and raises."""
    return trained(source).detector


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say what was expected in place of an unknown name, and what it may have meant."""
    names = tuple(known)
    hint = did_you_mean(name, names)
    return f"expected a {what} of {', '.join(names) or 'none'}, got {name!r}{hint}"


def _content(source: str | Path) -> bytes:
    if source in SHIPPED:
        return read_asset(f"{source}.safetensors", SHIPPED[str(source)])
    if Path(source).suffix == ".safetensors":
        return Path(source).read_bytes()
    wanted = unknown("shipped checkpoint", str(source), SHIPPED)
    raise ValueError(f"{wanted}; the name of a file ends with .safetensors")
