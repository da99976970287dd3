import pytest
import torch

from labs.boxes import cell_centres, cell_corners, flatten_levels, widen

HALF = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64])
def test_corners_and_centres_are_exact_in_any_precision(dtype):
    like = torch.zeros(0, dtype=dtype)
    corners, centres = cell_corners(3, 3000, like), cell_centres(3, 3000, like)
    assert corners.dtype == centres.dtype == torch.promote_types(dtype, torch.float32)
    assert corners[2, :, 0].tolist() == list(range(3000))
    assert corners[:, 2999, 1].tolist() == [0, 1, 2]
    assert torch.equal(centres, corners + 0.5)


@pytest.mark.parametrize("dtype", HALF)
def test_the_points_of_half_precision_maps_are_exact(dtype):
    maps = [torch.zeros(1, 2, 1, 320, dtype=dtype), torch.zeros(1, 2, 1, 160, dtype=dtype)]
    _, points, sides = flatten_levels(maps, (8, 16))
    assert points[:320, 0].tolist() == [8 * i + 4 for i in range(320)]
    assert points[320:, 0].tolist() == [16 * i + 8 for i in range(160)]
    assert sides[[0, 320], 0].tolist() == [8, 16]
    assert points.dtype == sides.dtype == torch.float32


def test_widen_leaves_what_is_wide():
    assert [widen(torch.zeros(1, dtype=dtype)).dtype for dtype in HALF] == [torch.float32] * 2
    assert widen(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
