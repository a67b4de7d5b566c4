"""What becomes of a message: one record per envelope, and the sinks that keep records.

The record *is* the envelope: it is built when a message is told, completed when its handler ends (or when it becomes a
dead letter), and written to the sink exactly once. So the written ids are the told ids, minus what is still queued.
"""

import enum
from typing import Any, Protocol

import msgspec

INGRESS = "ingress"
"""Sender of what non-actor threads tell (edge readers, tests, the command line)."""

TIMER = "timer"
"""Sender of timer messages; `gen` is the generation of the actor that set the timer."""


class Outcome(enum.IntEnum):
    """How an envelope ended. Everything but OK is a dead letter, except CONFLATED (a newer one took its place)."""

    OK = 0
    FAILED = 1  # the handler raised; never redelivered
    DEAD = 2  # no such actor, or it is terminated
    OVERFLOW = 3  # the mailbox was full
    FENCED = 4  # told by, or being handled by, an incarnation that had been given up
    DISCARDED = 5  # the mailbox was emptied at a restart
    CONFLATED = 6


class Record(msgspec.Struct, gc=False):
    """One message on its way: who told whom what, and how it ended. Only the kernel writes to it.

    `cause` is the id of the message whose handler told this one (0 for ingress, timers, `started` and `stopped`);
    `corr` is the id of the root of that chain. Ids are unique in one system and grow, with gaps (lifecycle steps take
    ids too). `sent_ns` is the sender's `now_ns`. `attempt` is the generation of the recipient that handled it.
    `took_us` is 0 in the stepped system. `message` is frozen, so that a writer thread may encode it later.
    """

    id: int
    cause: int
    corr: int
    sender: str
    gen: int
    recipient: str
    sent_ns: int
    message: Any
    handled_ns: int = 0
    took_us: int = 0
    outcome: Outcome = Outcome.OK
    attempt: int = 0
    detail: str = ""


class Sink(Protocol):
    """Where records go. Called from many threads at once; must neither block nor raise."""

    def write(self, record: Record) -> None:
        """Keep one finished record. `write` order within one recipient is its handling order."""
        ...

    def event(self, at_ns: int, path: str, gen: int, what: str, detail: str) -> None:
        """Keep one lifecycle fact of an actor.

        `what` is one of: started, failed, hung, vanished, fenced, abandoned, restarting, stopped, terminated, refused,
        escalated, halted, exit. A `started` event carries the `now_ns` that `Actor.started` saw.
        """
        ...

    def close(self) -> None:
        """Flush and release. The system calls it once, last."""
        ...
