"""Sessions of the New York Stock Exchange (XNYS): which days it is open, and from when to when.

The hours come from exchange_calendars. Importing it takes 2.5 seconds, which every command would pay, so its answer for 1998 to 2035
travels with the package as a small table (xnys.txt, made by tools/make_sessions.py; a test compares them day by day). Asked for
anything outside the table, the library itself is imported and answers. When connected, Alpaca's own clock has the last word.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import overload
from zoneinfo import ZoneInfo

import numpy as np

from algo_royale.errors import InsufficientHistory
from algo_royale.market import IntArray, Timeframe

NEW_YORK = ZoneInfo("America/New_York")
_NS = 1_000_000_000
_MINUTE_NS = 60 * _NS
_HOUR_NS, _DAY_NS = 3_600 * _NS, 86_400 * _NS
_OPEN, _CLOSE = time(9, 30), time(16, 0)
_EPOCH = date(1970, 1, 1)
_TABLE = Path(__file__).parent / "xnys.txt"


@dataclass(frozen=True, slots=True, order=True)
class Session:
    """One exchange day: open from `open_ns` to `close_ns` (UTC nanoseconds, close excluded)."""

    date: date
    open_ns: int
    close_ns: int
    label_ns: int
    """Midnight New York of the date: the start label of the session's daily bar, as Alpaca spells it."""

    def __contains__(self, at_ns: object) -> bool:
        return isinstance(at_ns, int) and self.open_ns <= at_ns < self.close_ns


class Calendar:
    """Sessions in date order; grows by asking exchange_calendars when asked beyond what it holds."""

    def __init__(self, days: IntArray, open_ns: IntArray, close_ns: IntArray, first: date, last: date) -> None:
        """`days` since 1970 of each session, rising; every session of [first, last] is in the arrays."""
        self._days, self._open, self._close = days, open_ns, close_ns
        self._label = _midnights_ns(days)
        self._first, self._last = first, last

    def sessions(self, start: date, end: date) -> list[Session]:
        """Sessions with start <= date <= end, oldest first."""
        self._reach(start, end)
        low = int(np.searchsorted(self._days, _day(start), side="left"))
        high = int(np.searchsorted(self._days, _day(end), side="right"))
        return [self._session(i) for i in range(low, high)]

    def session_on(self, day: date) -> Session | None:
        """The session of that date, or None when the exchange is closed all day."""
        self._reach(day, day)
        index = int(np.searchsorted(self._days, _day(day)))
        found = index < len(self._days) and self._days[index] == _day(day)
        return self._session(index) if found else None

    def session_at(self, at_ns: int) -> Session | None:
        """The session in which open <= at < close, or None."""
        session = self.session_on(new_york_date(at_ns))
        return session if session is not None and at_ns in session else None

    def next_session(self, at_ns: int) -> Session:
        """The first session that opens after that instant."""
        day = new_york_date(at_ns)
        self._reach(day, day + timedelta(days=15))
        return self._session(int(np.searchsorted(self._open, at_ns, side="right")))

    def previous_session(self, at_ns: int) -> Session:
        """The last session that closed at or before that instant."""
        day = new_york_date(at_ns)
        self._reach(day - timedelta(days=15), day)
        return self._session(int(np.searchsorted(self._close, at_ns, side="right")) - 1)

    def offset(self, day: date, count: int) -> Session:
        """The session `count` sessions after (before, if negative) the first session on or after `day`."""
        days = abs(count) * 3 // 2 + 30  # more calendar days than any `count` sessions span
        self._reach(day - timedelta(days=days if count < 0 else 0), day + timedelta(days=days if count > 0 else 30))
        return self._session(int(np.searchsorted(self._days, _day(day), side="left")) + count)

    @overload
    def closes_ns(self, label_ns: IntArray) -> IntArray: ...
    @overload
    def closes_ns(self, label_ns: int) -> int: ...
    def closes_ns(self, label_ns: IntArray | int) -> IntArray | int:
        """Close of each session given by its label (midnight New York); 0 where that is no session's label."""
        labels = np.atleast_1d(np.asarray(label_ns, np.int64))
        if len(labels):
            self._reach(new_york_date(int(labels.min())), new_york_date(int(labels.max())))
        index = np.minimum(np.searchsorted(self._label, labels), len(self._label) - 1)
        closes: IntArray = np.where(self._label[index] == labels, self._close[index], 0)
        return int(closes[0]) if isinstance(label_ns, int) else closes

    def _session(self, index: int) -> Session:
        return Session(
            date=_EPOCH + timedelta(days=int(self._days[index])), open_ns=int(self._open[index]),
            close_ns=int(self._close[index]), label_ns=int(self._label[index]),
        )  # fmt: skip

    def _reach(self, first: date, last: date) -> None:
        """Make sure that the arrays hold every session of [first, last]."""
        if first >= self._first and last <= self._last:
            return
        low, high = min(first, self._first), max(last, self._last)
        wider = _from_library(low, high)
        self._days, self._open, self._close, self._label = wider._days, wider._open, wider._close, wider._label
        self._first, self._last = low, high


