"""The first page must not drift from the project it describes."""

import re

import pytest

from labs.stamp import ROOT
from tools.lesson import find
from tools.readme import PICTURE, README, TREE, lines, picture, rewrite, shown_counts


def test_every_place_of_the_tree_exists_and_is_as_long_as_it_says():
    counts = shown_counts(README.read_text())
    assert list(counts) == list(TREE)
    for place, count in counts.items():
        assert (ROOT / place).exists(), place
        assert count == pytest.approx(lines(place), rel=0.2), f"{place}: run python -m tools.readme"


def test_rewriting_changes_the_tree_only():
    text = README.read_text()
    outside = re.sub(r"<!-- tree -->.*<!-- /tree -->", "", text, flags=re.S)
    assert outside == re.sub(r"<!-- tree -->.*<!-- /tree -->", "", rewrite(text), flags=re.S)


def test_the_picture_is_the_lesson_s_own():
    assert PICTURE.read_bytes() == picture(), "run python -m tools.readme"


def test_the_stage_table_counts_the_lessons():
    rows = re.findall(r"^\| (\d) · .*\| (\d+|to come) \|$", README.read_text(), re.M)
    names = [lesson.name for lesson in find()]
    for stage, shown in rows:
        there = sum(name.startswith(f"lessons/0{stage}_") for name in names)
        assert shown == (str(there) if there else "to come"), f"stage {stage}"
    assert len(rows) == 8


def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README.read_text()):
        path = next(filter(None, target))
        assert path.startswith("http") or (ROOT / path).exists(), path
