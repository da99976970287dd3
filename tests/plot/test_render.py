import io
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.patches import ConnectionPatch
from PIL import Image

from labs import plot
from labs.data.scenes import Scenes
from labs.plot.render import render

TEXT = "{http://www.w3.org/2000/svg}text"


def words(picture):
    return {"".join(e.itertext()) for e in ElementTree.fromstring(picture.data).iter(TEXT)}


def opened(picture):
    return Image.open(io.BytesIO(picture.data))


def test_curves_are_drawn_with_text_as_text_and_the_same_every_time():
    files = []
    for _ in range(2):
        figure, ax = plot.new(5, 2)
        ax.plot([1, 2], label="loss")
        ax.set_xlabel("training step")
        (picture,) = render(figure)
        files.append(picture.data)
    assert picture.mime == "image/svg+xml"
    assert "training step" in words(picture)
    assert files[0] == files[1]
    assert (picture.width, picture.height) == (480, 192)


def test_pictures_are_twice_as_sharp_as_the_page():
    figure, ax = plot.new(4, 3)
    plot.images(ax, torch.rand(1, 1, 8, 8).round())
    (picture,) = render(figure)
    assert picture.mime == "image/webp"
    assert len(opened(picture).convert("RGB").getcolors()) <= 256
    assert (picture.width, picture.height) == (384, 288)
    assert opened(picture).size == (768, 576)


def test_a_photograph_keeps_its_look():
    figure, ax = plot.new(4, 3)
    plot.images(ax, Scenes("val", 1, things=("photos",))[0][0][None])
    exact = io.BytesIO()
    figure.savefig(exact, format="png", dpi=2 * plot.DPI)
    (picture,) = render(figure)
    difference = np.abs(
        np.asarray(opened(picture).convert("RGB"), float)
        - np.asarray(Image.open(exact).convert("RGB"), float)
    )
    assert difference.mean() < 4


def test_flat_areas_are_kept_to_the_pixel_and_photographs_are_small():
    sizes = {}
    for name, image in [
        ("flat", torch.eye(8).repeat(3, 1, 1)),
        ("photograph", Scenes("val", 1, things=("photos",))[0][0]),
    ]:
        figure, ax = plot.new(3, 3)
        plot.images(ax, image[None])
        exact = io.BytesIO()
        figure.savefig(exact, format="png", dpi=2 * plot.DPI)
        (picture,) = render(figure)
        difference = np.asarray(opened(picture).convert("RGB"), int)
        difference = difference - np.asarray(Image.open(exact).convert("RGB"), int)
        sizes[name] = len(picture.data)
        worst = (
            8 if name == "flat" else 120
        )  # of 255: a palette of greys; the edges of a photograph
        assert np.abs(difference).max() <= worst
    assert sizes["photograph"] < 20_000


def test_columns_of_panels_become_pictures_that_together_are_the_figure():
    figure, axes = plot.new(6, 2, columns=3)
    for ax, name in zip(axes, ("left", "middle", "right"), strict=True):
        ax.plot([0, 1])
        ax.set_title(name)
    pictures = render(figure)
    assert sum(picture.width for picture in pictures) == 576
    assert [words(p) & {"left", "middle", "right"} for p in pictures] == [
        {"left"},
        {"middle"},
        {"right"},
    ]
    assert all(ax.get_visible() for ax in axes)


def test_a_raster_is_cut_between_its_panels_and_nothing_is_lost():
    figure, axes = plot.new(6, 2, columns=2)
    plot.images(axes, torch.zeros(2, 1, 4, 4), titles=["a", "b"])
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=192)
    left, right = render(figure)
    dark = sum((np.asarray(opened(p).convert("L")) < 60).sum() for p in (left, right))
    assert abs(dark / (np.asarray(Image.open(whole).convert("L")) < 60).sum() - 1) < 0.02


def test_rows_stay_together_and_a_colour_bar_with_its_panel():
    figure, axes = plot.new(6, 4, rows=2, columns=2)
    heat = axes[0, 1].imshow(np.eye(3))
    figure.colorbar(heat, ax=axes[0, 1])
    left, right = render(figure)
    assert right.width > left.width > 100
    assert left.height == right.height == 384


@pytest.mark.parametrize(
    "spoil",
    [
        lambda figure, axes: figure.suptitle("over both"),
        lambda figure, axes: figure.legend(handles=axes[0].plot([1], label="both")),
        lambda figure, axes: figure.add_artist(
            ConnectionPatch((0, 0), (1, 1), "data", "data", axesA=axes[0], axesB=axes[1])
        ),
    ],
    ids=["title", "legend", "arrow"],
)
def test_a_figure_that_belongs_together_is_not_cut(spoil):
    figure, axes = plot.new(6, 2, columns=2)
    spoil(figure, axes)
    assert len(render(figure)) == 1


def test_a_figure_is_not_cut_when_the_caller_says_so():
    assert len(render(plot.new(columns=2)[0], split=False)) == 1


def test_the_smallest_letters_are_measured_where_they_are_seen():
    figure, axes = plot.new(6, 2, columns=2)
    axes[0].set_title("small", fontsize=6)
    plot.images(axes[1], torch.rand(1, 4, 4), titles=["large"])
    axes[1].set_title("large", fontsize=12)
    left, right = render(figure)
    assert left.text == pytest.approx(6 * 96 / 72)
    assert right.text == pytest.approx(12 * 96 / 72)  # the labels of hidden axes do not count


def test_thousands_of_marks_are_a_picture():
    figure, ax = plot.new()
    ax.scatter(*np.random.default_rng(0).random((2, 5000)))
    (picture,) = render(figure)
    assert picture.mime == "image/webp"


@pytest.mark.parametrize("svg", ["", "<svg></svg>", '<svg width="3"></svg>', "<p/>"])
def test_a_drawing_without_a_size_is_refused(svg):
    drawing = type("Drawing", (), {"svg": svg})()
    with pytest.raises(ValueError, match="expected an <svg> with width and height"):
        render(drawing)
