"""Check the targets of a grid: the object must be in the row of its y and the column of its x."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from labs.hunts import Verdict, examine
from labs.hunts.answer import tensor_of

CellTargets = Callable[[Tensor, int, int, int], Tensor]
_STRIDE = 10

_CENTRED = (12.0, 11.0, 22.0, 23.0)  # in a grid of 3 x 3: the cell in the middle
_DIAGONAL = (0.0, 1.0, 9.0, 7.0), (21.0, 22.0, 29.0, 30.0)
_UPPER_RIGHT = (22.0, 1.0, 29.0, 9.0)
_LOWER_LEFT = (1.0, 23.0, 7.0, 30.0)


def check_cell_targets(cell_targets: CellTargets) -> Verdict:
    """Check a function that writes boxes into the cells of their centres.

    Args:
        cell_targets: ``cell_targets(boxes, stride, rows, columns)``, of boxes [n,4], xyxy in
            pixels, returns [5,rows,columns]: x and y from the cell's corner in cells, the roots of
            width and height in sides of the image, and 1 where there is an object. All centres lie
            inside the image, in different cells.

    Returns:
        The verdict of six probes.
    """
    probes: dict[str, Callable[[CellTargets], str]] = {
        "an object in the middle is in the middle": partial(_right, boxes=[_CENTRED]),
        "objects on the diagonal are in their cells": partial(_right, boxes=_DIAGONAL),
        "an object in the upper right is there": partial(_right, boxes=[_UPPER_RIGHT]),
        "several objects are each in their cell": partial(
            _right, boxes=[_CENTRED, _UPPER_RIGHT, _LOWER_LEFT]
        ),
        "a wide and a high image work": _not_square,
        "no object, no target": partial(_right, boxes=[]),
    }
    return examine("the targets of the grid", cell_targets, probes)


def _right(
    cell_targets: CellTargets,
    boxes: Sequence[Sequence[float]],
    rows: int = 3,
    columns: int = 3,
) -> str:
    given = torch.tensor(boxes).reshape(-1, 4)
    answer = cell_targets(given.clone(), _STRIDE, rows, columns)
    wanted = _expected(given, rows, columns)
    got = tensor_of(answer, wanted.shape, "targets")
    here, there = got[4].nonzero().tolist(), wanted[4].nonzero().tolist()
    assert here == there, f"cells [row, column] with an object: {here}, expected {there}"
    for name, part in (
        ("x, y", slice(0, 2)),
        ("the roots", slice(2, 4)),
        ("the mark", slice(4, 5)),
    ):
        off = (got[part] - wanted[part]).abs().max().item()
        assert off < 1e-5, f"the cells are right, but {name} are off by up to {off:.2g}"
    return f"{len(boxes)} in {rows} x {columns} cells"


def _not_square(cell_targets: CellTargets) -> str:
    _right(cell_targets, [(41.0, 2.0, 48.0, 9.0), (2.0, 12.0, 19.0, 15.0)], 2, 5)
    _right(cell_targets, [(2.0, 41.0, 9.0, 48.0), (12.0, 2.0, 15.0, 19.0)], 5, 2)
    return "2 x 5 and 5 x 2 cells"


def _expected(boxes: Tensor, rows: int, columns: int) -> Tensor:
    target = torch.zeros(5, rows, columns)
    for x1, y1, x2, y2 in boxes.tolist():
        x, y = (x1 + x2) / 2 / _STRIDE, (y1 + y2) / 2 / _STRIDE
        roots = ((x2 - x1) / (columns * _STRIDE)) ** 0.5, ((y2 - y1) / (rows * _STRIDE)) ** 0.5
        target[:, int(y), int(x)] = torch.tensor([x % 1, y % 1, *roots, 1.0])
    return target
