"""The clock actor: recurring jobs, declared with the `schedule` library and driven by our clock and the exchange's calendar."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import schedule

from actors.kernel import Actor, Ref
from actors.messages import ClockMessage, JobDue, TimerFired
from algo_royale.phases import Phase, PhaseTimes, moment_after
from algo_royale.sessions import Calendar

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - `schedule` computes with naive datetimes; ours are UTC


def _naive_utc(ns: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=ns // 1000)


def _ns(naive: dt.datetime) -> int:
    return (naive - _EPOCH) // dt.timedelta(microseconds=1) * 1000


class ClockedJob(schedule.Job):
    """A `schedule` job that reads the scheduler's clock instead of the machine's.

    It runs at plain intervals, or whenever `following` (UTC ns -> the next instant after it) says so.
    """

    scheduler: "ClockedScheduler"
    following: Callable[[int], int] | None = None

    def _schedule_next_run(self) -> None:
        if self.following is not None:
            self.next_run = _naive_utc(self.following(_ns(self.scheduler.now())))
            return
        if self.unit is None or self.at_time is not None or self.start_day is not None:
            raise schedule.ScheduleValueError("only plain intervals and instants of sessions run on our clock")
        self.next_run = self.scheduler.now() + dt.timedelta(**{self.unit: self.interval})

    @property
    def should_run(self) -> bool:
        return self.next_run is not None and self.scheduler.now() >= self.next_run


class ClockedScheduler(schedule.Scheduler):
    """`schedule.Scheduler` on an injected clock (the library itself reads `datetime.now()`).

    As in the library, a job whose time came several times while nobody looked runs once, and then waits for its next time.
    """

    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        super().__init__()
        self.now = now

    def every(self, interval: int = 1) -> ClockedJob:
        return ClockedJob(interval, self)

    def every_session(self, calendar: Calendar, times: PhaseTimes, phase: Phase) -> ClockedJob:
        """A job at the beginning of that phase of every session: half days, holidays and clock changes are the calendar's."""
        job = self.every().days
        assert isinstance(job, ClockedJob)
        job.following = lambda at_ns: moment_after(calendar, times, at_ns, phase).at_ns
        return job


class ClockActor(Actor[ClockMessage]):
    """Tells `JobDue` to each job's listener whenever the job's interval has passed, and to `session` when a phase begins.

    `jobs` maps a job's name to its interval in whole seconds and its listeners. After a restart the session's listener is told
    at once: a phase may have begun meanwhile.
    """

    def __init__(
        self, jobs: Mapping[str, tuple[int, Sequence[Ref[JobDue]]]], *, calendar: Calendar, times: PhaseTimes,
        session: Ref[Any],
    ) -> None:  # fmt: skip
        self._jobs, self._calendar, self._times, self._session = jobs, calendar, times, session
        self._scheduler = ClockedScheduler(lambda: _naive_utc(self.now_ns))

    def started(self) -> None:
        for name, (seconds, listeners) in self._jobs.items():
            self._scheduler.every(seconds).seconds.do(partial(self._due, name, listeners))
        for phase in Phase:
            job = self._scheduler.every_session(self._calendar, self._times, phase)
            job.do(partial(self._due, phase.value, (self._session,)))
        if self.generation > 1:
            self._due("session", (self._session,))
        self._sleep()

    def receive(self, message: ClockMessage) -> None:
        self._scheduler.run_pending()
        self._sleep()

    def _due(self, name: str, listeners: Sequence[Ref[JobDue]]) -> None:
        for listener in listeners:
            self.tell(listener, JobDue(at_ns=self.now_ns, job=name))

    def _sleep(self) -> None:
        wake: Any = self._scheduler.next_run
        if wake is not None:
            when_ns = _ns(wake)
            self.at(max(when_ns, self.now_ns + 1), TimerFired(at_ns=when_ns, name="jobs"), key="jobs")
