"""The notifier: which of the things that happen a person is told, and whether the trader is well enough for its heartbeat.

It decides and counts; delivering is the business of a thread at the edge, for services hang.
"""

from collections.abc import Callable, Mapping

from actors.kernel import Actor
from actors.messages import HeartbeatDue, Noticed, NotificationDelivered, NotifierMessage, TimerFired

HEARTBEAT = "heartbeat"


class NotifierActor(Actor[NotifierMessage]):
    """Hands what is wanted to `send(event, text)`, which never blocks and says False when its queue is full.

    A lost connection is told after `disconnect_s` seconds, and its return only if the loss was told. The heartbeat is left out
    while any actor is down: its silence is the alarm. A session's summary is told `summary_s` seconds after its close.
    """

    def __init__(
        self, send: Callable[[str, str], bool], *, events: frozenset[str], disconnect_s: float, summary_s: float
    ) -> None:
        self._send, self._events, self._disconnect_s, self._summary_s = send, events, disconnect_s, summary_s
        self._lost: dict[str, tuple[int, str, bool]] = {}  # what -> since when, why, whether it has been told
        self._counts = dict.fromkeys(("delivered", "failed", "dropped", "heartbeats", "heartbeats_withheld"), 0)

    def observe(self) -> Mapping[str, object]:
        return dict(self._counts)

    def receive(self, message: NotifierMessage) -> None:
        match message:
            case Noticed(event="lost"):
                if message.key not in self._lost:
                    self._lost[message.key] = (message.at_ns, message.text, False)
                    timer = TimerFired(at_ns=self.now_ns, name="lost", key=message.key)
                    self.later(self._disconnect_s, timer, key=f"lost {message.key}")
            case Noticed(event="found"):
                self._found(message.key)
            case Noticed(event="summary"):
                self.later(
                    self._summary_s, TimerFired(at_ns=self.now_ns, name="summary", key=message.text), key="summary"
                )
            case Noticed():
                self._tell(message.event, message.text)
            case TimerFired(name="lost"):
                self._still_lost(message.key)
            case TimerFired():
                self._tell("summary", message.key)
            case HeartbeatDue():
                self._beat()
            case NotificationDelivered():
                self._counts["delivered" if message.delivered else "failed"] += 1

    def _tell(self, event: str, text: str) -> None:
        if event in self._events and not self._send(event, text):
            self._counts["dropped"] += 1

    def _still_lost(self, what: str) -> None:
        since_ns, why, _ = self._lost.get(what, (0, "", True))
        if since_ns:
            self._lost[what] = (since_ns, why, True)
            self._tell("disconnect", f"{what}: lost for {(self.now_ns - since_ns) / 1e9:.0f} s ({why})")

    def _found(self, what: str) -> None:
        since_ns, _, told = self._lost.pop(what, (0, "", False))
        self.cancel(f"lost {what}")
        if told:
            self._tell("disconnect", f"{what}: back after {(self.now_ns - since_ns) / 1e9:.0f} s")

    def _beat(self) -> None:
        down = [row["path"] for row in self.system.tree() if row["state"] != "running"]
        self._counts["heartbeats_withheld" if down else "heartbeats"] += 1
        if not down and not self._send(HEARTBEAT, ""):
            self._counts["dropped"] += 1
