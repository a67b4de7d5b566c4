"""The deterministic system: the same actors, one thread, virtual time, a canonical or a seeded order, faults by index.

`seed=None` handles messages in the order they were told (the canonical order, for backtests and replay); a number picks
the next actor at random, which explores what threads could do. Equal seeds give equal traces. Time moves only when
nobody is ready, or by `advance_to`.
"""

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.kernel._pykka import FrozenError, StepIncarnation
from actors.kernel.control import ChildStuck, Control, Ending, Reason
from actors.kernel.incarnation import Incarnation
from actors.kernel.mailbox import Item, Mailbox
from actors.kernel.record import Record, Sink
from actors.kernel.ref import Ref, running
from actors.kernel.runtime import EXIT_OK, NotIdle, Runtime, StartFailed
from actors.kernel.spec import ChildSpec
from actors.kernel.threads import deliver
from actors.kernel.timers import Timer
from algo_royale.clock import ManualClock


class Crash(Exception):
    """An injected failure."""


INJECTED = Crash("injected")


@dataclass(frozen=True, slots=True)
class Hang:
    """An injected hang: the handler takes `seconds` of virtual time, or for ever."""

    seconds: float = float("inf")


class Faults:
    """Override what you want to break. Return an exception to raise, a Hang, or None.

    `index` counts handled data messages of the whole system from 0 on; the same seed gives the same numbering up to the
    first fault. `before` breaks the handler at its door, `after` when it has done and told everything.
    """

    def before(self, index: int, path: str, message: Any) -> BaseException | Hang | None:
        return None

    def after(self, index: int, path: str, message: Any) -> BaseException | Hang | None:
        return None

    def start(self, path: str, generation: int) -> BaseException | Hang | None:
        """Breaks `started`."""
        return None

    def control(self, path: str, control: Control) -> BaseException | None:
        """Breaks a supervisor as it handles `control`."""
        return None


@dataclass(frozen=True, slots=True)
class CrashAt(Faults):
    """Crash the handling of one message: the element of a crash sweep."""

    index: int
    when: str = "before"
    fault: BaseException | Hang = INJECTED

    def before(self, index: int, path: str, message: Any) -> BaseException | Hang | None:
        return self.fault if index == self.index and self.when == "before" else None

    def after(self, index: int, path: str, message: Any) -> BaseException | Hang | None:
        return self.fault if index == self.index and self.when == "after" else None


NO_FAULTS = Faults()


class _Ready:
    """The view of every mailbox here: what is put is scheduled."""

    waiting = True

    def __init__(self, schedule: Callable[[Mailbox], None]) -> None:
        self.wake = schedule


@dataclass(frozen=True, slots=True, order=True)
class _Thaw:
    """When a hung handler (or start: item None) comes back; `done` if it hung after its work."""

    due_ns: int
    serial: int
    incarnation: StepIncarnation
    item: Record | None
    done: bool


class _StepBell:
    """An edge that waits drives the system meanwhile."""

    waiting = False

    def __init__(self, system: "SteppedSystem") -> None:
        self._system = system

    def wake(self, mailbox: Mailbox) -> None: ...

    def ring(self) -> None: ...

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        return self._system.run_until(done, timeout_s)


