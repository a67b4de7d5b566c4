"""Sessions: the bundled table says what exchange_calendars says, and instants fall into the right day."""

import csv
import subprocess
import sys
from datetime import date, datetime, time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.data.resample import resample
from algo_royale.market import Timeframe
from algo_royale.sessions import NEW_YORK, Calendar, calendar, new_york_date, new_york_ns, order_window, send_window
from conftest import ROOT, shared
from markets import minutes

CALENDAR = calendar()
ALL = CALENDAR.sessions(date(1998, 1, 1), date(2035, 12, 31))


def ns(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


def test_the_table_is_what_exchange_calendars_says() -> None:
    """Remade from the installed library, the table comes out the same: a library that knows new holidays turns this red."""
    import exchange_calendars

    schedule = exchange_calendars.get_calendar("XNYS", start="1998-01-01", end="2035-12-31").schedule
    expected = [(i.date(), row.open.value, row.close.value) for i, row in schedule.iterrows()]

    assert [(s.date, s.open_ns, s.close_ns) for s in ALL] == expected


def test_sessions_agree_with_the_independent_file() -> None:
    rows = list(csv.DictReader(shared("data/calendar/us_equity_sessions.csv").open()))
    expected = [(r["session"], ns(r["open_utc"].rstrip("Z")), ns(r["close_utc"].rstrip("Z"))) for r in rows]

    first, last = date.fromisoformat(rows[0]["session"]), date.fromisoformat(rows[-1]["session"])
    assert [(s.date.isoformat(), s.open_ns, s.close_ns) for s in CALENDAR.sessions(first, last)] == expected


def test_sessions_are_read_without_importing_the_library() -> None:
    """The library costs seconds; a command must not pay them."""
    code = (
        "import sys; from datetime import date; from algo_royale.sessions import calendar;"
        "calendar().sessions(date(2000, 1, 1), date(2020, 1, 1));"
        "sys.exit(int('exchange_calendars' in sys.modules or 'pandas' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("day", "close"),
    [
        ("2012-11-23", "2012-11-23T18:00"),  # the day after Thanksgiving
        ("2013-07-03", "2013-07-03T17:00"),
        ("2012-03-12", "2012-03-12T20:00"),  # first session of summer time
        ("2012-03-09", "2012-03-09T21:00"),
    ],
)
def test_half_days_and_summer_time_move_the_close(day: str, close: str) -> None:
    session = CALENDAR.session_on(date.fromisoformat(day))

    assert session is not None
    assert session.close_ns == ns(close)


@pytest.mark.parametrize("day", ["2001-09-11", "2012-10-29", "2012-10-30", "2004-06-11", "2012-12-25", "2012-12-22"])
def test_a_closed_day_has_no_session(day: str) -> None:
    """Attacks, hurricane Sandy, mourning, Christmas, a Saturday."""
    assert CALENDAR.session_on(date.fromisoformat(day)) is None


@given(st.integers(min_value=ALL[20].open_ns, max_value=ALL[-20].close_ns))
def test_every_instant_lies_between_its_neighbours(at_ns: int) -> None:
    """The next session is the first that opens later, the previous the last that has closed; a slow scan says which."""
    expected_next = next(s for s in ALL if s.open_ns > at_ns)
    expected_previous = next(s for s in reversed(ALL) if s.close_ns <= at_ns)
    inside = [s for s in ALL if s.open_ns <= at_ns < s.close_ns]

    assert CALENDAR.next_session(at_ns) == expected_next
    assert CALENDAR.previous_session(at_ns) == expected_previous
    assert CALENDAR.session_at(at_ns) == (inside[0] if inside else None)


def test_the_open_belongs_to_the_session_and_the_close_does_not() -> None:
    session = CALENDAR.offset(date(2013, 3, 1), 0)

    assert CALENDAR.session_at(session.open_ns) == session
    assert CALENDAR.session_at(session.open_ns - 1) is None
    assert CALENDAR.session_at(session.close_ns - 1) == session
    assert CALENDAR.session_at(session.close_ns) is None
    assert CALENDAR.previous_session(session.close_ns) == session
    assert CALENDAR.next_session(session.open_ns) != session


@given(st.dates(date(1999, 1, 1), date(2030, 1, 1)), st.integers(-200, 200))
def test_offset_counts_sessions_from_the_first_on_or_after(day: date, count: int) -> None:
    start = next(i for i, s in enumerate(ALL) if s.date >= day)

    assert CALENDAR.offset(day, count) == ALL[start + count]


def test_a_label_is_midnight_in_new_york() -> None:
    """As Alpaca labels daily bars: 05:00Z in winter, 04:00Z in summer; the close follows from the label."""
    winter, summer = CALENDAR.offset(date(2013, 3, 8), 0), CALENDAR.offset(date(2013, 3, 11), 0)

    assert [winter.label_ns, summer.label_ns] == [ns("2013-03-08T05:00"), ns("2013-03-11T04:00")]
    assert CALENDAR.closes_ns(summer.label_ns) == summer.close_ns
    labels = np.array([winter.label_ns, winter.label_ns + 1, summer.label_ns], np.int64)
    assert CALENDAR.closes_ns(labels).tolist() == [winter.close_ns, 0, summer.close_ns]


def test_beyond_the_table_the_library_answers() -> None:
    """1990 is not in the table; the library knows that 1990-01-01 was a holiday and 1990-01-02 was not."""
    fresh = Calendar(*_arrays(), date(1998, 1, 1), date(2035, 12, 31))

    assert fresh.session_on(date(1990, 1, 1)) is None
    assert fresh.offset(date(1990, 1, 1), 0).open_ns == ns("1990-01-02T14:30")
    assert fresh.sessions(date(1998, 1, 1), date(2035, 12, 31)) == ALL


def test_new_york_dates_turn_at_midnight_there() -> None:
    assert new_york_date(ns("2013-03-01T04:59:59")) == date(2013, 2, 28)
    assert new_york_date(ns("2013-03-01T05:00")) == date(2013, 3, 1)
    assert new_york_ns(date(2013, 7, 1), time(9, 30)) == ns("2013-07-01T13:30")


def _arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    days = np.array([(s.date - date(1970, 1, 1)).days for s in ALL], np.int64)
    return days, np.array([s.open_ns for s in ALL], np.int64), np.array([s.close_ns for s in ALL], np.int64)


WINDOWS = [  # a bar's end, its length, when its orders may be sent; all New York, by hand
    ("2012-06-01 16:00", "1Day", "2012-06-04 09:30", "2012-06-04 16:00"),
    ("2012-06-01 10:01", "1Min", "2012-06-01 10:01", "2012-06-01 10:02"),
    ("2012-06-01 15:59", "1Min", "2012-06-01 15:59", "2012-06-01 16:00"),
    ("2012-06-01 16:00", "1Min", "2012-06-04 09:30", "2012-06-04 09:31"),
    ("2012-06-01 09:35", "5Min", "2012-06-01 09:35", "2012-06-01 09:40"),
    ("2012-11-23 12:45", "15Min", "2012-11-23 12:45", "2012-11-23 13:00"),
    ("2012-11-23 13:00", "15Min", "2012-11-26 09:30", "2012-11-26 09:45"),  # a half day ends at one
    ("2012-03-09 10:00", "1Hour", "2012-03-09 10:00", "2012-03-09 11:00"),  # the first hour holds half of one
    ("2012-03-09 16:00", "1Hour", "2012-03-12 09:30", "2012-03-12 10:00"),  # clocks change at this weekend
    ("2012-03-12 15:00", "1Hour", "2012-03-12 15:00", "2012-03-12 16:00"),
]


@pytest.mark.parametrize(("end", "timeframe", "opens", "ends"), WINDOWS)
def test_orders_may_be_sent_until_the_next_bar_has_ended(end: str, timeframe: str, opens: str, ends: str) -> None:
    """A session's last bar orders for the first one of the next, and every daily bar for the next session."""

    def at(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp()) * 1_000_000_000

    assert order_window(at(end), Timeframe(timeframe), calendar()) == (at(opens), at(ends))


INTRADAY = [timeframe for timeframe in Timeframe if timeframe is not Timeframe.DAY_1]


@given(st.dates(date(2000, 1, 3), date(2030, 1, 1)), st.sampled_from(INTRADAY))
def test_within_a_session_the_windows_are_the_bars_that_follow(day: date, timeframe: Timeframe) -> None:
    """The bars that minutes add up to say when; whatever the day's length and the season."""
    session = calendar().offset(day, 0)
    bars = minutes("A", 1, [session])
    bars = bars if timeframe is Timeframe.MIN_1 else resample(bars, timeframe)
    following = calendar().next_session(session.close_ns)
    spans = list(zip(bars.start_ns.tolist(), bars.end_ns.tolist(), strict=True))
    first = (
        minutes("A", 1, [following])
        if timeframe is Timeframe.MIN_1
        else resample(minutes("A", 1, [following]), timeframe)
    )
    expected = [*spans[1:], (following.open_ns, int(first.end_ns[0]))]

    assert [order_window(end, timeframe, calendar()) for end in bars.end_ns.tolist()] == expected


@pytest.mark.parametrize(
    ("time_in_force", "bar_end", "opens", "ends"),
    [
        ("day", "2024-06-20 16:00", "2024-06-20 16:00", "2024-06-21 16:00"),
        ("opg", "2024-06-20 16:00", "2024-06-20 19:00", "2024-06-21 09:27:59"),
        ("cls", "2024-06-20 16:00", "2024-06-20 19:00", "2024-06-21 15:54:59"),
        ("opg", "2024-06-21 16:00", "2024-06-21 19:00", "2024-06-24 09:27:59"),  # over a weekend
        ("cls", "2024-07-02 16:00", "2024-07-02 19:00", "2024-07-03 12:54:59"),  # a half day closes at one
        ("opg", "2024-03-08 16:00", "2024-03-08 19:00", "2024-03-11 09:27:59"),  # the clocks change in between
    ],
)
def test_an_order_is_sent_when_the_broker_takes_it_for_its_session(
    time_in_force: str, bar_end: str, opens: str, ends: str
) -> None:
    def ns(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp()) * 10**9

    assert send_window(time_in_force, ns(bar_end), Timeframe.DAY_1, calendar()) == (ns(opens), ns(ends))
