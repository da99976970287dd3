"""What the book's own Sphinx extensions make of notebooks, pages and docstrings."""

import ast
import base64
import re
import subprocess
import sys

import pytest
import yaml
from docutils import nodes
from docutils.utils import new_document
from nbformat import NotebookNode
from sphinx import addnodes

from book._ext import answers, api, figures, lessons, pages, terms
from labs.stamp import ROOT
from tools import build_site, ledger

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())


def code(source="1", tags=(), outputs=()):
    return {
        "cell_type": "code",
        "source": source,
        "metadata": {"tags": [*tags]},
        "outputs": [*outputs],
    }


PIXEL = base64.b64encode(b"a picture").decode()
ENTRY = ledger.Entry("lessons/02_more/03_count", "Count")


def figure(caption, pixel=PIXEL):
    html = (
        '<figure class="labs-figure" style="margin:0">'
        f'<img src="data:image/png;base64,{pixel}" alt="a">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
    return {"data": {"text/html": html, "text/plain": caption}, "metadata": {}}


def printed(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


class TestNotebooks:
    def test_place_and_facts_stand_between_the_title_and_the_rest(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lessons, "facts", lambda _: "42 s")
        monkeypatch.setattr(lessons, "place", lambda _: "Stage 2")
        first = {"cell_type": "markdown", "source": ["# Title\n", "\n", "words"], "metadata": {}}
        prepared = lessons.prepare({"cells": [code(), first]}, ENTRY, tmp_path)
        assert prepared["cells"][1]["source"] == (
            "# Title\n\n{.lesson-place}\nStage 2\n\n{.lesson-facts}\n42 s\n\n"
            f"{lessons.MARKS}\n\nwords"
        )

    @pytest.mark.parametrize(
        ("source", "tags", "shown"),
        [
            ("1", ["hide-cell"], "Show the code"),
            ("1", ["hunt-solution", "hide-cell"], "Show the fix"),
            ("1", ["hide-input"], "Show the code"),
            ("plot.show(figure, 'It falls.')", [], "Code of this figure"),
            ("claim('so', True)", ["nbval-check-output"], "Code of this check"),
        ],
    )
    def test_a_folded_cell_says_what_unfolds(self, source, tags, shown):
        cell = lessons._named_fold(code(source, tags))
        assert cell["metadata"]["mystnb"]["code_prompt_show"] == shown
        assert {"hide-cell", "hide-input"} & set(cell["metadata"]["tags"])

    def test_other_cells_and_the_given_notebook_are_left_alone(self):
        cell = code(tags=["hunt-bug"])
        assert lessons._named_fold(cell) is cell
        folded = code(tags=["hide-cell"])
        lessons._named_fold(folded)
        assert "mystnb" not in folded["metadata"]

    def test_figures_and_claims_are_counted_through_the_lesson(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lessons, "facts", lambda _: "")
        monkeypatch.setattr(lessons, "place", lambda _: "")
        claim = ("claim('so', True)", ["nbval-check-output"])
        cells = [
            {"cell_type": "markdown", "source": "# T\n", "metadata": {}},
            code("plot.show(f, 'a')", outputs=[figure("One."), figure("Two.")]),
            code(*claim, outputs=[printed("✓ a < b\n✓ second\n")]),
            code("plot.show(f, 'a')", outputs=[figure("Three.")]),
            code(*claim, outputs=[printed("✓ third\n")]),
        ]
        shown = lessons.prepare({"cells": cells}, ENTRY, tmp_path)["cells"]
        html = [output["data"]["text/html"] for cell in shown[1:] for output in cell["outputs"]]
        for number, found in enumerate([html[0], html[1], html[3]], 1):
            assert f'<figure id="figure-2-3-{number}"' in found
            assert f'href="#figure-2-3-{number}">Figure 2.3.{number}</a>' in found
        assert '<li id="claim-1"><a href="../../book/ledger.html#claim-03-count-1"' in html[2]
        assert "</a> a &lt; b</li>" in html[2]
        assert '<li id="claim-3">' in html[4]

    def test_a_drawing_of_another_library_keeps_its_description(self, tmp_path):
        output = {
            "output_type": "display_data",
            "data": {"image/png": PIXEL + "\n"},
            "metadata": {"image/png": {"alt": 'A "graph".'}},
        }
        (shown,) = figures.numbered(code(outputs=[output]), "6.4", 0, tmp_path)["outputs"]
        assert 'alt="A &quot;graph&quot;."' in shown["data"]["text/html"]
        assert [file.read_bytes() for file in (tmp_path / "_images").iterdir()] == [b"a picture"]

    def test_pictures_are_files_that_are_written_once_and_load_late(self, tmp_path):
        outputs = [figure("One."), figure("Two."), printed("words")]
        cell = figures.numbered(code(outputs=outputs), "2.3", 0, tmp_path)
        (file,) = (tmp_path / "_images").iterdir()
        assert file.read_bytes() == b"a picture"
        for output in cell["outputs"][:2]:
            assert f'src="../../_images/{file.name}" loading="lazy"' in output["data"]["text/html"]
            assert "base64" not in str(output)
        assert cell["outputs"][2] == printed("words")
        assert "base64" in str(outputs)  # the notebook that was given is as it was

    def test_the_edit_button_leads_to_the_source(self):
        edit = {"label": "source-edit-button", "url": "https://x/edit/main/lessons/a.ipynb"}
        other = {"label": "download", "url": "a.ipynb"}
        colab = {"url": "https://colab.research.google.com/github/a/b/blob/main/lessons/a.ipynb"}
        lessons.point_buttons([{"label": "group", "buttons": [edit, other]}, colab])
        assert (edit["url"], other["url"]) == ("https://x/edit/main/lessons/a.py", "a.ipynb")
        assert colab["url"].endswith("/blob/main/colab/a.ipynb")


class TestPages:
    def test_a_block_gives_way_to_its_markdown(self, monkeypatch, tmp_path):
        monkeypatch.setitem(pages.WRITERS, "lesson-table", lambda stage, _: f"table of {stage}")
        page = "# A\n\n```{lesson-table} 01_foundations\n```\n\nB"
        assert pages.fill(page, tmp_path) == "# A\n\ntable of 01_foundations\n\nB"

    def test_other_blocks_stay(self, tmp_path):
        page = "```{glossary}\nterm\n  words\n```"
        assert pages.fill(page, tmp_path) == page

    def test_every_public_module_of_labs_has_a_page_and_a_line(self):
        toc = (ROOT / "_toc.yml").read_text()
        for name in pages.public_modules():
            page = ROOT / f"book/api/{name}.md"
            assert page.exists(), f"labs.{name} has no page: write {page.relative_to(ROOT)}"
            assert f"autoapimodule:: labs.{name}\n" in page.read_text()
            assert f"file: book/api/{name}\n" in toc, f"add book/api/{name} to _toc.yml"
            assert f"[`labs.{name}`]({name}.md) | " in pages.module_table()

    def test_a_hunt_is_the_planted_cell_and_the_verdict_that_refuses_it(self, monkeypatch):
        said = "the skip: not solved (0/1 probes)\n  ✗ it returns its input: it does not\n"
        cells = [
            {"cell_type": "markdown", "source": "# Feel it", "metadata": {}},
            {"cell_type": "markdown", "source": "## Bug hunt: one < two", "metadata": {}},
            code("x = 1", ["hunt-bug"]),
            code("check(x)", outputs=[printed("words")]),
            code("check(x)", outputs=[{"data": {"text/plain": said}}]),
        ]
        monkeypatch.setattr(pages, "Lesson", lambda _: Holds(cells))
        shown = pages.lesson_hunt("lessons/01_a/02_feel")
        assert f"```python\nx = 1\n```\n\n```text\n{said.strip()}\n```" in shown
        assert 'href="../lessons/01_a/02_feel.html#bug-hunt-one-two">Find it</a>' in shown
        assert "<em>Feel it</em>" in shown
        monkeypatch.setattr(pages, "Lesson", lambda _: Holds(cells[:4]))
        with pytest.raises(LookupError, match="a cell with the tag hunt-bug and a ✗ below it"):
            pages.lesson_hunt("lessons/01_a/02_feel")

    def test_the_home_page_has_a_hunt_and_the_time_of_every_stage(self, tmp_path):
        index = (ROOT / "book/index.md").read_text()
        assert index.count("```{lesson-hunt} lessons/") == 1
        rows = [line for line in index.splitlines() if re.match(r"\| \[.*\]\(\d\d_\w+\.md\)", line)]
        assert len(rows) == 8
        for row in rows:
            stage = re.search(r"\((\d\d_\w+)\.md\)", row)[1]
            assert row.endswith(f"| {{stage-time}}`{stage}` |")

    def test_the_time_of_a_stage_is_the_sum_of_its_cards(self, monkeypatch, tmp_path):
        known = [ledger.Entry("lessons/01_a/01_b", "B", minutes=n) for n in (50, 75)]
        monkeypatch.setattr(pages, "entries", lambda stage: known if stage == "01_a" else [])
        page = "| a | {stage-time}`01_a` |\n| b | {stage-time}`02_b` |"
        assert pages.fill(page, tmp_path) == "| a | 2 h 5 min |\n| b |  |"

    def test_a_figure_that_a_lesson_does_not_have_is_refused(self, monkeypatch, tmp_path):
        monkeypatch.setattr(pages, "Lesson", lambda _: Empty())
        with pytest.raises(IndexError, match="expected a figure number from 1 to 0, got 2"):
            pages.lesson_figure("lessons/01_foundations/01_survive", 2, tmp_path)


class Empty:
    cells = ()

    def read_notebook(self):
        return self


class Holds(Empty):
    def __init__(self, cells):
        self.cells = [NotebookNode(cell) for cell in cells]
        for cell in self.cells:
            cell.metadata = NotebookNode(cell.metadata)


def cell(index, output="", source="code"):
    node = nodes.container(classes=["cell"], nb_element="cell_code", cell_index=index)
    node += nodes.container("", nodes.literal_block("", source), nb_element="cell_code_source")
    if output:
        inside = nodes.literal_block("", output)
        node += nodes.container("", inside, nb_element="cell_code_output")
    return node


def predict():
    box = nodes.admonition(classes=["predict"])
    box += nodes.paragraph("", "What will it be?")
    return box


def page(*parts):
    document = new_document("page")
    section = nodes.section()
    section += [*parts]
    document += section
    return document


def folded(document):
    """Return the texts before, within and after the fold of a page."""
    section = document.children[0]
    kinds = [getattr(node, "rawsource", "") or node.astext() for node in section.children]
    start, end = kinds.index(answers.OPEN), kinds.index(answers.CLOSE)
    return [
        [n.astext() for n in part]
        for part in (
            section.children[1:start],
            section.children[start + 1 : end],
            section.children[end + 1 :],
        )
    ]


TAUGHT = {1: "taught", 2: "taught"}


class TestAnswers:
    def test_output_and_its_reading_are_folded_and_the_code_is_not(self):
        reading, more = nodes.paragraph("", "So it is."), nodes.paragraph("", "More.")
        document = page(predict(), cell(1, "", "train()"), cell(2, "3.2", "score()"), reading, more)
        assert list(answers.fold(document, TAUGHT)) == []
        before, within, after = folded(document)
        assert before == [answers.SWITCH, "train()", "score()"]
        assert within == ["3.2", "So it is."]
        assert after == ["More."]

    def test_a_figure_goes_into_the_fold_with_its_code(self):
        document = page(predict(), cell(1, "", "train()"), cell(2, "picture", "plot.show()"))
        assert list(answers.fold(document, {1: "taught", 2: "figure"})) == []
        before, within, after = folded(document)
        assert (before, after) == ([answers.SWITCH, "train()"], [])
        assert "picture" in within[0]
        assert "plot.show()" in within[0]

    def test_claims_below_the_reading_would_give_it_away(self):
        reading = nodes.paragraph("", "So it is.")
        document = page(predict(), cell(1, "3.2"), reading, cell(2, "so"), cell(3, "more"))
        kinds = {1: "taught", 2: "claim", 3: "taught"}
        assert list(answers.fold(document, kinds)) == []
        _, within, after = folded(document)
        assert within[:2] == ["3.2", "So it is."]
        assert "so" in within[2]
        assert "more" in after[0]

    def test_a_box_without_an_output_is_named(self):
        document = page(predict(), cell(1), nodes.paragraph("", "words"))
        (complaint,) = answers.fold(document, TAUGHT)
        assert "What will it be?" in complaint
        assert answers.OPEN not in str(document)

    def test_other_boxes_fold_nothing(self):
        document = page(nodes.admonition(classes=["tip"]), cell(1, "3"))
        assert list(answers.fold(document, TAUGHT)) == []
        assert answers.OPEN not in str(document)


class TestTerms:
    GLOSSARY = "# G\n\n```{glossary}\nanchor box\n  words\n\nstep\n  words\n```\n"

    def linked(self, *parts):
        document = page(*parts)
        terms.link(document, ["anchor box", "step"], "page")
        found = document.findall(addnodes.pending_xref)
        return [(node.astext(), node["reftarget"]) for node in found]

    def test_terms_are_read_from_the_glossary(self, tmp_path):
        (tmp_path / "g.md").write_text(self.GLOSSARY)
        assert terms.terms(tmp_path / "g.md") == ["anchor box", "step"]
        assert "ablation" in terms.terms(ROOT / "book/glossary.md")

    def test_the_first_use_is_linked_and_only_that(self):
        text = nodes.paragraph("", "Anchor boxes, a step, a step.")
        assert self.linked(text, nodes.paragraph("", "A step.")) == [
            ("Anchor boxes", "anchor box"),
            ("step", "step"),
        ]
        assert text.astext() == "Anchor boxes, a step, a step."
        assert self.linked(nodes.paragraph("", "Two steps.")) == [("steps", "step")]

    def test_parts_of_words_code_links_and_headings_are_left(self):
        code_ = nodes.paragraph("", "", nodes.literal("", "step"))
        link = nodes.paragraph("", "", nodes.reference("", "step"))
        other = nodes.paragraph("", "stepping, misstep, two-step, step-wise")
        assert self.linked(nodes.title("", "A step"), code_, link, other) == []

    def test_a_term_that_the_author_linked_is_not_linked_again(self):
        own = addnodes.pending_xref("", reftype="term", reftarget="step")
        text = nodes.paragraph("", "", own, nodes.Text(" and a step"))
        assert len(self.linked(text)) == 1


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

    def test_a_page_states_the_order_of_its_modules(self):
        page = (
            "```{eval-rst}\n.. autoapimodule:: labs.hooks\n   :members:\n"
            "      capture, Maps,\n      grad_cam\n```\n"
        )
        assert api.stated_orders(page) == {"labs.hooks": ["capture", "Maps", "grad_cam"]}

    def test_every_page_states_an_order_that_holds_each_public_name_once(self):
        for page in sorted((ROOT / "book/api").glob("*.md")):
            text = page.read_text()
            orders = api.stated_orders(text)
            assert len(orders) == text.count(".. autoapimodule::"), page.name
            for module, order in orders.items():
                place = ROOT / module.replace(".", "/")
                file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                assert len(order) == len(set(order)), module
                missing = sorted(set(told_of(file)) - set(order))
                assert not missing, f"book/api/{page.name}: say where {missing} of {module} stand"
                assert all(re.search(rf"\b{name}\b", file.read_text()) for name in order), module

    def test_a_name_of_another_project_leads_to_its_page(self):
        known = api.read_addresses()
        base = "https://docs.pytorch.org/docs/stable"
        assert known["torch.nn.Module"] == f"{base}/generated/torch.nn.Module.html"
        assert known["torch.Tensor"] == f"{base}/tensors.html#torch.Tensor"
        assert api.address_of("torch.Tensor", known) == known["torch.Tensor"]
        path = "https://docs.python.org/3/library/pathlib.html#pathlib.Path"
        assert api.address_of("pathlib.Path", known) == path
        assert api.address_of("torch.nn.Unheard", known) is None

    def test_names_in_the_words_of_a_page_are_linked_where_a_link_is_known(self):
        known = {"torch.save": "https://x/save"}
        text = nodes.paragraph("", "", nodes.literal("", "torch.save()"))
        other = nodes.paragraph("", "", nodes.literal("", "torch.load"))
        own = nodes.paragraph("", "", nodes.reference("", "", nodes.literal("", "torch.save")))
        document = page(text, other, own)
        api.link_words(document, known)
        links = [*document.findall(nodes.reference)]
        assert [link.get("refuri") for link in links] == ["https://x/save", None]
        assert links[0].astext() == "torch.save()"

    def test_the_source_of_a_name_is_where_it_is_defined_not_where_it_is_offered(self):
        members = {
            "labs.p": Found("package", file_path="labs/p/__init__.py"),
            "labs.p.a": Found("module", file_path="labs/p/a.py"),
            "labs.p.a.C": Found("class", from_line_no=7),
            "labs.p.a.C.run": Found("method", from_line_no=9),
            "labs.p.a.C.field": Found("attribute", from_line_no=8),
            "labs.p.C": Found("class", original_path="labs.p.a.C"),
            "labs.p.C.run": Found("method"),
            "labs.p.C.field": Found("attribute"),
        }
        assert api.source_of("labs.p.C", members) == ("labs/p/a.py", 7)
        assert api.source_of("labs.p.C.run", members) == ("labs/p/a.py", 9)
        assert api.source_of("labs.p.a.C", members) == ("labs/p/a.py", 7)
        assert api.source_of("labs.p.C.field", members) is None
        assert api.source_of("labs.p.D", members) is None

    def test_rendering_imports_neither_pytorch_nor_more_of_labs_than_the_stamps(self):
        modules = "book._ext.api, book._ext.lessons, book._ext.pages, tools.build_site"
        program = (
            f"import sys, {modules}; print(*sorted(name for name in sys.modules"
            " if name in ('torch', 'numpy') or name.split('.')[0] == 'labs'))"
        )
        run = [sys.executable, "-c", program]
        seen = subprocess.run(run, cwd=ROOT, capture_output=True, text=True).stdout
        assert seen == "labs labs.stamp\n"


class Found:
    """Stand in for what autoapi found: a kind, and what it knows of it."""

    def __init__(self, kind, **obj):
        self.type, self.obj = kind, obj


def told_of(file):
    """Return what a module offers by its ``__all__``, or else what it defines."""
    body = ast.parse(file.read_text()).body
    for node in body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            listed = ast.literal_eval(node.value)
            made = {n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
            modules = {path.stem for path in file.parent.iterdir()}
            skipped = {name for name in listed if name.isupper()} | modules
            return [name for name in listed if name in made or name not in skipped]
    made = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node.name for node in made if not node.name.startswith("_")]


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

        committed = draw_logo.STATIC
        monkeypatch.setattr(draw_logo, "STATIC", tmp_path)
        draw_logo.main()
        drawn = sorted(path.name for path in tmp_path.iterdir())
        assert drawn == ["favicon.svg", "logo-dark.svg", "logo-light.svg"]
        for name in drawn:
            assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name
