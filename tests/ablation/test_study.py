import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from labs.ablation import Run, Study, ablate
from labs.plot import COLOURS
from tests.ablation.runs import BASE, noisy, with_norm


def study_of(arms, metric="mAP", base=None, **others):
    """Build a study from a dict of scores; None stands for a failed run."""
    runs = [
        Run(value, seed, {} if score is None else {metric: score}, "" if score is not None else "E")
        for value, scores in arms.items()
        for seed, score in enumerate(scores)
    ]
    values = tuple(arms)
    return Study("removed", values, values[0] if base is None else base, tuple(runs), **others)


CLEAR = study_of({"nothing": [0.82, 0.83, 0.81, 0.82], "HSR": [0.70, 0.71, 0.70, 0.72]})
UNCLEAR = study_of({"nothing": [0.82, 0.70, 0.91], "HSR": [0.80, 0.72, 0.86]})


def test_the_table_agrees_with_scipy():
    study = ablate(noisy, BASE, "scale", [0.1, 0.5, 2.0], seeds=range(4))
    frame, table = study.frame(), study.table()
    groups = {value: rows["score"].to_numpy() for value, rows in frame.groupby("scale")}
    for value, scores in groups.items():
        row = table.loc[value]
        low, high = stats.t.interval(0.95, 3, scores.mean(), stats.sem(scores))
        np.testing.assert_allclose([row["mean"], row["n"]], [scores.mean(), 4])
        np.testing.assert_allclose(row["ci95"], (high - low) / 2)
        np.testing.assert_allclose(row["delta"], scores.mean() - groups[0.1].mean(), atol=1e-12)
    welch = stats.ttest_ind(groups[2.0], groups[0.1], equal_var=False).pvalue
    np.testing.assert_allclose(table.loc[2.0, "p"], welch)
    assert np.isnan(table.loc[0.1, "p"])
    assert table["failed"].tolist() == [0, 0, 0]


def test_the_reference_is_the_base_wherever_it_stands_and_else_the_first():
    arms = {"a": [1.0, 2.0], "b": [2.0, 3.0]}
    assert study_of(arms, base="b").table()["delta"].tolist() == [-1.0, 0.0]
    assert study_of(arms, base="elsewhere").reference == "a"


def test_other_metrics_and_odd_values_can_be_tabulated():
    study = ablate(lambda norm: {"a": 1.0, "b": 2.0}, {"norm": None}, "norm", [None, "batch", [3]])
    assert study.table("b")["mean"].tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(KeyError, match="there are a, b"):
        study.table("c")
    sizes = ablate(lambda size: sum(size), {"size": (1, 2)}, "size", [(1, 2), (3, 4)])
    assert sizes.table().index.tolist() == [(1, 2), (3, 4)]
    norms = ablate(with_norm, {"norm": nn.Identity}, "norm", [nn.Identity, nn.BatchNorm1d])
    assert "| BatchNorm1d |" in norms.to_markdown()


@pytest.mark.parametrize(
    ("arm", "n", "p", "words"),
    [
        pytest.param([0.3] * 3, 3, "number", "lower by", id="identical scores in one arm"),
        pytest.param([0.9], 1, "nan", "too few scores", id="one score"),
        pytest.param([np.nan, 0.9, None], 1, "nan", "too few scores", id="one NaN, one failed"),
        pytest.param([None, np.inf], 0, "nan", "no score to compare", id="no score"),
        pytest.param([], 0, "nan", "no score to compare", id="interrupted before"),
    ],
)
def test_arms_without_spread_or_scores_give_nan_and_words_but_no_warning(arm, n, p, words):
    study = study_of({"nothing": [0.82, 0.83, 0.81], "HSR": arm})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row, verdict, markdown = study.table().loc["HSR"], study.verdict(), study.to_markdown()
        study.plot(Figure().subplots())
    assert row["n"] == n
    assert row["failed"] == len(arm) - n
    assert np.isnan(row["p"]) == (p == "nan")
    assert np.isnan(row["ci95"]) == (n < 2)
    assert words in verdict
    assert markdown.count("\n") == 3


