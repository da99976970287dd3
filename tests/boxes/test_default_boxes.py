"""Default boxes are the paper's, which torchvision lays in the same order."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from labs.boxes import DefaultBoxes
from labs.models import SSD300_BOXES

SIDES = (38, 19, 10, 5, 3, 1)


def maps(*sizes):
    return [torch.zeros(1, 1, *size) for size in sizes]


def of_torchvision(given, size, clip=True):
    boxes = SSD300_BOXES
    generator = DefaultBoxGenerator(
        [list(r) for r in boxes.ratios],
        scales=list(boxes.scales),
        steps=list(boxes.strides),
        clip=clip,
    )
    images = ImageList(torch.zeros(1, 3, *size), [size])
    return generator(images, given)[0]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("size", [(300, 300)])
def test_equal_to_torchvision(size, clip):
    given = maps(*((side, side) for side in SIDES))
    ours = DefaultBoxes(SSD300_BOXES.scales, SSD300_BOXES.ratios, SSD300_BOXES.strides, clip)
    found = ours(given, size)
    assert found.shape == (8732, 4)  # of the paper's table 3
    torch.testing.assert_close(found, of_torchvision(given, size, clip), rtol=1e-5, atol=1e-3)


def test_a_cell_by_hand():
    boxes = DefaultBoxes(scales=(0.25, 1.0), ratios=((4,),))
    found = boxes(maps((1, 2)), (100, 200))
    assert boxes.counts == [4]
    centres, sizes = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]
    assert centres.tolist() == [[50, 50]] * 4 + [[150, 50]] * 4
    # A square in fractions of the image, one of scale sqrt(.25 * 1), then 4:1 lying and standing.
    expected = [[50, 25], [100, 50], [100, 12.5], [25, 50]]
    torch.testing.assert_close(sizes, torch.tensor(expected * 2))


def test_a_box_is_no_larger_than_the_image_unless_one_asks():
    wide = {"scales": (0.9, 1.0), "ratios": ((4,),)}
    found = DefaultBoxes(**wide)(maps((1, 1)), (10, 10))
    assert (found[:, 2:] - found[:, :2]).max() == 10
    assert (DefaultBoxes(**wide, clip=False)(maps((1, 1)), (10, 10)).max()) > 10


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match=r"expected 2 scales above 0, .*got \(0.1,\)"):
        DefaultBoxes((0.1,), ((2,),))
    with pytest.raises(ValueError, match=r"expected 2 scales above 0, .*got \(0.1, 0\)"):
        DefaultBoxes((0.1, 0), ((2,),))
    with pytest.raises(ValueError, match=r"expected 1 strides.*got \(8, 16\)"):
        DefaultBoxes((0.1, 0.2), ((2,),), (8, 16))
    with pytest.raises(ValueError, match="expected 6 maps, one per level, got 1"):
        SSD300_BOXES(maps((1, 1)), (300, 300))
