"""Notifications reach a real server, and nothing that a server does reaches trading."""

import json
import threading
from collections.abc import Iterator, Mapping
from decimal import Decimal as D
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import apprise.decorators
import pytest
from click.testing import CliRunner

from actors.kernel import Actor, ChildSpec, Record, Restart, Supervisor, ThreadSystem
from actors.messages import (
    BrokerStateChanged,
    ConnectionChanged,
    FeedStarted,
    FillRecord,
    NotificationDelivered,
    OrderChanged,
    OrderRecord,
    RecordSessionJob,
    SessionPhaseChanged,
    TradingStateChanged,
)
from algo_royale.app.cli import Settings, _loaded, root
from algo_royale.app.logs import process_log
from algo_royale.app.notifications import WAITING_MAX, Addressees, Notifications, Service, addressees
from algo_royale.clock import ManualClock
from algo_royale.config import Notify
from algo_royale.errors import BadConfiguration

NOON_NS = 1_325_610_000_000_000_000
SECOND_NS = 1_000_000_000
PASSWORD = "hunter2-very-secret"
ALL = ("start", "stop", "state", "rejected", "fill", "disconnect", "job", "summary", "restart")


class Inbox:
    """A web server on loopback that keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []  # (path, title and body)
        self.status, self.hang = 200, threading.Event()
        self.hang.set()
        self.news = threading.Condition()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(f"{body['title']} | {body['message']}")

            def do_GET(self) -> None:
                self._answer("")

            def _answer(self, text: str) -> None:
                inbox.hang.wait(20)
                with inbox.news:
                    inbox.got.append((self.path, text))
                    inbox.news.notify_all()
                try:
                    self.send_response(inbox.status)
                    self.end_headers()
                except OSError:  # it has gone
                    pass

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def texts(self, count: int) -> list[str]:
        """The first so many messages, once they are there."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.got) >= count, 20), self.got
            return [text for _, text in self.got]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    found = Inbox()
    yield found
    found.hang.set()
    found.server.shutdown()
    found.server.server_close()