@lru_cache(maxsize=1)
def calendar() -> Calendar:
    """The exchange's calendar, read once per process."""
    first, last, closed, early = _read_table(_TABLE.read_text(encoding="ascii").splitlines())
    every = np.arange(_day(first), _day(last) + 1, dtype=np.int64)
    weekdays = every[(every + 3) % 7 < 5]  # 1970-01-01 was a Thursday
    days = weekdays[~np.isin(weekdays, [_day(day) for day in closed])]
    midnight = _midnights_ns(days)
    closes = midnight + _seconds(_CLOSE) * _NS
    for day, at in early.items():
        index = int(np.searchsorted(days, _day(day)))
        closes[index] = midnight[index] + _seconds(at) * _NS
    return Calendar(days, midnight + _seconds(_OPEN) * _NS, closes, first, last)


def bar_at(at_ns: int, timeframe: Timeframe, calendar: Calendar) -> tuple[int, int]:
    """[start, end) in UTC ns of the bar that is under way at that instant, or of the next session's first one.

    Bars lie on the clock of New York, as `data.resample` makes them: the start may lie before the open, the end never after the close.
    """
    session = calendar.session_at(at_ns) or calendar.next_session(at_ns)
    if timeframe is Timeframe.DAY_1:
        return session.label_ns, session.close_ns
    length = timeframe.minutes * _MINUTE_NS
    start = session.label_ns + (max(at_ns, session.open_ns) - session.label_ns) // length * length
    return start, min(start + length, session.close_ns)


def bar_before(at_ns: int, timeframe: Timeframe, calendar: Calendar) -> tuple[int, int]:
    """[start, end) in UTC ns of the last bar that has ended by that instant."""
    session = calendar.session_at(at_ns)
    if timeframe is not Timeframe.DAY_1 and session is not None:
        start, _ = bar_at(at_ns, timeframe, calendar)
        if start > session.open_ns:
            return bar_at(start - 1, timeframe, calendar)
    return bar_at(calendar.previous_session(at_ns).close_ns - 1, timeframe, calendar)


def order_window(bar_end_ns: int, timeframe: Timeframe, calendar: Calendar) -> tuple[int, int]:
    """[opens, ends) in UTC ns: when the orders of the bar that ended then may be sent.

    That is until the next bar has ended, which decides anew: a daily bar's orders are the next session's, and those of a
    session's last bar the first one's of the next.
    """
    session = None if timeframe is Timeframe.DAY_1 else calendar.session_at(bar_end_ns)
    opens_ns = bar_end_ns if session is not None else calendar.next_session(bar_end_ns).open_ns
    return opens_ns, bar_at(opens_ns, timeframe, calendar)[1]


def send_window(time_in_force: str, bar_end_ns: int, timeframe: Timeframe, calendar: Calendar) -> tuple[int, int]:
    """[from, until) in UTC ns: when the broker takes an order of the bar that ended then, so that it is still for its window.

    An order for an auction (daily bars have them) is taken from seven in the evening (New York) on, one for the opening auction until two minutes
    before the open, one for the closing auction until five minutes before the close, both with a second to spare.
    """
    if time_in_force not in ("opg", "cls"):
        return bar_end_ns, order_window(bar_end_ns, timeframe, calendar)[1]
    session = calendar.next_session(bar_end_ns)
    evening_ns = new_york_ns(new_york_date(bar_end_ns)) + 19 * 60 * _MINUTE_NS
    last_ns = session.open_ns - 2 * _MINUTE_NS if time_in_force == "opg" else session.close_ns - 5 * _MINUTE_NS
    return max(bar_end_ns, evening_ns), last_ns - _NS


