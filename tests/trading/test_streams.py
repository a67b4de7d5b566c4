"""The websocket reader: every frame in order, every loss noticed, and an end that waits for nobody."""

import asyncio
import contextlib
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.utils import accept_key

from actors import alpaca
from actors.alpaca import AlpacaRest, AlpacaStreams
from actors.broker import BrokerActor
from actors.kernel import Actor, ChildSpec, MailboxSpec, Overflow, Supervisor, ThreadSystem
from actors.messages import BrokerStateChanged, FrameReceived, OrderAccepted, OrderRecord, SubmitOrder, TradeUpdated
from algo_royale.broker import alpaca_wire
from algo_royale.clock import WallClock
from algo_royale.exchange.server import TwinServer
from algo_royale.market import Timeframe
from algo_royale.sessions import calendar
from twins import KEY, SECRET, small_exchange

WAIT_S = 10.0
Talk = Callable[[ServerConnection], None]


class Ear:
    """What the callbacks were told, as one queue; waits, never polls."""

    def __init__(self) -> None:
        self.told: queue.Queue[tuple[Any, ...]] = queue.Queue()

    def on_frame(self, connection: int, text: str) -> None:
        self.told.put(("frame", connection, text))

    def on_state(self, connection: int, connected: bool, detail: str, fatal: bool) -> None:
        self.told.put(("state", connection, connected, detail, fatal))

    def next(self) -> tuple[Any, ...]:
        return self.told.get(timeout=WAIT_S)


@pytest.fixture
def serving() -> Iterator[Callable[[Talk], str]]:
    """Start a websocket server that has this conversation with everyone; gives its URL."""
    servers: list[Any] = []

    def start(talk: Talk) -> str:
        server = serve(talk, "127.0.0.1", 0, ping_interval=None, compression=None)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}/stream"

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def twin_url() -> Iterator[str]:
    server = TwinServer(small_exchange(), speed=None)
    ready: queue.Queue[str] = queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(server.run("127.0.0.1", 0, ready.put)), daemon=True)
    thread.start()
    yield ready.get(timeout=WAIT_S)
    server.stop()
    thread.join(10)


