"""Performance measures of an equity curve, each with its edge cases; None where a value would have no meaning.

Session returns are the base for every timeframe (252 a year). Fractions everywhere, never percents.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types

from algo_royale.compiled import F64, FLOATS_IN, compiled
from algo_royale.market import FloatArray, IntArray
from algo_royale.research import overfitting

SESSIONS_PER_YEAR = 252
FLAT = 1e-12  # below this a standard deviation or mean is zero for every purpose
N_MIN = overfitting.N_MIN
_pair: Any = types.UniTuple  # numba has no annotations

Metrics = dict[str, float | int | None]


@dataclass(frozen=True, slots=True, eq=False)
class TradeResults:
    """Round trips as metrics see them: net profit in dollars, and return, of each."""

    net_pnl: FloatArray
    returns: FloatArray

    @classmethod
    def none(cls) -> "TradeResults":
        return cls(np.empty(0), np.empty(0))


def session_returns(equity: FloatArray, last_bar: IntArray, start_equity: float) -> FloatArray:
    """Return of each session from bar equity; `last_bar` holds the index of each session's last bar."""
    ends = equity[last_bar]
    out = np.empty(len(ends))
    if len(ends):
        out[0] = ends[0] / start_equity - 1.0
        np.divide(ends[1:], ends[:-1], out=out[1:])
        out[1:] -= 1.0
    return out


def _ratio(mean: float, deviation: float, annual: int) -> float | None:
    if deviation < FLAT:
        return 0.0 if abs(mean) < FLAT else None
    return mean / deviation * math.sqrt(annual)


def sharpe_ratio(returns: FloatArray, *, rf: float = 0.0, annual: int = SESSIONS_PER_YEAR) -> float | None:
    """Annualised mean excess return per unit of deviation (Sharpe 1994); None below two returns, or without deviation
    around a mean that is not zero."""
    if len(returns) < 2:
        return None
    return _ratio(float(returns.mean()) - rf / annual, float(returns.std(ddof=1)), annual)


def sortino_ratio(returns: FloatArray, *, rf: float = 0.0, annual: int = SESSIONS_PER_YEAR) -> float | None:
    """As `sharpe_ratio` over the downside deviation, which averages over all returns (Sortino 1994)."""
    if not len(returns):
        return None
    excess = returns - rf / annual
    downside = math.sqrt(float((np.minimum(excess, 0.0) ** 2).mean()))
    return _ratio(float(excess.mean()), downside, annual)


def cagr(total_return: float, n: int, *, annual: int = SESSIONS_PER_YEAR) -> float | None:
    """Compound yearly growth of `n` sessions that returned `total_return` together; -1 for a total loss."""
    if n < 1:
        return None
    if total_return <= -1.0:
        return -1.0
    exponent = annual / n * math.log1p(total_return)
    return math.expm1(exponent) if exponent < 700.0 else None


def drawdown(equity: FloatArray, start_equity: float) -> tuple[float, int]:
    """Largest fall from a peak as a positive fraction, and the longest run of bars below a peak; the start is the
    first peak."""
    deepest, longest = _drawdown(np.ascontiguousarray(equity, np.float64), start_equity)
    return float(deepest), int(longest)


@compiled(_pair(F64, 2), FLOATS_IN, F64)
def _drawdown(equity: FloatArray, peak: float) -> tuple[float, float]:
    deepest, longest, lowest, at = 0.0, 0, peak, -1
    for t in range(len(equity)):
        x = equity[t]
        if x >= peak:
            longest = max(longest, t - at - 1)
            peak, lowest, at = x, x, t
        elif x < lowest:  # only a new low below this peak can be the deepest
            lowest = x
            deepest = max(deepest, 1.0 - x / peak)
    return deepest, float(max(longest, len(equity) - 1 - at))


def calmar_ratio(growth: float | None, max_drawdown: float) -> float | None:
    """Growth per unit of the largest drawdown (Young 1991)."""
    if growth is None:
        return None
    if max_drawdown <= 0.0:
        return 0.0 if growth == 0.0 else None
    return growth / max_drawdown


