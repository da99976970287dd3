"""Check a focal loss: what it makes of hard and easy cells, of objects and background."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from labs.hunts import Verdict, examine
from labs.hunts.answer import number_of, tensor_of

Loss = Callable[[Tensor, Tensor, float, float], Tensor]


def check_focal_loss(loss: Loss) -> Verdict:
    """Check a focal loss that is summed over all cells and divided by the number of objects' cells.

    Args:
        loss: ``loss(logits, wanted, alpha, gamma)`` takes logits [N,P,C] and what they should say,
            0 or 1, of the same shape, and returns one number. With no 1 at all it divides by 1.

    Returns:
        The verdict of seven probes.
    """
    return examine(
        "the focal loss that taught silence",
        loss,
        {
            "a hard cell counts more than an easy one, by the power of gamma": _focus,
            "alpha weighs what should be 1, and the rest of 1 the others": _alpha,
            "twice the images, the same loss": _images,
            "a hundred times as many easy cells of background change little": _background,
            "an image without an object": _empty,
            "the gradient is that of torchvision's, by the number of ones": _gradient,
            "logits of 90 and -90": _extreme,
        },
    )


def _ask(loss: Loss, logits: Tensor, wanted: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the loss as a tensor without dimensions."""
    return tensor_of(loss(logits, wanted, alpha, gamma), (), "the loss")


def _one(loss: Loss, logit: float, wanted: float, alpha: float, gamma: float) -> float:
    cell = torch.full((1, 1, 1), logit)
    return number_of(_ask(loss, cell, torch.full_like(cell, wanted), alpha, gamma), "the loss")


def _batch(images: int = 2, cells: int = 40) -> tuple[Tensor, Tensor]:
    """Make logits and what is wanted: three ones in an image, everything else zero."""
    draw = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(images, cells, 3, generator=draw) - 1
    wanted = torch.zeros_like(logits)
    wanted[:, [2, 7, 11], [0, 2, 1]] = 1
    return logits, wanted


def _near(got: float, expected: float, what: str) -> None:
    off = abs(got - expected) / max(abs(expected), 1e-12)
    assert off < 1e-3, f"{what}: expected {expected:.4g}, got {got:.4g}"


def _focus(loss: Loss) -> str:
    for gamma in (0.0, 1.0, 2.0, 3.5):
        hard, easy = (_one(loss, logit, 0.0, 0.25, gamma) for logit in (2.0, -2.0))
        p = torch.tensor([2.0, -2.0]).sigmoid()
        each = -(1 - p).log() * p**gamma
        expected = float(each[0] / each[1])
        _near(hard / easy if easy else float("inf"), expected, f"hard over easy at gamma {gamma}")
    return "for four powers"


def _alpha(loss: Loss) -> str:
    for alpha in (0.1, 0.25, 0.9):
        one, zero = _one(loss, 0.7, 1.0, alpha, 2.0), _one(loss, -0.7, 0.0, alpha, 2.0)
        expected = alpha / (1 - alpha)
        _near(one / zero if zero else float("inf"), expected, f"one over zero at alpha {alpha}")
    return "for three weights"


def _images(loss: Loss) -> str:
    logits, wanted = _batch()
    once = float(_ask(loss, logits, wanted, 0.25, 2.0))
    twice = float(_ask(loss, logits.repeat(2, 1, 1), wanted.repeat(2, 1, 1), 0.25, 2.0))
    _near(twice, once, "the loss of the batch beside itself")
    return "it is the same"


def _background(loss: Loss) -> str:
    logits, wanted = _batch()
    more = torch.full((2, 4000, 3), -6.0)
    before = float(_ask(loss, logits, wanted, 0.25, 2.0))
    every, none = torch.cat([logits, more], 1), torch.cat([wanted, torch.zeros_like(more)], 1)
    after = float(_ask(loss, every, none, 0.25, 2.0))
    assert abs(after / before - 1) < 0.05, f"the loss went from {before:.4g} to {after:.4g}"
    return "by less than a twentieth"


def _empty(loss: Loss) -> str:
    logits = _batch()[0].requires_grad_()
    value = _ask(loss, logits, torch.zeros_like(logits), 0.25, 2.0)
    assert value.isfinite(), f"the loss is {value.item()}"
    assert value.requires_grad, "nothing is learnt from it"
    (slope,) = torch.autograd.grad(value, logits)
    assert (slope > 0).all(), "some scores of an empty image are not pushed down"
    _near(value.item(), _reference(logits, torch.zeros_like(logits)).item(), "its loss")
    return "pushes every score down"


def _reference(logits: Tensor, wanted: Tensor) -> Tensor:
    whole = sigmoid_focal_loss(logits, wanted, 0.25, 2.0, "sum")
    return whole / wanted.sum().clamp(min=1)


def _gradient(loss: Loss) -> str:
    logits, wanted = _batch()
    slopes = []
    for one in (loss, None):
        leaf = logits.clone().requires_grad_()
        value = _reference(leaf, wanted) if one is None else _ask(one, leaf, wanted, 0.25, 2.0)
        slopes.append(torch.autograd.grad(value, leaf)[0])
    off = float((slopes[0] - slopes[1]).abs().max() / slopes[1].abs().max())
    assert off < 1e-3, f"a slope is off by {off:.2g} of the largest"
    return "cell by cell"


def _extreme(loss: Loss) -> str:
    for logit in (-90.0, 90.0):
        for wanted in (0.0, 1.0):
            cell = torch.full((1, 1, 1), logit, requires_grad=True)
            value = _ask(loss, cell, torch.full((1, 1, 1), wanted), 0.5, 2.0)
            (slope,) = torch.autograd.grad(value, cell)
            told = f"logit {logit:.0f} for a {wanted:.0f}"
            assert value.isfinite(), f"{told}: the loss is {value.item()}"
            assert slope.isfinite().all(), f"{told}: the slope is {slope.item()}"
            wrong = (logit > 0) != (wanted == 1)
            expected = 45.0 if wrong else 0.0
            off = abs(value.item() - expected)
            assert off < 0.1, f"{told}: expected a loss of {expected:.1f}, got {value.item():.3g}"
    return "stay finite"
