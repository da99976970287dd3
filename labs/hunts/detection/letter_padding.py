"""Check what brings boxes of a letterboxed picture back to the picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labs.data.augment import letterbox
from labs.hunts import Verdict, examine
from labs.hunts.answer import tensor_of

Back = Callable[[Tensor, tuple[int, int], tuple[int, int]], Tensor]
_Size = tuple[int, int]


def check_letter_padding(back: Back) -> Verdict:
    """Check a function that brings boxes of a letterboxed picture back to the picture.

    The picture was scaled until it just fitted, its sides were rounded to whole pixels, and it was
    put in the middle of the letterbox; where the room is odd, the larger half is right and below.

    Args:
        back: ``back(boxes, original, size)`` takes boxes [n,4], xyxy in pixels of the letterbox,
            height and width of the picture and those of the letterbox, and returns the boxes in
            pixels of the picture, clipped to it.

    Returns:
        The verdict of eight probes.
    """
    return examine(
        "the boxes that moved with the padding",
        back,
        {
            "a wide picture, with grey above and below": _wide,
            "a tall picture, with grey left and right": _tall,
            "a letterbox that is not square": _oblong,
            "a picture that is smaller than its letterbox": _enlarged,
            "an odd number of grey rows or columns": _odd,
            "a side that was rounded to whole pixels": _rounded,
            "a box that reaches into the grey": _clipped,
            "no box, and boxes that are left as they were": _untouched,
        },
    )


def _around(original: _Size) -> Tensor:
    """Return boxes in a picture: a small one in each corner, one in the middle, the whole."""
    h, w = original
    rows: list[list[float]] = [[0, 0, 5, 4], [w - 6, 0, w, 3], [0, h - 4, 5, h]]
    rows += [[w - 3, h - 7, w, h]]
    rows += [[w / 4, h / 3, w / 2, 2 * h / 3], [0, 0, w, h]]
    return torch.tensor(rows, dtype=torch.float32)


def _there(original: _Size, size: _Size) -> tuple[Tensor, Tensor]:
    """Return boxes of a picture, and where the letterbox of ``labs`` takes them."""
    boxes = _around(original)
    target = {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64)}
    return boxes, letterbox((torch.zeros(3, *original), target), size)[1]["boxes"]


def _ask(back: Back, boxes: Tensor, original: _Size, size: _Size) -> Tensor:
    return tensor_of(back(boxes, original, size), tuple(boxes.shape), "the boxes")


def _fits(back: Back, original: _Size, size: _Size) -> str:
    boxes, there = _there(original, size)
    off = (_ask(back, there, original, size) - boxes).abs()
    told = f"{original[0]} x {original[1]} into {size[0]} x {size[1]}"
    axis = "x" if off[:, 0::2].max() >= off[:, 1::2].max() else "y"
    worst = off.max().item()
    assert worst < 0.01, f"{told}: a side is off by {worst:.2f} px in {axis}"
    return "to a hundredth of a pixel"


def _wide(back: Back) -> str:
    return _fits(back, (60, 120), (40, 40))


def _tall(back: Back) -> str:
    return _fits(back, (150, 50), (60, 60))


def _oblong(back: Back) -> str:
    _fits(back, (80, 80), (40, 80))
    return _fits(back, (40, 120), (80, 60))


def _enlarged(back: Back) -> str:
    return _fits(back, (20, 40), (80, 80))


def _odd(back: Back) -> str:
    _fits(back, (62, 80), (40, 40))  # 31 rows: 4 above, 5 below
    return _fits(back, (80, 46), (40, 40))  # 23 columns


def _rounded(back: Back) -> str:
    _fits(back, (70, 200), (64, 64))  # 22.4 rows become 22, 42 are grey
    return _fits(back, (200, 69), (64, 64))  # 22.08 columns become 22


def _clipped(back: Back) -> str:
    original, size = (50, 100), (100, 100)
    grey = torch.tensor([[-4.0, 10, 30, 60], [70, 40, 108, 90], [10, 5, 20, 20]])
    got = _ask(back, grey, original, size)
    for low, high, name in ((0, 100, "x"), (0, 50, "y")):
        sides = got[:, 0::2] if name == "x" else got[:, 1::2]
        least, most = sides.min().item(), sides.max().item()
        told = f"{name} from {least:.1f} to {most:.1f} in a picture of 50 x 100"
        assert low <= least, told
        assert most <= high, told
    off = (got[0] - torch.tensor([0.0, 0, 30, 35])).abs().max().item()
    assert off < 0.01, f"what is left of a box is off by {off:.2f} px"
    return "is cut at the edge of the picture"


def _untouched(back: Back) -> str:
    original, size = (48, 48), (48, 48)
    assert len(_ask(back, torch.zeros(0, 4), original, size)) == 0
    boxes = _around(original)
    given = boxes.clone()
    _ask(back, given, original, size)
    off = (given - boxes).abs().max().item()
    assert off == 0, f"the boxes that were handed in changed by {off:.1f} px"
    given = _there((60, 120), (48, 48))[1]
    before = given.clone()
    _ask(back, given, (60, 120), (48, 48))
    off = (given - before).abs().max().item()
    assert off == 0, f"the boxes that were handed in changed by {off:.1f} px"
    return "an empty tensor comes back"
