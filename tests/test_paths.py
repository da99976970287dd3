import pytest
from torch import nn

from labs.models.blocks import Conv
from labs.models.paths import gradient_paths
from labs.models.yolo_v7 import ELAN, YOLOv7


def test_a_row_of_layers_has_one_way():
    paths = gradient_paths(nn.Sequential(*(Conv(2, 2) for _ in range(4))))
    assert paths.shortest == paths.longest == (3, 2, 1, 0)
    assert paths.layers == tuple(f"{i}.conv" for i in range(4))


@pytest.mark.parametrize("pairs", [1, 2, 5])
def test_elan_keeps_the_shortest_path_short_however_deep(pairs):
    table = gradient_paths(ELAN(4, 4, 4, pairs=pairs)).table().set_index("layer")
    # The first convolution of a pair comes through the second, and all through the last.
    assert table.loc["around.conv"].tolist() == [1, 1]
    assert table.loc["start.conv"].tolist() == [1, 2 * pairs + 1]
    assert table.loc["row.0.conv"].tolist() == [2, 2 * pairs]
    assert table.loc["row.1.conv"].tolist() == [1, 2 * pairs - 1]
    assert table["shortest"].max() == 2


def test_a_whole_network_and_its_repr():
    paths = gradient_paths(YOLOv7(3, width=0.0625, strides=(8, 16)))
    assert min(paths.shortest) == 0
    assert "the longest shortest path" in repr(paths)


def test_a_block_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="expected a block with a Conv2d"):
        gradient_paths(nn.Sequential(nn.ReLU()))
