"""alpaca-py against the twin's server, and against servers that misbehave: every failure gets one of two names."""

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal as D
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from actors.alpaca import AlpacaRest
from actors.direct import DirectBroker
from algo_royale.app.trader import Endpoints
from algo_royale.broker import alpaca_wire, api
from algo_royale.errors import BrokerRejected, BrokerUnavailable
from algo_royale.exchange.core import Exchange
from algo_royale.exchange.server import TwinServer
from traders import config
from twins import KEY, SECRET, SESSIONS, small_exchange


@dataclass
class Served:
    """A twin on loopback; `exchange` is only touched while no request is under way."""

    url: str
    exchange: Exchange


@pytest.fixture
def served() -> Iterator[Served]:
    exchange = small_exchange()
    server = TwinServer(exchange, speed=None)
    ready: list[str] = []
    up = threading.Event()

    def on_ready(url: str) -> None:
        ready.append(url)
        up.set()

    thread = threading.Thread(target=lambda: asyncio.run(server.run("127.0.0.1", 0, on_ready)), daemon=True)
    thread.start()
    assert up.wait(10)
    yield Served(ready[0], exchange)
    server.stop()
    thread.join(10)


def client(url: str) -> AlpacaRest:
    return AlpacaRest(key=KEY, secret=SECRET, trading_url=url, data_url=url)


def submit(broker: api.TradingApi, n: int = 1, **other: Any) -> dict[str, Any]:
    return broker.submit(**{"client_order_id": f"ar-{n}", "symbol": "IBM", "side": "buy", "quantity": D(3)} | other)


# --- against the twin ---


def test_network_and_direct_transport_say_the_same(served: Served) -> None:
    """Over alpaca-py and HTTP, or by a plain call: the same twin gives the same JSON."""
    rest, direct = client(served.url + "/v2/"), DirectBroker(served.exchange, key=KEY, secret=SECRET)
    submit(rest, 1)
    submit(rest, 2, order_type="limit", limit_price=D("150.10"), symbol="IBM", quantity=D("0.5"))
    served.exchange.advance(SESSIONS[3].open_ns + 1)  # a fill, a limit expired, a split

    for ask in (
        lambda b: b.account(),
        lambda b: b.positions(),
        lambda b: b.orders(status="all", after_ns=0),
        lambda b: b.orders(status="open", after_ns=0),
        lambda b: b.activities(after_ns=0),
        lambda b: b.order_by_client_id("ar-1"),
        lambda b: b.order_by_client_id("nobody"),
        lambda b: b.snapshots(symbols=["AAPL", "IBM"]),
        lambda b: b.corporate_actions(symbol="AAPL,IBM", start="2012-11-12", end="2012-11-30"),
        lambda b: b.bars(symbol="IBM", timeframe="1Day", start_ns=0, end_ns=served.exchange.now_ns),
        lambda b: b.bars(symbol="IBM", timeframe="1Day", start_ns=SESSIONS[1].label_ns, end_ns=SESSIONS[2].label_ns),
    ):
        assert ask(rest) == ask(direct)
    assert rest.order_by_client_id("nobody") is None
    assert (
        len(rest.bars(symbol="IBM", timeframe="1Day", start_ns=SESSIONS[1].label_ns, end_ns=SESSIONS[2].label_ns)) == 1
    )
    rest.close()


def test_an_order_travels_exactly_and_a_second_one_of_its_id_is_refused(served: Served) -> None:
    rest = client(served.url)

    answer = submit(rest, quantity=D("0.123456789"))

    assert (answer["qty"], answer["client_order_id"], answer["status"]) == ("0.123456789", "ar-1", "accepted")
    with pytest.raises(BrokerRejected, match="client_order_id must be unique") as refused:
        submit(rest)
    assert (refused.value.status, refused.value.code) == (422, 40010001)
    rest.cancel(answer["id"])
    with pytest.raises(BrokerRejected) as unknown:
        rest.cancel("6f1b5c8e-0000-4000-8000-000000000000")
    assert unknown.value.status == 404
    rest.close()


def test_wrong_keys_are_a_no(served: Served) -> None:
    rest = AlpacaRest(key=KEY, secret="wrong", trading_url=served.url, data_url=served.url)

    with pytest.raises(BrokerRejected, match="unauthorized") as refused:
        rest.account()
    assert (refused.value.status, refused.value.code) == (401, None)
    rest.close()


