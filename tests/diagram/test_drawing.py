"""The picture holds every box and every arrow that was found, in words that can be read."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from labs.diagram import Drawing, Part, Wiring, draw, trace
from labs.diagram.arrow import draw_arrow
from labs.diagram.box import Label, draw_box, label, text_width
from labs.diagram.routes import Box
from labs.models.resnet import BasicBlock
from labs.plot import COLOURS
from tests.diagram.networks import Dense, UNet

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def unet():
    parts = ["input", "enc1", "enc2", "middle", "dec2", "dec1", "out"]
    return trace(UNet(), torch.rand(2, 3, 16, 24), parts, pictures=True)


ROWS = [
    ["input", "enc1", None, "dec1", "out"],
    [None, "enc2", None, "dec2"],
    [None, None, "middle"],
]


def parsed(drawing):
    return ElementTree.fromstring(drawing.svg)


def groups_of(drawing, kind):
    return [group for group in parsed(drawing).iter(f"{SVG}g") if group.get("class") == kind]


def box_of(group):
    rect = group.find(f"{SVG}rect")
    return Box(*(float(rect.get(key)) for key in ("x", "y", "width", "height")))


def texts(group):
    return [text.text for text in group.iter(f"{SVG}text")]


def test_every_part_has_a_box_with_its_facts(unet):
    shown = {texts(group)[0]: texts(group)[1:] for group in groups_of(draw(unet, ROWS), "part")}
    assert shown["input"] == ["3 × 16 × 24"]
    assert shown["enc1"] == ["4 × 16 × 24", "120 params"]
    assert shown["dec2"] == ["8 × 8 × 12", "1.18 k params"]
    assert len(shown) == len(unet.parts)


def test_every_arrow_that_was_found_is_drawn_from_box_to_box(unet):
    drawing = draw(unet, ROWS)
    boxes = {texts(group)[0]: box_of(group) for group in groups_of(drawing, "part")}
    drawn = groups_of(drawing, "arrow")
    titles = [group.find(f"{SVG}title").text for group in drawn]
    assert sorted(titles) == sorted(f"{a} → {b}" for a, b in unet.arrows)
    for group, title in zip(drawn, titles, strict=True):
        start, end = (boxes[name] for name in title.split(" → "))
        points = numbers(group.find(f"{SVG}path").get("d"))
        tip, *wings = numbers(group.find(f"{SVG}polygon").get("points"))
        assert on_border(start, points[0])
        assert on_border(end, tip)
        assert math.dist(*wings) == pytest.approx(7.2, abs=0.2)
        assert math.dist(points[-1], tip) == pytest.approx(8, abs=0.2)
        for a, b in pairwise(points):
            crossed = [name for name, box in boxes.items() if shrunk(box).is_crossed(a, b)]
            assert crossed == []


def numbers(text):
    found = [float(number) for number in re.findall(r"-?\d+\.?\d*", text)]
    return list(zip(found[::2], found[1::2], strict=True))


def on_border(box, point):
    x, y = point
    near = min(abs(x - box.x), abs(x - box.right), abs(y - box.y), abs(y - box.bottom))
    return near < 0.2 and box.x - 1 < x < box.right + 1 and box.y - 1 < y < box.bottom + 1


def shrunk(box):
    return Box(box.x + 0.2, box.y + 0.2, box.width - 0.4, box.height - 0.4)  # digits are cut


def test_no_text_is_small_or_leaves_its_box(unet):
    drawing = draw(unet, ROWS, groups={"encoder": ["enc1", "enc2"]})
    root = parsed(drawing)
    inherited = float(root.get("font-size"))
    sizes = [float(text.get("font-size", inherited)) for text in root.iter(f"{SVG}text")]
    assert min(sizes) >= 12
    for group in groups_of(drawing, "part"):
        box = box_of(group)
        for text in group.iter(f"{SVG}text"):
            size = int(text.get("font-size", inherited))
            half = text_width(text.text, size, text.get("font-weight", "normal")) / 2
            x, y = float(text.get("x")), float(text.get("y"))
            assert box.x + 7 < x - half
            assert x + half < box.right - 7
            assert box.y + size < y < box.bottom - 4


def test_the_page_is_as_large_as_it_says(unet):
    drawing = draw(unet, ROWS)
    root = parsed(drawing)
    assert (int(root.get("width")), int(root.get("height"))) == (drawing.width, drawing.height)
    assert root.get("viewBox") == f"0 0 {drawing.width} {drawing.height}"
    assert drawing.width <= 700
    for group in groups_of(drawing, "part"):
        box = box_of(group)
        assert min(box.x, box.y) >= 9
        assert box.right <= drawing.width - 9
        assert box.bottom <= drawing.height - 9
    panel = root.find(f"{SVG}rect")
    assert panel.get("fill") == "#FBFBF9"
    assert (panel.get("width"), panel.get("height")) == (root.get("width"), root.get("height"))


def test_pictures_are_inside_and_above_the_name(unet):
    for group in groups_of(draw(unet, ROWS), "part"):
        box, image = box_of(group), group.find(f"{SVG}image")
        assert image.get("href").startswith("data:image/png;base64,")
        assert (image.get("style") is None) == (texts(group)[0] == "input")
        x, y, width, height = (float(image.get(key)) for key in ("x", "y", "width", "height"))
        assert (width, height) == pytest.approx((64, 64 * 16 / 24), abs=0.1)
        assert x + width / 2 == pytest.approx(box.centre[0], abs=0.1)
        assert y >= box.y + 7.5
        assert y + height < float(group.find(f"{SVG}text").get("y")) - 12


def test_groups_have_a_colour_and_a_line_that_explains_it(unet):
    groups = {"encoder": ["enc1", "enc2"], "decoder": ["dec1", "dec2"]}
    plain, drawing = draw(unet, ROWS), draw(unet, ROWS, groups)
    fills = {
        texts(group)[0]: (
            group.find(f"{SVG}rect").get("fill"),
            group.find(f"{SVG}rect").get("stroke"),
        )
        for group in groups_of(drawing, "part")
    }
    assert fills["enc1"] == fills["enc2"]
    assert fills["dec1"] == fills["dec2"]
    assert len({fills["enc1"], fills["dec1"], fills["middle"]}) == 3
    assert fills["enc1"][1] == COLOURS[0]
    (legend,) = groups_of(drawing, "legend")
    assert texts(legend) == ["encoder", "decoder"]
    chips = [(chip.get("fill"), chip.get("stroke")) for chip in legend.iter(f"{SVG}rect")]
    assert chips == [fills["enc1"], fills["dec1"]]
    places = [float(text.get("x")) for text in legend.iter(f"{SVG}text")]
    assert places[1] - places[0] > text_width("encoder", 12) + 18
    assert plain.height < float(legend.find(f"{SVG}text").get("y")) + 4 < drawing.height
    assert groups_of(plain, "legend") == []


@pytest.mark.parametrize("accent", [("input", "output"), ("input", "conv1"), ("conv1", "output")])
def test_an_accent_has_a_colour_of_its_own_and_lies_on_top(accent):
    wiring = trace(BasicBlock(4, 4), torch.rand(1, 4, 6, 5), ["input", "conv1", "output"])
    drawing = draw(wiring, [["input", "conv1", "output"]], accent=[accent])
    drawn = groups_of(drawing, "arrow")
    colours = [
        {group.find(f"{SVG}path").get("stroke"), group.find(f"{SVG}polygon").get("fill")}
        for group in drawn
    ]
    assert colours == [{"#222222"}, {"#222222"}, {COLOURS[1]}]
    assert drawn[-1].find(f"{SVG}title").text == " → ".join(accent)


def test_a_missing_shortcut_is_seen_in_the_picture():
    rows = [["input", "conv1", "conv2", "output"]]
    found = []
    for shortcut in ("project", "none"):
        wiring = trace(BasicBlock(4, 4, shortcut=shortcut), torch.rand(1, 4, 6, 5), rows[0])
        found.append(len(groups_of(draw(wiring, rows), "arrow")))
    assert found == [4, 3]


def test_many_arrows_and_a_name_with_signs_of_xml():
    parts = {"<x & y>": "input", **{f"l{n}": str(n) for n in range(4)}}
    wiring = trace(Dense(), torch.rand(1, 4), parts)
    drawing = draw(wiring, [["<x & y>", "l0", "l1"], [None, "l2", "l3"]])
    assert len(groups_of(drawing, "arrow")) == 10
    assert texts(groups_of(drawing, "part")[0])[0] == "<x & y>"


def test_a_notebook_shows_it(unet):
    drawing = draw(unet, ROWS)
    assert drawing._repr_svg_() == drawing.svg
    assert repr(drawing) == f"Drawing({drawing.width} × {drawing.height} pixels)"
    assert isinstance(drawing, Drawing)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"rows": [["input"]]}, ValueError, "the rows leave out 'enc1'"),
        ({"rows": [*ROWS, ["enc3"]]}, KeyError, "no part 'enc3' in the wiring; did you mean 'enc"),
        ({"groups": {"a": ["enc3"]}}, KeyError, "group 'a': no part 'enc3'.*; did you mean"),
        ({"groups": {key: [] for key in "abcdef"}}, ValueError, "at most 5 groups, got 6"),
        ({"accent": [("enc1", "out")]}, KeyError, "no arrow from 'enc1' to 'out' was found"),
    ],
)
def test_errors_say_what_was_expected(unet, settings, kind, words):
    with pytest.raises(kind, match=words):
        draw(unet, **{"rows": ROWS} | settings)


def part(shapes, parameters=0):
    return Part("a", "a", "Linear", shapes, parameters)


@pytest.mark.parametrize(
    ("given", "batch", "expected"),
    [
        pytest.param(part(((2, 8, 7, 5),)), True, ["a", "8 × 7 × 5"], id="a map"),
        pytest.param(part(((2, 8, 7, 5),)), False, ["a", "2 × 8 × 7 × 5"], id="with the batch"),
        pytest.param(part(((2, 4), (2, 4), (2, 3))), True, ["a", "4", "3"], id="each shape once"),
        pytest.param(part(((2,),)), True, ["a"], id="nothing but a batch"),
        pytest.param(part(((2, 1), (2, 2), (2, 3))), True, ["a", "1", "2", "3"], id="three"),
        pytest.param(
            part(((2, 1), (2, 2), (2, 3), (2, 4))), True, ["a", "1", "2", "… 4"], id="four"
        ),
        pytest.param(part((), 7), True, ["a", "7 params"], id="few parameters"),
        pytest.param(part((), 999), True, ["a", "999 params"], id="below a thousand"),
        pytest.param(part((), 1000), True, ["a", "1.00 k params"], id="a thousand"),
        pytest.param(part((), 513_000), True, ["a", "513 k params"], id="thousands"),
        pytest.param(part((), 61_949_149), True, ["a", "61.9 M params"], id="millions"),
        pytest.param(part((), 1_750_000_000), True, ["a", "1.75 G params"], id="billions"),
    ],
)
def test_what_a_box_says(given, batch, expected):
    assert label(given, batch).lines() == expected


def test_the_batch_is_left_out_where_all_share_it():
    same = Wiring((part(((2, 8),)), Part("b", "b", "Linear", ((2, 4),), 0)), ())
    other = Wiring((part(((2, 8),)), Part("b", "b", "Linear", ((3, 4),), 0)), ())
    single = Wiring((part(((),)),), ())
    said = [texts(g) for g in groups_of(draw(same, [["a", "b"]]), "part")]
    assert said == [["a", "8"], ["b", "4"]]
    said = [texts(g) for g in groups_of(draw(other, [["a", "b"]]), "part")]
    assert said == [["a", "2 × 8"], ["b", "3 × 4"]]
    assert texts(groups_of(draw(single, [["a"]]), "part")[0]) == ["a"]


def test_a_box_is_as_large_as_what_it_holds():
    short, long = Label("a", (), "", None), Label("a", ("8" * 30, "8"), "9 params", None)
    assert short.size() == (56 + 16, 16 + 16)
    assert long.size()[0] == pytest.approx(text_width("8" * 30, 12) + 16)
    assert long.size()[1] == 4 * 16 + 16
    tall = Label("a", (), "", torch.zeros(64, 32))
    assert tall.size() == (56 + 16, 16 + 16 + 64 + 6)
    wide = Label("a", (), "", torch.zeros(16, 32))
    assert wide.size() == (64 + 16, 16 + 16 + 32 + 6)


def test_only_the_last_line_is_pale_and_only_the_name_is_bold():
    drawn = ElementTree.fromstring(
        draw_box(Label("a", ("8",), "9 params", None), Box(0, 0, 80, 70))
    )
    name, shape, learns = drawn.iter("text")
    assert (name.get("font-weight"), shape.get("font-weight")) == ("bold", None)
    assert name.get("fill") == shape.get("fill") != learns.get("fill")


def test_width_of_a_text():
    assert text_width(" ", 12) == 0
    assert text_width("width", 24) == pytest.approx(2 * text_width("width", 12), rel=0.05)
    assert text_width("width", 12, "bold") > text_width("width", 12)


@pytest.mark.parametrize(
    ("end", "neck"),
    [((50, 0), (42, 0)), ((-50, 0), (-42, 0)), ((0, 50), (0, 42)), ((0, -50), (0, -42))],
)
def test_a_head_points_where_the_arrow_goes(end, neck):
    drawn = ElementTree.fromstring(draw_arrow(("a", "b"), [(0, 0), end], "#000000"))
    points = numbers(drawn.find("path").get("d"))
    tip, *wings = numbers(drawn.find("polygon").get("points"))
    assert points == [(0, 0), neck]
    assert tip == end
    middle = tuple((a + b) / 2 for a, b in zip(*wings, strict=True))
    assert middle == pytest.approx(neck)
    assert wings[0] != wings[1]


def test_corners_are_round():
    way = [(0, 0), (50, 0), (50, 40), (54, 40), (54, 90)]
    drawn = ElementTree.fromstring(draw_arrow(("a", "b"), way, "#000000"))
    path = drawn.find("path").get("d")
    assert path.startswith("M0.0,0.0 L45.0,0.0 Q50.0,0.0 50.0,5.0 L50.0,35.0 Q50.0,40.0 52.0,40.0")
    assert path.endswith("L54.0,82.0")


def test_a_network_without_arrows_has_boxes():
    wiring = trace(nn.Linear(2, 2), torch.rand(1, 2), ["input"])
    assert len(groups_of(draw(wiring, [["input"]]), "part")) == 1


@pytest.mark.parametrize("kind", [Drawing, Label])
def test_results_are_frozen(kind):
    assert kind.__dataclass_params__.frozen
