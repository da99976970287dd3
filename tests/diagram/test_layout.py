"""Boxes stand where the rows say, and the page is wide enough or the error says so."""

import pytest

from labs.diagram.layout import Layout, place

A, B = (60.0, 40.0), (90.0, 50.0)


def test_boxes_stand_in_their_rows_and_columns():
    layout = place([["a", "b"], [None, "c"]], {"a": A, "b": B, "c": A}, [])
    a, b, c = (layout.boxes[name] for name in "abc")
    assert (a.x, a.y) == (10, 10)
    assert a.y == b.y
    assert b.x == c.x
    assert b.x == a.right + 28
    assert c.y == a.bottom + 28
    assert (layout.width, layout.height) == (b.right + 10, c.bottom + 10)


def test_all_boxes_are_as_wide_and_those_of_a_row_as_high():
    boxes = place([["a", "b"], ["c"]], {"a": A, "b": B, "c": A}, []).boxes
    assert [box.width for box in boxes.values()] == [90, 90, 90]
    assert [box.height for box in boxes.values()] == [50, 50, 40]


def test_where_that_does_not_fit_each_column_has_its_width():
    sizes = {"a": (60.0, 40.0), "b": (400.0, 40.0), "c": (70.0, 40.0)}
    boxes = place([["a", "b"], ["c"]], sizes, []).boxes
    assert [box.width for box in boxes.values()] == [70, 400, 70]


def test_a_column_of_nothing_is_a_gap():
    boxes = place([["a", None, "b"]], {"a": A, "b": A}, []).boxes
    assert boxes["b"].x > boxes["a"].right + 56


def test_room_grows_with_the_arrows():
    rows, names = [["a", "b", "c", "d"], ["e", "f", "g", "h"]], "abcdefgh"
    sizes = dict.fromkeys(names, A)
    few = place(rows, sizes, [("a", "b")])
    many = place(rows, sizes, [(x, y) for x in "abcd" for y in "efgh"])
    assert many.height > few.height
    assert few.height == 40 + 28 + 40 + 20


def test_arrows_around_the_outside_are_on_the_page():
    layout = place([["a", "b", "c"]], dict.fromkeys("abc", A), [("a", "c")])
    corners = layout.ways["a", "c"]
    assert min(x for x, _ in corners) >= 10
    assert min(y for _, y in corners) >= 10
    assert max(x for x, _ in corners) <= layout.width - 10
    assert max(y for _, y in corners) <= layout.height - 10


def test_a_page_too_narrow_for_tracks_is_still_filled():
    """Five wide boxes leave no room for more gaps: what touches least is taken."""
    names = "abcde"
    sizes = dict.fromkeys(names, (112.0, 40.0))
    arrows = [(x, y) for x in names for y in names if x != y]
    layout = place([list(names)], sizes, arrows)
    assert layout.width <= 700
    assert set(layout.ways) == set(arrows)


@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        (["a", "b"], TypeError, "expected a list of rows, each a list of names"),
        ("ab", TypeError, "expected a list of rows"),
        ([["a", "c"]], KeyError, "no part 'c' in the wiring"),
        ([["aa", "b"]], KeyError, "no part 'aa' in the wiring; did you mean 'a'"),
        ([["a"]], ValueError, "the rows leave out 'b'; give each part a place"),
        ([[]], ValueError, "the rows leave out 'a', 'b'"),
        ([["a", "b"], ["a"]], ValueError, "each part in one place, got 'a' in 2"),
        ([["a", *[None] * 12, "b"]], ValueError, "at most 700 pixels, got 7.* with 14 columns"),
    ],
)
def test_errors_say_what_was_expected(rows, kind, words):
    with pytest.raises(kind, match=words):
        place(rows, {"a": A, "b": A}, [])


@pytest.mark.parametrize("kind", [Layout])
def test_results_are_frozen(kind):
    assert kind.__dataclass_params__.frozen