def chosen(
    names: Collection[str], equity: FloatArray, returns: FloatArray, start_equity: float, net_pnl: FloatArray,
    exposure: float, *, rf: float = 0.0,
) -> Metrics:  # fmt: skip
    """The named ones among the measures that a search may choose by, each as `compute` has it; a trial costs
    microseconds, and so do these."""
    total = float(equity[-1]) / start_equity - 1.0 if len(equity) else 0.0
    deepest = drawdown(equity, start_equity)[0] if {"calmar_ratio", "max_drawdown"} & set(names) else 0.0
    found: dict[str, Callable[[], float | int | None]] = {
        "total_return": lambda: total,
        "sharpe_ratio": lambda: sharpe_ratio(returns, rf=rf),
        "sortino_ratio": lambda: sortino_ratio(returns, rf=rf),
        "calmar_ratio": lambda: calmar_ratio(cagr(total, len(returns)), deepest),
        "cagr": lambda: cagr(total, len(returns)),
        "max_drawdown": lambda: deepest,
        "win_rate": lambda: float((net_pnl > 0).mean()) if len(net_pnl) else None,
        "num_trades": lambda: len(net_pnl),
        "exposure": lambda: exposure,
    }
    return {name: found[name]() for name in names}


def moments(returns: FloatArray) -> tuple[float | None, float | None]:
    """Population skewness and kurtosis (normal = 3); None without variance."""
    if not len(returns):
        return None, None
    centred = returns - returns.mean()
    m2 = float((centred**2).mean())
    if m2 < FLAT * FLAT:
        return None, None
    return float((centred**3).mean()) / m2**1.5, float((centred**4).mean()) / (m2 * m2)


def alpha_beta(
    returns: FloatArray, benchmark: FloatArray, *, rf: float = 0.0, annual: int = SESSIONS_PER_YEAR
) -> tuple[float | None, float | None]:
    """Intercept (a year) and slope of returns on benchmark returns (Jensen 1968); None below 20 returns or for a flat
    benchmark."""
    if len(returns) < N_MIN:
        return None, None
    mine, market = returns - rf / annual, benchmark - rf / annual
    spread = market - market.mean()
    variance = float((spread * spread).mean())
    if variance < FLAT * FLAT:
        return None, None
    beta = float((spread * (mine - mine.mean())).mean()) / variance
    return (float(mine.mean()) - beta * float(market.mean())) * annual, beta


def _tails(returns: FloatArray) -> Metrics:
    if len(returns) < N_MIN:
        return {"tail_ratio": None, "var_95": None, "cvar_95": None}
    low, high = (float(q) for q in np.quantile(returns, [0.05, 0.95]))
    return {
        "tail_ratio": abs(high) / abs(low) if low != 0.0 else None,
        "var_95": 0.0 - low,
        "cvar_95": 0.0 - float(returns[returns <= low].mean()),
    }


def _trades(trades: TradeResults) -> Metrics:
    n = len(trades.net_pnl)
    if not n:
        names = ("win_rate", "profit_factor", "expectancy", "avg_trade_return")
        return {"num_trades": 0, **dict.fromkeys(names)}
    pnl = trades.net_pnl
    lost = -float(pnl[pnl < 0].sum())
    return {
        "num_trades": n,
        "win_rate": float((pnl > 0).mean()),
        "profit_factor": float(pnl[pnl > 0].sum()) / lost if lost > 0.0 else None,
        "expectancy": float(pnl.mean()),
        "avg_trade_return": float(trades.returns.mean()),
    }


def session_sharpe(returns: FloatArray) -> float | None:
    """Sharpe ratio per session, not annualised."""
    return sharpe_ratio(returns, annual=1)


