"""Target weights: golden values, what each row decides where it matters, and what holds for every row under any input."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.errors import BadConfiguration, UnknownName
from algo_royale.market import FloatArray, Timeframe
from algo_royale.portfolio import solvers
from algo_royale.portfolio import weights as module
from algo_royale.portfolio.solvers import fill
from algo_royale.portfolio.weights import LOOKBACK_MAX, PORTFOLIOS, WeightConfig, allocate, lookback, space
from markets import random_returns

SD = np.array([0.10, 0.20, 0.30, 0.25])
RHO = np.array([[1, 0.5, 0.2, 0.1], [0.5, 1, -0.1, 0.3], [0.2, -0.1, 1, 0.4], [0.1, 0.3, 0.4, 1]])
MU = np.array([0.05, 0.08, 0.06, 0.09])
HOURLY = Timeframe.HOUR_1.bars_per_year
FULLY_INVESTED = sorted(name for name, row in PORTFOLIOS.items() if not row.may_hold_cash)
MAY_WANT_NONE = ("MaxDiversificationPortfolioStrategy", "RiskParityPortfolioStrategy")
SCALE_FREE = [
    f"{name}PortfolioStrategy"
    for name in (
        "EqualWeight", "EqualRiskContribution", "HierarchicalRiskParity", "InverseVolatility", "MaxDiversification",
        "MaxSharpe", "MinimumVariance", "RiskParity",
    )
]  # fmt: skip


def weigh(
    name: str, returns: FloatArray, config: WeightConfig, *, score: Any = 1.0, viability: Any = 1.0, **params: Any
) -> list[float]:
    """Weights with every symbol in; the solver must not have failed."""
    n = returns.shape[1]
    facts = (np.ones(n, np.bool_), np.broadcast_to(score, n), np.broadcast_to(viability, n))
    found = allocate(f"{name}PortfolioStrategy", params, returns, *facts, config)
    assert not found.fallback
    weights: list[float] = found.weights.tolist()
    return weights


def returns_with(mean: FloatArray, sigma: FloatArray, rows: int = 20) -> FloatArray:
    """Returns whose sample mean and covariance are exactly these."""
    noise = np.random.default_rng(0).normal(size=(rows, len(mean)))
    q, _ = np.linalg.qr(noise - noise.mean(axis=0))
    moments: FloatArray = mean + q * np.sqrt(rows - 1) @ np.linalg.cholesky(sigma).T
    return moments


@pytest.mark.parametrize(
    ("name", "cap", "given_", "expected"),
    [
        ("InverseVolatility", 1.0, {}, [0.447761, 0.223881, 0.149254, 0.179104]),
        ("InverseVolatility", 0.35, {}, [0.35, 0.263514, 0.175676, 0.210811]),
        ("InverseVolatility", 0.2, {}, [0.2] * 4),
        ("MinimumVariance", 1.0, {}, [0.885251, 0, 0.006821, 0.107928]),
        ("MinimumVariance", 0.4, {}, [0.4, 0.327137, 0.155005, 0.117858]),
        ("MeanVariance", 1.0, {"risk_aversion": 1.0, "mean_shrink": 0.0}, [0.257375, 0.384417, 0.041229, 0.316979]),
        ("MeanVariance", 1.0, {"risk_aversion": 5.0, "mean_shrink": 0.0}, [0.412765, 0.055943, 0.005783, 0.111287]),
        ("MaxSharpe", 1.0, {"mean_shrink": 0.0}, [0.565266, 0.185534, 0.019644, 0.229556]),
        ("MaxSharpe", 0.35, {"mean_shrink": 0.0}, [0.35, 0.334428, 0.069691, 0.245882]),
        ("EqualRiskContribution", 1.0, {}, [0.432987, 0.230268, 0.164503, 0.172242]),
        ("RiskParity", 1.0, {"viability": [0.4, 0.3, 0.2, 0.1]}, [0.541167, 0.235016, 0.140451, 0.083367]),
        ("VolatilityWeighted", 1.0, {"target_vol": 0.10}, [0.177471] * 4),
        ("MaxDiversification", 1.0, {}, [0.337646, 0.307188, 0.225677, 0.129489]),
        ("HierarchicalRiskParity", 1.0, {}, [0.656863, 0.164216, 0.073328, 0.105593]),
    ],
)
def test_an_allocator_gives_the_published_weights(
    name: str, cap: float, given_: Mapping[str, Any], expected: list[float]
) -> None:
    """Annual units: one bar is a year, the risk-free rate 2 %."""
    returns = returns_with(MU, RHO * np.outer(SD, SD))
    config = WeightConfig(cash_buffer=0.0, max_weight=cap, covariance="sample", bars_per_year=1, rf=0.02)

    assert weigh(name, returns, config, lookback=20, **given_) == pytest.approx(expected, abs=1e-6)


# --- what a row decides ----------------------------------------------------------------------------------------------

FREE = WeightConfig(cash_buffer=0.0, max_weight=1.0)
CAPPED = WeightConfig()


def test_volatility_is_brought_down_to_its_target_and_never_up() -> None:
    returns = returns_with(np.zeros(2), np.diag([0.02, 0.01]) ** 2)
    config = WeightConfig(cash_buffer=0.0, max_weight=1.0, covariance="sample")
    a_year = math.sqrt(252)

    for base, u in (("equal", [0.5, 0.5]), ("inverse_vol", [1 / 3, 2 / 3])):
        volatility = math.hypot(u[0] * 0.02, u[1] * 0.01) * a_year
        weights = weigh("VolatilityWeighted", returns, config, lookback=20, base=base, target_vol=0.1)
        assert weights == pytest.approx([x * 0.1 / volatility for x in u], rel=1e-6)
        assert math.hypot(weights[0] * 0.02, weights[1] * 0.01) * a_year == pytest.approx(0.1, rel=1e-6)
        assert weigh("VolatilityWeighted", returns, config, lookback=20, base=base, target_vol=0.4) == pytest.approx(u)


def test_a_single_volatile_symbol_is_scaled_too() -> None:
    returns = returns_with(np.zeros(1), np.array([[0.02**2]]))
    config = WeightConfig(covariance="sample", max_weight=0.5)

    weights = weigh("VolatilityWeighted", returns, config, lookback=20, target_vol=0.1)

    assert weights == pytest.approx([0.5 * 0.1 / (0.02 * math.sqrt(252))], rel=1e-6)


def test_momentum_follows_what_rose_before_the_bars_it_skips() -> None:
    returns = np.zeros((12, 3))
    returns[0] = [0.10, -0.10, 0.02]  # the oldest of ten
    returns[9] = [0.10, 0.05, 0.03]
    returns[11] = [-0.5, 0.5, 0.1]  # skipped

    weights = weigh("Momentum", returns, FREE, lookback=10, skip=2)

    rise = [1.1 * 1.1 - 1, 0.0, 1.02 * 1.03 - 1]
    assert weights == pytest.approx([x / sum(rise) for x in rise])
    assert lookback("MomentumPortfolioStrategy", {"lookback": 10, "skip": 2}) == 12
    assert weigh("Momentum", -np.abs(returns), FREE, lookback=10, skip=2) == [0, 0, 0]


@pytest.mark.parametrize(
    ("score", "use_signals", "expected"),
    [
        ([0.6, 0.9, 0.7], True, [0, 0.35, 0]),
        ([0.9, 0.6, 0.9], True, [0, 0, 0.35]),  # a tie: the third has risen more
        ([0.6, 0.9, 0.7], False, [0, 0, 0.35]),
        ([0.0, 0.0, 0.0], True, [0, 0, 0]),
        ([-0.5, -0.2, -0.1], True, [0, 0, 0]),
    ],
)
def test_the_winner_takes_its_cap(score: list[float], use_signals: bool, expected: list[float]) -> None:
    returns = np.tile([[0.01, 0.02, 0.03], [0.0, -0.01, 0.0]], (3, 1))

    assert weigh("WinnerTakesAll", returns, CAPPED, score=score, lookback=5, use_signals=use_signals) == expected


def test_of_two_equal_winners_the_first_name_wins_and_of_losers_nobody() -> None:
    returns = np.array([[0.01, 0.01], [0.0, 0.0]] * 3)

    assert weigh("WinnerTakesAll", returns, CAPPED, lookback=5) == [0.35, 0]
    assert weigh("WinnerTakesAll", -returns, CAPPED, lookback=5, use_signals=False) == [0, 0]


@pytest.mark.parametrize("name", ["MeanVariance", "MaxSharpe"])
def test_where_nothing_is_expected_to_earn_anything_all_is_cash(name: str) -> None:
    returns = returns_with(np.array([-0.01, 0.0]), np.diag([0.01, 0.02]) ** 2)

    assert weigh(name, returns, CAPPED, lookback=20, mean_shrink=0.2) == [0, 0]


def test_what_earns_less_than_the_risk_free_rate_is_not_bought() -> None:
    returns = returns_with(np.array([0.0001, 0.00011]), np.diag([0.01, 0.02]) ** 2)
    rich = WeightConfig(rf=0.03)

    assert sum(weigh("MaxSharpe", returns, CAPPED, lookback=20)) == pytest.approx(0.7)
    assert weigh("MaxSharpe", returns, rich, lookback=20) == [0, 0]
    assert sum(weigh("MaxSharpe", returns, WeightConfig(rf=0.025), lookback=20)) == pytest.approx(0.7)


def test_shrinking_the_means_all_the_way_leaves_minimum_variance() -> None:
    returns = returns_with(MU, RHO * np.outer(SD, SD))

    assert weigh("MaxSharpe", returns, CAPPED, lookback=20, mean_shrink=1.0) == pytest.approx(
        weigh("MinimumVariance", returns, CAPPED, lookback=20), abs=1e-8
    )


def test_without_a_power_or_without_viability_risk_is_shared_equally() -> None:
    returns = random_returns(1, 60, 4)
    equal = weigh("EqualRiskContribution", returns, CAPPED)

    assert weigh("RiskParity", returns, CAPPED, viability=[0.9, 0.8, 1.0, 0.75], budget_power=0.0) == equal
    for missing in ([0.9, math.nan, 1.0, 0.75], [0.0] * 4, [0.9, -0.1, 1.0, 0.75]):
        assert weigh("RiskParity", returns, CAPPED, viability=missing, budget_power=0.5) == equal
    assert weigh("RiskParity", returns, CAPPED, viability=[0.9, 0.8, 1.0, 0.75]) != equal


def test_without_correlation_the_allocators_agree() -> None:
    variances = np.array([4.0, 1.0, 2.0, 8.0]) * 1e-4
    returns = returns_with(np.zeros(4), np.diag(variances))
    config = WeightConfig(cash_buffer=0.0, max_weight=1.0, covariance="sample")

    for name in ("EqualRiskContribution", "MaxDiversification", "InverseVolatility"):
        assert weigh(name, returns, config, lookback=20) == pytest.approx(
            variances**-0.5 / (variances**-0.5).sum(), abs=1e-8
        )
    for name in ("MinimumVariance", "HierarchicalRiskParity"):
        assert weigh(name, returns, config, lookback=20) == pytest.approx(
            (1 / variances) / (1 / variances).sum(), abs=1e-8
        )


def test_linkage_is_heard() -> None:
    returns = random_returns(1, 60, 8)

    assert (
        len({tuple(weigh("HierarchicalRiskParity", returns, FREE, linkage=x)) for x in ("single", "average", "ward")})
        > 1
    )


# --- what holds for every row ----------------------------------------------------------------------------------------

names = st.sampled_from(sorted(PORTFOLIOS))
Market = tuple[FloatArray, Any, WeightConfig, FloatArray, FloatArray]


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Returns, who is in, scores and viability: with duplicates, flat and wild symbols, holes, and more symbols than bars."""
    n, seed = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 24])), draw(st.integers(0, 10_000))
    returns = random_returns(seed, draw(st.sampled_from([8, 21, 25, 60])), n)
    if draw(st.booleans()):
        returns[draw(st.integers(0, len(returns) - 1)), draw(st.integers(0, n - 1))] = math.nan
    rng = np.random.default_rng(seed)
    inside = rng.random(n) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    config = WeightConfig(
        cash_buffer=draw(st.sampled_from([0.0, 0.02, 0.3])), max_weight=draw(st.sampled_from([0.05, 0.2, 0.35, 0.5, 1.0])),
        covariance=draw(st.sampled_from(["ledoit_wolf", "sample"])), rf=draw(st.sampled_from([0.0, 0.04])),
    )  # fmt: skip
    viability = rng.choice([0.75, 1.0, 0.9, draw(st.sampled_from([0.0, 1.0, math.nan]))], n)
    return returns, inside, config, rng.choice([0.5, 0.7, 1.0, draw(st.sampled_from([-1.0, 0.0, 1.0]))], n), viability


