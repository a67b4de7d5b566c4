"""The market that the twin replays: daily bars by session, what was known when, and corporate actions.

Immutable once built, so that any number of exchanges may share one replay.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Protocol

import msgspec
import numpy as np

from algo_royale.costs import usd
from algo_royale.errors import BadMarketData, InsufficientHistory
from algo_royale.exchange.wire import Wire, rfc3339
from algo_royale.market import Bars, CorporateAction, FloatArray, IntArray, Timeframe
from algo_royale.sessions import Calendar, Session, new_york_date, new_york_ns

OPEN, CLOSE = "open", "close"
DAILY = frozenset({"1Day", "1D"})
ADJUSTMENTS = frozenset({"raw", "split", "dividend", "all"})


class Source(Protocol):
    """The part of a bar catalogue that a replay reads."""

    def symbols(self) -> Sequence[str]: ...

    def bars(self, symbol: str, timeframe: Timeframe) -> Bars: ...

    def actions(self, symbol: str) -> tuple[CorporateAction, ...]: ...


@dataclass(frozen=True, slots=True)
class Event:
    """A session opens or closes."""

    at_ns: int
    kind: str
    session: int


@dataclass(frozen=True, slots=True)
class DayBar:
    """One symbol's session in US dollars; `frame` is its daily-bar message as JSON text."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    frame: str


