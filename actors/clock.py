"""The clock actor: recurring jobs, declared with the `schedule` library and driven by our clock."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import schedule

from actors.kernel import Actor, Ref
from actors.messages import ClockMessage, JobDue, TimerFired

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - `schedule` computes with naive datetimes; ours are UTC


def _naive_utc(ns: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=ns // 1000)


class ClockedJob(schedule.Job):
    """A `schedule` job that reads the scheduler's clock instead of the machine's."""

    scheduler: "ClockedScheduler"

    def _schedule_next_run(self) -> None:
        if self.unit is None or self.at_time is not None or self.start_day is not None:
            raise schedule.ScheduleValueError("only plain intervals run on our clock")
        self.next_run = self.scheduler.now() + dt.timedelta(**{self.unit: self.interval})

    @property
    def should_run(self) -> bool:
        return self.next_run is not None and self.scheduler.now() >= self.next_run


class ClockedScheduler(schedule.Scheduler):
    """`schedule.Scheduler` on an injected clock (the library itself reads `datetime.now()`)."""

    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        super().__init__()
        self.now = now

    def every(self, interval: int = 1) -> ClockedJob:
        return ClockedJob(interval, self)


class ClockActor(Actor[ClockMessage]):
    """Tells `JobDue` to each job's listener whenever the job's interval has passed.

    `jobs` maps a job's name to its interval in whole seconds and its listeners.
    """

    def __init__(self, jobs: Mapping[str, tuple[int, Sequence[Ref[JobDue]]]]) -> None:
        self._jobs = jobs
        self._scheduler = ClockedScheduler(lambda: _naive_utc(self.now_ns))

    def started(self) -> None:
        for name, (seconds, listeners) in self._jobs.items():
            self._scheduler.every(seconds).seconds.do(partial(self._due, name, listeners))
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
            when_ns = (wake - _EPOCH) // dt.timedelta(microseconds=1) * 1000
            self.at(max(when_ns, self.now_ns + 1), TimerFired(at_ns=when_ns, name="jobs"), key="jobs")
