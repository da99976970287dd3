"""What the networks with anchors have in common: where their answers begin, and their strides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn


def start_at_prior(
    biases: Iterable[Tensor],
    strides: Sequence[int],
    anchors: int,
    num_classes: int,
    image_size: int,
) -> None:
    """Let every answer begin at what is likely before anything is seen; the boxes at 0.

    An untrained network that calls half of all places an object would spend its first steps on
    taking that back. As in the original, each anchor of a level expects eight objects in an image.
    The odds of a class begin at 0.6 to C, for any C; the original has 0.6 to C - 0.99. The biases
    are set to these values exactly, where the program of v5 and v7 adds them to the random ones
    that PyTorch draws.

    Args:
        biases: Of the last layer of each level, [A*(5+C)].
        strides: Of the levels.
        anchors: Anchors of each cell, A.
        num_classes: Classes, C.
        image_size: Side of the images in pixels.
    """
    for bias, stride in zip(biases, strides, strict=True):
        objects = min(8 / (image_size / stride) ** 2, 0.5)
        by_anchor = bias.detach().view(anchors, -1)  # shares memory with the bias
        nn.init.zeros_(by_anchor[:, :4])
        nn.init.constant_(by_anchor[:, 4], math.log(objects / (1 - objects)))
        nn.init.constant_(by_anchor[:, 5:], math.log(0.6 / num_classes))


def refuse_strides(name: str, strides: Sequence[int]) -> None:
    """Raise ValueError unless the strides double and lie between 4 and 32."""
    known = (4, 8, 16, 32)
    doubling = [strides[0] * 2**i for i in range(len(strides))] if strides else None
    if list(strides) != doubling or not set(strides) <= set(known):
        raise ValueError(
            f"{name}: expected strides that double, from 4 to 32, such as (8, 16, 32), "
            f"got {tuple(strides)}"
        )
