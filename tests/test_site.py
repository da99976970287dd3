"""Open the rendered book in a browser that may reach nothing but the book, and look at every page.

Each page is opened once, from the disk, as a reader without a network opens it.
"""

import io
import os
import re
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import yaml
from axe_playwright_python.base import AXE_SCRIPT
from PIL import Image
from pypdf import PdfReader

from book._ext.api import read_addresses
from labs.stamp import ROOT
from tests.waiting import HANG
from tools import build_pdf, build_site, weigh
from tools.cells import kind
from tools.lesson import Lesson, find

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LOOK = Path(__file__).with_name("look.js").read_text()
SCROLLERS = Path(__file__).with_name("scrollers.js").read_text()
PAPER = Path(__file__).with_name("paper.js").read_text()
SETTLED = "new Promise(end => requestAnimationFrame(() => requestAnimationFrame(end)))"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE = {"width": 390, "height": 844}
TABLET = {"width": 820, "height": 1180}
LAPTOP = {"width": 1280, "height": 900}
WIDTHS = [(PHONE, "light"), (PHONE, "dark"), (TABLET, "light"), (LAPTOP, "light")]
SHEET = {"width": 672, "height": 1000}  # what the margins leave of A4
# What moves before the reader has done anything.
WATCH = weigh.OBSERVE
# Every rule that axe-core knows up to level AA, those on trial too. Whether text stands out from
# its ground is measured below on every page in both themes, twenty times faster: axe-core is asked
# for that on one page of each kind.
SLOW = ["color-contrast", "hidden-content"]  # the second never fails: it asks for a person
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice", "experimental"]
ONE_OF_EACH = {
    "book/index",
    "book/symptoms",
    "book/ledger",
    "book/api/hooks",
    "book/bibliography",
    "lessons/02_detection/02_predict_on_a_grid",
}
AXE = """([tags, off]) => axe.run(document, {
  runOnly: tags, rules: Object.fromEntries(off.map((rule) => [rule, { enabled: false }])),
  resultTypes: ["violations"], preload: false,  // it would fetch style sheets once more
}).then((found) =>
  found.violations.flatMap(({ id, nodes }) => nodes.map((at) => `${id}: ${at.html.slice(0, 150)}`)))
"""
# A colour that is still fading into another theme is neither the one nor the other.
AT_REST = "*, ::before, ::after { transition: none !important; animation: none !important }"


def pages(entry):
    """List the documents of ``_toc.yml`` in reading order."""
    below = [*entry.get("parts", ()), *entry.get("chapters", ()), *entry.get("sections", ())]
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [page for part in below for page in pages(part)]


PAGES = pages(yaml.safe_load((ROOT / "_toc.yml").read_text()))
each_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="session")
def site():
    """Render the book, unless the one in _build is of the sources as they are."""
    if not build_site.is_fresh():
        complaints = build_site.render()
        assert not complaints, complaints
    return build_site.SITE


@pytest.fixture(scope="session")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        message = "no Chromium here: apt install chromium"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


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
        self.tab.on("requestfailed", lambda request: self.errors.append(f"no {request.url}"))

    def _let_through(self, route):
        if not route.request.url.startswith(("data:", "blob:")):
            self.asked.append(route.request.url)
        if route.request.url.startswith(self.allowed):
            route.continue_()
        else:
            self.fetched.append(route.request.url)
            route.abort()

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


