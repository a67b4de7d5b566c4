"""The exchange's day: phases and jobs once per session, in order, over a year, over a jump of the clock, from the middle of a day."""

import datetime as dt
from collections import Counter
from datetime import date
from typing import Any

import exchange_calendars
import pytest

from actors.clock import ClockActor, ClockedScheduler, _naive_utc, _ns
from actors.kernel import Actor, ChildSpec, Ref, SteppedSystem, Supervisor
from actors.kernel.record import Record
from actors.messages import (
    RecordSessionJob,
    SessionJobDone,
    SessionJobDue,
    SessionJobsKnown,
    SessionJobsRequested,
    SessionPhaseChanged,
)
from actors.session import SessionActor
from actors.trading import tree
from algo_royale.app.pacing import DirectMarket, run_paced, settle
from algo_royale.phases import JOBS, Job, Phase, PhaseTimes, moment_at, moments
from algo_royale.sessions import calendar, new_york_ns
from traders import BUSY, recorded_orders, simulated, simulated_orders, trader, truth_errors

MINUTE_NS, DAY_NS = 60_000_000_000, 86_400_000_000_000
TIMES = PhaseTimes(pre_market_s=1800, after_close_s=30)
PRE, AFTER = JOBS[Phase.PRE_MARKET], JOBS[Phase.AFTER_CLOSE]


def at(day: date, hour: int, minute: int = 0) -> int:
    return new_york_ns(day, dt.time(hour, minute))


class Log:
    """Keeps the bodies of messages of some kinds, in the order in which they were handled."""

    def __init__(self, *kinds: type) -> None:
        self.kinds, self.found = kinds, []  # type: ignore[var-annotated]

    def write(self, record: Record) -> None:
        if isinstance(record.message, self.kinds):
            self.found.append(record.message)

    def event(self, at_ns: int, path: str, gen: int, what: str, detail: str) -> None:
        pass

    def close(self) -> None:
        pass


# ------------------------------------------------------------------------------------------------------- the table