class Log:
    """A sink that keeps what the message log would."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.news = threading.Condition()

    def write(self, record: Record) -> None:
        with self.news:
            self.records.append(record)
            self.news.notify_all()

    def event(self, at_ns: int, path: str, gen: int, what: str, detail: str) -> None: ...

    def close(self) -> None: ...

    def reports(self, count: int) -> list[NotificationDelivered]:
        """What became of deliveries, once there are so many."""

        def found() -> list[NotificationDelivered]:
            return [r.message for r in self.records if isinstance(r.message, NotificationDelivered)]

        with self.news:
            assert self.news.wait_for(lambda: len(found()) >= count, 20), found()
            return found()


class Anyone(Actor[object]):
    """Hears everything; fails on "fail"."""

    def receive(self, message: object) -> None:
        if isinstance(message, FeedStarted) and message.at_ns == 666:
            raise ValueError("asked to fail")


class Running:
    """A system with a few actors that only listen, and a notifier beside them."""

    def __init__(self, to: Addressees, *, first: tuple[Any, ...] = (), **changes: Any) -> None:
        """`first`: what happens before anything is delivered."""
        self.clock, self.log = ManualClock(NOON_NS), Log()
        notify = settings(**changes)
        self.notices = Notifications(notify, to, name="AlgoRoyale test", summary=lambda: "equity 5 USD")
        self.system = ThreadSystem(self.clock, log=self.notices.sink(self.log))
        children = [ChildSpec(id=name, factory=Anyone) for name in ("orders", "portfolio", "market_data", "signal")]
        children.append(ChildSpec(id="frail", factory=Anyone, restart=Restart.TEMPORARY))
        self.system.start(ChildSpec(id="root", factory=lambda: Supervisor([*children, self.notices.spec])))
        self.tell(*first)
        self.notices.open(self.system, "run-1 trades IBM")

    def tell(self, *messages: Any, to: str = "orders") -> None:
        for message in messages:
            self.system.ref(f"root/{to}").tell(message)
        self.system.run_until_idle(5.0)

    def counts(self) -> Mapping[str, object]:
        return self.system.observe("root/notifier")

    def end(self) -> None:
        assert self.system.stop() == 0
        self.notices.close("the end")


def settings(**changes: Any) -> Notify:
    base = Settings().config.notify.model_dump()
    return Notify(**{**base, "events": ALL, **changes})


def to(*urls: str, **changes: Any) -> Addressees:
    return addressees(settings(urls=urls, **changes))


def changed(event: str, status: str, fill: FillRecord | None = None) -> OrderChanged:
    order = OrderRecord(
        client_order_id="ar-1", broker_order_id="b-1", decision_id="d", symbol="IBM", side="buy", quantity=D(3),
        filled_quantity=D(0), status=status,
    )  # fmt: skip
    return OrderChanged(at_ns=NOON_NS, order=order, fill=fill, cash_usd=None, position=None, event=event)


FILL = FillRecord(
    execution_id="e", client_order_id="ar-1", broker_order_id="b-1", symbol="IBM", side="buy", quantity=D(3),
    cumulative_quantity=D(3), price_usd=D("9.5"),
)  # fmt: skip


def phase(name: str) -> SessionPhaseChanged:
    return SessionPhaseChanged(at_ns=NOON_NS, session_date="2012-01-03", phase=name, open_ns=1, close_ns=2)


def test_each_event_is_told_once_and_reads_well(inbox: Inbox) -> None:
    run = Running(to(f"json://me:{PASSWORD}@{inbox.address}/hook"))
    for name in ("orders", "portfolio"):  # both hear of it; a person hears of it once
        run.tell(TradingStateChanged(at_ns=NOON_NS, state="halted", reason="ada: earnings"), to=name)
        run.tell(changed("rejected", "rejected"), changed("new", "open"), changed("fill", "filled", FILL), to=name)
        run.tell(phase("open"), phase("closed"), phase("closed"), to=name)
    run.clock.move_to(NOON_NS)
    run.system.advance_to(NOON_NS + 61 * SECOND_NS)
    run.system.run_until_idle()
    inbox.texts(5)
    run.tell(FeedStarted(at_ns=666), to="signal")
    inbox.texts(6)
    run.end()

    assert inbox.texts(7) == [
        "AlgoRoyale test: start | run-1 trades IBM",
        "AlgoRoyale test: state | trading is halted: ada: earnings",
        "AlgoRoyale test: rejected | the broker rejected: buy 3 IBM (ar-1)",
        "AlgoRoyale test: fill | filled: buy 3 IBM, 3 at 9.5",
        "AlgoRoyale test: summary | session 2012-01-03\nequity 5 USD",
        "AlgoRoyale test: restart | root/signal: restarting ValueError: asked to fail",
        "AlgoRoyale test: stop | the end",
    ]
    assert {path for path, _ in inbox.got} == {"/hook"}
    assert all(report.delivered and report.service == "json #1" for report in run.log.reports(5))


def job(name: str, *, ok: bool = False) -> RecordSessionJob:
    return RecordSessionJob(
        at_ns=NOON_NS, session_date="2012-01-03", phase="pre_market", job=name, ok=ok, detail="no answer from broker"
    )


def test_a_job_that_failed_is_told_also_when_it_did_while_the_trader_started(inbox: Inbox) -> None:
    run = Running(to(f"json://{inbox.address}"), first=(job("settlement", ok=True), job("reconcile")), events=("job",))
    run.tell(job("holds", ok=True), job("warm_up"))
    run.end()

    said = "AlgoRoyale test: job | session 2012-01-03, pre_market: {} failed: no answer from broker"
    assert inbox.texts(2) == [said.format("reconcile"), said.format("warm_up")]


def test_only_what_was_asked_for_is_told(inbox: Inbox) -> None:
    run = Running(to(f"json://{inbox.address}"), events=("rejected",))
    run.tell(changed("fill", "filled", FILL), changed("rejected", "rejected"))
    run.end()
    assert inbox.texts(1) == ["AlgoRoyale test: rejected | the broker rejected: buy 3 IBM (ar-1)"]


def test_a_connection_that_is_back_soon_is_not_told_and_one_that_is_not_is_told_twice(inbox: Inbox) -> None:
    run = Running(to(f"json://{inbox.address}"), events=("disconnect",), disconnect_s=30.0)

    def lost(after_s: int, to: str, message: Any) -> None:
        run.system.advance_to(NOON_NS + after_s * SECOND_NS)
        run.system.run_until_idle()
        run.tell(message, to=to)

    down = ConnectionChanged(at_ns=NOON_NS, endpoint="data", connection=1, connected=False, detail="reset by peer")
    lost(0, "market_data", down)
    lost(20, "signal", FeedStarted(at_ns=NOON_NS))
    lost(100, "orders", BrokerStateChanged(at_ns=NOON_NS + 100 * SECOND_NS, connected=False, detail="http 503"))
    lost(110, "orders", BrokerStateChanged(at_ns=NOON_NS + 110 * SECOND_NS, connected=False, detail="http 503"))
    lost(131, "portfolio", phase("open"))
    lost(145, "orders", BrokerStateChanged(at_ns=NOON_NS + 145 * SECOND_NS, connected=True))
    run.end()

    assert inbox.texts(2) == [
        "AlgoRoyale test: disconnect | trading connection: lost for 30 s (http 503)",
        "AlgoRoyale test: disconnect | trading connection: back after 45 s",
    ]


def test_a_service_that_hangs_refuses_or_says_no_is_recorded_and_blocks_nobody(inbox: Inbox, tmp_path: Path) -> None:
    """Three bad services before a good one; the actors' work is over at once, long before any service has answered."""
    bad, mute = Inbox(), Inbox()
    bad.status = 500
    mute.hang.clear()
    urls = (
        f"json://me:{PASSWORD}@127.0.0.1:9/{PASSWORD}?rto=1&cto=1", f"json://me:{PASSWORD}@{mute.address}?rto=1",
        f"json://{bad.address}/{PASSWORD}", f"json://{inbox.address}",
    )  # fmt: skip
    try:
        with process_log(tmp_path / "log", verbosity=3):
            run = Running(to(*urls), events=("rejected",))
            run.tell(*(changed("rejected", "rejected") for _ in range(3)))  # idle within 5 s, or this raises
            reports = run.log.reports(12)
            counts = run.counts()
            run.end()
    finally:
        mute.hang.set()
        for server in (bad.server, mute.server):
            server.shutdown()
            server.server_close()

    assert [(r.service, r.delivered, r.detail) for r in reports[:4]] == [
        ("json #1", False, "not taken"), ("json #2", False, "not taken"), ("json #3", False, "not taken"),
        ("json #4", True, ""),
    ]  # fmt: skip
    assert (counts["delivered"], counts["failed"]) == (3, 9)
    assert len(inbox.texts(3)) == 3
    said = (tmp_path / "log").read_text()
    assert PASSWORD not in said and "notification not delivered" in said
    assert PASSWORD not in repr(list(run.log.records))


