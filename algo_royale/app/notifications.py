"""Notifications: what happens in a trader, told to webhooks, mail and chat by apprise; and the heartbeat.

A sink beside the message log notices, the notifier actor decides, and one thread here delivers, because services hang. No
failure here is anybody else's: what could not be delivered is recorded in the message log and the process's own log, by the
kind of the service and its place in the list. Addresses are secrets and stand in no log, no message and no error.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any

import requests
import schedule

from actors.kernel import ChildSpec, MailboxSpec, Overflow, Ref, Restart, ThreadSystem, spawn_thread
from actors.kernel.record import Record, Sink
from actors.messages import (
    BrokerStateChanged,
    ConnectionChanged,
    FeedHealthChanged,
    FeedStarted,
    HeartbeatDue,
    Noticed,
    NotificationDelivered,
    OrderChanged,
    RecordSessionJob,
    SessionPhaseChanged,
    TradingStateChanged,
)
from actors.notifier import HEARTBEAT, NotifierActor
from algo_royale.app.logs import fact, secrets_of
from algo_royale.config import Notify
from algo_royale.errors import AlgoRoyaleError, BadConfiguration

if TYPE_CHECKING:
    from apprise import Apprise

log = logging.getLogger(__name__)

PATH = "root/notifier"
MAILBOX = 1_000
WAITING_MAX = 100
HEARTBEAT_TIMEOUT_S = 10.0
FAREWELL_S = 15.0  # how long the end of the process waits for what is still to be delivered


@dataclass(frozen=True, slots=True)
class Service:
    """One address: `name` is all of it that may be shown."""

    name: str
    take: Callable[[str, str], bool]  # (title, body)


@dataclass(frozen=True, slots=True)
class Addressees:
    """Who is told, and where the heartbeat goes ("" for nowhere)."""

    services: tuple[Service, ...] = ()
    heartbeat: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)  # every address, to be kept out of logs

    def __bool__(self) -> bool:
        return bool(self.services or self.heartbeat)


NOBODY = Addressees()


def addressees(notify: Notify, lines: Sequence[str] = ()) -> Addressees:
    """Those of the configuration and of the lines of `urls_file`.

    Raises BadConfiguration, which names an address by its kind and place, for one that apprise does not understand.
    """
    urls = [url.get_secret_value() for url in notify.urls]
    heartbeat = notify.heartbeat_url.get_secret_value()
    for line in (text.strip() for text in lines):
        word, _, rest = line.partition(" ")
        if word == HEARTBEAT:
            heartbeat = rest.strip()
        elif line and not line.startswith("#"):
            urls.append(line)
    if heartbeat and not heartbeat.startswith(("https://", "http://")):
        raise BadConfiguration("notify: the heartbeat's address must start with https:// or http://")
    if not urls:
        return Addressees((), heartbeat, secrets_of(heartbeat))
    try:
        import apprise
    except ImportError as error:
        raise BadConfiguration("notifications need apprise: pip install 'algo-royale[notify]'") from error
    logging.getLogger("apprise").disabled = True  # it logs addresses
    found = []
    for number, url in enumerate(urls, 1):
        name = f"{url.partition('://')[0] if '://' in url else '?'} #{number}"
        service = apprise.Apprise()
        if not service.add(url):
            raise BadConfiguration(f"notify: address {name} is none that apprise understands")
        found.append(Service(name, partial(_deliver, service)))
    return Addressees(tuple(found), heartbeat, tuple(text for url in (*urls, heartbeat) for text in secrets_of(url)))


def deliver(service: Service, title: str, body: str) -> tuple[bool, str]:
    """Whether the service took it, and if not why, in words without its address. Waits as long as the service may."""
    taken = service.take(title, body)
    return taken, "" if taken else "not taken"


def _deliver(service: "Apprise", title: str, body: str) -> bool:
    """Apprise answers for whatever a plugin raises or returns: it was taken, or it was not."""
    return bool(service.notify(body=body, title=title))


class Notifications:
    """The three parts for one trader, wired: `sink` and `spec` before the system is made, `open` once it stands."""

    def __init__(
        self, notify: Notify, to: Addressees, *, name: str, summary: Callable[[], str], summary_s: float = 60.0,
        pace: float = 1.0,
    ) -> None:  # fmt: skip
        """`name` begins every title; `summary()` says how the account stands, asked `summary_s` seconds after a close."""
        self._notify, self._services, self._heartbeat = notify, to.services, to.heartbeat
        self._name, self._summary, self._summary_s, self._pace = name, summary, summary_s, pace
        self._thread: Any = None
        self._queue: Queue[tuple[str, str] | None] = Queue(WAITING_MAX)
        self._ref: Ref[Any] | None = None

    def sink(self, behind: Sink) -> "Notices":
        self._notices = Notices(behind)
        return self._notices

    @property
    def spec(self) -> ChildSpec:
        """Never restarted: should it fail, the heartbeat falls silent, and trading goes on."""
        return ChildSpec(
            id=PATH.rpartition("/")[2], restart=Restart.TEMPORARY,
            factory=partial(
                NotifierActor, self._send, events=frozenset(self._notify.events),
                disconnect_s=self._notify.disconnect_s * self._pace, summary_s=self._summary_s * self._pace,
            ),
            mailbox=MailboxSpec(capacity=MAILBOX, overflow=Overflow.DROP_OLDEST),
        )  # fmt: skip

    def open(self, system: ThreadSystem, text: str) -> None:
        """Begin to deliver; `text` is what the start is told with."""
        self._system, self._ref = system, system.ref(PATH)
        self._notices.open(self._ref, system.now_ns)
        self._thread = spawn_thread("notifications", self._run)
        self._ref.tell(Noticed(at_ns=system.now_ns(), event="start", text=text))

    def close(self, text: str) -> None:
        """Tell the end with `text`, and wait a while for what is still to go. After the system has stopped."""
        if self._thread is None:
            return
        if "stop" in self._notify.events:
            self._send("stop", text)
        try:
            self._queue.put(None, timeout=FAREWELL_S)
        except Full:
            log.warning(fact("notifications left", waiting=self._queue.qsize()))
            return
        self._thread.join(FAREWELL_S)

    def _send(self, event: str, text: str) -> bool:
        try:
            self._queue.put_nowait((event, text))
        except Full:
            log.warning(fact("notification dropped", what=event, waiting=WAITING_MAX))
            return False
        return True

    # --- the thread ---

    def _run(self) -> None:
        jobs = schedule.Scheduler()
        if self._heartbeat:
            self._tell(HeartbeatDue(at_ns=self._system.now_ns()))
            every_s = max(1, round(self._notify.heartbeat_minutes * 60))
            jobs.every(every_s).seconds.do(lambda: self._tell(HeartbeatDue(at_ns=self._system.now_ns())))
        while True:
            wait_s = jobs.idle_seconds
            try:
                item = self._queue.get(timeout=None if wait_s is None else max(0.0, wait_s))
            except Empty:
                item = ("", "")
            if item is None:
                return
            if item[0] == HEARTBEAT:
                self._beat()
            elif item[0]:
                self._deliver(*item)
            jobs.run_pending()

    def _deliver(self, event: str, text: str) -> None:
        if event == "summary":
            text = f"{text}\n{self._described()}"
        for service in self._services:
            self._report(event, service.name, *deliver(service, f"{self._name}: {event}", text))

    def _beat(self) -> None:
        try:
            answer = requests.get(self._heartbeat, timeout=HEARTBEAT_TIMEOUT_S, allow_redirects=False)
            delivered, detail = answer.status_code < 300, f"http {answer.status_code}"
        except requests.RequestException as error:  # its text holds the address
            delivered, detail = False, type(error).__name__
        self._report(HEARTBEAT, HEARTBEAT, delivered, "" if delivered else detail)

    def _report(self, event: str, service: str, delivered: bool, detail: str) -> None:
        if not delivered:
            log.warning(fact("notification not delivered", what=event, service=service, reason=detail))
        self._tell(
            NotificationDelivered(
                at_ns=self._system.now_ns(), event=event, service=service, delivered=delivered, detail=detail
            )
        )

    def _described(self) -> str:
        try:
            return self._summary()
        except AlgoRoyaleError as error:
            return f"no summary: {error}"

    def _tell(self, message: Noticed | HeartbeatDue | NotificationDelivered) -> None:
        if self._ref is not None and self._system.exit_code is None:
            self._ref.tell(message)


class Notices:
    """A sink in front of the message log that tells the notifier what it may care for. Never blocks, never raises."""

    def __init__(self, behind: Sink) -> None:
        self._behind = behind
        self._ref: Ref[Any] | None = None
        self._noticed: deque[tuple[str, str, str]] = deque(maxlen=WAITING_MAX)  # what happens before `open` waits here
        self._now_ns: Callable[[], int] = lambda: 0
        self._phase = ""
        self._kinds: Mapping[type, Callable[[Record], tuple[str, str, str] | None]] = {
            OrderChanged: self._order, TradingStateChanged: self._state, SessionPhaseChanged: self._session,
            BrokerStateChanged: self._broker, ConnectionChanged: self._connection, FeedStarted: self._feed,
            FeedHealthChanged: self._health, RecordSessionJob: self._job,
        }  # fmt: skip

    def open(self, ref: Ref[Any], now_ns: Callable[[], int]) -> None:
        self._now_ns, self._ref = now_ns, ref
        self._pass_on()

    def write(self, record: Record) -> None:
        look = self._kinds.get(type(record.message))
        if look is not None:
            noticed = look(record)
            if noticed is not None:
                self._tell(*noticed)
        self._behind.write(record)

    def event(self, at_ns: int, path: str, gen: int, what: str, detail: str) -> None:
        if path != PATH and what in ("restarting", "abandoned", "escalated"):
            self._tell("restart", f"{path}: {what} {detail.splitlines()[-1][:200] if detail else ''}".strip())
        elif what == "halted":
            self._tell("state", f"the trader ends: {detail.splitlines()[0][:300] if detail else 'halted'}")
        self._behind.event(at_ns, path, gen, what, detail)

    def close(self) -> None:
        self._behind.close()

    def _tell(self, event: str, text: str, key: str = "") -> None:
        self._noticed.append((event, text, key))
        self._pass_on()

    def _pass_on(self) -> None:
        while self._ref is not None:
            try:
                event, text, key = self._noticed.popleft()
            except IndexError:  # or another thread was faster
                return
            self._ref.inject(Noticed(at_ns=self._now_ns(), event=event, text=text, key=key))

    # What is told to several is noticed at one of them.

    def _order(self, record: Record) -> tuple[str, str, str] | None:
        message = record.message
        if not record.recipient.endswith("/orders"):
            return None
        order, fill = message.order, message.fill
        what = f"{order.side} {order.quantity} {order.symbol}"
        if message.event == "rejected":
            return "rejected", f"the broker rejected: {what} ({order.client_order_id})", ""
        if fill is not None:
            return "fill", f"{order.status}: {what}, {fill.quantity} at {fill.price_usd}", ""
        return None

    def _state(self, record: Record) -> tuple[str, str, str] | None:
        message = record.message
        if not record.recipient.endswith("/orders"):
            return None
        return "state", f"trading is {message.state}: {message.reason}", ""

    def _session(self, record: Record) -> tuple[str, str, str] | None:
        message = record.message
        if not record.recipient.endswith("/orders"):
            return None
        before, self._phase = self._phase, message.phase
        return (
            ("summary", f"session {message.session_date}", "")
            if (before, message.phase) == ("open", "closed")
            else None
        )

    def _job(self, record: Record) -> tuple[str, str, str] | None:
        message = record.message
        if message.ok:
            return None
        return "job", f"session {message.session_date}, {message.phase}: {message.job} failed: {message.detail}", ""

    def _broker(self, record: Record) -> tuple[str, str, str]:
        message = record.message
        return "found" if message.connected else "lost", message.detail, "trading connection"

    def _connection(self, record: Record) -> tuple[str, str, str] | None:
        message = record.message
        if message.connected or message.endpoint != "data":
            return None
        return "lost", message.detail, "data connection"

    def _feed(self, record: Record) -> tuple[str, str, str]:
        return "found", "", "data connection"

    def _health(self, record: Record) -> tuple[str, str, str]:
        message = record.message
        names = ", ".join(message.stale[:5]) + (" and more" if len(message.stale) > 5 else "")
        return ("lost", f"nothing heard of {names}", "prices") if message.stale else ("found", "", "prices")
