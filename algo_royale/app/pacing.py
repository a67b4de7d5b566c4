"""Virtual time shared by two programs: the actors and the exchange twin move in lockstep, as fast as they can.

The rule (a conservative parallel simulation): nobody's clock moves while anybody still has something to do. When the
actors are quiet, both sides move to the earlier of the twin's next event and the actors' next timer; the twin's frames
of that instant are handled before the timers of that instant fire. The same driver runs the stepped system over the twin's
core in process and the threaded system over the twin's server, so a run has one outcome.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec
import urllib3

from actors.direct import DirectStreams
from actors.kernel import Paced
from algo_royale.clock import ManualClock, WallClock
from algo_royale.errors import BrokerUnavailable
from algo_royale.exchange.core import Exchange

CATCH_UP_S = 60.0
TICK_S = 0.0005
GRACE_NS = 60_000_000_000


class Market(Protocol):
    """The far side of the lockstep."""

    def next_event_ns(self) -> int | None:
        """When something happens there next; None: never again."""
        ...

    def advance(self, until_ns: int) -> None:
        """Let everything up to and including `until_ns` happen."""
        ...

    def deliver(self) -> bool:
        """Make sure that every frame sent so far has been told to its actor; True if there was one."""
        ...


class DirectMarket:
    """The twin's core in this process."""

    def __init__(self, exchange: Exchange, streams: DirectStreams) -> None:
        self._exchange, self._streams = exchange, streams

    def next_event_ns(self) -> int | None:
        return self._exchange.next_event_ns()

    def advance(self, until_ns: int) -> None:
        self._exchange.advance(until_ns)

    def deliver(self) -> bool:
        return self._streams.pump() > 0


class TwinMarket:
    """The twin's server, through its control routes (`/sim`, outside everything that Alpaca has)."""

    def __init__(
        self, url: str, received: Callable[[], Mapping[str, int]], asked: Callable[[], int] | None = None
    ) -> None:
        """`received()`: frames told so far per endpoint on its live connection. `asked()`: a number that changes whenever the
        actors have asked the twin for something that it may send frames for; while it stands still, what the twin last said
        to have sent is all there is."""
        self._url, self._received, self._asked = url, received, asked
        self._sent: Mapping[str, int] = {}
        self._told: Mapping[str, int] = {}
        self._behind = ""  # what the twin said when it last refused to move
        self._asked_before = -1
        self._pool = urllib3.connection_from_url(url, retries=False)
        self._tick = threading.Event()
        self._now_ns = 0
        self._next_ns: int | None = None
        self.clock()

    def clock(self) -> dict[str, Any]:
        """Where the twin's time stands and how it runs; asks it."""
        answer = self._ask("clock")
        self._now_ns, self._next_ns = int(answer["now_ns"]), answer["next_event_ns"]
        return answer

    def _ask(self, what: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._pool.request("GET", f"/sim/{what}", timeout=10).json()
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise BrokerUnavailable(f"no exchange twin answers at {self._url}: {error}") from error
        return answer

    @property
    def now_ns(self) -> int:
        return self._now_ns

    def has_ended(self) -> bool:
        """Whether the twin has no event left; asks it."""
        self.clock()
        return self._next_ns is None

    def has_delivered(self) -> bool:
        """Whether every frame that the twin has sent is told; asks it."""
        sent = self._ask("truth")["sent"]
        return all(sent.get(endpoint) == count for endpoint, count in self._received().items())

    def next_event_ns(self) -> int | None:
        return self._next_ns

    def advance(self, until_ns: int) -> None:
        for _ in self._patiently():
            if self._post(until_ns):
                return

    def _patiently(self) -> Iterator[int]:
        """Counts tries, with a moment after each; raises BrokerUnavailable when it makes no sense to try again."""
        now_s = WallClock().monotonic_s
        due_s = now_s() + CATCH_UP_S
        for tries in itertools.count():
            yield tries
            if now_s() > due_s:
                raise BrokerUnavailable(f"the twin's frames did not arrive within {CATCH_UP_S:g} s: {self._behind}")
            self._tick.wait(TICK_S)

    def deliver(self) -> bool:
        for tries in self._patiently():
            asked = self._asked is None or self._asked() != self._asked_before
            here = not asked and self._received() == self._sent
            # all that the twin sent is here and nothing was asked of it since; or it is coming, or else the twin knows why not
            if here or ((asked or tries % 32 == 31) and self._post(self._now_ns)):
                told, self._told = self._told, dict(self._received())
                return told != self._told
        raise AssertionError("patience ends by raising")

    def _post(self, until_ns: int) -> bool:
        """Ask the twin to move; False while frames are still on their way."""
        asked = -1 if self._asked is None else self._asked()
        received = dict(self._received())
        body = msgspec.json.encode({"until_ns": until_ns, "received": received})
        try:
            answer = self._pool.request("POST", "/sim/advance", body=body, timeout=60)
            state = answer.json()
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise BrokerUnavailable(f"the exchange twin at {self._url} is gone: {error}") from error
        if answer.status == 409:
            self._behind = f"it sent {state['sent']}, and {received} came"
            return False
        if answer.status != 200:
            raise BrokerUnavailable(f"the exchange twin at {self._url} says {answer.status}: {state}")
        self._now_ns, self._next_ns = int(state["now_ns"]), state["next_event_ns"]
        self._sent, self._asked_before = state["sent"], asked
        return True


def settle(system: Paced, market: Market) -> None:
    """Handle everything that can happen without time passing."""
    system.run_until_idle()
    while system.exit_code is None and market.deliver():
        system.run_until_idle()


def run_paced(
    system: Paced, market: Market, clock: ManualClock, *, until_ns: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    """Run until a minute after the market ended or `until_ns` was reached (so that what was going on then, a restart or a
    watermark, comes to its end), or until the system stops by itself or `should_stop()`."""
    settle(system, market)
    while system.exit_code is None and not should_stop():
        event_ns, timer_ns = market.next_event_ns(), system.next_timer_ns()
        if event_ns is None or (until_ns is not None and event_ns > until_ns):
            until_ns, event_ns = until_ns or clock.now_ns(), None
        candidates = [ns for ns in (event_ns, timer_ns) if ns is not None]
        if not candidates:
            return
        target_ns = min(candidates)
        if until_ns is not None and target_ns > until_ns + GRACE_NS:
            return
        clock.move_to(target_ns)
        market.advance(target_ns)
        settle(system, market)
        if system.exit_code is None:
            system.advance_to(target_ns)
            settle(system, market)
