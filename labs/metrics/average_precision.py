"""Keep what COCO's evaluation measured, and average it over what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labs.metrics.curves import PrecisionRecall

AREAS = ("all", "small", "medium", "large")
"""Sizes of objects: any, up to 32², up to 96², and above, in square pixels."""


@dataclass(frozen=True, repr=False, eq=False)
class AveragePrecision:
    """Hold what COCO's evaluation measured; all scores lie in [0, 1], and NaN means no objects.

    Attributes:
        classes: The names, in the order of K.
        objects: How many objects count in each class, without crowds and ignored ones.
        ious: The T IoU thresholds.
        max_detections: The M limits on predictions per image and class, ascending.
        precision: [T,101,K,4,M], by the sizes in :data:`AREAS`.
        recall: [T,K,4,M], the highest recall reached.
        scores: [T,101,K,4,M], the score at which each recall is reached.
    """

    classes: tuple[str, ...]
    objects: tuple[int, ...]
    ious: tuple[float, ...]
    max_detections: tuple[int, ...]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]

    def average_precision(
        self, name: str | None = None, iou: float | None = None, area: str = "all"
    ) -> float:
        """Return the mean precision at the highest ``max_detections``.

        Args:
            name: One class; without it, the mean over the classes that have objects.
            iou: One of ``ious``; without it, the mean over all.
            area: One of :data:`AREAS`.

        Raises:
            KeyError: When there is no such class, threshold or size.
        """
        k, t, a = self._class(name), self._threshold(iou), _find("area", area, AREAS)
        return _mean(self.precision[t, :, k, a, -1])

    def average_recall(
        self,
        name: str | None = None,
        iou: float | None = None,
        area: str = "all",
        detections: int | None = None,
    ) -> float:
        """Return the mean of the highest recall, with at most ``detections`` per image and class.

        Args:
            name: As in :meth:`average_precision`.
            iou: As in :meth:`average_precision`.
            area: As in :meth:`average_precision`.
            detections: One of ``max_detections``; without it, the highest.

        Raises:
            KeyError: When there is no such class, threshold, size or limit.
        """
        k, t, a = self._class(name), self._threshold(iou), _find("area", area, AREAS)
        most = self.max_detections[-1] if detections is None else detections
        return _mean(self.recall[t, k, a, _find("detections", most, self.max_detections)])

    def curve(self, name: str, iou: float = 0.5) -> PrecisionRecall:
        """Return precision against recall of one class at one IoU threshold.

        Raises:
            KeyError: When there is no such class or threshold.
        """
        at = (self._threshold(iou), slice(None), self._class(name), 0, -1)
        precision, score = self.precision[at].squeeze((0, 2)), self.scores[at].squeeze((0, 2))
        reached = precision > 0
        levels = np.linspace(0, 1, len(precision))
        return PrecisionRecall(name, iou, levels, precision, np.where(reached, score, np.nan))

    @property
    def AP(self) -> float:
        """Return the mean over classes and IoU thresholds: COCO's mAP."""
        return self.average_precision()

    @property
    def AP50(self) -> float:
        """Return the mean over classes at IoU 0.50."""
        return self.average_precision(iou=0.5)

    @property
    def AP75(self) -> float:
        """Return the mean over classes at IoU 0.75."""
        return self.average_precision(iou=0.75)

    @property
    def APs(self) -> float:
        """Return the AP of objects up to 32² square pixels."""
        return self.average_precision(area="small")

    @property
    def APm(self) -> float:
        """Return the AP of objects from 32² to 96² square pixels."""
        return self.average_precision(area="medium")

    @property
    def APl(self) -> float:
        """Return the AP of objects above 96² square pixels."""
        return self.average_precision(area="large")

    @property
    def AR(self) -> float:
        """Return the mean highest recall over classes and IoU thresholds."""
        return self.average_recall()

    @property
    def per_class(self) -> dict[str, float]:
        """Return the AP of each class by its name."""
        return {name: self.average_precision(name) for name in self.classes}

    def table(self) -> pd.DataFrame:
        """Return one row for all classes and one per class.

        Returns:
            Columns ``objects``, ``AP``, ``AP50`` and ``AP75`` (where they were measured),
            ``APs``, ``APm``, ``APl`` and ``AR``.
        """
        rows = {"all": self._row(None), **{name: self._row(name) for name in self.classes}}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")

    def _row(self, name: str | None) -> dict[str, float]:
        marks = [iou for iou in (0.5, 0.75) if np.isclose(self.ious, iou).any()]
        sizes = zip(("APs", "APm", "APl"), AREAS[1:], strict=True)
        return {
            "objects": sum(self.objects[k] for k in np.r_[self._class(name)]),
            "AP": self.average_precision(name),
            **{f"AP{iou * 100:.0f}": self.average_precision(name, iou) for iou in marks},
            **{key: self.average_precision(name, area=size) for key, size in sizes},
            "AR": self.average_recall(name),
        }

    def _class(self, name: str | None) -> Any:
        if name is None:
            return slice(0, len(self.classes))
        at = _find("class", name, self.classes)
        return slice(at, at + 1)

    def _threshold(self, iou: float | None) -> slice:
        if iou is None:
            return slice(None)
        at = np.flatnonzero(np.isclose(self.ious, iou))
        if not len(at):
            measured = ", ".join(f"{value:.2f}" for value in self.ious)
            raise KeyError(f"IoU {iou:g} was not measured; expected one of {measured}")
        return slice(int(at[0]), int(at[0]) + 1)

    def __repr__(self) -> str:
        shown = {"AP": self.AP, "AR": self.AR}
        shown |= {f"AP@{iou:.2f}": self.average_precision(iou=iou) for iou in self.ious[:1]}
        scores = ", ".join(f"{key}={value:.3f}" for key, value in shown.items())
        return (
            f"AveragePrecision({scores}, {len(self.classes)} classes, {sum(self.objects)} objects)"
        )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _find(kind: str, wanted: Any, known: Sequence[Any]) -> int:
    if wanted not in known:
        raise KeyError(f"no {kind} {wanted!r}; expected one of {', '.join(map(str, known))}")
    return list(known).index(wanted)
