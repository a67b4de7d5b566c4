"""Target weights: one table row per portfolio strategy, and everything they share (catalogue §13).

Shared are: who is eligible, the budget and the cap, the covariance estimate, the order of symbols and the fallback of a solver.
A row only says how raw weights follow from the returns. Numbers are computed by explicit loops in compiled kernels: no BLAS,
no threads, so that the same returns give the same bits on every run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from algo_royale.errors import BadConfiguration, UnknownName
from algo_royale.market import BoolArray, FloatArray
from algo_royale.strategies.space import ParamSpec, Value, integer

FLAT_SD = 1e-12  # a symbol that does not move has no risk to estimate
JITTER = 1e-10
KKT_TOLERANCE = 1e-6

_kernel = numba.njit(cache=True, fastmath=False, error_model="numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightConfig:
    """`cash_buffer` and `max_weight` as fractions of equity; `covariance` is "ledoit_wolf" or "sample"."""

    cash_buffer: float = 0.02
    max_weight: float = 0.35
    covariance: str = "ledoit_wolf"
    bars_per_year: int = 252

    def __post_init__(self) -> None:
        if not (0.0 <= self.cash_buffer < 1.0 and 0.0 < self.max_weight <= 1.0):
            raise BadConfiguration("cash_buffer must lie in [0, 1) and max_weight in (0, 1]")
        if self.covariance not in ("ledoit_wolf", "sample"):
            raise UnknownName("covariance", self.covariance, ("ledoit_wolf", "sample"))


@dataclass(frozen=True, slots=True)
class Problem:
    """What a row sees: only eligible symbols, in name order. `returns` is [lookback, n] oldest first (empty without lookback)."""

    returns: FloatArray
    sd: FloatArray  # of returns, ddof 1
    score: FloatArray
    viability: FloatArray
    budget: float
    cap: float
    params: Mapping[str, Value]
    config: WeightConfig


Raw = tuple[FloatArray, float]  # raw weights for `fill`, and the budget to spread over them


@dataclass(frozen=True, slots=True)
class PortfolioSpec:
    """A row: the searched parameters, and raw weights from a problem (None: the solver did not converge)."""

    name: str
    space: tuple[ParamSpec, ...]
    raw: Callable[[Problem], Raw | None]


@dataclass(frozen=True, slots=True)
class Allocation:
    """`weights`[n] in the caller's order: >= 0, <= cap, sum <= 1 - cash_buffer. `fallback`: inverse volatility stood in."""

    weights: FloatArray
    fallback: bool


def _equal(problem: Problem) -> Raw:
    return np.ones(len(problem.score)), problem.budget


def _inverse_volatility(problem: Problem) -> Raw:
    return 1.0 / problem.sd, problem.budget


def _minimum_variance(problem: Problem) -> Raw | None:
    sigma = covariance(problem.returns, problem.config.covariance)
    weights = minimum_variance(sigma, problem.budget, problem.cap)
    return None if weights is None else (weights, problem.budget)


PORTFOLIOS: dict[str, PortfolioSpec] = {
    row.name: row
    for row in (
        PortfolioSpec("EqualWeightPortfolioStrategy", (), _equal),
        PortfolioSpec("InverseVolatilityPortfolioStrategy", (integer("lookback", 10, 120, 20),), _inverse_volatility),
        PortfolioSpec("MinimumVariancePortfolioStrategy", (integer("lookback", 20, 250, 60),), _minimum_variance),
    )
}


def portfolio(name: str) -> PortfolioSpec:
    """The row of this name, or UnknownName with the nearest one."""
    spec = PORTFOLIOS.get(name)
    if spec is None:
        raise UnknownName("portfolio strategy", name, PORTFOLIOS)
    return spec


def space(name: str) -> tuple[ParamSpec, ...]:
    """The search space of a portfolio strategy; trial 0 is every default."""
    return portfolio(name).space