@pytest.fixture(scope="session")
def look(site, browser):
    """Return a function from a page to what was seen on it, in the light, in the dark, narrow."""
    visit, seen = Visit(browser, site.as_uri()), {}

    def look_at(page):
        if page not in seen:
            visit.open((site / f"{page}.html").as_uri())
            visit.tab.evaluate(f"{AXE_SCRIPT};0")
            seen[page] = {
                "sidebar": visit.tab.evaluate(SIDEBAR),
                "moved": visit.moved,
                "requests": len(visit.first),
                "bytes": sum(Path(unquote(urlparse(u).path)).stat().st_size for u in visit.first),
                "light": see(visit.tab, "light", LAPTOP),
                "axe": visit.tab.evaluate(AXE, [TAGS, SLOW if page not in ONE_OF_EACH else []]),
                "dark": see(visit.tab, "dark", LAPTOP),
                "phone": see(visit.tab, "light", PHONE),
                "scrollers": [
                    see(visit.tab, theme, size, SCROLLERS)
                    for size, theme in (WIDTHS if page in ONE_OF_EACH else WIDTHS[:1])
                ],
                "fetched": visit.fetched,
                "errors": visit.errors,
            }
        return seen[page]

    return look_at


def see(tab, theme, size, look=LOOK):
    tab.set_viewport_size(size)
    tab.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    tab.evaluate(SETTLED)
    return tab.evaluate(look)


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


@each_page
def test_nothing_moves_while_the_page_is_loaded(look, page):
    assert look(page)["moved"] < 0.02


@each_page
def test_axe_finds_nothing(look, page):
    assert look(page)["axe"] == []


@each_page
def test_page_fits_a_phone(look, page):
    assert look(page)["phone"]["width"] <= PHONE["width"]


@each_page
def test_what_is_wider_than_its_place_scrolls_shows_it_and_is_reached_by_keyboard(look, page):
    for seen in look(page)["scrollers"]:
        faults = {kind: seen[kind] for kind in SCROLLER_FAULTS if seen[kind]}
        assert not faults


SCROLLER_FAULTS = ("unsigned", "mismatched", "unreachable", "idle", "lost")


def test_each_kind_of_thing_scrolls_somewhere_on_a_phone(look):
    kinds = {kind for page in PAGES for kind in look(page)["scrollers"][0]["kinds"]}
    assert kinds == {f"{kind}, scrolls sideways" for kind in ("Code", "Output", "Table", "Formula")}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "kind", ["Code", "Output", "Table", "Formula"], ids=lambda kind: kind.lower()
)
def test_a_shadow_lies_where_there_is_more_and_nowhere_else(site, browser, kind, theme):
    visit = Visit(browser, site.as_uri())
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


LESSONS_THAT_SCROLL = "lessons/02_detection/01_measure_boxes_and_map"


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@each_page
def test_logo_and_search_stay_and_the_entry_of_the_page_is_in_sight(look, page):
    seen = look(page)["sidebar"]
    assert [name for name in ("logo", "search", "entry", "list") if not seen[name]] == []


def test_only_the_list_of_pages_scrolls(site, browser):
    visit = Visit(browser, site.as_uri())
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


def test_the_menu_of_a_phone_opens_at_the_entry_of_the_page(site, browser):
    visit = Visit(browser, site.as_uri())
    visit.tab.set_viewport_size(PHONE)
    visit.open((site / f"{PAGES[-1]}.html").as_uri())
    visit.tab.locator(".primary-toggle").click()
    visit.tab.evaluate(SETTLED)
    seen = visit.tab.evaluate(SIDEBAR)
    assert seen["scrolls"] > 0
    assert all(seen.values())


@each_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out(look, page, theme):
    """WCAG AA asks for a contrast of 4.5 between text and ground."""
    assert look(page)[theme]["faint"] == []


LESSONS = [page for page in PAGES if page.startswith("lessons/")]
each_lesson_page = pytest.mark.parametrize("page", LESSONS)


@each_lesson_page
def test_a_lesson_is_light_before_the_reader_scrolls(look, page):
    seen = look(page)
    assert seen["bytes"] <= 1_500_000
    assert 3 <= seen["requests"] <= 15


def test_the_first_page_is_lighter_still(look):
    seen = look("book/index")
    assert seen["bytes"] <= 500_000
    assert 3 <= seen["requests"] <= 12