def luck(returns: FloatArray, trial_sharpes: Sequence[float] | FloatArray = (), *, rf: float = 0.0) -> Metrics:
    """psr, deflated_sharpe, sr_benchmark, trial_sharpe_variance and min_track_record of `returns`, where
    `trial_sharpes` (per session) are those of every alternative that was tried. The two probabilities need 20 returns."""
    k = len(trial_sharpes)
    variance = float(np.var(np.asarray(trial_sharpes), ddof=1)) if k > 1 else 0.0
    bar = overfitting.sharpe_benchmark(variance, k)
    out: Metrics = {
        "psr": None, "deflated_sharpe": None, "sr_benchmark": bar, "trial_sharpe_variance": variance,
        "min_track_record": None,
    }  # fmt: skip
    sharpe, (skewness, kurtosis) = session_sharpe(returns - rf / SESSIONS_PER_YEAR), moments(returns)
    if sharpe is None or skewness is None or kurtosis is None:
        return out
    if len(returns) >= N_MIN:
        out["psr"] = overfitting.psr(sharpe, len(returns), skewness, kurtosis)
        out["deflated_sharpe"] = overfitting.psr(sharpe, len(returns), skewness, kurtosis, bar)
    out["min_track_record"] = overfitting.min_track_record(sharpe, skewness, kurtosis)
    return out


def compute(
    *,
    equity: FloatArray,
    last_bar: IntArray,
    start_equity: float,
    trades: TradeResults,
    exposure: float = 0.0,
    notional: float = 0.0,
    benchmark: FloatArray | None = None,
    rf: float = 0.0,
    annual: int = SESSIONS_PER_YEAR,
) -> Metrics:
    """Every measure of one backtest.

    `equity` per bar in dollars (net of costs), `last_bar` indices of the sessions' last bars, `exposure` the mean
    share of equity invested, `notional` the sum of absolute fill notionals, `benchmark` one return per session.
    """
    returns = session_returns(equity, last_bar, start_equity)
    n = len(returns)
    total = float(equity[-1]) / start_equity - 1.0 if len(equity) else 0.0
    growth = cagr(total, n, annual=annual)
    deepest, longest = drawdown(equity, start_equity)
    skewness, kurtosis = moments(returns)
    alpha, beta = alpha_beta(returns, benchmark, rf=rf, annual=annual) if benchmark is not None else (None, None)
    mean_equity = float(equity.mean()) if n else 0.0
    return {
        "total_return": total,
        "mean_return": float(returns.mean()) if n > 1 else None,
        "cagr": growth,
        "volatility": float(returns.std(ddof=1)) * math.sqrt(annual) if n > 1 else None,
        "sharpe_ratio": sharpe_ratio(returns, rf=rf, annual=annual),
        "sortino_ratio": sortino_ratio(returns, rf=rf, annual=annual),
        "calmar_ratio": calmar_ratio(growth, deepest),
        "max_drawdown": deepest,
        "max_drawdown_duration": longest,
        **_trades(trades),
        "exposure": exposure,
        "turnover": 0.5 * notional / mean_equity * annual / n if n and mean_equity > 0.0 else 0.0,
        **_tails(returns),
        "alpha": alpha,
        "beta": beta,
        "skewness": skewness,
        "kurtosis": kurtosis,
        "n_sessions": n,
    }


def stitch(parts: Sequence[FloatArray], start_equity: float) -> tuple[FloatArray, FloatArray]:
    """Session returns of consecutive test windows in time order, and the equity they compound to."""
    returns = np.concatenate(parts) if parts else np.empty(0)
    equity = np.asarray(start_equity * np.cumprod(1.0 + returns), np.float64)
    return returns, equity


def summarise(rows: Sequence[Mapping[str, float | int | None]]) -> dict[str, dict[str, float | int | None]]:
    """Mean, std (ddof 0), min and max of each measure over windows; a window without the value is skipped."""
    out: dict[str, dict[str, float | int | None]] = {}
    for name in sorted({key for row in rows for key in row}):
        values = [v for row in rows if (v := row.get(name)) is not None]
        if not values:
            out[name] = {"mean": None, "std": None, "min": None, "max": None}
            continue
        array = np.asarray(values, np.float64)
        out[name] = {"mean": float(array.mean()), "std": float(array.std()), "min": min(values), "max": max(values)}
    return out
