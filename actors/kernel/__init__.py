"""The actor kernel: stable addresses, bounded mailboxes, supervision, and two systems that run the same actors.

See docs/kernel.md. Nothing outside this package imports Pykka or makes a thread.
"""

from actors.kernel.actor import Actor, Halt
from actors.kernel.control import Control, Ending, Observe, Reason, StartChild, Stop, StopChild
from actors.kernel.message import Message
from actors.kernel.record import INGRESS, TIMER, Outcome, Record, Sink
from actors.kernel.ref import Ref
from actors.kernel.runtime import (
    EXIT_DEADLINE,
    EXIT_ESCALATED,
    EXIT_FAILED,
    EXIT_HALTED,
    EXIT_OK,
    NotIdle,
    Paced,
    StartFailed,
)
from actors.kernel.spec import (
    AutoShutdown,
    Backoff,
    ChildSpec,
    Intensity,
    MailboxSpec,
    Overflow,
    Poison,
    Restart,
    Strategy,
)
from actors.kernel.stepped import NO_FAULTS, Crash, CrashAt, Faults, Hang, SteppedSystem
from actors.kernel.supervisor import Supervisor
from actors.kernel.threads import ThreadSystem, spawn_thread

__all__ = [
    "EXIT_DEADLINE",
    "EXIT_ESCALATED",
    "EXIT_FAILED",
    "EXIT_HALTED",
    "EXIT_OK",
    "INGRESS",
    "NO_FAULTS",
    "TIMER",
    "Actor",
    "AutoShutdown",
    "Backoff",
    "ChildSpec",
    "Control",
    "Crash",
    "CrashAt",
    "Ending",
    "Faults",
    "Halt",
    "Hang",
    "Intensity",
    "MailboxSpec",
    "Message",
    "NotIdle",
    "Observe",
    "Outcome",
    "Overflow",
    "Paced",
    "Poison",
    "Reason",
    "Record",
    "Ref",
    "Restart",
    "Sink",
    "StartChild",
    "StartFailed",
    "SteppedSystem",
    "Stop",
    "StopChild",
    "Strategy",
    "Supervisor",
    "ThreadSystem",
    "spawn_thread",
]
