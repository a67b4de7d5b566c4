"""The twin over real sockets, spoken to by alpaca-py, requests and websocket-client as they are."""

import asyncio
import json
import math
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import psutil
import pytest
import requests
import websocket
from alpaca.common.exceptions import APIError
from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.historical.corporate_actions import CorporateActionsClient
from alpaca.data.live import StockDataStream
from alpaca.data.requests import CorporateActionsRequest, StockBarsRequest
from alpaca.data.timeframe import TimeFrame
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderSide, OrderStatus, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import GetCalendarRequest, GetOrdersRequest, LimitOrderRequest, MarketOrderRequest
from alpaca.trading.stream import TradingStream
from click.testing import CliRunner

from algo_royale.app.cli import root
from algo_royale.app.exchange_process import ExchangeProcess
from algo_royale.errors import BadInput
from algo_royale.exchange import server as server_module
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.faults import Faults, Latency
from algo_royale.exchange.faults import Order as FaultOrder
from algo_royale.exchange.server import TwinServer
from conftest import ROOT

KEYS = ("TWINKEY", "twin-secret")
HEADERS = {"APCA-API-KEY-ID": KEYS[0], "APCA-API-SECRET-KEY": KEYS[1]}
AUTH = json.dumps({"action": "auth", "key": KEYS[0], "secret": KEYS[1]})
LISTEN = json.dumps({"action": "listen", "data": {"streams": ["trade_updates"]}})
WAIT_S = 20


class Running:
    """A twin served by a thread of this process, and clients of it."""

    def __init__(self, server: TwinServer) -> None:
        self.server, self.exchange = server, server.exchange
        ready: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=lambda: asyncio.run(server.run("127.0.0.1", 0, ready.put)))
        self._thread.start()
        self.url = ready.get(timeout=WAIT_S)
        self.ws = self.url.replace("http", "ws", 1)
        self.http = requests.Session()
        self._sockets: list[Any] = []

    def close(self) -> None:
        for connection in self._sockets:
            connection.shutdown()
        self.http.close()
        self.server.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def connect(self, path: str, **options: Any) -> Any:
        connection = websocket.create_connection(self.ws + path, timeout=WAIT_S, **options)
        self._sockets.append(connection)
        return connection

    def trading_stream(self) -> Any:
        connection = self.connect("/stream")
        connection.send(AUTH)
        connection.recv()
        connection.send(LISTEN)
        connection.recv()
        return connection

    def data_stream(self, *symbols: str) -> Any:
        connection = self.connect("/v2/iex", header=HEADERS)
        connection.send(json.dumps({"action": "subscribe", "dailyBars": symbols}))
        for _ in range(3):
            connection.recv()
        return connection

    def advance(self, **body: Any) -> Any:
        return self.http.post(f"{self.url}/sim/advance", json=body, timeout=WAIT_S)

    def buy(self) -> None:
        order = {"symbol": "AAPL", "qty": 1.0, "side": "buy", "type": "market", "time_in_force": "day"}
        assert self.http.post(f"{self.url}/v2/orders", headers=HEADERS, json=order, timeout=WAIT_S).status_code == 200

    def sent(self) -> Any:
        return self.http.get(f"{self.url}/sim/truth", timeout=WAIT_S).json()["sent"]

    def until(self, true: Callable[[], bool]) -> None:
        """Ask the server again and again until it is so."""
        for _ in range(5000):
            if true():
                return
        raise AssertionError("it never came true")


@pytest.fixture
def run(replay: Any) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(speed: float | None = None) -> Running:
        config = ExchangeConfig(start_ns=replay.sessions[0].close_ns)
        running.append(Running(TwinServer(Exchange(replay, config), speed=speed)))
        return running[-1]

    yield start
    for twin in running:
        twin.close()


@pytest.fixture
def twin(run: Callable[..., Running]) -> Running:
    return run()


# ------------------------------------------------------------------------------------------------------ alpaca-py REST


@pytest.fixture
def trading(twin: Running) -> TradingClient:
    return TradingClient(*KEYS, url_override=twin.url)


def test_alpaca_py_trades(twin: Running, trading: TradingClient) -> None:
    assert trading.get_account().buying_power == "400000"
    assert trading.get_clock().is_open is False
    order = trading.submit_order(
        MarketOrderRequest(
            symbol="AAPL", qty=2, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, client_order_id="one"
        )
    )
    assert order.status is OrderStatus.ACCEPTED
    resting = trading.submit_order(
        LimitOrderRequest(symbol="IBM", qty=1, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, limit_price=150)
    )
    twin.advance()

    assert trading.get_order_by_client_id("one").filled_avg_price == "20.01"
    assert trading.get_order_by_id(order.id).status is OrderStatus.FILLED
    assert [o.id for o in trading.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN, symbols=["IBM"]))] == [
        resting.id
    ]
    assert trading.get_open_position("AAPL").qty == "2"
    assert [p.symbol for p in trading.get_all_positions()] == ["AAPL"]
    assert [a.symbol for a in trading.get_all_assets()] == ["AAPL", "FB", "IBM"]
    days = trading.get_calendar(GetCalendarRequest(start=date(2012, 11, 21), end=date(2012, 11, 23)))
    assert [day.date.day for day in days] == [21, 23]
    trading.cancel_order_by_id(resting.id)
    assert trading.cancel_orders() == []
    assert [a["symbol"] for a in trading.get("/account/activities", {"activity_types": "FILL"})] == ["AAPL"]