def test_a_plugin_that_raises_is_one_more_that_did_not_take_it(caplog: pytest.LogCaptureFixture) -> None:
    def odd(body: str, title: str, notify_type: str, *args: object, **kwargs: object) -> bool:
        raise RuntimeError(f"https://me:{PASSWORD}@host")

    apprise.decorators.notify(on="odd")(odd)  # type: ignore[no-untyped-call]
    run = Running(to("odd://here"), events=("start",))
    (report,) = run.log.reports(1)
    run.end()
    assert (report.service, report.delivered, report.detail) == ("odd #1", False, "not taken")
    assert PASSWORD not in caplog.text


def test_more_than_can_wait_is_dropped_and_counted_and_the_end_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("algo_royale.app.notifications.FAREWELL_S", 0.2)
    stuck, begun = threading.Event(), threading.Event()

    def deliver(title: str, body: str) -> bool:
        begun.set()
        return stuck.wait(20)

    run = Running(Addressees((Service("stuck #1", deliver),)), events=("start", "rejected", "stop"))
    assert begun.wait(10)
    run.tell(*(changed("rejected", "rejected") for _ in range(WAITING_MAX + 7)))
    assert run.counts()["dropped"] == 7
    run.end()
    stuck.set()
    assert "notifications left" in caplog.text


def test_the_heartbeat_goes_on_while_all_is_well_and_falls_silent_when_an_actor_is_gone(inbox: Inbox) -> None:
    run = Running(to(heartbeat_url=f"http://{inbox.address}/{PASSWORD}"), events=(), heartbeat_minutes=1 / 60)
    inbox.texts(3)  # at once, and then each second of the machine's clock
    assert {path for path, _ in inbox.got} == {f"/{PASSWORD}"}
    assert {(r.event, r.service, r.delivered) for r in run.log.reports(3)} == {("heartbeat", "heartbeat", True)}

    run.tell(FeedStarted(at_ns=666), to="frail")  # ends for good
    with run.log.news:
        assert run.log.news.wait_for(lambda: bool(withheld(run)), 20)
    heard = len(inbox.got)
    assert heard <= int(str(run.counts()["heartbeats"]))
    run.end()