def test_two_arms_without_any_spread_are_not_called_different():
    same = study_of({"nothing": [0.1] * 3, "HSR": [0.1] * 3})
    other = study_of({"nothing": [0.1] * 3, "HSR": [0.3] * 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same.verdict() == "HSR: the same at every seed"
        assert other.verdict() == "HSR: +0.2, but no spread to judge it by"
    assert same.warning == ""
    assert other.table()["std"].tolist() == [0.0, 0.0]
    assert "cannot tell HSR from nothing" in other.warning


def test_the_verdict_says_which_way_and_how_surely():
    p = stats.ttest_ind([0.70, 0.71, 0.70, 0.72], [0.82, 0.83, 0.81, 0.82], equal_var=False).pvalue
    assert p < 0.001
    assert CLEAR.verdict() == "HSR: lower by 0.11 (p < 0.001)"
    assert CLEAR.warning == ""
    assert UNCLEAR.verdict().startswith("HSR: not told apart (p = 0.")
    assert UNCLEAR.warning.startswith("mAP: 3 seeds cannot tell HSR from nothing; add seeds")


def test_the_more_arms_are_compared_the_surer_each_must_be():
    arm, base = [0.0, 0.1, 0.2], [0.24, 0.32, 0.40]
    assert 0.025 < stats.ttest_ind(arm, base, equal_var=False).pvalue < 0.05
    assert study_of({"base": base, "a": arm}).verdict().startswith("a: lower by 0.22 ")
    assert "a: not told apart" in study_of({"base": base, "a": arm, "b": arm}).verdict()


def test_the_warning_names_what_is_missing():
    study = study_of({"nothing": [0.8, 0.8, np.nan], "HSR": [0.1, None, 0.2]}, interrupted=True)
    lines = study.warning.splitlines()
    assert lines[0].startswith("interrupted")
    assert lines[1] == "1 of 6 runs failed, first removed='HSR' with seed 1: E"
    assert lines[2] == "mAP: 1 runs gave no finite score"
    assert repr(study) == "Study(vary='removed', 2 values, 6 runs, 1 failed, interrupted)"


def test_markdown_has_the_shape_of_a_papers_table():
    runs = [
        Run(value, seed, {"mAP": score + seed / 100, "small": small + seed / 10})
        for value, score, small in [("A+B+C", 0.82, 0.6), ("A|C", 0.70, 0.58)]
        for seed in range(3)
    ]
    table = Study("parts", ("A+B+C", "A|C"), "A+B+C", tuple(runs)).to_markdown(digits=2)
    assert table.splitlines() == [
        "| parts | mAP | small | conclusion |",
        "| --- | --- | --- | --- |",
        "| A+B+C | 0.83 ± 0.025 | 0.7 ± 0.25 | reference |",
        "| A\\|C | 0.71 ± 0.025↓ | 0.68 ± 0.25 "
        "| mAP ↓ by 0.12 (p < 0.001); small not told apart (p = 0.82) |",
    ]
    with pytest.raises(ValueError, match="digits >= 1"):
        CLEAR.to_markdown(0)


def test_the_plot_has_a_point_per_run_and_the_interval_of_the_table():
    ax = Figure().subplots()
    assert CLEAR.plot(ax) is ax
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_ydata().tolist() for line in points][1] == [0.70, 0.71, 0.70, 0.72]
    assert {line.get_color() for line in points} == {COLOURS[0]}
    segments = ax.containers[0].lines[2][0].get_segments()
    half = [(high[1] - low[1]) / 2 for low, high in segments]
    np.testing.assert_allclose(half, CLEAR.table()["ci95"])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["nothing", "HSR"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("removed", "mAP")


def test_a_metric_that_some_runs_lack_is_nan_there():
    def uneven(part):
        return {"a": 1.0} if part else {"a": 1.0, "b": 2.0}

    study = ablate(uneven, {"part": 0}, "part", [0, 1])
    assert study.metrics == ("a", "b")
    assert study.frame()["b"].isna().tolist() == [False] * 3 + [True] * 3
    assert "b: 3 runs gave no finite score" in study.warning
