"""List the pages of the book, as ``_toc.yml`` names them."""

import pytest
import yaml

from labs.stamp import ROOT


def pages(entry):
    """List the documents of ``_toc.yml`` in reading order."""
    below = [*entry.get("parts", ()), *entry.get("chapters", ()), *entry.get("sections", ())]
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [page for part in below for page in pages(part)]


PAGES = pages(yaml.safe_load((ROOT / "_toc.yml").read_text()))
LESSONS = [page for page in PAGES if page.startswith("lessons/")]
each_page = pytest.mark.parametrize("page", PAGES)
each_lesson_page = pytest.mark.parametrize("page", LESSONS)
ONE_OF_EACH = {
    "book/index",
    "book/symptoms",
    "book/ledger",
    "book/api/hooks",
    "book/bibliography",
    "lessons/02_detection/02_predict_on_a_grid",
}
