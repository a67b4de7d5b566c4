"""Mailboxes: two lanes, bounded, owned by the address and not by the incarnation, so that they survive restarts.

Lock-free on the sender's side. A sender appends and *then* looks whether the mailbox was closed meanwhile; the closer
closes and *then* drains. Whatever the interleaving, one of the two finds the message, and `popleft` hands it to exactly
one: nothing is lost without a record (Pykka's own check-then-put loses messages here).
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from actors.kernel.control import Control
from actors.kernel.record import Outcome, Record
from actors.kernel.spec import MailboxSpec, Overflow

Item = Record | Control


class View(Protocol):
    """Who reads a mailbox at present. `wake` is called after an append while `waiting` is true."""

    waiting: bool

    def wake(self, mailbox: "Mailbox", /) -> None: ...


class Nobody:
    """The view of a mailbox that has no reader: messages just queue."""

    waiting = False

    def wake(self, mailbox: "Mailbox", /) -> None: ...


class Office(Protocol):
    """What a mailbox asks of its system."""

    def end(self, record: Record, outcome: Outcome, detail: str) -> None:
        """This record will never be handled."""
        ...

    def end_control(self) -> None:
        """A control message will never be handled."""
        ...

    def wait_for_room(self, mailbox: "Mailbox") -> bool:
        """Block the calling thread until there is room; False if it must not wait (an actor's thread)."""
        ...


NOBODY = Nobody()


class Mailbox:
    """The two lanes of one address. Many threads put; one reader at a time takes (see the inbox views)."""

    __slots__ = ("capacity", "closed", "control", "data", "epitaph", "office", "overflow", "path", "reader", "view")

    def __init__(self, path: str, spec: MailboxSpec, office: Office) -> None:
        self.path = path
        self.control: deque[Control] = deque()
        self.data: deque[Item] | ConflatingLane = deque()
        if spec.overflow is Overflow.BLOCK:
            self.data = BlockingLane()
        elif spec.conflate_by is not None:
            self.data = ConflatingLane(spec.conflate_by, office)
        self.capacity = spec.capacity
        self.overflow = spec.overflow
        self.office = office
        self.view: View = NOBODY
        self.reader: Any = None  # the stepped system's incarnation
        self.closed = False
        self.epitaph = "terminated" if path else "no actor at this path"

    def __len__(self) -> int:
        return len(self.data)

    def put(self, record: Record) -> bool:
        """Queue a record; False if it became a dead letter instead."""
        data = self.data
        if len(data) >= self.capacity and not self._make_room(record):
            return False
        data.append(record)
        view = self.view  # read after the append: a new reader looks into the lanes before it waits
        if view.waiting:
            view.wake(self)
        if self.closed:
            self.drain(Outcome.DEAD, self.epitaph)
            return False
        return True

    def put_control(self, control: Control, *, last: bool = False) -> None:
        """Queue a control message ahead of all data, or (`last`) behind what is queued now."""
        if last and not isinstance(self.data, ConflatingLane):
            self.data.append(control)
        else:
            self.control.append(control)
        view = self.view
        if view.waiting:
            view.wake(self)
        if self.closed:
            self.close()

    def drain(self, outcome: Outcome, detail: str) -> int:
        """Turn all queued data into dead letters; return how many."""
        count = 0
        while True:
            try:
                item = self.data.popleft()
            except IndexError:
                return count
            if isinstance(item, Record):
                self.office.end(item, outcome, detail)
                count += 1
            else:
                self.office.end_control()

    def close(self) -> None:
        """Refuse everything from now on, and end what is queued. For good."""
        self.closed = True
        self.drain(Outcome.DEAD, self.epitaph)
        while True:
            try:
                self.control.popleft()
            except IndexError:
                break
            self.office.end_control()
        if isinstance(self.data, BlockingLane):
            self.data.release()

    def _make_room(self, record: Record) -> bool:
        if self.overflow is Overflow.DROP_OLDEST:
            try:
                oldest = self.data.popleft()
            except IndexError:
                return True
            if isinstance(oldest, Record):
                self.office.end(oldest, Outcome.OVERFLOW, "dropped for a newer message")
                return True
            self.put_control(oldest)  # a stop that waited behind the data goes first now
            return True
        if isinstance(self.data, ConflatingLane) and record in self.data:
            return True
        if self.overflow is Overflow.BLOCK and self.office.wait_for_room(self):
            return True
        self.office.end(record, Outcome.OVERFLOW, f"mailbox full ({self.capacity})")
        return False


class BlockingLane(deque[Item]):
    """A lane whose senders can wait for room."""

    def __init__(self) -> None:
        super().__init__()
        self._room = threading.Condition()

    def popleft(self) -> Item:
        item = super().popleft()
        with self._room:
            self._room.notify()
        return item

    def wait(self, mailbox: Mailbox) -> None:
        """Wait until there is room or the mailbox is closed (then `put` finds out)."""
        with self._room:
            self._room.wait_for(lambda: mailbox.closed or len(self) < mailbox.capacity)

    def release(self) -> None:
        """Let every waiting sender go."""
        with self._room:
            self._room.notify_all()


class ConflatingLane:
    """A lane that holds the newest message of each key, at the place of the oldest (so no key can starve)."""

    def __init__(self, key: Callable[[Any], Hashable | None], office: Office) -> None:
        self._key, self._office = key, office
        self._items: dict[Hashable, Item] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, record: Record) -> bool:
        return self._key_of(record) in self._items

    def append(self, record: Item) -> None:
        key = self._key_of(record)
        with self._lock:
            replaced = self._items.get(key)
            self._items[key] = record
        if isinstance(replaced, Record):
            self._office.end(replaced, Outcome.CONFLATED, "")

    def popleft(self) -> Item:
        with self._lock:
            try:
                key = next(iter(self._items))
            except StopIteration:
                raise IndexError from None
            return self._items.pop(key)

    def _key_of(self, item: Item) -> Hashable:
        key = self._key(item.message) if isinstance(item, Record) else None
        return ("", id(item)) if key is None else key
