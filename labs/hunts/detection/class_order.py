"""Check which row of a network's classes each category of an annotation file is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from labs.hunts import Verdict, examine
from labs.hunts.answer import mapping_of

Category = Mapping[str, Any]
Rows = Callable[[list[Category], tuple[str, ...]], Mapping[int, int]]


def check_class_order(rows_of: Rows) -> Verdict:
    """Check a function that tells which row of the classes answers for an id of a COCO file.

    Args:
        rows_of: ``rows_of(categories, classes)`` takes the list ``categories`` of an annotation
            file, dicts with ``id`` and ``name``, and the names of a network's classes in their
            order. It returns a dict: the id of every category that is one of the classes, and its
            row. A name that the file lacks, and one that it has twice, is a ValueError that tells
            the name.

    Returns:
        The verdict of eight probes.
    """
    return examine(
        "the class that answers for another",
        rows_of,
        {
            "the file lists the classes in the order of the network": _alike,
            "the file lists them in another order": _reordered,
            "its ids have gaps, and are in no order": _gaps,
            "the file has more categories than the network has classes": _more,
            "the name of one class is a part of another's": _parts,
            "one class is asked for": _single,
            "a class that the file lacks is refused": _lacking,
            "a name that the file has twice is refused": _twice,
        },
    )


def _file(**ids: int) -> list[Category]:
    """List categories, in this order, with their ids."""
    return [{"id": key, "name": name.replace("_", " ")} for name, key in ids.items()]


def _compare(rows_of: Rows, categories: list[Category], classes: tuple[str, ...]) -> str:
    got = dict(mapping_of(rows_of([dict(one) for one in categories], classes), "the rows"))
    name_of = {one["id"]: one["name"] for one in categories}
    for row, name in enumerate(classes):
        (key,) = [one["id"] for one in categories if one["name"] == name]
        assert key in got, f"{name}, id {key}, has no row"
        answers = classes[got[key]] if got[key] in range(len(classes)) else "nobody"
        assert got[key] == row, f"for {name}, id {key}, answers row {got[key]}: {answers}"
    others = sorted(str(name_of.get(key, key)) for key in got if name_of.get(key) not in classes)
    assert not others, f"it has a row for {', '.join(others)}"
    return f"right for all {len(classes)}"


def _alike(rows_of: Rows) -> str:
    return _compare(rows_of, _file(car=1, bus=2, bicycle=3), ("car", "bus", "bicycle"))


def _reordered(rows_of: Rows) -> str:
    return _compare(rows_of, _file(bicycle=1, bus=2, car=3), ("car", "bus", "bicycle"))


def _gaps(rows_of: Rows) -> str:
    return _compare(rows_of, _file(car=90, bus=0, bicycle=13), ("car", "bus", "bicycle"))


def _more(rows_of: Rows) -> str:
    file = _file(vehicle=0, car=1, sign=2, bus=3, person=4)
    return _compare(rows_of, file, ("car", "bus"))


def _parts(rows_of: Rows) -> str:
    file = _file(bear=1, teddy_bear=2, car=3, carrot=4)
    return _compare(rows_of, file, ("bear", "teddy bear", "car", "carrot"))


def _single(rows_of: Rows) -> str:
    return _compare(rows_of, _file(tree=7), ("tree",))


def _lacking(rows_of: Rows) -> str:
    return _refused(rows_of, _file(car=1, bus=2), ("car", "lorry", "bus"), "lorry")


def _twice(rows_of: Rows) -> str:
    file = [*_file(car=1, bus=2), {"id": 3, "name": "bus"}]
    return _refused(rows_of, file, ("car", "bus"), "bus")


def _refused(rows_of: Rows, file: list[Category], classes: tuple[str, ...], name: str) -> str:
    told = None
    try:
        got = rows_of(file, classes)
    except ValueError as error:
        told = str(error)
    assert told is not None, f"expected a ValueError, got {got!r}"
    assert name in told, f"the error does not tell the name: {told!r}"
    return "by its name"
