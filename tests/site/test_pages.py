"""Look at every page of the rendered book; each is opened once."""

from pathlib import Path

import pytest

from labs.stamp import ROOT
from tests.site.pages import PAGES, each_lesson_page, each_page
from tests.site.visit import PHONE
from tools.lesson import find

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@each_page
def test_page_fetches_nothing_from_elsewhere(look, page):
    assert look(page)["fetched"] == []


@each_page
def test_page_runs_without_an_error(look, page):
    assert look(page)["errors"] == []


@each_page
def test_page_has_a_title_and_every_picture_is_there_and_described(look, page):
    seen = look(page)["light"]
    assert seen["title"]
    assert seen["broken"] == []
    assert seen["mute"] == []
    assert seen["silent"] == []


@each_page
def test_every_formula_is_drawn(look, page):
    seen = look(page)["light"]
    assert seen["drawn"] == seen["formulas"]
    assert seen["wrong"] == []
    assert seen["strange"] == [], "letters that tools/pack_mathjax.py left out"


def test_the_book_has_formulas_to_draw(look):
    assert sum(look(page)["light"]["formulas"] for page in PAGES) > 0


@each_page
def test_nothing_moves_while_the_page_is_loaded(look, page):
    assert look(page)["moved"] < 0.02


@each_page
def test_axe_finds_nothing(look, page):
    assert look(page)["axe"] == []


@each_page
def test_page_fits_a_phone(look, page):
    assert look(page)["phone"]["width"] <= PHONE["width"]


SCROLLER_FAULTS = ("unsigned", "mismatched", "unreachable", "idle", "lost")


@each_page
def test_what_is_wider_than_its_place_scrolls_shows_it_and_is_reached_by_keyboard(look, page):
    for seen in look(page)["scrollers"]:
        faults = {kind: seen[kind] for kind in SCROLLER_FAULTS if seen[kind]}
        assert not faults


def test_each_kind_of_thing_scrolls_somewhere_on_a_phone(look):
    kinds = {kind for page in PAGES for kind in look(page)["scrollers"][0]["kinds"]}
    assert kinds == {f"{kind}, scrolls sideways" for kind in ("Code", "Output", "Table", "Formula")}


@each_page
def test_logo_and_search_stay_and_the_entry_of_the_page_is_in_sight(look, page):
    seen = look(page)["sidebar"]
    assert [name for name in ("logo", "search", "entry", "list") if not seen[name]] == []


@each_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out(look, page, theme):
    """WCAG AA asks for a contrast of 4.5 between text and ground."""
    assert look(page)[theme]["faint"] == []


@each_lesson_page
def test_a_lesson_is_light_before_the_reader_scrolls(look, page):
    seen = look(page)
    assert seen["bytes"] <= 1_500_000
    assert 3 <= seen["requests"] <= 15


def test_the_first_page_is_lighter_still(look):
    seen = look("book/index")
    assert seen["bytes"] <= 500_000
    assert 3 <= seen["requests"] <= 12


@each_lesson_page
def test_no_letter_in_a_picture_is_too_small_to_read(look, page):
    pictures = look(page)["light"]["pictures"]
    assert pictures
    assert min(picture["text"] for picture in pictures) >= 9


@each_lesson_page
def test_no_panel_is_smaller_than_a_thumb(look, page):
    seen = look(page)
    assert min(picture["width"] for picture in seen["light"]["pictures"]) >= 170
    assert min(picture["width"] for picture in seen["phone"]["pictures"]) >= 170


@each_lesson_page
def test_panels_stand_in_a_row_and_on_a_phone_below_each_other(look, page):
    seen = look(page)
    assert all(rows == 1 for rows in seen["light"]["rows"])
    assert all(rows > 1 for rows in seen["phone"]["rows"])


@each_lesson_page
def test_no_line_of_code_is_cut(look, page):
    assert look(page)["light"]["cut"] == []


@pytest.mark.parametrize("lesson", find(), ids=lambda lesson: lesson.name)
def test_lesson_offers_both_files_and_a_place_to_run_it(look, lesson):
    seen = look(lesson.name)
    files = [Path(link.removeprefix("file://")).read_bytes() for link in seen["offered"]]
    assert files == [lesson.notebook.read_bytes(), lesson.source.read_bytes()]
    links = seen["links"]
    for place in ("https://colab.research.google.com/github/", "https://mybinder.org/v2/gh/"):
        assert [link for link in links if link.startswith(place) and link.endswith(".ipynb")]
    (colab,) = {link for link in links if "colab.research" in link}
    assert (ROOT / f"colab/{colab.rpartition('/colab/')[2]}").is_file()


def test_every_lesson_is_a_page():
    assert {lesson.name for lesson in find()} == {p for p in PAGES if p.startswith("lessons/")}
