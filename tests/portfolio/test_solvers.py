"""Estimates and solvers against scikit-learn, scipy, grids and closed forms."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.optimize import minimize
from scipy.spatial.distance import pdist
from sklearn.covariance import ledoit_wolf

from algo_royale.market import FloatArray
from algo_royale.portfolio import solvers
from algo_royale.portfolio.solvers import covariance, kkt_residual, minimum_variance
from markets import random_returns

SD = np.array([0.10, 0.20, 0.30, 0.25])
RHO = np.array([[1, 0.5, 0.2, 0.1], [0.5, 1, -0.1, 0.3], [0.2, -0.1, 1, 0.4], [0.1, 0.3, 0.4, 1]])
SIGMA = RHO * np.outer(SD, SD)

BOUNDS = [(1.0, 0.98), (0.35, 0.98), (0.5, 0.9), (0.2, 0.98)]


@pytest.mark.parametrize(("rows", "columns"), [(60, 5), (20, 1), (250, 3), (5, 12), (2, 2)])
def test_ledoit_wolf_is_scikit_learns(rows: int, columns: int) -> None:
    returns = np.random.default_rng(rows).normal(0.001, 0.02, (rows, columns))

    ours = solvers._ledoit_wolf(returns)

    assert np.abs(ours - ledoit_wolf(returns)[0]).max() <= 1e-14


def test_the_sample_covariance_is_numpys() -> None:
    returns = np.random.default_rng(3).normal(0, 0.02, (30, 4))

    assert covariance(returns, "sample") == pytest.approx(np.cov(returns.T) * 1.0, rel=1e-8)


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
    assert kkt_residual(sigma, np.zeros(n), ours, budget, cap, True) <= 1e-6


@pytest.mark.parametrize(("seed", "n", "cap"), [(359, 4, 0.35), (506, 4, 0.35), (799, 3, 0.5)])
def test_a_symbol_that_met_its_cap_on_the_way_may_leave_it_again(seed: int, n: int, cap: float) -> None:
    """Markets found by search in which the walk has to free a weight from its cap."""
    sigma = covariance(random_returns(seed, 40, n))

    ours = minimum_variance(sigma, 0.98, cap)

    assert ours is not None and kkt_residual(sigma / (np.trace(sigma) / n), np.zeros(n), ours, 0.98, cap, True) <= 1e-12


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


def sigma_of(seed: int) -> FloatArray:
    """A covariance with mean variance 1 of two to eight symbols."""
    sigma = covariance(random_returns(seed, 40, 2 + seed % 7), "sample" if seed % 2 else "ledoit_wolf")
    return sigma / (np.trace(sigma) / len(sigma))


def best_of_scipy(
    loss: Callable[[FloatArray], float], start: FloatArray, cap: float, budget: float, kind: str = "eq"
) -> FloatArray:
    """SLSQP's minimum of `loss` with 0 <= w <= cap and Σw = budget (or "ineq": <=)."""
    sum_to = {"type": kind, "fun": lambda w: budget - w.sum()}
    options = {"ftol": 1e-15, "maxiter": 1000}
    found = minimize(loss, start, method="SLSQP", bounds=[(0, cap)] * len(start), constraints=sum_to, options=options)
    weights: FloatArray = np.clip(found.x, 0, cap)
    return weights * min(1.0, budget / weights.sum()) if weights.sum() > 0 else weights


@pytest.mark.parametrize("seed", range(40))
def test_mean_variance_is_not_beaten_by_scipy(seed: int) -> None:
    sigma, (cap, budget) = sigma_of(seed), BOUNDS[seed % 4]
    n, risk_aversion = len(sigma), [0.5, 5.0, 50.0][seed % 3]
    mu = np.random.default_rng(seed).normal(0.2, 1.0, n)

    ours = solvers.mean_variance(sigma, mu, risk_aversion, budget, cap)

    def loss(w: FloatArray) -> float:
        return float(risk_aversion * w @ sigma @ w - mu @ w)

    assert ours is not None and ours.min() >= 0 and ours.max() <= cap and ours.sum() <= budget + 1e-12
    for start in (np.zeros(n), np.full(n, budget / n / 2)):
        assert loss(ours) <= loss(best_of_scipy(loss, start, cap, budget, "ineq")) + 1e-8
    assert kkt_residual(sigma, mu / (2 * risk_aversion), ours, budget, cap, False) <= 1e-9


