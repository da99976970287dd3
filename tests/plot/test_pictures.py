import numpy as np
import pytest
import torch

from labs import plot


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
