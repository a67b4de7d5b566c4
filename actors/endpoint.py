"""What the two actors with a websocket share: exactly one socket, its life by the table of `algo_royale.broker.connection`."""

from collections.abc import Callable
from typing import Any

from actors.kernel import Actor
from actors.messages import ConnectionChanged, FrameReceived, TimerFired
from algo_royale.broker.connection import DOWN, Connection, Event, Reconnect, State, ending
from algo_royale.broker.port import StreamHandle, StreamPort

OPEN_S = 30.0  # how long opening a socket may take before the actor counts as hung
TIMERS = frozenset({"connect", "handshake"})


class Endpoint:
    """One endpoint of the broker's, held by one actor. `changed(before, after)` is called after every change of state."""

    def __init__(
        self, actor: Actor[Any], name: str, streams: StreamPort, rules: Reconnect, changed: Callable[[State, State], None],
        *, often_quiet: bool = False,
    ) -> None:  # fmt: skip
        self.connection = Connection(rules, often_quiet)
        self._actor, self._name, self._streams, self._changed = actor, name, streams, changed
        self._handle: StreamHandle | None = None
        self._number = 0
        self._lag_ns = self._lag_max_ns = 0  # how long the latest frame waited for its actor, and the worst one did

    @property
    def state(self) -> State:
        return self.connection.state

    def observe(self) -> dict[str, object]:
        """State and counters for people."""
        line = self.connection
        age_s = round((self._actor.now_ns - line.heard_ns) / 1e9, 3) if line.heard_ns else None
        return {
            "state": line.state.value, "detail": line.detail, "connections": line.reconnects, "failures": line.failures,
            "last_frame_age_s": age_s, "lag_s": self._lag_ns / 1e9, "lag_max_s": self._lag_max_ns / 1e9,
        }  # fmt: skip

    def open(self) -> None:
        """Open a socket now, if it is time for one; the former one is closed."""
        if not self.on(Event.DUE):
            return
        self.close()
        actor, name = self._actor, self._name
        # Numbered by time and incarnation, so that a frame of a former one's socket is never taken for one of ours.
        self._number = max(actor.now_ns + actor.generation, self._number + 1)
        me, clock = actor.ref(actor.path), actor.system.clock

        def on_frame(number: int, text: str) -> None:
            me.tell(FrameReceived(at_ns=clock.now_ns(), endpoint=name, connection=number, text=text))

        def on_state(number: int, connected: bool, detail: str, fatal: bool) -> None:
            me.tell(
                ConnectionChanged(
                    at_ns=clock.now_ns(), endpoint=name, connection=number, connected=connected, detail=detail, fatal=fatal
                )
            )  # fmt: skip

        actor.later(
            self.connection.rules.handshake_s, TimerFired(at_ns=actor.now_ns, name="handshake"), key="handshake"
        )
        with actor.protected(OPEN_S):
            self._handle = self._streams.open(name, self._number, on_frame, on_state)

    def close(self) -> None:
        """Let the socket go; waits for nobody."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def is_of(self, message: FrameReceived | ConnectionChanged) -> bool:
        """Whether this message is of the socket that is open now."""
        self._lag_ns = max(0, self._actor.now_ns - message.at_ns)
        self._lag_max_ns = max(self._lag_max_ns, self._lag_ns)
        return message.connection == self._number and self._handle is not None

    def on_connection(self, message: ConnectionChanged) -> bool:
        """Take what the reader says of its socket; True when it has just opened."""
        if not self.is_of(message):
            return False
        if message.connected:
            return self.on(Event.OPENED)
        self.on(ending(message.detail, forbidden=message.fatal), message.detail)
        return False

    def on_timer(self, name: str) -> None:
        """One of `TIMERS` fired; those of a former incarnation find a state in which they mean nothing."""
        if name == "connect":
            self.open()
        else:
            limit_s = self.connection.rules.handshake_s
            self.on(Event.LATE, f"not live {limit_s:g} s after connecting ({self.state.value})")

    def send(self, text: str) -> bool:
        """False: the connection is gone, and given up."""
        if self._handle is not None and self._handle.send(text):
            return True
        self.on(Event.LOST, "the connection was gone while sending")
        return False

    def on(self, event: Event, detail: str = "") -> bool:
        """Follow the table: what it takes to be in the new state is done here. Whether the state changed."""
        actor, before = self._actor, self.state
        if not self.connection.on(event, actor.now_ns, detail[:300]):
            return False
        if self.state is State.LIVE:
            actor.cancel("handshake")
        elif self.state in DOWN:
            actor.cancel("handshake")
            self.close()
            delay_s = self.connection.delay_s(actor.rng.random())
            actor.later(delay_s, TimerFired(at_ns=actor.now_ns, name="connect", key=detail[:200]), key="connect")
        self._changed(before, self.state)
        return True
