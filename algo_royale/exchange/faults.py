"""What the twin's server does wrong on request: requests that fail in every way, streams that lie, mute or break off.

Faults are the transport's: the exchange behind it goes on rightly, so that its truth can be compared with what a client believes.
"""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import msgspec

from algo_royale.exchange.streams import ERRORS
from algo_royale.exchange.wire import TOO_MANY, UNKNOWN, Response, Wire

RequestKind = Literal[
    "lost_answer",
    "reset",
    "timeout",
    "not_processed",
    "reset_before",
    "rate_limit",
    "error",
    "unauthorized",
    "latency",
    "unseen",
]
FrameKind = Literal["drop", "duplicate", "delay", "reorder", "garbage", "unknown", "enum", "error", "split"]
REQUEST_KINDS: tuple[RequestKind, ...] = (
    "lost_answer", "reset", "timeout", "not_processed", "reset_before", "rate_limit", "error", "latency"
)  # fmt: skip
LOOK_UP = ":by_client_order_id"
FRAME_KINDS: tuple[FrameKind, ...] = (
    "drop", "duplicate", "delay", "reorder", "garbage", "unknown", "enum", "error", "split"
)  # fmt: skip
Endpoint = Literal["data", "trading"]
_MILLION = 1_000_000
_WORD = re.compile(r'"(status|z)":"[^"]*"')  # a word of which clients may have a list
STRANGE = {"data": '[{"T":"zz","S":"?"}]', "trading": '{"stream":"trade_updates","data":{"event":"reconsidered"}}'}
_T = TypeVar("_T")


class RequestFault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The next `count` requests of `method` ("" is any) whose path begins with `path` meet `kind`.

    lost_answer: processed, then answered 504. reset: processed, then the connection breaks off. timeout: processed at once,
    answered `seconds` late. not_processed: 504 and nothing done. reset_before: nothing done, and the connection breaks off.
    rate_limit: 429 with headers. error: 500. unauthorized: 401. latency: processed and answered `seconds` late. unseen: a look-up by
    client id is told 404, as if the order that it asks for were not to be seen yet; it meets no other request.
    """

    kind: RequestKind
    count: int = 1
    method: str = ""
    path: str = ""
    seconds: float = 0.1


class FrameFault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The next `count` frames of `endpoint` meet `kind`.

    drop: never sent. duplicate: sent twice. delay: sent `seconds` later, or after the next one. reorder: sent after the next
    one, the last first. garbage: cut in half. unknown: a message of a type that nobody knows goes before it. enum: a word in it
    is one that nobody knows. error: an error message with `code` goes before it. split: one message in three websocket
    fragments, each cut by the network in the middle.
    """

    endpoint: Endpoint
    kind: FrameKind
    count: int = 1
    seconds: float = 0.0
    code: int = 500


