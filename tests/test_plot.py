import base64
import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from labs import plot
from labs.data.scenes import Scenes


@pytest.fixture
def shown(monkeypatch):
    """Return the list of what was displayed, as (data, keywords)."""
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda data, **kw: calls.append((data, kw)))
    return calls


def picture_of(call):
    return Image.open(io.BytesIO(base64.b64decode(call[0]["image/png"])))


def test_a_figure_is_displayed_once_with_its_description_and_closed(shown):
    figure, ax = plot.new(5, 2)
    ax.plot([1, 2])
    assert plot.show(figure, alt="A line that rises.") is None
    ((data, keywords),) = shown
    assert keywords == {"metadata": {"image/png": {"alt": "A line that rises."}}, "raw": True}
    assert data["text/plain"] == "A line that rises."
    assert picture_of(shown[0]).size == (480, 192)


def test_a_photograph_keeps_its_look_in_256_colours(shown):
    figure, ax = plot.new(4, 3)
    plot.images(ax, Scenes("val", 1)[0][0][None])
    exact = io.BytesIO()
    figure.savefig(exact, format="png", dpi=plot.DPI)
    plot.show(figure, alt="A scene.")
    small, large = picture_of(shown[0]), Image.open(exact).convert("RGB")
    difference = np.abs(np.asarray(small.convert("RGB"), float) - np.asarray(large, float))
    assert small.mode == "P"
    assert difference.mean() < 4
    assert small.convert("RGB").getpixel((0, 0)) == large.getpixel((0, 0))


def test_a_figure_of_pyplot_is_closed_and_no_sharper_than_100_dpi(shown):
    figure, _ = pyplot.subplots(figsize=(2, 1), dpi=300)
    plot.show(figure, alt="An empty box.")
    assert not pyplot.fignum_exists(figure.number)
    assert picture_of(shown[0]).width == 192


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_a_figure_without_description_is_refused(alt, shown):
    with pytest.raises(ValueError, match="expected alt text, got none"):
        plot.show(plot.new()[0], alt=alt)
    assert shown == []


def test_titles_move_left_and_keep_their_size(shown):
    figure, ax = plot.new()
    ax.set_title("Depth hurts", fontsize=7)
    plot.show(figure, alt="Nothing.")
    assert (ax.get_title(), ax.get_title(loc="left")) == ("", "Depth hurts")
    assert ax._left_title.get_fontsize() == 7


def test_the_style_stays_out_of_the_settings_and_of_pyplot(shown):
    before = matplotlib.rcParams.copy()
    figure, ax = plot.new()
    plot.curves(ax, pd.DataFrame({"x": [0, 1], "y": [0, 1]}), "x", "y")
    plot.show(figure, alt="A line.")
    assert matplotlib.rcParams == before
    assert pyplot.get_fignums() == []


def test_the_style_is_the_same_under_a_dark_theme():
    with pyplot.style.context("dark_background"):
        figure, ax = plot.new()
    red, green, blue = to_rgb(figure.get_facecolor())
    assert min(red, green, blue) > 0.95
    assert figure.get_facecolor()[3] == 1
    assert max(to_rgb(ax.xaxis.label.get_color())) < 0.2
    assert not ax.spines["top"].get_visible()
    assert to_hex(ax.plot([0, 1])[0].get_color()).upper() == plot.COLOURS[0]


@pytest.mark.parametrize(("rows", "columns", "shape"), [(1, 1, ()), (1, 3, (3,)), (2, 3, (2, 3))])
def test_axes_come_as_from_subplots(rows, columns, shape):
    assert np.shape(plot.new(rows=rows, columns=columns)[1]) == shape


