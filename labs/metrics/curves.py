"""Show what precision a detector keeps as its recall grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray


@dataclass(frozen=True, repr=False, eq=False)
class PrecisionRecall:
    """Hold the curve of one class at one IoU threshold, at COCO's 101 levels of recall.

    Attributes:
        name: The class.
        iou: The IoU from which a prediction counts as right.
        recall: [101], from 0 to 1.
        precision: [101], the best that is reached at this recall or a higher one; 0 where the
            recall is not reached, NaN when the class has no objects.
        score: [101], the score of the prediction that reaches the recall; NaN where none does.
    """

    name: str
    iou: float
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    score: NDArray[np.float64]

    @property
    def AP(self) -> float:
        """Return the area under the curve: the mean of the precision over the 101 levels."""
        return float(self.precision.mean())

    def table(self) -> pd.DataFrame:
        """Return one row per level of recall: ``recall``, ``precision`` and ``score``."""
        columns = {"recall": self.recall, "precision": self.precision, "score": self.score}
        return pd.DataFrame(columns)

    def plot(self, ax: Axes) -> Axes:
        """Add the curve to ``ax``, which is returned; its label tells class, IoU and area."""
        label = f"{self.name}, IoU {self.iou:.2f}: AP {self.AP:.2f}"
        ax.plot(self.recall, self.precision, drawstyle="steps-pre", label=label)
        ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        ax.legend()
        return ax

    def __repr__(self) -> str:
        return f"PrecisionRecall({self.name!r}, iou={self.iou:.2f}, AP={self.AP:.3f})"