class Cut(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Break the connections of `endpoint` now. close: with a close frame of `code`; reset: the socket is reset; mute: nothing is
    sent, pings are answered; half_open: nothing is sent or read; slow: told 407 and closed; refuse: they stay, new ones are refused.

    `seconds`: how long mute and half_open last, and how long new connections are refused after the others: market data by error
    406 and trading by HTTP 429, or both by the HTTP `status` at the handshake.
    """

    endpoint: Endpoint
    how: Literal["close", "reset", "mute", "half_open", "slow", "refuse"]
    seconds: float = 0.0
    code: int = 1011
    status: int = 0


class Say(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Send `text` now on the connections of `endpoint`, whatever it is."""

    endpoint: Endpoint
    text: str


class Latency(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Answer every request late: log-normal with that median and `sigma` (of the logarithm), at most `most_s`; drawn from `seed`."""

    seed: int = 0
    median_s: float = 0.0
    sigma: float = 0.5
    most_s: float = 5.0


class Restart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Be gone for `seconds`: every connection is reset and every request too. Orders, fills and positions are kept, or lost."""

    seconds: float = 0.0
    keep: bool = True


class Chance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Let every request and frame meet a fault with these chances, drawn from `seed`."""

    seed: int = 0
    requests: float = 0.0
    frames: float = 0.0


class Order(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /sim/faults. `clear` ends everything that was asked for before.

    `record` begins (or ends) to keep every frame and request for GET /sim/wire; `frame_messages` bounds the messages of one
    frame of market data from now on.
    """

    clear: bool = False
    requests: list[RequestFault] = []
    frames: list[FrameFault] = []
    cut: list[Cut] = []
    chance: Chance | None = None
    latency: Latency | None = None
    say: list[Say] = []
    restart: Restart | None = None
    record: bool | None = None
    frame_messages: int | None = None
    clock_skew_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What goes over the wire: text, maybe in pieces, maybe late."""

    text: str
    split: bool = False
    late_s: float = 0.0


@dataclass(slots=True)
class Faults:
    """What is still to go wrong, and what did."""

    requests: list[RequestFault] = field(default_factory=list)
    frames: list[FrameFault] = field(default_factory=list)
    chance: Chance = field(default_factory=Chance)
    latency: Latency = field(default_factory=Latency)
    happened: dict[str, int] = field(default_factory=dict)
    _drawn: int = 0
    _kept: dict[str, list[Sent]] = field(default_factory=dict)

    def ask(self, order: Order) -> None:
        """Take what is to go wrong."""
        if order.clear:
            self.requests, self.frames, self.chance, self.latency = [], [], Chance(), Latency()
        self.requests += order.requests
        self.frames += order.frames
        self.chance = self.chance if order.chance is None else order.chance
        self.latency = self.latency if order.latency is None else order.latency

    def request(self, method: str, path: str) -> RequestFault | None:
        """The fault that this request meets, which is then used up."""
        for fault in self.requests:
            fits = fault.kind != "unseen" or path.endswith(LOOK_UP)
            if fits and fault.method in ("", method) and path.startswith(fault.path):
                fault.count -= 1
                if fault.count <= 0:
                    self.requests.remove(fault)
                return self._note(fault.kind, fault)
        if self._draw() < self.chance.requests:
            kind = REQUEST_KINDS[int(self._draw() * len(REQUEST_KINDS))]
            return self._note(kind, RequestFault(kind=kind, seconds=0.05))
        return None

    def late_s(self) -> float:
        """How long the next request takes on its way."""
        wanted = self.latency
        if not wanted.median_s:
            return 0.0
        radius = math.sqrt(-2.0 * math.log(max(self._draw(wanted.seed), 1e-9)))  # Box and Muller
        normal = radius * math.cos(2.0 * math.pi * self._draw(wanted.seed))
        return min(wanted.most_s, wanted.median_s * math.exp(wanted.sigma * normal))

    def sent(self, endpoint: str, frame: str) -> list[Sent]:
        """What goes over the wire instead of `frame`: nothing, it, it twice, something else before it, or an older one after."""
        fault = self._frame_fault(endpoint)
        late, plain = self._kept.pop(endpoint, []), Sent(frame)
        match fault.kind if fault is not None else None:
            case "drop":
                return late
            case "duplicate":
                return [plain, plain, *late]
            case "delay" if fault is not None and fault.seconds:
                return [Sent(frame, late_s=fault.seconds), *late]
            case "delay":
                self._kept[endpoint] = [*late, plain]
                return []
            case "reorder":
                self._kept[endpoint] = [plain, *late]
                return []
            case "garbage":
                return [Sent(frame[: len(frame) // 2]), *late]
            case "split":
                return [Sent(frame, split=True), *late]
            case "unknown":
                return [Sent(STRANGE[endpoint]), plain, *late]
            case "enum":
                return [Sent(_WORD.sub(r'"\1":"reconsidered"', frame, count=1)), *late]
            case "error" if fault is not None:
                return [Sent(error_frame(endpoint, fault.code)), plain, *late]
        return [plain, *late]

    def _frame_fault(self, endpoint: str) -> FrameFault | None:
        for fault in self.frames:
            if fault.endpoint == endpoint:
                fault.count -= 1
                if fault.count <= 0:
                    self.frames.remove(fault)
                return self._note(fault.kind, fault)
        if self._draw() < self.chance.frames:
            kind = FRAME_KINDS[int(self._draw() * len(FRAME_KINDS))]
            return self._note(kind, FrameFault(endpoint="data", kind=kind))
        return None

    def _note(self, kind: str, fault: _T) -> _T:
        self.happened[kind] = self.happened.get(kind, 0) + 1
        return fault

    def _draw(self, seed: int | None = None) -> float:
        self._drawn += 1
        drawn = hashlib.blake2b(
            b"%d:%d" % (self.chance.seed if seed is None else seed, self._drawn), digest_size=8
        ).digest()
        return int.from_bytes(drawn) % _MILLION / _MILLION


def error_frame(endpoint: str, code: int) -> str:
    """An error as the endpoint tells it."""
    if endpoint == "trading":
        return '{"action":"error","data":{"error_message":"internal server error"}}'
    return f'[{{"T":"error","code":{code},"msg":"{ERRORS.get(code, "error")}"}}]'


def answer(fault: RequestFault, process: Callable[[], Response], now_s: int) -> Response | None:
    """What a request that meets `fault` is told; None where the connection breaks off instead. What is late is not decided here."""
    gateway: Wire = {"message": "gateway time-out"}
    match fault.kind:
        case "lost_answer":
            process()
            return Response(504, gateway)
        case "reset":
            process()
            return None
        case "reset_before":
            return None
        case "not_processed":
            return Response(504, gateway)
        case "rate_limit":
            headers = {"X-RateLimit-Limit": "200", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(now_s + 1)}
            return Response(429, {"code": TOO_MANY, "message": "rate limit exceeded"}, headers)
        case "error":
            return Response(500, {"message": "internal server error"})
        case "unauthorized":
            return Response(401, {"message": "unauthorized."})
        case "unseen":
            return Response(404, {"code": UNKNOWN, "message": "order not found"})
    return process()
