"""Addresses. A ref names a path, not an incarnation: it may be made before its actor and outlives every restart."""

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from actors.kernel.control import Control
from actors.kernel.mailbox import Mailbox
from actors.kernel.record import INGRESS, Record

if TYPE_CHECKING:
    from actors.kernel.runtime import Runtime

M_contra = TypeVar("M_contra", contravariant=True)


class Running(threading.local):
    """Which incarnation the current thread is running; None in threads that are not actors."""

    incarnation: Any = None


running = Running()


class Ref(Generic[M_contra]):
    """Where to tell messages of type M. Equal and hashable by path; safe to share between threads."""

    __slots__ = ("_runtime", "mailbox", "path")

    def __init__(self, runtime: "Runtime", path: str) -> None:
        self.path = path
        self.mailbox: Mailbox = runtime.no_mailbox
        self._runtime = runtime

    def tell(self, message: M_contra) -> bool:
        """Queue `message`. Never raises; waits only for room in a BLOCK mailbox, and never in an actor's thread.

        Called in an actor's handler it is told by that actor, as `Actor.tell` does; from any other thread it is ingress
        with cause 0. False: it became a dead letter (no such actor, terminated, full, or its sender is fenced).
        """
        incarnation = running.incarnation
        if incarnation is not None:
            return bool(incarnation.actor.tell(self, message))
        return self.inject(message)

    def inject(self, message: M_contra) -> bool:
        """As `tell`, but ingress in any thread: for sinks, which are called in actors' threads and are none of them."""
        runtime = self._runtime
        number = runtime.next_id()
        record = Record(number, 0, number, INGRESS, 0, self.path, runtime.now_ns(), message)
        mailbox = self.mailbox
        return mailbox.put(record) if not mailbox.closed else self.deliver(record)

    def tell_control(self, control: Control) -> None:
        """Queue `control` in the lane that overtakes data. For a path without an actor it is dropped, with an event."""
        self._runtime.send_control(self.path, control)

    def deliver(self, record: Record) -> bool:
        """Put a finished record into the mailbox that this path has now. Kernel only."""
        if self.mailbox.closed:
            self.mailbox = self._runtime.mailbox_at(self.path)
        return self.mailbox.put(record)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other.path == self.path and other._runtime is self._runtime

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Ref({self.path!r})"