@pytest.mark.parametrize("seed", range(40))
def test_maximum_sharpe_is_not_beaten_by_scipy(seed: int) -> None:
    sigma, (cap, budget) = sigma_of(seed), BOUNDS[seed % 4]
    n = len(sigma)
    budget = min(budget, n * cap)
    excess = np.random.default_rng(seed).normal(0.6, 0.5, n)
    excess = excess if seed % 2 else np.abs(excess)

    ours = solvers.maximum_sharpe(sigma, excess, budget, cap)

    def loss(w: FloatArray) -> float:
        return -float(excess @ w) / float(np.sqrt(w @ sigma @ w))

    assert ours is not None and ours.sum() == pytest.approx(budget, abs=1e-12)
    assert ours.min() >= 0 and ours.max() <= cap
    theirs = best_of_scipy(loss, np.full(n, budget / n), cap, budget)
    assert loss(ours) <= loss(theirs) + 1e-7 * abs(loss(theirs))
    assert kkt_residual(sigma, ours @ sigma @ ours / (excess @ ours) * excess, ours, budget, cap, True) <= 1e-9


def test_without_caps_maximum_sharpe_is_the_tangency_portfolio() -> None:
    """w ∝ Σ⁻¹·excess, where that is positive."""
    sigma, excess = np.array([[1.0, 0.2, 0.1], [0.2, 2.0, 0.3], [0.1, 0.3, 1.5]]), np.array([0.05, 0.06, 0.055])
    tangency = np.linalg.solve(sigma, excess)

    assert solvers.maximum_sharpe(sigma, excess, 1.0, 1.0) == pytest.approx(tangency / tangency.sum(), abs=1e-12)


def test_maximum_sharpe_is_cash_where_the_caps_leave_no_excess() -> None:
    """One good symbol out of three, of which it may take a third."""
    excess = np.array([0.01, -0.02, -0.02])

    weights = solvers.maximum_sharpe(np.eye(3), excess, 0.99, 0.33)

    assert weights is not None and weights.tolist() == [0, 0, 0]
    held = solvers.maximum_sharpe(np.eye(3), excess, 0.99, 0.9)
    assert held is not None and held.argmax() == 0


@pytest.mark.parametrize("seed", range(40))
def test_risk_contributions_are_their_budgets(seed: int) -> None:
    sigma = sigma_of(seed)
    n = len(sigma)
    budgets = np.full(n, 1 / n) if seed % 2 else np.random.default_rng(seed).dirichlet(np.ones(n))

    ours = solvers.risk_budgets(sigma, budgets)

    assert ours is not None and ours.sum() == pytest.approx(1) and ours.min() > 0
    contribution = ours * (sigma @ ours)
    assert contribution / contribution.sum() == pytest.approx(budgets, abs=1e-8)


def test_a_symbol_without_a_budget_of_risk_gets_none() -> None:
    ours = solvers.risk_budgets(np.array([[1.0, 0.5], [0.5, 2.0]]), np.array([1.0, 0.0]))

    assert ours is not None and ours.tolist() == [1.0, 0.0]


def test_a_near_hedge_is_still_shared_out() -> None:
    """Two symbols that all but cancel make a long valley, in which descent by coordinates alone crawls."""
    sd = np.array([1.0, 30.0, 2.0])
    sigma = np.array([[1.0, -0.99998, 0.3], [-0.99998, 1.0, -0.3], [0.3, -0.3, 1.0]]) * np.outer(sd, sd)

    ours = solvers.risk_budgets(sigma, np.full(3, 1 / 3))

    assert ours is not None
    contribution = ours * (sigma @ ours)
    assert contribution / contribution.sum() == pytest.approx([1 / 3] * 3, abs=1e-8)


def test_a_perfect_hedge_is_reported_and_not_made_up() -> None:
    """Two mirrored symbols have no variance together: nothing to share out."""
    assert solvers.risk_budgets(np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([0.5, 0.5])) is None


