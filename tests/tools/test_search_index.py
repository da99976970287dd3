"""What the search of the book can find: sections, terms and names, without spoilers."""

import json

from docutils import nodes
from docutils.utils import new_document
from sphinx import addnodes

from book._ext import search


def paragraph(text):
    return nodes.paragraph("", text)


def page(*inside, title="Measure boxes and mAP"):
    document = new_document("page")
    document += nodes.section("", nodes.title("", title), *inside, ids=["top"])
    return document


def test_a_section_has_its_address_title_prose_and_code():
    cell = nodes.container("", nodes.literal_block("", "iou = 1\nC2f"), nb_element="cell_code")
    below = nodes.section("", nodes.title("", "Below"), paragraph("no"), ids=["below"])
    box = nodes.admonition("", nodes.title("", "Card"), paragraph("two"))
    assert [*search.entries(page(paragraph("one\nline"), box, cell, below))] == [
        ["top", "Measure boxes and mAP", "one line two", "iou = 1 C2f"],
        ["below", "Below", "no", ""],
    ]


def test_hints_solutions_and_raw_html_are_not_found():
    hint = nodes.container("", paragraph("the cause"), classes=["sd-dropdown"])
    fix = nodes.container("", nodes.literal_block("", "fix"), classes=["cell", "tag_hunt-solution"])
    raw = nodes.raw("", "<b>chrome</b>", format="html")
    ((_, _, prose, code),) = search.entries(page(hint, fix, raw))
    assert (prose, code) == ("", "")


def test_terms_and_documented_names_are_entries_of_their_own():
    term = nodes.term("", "", nodes.Text("mAP"), ids=["term-mAP"])
    item = nodes.definition_list_item("", term, nodes.definition("", paragraph("a mean")))
    signature = addnodes.desc_signature("", "iou(a, b)", ids=["labs.boxes.iou"])
    content = addnodes.desc_content("", paragraph("Compare boxes."))
    named = addnodes.desc("", signature, content)
    found = [*search.entries(page(nodes.definition_list("", item), named))]
    assert ["term-mAP", "mAP", "a mean", ""] in found
    assert ["labs.boxes.iou", "labs.boxes.iou", "Compare boxes.", ""] in found


def test_the_index_is_a_script_with_a_row_for_each_entry():
    script = search.index({"b": [["x", "T", 'a "word" é', ""]], "a": [["y", "U", "", "c"]]})
    text = script.removeprefix("window.SECTIONS = ").rstrip().removesuffix(";")
    assert json.loads(text) == [["a", "y", "U", "", "c"], ["b", "x", "T", 'a "word" é', ""]]
    assert "é" in script
