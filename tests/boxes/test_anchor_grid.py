"""Anchors lie where torchvision lays them."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from labs.boxes import AnchorGrid


def maps(*shapes):
    return [torch.zeros(2, 1, *shape) for shape in shapes]


def test_it_agrees_with_torchvision():
    sizes, ratios = ((16, 24), (32, 50)), (0.5, 1.0, 3.0)
    levels = maps((6, 9), (3, 5))
    images = ImageList(torch.zeros(2, 3, 48, 72), [(48, 72)] * 2)
    expected = AnchorGenerator(sizes, (ratios,) * 2)(images, levels)[0]
    assert torch.equal(AnchorGrid(sizes, ratios)(levels, (48, 72)), expected)


def test_the_middle_of_the_cell_and_exact_sides():
    grid = AnchorGrid(((10,),), (1.0, 4.0), offset=0.5, rounded=False)
    found = grid(maps((2, 3)), (16, 24))
    assert found.shape == (2 * 3 * 2, 4)
    assert found[0].tolist() == [-1, -1, 9, 9]  # around (4, 4)
    torch.testing.assert_close(found[1], torch.tensor([1.5, -6, 6.5, 14]))  # four times as high
    torch.testing.assert_close(found[2], torch.tensor([7.0, -1, 17, 9]))  # the cell to the right


@pytest.mark.parametrize(
    ("sizes", "ratios"),
    [((), (1,)), (((),), (1,)), (((0,),), (1,)), (((8,),), ()), (((8,),), (-1,))],
)
def test_what_lays_no_anchors_is_refused(sizes, ratios):
    with pytest.raises(ValueError, match="at least one size of each level"):
        AnchorGrid(sizes, ratios)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ValueError, match="expected 1 maps, one per level, got 2"):
        AnchorGrid(((8,),))(maps((2, 2), (1, 1)), (16, 16))
