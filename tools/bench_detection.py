"""Measure what detection costs: suppression and mAP against the libraries, YOLO against others.

The detectors share their backbone and run untrained, with a threshold that nothing reaches, so that
networks, losses and decoding are compared; suppression is measured on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, batched_nms

from labs.boxes import flatten_levels, suppress
from labs.criteria import YOLOv8Criterion
from labs.detection import Detector
from labs.metrics import coco_map
from labs.models import YOLOv8
from labs.postprocess import YOLOv8Postprocess
from tools.timing import Pair, pair


def bench_suppress() -> Pair:
    """Compare plain ``batched_nms`` on the candidates of 8 images with ``suppress``."""
    chance = torch.Generator().manual_seed(0)
    corner, side = torch.rand(2, 8, 1344, 2, generator=chance)
    boxes = torch.cat([256 * corner, 256 * corner + 4 + 64 * side], -1)
    scores = torch.rand(8, 1344, 10, generator=chance) ** 8  # most are weak

    def plain() -> None:
        for box, score in zip(boxes, scores, strict=True):
            place, label = (score > 0.1).nonzero(as_tuple=True)
            batched_nms(box[place], score[place, label], label, 0.6)[:100]

    return pair(plain, lambda: suppress(boxes, scores, 0.1, 0.6), 20)


def bench_map_faster() -> Pair:
    """Compare the bare evaluator of faster-coco-eval with ``coco_map``, which also checks."""
    from faster_coco_eval import COCO, COCOeval_faster

    predictions, targets = detections()
    return pair(
        lambda: evaluated(COCO, COCOeval_faster, predictions, targets),
        lambda: coco_map(predictions, targets),
        7,
    )


def bench_map_pycocotools() -> Pair:
    """Compare pycocotools with ``coco_map``."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    predictions, targets = detections()
    return pair(
        lambda: evaluated(COCO, COCOeval, predictions, targets),
        lambda: coco_map(predictions, targets),
        5,
    )


