"""Small markets made of plain numbers, for tests of sizing, engine and simulation."""

from collections.abc import Sequence

import numpy as np

from algo_royale.market import Bars, FloatArray, Timeframe
from algo_royale.research.simulate import SymbolInput

DAY_NS = 86_400_000_000_000
MIDNIGHT_NS = 14_610 * DAY_NS + 5 * 3_600_000_000_000  # 2010-01-01 00:00 in New York


def day_ns(day: int) -> int:
    """Label of the day-th daily bar: consecutive days, midnight in New York."""
    return MIDNIGHT_NS + day * DAY_NS


def daily(symbol: str, days: Sequence[int], opens: Sequence[float], closes: Sequence[float]) -> Bars:
    """Daily bars on the given days; they end 16 hours after their label."""
    start = np.array([day_ns(d) for d in days], np.int64)
    o, c = np.array(opens, np.float64), np.array(closes, np.float64)
    n = len(start)
    return Bars(
        symbol=symbol, timeframe=Timeframe.DAY_1, start_ns=start, end_ns=start + 16 * 3_600_000_000_000, open=o,
        high=np.maximum(o, c), low=np.minimum(o, c), close=c, volume=np.ones(n), vwap=np.full(n, np.nan),
        trade_count=np.full(n, -1, np.int64),
    )  # fmt: skip


def traded(bars: Bars, state_in: Sequence[bool]) -> SymbolInput:
    """What simulate takes of a symbol, with its signal given."""
    inside = np.array(state_in, np.bool_)
    return SymbolInput(traded=bars, adjusted_close=bars.close, state_in=inside, score=inside.astype(np.float64))


def random_symbol(symbol: str, seed: int, days: int, *, gaps: float = 0.0, flips: float = 0.1) -> SymbolInput:
    """A random walk in cents with random holes, whose signal flips with probability `flips` a day."""
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero(rng.random(days) >= gaps)
    closes = np.round(50 * np.exp(np.cumsum(rng.normal(0, 0.02, days))) + 1, 2)
    opens = np.round(np.concatenate([[50.0], closes[:-1]]) * (1 + rng.normal(0, 0.01, days)), 2)
    inside = np.cumsum(rng.random(days) < flips) % 2 == 1
    return traded(daily(symbol, kept.tolist(), opens[kept].tolist(), closes[kept].tolist()), inside[kept].tolist())


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
