"""What must run on a device that is not the CPU: ``python -m tests.pretend.cases`` runs it all.

It prints one JSON object: the name of each case, and the traceback of what went wrong, or null.
Each case runs on the CPU as well, and must come out the same there.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from labs.assigners import Truths
from labs.criteria.yolo_v8 import stack_objects
from labs.detection import Detector
from labs.evaluate import predict
from labs.hooks import capture, clip_norm, edit_gradients, first_bad, grad_cam, gradient_health
from labs.metrics import coco_map, error_breakdown
from labs.models import DigitNet, MobileNetV2, fuse, resnet18, resnet_cifar
from labs.repro import seed_everything
from labs.train import fit
from tests.criteria.test_sanity import FEW, LARGE, NOTHING, SIZE, VERSIONS
from tests.criteria.version import CLASSES, Version
from tests.pretend.device import CPU, DEVICE, pretended

Target = dict[str, Tensor]
TARGETS = [FEW, NOTHING, LARGE]
SURE = [target | {"scores": torch.ones(len(target["labels"]))} for target in TARGETS]


def images() -> Tensor:
    """Return as many images of noise as there are targets."""
    chance = torch.Generator().manual_seed(0)
    return torch.rand(len(TARGETS), 3, SIZE, SIZE, generator=chance)


def moved(target: Target, device: torch.device) -> Target:
    """Return a target whose tensors lie on a device."""
    return {name: values.to(device) for name, values in target.items()}


def places(device: torch.device) -> dict[str, list[Target]]:
    """Return the targets on the CPU, on the device, and some here and some there."""
    there = [moved(target, device) for target in TARGETS]
    mixed = [there[0], *TARGETS[1:]]
    crossed = [one | {"labels": other["labels"]} for one, other in zip(there, TARGETS, strict=True)]
    return {"cpu": TARGETS, "device": there, "mixed": mixed, "crossed": crossed}


def step(network: nn.Module, loss: Callable[[nn.Module], Tensor]) -> list[Tensor]:
    """Train one step, and return the loss and all weights, on the CPU."""
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    value = loss(network)
    value.backward()
    optimizer.step()
    after = list(network.parameters())
    assert value.device == after[0].device
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(p.grad is None or p.grad.device == p.device for p in after)
    return [value.detach().cpu(), *(parameter.detach().cpu() for parameter in after)]


def classifier_step(
    make: Callable[[], nn.Module], shape: Sequence[int], device: torch.device
) -> Any:
    """Train a classifier for a step."""
    seed_everything(0)
    network, pictures = make().to(device), torch.rand(4, *shape)

    def loss(net: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(net(pictures.to(device)), torch.arange(4).to(device))

    return step(network, loss)


def detector_of(version: Version, device: torch.device) -> Detector:
    """Build a detector with known weights, on a device."""
    seed_everything(0)
    network, postprocess = version.network().to(device), deepcopy(version.postprocess).to(device)
    return Detector(network, version.criterion, postprocess)


def detector_step(version: Version, device: torch.device) -> Any:
    """Train a detector for a step."""
    detector = detector_of(version, device)
    return step(detector.network, lambda net: detector.loss(net, (images(), TARGETS)))


def criterion(version: Version, device: torch.device) -> Any:
    """Compare outputs on the device with targets wherever they are."""
    detector = detector_of(version, device)
    with torch.no_grad():
        raw = detector.network(images().to(device))
        told = {name: detector.criterion(raw, t) for name, t in places(device).items()}
    terms = [term for terms in told.values() for term in terms.values()]
    assert {term.device.type for term in terms} == {device.type}
    values = {place: [term.item() for term in terms.values()] for place, terms in told.items()}
    assert all(one == values["cpu"] for one in values.values()), values
    return values


def held(raw: Any, device: torch.device) -> Any:
    """Return a raw output, or a part of one, whose tensors lie on a device."""
    if isinstance(raw, Tensor):
        return raw.to(device)
    if isinstance(raw, tuple):
        parts = [held(part, device) for part in raw]
        return type(raw)(*parts) if hasattr(raw, "_fields") else tuple(parts)
    if callable(raw):  # the second stage, which is told on the CPU
        return lambda rois: held(raw(rois.to(CPU)), device)
    return raw


def postprocess(version: Version, device: torch.device) -> Any:
    """Decode and suppress on the device what the network is sure of."""
    raw = held(version.encode(TARGETS, SIZE, SIZE), device)
    found = deepcopy(version.postprocess).to(device)(raw)
    assert sum(len(one["boxes"]) for one in found) >= 4
    assert {part.device.type for one in found for part in one.values()} == {device.type}
    return [moved(one, CPU) for one in found]


def targets(device: torch.device) -> Any:
    """Stack objects wherever they are."""
    like = torch.zeros((), device=device)
    stacked = [Truths.of(t, like) for t in places(device).values()]
    assert all(part.device.type == device.type for one in stacked for part in vars(one).values())
    padded = stack_objects(places(device)["device"])
    assert all(part.device.type == device.type for part in padded)
    return [[part.cpu() for part in vars(one).values()] for one in stacked], [
        part.cpu() for part in padded
    ]


class Sure(nn.Module):
    """Answer a batch of the images above with the truth, wherever they are."""

    def __init__(self, version: Version) -> None:
        super().__init__()
        raw = version.encode(TARGETS, SIZE, SIZE)
        self.raw = nn.ParameterList(nn.Parameter(level) for level in raw)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Say the same whatever is seen, but only where the pictures are."""
        return tuple(level + 0 * pictures.mean() for level in self.raw)