def test_the_clients_of_the_guide_are_made_as_it_says(twin: Running) -> None:
    """The guide's Python, with the port put in."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "exchange.md").read_text(), re.DOTALL)
    made = [eval(line.replace("127.0.0.1:PORT", twin.url.removeprefix("http://"))) for line in code.splitlines()]
    assert made[0].get_clock().is_open is False
    today = made[1].get_stock_bars(StockBarsRequest(symbol_or_symbols="AAPL", timeframe=TimeFrame.Day))
    assert [bar.close for bar in today.data["AAPL"]] == [20.0]
    assert [type(client) for client in made[2:]] == [StockDataStream, TradingStream]


def test_the_commands_of_the_guide_are_understood() -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "exchange.md").read_text(), re.DOTALL)
    for line in block.splitlines():
        words = line.partition("#")[0].split()
        command = root.get_command(click.Context(root), "run-exchange")
        assert command is not None and words[0] == "algo-royale"
        command.make_context("run-exchange", words[words.index("run-exchange") + 1 :])


def test_alpaca_py_reads_errors(trading: TradingClient) -> None:
    with pytest.raises(APIError) as refused:
        trading.submit_order(
            MarketOrderRequest(symbol="AAPL", qty=1e6, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
        )
    assert (refused.value.status_code, refused.value.code) == (403, 40310000)
    with pytest.raises(APIError) as unknown:
        trading.get_open_position("AAPL")
    assert (unknown.value.status_code, unknown.value.message) == (404, "position does not exist")


def test_alpaca_py_reads_history_page_by_page(twin: Running) -> None:
    twin.exchange.advance(twin.exchange.replay.sessions[9].close_ns)
    data = StockHistoricalDataClient(*KEYS, url_override=twin.url)
    request = StockBarsRequest(
        symbol_or_symbols=["AAPL", "IBM"], timeframe=TimeFrame.Day, start=datetime(2012, 11, 1, tzinfo=UTC)
    )

    bars = data.get_stock_bars(request).data

    assert (len(bars["AAPL"]), len(bars["IBM"])) == (10, 9)
    assert bars["AAPL"][0].timestamp == datetime(2012, 11, 12, 5, tzinfo=UTC)
    actions = CorporateActionsClient(*KEYS, url_override=twin.url).get_corporate_actions(
        CorporateActionsRequest(start=date(2012, 11, 1), end=date(2012, 12, 1))
    )
    assert {kind: len(found) for kind, found in actions.data.items()} == {"cash_dividends": 1, "forward_splits": 1}


# --------------------------------------------------------------------------------------------------- alpaca-py streams


def test_alpaca_py_streams_trade_updates(twin: Running) -> None:
    heard: queue.Queue[Any] = queue.Queue()

    async def handler(update: Any) -> None:
        heard.put(update)

    stream = TradingStream(*KEYS, url_override=f"{twin.ws}/stream")
    stream.subscribe_trade_updates(handler)
    thread = threading.Thread(target=stream.run)
    thread.start()
    twin.until(lambda: twin.sent()["trading"] == 2)
    twin.buy()
    twin.advance()

    updates = [heard.get(timeout=WAIT_S) for _ in range(3)]
    stream.stop()
    twin.buy()  # a frame wakes the SDK, which else looks up from its socket every five seconds only
    thread.join(WAIT_S)

    assert [u.event for u in updates] == ["accepted", "new", "fill"]
    assert (updates[2].price, updates[2].position_qty) == (20.01, 1.0)


def test_alpaca_py_streams_daily_bars_in_msgpack_with_timestamps(twin: Running) -> None:
    heard: queue.Queue[Any] = queue.Queue()

    async def handler(bar: Any) -> None:
        heard.put(bar)

    stream = StockDataStream(*KEYS, url_override=f"{twin.ws}/v2/iex")
    stream.subscribe_daily_bars(handler, "AAPL", "IBM")  # a fragmented message on the wire
    thread = threading.Thread(target=stream.run)
    thread.start()
    twin.until(lambda: twin.sent()["data"] == 3)
    twin.advance()
    twin.advance()

    bars = [heard.get(timeout=WAIT_S) for _ in range(2)]
    stream.stop()
    twin.advance()
    twin.advance()  # a frame wakes the SDK
    thread.join(WAIT_S)

    assert [(b.symbol, b.open, b.close, b.timestamp) for b in bars] == [
        ("AAPL", 20.0, 20.5, datetime(2012, 11, 13, 5, tzinfo=UTC)),
        ("IBM", 190.0, 191.0, datetime(2012, 11, 13, 5, tzinfo=UTC)),
    ]


def test_alpaca_py_streams_every_kind_of_market_data_in_msgpack(tape_replay: Any) -> None:
    """Unmodified: trades, quotes, minute and updated bars, daily bars, statuses, corrections, cancellations."""
    start = tape_replay.sessions[0].open_ns + 600_000_000_000 + 5_000_000_000
    twin = Running(TwinServer(Exchange(tape_replay, ExchangeConfig(start_ns=start)), speed=None))
    heard: queue.Queue[Any] = queue.Queue()

    async def handler(message: Any) -> None:
        heard.put(message)

    stream = StockDataStream(*KEYS, url_override=f"{twin.ws}/v2/iex")
    for subscribe in (
        stream.subscribe_trades, stream.subscribe_quotes, stream.subscribe_bars, stream.subscribe_updated_bars,
        stream.subscribe_daily_bars, stream.subscribe_trading_statuses,
    ):  # fmt: skip
        subscribe(handler, "IBM")
    stream.register_trade_corrections(handler)
    stream.register_trade_cancels(handler)
    thread = threading.Thread(target=stream.run)
    thread.start()
    twin.until(lambda: twin.sent()["data"] == 3)
    for name, body in (
        ("amend", {"kind": "late", "price": 190.5, "size": 3, "ago_s": 10}), ("amend", {"kind": "correct", "price": 191, "size": 4}),
        ("amend", {"kind": "cancel"}), ("halt", {}),
    ):  # fmt: skip
        assert (
            twin.http.post(f"{twin.url}/sim/{name}", json={"symbol": "IBM", **body}, timeout=WAIT_S).status_code == 200
        )
    for _ in range(3):
        twin.advance()
    seen: dict[str, Any] = {}
    for _ in range(500):
        message = heard.get(timeout=WAIT_S)
        name = type(message).__name__
        seen[name if name != "Bar" else f"Bar {message.timestamp}"] = message
        if {"Trade", "Quote", "TradeCorrection", "TradeCancel", "TradingStatus"} <= set(seen) and (
            sum(n.startswith("Bar") for n in seen) == 3
        ):
            break
    stream.stop()
    twin.advance()
    thread.join(WAIT_S)
    twin.close()

    assert sorted(n for n in seen if n.startswith("Bar")) == [
        "Bar 2012-11-19 05:00:00+00:00", "Bar 2012-11-19 14:39:00+00:00", "Bar 2012-11-19 14:40:00+00:00",
    ]  # fmt: skip
    assert (seen["TradeCorrection"].corrected_price, seen["TradingStatus"].status_code) == (191.0, "H")


# ---------------------------------------------------------------------------------------------------- websocket-client


def test_market_data_is_text_and_trade_updates_are_binary_json(twin: Running) -> None:
    data, trading = twin.data_stream("AAPL"), twin.trading_stream()
    twin.buy()
    twin.advance()
    twin.advance()

    update, bars = trading.recv(), data.recv()

    assert isinstance(update, bytes) and json.loads(update)["data"]["event"] == "accepted"
    assert isinstance(bars, str) and json.loads(bars)[0]["c"] == 20.5


def test_sip_is_served_and_other_streams_are_404(twin: Running) -> None:
    assert json.loads(twin.connect("/v2/sip").recv()) == [{"T": "success", "msg": "connected"}]
    for path in ("/v1beta1/news", "/"):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            twin.connect(path)
        assert refused.value.status_code == 404


def test_pings_are_answered(twin: Running) -> None:
    connection = twin.connect("/v2/iex")
    connection.recv()
    connection.ping("are you there")
    opcode, frame = connection.recv_data_frame(control_frame=True)
    assert (opcode, frame.data) == (websocket.ABNF.OPCODE_PONG, b"are you there")


def test_a_second_trading_connection_gets_429_and_its_place_when_the_first_drops(twin: Running) -> None:
    first = twin.trading_stream()
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        twin.connect("/stream")
    assert refused.value.status_code == 429
    first.shutdown()  # no closing handshake: as if the client had been killed
    twin.until(lambda: twin.sent()["trading"] == 0)
    twin.trading_stream()


def test_the_server_hangs_up_on_nonsense_in_the_trading_stream(twin: Running) -> None:
    connection = twin.connect("/stream", header=HEADERS)
    connection.send("nonsense")
    assert json.loads(connection.recv()) == {"action": "error", "data": {"error_message": "internal server error"}}
    opcode, _ = connection.recv_data()
    assert opcode == websocket.ABNF.OPCODE_CLOSE


def test_a_data_client_that_does_not_sign_in_is_told_and_dropped(
    twin: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "AUTH_TIMEOUT_S", 0.05)
    connection = twin.connect("/v2/iex")
    connection.recv()
    assert json.loads(connection.recv()) == [{"T": "error", "code": 404, "msg": "auth timeout"}]
    opcode, _ = connection.recv_data()
    assert opcode == websocket.ABNF.OPCODE_CLOSE


def test_a_client_that_does_not_read_delays_time_for_a_while_and_then_is_dropped(
    twin: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "SLOW_CLIENT_S", 0.1)
    twin.trading_stream()
    twin.exchange.streams[0].push("x" * 30_000_000)  # more than the buffers between us hold
    twin.exchange.streams[0].push("y")

    assert twin.advance().json()["now_ns"] == twin.exchange.replay.sessions[1].open_ns

    assert twin.sent()["trading"] == 0
    twin.until(lambda: not twin.server.connections)
    twin.trading_stream()


@pytest.mark.parametrize("content", [b"\xc1", b"\x93\x01", b"", b"\xc7\x08\xff" + b"\x00" * 8])
def test_broken_msgpack_is_answered_with_an_error(twin: Running, content: bytes) -> None:
    connection = twin.connect("/v2/iex", header={"Content-Type": "application/msgpack"})
    connection.recv()
    connection.send(content, opcode=websocket.ABNF.OPCODE_BINARY)
    answer = connection.recv()
    assert isinstance(answer, bytes) and b"invalid syntax" in answer


# ---------------------------------------------------------------------------------------------------------------- time


def test_time_moves_only_when_every_frame_has_arrived(twin: Running) -> None:
    twin.data_stream("AAPL")
    twin.trading_stream()

    for received in ({"data": 2, "trading": 2}, {"data": 3, "trading": 0}, {"data": 4, "trading": 2}):
        answer = twin.advance(received=received)
        assert (answer.status_code, answer.json()) == (409, {"sent": {"data": 3, "trading": 2}})
    answer = twin.advance(received={"data": 3, "trading": 2})

    sessions = twin.exchange.replay.sessions
    assert (answer.status_code, answer.json()) == (200, {
        "now_ns": sessions[1].open_ns, "sent": {"data": 3, "trading": 2}, "next_event_ns": sessions[1].close_ns, "ended": False,
    })  # fmt: skip
    assert twin.advance(received={"data": 3, "trading": 2}).json()["sent"] == {"data": 4, "trading": 2}


def test_time_moves_to_the_next_event_or_until_the_instant_asked_for(twin: Running) -> None:
    opens = twin.exchange.replay.sessions[1].open_ns

    assert twin.advance(until_ns=opens - 5).json()["now_ns"] == opens - 5
    assert twin.advance(until_ns=opens - 9).json()["now_ns"] == opens - 5
    assert twin.advance(until_ns=opens + 10**15).json()["now_ns"] == opens


def test_the_end_of_the_replay_is_told(twin: Running) -> None:
    last = twin.exchange.replay.sessions[-1].close_ns
    twin.exchange.advance(last - 1)
    assert twin.advance().json() == {
        "now_ns": last,
        "sent": {"data": 0, "trading": 0},
        "next_event_ns": None,
        "ended": True,
    }
    assert twin.advance().json()["now_ns"] == last
    assert twin.advance(until_ns=last + 3).json()["now_ns"] == last + 3
    clock = twin.http.get(f"{twin.url}/sim/clock").json()
    assert (clock["ended"], clock["speed"], clock["now_ns"]) == (True, "max", last + 3)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"until_ns": "soon"}', b'{"received": {"data": "x"}}', b"\xff"])
def test_a_broken_advance_is_400_and_moves_nothing(twin: Running, body: bytes) -> None:
    before = twin.exchange.now_ns
    assert twin.http.post(f"{twin.url}/sim/advance", data=body).status_code == 400
    assert twin.exchange.now_ns == before


def test_the_truth_is_told_over_the_wire(twin: Running) -> None:
    assert twin.http.get(f"{twin.url}/sim/truth").json() == json.loads(json.dumps(twin.exchange.truth()))


def test_a_huge_body_and_strange_methods_are_refused(twin: Running) -> None:
    assert twin.http.post(f"{twin.url}/v2/orders", headers=HEADERS, data=b"x" * 2_000_000).status_code == 413
    assert twin.http.request("BREW", f"{twin.url}/v2/orders", headers=HEADERS).status_code == 405
    assert twin.http.patch(f"{twin.url}/v2/orders", headers=HEADERS).status_code == 404
    assert twin.http.get(f"{twin.url}/v2/clock").status_code == 401


def test_at_a_speed_sessions_open_and_close_by_themselves(run: Callable[..., Running]) -> None:
    twin = run(speed=500_000)  # the night takes an eighth of a second, the session a twentieth
    stream = twin.data_stream("AAPL")

    first, second = (json.loads(stream.recv())[0] for _ in range(2))

    assert (second["t"] > first["t"] >= "2012-11-13") and first["S"] == "AAPL"
    clock = twin.http.get(f"{twin.url}/sim/clock").json()
    assert clock["speed"] == 500_000 and clock["now_ns"] > twin.exchange.replay.sessions[1].close_ns
    assert twin.advance().status_code == 400


def test_a_twin_whose_time_fails_ends_with_the_fault(replay: Any) -> None:
    class Broken(Exchange):
        def advance(self, until_ns: int) -> None:
            raise ZeroDivisionError("planted")

    server = TwinServer(Broken(replay, ExchangeConfig(start_ns=replay.sessions[0].open_ns - 1)), speed=1e6)
    with pytest.raises(ZeroDivisionError, match="planted"):
        asyncio.run(server.run("127.0.0.1", 0, lambda url: None))


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_impossible_speeds_are_refused(replay: Any, speed: float) -> None:
    with pytest.raises(BadInput, match="impossible"):
        TwinServer(SimpleNamespace(now_ns=0), speed=speed)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "example.org", "::"])
def test_only_loopback_is_served(replay: Any, host: str) -> None:
    server = TwinServer(Exchange(replay, ExchangeConfig(start_ns=replay.sessions[0].open_ns)), speed=None)
    with pytest.raises(BadInput, match="loopback"):
        asyncio.run(server.run(host, 0, print))


# ------------------------------------------------------------------------------------------------ a process of its own


def test_run_exchange_prints_its_url_and_ends_cleanly_on_a_signal() -> None:
    command = [sys.executable, "-m", "algo_royale", "run-exchange", "--speed", "max", "--symbols", "ibm"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        assets = requests.get(f"{url}/v2/assets", headers=HEADERS, timeout=WAIT_S).json()
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        assert process.stdout.read() == b""
    assert [asset["symbol"] for asset in assets] == ["IBM"]


def test_the_twin_process_ends_with_its_owner_however_that_ends() -> None:
    script = (
        "import os, signal\n"
        "from algo_royale.app.exchange_process import ExchangeProcess\n"
        "print(ExchangeProcess(['--speed', 'max']).start().pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    owner = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, check=False)
    assert owner.returncode == -signal.SIGKILL
    _until_gone(int(owner.stdout))


def _until_gone(pid: int) -> None:
    """Wait for a process that is not our child."""
    try:
        psutil.Process(pid).wait(WAIT_S)
    except psutil.NoSuchProcess:
        return


def test_the_twin_process_serves_inside_its_block_and_tells_where() -> None:
    with ExchangeProcess(["--speed", "max", "--start", "2012-06-01", "--end", "2012-06-29"]) as twin:
        clock = requests.get(f"{twin.url}/sim/clock", timeout=WAIT_S).json()
        assert TradingClient(twin.key_id, twin.secret_key, url_override=twin.url).get_clock().next_open.day == 1
        assert (twin.symbols, clock["ended"]) == (("AAPL", "FB", "GOOG", "IBM", "MSFT"), False)
    _until_gone(twin.pid)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--symbols", "APPL"], "did you mean 'AAPL'"),
        (["--host", "0.0.0.0"], "loopback"),
        (["--speed", "fast"], "neither a number nor max"),
        (["--start", "2030-01-01"], "no sessions from 2030-01-01"),
        (["--cost", "slipage_bps=1"], "did you mean 'slippage_bps'"),
        (["--cash", "-1"], "not positive"),
        (["--partial-fills", "2"], "not between 0 and 1"),
        (["--amended-trades", "-0.1", "--market", "path"], "not between 0 and 1"),
        (["--amended-trades", "0.1"], "a market that has trades"),
        (["--whole-shares", "APPL"], "did you mean 'AAPL'"),
        (["--state", "/nowhere/at/all"], "cannot keep the exchange's state in /nowhere/at/all"),
    ],
)
def test_impossible_options_are_one_clear_line(options: list[str], words: str) -> None:
    result = CliRunner().invoke(root, ["run-exchange", *options])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("error: ") and words in result.stderr


def test_options_of_the_account_and_the_data_reach_the_exchange() -> None:
    """Two trades and quotes are too many symbols for a plan of one; the dividend of 7 November 2012 is paid."""
    options = ["--speed", "max", "--symbols", "AAPL,IBM", "--start", "2012-11-05", "--end", "2012-11-07", "--dividends"]
    with ExchangeProcess([*options, "--market", "path", "--symbols-max", "1", "--amended-trades", "0.01"]) as twin:
        socket = websocket.create_connection(
            twin.url.replace("http", "ws", 1) + "/v2/iex", header=HEADERS, timeout=WAIT_S
        )
        socket.send(json.dumps({"action": "subscribe", "trades": ["AAPL", "IBM"]}))
        told = [json.loads(socket.recv())[0] for _ in range(3)]
        socket.close()
        order = {"symbol": "IBM", "qty": "100", "side": "buy", "type": "market", "time_in_force": "day"}
        requests.post(f"{twin.url}/v2/orders", headers=HEADERS, json=order, timeout=WAIT_S)
        amended = []
        for _ in range(5000):
            state = requests.post(f"{twin.url}/sim/advance", json={}, timeout=WAIT_S).json()
            amended.append(state["now_ns"] % 60_000_000_000)
            if state["ended"]:
                break
        paid = requests.get(f"{twin.url}/v2/account/activities/DIV", headers=HEADERS, timeout=WAIT_S).json()

    assert (told[2]["T"], told[2]["code"]) == ("error", 405)
    assert [(p["symbol"], p["qty"], p["net_amount"]) for p in paid] == [("IBM", "100", "85")]
    assert set(amended) - {0}, "things are said of trades between the minutes"


def test_a_twin_that_cannot_start_says_why() -> None:
    with pytest.raises(BadInput, match="neither 'bundled' nor a folder"):
        ExchangeProcess(["--data", "/nowhere"]).start()


# ----------------------------------------------------------------------------------------------------- faults on request


def fail(twin: Running, **order: Any) -> Any:
    answer = twin.http.post(f"{twin.url}/sim/faults", json=order, timeout=WAIT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()["happened"]


def post_order(twin: Running, name: str) -> Any:
    order = {
        "symbol": "AAPL", "qty": 1, "side": "buy", "type": "market", "time_in_force": "day", "client_order_id": name,
    }  # fmt: skip
    return twin.http.post(f"{twin.url}/v2/orders", headers=HEADERS, json=order, timeout=WAIT_S)


def is_there(twin: Running, name: str) -> bool:
    return any(order["client_order_id"] == name for order in truth(twin)["orders"])


def truth(twin: Running) -> Any:
    return twin.http.get(f"{twin.url}/sim/truth", timeout=WAIT_S).json()


@pytest.mark.parametrize(
    ("kind", "status", "processed"),
    [
        ("lost_answer", 504, True), ("not_processed", 504, False), ("rate_limit", 429, False), ("error", 500, False),
        ("unauthorized", 401, False), ("latency", 200, True), ("timeout", 200, True),
    ],
)  # fmt: skip
def test_a_request_meets_the_fault_that_was_asked_for_and_the_next_one_does_not(
    twin: Running, kind: str, status: int, processed: bool
) -> None:
    happened = fail(twin, requests=[{"kind": kind, "method": "POST", "path": "/v2/orders", "seconds": 0.01}])
    assert happened == {}
    assert twin.http.get(f"{twin.url}/v2/clock", headers=HEADERS, timeout=WAIT_S).status_code == 200

    answer = post_order(twin, "one")

    assert (answer.status_code, is_there(twin, "one")) == (status, processed)
    assert post_order(twin, "two").status_code == 200
    assert ("X-RateLimit-Reset" in answer.headers) == (kind == "rate_limit")


def test_an_order_may_not_be_shown_by_its_client_id_at_first(twin: Running) -> None:
    """Taken all the same; the fault waits for a look-up, and the next one finds it."""
    fail(twin, requests=[{"kind": "unseen"}])
    assert post_order(twin, "one").status_code == 200
    asked = f"{twin.url}/v2/orders:by_client_order_id?client_order_id=one"
    answers = [twin.http.get(asked, headers=HEADERS, timeout=WAIT_S) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [404, 200]
    assert answers[0].json()["code"] == 40410000 and answers[1].json()["client_order_id"] == "one"


@pytest.mark.parametrize(("kind", "taken"), [("reset", True), ("reset_before", False)])
def test_an_answer_may_break_off_whether_the_order_was_taken_or_not(twin: Running, kind: str, taken: bool) -> None:
    fail(twin, requests=[{"kind": kind, "method": "POST"}])
    with pytest.raises(requests.exceptions.ConnectionError):
        post_order(twin, "one")

    assert is_there(twin, "one") == taken


def test_an_order_is_taken_although_its_client_gave_up_waiting(twin: Running) -> None:
    fail(twin, requests=[{"kind": "timeout", "method": "POST", "seconds": 30}])
    order = {
        "symbol": "AAPL",
        "qty": 1,
        "side": "buy",
        "type": "market",
        "time_in_force": "day",
        "client_order_id": "one",
    }
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{twin.url}/v2/orders", headers=HEADERS, json=order, timeout=0.3)

    assert is_there(twin, "one")


def test_latency_is_drawn_around_its_median_and_ends_with_clear(twin: Running) -> None:
    faults = Faults()
    faults.ask(FaultOrder(latency=Latency(seed=4, median_s=0.1, sigma=0.5, most_s=0.4)))
    drawn = sorted(faults.late_s() for _ in range(4001))

    assert drawn[2000] == pytest.approx(0.1, rel=0.05)
    assert drawn[int(4001 * 0.8413)] == pytest.approx(0.1 * math.exp(0.5), rel=0.05)  # one sigma of the logarithm
    assert drawn[-1] == 0.4
    fail(twin, latency={"median_s": 5.0, "sigma": 0.0})
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.get(f"{twin.url}/v2/clock", headers=HEADERS, timeout=0.2)
    fail(twin, clear=True)
    assert requests.get(f"{twin.url}/v2/clock", headers=HEADERS, timeout=WAIT_S).status_code == 200


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("drop", ["two", "three"]), ("duplicate", ["one", "one", "two", "three"]), ("delay", ["two", "one", "three"]),
        ("reorder", ["two", "one", "three"]), ("unknown", [None, "one", "two", "three"]), ("split", ["one", "two", "three"]),
        ("error", [None, "one", "two", "three"]), ("enum", ["one", "two", "three"]),
    ],
)  # fmt: skip
def test_trade_updates_are_dropped_doubled_delayed_or_strange(twin: Running, kind: str, names: list[str]) -> None:
    stream = twin.trading_stream()
    fail(twin, frames=[{"endpoint": "trading", "kind": kind}])
    for name in ("one", "two", "three"):
        post_order(twin, name)
    heard = [json.loads(stream.recv())["data"] for _ in names]

    assert [each.get("order", {}).get("client_order_id") for each in heard] == names
    strange = [each["order"]["status"] for each in heard if "order" in each and each["order"]["status"] != "accepted"]
    assert strange == (["reconsidered"] if kind == "enum" else [])


def test_the_answer_to_a_ping_does_not_get_between_the_pieces_of_a_message(twin: Running) -> None:
    """The network cuts bytes apart but does not mix them; a client would read the answer as part of the message."""
    stream, names = twin.trading_stream(), [f"order-{number}" for number in range(20)]
    fail(twin, frames=[{"endpoint": "trading", "kind": "split", "count": len(names)}])
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.0005):
            stream.ping()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for name in names:
            post_order(twin, name)
        heard = [json.loads(stream.recv())["data"]["order"]["client_order_id"] for _ in names]
    finally:
        over.set()
        asking.join(WAIT_S)

    assert heard == names


def test_a_connection_that_is_closed_between_the_pieces_of_a_message_troubles_nobody_else(twin: Running) -> None:
    stream = twin.trading_stream()
    fail(twin, frames=[{"endpoint": "trading", "kind": "split", "count": 10}])
    answers: list[Any] = []
    orders = [threading.Thread(target=lambda n=n: answers.append(try_order(twin, f"order-{n}"))) for n in range(10)]
    for thread in orders:
        thread.start()
    fail(twin, cut=[{"endpoint": "trading", "how": "close"}])
    for thread in orders:
        thread.join(WAIT_S)
    with suppress(websocket.WebSocketConnectionClosedException):
        while stream.recv():
            pass

    assert answers == [200] * 10


def test_a_line_that_becomes_mute_between_the_pieces_of_a_message_still_hears_its_client(
    twin: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mute line answers pings, and notices that its client has left; else the client could not come back."""
    stream, sleep = twin.trading_stream(), asyncio.sleep

    async def between(seconds: float) -> None:
        (connection,) = twin.server.connections
        connection.muted_until_s = asyncio.get_running_loop().time() + 60
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", between)
    fail(twin, frames=[{"endpoint": "trading", "kind": "split"}])
    post_order(twin, "one")
    stream.ping("still there?")
    heard = b""
    while heard != b"still there?":
        _, heard = stream.recv_data(control_frame=True)


