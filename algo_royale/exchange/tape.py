"""What happens within a session: trades and quotes, recorded ones or a path drawn from a seed through the bars that are known.

A drawn path meets each bar's open, high, low, close and volume exactly, and within the day its volume-weighted price, so that bars
made of its trades are the bars it was made of. The same seed gives the same path, whatever was asked for before.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from algo_royale.errors import BadMarketData
from algo_royale.market import Bars, BoolArray, FloatArray, IntArray, Timeframe
from algo_royale.sessions import Session

MINUTE_NS = 60_000_000_000
PRE_MARKET_NS, POST_MARKET_NS = 330 * MINUTE_NS, 240 * MINUTE_NS  # from 04:00, and to four hours after the close
UNCOUNTED = (
    0x200 | 0x100000 | 0x2000000
)  # condition flags of trades that move no high, low or last: derived and averaged prices
CENT = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """Trades in order of time: UTC nanoseconds, US dollars, shares; `counts`: moves open, high, low and close."""

    at_ns: IntArray
    price: FloatArray
    size: FloatArray
    counts: BoolArray

    def __len__(self) -> int:
        return len(self.at_ns)


@dataclass(frozen=True, slots=True, eq=False)
class Quotes:
    """Best bid and offer from each instant on, in order of time; sizes in shares."""

    at_ns: IntArray
    bid: FloatArray
    bid_size: FloatArray
    ask: FloatArray
    ask_size: FloatArray

    def __len__(self) -> int:
        return len(self.at_ns)


class Day(NamedTuple):
    """One symbol's session."""

    trades: Trades
    quotes: Quotes


class Tape(Protocol):
    """Where a session's trades and quotes come from. `has_quotes`: what is bid and offered stands until the next quote; else the
    quotes are but the trades again, and nobody knows a price in a minute without one."""

    has_quotes: bool

    def day(self, symbol: str, session: Session) -> Day:
        """What happened in the session; nothing where there is nothing known."""

    def told(self, symbol: str, bars: Bars) -> Bars:
        """Minute `bars` made of the symbol's trades, as they are told."""


NOTHING = Day(
    Trades(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, np.bool_)),
    Quotes(np.empty(0, np.int64), *(np.empty(0) for _ in range(4))),
)