def resolve(name: str, params: Mapping[str, Any]) -> dict[str, Value]:
    """All parameters of a strategy, defaults filled in; unknown or out-of-range ones raise BadConfiguration."""
    spec = portfolio(name)
    known = {p.name: p for p in spec.space}
    for key, value in params.items():
        if key not in known:
            raise UnknownName(f"parameter of {name}", key, known)
        if not known[key].contains(value):
            raise BadConfiguration(f"{name}.{key} = {value} is outside {known[key].low}..{known[key].high}")
    return {p.name: params.get(p.name, p.default) for p in spec.space}


def lookback(name: str, params: Mapping[str, Any]) -> int:
    """Returns that the strategy looks back on; 0 for none."""
    return int(resolve(name, params).get("lookback", 0))


def allocate(
    name: str,
    params: Mapping[str, Any],
    returns: FloatArray,
    state_in: BoolArray,
    score: FloatArray,
    viability: FloatArray,
    config: WeightConfig,
    *,
    symbols: Sequence[str] | None = None,
) -> Allocation:
    """Weights at the close of a bar. `returns` [T, n]: simple, up to and including that bar; the rest [n].

    `state_in` False takes a symbol out (a stale one likewise). Columns must be in name order for the result not to depend on
    how symbols were listed; give `symbols` and it is done here.
    """
    if symbols is not None:
        order = np.array(sorted(range(len(symbols)), key=lambda i: symbols[i]), np.int64)
        inner = allocate(name, params, returns[:, order], state_in[order], score[order], viability[order], config)
        weights = np.empty(len(order))
        weights[order] = inner.weights
        return Allocation(weights, inner.fallback)
    spec = portfolio(name)
    weights, rows = np.zeros(len(state_in)), 0
    if spec.space:
        params = resolve(name, params)
        rows = int(params.get("lookback", 0))
    if rows > len(returns):
        return Allocation(weights, False)
    window = np.ascontiguousarray(returns[len(returns) - rows :], np.float64)
    sd = _deviations(window)
    chosen = np.flatnonzero(state_in & (sd > FLAT_SD)) if rows else np.flatnonzero(state_in)
    n = len(chosen)
    if n == 0:
        return Allocation(weights, False)
    whole = 1.0 - config.cash_buffer
    if n == 1:
        weights[chosen[0]] = min(config.max_weight, whole)
        return Allocation(weights, False)
    problem = Problem(
        window[:, chosen], sd[chosen], score[chosen], viability[chosen],
        min(whole, n * config.max_weight), config.max_weight, params, config,
    )  # fmt: skip
    raw = spec.raw(problem)
    unsolved = raw is None
    weights[chosen] = fill(*(_inverse_volatility(problem) if raw is None else raw), problem.cap)
    return Allocation(weights, unsolved)


def fill(raw: FloatArray, budget: float, cap: float) -> FloatArray:
    """Spread `budget` in proportion to `raw` (>= 0) with no weight above `cap`; what cannot be placed stays cash."""
    weights = np.zeros(len(raw))
    free = [i for i in range(len(raw)) if raw[i] > 0.0]
    rest = budget
    while free:
        total = 0.0
        for i in free:
            total += raw[i]
        over = [i for i in free if rest * raw[i] / total > cap]
        if not over:
            for i in free:
                weights[i] = rest * raw[i] / total
            break
        for i in over:
            weights[i] = cap
        rest = max(rest - cap * len(over), 0.0)
        free = [i for i in free if weights[i] == 0.0]
    return weights


def covariance(returns: FloatArray, method: str = "ledoit_wolf") -> FloatArray:
    """Covariance [n, n] per bar of `returns` [T, n] (T >= 2): Ledoit-Wolf 2004 with the identity target, or ddof 1.

    A jitter of 1e-10 of the mean variance keeps it positive definite for duplicate columns and T < n.
    """
    sigma = _ledoit_wolf(returns) if method == "ledoit_wolf" else _sample(returns)
    n = len(sigma)
    sigma[np.arange(n), np.arange(n)] += JITTER * np.trace(sigma) / n
    return sigma


