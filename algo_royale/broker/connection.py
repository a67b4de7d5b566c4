"""The life of a websocket connection as one table, and how long to wait before the next one. No socket, clock or randomness.

Whoever owns the socket says what happened; the table says where that leads:

    connecting -> authenticating -> subscribing -> live <-> stale
         any of them -> backoff -> connecting, or -> fatal where asking again cannot help before a person has done something

`stale` is a line that is open and says nothing although it should: nobody buys on what it told last. It has one more grace period to
speak up, then it is given up.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

SECOND_NS = 1_000_000_000


class State(enum.StrEnum):
    """Where a connection stands."""

    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    SUBSCRIBING = "subscribing"
    LIVE = "live"
    STALE = "stale"
    BACKOFF = "backoff"
    FATAL = "fatal"


class Event(enum.StrEnum):
    """What can happen to it."""

    OPENED = "opened"  # the handshake succeeded
    AUTHENTICATED = "authenticated"
    SUBSCRIBED = "subscribed"  # to everything that was asked for
    HEARD = "heard"  # data, while live
    SILENT = "silent"  # nothing for too long although there should be something
    LATE = "late"  # not live soon enough
    LOST = "lost"  # broken off, or an error that may pass
    REFUSED = "refused"  # too many connections or requests: the broker holds the old one a while
    FORBIDDEN = "forbidden"  # wrong keys, no such subscription: asking again does not help
    DUE = "due"  # the wait is over


_ENDINGS = {
    Event.LATE: State.BACKOFF, Event.LOST: State.BACKOFF, Event.REFUSED: State.BACKOFF, Event.FORBIDDEN: State.FATAL,
}  # fmt: skip
_OPEN = {Event.LOST: State.BACKOFF, Event.REFUSED: State.BACKOFF, Event.FORBIDDEN: State.FATAL}

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.CONNECTING: {Event.OPENED: State.AUTHENTICATING, **_ENDINGS},
    State.AUTHENTICATING: {Event.AUTHENTICATED: State.SUBSCRIBING, **_ENDINGS},
    State.SUBSCRIBING: {Event.SUBSCRIBED: State.LIVE, **_ENDINGS},
    State.LIVE: {Event.SILENT: State.STALE, **_OPEN},
    State.STALE: {Event.HEARD: State.LIVE, Event.SILENT: State.BACKOFF, **_OPEN},
    State.BACKOFF: {Event.DUE: State.CONNECTING},
    State.FATAL: {Event.DUE: State.CONNECTING},
}
"""An event that a state does not list changes nothing: it belongs to a socket that is gone, or comes twice."""

UP = frozenset({State.LIVE, State.STALE})
DOWN = frozenset({State.BACKOFF, State.FATAL})


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Delays between attempts: exponential, with jitter, short again once a connection has proved itself."""

    base_s: float = 1.0
    limit_s: float = 30.0
    refused_s: float = 5.0  # at least this after REFUSED
    refused_limit_s: float = 120.0  # and this after FORBIDDEN: a person may have mended the keys
    handshake_s: float = 10.0  # from the first step to live
    steady_s: float = 10.0  # so long a connection must have told data to be no failure
    unheard_s: float = 5.0  # what a request knows for longer and the stream has not told, it will not tell

    def at_pace(self, pace: float) -> "Reconnect":
        """The same waits by the machine's clock where virtual time runs `pace` times as fast: networks do not."""
        return Reconnect(
            self.base_s * pace, self.limit_s * pace, self.refused_s * pace, self.refused_limit_s * pace,
            self.handshake_s * pace, self.steady_s * pace, self.unheard_s * pace,
        )  # fmt: skip


PATIENT = Reconnect()


@dataclass(slots=True)
class Connection:
    """One endpoint's connections, one after the other: the state, and what the next wait depends on."""

    rules: Reconnect = PATIENT
    often_quiet: bool = False  # nothing need be told for hours: to have stayed open is enough to have proved itself
    state: State = State.BACKOFF
    detail: str = ""  # why it is not live
    failures: int = 0  # since it last proved itself
    reconnects: int = 0
    live_ns: int = 0  # when it became live; 0: not yet
    heard_ns: int = 0  # when the latest frame came, over all connections
    refused: bool = False

    def on(self, event: Event, now_ns: int, detail: str = "") -> bool:
        """Whether `event` changed the state."""
        if event is Event.HEARD:
            self.heard_ns = now_ns
        after = TRANSITIONS[self.state].get(event)
        if after is None:
            return False
        self.state = after
        if after is State.CONNECTING:
            self.reconnects += 1
        elif after is State.STALE:
            self.detail = detail
        elif after is State.LIVE:
            self.live_ns, self.detail = now_ns if event is Event.SUBSCRIBED else self.live_ns, ""
        elif after in DOWN:
            self._end(event, now_ns, detail)
        return True

    def _end(self, event: Event, now_ns: int, detail: str) -> None:
        good_ns = now_ns if self.often_quiet else self.heard_ns
        if self.live_ns and good_ns - self.live_ns >= self.rules.steady_s * SECOND_NS:
            self.failures = 0
        self.failures += 1
        self.live_ns, self.detail = 0, detail
        self.refused = event is Event.REFUSED

    def delay_s(self, jitter: float) -> float:
        """How long to wait before the next attempt; `jitter` is drawn from [0, 1), and moves it by up to a quarter."""
        rules = self.rules
        base, limit = (rules.refused_s, rules.refused_limit_s) if self.refused else (rules.base_s, rules.limit_s)
        if self.state is State.FATAL:
            base = limit = rules.refused_limit_s
        return float(min(limit, base * 2.0 ** min(max(self.failures - 1, 0), 16)) * (0.75 + jitter / 2))


def ending(detail: str, *, forbidden: bool = False) -> Event:
    """Which end of a connection its reader reports: by what it says of the HTTP status or the error code."""
    if forbidden:
        return Event.FORBIDDEN
    refusals = ("http 429", "HTTP 429", "http 406", "connection limit")
    return Event.REFUSED if any(text in detail for text in refusals) else Event.LOST