def try_order(twin: Running, name: str) -> int:
    order = {
        "symbol": "AAPL",
        "qty": "1",
        "side": "buy",
        "type": "market",
        "time_in_force": "day",
        "client_order_id": name,
    }
    return int(requests.post(f"{twin.url}/v2/orders", headers=HEADERS, json=order, timeout=WAIT_S).status_code)


def test_many_frames_are_put_in_reverse_or_held_back_for_a_time(twin: Running) -> None:
    stream = twin.trading_stream()
    fail(twin, frames=[{"endpoint": "trading", "kind": "reorder", "count": 3}])
    for name in ("one", "two", "three", "four"):
        post_order(twin, name)
    assert [json.loads(stream.recv())["data"]["order"]["client_order_id"] for _ in range(4)] == [
        "four", "three", "two", "one",
    ]  # fmt: skip
    fail(twin, frames=[{"endpoint": "trading", "kind": "delay", "seconds": 0.2}])
    for name in ("five", "six"):
        post_order(twin, name)
    assert [json.loads(stream.recv())["data"]["order"]["client_order_id"] for _ in range(2)] == ["six", "five"]


def test_a_split_message_comes_as_three_fragments(twin: Running) -> None:
    stream = twin.trading_stream()
    fail(twin, frames=[{"endpoint": "trading", "kind": "split"}])
    post_order(twin, "one")
    frames = [stream.frame_buffer.recv_frame() for _ in range(3)]

    ABNF = websocket.ABNF
    assert [(f.opcode, f.fin) for f in frames] == [
        (ABNF.OPCODE_BINARY, 0),
        (ABNF.OPCODE_CONT, 0),
        (ABNF.OPCODE_CONT, 1),
    ]
    assert json.loads(b"".join(f.data for f in frames))["data"]["order"]["client_order_id"] == "one"


