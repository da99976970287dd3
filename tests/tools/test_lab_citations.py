"""JupyterLab names what a lesson cites: the extension is found, and its script mends the page."""

import json
import re
import subprocess

import pytest
from jupyterlab_server.config import get_federated_extensions

from labs.stamp import ROOT
from tools import lab_citations
from tools.lesson import find

CITED = re.compile(r"\{cite:[pt]\}`([^`]+)`")
PAGE = """
<p><span class="cite-group narrative"><span class="yellow" title="Citation Not Found"
><svg></svg>he2016deep</span></span>
<span class="cite-group parenthetical"><span title="Citation Not Found"><svg></svg>
jacob2018quantization</span><span title="Citation Not Found">nobody1900</span></span>
<span title="Citation Not Found">jacob2018quantization</span></p>
<style>.yellow { color: rgb(200, 150, 0) } p { color: rgb(1, 2, 3) }</style>
"""


@pytest.fixture
def folder(tmp_path):
    lab_citations.write(tmp_path)
    return tmp_path


@pytest.fixture
def tab(browser, folder):
    """A page that holds what jupyterlab-myst makes of citations, with the script begun on it."""
    tab = browser.new_page()
    tab.set_content(PAGE)
    tab.add_script_tag(path=folder / lab_citations.NAME / lab_citations.ENTRY)
    tab.evaluate(
        """async name => {
            const part = window._JUPYTERLAB[name];
            await part.init({});
            (await part.get("./extension"))().default.activate();
        }""",
        lab_citations.NAME,
    )
    yield tab
    tab.close()


def seen(tab):
    return tab.locator("[data-cited]").evaluate_all("all => all.map(one => one.dataset.cited)")


def test_jupyterlab_finds_the_extension_and_its_script(folder):
    found = get_federated_extensions([str(folder)])
    about = found[lab_citations.NAME]["jupyterlab"]["_build"]
    assert (folder / lab_citations.NAME / about["load"]).is_file()
    assert about["extension"] == "./extension"


def test_make_lab_writes_the_extension_and_tells_jupyterlab_where():
    said = subprocess.run(
        ["make", "--dry-run", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert said.index("tools.lab_citations") < said.index("jupyter lab ")
    place = re.search(r"extra_labextensions_path=(\S+)", said)[1]
    assert ROOT / place == lab_citations.FOLDER


def test_everything_that_a_lesson_cites_has_names_a_year_and_a_title():
    known = lab_citations.citations()
    keys = {
        key.strip()
        for lesson in find()
        for cell in lesson.read_source().cells
        for said in CITED.findall(cell.source)
        for key in said.split(",")
    }
    assert len(keys) > 50
    assert {key for key in keys if not all(known.get(key, ("",)))} == set()
    assert known["summers2021nondeterminism"] == (
        "Summers and Dinneen",
        "2021",
        "Nondeterminism and Instability in Neural Network Optimization",
    )


def test_no_brace_of_the_bibliography_is_left():
    assert not re.search(r"[{}]", json.dumps(list(lab_citations.citations().values())))


@pytest.mark.browser
def test_a_citation_shows_names_and_year_by_its_kind(tab):
    names, year, title = lab_citations.citations()["he2016deep"]
    assert seen(tab)[0] == f"{names} ({year})"
    assert seen(tab)[1] == "Jacob et al., 2018"
    assert tab.locator("[data-cited]").first.get_attribute("title") == title


@pytest.mark.browser
def test_the_key_and_its_warning_are_not_seen(tab):
    first = tab.locator("[data-cited]").first
    looks = "one => [getComputedStyle(one).color, getComputedStyle(one).fontSize]"
    assert first.evaluate(looks) == ["rgb(1, 2, 3)", "0px"]
    assert not first.locator("svg").is_visible()


@pytest.mark.browser
def test_the_separator_after_a_citation_can_be_read(tab):
    size = "one => getComputedStyle(one, '::after').fontSize"
    assert tab.locator("[data-cited]").first.evaluate(size) == "16px"


@pytest.mark.browser
def test_what_is_not_in_the_bibliography_or_no_citation_keeps_its_warning(tab):
    assert len(seen(tab)) == 2
    assert tab.locator("[title='Citation Not Found']").count() == 2


@pytest.mark.browser
def test_a_cell_that_is_rendered_later_is_mended_too(tab):
    tab.evaluate("page => document.body.insertAdjacentHTML('beforeend', page)", PAGE)
    tab.wait_for_function("document.querySelectorAll('[data-cited]').length === 4")