def test_the_moments_of_ten_years_are_those_of_exchange_calendars() -> None:
    """Half days, holidays and clock changes come from a library that this code does not ask."""
    schedule = exchange_calendars.get_calendar("XNYS", start="2012-01-01", end="2021-12-31").schedule
    found = moments(calendar(), TIMES, at(date(2012, 1, 1), 0), at(date(2021, 12, 31), 23))
    expected = []
    for opened, closed in zip(schedule["open"], schedule["close"], strict=True):
        expected += [(opened.value - 30 * MINUTE_NS, "pre_market"), (opened.value, "open")]
        expected += [(closed.value, "closed"), (closed.value + MINUTE_NS // 2, "after_close")]

    assert [(m.at_ns, m.phase.value) for m in found] == expected


@pytest.mark.parametrize(
    ("now", "phase"),
    [
        (at(date(2012, 11, 23), 12, 59), "open"), (at(date(2012, 11, 23), 13), "closed"),
        (at(date(2012, 11, 23), 13, 1), "after_close"), (at(date(2012, 11, 25), 12), "after_close"),
        (at(date(2012, 11, 26), 9), "pre_market"), (at(date(2012, 11, 26), 9, 30), "open"),
    ],
)  # fmt: skip
def test_every_instant_has_its_phase(now: int, phase: str) -> None:
    assert moment_at(calendar(), TIMES, now).phase.value == phase


def test_a_long_wait_after_the_close_ends_half_way_to_the_next_session() -> None:
    """A trader whose time flies waits for networks in real seconds, which are hours of the exchange's."""
    slow = PhaseTimes(after_close_s=500_000)
    thursday, friday = calendar().sessions(date(2012, 11, 15), date(2012, 11, 16))
    (after,) = [
        m for m in moments(calendar(), slow, thursday.open_ns, friday.open_ns - 1) if m.phase is Phase.AFTER_CLOSE
    ]

    assert after.at_ns == (thursday.close_ns + friday.open_ns - 30 * MINUTE_NS) // 2


# -------------------------------------------------------------------------------------------------------- the clock


def test_the_schedule_library_runs_jobs_at_moments_of_sessions_on_our_clock() -> None:
    now = [at(date(2012, 11, 21), 12)]
    ran = []
    scheduler = ClockedScheduler(lambda: _naive_utc(now[0]))
    scheduler.every_session(calendar(), TIMES, Phase.CLOSED).do(lambda: ran.append(now[0]))
    for _ in range(3):
        wake: Any = scheduler.next_run
        now[0] = _ns(wake)
        scheduler.run_pending()
    now[0] += 30 * DAY_NS
    scheduler.run_pending()
    scheduler.run_pending()

    assert ran[:3] == [at(date(2012, 11, 21), 16), at(date(2012, 11, 23), 13), at(date(2012, 11, 26), 16)]
    assert len(ran) == 4, "a month of them while nobody looked is one"


# -------------------------------------------------------------------------------------------- the actor, by itself


class Ledger(Actor[Any]):
    """Keeps outcomes and answers its jobs; `silent` ones it does not."""

    silent: frozenset[str] = frozenset()

    def __init__(self, outcomes: list[RecordSessionJob], asked: list[SessionJobDue], silent: frozenset[str]) -> None:
        self._outcomes, self._asked, self._silent = outcomes, asked, silent

    def receive(self, message: Any) -> None:
        if isinstance(message, RecordSessionJob):
            self._outcomes.append(message)
        elif isinstance(message, SessionJobsRequested):
            known = tuple(
                (o.session_date, o.phase, o.job, o.ok) for o in self._outcomes if o.session_date >= message.since
            )
            self.tell(self.ref(message.reply_to), SessionJobsKnown(at_ns=self.now_ns, jobs=known))
        elif isinstance(message, SessionJobDue):
            self._asked.append(message)
            if message.job not in self._silent:
                self.tell(self.ref(message.reply_to), SessionJobDone.of(message, self.path, "fine", at_ns=self.now_ns))


class Listener(Actor[Any]):
    def __init__(self, heard: list[tuple[int, str, str]]) -> None:
        self._heard = heard

    def receive(self, message: Any) -> None:
        self._heard.append((message.at_ns, message.session_date, message.phase))


class Day:
    """Clock and session actors with everyone else played by the test."""

    def __init__(
        self, start_ns: int, *, silent: tuple[str, ...] = (), before: "Day | None" = None
    ) -> None:  # fmt: skip
        """`before`: the process that was here before, on the same ledger."""
        self.outcomes: list[RecordSessionJob] = [] if before is None else before.outcomes
        self.asked: list[SessionJobDue] = []
        self.heard: list[tuple[int, str, str]] = []
        system = self.system = SteppedSystem(start_ns)
        ledger, listener, session = (system.ref(f"root/{name}") for name in ("ledger", "listener", "session"))
        doers: dict[Job, tuple[Ref[Any], ...]] = {
            job: (ledger,) for job in Job if job not in (Job.ARTIFACTS, Job.NEXT_SESSION)
        }
        children = [
            ChildSpec(id="ledger", factory=lambda: Ledger(self.outcomes, self.asked, frozenset(silent))),
            ChildSpec(id="listener", factory=lambda: Listener(self.heard)),
            ChildSpec(id="clock", factory=lambda: ClockActor({}, calendar=calendar(), times=TIMES, session=session)),
            ChildSpec(
                id="session",
                factory=lambda: SessionActor(
                    calendar(), (listener,), times=TIMES, ledger=ledger, doers=doers
                ),
            ),
        ]  # fmt: skip
        system.start(ChildSpec(id="root", factory=lambda: Supervisor(children)))
        system.run_until_idle()

    def to(self, until_ns: int) -> None:
        """Let time pass, timer by timer."""
        while (due := self.system.next_timer_ns()) is not None and due <= until_ns:
            self.system.clock.move_to(due)
            self.system.advance_to(due)
            self.system.run_until_idle()
        self.jump(until_ns)

    def jump(self, until_ns: int) -> None:
        """Let it be later at once, as after a sleep: timers fire late, and once."""
        self.system.clock.move_to(until_ns)
        self.system.advance_to(until_ns)
        self.system.run_until_idle()

    def jobs(self) -> list[tuple[str, str, str]]:
        return [(o.session_date, o.phase, o.job) for o in self.outcomes]


def whole(day: str) -> list[tuple[str, str, str]]:
    return [(day, "pre_market", j.value) for j in PRE] + [(day, "after_close", j.value) for j in AFTER]


def test_over_a_calendar_year_every_job_is_done_once_per_session_and_in_order() -> None:
    """2012: 250 sessions, three half days, two days of hurricane, two clock changes."""
    day = Day(at(date(2012, 1, 1), 0))
    day.to(at(date(2012, 12, 31), 23))
    schedule = exchange_calendars.get_calendar("XNYS", start="2012-01-01", end="2012-12-31").schedule
    names = [label.date().isoformat() for label in schedule.index]

    assert len(names) == 250
    assert day.jobs() == [job for name in names for job in whole(name)]
    assert all(outcome.ok for outcome in day.outcomes)
    expected = [
        each
        for name, opened, closed in zip(names, schedule["open"], schedule["close"], strict=True)
        for each in (
            (opened.value - 30 * MINUTE_NS, name, "pre_market"),
            (opened.value, name, "open"),
            (closed.value, name, "closed"),
        )
    ]
    assert day.heard[1:] == expected  # the first one said where the day stood at the start
    first = {(o.session_date, o.phase): o.at_ns for o in reversed(day.outcomes)}
    assert first["2012-11-23", "after_close"] == at(date(2012, 11, 23), 13) + MINUTE_NS // 2


def test_started_in_the_middle_of_a_session_the_jobs_before_it_are_done_at_once() -> None:
    day = Day(at(date(2012, 11, 14), 12, 5))

    assert day.heard == [(at(date(2012, 11, 14), 12, 5), "2012-11-14", "open")]
    assert day.jobs() == [("2012-11-14", "pre_market", j.value) for j in PRE]
    day.to(at(date(2012, 11, 14), 17))
    assert day.jobs() == whole("2012-11-14")


def test_started_after_the_close_nothing_is_done_before_the_next_session() -> None:
    day = Day(at(date(2012, 11, 14), 17))
    assert (day.jobs(), [phase for *_, phase in day.heard]) == ([], ["closed"])
    day.to(at(date(2012, 11, 15), 9, 29))
    assert day.jobs() == [("2012-11-15", "pre_market", j.value) for j in PRE]


@pytest.mark.parametrize(
    ("until", "phase"), [(at(date(2012, 11, 14), 20), "closed"), (at(date(2012, 11, 15), 9, 10), "pre_market"), (at(date(2012, 11, 15), 11), "open")]
)  # fmt: skip
def test_a_machine_that_slept_over_the_close_does_the_jobs_after_it_once_and_first(until: int, phase: str) -> None:
    day = Day(at(date(2012, 11, 14), 12))
    day.outcomes.clear()
    day.heard.clear()
    day.jump(until)
    next_day = [("2012-11-15", "pre_market", j.value) for j in PRE] if phase != "closed" else []

    assert day.jobs() == [("2012-11-14", "after_close", j.value) for j in AFTER] + next_day
    assert day.heard[0][1:] == ("2012-11-14", "closed")
    assert day.heard[-1][1:] == ("2012-11-14" if phase == "closed" else "2012-11-15", phase)
    day.to(at(date(2012, 11, 15), 17))
    assert Counter(day.jobs())[("2012-11-14", "after_close", "equity")] == 1
    assert day.jobs()[-len(AFTER) :] == [("2012-11-15", "after_close", j.value) for j in AFTER]


def test_sessions_that_were_slept_over_whole_are_recorded_as_missed_and_have_no_jobs() -> None:
    day = Day(at(date(2012, 11, 14), 12))
    day.outcomes.clear()
    day.jump(at(date(2012, 11, 19), 12))  # over Thursday, Friday and a weekend, into Monday's session
    missed = [(name, "after_close", "session") for name in ("2012-11-15", "2012-11-16")]

    assert sorted(day.jobs()) == sorted(
        [("2012-11-14", "after_close", j.value) for j in AFTER]
        + missed
        + [("2012-11-19", "pre_market", j.value) for j in PRE]
    )
    assert [o.ok for o in day.outcomes if o.job == "session"] == [False, False]


def test_a_process_that_comes_back_does_what_is_left_and_nothing_twice() -> None:
    first = Day(at(date(2012, 11, 14), 8), silent=("warm_up",))
    first.to(at(date(2012, 11, 14), 9, 10))
    second = Day(at(date(2012, 11, 14), 10), before=first)
    second.to(at(date(2012, 11, 14), 16))  # it ends between the close and the jobs after it
    third = Day(at(date(2012, 11, 14), 18), before=second)
    fourth = Day(at(date(2012, 11, 14), 19), before=third)
    done = [(o.session_date, o.phase, o.job) for o in fourth.outcomes if o.ok]

    assert sorted(done) == sorted(whole("2012-11-14"))
    assert [o.job for o in fourth.outcomes if not o.ok] == ["warm_up"]
    assert done[-len(AFTER) :] == [("2012-11-14", "after_close", j.value) for j in AFTER]
    assert {phase for *_, phase in third.heard} == {"closed"}


def test_sessions_without_a_process_are_recorded_as_missed_once_however_often_it_starts() -> None:
    first = Day(at(date(2012, 11, 14), 12))
    saturday = Day(at(date(2012, 11, 17), 12), before=first)
    sunday = Day(at(date(2012, 11, 18), 12), before=saturday)
    second = Day(at(date(2012, 11, 19), 12), before=sunday)
    third = Day(at(date(2012, 11, 19), 13), before=second)
    third.to(at(date(2012, 11, 19), 17))
    jobs = third.jobs()

    assert [day for day, _, job in jobs if job == "session"] == ["2012-11-15", "2012-11-16"]
    assert sorted(j for j in jobs if j[2] != "session") == sorted(whole("2012-11-14") + whole("2012-11-19"))


def test_a_job_that_nobody_answers_is_recorded_as_failed_and_the_next_one_is_done() -> None:
    day = Day(at(date(2012, 11, 14), 8), silent=("reconcile",))
    day.to(at(date(2012, 11, 14), 9, 30))
    (failed,) = [o for o in day.outcomes if not o.ok]

    assert day.jobs() == [("2012-11-14", "pre_market", j.value) for j in PRE]
    assert (failed.job, failed.detail) == ("reconcile", "no answer from ledger within 60 s")
    assert failed.at_ns == at(date(2012, 11, 14), 9, 1)


def test_research_that_changed_on_disk_is_told_and_not_traded() -> None:
    changed = iter(["", "IBM has other viable strategies or parameters: start again to trade that"])
    account, log = trader(2), Log(RecordSessionJob)
    account.run(log=log, changes={"research_changes": lambda: next(changed)})
    told = [(o.ok, o.detail) for o in log.found if o.job == "artifacts"]

    assert told == [
        (True, "as at the start"),
        (False, "IBM has other viable strategies or parameters: start again to trade that"),
    ]


# ------------------------------------------------------------------------------------------------- the whole trader


def test_a_whole_trader_does_every_job_of_every_session_and_each_succeeds() -> None:
    account, log = trader(20), Log(RecordSessionJob)
    account.run(log=log)
    found: list[RecordSessionJob] = log.found
    days = sorted({o.session_date for o in found})

    assert len(days) == 20
    assert [(o.session_date, o.phase, o.job) for o in found] == [job for name in days for job in whole(name)]
    assert [(o.job, o.detail) for o in found if not o.ok] == []
    said = {o.job: o.detail for o in found if o.session_date == days[-1] and o.phase == "pre_market"}
    assert said["subscriptions"].startswith("live, 4 symbols on dailyBars")
    assert said["reconcile"].endswith("0 differences") and said["warm_up"].startswith("last bar ended")


def test_a_trader_that_slept_over_a_close_orders_nothing_late_and_trades_on() -> None:
    """It sleeps from noon to the middle of the next session: the bar of the close comes after the open that its orders are for."""
    account, log = trader(12, start=BUSY), Log(RecordSessionJob, SessionPhaseChanged)
    busy = calendar().offset(BUSY, 2)  # every one of these closes has orders
    following = calendar().next_session(busy.close_ns)
    system = account.system = SteppedSystem(account.exchange.now_ns, log=log)
    market = DirectMarket(account.exchange, account.streams)
    system.start(tree(account.parts(), system))
    run_paced(system, market, system.clock, until_ns=busy.open_ns + 120 * MINUTE_NS)
    before = len(recorded_orders(account.store.database.connection()))
    woken_ns = following.open_ns + 120 * MINUTE_NS
    account.exchange.advance(woken_ns)
    system.clock.move_to(woken_ns)
    system.advance_to(woken_ns)
    settle(system, market)
    jobs = [(o.session_date, o.phase, o.job) for o in log.found if isinstance(o, RecordSessionJob)]
    first, second = (session.date.isoformat() for session in (busy, following))
    assert jobs[-12:] == [(first, "after_close", j.value) for j in AFTER] + [
        (second, "pre_market", j.value) for j in PRE
    ]
    run_paced(system, market, system.clock)
    assert system.stop(20.0) == 0
    orders = recorded_orders(account.store.database.connection())
    due = {int(name.split("-")[2]) * 1_000_000 for name, *_ in simulated_orders(simulated(12, start=BUSY))}
    made = {int(name.split("-")[2]) * 1_000_000 for name, *_ in orders[before:]}

    assert busy.close_ns in due and busy.close_ns not in made
    assert made and min(made) == following.close_ns
    assert truth_errors(account) == []


def test_over_restarts_of_the_process_each_job_is_in_the_ledger_once() -> None:
    account = trader(6, start=BUSY)
    sessions = [calendar().offset(BUSY, n) for n in range(6)]
    for until_ns in (sessions[1].open_ns, sessions[2].close_ns - 1, sessions[4].close_ns + 3600 * 1_000_000_000):
        account.run(until_ns=until_ns)
    account.run()
    rows = account.store.database.connection().execute(
        "SELECT session_date, phase, job, ok FROM session_job ORDER BY seq"
    )
    found = rows.fetchall()

    assert [row[:3] for row in found] == [job for session in sessions for job in whole(session.date.isoformat())]
    assert all(ok for *_, ok in found)
