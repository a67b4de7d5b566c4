"""What the twin's server does wrong on request: requests that fail in every way, streams that lie, mute or break off.

Faults are the transport's: the exchange behind it goes on rightly, so that its truth can be compared with what a client believes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import msgspec

from algo_royale.exchange.wire import TOO_MANY, Response, Wire

RequestKind = Literal["lost_answer", "reset", "not_processed", "rate_limit", "error", "unauthorized", "latency"]
FrameKind = Literal["drop", "duplicate", "delay", "reorder", "garbage", "unknown"]
REQUEST_KINDS: tuple[RequestKind, ...] = ("lost_answer", "reset", "not_processed", "rate_limit", "error", "latency")
FRAME_KINDS: tuple[FrameKind, ...] = ("drop", "duplicate", "delay", "reorder", "garbage", "unknown")
Endpoint = Literal["data", "trading"]
_MILLION = 1_000_000
_T = TypeVar("_T")


class RequestFault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The next `count` requests of `method` ("" is any) whose path begins with `path` meet `kind`.

    lost_answer: processed, then answered 504. reset: processed, then the connection breaks off. not_processed: 504 and nothing
    done. rate_limit: 429 with headers. error: 500. unauthorized: 401. latency: answered `seconds` late.
    """

    kind: RequestKind
    count: int = 1
    method: str = ""
    path: str = ""
    seconds: float = 0.1


class FrameFault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The next `count` frames of `endpoint` meet `kind`.

    drop: never sent. duplicate: sent twice. delay: sent after the next one. reorder: as delay. garbage: cut in half. unknown: a
    message of a type that nobody knows goes before it.
    """

    endpoint: Endpoint
    kind: FrameKind
    count: int = 1


class Cut(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Break the connections of `endpoint` now. close: with a close frame; reset: the socket is gone; mute: nothing is sent, pings
    are answered; half_open: nothing is sent or read; slow: told 407 and closed.

    `seconds`: how long mute and half_open last, and how long new connections are refused after the others.
    """

    endpoint: Endpoint
    how: Literal["close", "reset", "mute", "half_open", "slow"]
    seconds: float = 0.0


class Chance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Let every request and frame meet a fault with these chances, drawn from `seed`."""

    seed: int = 0
    requests: float = 0.0
    frames: float = 0.0


class Order(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /sim/faults. `clear` ends everything that was asked for before."""

    clear: bool = False
    requests: list[RequestFault] = []
    frames: list[FrameFault] = []
    cut: list[Cut] = []
    chance: Chance | None = None
    clock_skew_s: float | None = None


@dataclass(slots=True)
class Faults:
    """What is still to go wrong, and what did."""

    requests: list[RequestFault] = field(default_factory=list)
    frames: list[FrameFault] = field(default_factory=list)
    chance: Chance = field(default_factory=Chance)
    happened: dict[str, int] = field(default_factory=dict)
    _drawn: int = 0
    _kept: dict[str, list[str]] = field(default_factory=dict)

    def ask(self, order: Order) -> None:
        """Take what is to go wrong."""
        if order.clear:
            self.requests, self.frames, self.chance = [], [], Chance()
        self.requests += order.requests
        self.frames += order.frames
        if order.chance is not None:
            self.chance = order.chance

    def request(self, method: str, path: str) -> RequestFault | None:
        """The fault that this request meets, which is then used up."""
        for fault in self.requests:
            if fault.method in ("", method) and path.startswith(fault.path):
                fault.count -= 1
                if fault.count <= 0:
                    self.requests.remove(fault)
                return self._note(fault.kind, fault)
        if self._draw() < self.chance.requests:
            kind = REQUEST_KINDS[int(self._draw() * len(REQUEST_KINDS))]
            return self._note(kind, RequestFault(kind=kind, seconds=0.05))
        return None

    def sent(self, endpoint: str, frame: str) -> list[str]:
        """What goes over the wire instead of `frame`: nothing, it, it twice, something else before it, or an older one after."""
        kind = self._frame_kind(endpoint)
        late = self._kept.pop(endpoint, [])
        match kind:
            case None:
                return [frame, *late]
            case "drop":
                return late
            case "duplicate":
                return [frame, frame, *late]
            case "delay" | "reorder":
                self._kept[endpoint] = [*late, frame]
                return []
            case "garbage":
                return [frame[: len(frame) // 2], *late]
        strange = (
            '[{"T":"zz","S":"?"}]'
            if endpoint == "data"
            else '{"stream":"trade_updates","data":{"event":"reconsidered"}}'
        )
        return [strange, frame, *late]

    def _frame_kind(self, endpoint: str) -> FrameKind | None:
        for fault in self.frames:
            if fault.endpoint == endpoint:
                fault.count -= 1
                if fault.count <= 0:
                    self.frames.remove(fault)
                return self._note(fault.kind, fault.kind)
        if self._draw() < self.chance.frames:
            kind = FRAME_KINDS[int(self._draw() * len(FRAME_KINDS))]
            return self._note(kind, kind)
        return None

    def _note(self, kind: str, fault: _T) -> _T:
        self.happened[kind] = self.happened.get(kind, 0) + 1
        return fault

    def _draw(self) -> float:
        self._drawn += 1
        drawn = hashlib.blake2b(b"%d:%d" % (self.chance.seed, self._drawn), digest_size=8).digest()
        return int.from_bytes(drawn) % _MILLION / _MILLION


def answer(fault: RequestFault, process: Callable[[], Response], now_s: int) -> Response | None:
    """What a request that meets `fault` is told; None where the connection breaks off instead. `latency` is not decided here."""
    gateway: Wire = {"message": "gateway time-out"}
    match fault.kind:
        case "lost_answer":
            process()
            return Response(504, gateway)
        case "reset":
            process()
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
    return process()