def dead_line() -> socket.socket:
    """A server that shakes hands and then does nothing at all, not even answer a ping or a goodbye."""
    listener = socket.create_server(("127.0.0.1", 0))

    def shake_hands() -> None:
        line, _ = listener.accept()
        headers = line.recv(4096).decode().split("\r\n")
        key = next(h.split(": ")[1] for h in headers if h.lower().startswith("sec-websocket-key"))
        head = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        line.sendall(f"{head}Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode())
        threading.Event().wait(WAIT_S)
        line.close()

    threading.Thread(target=shake_hands, daemon=True).start()
    return listener


def test_frames_arrive_in_order_whether_text_or_binary(serving: Callable[[Talk], str]) -> None:
    """Paper sends binary frames that hold JSON; a frame may come in fragments; none is parsed on the way."""

    def talk(ws: ServerConnection) -> None:
        ws.send('{"n": 1}')
        ws.send(b'{"n": 2}')
        ws.send(iter(['{"n"', ": 3", "}"]))
        ws.send(b"\xff not utf-8")
        ws.recv()

    ear = Ear()
    streams = AlpacaStreams({"trading": serving(talk)})
    handle = streams.open("trading", 7, ear.on_frame, ear.on_state)

    assert ear.next() == ("state", 7, True, "", False)
    assert [ear.next()[1:] for _ in range(3)] == [(7, '{"n": 1}'), (7, '{"n": 2}'), (7, '{"n": 3}')]
    with pytest.raises(alpaca_wire.BadWire):
        alpaca_wire.parse_data_frame(ear.next()[2])
    handle.close()


def test_a_frame_counts_as_received_once_its_callback_has_returned(serving: Callable[[Talk], str]) -> None:
    """Whoever paces the twin by this number must find the frame in the mailbox already."""
    seen: list[int] = []
    done = threading.Event()

    def talk(ws: ServerConnection) -> None:
        for n in range(3):
            ws.send(str(n))
        ws.recv()

    def on_frame(connection: int, text: str) -> None:
        seen.append(streams.received["trading"])
        if text == "2":
            done.set()

    streams = AlpacaStreams({"trading": serving(talk)})
    handle = streams.open("trading", 1, on_frame, lambda *_: None)
    assert done.wait(WAIT_S)

    assert seen == [0, 1, 2]
    handle.close()


def test_a_new_connection_counts_from_zero(serving: Callable[[Talk], str]) -> None:
    def talk(ws: ServerConnection) -> None:
        ws.send("hello")
        ws.recv()

    ear = Ear()
    streams = AlpacaStreams({"data": serving(talk)})
    first = streams.open("data", 1, ear.on_frame, ear.on_state)
    assert [ear.next()[0] for _ in range(2)] == ["state", "frame"]
    first.close()
    second = streams.open("data", 2, ear.on_frame, ear.on_state)
    assert ear.next() == ("state", 2, True, "", False)
    assert ear.next() == ("frame", 2, "hello")
    second.close()


@pytest.mark.parametrize(("manner", "detail"), [("clean", "closed by the server (1001)"), ("abrupt", "")])
def test_the_loss_of_a_connection_is_told_once(manner: str, detail: str, serving: Callable[[Talk], str]) -> None:
    def talk(ws: ServerConnection) -> None:
        if manner == "clean":
            ws.close(1001)
        else:
            ws.socket.shutdown(socket.SHUT_RDWR)

    ear = Ear()
    handle = AlpacaStreams({"trading": serving(talk)}).open("trading", 1, ear.on_frame, ear.on_state)

    assert ear.next()[2] is True
    kind, _, connected, told, fatal = ear.next()
    assert (kind, connected, fatal) == ("state", False, False)
    assert detail in told
    assert not handle.send("anybody there?")
    assert ear.told.empty()


def test_a_line_without_pongs_is_given_up() -> None:
    """The socket is open and nobody is behind it: only a ping finds that out."""
    listener = dead_line()
    ear = Ear()
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
    AlpacaStreams({"trading": url}, ping_s=0.2, pong_s=0.2).open("trading", 1, ear.on_frame, ear.on_state)

    assert ear.next()[2] is True
    assert "no pong" in ear.next()[3]
    listener.close()


def test_a_silent_but_living_line_is_kept(serving: Callable[[Talk], str]) -> None:
    """Nothing trades for hours; pongs are enough."""

    def talk(ws: ServerConnection) -> None:
        ws.recv()
        ws.send("still here")
        ws.recv()

    ear = Ear()
    handle = AlpacaStreams({"data": serving(talk)}, ping_s=0.05, pong_s=0.1).open("data", 1, ear.on_frame, ear.on_state)
    assert ear.next()[2] is True
    with pytest.raises(queue.Empty):
        ear.told.get(timeout=0.6)  # twelve pings long

    assert handle.send("go on")
    assert ear.next() == ("frame", 1, "still here")
    handle.close()


@pytest.mark.parametrize(("status", "fatal"), [(429, False), (503, False), (401, True), (404, True)])
def test_a_refused_handshake_says_why_and_whether_to_hope(status: int, fatal: bool) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        line, _ = listener.accept()
        line.recv(4096)
        line.sendall(f"HTTP/1.1 {status} no\r\nContent-Length: 0\r\n\r\n".encode())
        line.close()

    threading.Thread(target=refuse, daemon=True).start()
    ear = Ear()
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
    AlpacaStreams({"trading": url}).open("trading", 3, ear.on_frame, ear.on_state)

    assert ear.next() == ("state", 3, False, f"handshake: http {status}", fatal)
    listener.close()


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "nonsense"])
def test_nobody_there_is_a_state_and_not_a_crash(url: str) -> None:
    ear = Ear()
    AlpacaStreams({"trading": url}).open("trading", 1, ear.on_frame, ear.on_state)

    _, _, connected, detail, fatal = ear.next()
    assert (connected, fatal) == (False, False)
    assert detail.startswith("handshake: ")


