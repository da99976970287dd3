"""A printed book must number its pages through, lead inside itself, and say what it lacks."""

import re

import pytest
from pypdf import PdfReader

from tools import build_pdf
from tools.build_pdf import Place, chosen, chromium, contents, join, main, print_pages, published

PAGE = """<!doctype html><html data-theme="light"><head><meta charset="utf-8"></head>
<body><h1>{title}</h1>{body}</body></html>"""
LONG = "<p style='break-before: page'>second sheet</p>"


@pytest.mark.browser
class TestPrinted:
    @pytest.fixture(scope="class")
    @staticmethod
    def book(apart, tmp_path_factory):
        site = tmp_path_factory.mktemp("site")
        pages = {
            "home": ('A "book"', '<a href="stage/one.html#deep">there</a>' + LONG),
            "stage": ("1 · Stage", '<a href="elsewhere.html">not printed</a>'),
            "stage/one": (
                "Lesson one",
                '<h2>First</h2><a href="../home.html">home</a><a href="#own">own</a>'
                f'{LONG}<h2>Second</h2><h3 id="own">Inner</h3>{LONG}<p id="deep">deep down</p>'
                '<a href="https://example.org/x">out</a>',
            ),
            "last": ("Last", ""),
        }
        (site / "stage").mkdir()
        for name, (title, body) in pages.items():
            (site / f"{name}.html").write_text(PAGE.format(title=title, body=body))
        places = [Place("home", 0), Place("stage", 0), Place("stage/one", 1), Place("last", 0)]
        path = site / "book.pdf"

        def write():
            with chromium() as tab:
                join(print_pages(tab, places, site), published()).write(path)

        try:
            apart(write)
        except FileNotFoundError as error:
            pytest.skip(str(error))
        return PdfReader(path)

    def test_pages_are_numbered_through_under_the_title_of_each(self, book):
        feet = ['A "book"', 'A "book"', "1 · Stage", *["Lesson one"] * 3, "Last"]
        texts = [sheet.extract_text() for sheet in book.pages]
        assert len(texts) == len(feet)
        for number, (text, foot) in enumerate(zip(texts, feet, strict=True), 1):
            assert re.search(rf"\b{number}\s*{re.escape(foot)}", text), text

    def test_the_outline_is_nested_by_stage_lesson_and_heading(self, book):
        def shape(outline):
            return [
                shape(item)
                if isinstance(item, list)
                else (item.title, book.get_destination_page_number(item))
                for item in outline
            ]

        assert shape(book.outline) == [
            ('A "book"', 0),
            ("1 · Stage", 2),
            [("Lesson one", 3), [("First", 3), ("Second", 4), [("Inner", 4)]]],
            ("Last", 6),
        ]

    def test_links_lead_inside_the_book_and_else_to_the_published_site(self, book):
        inside, outside = [], []
        for number, sheet in enumerate(book.pages):
            for link in (found.get_object() for found in sheet.annotations or ()):
                if "/Dest" in link:
                    inside.append((number, book.get_page_number(link["/Dest"][0].get_object())))
                else:
                    outside.append(link["/A"]["/URI"])
        assert sorted(inside) == [(0, 5), (3, 0), (3, 4)]
        assert outside == [f"{published()}elsewhere.html", "https://example.org/x"]


def test_a_stage_stands_above_its_lessons_and_parts_are_left_out():
    section = {"file": "s", "sections": [{"file": "l"}]}
    toc = {"root": "r", "parts": [{"caption": "P", "chapters": [{"file": "a"}, section]}]}
    assert contents(toc) == [Place("r", 0), Place("a", 0), Place("s", 0), Place("l", 1)]
    assert contents({"root": "r"}) == [Place("r", 0)]


def test_all_pages_are_printed_or_the_one_lesson_that_was_named():
    pages = [place.page for place in chosen()]
    assert pages[0] == "book/index"
    assert "book/ledger" in pages
    assert chosen("02_predict_on_a_grid") == [Place("lessons/02_detection/02_predict_on_a_grid", 0)]
    with pytest.raises(LookupError, match="expected one lesson for LESSON=nothing"):
        chosen("nothing")


def test_without_chromium_it_says_what_to_install(apart, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    monkeypatch.setattr(build_pdf, "BROWSERS", ("no-such-browser",))
    monkeypatch.setattr(build_pdf.build_site, "is_fresh", lambda: True)
    assert apart(main) == 1
    assert capsys.readouterr().err == (
        "build_pdf: expected one of no-such-browser to print with, found none: "
        "apt install chromium, or python -m playwright install chromium\n"
    )


def test_an_old_site_is_not_printed(monkeypatch, capsys):
    monkeypatch.setattr(build_pdf.build_site, "is_fresh", lambda: False)
    assert main() == 1
    assert "make book" in capsys.readouterr().err
