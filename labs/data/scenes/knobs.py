"""Hold what decides how a scene looks, and refuse what cannot be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from labs.data.scenes.things import KINDS, classes_of
from labs.near_miss import did_you_mean


@dataclass(frozen=True)
class Knobs:
    """Hold what decides how scenes look.

    Attributes:
        canvas: Height and width in pixels, each at least 16.
        objects: Least and most objects of a scene. There are fewer (but never none, when the least
            is 1 or more) where no room is left for another under ``occlusion``.
        size: Least and most length of the longer side of an object, in pixels, from 4 to the
            shorter side of the canvas. Digits and clothes are 28 pixels large and cut-outs at most
            160, so larger ones look soft.
        occlusion: The greatest part of an object that others may hide, in [0, 1]. At 0 no two masks
            share a pixel; at 1 an object may vanish, and is then missing from the truth.
        clutter: How many discs of other photographs lie on the background, without a label.
        noise: The standard deviation of the sensor's noise, from 0 to 1, where 1 is white. It is
            nearly Gaussian, another in every frame, and changes nothing else.
        weights: How often a class comes; a class that is not named counts 1. ``{"7": 0.1}`` makes
            sevens rare, and 0 leaves them out.
        things: What the objects are: any of ``"digits"``, ``"clothes"`` and ``"photos"``.
        frames: ``None`` for single pictures, or the length of the sequences, at least 1.
        speed: The greatest movement along an axis, in pixels per frame, from 0 on.
    """

    canvas: tuple[int, int] = (128, 128)
    objects: tuple[int, int] = (1, 4)
    size: tuple[int, int] = (24, 48)
    occlusion: float = 0.3
    clutter: int = 0
    noise: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    things: Sequence[str] = ("digits",)
    frames: int | None = None
    speed: float = 2.0

    def __post_init__(self) -> None:
        _refuse_bad_things(self.things)
        _refuse_bad_weights(self.weights, self.classes)
        for name in ("canvas", "objects", "size"):
            _refuse_unless_pair(name, getattr(self, name))
        height, width = self.canvas
        _expect(min(height, width) >= 16, "canvas", "(height, width), each >= 16", self.canvas)
        low, high = self.objects
        _expect(0 <= low <= high <= 1000, "objects", "0 <= least <= most <= 1000", self.objects)
        low, high = self.size
        room = min(self.canvas)
        fix = f"4 <= least <= most <= {room}, the shorter side of the canvas"
        _expect(4 <= low <= high <= room, "size", fix, self.size)
        _expect(0 <= self.occlusion <= 1, "occlusion", "a part in [0, 1]", self.occlusion)
        good = is_integer(self.clutter) and self.clutter >= 0
        _expect(good, "clutter", "an integer >= 0", self.clutter)
        _expect(0 <= self.noise <= 1, "noise", "a deviation in [0, 1]", self.noise)
        good = self.frames is None or (is_integer(self.frames) and self.frames >= 1)
        _expect(good, "frames", "None or an integer >= 1", self.frames)
        _expect(0 <= self.speed < 1e6, "speed", "finite pixels per frame >= 0", self.speed)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names; a label is an index into them."""
        return tuple(name for kind in self.things for name in classes_of(kind))


def _expect(good: bool, name: str, wanted: str, got: Any) -> None:
    if not good:
        raise ValueError(f"scenes: expected {name} {wanted}, got {got}; change {name}=")


def _refuse_unless_pair(name: str, got: Any) -> None:
    two = isinstance(got, Sequence) and len(got) == 2 and all(map(is_integer, got))
    _expect(two, name, "two integers", repr(got))


def _refuse_bad_things(things: Sequence[str]) -> None:
    if isinstance(things, str) or not things or len(set(things)) < len(things):
        raise ValueError(
            f"scenes: expected things as a tuple of different kinds, such as {KINDS}, got "
            f"{things!r}; for one kind write things=('digits',)"
        )
    for kind in things:
        refuse_unknown("kind of things", kind, KINDS)


def _refuse_bad_weights(weights: Mapping[str, float], classes: Sequence[str]) -> None:
    for name, share in weights.items():
        refuse_unknown("class in weights", name, classes)
        _expect(0 <= share < float("inf"), "weights", "finite and >= 0", dict(weights))
    some = any(weights.get(name, 1) > 0 for name in classes)
    _expect(some, "weights", "above 0 for at least one class", dict(weights))


def is_integer(value: Any) -> bool:
    """Return whether this is a whole number of any type, NumPy's included."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def refuse_unknown(what: str, name: str, known: Sequence[str]) -> None:
    """Raise a ``ValueError`` that names near misses, unless the name is known."""
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"scenes: expected a {what} of {', '.join(known)}, got {name!r}{hint}")