class SteppedSystem(Runtime):
    """Runs a tree of actors one message at a time, in the thread that calls it."""

    clock: ManualClock

    def __init__(
        self,
        start_ns: int = 0,
        seed: int | None = None,
        faults: Faults = NO_FAULTS,
        log: Sink | None = None,
        *,
        keep_trace: bool = True,
    ) -> None:
        super().__init__(ManualClock(start_ns), seed or 0, log)
        self._order = None if seed is None else random.Random(seed)
        self._faults = None if faults is NO_FAULTS else faults
        self.stopwatch = int  # always 0: equal seeds give equal records
        self._trace: list[Record] = []
        if keep_trace:
            self.write = self._record if log is not None else self._trace.append
        self._fifo: deque[Mailbox] = deque()  # canonical order: one entry per put
        self._pool: list[Mailbox] = []  # seeded order: who may be ready
        self._pooled: set[Mailbox] = set()
        self._view = _Ready(self._fifo.append if self._order is None else self._into_pool)
        self._index = 0
        self._serial = 0
        self._thaws: list[_Thaw] = []
        self._frozen: dict[StepIncarnation, Timer | None] = {}  # with the timer of the watch

    @property
    def trace(self) -> Sequence[Record]:
        """Every record that has ended, in that order."""
        return self._trace

    @property
    def handled_count(self) -> int:
        """How many data messages have come to a handler: one more than the last fault index."""
        return self._index

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self, root_spec: ChildSpec) -> Ref[Any]:
        """Start the tree and run until all of it stands; raises StartFailed if it does not."""
        root = self._begin(root_spec)
        self.run_until(lambda: self._root_up or self._root_ended is not None, float("inf"))
        if not self._root_up or self._root_ended is not None:
            reason = self._root_ended or Reason(Ending.START_FAILED, "hangs")
            self.stop(0.0)
            raise StartFailed(reason.detail or reason.ending.value)
        return self.ref(root.path)

    def stop(self, deadline_s: float = 30.0) -> int:
        """Stop in good order within `deadline_s` virtual seconds; returns the exit code."""
        if self._result is not None:
            return self._result
        if self._root is not None and self._root_ended is None:
            self.request_stop(EXIT_OK, "stopped as asked")
            self.run_until(lambda: self._root_ended is not None, deadline_s)
        late = self._root is not None and self._root_ended is None
        if late:
            for cell in list(self.cells.values()):
                if cell.alive:
                    self.fence(cell, "shutdown deadline passed", what="abandoned")
        while self.step():
            pass
        return self._settle(late=late)

    # --- pace -------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Run one start or one message; False if nobody is ready."""
        found = self._next_in_order() if self._order is None else self._next_at_random(self._order)
        if found is None:
            return False
        incarnation, item = found
        running.incarnation = incarnation
        try:
            if item is None:
                self._start_one(incarnation)
            elif type(item) is not Record:
                incarnation.step(item)
            elif self._faults is None:
                self._index += 1
                incarnation.step(item)
            else:
                self._handle_with_faults(incarnation, item, self._faults)
        finally:
            running.incarnation = None
        return True

    def run_until_idle(self, timeout_s: float = 30.0) -> None:
        """Run until nobody is ready, at the present time. Raises NotIdle after `timeout_s` real seconds."""
        due = time.monotonic() + timeout_s
        while self.step():
            if not self._index & 0xFFF and time.monotonic() > due:
                raise NotIdle(f"still busy after {timeout_s} s")

    def next_timer_ns(self) -> int | None:
        due_ns = self.timers.next_due()
        if self._thaws and (due_ns is None or self._thaws[0].due_ns < due_ns):
            return self._thaws[0].due_ns
        return due_ns

    def advance_to(self, when_ns: int) -> None:
        """Move the clock; all timers of one instant are queued before anyone runs, and are worked off first."""
        while (due_ns := self.next_timer_ns()) is not None and due_ns <= when_ns:
            self.clock.move_to(due_ns)
            while self._thaws and self._thaws[0].due_ns <= due_ns:
                self._thaw(heapq.heappop(self._thaws))
            for timer in self.timers.pop_due(self.now_ns()):
                deliver(self, timer)
            if due_ns < when_ns:
                self.run_until_idle()
        self.clock.move_to(when_ns)

    def run_until(self, done: Callable[[], bool], timeout_s: float = float("inf")) -> bool:
        """Run, and let time pass when nobody is ready, until `done`; False if that cannot happen in (virtual) time."""
        limit_ns = self.now_ns() + timeout_s * 1e9
        while not done():
            if self.step():
                continue
            due_ns = self.next_timer_ns()
            if due_ns is None or due_ns > limit_ns:
                return False
            self.advance_to(due_ns)
        return True

    # --- order ------------------------------------------------------------------------------------------------------

    def _next_in_order(self) -> tuple[StepIncarnation, Item | None] | None:
        fifo = self._fifo
        while fifo:
            mailbox = fifo.popleft()
            incarnation = mailbox.reader
            if incarnation is None or incarnation.over or incarnation.fenced or incarnation in self._frozen:
                continue  # queued again when there is a reader
            if not incarnation.begun:
                return incarnation, None
            try:
                return incarnation, mailbox.control.popleft() if mailbox.control else mailbox.data.popleft()
            except IndexError:
                continue
        return None

    def _next_at_random(self, order: random.Random) -> tuple[StepIncarnation, Item | None] | None:
        pool = self._pool
        while pool:
            at = order.randrange(len(pool))
            mailbox = pool[at]
            incarnation = mailbox.reader
            if (
                incarnation is not None
                and not (incarnation.over or incarnation.fenced or incarnation in self._frozen)
                and (mailbox.control or mailbox.data or not incarnation.begun)
            ):
                if not incarnation.begun:
                    return incarnation, None
                return incarnation, mailbox.control.popleft() if mailbox.control else mailbox.data.popleft()
            pool[at] = pool[-1]
            pool.pop()
            self._pooled.discard(mailbox)
        return None

    def _into_pool(self, mailbox: Mailbox) -> None:
        if mailbox not in self._pooled:
            self._pooled.add(mailbox)
            self._pool.append(mailbox)

    def _reschedule(self, mailbox: Mailbox) -> None:
        """A mailbox got its reader back: its backlog is older than what is scheduled."""
        if self._order is not None:
            self._into_pool(mailbox)
        else:
            self._fifo.extendleft([mailbox] * (len(mailbox.data) + len(mailbox.control)))

    # --- faults -----------------------------------------------------------------------------------------------------

    def _start_one(self, incarnation: StepIncarnation) -> None:
        incarnation.begun = True
        if self._faults is not None:
            fault = self._faults.start(incarnation.path, incarnation.generation)
            if isinstance(fault, Hang):
                self._freeze(incarnation, None, fault, done=False)
                return
            incarnation.start_fault = fault
        incarnation.step(None)
        self._reschedule(incarnation.cell.mailbox)

    def _handle_with_faults(self, incarnation: StepIncarnation, record: Record, faults: Faults) -> None:
        index, path, message = self._index, record.recipient, record.message
        self._index += 1
        early = faults.before(index, path, message)
        if isinstance(early, Hang):
            incarnation.claim.append(record)
            self._freeze(incarnation, record, early, done=False)
            return
        handle = incarnation.handle
        late: list[Hang] = []

        def broken(message: Any) -> None:
            if early is not None:
                raise early
            handle(message)
            fault = faults.after(index, path, message)
            if isinstance(fault, Hang):
                late.append(fault)
                raise FrozenError
            if fault is not None:
                raise fault

        incarnation.handle = broken
        incarnation.step(record)
        incarnation.handle = handle
        if late:
            self._freeze(incarnation, record, late[0], done=True)

    def _freeze(self, incarnation: StepIncarnation, record: Record | None, hang: Hang, *, done: bool) -> None:
        """From now on it is in a handler that does not return; the watch sees it after `hang_after`."""
        cell, watch = incarnation.cell, None
        if cell.parent is not None and record is not None:
            detail = f"{type(record.message).__name__} for {cell.spec.hang_after} s"
            stuck = ChildStuck(cell.path, incarnation.generation, Reason(Ending.HUNG, detail))
            due_ns = self.now_ns() + round(cell.spec.hang_after * 1e9)
            watch = self.timers.add(due_ns, self.mailbox_at(cell.parent), stuck, incarnation)
        self._frozen[incarnation] = watch
        if hang.seconds != float("inf"):
            self._serial += 1
            due_ns = self.now_ns() + round(hang.seconds * 1e9)
            heapq.heappush(self._thaws, _Thaw(due_ns, self._serial, incarnation, record, done))

    def _thaw(self, thaw: _Thaw) -> None:
        """The hung handler comes back: it goes on, or finds that it was given up."""
        incarnation, record = thaw.incarnation, thaw.item
        watch = self._frozen.pop(incarnation, None)
        if watch is not None:
            self.timers.cancel(watch)
        running.incarnation = incarnation
        try:
            if record is None:
                incarnation.step(None)
            elif incarnation.fenced:
                incarnation.come_back_late(None if thaw.done else record)
            else:
                incarnation.claim.clear()
                handle = incarnation.handle
                if thaw.done:
                    incarnation.handle = _nothing
                incarnation.step(record)
                incarnation.handle = handle
        finally:
            running.incarnation = None
        self._reschedule(incarnation.cell.mailbox)

    # --- what Runtime asks for --------------------------------------------------------------------------------------

    def mailbox_made(self, mailbox: Mailbox) -> None:
        mailbox.view = self._view

    def make_incarnation(self) -> StepIncarnation:
        return StepIncarnation()

    def launch(self, incarnation: Incarnation) -> None:
        assert isinstance(incarnation, StepIncarnation)
        mailbox = incarnation.cell.mailbox
        mailbox.reader = incarnation
        self._view.wake(mailbox)

    def starting(self, incarnation: Incarnation) -> None:
        assert isinstance(incarnation, StepIncarnation)
        if incarnation.start_fault is not None:
            raise incarnation.start_fault

    def on_control(self, incarnation: Incarnation, control: Control) -> None:
        fault = self._faults.control(incarnation.path, control) if self._faults is not None else None
        if fault is not None:
            raise fault

    def is_stuck(self, incarnation: Incarnation) -> bool:
        return incarnation in self._frozen

    def guard(self, delay_s: float, owner: Incarnation, control: Control) -> Timer:
        return self.timers.add(self.now_ns() + round(delay_s * 1e9), owner.cell.mailbox, control, owner)

    def cancel_guard(self, timer: Timer) -> None:
        self.timers.cancel(timer)

    def wait_for_room(self, mailbox: Mailbox) -> bool:
        """The caller is the scheduler itself: it makes room by running the actors."""
        if running.incarnation is not None:
            return False
        while len(mailbox) >= mailbox.capacity and self.step():
            pass
        return len(mailbox) < mailbox.capacity

    def make_bell(self) -> _StepBell:
        return _StepBell(self)

    def _record(self, record: Record) -> None:
        self._trace.append(record)
        if self.log is not None:
            self.log.write(record)


def _nothing(message: object) -> None:
    """The handler had done its work before it hung."""
