"""The exchange's day as one table: its phases, when each begins, and the jobs that each has, in order.

    pre_market   `pre_market_s` before the open
    open         at the open
    closed       at the close (13:00 on half days)
    after_close  `after_close_s` after it, when the last bars have come; before half of the time to the next pre-market

Pure: everything follows from the calendar and an instant, so a clock that jumped (a machine that slept, a process that was away)
is answered by asking which moments lie between the last that was handled and now.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from algo_royale.sessions import Calendar, Session, new_york_date

_SECOND_NS = 1_000_000_000


class Phase(enum.StrEnum):
    """What the exchange's day has come to."""

    PRE_MARKET = "pre_market"
    OPEN = "open"
    CLOSED = "closed"
    AFTER_CLOSE = "after_close"


class Job(enum.StrEnum):
    """What is done once in a phase of each session."""

    SETTLEMENT = "settlement"  # which proceeds may be spent from today on
    HOLDS = "holds"  # which symbols are held back, and from what
    RECONCILE = "reconcile"  # orders and fills of the last seven days, positions and cash, with the broker's
    POSITIONS = "positions"  # what is held, after that comparison
    EQUITY = "equity"  # what the account is worth: before the open to measure the day by, after the close for the books
    ARTIFACTS = "artifacts"  # whether the research that is traded is still the one on disk
    WARM_UP = "warm_up"  # every symbol's indicators know all bars that have closed
    SUBSCRIPTIONS = "subscriptions"  # the feed is live and tells of every symbol
    PARITY = "parity"  # what was decided at the close, to be compared with research
    NEXT_SESSION = "next_session"  # when it all begins again


JOBS: Final[Mapping[Phase, tuple[Job, ...]]] = {
    Phase.PRE_MARKET: (
        Job.SETTLEMENT, Job.HOLDS, Job.RECONCILE, Job.POSITIONS, Job.EQUITY, Job.ARTIFACTS, Job.WARM_UP, Job.SUBSCRIPTIONS,
    ),
    Phase.OPEN: (),
    Phase.CLOSED: (),
    Phase.AFTER_CLOSE: (Job.RECONCILE, Job.EQUITY, Job.PARITY, Job.NEXT_SESSION),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """How long before the open the first phase begins, and after the close the last one."""

    pre_market_s: int = 1800
    after_close_s: float = 30.0


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """The beginning of a phase of a session."""

    at_ns: int
    phase: Phase
    session: Session


def moments(calendar: Calendar, times: PhaseTimes, after_ns: int, until_ns: int) -> list[Moment]:
    """Beginnings of phases in (after_ns, until_ns], in order of time."""
    first, last = (new_york_date(ns) for ns in (after_ns, until_ns))
    sessions = calendar.sessions(first - timedelta(days=7), last + timedelta(days=7))
    found = [moment for session in sessions for moment in _of_session(calendar, times, session)]
    return [moment for moment in found if after_ns < moment.at_ns <= until_ns]


def _of_session(calendar: Calendar, times: PhaseTimes, session: Session) -> tuple[Moment, ...]:
    following = calendar.next_session(session.close_ns)
    before_ns = times.pre_market_s * _SECOND_NS
    half_ns = (session.close_ns + following.open_ns - before_ns) // 2
    after_ns = min(session.close_ns + int(times.after_close_s * _SECOND_NS), half_ns)
    return (
        Moment(session.open_ns - before_ns, Phase.PRE_MARKET, session),
        Moment(session.open_ns, Phase.OPEN, session),
        Moment(session.close_ns, Phase.CLOSED, session),
        Moment(max(after_ns, session.close_ns), Phase.AFTER_CLOSE, session),
    )


def moment_at(calendar: Calendar, times: PhaseTimes, at_ns: int) -> Moment:
    """The phase that runs at that instant."""
    return moments(calendar, times, calendar.previous_session(at_ns).open_ns - 1, at_ns)[-1]


def moment_after(calendar: Calendar, times: PhaseTimes, at_ns: int, phase: Phase) -> Moment:
    """When that phase next begins."""
    until_ns = calendar.next_session(calendar.next_session(at_ns).close_ns).close_ns
    return next(m for m in moments(calendar, times, at_ns, until_ns) if m.phase is phase)
