"""The market that the twin replays: bars by session, trades and quotes within one, what was known when, corporate actions.

Without a tape only a session's open, and at its close its range, are known. What is computed on demand never changes, so that
any number of exchanges may share one replay.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Any, Protocol, overload

import msgspec
import numpy as np

from algo_royale.costs import usd
from algo_royale.data.resample import resample
from algo_royale.errors import BadMarketData, InsufficientHistory
from algo_royale.exchange.tape import (
    MINUTE_NS,
    Day,
    PathTape,
    Quotes,
    Tape,
    TickTape,
    Trades,
    minute_bars,
)
from algo_royale.exchange.wire import Wire, rfc3339
from algo_royale.market import Bars, BoolArray, CorporateAction, FloatArray, IntArray, Timeframe
from algo_royale.sessions import Calendar, Session, new_york_date, new_york_ns

OPEN, MINUTE, CLOSE = "open", "minute", "close"
MINUTES_KEPT = 4096  # sessions of one symbol, at 30 KB each
ADJUSTMENTS = frozenset({"raw", "split", "dividend", "all"})


class Source(Protocol):
    """The part of a bar catalogue that a replay reads."""

    def symbols(self) -> Sequence[str]: ...

    def bars(self, symbol: str, timeframe: Timeframe, start: date | None = None, end: date | None = None) -> Bars: ...

    def actions(self, symbol: str) -> tuple[CorporateAction, ...]: ...


@dataclass(frozen=True, slots=True)
class Event:
    """A session opens or closes, or, where there is a tape, a minute of it ends."""

    at_ns: int
    kind: str
    session: int


class Events(Sequence[Event]):
    """The events of all sessions in order of time; made one by one when asked for, since there may be a million of them."""

    def __init__(self, sessions: Sequence[Session], *, by_minute: bool) -> None:
        step = MINUTE_NS if by_minute else 2**62
        times = [np.append(np.arange(s.open_ns, s.close_ns, step), s.close_ns) for s in sessions]
        self.at_ns: IntArray = np.concatenate(times)
        self._last = np.cumsum([len(each) for each in times]) - 1

    def __len__(self) -> int:
        return len(self.at_ns)

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        session = int(np.searchsorted(self._last, index))
        first = int(self._last[session - 1]) + 1 if session else 0
        kind = CLOSE if index == self._last[session] else OPEN if index == first else MINUTE
        return Event(int(self.at_ns[index]), kind, session)


@dataclass(frozen=True, slots=True)
class DayBar:
    """One symbol's session in US dollars; `frame` is its daily-bar message as JSON text."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    frame: str


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """All trades and quotes of a session in order of time; at one instant by symbol, quotes before trades.

    `symbol` and `row` say whose and which one it is; `is_trade` which kind. `places` has the places of each symbol's quotes and trades.
    """

    at_ns: IntArray
    symbol: IntArray
    is_trade: BoolArray
    row: IntArray
    days: Mapping[str, Day]
    places: Sequence[tuple[IntArray, IntArray]]


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
        tape: Tape | None = None,
    ) -> None:
        self.tape = tape
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
        self.events = Events(self.sessions, by_minute=tape is not None)
        self.has_quotes = tape is None or tape.has_quotes  # without a tape a session's open stands for them
        self._days: dict[int, dict[str, DayBar]] = {}
        self._minutes: dict[tuple[str, int], Bars] = {}
        self._splits: dict[date, dict[str, Decimal]] = {}
        for symbol, action in ((s, a) for s in self.symbols for a in self.actions[s] if a.ratio != 1.0):
            self._splits.setdefault(action.ex_date, {})[symbol] = usd(action.ratio)

    @classmethod
    def of(
        cls, source: Source, calendar: Calendar, symbols: Sequence[str] | None = None, *,
        timeframe: Timeframe = Timeframe.DAY_1, seed: int | None = None, spread_bps: float = 2.0,
        start: date | None = None, end: date | None = None,
    ) -> "MarketReplay":  # fmt: skip
        """What `source` has of the symbols (default: all of its symbols) from the session `start` to the session `end`.

        With a `seed` a path is drawn through the bars of that timeframe; without one only daily bars are replayed.
        """
        chosen = tuple(source.symbols() if symbols is None else symbols)
        bars = {s: source.bars(s, timeframe, start, end) for s in chosen}
        tape = None if seed is None else PathTape(bars, seed=seed, spread_bps=spread_bps)
        daily = {s: b if timeframe is Timeframe.DAY_1 else resample(b, Timeframe.DAY_1) for s, b in bars.items()}
        return cls(daily, calendar, {s: source.actions(s) for s in chosen}, tape)

    @classmethod
    def of_ticks(cls, tape: TickTape, calendar: Calendar, symbols: Sequence[str] | None = None) -> "MarketReplay":
        """Recorded days; their daily bars are made of their trades."""
        daily: dict[str, Bars] = {}
        days = [date.fromisoformat(text) for text in tape.dates()]
        sessions = [session for day in days if (session := calendar.session_on(day)) is not None]
        for symbol in symbols or tape.symbols():
            parts = [minute_bars(symbol, tape.day(symbol, s).trades, s) for s in sessions]
            whole = [bar for part in parts if len(part) for bar in resample(part, Timeframe.DAY_1)]
            daily[symbol] = Bars.of(symbol, Timeframe.DAY_1, whole)
        return cls(daily, calendar, tape=tape)

    def ticks(self, session: int) -> Ticks:
        """What happens in a session, before and after it too; empty without a tape."""
        days = {} if self.tape is None else {s: self.tape.day(s, self.sessions[session]) for s in self.symbols}
        parts: list[tuple[int, int, Quotes | Trades]] = []
        for n, day in enumerate(days.values()):
            parts += [(n, 0, day.quotes), (n, 1, day.trades)]
        at = np.concatenate([np.empty(0, np.int64), *(part.at_ns for _, _, part in parts)])
        owner, is_trade, row = (
            np.concatenate([np.empty(0, np.int64), *columns])
            for columns in (
                [np.full(len(part), n) for n, _, part in parts],
                [np.full(len(part), kind) for _, kind, part in parts],
                [np.arange(len(part)) for _, _, part in parts],
            )
        )
        order = np.lexsort((is_trade, owner, at))
        back = np.argsort(order)  # parts were laid end to end, so a part's places are where its rows went
        ends = np.cumsum([0, *(len(part) for _, _, part in parts)])
        where = [np.sort(back[low:high]) for low, high in pairwise(ends)]
        places = list(zip(where[::2], where[1::2], strict=True))
        return Ticks(at[order], owner[order], is_trade[order].astype(np.bool_), row[order], days, places)

    def minutes(self, symbol: str, session: int) -> Bars:
        """Minute bars of a session, made of its trades."""
        found = self._minutes.get((symbol, session))
        if found is None:
            assert self.tape is not None
            at = self.sessions[session]
            if len(self._minutes) >= MINUTES_KEPT:
                del self._minutes[next(iter(self._minutes))]
            made = minute_bars(symbol, self.tape.day(symbol, at).trades, at)
            found = self._minutes[symbol, session] = self.tape.told(symbol, made)
        return found

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
        return int(np.searchsorted(self.events.at_ns, ns, side="right"))

    def day(self, session: int) -> dict[str, DayBar]:
        """The bars of a session, in symbol order, of the symbols that traded in it."""
        found = self._days.get(session)
        if found is None:
            rows = ((s, int(self._rows[s][session])) for s in self.symbols)
            found = self._days[session] = {s: day_bar(self._bars[s], row) for s, row in rows if row >= 0}
        return found

    def counts_trades(self, symbol: str, session: int) -> bool:
        """Whether the session's daily bar says how many trades it is made of."""
        return bool(self._bars[symbol].trade_count[self._rows[symbol][session]] >= 0)

    def sessions_within(self, start_ns: int, end_ns: int) -> range:
        """Sessions that may have ticks in [start_ns, end_ns]: those of the days that it touches."""
        first = max(0, int(np.searchsorted(self._starts, start_ns, side="right")) - 1)
        return range(first, int(np.searchsorted(self._starts, end_ns, side="right")))

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

    def dividends(self, day: date) -> Mapping[str, Decimal]:
        """US dollars per share of the symbols that go without their dividend from `day` on."""
        return {s: usd(a.cash_usd) for s in self.symbols for a in self.actions[s] if a.ex_date == day and a.cash_usd}

    # --- history

    def history(
        self, symbol: str, timeframe: Timeframe, start_ns: int, end_ns: int, now_ns: int,
        minutes: Callable[[str, int], Bars] | None = None,
    ) -> Bars:  # fmt: skip
        """Bars that start in [start_ns, end_ns] and have ended at `now_ns`; shorter than a day only where there is a tape.

        `minutes` gives the minute bars of a symbol's session where they are not those of the tape.
        """
        series = self._bars[symbol]
        if timeframe is not Timeframe.DAY_1:
            series = self._within_days(symbol, timeframe, start_ns, min(end_ns, now_ns), minutes or self.minutes)
        low, high = np.searchsorted(series.start_ns, start_ns), np.searchsorted(series.start_ns, end_ns, side="right")
        ended = np.searchsorted(series.end_ns, now_ns, side="right")
        return series.slice(int(low), max(int(low), min(int(high), int(ended))))

    def _within_days(
        self, symbol: str, timeframe: Timeframe, start_ns: int, end_ns: int, minutes: Callable[[str, int], Bars]
    ) -> Bars:
        """Bars of every session that the range touches."""
        rows = self._rows[symbol]
        parts = [minutes(symbol, i) for i in self.sessions_within(start_ns, end_ns) if rows[i] >= 0]
        parts = [part if timeframe is Timeframe.MIN_1 else resample(part, timeframe) for part in parts if len(part)]
        if not parts:
            return Bars.of(symbol, timeframe, [])
        names = ("start_ns", "end_ns", "open", "high", "low", "close", "volume", "vwap", "trade_count")
        columns: dict[str, Any] = {n: np.concatenate([getattr(part, n) for part in parts]) for n in names}
        return Bars(symbol=symbol, timeframe=timeframe, **columns)

    def bars_json(self, bars: Bars, adjustment: str, now_ns: int) -> list[Wire]:
        """Bars, adjusted back from today by the actions whose ex-date has come.

        `adjustment`: raw | split | dividend | all. Splits divide prices and multiply volumes by the ratio; a dividend
        multiplies prices by 1 - cash / raw close of the session before (CRSP's factors).
        """
        if adjustment == "raw":
            return [bar_json(bars, row) for row in range(len(bars))]
        price, volume = self._factors(bars, adjustment, new_york_date(now_ns))
        return [bar_json(bars, row, float(price[row]), float(volume[row])) for row in range(len(bars))]

    def _factors(self, bars: Bars, adjustment: str, today: date) -> tuple[FloatArray, FloatArray]:
        daily = self._bars[bars.symbol]
        price, volume = np.ones(len(bars)), np.ones(len(bars))
        for action in self.actions[bars.symbol]:
            ex_ns = new_york_ns(action.ex_date)
            known, before = int(np.searchsorted(daily.start_ns, ex_ns)), int(np.searchsorted(bars.start_ns, ex_ns))
            if action.ex_date > today or known == 0:
                continue
            if adjustment in ("split", "all"):
                price[:before] /= action.ratio
                volume[:before] *= action.ratio
            if adjustment in ("dividend", "all"):
                price[:before] *= 1.0 - action.cash_usd / float(daily.close[known - 1])
        return price, volume


def day_bar(bars: Bars, row: int) -> DayBar:
    """One row of daily bars as the exchange keeps it."""
    frame = msgspec.json.encode({"T": "d", "S": bars.symbol} | bar_json(bars, row)).decode()
    opened, high, low, close = (usd(getattr(bars, name)[row]) for name in ("open", "high", "low", "close"))
    return DayBar(opened, high, low, close, frame)


def bar_json(b: Bars, row: int, price_factor: float = 1.0, volume_factor: float = 1.0) -> Wire:
    """A bar as Alpaca spells it. Unknown trade count and volume-weighted price are 0, as for a bar without trades."""
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