@st.composite
def points(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """A point of the row's space, looking back on 20 returns in all."""
    drawn: dict[str, Any] = {}
    for p in space(name):
        if p.kind == "categorical":
            drawn[p.name] = draw(st.sampled_from(p.choices))
        elif p.kind == "float":
            drawn[p.name] = draw(st.sampled_from([p.low, p.high]) | st.floats(p.low or 0.0, p.high or 0.0))
        else:
            drawn[p.name] = 20 if p.name == "lookback" else draw(st.integers(int(p.low or 0), int(p.high or 0)))
    if "skip" in drawn:
        drawn["lookback"] = 20 - drawn["skip"]
    return drawn


def eligible(name: str, returns: FloatArray, inside: Any) -> Any:
    if not space(name):
        return inside
    window = returns[-20:]
    fit = np.isfinite(window).all(axis=0) & (np.nan_to_num(window).std(axis=0, ddof=1) > 1e-12)
    return inside & fit & (len(returns) >= 20)


def all_but_singular(window: FloatArray) -> bool:
    """Only where a symbol is made of others, as one that moves exactly fifty times as much, may a solver lose its digits."""
    return bool(np.linalg.eigvalsh(np.corrcoef(window.T))[0] < 1e-6)


@settings(deadline=None, max_examples=600)
@given(st.data(), names, markets())
def test_weights_are_long_capped_within_budget_and_only_for_what_may_be_held(
    data: st.DataObject, name: str, market: Market
) -> None:
    returns, inside, config, score, viability = market

    result = allocate(name, data.draw(points(name)), returns, inside, score, viability, config)

    fit = eligible(name, returns, inside)
    assert np.isfinite(result.weights).all()
    assert (result.weights >= 0).all() and (result.weights <= config.max_weight).all()
    assert result.weights.sum() <= 1 - config.cash_buffer + 1e-12
    assert (result.weights[~fit] == 0).all()
    if (
        name in FULLY_INVESTED
    ):  # two of them may want nothing of a symbol, whose share stays cash where the others are full
        wanted = result.weights > 0 if name in MAY_WANT_NONE else fit
        placed = min(1 - config.cash_buffer, wanted.sum() * config.max_weight)
        assert result.weights.sum() == pytest.approx(placed, abs=1e-9)
    assert not result.fallback or all_but_singular(returns[-20:, fit])


@settings(deadline=None, max_examples=300)
@given(st.data(), names, markets(), st.randoms(use_true_random=False))
def test_listing_symbols_in_another_order_permutes_the_weights_exactly(  # type: ignore[no-untyped-def]
    data: st.DataObject, name: str, market: Market, random
) -> None:
    returns, inside, config, score, viability = market
    order = list(range(len(inside)))
    random.shuffle(order)
    symbols, params = [f"S{i:02}" for i in range(len(inside))], data.draw(points(name))

    first = allocate(name, params, returns, inside, score, viability, config, symbols=symbols)
    second = allocate(
        name, params, returns[:, order], inside[order], score[order], viability[order], config,
        symbols=[symbols[i] for i in order],
    )  # fmt: skip

    assert (first.weights[order] == second.weights).all()


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from(SCALE_FREE), markets(), st.integers(-4, 6))
def test_the_size_of_all_returns_does_not_matter(data: st.DataObject, name: str, market: Market, power: int) -> None:
    """By powers of two, so that rounding is the same: not a bit changes."""
    returns, inside, config, score, viability = market
    params = data.draw(points(name))
    free = WeightConfig(cash_buffer=config.cash_buffer, max_weight=config.max_weight, covariance=config.covariance)

    first = allocate(name, params, returns, inside, score, viability, free)
    second = allocate(name, params, returns * 2.0**power, inside, score, viability, free)

    assert (first.weights == second.weights).all()


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("scale", [0.3, 11.0])
def test_nor_does_a_size_that_rounds(name: str, scale: float) -> None:
    for seed in (1, 2, 4, 8, 11):  # no two symbols alike, so that there is one optimum
        returns = random_returns(seed, 60, 5)
        arguments = (np.ones(5, np.bool_), np.ones(5), np.ones(5), CAPPED)
        first, second = (allocate(name, {}, x, *arguments).weights for x in (returns, returns * scale))
        assert second == pytest.approx(first, abs=1e-9)


