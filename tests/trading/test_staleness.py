"""Silence is an alarm while the exchange is open, and at no other time."""

import datetime as dt
import itertools
import random
from collections.abc import Iterable, Iterator

import pytest

from algo_royale.broker.staleness import Freshness, Patience, is_overdue, next_look_ns
from algo_royale.sessions import NEW_YORK, Session, calendar

SECOND_NS, MINUTE_NS, HOUR_NS = 1_000_000_000, 60_000_000_000, 3_600_000_000_000
FIRST, LAST = dt.date(2015, 1, 1), dt.date(2026, 12, 31)
SESSIONS = calendar().sessions(FIRST, LAST)
FRIDAY = calendar().session_on(dt.date(2021, 3, 12))  # clocks change in the night to Sunday
HALF = calendar().session_on(dt.date(2021, 11, 26))
assert FRIDAY is not None and HALF is not None


def last_minute_ns(session: Session, at_ns: int) -> int:
    """When the latest minute bar before `at_ns` came: a moment after every minute of the session, the first a minute after the open."""
    whole = (min(at_ns, session.close_ns) - session.open_ns) // MINUTE_NS
    return session.open_ns + whole * MINUTE_NS + (SECOND_NS // 10 if whole else -17 * HOUR_NS)


def looks(fresh: Freshness, sessions: Iterable[Session], until_ns: int) -> Iterator[tuple[int, Session]]:
    """Every instant at which the watch looks, over sessions in each of which minute bars come until its close."""
    remaining = iter(sessions)
    session = next(remaining)
    following = next(remaining, None)
    now_ns = session.open_ns - HOUR_NS
    while True:
        look_ns = fresh.next_look_ns(now_ns)
        assert look_ns is not None and look_ns > now_ns  # or it would look for ever at one instant
        now_ns = look_ns
        if now_ns >= until_ns:
            return
        while following is not None and now_ns >= following.open_ns + MINUTE_NS:
            session, following = following, next(remaining, None)
        heard_ns = last_minute_ns(session, now_ns)
        if heard_ns > fresh.feed_ns:
            fresh.heard("A", heard_ns)
        yield now_ns, session


def false_alarms(sessions: list[Session], patience: Patience) -> tuple[list[int], int]:
    fresh = Freshness(["A"], calendar(), patience, sessions[0].open_ns - HOUR_NS)
    end_ns = sessions[-1].close_ns + 12 * HOUR_NS
    found = [(at_ns, bool(fresh.is_silent(at_ns) or fresh.stale(at_ns))) for at_ns, _ in looks(fresh, sessions, end_ns)]
    return [at_ns for at_ns, alarm in found if alarm], len(found)


@pytest.mark.prove
def test_no_false_alarm_in_twelve_years(proving: bool) -> None:
    """Every session of 2015 to 2026 with its nights, weekends, holidays, half days and changed clocks; two and a half minutes of
    patience (half an hour in the suite, where only odd days get the short one)."""
    feed_s = 150.0 if proving else 1800.0
    alarms, count = false_alarms(SESSIONS, Patience(feed_s=feed_s, symbol_s=1800.0))

    assert len(SESSIONS) == 3017  # 252 252 251 251 252 253 252 251 250 252 250 251
    assert count > len(SESSIONS) * 11 * 1800 / feed_s
    assert alarms == []


def test_no_false_alarm_where_days_are_odd() -> None:
    """With two minutes and a half of patience: around every half day, every holiday and every change of clocks."""
    odd = [
        [a, b] for a, b in itertools.pairwise(SESSIONS)
        if a.close_ns - a.open_ns < 6 * HOUR_NS or b.open_ns - a.open_ns not in (24 * HOUR_NS, 72 * HOUR_NS)
    ]  # fmt: skip
    changed = [pair for pair in odd if (pair[1].open_ns - pair[0].open_ns) % (24 * HOUR_NS)]
    assert len(odd) > 120
    assert len(changed) == 24  # two a year
    for pair in odd:
        assert false_alarms(pair, Patience(feed_s=150.0, symbol_s=150.0))[0] == []


def test_a_feed_that_goes_mute_is_noticed_at_the_limit_in_any_session() -> None:
    """At a random minute of every fiftieth session; never after the close, where nobody need know."""
    rng = random.Random(5)
    for session in [*SESSIONS[::50], HALF, FRIDAY]:
        mute_ns = session.open_ns + rng.randrange((session.close_ns - session.open_ns) // SECOND_NS) * SECOND_NS
        fresh = Freshness(["A"], calendar(), Patience(feed_s=150.0), mute_ns)
        noticed_ns = fresh.next_look_ns(mute_ns)
        assert noticed_ns is not None
        in_time = mute_ns + 150 * SECOND_NS < session.close_ns
        assert (noticed_ns == mute_ns + 150 * SECOND_NS) is in_time
        assert fresh.is_silent(noticed_ns)  # at the next open's 150 s where the session ended before
        assert not fresh.is_silent(noticed_ns - 1)


def test_silence_ends_with_the_session_and_begins_anew_at_the_next_open() -> None:
    session = FRIDAY
    following = calendar().next_session(session.close_ns)
    heard_ns = session.close_ns - HOUR_NS
    limit_ns = 150 * SECOND_NS

    assert is_overdue(heard_ns, limit_ns, session.close_ns - 1, calendar().session_at(session.close_ns - 1))
    assert not is_overdue(heard_ns, limit_ns, session.close_ns, calendar().session_at(session.close_ns))
    assert next_look_ns(heard_ns, limit_ns, session.close_ns - 1, calendar()) == session.close_ns
    monday_ns = next_look_ns(heard_ns, limit_ns, session.close_ns, calendar())
    assert monday_ns == following.open_ns + limit_ns
    shown = dt.datetime.fromtimestamp(monday_ns / 1e9, NEW_YORK)
    assert shown.isoformat() == "2021-03-15T09:32:30-04:00"  # the same wall clock after the change


def test_one_symbol_may_be_quiet_longer_than_the_feed() -> None:
    open_ns = FRIDAY.open_ns
    fresh = Freshness(["A", "B"], calendar(), Patience(feed_s=100.0, symbol_s=900.0), open_ns)
    for minute in range(1, 20):
        fresh.heard("A", open_ns + minute * MINUTE_NS)
        at_ns = open_ns + minute * MINUTE_NS + 1
        assert not fresh.is_silent(at_ns)
        assert fresh.stale(at_ns) == (frozenset("B") if minute >= 15 else frozenset())


def test_while_the_feed_is_silent_its_own_limit_holds_for_every_symbol() -> None:
    """Nobody can tell a symbol that does not trade from one whose trades are not told."""
    open_ns = FRIDAY.open_ns
    fresh = Freshness(["A", "B"], calendar(), Patience(feed_s=100.0, symbol_s=900.0), open_ns)
    assert fresh.stale(open_ns + 99 * SECOND_NS) == frozenset()
    assert fresh.stale(open_ns + 100 * SECOND_NS) == {"A", "B"}

    fresh.fetched("A", open_ns + 60 * SECOND_NS)  # history over REST knows more
    assert fresh.stale(open_ns + 100 * SECOND_NS) == {"B"}
    assert fresh.next_look_ns(open_ns + 100 * SECOND_NS) == open_ns + 160 * SECOND_NS
    assert fresh.stale(open_ns + 160 * SECOND_NS) == {"A", "B"}


def test_a_new_connection_has_its_own_time_to_speak() -> None:
    open_ns = FRIDAY.open_ns
    fresh = Freshness(["A"], calendar(), Patience(feed_s=100.0), open_ns)
    now_ns = open_ns + 150 * SECOND_NS
    assert fresh.is_silent(now_ns)
    assert not fresh.is_silent(now_ns, since_ns=now_ns - SECOND_NS)
    assert fresh.next_look_ns(now_ns, since_ns=now_ns - SECOND_NS) == now_ns + 99 * SECOND_NS


@pytest.mark.parametrize("patience", [Patience(), Patience(symbol_s=60.0), Patience(feed_s=60.0)])
def test_what_is_switched_off_alarms_nobody(patience: Patience) -> None:
    fresh = Freshness(["A"], calendar(), patience, FRIDAY.open_ns)
    late_ns = FRIDAY.open_ns + HOUR_NS
    assert fresh.is_silent(late_ns) is (patience.feed_s is not None)
    assert bool(fresh.stale(late_ns)) is (patience != Patience())
    assert (fresh.next_look_ns(late_ns) is None) is (patience == Patience())


def test_patience_is_never_shorter_than_a_network_takes() -> None:
    assert Patience(150.0, None).at_least(7200.0) == Patience(7200.0, None)
    assert Patience(150.0, 900.0).at_least(2.0) == Patience(150.0, 900.0)
