"""Check the targets of objectness: near misses are left alone, and all other background is not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labs.hunts import Verdict, examine
from labs.hunts.answer import pair_of, tensor_of

MakeTargets = Callable[..., tuple[Tensor, Tensor]]

_STRIDE = 8
ANCHORS = torch.tensor([[12.0, 20.0], [15.0, 18.0], [40.0, 36.0]])
_ONE = torch.tensor([[41.0, 10.0, 55.0, 29.0]])  # fits the first two anchors; column 6, row 2
_MANY = torch.tensor(
    [[41.0, 10.0, 55.0, 29.0], [43.0, 13.0, 55.0, 33.0], [3.0, 2.0, 18.0, 20.0], [40, 4, 80, 40]]
)


def check_objectness_targets(objectness_targets: MakeTargets) -> Verdict:
    """Check a function that says where objectness should be 1, and which places the loss counts.

    Args:
        objectness_targets: ``objectness_targets(boxes, anchors, grid, stride, ignore)`` returns
            ``wanted`` [A,H,W], 0 or 1, and ``counted`` [A,H,W], bool.

    Returns:
        The verdict of eight probes: on background, near misses, moved, shared and missing objects.
    """
    return examine(
        "the ignore band",
        objectness_targets,
        {
            "each object is wanted once, at the right anchor, row and column": _wanted_is_right,
            "cells that hold no centre are all counted": _background_is_counted,
            "near misses in the object's own cell are not counted": _near_misses_are_free,
            "an object that moves leaves out as many places as before": _moves,
            "what is wanted is counted, also next to another object": _wanted_is_counted,
            "the threshold decides what a near miss is": _threshold_counts,
            "the order of the objects changes nothing": _order_is_free,
            "an image without objects is background everywhere": _nothing_there,
        },
    )


def _expected(boxes: Tensor, grid: tuple[int, int], ignore: float = 0.5) -> tuple[Tensor, Tensor]:
    """Say what is right, place by place."""
    wanted = torch.zeros(len(ANCHORS), *grid)
    near = torch.zeros(len(ANCHORS), *grid, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes.tolist():
        row, column = int((y1 + y2) / 2 // _STRIDE), int((x1 + x2) / 2 // _STRIDE)
        fits = []
        for anchor, (w, h) in enumerate(ANCHORS.tolist()):
            shared = min(w, x2 - x1) * min(h, y2 - y1)
            fits.append(shared / (w * h + (x2 - x1) * (y2 - y1) - shared))
            near[anchor, row, column] |= fits[-1] > ignore
        wanted[fits.index(max(fits)), row, column] = 1
    return wanted, ~near | wanted.bool()


def _ask(
    targets: MakeTargets, boxes: Tensor, grid: tuple[int, int], ignore: float = 0.5
) -> tuple[Tensor, Tensor]:
    answer = targets(boxes.clone(), ANCHORS.clone(), grid, _STRIDE, ignore)
    wanted, counted = pair_of(answer, "wanted and counted")
    shape = (len(ANCHORS), *grid)
    return tensor_of(wanted, shape, "wanted").float(), tensor_of(counted, shape, "counted").bool()


def _wanted_is_right(targets: MakeTargets) -> str:
    wanted, _ = _ask(targets, _MANY, (7, 13))
    right, _ = _expected(_MANY, (7, 13))
    assert torch.equal(wanted, right), (
        f"of {int(right.sum())} places, {int((wanted * right).sum())} are as they should be, and "
        f"{int((wanted * (1 - right)).sum())} others are wanted"
    )
    return "it is, on a grid that is not square"


def _background_is_counted(targets: MakeTargets) -> str:
    _, counted = _ask(targets, _ONE, (13, 13))
    cells = (~counted).any(0)  # [H,W]: something is left out here
    away = int(cells.sum()) - int(cells[2, 6])
    assert away == 0, f"one object, and {away} of the 168 other cells are left out of the loss"
    return "they are, for every anchor"


def _near_misses_are_free(targets: MakeTargets) -> str:
    _, counted = _ask(targets, _ONE, (13, 13))
    got = (~counted)[:, 2, 6].tolist()
    right = (~_expected(_ONE, (13, 13))[1])[:, 2, 6].tolist()
    assert got == right, f"{sum(got)} of the 3 anchors are left out in the object's own cell"
    return "they are not"


def _moves(targets: MakeTargets) -> str:
    left_out = []
    for x, y in ((0, 0), (24, 16), (-32, 24)):
        moved = _ONE + torch.tensor([x, y, x, y])
        _, counted = _ask(targets, moved, (7, 13))
        assert torch.equal(counted, _expected(moved, (7, 13))[1]), (
            f"moved by {x}, {y} pixels, it leaves out {int((~counted).sum())} places"
        )
        left_out.append(int((~counted).sum()))
    return f"always {left_out[0]}"


def _wanted_is_counted(targets: MakeTargets) -> str:
    wanted, counted = _ask(targets, _MANY, (7, 13))
    lost = int((wanted.bool() & ~counted).sum())
    assert lost == 0, f"{lost} of {int(wanted.sum())} wanted places are not in the loss"
    right = _expected(_MANY, (7, 13))[1]
    assert torch.equal(counted, right), f"{int((counted != right).sum())} places are wrong"
    return "always"


def _threshold_counts(targets: MakeTargets) -> str:
    for ignore in (0.05, 0.3, 0.7, 1.0):
        _, counted = _ask(targets, _ONE, (5, 11), ignore)
        _, right = _expected(_ONE, (5, 11), ignore)
        assert torch.equal(counted, right), (
            f"at {ignore}, {int((~counted).sum())} places are left out"
        )
    return "at 0.05, 0.3, 0.7 and 1"


def _order_is_free(targets: MakeTargets) -> str:
    one, other = (_ask(targets, boxes, (7, 13)) for boxes in (_MANY, _MANY.flip(0)))
    off = sum(int((a != b).sum()) for a, b in zip(one, other, strict=True))
    assert off == 0, f"with the objects turned round, {off} places differ"
    return "nothing"


def _nothing_there(targets: MakeTargets) -> str:
    wanted, counted = _ask(targets, torch.zeros(0, 4), (5, 11))
    assert not wanted.any(), f"{int(wanted.sum())} places are wanted"
    assert counted.all(), f"{int((~counted).sum())} places are left out"
    return "it is"
