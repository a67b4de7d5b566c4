"""Target weights: one table row per portfolio strategy, and everything they share (catalogue §13).

Shared are: who is eligible, the budget and the cap, the covariance estimate, the order of symbols and the fallback of a solver.
A row only says how raw weights follow from the returns. docs/portfolios.md tells them all.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from algo_royale.errors import BadConfiguration, UnknownName
from algo_royale.market import BoolArray, FloatArray, IntArray, Timeframe
from algo_royale.portfolio import solvers
from algo_royale.strategies.space import ParamSpec, Value, choice, integer, number

FLAT_SD = 1e-12  # a symbol that does not move has no risk to estimate
DAILY = Timeframe.DAY_1.bars_per_year
CASH_AT_CLOSE = "move_to_cash_at_end_of_day"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightConfig:
    """`cash_buffer` and `max_weight` as fractions of equity; `covariance` is "ledoit_wolf" or "sample"; `rf` a year."""

    cash_buffer: float = 0.02
    max_weight: float = 0.35
    covariance: str = "ledoit_wolf"
    bars_per_year: int = DAILY
    rf: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.cash_buffer < 1.0 and 0.0 < self.max_weight <= 1.0):
            raise BadConfiguration("cash_buffer must lie in [0, 1) and max_weight in (0, 1]")
        if self.covariance not in ("ledoit_wolf", "sample"):
            raise UnknownName("covariance", self.covariance, ("ledoit_wolf", "sample"))


@dataclass(frozen=True, slots=True)
class Problem:
    """What a row sees: only eligible symbols, in name order. `window` has the returns of all of them and of others."""

    window: FloatArray
    chosen: IntArray
    sd: FloatArray  # of returns, ddof 1
    score: FloatArray
    viability: FloatArray
    budget: float
    cap: float
    params: Mapping[str, Value]
    config: WeightConfig

    @property
    def returns(self) -> FloatArray:
        """[lookback, n], oldest first (empty without lookback)."""
        every = len(self.chosen) == self.window.shape[1]
        return self.window if every else np.take(self.window, self.chosen, axis=1)


Raw = tuple[FloatArray, float]  # raw weights for `solvers.fill`, and the budget to spread over them


@dataclass(frozen=True, slots=True)
class PortfolioSpec:
    """A row: the searched parameters, and raw weights from a problem (None: the solver did not converge). What `raw` says of
    itself is what docs/portfolios.md says of it.

    `may_hold_cash`: its own rule may invest less than the budget, so even a single symbol is asked about.
    """

    name: str
    space: tuple[ParamSpec, ...]
    raw: Callable[[Problem], Raw | None]
    may_hold_cash: bool = False


@dataclass(frozen=True, slots=True)
class Allocation:
    """`weights`[n] in the caller's order: >= 0, <= cap, sum <= 1 - cash_buffer. `fallback`: inverse volatility stood in."""

    weights: FloatArray
    fallback: bool


def _equal(problem: Problem) -> Raw:
    """Everybody the same (DeMiguel 2009)."""
    return np.ones(len(problem.score)), problem.budget


def _inverse_volatility(problem: Problem) -> Raw:
    """1/σ, σ with ddof 1."""
    return 1.0 / problem.sd, problem.budget


def _covariance(problem: Problem) -> FloatArray:
    return solvers.covariance(problem.returns, problem.config.covariance)


def _volatility_weighted(problem: Problem) -> Raw:
    """The base, equal or 1/σ, with B·min(1, `target_vol`/√(u'Σu·bars a year)) for it: it never levers (Moreira 2017)."""
    base = np.ones(len(problem.sd)) if problem.params["base"] == "equal" else 1.0 / problem.sd
    u = base / base.sum()
    per_bar = float((u * (_covariance(problem) * u).sum(axis=1)).sum())
    volatility = math.sqrt(per_bar * problem.config.bars_per_year)
    return u, problem.budget * min(1.0, float(problem.params["target_vol"]) / volatility)


def _minimum_variance(problem: Problem) -> Raw | None:
    """argmin w'Σw with Σw = B, 0 <= w <= cap (Markowitz 1952)."""
    return _spread(solvers.minimum_variance(_covariance(problem), problem.budget, problem.cap), problem)


def _mean_variance(problem: Problem) -> Raw | None:
    """argmax μ'w - `risk_aversion`·w'Σw with Σw <= 1 - buffer, 0 <= w <= cap; all μ <= 0: cash (Markowitz 1952)."""
    mu, risk_aversion = _mean(problem), float(problem.params["risk_aversion"])
    if (mu <= 0.0).all():
        return _cash(problem)
    whole = 1.0 - problem.config.cash_buffer
    weights = solvers.mean_variance(_covariance(problem), mu, risk_aversion, whole, problem.cap)
    return None if weights is None else (weights, min(float(weights.sum()), whole))


