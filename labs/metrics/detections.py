"""Check predictions and targets once, so that what scores them can trust them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labs.near_miss import did_you_mean

_FROM_LOGITS = "apply sigmoid or softmax to logits first"
_OTHERS = frozenset(("iscrowd", "ignore", "area"))
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Image = Mapping[str, Tensor]
"""One image as torchvision gives it: ``boxes`` [n,4] xyxy in pixels, ``labels`` [n], and more."""


@dataclass(frozen=True)
class Detections:
    """Hold what was predicted on one image, on the CPU: boxes [n,4] in float64, highest first."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    order: Tensor
    """The index of each in the dict it came from, [n]."""
    masks: Tensor | None = None


@dataclass(frozen=True)
class Objects:
    """Hold what is on one image, on the CPU: boxes [n,4] and area [n] in float64."""

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    ignore: Tensor
    area: Tensor
    masks: Tensor | None = None


def checked(
    predictions: Sequence[Image], targets: Sequence[Image], masks: bool = False
) -> tuple[list[Detections], list[Objects]]:
    """Return predictions and targets in one form, or say what is wrong with which of them.

    Raises:
        KeyError: When a dict lacks a key.
        TypeError: When an entry is not a dict, a value no tensor, or labels are not integers.
        ValueError: When lengths, shapes or values are not what they must be.
    """
    predictions, targets = _listed(predictions, "predictions"), _listed(targets, "targets")
    if len(predictions) != len(targets):
        raise ValueError(
            "expected one prediction and one target per image, got "
            f"{len(predictions)} predictions and {len(targets)} targets; "
            "an image without objects still needs its dict, with boxes of shape [0,4]"
        )
    if not masks and (quick := _at_once(predictions, targets)) is not None:
        return quick
    guesses = [_detections(p, f"predictions[{i}]", masks) for i, p in enumerate(predictions)]
    truths = [_objects(t, f"targets[{i}]", masks) for i, t in enumerate(targets)]
    if masks:
        _check_canvases(guesses, truths)
    return guesses, truths


def _listed(images: Iterable[Image], what: str) -> list[Image]:
    """Return a list of images, from any iterable; one image alone is none."""
    if isinstance(images, (Mapping, Tensor)) or not isinstance(images, Iterable):
        got = type(images).__name__
        if isinstance(images, Mapping):
            got = f"one dict with the keys {', '.join(map(str, images))}"
        raise TypeError(
            f"{what}: expected a list with one dict per image, got {got}; for one image, [{what}]"
        )
    return list(images)


def _at_once(
    predictions: Sequence[Image], targets: Sequence[Image]
) -> tuple[list[Detections], list[Objects]] | None:
    """Check boxes of all images together, which takes a quarter of the time.

    Returns:
        None when anything is unusual: then each image is looked at by itself, and may be refused.
    """
    guesses = _columns(predictions, ("boxes", "labels", "scores"))
    truths = _columns(targets, ("boxes", "labels"))
    if guesses is None or truths is None or not len(guesses[0]) or not len(truths[0]):
        return None
    (boxes, labels, scores), counts = guesses[:-1], guesses[-1].tolist()
    if not _are_boxes(boxes) or not bool(((scores >= 0) & (scores <= 1)).all()):
        return None
    # By image, and within each by score; NumPy's last key is the first to decide.
    order = torch.from_numpy(
        np.lexsort((-scores.numpy(), np.repeat(np.arange(len(counts)), counts)))
    )
    starts = torch.from_numpy(np.repeat(np.cumsum([0, *counts[:-1]]), counts))
    parts = (boxes[order], scores[order], labels[order], order - starts)
    found = [Detections(*part) for part in zip(*(p.split(counts) for p in parts), strict=True)]
    (boxes, labels), counts = truths[:-1], truths[-1].tolist()
    if not _are_boxes(boxes):
        return None
    none, sizes = torch.zeros(len(boxes), dtype=torch.bool), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    columns = zip(*(c.split(counts) for c in (boxes, labels, none, none, sizes)), strict=True)
    return found, [Objects(*column) for column in columns]


