import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from labs.boxes import cell_centres, suppress
from labs.data.scenes import Scenes, collate
from labs.detection import Detector
from labs.postprocess import YOLOv5Postprocess
from labs.recipes.detectors import (
    mini_yolo_v1,
    mini_yolo_v3,
    mini_yolo_v5,
    mini_yolo_v7,
    mini_yolo_v8,
)
from labs.train import fit

STRIDE = 8


class TinyNetwork(nn.Module):
    """Map [N,3,H,W] to [N,1,H/8,W/8], with batch norm and a frozen layer whose mode is its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, images):
        assert images.device == self.head.weight.device
        return self.head(self.stem(images))


def has_object(raw, targets):
    """Ask every map whether there is anything at all; keep it small in a second term."""
    there = torch.tensor([float(len(t["boxes"]) > 0) for t in targets], device=raw.device)
    score = raw.flatten(1).amax(1)
    return {
        "there": nn.functional.binary_cross_entropy_with_logits(score, there),
        "size": 0.5 * raw.square().mean(),
    }


def square_at_each_cell(raw):
    centres = STRIDE * cell_centres(*raw.shape[-2:], raw).reshape(-1, 2)
    boxes = torch.cat([centres - 4, centres + 4], 1).expand(len(raw), -1, 4)
    return suppress(boxes, raw.flatten(1)[..., None].sigmoid(), 0.0)


def detector(network=None, criterion=has_object, postprocess=square_at_each_cell):
    torch.manual_seed(0)
    return Detector(network or TinyNetwork(), criterion, postprocess)


def targets(*counts):
    box = torch.tensor([[8.0, 8, 16, 16]])
    return [
        {"boxes": box.repeat(n, 1), "labels": torch.zeros(n, dtype=torch.int64)} for n in counts
    ]


def test_the_loss_is_the_sum_of_the_terms_and_reaches_the_network():
    ours, images, truths = detector(), torch.rand(3, 3, 32, 48), targets(1, 2, 0)
    loss = ours.loss(ours.network, (images, truths))
    terms = has_object(ours.network(images), truths)
    assert loss.item() == pytest.approx(terms["there"].item() + terms["size"].item())
    loss.backward()
    assert all(p.grad.isfinite().all() for p in ours.network.parameters())


def test_the_loss_runs_the_model_it_is_given():
    ours, other = detector(), TinyNetwork()
    ours.loss(other, (torch.rand(2, 3, 32, 32), targets(1, 1))).backward()
    assert other.head.weight.grad is not None
    assert ours.network.head.weight.grad is None


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 3)])
def test_images_without_objects_train_and_are_scored(counts):
    ours, images = detector(), torch.rand(len(counts), 3, 32, 32)
    loss = ours.loss(ours.network, (images, targets(*counts)))
    loss.backward()
    assert loss.isfinite()
    scored = ours.score([(images, targets(*counts))], ["square"])
    assert scored.objects == (sum(counts),)
    assert math.isnan(scored.AP) == (sum(counts) == 0)  # nothing to find: no average precision


def test_truth_as_prediction_scores_1():
    truths = targets(1, 0, 1)
    answers = [{**t, "scores": torch.ones(len(t["labels"]))} for t in truths]
    ours = detector(
        nn.Identity(), postprocess=lambda raw: [answers[int(x)] for x in raw[:, 0, 0, 0]]
    )
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    batches = [(images[:2], truths[:2]), (images[2:], truths[2:])]
    scored = ours.score(batches, classes=["square"])
    assert (scored.AP, scored.AP50) == (1, 1)
    assert scored.classes == ("square",)


def test_detecting_leaves_no_trace():
    ours = detector()
    ours.network.train()
    ours.network.stem[1].eval()  # frozen on purpose
    before = {name: value.clone() for name, value in ours.network.state_dict().items()}
    modes = [module.training for module in ours.network.modules()]
    found = ours.detect(torch.rand(3, 3, 32, 32))
    assert not any(value.requires_grad for image in found for value in image.values())
    assert [module.training for module in ours.network.modules()] == modes
    assert all(
        torch.equal(value, before[name]) for name, value in ours.network.state_dict().items()
    )
    assert torch.is_grad_enabled()


def test_modes_come_back_when_the_postprocess_raises():
    def broken(raw):
        raise RuntimeError("broken")

    ours = detector(postprocess=broken)
    ours.network.train()
    with pytest.raises(RuntimeError, match="broken"):
        ours.detect(torch.rand(1, 3, 32, 32))
    assert all(module.training for module in ours.network.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_batch_size_changes_no_detection(batch_size):
    ours, images = detector(), torch.rand(5, 3, 32, 40)
    found, expected = ours.detect(images, batch_size), ours.detect(images, 5)
    assert len(found) == 5
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)


def test_no_images():
    assert detector().detect(torch.rand(0, 3, 32, 32)) == []


def test_batches_of_scenes_train_and_score():
    scenes = Scenes("val", 8, canvas=(64, 64))
    loader = DataLoader(scenes, batch_size=4, collate_fn=collate)
    ours = detector()
    optimizer = torch.optim.SGD(ours.network.parameters(), lr=0.01)
    history = fit(ours.network, loader, optimizer, loss=ours.loss)
    assert len(history.steps) == 2
    scored = ours.score(loader, scenes.classes)
    assert 0 <= scored.AP <= scored.AP50 <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_another_device_than_the_network():
    ours = detector()
    ours.network.cuda()
    images, truths = torch.rand(2, 3, 32, 32), targets(1, 0)
    there = [{name: value.cuda() for name, value in target.items()} for target in truths]
    for batch in ((images, truths), (images.cuda(), there)):
        assert ours.loss(ours.network, batch).device.type == "cuda"
        for found in ours.detect(batch[0]):
            assert {value.device.type for value in found.values()} == {"cpu"}
        assert ours.score([batch]).AP50 >= 0


def test_the_network_decides_the_device():
    """The meta device stands for another one: images and targets must follow to it."""
    seen = []

    def note(raw, moved):
        seen.extend(value.device.type for target in moved for value in target.values())
        return {"nothing": raw.sum()}

    ours = detector(TinyNetwork().to("meta"), note)
    loss = ours.loss(ours.network, (torch.rand(1, 3, 32, 32), targets(2)))
    assert loss.device.type == "meta"
    assert seen == ["meta", "meta"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda d: d.loss(d.network, (torch.rand(2, 3, 8, 8), targets(1))),
            "one target per image, got 2 images and 1 targets",
        ),
        (lambda d: d.detect(torch.rand(1, 3, 8, 8), 0), "expected batch_size >= 1, got 0"),
    ],
)
def test_what_cannot_be_done(call, message):
    with pytest.raises(ValueError, match=message):
        call(detector())


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "got no terms"),
        ({"box": torch.ones(2), "class": torch.tensor(1.0)}, r"shape {'box': \[2\]}; sum"),
    ],
)
def test_a_criterion_that_does_not_return_numbers(terms, message):
    ours = detector(criterion=lambda raw, targets: terms)
    with pytest.raises(ValueError, match=message):
        ours.loss(ours.network, (torch.rand(1, 3, 16, 16), targets(1)))


FEWER = (((7, 33), (15, 31)), ((30, 31), (25, 40)))
CONTRADICTIONS = {
    "strides of the criterion": (mini_yolo_v5, "criterion", {"strides": (4, 8)}, "strides"),
    "strides of v8": (mini_yolo_v8, "criterion", {"strides": (16, 32)}, "strides"),
    "stride of v1": (mini_yolo_v1, "criterion", {"stride": 8}, "stride"),
    "boxes of v1": (mini_yolo_v1, "criterion", {"boxes": 1}, "boxes"),
    "bins of v8": (mini_yolo_v8, "criterion", {"reg_max": 8}, "reg_max"),
    "classes of v8": (mini_yolo_v8, "criterion", {"num_classes": 4}, "num_classes"),
    "classes of v7": (mini_yolo_v7, "criterion", {"num_classes": 4}, "num_classes"),
    "anchors of v3": (mini_yolo_v3, "criterion", {"anchors": FEWER}, "anchors"),
    "anchors of v5": (mini_yolo_v5, "criterion", {"anchors": FEWER}, "anchors"),
    "anchors of v7": (mini_yolo_v7, "criterion", {"anchors": FEWER}, "anchors"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_parts_that_contradict_each_other_are_refused(name):
    """With such settings the maps may have the right shape all the same, and training goes on."""
    make, part, change, setting = CONTRADICTIONS[name]
    good = make(3)
    other = dataclasses.replace(getattr(good, part), **change)
    with pytest.raises(
        ValueError, match=rf"^Detector: expected parts with the same {setting}, got"
    ):
        dataclasses.replace(good, **{part: other})


def test_anchors_that_are_read_otherwise_than_they_were_trained_are_refused():
    good = mini_yolo_v5(3)
    moved = torch.as_tensor(good.criterion.anchors).flip(1).tolist()
    with pytest.raises(ValueError, match=r"anchors, got .* of the criterion, .* of the postpr"):
        dataclasses.replace(good, postprocess=YOLOv5Postprocess(moved, (8, 16)))
    same = torch.as_tensor(good.criterion.anchors) / 3 * 3  # as a tensor, and rounded
    dataclasses.replace(good, postprocess=YOLOv5Postprocess(same, (8, 16)))
