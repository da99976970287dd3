"""Hold the runs of an ablation, and show what they tell."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from labs.ablation.run import ERROR, SEED, Run
from labs.ablation.statistics import conclude, detectable, differs, summarise

if TYPE_CHECKING:  # drawing is imported by who draws
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Study:
    """Hold every run of an ablation: the value tried, the seed, and what was measured.

    Attributes:
        vary: The setting that changed.
        values: What was tried.
        base: The value of the reference run.
        runs: In the order of the values, then of the seeds.
        interrupted: Whether Ctrl-C ended the study, so that runs are missing.
    """

    vary: str
    values: tuple[Any, ...]
    base: Any
    runs: tuple[Run, ...]
    interrupted: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """Name what was measured, in the order in which the runs named it."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.metrics))

    @property
    def reference(self) -> Hashable:
        """Name the row that the others are compared with: the base, or else the first value."""
        labels = [label(value) for value in self.values]
        return label(self.base) if label(self.base) in labels else labels[0]

    def frame(self) -> pd.DataFrame:
        """Return one row per run: the value, the seed, each metric, and ``error`` if any failed."""
        rows = [{self.vary: label(run.value), SEED: run.seed, **run.metrics} for run in self.runs]
        frame = pd.DataFrame(rows, columns=[self.vary, SEED, *self.metrics])
        if any(run.error for run in self.runs):
            frame[ERROR] = [run.error for run in self.runs]
        return frame

    def curves(self) -> pd.DataFrame:
        """Return one row per point that a run yielded: the value, the seed, and what it yielded.

        Empty when the function returned its score instead of yielding it.
        """
        rows = [
            {self.vary: label(run.value), SEED: run.seed, **point}
            for run in self.runs
            for point in run.curve
        ]
        return pd.DataFrame(rows)

    def table(self, metric: str | None = None) -> pd.DataFrame:
        """Return one row per value, in the order in which they were given.

        Args:
            metric: Which metric to summarise. The first one when it is not given.

        Returns:
            Columns ``mean``, ``std`` (n - 1), ``ci95`` (half width, by Student's t), ``n``,
            ``delta`` (against the reference), ``p`` (Welch's t-test against the reference, each
            arm by itself) and ``failed``: the runs that gave no finite score, which the other
            columns leave out.

        Raises:
            KeyError: When no run has that metric.
        """
        metric = self._metric(metric)
        arms = self._scores(metric)
        base = arms[self.reference]
        rows = [
            summarise(scores, None if name == self.reference else base)
            | {"failed": int((~np.isfinite(scores)).sum())}
            for name, scores in arms.items()
        ]
        index = pd.Index(list(arms), name=self.vary, tupleize_cols=False)  # a tuple is one value
        return pd.DataFrame(rows, index=index)

    @property
    def failures(self) -> str:
        """Say in words how many runs failed and how the first did; empty when none did."""
        errors = [run for run in self.runs if run.error]
        if not errors:
            return ""
        first = errors[0]
        return (
            f"{len(errors)} of {len(self.runs)} runs failed, first {self.vary}={first.value!r} "
            f"with seed {first.seed}: {first.error}"
        )

    @property
    def warning(self) -> str:
        """Say in words why not to believe the table; empty when nothing speaks against it.

        One line each: an interrupted study, failed runs, scores that are missing or not finite,
        and every metric by which the seeds cannot tell some arm from the reference.
        """
        said = ["interrupted: runs are missing"] if self.interrupted else []
        said += [self.failures] if self.failures else []
        finished = sum(not run.error for run in self.runs)
        for metric in self.metrics:
            lost = finished - int(self.table(metric)["n"].sum())
            said += [f"{metric}: {lost} runs gave no finite score"] if lost else []
            said += self._unclear(metric)
        return "\n".join(said)

    def verdict(self, metric: str | None = None) -> str:
        """Say in words how each arm compares with the reference, one line each.

        A difference counts when p, times the number of arms compared, is below 0.05.

        Args:
            metric: The first one when it is not given.

        Raises:
            KeyError: When no run has that metric.
        """
        words = self._conclusions(self._metric(metric), "higher", "lower")
        return "\n".join(f"{_text(name)}: {said}" for name, said in words.items())

    def detectable(self, metric: str | None = None, power: float = 0.8) -> float:
        """Return the smallest difference from the reference that this study would find.

        Say it wherever you say "not told apart": a smaller difference may be there all the same.
        It uses the pooled spread of all arms, and as many runs as the smallest arm has.

        Args:
            metric: The first one when it is not given.
            power: With what probability, in (0, 1).

        Returns:
            In the unit of the metric; NaN without two runs an arm, or without any spread.

        Raises:
            KeyError: When no run has that metric.
            ValueError: When ``power`` is outside (0, 1).
        """
        if not 0 < power < 1:
            raise ValueError(f"detectable: expected a power in (0, 1), got {power}")
        table = self.table(metric)
        runs = int(table["n"].min())
        if runs < 2:
            return float("nan")
        freedom = table["n"] - 1
        pooled = float(((table["std"] ** 2 * freedom).sum() / freedom.sum()) ** 0.5)
        return detectable(pooled, runs, len(self.values) - 1, power)

    def plot(self, ax: Axes, metric: str | None = None) -> Axes:
        """Draw one point per run, and the mean of each value with its 95 % interval.

        Args:
            ax: Where to draw; it is returned. See ``labs.plot.new``.
            metric: The first one when it is not given.

        Raises:
            KeyError: When no run has that metric.
        """
        from labs.plot import COLOURS

        metric = self._metric(metric)
        table = self.table(metric)
        for place, scores in enumerate(self._scores(metric).values()):
            beside = np.full(len(scores), place - 0.12)
            ax.plot(beside, scores, "o", color=COLOURS[0], alpha=0.5, markersize=4)
        # The interval of a single run is NaN, and then only its mean is drawn.
        bars = table["ci95"].fillna(0)
        ax.errorbar(
            np.arange(len(table)), table["mean"], bars, fmt="D", color=COLOURS[1], capsize=4
        )
        reference = list(self._scores(metric)).index(self.reference)
        ax.axhline(table["mean"].iloc[reference], color="0.6", linewidth=1, zorder=0)
        ax.set_xticks(range(len(table)), [_text(name) for name in table.index])
        ax.set(xlabel=self.vary, ylabel=metric, xlim=(-0.5, len(table) - 0.5))
        return ax

    def to_markdown(self, digits: int = 3) -> str:
        """Write the table of a paper: one row per value, one column per metric, a conclusion.

        An arrow marks a mean that differs from the reference's, as in :meth:`verdict`.

        Args:
            digits: Significant digits of the means; the intervals have two.

        Raises:
            ValueError: When ``digits`` < 1.
        """
        if digits < 1:
            raise ValueError(f"to_markdown: expected digits >= 1, got {digits}")
        tables = {metric: self._rows(metric) for metric in self.metrics}
        names = [label(value) for value in self.values]
        rows = [[self.vary, *self.metrics, "conclusion"], ["---"] * (len(tables) + 2)]
        for name in names:
            cells = [self._cell(table[name], digits) for table in tables.values()]
            rows.append([_text(name), *cells, self._conclusion(name)])
        return "\n".join(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows)

    def __repr__(self) -> str:
        failed = sum(bool(run.error) for run in self.runs)
        tail = (f", {failed} failed" if failed else "") + (", interrupted" * self.interrupted)
        return f"Study(vary={self.vary!r}, {len(self.values)} values, {len(self.runs)} runs{tail})"

    def _metric(self, metric: str | None) -> str:
        if not self.metrics:
            raise KeyError(f"no metric: no run finished; {self.failures}")
        metric = self.metrics[0] if metric is None else metric
        if metric not in self.metrics:
            raise KeyError(f"metric {metric!r} not measured; there are {', '.join(self.metrics)}")
        return metric

    def _scores(self, metric: str) -> dict[Hashable, np.ndarray]:
        """Return the scores of each arm, with NaN where a run has none."""
        arms: dict[Hashable, list[float]] = {label(value): [] for value in self.values}
        for run in self.runs:
            arms[label(run.value)].append(run.metrics.get(metric, np.nan))
        return {name: np.array(scores, dtype=float) for name, scores in arms.items()}

    def _rows(self, metric: str) -> dict[Hashable, Mapping[str, Any]]:
        table = self.table(metric)
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.to_numpy()]
        return dict(zip(self._scores(metric), rows, strict=True))

    def _conclusions(self, metric: str, higher: str, lower: str) -> dict[Hashable, str]:
        comparisons = len(self.values) - 1
        return {
            name: conclude(row, comparisons, higher, lower)
            for name, row in self._rows(metric).items()
            if name != self.reference
        }

    def _conclusion(self, name: Hashable) -> str:
        if name == self.reference:
            return "reference"
        words = {metric: self._conclusions(metric, "↑", "↓")[name] for metric in self.metrics}
        return "; ".join(f"{metric} {said}" for metric, said in words.items()) or "no run finished"

    def _unclear(self, metric: str) -> list[str]:
        table, comparisons = self.table(metric), len(self.values) - 1
        unclear = [
            _text(name)
            for name, row in self._rows(metric).items()
            if name != self.reference and not differs(row, comparisons) and row["delta"] != 0
        ]
        if not unclear:
            return []
        seeds = int(table["n"].max())
        return [
            f"{metric}: {seeds} seeds cannot tell {', '.join(unclear)} from "
            f"{_text(self.reference)}; add seeds, or do not call it a difference"
        ]

    def _cell(self, row: Mapping[str, Any], digits: int) -> str:
        if row["n"] == 0:
            return "failed"
        arrow = "" if not differs(row, len(self.values) - 1) else "↑" if row["delta"] > 0 else "↓"
        spread = "" if np.isnan(row["ci95"]) else f" ± {row['ci95']:.2g}"
        return f"{row['mean']:.{digits}g}{spread}{arrow}"


def label(value: Any) -> Hashable:
    """Return what stands for a value in a table: itself, or its repr when it cannot be hashed."""
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


def _text(name: Hashable) -> str:
    return str(getattr(name, "__name__", name))


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
