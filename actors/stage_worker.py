"""A stage worker: an actor that owns one process that computes, here or on a Ray cluster, so that a computation can be
killed for real."""

import multiprocessing as mp
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from actors.kernel import Actor, Ref, spawn_thread
from actors.messages import (
    ChildAnswered,
    ChildExited,
    ChildStarted,
    CoordinatorMessage,
    Headline,
    RunStage,
    StageCompleted,
    StageFailed,
    StageWorkerMessage,
    TimerFired,
    WorkerReady,
    WorkerStarting,
)
from algo_royale.clock import WallClock
from algo_royale.errors import AlgoRoyaleError
from algo_royale.research import WORKER_ENVIRONMENT

OnReady = Callable[[int], None]
Answer = tuple[str, str | None, float, Headline | None]  # unit, error, seconds, what it found
OnAnswer = Callable[[str, str | None, float, Headline | None], None]
OnExit = Callable[[int | None], None]
RunUnit = Callable[[Any], Headline | None]  # computes what `payload` gave for a unit


class ChildDied(AlgoRoyaleError):
    """The child process ended without an answer (killed, out of memory, crashed)."""


class Compute(Protocol):
    """Where a unit is computed: one at a time. That it can begin, answers and its end are told through the callbacks."""

    def submit(self, unit: str) -> None: ...

    def kill(self) -> None: ...


MakeCompute = Callable[[OnReady, OnAnswer, OnExit], Compute]


class Child:
    """A spawned process that runs `warm()`, is then sent what makes its computer, and computes until its pipe closes."""

    def __init__(self, warm: Callable[[], object] = int) -> None:
        os.environ.update(WORKER_ENVIRONMENT)
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_child, args=(theirs, warm), daemon=True)
        # A terminal sends Ctrl-C to the child too, which is the parent's business; the child inherits this mask. The tracker
        # that multiprocessing starts before its first child would unblock it again.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()


class ProcessCompute:
    """A child process that runs `make()` once and then units; one of the `spare` ones while there are any.

    `payload(unit)` is what the child is to compute the unit from.
    """

    def __init__(
        self, make: Callable[[], RunUnit], payload: Callable[[str], Any], name: str, on_ready: OnReady,
        on_answer: OnAnswer, on_exit: OnExit, *, spare: list[Child] | None = None,
    ) -> None:  # fmt: skip
        child = spare.pop() if spare else Child()
        self._pipe, self._process = child.pipe, child.process
        self._send(make)
        self._payload, self._on_answer, self._on_exit = payload, on_answer, on_exit
        spawn_thread(f"{name}-reader", self._read)
        on_ready(self._process.pid or 0)

    def _send(self, what: object) -> None:
        try:
            self._pipe.send(what)
        except OSError:  # the reader sees the end of the pipe and reports it
            return

    def submit(self, unit: str) -> None:
        self._send((unit, self._payload(unit)))

    def kill(self) -> None:
        self._process.kill()

    def _read(self) -> None:
        while True:
            try:
                answer = self._pipe.recv()
            except (EOFError, OSError):
                self._process.join(5.0)
                self._pipe.close()
                self._on_exit(self._process.exitcode)
                return
            self._on_answer(*answer)


class Computer:
    """What runs in the process that computes: `make()` once, then unit after unit."""

    def __init__(self, make: Callable[[], RunUnit]) -> None:
        self._make, self._run, self._clock = make, None, WallClock()

    _run: RunUnit | None

    def __call__(self, unit: str, payload: Any) -> Answer:
        """Compute a unit; whatever it raises is the answer."""
        began, error, found = self._clock.monotonic_s(), None, None
        try:
            self._run = self._run or self._make()
            found = self._run(payload)
        except AlgoRoyaleError as problem:
            error = str(problem)
        except Exception:  # reported to the coordinator, which fails the unit and the run
            error = traceback.format_exc()
        return unit, error, self._clock.monotonic_s() - began, found


def _child(pipe: Connection, warm: Callable[[], object]) -> None:
    """The child's main loop, which a closed pipe ends; a parent that is gone ends it in the middle of a unit too."""
    spawn_thread("parent-watch", _end_with_parent)
    warm()
    compute: Computer | None = None
    while True:
        try:
            told = pipe.recv()
        except EOFError:
            return
        if compute is None:
            compute = Computer(told)
            continue
        unit, payload = told
        answer = compute(unit, payload)
        try:
            pipe.send(answer)
        except OSError:
            return


def _end_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # artifacts are whole or absent, so there is nothing to tidy up


class StageWorkerActor(Actor[StageWorkerMessage]):
    """Passes units to its child and its child's answers to the coordinator.

    A child that dies takes this incarnation with it: the supervisor starts the next one, whose first word lets the
    coordinator hand the lost unit out again. It owns a new child, and reports as ready when that can be given work.
    """

    def __init__(
        self, name: str, compute: MakeCompute, *, coordinator: Ref[CoordinatorMessage], unit_timeout_s: float
    ) -> None:
        self._name, self._make, self._coordinator, self._timeout_s = name, compute, coordinator, unit_timeout_s
        self._compute: Compute | None = None
        self._unit: str | None = None
        self._pid: int | None = None

    def started(self) -> None:
        me, clock, number = self.ref(self.path), self.system.clock, self.generation
        self.tell(self._coordinator, WorkerStarting(at_ns=self.now_ns, worker=self._name))

        def ready(pid: int) -> None:
            me.tell(ChildStarted(at_ns=clock.now_ns(), generation=number, pid=pid))

        def answered(unit: str, error: str | None, took_s: float, headline: Headline | None) -> None:
            me.tell(
                ChildAnswered(
                    at_ns=clock.now_ns(), generation=number, unit=unit, error=error, took_s=took_s, headline=headline
                )
            )

        def exited(code: int | None) -> None:
            me.tell(ChildExited(at_ns=clock.now_ns(), generation=number, exit_code=code))

        self._compute = self._make(ready, answered, exited)

    def stopped(self, reason: object) -> None:
        if self._compute is not None:
            self._compute.kill()

    def observe(self) -> dict[str, object]:
        return {"unit": self._unit, "pid": self._pid}

    def receive(self, message: StageWorkerMessage) -> None:
        assert self._compute is not None
        match message:
            case ChildStarted(pid=pid) if message.generation == self.generation:
                self._pid = pid
                ready = WorkerReady(at_ns=self.now_ns, worker=self._name, generation=self.generation, pid=pid)
                self.tell(self._coordinator, ready)
            case RunStage(unit=unit) if message.generation == self.generation:
                self._unit = unit
                self.later(self._timeout_s, TimerFired(at_ns=self.now_ns, name="timeout", key=unit), key="timeout")
                self._compute.submit(unit)
            case ChildAnswered() if message.generation == self.generation:
                self._unit = None
                self.cancel("timeout")
                self._report(message)
            case ChildExited() if message.generation == self.generation:
                raise ChildDied(f"child {self._pid} ended with {message.exit_code} while on {self._unit}")
            case TimerFired() if message.key == self._unit:
                self._compute.kill()  # its end arrives as ChildExited
            case _:
                pass  # of or for an earlier child

    def _report(self, answer: ChildAnswered) -> None:
        if answer.error is None:
            done = StageCompleted(
                at_ns=self.now_ns, unit=answer.unit, worker=self._name, took_s=answer.took_s, headline=answer.headline
            )
            self.tell(self._coordinator, done)
        else:
            failed = StageFailed(at_ns=self.now_ns, unit=answer.unit, worker=self._name, error=answer.error)
            self.tell(self._coordinator, failed)
