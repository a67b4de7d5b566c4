"""The live system: one thread per actor, real time or a clock that a driver moves, and one thread for timers and watch.

With a WallClock or ScaledClock timers fire by themselves. With a ManualClock ("paced") time stands still until
`advance_to`; `run_until_idle` waits for exact quiescence in between, so that a run on threads can be driven as fast as
it handles its messages. Deadlines and hang detection are about real threads and always use real seconds.
"""

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from actors.kernel._pykka import ThreadInbox, ThreadIncarnation
from actors.kernel.control import ChildStuck, Control, Ending, Reason
from actors.kernel.incarnation import START, Incarnation
from actors.kernel.mailbox import BlockingLane, Mailbox
from actors.kernel.record import TIMER, Record, Sink
from actors.kernel.ref import Ref, running
from actors.kernel.runtime import EXIT_OK, NotIdle, Runtime, StartFailed, count_value
from actors.kernel.spec import ChildSpec
from actors.kernel.timers import Timer, TimerHeap
from algo_royale.clock import Clock, ManualClock

SWITCH_INTERVAL_S = 0.0005
"""A CPU-bound neighbour costs a five-hop message 5 to 7 ms with it, and 15 to 83 ms with CPython's 5 ms."""
TICK_S_MAX = 0.25
"""The timer thread looks at the clock at least this often, so that a wall clock set forward is noticed."""
SIGNAL_LAG_S = 0.05
CODE_INTERRUPTED = 130


def spawn_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread for blocking reads at the edge. It tells refs and touches no actor."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