def test_a_stream_says_whatever_it_is_told_to_say(twin: Running) -> None:
    trading, data = twin.trading_stream(), twin.data_stream("AAPL")
    fail(twin, say=[{"endpoint": "trading", "text": "{"}, {"endpoint": "data", "text": '[{"T":"error","code":406}]'}])

    assert (trading.recv(), data.recv()) == (b"{", '[{"T":"error","code":406}]')
    assert twin.advance(received={"trading": 3, "data": 4}).status_code == 200


def test_half_a_frame_is_no_json(twin: Running) -> None:
    stream = twin.trading_stream()
    fail(twin, frames=[{"endpoint": "trading", "kind": "garbage"}])
    post_order(twin, "one")

    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.recv())


def test_a_mute_stream_is_open_answers_pings_and_does_not_hold_time_up(twin: Running) -> None:
    stream = twin.trading_stream()
    fail(twin, cut=[{"endpoint": "trading", "how": "mute", "seconds": 60}])
    post_order(twin, "one")
    stream.ping("there?")
    opcode, content = stream.recv_data(control_frame=True)

    assert (opcode, content) == (websocket.ABNF.OPCODE_PONG, b"there?")
    answer = twin.advance(received={"trading": 2})  # what it was told before it fell silent
    assert (answer.status_code, answer.json()["sent"]["trading"]) == (200, 2)


