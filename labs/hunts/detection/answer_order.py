"""Check in which order the first stage lists its answers: that of the anchors they are about."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labs.hunts import Verdict, examine
from labs.hunts.answer import pair_of, tensor_of

InOrder = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def check_answer_order(in_anchor_order: InOrder) -> Verdict:
    """Check a function that lists scores and corrections of a map as its anchors are listed.

    Anchors are listed row by row, in a row cell by cell, in a cell one after another.

    Args:
        in_anchor_order: ``in_anchor_order(scores, deltas)`` takes [N,A,H,W] and [N,4A,H,W], where
            channels 4a to 4a+3 belong to anchor a; it returns [N,H*W*A] and [N,H*W*A,4].

    Returns:
        The verdict of six probes: on scores, on corrections, on the shape of the map, on a batch,
        on one anchor per cell, and on the way back.
    """
    return examine(
        "the order of the answers",
        in_anchor_order,
        {
            "a score stands where its anchor stands": lambda f: _scores(f, 1, 2, 2, 3),
            "four corrections stand where their anchor stands": lambda f: _deltas(f, 1, 2, 2, 3),
            "it holds on a map of more rows than columns": lambda f: _both(f, 1, 3, 5, 2),
            "it holds in a batch of three images": lambda f: _both(f, 3, 2, 4, 7),
            "it holds with one anchor in a cell": lambda f: _both(f, 1, 1, 3, 8),
            "a loss finds its way back to every channel": _way_back,
        },
    )


def _scores(f: InOrder, images: int, anchors: int, rows: int, columns: int) -> str:
    scores, deltas = _named(images, anchors, rows, columns)
    got, _ = _ask(f, scores, deltas)
    return _compare(got, _right(scores, deltas)[0], "scores")


def _deltas(f: InOrder, images: int, anchors: int, rows: int, columns: int) -> str:
    scores, deltas = _named(images, anchors, rows, columns)
    _, got = _ask(f, scores, deltas)
    return _compare(got, _right(scores, deltas)[1], "corrections")


def _both(f: InOrder, images: int, anchors: int, rows: int, columns: int) -> str:
    _scores(f, images, anchors, rows, columns)
    return _deltas(f, images, anchors, rows, columns)


def _way_back(f: InOrder) -> str:
    scores, deltas = _named(2, 2, 3, 4)
    scores.requires_grad_()
    deltas.requires_grad_()
    got = _ask(f, scores, deltas)
    loss = sum(one.sum() for one in got if one.requires_grad)
    assert isinstance(loss, Tensor), "nothing of the answer has a gradient"
    loss.backward()
    for name, given in (("scores", scores), ("corrections", deltas)):
        grad = torch.zeros(()) if given.grad is None else given.grad
        reached = grad.expand_as(given) == 1
        assert reached.all(), f"{int((~reached).sum())} of {given.numel()} {name} get no gradient"
    return "it does"


def _named(images: int, anchors: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Give every answer another number, so that none can be taken for another."""
    shape = (images, anchors, rows, columns)
    scores = torch.arange(float(images * anchors * rows * columns)).view(shape)
    deltas = torch.arange(4.0 * scores.numel()).view(images, 4 * anchors, rows, columns)
    return scores, deltas


def _right(scores: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Say what is right, place by place."""
    images, anchors, rows, columns = scores.shape
    order = [(y, x, a) for y in range(rows) for x in range(columns) for a in range(anchors)]
    first = torch.stack([scores[:, a, y, x] for y, x, a in order], 1)
    second = torch.stack([deltas[:, 4 * a : 4 * a + 4, y, x] for y, x, a in order], 1)
    assert first.shape == (images, len(order))
    return first, second


def _ask(f: InOrder, scores: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    images, count = len(scores), scores[0].numel()
    given = [one if one.requires_grad else one.clone() for one in (scores, deltas)]
    first, second = pair_of(f(given[0], given[1]), "scores and corrections")
    first = tensor_of(first, (images, count), "the scores")
    return first, tensor_of(second, (images, count, 4), "the corrections")


def _compare(got: Tensor, right: Tensor, what: str) -> str:
    wrong = (got != right).view(*right.shape[:2], -1).any(-1)
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} anchors have the {what} of another"
    )
    return f"all {wrong.numel()} do"
