"""The detector of the study: its anchors come from the objects that it is trained on."""

import pytest
import torch

from labs.studies.detection.levels import build, scenes_of


@pytest.mark.parametrize("strides", [(16,), (8, 16), (8, 16, 32)])
def test_six_anchors_have_the_sizes_of_the_objects(strides):
    train = scenes_of("train", 24, 0)
    anchors = torch.tensor(build(strides, train).criterion.anchors)
    assert anchors.shape == (len(strides), 6 // len(strides), 2)
    sizes = torch.cat([t["boxes"][:, 2:] - t["boxes"][:, :2] for t in train.targets])
    assert (anchors >= sizes.amin(0) - 1e-3).all()
    assert (anchors <= sizes.amax(0) + 1e-3).all()
