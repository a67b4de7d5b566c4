"""Supervisors: actors whose state is their children, and whose messages are what becomes of them.

A supervisor never waits. Each child is in a phase (down, starting, running, stopping) and is wanted up or not; every
event updates that, and `_advance` then takes the next step towards it: first stop, in reverse order and one at a time,
whatever has to go; then start, in order, whatever is wanted. Deadlines and backoffs are timer messages. So two failures
at once, a failure during a restart, or a stop in the middle of either need no cases of their own.
"""

import enum
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from actors.kernel.actor import Actor
from actors.kernel.control import (
    ChildEnded,
    ChildStarted,
    ChildStuck,
    Control,
    DeadlinePassed,
    Ending,
    Reason,
    RestartDue,
    StartChild,
    StopChild,
)
from actors.kernel.record import Outcome
from actors.kernel.runtime import Cell, Runtime
from actors.kernel.spec import AutoShutdown, ChildSpec, Intensity, Restart, Strategy
from actors.kernel.timers import Timer

DEFAULT_INTENSITY = Intensity()


class _Phase(enum.Enum):
    DOWN = "down"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class _Child:
    """What a supervisor knows about one child."""

    def __init__(self, spec: ChildSpec, cell: Cell) -> None:
        self.spec, self.cell = spec, cell
        self.phase = _Phase.DOWN
        self.generation = 0  # of the incarnation the phase is about
        self.wanted = True
        self.forget = False  # remove it once it is down
        self.recycle = False  # must go down before it may come up again
        self.stale = False  # its queue is of the epoch before a group restart
        self.ran = False
        self.due_ns: int | None = None  # backoff until then
        self.started_ns = 0
        self.failures = 0
        self.restarts_ns: deque[int] = deque()
        self.guard: Timer | None = None