def test_proxies_of_the_environment_do_not_stand_between_us_and_ourselves(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert client(served.url).account()["cash"] == "100000"


class Listing(api.TradingApi):
    """A broker with nine orders of which some share an instant."""

    def __init__(self) -> None:
        instants = [1, 2, 2, 2, 3, 3, 3, 3, 4]
        self.all = [
            {"id": f"b-{n}", "client_order_id": f"ar-{n}", "symbol": "IBM", "side": "buy", "status": "new", "qty": "1",
             "submitted_at": f"2012-11-13T14:30:00.00000{at}Z"}
            for n, at in enumerate(instants)
        ]  # fmt: skip

    def request(self, method: str, path: str, data: Any = None) -> Any:
        after = alpaca_wire.parse_time_ns(data["after"]) if "after" in data else 0
        found = [o for o in self.all if alpaca_wire.parse_time_ns(o["submitted_at"]) > after]
        return found[: data["limit"]]


def test_orders_of_one_instant_are_not_parted_by_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of five ends inside the four orders of one microsecond; each comes once, in order."""
    monkeypatch.setattr(api, "ORDERS_PAGE", 5)

    assert [o["id"] for o in Listing().orders(status="all", after_ns=0)] == [f"b-{n}" for n in range(9)]


def test_lists_longer_than_a_page_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ORDERS_PAGE", 4)
    monkeypatch.setattr(api, "ACTIVITIES_PAGE", 3)
    exchange = small_exchange()
    direct = DirectBroker(exchange, key=KEY, secret=SECRET)
    for n in range(9):
        submit(direct, n, quantity=D(1))
    exchange.advance(SESSIONS[1].open_ns)

    assert [o["client_order_id"] for o in direct.orders(status="all", after_ns=0)] == [f"ar-{n}" for n in range(9)]
    fills = [a for a in direct.activities(after_ns=0) if a["activity_type"] == "FILL"]
    assert len(fills) == len({f["id"] for f in fills}) == 9


def test_a_page_full_of_one_instant_is_an_error_and_not_an_endless_loop() -> None:
    order = {"id": "x", "client_order_id": "c", "symbol": "IBM", "side": "buy", "status": "new", "qty": "1",
             "submitted_at": "2012-11-13T14:30:00Z"}  # fmt: skip

    class Stuck(DirectBroker):
        def request(self, method: str, path: str, data: Any = None) -> Any:
            return [order | {"id": str(n)} for n in range(api.ORDERS_PAGE)]

    with pytest.raises(BrokerUnavailable, match="cannot be paged"):
        Stuck(small_exchange(), key=KEY, secret=SECRET).orders(status="all", after_ns=0)


# --- against servers that misbehave ---


@dataclass
class Odd:
    """A server that gives one prepared answer to everything and counts."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    hang: threading.Event | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def odd_server() -> Iterator[Callable[[Odd], str]]:
    servers: list[ThreadingHTTPServer] = []
    odds: list[Odd] = []

    def start(odd: Odd) -> str:
        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                odd.asked.append(f"{self.command} {self.path}")
                if odd.hang is not None:
                    odd.hang.wait(20)
                self.send_response(odd.status)
                for name, value in odd.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(odd.body)))
                self.end_headers()
                self.wfile.write(odd.body)

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        odds.append(odd)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for odd in odds:
        if odd.hang is not None:
            odd.hang.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "odd",
    [
        Odd(500, b'{"message": "internal server error"}'),
        Odd(502, b"<html>bad gateway</html>"),
        Odd(503, b""),
        Odd(504, b'{"code": 50410000, "message": "timeout"}'),
        Odd(200, b"<html>maintenance</html>"),
        Odd(200, b"[]"),
        Odd(200, b""),
        Odd(302, b"", {"Location": "/elsewhere"}),
        Odd(200, b'{"id": "b-1", "client_order_id": "ar-2"}'),
        Odd(200, b"[" * 100_000),
        Odd(200, b"9" * 5_000),
        Odd(200, gzip.compress(bytes(66 << 20), mtime=0), {"Content-Encoding": "gzip"}),
        Odd(200, b"no gzip", {"Content-Encoding": "gzip"}),
        Odd(429, b'{"code": 42910000, "message": "rate limit exceeded"}', {"Retry-After": "7"}),
    ],
    ids=lambda odd: f"{odd.status}-{odd.body[:12]!r}",
)
def test_without_a_usable_answer_we_do_not_know_and_do_not_retry(odd: Odd, odd_server: Callable[[Odd], str]) -> None:
    """One request, no more: the SDK by itself would send a POST four times over on 429 and 504."""
    odd.asked.clear()

    with pytest.raises(BrokerUnavailable) as failed:
        submit(client(odd_server(odd)))

    assert odd.asked == ["POST /v2/orders"]
    assert failed.value.retry_after_s == (7.0 if odd.status == 429 else None)


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({}, 1.0, 1.0),
        ({"Retry-After": "soon"}, 1.0, 1.0),
        ({"Retry-After": "nan"}, 1.0, 1.0),
        ({"Retry-After": "100000"}, 120.0, 120.0),
        ({"X-RateLimit-Reset": "4102444800"}, 120.0, 120.0),
        ({"X-RateLimit-Reset": "1"}, 1.0, 1.0),
    ],
)
def test_a_rate_limit_says_how_long_to_wait(
    headers: dict[str, str], low: float, high: float, odd_server: Callable[[Odd], str]
) -> None:
    with pytest.raises(BrokerUnavailable) as failed:
        client(odd_server(Odd(429, b"{}", headers))).account()

    assert failed.value.retry_after_s is not None
    assert low <= failed.value.retry_after_s <= high


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (401, b'{"message": "unauthorized."}', None, "unauthorized."),
        (403, b'{"code": 40310000, "message": "insufficient buying power"}', 40310000, "insufficient buying power"),
        (403, b"<html>", None, "<html>"),
        (422, b'{"code": "x", "message": null}', None, '{"code": "x", "message": null}'),
        (400, b"", None, "no message"),
    ],
)
def test_a_no_is_told_with_whatever_it_came_with(
    status: int, body: bytes, code: int | None, message: str, odd_server: Callable[[Odd], str]
) -> None:
    with pytest.raises(BrokerRejected) as refused:
        submit(client(odd_server(Odd(status, body))))

    assert (refused.value.status, refused.value.code, refused.value.message) == (status, code, message)


