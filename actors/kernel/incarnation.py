"""One life of an actor: claims messages, runs hooks, contains every exception, and reports its end to the supervisor.

Nothing here knows Pykka: `_pykka.py` mixes this class into Pykka's actors.

Claims. What an incarnation works on (its start, a record, a control message) lies in `claim`, a list of at most one
item. Whoever pops it ends it: the incarnation when the handler returns, or the fencer when it gives up on it.
`list.pop` is atomic, so every item ends exactly once, however late a hung handler comes back.
"""

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actors.kernel.actor import Halt, Zones
from actors.kernel.control import ChildEnded, ChildStarted, Control, Ending, Observe, Reason, Stop
from actors.kernel.mailbox import Item
from actors.kernel.record import Outcome, Record
from actors.kernel.ref import running
from actors.kernel.spec import Poison

if TYPE_CHECKING:
    from actors.kernel.actor import Actor
    from actors.kernel.runtime import Cell, Runtime
    from actors.kernel.timers import Timer

START = Stop(Reason(Ending.NORMAL, "start"))
"""Lies in `claim` while `started` runs."""

RELEASED = Stop(Reason(Ending.FENCED))
"""What a fenced incarnation gets instead of a message."""

TIMERS_KEPT = 16
"""So many keys of timers that have fired are kept at least, before it is worth looking for them."""


