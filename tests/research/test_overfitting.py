"""The odds of luck: published numbers and what must be true of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.research import metrics, overfitting
from algo_royale.research.overfitting import deflated_sharpe, min_track_record, pbo, psr, sharpe_benchmark

GOLDEN = np.array((0.012, -0.007, 0.004, 0, 0.009, -0.015, 0.006, 0.003, -0.002, 0.008, -0.011, 0.005))


def test_golden_series() -> None:
    sharpe, (skewness, kurtosis) = metrics.session_sharpe(GOLDEN), metrics.moments(GOLDEN)

    assert psr(sharpe, 12, skewness, kurtosis) == pytest.approx(0.649106570, abs=1e-9)
    assert min_track_record(sharpe, skewness, kurtosis) == 204


def test_published_deflation() -> None:
    """Bailey and Lopez de Prado (2014): annual 2.5, 1250 days, skew -3, kurtosis 10, 100 trials, variance 0.5 a year."""
    variance = 0.5 / 250

    assert sharpe_benchmark(variance, 100) == pytest.approx(0.113172, abs=1e-6)
    found = deflated_sharpe(2.5 / math.sqrt(250), 1250, -3.0, 10.0, variance, 100)
    assert found == pytest.approx(0.900397, abs=1e-6)


def test_published_deflation_with_fewer_trials_and_with_normal_returns() -> None:
    """The same paper: 46 trials would have left 0.9505, and so would 88 had the returns been normal."""
    variance, sharpe = 0.5 / 250, 2.5 / math.sqrt(250)

    assert deflated_sharpe(sharpe, 1250, -3.0, 10.0, variance, 46) == pytest.approx(0.9505, abs=5e-5)
    assert deflated_sharpe(sharpe, 1250, 0.0, 3.0, variance, 88) == pytest.approx(0.9505, abs=5e-5)


def test_published_odds_of_a_hedge_fund() -> None:
    """Bailey and Lopez de Prado (2012): 24 months at 0.458 a month; the tails take 0.982 down to 0.913."""
    assert psr(0.458, 24, 0.0, 3.0) == pytest.approx(0.982, abs=5e-4)
    assert psr(0.458, 24, -2.448, 10.164) == pytest.approx(0.913, abs=5e-4)


@pytest.mark.parametrize(
    ("periods", "skewness", "kurtosis", "years"),
    [(252, 0.0, 3.0, 2.73), (52, 0.0, 3.0, 2.83), (12, 0.0, 3.0, 3.24), (12, -0.72, 5.78, 4.99)],
)
def test_published_track_records(periods: int, skewness: float, kurtosis: float, years: float) -> None:
    """The same: years until a yearly Sharpe ratio of 2 is surely above 1, by how often and how normally it returns."""
    yearly = math.sqrt(periods)

    found = min_track_record(2.0 / yearly, skewness, kurtosis, benchmark=1.0 / yearly)

    assert (found - 1) / periods <= years + 0.005 and found / periods >= years - 0.005, "rounded up to whole periods"


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 0.2), st.integers(30, 2000), st.floats(-1, 1), st.floats(2.5, 8), st.floats(1e-5, 1e-2))
def test_deflation_costs_more_with_more_trials_and_more_spread(
    sharpe: float, n: int, skewness: float, kurtosis: float, variance: float
) -> None:
    plain = psr(sharpe, n, skewness, kurtosis)

    assert psr(sharpe, 2 * n, skewness, kurtosis) >= plain
    few = deflated_sharpe(sharpe, n, skewness, kurtosis, variance, 5)
    assert few <= plain
    assert deflated_sharpe(sharpe, n, skewness, kurtosis, variance, 50) <= few
    assert deflated_sharpe(sharpe, n, skewness, kurtosis, 2 * variance, 5) <= few
    assert deflated_sharpe(sharpe, n, skewness, kurtosis, variance, 1) == plain


def test_track_record_has_no_length_without_a_positive_sharpe() -> None:
    assert min_track_record(0.0, 0.0, 3.0) is None
    assert min_track_record(-0.1, 0.0, 3.0) is None
    assert min_track_record(0.05, 0.0, 3.0, benchmark=0.06) is None


def test_a_radicand_that_is_not_positive_has_no_odds() -> None:
    assert psr(2.0, 100, 3.0, 3.0) is None
    assert min_track_record(2.0, 3.0, 3.0) is None


def test_luck_needs_twenty_sessions() -> None:
    rng = np.random.default_rng(5)
    returns = rng.normal(0.001, 0.01, 20)

    assert metrics.luck(returns[:19])["psr"] is None
    assert 0 < metrics.luck(returns)["psr"] < 1
    assert metrics.luck(returns)["deflated_sharpe"] == metrics.luck(returns)["psr"], "one candidate deflates nothing"
    flat = metrics.luck(np.zeros(50))
    assert flat["psr"] is None and flat["min_track_record"] is None


def slow_pbo(returns: np.ndarray, blocks: int) -> float:
    """Word by word after Bailey et al. (2015), with scipy's ranks."""
    from itertools import combinations

    from scipy.stats import rankdata

    kept = returns[len(returns) % blocks :]
    parts = np.split(kept, blocks)
    losing, total = 0, 0
    for chosen in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[i] for i in chosen])
        outside = np.concatenate([parts[i] for i in range(blocks) if i not in chosen])
        best = int(np.argmax(inside.mean(axis=0) / inside.std(axis=0, ddof=1)))
        ranks = rankdata(outside.mean(axis=0) / outside.std(axis=0, ddof=1))
        omega = ranks[best] / (returns.shape[1] + 1)
        losing += math.log(omega / (1 - omega)) <= 0
        total += 1
    return losing / total


@pytest.mark.parametrize(("rows", "columns", "blocks"), [(43, 7, 8), (30, 4, 6), (57, 12, 10)])
def test_pbo_agrees_with_its_definition(rows: int, columns: int, blocks: int) -> None:
    returns = np.random.default_rng(rows).normal(0, 0.01, (rows, columns))

    found = pbo(returns)

    assert found is not None and found.blocks == blocks
    assert found.probability == pytest.approx(slow_pbo(returns, blocks), abs=1e-12)


def test_pbo_of_noise_is_a_half_on_average_and_of_a_dominant_trial_zero() -> None:
    rng = np.random.default_rng(1)
    found = [pbo(rng.normal(0, 0.01, (120, 50))).probability for _ in range(25)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)

    strong = rng.normal(0, 0.01, (320, 20))
    strong[:, 7] += 0.02
    assert pbo(strong).probability == 0.0


def test_pbo_does_not_depend_on_the_order_of_trials() -> None:
    rng = np.random.default_rng(2)
    returns = rng.normal(0, 0.01, (200, 15))

    assert pbo(returns[:, rng.permutation(15)]) == pbo(returns)


def test_pbo_has_no_value_for_too_little() -> None:
    assert pbo(np.zeros((19, 5))) is None
    assert pbo(np.zeros((100, 1))) is None
    assert pbo(np.zeros((100, 5))).probability == 1.0, "all equal: the middle rank is not the upper half"
    assert overfitting.BLOCKS == 16
