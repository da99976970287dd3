"""Keep the best of the boxes that claim the same object."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import batched_nms


def suppress(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    max_detections: int = 100,
    max_candidates: int = 3000,
) -> list[dict[str, Tensor]]:
    """Turn candidates into detections: drop the weak, then the weaker of two that overlap.

    A candidate may be several classes at once; boxes of different classes never suppress each
    other.

    Args:
        boxes: Candidates of each image, xyxy in pixels, [N,P,4].
        scores: Of each candidate and class, in [0, 1], [N,P,C].
        score_threshold: Only higher scores count. Low for measuring mAP, about 0.3 for looking.
        iou_threshold: Overlap from which two boxes of a class claim the same object.
        max_detections: Most detections of an image.
        max_candidates: Most candidates that are compared; the best scores are taken.

    Returns:
        For each image ``boxes`` [n,4], ``scores`` [n], highest first, ``labels`` [n], int64, and
        ``places`` [n], int64: which candidate each detection was.
    """
    results = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        place, label = (image_scores > score_threshold).nonzero(as_tuple=True)
        score = image_scores[place, label]
        if len(score) > max_candidates:
            score, best = score.topk(max_candidates)
            place, label = place[best], label[best]
        candidates = image_boxes[place]
        # NMS has no half precision on a CPU, and fp16 cannot hold the offsets of the classes.
        keep = batched_nms(candidates.float(), score.float(), label, iou_threshold)
        keep = keep[:max_detections]
        kept = {"boxes": candidates, "scores": score, "labels": label, "places": place}
        results.append({name: values[keep] for name, values in kept.items()})
    return results
