"""Control messages: a lane of their own that overtakes data. Not recorded (they may hold code); events tell of them."""

import enum
from collections.abc import Callable, Mapping

import msgspec

from actors.kernel.spec import ChildSpec


class Ending(enum.Enum):
    """Why an incarnation ended."""

    NORMAL = "normal"  # by itself
    SHUTDOWN = "shutdown"  # asked to, for good
    RESTART = "restart"  # asked to, with a failed sibling
    HALTED = "halted"  # asked to, for safety: nothing queued is handled any more
    FAILED = "failed"
    HUNG = "hung"
    VANISHED = "vanished"
    FENCED = "fenced"
    START_FAILED = "start failed"
    ESCALATED = "escalated"

    @property
    def abnormal(self) -> bool:
        """Whether a transient child is restarted after it."""
        return self not in (Ending.NORMAL, Ending.SHUTDOWN, Ending.RESTART, Ending.HALTED)


class Reason(msgspec.Struct, frozen=True):
    """Why an incarnation ended, for `Actor.stopped` and for the supervisor."""

    ending: Ending
    detail: str = ""


class Control(msgspec.Struct, frozen=True):
    """Base of what travels in the control lane."""


class Stop(Control, frozen=True):
    """End this incarnation; one of another generation ignores it (0: any)."""

    reason: Reason
    generation: int = 0


class Observe(Control, frozen=True):
    """Call `reply` with the actor's `observe()`, in the actor's thread."""

    reply: Callable[[Mapping[str, object]], None]


class StartChild(Control, frozen=True):
    """To a supervisor: add a child after the present ones. A living child of that id is left alone (event refused)."""

    spec: ChildSpec


class StopChild(Control, frozen=True):
    """To a supervisor: stop that child for good and forget it."""

    id: str


class ChildStarted(Control, frozen=True):
    """To a supervisor: `started()` has returned."""

    path: str
    generation: int


class ChildEnded(Control, frozen=True):
    """To a supervisor: that incarnation is over."""

    path: str
    generation: int
    reason: Reason


class ChildStuck(Control, frozen=True):
    """To a supervisor, from the watch: no progress (HUNG) or no thread (VANISHED)."""

    path: str
    generation: int
    reason: Reason


class DeadlinePassed(Control, frozen=True):
    """To a supervisor, from its guard timer: that incarnation has neither started nor stopped in time."""

    path: str
    generation: int


class RestartDue(Control, frozen=True):
    """To a supervisor, from its timer: a backoff is over."""

    path: str
