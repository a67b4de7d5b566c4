"""Bars under way: what a stream has sent of them, until they are over and whole.

A stream gives minute bars and daily bars; the lengths in between are made of the minutes by `data.resample`, as research makes them.
A bar is over by the clock, for nobody sends a bar of a minute in which nothing was traded. Whether such a minute was silent or lost
on the way the stream does not say: a longer bar that lacks one is not told from here, but asked for from history.
"""

from dataclasses import dataclass

from algo_royale.data.resample import resample
from algo_royale.market import Bar, Bars, Timeframe
from algo_royale.sessions import Calendar, bar_at

MINUTE_NS = 60_000_000_000


@dataclass(slots=True)
class _Forming:
    """One bar: from when to when (UTC ns), what it is made of by start, and of how many of them."""

    end_ns: int
    parts: dict[int, Bar]
    whole: int


class FormingBars:
    """The bars of one length of any number of symbols. Pure: time is what it is told."""

    def __init__(self, timeframe: Timeframe, calendar: Calendar, *, grace_ns: int = 0) -> None:
        """A bar is told `grace_ns` after its end; what changes it until then counts."""
        self.timeframe, self._calendar, self._grace_ns = timeframe, calendar, grace_ns
        self.source = Timeframe.DAY_1 if timeframe is Timeframe.DAY_1 else Timeframe.MIN_1
        self._forming: dict[str, dict[int, _Forming]] = {}  # by symbol and start
        self._told_ns: dict[str, int] = {}

    def told(self, symbol: str, start_ns: int) -> None:
        """The symbol's bars up to the one that starts then are known, from wherever."""
        self._told_ns[symbol] = max(start_ns, self._told_ns.get(symbol, 0))
        kept = self._forming.get(symbol, {})
        self._forming[symbol] = {start: bar for start, bar in kept.items() if start > start_ns}

    def told_ns(self, symbol: str) -> int:
        """Start of the symbol's last known bar, 0 before the first."""
        return self._told_ns.get(symbol, 0)

    def take(self, part: Bar) -> bool:
        """Take in a bar of the stream, or a better one in its place; False for one that comes after its bar was told.

        One from outside of the sessions' hours is nobody's part, and forgotten.
        """
        if self._calendar.session_at(part.end_ns - 1) is None:
            return True
        start, end = bar_at(part.end_ns - 1, self.timeframe, self._calendar)
        if start <= self.told_ns(part.symbol):
            return False
        forming = self._forming.setdefault(part.symbol, {})
        if start not in forming:
            first = bar_at(start, self.source, self._calendar)[0]  # the first hour of a day holds half of one
            whole = 1 if self.timeframe is self.source else (end - first) // MINUTE_NS
            forming[start] = _Forming(end, {}, whole)
        forming[start].parts[part.start_ns] = part
        return True

    def due(self, now_ns: int) -> list[Bar]:
        """The whole bars whose time is over, by symbol and time; they count as told."""
        found: list[Bar] = []
        for symbol in sorted(self._forming):
            for start, bar in sorted(self._forming[symbol].items()):
                if bar.end_ns + self._grace_ns <= now_ns and len(bar.parts) == bar.whole:
                    found.append(self._made(symbol, bar))
                    self.told(symbol, start)
        return found

    def next_due_ns(self) -> int | None:
        """When the next whole bar is over."""
        times = [bar.end_ns for bars in self._forming.values() for bar in bars.values() if len(bar.parts) == bar.whole]
        return min(times) + self._grace_ns if times else None

    def _made(self, symbol: str, bar: _Forming) -> Bar:
        parts = [part for _, part in sorted(bar.parts.items())]
        if self.timeframe is self.source:
            return parts[-1]
        return resample(Bars.of(symbol, self.source, parts), self.timeframe).bar(0)
