"""The reader's marks are kept by the browser and shown on the course map."""

from contextlib import ExitStack, closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.site.visit import Visit
from tools.lesson import find

pytestmark = [pytest.mark.browser, pytest.mark.slow]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize("served", [True, False], ids=["served", "from disk"])
def test_marks_are_kept_by_the_browser_and_shown_on_the_map(site, browser, served):
    handler = partial(QuietHandler, directory=site)
    lessons = [lesson.name for lesson in find()]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, ExitStack() as stack:
        Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}" if served else site.as_uri()
        visit = stack.enter_context(closing(Visit(browser, home)))
        lesson, course_map = f"{home}/{lessons[1]}.html", f"{home}/book/before-you-start.html"

        def box(said):
            return visit.tab.get_by_role("group", name="Your marks").get_by_label(said)

        def on_the_map():
            visit.open(course_map)
            return visit.tab.locator(".course-map li:has(a) .marks").all_inner_texts()

        assert set(on_the_map()) == {""}
        assert not visit.tab.locator(".marks-sum").is_visible()
        visit.open(lesson)
        assert not box("Lesson done").is_checked()
        box("Lesson done").focus()
        visit.tab.keyboard.press("Space")
        visit.tab.keyboard.press("Tab")  # to the box of the hunt
        visit.tab.keyboard.press("Space")
        visit.tab.reload()
        assert box("Lesson done").is_checked()
        assert box("Bug found").is_checked()
        box("Bug found").uncheck()
        expected = [""] * len(lessons)
        expected[1] = "✓ lesson done"
        assert on_the_map() == expected
        said = f"You marked 1 of {len(lessons)} lessons as done, and 0 of their bugs as found."
        assert visit.tab.inner_text(".marks-sum").startswith(said)
        visit.open(f"{home}/{lessons[2]}.html")
        assert not box("Lesson done").is_checked()  # each lesson has its own
        visit.open(lesson)
        box("Lesson done").uncheck()
        assert set(on_the_map()) == {""}
        server.shutdown()
    assert (visit.fetched, visit.errors) == ([], [])


def test_without_scripts_there_are_no_marks(site, browser):
    tab = browser.new_page(java_script_enabled=False)
    for page in (find()[0].name, "book/before-you-start"):
        tab.goto((site / f"{page}.html").as_uri())
        assert tab.locator(".marks, .marks-sum").count() == 0
        assert not any(marks.is_visible() for marks in tab.locator(".lesson-marks").all())