def _max_sharpe(problem: Problem) -> Raw | None:
    """argmax (μ - rf)'w/√(w'Σw) with Σw = B, 0 <= w <= cap; cash if nothing, or nothing within the caps, earns more than
    rf (Sharpe 1966)."""
    excess = _mean(problem) - problem.config.rf / problem.config.bars_per_year
    if (excess <= 0.0).all():
        return _cash(problem)
    return _spread(solvers.maximum_sharpe(_covariance(problem), excess, problem.budget, problem.cap), problem)


def _equal_risk_contribution(problem: Problem) -> Raw | None:
    """w_i(Σw)_i the same for all; where a cap binds, only nearly so (Maillard 2010, Spinu 2013)."""
    n = len(problem.sd)
    return _spread(solvers.risk_budgets(_covariance(problem), np.full(n, 1.0 / n)), problem)


def _risk_parity(problem: Problem) -> Raw | None:
    """w_i(Σw)_i in proportion to viability to the `budget_power`; the same for all where viability is missing, negative or
    nowhere above 0 (Bruder 2012)."""
    shares = problem.viability
    if not (np.isfinite(shares).all() and (shares >= 0.0).all() and shares.any()):
        shares = np.ones(len(shares))
    shares = shares ** float(problem.params["budget_power"])
    return _spread(solvers.risk_budgets(_covariance(problem), shares / shares.sum()), problem)


def _momentum(problem: Problem) -> Raw:
    """max(total return over `lookback` bars that end `skip` bars ago, 0); nobody rose: cash (Jegadeesh 1993)."""
    gains = solvers.compounded(problem.returns[: int(problem.params["lookback"])])
    return np.maximum(gains, 0.0), problem.budget


def _winner_takes_all(problem: Problem) -> Raw:
    """All for the highest score (`use_signals`) or trailing return; ties go to the higher trailing return, then to the first
    name; the best is <= 0: cash."""
    gains = solvers.compounded(problem.returns)
    merit = problem.score if problem.params["use_signals"] else gains
    best = max(range(len(merit)), key=lambda i: (merit[i], gains[i], -i))
    if not merit[best] > 0.0:
        return _cash(problem)
    raw = np.zeros(len(merit))
    raw[best] = 1.0
    return raw, problem.budget


def _hierarchical_risk_parity(problem: Problem) -> Raw:
    """A tree of correlations by `linkage`, halved from the top, each half in inverse proportion to its variance; one or two
    symbols: 1/σ² (Lopez de Prado 2016)."""
    return solvers.hierarchical_risk_parity(_covariance(problem), str(problem.params["linkage"])), problem.budget


def _max_diversification(problem: Problem) -> Raw | None:
    """argmax w'σ/√(w'Σw), w >= 0 (Choueifaty 2008)."""
    return _spread(solvers.maximum_diversification(_covariance(problem)), problem)


def _mean(problem: Problem) -> FloatArray:
    mu: FloatArray = solvers.mean(problem.returns, float(problem.params["mean_shrink"]))
    return mu


def _cash(problem: Problem) -> Raw:
    return np.zeros(len(problem.sd)), 0.0


def _spread(weights: FloatArray | None, problem: Problem) -> Raw | None:
    return None if weights is None else (weights, problem.budget)


_LOOKBACK = integer("lookback", 20, 250, 60)
_MEAN_SHRINK = number("mean_shrink", 0.0, 1.0, 0.5)


def _row(
    name: str, raw: Callable[[Problem], Raw | None], *space: ParamSpec, may_hold_cash: bool = False
) -> PortfolioSpec:
    return PortfolioSpec(f"{name}PortfolioStrategy", space, raw, may_hold_cash)


