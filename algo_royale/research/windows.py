"""Walk-forward windows: where parameters are chosen and where they are judged.

The list depends on the configuration and the exchange calendar alone, never on a symbol's data. Every interval is
half-open. Sources: Pardo (1992) for the walk, Lopez de Prado (2018) for the embargo.
"""

import calendar as month_table
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from algo_royale.errors import BadInput, InsufficientHistory
from algo_royale.market import Timeframe
from algo_royale.sessions import NEW_YORK, Calendar, Session, new_york_ns

KEPT_SHARE = 0.9  # a last test window cut by the end stays if it has this share of its nominal length


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """How to cut a range. `train`, `test`, `step` and `holdout` count `unit`s; `embargo` counts sessions (bars if the
    unit is bars). `step` is `test` unless set. `count` keeps only the latest windows."""

    mode: Literal["rolling", "anchored"] = "rolling"
    unit: Literal["bars", "sessions", "months", "years"] = "years"
    train: int = 3
    test: int = 1
    step: int | None = None
    embargo: int = 5
    holdout: int = 1
    count: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("rolling", "anchored") or self.unit not in ("bars", "sessions", "months", "years"):
            raise BadInput(f"windows: unknown mode {self.mode!r} or unit {self.unit!r}")
        if self.train < 1 or self.test < 1 or self.embargo < 0 or self.holdout < 0:
            raise BadInput("windows: train and test must be at least 1, embargo and holdout at least 0")
        if self.step is not None and self.step < self.test:
            raise BadInput(f"windows: step {self.step} is shorter than test {self.test}: tests would overlap")
        if self.count is not None and self.count < 1:
            raise BadInput(f"windows: count {self.count} must be at least 1")

    @classmethod
    def default(cls, timeframe: Timeframe) -> "WindowConfig":
        """Daily: 3 years, 1 year, 5 sessions, 1 year held out; intraday: 12 months, 3 months, 1 session, 3 months."""
        if timeframe is Timeframe.DAY_1:
            return cls()
        return cls(unit="months", train=12, test=3, embargo=1, holdout=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One step of the walk. Dates are sessions, ends inclusive; `*_ns` bound bar starts, half-open.

    `train_end_ns` is B_k: nothing chosen for this window may depend on a bar at or after it, except its test.
    """

    window_id: str
    train_start: date
    train_end: date
    test_start: date
    test_end: date
    train_start_ns: int
    train_end_ns: int
    test_start_ns: int
    test_end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlan:
    """The windows in time order, and the range kept back: [holdout_start_ns, end_ns), never read by any stage."""

    windows: tuple[Window, ...]
    holdout_start: date
    holdout_start_ns: int
    end_ns: int


def add_months(day: date, months: int) -> date:
    """`day` moved by calendar months; the 29th to 31st become the month's last day where they do not exist."""
    total = day.year * 12 + day.month - 1 + months
    year, month = divmod(total, 12)
    return date(year, month + 1, min(day.day, month_table.monthrange(year, month + 1)[1]))


@dataclass(frozen=True, slots=True)
class _Grid:
    """Places where a window may begin: a session each, or a nominal bar each. Label ns, session date."""

    starts_ns: list[int]
    dates: list[date]
    start: date
    months_per_unit: int  # 0: units count places of the grid

    def at(self, offset: int) -> int:
        """Index of the first place at or after range start + offset units."""
        if not self.months_per_unit:
            return offset
        return bisect_left(self.dates, add_months(self.start, offset * self.months_per_unit))


def bar_starts(session: Session, timeframe: Timeframe) -> list[int]:
    """Nominal bar labels of a session: midnight New York for a daily bar, wall-clock multiples otherwise."""
    if timeframe is Timeframe.DAY_1:
        return [session.label_ns]
    width = timeframe.minutes * 60_000_000_000
    first = session.open_ns - session.open_ns % width
    return list(range(first, session.close_ns, width))


def _grid(calendar: Calendar, config: WindowConfig, timeframe: Timeframe, start: date, end: date) -> _Grid:
    """Grid from `start` to well past `end`, because a nominal test may reach beyond the range."""
    months = {"months": 1, "years": 12}.get(config.unit, 0)
    per_session = max(1, 390 // timeframe.minutes) if config.unit == "bars" else 1
    places = (0 if months else config.test) + config.embargo
    beyond = add_months(end, config.test * months) + timedelta(days=2 * -(-places // per_session) + 30)
    sessions = calendar.sessions(start, beyond)
    if config.unit != "bars":
        return _Grid([s.label_ns for s in sessions], [s.date for s in sessions], start, months)
    nominal = [(ns, s.date) for s in sessions for ns in bar_starts(s, timeframe)]
    return _Grid([ns for ns, _ in nominal], [d for _, d in nominal], start, 0)


def windows(calendar: Calendar, config: WindowConfig, timeframe: Timeframe, *, start: date, end: date) -> WindowPlan:
    """Cut [start, end] (dates, both inclusive) into walk-forward windows; the holdout is cut off first.

    Raises BadInput for an empty range and InsufficientHistory if not one window fits.
    """
    if end < start:
        raise BadInput(f"the range {start} .. {end} is empty: the end lies before the start")
    after = end + timedelta(days=1)
    grid = _grid(calendar, config, timeframe, start, after)
    stop = bisect_left(grid.dates, after)
    if not stop:
        raise BadInput(f"the range {start} .. {end} contains no trading session")
    if not config.holdout:
        limit = stop
    elif grid.months_per_unit:
        limit = bisect_left(grid.dates, add_months(after, -config.holdout * grid.months_per_unit))
    else:
        limit = max(0, stop - config.holdout)
    found = _walk(grid, config, timeframe, limit)
    if not found:
        raise InsufficientHistory(
            f"no walk-forward window fits in {start} .. {end}: train {config.train} + test {config.test} {config.unit}"
            f" with {config.holdout} held out; lengthen the range or shorten train, test or holdout"
        )
    return WindowPlan(
        windows=tuple(found[-config.count :] if config.count else found),
        holdout_start=grid.dates[limit],
        holdout_start_ns=grid.starts_ns[limit],
        end_ns=new_york_ns(after),
    )


def _walk(grid: _Grid, config: WindowConfig, timeframe: Timeframe, limit: int) -> list[Window]:
    step = config.step or config.test
    found: list[Window] = []
    while True:
        moved = len(found) * step
        boundary = grid.at(config.train + moved)
        train_low = 0 if config.mode == "anchored" else grid.at(moved)
        test_low = boundary + config.embargo
        if test_low >= limit:
            return found
        nominal_high = grid.at(config.train + moved + config.test) + config.embargo
        test_high = min(nominal_high, limit)
        if test_high - test_low < KEPT_SHARE * (nominal_high - test_low):
            return found
        found.append(_window(grid, config, timeframe, (train_low, boundary, test_low, test_high)))


def _window(grid: _Grid, config: WindowConfig, timeframe: Timeframe, at: tuple[int, int, int, int]) -> Window:
    train_low, boundary, test_low, test_high = at
    timed = config.unit == "bars" and timeframe is not Timeframe.DAY_1
    return Window(
        window_id=f"{_label(grid, train_low, timed)}_{_label(grid, test_high - 1, timed)}",
        train_start=grid.dates[train_low],
        train_end=grid.dates[boundary - 1],
        test_start=grid.dates[test_low],
        test_end=grid.dates[test_high - 1],
        train_start_ns=grid.starts_ns[train_low],
        train_end_ns=grid.starts_ns[boundary],
        test_start_ns=grid.starts_ns[test_low],
        test_end_ns=grid.starts_ns[test_high],
    )


def _label(grid: _Grid, index: int, timed: bool) -> str:
    day = grid.dates[index].strftime("%Y%m%d")
    if not timed:
        return day
    at = datetime.fromtimestamp(grid.starts_ns[index] // 1_000_000_000, UTC).astimezone(NEW_YORK)
    return f"{day}T{at:%H%M}"