FORMULAS_BELOW = "lessons/02_detection/01_measure_boxes_and_map"
SAVE_DATA = "Object.defineProperty(navigator, 'connection', { value: { saveData: true } })"
ALL_DRAWN = '[...document.querySelectorAll(".math")].every((one) => one.querySelector("svg"))'


@pytest.fixture
def untouched(site, browser):
    """Return a function that opens a page with formulas far below, and stops its clock."""

    def open_page(script=""):
        visit = Visit(browser, site.as_uri())
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


@each_lesson_page
def test_answers_are_folded_until_the_reader_asks_and_the_wish_is_remembered(site, browser, page):
    visit = Visit(browser, site.as_uri())
    visit.open((site / f"{page}.html").as_uri())
    answers = visit.tab.locator("details.answer")
    assert answers.count() > 0
    assert not any(answer.get_attribute("open") is not None for answer in answers.all())
    visit.tab.get_by_label("Show the answers to all predictions").check()
    assert all(answer.get_attribute("open") is not None for answer in answers.all())

    def remembered():
        visit.tab.reload()
        return all(answer.get_attribute("open") is not None for answer in answers.all())

    # A busy browser may hand the wish to its store only after the page has been loaded again.
    assert remembered() or remembered()


@pytest.mark.parametrize("page", [*LESSONS, "book/ledger", "book/api/hooks"])
def test_a_printed_page_is_light_and_whole(site, browser, page):
    visit = Visit(browser, site.as_uri())
    visit.open((site / f"{page}.html").as_uri())
    visit.tab.set_viewport_size(SHEET)
    visit.tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    visit.tab.emulate_media(media="print")
    visit.tab.evaluate(SETTLED)
    seen = visit.tab.evaluate(PAPER)
    slides = seen.pop("slides")
    for frames in slides:
        shown = [number for number, is_shown in enumerate(frames, 1) if is_shown]
        assert shown == [1, (len(frames) + 1) // 2, len(frames)]
    assert seen.pop("title")
    assert {kind: found for kind, found in seen.items() if found} == {}
    visit.tab.emulate_media(media="screen")
    visit.tab.evaluate(SETTLED)
    assert visit.tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_some_lesson_has_a_slider_to_print(site):
    assert any("labs-slide" in (site / f"{page}.html").read_text() for page in LESSONS)


def test_the_pdf_of_a_lesson_has_headings_solutions_and_whole_lines(site, browser, tmp_path):
    lesson = Lesson("lessons/02_detection/02_predict_on_a_grid")
    printed = build_pdf.print_pages(browser.new_page(), build_pdf.chosen(lesson.name), site)
    build_pdf.join(printed, build_pdf.published()).write(tmp_path / "lesson.pdf")
    reader = PdfReader(tmp_path / "lesson.pdf")
    title, *below = reader.outline
    assert title.title == "Predict on a grid"
    cells = lesson.read_source().cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = re.findall(r"^##+ (.+)$", prose, re.MULTILINE)
    assert [item.title for item in flat(below)] == headings
    sheets = [sheet.extract_text() for sheet in reader.pages]
    assert 10 <= len(sheets) <= 40
    text = " ".join(" ".join(sheets).split())
    for folded in re.findall(r"\{dropdown\} (?:Hint|Solution) \d\n+(\w+ \w+)", prose):
        assert folded in text
    (solution,) = (c.source for c in cells if "hunt-solution" in c.metadata.get("tags", ()))
    shown = [c.source for c in cells if c.cell_type == "code" and kind_of(c) == "taught"]
    lines = {line for sheet in sheets for line in map(str.strip, sheet.splitlines())}
    for source in (solution, *shown):
        for line in filter(None, map(str.strip, source.splitlines())):
            assert line in lines
    assert max(len(line) for source in shown for line in source.splitlines()) > 80


def kind_of(cell):
    tags = cell.metadata.get("tags", ())
    return "folded" if "hide-input" in tags else kind(cell.source, tags)


def flat(outline):
    """List the items of an outline without their nesting."""
    for item in outline:
        if isinstance(item, list):
            yield from flat(item)
        else:
            yield item


def test_the_stops_of_a_slider_show_one_frame_each(site, browser):
    visit = Visit(browser, site.as_uri())
    for page in LESSONS:
        visit.open((site / f"{page}.html").as_uri())
        visit.tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        for slider in visit.tab.locator(".labs-slide").all():
            stops = slider.locator("input")
            stops.first.focus()
            for number in range(stops.count()):
                shown = [frame.is_visible() for frame in slider.locator(".frames > img").all()]
                assert shown.index(True) == number
                assert sum(shown) == 1
                visit.tab.keyboard.press("ArrowRight")


def test_every_claim_leads_to_the_ledger_and_back(site):
    ledger = (site / "book/ledger.html").read_text()
    for lesson in find():
        page = (site / f"{lesson.name}.html").read_text()
        there = re.findall(r'<li id="(claim-\d+)"><a href="../../book/ledger.html#([\w-]+)"', page)
        back = re.findall(rf'<li id="([\w-]+)"><a href="../{lesson.name}.html#(claim-\d+)"', ledger)
        assert there == [(here, entry) for entry, here in back]


def test_the_ledger_shows_claims_with_some_words_and_opens_what_a_link_names(site, browser):
    visit = Visit(browser, site.as_uri())
    ledger = (site / "book/ledger.html").as_uri()
    visit.open(ledger)
    claims = visit.tab.locator(".claims-of li")
    assert not claims.first.is_visible()
    visit.tab.get_by_label("Find claims").fill("resnet parameters")
    shown = [claim.text_content().lower() for claim in claims.all() if claim.is_visible()]
    both = [t for t in claims.all_text_contents() if "ResNet" in t and "parameters" in t]
    assert shown == [text.lower() for text in both] != []
    visit.tab.get_by_label("Find claims").fill("no claim of this book says zyzzyva")
    assert "no claim holds these words" in visit.tab.inner_text(".ledger-filter")
    visit.tab.get_by_label("Find claims").fill("")
    assert "no claim" not in visit.tab.inner_text(".ledger-filter")
    assert not claims.first.is_visible()
    last = claims.last.get_attribute("id")
    of_lesson = visit.tab.locator("section:has(> .claims-of)").last.get_attribute("id")
    for place in (last, of_lesson):
        visit.open(f"{ledger}#{place}")
        visit.tab.reload()
        assert claims.last.is_visible(), place


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize("served", [True, False], ids=["served", "from disk"])
def test_marks_are_kept_by_the_browser_and_shown_on_the_map(site, browser, served):
    handler = partial(QuietHandler, directory=site)
    lessons = [lesson.name for lesson in find()]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}" if served else site.as_uri()
        visit = Visit(browser, home)
        lesson, course_map = f"{home}/{lessons[1]}.html", f"{home}/book/before-you-start.html"

        def box(said):
            return visit.tab.get_by_role("group", name="Your marks").get_by_label(said)

        def on_the_map():
            visit.open(course_map)
            cards = visit.tab.locator(".course-map li:has(a)")
            return [card.locator(".marks").inner_text() for card in cards.all()]

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