def test_the_palette_is_okabe_and_ito():
    assert len(set(plot.COLOURS)) == 8
    assert {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2"} < set(plot.COLOURS)
    assert {"#D55E00", "#CC79A7", "#000000"} < set(plot.COLOURS)


def test_pictures_fill_the_axes_in_order_and_the_rest_goes_blank():
    _, axes = plot.new(rows=2, columns=2)
    pictures = torch.rand(3, 1, 4, 5)
    assert plot.images(axes, pictures, titles=["a", "b", "c"]) is axes
    for ax, picture in zip(axes.ravel(), pictures, strict=False):
        np.testing.assert_allclose(ax.images[0].get_array(), picture[0], rtol=1e-6)
    assert [ax.get_title() for ax in axes.ravel()] == ["a", "b", "c", ""]
    assert not any(ax.axison for ax in axes.ravel())


def test_colours_maps_and_single_axes():
    _, ax = plot.new()
    photo = torch.rand(1, 3, 4, 5, requires_grad=True)
    plot.images(ax, photo)
    np.testing.assert_allclose(ax.images[0].get_array(), photo[0].detach().permute(1, 2, 0))
    maps = torch.tensor([[[-1.0, 3.0]]])
    plot.images(ax, maps, limits=None)
    assert ax.images[1].get_array().ravel().tolist() == [0, 1]
    plot.images(ax, maps, limits=(-5, 5), cmap="RdBu")
    np.testing.assert_allclose(ax.images[2].get_array().ravel(), [0.4, 0.8], rtol=1e-6)
    assert ax.images[2].get_cmap().name == "RdBu"
    plot.images(ax, torch.ones(1, 2, 2), limits=None)  # constant: no division by zero
    assert np.isfinite(ax.images[3].get_array()).all()


@pytest.mark.parametrize(
    ("pictures", "titles", "message"),
    [
        (torch.rand(3, 1, 2, 2), None, "at most 2 pictures.*got 3 pictures"),
        (torch.rand(2, 1, 2, 2), ["one"], "got 2 pictures and 1 titles"),
        (torch.rand(2, 2, 2, 2), None, r"\[n,3,H,W\].*got \(2, 2, 2, 2\)"),
        (torch.full((1, 1, 2, 2), 2.6), None, r"values in \[0, 1\], got \[2.6, 2.6\]; undo"),
        (torch.full((1, 1, 2, 2), float("nan")), None, r"got \[nan, nan\]"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pictures, titles, message):
    _, axes = plot.new(columns=2)
    with pytest.raises(ValueError, match=message):
        plot.images(axes, pictures, titles)


def test_heat_is_laid_over_grey_and_is_transparent_where_cold():
    _, ax = plot.new()
    heat = torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    assert plot.overlay(ax, torch.rand(3, 2, 2), heat) is ax
    grey, hot = ax.images
    assert grey.get_array().shape == (2, 2)
    np.testing.assert_allclose(hot.get_alpha(), 0.85 * heat)


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        (torch.rand(3, 3), r"same size, got \(3, 2, 2\) and \(3, 3\)"),
        (torch.ones(2, 2) * 2, "2, 2"),
    ],
)
def test_heat_that_does_not_fit_is_refused(heat, message):
    with pytest.raises(ValueError, match=message):
        plot.overlay(plot.new()[1], torch.rand(3, 2, 2), heat)


def test_curves_show_the_mean_and_the_range_of_the_runs():
    runs = pd.DataFrame(
        {
            "step": [0, 1, 0, 1, 0, 1],
            "loss": [2.0, 1.0, 4.0, 3.0, 9.0, 9.0],
            "net": ["a", "a", "a", "a", "b", "b"],
        }
    )
    _, ax = plot.new()
    assert plot.curves(ax, runs, "step", "loss", "net") is ax
    assert [line.get_ydata().tolist() for line in ax.lines] == [[3, 2], [9, 9]]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1, 4)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "loss")


def test_a_missing_column_is_named():
    with pytest.raises(KeyError, match="no column 'lost'; there are step, loss"):
        plot.curves(plot.new()[1], pd.DataFrame({"step": [0], "loss": [1]}), "step", "lost")
