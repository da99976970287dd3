import numpy as np
import pytest
import torch
from scipy import stats

from labs.ablation import ablate


def noisy(shift, scale):
    return {"score": shift + scale * torch.randn(1).item(), "cost": 2.0 * shift}


BASE = {"shift": 0.0, "scale": 0.1}


def test_everything_but_the_varied_setting_stays_and_seeds_repeat():
    study = ablate(noisy, BASE, "shift", [0.0, 1.0], seeds=[5, 6, 7])
    frame = study.frame()
    by_seed = frame.pivot(index="seed", columns="shift", values="score")
    np.testing.assert_allclose(by_seed[1.0] - by_seed[0.0], 1.0, atol=1e-6)
    assert study.metrics == ("score", "cost")
    assert repr(study) == "Study(vary='shift', 2 values, 6 runs)"


def test_the_table_agrees_with_scipy():
    study = ablate(noisy, BASE, "scale", [0.1, 0.5, 2.0], seeds=range(4))
    frame, table = study.frame(), study.table()
    groups = {value: rows["score"].to_numpy() for value, rows in frame.groupby("scale")}
    for value, scores in groups.items():
        row = table.loc[value]
        low, high = stats.t.interval(0.95, 3, scores.mean(), stats.sem(scores))
        np.testing.assert_allclose([row["mean"], row["n"]], [scores.mean(), 4])
        np.testing.assert_allclose(row["ci95"], (high - low) / 2)
        np.testing.assert_allclose(row["delta"], scores.mean() - groups[0.1].mean())
    welch = stats.ttest_ind(groups[2.0], groups[0.1], equal_var=False).pvalue
    np.testing.assert_allclose(table.loc[2.0, "p"], welch)
    assert np.isnan(table.loc[0.1, "p"])


def test_other_metrics_and_odd_values_can_be_tabulated():
    study = ablate(lambda norm: {"a": 1.0, "b": 2.0}, {"norm": None}, "norm", [None, "batch"])
    assert study.table("b")["mean"].tolist() == [2.0, 2.0]
    with pytest.raises(KeyError, match="there are a, b"):
        study.table("c")


@pytest.mark.parametrize(
    ("vary", "values", "seeds", "error", "message"),
    [
        pytest.param("shfit", [0, 1], range(2), KeyError, "there are shift, scale", id="typo"),
        pytest.param("shift", [0], range(2), ValueError, "two or more values", id="one value"),
        pytest.param("shift", [0, 1], [3], ValueError, "got 2 and 1", id="one seed"),
    ],
)
def test_what_is_no_ablation_is_refused(vary, values, seeds, error, message):
    with pytest.raises(error, match=message):
        ablate(noisy, BASE, vary, values, seeds)
