"""Check how a cascade moves regions: by the correction of an object's class, never background's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labs.boxes import Deltas
from labs.hunts import Verdict, examine
from labs.hunts.answer import tensor_of

Refine = Callable[[Tensor, Tensor, Tensor], Tensor]

_DELTAS = Deltas((10.0, 10.0, 5.0, 5.0))


def check_refined_regions(refine: Refine) -> Verdict:
    """Check a function that moves the regions of one head to where the next head looks.

    Args:
        refine: ``refine(rois, logits, deltas)`` takes regions [R,4], xyxy in pixels, logits
            [R,C+1] and a correction for each class [R,C+1,4], background first in both, and returns
            the regions of the next head [R,4]. Corrections have the weights 10, 10, 5, 5.

    Returns:
        The verdict of six probes: on objects, background, one class, no region, gradients and
        arguments.
    """
    return examine(
        "the refined regions",
        refine,
        {
            "a region that shows an object moves as its class says": _objects_move,
            "a region called background moves as its likeliest object says": _background_moves,
            "with one class there is one way to move": _one_class,
            "no region gives no region": _nothing_there,
            "what the next head is given carries no gradient": _is_constant,
            "logits and corrections stay as they were": _leaves_alone,
        },
    )


def _said(regions: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw regions, logits that prefer an object by far, and corrections."""
    draw = torch.Generator().manual_seed(seed)
    corner = 40 * torch.rand(regions, 2, generator=draw)
    rois = torch.cat([corner, corner + 10 + 20 * torch.rand(regions, 2, generator=draw)], 1)
    logits = torch.randn(regions, classes + 1, generator=draw)
    logits[:, 0] -= 10
    return rois, logits, torch.randn(regions, classes + 1, 4, generator=draw)


def _expected(rois: Tensor, logits: Tensor, deltas: Tensor) -> Tensor:
    label = logits[:, 1:].argmax(1) + 1
    return _DELTAS.decode(deltas[torch.arange(len(rois)), label], rois)


def _asked(refine: Refine, said: tuple[Tensor, Tensor, Tensor]) -> tuple[int, int]:
    """Return how many regions are where they should be, and how many there are."""
    rois, logits, deltas = (one.clone() for one in said)
    got = tensor_of(refine(rois, logits, deltas), (len(rois), 4), "the regions")
    off = (got.detach() - _expected(*said)).abs().amax(1)
    right = int((off < 1e-3).sum())
    return right, len(rois)


def _objects_move(refine: Refine) -> str:
    right, of = _asked(refine, _said(9, 4, 0))
    assert right == of, f"{right} of {of} are where their class says"
    return f"all {of}"


def _background_moves(refine: Refine) -> str:
    rois, logits, deltas = _said(9, 4, 1)
    logits[:, 0] = logits.amax(1) + torch.linspace(0.01, 9, 9)  # narrowly, and by far
    right, of = _asked(refine, (rois, logits, deltas))
    assert right == of, f"background leads in {of} regions, and {right} of them are right"
    return f"all {of}, whether background leads narrowly or by far"


def _one_class(refine: Refine) -> str:
    rois, logits, deltas = _said(4, 1, 2)
    logits[:2, 0] += 20
    right, of = _asked(refine, (rois, logits, deltas))
    assert right == of, f"{right} of {of} regions are right"
    return "and it is taken"


def _nothing_there(refine: Refine) -> str:
    _asked(refine, _said(0, 4, 3))
    return "an empty tensor of shape (0, 4)"


def _is_constant(refine: Refine) -> str:
    rois, logits, deltas = _said(5, 4, 4)
    got = refine(rois, logits.requires_grad_(), deltas.requires_grad_())
    got = tensor_of(got, (5, 4), "the regions")
    assert not got.requires_grad, "a gradient leads from the regions back into this head"
    return "none"


def _leaves_alone(refine: Refine) -> str:
    said = _said(5, 4, 5)
    given = [one.clone() for one in said]
    refine(*given)
    names = ("regions", "logits", "corrections")
    changed = [n for n, a, b in zip(names, said, given, strict=True) if not torch.equal(a, b)]
    assert not changed, f"{' and '.join(changed)} changed, and the loss has yet to read them"
    return "they do"