@settings(deadline=None, max_examples=200)
@given(st.data(), st.sampled_from(sorted({*FULLY_INVESTED, "MaxSharpePortfolioStrategy"})), markets())
def test_no_fully_invested_portfolio_varies_less_than_minimum_variance(
    data: st.DataObject, name: str, market: Market
) -> None:
    returns, inside, config, score, viability = market
    fit = eligible("MinimumVariancePortfolioStrategy", returns, inside)
    if not fit.any():
        return
    sigma = solvers.covariance(np.ascontiguousarray(returns[-20:, fit]), config.covariance)

    other = allocate(name, data.draw(points(name)), returns, fit, score, viability, config).weights[fit]
    least = allocate(
        "MinimumVariancePortfolioStrategy", {"lookback": 20}, returns, inside, score, viability, config
    ).weights[fit]

    if other.sum() >= least.sum() - 1e-12:
        assert least @ sigma @ least <= other @ sigma @ other * (1 + 1e-9)


@settings(deadline=None, max_examples=100)
@given(st.data(), names, markets())
def test_only_the_returns_looked_back_on_matter(data: st.DataObject, name: str, market: Market) -> None:
    returns, inside, config, score, viability = market
    params = data.draw(points(name))
    if len(returns) < 20:
        return
    longer = np.concatenate([np.full((5, len(inside)), math.nan), returns[-20:]])

    first = allocate(name, params, longer, inside, score, viability, config)
    second = allocate(name, params, returns[-20:].copy(), inside, score, viability, config)

    assert (first.weights == second.weights).all()


