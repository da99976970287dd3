"""Old addresses lead to pages that there are."""

import posixpath

from book._ext import moved
from tests.site.pages import PAGES


def test_every_old_address_leads_to_a_page_in_one_step():
    assert moved.moved()
    assert [*moved.faults(moved.moved(), {*PAGES})] == []


def test_a_page_that_is_not_there_and_one_that_is_still_there_are_named():
    found = [*moved.faults({"a/old": "a/nowhere", "a/page": "a/new"}, {"a/page", "a/new"})]
    assert found == [
        "a/old: expected a page at a/nowhere, got none; name the page where it is now",
        "a/page: expected an address without a page, got one that has a page",
    ]


def test_the_link_is_relative_to_the_old_address_and_the_canonical_one_is_whole():
    old, new = "lessons/01_a/01_b", "book/page"
    page = moved.leading(old, new, "https://x/")
    there = posixpath.normpath(posixpath.join("lessons/01_a", "../../book/page.html"))
    assert there == "book/page.html"
    assert 'content="0; url=../../book/page.html"' in page
    assert '<a href="../../book/page.html">' in page
    assert '<link rel="canonical" href="https://x/book/page.html">' in page
    assert 'href="02_b.html"' in moved.leading("s/01_b", "s/02_b", "https://x/")


def test_names_of_addresses_are_escaped():
    assert "<b>" not in moved.leading("s/a", "s/<b>", "https://x/")
