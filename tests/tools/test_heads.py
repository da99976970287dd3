"""What the outside is told of a page: a description from the page itself, and its address."""

import xml.etree.ElementTree as ET

import pytest
from docutils import nodes
from docutils.utils import new_document
from PIL import Image

from book._ext import heads
from labs.stamp import ROOT
from tools import draw_share


def page(*paragraphs):
    document = new_document("page")
    document += [nodes.paragraph(text=text) for text in paragraphs]
    return document


def test_a_lesson_is_described_by_the_promise_of_its_card():
    found = heads.description(page("Stage 2", "You will be able to count · to draw.", "x" * 80))
    assert found == "You will be able to count · to draw."


def test_another_page_is_described_by_its_first_paragraph_of_words():
    first = "These are the words with which the page begins, and they say what it holds."
    assert heads.description(page("Short.", first, "x" * 80)) == first
    assert heads.description(page("Short.")) == ""


def test_a_long_description_ends_at_a_word():
    said = heads.description(page("word " * 100))
    assert len(said) <= heads.LONGEST
    assert said.endswith("word …")


def test_the_tags_escape_what_they_hold():
    found = "\n".join(heads.tags('A "b" <c>', "d & e", "https://x/y.html", "https://x/"))
    assert "A &quot;b&quot; &lt;c&gt;" in found
    assert '<meta name="description" content="d &amp; e">' in found
    assert '<meta property="og:image" content="https://x/_static/share.png">' in found
    assert "description" not in "".join(heads.tags("A", "", "https://x/y.html", "https://x/"))


def test_the_sitemap_lists_every_page_and_is_xml():
    tree = ET.fromstring(heads.sitemap("https://x/", ["book/index", "a&b"]))
    assert [place.text for place in tree.iter() if place.tag.endswith("loc")] == [
        "https://x/book/index.html",
        "https://x/a&b.html",
    ]


@pytest.mark.parametrize("page", ["book/index", "book/before-you-start", "book/symptoms"])
def test_the_page_for_lost_links_leads_to_pages_that_there_are(page):
    assert f'href="https://x/{page}.html"' in heads.lost("https://x/")
    assert (ROOT / f"{page}.md").is_file()


def test_the_picture_is_what_its_script_draws():
    drawn, committed = draw_share.draw(), Image.open(ROOT / "book/_static/share.png")
    assert drawn.size == committed.size == draw_share.SIZE
    # Letters differ a little between versions of FreeType; the logo does not.
    logo = (0, 0, 500, 630)
    assert drawn.crop(logo).tobytes() == committed.convert("RGB").crop(logo).tobytes()
