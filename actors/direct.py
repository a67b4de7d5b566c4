"""The ports over the twin's core in this process: no socket, no thread, no time of its own; faults on demand.

The stepped system trades through these. Everything that a client may see of Alpaca passes through the same JSON as over the
network; only the transport is missing.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from algo_royale.broker import alpaca_wire
from algo_royale.broker.api import TradingApi, failure, many, one
from algo_royale.broker.port import Wire
from algo_royale.errors import BrokerUnavailable
from algo_royale.exchange.core import Exchange
from algo_royale.exchange.streams import Stream

FrameCallback = Callable[[int, str], object]
StateCallback = Callable[[int, bool, str, bool], object]


@dataclass(slots=True)
class DirectFaults:
    """What goes wrong next. Counters run down as faults happen; hooks stay.

    `unavailable_before`: so many requests fail before the exchange hears of them. `lost_answers`: so many requests are
    processed and their answers lost. `only` limits both to requests of one method ("POST": submits). `unseen`: so many look-ups by
    client id are answered as if the order were not there (yet).
    `frames(endpoint, frames)` returns what a pump delivers instead of those frames: fewer, more, or in another order.
    """

    unavailable_before: int = 0
    lost_answers: int = 0
    unseen: int = 0
    only: str | None = None
    frames: Callable[[str, Sequence[str]], Sequence[str]] | None = None
    log: list[str] = field(default_factory=list)

    def take(self, kind: str, method: str, path: str) -> bool:
        """Whether this request meets the fault `kind`, which is then used up."""
        left: int = getattr(self, kind)
        if left <= 0 or (kind != "unseen" and self.only not in (None, method)):
            return False
        setattr(self, kind, left - 1)
        self.log.append(f"{kind} {method} {path}")
        return True


class DirectBroker(TradingApi):
    """`BrokerPort` and `MarketDataPort` that call `Exchange.handle`."""

    def __init__(self, exchange: Exchange, *, key: str, secret: str, faults: DirectFaults | None = None) -> None:
        self._exchange = exchange
        self._headers = {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}
        self.faults = faults if faults is not None else DirectFaults()

    def request(self, method: str, path: str, data: Mapping[str, Any] | None = None) -> Any:
        return self._handle(method, f"/v2{path}", data or {})

    def _handle(self, method: str, path: str, data: Mapping[str, Any]) -> Any:
        if self.faults.take("unavailable_before", method, path):
            raise BrokerUnavailable("injected: no connection")
        if path.endswith(":by_client_order_id") and self.faults.take("unseen", method, path):
            raise failure(404, {"code": 40410000, "message": "injected: order not found"}, "")
        body = msgspec.json.encode(data) if method == "POST" else b""
        query = {} if method == "POST" else {name: str(value) for name, value in data.items() if value is not None}
        response = self._exchange.handle(method, path, query, body, self._headers)
        if self.faults.take("lost_answers", method, path):
            raise BrokerUnavailable("injected: the answer was lost")
        if response.status >= 400:
            raise failure(response.status, response.json, "")
        return response.json

    def bars(self, *, symbol: str, timeframe: str, start_ns: int, end_ns: int) -> list[Wire]:
        query = {
            "symbols": symbol, "timeframe": timeframe, "start": alpaca_wire.format_time(start_ns),
            "end": alpaca_wire.format_time(end_ns - 1), "adjustment": "raw", "limit": 10_000,
        }  # fmt: skip
        pages = self._pages("/v2/stocks/bars", "bars", query)
        return [bar for page in pages for bar in many(page.get(symbol) or [])]

    def snapshots(self, *, symbols: Sequence[str]) -> Wire:
        return one(self._handle("GET", "/v2/stocks/snapshots", {"symbols": ",".join(symbols)}))

    def corporate_actions(self, *, symbol: str, start: str, end: str) -> Wire:
        query = {"symbols": symbol, "start": start, "end": end, "limit": 1000}
        found: Wire = {}
        for page in self._pages("/v1/corporate-actions", "corporate_actions", query):
            for kind, rows in page.items():
                found.setdefault(kind, []).extend(many(rows))
        return found

    def _pages(self, path: str, member: str, query: Mapping[str, Any]) -> list[Wire]:
        pages: list[Wire] = []
        token: str | None = None
        while True:
            answer = one(self._handle("GET", path, {**query, "page_token": token}))
            pages.append(one(answer.get(member) or {}))
            token = answer.get("next_page_token")
            if token is None:
                return pages


class DirectHandle:
    """One in-process connection."""

    def __init__(self, streams: "DirectStreams", endpoint: str, connection: int) -> None:
        self._streams, self.endpoint, self.connection = streams, endpoint, connection
        self.stream: Stream | None = None
        self.received = 0

    def send(self, text: str) -> bool:
        if self.stream is None or self.stream.closed:
            return False
        self.stream.receive(text)
        return True

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self._streams.forget(self)


class DirectStreams:
    """`StreamPort` over the twin's core. Nothing is told before `pump`, which whoever steps the system calls."""

    def __init__(self, exchange: Exchange, *, faults: DirectFaults | None = None) -> None:
        self._exchange = exchange
        self.faults = faults if faults is not None else DirectFaults()
        self._open: dict[DirectHandle, tuple[FrameCallback, StateCallback]] = {}
        self._states: deque[Callable[[], object]] = deque()
        self._newest: dict[str, DirectHandle] = {}

    @property
    def received(self) -> dict[str, int]:
        """Frames delivered per endpoint on its newest connection."""
        return {endpoint: handle.received for endpoint, handle in self._newest.items()}

    def open(self, endpoint: str, connection: int, on_frame: FrameCallback, on_state: StateCallback) -> DirectHandle:
        handle = DirectHandle(self, endpoint, connection)
        if endpoint in self._newest:
            self._newest[endpoint].close()
        try:
            handle.stream = self._exchange.open_stream(endpoint)
        except BrokerUnavailable as error:
            detail = f"handshake: {error}"
            self._states.append(lambda: on_state(connection, False, detail, False))
            return handle
        self._newest[endpoint] = handle
        self._open[handle] = (on_frame, on_state)
        self._states.append(lambda: on_state(connection, True, "", False) if handle in self._open else None)
        return handle

    def forget(self, handle: DirectHandle) -> None:
        """A connection that its owner closed tells nothing any more."""
        self._open.pop(handle, None)

    def drop(self, endpoint: str, detail: str = "injected: connection lost") -> None:
        """Cut the live connections of an endpoint; frames not yet pumped are lost, as on a real line."""
        for handle, (_, on_state) in list(self._open.items()):
            if handle.endpoint == endpoint:
                handle.close()
                self._tell_lost(handle, on_state, detail)

    def pump(self) -> int:
        """Tell all state changes and frames that wait, in order, and return how many there were."""
        told = 0
        while self._states:
            self._states.popleft()()
            told += 1
        for handle, (on_frame, on_state) in list(self._open.items()):
            stream = handle.stream
            assert stream is not None
            taken = list(stream.outbox)
            stream.outbox.clear()
            frames = self.faults.frames(handle.endpoint, taken) if self.faults.frames and taken else taken
            for frame in frames:
                on_frame(handle.connection, frame)
            handle.received += len(taken)
            told += len(taken)
            if stream.closed:
                self.forget(handle)
                self._tell_lost(handle, on_state, "closed by the server")
        return told

    def _tell_lost(self, handle: DirectHandle, on_state: StateCallback, detail: str) -> None:
        self._states.append(lambda: on_state(handle.connection, False, detail, False))
