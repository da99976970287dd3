"""Arrows go around boxes, with few bends, and keep apart."""

import random
from itertools import pairwise, permutations

import pytest

from labs.diagram.layout import place
from labs.diagram.routes import Box, _apart, find_routes

SIZE = (60.0, 40.0)


def test_a_box_knows_its_sides():
    box = Box(10, 20, 30, 40)
    assert (box.right, box.bottom, box.centre) == (40, 60, (25, 40))


def test_short_arrows_are_those_of_near_boxes():
    boxes = {"a": Box(0, 0, 10, 10), "b": Box(100, 50, 10, 10), "c": Box(100, 60, 30, 10)}
    assert _apart(boxes, ("a", "b")) == _apart(boxes, ("b", "a")) == 150
    assert _apart(boxes, ("b", "c")) == 20


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        pytest.param((0, 40), (50, 40), True, id="across"),
        pytest.param((50, 40), (0, 40), True, id="across, from the right"),
        pytest.param((25, 0), (25, 99), True, id="down"),
        pytest.param((25, 30), (25, 50), True, id="inside"),
        pytest.param((0, 20), (50, 20), False, id="along the top"),
        pytest.param((0, 60), (50, 60), False, id="along the bottom"),
        pytest.param((10, 0), (10, 99), False, id="along the left"),
        pytest.param((40, 0), (40, 99), False, id="along the right"),
        pytest.param((0, 40), (10, 40), False, id="up to the side"),
        pytest.param((40, 40), (60, 40), False, id="from the side"),
        pytest.param((25, 0), (25, 20), False, id="down to the top"),
        pytest.param((25, 60), (25, 90), False, id="from the bottom"),
    ],
)
def test_what_crosses_a_box(start, end, expected):
    assert Box(10, 20, 30, 40).is_crossed(start, end) is expected


def ways_of(rows, arrows, alone=()):
    names = [name for row in rows for name in row if name]
    layout = place(rows, dict.fromkeys(names, SIZE), arrows, alone)
    for arrow, way in layout.ways.items():
        check_way(layout.boxes, arrow, way)
    return layout


def check_way(boxes, arrow, way):
    """Hold an arrow to its two boxes, to right angles, and to no box in between."""
    start, end = (boxes[name] for name in arrow)
    for box, point, inner in ((start, way[0], way[1]), (end, way[-1], way[-2])):
        on_sides = point[0] in (box.x, box.right) and box.y < point[1] < box.bottom
        on_ends = point[1] in (box.y, box.bottom) and box.x < point[0] < box.right
        assert on_sides or on_ends
        away = inner[0] - point[0], inner[1] - point[1]
        outwards = {box.x: -1, box.right: 1}[point[0]] if on_sides else 0
        downwards = {box.y: -1, box.bottom: 1}[point[1]] if on_ends else 0
        assert away[0] * outwards + away[1] * downwards >= 10  # room for the head
    for a, b in pairwise(way):
        assert (a[0] == b[0]) != (a[1] == b[1])
        assert not [name for name, box in boxes.items() if box.is_crossed(a, b)]
    for a, b, c in zip(way, way[1:], way[2:], strict=False):
        assert (a[0] == b[0]) != (b[0] == c[0])  # it bends at every corner


def test_neighbours_are_joined_by_a_straight_line():
    layout = ways_of([["a", "b"], ["c", None]], [("a", "b"), ("a", "c")])
    a, b, c = (layout.boxes[name] for name in "abc")
    assert layout.ways["a", "b"] == [(a.right, a.centre[1]), (b.x, b.centre[1])]
    assert layout.ways["a", "c"] == [(a.centre[0], a.bottom), (c.centre[0], c.y)]


def test_an_arrow_back_is_as_straight():
    layout = ways_of([["a", "b"]], [("b", "a")])
    assert len(layout.ways["b", "a"]) == 2


def test_a_skip_goes_around_with_two_bends():
    layout = ways_of([["a", "b", "c"]], [("a", "b"), ("b", "c"), ("a", "c")])
    assert len(layout.ways["a", "c"]) == 4
    assert len(ways_of([["a"], ["b"], ["c"]], [("a", "c")]).ways["a", "c"]) == 4


def test_a_skip_through_an_empty_place_is_straight():
    assert len(ways_of([["a", None, "c"], ["b", None, None]], [("a", "c")]).ways["a", "c"]) == 2


def test_around_one_corner_there_is_one_bend():
    assert len(ways_of([["a", None], [None, "b"]], [("a", "b")]).ways["a", "b"]) == 3


def test_a_loop_leads_back_to_its_box():
    ways = ways_of([["a", "b"]], [("a", "a"), ("a", "b")]).ways
    assert ways["a", "a"][0] != ways["a", "a"][-1]
    assert len(ways["a", "a"]) >= 4
    assert len(ways["a", "b"]) == 2


def segments(way):
    return [(*sorted((a, b)),) for a, b in pairwise(way)]


def overlap(first, second):
    """Return how far two ways run on one line."""
    total = 0.0
    for (a, b), (c, d) in ((s, t) for s in segments(first) for t in segments(second)):
        for axis in (0, 1):
            if a[axis] == b[axis] == c[axis] == d[axis]:
                other = 1 - axis
                total += max(0.0, min(b[other], d[other]) - max(a[other], c[other]))
    return total


def test_arrows_of_two_boxes_do_not_run_on_one_line():
    arrows = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "c"), ("b", "d"), ("a", "d")]
    ways = ways_of([["a", "b", "c", "d"]], arrows).ways
    for one, other in permutations(arrows, 2):
        if one[0] != other[0]:
            assert overlap(ways[one], ways[other]) == 0
    assert len({way[-1] for way in ways.values()}) == len(arrows)  # each head has its place


def test_arrows_of_one_box_may_split_unless_one_is_to_be_alone():
    rows, arrows = [["a", "b", "c", "d"]], [("a", "c"), ("a", "d")]
    together = ways_of(rows, arrows).ways
    assert overlap(*together.values()) > 20
    apart = ways_of(rows, arrows, alone=[("a", "d")]).ways
    assert overlap(*apart.values()) == 0


def test_the_order_of_the_arrows_is_kept():
    arrows = [("a", "c"), ("a", "b")]
    assert list(ways_of([["a", "b", "c"]], arrows).ways) == arrows


@pytest.mark.parametrize("seed", range(8))
def test_no_arrow_runs_through_a_box_wherever_they_stand(seed):
    chance = random.Random(seed)
    names = [f"p{n}" for n in range(9)]
    places = [*names, *[None] * 7]
    chance.shuffle(places)
    rows = [places[i : i + 4] for i in range(0, 16, 4)]
    arrows = chance.sample(list(permutations(names, 2)), 12)
    assert set(ways_of(rows, arrows).ways) == set(arrows)


def test_touching_is_counted():
    boxes = {name: Box(20, 20 + 60 * row, 60, 40) for row, name in enumerate("abcde")}
    xs, ys = [10.0, 90.0], [10.0, 70.0, 130.0, 190.0, 250.0, 310.0]
    free = find_routes(boxes, [("a", "b"), ("b", "c")], xs, ys)
    assert free.touching == 0
    crowded = find_routes(boxes, list(permutations("abcde", 2)), xs, ys)
    assert crowded.touching > 0
