"""Prices of companies that do not exist: random walks, and walks with an edge whose size is known."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from algo_royale.market import FloatArray, Timeframe
from algo_royale.research.windows import bar_starts
from algo_royale.sessions import calendar

FIRST, LAST = date(2000, 3, 1), date(2013, 3, 1)  # as the bundled prices: nine yearly test windows


def noise(seed: int, n: int, volatility: float = 0.015) -> FloatArray:
    """Log prices without drift or memory: nothing to find."""
    return np.cumsum(np.random.default_rng(seed).normal(0.0, volatility, n))


def reverting(seed: int, n: int, half_life: float = 3.0, deviation: float = 0.04) -> FloatArray:
    """A walk (0.8 % a session) plus a part that is drawn back to it: half of a deviation is gone after `half_life` sessions.

    Traded after costs by the catalogue's reversal strategies it is worth a yearly Sharpe ratio of about 1.7.
    """
    rng = np.random.default_rng(seed)
    kept = 0.5 ** (1.0 / half_life)
    shocks, part = rng.normal(0.0, deviation * np.sqrt(1.0 - kept * kept), n), np.zeros(n)
    for t in range(1, n):
        part[t] = kept * part[t - 1] + shocks[t]
    return np.cumsum(rng.normal(0.0, 0.008, n)) + part


def trending(seed: int, n: int, drift: float = 0.0035) -> FloatArray:
    """A walk (1 % a session) whose drift of 0.35 % changes sign every 40 to 80 sessions; worth about 2.

    The lengths are bounded so that the edge has a size: with lengths of pure chance some symbols have next to none of it.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(40, 81, n // 40 + 1)
    sign = np.repeat(np.where(np.arange(len(lengths)) % 2 == seed % 2, 1.0, -1.0), lengths)[:n]
    return np.cumsum(sign * drift + rng.normal(0.0, 0.01, n))


def labels(timeframe: Timeframe, first: date = FIRST, last: date = LAST) -> list[int]:
    """Starts of the exchange's bars of that length, UTC ns."""
    return [start for session in calendar().sessions(first, last) for start in bar_starts(session, timeframe)]


def write(folder: Path, symbol: str, starts: Sequence[int], log_price: FloatArray, seed: int) -> None:
    """Bars around these closes as `folder/symbol.parquet`: opens near the close before, wicks and volume of chance."""
    rng, n = np.random.default_rng((seed, 1)), len(log_price)
    close = 50.0 * np.exp(log_price - log_price[0])
    open_ = np.concatenate(([50.0], close[:-1])) * np.exp(rng.normal(0.0, 0.003, n))
    high = np.maximum(open_, close) * np.exp(np.abs(rng.normal(0.0, 0.005, n)))
    low = np.minimum(open_, close) * np.exp(-np.abs(rng.normal(0.0, 0.005, n)))
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "timestamp": pyarrow.array(list(starts), pyarrow.timestamp("ns", tz="UTC")), "open": open_, "high": high, "low": low,
        "close": close, "volume": np.round(np.exp(rng.normal(13.0, 0.5, n))),
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{symbol}.parquet")
