"""Measures equal published numbers, other libraries and their closed forms; every edge case has its value."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.research import metrics
from algo_royale.research.metrics import Metrics, TradeResults, compute

GOLDEN = np.array((0.012, -0.007, 0.004, 0, 0.009, -0.015, 0.006, 0.003, -0.002, 0.008, -0.011, 0.005))
NOISE = np.random.default_rng(11).normal(0.0004, 0.01, 500)
MARKET = np.random.default_rng(12).normal(0.0003, 0.012, 500)

returns_lists = st.lists(st.floats(-0.3, 0.4), min_size=2, max_size=80).map(np.array)


def of(returns: np.ndarray, trades: TradeResults | None = None, **more: object) -> Metrics:
    equity = 1000.0 * np.cumprod(1.0 + returns)
    return compute(
        equity=equity,
        last_bar=np.arange(len(equity)),
        start_equity=1000.0,
        trades=trades or TradeResults.none(),
        **more,
    )  # type: ignore[arg-type]


def trades(*pnl: float) -> TradeResults:
    return TradeResults(np.array(pnl), np.array(pnl) / 1000.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("total_return", 0.011680108), ("cagr", 0.276166769), ("volatility", 0.132123909), ("sharpe_ratio", 1.907300521),
        ("sortino_ratio", 2.752988806), ("max_drawdown", 0.015), ("max_drawdown_duration", 7),
        ("skewness", -0.651170670), ("kurtosis", 2.326368653),
    ],
)  # fmt: skip
def test_published_numbers(name: str, expected: float) -> None:
    assert of(GOLDEN)[name] == pytest.approx(expected, abs=1e-9)


def test_other_libraries_say_the_same() -> None:
    """pandas and scipy as oracles."""
    found, frame = of(NOISE, benchmark=MARKET), pd.Series(NOISE)
    worth = (1 + frame).cumprod()
    fit = scipy.stats.linregress(MARKET, NOISE)

    assert found["volatility"] == pytest.approx(frame.std() * math.sqrt(252), rel=1e-12)
    assert found["sharpe_ratio"] == pytest.approx(frame.mean() / frame.std() * math.sqrt(252), rel=1e-12)
    assert found["max_drawdown"] == pytest.approx(-(worth / worth.cummax().clip(lower=1.0) - 1).min(), rel=1e-12)
    assert found["skewness"] == pytest.approx(scipy.stats.skew(NOISE), rel=1e-9)
    assert found["kurtosis"] == pytest.approx(scipy.stats.kurtosis(NOISE, fisher=False), rel=1e-9)
    assert found["var_95"] == pytest.approx(-frame.quantile(0.05), rel=1e-12)
    assert found["cvar_95"] == pytest.approx(-frame[frame <= frame.quantile(0.05)].mean(), rel=1e-12)
    assert found["tail_ratio"] == pytest.approx(abs(frame.quantile(0.95)) / abs(frame.quantile(0.05)), rel=1e-12)
    assert found["beta"] == pytest.approx(fit.slope, rel=1e-9)
    assert found["alpha"] == pytest.approx(fit.intercept * 252, rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(returns_lists)
def test_session_returns_compound_to_the_total_and_drawdown_is_a_fraction(returns: np.ndarray) -> None:
    found = of(returns)

    assert found["total_return"] == pytest.approx(np.prod(1 + returns) - 1, abs=1e-9)
    assert 0.0 <= found["max_drawdown"] <= 1.0
    assert 0 <= found["max_drawdown_duration"] <= len(returns)
    assert found["n_sessions"] == len(returns)
    for value in found.values():
        assert value is None or math.isfinite(value)


@settings(max_examples=100, deadline=None)
@given(returns_lists, st.sampled_from([0.25, 0.5, 2.0]))
def test_sharpe_does_not_change_with_leverage(returns: np.ndarray, leverage: float) -> None:
    if returns.std() < 1e-6:
        return
    assert metrics.sharpe_ratio(returns * leverage) == pytest.approx(metrics.sharpe_ratio(returns), rel=1e-6)


def test_session_returns_take_the_last_bar_of_each_session() -> None:
    equity = np.array([101.0, 102.0, 99.0, 103.0, 104.0])

    found = metrics.session_returns(equity, np.array([1, 4]), 100.0)

    assert found.tolist() == [pytest.approx(0.02), pytest.approx(104 / 102 - 1)]


def test_no_trades_is_all_zeros_and_nulls_never_an_exception() -> None:
    found = of(np.zeros(30))

    zero = (
        "total_return", "mean_return", "volatility", "cagr", "sharpe_ratio", "sortino_ratio", "calmar_ratio",
        "max_drawdown", "max_drawdown_duration", "num_trades", "exposure", "turnover", "var_95", "cvar_95",
    )  # fmt: skip
    assert {name: found[name] for name in zero} == dict.fromkeys(zero, 0)
    for name in ("win_rate", "profit_factor", "expectancy", "avg_trade_return", "tail_ratio", "skewness", "kurtosis"):
        assert found[name] is None


def test_one_session_and_none() -> None:
    one, none = of(np.array([0.01])), of(np.empty(0))

    for name in ("mean_return", "volatility", "sharpe_ratio", "tail_ratio", "var_95", "alpha", "beta"):
        assert one[name] is None and none[name] is None
    assert one["cagr"] == pytest.approx(1.01**252 - 1)
    assert none["cagr"] is None and none["total_return"] == 0.0


def test_steady_gains_have_no_ratio() -> None:
    """Without deviation, downside or drawdown a positive mean has no meaningful ratio."""
    found = of(np.full(30, 0.001))

    assert found["sharpe_ratio"] is None and found["sortino_ratio"] is None and found["calmar_ratio"] is None
    assert found["max_drawdown"] == 0.0


def test_total_loss_has_growth_of_minus_one() -> None:
    assert metrics.cagr(-1.0, 10) == -1.0
    assert of(np.array([0.1, -1.0]))["max_drawdown"] == 1.0


def test_the_start_is_the_first_peak_and_an_open_drawdown_counts() -> None:
    equity = np.array([90.0, 95.0, 100.0, 99.0, 98.0, 97.0])

    assert metrics.drawdown(equity, 100.0) == (pytest.approx(0.1), 3)
    assert metrics.drawdown(np.array([90.0, 80.0]), 100.0) == (pytest.approx(0.2), 2)


def test_one_trade_of_minus_ten_percent_draws_down_at_least_that() -> None:
    assert of(np.array([-0.04, -0.0625, 0.0]))["max_drawdown"] >= 0.10 - 1e-12


def test_trade_measures_by_hand() -> None:
    found = of(NOISE, trades(300.0, -100.0, 200.0, 0.0, -50.0))

    assert found["num_trades"] == 5 and found["win_rate"] == pytest.approx(0.4)
    assert found["profit_factor"] == pytest.approx(500 / 150)
    assert found["expectancy"] == pytest.approx(70.0) and found["avg_trade_return"] == pytest.approx(0.07)
    assert of(NOISE, trades(5.0))["profit_factor"] is None
    assert of(NOISE, trades(5.0))["expectancy"] == 5.0


def test_turnover_is_one_sided_and_a_year() -> None:
    """Ten thousand dollars of fills on a constant equity of 1000 over half a year: 5 x 2."""
    found = of(np.zeros(126), notional=10_000.0)

    assert found["turnover"] == pytest.approx(10.0)


def test_tails_and_regression_need_twenty_sessions() -> None:
    short, long = of(NOISE[:19], benchmark=MARKET[:19]), of(NOISE[:20], benchmark=MARKET[:20])

    for name in ("tail_ratio", "var_95", "cvar_95", "alpha", "beta"):
        assert short[name] is None and long[name] is not None
    assert of(NOISE, benchmark=np.full(500, 0.001))["beta"] is None
    zeros = np.concatenate((np.zeros(95), NOISE[:5]))
    assert of(np.where(zeros < 0, 0, zeros))["tail_ratio"] is None, "the low quantile is zero"


def test_a_strategy_that_is_the_market_has_beta_one_and_no_alpha() -> None:
    found = of(MARKET, benchmark=MARKET)

    assert found["beta"] == pytest.approx(1.0) and found["alpha"] == pytest.approx(0.0, abs=1e-12)


def test_a_risk_free_rate_lowers_the_ratios_and_not_the_returns() -> None:
    free, taxed = of(NOISE), of(NOISE, rf=0.05)

    assert taxed["total_return"] == free["total_return"]
    assert taxed["sharpe_ratio"] == pytest.approx((NOISE.mean() - 0.05 / 252) / NOISE.std(ddof=1) * math.sqrt(252))


def test_summary_skips_windows_without_the_value() -> None:
    found = metrics.summarise([{"a": 1.0, "b": None}, {"a": 3.0, "b": None}, {"a": None}])

    assert found["a"] == {"mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0}
    assert found["b"] == {"mean": None, "std": None, "min": None, "max": None}


def test_stitched_equity_compounds_over_windows() -> None:
    returns, equity = metrics.stitch([np.array([0.1, -0.1]), np.array([0.2])], 100.0)

    assert returns.tolist() == [0.1, -0.1, 0.2]
    assert equity[-1] == pytest.approx(100 * 1.1 * 0.9 * 1.2)