def describe(error: BaseException) -> str:
    """`Type: message`, one line."""
    text = str(error).strip().replace("\n", " | ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Incarnation:
    """Mixed into a Pykka actor. Runs in the actor's thread, but for `fence`."""

    actor: "Actor[Any]"
    _handle_receive: Callable[[Any], Any]

    def prepare(self, runtime: "Runtime", cell: "Cell", generation: int) -> None:
        self.runtime, self.cell, self.generation = runtime, cell, generation
        self.path = cell.path
        self.next_id = runtime.next_id
        self.clock_ns = runtime.now_ns
        self.count_end = runtime.count_end
        self.claim: list[Item] = []
        self.fenced = False
        self.over = False  # its end is decided; reported unless fenced
        self.up = False
        self.zones = Zones()
        self.timers: dict[str, Timer] = {}
        self._timers_most = TIMERS_KEPT
        self.handle: Any = None
        self._built = self._stopped = False
        self._ending: Reason | None = None

    # --- the hooks that Pykka calls ---------------------------------------------------------------------------------

    def on_start(self) -> None:
        running.incarnation = self
        cell, runtime = self.cell, self.runtime
        try:
            actor = self.actor = cell.spec.factory()
            actor._incarnation = self
            actor.path, actor.generation, actor.system = self.path, self.generation, runtime
            actor.now_ns = self.clock_ns()
            self.handle = actor.receive
            self._handle_receive = self._make_handler()  # Pykka's own looks for proxy calls, which do not get here
            self._built = True
            runtime.starting(self)
            actor.started()
        except BaseException as error:
            self._claimed()
            self._fail(error, Ending.START_FAILED)
            self.count_end()
            return
        if not self.fenced:
            runtime.event(self.path, self.generation, "started", "", actor.now_ns)
            if actor._is_up() and not self.over:
                self.report_up()
        if self._claimed():
            self.count_end()

    def _make_handler(self) -> Callable[[Item], None]:
        """What Pykka calls for each item. A closure, because it is the hot path; no allocation, one clock reading."""
        actor, cell, generation, write = self.actor, self.cell, self.generation, self.runtime.write
        clock_ns, stopwatch, count_end = self.clock_ns, self.runtime.stopwatch, self.count_end
        release = self.claim.pop

        def handle(item: Item) -> None:
            if not isinstance(item, Record):
                self._receive_control(item)
                return
            actor.now_ns = now_ns = clock_ns()
            actor._cause = item.id
            actor._corr = item.corr
            began_ns = stopwatch() if write is not None else 0
            try:
                self.handle(item.message)
            except BaseException as error:
                self.fail_record(item, error)
                return
            try:
                release()
            except IndexError:  # fenced meanwhile: the fencer has ended this record
                return
            if write is not None:
                item.handled_ns = now_ns
                item.attempt = generation
                item.took_us = (stopwatch() - began_ns) // 1000
                write(item)
            cell.handled += 1
            count_end()
            if self._ending is not None:
                self._stop_now(self._ending)

        return handle

    # --- control ----------------------------------------------------------------------------------------------------

    def _receive_control(self, control: Control) -> None:
        if control is RELEASED:
            return
        actor = self.actor
        actor.now_ns = self.clock_ns()
        actor._cause = actor._corr = 0
        try:
            if isinstance(control, Stop):
                if control.generation in (0, self.generation):
                    actor._stop(control.reason)
            elif isinstance(control, Observe):
                control.reply(actor.observe())
            else:
                self.runtime.on_control(self, control)
                actor._control(control)
        except BaseException as error:
            if not self.fenced:
                self._fail(error, Ending.FAILED)
        if self._ending is not None:
            self._stop_now(self._ending)
        if self._claimed():
            self.count_end()

    # --- ends -------------------------------------------------------------------------------------------------------

    def fail_record(self, record: Record, error: BaseException) -> None:
        """The handler of `record` raised."""
        if not self._claimed():
            return
        detail = describe(error)
        record.handled_ns, record.attempt = self.actor.now_ns, self.generation
        self.runtime.close_record(record, Outcome.FAILED, detail)
        if self.cell.spec.on_poison is Poison.HALT and not isinstance(error, Halt):
            error = Halt(f"{self.path} could not handle {type(record.message).__name__}: {detail}")
        self._fail(error, Ending.FAILED)
        self.count_end()

    def finish(self, reason: Reason) -> None:
        """End in order: the hook, then the report, which is the last thing a supervisor hears of this incarnation."""
        if self.over:
            return
        self.over = True
        self._call_stopped(reason)
        self.release_timers()
        self._loop_ends()
        if not self.fenced:
            self.runtime.event(self.path, self.generation, "stopped", reason.ending.value)
            self.runtime.report(self.cell, ChildEnded(self.path, self.generation, reason))

    def after_loop(self) -> None:
        """The loop is left; `stopped` is called even if the incarnation was fenced in the middle of a handler."""
        self._call_stopped(Reason(Ending.FENCED))

    def loop_broke(self, error: BaseException) -> None:
        """An exception left Pykka's loop itself."""
        self.next_id()  # a piece of work until it is reported
        if self._claimed():
            self.count_end()
        if not self.over:
            self._fail(error, Ending.VANISHED)
        self.count_end()

    def stop_self(self, reason: Reason) -> None:
        """End when the current handler returns."""
        self._ending = self._ending or reason
        if self.claim[:1] == [START]:  # no handler yet: leave a message
            self.runtime.send_control(self.path, Stop(reason, self.generation))

    def report_up(self) -> None:
        """The start is over."""
        self.up = True
        self.runtime.report(self.cell, ChildStarted(self.path, self.generation))

    def fence(self, why: str) -> None:
        """Give this incarnation up, from another thread: it takes no more messages and tells none."""
        self.fenced = True  # first, so that tells stop
        self._bar_inbox()
        self._loop_ends()
        self.release_timers()
        try:
            item = self.claim.pop()
        except IndexError:
            return
        if isinstance(item, Record):
            item.handled_ns, item.attempt = self.runtime.now_ns(), self.generation
            self.runtime.end(item, Outcome.FENCED, why)
        else:
            self.runtime.end_control()

    def _stop_now(self, reason: Reason) -> None:
        if not self.over and not self.fenced:
            self.actor._stop(reason)

    def _claimed(self) -> bool:
        try:
            self.claim.pop()
        except IndexError:
            return False
        return True

    def _fail(self, error: BaseException, ending: Ending) -> None:
        """Report the failure of this incarnation and leave the loop."""
        self.over = True
        self._loop_ends()
        self.release_timers()
        if self.fenced:
            return
        detail = describe(error)
        self.cell.last_error = detail
        trace = "".join(traceback.format_exception(error)[-6:])
        self.runtime.event(self.path, self.generation, "failed", trace.strip())
        if isinstance(error, Halt):
            self.runtime.halt(f"{self.path}: {error}")
        self._call_stopped(Reason(ending, detail))
        self.runtime.report(self.cell, ChildEnded(self.path, self.generation, Reason(ending, detail)))

    def _call_stopped(self, reason: Reason) -> None:
        if self._stopped or not self._built:
            return
        self._stopped = True
        self.actor._cause = self.actor._corr = 0
        try:
            self.actor.stopped(reason)
        except BaseException as error:
            self.cell.last_error = describe(error)
            self.runtime.event(self.path, self.generation, "failed", f"in stopped: {describe(error)}")

    def _loop_ends(self) -> None:
        """Make Pykka's loop end before it asks for another message."""
        raise NotImplementedError

    def _bar_inbox(self) -> None:
        """From now on the inbox hands out RELEASED and nothing else; returns when that is certain."""
        raise NotImplementedError

    # --- timers -----------------------------------------------------------------------------------------------------

    def set_timer(self, when_ns: int, message: object, key: str | None) -> None:
        if self.fenced or self.over:
            return
        timer = self.runtime.add_timer(when_ns, self, message)
        if key is not None:
            replaced = self.timers.pop(key, None)
            if replaced is not None:
                self.runtime.cancel_timer(replaced)
            self.timers[key] = timer
            if len(self.timers) > self._timers_most:  # those that have fired are still there
                self.timers = {key: timer for key, timer in self.timers.items() if not timer.cancelled}
                self._timers_most = 2 * len(self.timers) + TIMERS_KEPT

    def cancel_timer(self, key: str) -> None:
        timer = self.timers.pop(key, None)
        if timer is not None:
            self.runtime.cancel_timer(timer)

    def release_timers(self) -> None:
        """All timers of an ended incarnation are void; the heap drops them by looking at `over` and `fenced`."""
        self.timers.clear()