@pytest.mark.parametrize("seed", range(40))
def test_maximum_diversification_is_not_beaten_by_scipy(seed: int) -> None:
    sigma = sigma_of(seed)
    sd = np.sqrt(np.diag(sigma))

    def loss(w: FloatArray) -> float:
        return -float(sd @ w) / float(np.sqrt(w @ sigma @ w))

    ours = solvers.maximum_diversification(sigma)

    assert ours is not None and ours.min() >= 0
    assert loss(ours) <= loss(best_of_scipy(loss, 1 / sd / (1 / sd).sum(), 1.0, 1.0)) + 1e-9


def test_without_correlation_three_allocators_are_inverse_volatility() -> None:
    variances = np.array([4.0, 1.0, 2.0, 8.0])
    expected = variances**-0.5 / (variances**-0.5).sum()

    diversified = solvers.maximum_diversification(np.diag(variances))

    assert solvers.risk_budgets(np.diag(variances), np.full(4, 0.25)) == pytest.approx(expected, abs=1e-12)
    assert diversified is not None
    assert diversified / diversified.sum() == pytest.approx(expected, abs=1e-9)


def test_moving_weight_away_from_an_optimum_is_noticed() -> None:
    sigma, linear = sigma_of(4), np.zeros(6)
    best = minimum_variance(sigma, 0.98, 1.0)
    assert best is not None
    worse = best.copy()
    worse[best.argmax()] -= 1e-4
    short = worse.copy()
    worse[best.argmin()] += 1e-4

    assert kkt_residual(sigma, linear, worse, 0.98, 1.0, True) > 1e-6
    assert kkt_residual(sigma, linear, short, 0.98, 1.0, True) >= 1e-4
    assert kkt_residual(sigma, np.full(6, 9.0), short, 0.98, 1.0, False) > 1.0  # cash that should have been spent
    assert kkt_residual(sigma, np.full(6, -9.0), short, 0.98, 1.0, False) > 1.0  # a purchase that should have been cash


def slow_hrp(sigma: FloatArray, method: str) -> FloatArray:
    """As in the paper: quasi-diagonalise by scipy, then bisect a list by recursion."""
    sd = np.sqrt(np.diag(sigma))
    distance = np.sqrt(np.clip((1 - sigma / np.outer(sd, sd)) / 2, 0, 1))
    np.fill_diagonal(distance, 0)
    weights = np.ones(len(sigma))

    def variance(items: list[int]) -> float:
        inside = sigma[np.ix_(items, items)]
        w = 1 / np.diag(inside)
        w /= w.sum()
        return float(w @ inside @ w)

    def split(items: list[int]) -> None:
        if len(items) > 1:
            left, right = items[: len(items) // 2], items[len(items) // 2 :]
            alpha = 1 - variance(left) / (variance(left) + variance(right))
            weights[left] *= alpha
            weights[right] *= 1 - alpha
            split(left)
            split(right)

    split(leaves_list(linkage(pdist(distance.T), method)).tolist())
    return weights


@pytest.mark.parametrize("method", ["single", "average", "ward"])
@pytest.mark.parametrize("n", [3, 4, 7, 20])
def test_hierarchical_risk_parity_is_the_papers(n: int, method: str) -> None:
    sigma = covariance(random_returns(11 + n, 60, n))

    ours = solvers.hierarchical_risk_parity(sigma, method)

    assert ours == pytest.approx(slow_hrp(sigma, method), rel=1e-9)
    assert ours.sum() == pytest.approx(1)


def test_two_symbols_are_weighted_by_their_inverse_variances() -> None:
    ours = solvers.hierarchical_risk_parity(np.array([[4.0, 1.0], [1.0, 1.0]]), "single")

    assert (ours / ours.sum()).tolist() == [0.2, 0.8]


@pytest.mark.parametrize("method", ["single", "average", "ward"])
@pytest.mark.parametrize("n", [2, 3, 8, 40])
def test_leaves_are_read_as_scipy_reads_them(n: int, method: str) -> None:
    tree = linkage(np.random.default_rng(n).normal(size=(n, 3)), method)

    assert solvers.leaves(tree).tolist() == leaves_list(tree).tolist()
