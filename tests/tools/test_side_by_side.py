"""The page that compares the shipped detectors tells of the weights that ship."""

import copy

import pytest
import torch

from labs.data.scenes import Rendered, Scenes
from labs.recipes import SHIPPED, trained
from tools import measure_detectors, side_by_side
from tools.side_by_side import ABOUT, problems, read


def test_the_record_is_of_the_weights_that_ship():
    assert problems(read(), SHIPPED) == [], "run `python -m tools.side_by_side`"


def test_its_precision_is_what_the_files_say():
    for row in read()["rows"]:
        said = trained(row["name"]).metrics
        for metric in ("AP", "AP50", "AP75"):
            assert row[metric] == pytest.approx(said[metric], abs=0.005), (row["name"], metric)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(sha256="0"), "measured with other weights"),
        (lambda rows: rows.pop(), "ships, and was not measured"),
        (lambda rows: rows[0]["pictures"].update({"lost.webp": [1, 1]}), "lost.webp: is drawn"),
        (lambda rows: rows[0]["pictures"].popitem(), "lies there, and not both"),
        (lambda rows: rows.append(rows[0] | {"name": "yolo_v1"}), "yolo_v1: ships no longer"),
    ],
    ids=["weights", "row", "no picture", "picture", "gone"],
)
def test_what_is_old_or_missing_is_named(change, message):
    record = copy.deepcopy(read())
    change(record["rows"])
    assert any(message in one for one in problems(record, SHIPPED))


def test_the_page_shows_every_detector_and_leads_to_its_lesson():
    page = side_by_side.page(read())
    for row in read()["rows"]:
        name, lesson, assigns = ABOUT[row["name"]]
        assert f"| {name} | {row['parameters']:,} | {row['AP']:.3f} |" in page
        assert f"(../lessons/{lesson})" in page
        assert assigns in page
        assert row["command"] in page
        assert all(f"_static/side_by_side/{file}" in page for file in row["pictures"])


def test_found_and_false_are_counted():
    data = Rendered(Scenes("test", 1, 0))
    known = trained("yolo_v8")
    target = data.targets[0]
    n = len(target["boxes"])
    perfect = {**target, "scores": torch.ones(n)}
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}
    twice = {key: torch.cat([value[:1], value[:1]]) for key, value in perfect.items()}
    other = perfect | {"labels": (target["labels"] + 1) % 10}
    weak = perfect | {"scores": torch.full((n,), 0.2)}
    cases = {"perfect": (n, 0), "none": (0, 0), "twice": (1, 1), "other": (0, n), "weak": (0, 0)}
    given = {"perfect": perfect, "none": none, "twice": twice, "other": other, "weak": weak}
    for name, expected in cases.items():
        found = {key: given[name][key] for key in ("boxes", "scores", "labels")}
        right, wrong, _ = measure_detectors.drawn(known, data, [found], [0])
        assert (right, wrong) == expected, name


def test_small_digits_are_judged_alone_and_large_ones_held_against_nobody():
    data = Rendered(Scenes("test", 30, 0))
    sides = [(t["boxes"][:, 2:] - t["boxes"][:, :2]).prod(1).sqrt() for t in data.targets]
    limit = torch.cat(sides).median().item()
    found = []
    for target, side in zip(data.targets, sides, strict=True):
        small = side < limit
        one = {key: target[key][small] for key in ("boxes", "labels")}
        found.append(one | {"scores": torch.ones(int(small.sum()))})
    scores = measure_detectors.precision(found, data, limit)
    assert scores["AP small"] == 1
    assert scores["AP"] < 0.9
