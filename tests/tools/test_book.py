"""What the book's own Sphinx extensions make of notebooks, pages and docstrings."""

import subprocess
import sys

import pytest
import yaml

from book._ext import api, lessons, pages
from labs.stamp import ROOT
from tools import build_site

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())


def code(source="1", tags=(), outputs=()):
    return {
        "cell_type": "code",
        "source": source,
        "metadata": {"tags": [*tags]},
        "outputs": [*outputs],
    }


def picture(alt=None, mime="image/png"):
    metadata = {mime: {"alt": alt}} if alt else {}
    return {"data": {"text/plain": "<Figure>", mime: "…"}, "metadata": metadata}


class TestNotebooks:
    def test_the_facts_stand_between_the_title_and_the_rest(self):
        first = {"cell_type": "markdown", "source": ["# Title\n", "\n", "words"], "metadata": {}}
        prepared = lessons.prepare({"cells": [code(), first]}, "42 s")
        assert prepared["cells"][1]["source"] == "# Title\n\n{.lesson-facts}\n42 s\n\nwords"

    @pytest.mark.parametrize(
        ("tags", "shown"),
        [
            (["hide-cell"], "Show the code"),
            (["hunt-solution", "hide-cell"], "Show the fix"),
            (["hide-input"], "Show the code"),
        ],
    )
    def test_a_folded_cell_says_what_unfolds(self, tags, shown):
        cell = lessons._named_fold(code(tags=tags))
        assert cell["metadata"]["mystnb"]["code_prompt_show"] == shown

    def test_other_cells_and_the_given_notebook_are_left_alone(self):
        cell = code(tags=["hunt-bug"])
        assert lessons._named_fold(cell) is cell
        folded = code(tags=["hide-cell"])
        lessons._named_fold(folded)
        assert "mystnb" not in folded["metadata"]

    def test_alternative_texts_come_in_the_order_of_the_pictures(self):
        printed = {"output_type": "stream", "text": "words"}
        cell = code(outputs=[picture("one"), printed, picture(), picture("two", "image/svg+xml")])
        assert lessons.alternative_texts(cell) == ["one", "", "two"]

    def test_the_edit_button_leads_to_the_source(self):
        edit = {"label": "source-edit-button", "url": "https://x/edit/main/lessons/a.ipynb"}
        other = {"label": "download", "url": "a.ipynb"}
        lessons.edit_source([{"label": "group", "buttons": [edit, other]}])
        assert (edit["url"], other["url"]) == ("https://x/edit/main/lessons/a.py", "a.ipynb")


class TestPages:
    def test_a_block_gives_way_to_its_markdown(self, monkeypatch):
        monkeypatch.setitem(pages.WRITERS, "lesson-table", lambda stage: f"table of {stage}")
        page = "# A\n\n```{lesson-table} 01_foundations\n```\n\nB"
        assert pages.fill(page) == "# A\n\ntable of 01_foundations\n\nB"

    def test_other_blocks_stay(self):
        page = "```{glossary}\nterm\n  words\n```"
        assert pages.fill(page) == page

    def test_every_public_module_of_labs_has_a_page_and_a_line(self):
        toc = (ROOT / "_toc.yml").read_text()
        for name in pages.public_modules():
            page = ROOT / f"book/api/{name}.md"
            assert page.exists(), f"labs.{name} has no page: write {page.relative_to(ROOT)}"
            assert f"autoapimodule:: labs.{name}\n" in page.read_text()
            assert f"file: book/api/{name}\n" in toc, f"add book/api/{name} to _toc.yml"
            assert f"[`labs.{name}`]({name}.md) | " in pages.module_table()

    def test_a_figure_that_a_lesson_does_not_have_is_refused(self, monkeypatch):
        monkeypatch.setattr(pages, "Lesson", lambda _: Empty())
        with pytest.raises(IndexError, match="expected a figure number from 1 to 0, got 2"):
            pages.lesson_figure("lessons/01_foundations/01_survive", 2)


class Empty:
    cells = ()

    def read_notebook(self):
        return self


class TestApi:
    def test_aliases_are_types_and_nothing_else(self):
        source = "\n".join(
            [
                "Loss = Callable[[Module], Tensor]",
                "Shape = tuple[int, int] | None",
                "LIMIT = 3",
                "FIRST = TABLE['first']",
                "FLAGS = re.MULTILINE | re.DOTALL",
                "T = TypeVar('T')",
            ]
        )
        assert api.aliases(source) == {
            "Loss": "Callable[[Module], Tensor]",
            "Shape": "tuple[int, int] | None",
        }

    def test_fields_are_taken_out_of_a_class_docstring(self):
        docstring = (
            "Hold it.\n\n:ivar images: [N,C,H,W],\n              float.\n:ivar n: How many.\n"
        )
        left, meanings = api.split_fields(docstring)
        assert left.strip() == "Hold it."
        assert meanings == {"images": "[N,C,H,W], float.", "n": "How many."}

    @pytest.mark.parametrize(
        ("what", "lines"),
        [
            ("property", ["Name it: the first one."]),
            ("function", ["Do.", "", "Returns:", "    The verdict: five probes."]),
        ],
    )
    def test_words_before_a_colon_are_no_type(self, what, lines):
        hidden = [*lines]
        api._hide_colons(None, what, "", None, None, hidden)
        assert not any(": " in line for line in hidden)
        api._show_colons(None, what, "", None, None, hidden)
        assert hidden == lines

    def test_rendering_imports_neither_pytorch_nor_more_of_labs_than_the_stamps(self):
        modules = "book._ext.api, book._ext.lessons, book._ext.pages, tools.build_site"
        program = (
            f"import sys, {modules}; print(*sorted(name for name in sys.modules"
            " if name in ('torch', 'numpy') or name.split('.')[0] == 'labs'))"
        )
        run = [sys.executable, "-c", program]
        seen = subprocess.run(run, cwd=ROOT, capture_output=True, text=True).stdout
        assert seen == "labs labs.stamp\n"


class TestSite:
    def test_the_repository_is_named_once(self):
        assert CONFIG["repository"]["url"] not in str({**CONFIG, "repository": None})

    def test_a_changed_source_makes_the_site_stale(self, tmp_path):
        (tmp_path / "book").mkdir()
        page = tmp_path / "book/index.md"
        page.write_text("# One")
        before = build_site.fingerprint(tmp_path)
        assert build_site.fingerprint(tmp_path) == before
        page.write_text("# Two")
        assert build_site.fingerprint(tmp_path) != before

    def test_a_renamed_source_makes_the_site_stale(self, tmp_path):
        (tmp_path / "a.md").write_text("# One")
        before = build_site.fingerprint(tmp_path)
        (tmp_path / "a.md").rename(tmp_path / "b.md")
        assert build_site.fingerprint(tmp_path) != before

    def test_the_logo_is_what_its_script_draws(self, tmp_path, monkeypatch):
        from tools import draw_logo

        committed = {path.name: path.read_bytes() for path in draw_logo.STATIC.glob("*.svg")}
        monkeypatch.setattr(draw_logo, "STATIC", tmp_path)
        draw_logo.main()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == committed
