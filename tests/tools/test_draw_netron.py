"""The picture that Netron drew must show the network that the lesson exports."""

import onnx
from PIL import Image

from tools.draw_netron import ENDS, PICTURE, exported, in_rows


def test_the_rows_end_with_nodes_of_the_exported_graph_in_order(tmp_path):
    nodes = [node.name for node in onnx.load(exported(tmp_path)).graph.node]
    assert [name for name in nodes if name in ENDS] == list(ENDS)


def test_the_picture_is_small():
    assert PICTURE.stat().st_size < 60_000


def test_a_long_picture_is_cut_behind_each_end_and_stacked():
    whole = Image.new("RGB", (300, 80), "white")
    whole.paste("red", (10, 30, 50, 40))
    whole.paste("blue", (200, 30, 220, 50))
    picture = in_rows(whole, [60])
    colours = {colour: n for n, colour in picture.getcolors()}
    assert (colours[(255, 0, 0)], colours[(0, 0, 255)]) == (400, 400)
    assert picture.width < 100 < picture.height
