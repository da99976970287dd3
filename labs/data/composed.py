"""Compose labelled photographs: real objects on real backgrounds, with the true mask of each.

Because the pictures are put together here, you decide what goes with what: let every flower stand
on grass, and a network may learn the grass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labs.data.cutouts import (
    CLASSES,
    GROUPS,
    SPLITS,
    Background,
    Cutout,
    load_backgrounds,
    load_cutouts,
)
from labs.data.images import ImageSet
from labs.near_miss import did_you_mean

Weights = Mapping[str, Mapping[str, float]]
_FLOWER_OR_OTHER = {
    "flower": ("flowers",),
    "other": tuple(kind for kind in CLASSES if kind != "flowers"),
}

_BICUBIC, _LANCZOS = Image.Resampling.BICUBIC, Image.Resampling.LANCZOS
_FLIP = Image.Transpose.FLIP_LEFT_RIGHT


@dataclass(frozen=True, eq=False)
class Composed:
    """Hold composed pictures and what is known about each because it was composed.

    Attributes:
        data: The pictures, their labels, and the object each one shows (``sources``).
        masks: [N,H,W], bool: the pixels of the object.
        groups: [N] names: the kind of background (green, bare, water, street, indoors).
        places: [N] names: the photograph that is the background.
    """

    data: ImageSet
    masks: Tensor
    groups: tuple[str, ...]
    places: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Composed({self.data!r}, {len(set(self.places))} backgrounds)"


def photos(
    split: str = "train",
    n: int = 800,
    size: int = 64,
    seed: int = 0,
    backgrounds: Weights | None = None,
) -> ImageSet:
    """Compose photographs of 8 classes, from birds to vehicles, the same in number.

    An object is turned by at most 25 degrees, perhaps mirrored, scaled and placed at random on a
    random part of a random background, and the picture is made darker or brighter. No object and
    no background is in two splits. The same arguments give the same pictures; the first pictures of
    a larger ``n`` are those of a smaller one; and other ``backgrounds`` change nothing else.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        n: How many pictures. There are fewer objects (some 110 for training), so they come again,
            in another place, pose and light.
        size: Height and width in pixels, at least 16. Some objects are 50 pixels large and look
            soft from about 100 on.
        seed: Any integer from 0 on.
        backgrounds: How often a class has which kind of background: ``{"fish": {"water": 9,
            "street": 1}}`` puts nine of ten fish on water. A kind that is not named is never used,
            and a class that is not named has all kinds equally often.

    Returns:
        Images [n,3,size,size].

    Raises:
        ValueError: When an argument is out of range or a name is unknown.
        DamagedAssetError: When a shipped file is missing or changed.
    """
    return photos_with_masks(split, n, size, seed, backgrounds).data


def photos_with_masks(
    split: str = "train",
    n: int = 800,
    size: int = 64,
    seed: int = 0,
    backgrounds: Weights | None = None,
) -> Composed:
    """Compose the pictures of :func:`photos`, and return their masks and backgrounds with them."""
    return _compose({kind: (kind,) for kind in CLASSES}, split, n, size, seed, backgrounds)


def flowers(
    split: str = "train",
    n: int = 400,
    size: int = 64,
    seed: int = 0,
    backgrounds: Weights | None = None,
) -> ImageSet:
    """Compose photographs with two labels: half show a flower, half anything else.

    The others come from the seven other classes of :func:`photos` in equal number. All arguments
    and errors are those of :func:`photos`; the class names, for ``backgrounds`` too, are
    ``"flower"`` and ``"other"``.
    """
    return flowers_with_masks(split, n, size, seed, backgrounds).data


def flowers_with_masks(
    split: str = "train",
    n: int = 400,
    size: int = 64,
    seed: int = 0,
    backgrounds: Weights | None = None,
) -> Composed:
    """Compose the pictures of :func:`flowers`, and return masks and backgrounds with them."""
    return _compose(_FLOWER_OR_OTHER, split, n, size, seed, backgrounds)


class _Plan(NamedTuple):
    label: int
    cutout: Cutout
    place: Background
    # Two streams, so that another background leaves the object, its pose and the light as they are.
    object_rng: np.random.Generator
    place_rng: np.random.Generator


def _compose(
    task: Mapping[str, tuple[str, ...]],
    split: str,
    n: int,
    size: int,
    seed: int,
    weights: Weights | None,
) -> Composed:
    _refuse_bad_arguments(split, n, size, seed)
    weights = weights or {}
    _refuse_bad_weights(weights, tuple(task))
    plans = _plan(task, split, n, seed, weights)
    drawn = [_draw(plan, size) for plan in plans]
    pictures = torch.from_numpy(np.stack([picture for picture, _ in drawn]))
    data = ImageSet(
        pictures.permute(0, 3, 1, 2).contiguous().float().div_(255),  # [N,H,W,3] -> [N,3,H,W]
        torch.tensor([plan.label for plan in plans]),
        tuple(task),
        torch.tensor([plan.cutout.source for plan in plans]),
    )
    return Composed(
        data,
        torch.from_numpy(np.stack([mask for _, mask in drawn])),
        tuple(plan.place.group for plan in plans),
        tuple(plan.place.name for plan in plans),
    )


# ------------------------------------------------------------------------------ what to draw


def _plan(
    task: Mapping[str, tuple[str, ...]], split: str, n: int, seed: int, weights: Weights
) -> list[_Plan]:
    key = (seed, SPLITS.index(split))
    objects = {k: [c for c in load_cutouts() if (c.kind, c.split) == (k, split)] for k in CLASSES}
    places = {
        g: [b for b in load_backgrounds() if (b.group, b.split) == (g, split)] for g in GROUPS
    }
    plans = []
    for i in range(n):
        label, kind, nth = _pick_kind(tuple(task.values()), i, key)
        pool = objects[kind]
        cutout = pool[_deal(len(pool), nth, (*key, 3, CLASSES.index(kind)))]
        object_rng, place_rng = (np.random.default_rng([*key, tag, i]) for tag in (4, 5))
        place = _pick_place(places, weights.get(tuple(task)[label]), place_rng)
        plans.append(_Plan(label, cutout, place, object_rng, place_rng))
    return plans


def _pick_kind(
    task: Sequence[tuple[str, ...]], i: int, key: tuple[int, ...]
) -> tuple[int, str, int]:
    """Return label and kind of object of picture ``i``, and how often that kind came before.

    Labels come evenly, and so do the kinds of objects under one label.
    """
    label = _deal(len(task), i, (*key, 1))
    turn = i // len(task)  # each label comes once in so many pictures
    kinds = task[label]
    kind = kinds[_deal(len(kinds), turn, (*key, 2, label))]
    return label, kind, turn // len(kinds)


def _deal(count: int, turn: int, key: tuple[int, ...]) -> int:
    """Return the card of this turn from a deck that is shuffled anew whenever it runs out."""
    deck = np.random.default_rng([*key, turn // count]).permutation(count)
    return int(deck[turn % count])


def _pick_place(
    places: Mapping[str, list[Background]],
    weights: Mapping[str, float] | None,
    rng: np.random.Generator,
) -> Background:
    share = np.array([1.0 if weights is None else weights.get(group, 0.0) for group in GROUPS])
    pool = places[GROUPS[rng.choice(len(GROUPS), p=share / share.sum())]]
    return pool[rng.integers(len(pool))]


# ---------------------------------------------------------------------------------- drawing


def _draw(plan: _Plan, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture, [size,size,3] of uint8, and the mask of the object, [size,size]."""
    rng = plan.object_rng
    cutout = _pose(plan.cutout.picture, size, rng)
    left, top = (int(rng.integers(size - side + 1)) for side in cutout.size)
    canvas = _crop(plan.place.picture, size, plan.place_rng)
    canvas.paste(cutout, (left, top), cutout)
    alpha = Image.new("L", (size, size))
    alpha.paste(cutout.getchannel("A"), (left, top))
    levels = np.minimum(255, np.rint(np.arange(256) * rng.uniform(0.75, 1.25))).astype(int)
    return np.asarray(canvas.point(levels.tolist() * 3)), np.asarray(alpha) > 127