def test_a_half_open_stream_does_not_even_answer_pings(twin: Running) -> None:
    stream = twin.trading_stream()
    fail(twin, cut=[{"endpoint": "trading", "how": "half_open", "seconds": 60}])
    stream.ping("there?")
    stream.settimeout(0.2)

    with pytest.raises(websocket.WebSocketTimeoutException):
        stream.recv_data(control_frame=True)


@pytest.mark.parametrize("how", ["close", "reset", "slow"])
def test_a_connection_breaks_off_and_new_ones_are_refused_for_a_while(twin: Running, how: str) -> None:
    stream = twin.data_stream("AAPL")
    fail(twin, cut=[{"endpoint": "data", "how": how, "seconds": 60}])
    with suppress(websocket.WebSocketConnectionClosedException, ConnectionError):
        while stream.recv():
            pass

    again = twin.connect("/v2/iex", header=HEADERS)
    assert json.loads(again.recv())[0]["msg"] == "connected"
    assert json.loads(again.recv())[0]["code"] == 406


def test_a_second_handshake_of_the_trading_stream_is_refused_for_a_while(twin: Running) -> None:
    twin.trading_stream()
    fail(twin, cut=[{"endpoint": "trading", "how": "reset", "seconds": 60}])

    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        twin.connect("/stream")
    assert refused.value.status_code == 429