def detect_and_score(version: Version, device: torch.device) -> Any:
    """Detect with images on either side; score against targets on either side."""
    postprocess = deepcopy(version.postprocess).to(device)
    detector = Detector(Sure(version).to(device), version.criterion, postprocess)
    found = detector.detect(images()) + detector.detect(images().to(device))
    assert {part.device.type for one in found for part in one.values()} == {"cpu"}
    score = detector.score([(images(), t) for t in places(device).values()])
    assert score.AP50 == 1
    return found


def metrics(device: torch.device) -> Any:
    """Score predictions and targets that lie in different places."""
    truth = [moved(target, device) for target in TARGETS]
    guess = [moved(target, device) for target in SURE]
    scores = [coco_map(one, two).AP for one in (guess, SURE) for two in (truth, TARGETS)]
    assert scores == [1.0] * 4
    told = [error_breakdown(one, two) for one in (guess, SURE) for two in (truth, TARGETS)]
    return [one.table().select_dtypes("number").to_numpy().tolist() for one in told]


def fit_a_classifier(device: torch.device) -> Any:
    """Train, watch and score with batches from the CPU, as a loader gives them."""
    seed_everything(0)
    network = DigitNet().to(device)
    batches = [(torch.rand(4, 1, 28, 28), torch.arange(4))] * 2
    optimizer = torch.optim.Adam(network.parameters())
    watched: list[str] = []

    def watch(net: nn.Module, _: int) -> None:
        watched.extend(gradient_health(net).missing)

    def score(net: nn.Module) -> dict[str, float]:
        return {"mean": predict(net, batches[0][0]).mean().item()}

    history = fit(network, batches, optimizer, epochs=2, score=score, watch=watch)
    assert watched == []
    return history.table()["loss"].tolist(), history.score_table()["mean"].tolist()


def fit_a_detector(device: torch.device) -> Any:
    """Train a detector with batches from the CPU."""
    detector = detector_of(VERSIONS["v8"], device)
    optimizer = torch.optim.SGD(detector.network.parameters(), lr=0.001)
    batches = [(images(), TARGETS)] * 2
    return fit(detector.network, batches, optimizer, loss=detector.loss).table()["loss"].tolist()


def hooks(device: torch.device) -> Any:
    """Capture, explain, edit, judge and search, all on the device."""
    seed_everything(0)
    network, pictures = resnet_cifar(8).to(device), torch.rand(2, 3, 32, 32).to(device)
    with capture(network, "*", gradients=True) as maps:
        network(pictures).square().mean().backward()
    assert maps.table()["layer"].size
    health = gradient_health(network).table()
    assert first_bad(network, pictures, loss=lambda out: out.square().mean()) is None
    network.zero_grad()
    with edit_gradients(network, {"fc": clip_norm(1e-3)}):
        network(pictures).square().mean().backward()
    norm = torch.cat([p.grad.flatten() for p in network.get_submodule("fc").parameters()]).norm()
    assert abs(norm.item() - 1e-3) < 1e-6
    layer = next(name for name, part in network.named_modules() if isinstance(part, nn.Conv2d))
    heat = grad_cam(network.eval(), pictures, layer, lambda out: out[:, 0])
    assert heat.device.type == device.type
    nn.init.constant_(network.get_submodule("fc").get_parameter("weight"), float("inf"))
    culprit = first_bad(network, pictures)
    assert culprit is not None
    assert culprit.name == "fc"
    return heat.cpu(), health.select_dtypes("number").fillna(0).to_numpy().tolist()


def fused(version: Version, device: torch.device) -> Any:
    """Fold the norms of a network that lies on the device."""
    detector = detector_of(version, device)
    with torch.no_grad():
        raw = fuse(detector.network)(images().to(device))
    return [level.cpu() for level in raw]


def cases() -> Iterator[tuple[str, Callable[[torch.device], Any]]]:
    """Return each case by name."""
    classifiers: Sequence[tuple[str, Callable[[], nn.Module], Sequence[int]]] = (
        ("DigitNet", DigitNet, (1, 28, 28)),
        ("ResNet-18", partial(resnet18, 10), (3, 32, 32)),
        ("ResNet of CIFAR", partial(resnet_cifar, 8), (3, 32, 32)),
        ("MobileNetV2", partial(MobileNetV2, 10), (3, 32, 32)),
    )
    for name, make, shape in classifiers:
        yield f"train {name}", partial(classifier_step, make, shape)
    for name, version in VERSIONS.items():
        yield f"train {name}", partial(detector_step, version)
        yield f"criterion of {name}", partial(criterion, version)
        yield f"postprocess of {name}", partial(postprocess, version)
    for name in ("v5", "v7", "v8 with masks"):
        yield f"detect and score with {name}", partial(detect_and_score, VERSIONS[name])
        yield f"fuse {name}", partial(fused, VERSIONS[name])
    yield "targets", targets
    yield "metrics", metrics
    yield "hooks", hooks
    yield "fit a classifier", fit_a_classifier
    yield "fit a detector", fit_a_detector


def told(case: Callable[[torch.device], Any]) -> str | None:
    """Run a case in both places; return what went wrong, if anything."""
    try:
        expected = case(CPU)
        with pretended():
            got = case(DEVICE)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    assert len({name for name, _ in cases()}) == len(list(cases()))
    assert CLASSES == 3  # what the versions were built for
    print(json.dumps({name: told(case) for name, case in cases()}))
