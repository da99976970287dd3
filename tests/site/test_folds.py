"""What is folded opens when the reader asks for it, and a slider shows one frame at a time."""

import pytest

from tests.site.pages import LESSONS, each_lesson_page
from tools.lesson import find

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@each_lesson_page
def test_answers_are_folded_until_the_reader_asks_and_the_wish_is_remembered(site, visit, page):
    def are_open():
        """Tell for each answer whether it is open; all are asked at once."""
        return visit.tab.eval_on_selector_all("details.answer", "all => all.map((one) => one.open)")

    visit.tab.goto((site / f"{page}.html").as_uri())
    folded = are_open()
    assert folded
    assert not any(folded)
    visit.tab.get_by_label("Show the answers to all predictions").check()
    assert are_open() == [True] * len(folded)

    def remembered():
        visit.tab.reload()
        return are_open() == [True] * len(folded)

    # A busy browser may hand the wish to its store only after the page has been loaded again.
    assert remembered() or remembered()


def test_a_hint_stays_folded_until_it_is_asked_for(site, visit):
    visit.open((site / f"{find()[-1].name}.html").as_uri())
    hint = visit.tab.locator("details", has_text="Hint 1").first
    inside = hint.locator(":scope > :not(summary)").first
    assert not inside.is_visible()
    hint.locator("summary").click()
    assert inside.is_visible()


SHOWN = """
frames => frames.map((frame) => {
  const box = frame.getBoundingClientRect();
  return frame.checkVisibility({ visibilityProperty: true }) && box.width * box.height > 0;
})
"""


def test_the_stops_of_a_slider_show_one_frame_each(site, visit):
    pages = [page for page in LESSONS if "labs-slide" in (site / f"{page}.html").read_text()]
    assert pages
    for page in pages:
        visit.tab.goto((site / f"{page}.html").as_uri())
        visit.tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        for slider in visit.tab.locator(".labs-slide").all():
            stops = slider.locator("input")
            stops.first.focus()
            for number in range(stops.count()):
                shown = slider.locator(".frames > img").evaluate_all(SHOWN)
                assert shown.index(True) == number
                assert sum(shown) == 1
                visit.tab.keyboard.press("ArrowRight")
