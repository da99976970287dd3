"""Check how anchors are stored: the small ones belong to the fine level, measured in pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from labs.hunts import Verdict, examine
from labs.hunts.answer import tensor_of

InCells = Callable[[Tensor, Sequence[int]], Tensor]
STRIDES = (8, 16, 32)
_COMPACT = torch.tensor([20.0, 40.0, 60.0])[:, None, None].repeat(1, 3, 2)
_WIDE = torch.tensor(
    [
        [[12.0, 9.0], [14.0, 33.0], [35.0, 20.0]],
        [[28.0, 64.0], [66.0, 41.0], [55.0, 120.0]],
        [[110.0, 95.0], [150.0, 210.0], [380.0, 320.0]],
    ]
)


def check_anchor_order(anchors_in_cells: InCells) -> Verdict:
    """Check a function that stores anchors in cells, the level of the smallest first.

    Args:
        anchors_in_cells: ``anchors_in_cells(anchors, strides)`` takes anchors in pixels, [L,A,2],
            with the fine or the coarse level first, and increasing strides; it returns them in
            cells of their levels, the fine level first.

    Returns:
        The verdict of seven probes: on anchors that differ much or little, in both orders, on one
        level, on the order within a level, and on the caller's tensor.
    """
    return examine(
        "the order of the anchors",
        anchors_in_cells,
        {
            "anchors that differ much, fine level first": lambda f: _same(f, _WIDE),
            "anchors of 20, 40 and 60 pixels, fine level first": lambda f: _same(f, _COMPACT),
            "anchors that differ much, coarse level first": lambda f: _turned(f, _WIDE),
            "anchors of 20, 40 and 60 pixels, coarse level first": lambda f: _turned(f, _COMPACT),
            "any anchors, two to four levels, in both orders": _any_anchors,
            "one level": lambda f: _same(f, _WIDE[:1], STRIDES[:1]),
            "the caller's anchors are the same after the call": _input_is_untouched,
        },
    )


def _same(f: InCells, pixels: Tensor, strides: Sequence[int] = STRIDES) -> str:
    return _compare(f(pixels.clone(), strides), pixels, strides)


def _turned(f: InCells, pixels: Tensor, strides: Sequence[int] = STRIDES) -> str:
    return _compare(f(pixels.flip(0), strides), pixels, strides)


def _any_anchors(f: InCells) -> str:
    for trial in range(60):
        levels = 2 + trial % 3
        strides = [4 * 2**level for level in range(levels)]
        # Each level is 1.1 to 3 times the one before, whatever the strides do.
        growth = torch.empty(levels).uniform_(1.1, 3).cumprod(0)
        pixels = growth[:, None, None] * torch.empty(1, 3, 2).uniform_(5, 50)
        pixels = pixels[:, torch.randperm(3)]
        _same(f, pixels, strides)
        _turned(f, pixels, strides)
    return "60 sets, each at home at its level"


def _input_is_untouched(f: InCells) -> str:
    for given in (_COMPACT, _COMPACT.flip(0), _WIDE, _WIDE.flip(0)):
        held = given.clone()
        f(held, STRIDES)
        assert torch.equal(held, given), "its values were overwritten"
    return "no value was overwritten"


def _compare(answer: Tensor, pixels: Tensor, strides: Sequence[int]) -> str:
    """Compare what was stored with anchors in pixels, the fine level first."""
    cells = tensor_of(answer, pixels.shape)
    stored = cells * torch.tensor(strides).view(-1, 1, 1)
    sides = " / ".join(f"{side:.0f}" for side in stored.prod(-1).sqrt().mean(-1).tolist())
    wanted = " / ".join(f"{side:.0f}" for side in pixels.prod(-1).sqrt().mean(-1).tolist())
    assert torch.allclose(stored, pixels, rtol=1e-5), (
        f"strides {tuple(strides)} decode anchors of about {sides} px, expected {wanted}"
    )
    return f"about {sides} px at strides {tuple(strides)}"
