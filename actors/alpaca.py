"""The ports over the network: alpaca-py for REST, websocket-client for the streams. The same code for twin, paper and live.

Every answer is turned into one of three: the broker's JSON, `BrokerRejected` (it understood and said no) or
`BrokerUnavailable` (we do not know). Nothing here reads keys from anywhere or parses a frame, and nothing retries but market data
where that is asked for.
"""

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import websocket
from alpaca.common.enums import Sort
from alpaca.common.exceptions import APIError
from alpaca.common.rest import RESTClient
from alpaca.data.enums import Adjustment, CorporateActionsType, DataFeed
from alpaca.data.historical.corporate_actions import CorporateActionsClient
from alpaca.data.historical.stock import StockHistoricalDataClient
from alpaca.data.requests import CorporateActionsRequest, StockBarsRequest, StockSnapshotRequest
from alpaca.data.timeframe import TimeFrame, TimeFrameUnit
from alpaca.trading.client import TradingClient
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from actors.kernel import spawn_thread
from algo_royale.broker import alpaca_wire
from algo_royale.broker.api import TradingApi, failure, many, one
from algo_royale.broker.port import Wire
from algo_royale.clock import WallClock
from algo_royale.errors import BrokerRejected, BrokerUnavailable

T = TypeVar("T")

CONNECT_TIMEOUT_S = 3.0
TIMEOUTS_S = (CONNECT_TIMEOUT_S, 10.0)  # to connect, and between two bytes of an answer
RETRY_AFTER_S_MAX = 120.0
ANSWER_MAX = 64 << 20  # bytes of an answer, unpacked, and
FRAME_MAX = 16 << 20  # of a frame; the largest that mean anything are a tenth of it
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMEFRAMES = {
    "1Min": TimeFrame(1, TimeFrameUnit.Minute),
    "5Min": TimeFrame(5, TimeFrameUnit.Minute),
    "15Min": TimeFrame(15, TimeFrameUnit.Minute),
    "1Hour": TimeFrame(1, TimeFrameUnit.Hour),
    "1Day": TimeFrame(1, TimeFrameUnit.Day),
}
_ACTIONS = [
    CorporateActionsType.FORWARD_SPLIT,
    CorporateActionsType.REVERSE_SPLIT,
    CorporateActionsType.CASH_DIVIDEND,
    CorporateActionsType.STOCK_DIVIDEND,
]


class _Patience(Retry):
    """Asks again after a 429 (when its headers say), a 5xx or a lost connection (after 0, 1, 2, 4 ... seconds, with jitter).

    When patience is over, the last answer is given as it is.
    """

    def get_retry_after(self, response: Any) -> float | None:
        return _retry_after_s(response.headers) if response.status == 429 else None


def _patience(retries: int) -> _Patience:
    return _Patience(
        retries, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=("GET",), raise_on_status=False,
        backoff_factor=0.5, backoff_jitter=0.5, backoff_max=30.0,
    )  # fmt: skip


class _DeadlineAdapter(HTTPAdapter):
    """alpaca-py sends every request without a timeout, and requests reads whatever comes, however little of it was sent (a few
    kilobytes may unpack to gigabytes). Here both end."""

    def __init__(self, timeouts_s: tuple[float, float], retries: int) -> None:
        super().__init__(max_retries=_patience(retries) if retries else 0)
        self._timeouts_s = timeouts_s

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self._timeouts_s
        answer = super().send(request, *args, **kwargs)
        body = bytearray()
        for part in answer.iter_content(65_536):
            body += part
            if len(body) > ANSWER_MAX:
                answer.close()
                raise requests.ConnectionError(f"an answer of more than {ANSWER_MAX} bytes")
        answer._content = bytes(body)
        return answer