def test_the_home_page_leads_to_the_hunt_that_it_shows(site, browser):
    visit = Visit(browser, site.as_uri())
    visit.open((site / "book/index.html").as_uri())
    assert "✗" in visit.tab.inner_text("#where-is-the-bug")
    visit.tab.get_by_role("link", name="Find it").click()
    place = visit.tab.url.partition("#")[2]
    assert visit.tab.locator(f"#{place} h2").first.inner_text().startswith("Bug hunt")


def test_a_name_of_the_library_leads_to_its_line_and_to_the_pages_of_pytorch(site):
    page = (site / "book/api/hooks.html").read_text()
    names = re.findall(r'<dt class="sig sig-object py" id="labs\.hooks\.([A-Za-z_]+)"', page)
    assert names[0] == "capture"
    source = re.search(r'href="[^"]+/blob/\w+/(labs/hooks/maps\.py)#L(\d+)"', page)
    line = (ROOT / source[1]).read_text().splitlines()[int(source[2]) - 1]
    assert re.match(r"def capture|class Maps", line)
    assert "https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html" in page


def test_every_name_of_pytorch_on_the_api_pages_is_linked_and_every_address_is_used(site):
    pages_ = [page.read_text() for page in (site / "book/api").glob("*.html")]
    foreign = r'<abbr title="(torch[\w.]+)"'
    mute = {name for page in pages_ for name in re.findall(foreign, page)}
    assert not mute, f"add to book/_ext/elsewhere.toml: {sorted(mute)}"
    unused = [to for to in read_addresses().values() if not any(to in page for page in pages_)]
    assert not unused, f"take out of book/_ext/elsewhere.toml: {unused}"


