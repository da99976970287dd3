"""Match predictions to objects at one IoU threshold by COCO's rules, step by step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torchvision.ops import box_iou

from labs.metrics.detections import Detections, Objects


def overlaps(guess: Detections, truth: Objects) -> NDArray[np.float64]:
    """Return the IoU of each prediction with each object, [n,m].

    With a crowd it is the share of the prediction that lies inside: a crowd holds many objects,
    and a prediction of one of them would never reach a high IoU with all.
    """
    iou = box_iou(guess.boxes, truth.boxes).nan_to_num().numpy()  # two empty boxes give 0/0
    sizes = ((b[:, 2:] - b[:, :2]).prod(1).numpy() for b in (guess.boxes, truth.boxes))
    size, true_size = np.ix_(*sizes)
    shared = iou * (size + true_size) / (1 + iou)  # iou = shared / (both - shared)
    inside = shared / np.maximum(size, 1e-12)
    return np.where(truth.crowd.numpy(), inside, iou)


def match(overlap: NDArray[np.float64], truth: Objects, threshold: float) -> NDArray[np.int64]:
    """Give each prediction, highest score first, the free object that it overlaps most.

    Args:
        overlap: [n,m], at most 0 where the classes differ; rows by descending score.
        truth: The m objects. A crowd stays free for more predictions.
        threshold: The least overlap of a match, above 0.

    Returns:
        [n]: the index of the object, or -1. An object to ignore is taken only when no other fits.
    """
    crowd, counted = truth.crowd.numpy(), is_counted(truth)
    free = np.ones(len(crowd), dtype=bool)
    matches = np.full(len(overlap), -1)
    for row, values in enumerate(overlap):
        fits = (free | crowd) & (values >= min(threshold, 1 - 1e-10))
        candidates = np.flatnonzero(fits & counted)
        if not len(candidates):
            candidates = np.flatnonzero(fits)
        if len(candidates):
            last_first = candidates[::-1]  # of equal overlaps, COCO takes the last
            matches[row] = last_first[values[last_first].argmax()]
            free[matches[row]] = False
    return matches


def is_counted(truth: Objects) -> NDArray[np.bool_]:
    """Return which objects are to be found, [m]: neither crowds nor ignored ones."""
    counted: NDArray[np.bool_] = ~(truth.crowd | truth.ignore).numpy()
    return counted


def first_of_each(labels: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Return the indices of the first ``limit`` entries of each label, in their order."""
    kept = [np.flatnonzero(labels == label)[:limit] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)
