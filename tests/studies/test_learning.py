"""What is rendered when it is drawn must be what was rendered before."""

from itertools import chain, islice

import pytest
import torch

from labs.data.scenes import Rendered, Scenes
from labs.studies.detection.learning import RenderedWhenDrawn

SCENES = Scenes("val", 5, 3, size=(12, 24), objects=(1, 3))


class Counted:
    """Scenes that note which of them were rendered."""

    def __init__(self):
        self.rendered = []

    def __len__(self):
        return len(SCENES)

    def __getitem__(self, row):
        self.rendered.append(row)
        return SCENES[row]


def test_batches_are_those_of_rendered_pass_after_pass():
    eager = Rendered(SCENES).batches(2, seed=7)
    wanted = list(chain(eager, eager))  # two passes
    got = list(islice(RenderedWhenDrawn(SCENES).batches(2, seed=7), len(wanted)))
    assert [len(images) for images, _ in got] == [2, 2, 1] * 2
    for (images, targets), (its_images, its_targets) in zip(got, wanted, strict=True):
        assert torch.equal(images, its_images)
        for target, its in zip(targets, its_targets, strict=True):
            assert target.keys() == its.keys()
            assert all(torch.equal(target[key], its[key]) for key in its)


def test_a_scene_is_rendered_when_it_is_drawn_and_never_again():
    counted = Counted()
    batches = RenderedWhenDrawn(counted).batches(2, seed=0)
    assert counted.rendered == []
    next(batches)
    assert len(counted.rendered) == 2
    list(islice(batches, 8))
    assert sorted(counted.rendered) == [0, 1, 2, 3, 4]


def test_a_batch_may_be_changed_without_harm():
    batches = RenderedWhenDrawn(SCENES).batches(5, seed=0)
    images, targets = next(batches)
    before = images.sum()
    images.zero_()
    targets[0]["boxes"] = None
    again, targets = next(batches)
    assert again.sum().item() == pytest.approx(before.item(), rel=1e-5)
    assert all(target["boxes"] is not None for target in targets)