def test_a_handshake_is_refused_with_any_status_while_the_others_stay(twin: Running) -> None:
    stream = twin.data_stream("AAPL")
    fail(twin, cut=[{"endpoint": "data", "how": "refuse", "seconds": 60, "status": 429}])
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        twin.connect("/v2/iex", header=HEADERS)
    twin.advance()
    twin.advance()

    assert refused.value.status_code == 429
    assert json.loads(stream.recv())[0]["T"] == "d"


def test_a_connection_is_closed_with_the_code_that_was_asked_for_or_reset(twin: Running) -> None:
    stream = twin.data_stream("AAPL")
    fail(twin, cut=[{"endpoint": "data", "how": "close", "code": 1012}])
    opcode, content = stream.recv_data(control_frame=True)
    assert (opcode, int.from_bytes(content[:2])) == (websocket.ABNF.OPCODE_CLOSE, 1012)

    stream = twin.trading_stream()
    fail(twin, cut=[{"endpoint": "trading", "how": "reset"}])
    with pytest.raises(ConnectionResetError):
        stream.recv()


def _answers(twin: Running) -> bool:
    with suppress(requests.exceptions.ConnectionError):
        return bool(twin.http.get(f"{twin.url}/v2/clock", headers=HEADERS, timeout=WAIT_S).status_code == 200)
    return False


