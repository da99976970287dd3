"""Keep the best of the boxes that claim the same object."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from labs.boxes.overlap import overlap


def suppress(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    max_detections: int = 100,
    max_candidates: int = 3000,
    sigma: float | None = None,
) -> list[dict[str, Tensor]]:
    """Turn candidates into detections: drop the weak, then the weaker of two that overlap.

    A candidate may be several classes at once; boxes of different classes never suppress each
    other.

    Args:
        boxes: Candidates of each image, xyxy in pixels, [N,P,4], or of each class, [N,P,C,4].
        scores: Of each candidate and class, in [0, 1], [N,P,C].
        score_threshold: Only higher scores count. Low for measuring mAP, about 0.3 for looking.
        iou_threshold: Overlap above which two boxes of a class claim the same object.
        max_detections: Most detections of an image.
        max_candidates: Most candidates that are compared; the best scores are taken.
        sigma: With a number nothing is dropped for its overlap, and ``iou_threshold`` is not used:
            the score of a box is lowered by ``exp(-iou ** 2 / sigma)`` for each stronger one
            (Soft-NMS, Bodla et al. 2017, https://arxiv.org/abs/1704.04503; 0.5 there). ``None``
            drops it.

    Returns:
        For each image ``boxes`` [n,4], ``scores`` [n], highest first, ``labels`` [n], int64, and
        ``places`` [n], int64: which candidate each detection was.

    Raises:
        ValueError: When a score is NaN, or the box of a score above the threshold is not finite.
    """
    if scores.isnan().any():
        _refuse("scores", scores.isnan(), "a number")
    results = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        place, label = (image_scores > score_threshold).nonzero(as_tuple=True)
        score = image_scores[place, label]
        if len(score) > max_candidates:
            score, best = score.topk(max_candidates)
            place, label = place[best], label[best]
        candidates = image_boxes[place] if image_boxes.ndim == 2 else image_boxes[place, label]
        if sigma is None:
            keep = strongest(candidates, score, label, iou_threshold)[:max_detections]
        else:
            limits = score_threshold, max_detections
            keep, score = _softened(candidates, score, label, sigma, *limits)
        kept = {"boxes": candidates, "scores": score, "labels": label, "places": place}
        results.append({name: values[keep] for name, values in kept.items()})
    return results


def strongest(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Return which boxes no stronger one of their group overlaps: [k] of int64, the best first.

    Args:
        boxes: xyxy in pixels, [n,4].
        scores: [n].
        groups: Such as the class of each, int64, [n]; boxes of two groups are never compared.
        iou_threshold: Overlap above which the weaker of two goes.

    Raises:
        ValueError: When a box is not finite.
    """
    if not len(boxes):
        return groups
    if not boxes.isfinite().all():
        _refuse("boxes", ~boxes.isfinite(), "finite")
    # torchvision keeps the classes apart by moving each by the largest coordinate. That fails
    # below 0, so start at 0, and it rounds small boxes away, so calculate in float64.
    apart = boxes.double() - boxes.min()
    return batched_nms(apart, scores.double(), groups, iou_threshold)


def _softened(
    boxes: Tensor, scores: Tensor, labels: Tensor, sigma: float, threshold: float, most: int
) -> tuple[Tensor, Tensor]:
    """Return which boxes stay, the highest score first, and all scores, lowered."""
    fit = overlap(boxes[:, None], boxes) * (labels[:, None] == labels)
    scores, waiting = scores.clone(), torch.ones_like(labels, dtype=torch.bool)
    kept: list[int] = []
    while len(kept) < most and waiting.any():
        best = int(scores.masked_fill(~waiting, -1).argmax())
        if scores[best] <= threshold:
            break
        kept.append(best)
        waiting[best] = False
        fade = (-fit[best].square() / sigma).exp()
        scores = torch.where(waiting, scores * fade, scores)
    return labels.new_tensor(kept), scores


def _refuse(what: str, bad: Tensor, expected: str) -> None:
    raise ValueError(
        f"suppress: expected every one of the {what} to be {expected}, got "
        f"{int(torch.count_nonzero(bad))} of {bad.numel()} that are not; "
        "labs.hooks.first_bad finds the layer they come from"
    )
