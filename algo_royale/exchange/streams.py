"""The two websocket protocols without sockets: what a connection may say, and what it is told.

A stream takes the client's JSON messages by `receive` and leaves its frames, as JSON text, in `outbox`. Whoever owns the
socket moves them; on the wire `/stream` is binary and market data may be msgpack, which is the server's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from algo_royale.exchange.wire import Wire, authorized, credentials

if TYPE_CHECKING:
    from algo_royale.exchange.core import Exchange
    from algo_royale.exchange.replay import DayBar

CHANNELS = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds")
TEST_SYMBOL = "FAKEPACA"
FOLLOWERS = ("corrections", "cancelErrors")  # they follow trades by themselves
ERRORS = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    409: "insufficient subscription",
    410: "invalid subscribe action for this feed",
    500: "internal error",
}


def encode(value: Any) -> str:
    """Compact JSON text."""
    return msgspec.json.encode(value).decode()


class Stream:
    """One connection. `sent` counts every frame ever put into `outbox`; `closed` says that the server hangs up."""

    endpoint = ""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.outbox: deque[str] = deque()
        self.sent = 0
        self.authenticated = False
        self.closed = False

    @property
    def now_ns(self) -> int:
        """What time it is at the exchange."""
        return self._exchange.now_ns

    def receive(self, text: str | bytes) -> None:
        """Take one message of the client. Nothing that a client sends raises."""
        if self.closed:
            return
        try:
            message = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = None
        self._message(message if isinstance(message, dict) else {})

    def push(self, frame: str) -> None:
        """Send JSON text."""
        self.outbox.append(frame)
        self.sent += 1

    def close(self) -> None:
        """The connection is gone, whoever ended it."""
        self.closed = True
        self._exchange.forget(self)

    def _message(self, message: Wire) -> None:
        raise NotImplementedError


class DataStream(Stream):
    """Market data v2: arrays of objects; subscriptions add up, and each answer lists all of them."""

    endpoint = "data"
    channels: tuple[str, ...] = CHANNELS
    followers: tuple[str, ...] = FOLLOWERS

    def __init__(self, exchange: Exchange, headers: Mapping[str, str], *, feed: str = "iex") -> None:
        super().__init__(exchange)
        self._feed = feed
        self._channels: dict[str, dict[str, None]] = {name: {} for name in self.channels}
        self._push_control({"T": "success", "msg": "connected"})
        key, secret = credentials(headers)
        if key is not None:
            self._authenticate(key, secret)

    def daily_bars(self, day: Mapping[str, DayBar]) -> None:
        """Send the session's bars of the subscribed symbols."""
        wanted = self._channels["dailyBars"]
        self._push_all([bar.frame for symbol, bar in day.items() if "*" in wanted or symbol in wanted])

    def wants(self, channel: str) -> bool:
        """Whether any symbol of the channel is subscribed."""
        return bool(self._channels[channel])

    def tell(self, batch: Sequence[tuple[str, str, str]]) -> None:
        """Send what is subscribed of (channel, symbol, message as JSON), some messages to a frame."""
        lists = {**self._channels, **dict.fromkeys(self.followers, self._channels["trades"])}
        everything = {name for name, symbols in lists.items() if "*" in symbols}
        self._push_all([text for channel, symbol, text in batch if channel in everything or symbol in lists[channel]])

    def _push_all(self, messages: Sequence[str]) -> None:
        most = self._exchange.frame_messages
        for first in range(0, len(messages), most):
            self.push(f"[{','.join(messages[first : first + most])}]")

    def error(self, code: int) -> None:
        """Tell the client what it did wrong."""
        self._push_control({"T": "error", "code": code, "msg": ERRORS[code]})

    def _push_control(self, message: Wire) -> None:
        self.push(encode([message]))

    def _message(self, message: Wire) -> None:
        match message.get("action"):
            case "auth":
                self._authenticate(message.get("key"), message.get("secret"))
            case "subscribe" | "unsubscribe" as action:
                if not self.authenticated:
                    self.error(401)
                else:
                    self._change(message, add=action == "subscribe")
            case _:
                self.error(400)

    def _authenticate(self, key: object, secret: object) -> None:
        if self.authenticated:
            self.error(403)
        elif not isinstance(key, str) or not isinstance(secret, str):
            self.error(400)
        elif self._exchange.config.keys.get(key) != secret:
            self.error(402)
        elif self._feed == "sip" and not self._exchange.config.sip:
            self.error(409)
        elif self._exchange.refuses() or self._exchange.connected(self.endpoint) >= self._exchange.config.connections:
            self.error(406)
        else:
            self.authenticated = True
            self._push_control({"T": "success", "msg": "authenticated"})

    def _change(self, message: Wire, *, add: bool) -> None:
        asked = {name: value for name, value in message.items() if name != "action" and name not in self.followers}
        if any(not isinstance(v, list) or not all(isinstance(s, str) and s for s in v) for v in asked.values()):
            self.error(400)
            return
        if not asked.keys() <= self._channels.keys():
            self.error(410)
            return
        if add and self._too_many(asked):
            self.error(405)
            return
        for name, symbols in asked.items():
            for symbol in symbols:
                if add:
                    self._channels[name][symbol] = None
                else:
                    self._channels[name].pop(symbol, None)
        lists = {name: list(symbols) for name, symbols in self._channels.items()}
        self._push_control({"T": "subscription", **lists, **dict.fromkeys(self.followers, lists["trades"])})

    def _too_many(self, asked: Wire) -> bool:
        """Whether trades and quotes together would be of more symbols than the plan allows."""
        most = self._exchange.config.symbols_max
        wanted = {s for name in ("trades", "quotes") for s in (*self._channels[name], *asked.get(name, ()))}
        return most is not None and len(wanted) > most