def _columns(images: Sequence[Image], keys: tuple[str, ...]) -> list[Tensor] | None:
    """Return each key of all images as one tensor on the CPU, and how many rows each image has.

    None when the images hold more that counts, or something else than one row per box.
    """
    for image in images:
        if not isinstance(image, Mapping) or not _OTHERS.isdisjoint(image):
            return None
        if any(not isinstance(image.get(key), Tensor) for key in keys):
            return None
        rows = image["boxes"].shape[:1]
        if image["boxes"].shape[1:] != (4,) or any(image[key].shape != rows for key in keys[1:]):
            return None
    found = []
    for key in keys:
        values = [image[key] for image in images]
        kinds = {(value.dtype, value.device) for value in values}
        if len(kinds) != 1:  # none without images
            return None
        if values[0].is_complex() or (values[0].dtype in _WHOLE) != (key == "labels"):
            return None
        column = torch.cat(values).detach().cpu()
        found.append(column.long() if key == "labels" else column.double())
    if bool((found[1] < 0).any()):
        return None
    return [*found, torch.tensor([len(image["boxes"]) for image in images])]


def _are_boxes(boxes: Tensor) -> bool:
    return bool(boxes.isfinite().all()) and bool((boxes[:, 2:] >= boxes[:, :2]).all())


def names(
    classes: Sequence[str] | None, guesses: Sequence[Detections], truths: Sequence[Objects]
) -> dict[int, str]:
    """Return the name of each class by its label; without names, the labels that occur.

    Raises:
        ValueError: When a label has no name, or two classes share one.
    """
    labels = [guess.labels for guess in guesses] + [truth.labels for truth in truths]
    seen = torch.cat(labels).unique().tolist() if labels else []
    if classes is None:
        return {label: str(label) for label in seen}
    if isinstance(classes, str) or len(set(classes)) != len(classes):
        raise ValueError(f"classes: expected a list of different names, got {classes!r}")
    if seen and seen[-1] >= len(classes):
        raise ValueError(
            f"expected labels in 0..{len(classes) - 1}, one for each of the {len(classes)} "
            f"classes, got {seen[-1]}; classes[label] is the name of a label: "
            "where labels start at 1, begin the list with '__background__'"
        )
    return dict(enumerate(classes))


def _detections(image: Image, where: str, masks: bool) -> Detections:
    _check_keys(image, ("boxes", "scores", "labels") + ("masks",) * masks, where)
    boxes = _boxes(image["boxes"], where)
    labels = _labels(image["labels"], len(boxes), where)
    scores = _floats(image["scores"], len(boxes), f"{where}['scores']")
    if ((scores < 0) | (scores > 1)).any():
        worst = scores[(scores - 0.5).abs().argmax()].item()
        # In float32, a sum of probabilities may miss 1 in the seventh digit.
        is_rounding = -1e-5 < worst < 1 + 1e-5
        fix = "clamp them: scores.clamp(0, 1)" if is_rounding else _FROM_LOGITS
        raise ValueError(
            f"{where}['scores']: expected values in [0, 1], got {_outside(worst)}; {fix}"
        )
    order = scores.argsort(descending=True, stable=True)
    shapes = _masks(image["masks"], len(boxes), where)[order] if masks else None
    return Detections(boxes[order], scores[order], labels[order], order, shapes)


def _outside(value: float) -> str:
    """Write a number that is not in [0, 1] with as many digits as it takes to see that."""
    texts = (f"{value:.{digits}g}" for digits in range(4, 18))
    return next((text for text in texts if not 0 <= float(text) <= 1), repr(value))


def _objects(image: Image, where: str, masks: bool) -> Objects:
    _check_keys(image, ("boxes", "labels") + ("masks",) * masks, where)
    boxes = _boxes(image["boxes"], where)
    labels = _labels(image["labels"], len(boxes), where)
    crowd, ignore = (_flags(image, key, len(boxes), where) for key in ("iscrowd", "ignore"))
    shapes = _masks(image["masks"], len(boxes), where) if masks else None
    if "area" in image:
        area = _floats(image["area"], len(boxes), f"{where}['area']")
    elif shapes is not None:
        area = shapes.sum((1, 2)).double()
    else:
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    if (area < 0).any():
        raise ValueError(f"{where}['area']: expected square pixels, got {area.min().item():.4g}")
    return Objects(boxes, labels, crowd, ignore, area, shapes)


def _check_keys(image: Image, needed: tuple[str, ...], where: str) -> None:
    if not isinstance(image, Mapping):
        raise TypeError(f"{where}: expected a dict of tensors, got {type(image).__name__}")
    for key in needed:
        if key not in image:
            hint = did_you_mean(key, image)
            if key == "scores" and not hint:
                hint = "; are predictions and targets the wrong way round?"
            raise KeyError(f"{where}: expected a key {key!r}, got {', '.join(image)}{hint}")
        if not isinstance(image[key], Tensor):
            raise TypeError(
                f"{where}[{key!r}]: expected a tensor, got {type(image[key]).__name__}; "
                "use torch.as_tensor"
            )


