import numpy as np
import pytest

from wm_gym.metrics.statistics import (
    bootstrap_interval,
    mmrv,
    paired_difference,
    pearson,
    spearman,
    wilson_interval,
)


def test_wilson_by_hand():
    # z = 1.959964, n = 10, p = 0.8: centre (p + z^2/2n) / (1 + z^2/n), half width by hand
    z, n, p = 1.959963984540054, 10, 0.8
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = wilson_interval(8, 10)
    assert found.estimate == 0.8
    assert found.low == pytest.approx(centre - half)
    assert found.high == pytest.approx(centre + half)


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 0.0713), (50, 0.9287, 1.0)])
def test_wilson_at_the_ends_stays_inside(successes, low, high):
    found = wilson_interval(successes, 50)
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)


def test_wilson_without_trials_says_nothing():
    found = wilson_interval(0, 0)
    assert np.isnan(found.estimate)
    assert (found.low, found.high) == (0.0, 1.0)


def test_wilson_refuses_impossible_counts():
    with pytest.raises(ValueError, match="11 successes of 10 trials"):
        wilson_interval(11, 10)


def test_pearson_and_spearman_by_hand():
    imagined, true = np.array([0.0, 0.5, 1.0, 0.5]), np.array([0.1, 0.2, 0.9, 0.4])
    x, y = imagined - imagined.mean(), true - true.mean()
    assert pearson(imagined, true) == pytest.approx((x @ y) / np.sqrt((x @ x) * (y @ y)))
    # ranks 1, 2.5, 4, 2.5 against 1, 2, 4, 3: covariance 4.5, variances 4.5 and 5
    assert spearman(imagined, true) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_correlations_of_constant_rates_are_undefined():
    assert np.isnan(pearson(np.ones(3), np.arange(3)))
    assert np.isnan(spearman(np.arange(3), np.ones(3)))


def test_mmrv_by_hand():
    true = np.array([0.1, 0.4, 0.9])
    assert mmrv(true**2, true) == 0.0  # the same order
    # first and last swapped: every pair is out of order, worst violations 0.8, 0.5, 0.8
    assert mmrv(np.array([0.9, 0.5, 0.1]), true) == pytest.approx((0.8 + 0.5 + 0.8) / 3)
    # only the last two swapped: 0, 0.5, 0.5
    assert mmrv(np.array([0.0, 0.9, 0.5]), true) == pytest.approx(1.0 / 3)


def test_mmrv_counts_a_tie_against_the_worse_policy():
    # the dream cannot tell two policies apart that differ by 0.6 in truth
    assert mmrv(np.array([0.5, 0.5]), np.array([0.2, 0.8])) == pytest.approx(0.3)
    assert mmrv(np.array([0.5, 0.5]), np.array([0.7, 0.7])) == 0.0


def test_statistics_refuse_other_shapes():
    with pytest.raises(ValueError, match="at least two policies"):
        mmrv(np.array([0.5]), np.array([0.5]))
    with pytest.raises(ValueError, match="expected the same"):
        pearson(np.zeros(3), np.zeros(4))


def test_bootstrap_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    rates = np.linspace(0.05, 0.95, 10)
    dream, real = rng.random((2, 10, 60)) < rates[:, None]
    found = bootstrap_interval(pearson, dream, real, resamples=500)
    assert found.low < found.estimate < found.high
    assert found.low > 0.7
    assert found.high <= 1.0


def test_bootstrap_keeps_pairs_together():
    # identical outcomes in both worlds stay identical in every resample
    outcomes = np.random.default_rng(1).random((6, 2, 30)) < 0.5
    found = bootstrap_interval(mmrv, outcomes, outcomes, resamples=200)
    assert (found.estimate, found.low, found.high) == (0.0, 0.0, 0.0)


def test_bootstrap_is_wider_with_fewer_episodes_and_repeatable():
    rng = np.random.default_rng(2)
    rates = np.linspace(0.1, 0.9, 12)
    dream, real = rng.random((2, 12, 50)) < rates[:, None]
    many = bootstrap_interval(pearson, dream, real, resamples=400)
    few = bootstrap_interval(pearson, dream[:, :5], real[:, :5], resamples=400)
    assert few.high - few.low > many.high - many.low
    assert many == bootstrap_interval(pearson, dream, real, resamples=400)


def test_bootstrap_reports_undefined_resamples():
    dream = np.array([[True, True], [True, True]])
    found = bootstrap_interval(pearson, dream, dream, resamples=50)
    assert np.isnan(found.low)
    assert found.undefined == 1.0


def test_paired_differences_are_those_of_the_same_starts():
    rng = np.random.default_rng(0)
    base = rng.random(400) < 0.2
    better = base | (rng.random(400) < 0.3)  # wins wherever the base does
    found = paired_difference([better], [base])
    assert found.estimate == pytest.approx(better.mean() - base.mean())
    assert found.low < found.estimate < found.high
    # narrower than if the starts were unrelated
    apart = paired_difference([better], [rng.permutation(base)])
    assert found.high - found.low < apart.high - apart.low
    # a task with few starts counts as much as one with many
    two = paired_difference([better, np.ones(4, bool)], [base, np.zeros(4, bool)])
    assert two.estimate == pytest.approx(0.5 * (found.estimate + 1))
    with pytest.raises(ValueError, match="the same"):
        paired_difference([better], [base[:9]])
    with pytest.raises(ValueError, match="at least one"):
        paired_difference([], [])
