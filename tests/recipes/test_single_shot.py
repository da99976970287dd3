"""The small SSD has maps of its strides, boxes of its settings, and learns where a digit is."""

from dataclasses import replace

import pytest
import torch

from labs.boxes.default_boxes import DefaultBoxes
from labs.recipes import mini_ssd
from labs.recipes.single_shot import MINI_SSD_BOXES, STRIDES


def test_it_has_at_most_300_000_parameters():
    assert sum(p.numel() for p in mini_ssd(10).network.parameters()) == 288_348


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        pytest.param((128, 128), [(16, 16), (8, 8), (4, 4), (2, 2)], id="a scene"),
        pytest.param((64, 128), [(8, 16), (4, 8), (2, 4), (1, 2)], id="not square"),
        pytest.param((100, 72), [(13, 9), (7, 5), (4, 3), (2, 2)], id="no multiple of 64"),
    ],
)
def test_each_map_has_a_cell_for_each_stride(size, cells):
    backbone = mini_ssd(1).network.backbone.eval()
    maps = backbone(torch.rand(1, 3, *size))
    assert [tuple(one.shape[2:]) for one in maps] == cells
    assert tuple(one.shape[1] for one in maps) == backbone.channels


def test_the_boxes_of_a_scene_stand_on_the_middles_of_their_cells():
    references = mini_ssd(1).network(torch.rand(1, 3, 128, 128)).references
    assert len(references) == 6 * 16**2 + 6 * 8**2 + 4 * 4**2 + 4 * 2**2
    first = references[:6]
    middles = (first[:, :2] + first[:, 2:]) / 2
    assert torch.allclose(middles, torch.full((6, 2), STRIDES[0] / 2))
    middle = (references[-1, :2] + references[-1, 2:]) / 2
    assert middle.tolist() == pytest.approx([128 - STRIDES[-1] / 2] * 2)
    sides = (first[:, 2:] - first[:, :2]).tolist()
    assert sides[0] == pytest.approx([0.18 * 128] * 2)
    assert sides[-1] == pytest.approx([0.18 * 128 / 3**0.5, 0.18 * 128 * 3**0.5])


def test_other_default_boxes_take_their_place():
    half = replace(MINI_SSD_BOXES, scales=[s / 2 for s in MINI_SSD_BOXES.scales])
    images = torch.rand(1, 3, 128, 128)
    before, after = (mini_ssd(1, b).network(images).references for b in (MINI_SSD_BOXES, half))
    assert torch.allclose((after[:, 2:] - after[:, :2]) * 2, before[:, 2:] - before[:, :2])
    with pytest.raises(ValueError, match="expected channels of 1 maps"):
        mini_ssd(1, DefaultBoxes((0.2, 0.3), ((2,),)))


def test_it_learns_a_scene_by_heart():
    torch.manual_seed(0)
    detector = mini_ssd(2)
    images = torch.zeros(2, 3, 64, 64)
    images[0, :, 10:40, 8:28] = 1
    images[1, 0, 30:60, 30:50] = 1
    boxes = torch.tensor([[8.0, 10, 28, 40], [30, 30, 50, 60]])
    targets = [{"boxes": boxes[k, None], "labels": torch.tensor([k])} for k in range(2)]
    descent = torch.optim.AdamW(detector.network.parameters(), lr=5e-3)
    for _ in range(60):
        descent.zero_grad()
        detector.loss(detector.network, (images, targets)).backward()
        descent.step()
    raw = detector.network(images)  # in train mode, as when it learnt
    for k, found in enumerate(detector.postprocess(raw)):
        assert found["labels"][0] == k
        assert (found["boxes"][0] - boxes[k]).abs().max() < 3


def test_grey_is_zero_for_the_first_layer():
    backbone, seen = mini_ssd(1).network.backbone, []
    backbone.stages[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    backbone(torch.full((2, 3, 64, 64), 0.75))
    assert (seen[0] == 0.25).all()
