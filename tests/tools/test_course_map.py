"""The map shows every lesson with what its card says, and which stages are to come."""

import re
from pathlib import PurePosixPath

import yaml

from labs.stamp import ROOT
from tools.course_map import course_map, needs, stages
from tools.ledger import entries

ALL = entries()
MAP = course_map(ALL)


def test_every_lesson_and_every_stage_is_on_the_map_once_and_in_order():
    shown = re.findall(r'href="\.\./(lessons/[^"]+)\.html"', MAP)
    assert shown == [entry.name for entry in ALL]
    assert re.findall(r'<a href="(\d\d_\w+)\.html">', MAP) == list(stages())


def test_a_stage_without_lessons_says_so_and_one_with_lessons_does_not():
    written = {PurePosixPath(entry.name).parts[1] for entry in ALL}
    for row in re.findall(r'<div class="stage.*', MAP):
        stage = re.search(r'href="(\d\d_\w+)\.html"', row)[1]
        assert ("<li>to come</li>" in row) == ("to-come" in row) == (stage not in written), stage


def test_the_sidebar_calls_to_come_what_the_map_does():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            stage = PurePosixPath(chapter["file"]).name
            if stage in stages():
                assert chapter["title"].endswith(" (to come)") != ("sections" in chapter), stage
    index = (ROOT / "book/index.md").read_text()
    for stage in stages():
        row = next(line for line in index.splitlines() if f"({stage}.md)" in line)
        here = any(entry.name.startswith(f"lessons/{stage}/") for entry in ALL)
        assert ("*to come*" in row.split("|")[1]) != here, stage


def test_needs_are_the_links_of_the_card_and_of_nothing_else():
    assert needs("lessons/01_foundations/07_feel_the_residual") == [
        "05_watch_a_network_see_digits",
        "06_classify_flowers_with_dirty_labels",
    ]
    (card,) = re.findall(r"<li[^>]*><a[^>]*>1\.7 .*?</li>", MAP)
    assert "after 1.5, 1.6" in card
    assert needs("lessons/00_workbench/01_set_up_the_workbench") == []


def test_no_two_lessons_need_each_other():
    after = {PurePosixPath(entry.name).name: needs(entry.name) for entry in ALL}

    def before(lesson, seen=()):
        assert lesson not in seen, f"{lesson} needs itself: {seen}"
        for one in after[lesson]:
            before(one, (*seen, lesson))

    for lesson in after:
        before(lesson)


def test_the_line_of_yolo_has_a_colour_of_its_own():
    coloured = re.findall(r'<li class="yolo"><a href="\.\./(\S+)\.html"', MAP)
    assert coloured == [entry.name for entry in ALL if "/02_detection/" in entry.name]