def test_closing_waits_for_nobody_and_tells_nothing_more() -> None:
    """The other side is a dead line that answers no close; and its reader ends."""
    listener = dead_line()
    ear = Ear()
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
    handle = AlpacaStreams({"trading": url}).open("trading", 1, ear.on_frame, ear.on_state)
    assert ear.next()[2] is True
    (reader,) = [t for t in threading.enumerate() if "stream trading 1" in t.name]

    began_s = WallClock().monotonic_s()
    handle.close()
    assert WallClock().monotonic_s() - began_s < 0.5
    reader.join(WAIT_S)
    assert not reader.is_alive()
    assert ear.told.empty()
    assert not handle.send("x")
    listener.close()


def test_both_streams_of_the_twin(twin_url: str) -> None:
    """The real conversation: greeting, authentication, subscription, on both endpoints."""
    base = twin_url.replace("http", "ws")
    streams = AlpacaStreams({"data": f"{base}/v2/iex", "trading": f"{base}/stream"})
    data, trading = Ear(), Ear()
    feed = streams.open("data", 1, data.on_frame, data.on_state)
    orders = streams.open("trading", 2, trading.on_frame, trading.on_state)

    assert data.next()[2] is True
    assert json.loads(data.next()[2]) == [{"T": "success", "msg": "connected"}]
    feed.send(alpaca_wire.authenticate_text(KEY, SECRET))
    assert json.loads(data.next()[2]) == [{"T": "success", "msg": "authenticated"}]
    feed.send(alpaca_wire.subscribe_text({"dailyBars": ["IBM"]}))
    assert json.loads(data.next()[2])[0]["dailyBars"] == ["IBM"]

    assert trading.next()[2] is True
    orders.send(alpaca_wire.authenticate_text(KEY, SECRET))
    assert alpaca_wire.parse_trading_frame(trading.next()[2]).ok
    orders.send(alpaca_wire.listen_text())
    assert alpaca_wire.parse_trading_frame(trading.next()[2]).kind == "listening"
    feed.close()
    orders.close()


