"""Decide what a scene shows, and where: everything random about it happens here.

Each scene has its own stream of a counter-based generator, so that no scene depends on another,
on the order they are asked for, or on who asks. Pixels are computed in integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labs.data.cutouts import SPLITS
from labs.data.scenes.knobs import Knobs
from labs.data.scenes.things import Thing, classes_of, load_places, load_pool

Pixels = NDArray[np.uint8]
Path = tuple[tuple[int, int], ...]
_TRIES = 20  # places that are tried before an object is left out
_BILINEAR = Image.Resampling.BILINEAR


@dataclass(frozen=True, eq=False)
class Sprite:
    """Hold an object as it is drawn, and its place in every frame.

    Attributes:
        label: Its class.
        kind: Its kind of things.
        source: Which object of that kind it is.
        colour: [h,w,3], multiplied by alpha.
        alpha: [h,w].
        mask: [h,w], bool: where it covers at least half of a pixel.
        path: Left and top for each frame.
    """

    label: int
    kind: str
    source: int
    colour: Pixels
    alpha: Pixels
    mask: NDArray[np.bool_]
    path: Path


@dataclass(frozen=True, eq=False)
class Layout:
    """Hold one scene before it is drawn.

    Attributes:
        places: The names of the photographs on the background, clutter included.
        background: [H,W,3].
        sprites: The objects; a later one covers an earlier one.
        owners: [T,H,W], int16: which object is seen at a pixel, -1 for none.
    """

    places: tuple[str, ...]
    background: Pixels
    sprites: tuple[Sprite, ...]
    owners: NDArray[np.int16]


def lay_out(split: str, seed: int, index: int, knobs: Knobs) -> Layout:
    """Decide what scene ``index`` shows; the same arguments always give the same."""
    rng = _stream(split, seed, index, 0)
    name, background = _photograph(split, knobs.canvas, rng)
    places = [name, *(_add_clutter(background, split, knobs, rng) for _ in range(knobs.clutter))]
    stage = _Stage(background, knobs)
    low, high = knobs.objects
    for _ in range(int(rng.integers(low, high + 1))):
        stage.add(*_pick(split, knobs, rng), rng)
    return Layout(tuple(places), background, tuple(stage.sprites), stage.owners)


def draw_noise(
    split: str, seed: int, index: int, frame: int, knobs: Knobs
) -> NDArray[np.int16] | None:
    """Return what the sensor adds to one frame, [H,W,3] in steps of 1/255; ``None`` for nothing."""
    if not knobs.noise:
        return None
    rng = _stream(split, seed, index, 1 + frame)
    shape = (4, *knobs.canvas, 3)
    # Four bytes make a bell, as good as Gaussian here, without functions that differ by machine.
    bell = np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8).reshape(shape).sum(0, np.int32)
    deviation = (4 * (256**2 - 1) / 12) ** 0.5  # of the sum of four uniform bytes
    return np.rint((bell - 510) * (255 * knobs.noise / deviation)).astype(np.int16)


def _stream(split: str, seed: int, index: int, purpose: int) -> np.random.Generator:
    """Return a generator; counting starts at the first word, so no two streams ever meet."""
    key, counter = [seed, SPLITS.index(split)], [0, 0, purpose, index]
    bits = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
    return np.random.Generator(bits)


# ------------------------------------------------------------------------------- background


def _photograph(
    split: str, canvas: tuple[int, int], rng: np.random.Generator
) -> tuple[str, Pixels]:
    """Return a part of any photograph, at least 60 % of what fits, perhaps mirrored."""
    pool = load_places(split)
    place = pool[int(rng.integers(len(pool)))]
    height, width = canvas
    most_h = min(place.picture.height, place.picture.width * height // width)
    h = max(1, most_h * int(rng.integers(60, 101)) // 100)
    w = max(1, min(place.picture.width, h * width // height))
    left = int(rng.integers(place.picture.width - w + 1))
    top = int(rng.integers(place.picture.height - h + 1))
    box = (left, top, left + w, top + h)
    part = place.picture.resize((width, height), _BILINEAR, box, reducing_gap=2.0)
    pixels = np.asarray(part)
    return place.name, (pixels[:, ::-1] if rng.integers(2) else pixels).copy()


def _add_clutter(background: Pixels, split: str, knobs: Knobs, rng: np.random.Generator) -> str:
    """Lay a disc of another photograph on the background, and return its name."""
    side = _draw_size(knobs, rng)
    name, patch = _photograph(split, (side, side), rng)
    left, top = (int(rng.integers(whole - side + 1)) for whole in reversed(knobs.canvas))
    odd = 2 * np.arange(side) - side + 1
    disc = odd[:, None] ** 2 + odd[None] ** 2 <= side * side
    background[top : top + side, left : left + side][disc] = patch[disc]
    return name


# ---------------------------------------------------------------------------------- objects


def _pick(split: str, knobs: Knobs, rng: np.random.Generator) -> tuple[int, Thing]:
    shares = np.cumsum([knobs.weights.get(name, 1.0) for name in knobs.classes])
    label = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
    first = 0
    for kind in knobs.things:
        if label < first + len(classes_of(kind)):
            break
        first += len(classes_of(kind))
    return label, load_pool(kind, split).pick(label - first, rng)


def _draw_size(knobs: Knobs, rng: np.random.Generator) -> int:
    low, high = knobs.size
    return int(rng.integers(low, high + 1))


def _scaled(thing: Thing, longest: int, rng: np.random.Generator) -> Pixels:
    """Return the object at its size, [h,w,4]; photographs are mirrored now and then."""
    w, h = thing.picture.size
    longer = max(w, h)  # added before the division, to round
    size = [max(1, (2 * side * longest + longer) // (2 * longer)) for side in (w, h)]
    pixels = np.asarray(thing.picture.resize(size, _BILINEAR, reducing_gap=2.0))
    return pixels[:, ::-1] if rng.integers(2) and thing.kind == "photos" else pixels


def _tint(kind: str, under: Pixels, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a colour, [3]: digits are light on dark ground and dark on light ground."""
    if kind == "photos":
        return np.repeat(rng.integers(192, 256), 3)
    if kind == "clothes":
        return rng.integers(128, 256, 3)
    dark_ground = int(under.sum(dtype=np.int64)) < 128 * under.size
    return rng.integers(192, 256, 3) if dark_ground else rng.integers(0, 64, 3)


