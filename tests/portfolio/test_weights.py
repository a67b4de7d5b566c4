"""Target weights: golden values, optimality against other solvers, and what holds for every row under any input."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf

from algo_royale.errors import BadConfiguration, UnknownName
from algo_royale.market import FloatArray
from algo_royale.portfolio import weights as module
from algo_royale.portfolio.weights import (
    PORTFOLIOS,
    WeightConfig,
    allocate,
    covariance,
    fill,
    kkt_residual,
    minimum_variance,
)

SD = np.array([0.10, 0.20, 0.30, 0.25])
RHO = np.array([[1, 0.5, 0.2, 0.1], [0.5, 1, -0.1, 0.3], [0.2, -0.1, 1, 0.4], [0.1, 0.3, 0.4, 1]])
SIGMA = RHO * np.outer(SD, SD)
MINIMUM, INVERSE, EQUAL = (f"{n}PortfolioStrategy" for n in ("MinimumVariance", "InverseVolatility", "EqualWeight"))


@pytest.mark.parametrize(
    ("cap", "expected"),
    [(1.0, [0.447761, 0.223881, 0.149254, 0.179104]), (0.35, [0.35, 0.263514, 0.175676, 0.210811]), (0.2, [0.2] * 4)],
)
def test_inverse_volatility_gives_the_published_weights(cap: float, expected: list[float]) -> None:
    assert fill(1 / SD, 1.0, cap) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("cap", "expected"), [(1.0, [0.885251, 0, 0.006821, 0.107928]), (0.4, [0.4, 0.327137, 0.155005, 0.117858])]
)
def test_minimum_variance_gives_the_published_weights(cap: float, expected: list[float]) -> None:
    assert minimum_variance(SIGMA, 1.0, cap) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(60, 5), (20, 1), (250, 3), (5, 12), (2, 2)])
def test_ledoit_wolf_is_scikit_learns(rows: int, columns: int) -> None:
    returns = np.random.default_rng(rows).normal(0.001, 0.02, (rows, columns))

    ours = module._ledoit_wolf(returns)

    assert np.abs(ours - ledoit_wolf(returns)[0]).max() <= 1e-14


def test_the_sample_covariance_is_numpys() -> None:
    returns = np.random.default_rng(3).normal(0, 0.02, (30, 4))

    assert covariance(returns, "sample") == pytest.approx(np.cov(returns.T) * 1.0, rel=1e-8)


def random_returns(seed: int, rows: int, n: int) -> FloatArray:
    """Correlated returns; some duplicate columns, some wild, some flat."""
    rng = np.random.default_rng(seed)
    returns = rng.normal(0, 0.01, (rows, n)) @ rng.normal(0, 1, (n, n))
    if seed % 3 == 0:
        returns[:, -1] = returns[:, 0]
    if seed % 5 == 0:
        returns[:, 0] *= 50
    if seed % 7 == 0:
        returns[:, n // 2] = 0.0
    return returns


@pytest.mark.parametrize("seed", range(25))
def test_minimum_variance_is_not_beaten_by_scipy(seed: int) -> None:
    n = 2 + seed % 7
    sigma = covariance(random_returns(seed, 40, n), "sample" if seed % 2 else "ledoit_wolf")
    sigma /= np.trace(sigma) / n
    cap = [1.0, 0.35, 0.5][seed % 3]
    budget = min(0.98, n * cap)

    ours = minimum_variance(sigma, budget, cap)

    assert ours is not None
    theirs = minimize(
        lambda w: w @ sigma @ w, np.full(n, budget / n), jac=lambda w: 2 * sigma @ w, method="SLSQP", bounds=[(0, cap)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - budget}, options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert ours @ sigma @ ours <= theirs.fun + 1e-9
    assert kkt_residual(sigma, ours, budget, cap) <= 1e-6


@pytest.mark.parametrize(("seed", "n", "cap"), [(359, 4, 0.35), (506, 4, 0.35), (799, 3, 0.5)])
def test_a_symbol_that_met_its_cap_on_the_way_may_leave_it_again(seed: int, n: int, cap: float) -> None:
    """Markets found by search in which the walk has to free a weight from its cap."""
    sigma = covariance(random_returns(seed, 40, n))

    ours = minimum_variance(sigma, 0.98, cap)

    assert ours is not None and kkt_residual(sigma / (np.trace(sigma) / n), ours, 0.98, cap) <= 1e-12


def test_minimum_variance_is_not_beaten_by_any_point_of_a_grid() -> None:
    grid = np.arange(0, 41) / 40 * 0.98
    points = np.array(
        [
            (a, b, 0.98 - a - b)
            for a, b in itertools.product(grid, grid)
            if 0 <= 0.98 - a - b <= 0.6 and max(a, b) <= 0.6
        ]
    )
    for seed in range(1, 20):
        sigma = covariance(random_returns(seed, 30, 3))
        ours = minimum_variance(sigma, 0.98, 0.6)
        assert ours is not None
        assert ours @ sigma @ ours <= np.einsum("ki,ij,kj->k", points, sigma, points).min() * (1 + 1e-9)


def test_an_optimum_at_a_vertex_is_found() -> None:
    """Budget of exactly two caps: the two calmest symbols take it all, and no symbol is free."""
    beta = np.array([3.0, 1.0, 3.0, 1.0])

    ours = minimum_variance(np.outer(beta, beta) + 0.01 * np.eye(4), 0.98, 0.49)

    assert ours is not None and ours.tolist() == [0, 0.49, 0, 0.49]


def test_without_correlation_and_cap_minimum_variance_is_inverse_variance() -> None:
    variances = np.array([4.0, 1.0, 2.0, 8.0])

    ours = minimum_variance(np.diag(variances), 1.0, 1.0)

    assert ours == pytest.approx((1 / variances) / (1 / variances).sum(), abs=1e-9)


names = st.sampled_from(sorted(PORTFOLIOS))


@st.composite
def markets(draw: st.DrawFn) -> tuple[FloatArray, np.ndarray, WeightConfig, int]:
    n, seed, rows = draw(st.integers(1, 9)), draw(st.integers(0, 10_000)), draw(st.sampled_from([8, 21, 25, 60]))
    returns = random_returns(seed, rows, n)
    if draw(st.booleans()):
        returns[draw(st.integers(0, rows - 1)), draw(st.integers(0, n - 1))] = math.nan
    inside = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    buffer, cap = draw(st.sampled_from([0.0, 0.02, 0.3])), draw(st.sampled_from([0.05, 0.2, 0.35, 0.5, 1.0]))
    method = draw(st.sampled_from(["ledoit_wolf", "sample"]))
    return returns, inside, WeightConfig(cash_buffer=buffer, max_weight=cap, covariance=method), n


@settings(deadline=None, max_examples=300)
@given(names, markets())
def test_weights_are_long_capped_within_budget_and_only_for_what_may_be_held(name: str, market: tuple) -> None:  # type: ignore[type-arg]
    returns, inside, config, n = market
    params = {"lookback": 20} if PORTFOLIOS[name].space else {}

    result = allocate(name, params, returns, inside, np.ones(n), np.ones(n), config)

    assert np.isfinite(result.weights).all()
    assert (result.weights >= 0).all() and (result.weights <= config.max_weight).all()
    assert result.weights.sum() <= 1 - config.cash_buffer + 1e-12
    assert (result.weights[~inside] == 0).all()
    if params:
        window = returns[-20:]
        unfit = ~np.isfinite(window).all(axis=0) | (np.nan_to_num(window).std(axis=0, ddof=1) <= 1e-12)
        assert (result.weights[unfit] == 0).all()
        eligible = inside & ~unfit
    else:
        eligible = inside
    if len(returns) >= 20 or not params:
        placed = min(1 - config.cash_buffer, eligible.sum() * config.max_weight)
        assert result.weights.sum() == pytest.approx(placed, abs=1e-9)
    assert not result.fallback


@settings(deadline=None, max_examples=100)
@given(names, markets(), st.randoms(use_true_random=False))
def test_listing_symbols_in_another_order_permutes_the_weights_exactly(name: str, market: tuple, random) -> None:  # type: ignore[no-untyped-def,type-arg]
    returns, inside, config, n = market
    order = list(range(n))
    random.shuffle(order)
    symbols = [f"S{i}" for i in range(n)]
    ones = np.ones(n)

    first = allocate(name, {}, returns, inside, ones, ones, config, symbols=symbols)
    second = allocate(
        name, {}, returns[:, order], inside[order], ones, ones, config, symbols=[symbols[i] for i in order]
    )

    assert (first.weights[order] == second.weights).all()


@settings(deadline=None, max_examples=60)
@given(names, markets(), st.sampled_from([0.25, 3.0, 40.0]))
def test_the_size_of_all_returns_does_not_matter(name: str, market: tuple, scale: float) -> None:  # type: ignore[type-arg]
    returns, inside, config, n = market
    ones = np.ones(n)

    first = allocate(name, {}, returns, inside, ones, ones, config)
    second = allocate(name, {}, returns * scale, inside, ones, ones, config)

    variance = _variance(returns, config)
    if name == MINIMUM and variance is not None:  # duplicate columns have many optima: compare what is minimised
        assert second.weights @ variance @ second.weights == pytest.approx(
            first.weights @ variance @ first.weights, rel=1e-6
        )
    elif name != MINIMUM:
        assert second.weights == pytest.approx(first.weights, abs=1e-9)


def _variance(returns: FloatArray, config: WeightConfig) -> FloatArray | None:
    if len(returns) < 60 or not np.isfinite(returns).all():
        return None
    return covariance(returns[-60:], config.covariance)


def test_older_returns_than_the_lookback_do_not_matter() -> None:
    returns = random_returns(1, 60, 4)
    longer = np.concatenate([np.full((5, 4), math.nan), returns])
    arguments = (np.ones(4, np.bool_), np.ones(4), np.ones(4), WeightConfig())

    for name in PORTFOLIOS:
        assert (allocate(name, {}, longer, *arguments).weights == allocate(name, {}, returns, *arguments).weights).all()


def test_a_solver_that_fails_is_replaced_by_inverse_volatility_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    returns = random_returns(1, 60, 4)
    arguments = (returns, np.ones(4, np.bool_), np.ones(4), np.ones(4), WeightConfig())
    monkeypatch.setattr(module, "minimum_variance", lambda *_: None)

    result = allocate(MINIMUM, {"lookback": 60}, *arguments)

    assert result.fallback
    assert (result.weights == allocate(INVERSE, {"lookback": 60}, *arguments).weights).all()


def test_one_symbol_gets_its_cap_and_none_gives_cash() -> None:
    returns = random_returns(1, 60, 3)
    one = np.array([False, True, False])

    for name in PORTFOLIOS:
        weights = allocate(name, {}, returns, one, np.ones(3), np.ones(3), WeightConfig()).weights
        assert weights.tolist() == [0, 0.35, 0]
        assert not allocate(name, {}, returns, ~one & one, np.ones(3), np.ones(3), WeightConfig()).weights.any()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: module.space("MinVariance"), UnknownName),
        (lambda: module.resolve(MINIMUM, {"loockback": 3}), UnknownName),
        (lambda: module.resolve(MINIMUM, {"lookback": 3}), BadConfiguration),
        (lambda: WeightConfig(max_weight=0.0), BadConfiguration),
        (lambda: WeightConfig(covariance="wolf"), UnknownName),
    ],
)
def test_what_does_not_exist_is_refused_by_name(call: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        call()
