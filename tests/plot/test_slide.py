import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from labs import plot


def frames(count, image=False):
    made = {}
    for k in range(count):
        figure, ax = plot.new(4, 2)
        if image:
            plot.images(ax, torch.full((1, 2, 2), k / count))
        else:
            ax.plot([0, k])
        made[f"step {k}"] = figure
    return made


def test_each_stop_shows_its_frame_and_only_the_first_loads_at_once(shown):
    plot.slide(frames(5), "training step", "The line turns.")
    stops = re.findall(
        r'<input type="radio" name="(\S+)" id="(\S+)"( checked)?><label for="(\S+)">', shown.html
    )
    assert [stop[2] for stop in stops] == [" checked", "", "", "", ""]
    assert len({name for name, *_ in stops}) == 1
    assert all(id_ == target for _, id_, _, target in stops)
    assert [size.get("loading") for *_, size in shown.images()] == [None, *4 * ["lazy"]]
    for k, (_, id_, _, _) in enumerate(stops, 1):
        assert f"#{id_}:checked~.frames>:nth-child({k}){{display:block}}" in shown.html
    assert "<figcaption>The line turns.</figcaption>" in shown.html


def test_every_frame_is_described_with_its_stop(shown):
    plot.slide(frames(6), "training step", "The line turns.", alt="A line")
    assert [alt for _, _, alt, _ in shown.images()][:2] == [
        "training step step 0: A line",
        "training step step 1: A line",
    ]


def test_print_shows_the_first_the_middle_and_the_last(shown):
    plot.slide(frames(9), "step", "The line turns.")
    print_rule = shown.html.split("@media print")[1]
    assert re.findall(r"nth-child\((\d+)\)", print_rule) == ["1", "5", "9"]


def test_the_first_frame_stands_alone_where_html_is_not_shown(shown):
    plot.slide(frames(5, image=True), "step", "It gets lighter.")
    alone = Image.open(io.BytesIO(base64.b64decode(shown[0]["image/png"]))).convert("RGB")
    first = shown.pictures()[0].convert("RGB")
    assert alone.size == (384, 192)
    assert first.size == (768, 384)
    assert np.abs(np.asarray(first.resize(alone.size), int) - np.asarray(alone, int)).mean() < 3


def test_two_sliders_of_a_page_do_not_move_each_other(shown):
    plot.slide(frames(5), "step", "One.")
    plot.slide(frames(5), "step", "Two.")
    names = [re.search(r'name="(\S+)"', bundle["text/html"])[1] for bundle in shown]
    assert names[0] != names[1]


@pytest.mark.parametrize(("count", "what"), [(4, "step"), (13, "step"), (5, " ")])
def test_what_is_no_slider_is_refused(count, what, shown):
    with pytest.raises(ValueError, match="slide: expected 5 to 12 frames and what they differ in"):
        plot.slide(frames(count), what, "It moves.")
    assert shown == []
