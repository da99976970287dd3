"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest

from labs.hunts.detection import check_class_order
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/02_detection/11_tune_on_your_own_pictures"


def right(categories, classes):
    names = [one["name"] for one in categories]
    for name in classes:
        if names.count(name) != 1:
            raise ValueError(f"expected one category {name}, got {names.count(name)}")
    return {categories[names.index(name)]["id"]: row for row, name in enumerate(classes)}


def row_by_row(categories, classes):
    rows = {}
    for one in categories:
        if one["name"] in classes:
            if classes.index(one["name"]) in rows.values():
                raise ValueError(f"{one['name']} is there twice")
            rows[one["id"]] = classes.index(one["name"])
    lacking = [name for name in classes if classes.index(name) not in rows.values()]
    if lacking:
        raise ValueError(f"no category is named {', '.join(lacking)}")
    return rows


def in_the_order_of_the_file(categories, classes):
    """Be the fault itself, with its refusals mended."""
    right(categories, classes)
    found = [one["id"] for one in categories if one["name"] in classes]
    return {key: row for row, key in enumerate(found)}


def in_the_order_of_ids(categories, classes):
    right(categories, classes)
    found = sorted(one["id"] for one in categories if one["name"] in classes)
    return {key: row for row, key in enumerate(found)}


def in_the_order_of_names(categories, classes):
    right(categories, classes)
    by_name = sorted(categories, key=lambda one: one["name"])
    return {one["id"]: row for row, one in enumerate(by_name) if one["name"] in classes}


def ids_less_one(categories, classes):
    right(categories, classes)
    return {one["id"]: one["id"] - 1 for one in categories if one["name"] in classes}


def by_part_of_the_name(categories, classes):
    """Be the first repair of MMDetection: a single name is searched for as letters."""
    right(categories, classes)
    rows = {}
    for row, name in enumerate(classes):
        found = [one["id"] for one in categories if one["name"] in name]
        rows[found[0]] = row
    return rows


def all_in_the_file(categories, classes):
    rows = right(categories, classes)
    others = [one["id"] for one in categories if one["id"] not in rows]
    return rows | {key: len(classes) + k for k, key in enumerate(others)}


def passes_over_what_lacks(categories, classes):
    known = [one["name"] for one in categories]
    for name in classes:
        if known.count(name) > 1:
            raise ValueError(name)
    return {one["id"]: classes.index(one["name"]) for one in categories if one["name"] in classes}


def takes_both(categories, classes):
    known = [one["name"] for one in categories]
    for name in classes:
        if name not in known:
            raise ValueError(name)
    return {one["id"]: classes.index(one["name"]) for one in categories if one["name"] in classes}


def refuses_without_a_name(categories, classes):
    try:
        return right(categories, classes)
    except ValueError:
        raise ValueError("bad file") from None


def turned_round(categories, classes):
    return {row: key for key, row in right(categories, classes).items()}


def upside_down(categories, classes):
    return {key: len(classes) - 1 - row for key, row in right(categories, classes).items()}


def returns_a_list(categories, classes):
    return list(right(categories, classes))


def ids_are(*ids):
    """Say whether the file has these ids, in this order."""
    return lambda categories, classes: tuple(one["id"] for one in categories) == ids


def nothing(categories, classes):
    return {}


WRONG = {
    when(ids_are(1, 2, 3), in_the_order_of_names, right): "✗✗✓✓✓✓✓✓",
    when(lambda file, _: file[0] == {"id": 1, "name": "car"}, upside_down, right): "✗✓✓✓✓✓✓✓",
    in_the_order_of_the_file: "✓✗✓✓✓✓✓✓",
    when(ids_are(90, 0, 13), ids_less_one, right): "✓✓✗✓✓✓✓✓",
    all_in_the_file: "✓✓✓✗✓✓✓✓",
    by_part_of_the_name: "✓✓✓✓✗✓✓✓",
    when(ids_are(7), nothing, right): "✓✓✓✓✓✗✓✓",
    passes_over_what_lacks: "✓✓✓✓✓✓✗✓",
    takes_both: "✓✓✓✓✓✓✓✗",
    in_the_order_of_ids: "✓✗✗✓✓✓✓✓",
    in_the_order_of_names: "✗✗✗✗✗✓✓✓",
    ids_less_one: "✓✗✗✗✓✗✓✓",
    refuses_without_a_name: "✓✓✓✓✓✓✗✗",
    turned_round: "✗✗✗✗✗✗✓✓",
    returns_a_list: "✗✗✗✗✗✗✓✓",
    nothing: "✗✗✗✗✗✗✗✗",
}


def test_the_planted_bug_fails():
    verdict = check_class_order(run_cell(LESSON, "hunt-bug")["rows_of"])
    assert marks(verdict) == "✓✗✓✓✓✓✗✗", verdict
    assert "answers row 2: bicycle" in verdict.probes[1].seen


def test_the_solution_passes():
    verdict = check_class_order(run_cell(LESSON, "hunt-solution")["row_of_each_id"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [right, row_by_row])
def test_other_right_fixes_pass(fix):
    verdict = check_class_order(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_class_order(fix)
    assert marks(verdict) == refused, verdict
