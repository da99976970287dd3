"""What is wider or longer than its place scrolls there, and shows that it does."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.site.pages import PAGES
from tests.site.visit import PHONE, SETTLED, SIDEBAR, see

pytestmark = [pytest.mark.browser, pytest.mark.slow]


LESSONS_THAT_SCROLL = "lessons/02_detection/01_measure_boxes_and_map"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "kind", ["Code", "Output", "Table", "Formula"], ids=lambda kind: kind.lower()
)
def test_a_shadow_lies_where_there_is_more_and_nowhere_else(site, visit, kind, theme):
    visit.open((site / f"{LESSONS_THAT_SCROLL}.html").as_uri())
    see(visit.tab, theme, PHONE)
    visit.tab.evaluate(SETTLED)
    boxes = visit.tab.locator(f'[aria-label="{kind}, scrolls sideways"]').all()
    box = max(boxes, key=lambda box: box.evaluate("e => e.scrollWidth"))

    def shadows():
        """Tell at the left and at the right edge whether most rows differ from none."""
        with_it = pixels(box.screenshot())
        box.evaluate("e => e.style.setProperty('background-image', 'none', 'important')")
        differ = np.abs(with_it - pixels(box.screenshot())).max(axis=2) > 4
        box.evaluate("e => e.style.removeProperty('background-image')")
        return differ[:, 1:5].any(axis=1).mean() > 0.5, differ[:, -5:-1].any(axis=1).mean() > 0.5

    assert shadows() == (False, True)
    box.focus()
    visit.tab.keyboard.press("ArrowRight")
    visit.tab.wait_for_function("document.activeElement.scrollLeft > 0")
    box.blur()
    box.evaluate("e => { e.scrollLeft = 1e6 }")
    assert shadows() == (True, False)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_only_the_list_of_pages_scrolls(site, visit):
    visit.tab.set_viewport_size({"width": 1280, "height": 600})
    visit.open((site / f"{PAGES[-1]}.html").as_uri())
    visit.tab.evaluate(SETTLED)
    seen = visit.tab.evaluate(SIDEBAR)
    assert seen["scrolls"] > 0
    assert all(seen.values())
    for top in (0, 1e6):
        visit.tab.eval_on_selector(
            ".bd-docs-nav", "(e, top) => { e.parentElement.scrollTop = top }", top
        )
        seen = visit.tab.evaluate(SIDEBAR)
        assert (seen["logo"], seen["search"]) == (True, True)


def test_the_menu_of_a_phone_opens_at_the_entry_of_the_page(site, visit):
    visit.tab.set_viewport_size(PHONE)
    visit.open((site / f"{PAGES[-1]}.html").as_uri())
    visit.tab.locator(".primary-toggle").click()
    visit.tab.evaluate(SETTLED)
    seen = visit.tab.evaluate(SIDEBAR)
    assert seen["scrolls"] > 0
    assert all(seen.values())
