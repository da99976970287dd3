"""Refuse targets that cannot be true, in the same words whoever reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from labs.near_miss import did_you_mean

Target = Mapping[str, Tensor]
"""Of an image: ``boxes`` [n,4], xyxy in pixels, ``labels`` [n], and perhaps ``masks`` [n,H,W]."""

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_forms(who: str, targets: Sequence[Target]) -> None:
    """Raise unless each target has boxes and labels of the right names, types and shapes.

    Legal are boxes of any real type, labels of any whole type, and for an image without objects
    boxes and labels of shape [0], which is what ``torch.tensor([])`` has.

    Args:
        who: Asks, and is named in the error.
        targets: One per image.

    Raises:
        ValueError: Which says what was expected, what came, in which image, and what to do.
    """
    for image, target in enumerate(targets):
        for name in ("boxes", "labels"):
            _check_part(who, image, name, target)
        boxes, labels = target["boxes"], target["labels"]
        if boxes.dtype in (torch.bool, torch.complex64, torch.complex128):
            _refuse(who, image, "boxes of numbers", f"{boxes.dtype}", "use boxes.float()")
        if boxes.shape != (0,) and (boxes.ndim != 2 or boxes.shape[1] != 4):
            told = "x1, y1, x2, y2 of each object; of a single one boxes[None]"
            _refuse(who, image, "boxes [n,4]", f"{list(boxes.shape)}", told)
        if labels.shape != boxes.shape[:1]:
            told = "give each box a label, and take boxes and labels away together"
            _refuse(who, image, f"labels [{len(boxes)}]", f"{list(labels.shape)}", told)
        if labels.dtype not in _WHOLE and len(labels):
            told = "a label is the index of a class; use labels.long()"
            _refuse(who, image, "labels of whole numbers", f"{labels.dtype}", told)


def check_values(
    who: str, boxes: Tensor, labels: Tensor, image: Tensor, classes: int | None, canvas: Tensor
) -> None:
    """Raise unless the objects of a batch can be in their images.

    Legal are boxes without area, which are points or lines, and boxes that reach beyond the image:
    they are taken as they are, as nothing says whether the image was cut or the box.

    Args:
        who: Asks, and is named in the error.
        boxes: Of all images, [T,4].
        labels: Of all images, [T].
        image: Where each object is, [T].
        classes: How many there are, if that is known.
        canvas: Width and height of the images in pixels, [2]; infinite if unknown.

    Raises:
        ValueError: When a box is not finite, inside out, or wholly outside of its image, or a
            label is no class, or the boxes of all images are fractions of the image.
    """
    size, most = boxes[:, 2:] - boxes[:, :2], torch.inf if classes is None else classes
    faults = {
        "finite": ~boxes.isfinite().all(1),
        "ordered": (size < 0).any(1),
        "class": (labels < 0) | (labels >= most),
        "outside": ((boxes[:, :2] > canvas) | (boxes[:, 2:] < 0)).any(1),
    }
    any_fault = torch.stack([*faults.values()]).any()
    # Not one whole pixel in a whole batch: they must have been divided by the size of the image.
    norm = (boxes <= 1).all() & ((boxes > 0) & (boxes < 1)).any() & canvas.isfinite().all()
    if not (any_fault | norm):  # one question, so that a GPU is waited for once
        return
    for name, wrong in faults.items():
        if wrong.any():
            first = int(wrong.nonzero()[0])
            _explain(who, name, boxes[first], int(labels[first]), int(image[first]), most, canvas)
    _refuse(
        who,
        int(image[0]),
        "boxes in pixels",
        f"{boxes[0].tolist()}, and none beyond 1 in the whole batch",
        f"multiply boxes_norm by width, height, width, height: {_size(canvas)} here",
    )


def check_masks(who: str, targets: Sequence[Target], canvas: tuple[int, int], finest: int) -> None:
    """Raise unless each target has a bool mask of each object, of the size of its image.

    Args:
        who: Asks, and is named in the error.
        targets: One per image, with boxes and labels that are right.
        canvas: Height and width in pixels, rounded up to whole cells.
        finest: Side of a cell in pixels: so much smaller an image may not be.

    Raises:
        ValueError: When there are none, or of another type, number or size.
    """
    for image, target in enumerate(targets):
        count = len(target["labels"])
        if count == 0:
            continue
        _check_part(who, image, "masks", target)
        masks = target["masks"]
        if masks.dtype != torch.bool:
            _refuse(who, image, "masks of bool", f"{masks.dtype}", "use masks > 0")
        fits = masks.ndim == 3 and len(masks) == count
        if not fits or not all(
            0 <= cells - side < finest for cells, side in zip(canvas, masks.shape[1:], strict=True)
        ):
            sizes = ",".join(f"{cells - finest + 1}..{cells}" for cells in canvas)
            told = "one mask an object, of the size of the image"
            _refuse(who, image, f"masks [{count},{sizes}]", f"{list(masks.shape)}", told)


def _check_part(who: str, image: int, name: str, target: Target) -> None:
    if name not in target:
        hint = did_you_mean(name, target)
        _refuse(who, image, f"{name!r}", f"{sorted(target)}{hint}", "an image without objects has "
                "boxes [0,4] and labels [0]")  # fmt: skip
    if not isinstance(target[name], Tensor):
        kind = type(target[name]).__name__
        _refuse(who, image, f"{name} as a tensor", f"a {kind}", f"use torch.as_tensor({name})")


def _explain(
    who: str, fault: str, box: Tensor, label: int, image: int, classes: float, canvas: Tensor
) -> NoReturn:
    """Raise what one object is refused for."""
    got = f"{[round(x, 3) for x in box.tolist()]}"
    if fault == "finite":
        _refuse(who, image, "boxes of finite numbers", got, "look where it was divided by 0")
    if fault == "ordered":
        told = "boxes are x1, y1, x2, y2, not x, y, width, height; flips must swap x1 and x2"
        _refuse(who, image, "boxes with x1 <= x2 and y1 <= y2", got, told)
    if fault == "outside":
        told = "drop objects that were cut away, and scale boxes as the images are scaled"
        _refuse(who, image, f"boxes that touch the image of {_size(canvas)} pixels", got, told)
    most = "" if classes == torch.inf else f" and below {classes}, the number of classes"
    told = "number the classes from 0, and drop objects that have none"
    _refuse(who, image, f"labels of at least 0{most}", f"{label}", told)


def _size(canvas: Tensor) -> str:
    width, height = canvas.tolist()
    return f"{width:g}x{height:g}"


def _refuse(who: str, image: int, expected: str, got: str, told: str) -> NoReturn:
    raise ValueError(f"{who}: expected {expected}, got {got} in image {image}; {told}")