class MarketReplay:
    """Sessions, bars and corporate actions of some symbols.

    `sessions` runs from the first to the last bar of any symbol; `events` are their opens and closes in order.
    Raises BadMarketData for a bar that belongs to no session of the calendar.
    """

    def __init__(
        self,
        bars: Mapping[str, Bars],
        calendar: Calendar,
        actions: Mapping[str, Sequence[CorporateAction]] | None = None,
    ) -> None:
        self.symbols = tuple(sorted(bars))
        self.calendar = calendar
        self.actions = {s: tuple(sorted((actions or {}).get(s, ()), key=lambda a: a.ex_date)) for s in self.symbols}
        self._bars = {symbol: bars[symbol] for symbol in self.symbols}
        filled = [b for b in self._bars.values() if len(b)]
        if not filled:
            raise InsufficientHistory("there are no bars to replay")
        first, last = min(int(b.start_ns[0]) for b in filled), max(int(b.start_ns[-1]) for b in filled)
        self.sessions: tuple[Session, ...] = tuple(calendar.sessions(new_york_date(first), new_york_date(last)))
        self._starts = np.array([s.label_ns for s in self.sessions], np.int64)
        self._rows = {symbol: self._row_of_session(series) for symbol, series in self._bars.items()}
        self.events = tuple(
            event
            for i, s in enumerate(self.sessions)
            for event in (Event(s.open_ns, OPEN, i), Event(s.close_ns, CLOSE, i))
        )
        self._event_times = [event.at_ns for event in self.events]
        self._days: dict[int, dict[str, DayBar]] = {}
        self._splits: dict[date, dict[str, Decimal]] = {}
        for symbol, action in ((s, a) for s in self.symbols for a in self.actions[s] if a.ratio != 1.0):
            self._splits.setdefault(action.ex_date, {})[symbol] = usd(action.ratio)

    @classmethod
    def of(cls, source: Source, calendar: Calendar, symbols: Sequence[str] | None = None) -> "MarketReplay":
        """Everything that `source` has of the symbols (default: all of its symbols)."""
        chosen = tuple(source.symbols() if symbols is None else symbols)
        return cls(
            {s: source.bars(s, Timeframe.DAY_1) for s in chosen}, calendar, {s: source.actions(s) for s in chosen}
        )

    def _row_of_session(self, series: Bars) -> IntArray:
        """Row of the bar of each session, -1 where there is none."""
        rows = np.full(len(self._starts), -1, np.int64)
        at = np.searchsorted(self._starts, series.start_ns)
        fits = (at < len(self._starts)) & (self._starts[np.minimum(at, len(self._starts) - 1)] == series.start_ns)
        if not fits.all():
            stray = rfc3339(int(series.start_ns[int(np.argmin(fits))]))
            raise BadMarketData(f"{series.symbol}: the bar of {stray} starts no session of the calendar")
        rows[at] = np.arange(len(series))
        return rows

    def events_after(self, ns: int) -> int:
        """Index of the first event later than `ns`."""
        return bisect_right(self._event_times, ns)

    def day(self, session: int) -> dict[str, DayBar]:
        """The bars of a session, in symbol order, of the symbols that traded in it."""
        found = self._days.get(session)
        if found is None:
            rows = ((s, int(self._rows[s][session])) for s in self.symbols)
            found = self._days[session] = {s: self._day_bar(s, row) for s, row in rows if row >= 0}
        return found

    def _day_bar(self, symbol: str, row: int) -> DayBar:
        b = self._bars[symbol]
        frame = msgspec.json.encode({"T": "d", "S": symbol} | self._bar_json(symbol, row)).decode()
        return DayBar(usd(b.open[row]), usd(b.high[row]), usd(b.low[row]), usd(b.close[row]), frame)

    def _bar_json(self, symbol: str, row: int, price_factor: float = 1.0, volume_factor: float = 1.0) -> Wire:
        """A bar as Alpaca spells it. Unknown trade count and volume-weighted price are 0, as for a bar without trades."""
        b = self._bars[symbol]
        count, vwap, volume = int(b.trade_count[row]), float(b.vwap[row]), float(b.volume[row]) * volume_factor
        return {
            "o": float(b.open[row]) * price_factor,
            "h": float(b.high[row]) * price_factor,
            "l": float(b.low[row]) * price_factor,
            "c": float(b.close[row]) * price_factor,
            "v": round(volume),
            "n": max(count, 0),
            "vw": 0 if math.isnan(vwap) else vwap * price_factor,
            "t": rfc3339(int(b.start_ns[row])),
        }

    def last_close(self, symbol: str, now_ns: int) -> Decimal | None:
        """Close of the last bar that has ended at `now_ns`."""
        row = self._closed(symbol, now_ns) - 1
        return usd(self._bars[symbol].close[row]) if row >= 0 else None

    def _closed(self, symbol: str, now_ns: int) -> int:
        """How many bars have ended at `now_ns`."""
        return int(np.searchsorted(self._bars[symbol].end_ns, now_ns, side="right"))

    def splits(self, day: date) -> Mapping[str, Decimal]:
        """New shares per old one of the symbols whose split has its ex-date on `day`."""
        return self._splits.get(day, {})

    # --- history

    def rows(self, symbol: str, start_ns: int, end_ns: int, now_ns: int) -> range:
        """Rows of the bars that start in [start_ns, end_ns] and have ended at `now_ns`."""
        if symbol not in self._bars:
            return range(0)
        starts = self._bars[symbol].start_ns
        low, high = np.searchsorted(starts, start_ns), np.searchsorted(starts, end_ns, side="right")
        return range(int(low), max(int(low), min(int(high), self._closed(symbol, now_ns))))

    def bars_json(self, symbol: str, rows: Sequence[int], adjustment: str, now_ns: int) -> list[Wire]:
        """Bars of those rows, adjusted back from today by the actions whose ex-date has come.

        `adjustment`: raw | split | dividend | all. Splits divide prices and multiply volumes by the ratio; a dividend
        multiplies prices by 1 - cash / raw close of the session before (CRSP's factors).
        """
        if adjustment == "raw":
            return [self._bar_json(symbol, row) for row in rows]
        price, volume = self._factors(symbol, adjustment, new_york_date(now_ns))
        return [self._bar_json(symbol, row, float(price[row]), float(volume[row])) for row in rows]

    def _factors(self, symbol: str, adjustment: str, today: date) -> tuple[FloatArray, FloatArray]:
        b = self._bars[symbol]
        price, volume = np.ones(len(b)), np.ones(len(b))
        for action in self.actions[symbol]:
            before = int(np.searchsorted(b.start_ns, new_york_ns(action.ex_date)))
            if action.ex_date > today or before == 0:
                continue
            if adjustment in ("split", "all"):
                price[:before] /= action.ratio
                volume[:before] *= action.ratio
            if adjustment in ("dividend", "all"):
                price[:before] *= 1.0 - action.cash_usd / float(b.close[before - 1])
        return price, volume