class ThreadSystem(Runtime):
    """Runs a tree of actors on threads."""

    def __init__(self, clock: Clock, seed: int = 0, log: Sink | None = None) -> None:
        super().__init__(clock, seed, log)
        self._manual = clock if isinstance(clock, ManualClock) else None
        self._guards = TimerHeap()
        self._changed = threading.Condition()
        self._idle: threading.Event | None = None
        self._root_decided = threading.Event()  # started, or failed to
        self._root_over = threading.Event()
        self._news: SimpleQueue[int] = SimpleQueue()
        self._interrupts = 0
        self._closing = False
        self._keeper: threading.Thread | None = None
        self._incarnations: list[ThreadIncarnation] = []
        self._watch = Watch(self)

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self, root_spec: ChildSpec) -> Ref[Any]:
        """Start the tree and wait until all of it stands; raises StartFailed if it does not."""
        self._keeper = spawn_thread("kernel-timers", self._keep_time)
        root = self._begin(root_spec)
        self._root_decided.wait()
        if not self._root_up or self._root_ended is not None:
            reason = self._root_ended or Reason(Ending.START_FAILED)
            self.stop(5.0)
            raise StartFailed(reason.detail or reason.ending.value)
        return self.ref(root.path)

    def stop(self, deadline_s: float = 30.0) -> int:
        """Stop in good order, wait at most `deadline_s`, return the exit code. For the thread that started it."""
        if self._result is not None:
            return self._result
        due = time.monotonic() + deadline_s
        late = False
        if self._root is not None:
            if self._root_ended is None:
                self.request_stop(EXIT_OK, "stopped as asked")
            late = not self._root_over.wait(deadline_s)
        if late:
            for cell in list(self.cells.values()):
                if cell.alive:
                    self.fence(cell, "shutdown deadline passed", what="abandoned")
        for incarnation in self._incarnations:
            incarnation.thread.join(0.05 if incarnation.fenced else max(0.2, due - time.monotonic()))
        self._close_keeper()
        return self._settle(late=late)

    def run(self, deadline_s: float = 30.0) -> int:
        """Block the main thread until the system ends or SIGTERM or SIGINT asks it to; a second SIGINT returns 130."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        # A handler may interrupt anything, so it takes no lock: SimpleQueue.put is made for that.
        with _handlers(lambda number, _frame: self._news.put(number)):
            while self.exit_code is None:
                self._hear()
            due = time.monotonic() + deadline_s
            while self._root_ended is None and time.monotonic() < due:
                self._hear()
                if self._interrupts > 1:
                    self._close_keeper()
                    self._settle(late=True)
                    return CODE_INTERRUPTED
            return self.stop(max(0.0, due - time.monotonic()))

    def _close_keeper(self) -> None:
        self._closing = True
        self._wake_keeper()
        if self._keeper is not None:
            self._keeper.join(1.0)

    def _hear(self) -> None:
        """Wait a moment for a signal, or (0) a change of the root.

        No longer than a moment: the system may deliver a signal to any thread, and only a main thread that runs
        bytecode calls its handler.
        """
        try:
            number = self._news.get(timeout=SIGNAL_LAG_S)
        except Empty:
            return
        if number == signal.SIGINT:
            self._interrupts += 1
        if number:
            self.request_stop(EXIT_OK, signal.Signals(number).name)

    # --- pace -------------------------------------------------------------------------------------------------------

    def run_until_idle(self, timeout_s: float = 30.0) -> None:
        """Wait until everything told has ended, but for what waits for an actor in backoff. Raises NotIdle.

        Exact, by counting: every record, control message and start begins once and ends once.
        """
        due = time.monotonic() + timeout_s
        idle = threading.Event()
        self._idle = idle
        try:
            while not self._quiescent():
                idle.clear()
                if self._quiescent():
                    return
                if not idle.wait(max(0.0, due - time.monotonic())) and time.monotonic() >= due:
                    raise NotIdle(f"still busy after {timeout_s} s: {', '.join(self._busy()) or 'nobody'}")
        finally:
            self._idle = None

    def advance_to(self, when_ns: int) -> None:
        """Move the ManualClock; all timers of one instant are queued before anyone runs, and are worked off first."""
        if self._manual is None:
            raise TypeError("only a ManualClock can be moved")
        while (due_ns := self.timers.next_due()) is not None and due_ns <= when_ns:
            self._manual.move_to(due_ns)
            self._fire_together(self.timers.pop_due(self.now_ns()))
            if due_ns < when_ns:
                self.run_until_idle()
        self._manual.move_to(when_ns)

    def _quiescent(self) -> bool:
        ended = count_value(self._ended)  # first: see below
        dead = [cell.mailbox for cell in list(self.cells.values()) if not cell.alive]
        parked = sum(len(mailbox.data) + len(mailbox.control) for mailbox in dead)
        # Whatever began before the next line and is neither ended nor parked shows as a difference.
        return count_value(self._begun) - 1 == ended + parked

    def _busy(self) -> Iterator[str]:
        for cell in list(self.cells.values()):
            incarnation = cell.incarnation
            claim = incarnation.claim[:1] if incarnation is not None else []
            if claim:
                what = claim[0].message if isinstance(claim[0], Record) else claim[0]
                yield f"{cell.path} ({'start' if what is START else type(what).__name__})"
            elif cell.alive and len(cell.mailbox):
                yield f"{cell.path} ({len(cell.mailbox)} queued)"

    def idle_hint(self) -> None:
        idle = self._idle
        if idle is not None:
            idle.set()

    # --- what Runtime asks for --------------------------------------------------------------------------------------

    def make_incarnation(self) -> ThreadIncarnation:
        return ThreadIncarnation()

    def launch(self, incarnation: Incarnation) -> None:
        assert isinstance(incarnation, ThreadIncarnation)
        incarnation.launch()
        self._incarnations = [old for old in self._incarnations if old.thread.is_alive()] + [incarnation]

    def is_stuck(self, incarnation: Incarnation) -> bool:
        assert isinstance(incarnation, ThreadIncarnation)
        return incarnation.thread.is_alive()

    def add_timer(self, when_ns: int, owner: Incarnation, item: object) -> Timer:
        timer = super().add_timer(when_ns, owner, item)
        if self._manual is None and self.timers.is_first(timer):
            self._wake_keeper()
        return timer

    def guard(self, delay_s: float, owner: Incarnation, control: Control) -> Timer:
        timer = self._guards.add(time.monotonic_ns() + round(delay_s * 1e9), owner.cell.mailbox, control, owner)
        self._wake_keeper()
        return timer

    def cancel_guard(self, timer: Timer) -> None:
        self._guards.cancel(timer)

    def wait_for_room(self, mailbox: Mailbox) -> bool:
        if running.incarnation is not None or not isinstance(mailbox.data, BlockingLane):
            return False
        mailbox.data.wait(mailbox)
        return True

    def root_changed(self) -> None:
        self._root_decided.set()
        if self._root_ended is not None:
            self._root_over.set()
        self._news.put(0)
        self.idle_hint()

    def request_stop(self, exit_code: int, reason: str) -> None:
        super().request_stop(exit_code, reason)
        self._news.put(0)

    def make_bell(self) -> "_ThreadBell":
        return _ThreadBell()

    # --- the timer thread -------------------------------------------------------------------------------------------

    def _wake_keeper(self) -> None:
        with self._changed:
            self._changed.notify()

    def _keep_time(self) -> None:
        while not self._closing:
            if self._manual is None:
                self._fire(self.timers, self.now_ns())
            self._fire(self._guards, time.monotonic_ns())
            self._watch.look()
            with self._changed:
                wait_s = self._seconds_to_next()
                if wait_s > 0 and not self._closing:
                    self._changed.wait(wait_s)

    def _seconds_to_next(self) -> float:
        wait_s = min(TICK_S_MAX, self._watch.interval_s)
        due_ns = self._guards.next_due()
        if due_ns is not None:
            wait_s = min(wait_s, (due_ns - time.monotonic_ns()) / 1e9)
        due_ns = self.timers.next_due() if self._manual is None else None
        if due_ns is not None:
            wait_s = min(wait_s, (due_ns - self.now_ns()) / 1e9 / self.pace)
        return wait_s

    def _fire(self, heap: TimerHeap, now_ns: int) -> None:
        for timer in heap.pop_due(now_ns):
            deliver(self, timer)

    def _fire_together(self, due: list[Timer]) -> None:
        """Queue timers while their readers are held, so that nobody runs before all of them are queued."""
        with contextlib.ExitStack() as held:
            for mailbox in dict.fromkeys(timer.mailbox for timer in due):
                if isinstance(mailbox.view, ThreadInbox):
                    held.enter_context(mailbox.view.held)
            for timer in due:
                deliver(self, timer)


class _ThreadBell:
    """An edge thread waits on an event."""

    waiting = True

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self, mailbox: Mailbox) -> None:
        self._event.set()

    def ring(self) -> None:
        self._event.set()

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        return self._event.wait(timeout_s) and done()


def deliver(runtime: Runtime, timer: Timer) -> None:
    """Put a fired timer's item into its mailbox."""
    if isinstance(timer.item, Control):
        runtime.next_id()
        timer.mailbox.put_control(timer.item)
        return
    number = runtime.next_id()
    path, generation = timer.mailbox.path, timer.owner.generation
    timer.mailbox.put(Record(number, 0, number, TIMER, generation, path, runtime.now_ns(), timer.item))


