"""The table of symptoms leads to sections and instruments that there are, and misses no lesson."""

import importlib
import re

import pytest

from labs.hunts.listing import main
from labs.hunts.symptoms import Symptom, symptoms
from tools.symptoms import page, problems

ALL = symptoms()


def test_every_hunt_and_every_debug_beat_is_led_to_and_every_row_leads_somewhere():
    assert problems(ALL) == []


def test_a_wrong_row_and_a_missing_one_are_named():
    lost = Symptom("The loss", "It sings.", "", "07_feel_the_residual", "Debug: no such")
    astray = Symptom("The data", "It sleeps.", "", "99_nowhere", "Debug")
    rest = [one for one in ALL if (one.lesson, one.heading) != ("07_feel_the_residual", "Bug hunt")]
    assert problems([*rest, lost, astray]) == [
        "The data: expected its rows one after the other",
        "The loss: expected its rows one after the other",
        "It sings. 07_feel_the_residual has no heading 'Debug: no such'",
        "It sleeps. expected a lesson, got '99_nowhere'",
        "no symptom leads to 07_feel_the_residual, Bug hunt",
    ]


def test_a_heading_is_named_whole_or_up_to_its_colon():
    row = Symptom("The loss", "It sings.", "", "07_feel_the_residual", "Debu")
    assert "It sings. 07_feel_the_residual has no heading 'Debu'" in problems([row])


def test_no_two_rows_say_the_same_and_each_is_a_sentence():
    assert len({one.words for one in ALL}) == len(ALL)
    for one in ALL:
        assert re.fullmatch(r"[A-Z].+[.?]", one.words), one
        assert one.reveals, one


def test_the_instruments_exist():
    named = {name for one in ALL for name in re.findall(r"`(labs\.[\w.]+)`", one.reveals)}
    assert len(named) > 10
    for name in named:
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function)), name


def test_the_page_has_a_table_for_each_place_and_a_link_in_each_row():
    text = page(ALL)
    assert re.findall("^## (.+)$", text, re.M) == list(dict.fromkeys(one.where for one in ALL))
    assert len(re.findall(r"\(/lessons/\w+/\w+\.ipynb#[\w-]+\) \|$", text, re.M)) == len(ALL)


def test_words_choose_symptoms_whatever_their_case(capsys):
    assert main(["NaN", "loss"]) == 0
    out = capsys.readouterr().out
    assert "The loss is NaN" in out
    assert "check_" not in out
    assert len(symptoms(["nan", "loss"])) == out.count("read: ")
    assert main(["unheard", "of"]) == 1
    assert "No symptom holds all of: unheard of" in capsys.readouterr().out


def test_without_words_the_terminal_shows_hunts_and_all_symptoms(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "check_skip_connection" in out
    for one in ALL:
        assert one.words in out


@pytest.mark.parametrize("place", sorted({one.where for one in ALL}))
def test_a_place_has_more_than_one_symptom(place):
    assert sum(one.where == place for one in ALL) > 1
