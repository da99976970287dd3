"""Put the neck of YOLOv4 on a backbone that can see, and cut it: the way up, the way down, SPP.

The backbone is that of the shipped YOLOv5, without its pools, and learns nothing more. So its maps
are computed once, and a neck and a head with fresh weights learn within minutes, from v5's loss.

An arm is cut by an arrow that carries zeros, or by pools of one cell. So all arms have the same
parameters; runs of one seed begin with the same weights and see the same scenes in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, islice, pairwise

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from labs.data.scenes import Rendered, Scenes
from labs.detection import Detector, Prediction, Target
from labs.metrics import coco_map
from labs.models.blocks import SPP, set_norms
from labs.models.yolo_v3 import make_head
from labs.models.yolo_v4 import PAN
from labs.models.yolo_v5 import YOLOv5
from labs.recipes import load
from labs.studies.detection.learning import longer
from labs.studies.experiment import Experiment
from labs.train import fit

SIZES = {"small": (0, 30), "large": (42, 1000)}
"""Of the longer side of an object, in pixels: above the first number, up to the second."""
_FIRST = (1, 5, 10)
"""Steps whose loss is recorded, so that a lesson can make them again."""


class Silence(nn.Module):
    """Answer with zeros of the same shape: an arrow that carries nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any tensor to zeros."""
        return torch.zeros_like(x)


class NeckOfV4(nn.Module):
    """Map the maps of a backbone to predictions: v4's neck, and a head for each level.

    Args:
        channels: Of the maps, finest first, each twice the one before.
        anchors: How many anchors each level has.
        num_classes: How many classes.
    """

    def __init__(self, channels: Sequence[int], anchors: int, num_classes: int) -> None:
        super().__init__()
        self.neck = PAN(channels)
        self.head = nn.ModuleList(make_head(c, anchors, num_classes) for c in self.neck.channels)
        set_norms(self, 1e-3, 0.05)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map [N,C,H,W] of each level to [N,A*(5+classes),H,W]."""
        return tuple(head(x) for head, x in zip(self.head, self.neck(maps), strict=True))


def cut(neck: PAN, part: str) -> None:
    """Cut a part of a neck of v4, in place.

    Args:
        neck: Trained or not.
        part: ``"nothing"``; ``"way up"`` (coarse to fine) or ``"way down"`` (fine to coarse), which
            then carry zeros; ``"SPP"``, whose pools then have one cell.
    """
    if part == "SPP":
        for pools in (module for module in neck.modules() if isinstance(module, SPP)):
            pools.kernels = (1,) * len(pools.kernels)
    if part == "way up":
        neck.lead = nn.ModuleList(nn.Sequential(arrow, Silence()) for arrow in neck.lead)
    if part == "way down":
        neck.stride = nn.ModuleList(nn.Sequential(arrow, Silence()) for arrow in neck.stride)


@dataclass(frozen=True)
class Seen:
    """Hold what the backbone sees in scenes.

    Attributes:
        maps: Of stride 8 and 16, [N,C,H,W].
        data: The scenes.
    """

    maps: tuple[Tensor, ...]
    data: Rendered

    def batches(self, size: int) -> Iterator[tuple[list[Tensor], list[Target]]]:
        """Yield batches without end, in an order that the global random state decides."""
        for _ in count():
            for rows in torch.randperm(len(self.data.targets)).split(size):
                targets: list[Target] = [self.data.targets[row] for row in rows.tolist()]
                yield [level[rows] for level in self.maps], targets


@torch.no_grad()
def look(network: YOLOv5, data: Rendered) -> Seen:
    """Return the maps of the last two stages of a backbone, in eval mode, before its pools."""
    backbone, found = network.eval().backbone, []
    for part in data.images.split(50):
        x, maps = backbone.stem(part.float() / 255), []
        for stage in backbone.stages:
            x = stage(x)
            maps.append(x)
        found.append(maps[-2:])
    return Seen(tuple(torch.cat(level) for level in zip(*found, strict=True)), data)


def train_cut(part: str, scenes: int, steps: int, judged: int) -> Iterator[dict[str, float]]:
    """Train a neck and a head, cut before, and yield losses, then the scores of :func:`judge`.

    Args:
        part: As for :func:`cut`.
        scenes: To train on, the same for every seed.
        steps: Of 16 scenes each.
        judged: Scenes of the validation split that are scored.
    """
    with torch.random.fork_rng(devices=[]):  # a network draws weights before it is given others
        shipped, network = _shipped()
        train, val = _seen("train", scenes, 5), _seen("val", judged, 0)
    channels = [level.shape[1] for level in train.maps]
    model = NeckOfV4(channels, network.anchors, network.num_classes)
    cut(model.neck, part)
    adam = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.02)
    cycle = OneCycleLR(adam, 5e-3, total_steps=steps, pct_start=0.15)

    def loss(model: nn.Module, batch: tuple[list[Tensor], list[Target]]) -> Tensor:
        return torch.stack([*shipped.criterion(model(batch[0]), batch[1]).values()]).sum()

    def clip(model: nn.Module, _: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)

    endless = train.batches(16)
    for start, end in pairwise((0, *_FIRST, steps)):
        batches = list(islice(endless, end - start))
        history = fit(model, batches, adam, 1, loss, cycle, watch=clip, progress=False)
        point = {"step": end, "loss": history.table()["loss"].mean()}
        if end == steps:
            with torch.no_grad():
                found = shipped.postprocess(model.eval()(val.maps))
            point |= judge(found, val.data)
        yield point


def judge(found: Sequence[Prediction], data: Rendered) -> Mapping[str, float]:
    """Return ``AP50``, ``AP75``, ``AP``, and ``AP small`` and ``AP large`` of two sizes."""
    whole = coco_map(found, data.targets, data.classes)
    scores = {"AP50": whole.AP50, "AP75": whole.AP75, "AP": whole.AP}
    for name, (low, high) in SIZES.items():
        sides = [longer(target["boxes"]) for target in data.targets]
        others = [
            {**target, "ignore": (side <= low) | (side > high)}
            for target, side in zip(data.targets, sides, strict=True)
        ]
        scores[f"AP {name}"] = coco_map(found, others, data.classes).AP
    return scores


@cache
def _shipped() -> tuple[Detector, YOLOv5]:
    detector = load("yolo_v5")
    assert isinstance(detector.network, YOLOv5)
    return detector, detector.network


@cache
def _seen(split: str, scenes: int, seed: int) -> Seen:
    return look(_shipped()[1], Rendered(Scenes(split, scenes, seed)))


EXPERIMENT = Experiment(
    name="neck",
    question="Which arrow of the neck of YOLOv4 does a small detector of digits need?",
    run=train_cut,
    base={"part": "nothing", "scenes": 600, "steps": 360, "judged": 200},
    vary="part",
    values=("nothing", "SPP", "way up", "way down"),
    seeds=(0, 1, 2),
    tolerance=0.01,  # as in levels: another order of sums moves the tenth step by a thousandth
)
