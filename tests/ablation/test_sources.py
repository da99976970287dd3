import numpy as np
import pytest
from scipy import stats

from labs.ablation import resample


def test_two_sources_give_the_distribution_worked_out_by_hand():
    """Of 0 and 1, a draw of two has the mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4."""
    scores = np.array([0.0, 1.0])
    seen = resample(lambda i: scores[i].mean(), 2, level=0.95, resamples=4000)
    assert (seen.value, seen.low, seen.high) == (0.5, 0.0, 1.0)
    narrow = resample(lambda i: scores[i].mean(), 2, level=0.4, resamples=4000)
    assert (narrow.low, narrow.high) == (0.5, 0.5)  # edges at 0.3 and 0.7, both inside the half


def test_it_agrees_with_scipy():
    scores = np.random.default_rng(3).normal(size=40)
    ours = resample(lambda i: scores[i].mean(), 40, resamples=4000)
    theirs = stats.bootstrap(
        (scores,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose([ours.low, ours.high], theirs, atol=0.03)


def test_crops_of_few_photographs_are_less_sure_than_their_number_says():
    rng = np.random.default_rng(0)
    photograph = rng.normal(size=5).repeat(50)  # 5 photographs, 50 crops of each
    crops = photograph + rng.normal(scale=0.1, size=250)
    honest = resample(lambda i: crops.reshape(5, 50)[i].mean(), 5)
    naive = resample(lambda i: crops[i].mean(), 250)
    assert honest.value == pytest.approx(naive.value)
    assert honest.high - honest.low > 4 * (naive.high - naive.low)


def test_a_paired_difference_does_not_pay_for_what_both_arms_share():
    hard = np.random.default_rng(0).normal(size=30)
    a, b = hard, hard + 0.1
    paired = resample(lambda i: (b[i] - a[i]).mean(), 30)
    assert paired.low == pytest.approx(0.1)
    assert paired.high == pytest.approx(0.1)
    assert 0.0 not in paired
    assert 0.1 in resample(lambda i: a[i].mean() + 0.1, 30)


def test_draws_without_a_score_are_left_out():
    scores = np.array([np.nan, 1.0])
    seen = resample(lambda i: np.nanmean(scores[i]) if (i == 1).any() else np.nan, 2)
    assert (seen.low, seen.high) == (1.0, 1.0)


def test_the_seed_decides_and_the_global_state_is_left_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    scores = np.arange(9.0) ** 2
    first, again, other = (resample(lambda i: scores[i].mean(), 9, seed=s) for s in (0, 0, 5))
    assert first == again
    assert first != other
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert "over 9 sources" in repr(first)


@pytest.mark.parametrize(
    "bad", [{"sources": 1}, {"level": 0.0}, {"level": 1.0}, {"resamples": 0}], ids=str
)
def test_what_cannot_be_resampled_is_refused(bad):
    with pytest.raises(ValueError, match="expected two or more sources"):
        resample(lambda i: 0.0, **{"sources": 3, **bad})
