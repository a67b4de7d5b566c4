"""What is wrong with a series of bars, found by looking at nothing but the bars, their actions and the exchange's calendar.

Nothing is repaired. Prices are judged per session (intraday bars are first put together), adjusted for the actions on record, against
the volatility around them: 1.4826 times the median absolute daily return of the 30 sessions before and after, which a bad print
cannot raise. So a move that AIG makes daily in 2008 is an alarm for SPY in 2005. Moves across missing sessions are not judged.

An error is something that cannot be true. A warning is something that is rarely true: look, and leave it if it is.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from algo_royale.market import BoolArray, CorporateAction, FloatArray, IntArray, Timeframe
from algo_royale.sessions import Session, calendar, new_york_date, new_york_ns

Severity = Literal["error", "warning"]
Columns = Mapping[str, npt.NDArray[Any]]

PRICES = ("open", "high", "low", "close")
ADVICE: Mapping[str, str] = {
    "unreadable": "the file cannot be used; import it again from its source",
    "timestamp": "the bar belongs to no session; correct its time or its time zone, or remove it",
    "unsorted": "the backtest needs rising times; `data import` sorts",
    "duplicate": "keep one bar of each time; `data import` drops equal ones and refuses contradicting ones",
    "price": "prices must be positive and finite; fetch the bar again from its source",
    "ohlc": "the high must be the highest and the low the lowest; fetch the bar again from its source",
    "volume": "volume must be finite and not negative; fetch the bar again from its source",
    "missing": "fetch these sessions and import them; leave them if trading was halted",
    "thin": "fewer than half of the session's bars; fetch the session again, or leave it if trading was thin or halted",
    "print": "one price far outside its surroundings and gone at once; compare with a second source, then `data import --replace` the right bar",
    "move": "real if the news or a second source says so, then leave it; else correct it",
    "split missing": "record the split (`data import --actions`), or the backtest takes it for a loss or a gain",
    "split unseen": "prices are adjusted for it already, or its date or ratio is wrong; use raw prices, or `data import --actions FILE --replace`",
    "dividend unseen": "prices are adjusted for it already, or its date or amount is wrong; use raw prices, or `data import --actions FILE --replace`",
    "dividend extra": "special if a second source says so, then leave it; else `data import --actions FILE --replace` without it",
    "stale": "prices that do not move are often filled in; compare with a second source",
    "behind": "fetch or import the sessions since; leave it if the symbol is traded no more",
    "no volume": "nothing was traded, so nothing could have been bought; leave it if the symbol is that thin",
}

LATE_SESSIONS = 5
"""So many sessions behind the newest symbol of a source is late."""
_HALF_WINDOW = 30
_SCALE_MIN = 0.005
"""Daily volatility is taken to be at least this, so that a quiet series does not make ordinary moves remarkable."""
_SESSIONS_MIN = 20
"""Fewer sessions say nothing about volatility."""
_MOVE = 0.30
_NO_CRASH = math.log(5)
"""A jump by more than five times is a split even if the day was wild (AIG on 2009-07-01: one for twenty, and down 13 %)."""
_DIVIDENDS_MIN = 8
_STALE_CLOSES = 5
_NS = 1_000_000_000
_DAY_NS = 86_400 * _NS
_MAD = 1.4826
_SPLITS = tuple(
    sorted({n / m for n, m in ((3, 2), (4, 3), (5, 4), (5, 2), (5, 3), *((k, 1) for k in (*range(2, 11), 15, 20, 25, 30, 40, 50, 100)))})
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with a symbol's bars on `first`, or from `first` to `last`. Dates are sessions."""

    symbol: str
    kind: str
    """A key of ADVICE."""
    severity: Severity
    first: date | None
    last: date | None
    count: int
    """Bars or sessions it concerns."""
    what: str

    @property
    def advice(self) -> str:
        return ADVICE[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row that cannot be true: where it is, and what is wrong with it."""

    row: int
    kind: str
    what: str


def timeframe_of(start_ns: IntArray) -> Timeframe:
    """Daily if no two bars begin on one New York date or all begin at midnight there; else the commonest distance within a day."""
    if len(start_ns) < 2:
        at_midnight = len(start_ns) == 1 and new_york_ns(new_york_date(int(start_ns[0]))) == int(start_ns[0])
        return Timeframe.DAY_1 if at_midnight or len(start_ns) == 0 else Timeframe.MIN_1
    steps = np.diff(np.sort(start_ns))
    inside = steps[(steps > 0) & (steps < 12 * 3600 * _NS)]
    if len(inside) * 2 < len(steps):
        return Timeframe.DAY_1
    values, counts = np.unique(inside, return_counts=True)
    minutes = int(values[np.argmax(counts)]) // (60 * _NS)
    return next(
        (t for t in reversed(Timeframe) if t is not Timeframe.DAY_1 and minutes % t.minutes == 0), Timeframe.MIN_1
    )


def row_faults(columns: Columns, timeframe: Timeframe) -> Iterator[Fault]:
    """Every row that `Bars.check` and the catalogue refuse for its own sake, in the order of the checks, then of the rows.

    Order and duplicates are not a row's own fault: see `order_faults`.
    """
    yield from _faults(
        "timestamp",
        _off_session(columns["timestamp"], timeframe),
        lambda row: f"no {timeframe.value} bar of a session begins then",
    )
    for name in PRICES:
        yield from _prices(name, columns[name])
    top = np.maximum(columns["open"], columns["close"])
    bottom = np.minimum(columns["open"], columns["close"])
    yield from _faults(
        "ohlc", columns["high"] < top, lambda row: f"high {columns['high'][row]:g} is below {top[row]:g}"
    )
    yield from _faults(
        "ohlc", columns["low"] > bottom, lambda row: f"low {columns['low'][row]:g} is above {bottom[row]:g}"
    )
    volume = columns["volume"]
    yield from _faults(
        "volume",
        ~(np.isfinite(volume) & (volume >= 0)),
        lambda row: f"volume {_number(volume[row])} is negative or unknown",
    )


def order_faults(start_ns: IntArray) -> Iterator[Fault]:
    """Rows that repeat an earlier time, and rows that come before the one above them."""
    order = np.argsort(start_ns, kind="stable")
    again = np.zeros(len(start_ns), bool)
    again[order[1:]] = np.diff(start_ns[order]) == 0
    yield from _faults("duplicate", again, lambda row: "the same time as an earlier row")
    back = np.append(False, np.diff(start_ns) < 0) & ~again
    yield from _faults("unsorted", back, lambda row: "earlier than the row before it")


def examine(symbol: str, columns: Columns, actions: Sequence[CorporateAction], timeframe: Timeframe) -> list[Finding]:
    """Everything wrong with a series, by date. `columns` as the catalogue reads them: raw, unchecked."""
    starts: IntArray = columns["timestamp"]
    bad = np.zeros(len(starts), bool)
    found: list[Finding] = []
    for fault in (*row_faults(columns, timeframe), *order_faults(starts)):
        if bad[fault.row]:
            continue  # one reason to leave a row out is enough
        bad[fault.row] = fault.kind != "unsorted"
        day = new_york_date(int(starts[fault.row]))
        what = f"row {fault.row}: {fault.what}"
        found.append(Finding(symbol=symbol, kind=fault.kind, severity="error", first=day, last=day, count=1, what=what))
    rows = np.flatnonzero(~bad)
    rows = rows[np.argsort(starts[rows], kind="stable")]
    if len(rows):
        series = {name: columns[name][rows] for name in ("timestamp", *PRICES, "volume")}
        faulty = {finding.first for finding in found}
        found += _Daily(symbol, series, actions, timeframe, faulty).findings()
    return sorted(found, key=lambda finding: (finding.first or date.min, finding.kind))


def late(symbol: str, last: date, newest: date) -> list[Finding]:
    """Whether bars that end on `last` are out of date where those of others reach to `newest`."""
    gone = calendar().sessions(last + timedelta(days=1), newest) if newest > last else []
    if len(gone) < LATE_SESSIONS:
        return []
    what = f"the last bar is {_count(len(gone), 'session')} before that of the newest symbol, {newest}"
    return [
        Finding(symbol=symbol, kind="behind", severity="warning", first=last, last=last, count=len(gone), what=what)
    ]


class _Daily:
    """A clean series by session, adjusted for the actions on record, with the volatility around each session."""

    def __init__(
        self, symbol: str, series: Columns, actions: Sequence[CorporateAction], timeframe: Timeframe,
        faulty: Collection[date | None],
    ) -> None:  # fmt: skip
        """`faulty`: sessions whose bar cannot be true and is not in the series."""
        self.symbol, self.timeframe, self.faulty = symbol, timeframe, faulty
        starts: IntArray = series["timestamp"]
        self.sessions = calendar().sessions(new_york_date(int(starts[0])), new_york_date(int(starts[-1])))
        labels = np.array([s.label_ns for s in self.sessions], np.int64)
        of_bar = np.searchsorted(labels, starts, side="right") - 1
        self.at, first, self.bars = np.unique(of_bar, return_index=True, return_counts=True)
        self.open, self.close = series["open"][first], series["close"][first + self.bars - 1]
        self.high = np.maximum.reduceat(series["high"], first)
        self.low = np.minimum.reduceat(series["low"], first)
        self.volume = np.add.reduceat(series["volume"], first)
        self.adjacent = np.append(False, np.diff(self.at) == 1)
        self.ratio, self.cash = self._on_sessions(actions)
        before = np.append(np.nan, self.close[:-1])
        with np.errstate(invalid="ignore", divide="ignore"):
            self.kept = 1.0 - self.cash / (before / self.ratio)  # of the price, when the dividend leaves it
            self.expected = np.where(self.kept > 0, np.log(self.kept / self.ratio), 0.0)
            self.expected[~np.isfinite(self.expected)] = 0.0
            gone = np.log(before)
            self.gap = np.where(self.adjacent, np.log(self.open) - gone, np.nan)
            self.step = np.where(self.adjacent, np.log(self.close) - gone, np.nan)
        self.dollars = self.close * self.volume
        self.scale = _local_scale(self.step - self.expected)

    def _on_sessions(self, actions: Sequence[CorporateAction]) -> tuple[FloatArray, FloatArray]:
        """Split ratio and cash of each session there are bars of; an action of a missing one acts at the next."""
        ratio, cash = np.ones(len(self.at)), np.zeros(len(self.at))
        days = np.array([self.sessions[i].label_ns for i in self.at], np.int64)
        for action in actions:
            place = int(np.searchsorted(days, new_york_ns(action.ex_date)))
            if place < len(days) and place > 0:
                ratio[place] *= action.ratio
                cash[place] += action.cash_usd
        return ratio, cash

    def findings(self) -> list[Finding]:
        found = [*self._missing(), *self._stale()]
        if len(self.at) < _SESSIONS_MIN:
            return found
        prints, explained = self._prints()
        splits = self._splits(explained)
        known = {finding.first for finding in splits}
        moves = [m for m in self._moves(explained) if m.first not in known]
        return [*found, *prints, *splits, *moves, *self._dividends()]

    def _finding(
        self, kind: str, severity: Severity, index: int, what: str, *, last: int | None = None, count: int = 1
    ) -> Finding:
        first, final = (self.sessions[self.at[i]].date for i in (index, index if last is None else last))
        return Finding(
            symbol=self.symbol, kind=kind, severity=severity, first=first, last=final, count=count, what=what
        )

    def _missing(self) -> Iterator[Finding]:
        for index in np.flatnonzero(np.diff(self.at) > 1):
            between = self.sessions[self.at[index] + 1 : self.at[index + 1]]
            gone = [session for session in between if session.date not in self.faulty]
            if not gone:
                continue
            what = f"no bar in {_count(len(gone), 'session')}"
            yield Finding(
                symbol=self.symbol,
                kind="missing",
                severity="warning",
                first=gone[0].date,
                last=gone[-1].date,
                count=len(gone),
                what=what,
            )
        if self.timeframe is Timeframe.DAY_1:
            return
        wanted = np.array([_bars_of(self.sessions[i], self.timeframe) for i in self.at])
        for index in np.flatnonzero(self.bars * 2 < wanted):
            yield self._finding("thin", "warning", int(index), f"{self.bars[index]} of {wanted[index]} bars")

    def _stale(self) -> Iterator[Finding]:
        for low, high in _runs((np.diff(self.close) == 0) & self.adjacent[1:]):
            if high - low + 1 >= _STALE_CLOSES:
                what = f"{high - low + 1} closes of {self.close[low]:g} in a row"
                yield self._finding("stale", "warning", low, what, last=high, count=high - low + 1)
        same = np.all([np.diff(getattr(self, name)) == 0 for name in (*PRICES, "volume")], axis=0) & self.adjacent[1:]
        for low, high in _runs(same & (self.volume[1:] > 0)):
            what = f"the bar of {self.sessions[self.at[low]].date} again, volume {self.volume[low]:g} and all"
            yield self._finding("stale", "warning", low + 1, what, last=high, count=high - low)
        for low, high in _runs(self.volume == 0, inclusive=False):
            yield self._finding(
                "no volume",
                "warning",
                low,
                f"volume 0 in {_count(high - low + 1, 'session')}",
                last=high,
                count=high - low + 1,
            )

    def _prints(self) -> tuple[list[Finding], BoolArray]:
        """Prices that left their surroundings and came back at once, and the sessions whose move they explain."""
        with np.errstate(invalid="ignore"):
            before = np.where(self.adjacent, np.append(np.nan, self.close[:-1]) * np.exp(self.expected), self.close)
        top = np.maximum(np.maximum(self.open, self.close), before)
        bottom = np.minimum(np.minimum(self.open, self.close), before)
        from_close, from_before = np.log(self.open / self.close), np.log(self.open / before)
        step = np.nan_to_num(self.step - self.expected)
        back = np.append(step[1:], 0.0)
        together = from_close * from_before > 0
        reverts = (step * back < 0) & (np.abs(step + back) < 0.25 * np.abs(step))
        away: Mapping[str, FloatArray] = {
            "low": np.log(bottom / self.low),
            "high": np.log(self.high / top),
            "open": np.where(together, np.minimum(np.abs(from_close), np.abs(from_before)), 0.0),
            "close": np.where(reverts, np.abs(step), 0.0),
        }
        far = {
            name: (how > np.maximum(12 * self.scale, 0.08)) | (how > np.maximum(6 * self.scale, 0.25))
            for name, how in away.items()
        }
        far["open"] = away["open"] > np.maximum(12 * self.scale, 0.08)  # in a crisis opens do come back
        far["close"] |= reverts & (away["close"] > np.maximum(6 * self.scale, 0.15))
        found = []
        for index in np.flatnonzero(np.any(list(far.values()), axis=0)):
            names = [name for name in away if far[name][index]]
            worst = max(float(away[name][index]) for name in names)
            what = ", ".join(f"{name} {getattr(self, name)[index]:g}" for name in names)
            around = f"close before {before[index]:.6g}, after {self.close[min(index + 1, len(self.close) - 1)]:g}"
            what += f" where {around}: {worst / self.scale[index]:.0f} times the usual daily move"
            found.append(self._finding("print", "error" if worst > 0.25 else "warning", int(index), what))
        explained = far["close"].copy()
        explained[1:] |= far["close"][:-1]
        return found, explained

    def _moves(self, explained: BoolArray) -> Iterator[Finding]:
        change = np.expm1(np.nan_to_num(self.step - self.expected))
        for index in np.flatnonzero((np.abs(change) > _MOVE) & ~explained):
            what = f"close {self.close[index - 1]:g} to {self.close[index]:g}, {change[index]:+.1%} in a session"
            yield self._finding("move", "warning", int(index), what)

    def _splits(self, explained: BoolArray) -> list[Finding]:
        """Jumps by a simple ratio that no action explains, and splits on record that the price does not know of.

        A split halves the price but not the money that changes hands; a crash multiplies it. That tells AAPL on 2000-09-29
        (-52 %, eleven times the usual turnover) from a two for one.
        """
        found = []
        gap, step = (np.nan_to_num(moved - self.expected) for moved in (self.gap, self.step))
        usual = _local_median(self.dollars)
        with np.errstate(invalid="ignore", divide="ignore"):
            busy = self.dollars / usual
        tolerance = np.maximum(2.0 * self.scale, 0.03)
        jumps = np.minimum(np.abs(gap), np.abs(np.nan_to_num(self.gap))) > np.maximum(0.2, 8 * self.scale)
        for index in np.flatnonzero(jumps & ~explained & (self.ratio == 1.0)):
            size = abs(float(gap[index]))
            ratio = min(_SPLITS, key=lambda r, size=size: abs(size - math.log(r)))  # type: ignore[misc]
            jump = math.copysign(math.log(ratio), gap[index])
            near, limit = (0.3, math.inf) if size > _NO_CRASH else (tolerance[index], 4.0)
            if abs(gap[index] - jump) < near and abs(step[index] - jump) < 1.5 * near and not busy[index] > limit:
                split = f"{ratio:g} for 1" if jump < 0 else f"1 for {ratio:g}"
                what = f"close {self.close[index - 1]:g}, then open {self.open[index]:g}: a split {split} that no action records"
                found.append(self._finding("split missing", "error", int(index), what))
        for index in np.flatnonzero(self.adjacent & (np.abs(np.log(self.ratio)) > np.maximum(4 * self.scale, 0.02))):
            if abs(gap[index]) > abs(self.gap[index]):
                what = f"split ratio {self.ratio[index]:g}, but close {self.close[index - 1]:g} is followed by open {self.open[index]:g}"
                found.append(self._finding("split unseen", "error", int(index), what))
        return found

    def _dividends(self) -> Iterator[Finding]:
        """Dividends that the price does not know of, one by one where they are large, and all together where they are many."""
        rows = np.flatnonzero(self.adjacent & (self.cash > 0) & (self.kept > 0))
        drop = -np.log(self.kept[rows])
        gap = self.gap[rows] + np.log(self.ratio[rows])
        weight = 1.0 / self.scale[rows] ** 2
        for index, fall, seen in zip(rows, drop, gap, strict=True):
            if fall > max(4 * self.scale[index], 0.04) and abs(seen + fall) > abs(seen):
                what = f"dividend {self.cash[index]:g}, but close {self.close[index - 1]:g} is followed by open {self.open[index]:g}"
                yield self._finding("dividend unseen", "warning", int(index), what)
        power = float((drop * drop * weight).sum())
        if (
            len(rows) >= _DIVIDENDS_MIN and power > 25
        ):  # the share of the dividends that the opens give up is then known to a fifth
            share = float(-(gap * drop * weight).sum()) / power
            if share < 0.35:
                what = f"opens give up {share:.0%} of {_count(len(rows), 'dividend')} (expected about 100%)"
                yield self._finding(
                    "dividend unseen", "warning", int(rows[0]), what, last=int(rows[-1]), count=len(rows)
                )
        yield from self._extra_dividends(np.flatnonzero(self.cash > 0))

    def _extra_dividends(self, rows: IntArray) -> Iterator[Finding]:
        """A dividend without which its neighbours keep the rhythm of the payer."""
        for place in range(4, len(rows) - 4):
            around = np.delete(rows[place - 4 : place + 5], 4)
            steps = np.diff(self.at[around])
            usual = float(np.median(steps))
            regular = bool((np.abs(steps / usual - 1) < 0.15).all())
            if regular:
                index = int(rows[place])
                what = f"dividend {self.cash[index]:g} {_count(int(self.at[index] - self.at[rows[place - 1]]), 'session')} after the last, where {usual:.0f} are usual"
                yield self._finding("dividend extra", "warning", index, what)


def _off_session(start_ns: IntArray, timeframe: Timeframe) -> BoolArray:
    """Bars that begin on no exchange day or not on the timeframe's grid. Hours outside the session are no fault: they are left out."""
    if len(start_ns) == 0:
        return np.zeros(0, bool)
    first, last = new_york_date(int(start_ns.min())), new_york_date(int(start_ns.max()))
    labels = np.array([s.label_ns for s in calendar().sessions(first - timedelta(days=10), last)], np.int64)
    if len(labels) == 0:
        return np.ones(len(start_ns), bool)
    since = start_ns - labels[np.maximum(np.searchsorted(labels, start_ns, side="right") - 1, 0)]
    off: BoolArray = since != 0
    if timeframe is Timeframe.DAY_1:
        return off
    off = (since < 0) | (since >= _DAY_NS) | (since % (timeframe.minutes * 60 * _NS) != 0)
    return off


def _prices(name: str, values: FloatArray) -> Iterator[Fault]:
    wrong = ~(np.isfinite(values) & (values > 0))
    return _faults("price", wrong, lambda row: f"{name} {_number(values[row])} is not a positive price")


def _faults(kind: str, wrong: BoolArray, what: Callable[[int], str]) -> Iterator[Fault]:
    return (Fault(row=int(row), kind=kind, what=what(int(row))) for row in np.flatnonzero(wrong))


def _bars_of(session: Session, timeframe: Timeframe) -> int:
    length_ns = timeframe.minutes * 60 * _NS
    return -((session.label_ns - session.close_ns) // length_ns) - (session.open_ns - session.label_ns) // length_ns


def _local_scale(steps: FloatArray) -> FloatArray:
    """Volatility around each step, which itself, the one before and the one after have no say in."""
    return np.maximum(_MAD * _local_median(np.abs(steps)), _SCALE_MIN)


def _local_median(values: FloatArray) -> FloatArray:
    """Median of the values around each, itself and its neighbours left out; the median of all where there are none."""
    padded = np.pad(values, _HALF_WINDOW, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _HALF_WINDOW + 1).copy()
    around[:, _HALF_WINDOW - 1 : _HALF_WINDOW + 2] = np.nan
    around.sort(axis=1)  # NaN comes last; nanmedian would take ten times as long
    known = np.isfinite(around).sum(axis=1)
    rows = np.arange(len(values))
    median: FloatArray = (around[rows, np.maximum(known - 1, 0) // 2] + around[rows, known // 2]) / 2
    median[known == 0] = np.nanmedian(values) if np.isfinite(values).any() else 0.0
    return median


def _runs(wanted: BoolArray, *, inclusive: bool = True) -> Iterator[tuple[int, int]]:
    """First and last index of each run of true; if inclusive, `wanted` are steps and the run includes the element after."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False])).astype(np.int8)))
    for low, high in edges.reshape(-1, 2):
        yield int(low), int(high) if inclusive else int(high) - 1


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:g}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
