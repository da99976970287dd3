"""Serve scenes as a data set, one by one or in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.cutouts import SPLITS
from labs.data.scenes.knobs import Knobs, is_integer, refuse_unknown
from labs.data.scenes.layout import Layout, draw_noise, lay_out
from labs.data.scenes.things import load_places, load_pool
from labs.data.scenes.truth import Target, describe, draw

Truth = Target | list[Target]


class Scenes(Dataset[tuple[Tensor, Truth]]):
    """Compose scenes when they are asked for, always the same for the same index.

    Scene ``i`` depends on split, seed and knobs alone: not on ``n``, on other scenes, or on the
    process that draws it. No object and no background is in two splits.

    A scene is an image [3,H,W], float32 in [0, 1], and its truth:

    - ``boxes`` [n,4]: float32, tight around what is visible; ``boxes_amodal``: around all of it.
    - ``labels`` [n]: int64, indices into ``classes``.
    - ``masks`` [n,H,W]: bool, what is visible; ``masks_amodal``: with what others hide.
    - ``semantic`` [H,W]: int64, 0 for background, ``label + 1`` for objects.
    - ``visible`` [n]: float32, the visible part of each object's pixels.
    - ``track_ids`` [n]: int64, in all frames the same for one object.

    With ``frames=T`` a scene is [T,3,H,W] and a list of T such truths.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        n: How many scenes, at least 1.
        seed: Any integer in [0, 2**64).
        **knobs: The attributes of :class:`Knobs`, such as ``canvas=(96, 160)``.

    Attributes:
        classes: The class names.
        knobs: All knobs.

    Raises:
        ValueError: When an argument is out of range or a name is unknown.
        DamagedAssetError: When a shipped file is missing or changed.
    """

    def __init__(self, split: str, n: int, seed: int = 0, **knobs: Any) -> None:
        refuse_unknown("split", split, SPLITS)
        if not (is_integer(n) and n >= 1 and is_integer(seed) and 0 <= seed < 2**64):
            raise ValueError(
                f"scenes: expected integers n >= 1 and seed in [0, 2**64), got n={n}, seed={seed}; "
                "for other scenes change seed="
            )
        for name in knobs:
            refuse_unknown("knob", name, [known.name for known in fields(Knobs)])
        self.split, self.n, self.seed = split, n, seed
        self.knobs = Knobs(**knobs)
        self.classes = self.knobs.classes
        # Read now, so that forked workers share what is read.
        load_places(split)
        for kind in self.knobs.things:
            load_pool(kind, split)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Truth]:
        layout = self.layout(index)
        if self.knobs.frames is None:
            return self._draw(layout, index, 0), describe(layout)
        times = range(self.knobs.frames)
        pictures = [self._draw(layout, index, t) for t in times]
        return torch.stack(pictures), [describe(layout, t) for t in times]

    def layout(self, index: int) -> Layout:
        """Return what a scene is composed of: its photographs, and the source of each object."""
        if not -self.n <= index < self.n:
            raise IndexError(f"scenes: expected an index in [{-self.n}, {self.n}), got {index}")
        return lay_out(self.split, self.seed, int(index) % self.n, self.knobs)

    def _draw(self, layout: Layout, index: int, frame: int) -> Tensor:
        number = int(index) % self.n
        return draw(layout, frame, draw_noise(self.split, self.seed, number, frame, self.knobs))

    def __repr__(self) -> str:
        (h, w), (low, high) = self.knobs.canvas, self.knobs.objects
        frames = "" if self.knobs.frames is None else f", {self.knobs.frames} frames"
        return (
            f"Scenes({self.n} of {self.split!r}, 3x{h}x{w}{frames}, {low} to {high} of "
            f"{' and '.join(self.knobs.things)}, {len(self.classes)} classes, seed {self.seed})"
        )


def collate(scenes: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, list[Any]]:
    """Stack the images and list the truths; for ``DataLoader(collate_fn=)``.

    Returns:
        Images [B,3,H,W] (or [B,T,3,H,W]), and B truths, each with its own number of objects.

    Raises:
        ValueError: When the images differ in size.
    """
    sizes = {tuple(image.shape) for image, _ in scenes}
    if len(sizes) != 1:
        raise ValueError(
            f"collate: expected images of one size, got {sorted(sizes)}; resize them first"
        )
    return torch.stack([image for image, _ in scenes]), [truth for _, truth in scenes]