class Supervisor(Actor[Any]):
    """Starts its children in order, restarts them by `strategy`, and fails itself when that is not enough.

    `intensity` bounds the restarts of all children together (a group restart counts once, a failed start counts too).
    It is told only control messages: StartChild and StopChild.
    """

    _supervises = True

    def __init__(
        self,
        specs: Sequence[ChildSpec] = (),
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: Intensity = DEFAULT_INTENSITY,
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
    ) -> None:
        if len({spec.id for spec in specs}) != len(specs):
            raise ValueError(f"two children of the same id: {[spec.id for spec in specs]}")
        self._specs, self._strategy, self._intensity, self._auto = tuple(specs), strategy, intensity, auto_shutdown
        self._children: dict[str, _Child] = {}  # by path, in start order
        self._restarts_ns: deque[int] = deque()
        self._starting = True
        self._final: Reason | None = None  # set: going down for that reason

    # --- hooks ------------------------------------------------------------------------------------------------------

    def started(self) -> None:
        for spec in self._specs:
            self._adopt(spec)
        for cell in self._runtime.children_of(self.path):
            if cell.path not in self._children and cell.alive:
                self._adopt(cell.spec, wanted=False)  # a dynamic child of a supervisor that crashed
        self._advance()

    def receive(self, message: object) -> None:
        self._runtime.event(self.path, self.generation, "refused", f"data: {type(message).__name__}")

    def observe(self) -> Mapping[str, object]:
        return {child.spec.id: child.phase.value for child in self._children.values()}

    def _is_up(self) -> bool:
        return False  # reported by _advance, when the children are up

    def _stop(self, reason: Reason) -> None:
        self._go_down(reason)
        self._advance()

    def _control(self, control: Control) -> None:
        match control:
            case ChildStarted(path, generation):
                self._on_started(path, generation)
            case ChildEnded(path, generation, reason):
                self._on_ended(path, generation, reason)
            case ChildStuck(path, generation, reason):
                self._on_stuck(path, generation, reason)
            case DeadlinePassed(path, generation):
                self._on_deadline(path, generation)
            case RestartDue(path):
                child = self._children.get(path)
                if child is not None and child.due_ns is not None and child.due_ns <= self.now_ns:
                    child.due_ns = None
            case StartChild(spec):
                self._on_start_child(spec)
            case StopChild(id):
                child = self._children.get(f"{self.path}/{id}")
                if child is not None:
                    child.wanted, child.forget = False, True
            case _:
                super()._control(control)
        self._advance()

    # --- what happened ----------------------------------------------------------------------------------------------

    def _on_started(self, path: str, generation: int) -> None:
        child = self._current(path, generation)
        if child is None or child.phase is not _Phase.STARTING:
            return
        self._disarm(child)
        child.phase, child.ran, child.started_ns = _Phase.RUNNING, True, self.now_ns
        child.cell.state = "running"

    def _on_ended(self, path: str, generation: int, reason: Reason) -> None:
        child = self._current(path, generation)
        if child is None or child.phase is _Phase.DOWN:
            return
        self._disarm(child)
        before, child.phase = child.phase, _Phase.DOWN
        child.cell.state = "stopped"
        child.recycle = False
        if self._final is not None or before is _Phase.STOPPING or not child.wanted:
            return  # as intended, however it went; _advance goes on
        if reason.ending.abnormal and not child.ran and self._starting:
            detail = f"{path}: {reason.detail}" if reason.detail else path
            self._go_down(Reason(Ending.START_FAILED, detail))
        elif child.spec.restart is Restart.TEMPORARY or (
            child.spec.restart is Restart.TRANSIENT and not reason.ending.abnormal
        ):
            child.wanted, child.forget = False, True
        else:
            if before is _Phase.RUNNING and self._lived_long(child):
                child.failures = 0
            self._restart(child, reason)

    def _on_stuck(self, path: str, generation: int, reason: Reason) -> None:
        child = self._current(path, generation)
        if child is None or child.phase is not _Phase.RUNNING:
            return
        child.cell.last_error = f"{reason.ending.value}: {reason.detail.splitlines()[0] if reason.detail else ''}"
        self._runtime.event(path, generation, reason.ending.value, reason.detail)
        self._runtime.fence(child.cell, reason.ending.value)
        self._on_ended(path, generation, reason)

    def _on_deadline(self, path: str, generation: int) -> None:
        child = self._current(path, generation)
        if child is None or self._runtime.is_supervisor(child.cell):
            return
        if child.phase is _Phase.STARTING:
            self._runtime.fence(child.cell, f"not started within {child.spec.start_within} s")
            child.cell.last_error = f"not started within {child.spec.start_within} s"
            self._on_ended(path, generation, Reason(Ending.START_FAILED, child.cell.last_error))
        elif child.phase is _Phase.STOPPING:
            self._runtime.fence(child.cell, f"not stopped within {child.spec.shutdown} s", what="abandoned")
            self._on_ended(path, generation, Reason(Ending.HUNG, "abandoned"))

    def _on_start_child(self, spec: ChildSpec) -> None:
        child = self._children.get(f"{self.path}/{spec.id}")
        if self._final is not None or (child is not None and not child.forget):
            self._runtime.event(self.path, self.generation, "refused", f"StartChild {spec.id}")
            return
        if child is not None and child.phase is not _Phase.DOWN:  # still stopping: let it come back
            child.spec, child.wanted, child.forget = spec, True, False
            return
        self._adopt(spec)

    def _restart(self, failed: _Child, reason: Reason) -> None:
        """Schedule the restart of `failed` and of those its strategy takes along; or give up."""
        own = failed.spec.intensity
        if self._too_many(self._restarts_ns, self._intensity) or (
            own is not None and self._too_many(failed.restarts_ns, own)
        ):
            cause = f"{failed.cell.path} ended again ({reason.ending.value}: {reason.detail})"
            self._runtime.event(self.path, self.generation, "escalated", cause)
            self._incarnation.cell.last_error = cause
            self._go_down(Reason(Ending.ESCALATED, cause))
            return
        failed.failures += 1
        failed.cell.state = "backoff"
        self._back_off(failed)
        self._runtime.event(failed.cell.path, failed.generation, "restarting", reason.detail)
        for sibling in self._taken_along(failed):
            if sibling.phase is not _Phase.DOWN:
                sibling.recycle = True
            sibling.stale = True
            if sibling.spec.restart is Restart.TEMPORARY:
                sibling.wanted, sibling.forget = False, True

    def _lived_long(self, child: _Child) -> bool:
        """Whether it ran for so long that its next failure is a first one."""
        return self.now_ns - child.started_ns >= self._intensity.period * 1e9 * self._runtime.pace

    def _taken_along(self, failed: _Child) -> list[_Child]:
        children = list(self._children.values())
        if self._strategy is Strategy.ONE_FOR_ONE:
            return []
        if self._strategy is Strategy.REST_FOR_ONE:
            return children[children.index(failed) + 1 :]
        return [child for child in children if child is not failed]

    def _too_many(self, times_ns: deque[int], intensity: Intensity) -> bool:
        """Add a restart now to a sliding window; whether that is one too many."""
        window_ns = round(intensity.period * 1e9 * self._runtime.pace)
        times_ns.append(self.now_ns)
        while times_ns[0] < self.now_ns - window_ns:
            times_ns.popleft()
        return len(times_ns) > intensity.restarts

    def _back_off(self, child: _Child) -> None:
        backoff = child.spec.backoff
        delay_s = min(backoff.limit, backoff.base * 2.0 ** min(child.failures - 1, 64))
        delay_s *= 1 + self.rng.uniform(-backoff.jitter, backoff.jitter) if backoff.jitter else 1
        delay_ns = round(delay_s * 1e9 * self._runtime.pace)
        if delay_ns > 0:
            child.due_ns = self.now_ns + delay_ns
            self._incarnation.set_timer(child.due_ns, RestartDue(child.cell.path), child.cell.path)

    def _go_down(self, reason: Reason) -> None:
        """Stop all children, then end for `reason`. A graver later reason wins."""
        if self._final is None or (reason.ending is Ending.HALTED and not self._final.ending.abnormal):
            self._final = reason
        for child in self._children.values():
            child.wanted = False

    # --- what to do next --------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Take every step that is possible now."""
        self._stop_next()
        busy = any(self._must_go(child) or child.phase is _Phase.STOPPING for child in self._children.values())
        in_order = self._starting or self._strategy is not Strategy.ONE_FOR_ONE
        if not busy or (not in_order and self._final is None):
            self._forget_ended()
            if self._final is None:
                self._start_next(in_order=in_order)
        if self._final is not None and all(c.phase is _Phase.DOWN for c in self._children.values()):
            self._incarnation.finish(self._final)
            return
        if (
            self._starting
            and self._final is None
            and all(child.phase is _Phase.RUNNING for child in self._children.values())
        ):
            self._starting = False
            self._incarnation.report_up()

    def _must_go(self, child: _Child) -> bool:
        return child.phase in (_Phase.STARTING, _Phase.RUNNING) and (not child.wanted or child.recycle)

    def _stop_next(self) -> None:
        """Stop the last child that has to go, unless one is stopping already."""
        if any(child.phase is _Phase.STOPPING for child in self._children.values()):
            return
        for child in reversed(self._children.values()):
            if self._must_go(child):
                child.phase = _Phase.STOPPING
                child.cell.state = "stopping"
                self._arm(child, child.spec.shutdown)
                self._runtime.send_stop(child.cell, self._reason_for(child))
                return

    def _reason_for(self, child: _Child) -> Reason:
        if self._final is not None:
            ending = self._final.ending
            return self._final if ending in (Ending.SHUTDOWN, Ending.HALTED, Ending.RESTART) else Reason(Ending.RESTART)
        return Reason(Ending.RESTART if child.wanted else Ending.SHUTDOWN)

    def _forget_ended(self) -> None:
        """Close the addresses of those who ended for good, and see whether they were what this supervisor was for."""
        ended = [child for child in self._children.values() if child.forget and child.phase is _Phase.DOWN]
        for child in ended:
            self._runtime.terminate(child.cell, "ended")
            del self._children[child.cell.path]
        if not ended or self._final is not None:
            return
        significant = [child for child in self._children.values() if child.spec.significant]
        if any(child.spec.significant for child in ended) and (
            self._auto is AutoShutdown.ANY_SIGNIFICANT
            or (self._auto is AutoShutdown.ALL_SIGNIFICANT and not significant)
        ):
            self._go_down(Reason(Ending.NORMAL, "significant children ended"))
            self._stop_next()

    def _start_next(self, *, in_order: bool) -> None:
        """Start who is wanted; in order, one waits for those before it, also through their backoff."""
        for child in list(self._children.values()):
            if child.phase is _Phase.RUNNING or not child.wanted:
                continue
            if child.phase is _Phase.DOWN and (child.due_ns is None or child.due_ns <= self.now_ns):
                self._start(child)
            if in_order:
                return

    def _start(self, child: _Child) -> None:
        child.due_ns = None
        for other in self._children.values():  # the new epoch begins with the first start
            if other.stale and other.phase is _Phase.DOWN:
                other.cell.mailbox.drain(Outcome.DISCARDED, "of the epoch before a restart")
                other.stale = False
        if child.ran and not child.spec.mailbox.keep:
            child.cell.mailbox.drain(Outcome.DISCARDED, "at the restart")
        child.phase = _Phase.STARTING
        child.cell.state = "starting"
        child.generation = child.cell.generation + 1
        self._arm(child, child.spec.start_within)
        try:
            self._runtime.spawn(child.cell)
        except RuntimeError as error:  # "can't start new thread"
            child.cell.last_error = str(error)
            reason = Reason(Ending.START_FAILED, str(error))
            self._runtime.send_control(self.path, ChildEnded(child.cell.path, child.generation, reason))

    # --- helpers ----------------------------------------------------------------------------------------------------

    @property
    def _runtime(self) -> Runtime:
        return self._incarnation.runtime

    def _adopt(self, spec: ChildSpec, *, wanted: bool = True) -> None:
        """Know a child. If a crashed predecessor left it alive, it goes down first."""
        cell = self._runtime.ensure_cell(f"{self.path}/{spec.id}", self.path, spec)
        child = self._children[cell.path] = _Child(spec, cell)
        child.wanted, child.forget = wanted, not wanted
        if cell.generation > 0:
            child.ran = True
            child.stale = True
        if cell.alive:
            child.phase, child.generation, child.recycle = _Phase.RUNNING, cell.generation, True

    def _current(self, path: str, generation: int) -> _Child | None:
        """The child, if the news is about the incarnation it has now."""
        child = self._children.get(path)
        return child if child is not None and child.generation == generation else None

    def _arm(self, child: _Child, delay_s: float) -> None:
        self._disarm(child)
        control = DeadlinePassed(child.cell.path, child.generation)
        child.guard = self._runtime.guard(delay_s, self._incarnation, control)

    def _disarm(self, child: _Child) -> None:
        if child.guard is not None:
            self._runtime.cancel_guard(child.guard)
            child.guard = None