@pytest.mark.parametrize("keep", [True, False])
def test_a_server_that_restarts_is_gone_for_a_while_and_keeps_or_loses_what_it_had(twin: Running, keep: bool) -> None:
    stream = twin.trading_stream()
    post_order(twin, "one")
    now = twin.exchange.now_ns
    fail(twin, restart={"seconds": 0.5, "keep": keep})
    stream.recv()
    with pytest.raises(ConnectionError):
        stream.recv()
    with pytest.raises(requests.exceptions.ConnectionError):
        post_order(twin, "two")
    with pytest.raises(websocket.WebSocketBadStatusException):
        twin.connect("/stream")
    twin.until(lambda: _answers(twin))

    assert (is_there(twin, "one"), truth(twin)["now_ns"]) == (keep, now)
    again = twin.trading_stream()
    post_order(twin, "three")
    assert json.loads(again.recv())["data"]["order"]["client_order_id"] == "three"


def test_what_went_over_each_wire_is_on_record(twin: Running) -> None:
    fail(twin, record=True)
    first = twin.trading_stream()
    fail(twin, frames=[{"endpoint": "trading", "kind": "duplicate"}], requests=[{"kind": "error", "path": "/v2/clock"}])
    post_order(twin, "one")
    read = [first.recv() for _ in range(2)]
    twin.http.get(f"{twin.url}/v2/clock", headers=HEADERS, timeout=WAIT_S)
    first.shutdown()
    twin.until(lambda: twin.sent()["trading"] == 0)
    twin.trading_stream()
    wire = twin.http.get(f"{twin.url}/sim/wire", timeout=WAIT_S).json()
    one, two = wire["connections"]

    assert [(c["endpoint"], c["written"], len(c["frames"])) for c in (one, two)] == [
        ("trading", 4, 4),
        ("trading", 2, 2),
    ]
    assert [text.encode() for _, text in one["frames"][2:]] == read and one["closed_ns"] and not two["closed_ns"]
    assert [(r["method"], r["path"], r["fault"], r["status"]) for r in wire["requests"]] == [
        ("POST", "/v2/orders", None, 200), ("GET", "/v2/clock", "error", 500),
    ]  # fmt: skip
    assert json.loads(wire["requests"][0]["body"])["client_order_id"] == "one"


def test_trade_updates_are_msgpack_where_the_handshake_asks_for_it(twin: Running) -> None:
    plain, packed = [], []
    for header, heard, read in (
        ({}, plain, json.loads),
        ({"Content-Type": "application/msgpack"}, packed, msgspec.msgpack.decode),
    ):
        stream = twin.connect("/stream", header=header)
        for text in (AUTH, LISTEN):
            send = stream.send_binary if header else stream.send
            send(msgspec.msgpack.encode(json.loads(text)) if header else text)
            heard.append(read(stream.recv()))
        post_order(twin, f"order-{len(header)}")
        heard.append(read(stream.recv()))
        stream.shutdown()
        twin.until(lambda: twin.sent()["trading"] == 0)

    assert plain[:2] == packed[:2]
    assert (plain[2]["data"]["event"], plain[2]["data"].keys()) == (
        packed[2]["data"]["event"],
        packed[2]["data"].keys(),
    )
    assert packed[2]["data"]["order"]["client_order_id"] == "order-1"


