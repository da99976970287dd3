import pytest
import torch

from labs.data import aerial_trees
from labs.data.cutouts import SPLITS
from labs.data.scenes import Rendered

COUNTS = {"train": (279, (1035, 1249)), "val": (37, (400, 400)), "test": (61, (400, 400))}


@pytest.mark.parametrize("split", SPLITS)
def test_photographs_and_their_boxes(split):
    data = aerial_trees(split)
    ((image, target),) = data
    count, size = COUNTS[split]
    assert image.shape == (3, *size)
    assert image.dtype == target["boxes"].dtype == torch.float32
    assert 0 <= image.min() < 0.1 < 0.9 < image.max() <= 1
    assert target["labels"].tolist() == [0] * count
    boxes = target["boxes"]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor(size[::-1])).all()
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 9
    assert len(boxes.unique(dim=0)) == count
    assert data.classes == ("tree",)


def test_every_split_is_another_photograph():
    assert len({aerial_trees(split).site for split in SPLITS}) == 3


def test_boxes_lie_on_their_trees():
    """A crown is green or bright, and what lies between is shadow; so a shift would be seen."""
    image, target = aerial_trees("train")[0]
    inside = torch.zeros(image.shape[1:]).bool()
    for x1, y1, x2, y2 in target["boxes"].int().tolist():
        dx, dy = (x2 - x1) // 4, (y2 - y1) // 4
        inside[y1 + dy : y2 - dy, x1 + dx : x2 - dx] = True

    def contrast(dy, dx):
        there = inside.roll((dy, dx), (0, 1))
        warm = image[0] - image[2]  # red minus blue: shadows are blue
        return (warm[there].mean() - warm[~there].mean()).item()

    here = contrast(0, 0)
    assert here > 0.05
    assert all(contrast(*shift) < here for shift in ((20, 0), (-20, 0), (0, 20), (0, -20)))


@pytest.mark.parametrize(("split", "tile", "count"), [("train", 256, 25), ("test", 150, 9)])
def test_tiles_cover_everything(split, tile, count):
    whole, parts = aerial_trees(split), aerial_trees(split, tile)
    image, target = whole[0]
    assert len(parts) == count
    again, found = torch.full_like(image, -1), set()
    for (x1, y1, x2, y2), (part, truth) in zip(parts.corners, parts, strict=True):
        assert part.shape == (3, tile, tile)
        again[:, y1:y2, x1:x2] = part
        assert (truth["boxes"][:, 2:] > truth["boxes"][:, :2]).all()
        assert ((truth["boxes"] >= 0) & (truth["boxes"] <= tile)).all()
        found |= {tuple(box) for box in (truth["boxes"] + torch.tensor([x1, y1, x1, y1])).tolist()}
    assert torch.equal(again, image)
    boxes = {tuple(box) for box in target["boxes"].tolist()}
    assert len(boxes & found) > 0.5 * len(boxes)  # the others are cut
    assert len(found) >= len(boxes) - 2


def test_a_tile_can_be_changed_and_kept():
    data = aerial_trees("test", 128)
    data[0][0].zero_()
    assert data[0][0].any()
    assert len(Rendered(data)) == 16
    assert repr(data) == "AerialTrees(16 of 'test', 3x128x128, 61 trees on OSBS_029)"


def test_errors():
    with pytest.raises(ValueError, match="got 'tset'; did you mean 'test'"):
        aerial_trees("tset")
    for tile in (31, 401, 64.5):
        with pytest.raises(ValueError, match=rf"integer in \[32, 400\], got {tile}"):
            aerial_trees("test", tile)
