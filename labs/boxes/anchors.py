"""Fit anchors to the shapes of a data set: cluster, refine, and lay them onto the strides."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

Anchors = Tensor | Sequence[Sequence[Sequence[float]]]
"""Width and height in pixels, level by level, finest first: [L,A,2], as a tensor or in tuples."""

_SMALLEST = 2.0  # pixels; what is thinner cannot be told from a mistake in the labels


def auto_anchor(
    shapes: Tensor,
    strides: Sequence[int] = (8, 16, 32),
    per_stride: int = 3,
    ratio: float = 4.0,
    generations: int = 1000,
    seed: int = 0,
) -> Tensor:
    """Return anchors that fit the shapes: k-means, then :func:`evolve`, then onto the strides.

    Args:
        shapes: Width and height of each box, in pixels of the network's input, [n,2].
        strides: Of the levels, the finest first.
        per_stride: Anchors of a level.
        ratio: How many times a side may differ from its anchor's and still match.
        generations: Of the evolution.
        seed: The same seed gives the same anchors, in whatever order the shapes come.

    Returns:
        Width and height of the anchors in pixels, [strides,per_stride,2], the smallest first.

    Raises:
        ValueError: When a shape is not a positive number of pixels, most are thinner than two
            pixels, too few differ, or the strides do not increase.

    Warns:
        UserWarning: When shapes thinner than two pixels are left out.
    """
    shapes = _large_enough(_checked(shapes))
    first = k_means(shapes, len(strides) * per_stride, seed)
    best = evolve(shapes, first, ratio, generations, seed)
    return lay_onto_strides(best, strides)


def k_means(shapes: Tensor, count: int, seed: int = 0, starts: int = 10) -> Tensor:
    """Return ``count`` typical shapes, [count,2], the smallest area first.

    Width and height are measured in their standard deviations. A single start can end with two
    centres in one cluster; of several, the one with the smallest squared distances is returned.

    Args:
        shapes: Width and height in pixels, [n,2].
        count: How many centres.
        seed: For the first centres; the order of the shapes does not matter.
        starts: How often to begin anew, at least once.

    Raises:
        ValueError: When a shape is not a positive number, or fewer than ``count`` differ.
    """
    shapes = _checked(shapes)
    distinct = len(shapes.unique(dim=0))
    if not 1 <= count <= distinct:
        raise ValueError(
            f"k_means: expected 1 <= count <= {distinct}, the number of different shapes, "
            f"got {count}; ask for fewer anchors"
        )
    scale = shapes.std(0, unbiased=False)
    scale = torch.where(scale > 0, scale, 1)  # all of one width
    points, chance = shapes / scale, torch.Generator().manual_seed(seed)
    tries = [_settle(points, _spread(points, count, chance)) for _ in range(starts)]
    best = min(tries, key=lambda centres: _squared_distances(points, centres).amin(1).sum().item())
    return _by_area(best * scale).float()


def best_possible_recall(shapes: Tensor, anchors: Tensor, ratio: float = 4.0) -> float:
    """Return the share of shapes, in [0, 1], that some anchor matches.

    An anchor matches when neither side differs from its own by a factor of ``ratio`` or more.
    What no anchor matches is never trained on, so no detector with these anchors can find it.

    Args:
        shapes: Width and height in pixels, [n,2].
        anchors: The same, [...,2].
        ratio: The factor, above 1.
    """
    return (_closeness(_checked(shapes), anchors) > 1 / ratio).double().mean().item()


def fitness(shapes: Tensor, anchors: Tensor, ratio: float = 4.0) -> float:
    """Return how close shapes are to their best anchor: 1 when each has its own, 0 when none match.

    The closeness of a shape is the smaller of its two side ratios (the smaller side over the
    larger), and 0 when no anchor matches it; the fitness is the mean.

    Args:
        shapes: Width and height in pixels, [n,2].
        anchors: The same, [...,2].
        ratio: The factor by which a side may differ, above 1.
    """
    return _fitness(_checked(shapes), anchors, ratio)


def evolve(
    shapes: Tensor, anchors: Tensor, ratio: float = 4.0, generations: int = 1000, seed: int = 0
) -> Tensor:
    """Refine anchors by chance: keep a random change when it raises :func:`fitness`.

    K-means makes squared distances small, and so serves the large boxes; what counts in training
    is the ratio of sides. The result is never less fit than what it started from.

    Args:
        shapes: Width and height in pixels, [n,2].
        anchors: The first generation, [k,2].
        ratio: The factor by which a side may differ, above 1.
        generations: How many changes to try.
        seed: Of the changes; the order of the shapes does not matter.

    Returns:
        The anchors, [k,2], the smallest area first.
    """
    shapes, chance = _checked(shapes), torch.Generator().manual_seed(seed)
    best, top = anchors.double(), _fitness(shapes, anchors, ratio)
    for _ in range(generations):
        strength = 0.1 * torch.rand(1, generator=chance)  # mostly small steps, some large
        noise = torch.randn(anchors.shape, generator=chance)
        child = best * (1 + strength * noise).clamp(0.3, 3).double()
        score = _fitness(shapes, child.float(), ratio)
        if score > top:
            best, top = child, score
    return _by_area(best.float())


def lay_onto_strides(anchors: Tensor, strides: Sequence[int]) -> Tensor:
    """Give the small anchors to the fine levels: sort by area in pixels, and share out.

    Sorting by area in cells of each level instead can turn the order around, and then small
    objects are looked for on the coarsest map.

    Args:
        anchors: Width and height in pixels, [k,2].
        strides: Of the levels, the finest first.

    Returns:
        The anchors in pixels, [strides,k/strides,2].

    Raises:
        ValueError: When the strides do not increase, or cannot share the anchors evenly.
    """
    if not strides or list(strides) != sorted(set(strides)):
        raise ValueError(
            f"anchors: expected strides that increase, the finest first, got {tuple(strides)}"
        )
    if len(anchors) % len(strides):
        raise ValueError(
            f"anchors: expected a multiple of {len(strides)} anchors, as there are "
            f"{len(strides)} strides, got {len(anchors)}"
        )
    return _by_area(anchors).view(len(strides), -1, 2)


def _spread(points: Tensor, count: int, chance: torch.Generator) -> Tensor:
    """Choose first centres likely to be far apart (k-means++, Arthur and Vassilvitskii 2007)."""
    chosen = [int(torch.randint(len(points), (1,), generator=chance))]
    while len(chosen) < count:
        nearest = _squared_distances(points, points[chosen]).amin(1)
        chosen.append(int(torch.multinomial(nearest, 1, generator=chance)))
    return points[chosen]


def _settle(points: Tensor, centres: Tensor, rounds: int = 100) -> Tensor:
    """Give each point to its nearest centre, move each centre to its mean; repeat (Lloyd 1982)."""
    for _ in range(rounds):
        nearest = _squared_distances(points, centres).argmin(1)
        sizes = nearest.bincount(minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        moved = torch.where(sizes > 0, sums / sizes, centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    (x, y), (u, v) = points.T[:, :, None], centres.T[:, None]
    return (x - u).square() + (y - v).square()  # [n,k]


def _fitness(shapes: Tensor, anchors: Tensor, ratio: float) -> float:
    closeness = _closeness(shapes, anchors)
    return torch.where(closeness > 1 / ratio, closeness, 0).double().mean().item()


def _closeness(shapes: Tensor, anchors: Tensor) -> Tensor:
    """Return for each shape how close its best anchor is, in (0, 1], [n]."""
    share = shapes[:, None] / anchors.reshape(-1, 2).to(shapes)  # [n,k,2]
    return torch.minimum(share, 1 / share).amin(2).amax(1)


def _checked(shapes: Tensor) -> Tensor:
    """Return the shapes in float64 and sorted, so that their order has no effect at all."""
    right = shapes.ndim == 2 and shapes.shape[1] == 2 and len(shapes) > 0
    if not right or not (shapes.isfinite() & (shapes > 0)).all():
        what = f"{list(shapes.shape)}"
        if right:
            bad = shapes[~(shapes.isfinite() & (shapes > 0)).all(1)]
            what = f"{len(bad)} of {len(shapes)} that are not, such as {bad[0].tolist()}"
        raise ValueError(
            f"anchors: expected shapes [n,2], n >= 1, of positive widths and heights in pixels, "
            f"got {what}; remove empty boxes first"
        )
    shapes = shapes.double().cpu()
    shapes = shapes[shapes[:, 1].argsort(stable=True)]
    return shapes[shapes[:, 0].argsort(stable=True)]


def _large_enough(shapes: Tensor) -> Tensor:
    """Leave out what is thinner than two pixels, with a warning; refuse when that is most."""
    large = (shapes >= _SMALLEST).all(1)
    thin = len(shapes) - int(large.sum())
    fault = (
        f"auto_anchor: {thin} of {len(shapes)} shapes are thinner than {_SMALLEST:g} pixels; are "
        "they in pixels of the network's input?"
    )
    if 2 * thin > len(shapes):
        raise ValueError(fault + " Anchors of the others would describe another data set")
    if thin:
        warnings.warn(fault + " They are left out", stacklevel=3)
    return shapes[large]


def _by_area(anchors: Tensor) -> Tensor:
    return anchors[anchors.prod(1).argsort(stable=True)]
