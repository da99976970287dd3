"""Open a page in a browser that may reach nothing but the book, and look at it."""

from pathlib import Path

from tests.waiting import HANG
from tools import weigh

LOOK = Path(__file__).with_name("look.js").read_text()
SCROLLERS = Path(__file__).with_name("scrollers.js").read_text()
SETTLED = "new Promise(end => requestAnimationFrame(() => requestAnimationFrame(end)))"
PHONE = {"width": 390, "height": 844}
TABLET = {"width": 820, "height": 1180}
LAPTOP = {"width": 1280, "height": 900}
SHEET = {"width": 672, "height": 1000}  # what the margins leave of A4
# What moves before the reader has done anything.
WATCH = weigh.OBSERVE
# A colour that is still fading into another theme is neither the one nor the other.
AT_REST = "*, ::before, ::after { transition: none !important; animation: none !important }"
SIDEBAR = """
() => {
  const within = (inner, outer) => inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
  const box = (element) => element.getBoundingClientRect();
  const list = document.querySelector(".bd-docs-nav").parentElement;
  const screen = { top: 0, bottom: innerHeight };
  return {
    logo: within(box(document.querySelector(".navbar-brand.logo")), screen),
    search: within(box(document.querySelector(".search-button-field")), screen),
    entry: within(box([...list.querySelectorAll("li.current > a")].at(-1)), box(list)),
    list: within(box(list), screen),
    scrolls: list.scrollHeight - list.clientHeight,
  };
}
"""


class Visit:
    """Open pages in one tab; note what they fetch from elsewhere and what goes wrong."""

    def __init__(self, browser, allowed):
        self.tab = browser.new_page(viewport=LAPTOP)
        self.tab.set_default_timeout(1000 * HANG)
        self.allowed = ("data:", "blob:", allowed)
        self.fetched, self.errors, self.asked = [], [], []
        self.tab.add_init_script(WATCH)
        self.tab.route("**/*", self._let_through)
        self.tab.on("console", self._note)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("requestfailed", self._miss)

    def _let_through(self, route):
        if not route.request.url.startswith(("data:", "blob:")):
            self.asked.append(route.request.url)
        if route.request.url.startswith(self.allowed):
            route.continue_()
        else:
            self.fetched.append(route.request.url)
            route.abort()

    def _miss(self, request):
        if request.failure != "net::ERR_ABORTED":  # a page that is left fetches no further
            self.errors.append(f"no {request.url}")

    def _note(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def open(self, url):
        self.fetched, self.errors, self.asked = [], [], []
        self.tab.goto(url)
        self.tab.evaluate(SETTLED)
        self.moved, self.first = self.tab.evaluate("window.moved"), [*self.asked]
        self.tab.add_style_tag(content=AT_REST)
        self.tab.evaluate("window.drawFormulas?.()")

    def close(self):
        self.tab.context.close()


def see(tab, theme, size, look=LOOK):
    tab.set_viewport_size(size)
    tab.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    tab.evaluate(SETTLED)
    return tab.evaluate(look)
