"""A printed page is light and whole, and so is the PDF of a lesson."""

import re
from pathlib import Path

import pytest
from pypdf import PdfReader

from tests.site.pages import LESSONS
from tests.site.visit import SETTLED, SHEET
from tools import build_pdf
from tools.cells import kind
from tools.lesson import Lesson

pytestmark = [pytest.mark.browser, pytest.mark.slow]


PAPER = Path(__file__).with_name("paper.js").read_text()


@pytest.mark.parametrize("page", [*LESSONS, "book/ledger", "book/api/hooks"])
def test_a_printed_page_is_light_and_whole(site, visit, page):
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