def _boxes(boxes: Tensor, where: str) -> Tensor:
    if boxes.numel() == 0:
        return torch.zeros(0, 4, dtype=torch.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{where}['boxes']: expected shape [n,4], got {list(boxes.shape)}")
    boxes = boxes.detach().cpu().double()
    bad = ~boxes.isfinite().all(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        said, fix = _trouble(boxes[row].tolist())
        raise ValueError(
            f"{where}['boxes'][{row}]: expected finite x1 <= x2 and y1 <= y2 in pixels, got "
            f"{said}; {fix}"
        )
    return boxes


def _trouble(box: list[float]) -> tuple[str, str]:
    """Write a box with the digits that show its fault, and say what may help."""
    for digits in range(6, 18):
        x1, y1, x2, y2 = (float(f"{value:.{digits}g}") for value in box)
        if x2 < x1 or y2 < y1:
            break
    said = f"[{', '.join(f'{value:.{digits}g}' for value in box)}]"
    if not all(map(math.isfinite, box)):
        return said, "a network that diverged gives such boxes: see labs.hooks.first_bad"
    fix = "if the boxes are xywh, use torchvision.ops.box_convert(boxes, 'xywh', 'xyxy')"
    return said, f"{fix}; if two corners are the wrong way round, sort x and y of each box"


def _labels(labels: Tensor, count: int, where: str) -> Tensor:
    labels = labels.detach().cpu()
    if labels.numel() == 0 and count == 0:
        return torch.zeros(0, dtype=torch.int64)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"{where}['labels']: expected integers, got {labels.dtype}; use labels.long()"
        )
    if labels.shape != (count,):
        raise ValueError(
            f"{where}['labels']: expected {count} labels, one per box, got shape "
            f"{list(labels.shape)}"
        )
    if (labels < 0).any():
        row = int((labels < 0).nonzero()[0])
        raise ValueError(
            f"{where}['labels'][{row}]: expected labels of at least 0, got {int(labels[row])}; "
            "leave out what is background or to be skipped, or mark objects with 'ignore'"
        )
    return labels.long()


def _floats(values: Tensor, count: int, where: str) -> Tensor:
    if values.is_complex():
        raise TypeError(f"{where}: expected real numbers, got {values.dtype}")
    values = values.detach().cpu().double()
    if values.numel() == 0 and count == 0:
        return torch.zeros(0, dtype=torch.float64)
    if values.shape != (count,):
        raise ValueError(
            f"{where}: expected {count} finite values, one per box, got shape {list(values.shape)}"
        )
    if not values.isfinite().all():
        row = int((~values.isfinite()).nonzero()[0])
        raise ValueError(
            f"{where}: expected {count} finite values, one per box, got "
            f"{int((~values.isfinite()).sum())} that are not finite, the first at {row}: "
            f"{values[row].item()}"
        )
    return values


def _flags(image: Image, key: str, count: int, where: str) -> Tensor:
    if key not in image:
        return torch.zeros(count, dtype=torch.bool)
    values = _floats(torch.as_tensor(image[key]), count, f"{where}[{key!r}]")
    if not torch.isin(values, torch.tensor([0.0, 1.0]).double()).all():
        raise ValueError(f"{where}[{key!r}]: expected 0 or 1, got {values.unique().tolist()[:5]}")
    return values.bool()


def _masks(masks: Tensor, count: int, where: str) -> Tensor:
    masks = masks.detach().cpu()
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]  # [n,1,H,W] -> [n,H,W], as torchvision's Mask R-CNN gives them
    if masks.ndim != 3 or len(masks) != count:
        raise ValueError(
            f"{where}['masks']: expected shape [{count},H,W], one mask per box, "
            f"got {list(masks.shape)}; without objects, [0,H,W]"
        )
    if masks.is_floating_point() and not torch.isin(masks, masks.new_tensor([0, 1])).all():
        raise ValueError(
            f"{where}['masks']: expected 0 and 1, got probabilities; threshold them: masks > 0.5"
        )
    return masks.bool()


def _check_canvases(guesses: Sequence[Detections], truths: Sequence[Objects]) -> None:
    for i, (guess, truth) in enumerate(zip(guesses, truths, strict=True)):
        assert guess.masks is not None
        assert truth.masks is not None
        if guess.masks.shape[1:] != truth.masks.shape[1:]:
            raise ValueError(
                f"image {i}: expected masks of one size, got {list(guess.masks.shape[1:])} "
                f"predicted and {list(truth.masks.shape[1:])} in the target; "
                "resize the predicted masks to the image"
            )
