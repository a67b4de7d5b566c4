"""The base class of actors: four hooks to override, and what a handler may use.

An actor owns its state and nothing else. It reads no clock but `now_ns`, draws no randomness but `rng`, keeps no ref in
a message, asks nobody, and blocks for longer than 50 ms only inside `protected`. The same class runs on a thread of its
own (ThreadSystem) and in the deterministic stepper (SteppedSystem).
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, final

from actors.kernel.control import Control, Ending, Reason
from actors.kernel.record import Outcome, Record
from actors.kernel.ref import Ref

if TYPE_CHECKING:
    from actors.kernel.incarnation import Incarnation
    from algo_royale.clock import Clock

M = TypeVar("M")
N = TypeVar("N")


class Halt(Exception):
    """Raised in an actor: it is not safe to go on; the whole system stops with exit code 5."""


class Facade(Protocol):
    """What an actor may use of its system."""

    @property
    def clock(self) -> "Clock":
        """For edge threads that stamp what they read; handlers use `now_ns`."""
        ...

    @property
    def seed(self) -> int: ...

    def ref(self, path: str) -> Ref[Any]: ...

    def tree(self) -> list[dict[str, object]]: ...


class Actor(Generic[M]):
    """Subclass with the union of the messages it understands: `class Ledger(Actor[LedgerMessage])`.

    The attributes below exist from just before `started` on, not in `__init__`.
    """

    path: str
    generation: int
    """1 for the first incarnation; grows with every restart."""
    now_ns: int
    """UTC ns, fixed while one message is handled; `sent_ns` of everything told meanwhile."""
    system: Facade

    _incarnation: "Incarnation"
    _cause: int = 0
    _corr: int = 0
    _rng: random.Random | None = None
    _supervises = False

    # --- hooks, all called in the actor's thread --------------------------------------------------------------------

    def started(self) -> None:
        """Build the state, from what is durable. Raising is a failed start."""

    def receive(self, message: M) -> None:
        """Handle one message. Raising makes it a dead letter, never redelivered, and restarts the actor."""
        raise NotImplementedError(f"{type(self).__name__} receives no messages")

    def stopped(self, reason: Reason) -> None:
        """Let go of resources. Called once at the end of every incarnation, also of a failed one."""

    def observe(self) -> Mapping[str, object]:
        """A cheap snapshot for people and tests."""
        return {}

    # --- for handlers -----------------------------------------------------------------------------------------------

    @final
    def tell(self, ref: Ref[N], message: N) -> bool:
        """Send now. False: it became a dead letter. A fenced incarnation's tells are refused."""
        incarnation = self._incarnation
        number = incarnation.next_id()
        record = Record(
            number,
            self._cause,
            self._corr or number,
            self.path,
            self.generation,
            ref.path,
            self.now_ns,
            message,
        )
        if incarnation.fenced:
            incarnation.runtime.end(record, Outcome.FENCED, "told by a fenced incarnation")
            return False
        mailbox = ref.mailbox
        if mailbox.closed:
            return ref.deliver(record)
        return mailbox.put(record)

    @final
    def ref(self, path: str) -> Ref[Any]:
        """The address of `path`, whether or not an actor is there yet. `self.ref(self.path)` is one's own."""
        return self._incarnation.runtime.ref(path)

    @final
    def later(self, delay_s: float, message: M, key: str | None = None) -> None:
        """Receive `message` in `delay_s` seconds; see `at`."""
        self.at(self.now_ns + round(delay_s * 1e9), message, key)

    @final
    def at(self, when_ns: int, message: M, key: str | None = None) -> None:
        """Receive `message` when the clock shows `when_ns` or later. A timer of the same key is replaced.

        Timers end with the incarnation: `started` sets them anew.
        """
        self._incarnation.set_timer(when_ns, message, key)

    @final
    def cancel(self, key: str) -> None:
        """Forget the timer of that key, if there is one. What has fired already is in the mailbox and stays there."""
        self._incarnation.cancel_timer(key)

    @final
    @contextmanager
    def protected(self, limit_s: float) -> Iterator[None]:
        """Announce a slow call: inside, the watch allows `limit_s` seconds instead of the spec's `hang_after`."""
        zones = self._incarnation.zones
        zones.enter(limit_s)
        try:
            yield
        finally:
            zones.leave()

    @final
    def stop(self, detail: str = "") -> None:
        """End normally after the current message. A permanent actor is restarted, others are not."""
        self._incarnation.stop_self(Reason(Ending.NORMAL, detail))

    @final
    def stop_system(self, exit_code: int, reason: str) -> None:
        """Stop everything in good order, and let the process end with `exit_code`."""
        if not self._incarnation.fenced:
            self._incarnation.runtime.request_stop(exit_code, reason)

    @property
    @final
    def rng(self) -> random.Random:
        """Randomness that depends on (system seed, path, generation) and nothing else."""
        if self._rng is None:
            self._rng = random.Random(f"{self.system.seed}/{self.path}/{self.generation}")
        return self._rng

    # --- for the kernel ---------------------------------------------------------------------------------------------

    def _control(self, control: Control) -> None:
        """Handle a control message that the incarnation does not handle itself."""
        self._incarnation.runtime.event(self.path, self.generation, "refused", type(control).__name__)

    def _stop(self, reason: Reason) -> None:
        """Begin to end. A supervisor stops its children first."""
        self._incarnation.finish(reason)

    def _is_up(self) -> bool:
        """Whether `started` returning means that the start is over. A supervisor waits for its children."""
        return True


class Zones:
    """The protected zones a handler is in. `serial` moves at every border, which counts as progress."""

    __slots__ = ("_limits", "serial")

    def __init__(self) -> None:
        self._limits: list[float] = []
        self.serial = 0

    def enter(self, limit_s: float) -> None:
        self._limits.append(limit_s)
        self.serial += 1

    def leave(self) -> None:
        self._limits.pop()
        self.serial += 1

    def limit(self, default_s: float) -> float:
        """Seconds allowed now. Read by the watch's thread."""
        limits = self._limits[-1:]
        return limits[0] if limits else default_s