SOLVED = {
    "MinimumVariance": "minimum_variance", "MeanVariance": "mean_variance", "MaxSharpe": "maximum_sharpe",
    "EqualRiskContribution": "risk_budgets", "RiskParity": "risk_budgets", "MaxDiversification": "maximum_diversification",
}  # fmt: skip


@pytest.mark.parametrize("name", SOLVED)
def test_a_solver_that_fails_is_replaced_by_inverse_volatility_and_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    returns = random_returns(1, 60, 4) + 0.01
    arguments = (returns, np.ones(4, np.bool_), np.ones(4), np.ones(4), WeightConfig())
    monkeypatch.setattr(solvers, SOLVED[name], lambda *_: None)

    result = allocate(f"{name}PortfolioStrategy", {"lookback": 60}, *arguments)

    assert result.fallback
    expected = allocate("InverseVolatilityPortfolioStrategy", {"lookback": 60}, *arguments)
    assert (result.weights == expected.weights).all() and not expected.fallback


def test_one_symbol_gets_its_cap_and_none_gives_cash() -> None:
    returns = random_returns(1, 60, 3)
    one = np.array([False, True, False])

    for name in PORTFOLIOS:
        if name in FULLY_INVESTED:
            weights = allocate(name, {}, returns, one, np.ones(3), np.ones(3), WeightConfig()).weights
            assert weights.tolist() == [0, 0.35, 0]
        assert not allocate(name, {}, returns, ~one & one, np.ones(3), np.ones(3), WeightConfig()).weights.any()


