"""Check SSD's loss: what it is divided by, in batches with objects and in batches without."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from labs.hunts import Verdict, examine
from labs.hunts.answer import close, loss_of

MakeLoss = Callable[..., Tensor]
Batch = tuple[Tensor, Tensor, Tensor]

_PLACES, _CLASSES = 23, 4


def check_multibox_loss(multibox_loss: MakeLoss) -> Verdict:
    """Check a function that adds up SSD's loss of a batch and divides it.

    Args:
        multibox_loss: ``multibox_loss(logits, wanted, off, ratio)`` takes logits [N,P,C+1], classes
            [N,P] of which 0 is the background, how wrong each box is [N,P], and how many boxes of
            background count for each that answers for an object; it returns one number.

    Returns:
        The verdict of eight probes: batches with objects, with few, with none.
    """
    return examine(
        "SSD's loss",
        multibox_loss,
        {
            "with objects in every image, the loss is right": _with_objects,
            "so is its gradient": _gradient,
            "an image without objects, beside one with them, changes nothing": _beside_others,
            "a single object is divided by one": _single,
            "the same images twice have the same loss": _twice,
            "a batch without any object has a loss of zero": _nothing_there,
            "no weight moves after a batch without any object": _nothing_moves,
            "the ratio decides how much background counts": _ratio,
        },
    )


def _batch(objects: tuple[int, ...], seed: int = 0) -> Batch:
    """Draw a batch whose images have so many boxes that answer for an object."""
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(objects), _PLACES, _CLASSES + 1, generator=chance)
    wanted = torch.zeros(len(objects), _PLACES, dtype=torch.int64)
    for image, count in enumerate(objects):
        places = torch.randperm(_PLACES, generator=chance)[:count]
        wanted[image, places] = torch.randint(1, _CLASSES + 1, (count,), generator=chance)
    return logits, wanted, torch.rand(len(objects), _PLACES, generator=chance)


def _expected(batch: Batch, ratio: float = 3) -> Tensor:
    """Add up the loss image by image, place by place."""
    logits, wanted, off = batch
    total = logits.sum() * 0
    for scores, classes, wrong in zip(logits, wanted, off, strict=True):
        loss = cross_entropy(scores, classes, reduction="none")
        positive = classes > 0
        worst = loss[~positive].sort(descending=True).values[: int(ratio * positive.sum())]
        total = total + loss[positive].sum() + worst.sum() + wrong[positive].sum()
    return total / max(1, int((wanted > 0).sum()))


def _ask(make: MakeLoss, batch: Batch, ratio: float = 3) -> Tensor:
    logits, wanted, off = batch
    return loss_of(make(logits, wanted.clone(), off.clone(), ratio))


def _compare(make: MakeLoss, batch: Batch, ratio: float = 3) -> None:
    logits, wanted, off = batch
    logits = logits.clone().requires_grad_()
    got = _ask(make, (logits, wanted, off), ratio).detach().reshape(())
    right = _expected(batch, ratio)
    assert torch.isfinite(got), f"it is {got.item()}"
    assert torch.allclose(got, right, rtol=1e-4, atol=1e-5), (
        f"it is {got.item():.3f}, not {right.item():.3f}"
    )


def _gradients(make: MakeLoss, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the gradient of the logits, and what it should be."""
    logits, wanted, off = batch
    ours, right = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    _ask(make, (ours, wanted, off)).backward()
    _expected((right, wanted, off)).backward()
    assert ours.grad is not None, "no gradient reaches the logits"
    assert right.grad is not None
    return ours.grad, right.grad


def _with_objects(make: MakeLoss) -> str:
    for objects in ((2, 3), (1, 5, 4)):
        _compare(make, _batch(objects))
    return "for two images and for three"


def _gradient(make: MakeLoss) -> str:
    got, right = _gradients(make, _batch((2, 3), seed=1))
    close(got, right, "the gradient", rtol=1e-4)
    return "it is"


def _beside_others(make: MakeLoss) -> str:
    for objects in ((3, 0), (0, 0, 2)):
        batch = _batch(objects, seed=2)
        _compare(make, batch)
        close(*_gradients(make, batch), "the gradient", rtol=1e-4)
    return "neither the loss nor the gradient"


def _single(make: MakeLoss) -> str:
    _compare(make, _batch((1,), seed=3))
    return "it is"


def _twice(make: MakeLoss) -> str:
    once = _batch((2, 1), seed=4)
    _compare(make, once)
    twice = tuple(torch.cat([part, part]) for part in once)
    _compare(make, (twice[0], twice[1], twice[2]))
    return "they have"


def _nothing_there(make: MakeLoss) -> str:
    for images in (1, 2):
        logits, wanted, off = _batch((0,) * images, seed=5)
        got = _ask(make, (logits.requires_grad_(), wanted, off)).item()
        assert got == 0, f"it is {got}"
    return "with one image and with two"


def _nothing_moves(make: MakeLoss) -> str:
    logits, wanted, off = _batch((0, 0), seed=6)
    weights = logits.clone().requires_grad_()
    descent = torch.optim.SGD([weights], lr=0.1)
    _ask(make, (weights, wanted, off)).backward()
    descent.step()
    lost = int((~weights.isfinite()).sum())
    assert lost == 0, f"{lost} of {weights.numel()} weights are not finite"
    moved = int((weights != logits).sum())
    assert moved == 0, f"{moved} of {weights.numel()} weights moved"
    return "none"


def _ratio(make: MakeLoss) -> str:
    for ratio in (0, 1, 2):
        _compare(make, _batch((2, 4), seed=7), ratio)
    return "at 0, 1 and 2"
