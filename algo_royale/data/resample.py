"""Longer bars of shorter ones, as Alpaca aligns them: by the clock of New York, within a session and never across one.

A bar of n minutes starts at a multiple of n minutes after midnight New York, so the hour of the open is labelled 09:00 and holds
09:30 to 10:00; a daily bar is labelled midnight and holds its session. A bar ends no later than its session, 13:00 on a half day.
Minutes without a trade have no bar, and an hour of which there is no minute has none either.
"""

import numpy as np
import numpy.typing as npt

from algo_royale.errors import BadInput, BadMarketData
from algo_royale.market import Bars, FloatArray, IntArray, Timeframe
from algo_royale.sessions import calendar, new_york_date

_NS = 1_000_000_000
_FLOATS = ("open", "high", "low", "close", "volume", "vwap")


class Resampler:
    """Longer bars, each told once it is complete: when its time is over, or a bar after it is seen.

    How the shorter bars are cut into chunks makes no difference to a bit.
    """

    def __init__(self, timeframe: Timeframe) -> None:
        self.timeframe = timeframe
        self._rest: Bars | None = None

    def update(self, bars: Bars) -> Bars:
        """The longer bars that are complete once `bars` are known, which follow those of the call before.

        Raises BadInput where these are no shorter bars, BadMarketData for a bar outside of every session or out of order.
        """
        if bars.timeframe.minutes >= self.timeframe.minutes:
            raise BadInput(
                f"{self.timeframe.value} bars cannot be made of {bars.timeframe.value} bars, only of shorter ones"
            )
        known = bars if self._rest is None else _concatenated(self._rest, bars)
        if (np.diff(known.start_ns) <= 0).any():
            raise BadMarketData(f"{bars.symbol} {bars.timeframe.value}: bars are not in order of time")
        if len(known) == 0:
            return _empty(known, self.timeframe)
        starts, ends = _longer(known, self.timeframe)
        first = np.flatnonzero(np.append(True, np.diff(starts) != 0))
        complete = len(first) if known.end_ns[-1] >= ends[-1] else len(first) - 1
        done = len(known) if complete == len(first) else int(first[-1])
        self._rest = known.slice(done, len(known))
        return _aggregate(known.slice(0, done), self.timeframe, first[:complete], starts[:done], ends[:done])

    def flush(self) -> Bars:
        """What is known of the bar that is not complete: one bar, or none."""
        rest, self._rest = self._rest, None
        if rest is None or len(rest) == 0:
            raise BadInput(f"no {self.timeframe.value} bar is under way")
        starts, ends = _longer(rest, self.timeframe)
        return _aggregate(rest, self.timeframe, np.zeros(1, np.int64), starts, ends)

    @property
    def under_way(self) -> bool:
        """Whether there is a bar that is not complete."""
        return self._rest is not None and len(self._rest) > 0


def resample(bars: Bars, timeframe: Timeframe) -> Bars:
    """The whole series at once, with the last bar even if it is not complete."""
    resampler = Resampler(timeframe)
    made = resampler.update(bars)
    return _concatenated(made, resampler.flush()) if resampler.under_way else made


def _longer(bars: Bars, timeframe: Timeframe) -> tuple[IntArray, IntArray]:
    """Start and end of the longer bar that each bar belongs to."""
    days = calendar().sessions(new_york_date(int(bars.start_ns[0])), new_york_date(int(bars.start_ns[-1])))
    labels, opens, closes = (
        np.array([getattr(day, name) for day in days], np.int64) for name in ("label_ns", "open_ns", "close_ns")
    )
    at = np.searchsorted(labels, bars.start_ns, side="right") - 1
    outside = np.ones(len(bars), bool) if not days else (bars.end_ns <= opens[at]) | (bars.start_ns >= closes[at])
    if outside.any():
        moment = np.datetime64(int(bars.start_ns[int(np.argmax(outside))]), "ns").astype("datetime64[s]")
        raise BadMarketData(f"{bars.symbol} {bars.timeframe.value} {moment}Z: not within a session")
    if timeframe is Timeframe.DAY_1:
        return labels[at], closes[at]
    length = timeframe.minutes * 60 * _NS
    starts = labels[at] + (bars.start_ns - labels[at]) // length * length
    return starts, np.minimum(starts + length, closes[at])


def _aggregate(bars: Bars, timeframe: Timeframe, first: IntArray, starts: IntArray, ends: IntArray) -> Bars:
    """One bar of each run of bars; `first` is where the runs begin, `starts` and `ends` are each bar's longer one."""
    if len(first) == 0:
        return _empty(bars, timeframe)
    last = np.append(first[1:], len(bars)) - 1
    volume = np.add.reduceat(bars.volume, first)
    counts = np.add.reduceat(bars.trade_count, first)
    return Bars(
        symbol=bars.symbol, timeframe=timeframe, start_ns=starts[first], end_ns=ends[first],
        open=bars.open[first], high=np.maximum.reduceat(bars.high, first), low=np.minimum.reduceat(bars.low, first),
        close=bars.close[last], volume=volume, vwap=_vwap(bars, first, volume),
        trade_count=np.where(np.minimum.reduceat(bars.trade_count, first) < 0, -1, counts),
        extra={name: np.logical_or.reduceat(column, first) for name, column in bars.extra.items()},
    )  # fmt: skip


def _vwap(bars: Bars, first: IntArray, volume: FloatArray) -> FloatArray:
    """Volume-weighted; NaN where it is not known of a bar with volume. A bar without volume has no weight."""
    paid = np.where(bars.volume > 0, bars.vwap * bars.volume, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        vwap: FloatArray = np.add.reduceat(paid, first) / volume
    return vwap


def _empty(bars: Bars, timeframe: Timeframe) -> Bars:
    nothing = bars.slice(0, 0)
    columns = {name: getattr(nothing, name).copy() for name in (*_FLOATS, "start_ns", "end_ns", "trade_count")}
    return Bars(symbol=bars.symbol, timeframe=timeframe, extra=nothing.extra, **columns)


def _concatenated(left: Bars, right: Bars) -> Bars:
    def both(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return np.concatenate((a, b))

    if left.extra.keys() != right.extra.keys():
        raise BadMarketData(f"{right.symbol}: extra columns {', '.join(right.extra)} follow {', '.join(left.extra)}")
    names = (*_FLOATS, "start_ns", "end_ns", "trade_count")
    columns = {name: both(getattr(left, name), getattr(right, name)) for name in names}
    extra = {name: np.append(column, right.extra[name]) for name, column in left.extra.items()}
    return Bars(symbol=left.symbol, timeframe=left.timeframe, extra=extra, **columns)  # type: ignore[arg-type]
