"""A heap of timers, fired in (due, serial) order."""

import heapq
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.kernel.incarnation import Incarnation
    from actors.kernel.mailbox import Mailbox


class Timer:
    """A message that is due at an instant. Void once cancelled, or once the incarnation that set it is over."""

    __slots__ = ("cancelled", "due_ns", "item", "mailbox", "owner", "serial")

    def __init__(self, due_ns: int, serial: int, mailbox: "Mailbox", item: Any, owner: "Incarnation") -> None:
        self.due_ns, self.serial, self.mailbox, self.item, self.owner = due_ns, serial, mailbox, item, owner
        self.cancelled = False

    def __lt__(self, other: "Timer") -> bool:
        return (self.due_ns, self.serial) < (other.due_ns, other.serial)

    @property
    def void(self) -> bool:
        return self.cancelled or self.owner.over or self.owner.fenced


class TimerHeap:
    """Safe to use from many threads."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._serial = 0
        self._void = 0
        self._lock = threading.Lock()

    def add(self, due_ns: int, mailbox: "Mailbox", item: Any, owner: "Incarnation") -> Timer:
        with self._lock:
            self._serial += 1
            timer = Timer(due_ns, self._serial, mailbox, item, owner)
            heapq.heappush(self._heap, timer)
        return timer

    def is_first(self, timer: Timer) -> bool:
        with self._lock:
            return bool(self._heap) and self._heap[0] is timer

    def cancel(self, timer: Timer) -> None:
        """Void it. The heap is rebuilt when most of it is void, so that replaced timers do not pile up."""
        with self._lock:
            if timer.cancelled:  # has fired already
                return
            timer.cancelled = True
            self._void += 1
            if self._void > 64 and self._void * 2 > len(self._heap):
                self._heap = [timer for timer in self._heap if not timer.void]
                heapq.heapify(self._heap)
                self._void = 0

    def next_due(self) -> int | None:
        """The due instant of the first timer that still counts."""
        with self._lock:
            while self._heap and self._heap[0].void:
                heapq.heappop(self._heap)
                self._void = max(0, self._void - 1)
            return self._heap[0].due_ns if self._heap else None

    def pop_due(self, now_ns: int) -> list[Timer]:
        """Take every timer due by `now_ns`, in order."""
        due = []
        with self._lock:
            while self._heap and self._heap[0].due_ns <= now_ns:
                timer = heapq.heappop(self._heap)
                if not timer.void:
                    due.append(timer)
                    timer.cancelled = True
        return due
