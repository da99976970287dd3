"""The study of the tricks of YOLOv4: each arm lacks its trick, and only that."""

import pytest
import torch
from torch import nn

from labs.data.scenes import Rendered, Scenes
from labs.models import YOLOv4
from labs.studies.detection.bag import EXPERIMENT, TRICKS, build, half_mosaics, train_without


@pytest.fixture(scope="module")
def scenes() -> Rendered:
    return Rendered(Scenes("train", 8, things=("digits", "photos")))


def traits(out: str, scenes: Rendered) -> dict[str, object]:
    detector = build(out, scenes)
    assert isinstance(detector.network, YOLOv4)
    kinds = {type(m) for m in detector.network.modules()}
    return {
        "Mish": nn.Mish in kinds,
        "CIoU": detector.criterion.box == "ciou",
        "smoothing": detector.criterion.smoothing > 0,
    }


def test_each_arm_lacks_its_trick_and_no_other(scenes):
    for out in TRICKS:
        has = traits(out, scenes)
        assert has == {name: name != out for name in has}, out


def test_every_second_picture_is_a_mosaic_and_the_source_stays(scenes):
    before, truths = scenes.images.clone(), [dict(t) for t in scenes.targets]
    half = half_mosaics(scenes)
    same = [torch.equal(a, b) for a, b in zip(half.images, scenes.images, strict=True)]
    assert same == [False, True] * 4
    assert torch.equal(scenes.images, before)
    assert all(
        torch.equal(a["boxes"], b["boxes"]) for a, b in zip(scenes.targets, truths, strict=True)
    )
    assert sum(len(t["boxes"]) for t in half.targets) > sum(len(t["boxes"]) for t in truths)


def test_the_plan_names_every_trick():
    assert EXPERIMENT.values == TRICKS
    with pytest.raises(ValueError, match=r"one of nothing, Mish.*got 'mish'"):
        next(train_without("mish", 8, 20, 8))
