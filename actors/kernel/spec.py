"""What a supervisor knows about a child before it lives: how to make it, restart it, stop it, and bound its mailbox."""

import enum
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.kernel.actor import Actor


class Restart(enum.Enum):
    """When a child that ended is started again."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # only after a failure
    TEMPORARY = "temporary"  # never


class Strategy(enum.Enum):
    """Who is restarted when one child fails; siblings are stopped in reverse order and started in order."""

    ONE_FOR_ONE = "one_for_one"  # only it
    ONE_FOR_ALL = "one_for_all"  # everyone
    REST_FOR_ONE = "rest_for_one"  # it and those started after it


class AutoShutdown(enum.Enum):
    """Whether a supervisor ends (normally) when its significant children have ended by themselves."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


class Overflow(enum.Enum):
    """What a full mailbox does with one more message."""

    REJECT = "reject"  # tell returns False, the new message is a dead letter
    DROP_OLDEST = "drop_oldest"  # the oldest one is a dead letter
    CONFLATE = "conflate"  # at any time: the newest message of a key takes the place of the older one; full: reject
    BLOCK = "block"  # a non-actor thread waits for room; an actor is rejected, because waiting actors deadlock


class Poison(enum.Enum):
    """What a message that failed its handler means."""

    DROP = "drop"  # a dead letter; the actor restarts and goes on
    HALT = "halt"  # an obligation was lost: the whole system stops with exit code 5


@dataclass(frozen=True, slots=True)
class MailboxSpec:
    """Bounds of one mailbox.

    `capacity` counts data messages (control is unbounded); with many concurrent senders it may be passed by one message
    per sender. `keep`: what was queued survives the actor's own restart; otherwise it is discarded just before the new
    incarnation starts. Siblings restarted *with* a failed one always lose their queue: it belongs to the old epoch.
    A kept mailbox is also worked off at an orderly stop, within the shutdown deadline.
    `conflate_by` gives a message's key for CONFLATE; None means that this message is never replaced.
    """

    capacity: int = 10_000
    overflow: Overflow = Overflow.REJECT
    keep: bool = True
    conflate_by: Callable[[Any], Hashable | None] | None = None

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"a mailbox of capacity {self.capacity} can hold nothing")
        if (self.overflow is Overflow.CONFLATE) != (self.conflate_by is not None):
            raise ValueError("conflate_by and Overflow.CONFLATE go together")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before the n-th restart in a row: min(limit, base * 2**(n-1)), times 1 +- jitter."""

    base: float = 0.2
    limit: float = 30.0
    jitter: float = 0.2


@dataclass(frozen=True, slots=True)
class Intensity:
    """More than `restarts` restarts within `period` seconds is more than restarting can cure."""

    restarts: int = 3
    period: float = 60.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child of a supervisor. `factory` is called in the child's thread, for every incarnation.

    Seconds: `start_within` bounds `started()`, `shutdown` bounds `stopped()` and the rest of the queue, `hang_after`
    bounds one handler. None of the three applies to child supervisors, whose own children have them.
    `intensity`, if given, bounds this child's restarts beside the supervisor's own bound.
    """

    id: str
    factory: "Callable[[], Actor[Any]]"
    restart: Restart = Restart.PERMANENT
    start_within: float = 10.0
    shutdown: float = 5.0
    hang_after: float = 30.0
    mailbox: MailboxSpec = MailboxSpec()
    on_poison: Poison = Poison.DROP
    backoff: Backoff = Backoff()
    intensity: Intensity | None = None
    significant: bool = False

    def __post_init__(self) -> None:
        if not self.id or "/" in self.id:
            raise ValueError(f"{self.id!r} is not a child id: it becomes one segment of a path")
        if self.significant and self.restart is Restart.PERMANENT:
            raise ValueError(f"{self.id}: a permanent child never ends by itself, so it cannot be significant")
