import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex, to_rgb

from labs import plot


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