def warmup_session(first: Session, timeframe: Timeframe, bars: int, calendar: Calendar) -> Session:
    """The latest session from which to the open of `first` a symbol that trades all the time has at least so many bars."""
    session = first
    while bars > 0:
        session = calendar.previous_session(session.open_ns)
        length = session.close_ns - session.label_ns if timeframe is Timeframe.DAY_1 else timeframe.minutes * _MINUTE_NS
        start = bar_at(session.open_ns, timeframe, calendar)[0]
        bars -= -((start - session.close_ns) // length)
    return session


def new_york_date(at_ns: int) -> date:
    """The calendar date in New York at that instant."""
    return datetime.fromtimestamp(at_ns // _NS, tz=NEW_YORK).date()


def new_york_clock_ns(at_ns: IntArray) -> IntArray:
    """What a clock in New York shows at each instant, as nanoseconds since its own 1970-01-01 00:00."""
    if not len(at_ns):
        return at_ns
    first, last = (new_york_date(int(x)).year for x in (at_ns.min(), at_ns.max()))
    switches = [half for year in range(first - 1, last + 1) for half in _switches(year)]
    from_ns, offset_ns = (np.array(column, np.int64) for column in zip(*switches, strict=True))
    shown: IntArray = at_ns + offset_ns[np.searchsorted(from_ns, at_ns, side="right") - 1]
    return shown


@lru_cache(maxsize=256)
def _switches(year: int) -> tuple[tuple[int, int], ...]:
    """(instant, offset from UTC from then on) for the two halves of a year; each of them changes it once at most."""
    out = []
    january, july, end = (
        new_york_ns(day) // _HOUR_NS for day in (date(year, 1, 1), date(year, 7, 1), date(year + 1, 1, 1))
    )
    for low, high in ((january, july), (july, end)):
        if _offset_s(low) != _offset_s(high):  # clocks change on full hours of UTC
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset_s(middle) == _offset_s(low) else (low, middle)
        out.append((high * _HOUR_NS, _offset_s(high) * _NS))
    return tuple(out)


def _offset_s(hour: int) -> int:
    offset = datetime.fromtimestamp(hour * 3600, tz=NEW_YORK).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0


def new_york_ns(day: date, at: time = time(0)) -> int:
    """UTC nanoseconds of a New York wall-clock time."""
    return int(datetime.combine(day, at, NEW_YORK).timestamp()) * _NS


def _read_table(lines: Iterable[str]) -> tuple[date, date, list[date], dict[date, time]]:
    first = last = _EPOCH
    closed: list[date] = []
    early: dict[date, time] = {}
    for line in lines:
        match line.split():
            case ["range", start, end]:
                first, last = date.fromisoformat(start), date.fromisoformat(end)
            case ["closed", day]:
                closed.append(date.fromisoformat(day))
            case ["early", day, at]:
                early[date.fromisoformat(day)] = time.fromisoformat(at)
    return first, last, closed, early


def _from_library(first: date, last: date) -> Calendar:
    """Ask exchange_calendars; raises InsufficientHistory where it does not know either."""
    import exchange_calendars
    from exchange_calendars.errors import CalendarError

    try:
        schedule = exchange_calendars.get_calendar("XNYS", start=first.isoformat(), end=last.isoformat()).schedule
    except (CalendarError, ValueError) as error:
        raise InsufficientHistory(f"no exchange calendar for {first}..{last}: {error}") from error
    opens = schedule["open"].to_numpy("datetime64[ns]").astype(np.int64)
    closes = schedule["close"].to_numpy("datetime64[ns]").astype(np.int64)
    days = schedule.index.to_numpy("datetime64[D]").astype(np.int64)
    return Calendar(days, opens, closes, first, last)


def _day(day: date) -> int:
    return (day - _EPOCH).days


def _seconds(at: time) -> int:
    return at.hour * 3600 + at.minute * 60


def _midnights_ns(days: IntArray) -> IntArray:
    """Midnight New York of each day, UTC nanoseconds. Offsets change on Sundays only, so a session has one all day."""
    noon = time(12, tzinfo=NEW_YORK)
    offsets = [datetime.combine(_EPOCH + timedelta(days=int(d)), noon).utcoffset() for d in days]
    seconds = np.array([0 if o is None else int(o.total_seconds()) for o in offsets], np.int64)
    return days * _DAY_NS - seconds * _NS
