"""Small markets made of plain numbers, for tests of sizing, engine and simulation."""

from collections.abc import Sequence

import numpy as np

from algo_royale.market import Bars, FloatArray, Timeframe
from algo_royale.research.simulate import SymbolInput
from algo_royale.sessions import Session

DAY_NS, MINUTE_NS = 86_400_000_000_000, 60_000_000_000
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


def minutes(symbol: str, seed: int, sessions: Sequence[Session], *, gaps: float = 0.0, whole: bool = True) -> Bars:
    """Minute bars of a random walk in cents over these sessions; `gaps` of the minutes have none. Volumes are whole, or not."""
    rng = np.random.default_rng(seed)
    start = np.concatenate([np.arange(s.open_ns, s.close_ns, MINUTE_NS) for s in sessions])
    kept = rng.random(len(start)) >= gaps
    n = len(start)
    close = np.round(50 * np.exp(np.cumsum(rng.normal(0, 0.001, n))), 2)
    open_ = np.round(np.append(50.0, close[:-1]) * (1 + rng.normal(0, 0.0005, n)), 2)
    high = np.maximum(open_, close) + rng.integers(0, 5, n) / 100
    low = np.minimum(open_, close) - rng.integers(0, 5, n) / 100
    volume = rng.integers(0, 1000, n).astype(np.float64) if whole else rng.random(n) * 1000
    return Bars(
        symbol=symbol, timeframe=Timeframe.MIN_1, start_ns=start[kept], end_ns=start[kept] + MINUTE_NS, open=open_[kept],
        high=high[kept], low=low[kept], close=close[kept], volume=volume[kept], vwap=((high + low) / 2)[kept],
        trade_count=rng.integers(1, 50, n)[kept],
    )  # fmt: skip
