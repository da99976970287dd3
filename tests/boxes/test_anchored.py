import pytest
import torch

from labs.boxes.anchored import decode_anchored, split_anchors
from tests.criteria.anchored import encode_anchored


def test_zeros_are_the_anchors_in_the_middle_of_the_cells():
    corners = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    boxes = decode_anchored(torch.zeros(2, 4), corners, torch.tensor([10.0, 20.0]), 8)
    assert boxes.tolist() == [[-1, -6, 9, 14], [23, 2, 33, 22]]


def test_a_box_within_reach_survives_the_round_trip():
    torch.manual_seed(0)
    corners = torch.randint(0, 9, (100, 2)).double()
    anchors = 5 + 40 * torch.rand(100, 2, dtype=torch.float64)
    centre = (corners + torch.empty_like(corners).uniform_(-0.49, 1.49)) * 16
    half = anchors * torch.empty_like(anchors).uniform_(0.01, 3.99) / 2
    boxes = torch.cat([centre - half, centre + half], 1)
    values = encode_anchored(boxes, corners, anchors, 16)
    torch.testing.assert_close(decode_anchored(values, corners, anchors, 16), boxes)


@pytest.mark.parametrize(
    ("box", "bad"),
    [
        pytest.param([11, 0, 21, 10], [True, False, False, False], id="centre too far right"),
        pytest.param([0, -20, 8, 20], [False, False, False, True], id="four times as high"),
        pytest.param([4, 0, 4, 10], [False, False, True, False], id="no width"),
    ],
)
def test_a_box_out_of_reach_is_not_finite(box, bad):
    values = encode_anchored(torch.tensor(box).float(), torch.zeros(2), torch.tensor([10.0] * 2), 8)
    assert (~values.isfinite()).tolist() == bad


def test_gradients_are_those_of_the_formula():
    torch.manual_seed(0)
    corners, anchors = torch.ones(3, 2).double(), torch.full([3, 2], 12.0).double()
    values = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda v: decode_anchored(v, corners, anchors, 8), values)


def test_split_gives_each_anchor_its_numbers():
    level = torch.arange(2 * 14 * 3 * 5).view(2, 14, 3, 5).float()
    split = split_anchors(level, 2)
    assert split.shape == (2, 2, 3, 5, 7)
    assert torch.equal(split[1, 1, 2, 4], level[1, 7:, 2, 4])


def test_split_keeps_double_and_lifts_half():
    level = torch.zeros(1, 7, 2, 2)
    assert split_anchors(level.bfloat16(), 1).dtype == torch.float32
    assert split_anchors(level.double(), 1).dtype == torch.float64


def test_split_refuses_channels_that_cannot_be_shared():
    with pytest.raises(ValueError, match=r"expected \[N, 3\*\(5\+C\), H, W\].*got \(1, 14, 2, 2\)"):
        split_anchors(torch.zeros(1, 14, 2, 2), 3)
