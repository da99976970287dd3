"""Tables of the extreme inputs that a loss meets in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labs.near_miss import did_you_mean

_ALLOWS = ("finite", "infinite", "nan")
_MANY = 70_000  # the values in a huge batch: more than float16 can count (65504)
_INF = float("inf")
_ROUND_NUMBERS = (0.0, 1.0, -1.0, 10.0, -10.0, 100.0, -100.0, 1000.0, -1000.0)


@dataclass(frozen=True, eq=False)
class Case:
    """Name one extreme input of a loss.

    Attributes:
        name: What is extreme about it.
        inputs: What the loss is called with. Floating-point tensors are cast to each dtype that
            is tried; everything else goes in as it is.
        allows: What is right here besides finite numbers. ``"finite"``: nothing.
            ``"infinite"``: an infinite value or gradient, as of a class with probability 0 that is
            the target. ``"nan"``: anything, because no answer is defined (``inf - inf``).
        wrt: Which inputs are predictions, whose gradient is looked at.
        simpler: Values to try in the predictions, from simple to less so, when a failing input is
            made small. Leave it empty when the numbers of a row belong together, as in a box.

    Raises:
        ValueError: When ``allows`` is not one of the three.
        TypeError: When an input that ``wrt`` names is not a floating-point tensor.
    """

    name: str
    inputs: tuple[Any, ...]
    allows: str = "finite"
    wrt: tuple[int, ...] = (0,)
    simpler: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.allows not in _ALLOWS:
            raise ValueError(
                f"case {self.name!r}: expected allows to be one of {_ALLOWS}, got {self.allows!r}"
            )
        for index in self.wrt:
            known = -len(self.inputs) <= index < len(self.inputs)
            found = self.inputs[index] if known else None
            if not (isinstance(found, Tensor) and found.is_floating_point()):
                got = found.dtype if isinstance(found, Tensor) else type(found).__name__
                raise TypeError(
                    f"case {self.name!r}: expected input {index} to be a floating-point tensor, "
                    f"got {got}; wrt names the inputs to differentiate"
                )


def cases(family: str) -> tuple[Case, ...]:
    """Return a table of extreme inputs; filter it when a case is not part of your contract.

    Args:
        family: ``"logits"``: logits [N,C] and class indices [N].
            ``"binary"``: logits [N,1,4,4] and targets 0 or 1 of the same shape.
            ``"probabilities"``: probabilities [N,1,4,4] and such targets.
            ``"boxes"``: predicted and true boxes, ``xyxy`` [N,4] in pixels, row by row.
            ``"elementwise"``: one tensor [N], for an activation or a norm.

    Raises:
        ValueError: When there is no such family.
    """
    if family not in _FAMILIES:
        guess = did_you_mean(family, _FAMILIES, cutoff=0.4)
        hint = guess or f"; expected one of {', '.join(_FAMILIES)}"
        raise ValueError(f"family {family!r} not found{hint}")
    return _FAMILIES[family]()


def _logits() -> tuple[Case, ...]:
    right, wrong = torch.tensor([0]), torch.tensor([1])
    table = [
        ("all zero", torch.zeros(2, 3), torch.tensor([0, 2]), "finite"),
        ("all equal and huge", torch.full((2, 3), 1e4), torch.tensor([0, 2]), "finite"),
        ("sure and right", torch.tensor([[1e4, -1e4, -1e4]]), right, "finite"),
        ("sure and wrong", torch.tensor([[1e4, -1e4, -1e4]]), wrong, "finite"),
        ("100 apart and wrong", torch.tensor([[100.0, 0.0, 0.0]]), wrong, "finite"),
        ("one class only", torch.zeros(2, 1), torch.tensor([0, 0]), "finite"),
        ("ten thousand classes", torch.zeros(1, 10_000), wrong, "finite"),
        ("one sample", torch.tensor([[1.0, 2.0, 3.0]]), wrong, "finite"),
        ("no samples", torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "finite"),
        ("huge batch", _pattern(_MANY, 2), torch.arange(_MANY) % 2, "finite"),
        ("another class at -inf", torch.tensor([[0.0, 1.0, -_INF]]), right, "finite"),
        ("one of two ignored", torch.zeros(2, 3), torch.tensor([0, -100]), "finite"),
        ("all ignored", torch.zeros(2, 3), torch.tensor([-100, -100]), "finite"),
        ("target at -inf", torch.tensor([[-_INF, 1.0, 0.0]]), right, "infinite"),
        ("one at +inf", torch.tensor([[_INF, 0.0, 0.0]]), right, "nan"),
        ("all at -inf", torch.full((1, 3), -_INF), right, "nan"),
    ]
    return tuple(Case(name, (x, y), allows, simpler=_ROUND_NUMBERS) for name, x, y, allows in table)


def _binary() -> tuple[Case, ...]:
    target = _checkerboard()
    sign = 2 * target - 1
    pairs = [
        ("all zero", torch.zeros(2, 1, 4, 4), target, "finite"),
        ("sure and right", 1e4 * sign, target, "finite"),
        ("sure and wrong", -1e4 * sign, target, "finite"),
        ("100 and wrong", -100 * sign, target, "finite"),
        ("20 and right", 20 * sign, target, "finite"),
        *_plain_masks(0.0, -1e4, 1e4),
        (
            "huge batch",
            _pattern(_MANY // 16 + 1, 1, 4, 4),
            _checkerboard(_MANY // 16 + 1),
            "finite",
        ),
        ("at ±inf and right", _INF * sign, target, "nan"),
        ("at ±inf and wrong", -_INF * sign, target, "nan"),
    ]
    return tuple(Case(name, (x, y), allows, simpler=_ROUND_NUMBERS) for name, x, y, allows in pairs)


def _probabilities() -> tuple[Case, ...]:
    target = _checkerboard()
    many = _checkerboard(_MANY // 16 + 1)
    pairs = [
        ("all one half", torch.full((2, 1, 4, 4), 0.5), target, "finite"),
        ("exactly 0 and 1, and right", target, target, "finite"),
        ("exactly 0 and 1, and wrong", 1 - target, target, "infinite"),
        ("close to 0 and 1, and right", (target - 1e-4).abs(), target, "finite"),
        ("close to 0 and 1, and wrong", (1 - target - 1e-4).abs(), target, "finite"),
        *_plain_masks(0.5, 0.0, 1.0),
        ("huge batch", 0.25 + many / 2, many, "finite"),
    ]
    simpler = (0.0, 1.0, 0.5)
    return tuple(Case(name, (x, y), allows, simpler=simpler) for name, x, y, allows in pairs)


def _boxes() -> tuple[Case, ...]:
    unit = [10.0, 20.0, 30.0, 60.0]
    pairs = [
        ("overlapping", [20.0, 30.0, 50.0, 90.0], unit),
        ("identical", unit, unit),
        ("nested", [15.0, 30.0, 25.0, 50.0], unit),
        ("same centre and shape", [15.0, 30.0, 25.0, 50.0], [10.0, 20.0, 30.0, 60.0]),
        ("touching at an edge", [30.0, 20.0, 50.0, 60.0], unit),
        ("touching at a corner", [30.0, 60.0, 50.0, 90.0], unit),
        ("apart", [200.0, 300.0, 220.0, 340.0], unit),
        ("a million pixels apart", [1e6, 1e6, 1e6 + 20, 1e6 + 40], unit),
        ("larger than float16 can square", [0.0, 0.0, 1000.0, 800.0], [0.0, 0.0, 900.0, 1000.0]),
        ("huge", [0.0, 0.0, 1e6, 1e6], [0.0, 0.0, 1e6, 2e6]),
        ("a thousandth of a pixel", [0.0, 0.0, 1e-3, 1e-3], [0.0, 0.0, 2e-3, 1e-3]),
        ("prediction without height", [10.0, 40.0, 30.0, 40.0], unit),
        ("prediction without width", [20.0, 20.0, 20.0, 60.0], unit),
        ("prediction is a point", [20.0, 40.0, 20.0, 40.0], unit),
        ("target without height", unit, [10.0, 40.0, 30.0, 40.0]),
        ("target is a point", unit, [20.0, 40.0, 20.0, 40.0]),
        ("both the same point", [20.0, 40.0, 20.0, 40.0], [20.0, 40.0, 20.0, 40.0]),
        ("both all zero", [0.0] * 4, [0.0] * 4),
        ("prediction inside out", [30.0, 60.0, 10.0, 20.0], unit),
    ]
    small = tuple(Case(name, (torch.tensor([a]), torch.tensor([b]))) for name, a, b in pairs)
    corner = 100 * _pattern(_MANY // 4, 2).abs()
    many = torch.cat([corner, corner + 50], dim=1)
    return (
        *small,
        Case("no boxes", (torch.zeros(0, 4), torch.zeros(0, 4))),
        Case("huge batch", (many + 10, many)),
    )


def _elementwise() -> tuple[Case, ...]:
    values = [
        ("zeros", torch.zeros(3), "finite"),
        ("one zero", torch.zeros(1), "finite"),
        ("from -30 to 120", torch.arange(-30.0, 121.0), "finite"),
        ("tiny", torch.tensor([1e-7, -1e-7]), "finite"),
        ("smallest normal number of float32", torch.tensor([1.2e-38, -1.2e-38]), "finite"),
        ("1000", torch.tensor([1e3]), "finite"),
        ("-1000", torch.tensor([-1e3]), "finite"),
        ("10000", torch.tensor([1e4]), "finite"),
        ("-10000", torch.tensor([-1e4]), "finite"),
        ("near the end of float16", torch.tensor([60_000.0]), "finite"),
        ("too large to be squared", torch.tensor([1e30]), "finite"),
        ("too negative to be squared", torch.tensor([-1e30]), "finite"),
        ("no values", torch.zeros(0), "finite"),
        ("huge batch", _pattern(_MANY), "finite"),
        ("+inf", torch.tensor([_INF]), "nan"),
        ("-inf", torch.tensor([-_INF]), "nan"),
    ]
    return tuple(Case(name, (x,), allows, simpler=_ROUND_NUMBERS) for name, x, allows in values)


def _plain_masks(unsure: float, no: float, yes: float) -> list[tuple[str, Tensor, Tensor, str]]:
    """Return the cases of a mask without foreground, all foreground, of one sample and of none."""
    shape = (2, 1, 4, 4)
    empty, full = torch.zeros(shape), torch.ones(shape)
    return [
        ("empty target, unsure", torch.full(shape, unsure), empty, "finite"),
        ("empty target, sure and right", torch.full(shape, no), empty, "finite"),
        ("full target, sure and right", torch.full(shape, yes), full, "finite"),
        ("one sample", torch.full((1, 1, 4, 4), unsure), _checkerboard(1), "finite"),
        ("no samples", torch.zeros(0, 1, 4, 4), torch.zeros(0, 1, 4, 4), "finite"),
    ]


def _checkerboard(samples: int = 2) -> Tensor:
    return (torch.arange(16).view(4, 4).remainder(5) % 2).float().expand(samples, 1, 4, 4).clone()


def _pattern(*shape: int) -> Tensor:
    """Fill a tensor with the whole numbers from -3 to 3, in turn."""
    return (torch.arange(torch.Size(shape).numel()) % 7 - 3).float().view(shape)


_FAMILIES: dict[str, Callable[[], tuple[Case, ...]]] = {
    "logits": _logits,
    "binary": _binary,
    "probabilities": _probabilities,
    "boxes": _boxes,
    "elementwise": _elementwise,
}