def minimum_variance(sigma: FloatArray, budget: float, cap: float) -> FloatArray | None:
    """argmin w'Σw with Σw = budget, 0 <= w <= cap (Markowitz 1952), or None where the KKT residual is above 1e-6.

    A primal active-set method: exact for the bounds that bind, a handful of small Cholesky solves.
    """
    n = len(sigma)
    if n * cap <= budget:
        return np.full(n, cap)
    scale = np.trace(sigma) / n
    if not (math.isfinite(scale) and scale > 0.0):
        return None
    scaled = sigma / scale
    weights = _active_set(scaled, budget, cap)
    return weights if kkt_residual(scaled, weights, budget, cap) <= KKT_TOLERANCE else None


def kkt_residual(scaled: FloatArray, weights: FloatArray, budget: float, cap: float) -> float:
    """How far `weights` are from optimal: the largest gain of moving weight between two symbols, or breach of a constraint."""
    gradient = (scaled * weights).sum(axis=1)
    can_rise, can_fall = weights < cap - 1e-12, weights > 1e-12
    gain = 0.0
    if can_rise.any() and can_fall.any():
        gain = float(gradient[can_fall].max() - gradient[can_rise].min())
    breach = max(float(-weights.min()), float(weights.max() - cap), abs(float(weights.sum()) - budget))
    return max(gain, breach)


@_kernel
def _deviations(window: FloatArray) -> FloatArray:
    """Standard deviation (ddof 1) of each column, two passes; NaN where a value is not finite or there are fewer than two."""
    rows, n = window.shape
    out = np.full(n, np.nan)
    if rows < 2:
        return out
    for j in range(n):
        mean = 0.0
        for t in range(rows):
            mean += window[t, j]
        mean /= rows
        total = 0.0
        for t in range(rows):
            total += (window[t, j] - mean) ** 2
        if np.isfinite(total):
            out[j] = math.sqrt(total / (rows - 1))
    return out


