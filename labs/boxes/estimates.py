"""Hold what a network says at references laid over the image, such as anchors, in one list."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Estimates(NamedTuple):
    """Hold what a network says at each of its P reference boxes.

    Attributes:
        deltas: Corrections of the references, [N,P,4].
        logits: Of each reference, [N,P,K].
        references: Anchors or default boxes, xyxy in pixels, [P,4].
        size: Height and width of the images in pixels.
    """

    deltas: Tensor
    logits: Tensor
    references: Tensor
    size: tuple[int, int]


def answers_in_a_row(level: Tensor, numbers: int) -> Tensor:
    """Give each reference of a map its own numbers: [N,A*K,H,W] to [N,H*W*A,K].

    Row by row, cell by cell, and there reference by reference: the order in which
    :class:`labs.boxes.DefaultBoxes` and :class:`labs.boxes.AnchorGrid` lay them. Another order
    trains and finds nothing.

    Args:
        level: K numbers for each of the A references of a cell, [N,A*K,H,W].
        numbers: K.
    """
    answers = level.unflatten(1, (-1, numbers))  # [N,A,K,H,W]
    return answers.permute(0, 3, 4, 1, 2).flatten(1, 3)
