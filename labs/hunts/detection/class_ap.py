"""Check an average precision: every row of the ranking is a hit or a false alarm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from labs.hunts import Verdict, examine
from labs.hunts.answer import number_of
from labs.metrics import coco_map

Boxes = dict[str, Tensor]
ClassAP = Callable[[Sequence[Boxes], Sequence[Boxes], float], float]
SIDE, _GAP, _BARS = 20.0, 60.0, (0.5, 0.75)


def check_class_ap(ap_of_class: ClassAP) -> Verdict:
    """Check a function that scores the predictions of one class.

    Objects are far apart in every probe, so that it does not matter whether a prediction may go to
    its second-best object. The answers must be those of :func:`labs.metrics.coco_map`.

    Args:
        ap_of_class: ``ap_of_class(predictions, targets, bar)`` takes one dict per image, with
            ``boxes`` [n,4] and ``scores`` [n], and one with ``boxes`` [m,4]; it returns the AP at
            the IoU ``bar``, over COCO's 101 recalls.

    Returns:
        The verdict of seven probes: on the truth, on copies, on ghosts, on any predictions, and on
        what must not change.
    """
    return examine(
        "the AP of a class",
        ap_of_class,
        {
            "the truth against itself scores 1": _truth_is_perfect,
            "two objects, the better one found twice": _one_copy_counts,
            "every prediction five times, shaken": _copies_cost,
            "copies that score higher than the other hits": _early_copies_cost,
            "boxes in images without objects": _ghosts_cost,
            "any predictions, at two bars": _any_predictions,
            "the same answer again, and the boxes as before": _leaves_no_trace,
        },
    )


def _truth_is_perfect(ap_of_class: ClassAP) -> str:
    targets = _targets()
    return _compare(ap_of_class, [_scored(t["boxes"]) for t in targets], targets)


def _one_copy_counts(ap_of_class: ClassAP) -> str:
    boxes = _row_of_objects(2)
    prediction = {"boxes": boxes[[0, 0, 1]], "scores": torch.tensor([0.9, 0.8, 0.7])}
    return _compare(ap_of_class, [prediction], [{"boxes": boxes}])


def _copies_cost(ap_of_class: ClassAP) -> str:
    targets = _targets()
    found = [_scored(_shaken(t["boxes"].repeat(5, 1), 0.05)) for t in targets]
    return _compare(ap_of_class, found, targets)


def _early_copies_cost(ap_of_class: ClassAP) -> str:
    targets = _targets()
    once = [_scored(t["boxes"]) for t in targets]
    copies = [{"boxes": p["boxes"] + 0.5, "scores": p["scores"] * 0.9 + 0.1} for p in once]
    both = [
        {key: torch.cat([p[key], c[key]]) for key in p} for p, c in zip(once, copies, strict=True)
    ]
    return _compare(ap_of_class, both, targets)


def _ghosts_cost(ap_of_class: ClassAP) -> str:
    nothing = {"boxes": torch.zeros(0, 4)}
    targets = [*_targets(), nothing, nothing]
    found = [_scored(t["boxes"] if len(t["boxes"]) else _row_of_objects(4)) for t in targets]
    return _compare(ap_of_class, found, targets)


def _any_predictions(ap_of_class: ClassAP) -> str:
    targets, seen = _targets(count=12), []
    for bar in _BARS:
        found = []
        for target in targets:
            boxes = target["boxes"].repeat(3, 1)
            boxes = boxes[torch.rand(len(boxes)) < 0.6]
            far = _row_of_objects(2) + torch.tensor([0.0, 500.0, 0.0, 500.0])
            found.append(_scored(torch.cat([_shaken(boxes, 0.25), far])))
        seen.append(_compare(ap_of_class, found, targets, bar))
    return "; ".join(seen)


def _leaves_no_trace(ap_of_class: ClassAP) -> str:
    targets = _targets()
    found = [_scored(_shaken(t["boxes"].repeat(2, 1), 0.1)) for t in targets]
    before = [tensor.clone() for image in (*found, *targets) for tensor in image.values()]
    first, second = (_asked(ap_of_class, found, targets, 0.5) for _ in range(2))
    after = [tensor for image in (*found, *targets) for tensor in image.values()]
    assert abs(first - second) < 1e-9, f"first {first:.4f}, then {second:.4f}"
    assert len(before) == len(after), "entries were added or lost"
    same = all(torch.equal(b, a) for b, a in zip(before, after, strict=True))
    assert same, "the boxes or scores that were passed in have changed"
    return "it is, and they are"


def _asked(
    ap_of_class: ClassAP, predictions: Sequence[Boxes], targets: Sequence[Boxes], bar: float
) -> float:
    return number_of(ap_of_class(predictions, targets, bar), "the AP")


def _compare(
    ap_of_class: ClassAP,
    predictions: Sequence[Boxes],
    targets: Sequence[Boxes],
    bar: float = 0.5,
) -> str:
    found, truth = ([_labelled(image) for image in images] for images in (predictions, targets))
    expected = coco_map(found, truth, ious=[bar]).AP
    got = _asked(ap_of_class, predictions, targets, bar)
    assert abs(got - expected) < 1e-6, f"at IoU {bar} expected AP {expected:.4f}, got {got:.4f}"
    return f"AP {got:.4f}, as it should be"


def _labelled(image: Boxes) -> Boxes:
    return {**image, "labels": torch.zeros(len(image["boxes"])).long()}


def _targets(count: int = 6) -> list[Boxes]:
    return [{"boxes": _row_of_objects(number % 4)} for number in range(1, count + 1)]


def _row_of_objects(count: int) -> Tensor:
    left = _GAP * torch.arange(count)
    top = torch.zeros(count)
    return torch.stack([left, top, left + SIDE, top + 1.5 * SIDE], 1)


def _shaken(boxes: Tensor, by: float) -> Tensor:
    return boxes + by * SIDE * (2 * torch.rand(boxes.shape) - 1)


def _scored(boxes: Tensor) -> Boxes:
    """Give each box its own score, so that no ties are left to a convention."""
    return {"boxes": boxes, "scores": 0.1 + 0.9 * torch.rand(len(boxes))}