class _Stage:
    """Take objects one after the other, and know at any time who is seen where."""

    def __init__(self, background: Pixels, knobs: Knobs) -> None:
        self.background = background
        self.knobs = knobs
        self.owners = np.full((knobs.frames or 1, *knobs.canvas), -1, np.int16)
        self.sprites: list[Sprite] = []
        self.areas: list[int] = []  # of each object, in pixels
        self.seen = np.zeros((knobs.frames or 1, 0), np.int64)  # [T,n], pixels

    def add(self, label: int, thing: Thing, rng: np.random.Generator) -> None:
        """Put the object where it hides no other too much, if there is such a place."""
        pixels = _scaled(thing, _draw_size(self.knobs, rng), rng)
        alpha = pixels[..., 3]
        mask = 2 * alpha.astype(np.int64) > alpha.max()  # the stronger half of something thin
        for _ in range(_TRIES):
            path = _path(mask.shape, self.knobs, rng)
            left = self.seen - self._hidden_by(mask, path)
            if (left >= (1 - self.knobs.occlusion) * np.array(self.areas)).all():
                self._keep(mask, path, left)
                (x, y), (h, w) = path[0], mask.shape
                tint = _tint(thing.kind, self.background[y : y + h, x : x + w], rng)
                colour = (pixels[..., :3] * tint // 255).astype(np.uint8)
                self.sprites.append(
                    Sprite(label, thing.kind, thing.source, colour, alpha, mask, path)
                )
                return

    def _hidden_by(self, mask: NDArray[np.bool_], path: Path) -> NDArray[np.int64]:
        """Count the pixels that a new object would hide of each earlier one, [T,n]."""
        found = [
            np.bincount(window[mask] + 1, minlength=len(self.areas) + 1)[1:]
            for window in self._windows(mask, path)
        ]
        return np.stack(found)

    def _keep(self, mask: NDArray[np.bool_], path: Path, left: NDArray[np.int64]) -> None:
        for window in self._windows(mask, path):
            window[mask] = len(self.areas)
        self.areas.append(int(mask.sum()))
        self.seen = np.column_stack([left, np.full(len(left), self.areas[-1])])

    def _windows(self, mask: NDArray[np.bool_], path: Path) -> list[NDArray[np.int16]]:
        h, w = mask.shape
        return [
            owner[y : y + h, x : x + w] for owner, (x, y) in zip(self.owners, path, strict=True)
        ]


def _path(size: tuple[int, ...], knobs: Knobs, rng: np.random.Generator) -> Path:
    """Return left and top for each frame: straight on, and back from the border."""
    most = int(knobs.speed * 256)  # in 1/256 of a pixel, so that all arithmetic is exact
    y, x = (
        _bounce(int(rng.integers(room + 1)), room, int(rng.integers(-most, most + 1)), knobs.frames)
        for room in (knobs.canvas[0] - size[0], knobs.canvas[1] - size[1])
    )
    return tuple(zip(x, y, strict=True))


def _bounce(start: int, room: int, step: int, frames: int | None) -> list[int]:
    there = 256 * room
    moved = ((256 * start + step * t) % max(1, 2 * there) for t in range(frames or 1))
    return [(min(at, 2 * there - at) + 128) // 256 for at in moved]
