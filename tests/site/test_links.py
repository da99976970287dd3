"""Links lead where they say, from the front door to the lines of the library and the ledger."""

import re

import pytest

from book._ext.api import read_addresses
from labs.stamp import ROOT
from tools.lesson import find

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_front_door_leads_to_the_first_page(site, visit):
    visit.tab.goto((site / "index.html").as_uri(), wait_until="commit")
    visit.tab.wait_for_url("**/book/index.html")
    assert visit.tab.inner_text("h1").startswith("Computer Vision, Debugged")


def test_the_first_page_is_called_as_the_book_once(site, visit):
    visit.open(f"{site.as_uri()}/book/index.html")
    assert visit.tab.title() == "Computer Vision, Debugged"


def test_the_home_page_leads_to_the_hunt_that_it_shows(site, visit):
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


def test_every_claim_leads_to_the_ledger_and_back(site):
    ledger = (site / "book/ledger.html").read_text()
    for lesson in find():
        page = (site / f"{lesson.name}.html").read_text()
        there = re.findall(r'<li id="(claim-\d+)"><a href="../../book/ledger.html#([\w-]+)"', page)
        back = re.findall(rf'<li id="([\w-]+)"><a href="../{lesson.name}.html#(claim-\d+)"', ledger)
        assert there == [(here, entry) for entry, here in back]


def test_the_ledger_shows_claims_with_some_words_and_opens_what_a_link_names(site, visit):
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
