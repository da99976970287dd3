"""A cut neck keeps its weights, and nothing passes where it was cut."""

import copy

import pytest
import torch

from labs.models.yolo_v4 import PAN
from labs.studies.detection import neck


@pytest.fixture(scope="module")
def whole():
    torch.manual_seed(0)
    return PAN((8, 16)).eval()


def hears(pan, level, source):
    """Say whether a level that comes out depends on a map that goes in."""
    torch.manual_seed(1)
    maps = [torch.randn(1, c, s, s, requires_grad=True) for c, s in ((8, 8), (16, 4))]
    (slope,) = torch.autograd.grad(pan(maps)[level].sum(), maps[source], allow_unused=True)
    return slope is not None and bool((slope != 0).any())


@pytest.mark.parametrize(
    ("part", "fine_hears_coarse", "coarse_hears_fine"),
    [("nothing", True, True), ("way up", False, True), ("way down", True, False)],
)
def test_a_cut_arrow_carries_nothing_and_the_other_one_does(
    whole, part, fine_hears_coarse, coarse_hears_fine
):
    pan = copy.deepcopy(whole)
    neck.cut(pan, part)
    assert hears(pan, 0, 1) == fine_hears_coarse
    assert hears(pan, 1, 0) == coarse_hears_fine


@pytest.mark.parametrize("part", ["nothing", "SPP", "way up", "way down"])
def test_a_cut_changes_no_weight_and_no_count(whole, part):
    pan = copy.deepcopy(whole)
    neck.cut(pan, part)
    for before, after in zip(whole.parameters(), pan.parameters(), strict=True):
        assert torch.equal(before, after)


def test_without_windows_spp_sees_one_cell(whole):
    pan = copy.deepcopy(whole)
    neck.cut(pan, "SPP")
    assert pan.top[2].kernels == (1, 1, 1)


def test_the_maps_are_those_before_the_pools_of_the_backbone():
    from labs.data.scenes import Rendered, Scenes

    network = neck._shipped()[1]
    data = Rendered(Scenes("val", 2))
    seen = neck.look(network, data)
    with torch.no_grad():
        fine, coarse = network.backbone(data.images.float() / 255)
        pooled = network.backbone.pool(seen.maps[1])
    torch.testing.assert_close(seen.maps[0], fine)
    torch.testing.assert_close(pooled, coarse)


def test_loading_draws_nothing_from_the_random_state_of_a_run():
    states = []
    for clear in (True, False):
        if clear:
            neck._shipped.cache_clear()
            neck._seen.cache_clear()
        torch.manual_seed(3)
        states.append(next(neck.train_cut("nothing", 16, 12, 4))["loss"])
    assert states[0] == pytest.approx(states[1], rel=1e-5)