def test_one_rising_symbol_gets_no_more_than_its_cap_from_those_that_may_hold_cash() -> None:
    returns = returns_with(np.array([0.01]), np.array([[0.005**2]]), 60)

    for name in sorted(set(PORTFOLIOS) - set(FULLY_INVESTED)):
        weights = allocate(name, {}, returns, np.ones(1, np.bool_), np.ones(1), np.ones(1), WeightConfig()).weights
        assert weights == pytest.approx([0.35], abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), st.floats(0, 1), st.floats(0.01, 1))
def test_filling_places_the_budget_or_meets_every_cap(raw: list[float], budget: float, cap: float) -> None:
    weights = fill(np.array(raw), budget, cap)
    positive = np.array(raw) > 0

    assert (weights >= 0).all() and (weights <= cap).all() and (weights[~positive] == 0).all()
    assert weights.sum() == pytest.approx(min(budget, cap * positive.sum()), rel=1e-9)


def test_what_needs_a_close_to_be_out_before_is_for_bars_within_a_session() -> None:
    winner, parameter = "WinnerTakesAllPortfolioStrategy", "move_to_cash_at_end_of_day"

    assert [p.name for p in space(winner)] == ["use_signals", "lookback"]
    assert parameter in [p.name for p in space(winner, HOURLY)]
    assert module.resolve(winner, {parameter: True}, HOURLY)[parameter] is True
    assert module.resolve(winner, {parameter: False})[parameter] is False
    with pytest.raises(BadConfiguration, match="shorter than a session"):
        module.resolve(winner, {parameter: True})


def test_every_default_lies_in_its_space_and_the_longest_lookback_is_known() -> None:
    for name in PORTFOLIOS:
        assert all(p.contains(p.default) for p in space(name, HOURLY))
        assert module.resolve(name, {}) == {p.name: p.default for p in space(name, HOURLY)}
    assert LOOKBACK_MAX == 260  # Momentum: 250 and 10 skipped


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: module.space("MinVariance"), UnknownName),
        (lambda: module.resolve("MinimumVariancePortfolioStrategy", {"loockback": 3}), UnknownName),
        (lambda: module.resolve("MinimumVariancePortfolioStrategy", {"lookback": 3}), BadConfiguration),
        (lambda: module.resolve("HierarchicalRiskParityPortfolioStrategy", {"linkage": "complete"}), BadConfiguration),
        (lambda: WeightConfig(max_weight=0.0), BadConfiguration),
        (lambda: WeightConfig(covariance="wolf"), UnknownName),
    ],
)
def test_what_does_not_exist_is_refused_by_name(call: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        call()