@_kernel
def _scatter(returns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Demeaned returns X and X'X, summed oldest to newest."""
    rows, n = returns.shape
    x = np.empty((rows, n))
    for j in range(n):
        mean = 0.0
        for t in range(rows):
            mean += returns[t, j]
        mean /= rows
        for t in range(rows):
            x[t, j] = returns[t, j] - mean
    s = np.empty((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for t in range(rows):
                total += x[t, i] * x[t, j]
            s[i, j] = total
            s[j, i] = total
    return x, s


@_kernel
def _sample(returns: FloatArray) -> FloatArray:
    _, s = _scatter(returns)
    s /= returns.shape[0] - 1
    return s


@_kernel
def _ledoit_wolf(returns: FloatArray) -> FloatArray:
    """Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices, lemma 3.2 ff."""
    rows, n = returns.shape
    x, s = _scatter(returns)
    s /= rows
    mean = 0.0
    for i in range(n):
        mean += s[i, i]
    mean /= n
    distance = 0.0
    for i in range(n):
        for j in range(n):
            distance += (s[i, j] - (mean if i == j else 0.0)) ** 2
    distance /= n
    noise = 0.0
    for t in range(rows):
        for i in range(n):
            for j in range(n):
                noise += (x[t, i] * x[t, j] - s[i, j]) ** 2
    noise = min(noise / (n * float(rows) * rows), distance)
    shrinkage = noise / distance if distance > 0.0 else 0.0
    for i in range(n):
        for j in range(n):
            s[i, j] *= 1.0 - shrinkage
        s[i, i] += shrinkage * mean
    return s


@_kernel
def _solve(a: FloatArray, b: FloatArray) -> FloatArray:
    """Solve a x = b for symmetric positive definite `a` [m, m] and `b` [m, k] by Cholesky; both are overwritten."""
    m, k = b.shape
    for j in range(m):
        for i in range(j, m):
            total = a[i, j]
            for p in range(j):
                total -= a[i, p] * a[j, p]
            a[i, j] = math.sqrt(total) if i == j else total / a[j, j]
    for c in range(k):
        for i in range(m):
            for p in range(i):
                b[i, c] -= a[i, p] * b[p, c]
            b[i, c] /= a[i, i]
        for i in range(m - 1, -1, -1):
            for p in range(i + 1, m):
                b[i, c] -= a[p, i] * b[p, c]
            b[i, c] /= a[i, i]
    return b


@_kernel
def _minimise_free(sigma: FloatArray, w: FloatArray, bound: Any, budget: float) -> tuple[FloatArray, float]:
    """Best weights when those with bound != 0 stay put and the rest are free but for their sum; and its multiplier."""
    n = len(w)
    free = np.flatnonzero(bound == 0)
    m = len(free)
    a, b = np.empty((m, m)), np.empty((m, 2))
    left = budget
    for i in range(n):
        if bound[i] != 0:
            left -= w[i]
    for p in range(m):
        pull = 0.0
        for j in range(n):
            if bound[j] != 0:
                pull += sigma[free[p], j] * w[j]
        b[p, 0], b[p, 1] = 1.0, -pull
        for q in range(m):
            a[p, q] = sigma[free[p], free[q]]
    x = _solve(a, b)
    ones, pulls = 0.0, 0.0
    for p in range(m):
        ones += x[p, 0]
        pulls += x[p, 1]
    multiplier = (left - pulls) / ones
    out = w.copy()
    for p in range(m):
        out[free[p]] = x[p, 1] + multiplier * x[p, 0]
    return out, multiplier


@_kernel
def _release(sigma: FloatArray, w: FloatArray, bound: Any, multiplier: float) -> bool:
    """Free the bound symbol whose multiplier is most wrong (the lowest index of equals); at a vertex, one of each kind."""
    gradient = np.zeros(len(w))
    for i in range(len(w)):
        for j in range(len(w)):
            gradient[i] += sigma[i, j] * w[j]
    low, high = -1, -1
    for i in range(len(w)):
        if bound[i] < 0 and (low < 0 or gradient[i] < gradient[low]):
            low = i
        if bound[i] > 0 and (high < 0 or gradient[i] > gradient[high]):
            high = i
    if np.all(bound != 0):
        if low < 0 or high < 0 or gradient[high] - gradient[low] <= 1e-12:
            return False
        bound[low], bound[high] = 0, 0
        return True
    worst_low = multiplier - gradient[low] if low >= 0 else 0.0
    worst_high = gradient[high] - multiplier if high >= 0 else 0.0
    if max(worst_low, worst_high) <= 1e-12:
        return False
    bound[low if worst_low >= worst_high else high] = 0
    return True


@_kernel
def _active_set(sigma: FloatArray, budget: float, cap: float) -> FloatArray:
    """Walk from equal weights to the optimum: solve for the free ones, stop at the first bound met, free a wrong bound."""
    n = len(sigma)
    w = np.full(n, budget / n)
    bound = np.zeros(n, np.int8)  # -1 at zero, 1 at the cap, 0 free
    multiplier = 0.0
    for _ in range(50 * n):
        if np.any(bound == 0):
            goal, multiplier = _minimise_free(sigma, w, bound, budget)
            step, hit, side = 1.0, -1, 0
            for i in range(n):
                if bound[i] == 0:
                    move = goal[i] - w[i]
                    if goal[i] < 0.0 and move < 0.0 and -w[i] / move < step:
                        step, hit, side = -w[i] / move, i, -1
                    if goal[i] > cap and move > 0.0 and (cap - w[i]) / move < step:
                        step, hit, side = (cap - w[i]) / move, i, 1
            for i in range(n):
                if bound[i] == 0:
                    w[i] += step * (goal[i] - w[i])
            if hit >= 0:
                bound[hit] = side
                w[hit] = 0.0 if side < 0 else cap
                continue
        if not _release(sigma, w, bound, multiplier):
            break
    for i in range(n):
        w[i] = min(max(w[i], 0.0), cap)
    return w