def test_a_frame_without_measure_loses_the_line_and_is_told_to_nobody(
    serving: Callable[[Talk], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alpaca, "FRAME_MAX", 1_000)
    ear = Ear()

    def talk(ws: ServerConnection) -> None:
        ws.send("x" * 1_000)
        ws.send("x" * 1_001)
        with contextlib.suppress(ConnectionClosed):
            ws.recv()

    streams = AlpacaStreams({"data": serving(talk)})
    streams.open("data", 1, ear.on_frame, ear.on_state)
    assert [ear.next()[:3], ear.next()] == [("state", 1, True), ("frame", 1, "x" * 1_000)]
    assert ear.next() == ("state", 1, False, "a frame of 1001 bytes", False)


def test_msgpack_is_understood_although_nobody_asked_for_it(serving: Callable[[Talk], str]) -> None:
    """The same bar in either form is the same bar, its time a msgpack timestamp or text."""
    at = datetime(2012, 11, 19, 14, 31, tzinfo=UTC)
    bar = {"T": "b", "S": "IBM", "o": 190.5, "h": 191, "l": 190, "c": 190.25, "v": 100, "n": 3, "vw": 190.4}

    def talk(ws: ServerConnection) -> None:
        ws.send(msgspec.msgpack.encode([{**bar, "t": at}]))
        ws.send(json.dumps([{**bar, "t": "2012-11-19T14:31:00Z"}]))
        ws.recv()

    ear = Ear()
    handle = AlpacaStreams({"data": serving(talk)}).open("data", 1, ear.on_frame, ear.on_state)
    assert ear.next()[2] is True
    packed, plain = (
        alpaca_wire.bar_row(item, timeframe=Timeframe.MIN_1, calendar=calendar())
        for item in (alpaca_wire.parse_data_frame(ear.next()[2])[0] for _ in range(2))
    )
    handle.close()

    assert packed == plain
    assert packed is not None and packed["close"] == 190.25


class Probe(Actor[Any]):
    def __init__(self, heard: "queue.Queue[Any]") -> None:
        self._heard = heard

    def receive(self, message: Any) -> None:
        self._heard.put(message)


class Slow(Probe):
    """Handles nothing before it may."""

    def __init__(self, heard: "queue.Queue[Any]", may: threading.Event) -> None:
        super().__init__(heard)
        self._may = may

    def receive(self, message: Any) -> None:
        self._may.wait(WAIT_S)
        super().receive(message)


def test_no_frame_is_dropped_when_the_actor_is_slower_than_the_broker(serving: Callable[[Talk], str]) -> None:
    """The mailbox is bounded and the reader waits for room; what the line holds meanwhile is the broker's business."""
    sent = 500

    def talk(ws: ServerConnection) -> None:
        for n in range(sent):
            ws.send(str(n))
        ws.recv()

    heard: queue.Queue[Any] = queue.Queue()
    may, system = threading.Event(), ThreadSystem(WallClock())
    box = MailboxSpec(capacity=10, overflow=Overflow.BLOCK)
    spec = ChildSpec(id="slow", factory=lambda: Slow(heard, may), mailbox=box)
    system.start(ChildSpec(id="root", factory=lambda: Supervisor([spec])))
    slow = system.ref("root/slow")

    def on_frame(number: int, text: str) -> None:
        slow.tell(FrameReceived(at_ns=1, endpoint="trading", connection=number, text=text))

    streams = AlpacaStreams({"trading": serving(talk)})
    handle = streams.open("trading", 1, on_frame, lambda *_: None)
    try:
        while streams.received["trading"] < 10:
            threading.Event().wait(0.01)
        assert len(slow.mailbox) <= 11
        may.set()
        assert [heard.get(timeout=WAIT_S).text for _ in range(sent)] == [str(n) for n in range(sent)]
    finally:
        may.set()
        handle.close()
        system.stop(10)
    assert system.dead_letter_count == 0


def test_the_broker_actor_trades_over_the_network(twin_url: str) -> None:
    """The same actor class on threads, alpaca-py and websocket-client, against the twin's server."""
    heard: queue.Queue[Any] = queue.Queue()
    system = ThreadSystem(WallClock())
    rest = AlpacaRest(key=KEY, secret=SECRET, trading_url=twin_url, data_url=twin_url)
    streams = AlpacaStreams({"trading": f"{twin_url.replace('http', 'ws')}/stream"})
    specs = [
        ChildSpec(id="orders", factory=lambda: Probe(heard)),
        ChildSpec(
            id="broker",
            factory=lambda: BrokerActor(rest, streams, keys=(KEY, SECRET), orders=system.ref("root/orders")),
        ),
    ]
    system.start(ChildSpec(id="root", factory=lambda: Supervisor(specs)))
    try:
        state = heard.get(timeout=WAIT_S)
        assert isinstance(state, BrokerStateChanged) and state.connected
        order = OrderRecord(
            client_order_id="ar-1", broker_order_id=None, decision_id="d", symbol="IBM", side="buy", quantity=Decimal(3),
            filled_quantity=Decimal(0), status="recorded",
        )  # fmt: skip
        system.ref("root/broker").tell(SubmitOrder(at_ns=system.now_ns(), order=order, until_ns=2**62))
        both = [heard.get(timeout=WAIT_S) for _ in range(2)]
    finally:
        system.stop(10)

    assert {type(message) for message in both} == {OrderAccepted, TradeUpdated}
    rest.close()
