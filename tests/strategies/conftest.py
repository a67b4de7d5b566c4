"""Series that the tests of features and strategies share: the published series G, and random walks with rough edges."""

import math
from collections.abc import Callable
from datetime import date
from functools import lru_cache

import numpy as np
import pytest

from algo_royale.market import Bars, Timeframe
from algo_royale.sessions import calendar

_HOUR_NS, _DAY_NS = 3_600 * 10**9, 86_400 * 10**9
_FIRST = date(1998, 1, 2)


@lru_cache(maxsize=1)
def hours() -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of hourly bars of regular sessions: the first of a day, 09:00, holds from the open to 10:00."""
    grid = []
    for session in calendar().sessions(_FIRST, date(2003, 1, 1)):
        start = session.label_ns + 9 * _HOUR_NS
        while start < session.close_ns:
            grid.append((start, min(start + _HOUR_NS, session.close_ns)))
            start += _HOUR_NS
    starts, ends = np.array(grid, np.int64).T
    return starts, ends


def bars_of(open_, high, low, close, volume, vwap=None, timeframe=Timeframe.DAY_1) -> Bars:  # type: ignore[no-untyped-def]
    """Bars from columns, one a day or one an hour of trading, with an extra column that is true where the price rose."""
    n = len(close)
    if timeframe is Timeframe.DAY_1:
        start = np.arange(n, dtype=np.int64) * _DAY_NS + 883_717_200 * 10**9
        end = start + _DAY_NS // 2
    else:
        start, end = (times[:n].copy() for times in hours())
    columns = {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
    return Bars(
        symbol="G",
        timeframe=timeframe,
        start_ns=start,
        end_ns=end,
        extra={"entry_signal": np.array(close) > np.array(open_)},
        vwap=np.full(n, np.nan) if vwap is None else vwap,
        trade_count=np.full(n, -1, np.int64),
        **{name: np.array(values, np.float64) for name, values in columns.items()},
    ).check()


def published_series(n: int, timeframe: Timeframe = Timeframe.DAY_1) -> Bars:
    """Series G: a linear congruential generator, so that anyone can make the same bars in any language."""

    def cents(z: float) -> float:
        return math.floor(100 * z + 0.5) / 100

    x, before, rows = 42, 100.0, []
    for _ in range(n):
        u = []
        for _ in range(5):
            x = (1103515245 * x + 12345) % 2**31
            u.append(x / 2**31)
        open_, close = cents(before * (1 + 0.006 * (u[1] - 0.5))), cents(before * (1 + 0.04 * (u[0] - 0.5)))
        high = cents(max(open_, close) * (1 + 0.01 * u[2]))
        low = cents(min(open_, close) * (1 - 0.01 * u[3]))
        rows.append((open_, high, low, close, math.floor(1e6 * (0.2 + 3 * u[4] ** 4))))
        before = close
    return bars_of(*zip(*rows, strict=True), timeframe=timeframe)


def random_bars(seed: int, n: int, timeframe: Timeframe = Timeframe.DAY_1) -> Bars:
    """A walk with what markets do to code: unchanged bars, jumps, no volume, vwap known only now and then."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(0.0, 0.02, n) * rng.choice([0.0, 0.5, 1.0, 4.0], n, p=[0.1, 0.4, 0.45, 0.05])
    close = np.round(np.maximum(50.0 * np.exp(np.cumsum(moves + rng.normal(0, 0.001))), 0.5), 2)
    open_ = np.where(rng.random(n) < 0.2, close, np.round(close * (1 + rng.normal(0, 0.005, n)), 2))
    spread = rng.random((2, n)) * 0.01 * (rng.random(n) < 0.9)
    high, low = np.maximum(open_, close) * (1 + spread[0]), np.minimum(open_, close) * (1 - spread[1])
    volume = np.where(rng.random(n) < 0.05, 0.0, np.floor(1e6 * rng.random(n) ** 3))
    vwap = np.where(rng.random(n) < 0.5, np.nan, (high + low) / 2)
    return bars_of(open_, high, low, close, volume, vwap, timeframe)


@pytest.fixture(scope="session")
def g() -> Bars:
    """The first 2000 bars of series G."""
    return published_series(2000)


@pytest.fixture(scope="session")
def g_of() -> Callable[[Timeframe], Bars]:
    """The same prices as daily or as hourly bars."""
    return lru_cache(lambda timeframe: published_series(2000, timeframe))


@pytest.fixture(scope="session")
def long_g() -> Bars:
    """Enough of series G to forget where it began."""
    return published_series(5000)


@pytest.fixture(scope="session")
def walk() -> Callable[..., Bars]:
    """random_bars(seed, n, timeframe)."""
    return random_bars


@pytest.fixture(scope="session")
def make_bars() -> Callable[..., Bars]:
    """bars_of(open, high, low, close, volume, vwap=None, timeframe=daily)."""
    return bars_of
