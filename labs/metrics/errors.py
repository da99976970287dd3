"""Say which mistakes a detector makes, and what each kind costs in AP (Bolya et al., 2020)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from labs.metrics.detections import Detections, Image, Objects, checked, names
from labs.metrics.matching import first_of_each, is_counted, match, overlaps

ERRORS = {
    "classification": "overlaps an object of another class",
    "localisation": "right class, but too little overlap",
    "both": "wrong class, and too little overlap",
    "duplicate": "the object was already found",
    "background": "overlaps no object",
    "missed": "an object without any of the predictions above",
}
"""The kinds of error, each with what it means."""
_FOUND, _IGNORED = "found", "ignored"
_MENDABLE = ("localisation", "classification")
_EMPTY = pd.DataFrame(
    columns=["image", "prediction", "label", "score", "verdict", "object", "true_label"]
)


@dataclass(frozen=True, repr=False, eq=False)
class ErrorBreakdown:
    """Hold how often each kind of error occurs and how much AP is won when it is mended.

    Attributes:
        AP: In [0, 1], at the one IoU threshold ``iou``; NaN when there are no objects.
        iou: From where a prediction of the right class counts as right.
        background_iou: Below this, a prediction overlaps nothing.
        objects: How many there are, without crowds and ignored ones.
        counts: How many errors of each kind in :data:`ERRORS`.
        gains: By kind, the AP with only this kind mended, minus ``AP``. They do not add up to
            1 - AP, because errors hide behind one another.
        predictions: One row per prediction: ``image``, ``prediction`` (its index there),
            ``class``, ``score``, ``verdict`` (``found``, ``ignored`` or a kind of error) and
            ``object``, the index in the target of the object that the verdict is about; -1 when it
            is about none.
    """

    AP: float
    iou: float
    background_iou: float
    objects: int
    counts: Mapping[str, int]
    gains: Mapping[str, float]
    predictions: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """Return one row per kind of error: ``count``, ``gain`` in AP, and its ``meaning``."""
        columns = {"count": self.counts, "gain": self.gains, "meaning": ERRORS}
        return pd.DataFrame(columns).rename_axis("error")

    def plot(self, ax: Axes) -> Axes:
        """Draw what mending each kind of error gains as bars on ``ax``, which is returned."""
        kinds = list(ERRORS)[::-1]
        bars = ax.barh(kinds, [self.gains[kind] for kind in kinds])
        ax.bar_label(bars, [f" {self.counts[kind]}" for kind in kinds])
        ax.set(xlabel=f"AP at IoU {self.iou:g} gained when mended (beside it: how many)")
        return ax

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind} {count}" for kind, count in self.counts.items())
        return f"ErrorBreakdown(AP@{self.iou:.2f}={self.AP:.3f}, {counts})"


def error_breakdown(
    predictions: Sequence[Image],
    targets: Sequence[Image],
    classes: Sequence[str] | None = None,
    iou: float = 0.5,
    background_iou: float = 0.1,
    max_detections: int = 100,
) -> ErrorBreakdown:
    """Name the error of each false prediction, count the missed objects, and mend kind by kind.

    This is the analysis of TIDE (Bolya et al., 2020). Predictions are matched as COCO does it.
    A false one gets the first kind that fits of: localisation, classification, duplicate, both,
    background. Mending localisation or classification makes the prediction right, unless its
    object is found already or by a higher score: then, and for duplicate, both and background,
    the prediction is taken away. Mending missed takes the object away; a class with nothing left
    to find counts as 1. Each kind is mended by itself, as the paper defines it; the authors'
    program lets localisation and classification compete for an object, so its gains may be lower.

    Args:
        predictions: As for :func:`labs.metrics.coco_map`, boxes only.
        targets: As for :func:`labs.metrics.coco_map`, boxes only.
        classes: The name of label i is ``classes[i]``. Without it, labels are their own names.
        iou: From where a prediction counts as right, in (``background_iou``, 1].
        background_iou: Below this, it overlaps nothing, above 0.
        max_detections: How many predictions per image and class count, at least 1.

    Raises:
        KeyError: When a dict lacks a key.
        TypeError: When a value is not a tensor, or labels are not integers.
        ValueError: When lengths, shapes, values or thresholds are not as described.
    """
    if not 0 < background_iou < iou <= 1 or max_detections < 1:
        raise ValueError(
            "expected 0 < background_iou < iou <= 1 and max_detections >= 1, got "
            f"background_iou={background_iou}, iou={iou}, max_detections={max_detections}"
        )
    guesses, truths = checked(predictions, targets)
    name_of = names(classes, guesses, truths)
    judged = [
        _judge(image, guess, truth, (iou, background_iou), max_detections)
        for image, (guess, truth) in enumerate(zip(guesses, truths, strict=True))
    ]
    verdicts = pd.concat([rows for rows, _ in judged], ignore_index=True) if judged else _EMPTY
    objects = Counter(label for truth in truths for label in _labels(truth))
    missed = Counter(label for _, labels in judged for label in labels)
    before = _mean_ap(verdicts, objects)
    counts = {kind: int((verdicts["verdict"] == kind).sum()) for kind in ERRORS}
    return ErrorBreakdown(
        AP=before,
        iou=iou,
        background_iou=background_iou,
        objects=objects.total(),
        counts={**counts, "missed": missed.total()},
        gains={kind: _mended_ap(verdicts, kind, objects, missed) - before for kind in ERRORS},
        predictions=_named(verdicts, name_of),
    )


def _judge(
    image: int, guess: Detections, truth: Objects, ious: tuple[float, float], limit: int
) -> tuple[pd.DataFrame, list[int]]:
    """Return the verdict on each prediction of an image, and the labels of its missed objects."""
    kept = first_of_each(guess.labels.numpy(), limit)
    labels, true_labels = guess.labels.numpy()[kept], truth.labels.numpy()
    overlap = overlaps(guess, truth)[kept]
    same = labels[:, None] == true_labels  # [n,m]
    matches = match(np.where(same, overlap, 0), truth, ious[0])
    counted = is_counted(truth)
    own, other = np.where(same & counted, overlap, 0), np.where(~same & counted, overlap, 0)
    verdicts = [_verdict(*row, counted, ious) for row in zip(matches, own, other, strict=True)]
    kinds = np.array([kind for kind, _ in verdicts], dtype=object)
    objects = np.array([j for _, j in verdicts], dtype=np.int64)
    helped = {j for kind, j in verdicts if kind in (_FOUND, *_MENDABLE)}
    missed = [int(true_labels[j]) for j in np.flatnonzero(counted) if j not in helped]
    rows = {
        "image": image,
        "prediction": guess.order.numpy()[kept],
        "label": labels,
        "score": guess.scores.numpy()[kept],
        "verdict": kinds,
        "object": objects,
        "true_label": np.append(true_labels, -1)[objects],  # -1 for no object
    }
    return pd.DataFrame(rows), missed


def _verdict(
    matched: int,
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    counted: NDArray[np.bool_],
    ious: tuple[float, float],
) -> tuple[str, int]:
    """Judge one prediction by its overlap [m] with the objects of its own and of other classes."""
    if matched >= 0:
        return (_FOUND if counted[matched] else _IGNORED), int(matched)
    enough, little = ious
    most, most_other = own.max(initial=0), other.max(initial=0)
    if little <= most < enough:
        return "localisation", int(own.argmax())
    if most_other >= enough:
        return "classification", int(other.argmax())
    if most >= enough:
        return "duplicate", int(own.argmax())
    return ("both", int(other.argmax())) if most_other >= little else ("background", -1)


def _mended_ap(
    verdicts: pd.DataFrame, kind: str, objects: Counter[int], missed: Counter[int]
) -> float:
    if kind == "missed":
        return _mean_ap(verdicts, Counter({k: n - missed[k] for k, n in objects.items()}))
    wrong = verdicts["verdict"] == kind
    if kind not in _MENDABLE:
        return _mean_ap(verdicts[~wrong], objects)
    # A prediction becomes right when it has the highest score of those that want its object,
    # and nothing has found the object yet. The order of the rows within an image is by score.
    wanted = verdicts[wrong | (verdicts["verdict"] == _FOUND)]
    taken = (
        wanted["verdict"].eq(_FOUND).groupby([wanted["image"], wanted["object"]]).transform("any")
    )
    claims = wanted[~taken].drop_duplicates(["image", "object"])
    mended = claims.assign(verdict=_FOUND, label=claims["true_label"])
    return _mean_ap(pd.concat([verdicts[~wrong], mended]).sort_index(), objects)


def _mean_ap(verdicts: pd.DataFrame, objects: Counter[int]) -> float:
    """Return the mean over classes of the precision averaged over COCO's 101 recalls."""
    judged = verdicts[verdicts["verdict"] != _IGNORED]
    scores = [_ap(judged[judged["label"] == label], count) for label, count in objects.items()]
    return float(np.mean(scores)) if scores else float("nan")


def _ap(verdicts: pd.DataFrame, objects: int) -> float:
    if objects == 0:
        return 1.0  # all were taken away as missed: full recall before the first prediction
    ranked = verdicts.sort_values("score", ascending=False, kind="stable")
    hits = ranked["verdict"].eq(_FOUND).to_numpy().cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    ranks = np.searchsorted(hits / objects, np.linspace(0, 1, 101))
    return float(np.append(best_from_here, 0.0)[ranks].mean())  # 0 where recall is not reached


def _labels(truth: Objects) -> list[int]:
    labels: list[int] = truth.labels.numpy()[is_counted(truth)].tolist()
    return labels


def _named(verdicts: pd.DataFrame, name_of: Mapping[int, str]) -> pd.DataFrame:
    named = verdicts.assign(**{"class": verdicts["label"].map(name_of)})
    return named[["image", "prediction", "class", "score", "verdict", "object"]]