class AlpacaRest(TradingApi):
    """`BrokerPort` and `MarketDataPort` over alpaca-py. One instance per actor: a requests session is not shared by threads.

    `trading_url` and `data_url` are bare hosts ("http://127.0.0.1:8000"), without "/v2". Market data that could not be had is
    asked for `data_retries` times more, waiting in between; an actor does not wait, a command that fetches history does.
    `timeouts_s`: to connect, and to wait for an answer.
    """

    def __init__(
        self, *, key: str, secret: str, trading_url: str, data_url: str, feed: str = "iex", data_retries: int = 0,
        timeouts_s: tuple[float, float] = TIMEOUTS_S,
    ) -> None:  # fmt: skip
        self.asked = 0  # requests so far that may make frames, for whoever paces time by what is on its way
        self._feed = DataFeed(feed)
        self._trading = TradingClient(key, secret, raw_data=True, url_override=_bare(trading_url))
        self._stocks = StockHistoricalDataClient(key, secret, raw_data=True, url_override=_bare(data_url))
        self._actions = CorporateActionsClient(key, secret, raw_data=True, url_override=_bare(data_url))
        for client, url, retries in (
            (self._trading, trading_url, 0), (self._stocks, data_url, data_retries), (self._actions, data_url, data_retries),
        ):  # fmt: skip
            adapter = _DeadlineAdapter(timeouts_s, retries)
            _harden(client, adapter, is_loopback=urlsplit(url).hostname in LOOPBACK)

    def close(self) -> None:
        for client in (self._trading, self._stocks, self._actions):
            client._session.close()

    def request(self, method: str, path: str, data: Mapping[str, Any] | None = None) -> Any:
        # The SDK's get, post and delete instead of its typed methods: their request models turn quantities into floats.
        fields = dict(data or {})
        self.asked += method != "GET"
        if method == "POST":
            return _call(lambda: self._trading.post(path, fields))
        if method == "DELETE":
            return _call(lambda: self._trading.delete(path, fields))
        return _call(lambda: self._trading.get(path, fields))

    # --- market data ---

    def bars(
        self, *, symbol: str, timeframe: str, start_ns: int, end_ns: int, limit: int | None = None, newest_first: bool = False
    ) -> list[Wire]:  # fmt: skip
        """Bars that start in [start_ns, end_ns), oldest first or newest first; with `limit` no more than so many of them."""
        request = StockBarsRequest(
            symbol_or_symbols=symbol, timeframe=_TIMEFRAMES[timeframe], start=_datetime(start_ns), end=_datetime(end_ns - 1),
            adjustment=Adjustment.RAW, feed=self._feed, limit=limit, sort=Sort.DESC if newest_first else Sort.ASC,
        )  # fmt: skip
        answer = one(_call(lambda: self._stocks.get_stock_bars(request)))
        bars = many(answer.get(symbol) or [])
        # the API's end is inclusive and its times are cut to microseconds: this is the half-open range that was asked for
        return [bar for bar in bars if start_ns <= alpaca_wire.bar_time_ns(bar) < end_ns]

    def snapshots(self, *, symbols: Sequence[str]) -> Wire:
        request = StockSnapshotRequest(symbol_or_symbols=list(symbols), feed=self._feed)
        return one(_call(lambda: self._stocks.get_stock_snapshot(request)))

    def corporate_actions(self, *, symbol: str, start: str, end: str) -> Wire:
        request = CorporateActionsRequest(
            symbols=symbol.split(","), types=_ACTIONS, limit=None,
            start=date.fromisoformat(start), end=date.fromisoformat(end),
        )  # fmt: skip
        return one(_call(lambda: self._actions.get_corporate_actions(request)))


def _bare(url: str) -> str:
    return url.rstrip("/").removesuffix("/v2")


def _harden(client: RESTClient, adapter: HTTPAdapter, *, is_loopback: bool) -> None:
    """Timeouts on every request, no blind retries of a POST, and no proxy between us and our own machine."""
    client._retry = 0
    for scheme in ("http://", "https://"):
        client._session.mount(scheme, adapter)
    if is_loopback:
        client._session.trust_env = False


def _call(request: Callable[[], T]) -> T:
    """Run one request; every way it can fail becomes BrokerRejected or BrokerUnavailable."""
    try:
        return request()
    except APIError as error:
        raise _failure(error) from error
    except requests.RequestException as error:
        raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # how alpaca-py fails on an answer that is not what it expects: a 302, a page of HTML, "bars": null
        said = alpaca_wire.plain(error)
        raise BrokerUnavailable(f"unusable answer ({type(error).__name__}: {said})") from error


