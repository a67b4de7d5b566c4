"""A small made-up market (three symbols, fourteen sessions) and a client that speaks to the exchange without a network.

AAPL splits 2 for 1 on 2012-11-21; IBM pays 0.85 on 2012-11-15 and has no bar on 2012-11-20; FB begins on 2012-11-23, a half day.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pytest

from algo_royale.exchange.core import Exchange, ExchangeConfig, Response
from algo_royale.exchange.replay import MarketReplay
from algo_royale.exchange.streams import Stream
from algo_royale.market import Bars, CorporateAction, Timeframe
from algo_royale.sessions import Session, calendar
from feeds import minutes_replay

FIRST, LAST = date(2012, 11, 12), date(2012, 11, 30)
SPLIT_DAY, DIVIDEND_DAY, GAP_DAY, FB_DAY = (
    date(2012, 11, 21),
    date(2012, 11, 15),
    date(2012, 11, 20),
    date(2012, 11, 23),
)
AAPL = [20.0, 20.5, 21.0, 20.25, 21.5, 22.0, 21.75, 11.0, 11.25, 11.5, 11.0, 10.75, 10.5, 10.25]
IBM = [190.0 + i for i in range(13)]
FB = [30.0, 29.5, 31.0, 32.0, 31.5, 30.5]


def bars_of(symbol: str, closes: list[float], sessions: list[Session], split_at: int | None = None) -> Bars:
    """Bars that open at the close before them, and range one per cent beyond open and close."""
    close, n = np.array(closes), len(closes)
    opened = np.concatenate([close[:1], close[:-1]])
    if split_at is not None:
        opened[split_at] /= 2
    return Bars(
        symbol=symbol, timeframe=Timeframe.DAY_1,
        start_ns=np.array([s.label_ns for s in sessions], np.int64),
        end_ns=np.array([s.close_ns for s in sessions], np.int64),
        open=opened, high=np.round(np.maximum(opened, close) * 1.01, 2), low=np.round(np.minimum(opened, close) * 0.99, 2),
        close=close, volume=np.full(n, 1000.0), vwap=np.full(n, np.nan), trade_count=np.full(n, -1, np.int64),
    ).check()  # fmt: skip


@pytest.fixture(scope="session")
def replay() -> MarketReplay:
    sessions = calendar().sessions(FIRST, LAST)
    bars = {
        "AAPL": bars_of("AAPL", AAPL, sessions, split_at=7),
        "IBM": bars_of("IBM", IBM, [s for s in sessions if s.date != GAP_DAY]),
        "FB": bars_of("FB", FB, [s for s in sessions if s.date >= FB_DAY]),
    }
    actions = {
        "AAPL": (CorporateAction(symbol="AAPL", ex_date=SPLIT_DAY, ratio=2.0),),
        "IBM": (CorporateAction(symbol="IBM", ex_date=DIVIDEND_DAY, cash_usd=0.85),),
    }
    return MarketReplay(bars, calendar(), actions)


class Client:
    """Requests in, JSON out. Starts after the close of the first session unless told otherwise."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.headers = exchange.config.auth_headers

    def ask(self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None) -> Response:
        """`body`: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.exchange.handle(method, path, query, content, self.headers)

    def get(self, path: str, **query: str) -> Any:
        answer = self.ask("GET", path, query)
        assert answer.status == 200, answer
        return answer.json

    def order(self, symbol: str = "AAPL", qty: Any = "10", side: str = "buy", **fields: Any) -> Response:
        kind = "limit" if "limit_price" in fields else "market"
        body = {"symbol": symbol, "qty": qty, "side": side, "type": kind, "time_in_force": "day", **fields}
        return self.ask("POST", "/v2/orders", body={k: v for k, v in body.items() if v is not None})

    def submit(self, symbol: str = "AAPL", qty: Any = "10", side: str = "buy", **fields: Any) -> dict[str, Any]:
        answer = self.order(symbol, qty, side, **fields)
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    def step(self, count: int = 1) -> None:
        """Let the next opens and closes happen."""
        for _ in range(count):
            at = self.exchange.next_event_ns()
            assert at is not None
            self.exchange.advance(at)

    def to_open_of(self, day: date) -> None:
        session = calendar().session_on(day)
        assert session is not None
        self.exchange.advance(session.open_ns)

    def hold(self, symbol: str = "AAPL", qty: Any = "10") -> None:
        """Own shares and be after the close."""
        self.submit(symbol, qty)
        self.step(2)

    def listen(self) -> Stream:
        """A trading stream that hears trade updates; its outbox is empty."""
        stream = self.exchange.open_stream("trading", self.headers)
        stream.receive('{"action":"listen","data":{"streams":["trade_updates"]}}')
        stream.outbox.clear()
        return stream

    def watch(self, *symbols: str) -> Stream:
        """A data stream subscribed to daily bars; its outbox is empty."""
        stream = self.exchange.open_stream("data", self.headers)
        stream.receive(json.dumps({"action": "subscribe", "dailyBars": symbols}))
        stream.outbox.clear()
        return stream

    def subscribed(self, **channels: list[str]) -> Stream:
        """A data stream subscribed to what is asked for; its outbox is empty."""
        stream = self.exchange.open_stream("data", self.headers)
        stream.receive(json.dumps({"action": "subscribe", **channels}))
        stream.outbox.clear()
        return stream

    def heard(self, stream: Stream) -> dict[str, list[dict[str, Any]]]:
        """What a data stream was told, by kind; its outbox is empty afterwards."""
        found = defaultdict(list)
        for frame in stream.outbox:
            for message in json.loads(frame):
                found[message["T"]].append(message)
        stream.outbox.clear()
        return found

    def events(self) -> list[tuple[str, str]]:
        """(event, client order id) of all that happened."""
        return [(event["event"], event["client_order_id"]) for event in self.exchange.events]


Start = Callable[..., Client]


@pytest.fixture(scope="session")
def start(replay: MarketReplay) -> Start:
    """`start(**config)` opens a new exchange after the close of the first session."""

    def make(**config: Any) -> Client:
        return Client(Exchange(replay, ExchangeConfig(**{"start_ns": replay.sessions[0].close_ns, **config})))

    return make


@pytest.fixture
def client(start: Start) -> Client:
    return start()


@pytest.fixture(scope="session")
def tape_replay() -> MarketReplay:
    return minutes_replay()


@pytest.fixture
def begin(tape_replay: MarketReplay) -> Start:
    """`begin(**config)` opens a new exchange with trades and quotes at midnight before the first session."""

    def make(**config: Any) -> Client:
        return Client(Exchange(tape_replay, ExchangeConfig(**{"start_ns": tape_replay.sessions[0].label_ns, **config})))

    return make
