"""The search of the book leads to sections, and is fetched when a reader turns to it."""

import pytest

from tests.site.visit import Visit
from tools import weigh

pytestmark = [pytest.mark.browser, pytest.mark.slow]


MAP = "lessons/02_detection/01_measure_boxes_and_map.html"


@pytest.mark.parametrize("served", [True, False], ids=["served", "from disk"])
@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("mAP", MAP),
        ("AP50", "book/api/metrics"),
        ("NaN", "lessons/"),
        ("IoU", "book/glossary"),
        ("C2f", "book/api/models"),
        ("convolution", "book/glossary"),
    ],
)
def test_search_leads_to_a_section_that_has_the_words(site, browser, served, words, page):
    with weigh.served(site) as address:
        home = address if served else site.as_uri()
        visit = Visit(browser, home)
        visit.tab.goto(f"{home}/book/how-to-use.html")
        visit.tab.keyboard.press("Control+k")
        box = visit.tab.locator("#pst-search-dialog input")
        box.wait_for()
        visit.tab.keyboard.type(words)
        visit.tab.keyboard.press("Enter")
        found = visit.tab.locator("#search-results li").first
        found.wait_for()
        said = found.inner_text()
        link = found.locator("a").evaluate("a => a.href").removeprefix(f"{home}/")
        visit.tab.goto(f"{home}/{link}")
        target = visit.tab.locator(f'[id="{link.partition("#")[2]}"]')
        assert words.lower() in target.inner_text().lower()
    assert link.startswith(page)
    assert words.lower() in said.lower()
    assert "Skip to main content" not in said
    assert (visit.fetched, visit.errors) == ([], [])


def test_search_says_when_it_finds_nothing(site, visit):
    visit.open(f"{site.as_uri()}/search.html?q=xylophone")
    assert "Nothing has this word" in visit.tab.inner_text("#search-results")


def test_what_search_reads_is_fetched_when_a_reader_turns_to_it(site, browser):
    with weigh.served(site) as home:
        visit = Visit(browser, home)
        visit.open(f"{home}/book/index.html")
        assert not any("sections.js" in url for url in visit.asked)
        with visit.tab.expect_request("**/sections.js"):
            visit.tab.keyboard.press("Control+k")