def _crop(place: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """Cut a random square, 60 to 100 % of the height, perhaps mirror it, and scale it to size."""
    side = round(rng.uniform(0.6, 1.0) * place.height)
    left, top = (int(rng.integers(whole - side + 1)) for whole in place.size)
    square = place.resize((size, size), _LANCZOS, box=(left, top, left + side, top + side))
    return square.transpose(_FLIP) if rng.random() < 0.5 else square


def _pose(cutout: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """Mirror, turn and scale an object: 50 to 75 % of the picture wide, and always inside it."""
    cutout = _scale(cutout, min(1.0, 1.25 * size / max(cutout.size)))  # turning is what takes time
    if rng.random() < 0.5:
        cutout = cutout.transpose(_FLIP)
    turned = cutout.rotate(rng.uniform(-25, 25), _BICUBIC, expand=True)
    turned = turned.crop(turned.getchannel("A").getbbox())
    # A long thin object gets the area of a square one, as far as it fits.
    wanted = rng.uniform(0.5, 0.75) * size / (turned.width * turned.height) ** 0.5
    return _scale(turned, min(wanted, 0.95 * size / max(turned.size)))


def _scale(picture: Image.Image, factor: float) -> Image.Image:
    width, height = (max(1, round(factor * side)) for side in picture.size)
    return picture.resize((width, height), _LANCZOS)


# ---------------------------------------------------------------------------------- refusal


def _refuse_bad_arguments(split: str, n: int, size: int, seed: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"pictures: expected split 'train', 'val' or 'test', got {split!r}")
    if n < 1 or size < 16 or seed < 0:
        raise ValueError(
            f"pictures: expected n >= 1, size >= 16, seed >= 0, got n={n}, size={size}, seed={seed}"
        )


def _refuse_bad_weights(weights: Weights, classes: Sequence[str]) -> None:
    for name, shares in weights.items():
        _refuse_unknown("class", name, classes)
        for group in shares:
            _refuse_unknown("background", group, GROUPS)
        if not all(0 <= share < float("inf") for share in shares.values()) or not any(
            shares.values()
        ):
            raise ValueError(
                f"backgrounds: expected for {name!r} finite shares from 0 on, at least one above "
                f"it, got {dict(shares)}"
            )


def _refuse_unknown(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(
            f"backgrounds: expected a {what} of {', '.join(known)}, got {name!r}{hint}"
        )
