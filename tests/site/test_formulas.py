"""Formulas are fetched and drawn when they are needed: near, after a while, or for paper."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FORMULAS_BELOW = "lessons/02_detection/01_measure_boxes_and_map"
SAVE_DATA = "Object.defineProperty(navigator, 'connection', { value: { saveData: true } })"
ALL_DRAWN = '[...document.querySelectorAll(".math")].every((one) => one.querySelector("svg"))'


@pytest.fixture
def untouched(site, visit):
    """Return a function that opens a page with formulas far below, and stops its clock."""

    def open_page(script=""):
        visit.tab.add_init_script(script)
        visit.tab.clock.install(time=0)
        visit.tab.clock.pause_at(1)
        visit.tab.goto((site / f"{FORMULAS_BELOW}.html").as_uri())
        assert visit.tab.locator(".math").count() > 0
        assert not asks_for_formulas(visit)
        return visit

    return open_page


def asks_for_formulas(visit):
    return any(address.endswith("formulas.js") for address in visit.asked)


def test_formulas_are_drawn_when_the_reader_comes_near(untouched):
    visit = untouched()
    visit.tab.locator(".math").first.scroll_into_view_if_needed()
    visit.tab.wait_for_selector(".math mjx-container svg")


def test_formulas_are_drawn_when_the_page_has_lain_open_so_that_it_can_be_printed(untouched):
    visit = untouched()
    visit.tab.clock.run_for(3000)
    assert not asks_for_formulas(visit)
    visit.tab.clock.run_for(2000)
    visit.tab.wait_for_function(ALL_DRAWN)
    assert visit.tab.evaluate("scrollY") == 0


def test_who_saves_data_gets_formulas_when_the_page_is_printed_and_not_before(untouched):
    visit = untouched(SAVE_DATA)
    visit.tab.clock.run_for(60_000)
    assert not asks_for_formulas(visit)
    visit.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    visit.tab.wait_for_function(ALL_DRAWN)


@pytest.mark.parametrize("key", ["Control", "Meta"])
def test_formulas_are_drawn_from_the_first_key_of_the_shortcut_on(untouched, key):
    visit = untouched(SAVE_DATA)
    visit.tab.keyboard.down(key)
    visit.tab.wait_for_function(ALL_DRAWN)
