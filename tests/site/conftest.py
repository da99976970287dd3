"""Render the book once, and look at each page once, from the disk, as without a network."""

from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from filelock import FileLock

from tests.site.pages import ONE_OF_EACH
from tests.site.visit import LAPTOP, PHONE, SCROLLERS, SIDEBAR, TABLET, Visit, see
from tools import build_site

WIDTHS = [(PHONE, "light"), (PHONE, "dark"), (TABLET, "light"), (LAPTOP, "light")]
# Every rule that axe-core knows up to level AA, those on trial too. Whether text stands out from
# its ground is measured below on every page in both themes, twenty times faster: axe-core is asked
# for that on one page of each kind.
SLOW = ["color-contrast", "hidden-content"]  # the second never fails: it asks for a person
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice", "experimental"]
AXE = """([tags, off]) => axe.run(document, {
  runOnly: tags, rules: Object.fromEntries(off.map((rule) => [rule, { enabled: false }])),
  resultTypes: ["violations"], preload: false,  // it would fetch style sheets once more
}).then((found) =>
  found.violations.flatMap(({ id, nodes }) => nodes.map((at) => `${id}: ${at.html.slice(0, 150)}`)))
"""

ADDRESSES = "links => links.map((link) => link.href)"


@pytest.fixture(scope="session")
def site():
    """Render the book, unless the one in _build is of the sources as they are."""
    build_site.BUILD.mkdir(exist_ok=True)
    # Files of tests share one site, and two of them may ask for it in two processes at once.
    with FileLock(build_site.BUILD / ".tests.lock"):
        if not build_site.is_fresh():
            complaints = build_site.render()
            assert not complaints, complaints
    return build_site.SITE


@pytest.fixture
def visit(site, browser):
    """Open a tab that remembers nothing of other tests, and close it at the end."""
    with closing(Visit(browser, site.as_uri())) as visit:
        yield visit


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
                "offered": visit.tab.eval_on_selector_all(".lesson-facts a.download", ADDRESSES),
                "links": visit.tab.eval_on_selector_all("a[href]", ADDRESSES),
                "fetched": visit.fetched,
                "errors": visit.errors,
            }
        return seen[page]

    return look_at
