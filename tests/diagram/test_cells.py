"""Cells, offsets and anchors lie where their pixels are."""

import pytest
import torch
from matplotlib.colors import to_rgb

from labs.diagram import draw_anchors, draw_cells
from labs.plot import COLOURS, images, new


@pytest.fixture
def ax():
    _, ax = new(2, 2)
    images(ax, torch.zeros(1, 24, 40))
    return ax


def places(ax):
    """Return x of the vertical and y of the horizontal lines."""
    vertical, horizontal = (collection.get_segments() for collection in ax.collections)
    return [line[0][0] for line in vertical], [line[0][1] for line in horizontal]


def test_lines_run_between_the_pixels(ax):
    assert draw_cells(ax, (24, 40), 8) is ax
    xs, ys = places(ax)
    assert xs == [-0.5, 7.5, 15.5, 23.5, 31.5, 39.5]
    assert ys == [-0.5, 7.5, 15.5, 23.5]
    vertical, horizontal = (collection.get_segments()[0] for collection in ax.collections)
    assert vertical.tolist() == [[-0.5, -0.5], [-0.5, 23.5]]
    assert horizontal.tolist() == [[-0.5, -0.5], [39.5, -0.5]]
    assert len(ax.patches) == 0


def test_the_last_cells_may_be_cut_off(ax):
    draw_cells(ax, (20, 40), 16)
    assert places(ax) == ([-0.5, 15.5, 31.5], [-0.5, 15.5])


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_centre_has_its_cell_and_an_arrow_from_its_corner(ax, as_tensor):
    centres = [(19.0, 9.0), (8.0, 23.5)]
    draw_cells(ax, (24, 40), 8, torch.tensor(centres) if as_tensor else centres)
    cells, arrows = ax.patches[::2], ax.patches[1::2]
    corners = [(15.5, 7.5), (7.5, 15.5)]
    assert [cell.get_xy() for cell in cells] == corners
    assert {(cell.get_width(), cell.get_height()) for cell in cells} == {(8, 8)}
    ends = [(18.5, 8.5), (7.5, 23.0)]
    assert [arrow._posA_posB for arrow in arrows] == [
        list(pair) for pair in zip(corners, ends, strict=True)
    ]
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines]
    assert dots == ends
    assert {line.get_color() for line in ax.lines} == {COLOURS[1]}
    assert {cell.get_facecolor()[:3] for cell in cells} == {to_rgb(COLOURS[0])}


def test_cells_of_one_pixel(ax):
    draw_cells(ax, (2, 3), 1, colour="black")
    assert places(ax) == ([-0.5, 0.5, 1.5, 2.5], [-0.5, 0.5, 1.5])
    assert ax.collections[0].get_color()[0][:3].tolist() == [0, 0, 0]


def test_anchors_are_as_large_as_they_are(ax):
    limits = ax.get_xlim(), ax.get_ylim()
    assert draw_anchors(ax, [(10, 6), (100, 60)], (12.0, 9.0)) is ax
    small, large = ax.patches
    assert (small.get_xy(), small.get_width(), small.get_height()) == ((6.5, 5.5), 10, 6)
    assert (large.get_xy(), large.get_width(), large.get_height()) == ((-38.5, -21.5), 100, 60)
    assert not small.get_fill()
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    assert (ax.lines[0].get_xdata()[0], ax.lines[0].get_ydata()[0]) == (11.5, 8.5)
    assert ax.lines[0].get_color() == COLOURS[4]
    assert small.get_edgecolor()[:3] == to_rgb(COLOURS[4])


def test_anchors_as_a_tensor_and_none_at_all(ax):
    draw_anchors(ax, torch.tensor([[10.0, 6.0]]), (12.0, 9.0), colour="black")
    assert ax.patches[0].get_edgecolor() == (0, 0, 0, 1)
    draw_anchors(ax, [], (12.0, 9.0))
    assert len(ax.patches) == 1


@pytest.mark.parametrize("stride", [0, -8])
def test_a_stride_is_above_zero(ax, stride):
    with pytest.raises(ValueError, match=f"expected a stride above 0, got {stride}"):
        draw_cells(ax, (24, 40), stride)


@pytest.mark.parametrize("centre", [(-1, 3), (3, -1), (40, 3), (3, 24)])
def test_a_centre_is_on_the_image(ax, centre):
    words = r"expected centres within 40 × 24 pixels, got \({}, {}\)".format(*centre)
    with pytest.raises(ValueError, match=words):
        draw_cells(ax, (24, 40), 8, [centre])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (-2, 3)])
def test_an_anchor_has_a_size(ax, shape):
    words = "expected widths and heights above 0, got {} × {}".format(*shape)
    with pytest.raises(ValueError, match=words):
        draw_anchors(ax, [shape], (3.0, 3.0))
