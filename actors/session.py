"""The session actor: where the exchange's day stands, told at every change, and each phase's jobs, done once and in order."""

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from actors.kernel import Actor, Ref
from actors.messages import (
    LedgerMessage,
    RecordSessionJob,
    SessionJobDone,
    SessionJobDue,
    SessionJobsKnown,
    SessionJobsRequested,
    SessionMessage,
    SessionPhaseChanged,
    TimerFired,
)
from algo_royale.phases import JOBS, Job, Moment, Phase, PhaseTimes, moment_after, moment_at, moments
from algo_royale.sessions import Calendar, Session, new_york_date

SECOND_NS = 1_000_000_000
ANNOUNCED = (Phase.PRE_MARKET, Phase.OPEN, Phase.CLOSED)
PATIENCE_S = 60.0
LOOKBACK_NS = 10 * 86_400 * SECOND_NS  # further back than the exchange was ever closed
MISSED = "session"  # in the place of a job: the session as a whole


class SessionActor(Actor[SessionMessage]):
    """Announces pre_market, open and closed, and has the jobs of the phase table done: one after the other, each by whoever
    owns what it is about, its outcome recorded. A job that nobody answers in time counts as failed, and the next one begins.

    The clock wakes it when a phase begins. What it does follows from the moments since the last that it handled, so it stands
    right after a start in the middle of a session and after a clock that jumped: the jobs after the close of a session that was
    attended are still done, once; a session that was missed whole is recorded as missed. What is done already is what the ledger
    has on record, so that a restart goes on with what is left. Nothing here orders.
    """

    def __init__(
        self, calendar: Calendar, listeners: Sequence[Ref[SessionPhaseChanged]], *, times: PhaseTimes,
        ledger: Ref[LedgerMessage], doers: Mapping[Job, Sequence[Ref[SessionJobDue]]], patience_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        """`doers`: who is told of a job and answers; a job without any is this actor's own."""
        self._calendar, self._listeners, self._times = calendar, listeners, times
        self._ledger, self._doers, self._patience_s = ledger, doers, patience_s
        self._handled_ns = 0
        self._attended: set[str] = set()
        self._missed: set[str] = set()  # what was on record at the start; later sessions pass only once
        self._done: set[tuple[str, str, str]] | None = (
            None  # (session, phase, job) that ended well; None: not known yet
        )
        self._todo: deque[SessionJobDue] = deque()
        self._doing: SessionJobDue | None = None
        self._waiting: set[str] = set()
        self._said: list[SessionJobDone] = []

    def started(self) -> None:
        current = moment_at(self._calendar, self._times, self.now_ns)
        self._handled_ns = self.now_ns
        self._announce(current)
        since = new_york_date(self.now_ns - LOOKBACK_NS).isoformat()
        self.tell(self._ledger, SessionJobsRequested(at_ns=self.now_ns, since=since, reply_to=self.path))

    def observe(self) -> dict[str, object]:
        doing = self._doing
        return {
            "doing": None if doing is None else f"{doing.session_date} {doing.phase} {doing.job}",
            "todo": len(self._todo),
        }

    def receive(self, message: SessionMessage) -> None:
        match message:
            case SessionJobDone():
                self._on_done(message)
            case SessionJobsKnown():
                self._resume(message)
            case TimerFired(name="job"):
                self._give_up(message.key)
            case _ if self._done is not None:
                self._catch_up()
        self._next()

    # --- the day ---

    def _resume(self, known: SessionJobsKnown) -> None:
        """Go on where the record ends: with what is left of the session that was attended last, and with the one at hand."""
        if self._done is not None:
            return
        self._done = {(day, phase, job) for day, phase, job, ok in known.jobs if ok}
        self._missed = {day for day, _, job, _ in known.jobs if job == MISSED}
        attended = max((day for day, phase, _, _ in known.jobs if phase == Phase.PRE_MARKET), default="")
        last = self._calendar.session_on(date.fromisoformat(attended)) if attended else None
        current = moment_at(self._calendar, self._times, self._handled_ns)
        if last is not None:
            self._attended.add(attended)
            self._pass(moments(self._calendar, self._times, last.close_ns - 1, self._handled_ns), announce=False)
        if current.phase in (Phase.PRE_MARKET, Phase.OPEN):
            self._attended.discard(current.session.date.isoformat())
            self._attend(current.session)
        self._catch_up()

    def _catch_up(self) -> None:
        """Let everything that began since the last look count now, in order."""
        passed = moments(self._calendar, self._times, self._handled_ns, self.now_ns)
        self._handled_ns = max(self._handled_ns, self.now_ns)
        self._pass(passed, announce=True)

    def _pass(self, passed: Sequence[Moment], *, announce: bool) -> None:
        for moment in passed:
            session, over = moment.session, self.now_ns >= moment.session.close_ns
            day = session.date.isoformat()
            match moment.phase:
                case Phase.PRE_MARKET | Phase.OPEN:
                    if announce and not over:
                        self._announce(moment)
                        self._attend(session)
                case Phase.CLOSED:
                    if announce and (day in self._attended or moment is passed[-1]):
                        self._announce(moment)
                case Phase.AFTER_CLOSE if day in self._attended:
                    self._enqueue(session, Phase.AFTER_CLOSE)
                    self._attended.discard(day)
                case Phase.AFTER_CLOSE if day not in self._missed:
                    self._record(
                        self._task(session, moment.phase, MISSED), ok=False, detail="nobody was here: it was slept over"
                    )

    def _attend(self, session: Session) -> None:
        if session.date.isoformat() not in self._attended:
            self._attended.add(session.date.isoformat())
            self._enqueue(session, Phase.PRE_MARKET)

    def _announce(self, moment: Moment) -> None:
        phase = moment.phase if moment.phase in ANNOUNCED else Phase.CLOSED
        for listener in self._listeners:
            self.tell(
                listener,
                SessionPhaseChanged(
                    at_ns=self.now_ns,
                    session_date=moment.session.date.isoformat(),
                    phase=phase.value,
                    open_ns=moment.session.open_ns,
                    close_ns=moment.session.close_ns,
                ),
            )

    # --- its jobs ---

    def _enqueue(self, session: Session, phase: Phase) -> None:
        tasks = (self._task(session, phase, job.value) for job in JOBS[phase])
        self._todo.extend(task for task in tasks if (task.session_date, task.phase, task.job) not in (self._done or ()))

    def _task(self, session: Session, phase: Phase, job: str) -> SessionJobDue:
        return SessionJobDue(
            at_ns=self.now_ns, session_date=session.date.isoformat(), phase=phase.value, job=job, reply_to=self.path
        )

    def _next(self) -> None:
        while self._doing is None and self._todo:
            task = self._todo.popleft()
            doers = self._doers.get(Job(task.job), ())
            if not doers:
                self._do(task)
                continue
            self._doing, self._said, self._waiting = task, [], {doer.path for doer in doers}
            self.later(self._patience_s, TimerFired(at_ns=self.now_ns, name="job", key=_key(task)), key="job")
            for doer in doers:
                self.tell(doer, task)

    def _do(self, task: SessionJobDue) -> None:
        """Say when it all begins again; the clock wakes us then."""
        following = moment_after(self._calendar, self._times, self.now_ns, Phase.PRE_MARKET).session
        self._record(task, ok=True, detail=f"the next session is that of {following.date.isoformat()}")

    def _on_done(self, done: SessionJobDone) -> None:
        task = self._doing
        if task is None or done.sender not in self._waiting or _key(task) != _key(done):
            return  # too late: it counts as failed already
        self._waiting.discard(done.sender)
        self._said.append(done)
        if not self._waiting:
            self._finish(task)

    def _give_up(self, key: str) -> None:
        if self._doing is not None and key == _key(self._doing):
            self._finish(self._doing)

    def _finish(self, task: SessionJobDue) -> None:
        self.cancel("job")
        self._doing = None
        silent = sorted(path.rsplit("/", 1)[-1] for path in self._waiting)
        wrong = [done.detail for done in self._said if not done.ok]
        if silent:
            wrong.append(f"no answer from {', '.join(silent)} within {self._patience_s:g} s")
        self._record(
            task, ok=not wrong, detail="; ".join(wrong or sorted({done.detail for done in self._said if done.detail}))
        )

    def _record(self, task: SessionJobDue, *, ok: bool, detail: str) -> None:
        self.tell(
            self._ledger,
            RecordSessionJob(
                at_ns=self.now_ns, session_date=task.session_date, phase=task.phase, job=task.job, ok=ok, detail=detail[:500]
            ),
        )  # fmt: skip


def _key(task: Any) -> str:
    return f"{task.session_date} {task.phase} {task.job}"