def withheld(run: Running) -> object:
    return run.system.glance("root/notifier").get("heartbeats_withheld")


@pytest.mark.parametrize("status", [500, 302])
def test_a_heartbeat_that_is_not_taken_is_recorded_without_its_address(
    inbox: Inbox, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.status = status
    run = Running(to(heartbeat_url=f"http://{inbox.address}/{PASSWORD}"), events=())
    (report,) = run.log.reports(1)
    run.end()
    assert (report.delivered, report.detail) == (False, f"http {status}")
    assert PASSWORD not in caplog.text


def test_addresses_come_from_the_configuration_and_from_a_file_and_show_themselves_nowhere() -> None:
    lines = ["# chat", "json://a.example/one", "", f"heartbeat https://hc.example/{PASSWORD}", "  json://b.example  "]
    found = addressees(settings(urls=(f"json://me:{PASSWORD}@c.example",)), lines)
    assert [service.name for service in found.services] == ["json #1", "json #2", "json #3"]
    assert found.heartbeat == f"https://hc.example/{PASSWORD}"
    assert PASSWORD not in repr(found) and bool(found)
    assert not addressees(settings())
    assert PASSWORD not in str(settings(urls=(PASSWORD,)).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("urls", "heartbeat", "says"),
    [
        ((f"hunter{PASSWORD}",), "", r"address \? #1 is none"),
        (("json://ok.example", f"nonsense://{PASSWORD}"), "", "address nonsense #2 is none"),
        ((), f"ftp://{PASSWORD}", "must start with https://"),
    ],
)
def test_an_address_that_nobody_understands_is_refused_without_being_shown(
    urls: tuple[str, ...], heartbeat: str, says: str
) -> None:
    with pytest.raises(BadConfiguration, match=says) as refused:
        addressees(settings(urls=urls, heartbeat_url=heartbeat))
    assert PASSWORD not in str(refused.value)


def test_the_command_says_who_took_a_test(inbox: Inbox, tmp_path: Path) -> None:
    """From a file that only its owner may read."""
    addresses = tmp_path / "addresses"
    addresses.write_text(f"json://{inbox.address}/{PASSWORD}\njson://127.0.0.1:9/{PASSWORD}?cto=1\n")
    words = ["--json", "notify", "hello"]
    _loaded.cache_clear()
    environ = {"ALGO_ROYALE__NOTIFY__URLS_FILE": str(addresses)}
    addresses.chmod(0o644)
    open_to_all = CliRunner().invoke(root, words, env=environ)
    addresses.chmod(0o600)
    done = CliRunner().invoke(root, words, env=environ)

    assert open_to_all.exit_code == 1 and "others can read this file of secrets" in open_to_all.stderr
    assert (done.exit_code, json.loads(done.stdout)) == (
        1,
        [
            {"service": "json #1", "delivered": True, "detail": ""},
            {"service": "json #2", "delivered": False, "detail": "not taken"},
        ],
    )
    assert inbox.texts(1) == ["AlgoRoyale dev_integration: test | hello"]
    assert PASSWORD not in done.output
    _loaded.cache_clear()  # as in another process
    nobody = CliRunner().invoke(root, ["notify"])
    assert (nobody.exit_code, nobody.stderr) == (1, "error: nobody would be told: [notify] has no address\n")
    shown = CliRunner().invoke(
        root, ["config", "show", "notify"], env={"ALGO_ROYALE__NOTIFY__URLS": f"json://{PASSWORD}"}
    )
    assert shown.exit_code == 0 and PASSWORD not in shown.output


def test_a_file_of_secrets_that_is_no_text_is_one_line_without_them(tmp_path: Path) -> None:
    addresses = tmp_path / "addresses"
    addresses.write_bytes(b"json://127.0.0.1:9/" + PASSWORD.encode() + b"\xff\n")
    addresses.chmod(0o600)
    _loaded.cache_clear()
    done = CliRunner().invoke(root, ["notify"], env={"ALGO_ROYALE__NOTIFY__URLS_FILE": str(addresses)})

    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "is not text" in done.stderr and PASSWORD not in done.output
