"""What both systems share: cells (the stable half of an actor), records, counts, timers, start and stop of the tree."""

from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from actors.kernel.control import ChildEnded, ChildStarted, Control, Ending, Observe, Reason, Stop
from actors.kernel.incarnation import START, Incarnation
from actors.kernel.mailbox import Mailbox
from actors.kernel.record import Outcome, Record, Sink
from actors.kernel.ref import Ref, running
from actors.kernel.spec import ChildSpec, MailboxSpec
from actors.kernel.timers import Timer, TimerHeap
from algo_royale.clock import Clock, ScaledClock, WallClock

if TYPE_CHECKING:
    from actors.kernel.actor import Actor

EXIT_OK, EXIT_FAILED, EXIT_ESCALATED, EXIT_DEADLINE, EXIT_HALTED = 0, 1, 3, 4, 5
_SEVERITY = {EXIT_HALTED: 5, EXIT_ESCALATED: 4, EXIT_DEADLINE: 3}
DEAD_LETTERS_KEPT = 1_000
LEAK_LIMIT = 8
"""More abandoned threads than this, all still alive, and the process must go (exit code 4)."""


class StartFailed(Exception):
    """The tree did not come up; the message names the child and its error."""


class NotIdle(Exception):
    """`run_until_idle` ran out of time; the message names who was still busy."""


def count_value(counter: "count[int]") -> int:
    """The next value of a counter, without taking it. One C call, so it is atomic."""
    return int(repr(counter)[6:-1])


def _nobody() -> "Actor[Any]":
    raise AssertionError("an edge cell has no actor")


class Paced(Protocol):
    """What a driver needs to move either system through time."""

    @property
    def exit_code(self) -> int | None: ...

    def run_until_idle(self, timeout_s: float = 30.0) -> None: ...

    def next_timer_ns(self) -> int | None: ...

    def advance_to(self, when_ns: int) -> None: ...


