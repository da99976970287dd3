"""JupyterLab opens on a page that names each lesson once, and lists one entry for each."""

import fnmatch
import json
import re
import subprocess

import yaml

from labs.stamp import ROOT
from tools import build_site, start_page
from tools.ledger import entries
from tools.lesson import LESSONS, find

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGE = start_page.start_page(TOC, start_page.lessons_of(TOC))
HIDDEN = json.loads((ROOT / "tools/jupyterlab/one_entry.json").read_text())
GLOBS = HIDDEN["ContentsManager"]["hide_globs"]


def test_every_lesson_stands_there_once_in_the_order_of_the_contents():
    links = re.findall(r"\[(\d\.\d+) [^\]]+\]\((\S+)\)", PAGE)
    assert links == [
        (entry.number, entry.name.removeprefix("lessons/") + ".ipynb") for entry in entries()
    ]
    assert all((LESSONS / link).is_file() for _, link in links)


def test_a_stage_without_lessons_is_left_out_and_the_order_is_that_of_the_contents():
    chapters = [
        {"file": "book/b", "title": "Second", "sections": [{"file": "lessons/01_b/01_two"}]},
        {"file": "book/a", "title": "First", "sections": [{"file": "lessons/00_a/01_one"}]},
        {"file": "book/c", "title": "To come"},
        {"file": "book/d", "title": "Words", "sections": [{"file": "book/words"}]},
    ]
    known = {
        name: start_page.Entry(name, "Do", abilities="use an {term}`anchor <anchor box>`")
        for name in ("lessons/00_a/01_one", "lessons/01_b/01_two")
    }
    page = start_page.start_page({"parts": [{"chapters": chapters}]}, known)
    assert re.findall(r"^## (.*)$", page, re.M) == ["Second", "First"]
    assert "| [1.1 Do](01_b/01_two.ipynb) | use an anchor |" in page


def test_the_page_says_what_make_lab_sets():
    recipe = (ROOT / "Makefile").read_text().partition("\nlab:")[2].partition("\n\n")[0]
    for said in ("LABS_CLAIMS=warn", "tools.start_page", "/lab/tree/lessons/start.md"):
        assert said in recipe
    assert "LABS_CLAIMS=warn" in PAGE


def test_the_browser_of_files_lists_each_lesson_once_and_all_of_labs():
    def is_listed(path):
        return not any(fnmatch.fnmatch(path.name, glob) for glob in GLOBS)

    assert not any(is_listed(lesson.source) for lesson in find())
    assert all(is_listed(lesson.notebook) for lesson in find())
    others = [*(ROOT / "labs").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    assert others
    assert all(map(is_listed, others))
    assert is_listed(start_page.PAGE)


def test_the_page_is_no_part_of_the_site_or_of_the_repository(tmp_path):
    (tmp_path / "lessons").mkdir()
    before = build_site.fingerprint(tmp_path)
    (tmp_path / "lessons/start.md").write_text("words")
    assert build_site.fingerprint(tmp_path) == before
    ignored = ["git", "check-ignore", "--quiet", str(start_page.PAGE)]
    assert subprocess.run(ignored, cwd=ROOT).returncode == 0