def test_the_test_stream_trades_its_symbol_once_a_minute_by_day_and_night(twin: Running) -> None:
    stream = twin.connect("/v2/test", header=HEADERS)
    stream.send(
        json.dumps({"action": "subscribe", "trades": ["FAKEPACA"], "bars": ["FAKEPACA"], "quotes": ["FAKEPACA"]})
    )
    told = [json.loads(stream.recv())[0] for _ in range(3)]
    times = [twin.advance().json()["now_ns"] for _ in range(2)]
    minutes = [{m["T"]: m for m in json.loads(stream.recv())} for _ in range(2)]

    assert told[2] == {"T": "subscription", "trades": ["FAKEPACA"], "quotes": ["FAKEPACA"], "bars": ["FAKEPACA"]}
    assert times[1] - times[0] == 60_000_000_000
    assert (minutes[1]["b"]["c"], minutes[1]["b"]["t"]) == (minutes[0]["t"]["p"], minutes[0]["t"]["t"])
    stream.send(json.dumps({"action": "subscribe", "dailyBars": ["FAKEPACA"]}))
    assert json.loads(stream.recv())[0]["code"] == 410


def test_the_clock_may_be_wrong(twin: Running) -> None:
    fail(twin, clock_skew_s=90.0)
    told = twin.http.get(f"{twin.url}/v2/clock", headers=HEADERS, timeout=WAIT_S).json()["timestamp"]

    assert datetime.fromisoformat(told).timestamp() == twin.exchange.now_ns / 1e9 + 90


def test_chance_is_drawn_from_its_seed_and_can_be_ended(run: Callable[..., Running]) -> None:
    outcomes = []
    for _ in range(2):
        twin = run()
        fail(twin, chance={"seed": 5, "requests": 0.5})
        statuses = []
        for n in range(30):
            try:
                statuses.append(post_order(twin, f"order-{n}").status_code)
            except requests.exceptions.ConnectionError:
                statuses.append(0)
        happened = fail(twin, clear=True)
        assert post_order(twin, "last").status_code == 200
        outcomes.append((statuses, happened))

    assert outcomes[0] == outcomes[1]
    assert {0, 200, 429, 500, 504} <= set(outcomes[0][0])


def test_a_fault_that_nobody_knows_is_refused(twin: Running) -> None:
    answer = twin.http.post(f"{twin.url}/sim/faults", json={"requests": [{"kind": "magic"}]}, timeout=WAIT_S)

    assert answer.status_code == 400


# ------------------------------------------------------------------------------------------------------ kept on disk


@pytest.mark.parametrize("content", [b"somebody's only copy", b"\xff\x00", b"a line\nand another"])
def test_a_file_that_is_no_state_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "letter").write_bytes(content)
    result = CliRunner().invoke(root, ["run-exchange", "--state", str(tmp_path / "letter")])

    assert result.exit_code == 1 and "is the state of another exchange" in result.stderr
    assert (tmp_path / "letter").read_bytes() == content


def test_a_killed_twin_goes_on_where_it_was(tmp_path: Path) -> None:
    """Orders, fills, halts and the time are there again, byte for byte, also after a line that was cut off."""
    options = ["--speed", "max", "--symbols", "AAPL,IBM", "--state", str(tmp_path / "state.jsonl"), "--market", "path"]
    with ExchangeProcess(options) as twin:
        order = {"symbol": "AAPL", "qty": "3", "side": "buy", "type": "market", "time_in_force": "day"}
        requests.post(f"{twin.url}/v2/orders", headers=HEADERS, json=order, timeout=WAIT_S)
        for _ in range(30):
            requests.post(f"{twin.url}/sim/advance", json={}, timeout=WAIT_S)
        requests.post(f"{twin.url}/sim/halt", json={"symbol": "IBM"}, timeout=WAIT_S)
        requests.post(f"{twin.url}/sim/amend", json={"kind": "cancel", "symbol": "AAPL"}, timeout=WAIT_S)
        (fill,) = [
            e for e in requests.get(f"{twin.url}/sim/truth", timeout=WAIT_S).json()["events"] if e["event"] == "fill"
        ]
        undo = {"execution_id": fill["execution_id"], "price": "7"}
        assert requests.post(f"{twin.url}/sim/undo", json=undo, timeout=WAIT_S).status_code == 200
        latest = requests.get(f"{twin.url}/v2/stocks/AAPL/trades/latest", headers=HEADERS, timeout=WAIT_S).json()
        waits = {**order, "symbol": "IBM", "time_in_force": "gtc"}
        requests.post(f"{twin.url}/v2/orders", headers=HEADERS, json=waits, timeout=WAIT_S)
        before = requests.get(f"{twin.url}/sim/truth", timeout=WAIT_S).json()
        psutil.Process(twin.pid).kill()
    with (tmp_path / "state.jsonl").open("ab") as file:
        file.write(b'{"at_ns":1353')
    with ExchangeProcess(options) as twin:
        after = requests.get(f"{twin.url}/sim/truth", timeout=WAIT_S).json()
        again = requests.get(f"{twin.url}/v2/stocks/AAPL/trades/latest", headers=HEADERS, timeout=WAIT_S).json()
        assert again == latest
        requests.post(f"{twin.url}/v2/orders", headers=HEADERS, json=order, timeout=WAIT_S)

    assert len(before["orders"]) == 2 and before["fills"]
    assert {**after, "sent": None} == {**before, "sent": None}
    with ExchangeProcess(options) as twin:
        assert len(requests.get(f"{twin.url}/sim/truth", timeout=WAIT_S).json()["orders"]) == 3
    with pytest.raises(BadInput, match="is the state of another exchange"), ExchangeProcess([*options, "--seed", "9"]):
        pass