class TestStream(DataStream):
    """The endpoint for trying out a client: one symbol that trades once a minute, day and night."""

    endpoint = "test"
    channels = ("trades", "quotes", "bars")
    followers = ()

    def minute(self, trade: Wire, quote: Wire, bar: Wire) -> None:
        """The bar of the minute that ended, and a trade and a quote of the one that begins."""
        head = {"S": TEST_SYMBOL}
        messages = (
            ("bars", {"T": "b"} | head | bar),
            ("quotes", {"T": "q"} | head | quote),
            ("trades", {"T": "t"} | head | trade),
        )
        self.tell([(channel, TEST_SYMBOL, encode(message)) for channel, message in messages])


class TradingStream(Stream):
    """Order events: objects named by stream; `listen` replaces the set. No greeting, no replay."""

    endpoint = "trading"

    def __init__(self, exchange: Exchange, headers: Mapping[str, str]) -> None:
        super().__init__(exchange)
        self.listening = False
        self.authenticated = authorized(headers, exchange.config.keys)

    def _message(self, message: Wire) -> None:
        data = message.get("data")
        inner: Wire = data if isinstance(data, dict) else {}
        match message.get("action"):
            case "auth":
                self._authenticate(message.get("key"), message.get("secret"))
            case "authenticate":
                self._authenticate(inner.get("key_id"), inner.get("secret_key"))
            case "listen" if not self.authenticated:
                self._authorization("unauthorized", "listen")
            case "listen" if isinstance(inner.get("streams"), list):
                self.listening = "trade_updates" in inner["streams"]
                streams = ["trade_updates"] if self.listening else []
                self.push(encode({"stream": "listening", "data": {"streams": streams}}))
            case _:
                self.push(encode({"action": "error", "data": {"error_message": "internal server error"}}))
                self.close()

    def _authenticate(self, key: object, secret: object) -> None:
        known = isinstance(key, str) and isinstance(secret, str) and self._exchange.config.keys.get(key) == secret
        self.authenticated = self.authenticated or known
        self._authorization("authorized" if known else "unauthorized", "authenticate")

    def _authorization(self, status: str, action: str) -> None:
        self.push(encode({"stream": "authorization", "data": {"status": status, "action": action}}))
