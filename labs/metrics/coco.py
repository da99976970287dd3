"""Measure average precision as COCO defines it, with the evaluator of faster-coco-eval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labs.extras import optional
from labs.metrics.average_precision import AREAS, AveragePrecision
from labs.metrics.detections import Detections, Image, Objects, checked, names

_COCO_IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""The ten IoU thresholds over which COCO averages."""


def coco_map(
    predictions: Sequence[Image],
    targets: Sequence[Image],
    classes: Sequence[str] | None = None,
    iou_type: Literal["bbox", "segm"] = "bbox",
    ious: Sequence[float] = _COCO_IOUS,
    max_detections: Sequence[int] = (1, 10, 100),
) -> AveragePrecision:
    """Score predictions against targets as COCO does (Lin et al., 2014).

    Every image counts, also one without objects: what is predicted there is false. Crowds and
    ignored objects are neither to be found nor held against a prediction that meets them.

    Args:
        predictions: One dict per image: ``boxes`` [n,4] (xyxy, pixels), ``scores`` [n] in [0, 1],
            ``labels`` [n] of integers; ``masks`` [n,H,W] of 0 and 1 for ``"segm"``.
        targets: One dict per image, in the same order: ``boxes``, ``labels``, optionally
            ``iscrowd`` [n], ``ignore`` [n], ``area`` [n] (square pixels; that of the box, or of
            the mask, when it is not given) and ``masks``.
        classes: The name of label i is ``classes[i]``. Without it, labels are their own names.
        iou_type: Compare boxes, or masks.
        ious: The IoU thresholds, ascending in (0, 1].
        max_detections: How many predictions per image and class count, at least 1. AP is
            measured at the highest, AR at each.

    Raises:
        ImportError: When faster-coco-eval is not installed.
        KeyError: When a dict lacks a key.
        TypeError: When a value is not a tensor, or labels are not integers.
        ValueError: When lengths, shapes or values are not as described.
    """
    _check_settings(iou_type, ious, max_detections)
    guesses, truths = checked(predictions, targets, masks=iou_type == "segm")
    labels = names(classes, guesses, truths)
    limits = tuple(sorted({int(limit) for limit in max_detections}))
    result = _evaluate(guesses, truths, labels, iou_type, ious, limits)
    counted = _counts(truths)
    return AveragePrecision(
        classes=tuple(labels.values()),
        objects=tuple(counted[label] for label in labels),
        ious=tuple(float(iou) for iou in ious),
        max_detections=limits,
        precision=_marked(result["precision"]),
        recall=_marked(result["recall"]),
        scores=_marked(result["scores"]),
    )


def _evaluate(
    guesses: Sequence[Detections],
    truths: Sequence[Objects],
    labels: dict[int, str],
    iou_type: str,
    ious: Sequence[float],
    limits: tuple[int, ...],
) -> dict[str, NDArray[np.float64]]:
    library = _library()
    dataset = {
        "images": [_image(i, truth) for i, truth in enumerate(truths)],
        "categories": [{"id": label, "name": name} for label, name in labels.items()],
        "annotations": list(_annotations(truths)),
    }
    for number, annotation in enumerate(dataset["annotations"], start=1):
        annotation["id"] = number  # 0 would mean "not matched" to the evaluator
    target = library.COCO(dataset)
    judge = library.COCOeval_faster(target, target.loadRes(list(_results(guesses))), iou_type)
    judge.params.iouThrs, judge.params.maxDets = np.array(ious, dtype=float), list(limits)
    if not truths or not labels:  # the evaluator wants at least one of each
        shape = (len(ious), 101, len(labels), len(AREAS), len(limits))
        nothing = np.full(shape, -1.0)
        return {"precision": nothing, "recall": nothing[:, 0], "scores": nothing}
    judge.evaluate()
    judge.accumulate()
    return {key: np.asarray(judge.eval[key]) for key in ("precision", "recall", "scores")}


def _image(number: int, truth: Objects) -> dict[str, Any]:
    height, width = (0, 0) if truth.masks is None else truth.masks.shape[1:]
    return {"id": number, "height": int(height), "width": int(width)}


def _counts(truths: Sequence[Objects]) -> Counter[int]:
    """Count the objects of each label, without crowds and ignored ones."""
    if not truths:
        return Counter()
    labels = torch.cat([truth.labels for truth in truths])
    aside = torch.cat([truth.crowd for truth in truths]) | torch.cat([t.ignore for t in truths])
    return Counter(labels[~aside].tolist())


def _annotations(truths: Sequence[Objects]) -> Iterator[dict[str, Any]]:
    for number, truth in enumerate(truths):
        # The evaluator overwrites "ignore" with "iscrowd" (cocodataset/cocoapi#123). An area
        # outside of every range makes it ignore an object in the same way.
        areas = truth.area.masked_fill(truth.ignore, -1.0).tolist()
        crowds = truth.crowd.long().tolist()
        for row, area, crowd in zip(_shapes(number, truth), areas, crowds, strict=True):
            yield {**row, "area": area, "iscrowd": crowd}


def _results(guesses: Sequence[Detections]) -> Iterator[dict[str, Any]]:
    for number, guess in enumerate(guesses):
        for row, score in zip(_shapes(number, guess), guess.scores.tolist(), strict=True):
            row["score"] = score
            yield row


def _shapes(number: int, image: Detections | Objects) -> Iterator[dict[str, Any]]:
    """Yield one row per box or mask, as COCO writes it: x, y, width, height, or run lengths."""
    labels = image.labels.tolist()
    if image.masks is not None:
        for label, mask in zip(labels, image.masks, strict=True):
            shape = _run_lengths(mask)
            yield {"image_id": number, "category_id": label, "segmentation": shape}
        return
    for label, (x1, y1, x2, y2) in zip(labels, image.boxes.tolist(), strict=True):
        yield {"image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}


def _run_lengths(mask: Tensor) -> dict[str, Any]:
    pixels = np.asfortranarray(mask.numpy(), dtype=np.uint8)
    encoded: dict[str, Any] = _library().mask.encode(pixels)
    return encoded


def _library() -> Any:
    return optional("faster_coco_eval", "labs.metrics.coco_map")


def _check_settings(iou_type: str, ious: Sequence[float], max_detections: Sequence[int]) -> None:
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type: expected 'bbox' or 'segm', got {iou_type!r}")
    if not len(ious) or min(ious) <= 0 or max(ious) > 1 or sorted(set(ious)) != list(ious):
        raise ValueError(f"ious: expected ascending thresholds in (0, 1], got {list(ious)}")
    if not len(max_detections) or min(max_detections) < 1:
        raise ValueError(f"max_detections: expected at least 1, got {list(max_detections)}")


def _marked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values < 0, np.nan, values)  # COCO writes -1 where a class has no objects
