"""The only module that imports Pykka: two kinds of Pykka actor that run our incarnations.

Both run Pykka's own loop, `_actor_loop_setup/_running/_teardown`. The thread actor brings its own inbox and thread; the
step actor's inbox hands out one item and then raises `Pause`, which passes through the loop because Pykka calls
`inbox.get()` outside its `try`. Neither is ever registered in Pykka's process-wide ActorRegistry. The facts relied on
are pinned by tests/kernel/test_pykka_contract.py.
"""

import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pykka
from pykka._envelope import Envelope

from actors.kernel.incarnation import RELEASED, Incarnation
from actors.kernel.mailbox import Item, Mailbox
from actors.kernel.record import Record

if TYPE_CHECKING:
    from actors.kernel.runtime import Cell, Runtime


class Pause(Exception):
    """Raised by a step inbox that has nothing more to hand out."""


class FrozenError(BaseException):
    """Raised around a handler by the stepped system: the handler is done and now hangs."""


class ThreadInbox:
    """The reading end of a mailbox for one incarnation. Its queue holds wake-up tokens only, never messages."""

    waiting = False
    fenced = False

    def __init__(self) -> None:
        self._tokens: SimpleQueue[Mailbox] = SimpleQueue()
        self.wake = self._tokens.put
        self.held = threading.Lock()  # to take an item, and by the fencer: whoever is fenced takes nothing
        self.get: Callable[[], Envelope[Any]]

    def bind(self, incarnation: Incarnation) -> None:
        """Make `get`: a closure, because it runs once per message and attribute lookups would be half of it."""
        envelope: Envelope[Any] = Envelope(None)
        mailbox, held, wait = incarnation.cell.mailbox, self.held, self._tokens.get
        control, data = mailbox.control, mailbox.data
        take, take_control, claim = data.popleft, control.popleft, incarnation.claim.append
        idle_hint = incarnation.runtime.idle_hint

        def get() -> Envelope[Any]:
            while True:
                with held:
                    if self.fenced:
                        envelope.message = RELEASED
                        return envelope
                    try:
                        item = take_control() if control else take()
                    except IndexError:
                        pass
                    else:
                        claim(item)
                        envelope.message = item
                        return envelope
                self.waiting = True
                if not (control or data or self.fenced):
                    idle_hint()
                    wait()
                self.waiting = False

        self.get = get

    def put(self, envelope: object) -> None:
        raise TypeError("tell through a Ref; Pykka's ActorRef is not used")

    def empty(self) -> bool:
        """Always: Pykka's teardown must drain nothing, the next incarnation reads on."""
        return True

    def bar(self, mailbox: Mailbox) -> None:
        """Hand out nothing any more."""
        with self.held:
            self.fenced = True
        self.wake(mailbox)


class ThreadIncarnation(Incarnation, pykka.ThreadingActor):
    """An incarnation on a thread that we hold the handle of."""

    actor_inbox: ThreadInbox
    thread: threading.Thread

    def prepare(self, runtime: "Runtime", cell: "Cell", generation: int) -> None:
        super().prepare(runtime, cell, generation)
        self.actor_urn = self._actor_ref.actor_urn = f"{cell.path}#{generation}"
        self.actor_inbox.bind(self)

    @staticmethod
    def _create_actor_inbox() -> ThreadInbox:
        return ThreadInbox()

    def launch(self) -> None:
        """Start the thread. From here on the mailbox wakes this incarnation."""
        self.cell.mailbox.view = self.actor_inbox
        self._start_actor_loop()

    def _start_actor_loop(self) -> None:
        self.thread = threading.Thread(target=self._run, name=self.path, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._actor_loop()
            self.after_loop()
        except BaseException as error:
            self.loop_broke(error)
        finally:
            self.runtime.idle_hint()

    def _loop_ends(self) -> None:
        self.actor_stopped.set()

    def _bar_inbox(self) -> None:
        self.actor_inbox.bar(self.cell.mailbox)


class StepInbox:
    """Hands out the one item that was granted."""

    def __init__(self) -> None:
        self._envelope: Envelope[Any] = Envelope(None)
        self.granted: Item | None = None

    def put(self, envelope: object) -> None:
        raise TypeError("tell through a Ref; Pykka's ActorRef is not used")

    def get(self) -> Envelope[Any]:
        item = self.granted
        if item is None:
            raise Pause
        self.granted = None
        self._envelope.message = item
        return self._envelope

    def empty(self) -> bool:
        return True


class StepIncarnation(Incarnation, pykka.Actor):
    """An incarnation that runs one item at a time, in the caller's thread."""

    actor_inbox: StepInbox
    begun = False
    start_fault: BaseException | None = None

    def prepare(self, runtime: "Runtime", cell: "Cell", generation: int) -> None:
        super().prepare(runtime, cell, generation)
        self.actor_urn = self._actor_ref.actor_urn = f"{cell.path}#{generation}"

    @staticmethod
    def _create_actor_inbox() -> StepInbox:
        return StepInbox()

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        raise TypeError("actors ask nobody")

    def _start_actor_loop(self) -> None:
        """Nothing: the scheduler calls `step`."""

    def step(self, item: Item | None) -> None:
        """Run `started` (None) or one item through Pykka's loop."""
        if item is None:
            self._actor_loop_setup()
        else:
            self.claim.append(item)
        self.actor_inbox.granted = item
        try:
            self._actor_loop_running()
        except Pause:
            return
        self._actor_loop_teardown()
        self.after_loop()

    def fail_record(self, record: Record, error: BaseException) -> None:
        if not isinstance(error, FrozenError):  # otherwise the record stays claimed
            super().fail_record(record, error)

    def come_back_late(self, record: Record | None) -> None:
        """A handler that was given up returns after all: its rest runs, its tells are refused, nobody is told."""
        with contextlib.suppress(Exception):
            if record is not None:
                self.actor.receive(record.message)
        self.after_loop()

    def _loop_ends(self) -> None:
        self.actor_stopped.set()

    def _bar_inbox(self) -> None:
        """The scheduler grants nothing to a fenced incarnation."""