def test_an_answer_that_never_comes_ends_at_the_deadline(odd_server: Callable[[Odd], str]) -> None:
    """alpaca-py itself would wait for ever. The deadline is the configured one, with the trader's clients as with any other."""
    url = odd_server(Odd(hang=threading.Event()))
    broker = config().broker.model_copy(update={"read_timeout_s": 0.3})
    endpoints = Endpoints(
        trading_url=url, data_url=url, trading_stream_url="", data_stream_url="", keys=(KEY, SECRET), twin=True
    )

    with pytest.raises(BrokerUnavailable, match="read timeout=0.3"):
        endpoints.rest(broker).account()


def test_activities_that_never_end_are_an_error_and_not_an_endless_loop(odd_server: Callable[[Odd], str]) -> None:
    """A server that knows no page tokens gives its first page again and again."""
    odd = Odd(body=json.dumps([{"id": f"a-{n}"} for n in range(api.ACTIVITIES_PAGE)]).encode())
    with pytest.raises(BrokerUnavailable, match="do not end"):
        client(odd_server(odd)).activities(after_ns=0)
    assert len(odd.asked) == 2


def test_a_bar_without_a_time_is_left_out(odd_server: Callable[[Odd], str]) -> None:
    bar = {"t": "2012-01-03T05:00:00Z", "o": 1, "h": 1, "l": 1, "c": 1, "v": 1}
    bars = [bar, bar | {"t": "soon"}, bar | {"t": None}, {}]
    rest = client(odd_server(Odd(body=json.dumps({"bars": {"IBM": bars}, "next_page_token": None}).encode())))
    assert rest.bars(symbol="IBM", timeframe="1Day", start_ns=0, end_ns=2 * 10**18) == [bar]


def test_what_a_broker_says_is_short_and_can_be_printed(odd_server: Callable[[Odd], str]) -> None:
    body = json.dumps({"code": 1, "message": "\x1b[2J\ud800" + "x" * 100_000}).encode()
    with pytest.raises(BrokerRejected) as refused:
        submit(client(odd_server(Odd(403, body))))
    assert refused.value.message.isprintable() and 100 < len(refused.value.message) <= alpaca_wire.TEXT_MAX


def test_nobody_there() -> None:
    with pytest.raises(BrokerUnavailable, match="ConnectionError"):
        client("http://127.0.0.1:1").account()


@pytest.mark.parametrize("body", [{"bars": None}, {"bars": {}, "next_page_token": None}, {"other": 1}])
def test_odd_bars_are_none_or_unavailable_but_never_invented(body: Any, odd_server: Callable[[Odd], str]) -> None:
    rest = client(odd_server(Odd(body=json.dumps(body).encode())))
    try:
        assert rest.bars(symbol="IBM", timeframe="1Day", start_ns=0, end_ns=10**18) == []
        assert body == {"bars": {}, "next_page_token": None}
    except BrokerUnavailable:
        assert body != {"bars": {}, "next_page_token": None}


def test_keys_are_in_no_error(odd_server: Callable[[Odd], str]) -> None:
    rest = AlpacaRest(
        key="VERYKEY", secret="VERYSECRET", trading_url="http://127.0.0.1:1", data_url="http://127.0.0.1:1"
    )
    with pytest.raises(BrokerUnavailable) as failed:
        rest.account()
    assert "VERY" not in str(failed.value)