class Bell(Protocol):
    """What an edge thread waits on for an answer; as a mailbox's view it rings for every message."""

    waiting: bool

    def wake(self, mailbox: Mailbox, /) -> None: ...

    def ring(self) -> None: ...

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `done`, which becomes true before a ring; False if it did not in time."""
        ...


class Cell:
    """The half of an actor that survives restarts: address, mailbox, counters."""

    __slots__ = ("generation", "handled", "incarnation", "last_error", "mailbox", "parent", "path", "spec", "state")

    def __init__(self, path: str, parent: str | None, spec: ChildSpec, mailbox: Mailbox) -> None:
        self.path, self.parent, self.spec, self.mailbox = path, parent, spec, mailbox
        self.generation = 0
        self.handled = 0
        self.incarnation: Incarnation | None = None
        self.last_error = ""
        self.state = "new"  # kept by the supervisor: new starting running stopping backoff ended

    @property
    def alive(self) -> bool:
        """Whether an incarnation takes messages."""
        incarnation = self.incarnation
        return incarnation is not None and not incarnation.over and not incarnation.fenced


class Runtime:
    """Base of ThreadSystem and SteppedSystem."""

    def __init__(self, clock: Clock, seed: int, log: Sink | None) -> None:
        self.clock, self.log = clock, log
        self._seed = seed
        self.now_ns: Callable[[], int] = time_ns if type(clock) is WallClock else clock.now_ns
        self.pace = clock.speed if isinstance(clock, ScaledClock) else 1.0
        self.write: Callable[[Record], object] | None = log.write if log is not None else None
        self.stopwatch: Callable[[], int] = perf_counter_ns
        self.cells: dict[str, Cell] = {}
        self._refs: dict[str, Ref[Any]] = {}
        self._begun = count(1)  # one per record, control message and start; also the ids
        self._ended = count()  # one per end of those
        self.next_id: Callable[[], int] = self._begun.__next__
        self.count_end: Callable[[], int] = self._ended.__next__
        self._dead_count = count()
        self.dead_letters: deque[Record] = deque(maxlen=DEAD_LETTERS_KEPT)
        self.timers = TimerHeap()
        self.no_mailbox = Mailbox("", MailboxSpec(), self)
        self.no_mailbox.close()
        self._requested: tuple[int, str] | None = None
        self._root: Cell | None = None
        self._root_up = False
        self._root_ended: Reason | None = None
        self._result: int | None = None
        self.abandoned: list[Incarnation] = []

    # --- for everyone -----------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        return self._seed

    @property
    def exit_code(self) -> int | None:
        """The code the process is to end with, once that is decided; None while the system just runs."""
        if self._result is not None:
            return self._result
        if self._requested is not None:
            return self._requested[0]
        return self._ended_code()

    @property
    def exit_reason(self) -> str:
        """Why, in words."""
        if self._requested is not None:
            return self._requested[1]
        return self._root_ended.detail if self._root_ended is not None else ""

    @property
    def dead_letter_count(self) -> int:
        """How many records ended as dead letters (every outcome but OK and CONFLATED)."""
        return count_value(self._dead_count)

    def ref(self, path: str) -> Ref[Any]:
        """The address of `path`, whether or not there is an actor."""
        ref = self._refs.get(path)
        if ref is None:
            ref = self._refs[path] = Ref(self, path)
        return ref

    def tree(self) -> list[dict[str, object]]:
        """One row per cell, in the order of their making."""
        return [
            {
                "path": cell.path,
                "state": cell.state,
                "generation": cell.generation,
                "restarts": max(0, cell.generation - 1),
                "mailbox": len(cell.mailbox),
                "handled": cell.handled,
                "last_error": cell.last_error,
            }
            for cell in list(self.cells.values())
            if cell.parent != "edge"
        ]

    def request_stop(self, exit_code: int, reason: str) -> None:
        """Ask the tree to stop in good order. The gravest request decides the code."""
        asked = self._requested
        if asked is not None and _SEVERITY.get(exit_code, 0) <= _SEVERITY.get(asked[0], 0):
            return
        self._requested = (exit_code, reason)
        ending = Ending.HALTED if exit_code == EXIT_HALTED else Ending.SHUTDOWN
        if self._root is not None:
            self.send_control(self._root.path, Stop(Reason(ending, reason)))

    def halt(self, reason: str) -> None:
        """Stop for safety, exit code 5: what is queued is not handled any more."""
        root = self._root.path if self._root is not None else ""
        self.event(root, 0, "halted", reason)
        self.request_stop(EXIT_HALTED, reason)

    def observe(self, path: str, timeout_s: float = 5.0) -> Mapping[str, object]:
        """An actor's `observe()`, taken in its thread. Edge only; raises TimeoutError."""
        answers: deque[Mapping[str, object]] = deque()
        bell = self.make_bell()

        def reply(answer: Mapping[str, object]) -> None:
            answers.append(answer)
            bell.ring()

        self.send_control(path, Observe(reply))
        if not bell.wait(lambda: bool(answers), timeout_s):
            raise TimeoutError(f"{path} did not answer within {timeout_s} s")
        return answers.popleft()

    def glance(self, path: str) -> Mapping[str, object]:
        """An actor's `observe()` in the caller's thread, at once, whatever the actor is doing. Its parts may be of different
        moments; empty when there is no actor or it changed under the look."""
        cell = self.cells.get(path)
        actor = getattr(cell.incarnation, "actor", None) if cell is not None else None
        try:
            return {} if actor is None else actor.observe()
        except (RuntimeError, AttributeError):  # a dict grew meanwhile; an incarnation that has not started
            return {}

    def ask(self, ref: Ref[Any], message: Any, timeout: float) -> object:
        """Tell `message` with its field `reply_to` set, wait for one message there. Edge only; raises TimeoutError."""
        if running.incarnation is not None:
            raise RuntimeError("an actor asks nobody: two that ask each other never wake up")
        number = self.next_id()
        self.count_end()
        path = f"edge/{number}"
        cell = self.ensure_cell(path, "edge", ChildSpec(id=str(number), factory=_nobody))
        bell = cell.mailbox.view = self.make_bell()
        try:
            ref.tell(msgspec.structs.replace(message, reply_to=path))
            if not bell.wait(lambda: bool(cell.mailbox.data), timeout):
                raise TimeoutError(f"{ref.path} did not answer within {timeout} s")
            record = cell.mailbox.data.popleft()
            assert isinstance(record, Record)
            record.handled_ns = self.now_ns()
            self.close_record(record, Outcome.OK, "")
            self.count_end()
            return record.message
        finally:
            del self.cells[path]
            cell.mailbox.close()
            self._refs.pop(path, None)  # of whoever answered there

    # --- cells ------------------------------------------------------------------------------------------------------

    def ensure_cell(self, path: str, parent: str | None, spec: ChildSpec) -> Cell:
        """The open cell at `path`, made if need be."""
        cell = self.cells.get(path)
        if cell is None or cell.mailbox.closed:
            cell = self.cells[path] = Cell(path, parent, spec, Mailbox(path, spec.mailbox, self))
            self.mailbox_made(cell.mailbox)
        cell.spec = spec
        return cell

    def mailbox_at(self, path: str) -> Mailbox:
        cell = self.cells.get(path)
        return cell.mailbox if cell is not None else self.no_mailbox

    def mailbox_made(self, mailbox: Mailbox) -> None:
        """Hook: a new mailbox exists."""

    def children_of(self, path: str) -> list[Cell]:
        """The cells one level below, in the order of their making."""
        return [cell for cell in list(self.cells.values()) if cell.parent == path]

    def spawn(self, cell: Cell) -> None:
        """Start a new incarnation of `cell`. Raises what the making of a thread raises."""
        cell.generation += 1
        self.next_id()  # counts as work until `started` is over
        incarnation = self.make_incarnation()
        incarnation.prepare(self, cell, cell.generation)
        incarnation.claim.append(START)
        cell.incarnation = incarnation
        try:
            self.launch(incarnation)
        except BaseException:
            incarnation.over = True
            incarnation.claim.clear()
            self.count_end()
            raise

    def fence(self, cell: Cell, why: str, *, what: str = "fenced") -> None:
        """Give up the incarnation that `cell` has now. Its thread, if stuck, is left behind and counted."""
        incarnation = cell.incarnation
        if incarnation is None or incarnation.fenced:
            return
        self.event(cell.path, incarnation.generation, what, why)
        incarnation.fence(why)
        self.abandoned = [left for left in self.abandoned if self.is_stuck(left)] + [incarnation]
        if sum(map(self.is_stuck, self.abandoned)) > LEAK_LIMIT:
            self.request_stop(EXIT_DEADLINE, f"more than {LEAK_LIMIT} threads hang")

    def terminate(self, cell: Cell, why: str) -> None:
        """Close the address for good, with everything below it. Living incarnations below are orphans and fenced."""
        below = cell.path + "/"
        doomed = [cell] + [other for other in list(self.cells.values()) if other.path.startswith(below)]
        for other in reversed(doomed):
            if other.alive:
                self.fence(other, f"orphan of {cell.path}")
            other.state = "ended"
            other.mailbox.close()
        self.event(cell.path, cell.generation, "terminated", why)

    def report(self, cell: Cell, control: ChildStarted | ChildEnded) -> None:
        """Tell the supervisor of `cell`, or the system if it is the root."""
        if cell.parent is None:
            self._root_report(control)
        else:
            self.send_control(cell.parent, control)

    def send_control(self, path: str, control: Control, *, last: bool = False) -> None:
        """Put `control` into the control lane of `path` (`last`: behind its queued data)."""
        self.next_id()
        self.mailbox_at(path).put_control(control, last=last)

    def send_stop(self, cell: Cell, reason: Reason) -> None:
        """Ask an incarnation to end. Kept mailboxes are worked off first, if the stop is for good and orderly."""
        spec = cell.spec.mailbox
        last = reason.ending is Ending.SHUTDOWN and spec.keep and not self.is_supervisor(cell)
        self.send_control(cell.path, Stop(reason, cell.generation), last=last)

    def is_supervisor(self, cell: Cell) -> bool:
        """Whether deadlines do not apply: a supervisor's children have their own."""
        actor = getattr(cell.incarnation, "actor", None)
        return actor is not None and actor._supervises

    # --- records ----------------------------------------------------------------------------------------------------

    def close_record(self, record: Record, outcome: Outcome, detail: str) -> None:
        """Complete and write a record; its end is still to be counted."""
        record.outcome, record.detail = outcome, detail
        if outcome is not Outcome.OK and outcome is not Outcome.CONFLATED:
            self.dead_letters.append(record)
            next(self._dead_count)
        if self.write is not None:
            self.write(record)

    def end(self, record: Record, outcome: Outcome, detail: str) -> None:
        """This record will not be handled (any further)."""
        self.close_record(record, outcome, detail)
        self.end_control()

    def end_control(self) -> None:
        """A piece of work ended outside an actor's loop."""
        self.count_end()
        self.idle_hint()

    def event(self, path: str, generation: int, what: str, detail: str, at_ns: int | None = None) -> None:
        if self.log is not None:
            self.log.event(self.now_ns() if at_ns is None else at_ns, path, generation, what, detail)

    # --- timers -----------------------------------------------------------------------------------------------------

    def add_timer(self, when_ns: int, owner: Incarnation, item: object) -> Timer:
        return self.timers.add(when_ns, owner.cell.mailbox, item, owner)

    def cancel_timer(self, timer: Timer) -> None:
        self.timers.cancel(timer)

    def next_timer_ns(self) -> int | None:
        """When the next timer is due, if there is one."""
        return self.timers.next_due()

    # --- the root ---------------------------------------------------------------------------------------------------

    def _begin(self, root_spec: ChildSpec) -> Cell:
        if self._root is not None:
            raise StartFailed("a system starts one tree, once")
        self._root = self.ensure_cell(root_spec.id, None, root_spec)
        self._root.state = "starting"
        try:
            self.spawn(self._root)
        except RuntimeError as error:
            self._root_report(ChildEnded(self._root.path, 1, Reason(Ending.START_FAILED, str(error))))
        return self._root

    def _root_report(self, control: ChildStarted | ChildEnded) -> None:
        assert self._root is not None
        if isinstance(control, ChildStarted):
            self._root_up = True
            self._root.state = "running"
        else:
            self._root_ended = control.reason
            self.terminate(self._root, control.reason.ending.value)
        self.root_changed()

    def _ended_code(self) -> int | None:
        if self._root_ended is None:
            return None
        if not self._root_up:
            return EXIT_FAILED
        return EXIT_ESCALATED if self._root_ended.ending.abnormal else EXIT_OK

    def _settle(self, *, late: bool) -> int:
        """Everything has ended, or the deadline has passed: the final exit code."""
        if self._result is not None:
            return self._result
        code = self.exit_code or EXIT_OK
        if self._root_ended is not None and self._root_ended.ending.abnormal:
            code = max(code, self._ended_code() or 0, key=lambda code: _SEVERITY.get(code, 0))
        stuck = [incarnation.path for incarnation in self.abandoned if self.is_stuck(incarnation)]
        if (late or stuck) and _SEVERITY.get(code, 0) < _SEVERITY[EXIT_DEADLINE]:
            code = EXIT_DEADLINE
        if self._root is not None and self._root_ended is None:
            self.terminate(self._root, "shutdown deadline passed")
        detail = f"exit code {code}" + (f", left behind: {', '.join(stuck)}" if stuck else "")
        self.event(self._root.path if self._root is not None else "", 0, "exit", detail)
        self._result = code
        if self.log is not None:
            self.log.close()
            self.log = None
        return code

    # --- what the systems supply ------------------------------------------------------------------------------------

    def make_incarnation(self) -> Incarnation:
        raise NotImplementedError

    def launch(self, incarnation: Incarnation) -> None:
        raise NotImplementedError

    def starting(self, incarnation: Incarnation) -> None:
        """Hook: `started` is about to be called."""

    def on_control(self, incarnation: Incarnation, control: Control) -> None:
        """Hook: a control message is about to be handled by the actor itself."""

    def is_stuck(self, incarnation: Incarnation) -> bool:
        """Whether a fenced incarnation still occupies a thread."""
        raise NotImplementedError

    def guard(self, delay_s: float, owner: Incarnation, control: Control) -> Timer:
        """A deadline of a supervisor, in real seconds on threads, in virtual ones stepped."""
        raise NotImplementedError

    def cancel_guard(self, timer: Timer) -> None:
        raise NotImplementedError

    def wait_for_room(self, mailbox: Mailbox) -> bool:
        raise NotImplementedError

    def idle_hint(self) -> None:
        """Hook: someone may be waiting for quiescence."""

    def root_changed(self) -> None:
        """Hook: the root has started or ended."""

    def make_bell(self) -> "Bell":
        """Something that an edge thread can wait for."""
        raise NotImplementedError
