import warnings

import pytest
import torch

from labs.boxes import (
    auto_anchor,
    best_possible_recall,
    evolve,
    fitness,
    k_means,
    lay_onto_strides,
    overlap,
)

CENTRES = torch.tensor([[12.0, 18], [40, 24], [30, 70], [110, 90], [60, 200], [300, 260]])


def spread_shapes(count=600, seed=0):
    """Return shapes from 4 to 400 pixels, small ones more often than large ones."""
    chance = torch.Generator().manual_seed(seed)
    size = 4 * 100 ** torch.rand(count, 1, generator=chance)
    return size * 2 ** (torch.rand(count, 2, generator=chance) - 0.5)


def planted(spread=0.03):
    noise = torch.randn(50, *CENTRES.shape, generator=torch.Generator().manual_seed(1))
    return (CENTRES * (1 + spread * noise)).view(-1, 2)


def shuffled(shapes, seed):
    return shapes[torch.randperm(len(shapes), generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize("seed", range(8))
def test_k_means_finds_planted_clusters(seed):
    torch.testing.assert_close(k_means(planted(), 6, seed), CENTRES, rtol=0.02, atol=0)


def test_more_starts_are_never_worse():
    shapes = planted()
    scale = shapes.std(0, unbiased=False)

    def cost(centres):
        return ((shapes[:, None] - centres) / scale).square().sum(2).amin(1).sum().item()

    once, often = cost(k_means(shapes, 6, 4, starts=1)), cost(k_means(shapes, 6, 4, starts=10))
    assert often < once  # with this seed the first start is a poor one


def test_each_centre_is_the_mean_of_the_shapes_nearest_to_it():
    shapes = spread_shapes()
    centres, scale = k_means(shapes, 5), shapes.std(0, unbiased=False)
    nearest = ((shapes[:, None] - centres) / scale).square().sum(2).argmin(1)
    means = torch.stack([shapes[nearest == k].mean(0) for k in range(5)])
    torch.testing.assert_close(means, centres)


def test_k_means_with_a_centre_for_each_shape_returns_the_shapes():
    shapes = CENTRES.repeat(4, 1)
    torch.testing.assert_close(k_means(shapes, 6), CENTRES)
    assert fitness(shapes, k_means(shapes, 6)) == pytest.approx(1)


def test_k_means_of_a_single_shape_is_that_shape_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert k_means(torch.tensor([[30.0, 50]]), 1).tolist() == [[30, 50]]


def test_k_means_of_one_width():
    shapes = torch.tensor([[10.0, 10], [10, 12], [10, 100], [10, 104]])
    assert k_means(shapes, 2).tolist() == [[10, 11], [10, 102]]


def matches_slowly(shape, anchor, ratio):
    sides = [(s, a) for s, a in zip(shape, anchor, strict=True)]
    return all(s < ratio * a and a < ratio * s for s, a in sides)


@pytest.mark.parametrize("ratio", [1.5, 2.0, 4.0])
def test_recall_and_fitness_equal_slow_versions(ratio):
    shapes, anchors = spread_shapes(80), CENTRES[:3]
    total, hits = 0.0, 0
    for shape in shapes.tolist():
        fits = [
            min(min(s / a, a / s) for s, a in zip(shape, anchor, strict=True))
            for anchor in anchors.tolist()
            if matches_slowly(shape, anchor, ratio)
        ]
        total, hits = total + max(fits, default=0), hits + bool(fits)
    assert best_possible_recall(shapes, anchors, ratio) == pytest.approx(hits / 80, abs=1e-12)
    assert fitness(shapes, anchors, ratio) == pytest.approx(total / 80, abs=1e-6)
    assert 0 < hits < 80


def test_a_side_four_times_as_long_is_just_not_matched():
    anchor = torch.tensor([[10.0, 10]])
    assert best_possible_recall(torch.tensor([[39.9, 10]]), anchor) == 1
    assert best_possible_recall(torch.tensor([[40.0, 10]]), anchor) == 0
    assert best_possible_recall(torch.tensor([[2.5, 10]]), anchor) == 0


def test_anchors_by_level_are_taken_as_one_list():
    shapes = spread_shapes()
    assert fitness(shapes, CENTRES.view(3, 2, 2)) == fitness(shapes, CENTRES)


@pytest.mark.parametrize("seed", range(3))
def test_evolution_is_never_worse_than_k_means_and_here_better(seed):
    shapes = spread_shapes(seed=seed)
    first = k_means(shapes, 6, seed)
    better = evolve(shapes, first, generations=300, seed=seed)
    assert fitness(shapes, better) > fitness(shapes, first) + 0.01
    assert best_possible_recall(shapes, better) >= best_possible_recall(shapes, first)


def test_evolution_without_generations_or_room_changes_nothing():
    shapes = spread_shapes()
    first = k_means(shapes, 6)
    assert torch.equal(evolve(shapes, first, generations=0), first)
    torch.testing.assert_close(evolve(CENTRES, CENTRES, generations=50), CENTRES)


@pytest.mark.parametrize(
    "make",
    [
        lambda shapes: k_means(shapes, 6, 3),
        lambda shapes: evolve(shapes, CENTRES, generations=60, seed=3),
        lambda shapes: auto_anchor(shapes, (8, 16), generations=30, seed=3),
    ],
    ids=["k_means", "evolve", "auto_anchor"],
)
def test_the_same_seed_gives_the_same_anchors_in_whatever_order(make):
    shapes = spread_shapes()
    state = torch.get_rng_state()
    expected = make(shapes)
    for seed in range(3):
        assert torch.equal(make(shuffled(shapes, seed)), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_anchor_puts_it_together():
    shapes = spread_shapes()
    anchors = auto_anchor(shapes, (8, 16, 32), per_stride=2, generations=200, seed=1)
    assert anchors.shape == (3, 2, 2)
    areas = anchors.prod(2).flatten()
    assert torch.equal(areas, areas.sort().values)
    assert fitness(shapes, anchors) >= fitness(shapes, k_means(shapes, 6, 1))
    assert best_possible_recall(shapes, anchors) == 1


def test_compact_anchors_keep_their_order_although_in_cells_it_turns_around():
    anchors, strides = torch.tensor([[60.0, 60], [20, 20], [40, 40]]), torch.tensor([8, 16, 32])
    by_stride = lay_onto_strides(anchors, strides.tolist())
    assert by_stride[:, 0, 0].tolist() == [20, 40, 60]
    assert (by_stride[:, 0].prod(1) / strides**2).tolist() == [6.25, 6.25, 3.515625]


@pytest.mark.parametrize(
    ("count", "strides", "message"),
    [
        (6, (32, 16, 8), r"strides that increase, the finest first, got \(32, 16, 8\)"),
        (6, (8, 8, 16), "strides that increase"),
        (6, (), "strides that increase"),
        (7, (8, 16, 32), "a multiple of 3 anchors, as there are 3 strides, got 7"),
    ],
)
def test_strides_that_cannot_be_served(count, strides, message):
    with pytest.raises(ValueError, match=message):
        lay_onto_strides(spread_shapes(count), strides)


def test_thin_shapes_are_left_out_with_a_warning():
    shapes = spread_shapes(90)
    thin = torch.cat([shapes, torch.full((10, 2), 1.5)])
    with pytest.warns(UserWarning, match="10 of 100 shapes are thinner than 2 pixels; are they"):
        anchors = auto_anchor(thin, (8, 16), generations=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(anchors, auto_anchor(shapes, (8, 16), generations=5))


def test_mostly_thin_shapes_are_refused():
    with pytest.raises(ValueError, match=r"60 of 60 .* in pixels .* describe another data set"):
        auto_anchor(spread_shapes(60) / 640)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (torch.tensor([[3.0, 4], [0, 5], [6, -1]]), r"got 2 of 3 that are not, such as \[0.0, 5.0"),
        (torch.tensor([[3.0, float("nan")]]), "got 1 of 1"),
        (torch.zeros(0, 2), r"n >= 1.*got \[0, 2\]"),
        (torch.ones(5, 4), r"got \[5, 4\]"),
    ],
)
def test_what_is_no_shape(shapes, message):
    for function in (
        lambda: k_means(shapes, 1),
        lambda: evolve(shapes, CENTRES),
        lambda: auto_anchor(shapes),
        lambda: fitness(shapes, CENTRES),
    ):
        with pytest.raises(ValueError, match=message):
            function()


def test_more_centres_than_different_shapes():
    with pytest.raises(ValueError, match=r"expected 1 <= count <= 6, .* got 7; ask for fewer"):
        k_means(CENTRES.repeat(9, 1), 7)


def test_shapes_of_boxes_feed_it():
    boxes = torch.tensor([[0.0, 0, 12, 18], [5, 5, 45, 29]])
    shapes = boxes[:, 2:] - boxes[:, :2]
    assert fitness(shapes, shapes) == 1 == overlap(boxes, boxes).mean().item()
