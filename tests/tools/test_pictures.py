"""Executing a lesson again must keep each picture that looks the same, and change all others."""

import base64
import copy
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from book._ext.figures import EMBEDDED, decoded
from tools.pictures import keep_old_bytes, write_drawings_small

RED, BLUE = (200, 10, 10), (10, 10, 200)


def drawn(colour=RED, mode="RGB", size=(6, 4)):
    image = Image.new("RGB", size, colour)
    image.putpixel((1, 2), (7, 8, 9))
    return image.convert(mode)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


FAST, SMALL = encoded(drawn(), compress_level=0), encoded(drawn(), compress_level=9)
OTHER = encoded(drawn(BLUE))


def cell(source, *bundles):
    outputs = [new_output("display_data", bundle, metadata={"note": "x"}) for bundle in bundles]
    return new_code_cell(source, outputs=[new_output("stream", text="words"), *outputs])


def png(data):
    return {"image/png": data, "text/plain": "<Figure>"}


def merged(old_cells, new_cells):
    """Return the bundles of all outputs of the new notebook once the old pictures are kept."""
    old, new = (new_notebook(cells=copy.deepcopy(cells)) for cells in (old_cells, new_cells))
    before = copy.deepcopy(old)
    keep_old_bytes(new, old)
    assert old == before
    return [dict(o.data) for one in new.cells for o in one.get("outputs", []) if "data" in o]


def test_the_same_pixels_keep_the_old_bytes_and_the_rest_of_the_output_is_new():
    assert FAST != SMALL
    old, new = [cell("draw()", png(FAST))], [cell("draw()", {**png(SMALL), "text/plain": "new"})]
    assert merged(old, new) == [{"image/png": FAST, "text/plain": "new"}]


@pytest.mark.parametrize(
    ("was", "now"),
    [
        pytest.param(encoded(drawn()), OTHER, id="another colour"),
        pytest.param(encoded(drawn(size=(4, 6))), encoded(drawn(size=(6, 4))), id="turned"),
        pytest.param(
            encoded(Image.new("RGB", (4, 6))), encoded(Image.new("RGB", (6, 4))), id="same bytes"
        ),
        pytest.param(
            encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0))),
            encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 9))),
            id="another opacity",
        ),
        pytest.param(
            encoded(Image.new("L", (2, 2), 5), transparency=5),
            encoded(Image.new("L", (2, 2), 5)),
            id="one grey level that is transparent",
        ),
        pytest.param(
            encoded(Image.fromarray(np.full((2, 2), 300, np.uint16))),
            encoded(Image.fromarray(np.full((2, 2), 301, np.uint16))),
            id="sixteen bits",
        ),
        pytest.param(encoded(drawn(), icc_profile=b"wide"), FAST, id="another colour space"),
        pytest.param("not a picture", FAST, id="an old one that is damaged"),
        pytest.param(FAST, "not a picture", id="a new one that is damaged"),
        pytest.param(FAST, FAST[: len(FAST) // 2], id="cut off"),
    ],
)
def test_what_looks_different_is_changed(was, now):
    assert merged([cell("draw()", png(was))], [cell("draw()", png(now))]) == [png(now)]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_every_kind_of_pixels_is_compared(mode):
    was, now = (encoded(drawn(mode=mode), compress_level=level) for level in (0, 9))
    assert was != now
    assert merged([cell("d", png(was))], [cell("d", png(now))]) == [png(was)]


def test_a_palette_and_its_colours_look_the_same():
    was, now = encoded(drawn(mode="P")), encoded(drawn(mode="P").convert("RGB"))
    assert merged([cell("d", png(was))], [cell("d", png(now))]) == [png(was)]


def test_every_frame_of_an_animation_is_compared():
    def film(last, **options):
        options = {"save_all": True, "append_images": [drawn(last)], "duration": 50} | options
        return {"image/gif": encoded(drawn(), "GIF", **options)}

    base = film(BLUE)
    remarked = film(BLUE, comment=b"made later")
    assert remarked != base
    assert merged([cell("d", base)], [cell("d", remarked)]) == [base]
    for other in (film(RED), film((10, 200, 10)), film(BLUE, duration=90), film(BLUE, loop=0)):
        assert merged([cell("d", base)], [cell("d", other)]) == [other]


@pytest.mark.parametrize("mime", ["text/html", "image/svg+xml"])
def test_pictures_inside_a_page_are_kept_and_its_text_is_new(mime):
    def page(words, *pictures):
        shown = "".join(f'<img src="data:image/png;base64,{data}">' for data in pictures)
        return {mime: f"<p>{words}</p>{shown}"}

    old, new = page("old", FAST, FAST), page("new", SMALL, OTHER)
    assert merged([cell("d", old)], [cell("d", new)]) == [page("new", FAST, OTHER)]


def test_a_format_is_not_replaced_by_another():
    old = {"image/bmp": encoded(drawn(), "BMP")}
    assert merged([cell("d", old)], [cell("d", png(SMALL))]) == [png(SMALL)]


def test_only_the_same_cell_is_compared():
    old = [cell("one()", png(FAST)), cell("two()", png(OTHER))]
    assert merged(old, [cell("three()", png(SMALL))]) == [png(SMALL)]
    moved = [new_markdown_cell("words"), cell("two()", png(OTHER)), cell("one()", png(SMALL))]
    assert merged(old, moved) == [png(OTHER), png(FAST)]


def test_cells_with_one_source_are_told_apart_by_their_order():
    other = encoded(drawn(BLUE), compress_level=0)
    assert other != OTHER
    old = [cell("show()", png(FAST)), cell("show()", png(OTHER))]
    new = [cell("show()", png(other)), cell("show()", png(other)), cell("show()", png(other))]
    assert merged(old, new) == [png(other), png(OTHER), png(other)]


def test_pictures_of_one_cell_are_found_wherever_they_stand():
    old = [cell("d", png(FAST), png(OTHER))]
    new = [cell("d", png(encoded(drawn(BLUE), compress_level=0)), png(SMALL))]
    assert merged(old, new) == [png(OTHER), png(FAST)]


def test_other_outputs_are_left_alone():
    bundle = {"application/json": {"a": [1]}, "text/plain": "data:image/png;base64,AAAA"}
    assert merged([cell("d", bundle)], [cell("d", bundle, png(SMALL))]) == [bundle, png(SMALL)]


def test_drawings_are_written_as_text_and_keep_every_word_and_number():
    svg = (
        '<?xml version="1.0"?>\n<!-- made --><svg width="9pt">\n <metadata>x</metadata>\n'
        """ <text style="font: 12px 'DejaVu Sans', sans-serif" x="1.23456">"""
        '0.025 & "more" #</text>\n'
        "</svg>"
    ).replace("&", "&amp;")
    encoded = base64.b64encode(svg.encode()).decode()
    html = f'<img src="data:image/svg+xml;base64,{encoded}" alt="a">'
    cell = new_code_cell("…", outputs=[new_output("display_data", {"text/html": html})])
    notebook = new_notebook(cells=[cell])
    write_drawings_small(notebook)
    written = notebook.cells[0].outputs[0].data["text/html"]
    found = EMBEDDED.search(written)
    assert len(written) < len(html)
    assert written.endswith('" alt="a">')
    drawing = ElementTree.fromstring(decoded(found))
    assert drawing.find("text").text == '0.025 & "more" #'
    assert drawing.find("text").get("x") == "1.2"
    assert "DejaVu Sans" in drawing.find("text").get("style")
    write_drawings_small(notebook)
    assert notebook.cells[0].outputs[0].data["text/html"] == written