def detections() -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Return 300 images with 5 objects of 10 classes, and 30 predictions for each."""
    chance = torch.Generator().manual_seed(0)
    predictions, targets = [], []
    for _ in range(300):
        corner, side = torch.rand(2, 5, 2, generator=chance)
        boxes = torch.cat([400 * corner, 400 * corner + 10 + 100 * side], 1)
        labels = torch.randint(10, (5,), generator=chance)
        guesses = boxes.repeat(6, 1) + 5 * torch.randn(30, 2, generator=chance).repeat(1, 2)
        scores = torch.rand(30, generator=chance)
        predictions.append({"boxes": guesses, "scores": scores, "labels": labels.repeat(6)})
        targets.append({"boxes": boxes, "labels": labels})
    return predictions, targets


def evaluated(
    coco: type,
    evaluator: type,
    predictions: list[dict[str, Tensor]],
    targets: list[dict[str, Tensor]],
) -> object:
    """Run an evaluator that has the interface of pycocotools, quietly."""
    truths, guesses = as_rows(targets), as_rows(predictions)
    areas = {"iscrowd": 0, "area": 0.0}
    with redirect_stdout(StringIO()):
        truth = coco()
        truth.dataset = {
            "images": [{"id": i} for i in range(len(targets))],
            "categories": [{"id": k} for k in range(10)],
            "annotations": [areas | row | {"id": i} for i, row in enumerate(truths, start=1)],
        }
        truth.createIndex()
        judge = evaluator(truth, truth.loadRes(guesses), "bbox")
        judge.evaluate()
        judge.accumulate()
    return judge.eval


def as_rows(images: list[dict[str, Tensor]]) -> list[dict[str, object]]:
    """Return one row per box as COCO writes it, x, y, width, height."""
    rows: list[dict[str, object]] = []
    for number, image in enumerate(images):
        boxes = torch.cat([image["boxes"][:, :2], image["boxes"][:, 2:] - image["boxes"][:, :2]], 1)
        scores = image.get("scores", torch.ones(len(boxes))).tolist()
        parts = zip(boxes.tolist(), image["labels"].tolist(), scores, strict=True)
        rows += [
            {"image_id": number, "bbox": box, "category_id": label, "score": score}
            | {"area": box[2] * box[3]}
            for box, label, score in parts
        ]
    return rows


class Levels(nn.Module):
    """Give torchvision's detectors the backbone of YOLOv8n, and FPN in place of its neck."""

    def __init__(self, out_channels: int = 64) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.backbone = YOLOv8(20).backbone
        self.fpn = FeaturePyramidNetwork([64, 128, 256], out_channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images [N,3,H,W] to maps of strides 8, 16 and 32."""
        maps = dict(zip("345", self.backbone(images), strict=True))
        return self.fpn(maps)


def theirs(kind: type[FCOS] | type[RetinaNet]) -> nn.Module:
    """Build torchvision's detector of 20 classes, which resizes and normalises nothing."""
    anchors = tuple((size, 1.26 * size, 1.59 * size) for size in (32, 64, 128))
    if kind is FCOS:  # its anchors are points
        anchors = ((8,), (16,), (32,))
    aspects = ((1.0,) if kind is FCOS else (0.5, 1.0, 2.0),) * 3
    return kind(
        Levels(),
        20,
        min_size=256,
        max_size=256,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        anchor_generator=AnchorGenerator(anchors, aspects),
        score_thresh=0.2,
    )


def batch_of_objects() -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return 4 images of 256 pixels and 3 objects in each."""
    corner, side = torch.rand(2, 12, 2)
    boxes = torch.cat([150 * corner, 150 * corner + 10 + 90 * side], 1)
    targets = [{"boxes": part, "labels": torch.arange(3)} for part in boxes.split(3)]
    return torch.rand(4, 3, 256, 256), targets


def stepping(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a function that takes one training step."""
    optimizer = torch.optim.SGD(parameters, lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def bench_training(kind: type[FCOS] | type[RetinaNet]) -> Pair:
    """Compare a training step of torchvision's detector with one of YOLOv8n."""
    batch = batch_of_objects()
    images, targets = batch
    other, ours = theirs(kind), Detector(YOLOv8(20), YOLOv8Criterion(20), YOLOv8Postprocess(20))
    return pair(
        stepping(
            other.parameters(),
            lambda: torch.stack([*other([*images], targets).values()]).sum(),
        ),
        stepping(ours.network.parameters(), lambda: ours.loss(ours.network, batch)),
        7,
    )


def bench_inference(kind: type[FCOS] | type[RetinaNet]) -> Pair:
    """Compare detection by torchvision's detector with detection by YOLOv8n."""
    images, _ = batch_of_objects()
    other = theirs(kind).eval()
    postprocess = YOLOv8Postprocess(20, score_threshold=0.2)
    ours = Detector(YOLOv8(20), YOLOv8Criterion(20), postprocess)

    def plain() -> None:
        with torch.no_grad():
            other([*images])

    return pair(plain, lambda: ours.detect(images), 7)


def bench_loss() -> Pair:
    """Compare torchvision's loss of FCOS with ours of YOLOv8n, forward, at paper scale."""
    chance = torch.Generator().manual_seed(0)
    maps = [torch.randn(16, 64 + 80, side, side, generator=chance) for side in (80, 40, 20)]
    corner, side = torch.rand(2, 16, 10, 2, generator=chance)
    boxes = torch.cat([400 * corner, 400 * corner + 10 + 230 * side], -1)
    targets = [
        {"boxes": one, "labels": torch.randint(80, (10,), generator=chance)} for one in boxes
    ]
    values, points, sides = flatten_levels(maps, (8, 16, 32))
    outputs = {
        "cls_logits": values[..., 64:].contiguous().requires_grad_(),
        "bbox_regression": values[..., :4].exp().requires_grad_(),
        "bbox_ctrness": values[..., 4:5].contiguous().requires_grad_(),
    }
    anchors = [torch.cat([points - sides / 2, points + sides / 2], 1)] * 16
    other, ours = theirs(FCOS), YOLOv8Criterion()
    raw = [level.requires_grad_() for level in maps]
    counts = [side * side for side in (80, 40, 20)]
    return pair(
        lambda: other.compute_loss(targets, outputs, anchors, counts),
        lambda: ours(raw, targets),
        7,
    )


BENCHES: dict[str, Callable[[], Pair]] = {
    "coco_map: 9000 predictions, bare faster-coco-eval and ours": bench_map_faster,
    "coco_map: the same, pycocotools and ours": bench_map_pycocotools,
    "inference: torchvision FCOS and YOLOv8n, 4 of 256 px": partial(bench_inference, FCOS),
    "inference: torchvision RetinaNet and YOLOv8n": partial(bench_inference, RetinaNet),
    "loss: torchvision FCOS and YOLOv8n, 16 of 640 px, forward": bench_loss,
    "suppress: 8 images, 1344 boxes, plain batched_nms and ours": bench_suppress,
    "train step: torchvision FCOS and YOLOv8n, 4 of 256 px": partial(bench_training, FCOS),
    "train step: torchvision RetinaNet and YOLOv8n": partial(bench_training, RetinaNet),
}