class Watch:
    """Finds actors that make no progress, and threads that are gone. Looks, and tells the supervisor; never pings.

    An actor makes progress when it works on another message than at the last look, or crosses the border of a protected
    zone. A long queue is no hang, and an idle actor is none either.
    """

    def __init__(self, system: ThreadSystem) -> None:
        self._system = system
        self._seen: dict[Incarnation, tuple[int, int, int]] = {}  # (item, zone serial, since ns)
        self._next_look_s = 0.0
        self.interval_s = TICK_S_MAX

    def look(self) -> None:
        """One round, if it is time for one."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        shortest_s = 4 * TICK_S_MAX
        seen: dict[Incarnation, tuple[int, int, int]] = {}
        for cell in list(self._system.cells.values()):
            incarnation = cell.incarnation
            if incarnation is None or not isinstance(incarnation, ThreadIncarnation) or not incarnation.up:
                continue
            if incarnation.over or incarnation.fenced or cell.parent is None:
                continue
            if not incarnation.thread.is_alive():
                self._tell(incarnation, Ending.VANISHED, "its thread is gone")
                continue
            shortest_s = min(shortest_s, cell.spec.hang_after)
            mark = self._progress(incarnation)
            if mark is not None:
                seen[incarnation] = mark
        self._seen = seen
        self.interval_s = max(0.005, shortest_s / 4)
        self._next_look_s = now_s + self.interval_s

    def _progress(self, incarnation: ThreadIncarnation) -> tuple[int, int, int] | None:
        """What it works on and since when; None if it is idle or has just been reported."""
        claim = incarnation.claim[:1]
        if not claim or incarnation.actor._supervises:
            return None
        now_ns = time.monotonic_ns()
        item = claim[0]
        number = item.id if isinstance(item, Record) else id(item)  # a record's address may be the next one's
        mark = (number, incarnation.zones.serial, now_ns)
        before = self._seen.get(incarnation)
        if before is None or before[:2] != mark[:2]:
            return mark
        limit_s = incarnation.zones.limit(incarnation.cell.spec.hang_after)
        if now_ns - before[2] < limit_s * 1e9:
            return before
        frame = sys._current_frames().get(incarnation.thread.ident or 0)
        stack = "".join(traceback.format_stack(frame)[-8:]) if frame is not None else ""
        what = claim[0].message if isinstance(claim[0], Record) else claim[0]
        self._tell(incarnation, Ending.HUNG, f"{type(what).__name__} for {limit_s} s\n{stack}".strip())
        return None

    def _tell(self, incarnation: ThreadIncarnation, ending: Ending, detail: str) -> None:
        parent = incarnation.cell.parent
        assert parent is not None
        stuck = ChildStuck(incarnation.path, incarnation.generation, Reason(ending, detail))
        self._system.send_control(parent, stuck)


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