def test_the_book_has_formulas_to_draw(look):
    assert sum(look(page)["light"]["formulas"] for page in PAGES) > 0


def test_every_lesson_is_a_page():
    assert {lesson.name for lesson in find()} == {p for p in PAGES if p.startswith("lessons/")}


def test_the_front_door_leads_to_the_first_page(site, browser):
    visit = Visit(browser, site.as_uri())
    visit.tab.goto((site / "index.html").as_uri(), wait_until="commit")
    visit.tab.wait_for_url("**/book/index.html")
    assert visit.tab.inner_text("h1").startswith("Computer Vision, Debugged")


@pytest.mark.parametrize("lesson", find(), ids=lambda lesson: lesson.name)
def test_lesson_offers_both_files_and_a_place_to_run_it(site, browser, lesson):
    visit = Visit(browser, site.as_uri())
    visit.open((site / f"{lesson.name}.html").as_uri())
    offered = visit.tab.eval_on_selector_all(".lesson-facts a.download", "a => a.map(x => x.href)")
    files = [Path(link.removeprefix("file://")).read_bytes() for link in offered]
    assert files == [lesson.notebook.read_bytes(), lesson.source.read_bytes()]
    links = visit.tab.eval_on_selector_all("a[href]", "a => a.map(x => x.href)")
    for place in ("https://colab.research.google.com/github/", "https://mybinder.org/v2/gh/"):
        assert [link for link in links if link.startswith(place) and link.endswith(".ipynb")]
    (colab,) = {link for link in links if "colab.research" in link}
    assert (ROOT / f"colab/{colab.rpartition('/colab/')[2]}").is_file()


def test_a_hint_stays_folded_until_it_is_asked_for(site, browser):
    visit = Visit(browser, site.as_uri())
    visit.open((site / f"{find()[-1].name}.html").as_uri())
    hint = visit.tab.locator("details", has_text="Hint 1").first
    inside = hint.locator(":scope > :not(summary)").first
    assert not inside.is_visible()
    hint.locator("summary").click()
    assert inside.is_visible()


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


def test_search_says_when_it_finds_nothing(site, browser):
    visit = Visit(browser, site.as_uri())
    visit.open(f"{site.as_uri()}/search.html?q=xylophone")
    assert "Nothing has this word" in visit.tab.inner_text("#search-results")


def test_what_search_reads_is_fetched_when_a_reader_turns_to_it(site, browser):
    with weigh.served(site) as home:
        visit = Visit(browser, home)
        visit.open(f"{home}/book/index.html")
        assert not any("sections.js" in url for url in visit.asked)
        with visit.tab.expect_request("**/sections.js"):
            visit.tab.keyboard.press("Control+k")


def test_the_first_page_is_called_as_the_book_once(site, browser):
    visit = Visit(browser, site.as_uri())
    visit.open(f"{site.as_uri()}/book/index.html")
    assert visit.tab.title() == "Computer Vision, Debugged"
