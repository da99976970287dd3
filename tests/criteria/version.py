"""Hold what the sanity tests need to know of one version of the YOLO line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

SIZE = 128
CLASSES = 3


@dataclass(frozen=True)
class Version:
    """Make the parts of a small detector of 3 classes, for images of 128x128 pixels.

    Attributes:
        network: Makes the network, in train mode, with random weights.
        criterion: ``criterion(raw, targets)``.
        postprocess: ``postprocess(raw)``.
        encode: ``encode(targets, height, width)`` writes targets as the raw output of a network
            that is sure of them. Objects are at least 10 pixels large, and no two share a centre.
        square: Whether the network takes square images only.
        silent: Parameters that no loss can reach before the first step.
    """

    network: Callable[[], nn.Module]
    criterion: Callable[[Any, Sequence[dict]], dict]
    postprocess: Callable[[Any], list[dict]]
    encode: Callable[[Sequence[dict], int, int], Any]
    square: bool = False
    silent: Sequence[str] = ()
