"""When silence of a market-data feed is an alarm: only while the exchange is open, counted from the open at the earliest.

Overnight, on holidays and after an early close nothing is expected and nothing is stale. A feed that says nothing of any symbol is
silent; a symbol that is not told of while others are is stale by itself, with more patience: it may simply not trade.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from algo_royale.sessions import Calendar, Session

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of an open exchange without a word; None: for ever."""

    feed_s: float | None = None
    symbol_s: float | None = None

    def at_least(self, seconds: float) -> "Patience":
        """Never less than this: what a network may take where virtual time runs fast."""
        feed, symbol = (None if s is None else max(s, seconds) for s in (self.feed_s, self.symbol_s))
        return Patience(feed, symbol)


def is_overdue(last_ns: int, limit_ns: int, now_ns: int, session: Session | None) -> bool:
    """Whether nothing was heard for `limit_ns` of `session`, the one that is open now (None: none is)."""
    return session is not None and now_ns - max(last_ns, session.open_ns) >= limit_ns


def next_look_ns(last_ns: int, limit_ns: int, now_ns: int, calendar: Calendar) -> int:
    """When `is_overdue` next changes its answer, if nothing is heard until then."""
    session = calendar.session_at(now_ns) or calendar.next_session(now_ns)
    if is_overdue(last_ns, limit_ns, now_ns, session):
        return session.close_ns
    due_ns = max(last_ns, session.open_ns) + limit_ns
    if due_ns < session.close_ns:
        return due_ns
    return max(last_ns, calendar.next_session(session.close_ns).open_ns) + limit_ns


class Freshness:
    """When the feed and each symbol were last heard of."""

    def __init__(self, symbols: Iterable[str], calendar: Calendar, patience: Patience, now_ns: int) -> None:
        self._calendar = calendar
        self._feed_ns, self._symbol_ns = (
            None if s is None else round(s * SECOND_NS) for s in (patience.feed_s, patience.symbol_s)
        )
        self.feed_ns = now_ns
        self._known_ns = dict.fromkeys(symbols, now_ns)

    def heard(self, symbol: str, now_ns: int) -> None:
        """The stream told something of `symbol`."""
        self.feed_ns = now_ns
        self._known_ns[symbol] = now_ns

    def fetched(self, symbol: str, end_ns: int) -> None:
        """Another source knows `symbol` up to `end_ns`."""
        self._known_ns[symbol] = max(self._known_ns[symbol], end_ns)

    def is_silent(self, now_ns: int, since_ns: int = 0) -> bool:
        """Whether the stream has said nothing for too long; not before it was open, at `since_ns`."""
        last_ns = max(self.feed_ns, since_ns)
        return self._feed_ns is not None and is_overdue(last_ns, self._feed_ns, now_ns, self._session(now_ns))

    def stale(self, now_ns: int) -> frozenset[str]:
        """The symbols on whose last price nobody should add risk: not heard of for too long, which is sooner while the feed is
        silent, for then it says nothing that they did not trade."""
        session = self._session(now_ns)
        if session is None:
            return frozenset()
        limit_ns = self._feed_ns if self.is_silent(now_ns) else self._symbol_ns
        if limit_ns is None:
            return frozenset()
        return frozenset(s for s, last_ns in self._known_ns.items() if is_overdue(last_ns, limit_ns, now_ns, session))

    def next_look_ns(self, now_ns: int, since_ns: int = 0) -> int | None:
        """When the answers above may change although nothing is heard; None: never."""
        looks = []
        if self._feed_ns is not None:
            lasts = (self.feed_ns, max(self.feed_ns, since_ns))
            looks += [next_look_ns(last_ns, self._feed_ns, now_ns, self._calendar) for last_ns in lasts]
        limits = [ns for ns in (self._symbol_ns, self._feed_ns if self.is_silent(now_ns) else None) if ns is not None]
        for limit_ns in limits:
            looks.append(
                min(next_look_ns(last_ns, limit_ns, now_ns, self._calendar) for last_ns in set(self._known_ns.values()))
            )
        return min(looks, default=None)

    def _session(self, now_ns: int) -> Session | None:
        return self._calendar.session_at(now_ns)