PORTFOLIOS: dict[str, PortfolioSpec] = {
    row.name: row
    for row in (
        _row("EqualWeight", _equal),
        _row("InverseVolatility", _inverse_volatility, integer("lookback", 10, 120, 20)),
        _row(
            "VolatilityWeighted", _volatility_weighted, _LOOKBACK, number("target_vol", 0.05, 0.40, 0.15),
            choice("base", ("equal", "inverse_vol"), "equal"), may_hold_cash=True,
        ),
        _row("MinimumVariance", _minimum_variance, _LOOKBACK),
        _row(
            "MeanVariance", _mean_variance, _LOOKBACK, ParamSpec("risk_aversion", "float", 0.5, 50.0, log=True, default=5.0),
            _MEAN_SHRINK, may_hold_cash=True,
        ),
        _row("MaxSharpe", _max_sharpe, _LOOKBACK, _MEAN_SHRINK, may_hold_cash=True),
        _row("EqualRiskContribution", _equal_risk_contribution, _LOOKBACK),
        _row("RiskParity", _risk_parity, _LOOKBACK, number("budget_power", 0.0, 2.0, 1.0)),
        _row("Momentum", _momentum, integer("lookback", 10, 250, 60), integer("skip", 0, 10, 0), may_hold_cash=True),
        _row(
            "WinnerTakesAll", _winner_takes_all, choice("use_signals", (True, False), True), integer("lookback", 5, 120, 20),
            choice(CASH_AT_CLOSE, (False, True), False), may_hold_cash=True,
        ),
        _row(
            "HierarchicalRiskParity", _hierarchical_risk_parity, _LOOKBACK,
            choice("linkage", ("single", "average", "ward"), "single"),
        ),
        _row("MaxDiversification", _max_diversification, _LOOKBACK),
    )
}  # fmt: skip
LOOKBACK_MAX = max(
    sum(int(p.high or 0) for p in row.space if p.name in ("lookback", "skip")) for row in PORTFOLIOS.values()
)


def portfolio(name: str) -> PortfolioSpec:
    """The row of this name, or UnknownName with the nearest one."""
    spec = PORTFOLIOS.get(name)
    if spec is None:
        raise UnknownName("portfolio strategy", name, PORTFOLIOS)
    return spec


def space(name: str, bars_per_year: int = DAILY) -> tuple[ParamSpec, ...]:
    """The search space of a portfolio strategy on bars of this length; trial 0 is every default.

    Daily bars have no close to be out before, so `move_to_cash_at_end_of_day` is no dimension of theirs.
    """
    return tuple(p for p in portfolio(name).space if p.name != CASH_AT_CLOSE or bars_per_year > DAILY)


def resolve(name: str, params: Mapping[str, Any], bars_per_year: int = DAILY) -> dict[str, Value]:
    """All parameters of a strategy, defaults filled in; unknown or out-of-range ones raise BadConfiguration."""
    spec = portfolio(name)
    known = {p.name: p for p in spec.space}
    for key, value in params.items():
        if key not in known:
            raise UnknownName(f"parameter of {name}", key, known)
        if not known[key].contains(value):
            allowed = ", ".join(map(str, known[key].choices)) or f"{known[key].low}..{known[key].high}"
            raise BadConfiguration(f"{name}.{key} = {value} is outside {allowed}")
        if key == CASH_AT_CLOSE and value and bars_per_year <= DAILY:
            raise BadConfiguration(f"{name}.{key} needs bars shorter than a session")
    return {p.name: params.get(p.name, p.default) for p in spec.space}


def lookback(name: str, params: Mapping[str, Any], bars_per_year: int = DAILY) -> int:
    """Returns that the strategy looks back on, with those that it skips; 0 for none."""
    return _rows(resolve(name, params, bars_per_year))


def _rows(params: Mapping[str, Value]) -> int:
    return int(params.get("lookback", 0)) + int(params.get("skip", 0))


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
        params = resolve(name, params, config.bars_per_year)
        rows = _rows(params)
    if rows > len(returns):
        return Allocation(weights, False)
    window, sd = returns[len(returns) - rows :], weights
    if rows:
        window = np.ascontiguousarray(window, np.float64)
        sd = solvers.deviations(window)
        state_in = state_in & (sd > FLAT_SD)
    chosen = state_in.nonzero()[0]
    n = len(chosen)
    if n == 0:
        return Allocation(weights, False)
    whole = 1.0 - config.cash_buffer
    if n == 1 and not spec.may_hold_cash:
        weights[chosen[0]] = min(config.max_weight, whole)
        return Allocation(weights, False)
    these = slice(None) if n == len(weights) else chosen  # everybody, without a copy
    problem = Problem(
        window, chosen, sd[these] if rows else np.full(n, np.nan), score[these], viability[these],
        min(whole, n * config.max_weight), config.max_weight, params, config,
    )  # fmt: skip
    raw = spec.raw(problem)
    unsolved = raw is None
    weights[these] = solvers.fill(*(_inverse_volatility(problem) if raw is None else raw), problem.cap)
    return Allocation(weights, unsolved)