class PathTape:
    """A path through each bar of `bars` (daily or shorter ones), `trades` trades a session, a cent or more between bid and ask.

    With a spread of 0 both are the last price.
    """

    def __init__(self, bars: Mapping[str, Bars], *, seed: int = 0, trades: int = 780, spread_bps: float = 2.0) -> None:
        self._bars, self._seed, self._trades, self._spread = dict(bars), seed, trades, spread_bps / 1e4
        self.has_quotes = spread_bps > 0

    def day(self, symbol: str, session: Session) -> Day:
        series = self._bars.get(symbol)
        if series is None:
            return NOTHING
        daily = series.timeframe is Timeframe.DAY_1
        first_ns = session.label_ns if daily else session.open_ns - PRE_MARKET_NS
        low, high = np.searchsorted(series.start_ns, [first_ns, session.close_ns + POST_MARKET_NS])
        if high == low:
            return NOTHING
        text = f"{self._seed}|{symbol}|{session.date}"
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
        each = max(4, self._trades * series.timeframe.minutes // 390)
        parts = []
        for row in range(int(low), int(high)):
            start = session.open_ns if daily else max(int(series.start_ns[row]), session.open_ns - PRE_MARKET_NS)
            if start < session.open_ns < int(series.end_ns[row]):  # the hour of the open holds half of one
                start = session.open_ns
            end = session.close_ns if daily else int(series.end_ns[row])
            prices = tuple(float(getattr(series, name)[row]) for name in ("open", "high", "low", "close"))
            volume, vwap = float(series.volume[row]), float("nan" if daily else series.vwap[row])
            averaged = np.isfinite(vwap) and volume > 0
            drawn = path(rng, start, end, prices, volume // 2 if averaged else volume, each)
            counted = np.ones(each, np.bool_)
            parts.append(_averaged(*drawn, counted, volume, vwap) if averaged else (*drawn, counted))
        at, price, size, counts = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        half = np.maximum(np.round(price * self._spread / 2, 2), CENT if self._spread else 0.0)
        depth = np.floor(rng.exponential(4.0, (2, len(at))) + 1) * 100
        quotes = Quotes(
            at, np.maximum(np.round(price - half, 4), CENT / 100), depth[0], np.round(price + half, 4), depth[1]
        )
        return Day(Trades(at, price, size, counts), quotes)

    def told(self, symbol: str, bars: Bars) -> Bars:
        """With the recorded volume-weighted price to the last bit, where sums of floats have lost one, and none where none is known."""
        series = self._bars[symbol]
        if series.timeframe is Timeframe.DAY_1 or not len(bars):
            return bars
        row = np.searchsorted(series.start_ns, bars.start_ns, side="right") - 1
        recorded = series.vwap[row]
        same = (series.end_ns[row] == bars.end_ns) & ((bars.volume == 0) | np.isclose(bars.vwap, recorded, rtol=1e-9))
        return replace(bars, vwap=np.where(np.isnan(recorded) | same, recorded, bars.vwap))


def _averaged(
    at: IntArray, price: FloatArray, size: FloatArray, counts: BoolArray, volume: float, vwap: float
) -> tuple[IntArray, FloatArray, FloatArray, BoolArray]:
    """The path with the rest of `volume` in one trade more, an average-price trade as there are in every market: it moves no open,
    high, low or close, and its price is what makes the mean `vwap`."""
    rest = volume - size.sum()
    paid = (volume * vwap - (size * price).sum()) / rest
    if paid <= 0:
        size, rest, paid = np.zeros(len(size)), volume, vwap
    before = len(at) - 1
    return (
        np.insert(at, before, at[-1]),
        np.insert(price, before, paid),
        np.insert(size, before, rest),
        np.insert(counts, before, False),
    )


def path(
    rng: np.random.Generator, start_ns: int, end_ns: int, prices: tuple[float, ...], volume: float, n: int
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Times in [start, end), prices and sizes of `n` (4 or more) trades that make a bar of `prices` (open, high, low, close).

    A bridge of random steps runs from the open over the high and the low, in either order, to the close, and is reflected
    into the range; sizes are whole shares that sum to `volume` (what is not whole trades last).
    """
    opened, high, low, close = prices
    inner = np.sort(rng.choice(n - 2, 2, replace=False)) + 1
    extremes = (high, low) if rng.random() < 0.5 else (low, high)
    marks, levels = [0, int(inner[0]), int(inner[1]), n - 1], [opened, *extremes, close]
    price = np.interp(np.arange(n), marks, levels)
    noise = np.cumsum(rng.standard_normal(n))
    noise -= np.interp(np.arange(n), marks, noise[marks])
    price = np.clip(np.round(price + noise * (high - low) / (4 * np.sqrt(n)), 2), low, high)
    price[marks] = levels
    slot = (end_ns - start_ns) // 1_000_000 // n  # whole milliseconds; one trade in each slot
    at = start_ns + (np.arange(n) * slot + rng.integers(0, slot, n)) * 1_000_000
    at[0] = start_ns
    shares = np.floor(rng.dirichlet(np.full(n, 2.0)) * np.floor(volume))
    shares[0] += np.floor(volume) - shares.sum()
    shares[-1] += volume - np.floor(volume)
    return at.astype(np.int64), price, shares


class TickTape:
    """Recorded trades and quotes of single days, one folder each: `trades_<SYMBOL>.parquet`, `quotes_<SYMBOL>[_1s].parquet`.

    Trades need `timestamp, price, size` and may have `cond_flags` and `suspicious`; quotes need `timestamp, bid_price, bid_size,
    ask_price, ask_size`. Rows outside 04:00 to 20:00 New York, crossed quotes and prices that are not positive are left out.
    """

    has_quotes = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise BadMarketData(f"there is no folder of ticks at {folder}")
        self._days: dict[tuple[str, str], Day] = {}

    def told(self, symbol: str, bars: Bars) -> Bars:
        return bars

    def symbols(self) -> tuple[str, ...]:
        """Symbols that have trades on any day."""
        files = self.folder.glob("*/trades_*.parquet")
        return tuple(sorted({path.stem.removeprefix("trades_") for path in files}))

    def dates(self) -> tuple[str, ...]:
        """Days that there are ticks of, as ISO dates."""
        return tuple(sorted({path.parent.name for path in self.folder.glob("*/trades_*.parquet")}))

    def day(self, symbol: str, session: Session) -> Day:
        key = (symbol, session.date.isoformat())
        if key not in self._days:
            self._days[key] = self._read(*key, session)
        return self._days[key]

    def _read(self, symbol: str, day: str, session: Session) -> Day:
        trades, quotes = (self._columns(day, kind, symbol) for kind in ("trades", "quotes"))
        if trades is None:
            return NOTHING
        size = trades["size"].astype(np.float64)
        flags = trades.get("cond_flags", np.zeros(len(size), np.int64))
        keep = _within(trades["timestamp"], session) & (trades["price"] > 0) & (size > 0)
        counted = ((flags.astype(np.int64) & UNCOUNTED) == 0) & ~trades.get("suspicious", np.zeros(len(size), np.bool_))
        done = Trades(trades["timestamp"][keep], trades["price"][keep], size[keep], counted[keep])
        if quotes is None:
            return Day(done, NOTHING.quotes)
        bid, ask = quotes["bid_price"], quotes["ask_price"]
        keep = _within(quotes["timestamp"], session) & (bid > 0) & (ask >= bid)
        sizes = (quotes[name][keep].astype(np.float64) for name in ("bid_size", "ask_size"))
        bid_size, ask_size = sizes
        return Day(done, Quotes(quotes["timestamp"][keep], bid[keep], bid_size, ask[keep], ask_size))

    def _columns(self, day: str, kind: str, symbol: str) -> dict[str, Any] | None:
        import pyarrow.parquet as pq

        for name in (f"{kind}_{symbol}.parquet", f"{kind}_{symbol}_1s.parquet"):
            if (path := self.folder / day / name).is_file():
                table = pq.read_table(path)
                columns = {n: table[n].to_numpy() for n in table.column_names}
                columns["timestamp"] = columns["timestamp"].astype("datetime64[ns]").astype(np.int64)
                return columns
        return None


def _within(at_ns: IntArray, session: Session) -> BoolArray:
    found: BoolArray = (at_ns >= session.open_ns - PRE_MARKET_NS) & (at_ns < session.close_ns + POST_MARKET_NS)
    return found


def minute_bars(symbol: str, trades: Trades, session: Session) -> Bars:
    """Minute bars of the regular session: prices of the trades that count, volume and average price of all.

    A minute without a trade that counts has no bar.
    """
    inside = (trades.at_ns >= session.open_ns) & (trades.at_ns < session.close_ns)
    at, price, size, counts = (getattr(trades, n)[inside] for n in ("at_ns", "price", "size", "counts"))
    minute = (at - session.open_ns) // MINUTE_NS
    known, where = np.unique(minute[counts], return_inverse=True)
    n = len(known)
    opened, close = np.empty(n), np.empty(n)
    high, low = np.full(n, -np.inf), np.full(n, np.inf)
    kept = price[counts]
    opened[where[::-1]] = kept[::-1]
    close[where] = kept
    np.maximum.at(high, where, kept)
    np.minimum.at(low, where, kept)
    row = np.clip(np.searchsorted(known, minute, side="right") - 1, 0, max(n - 1, 0))
    shares, money, count = np.zeros(n), np.zeros(n), np.zeros(n, np.int64)
    if n:
        np.add.at(shares, row, size)
        np.add.at(money, row, size * price)
        np.add.at(count, row, 1)
    start = session.open_ns + known * MINUTE_NS
    with np.errstate(invalid="ignore", divide="ignore"):
        average = np.where(shares > 0, money / shares, np.nan)
    return Bars(
        symbol=symbol, timeframe=Timeframe.MIN_1, start_ns=start, end_ns=np.minimum(start + MINUTE_NS, session.close_ns),
        open=opened, high=high, low=low, close=close, volume=shares, vwap=average, trade_count=count,
    )  # fmt: skip