def _failure(error: APIError) -> BrokerRejected | BrokerUnavailable:
    """The SDK's own properties raise on bodies without a code or that are not JSON, so the body is read here."""
    response, text = error.response, str(error)
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if response is None:
        return BrokerUnavailable(alpaca_wire.plain(text))
    return failure(response.status_code, body, text, _retry_after_s(response.headers))


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds until the rate limit lets us in again, from whichever header is there; a second where neither is usable."""
    try:
        if "Retry-After" in headers:
            wait = float(headers["Retry-After"])
        else:
            wait = float(headers["X-RateLimit-Reset"]) - WallClock().now_ns() / 1e9
    except (KeyError, ValueError):
        return 1.0
    return min(max(1.0, wait), RETRY_AFTER_S_MAX)  # in this order NaN is a second, too


def _datetime(at_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_ns // 1_000)


# --- streams ---------------------------------------------------------------------------------------------------------

OPENING = -1
FrameCallback = Callable[[int, str], object]
StateCallback = Callable[[int, bool, str, bool], object]


class AlpacaStreams:
    """`StreamPort` over websocket-client: one reader thread per socket, which tells frames on and parses nothing.

    `urls` maps endpoint (data | trading) to the full URL. `received` counts the frames of each endpoint's newest
    connection whose callback has returned: what the sender has sent and this has counted is in the actor's mailbox.
    It is OPENING until the handshake has succeeded or failed, and 0 again once the connection is over: whoever paces
    time by it lets none pass while a connection is being made.
    """

    def __init__(self, urls: Mapping[str, str], *, ping_s: float = 10.0, pong_s: float = 5.0) -> None:
        self._urls, self._ping_s, self._pong_s = dict(urls), ping_s, pong_s
        self._newest: dict[str, _Socket] = {}
        self._opened = 0

    @property
    def asked(self) -> int:
        """Another number than before, if anything was opened or sent meanwhile."""
        return self._opened + sum(handle.sent for handle in list(self._newest.values()))

    @property
    def received(self) -> dict[str, int]:
        return {endpoint: handle.received for endpoint, handle in list(self._newest.items())}  # others open meanwhile

    def open(self, endpoint: str, connection: int, on_frame: FrameCallback, on_state: StateCallback) -> "_Socket":
        former = self._newest.get(endpoint)
        if former is not None:  # its owner may hang, and the broker refuses a second connection while it lives
            former.close()
        handle = _Socket(self._urls[endpoint], connection, on_frame, on_state, self._ping_s, self._pong_s)
        self._newest[endpoint] = handle
        self._opened += 1_000_000  # more than one connection ever sends
        spawn_thread(f"stream {endpoint} {connection}", handle.read)
        return handle


def _own_socket(url: str) -> socket.socket | None:
    """A socket to our own machine, with no proxy in between: where the environment names one, the library would use it, for its
    own list of exceptions counts only where that names none."""
    parts = urlsplit(url)
    if parts.hostname not in LOOPBACK or parts.scheme != "ws":
        return None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=CONNECT_TIMEOUT_S)


class _Socket:
    """One websocket and its reader."""

    def __init__(
        self, url: str, connection: int, on_frame: FrameCallback, on_state: StateCallback, ping_s: float, pong_s: float
    ) -> None:
        self._url, self._connection, self._on_frame, self._on_state = url, connection, on_frame, on_state
        self._ping_s, self._pong_s = ping_s, pong_s
        self._ws: websocket.WebSocket | None = None
        self._closing = False
        self.received = OPENING
        self.sent = 0

    def send(self, text: str) -> bool:
        ws = self._ws
        if ws is None or self._closing:
            return False
        self.sent += 1
        try:
            ws.send(text)
        except (websocket.WebSocketException, OSError):
            return False
        return True

    def close(self) -> None:
        """Say goodbye and cut the line at once. websocket-client's own close() waits for an answer that a dead peer never
        gives; cutting also wakes the reader, which ends silently."""
        self._closing = True
        ws = self._ws
        if ws is None:
            return
        try:
            ws.send_close()
            if ws.sock is not None:
                ws.sock.shutdown(socket.SHUT_RDWR)
        except (websocket.WebSocketException, OSError):
            ws.shutdown()  # type: ignore[no-untyped-call]

    def read(self) -> None:
        """The reader thread: connect, then tell every frame until the line is lost or closed."""
        try:
            self._serve()
        finally:
            self.received = 0  # after the loss has been told

    def _serve(self) -> None:
        try:
            ws = websocket.create_connection(
                self._url, timeout=CONNECT_TIMEOUT_S, enable_multithread=True, socket=_own_socket(self._url)
            )
        except websocket.WebSocketBadStatusException as error:
            status = error.status_code
            self._lost(f"handshake: http {status}", fatal=400 <= status < 500 and status not in (408, 429))
            return
        except (websocket.WebSocketException, OSError, ValueError) as error:
            self._lost(f"handshake: {type(error).__name__}: {error}")
            return
        self._ws = ws
        try:
            if not self._closing:
                self._on_state(self._connection, True, "", False)
                self.received = 0
                self._lost(self._read_frames(ws))
        finally:
            ws.shutdown()  # type: ignore[no-untyped-call]

    def _read_frames(self, ws: websocket.WebSocket) -> str:
        """Tell frames on until something ends it; returns what did."""
        clock = WallClock()
        ws.settimeout(min(1.0, self._ping_s / 4, self._pong_s / 2))
        seen_s = pinged_s = clock.monotonic_s()
        while not self._closing:
            now_s = clock.monotonic_s()
            if now_s - seen_s > self._ping_s + self._pong_s:
                return f"no frame and no pong for {now_s - seen_s:.1f} s"
            try:
                if now_s - pinged_s >= self._ping_s:
                    ws.ping()
                    pinged_s = now_s
                opcode, payload = ws.recv_data(control_frame=True)
            except websocket.WebSocketTimeoutException:
                continue
            except (websocket.WebSocketException, OSError) as error:
                return f"{type(error).__name__}: {error}"
            if len(payload) > FRAME_MAX:
                return f"a frame of {len(payload)} bytes"
            seen_s = clock.monotonic_s()
            if opcode in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
                self._on_frame(self._connection, alpaca_wire.frame_text(payload))
                self.received += 1
            elif opcode == websocket.ABNF.OPCODE_CLOSE:
                return f"closed by the server ({int.from_bytes(payload[:2], 'big')})"
        return "closed by us"

    def _lost(self, detail: str, *, fatal: bool = False) -> None:
        if not self._closing:
            self._on_state(self._connection, False, detail, fatal)
