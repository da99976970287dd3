import numpy as np
import pytest

from labs.ablation import Run, Study
from labs.ablation.statistics import detectable


@pytest.mark.parametrize(
    ("n", "effect"),
    [
        pytest.param(64, 0.5, id="medium effect"),
        pytest.param(26, 0.8, id="large effect"),
        pytest.param(393, 0.2, id="small effect"),
    ],
)
def test_it_gives_the_sizes_of_cohens_table(n, effect):
    """Cohen 1992, table 2: two-sided 0.05 and power 0.80 need so many in each group."""
    assert detectable(1.0, n, 1) == pytest.approx(effect, rel=0.01)
    assert detectable(2.0, n, 1) == pytest.approx(2 * effect, rel=0.01)


def test_more_arms_and_more_power_need_a_larger_difference():
    one = detectable(1.0, 5, 1)
    assert detectable(1.0, 5, 4) > 1.2 * one
    assert detectable(1.0, 5, 1, power=0.95) > 1.2 * one
    assert detectable(1.0, 20, 1) < one / 1.9


def test_nothing_is_said_without_spread():
    assert np.isnan(detectable(0.0, 5, 1))
    assert np.isnan(detectable(1.0, 1, 1))


def study(arms):
    runs = [Run(v, s, {"AP": x}) for v, xs in arms.items() for s, x in enumerate(xs)]
    return Study("part", tuple(arms), next(iter(arms)), tuple(runs))


def test_a_study_pools_the_spread_of_its_arms():
    both = study({"a": [0.0, 2.0, 4.0], "b": [1.0, 1.0, 1.0, 1.0]})
    pooled = ((4.0 * 2 + 0.0 * 3) / 5) ** 0.5
    assert both.detectable() == pytest.approx(detectable(pooled, 3, 1))
    assert np.isnan(study({"a": [0.0], "b": [1.0]}).detectable())
    with pytest.raises(ValueError, match=r"a power in \(0, 1\), got 80"):
        both.detectable(power=80)
    with pytest.raises(KeyError, match="AP"):
        both.detectable("AP50")


def test_it_finds_what_it_promises():
    """Of 400 studies with that true difference, about four in five find it."""
    from scipy import stats

    rng, n = np.random.default_rng(0), 6
    gap = detectable(1.0, n, 1)
    p = stats.ttest_ind(rng.normal(size=(400, n)), rng.normal(gap, size=(400, n)), axis=1).pvalue
    assert 0.75 < (p < 0.05).mean() < 0.85
