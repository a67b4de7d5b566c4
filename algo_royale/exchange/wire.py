"""What the twin's answers are made of: orders, refusals, and Alpaca's spelling of times, quantities and money.

Shapes follow recorded answers of a paper account: money and quantities are JSON strings without trailing zeros, instants
are RFC 3339 with up to nine fractional digits. Written apart from the client's decoder on purpose, so that a wrong idea
of the protocol on one side does not hide behind the same one on the other.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid5

from algo_royale.costs import CostRules
from algo_royale.exchange.tape import Quotes, Trades
from algo_royale.sessions import NEW_YORK, new_york_ns

Wire = dict[str, Any]

SECOND_NS = 1_000_000_000
MICRO = Decimal("0.000001")
RATIO = Decimal("0.00001")
TWIN_COSTS = CostRules(price_tick=Decimal("0.0001"))  # five basis points of slippage, no commission
OPEN_STATUSES = frozenset({"accepted", "pending_new", "new", "partially_filled", "held"})
BAD_FIELD, NOT_ALLOWED, FORBIDDEN, UNKNOWN, BAD_BODY = 40010001, 42210000, 40310000, 40410000, 40010000
TOO_MANY = 42910000


class Refusal(Exception):
    """An answer that is an error: HTTP `status` and a JSON `body` with Alpaca's code, message and extra fields."""

    def __init__(self, status: int, code: int | None, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.status = status
        body = {"message": message, **extra} if code is None else {"code": code, "message": message, **extra}
        self.body: Wire = dict(sorted(body.items()))


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer. `json` None means an empty body."""

    status: int
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeConfig:
    """One twin's account and rules.

    `start_ns`/`end_ns`: virtual time of birth and the last instant at which an event is replayed (None: all of them).
    `cash` in US dollars; `multiplier` is the margin multiplier of buying power; `connections` per websocket endpoint;
    `partial_fills` is the share of executions that fill a part only; `requests_per_minute` None never answers 429.
    `symbols_max` bounds the symbols of trades and quotes on a data stream (30 on Alpaca's basic plan).
    Alpaca's paper accounts are paid no dividends, its live ones are. `amended_trades` is the share of trades that are reported
    late, corrected or canceled. `frame_messages` bounds the messages of one frame of market data. `sip`: the data plan includes
    all exchanges; Alpaca's basic plan has IEX, and of the others what is older than 15 minutes. `whole_shares` are the symbols
    that are not traded in fractions.
    """

    start_ns: int
    end_ns: int | None = None
    seed: int = 0
    cash: Decimal = Decimal(100_000)
    multiplier: int = 4
    costs: CostRules = TWIN_COSTS
    keys: Mapping[str, str] = field(default_factory=lambda: {"TWINKEY": "twin-secret"})
    connections: int = 1
    shorting: bool = False
    pay_dividends: bool = False
    partial_fills: Decimal = Decimal(0)
    requests_per_minute: int | None = None
    symbols_max: int | None = None
    amended_trades: Decimal = Decimal(0)
    frame_messages: int = 100
    sip: bool = True
    nyse_listed: frozenset[str] = frozenset({"IBM"})
    whole_shares: frozenset[str] = frozenset()

    @property
    def auth_headers(self) -> dict[str, str]:
        """Headers of a client that holds the first key."""
        key, secret = next(iter(self.keys.items()))
        return {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One exit of a bracket, oco or oto order: a limit (take profit), a stop or a stop-limit (stop loss)."""

    limit_price: Decimal | None = None
    stop_price: Decimal | None = None

    @property
    def type(self) -> str:
        return "limit" if self.stop_price is None else "stop" if self.limit_price is None else "stop_limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """A well-formed request. Exactly one of `qty` (shares) and `notional` (US dollars) is set; prices are None where the
    type has none. `legs` are the exits of a bracket, oco (then the first is the order itself) or oto order."""

    symbol: str
    side: str
    type: str
    qty: Decimal | None = None
    notional: Decimal | None = None
    time_in_force: str = "day"
    order_class: str = "simple"
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    extended_hours: bool = False
    client_order_id: str | None = None
    legs: tuple[Leg, ...] = ()

    @property
    def fractional(self) -> bool:
        """Whether it is of an amount of money or of parts of shares."""
        return self.qty is None or self.qty != self.qty.to_integral_value()


@dataclass(slots=True, kw_only=True, eq=False)
class Order:
    """An order as the exchange holds it. Instants are UTC nanoseconds, quantities shares, prices US dollars.

    `qty` is None while an order of an amount of money is not filled. `reference` is what a share is reserved at. `active`:
    a stop that was reached. `rests`: a limit that saw a market which was not good enough. `arrived_ns`: when
    it was sent, whatever instant of its own it was given. `group`: the exits of one position, of which one ends the others; `legs`: exits that wait for
    this entry.
    """

    id: str
    client_order_id: str
    serial: int
    symbol: str
    asset_id: str
    side: str
    type: str
    qty: Decimal | None
    limit_price: Decimal | None
    reference: Decimal
    status: str
    created_ns: int
    updated_ns: int
    submitted_ns: int
    expires_ns: int
    notional: Decimal | None = None
    time_in_force: str = "day"
    order_class: str = "simple"
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    high_water_mark: Decimal | None = None
    extended_hours: bool = False
    intent: str = "buy_to_open"
    active: bool = True
    rests: bool = False
    arrived_ns: int = 0
    filled_qty: Decimal = Decimal(0)
    filled_value: Decimal = Decimal(0)
    filled_ns: int | None = None
    expired_ns: int | None = None
    canceled_ns: int | None = None
    cancel_requested_ns: int | None = None
    replaced_ns: int | None = None
    replaced_by: str | None = None
    replaces: str | None = None
    parent: "Order | None" = None
    legs: "list[Order]" = field(default_factory=list)
    group: "list[Order]" = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_STATUSES

    @property
    def left(self) -> Decimal:
        """Shares still to be filled; those of an order of money at its reference price."""
        if self.qty is None:
            assert self.notional is not None
            return max(Decimal(0), self.notional / self.reference - self.filled_qty)
        return self.qty - self.filled_qty

    @property
    def reserved(self) -> Decimal:
        """Buying power that an open buy or short sale holds back, in US dollars."""
        return self.left * self.reference if self.opens and self.status != "held" else Decimal(0)

    @property
    def opens(self) -> bool:
        """Whether it makes a position larger."""
        return self.intent.endswith("open")


def order_json(order: Order, *, stream: bool = False, nested: bool = False) -> Wire:
    """The REST answer, or with `stream` the order inside a trade update (which has other optional fields)."""
    average = order.filled_value / order.filled_qty if order.filled_qty else None
    out: Wire = {
        "id": order.id,
        "client_order_id": order.client_order_id,
        "created_at": rfc3339(order.created_ns),
        "updated_at": rfc3339(order.updated_ns),
        "submitted_at": rfc3339(order.submitted_ns),
        "filled_at": _instant(order.filled_ns),
        "expired_at": _instant(order.expired_ns),
    }
    if stream:
        out["cancel_requested_at"] = _instant(order.cancel_requested_ns)
    out |= {
        "canceled_at": _instant(order.canceled_ns),
        "failed_at": None,
        "replaced_at": _instant(order.replaced_ns),
        "replaced_by": order.replaced_by,
        "replaces": order.replaces,
        "asset_id": order.asset_id,
        "symbol": order.symbol,
        "asset_class": "us_equity",
        "notional": _plain(order.notional),
        "qty": _plain(order.qty),
        "filled_qty": plain(order.filled_qty),
        "filled_avg_price": None if average is None else money(average),
        "order_class": "" if order.order_class == "simple" else order.order_class,
        "order_type": order.type,
        "type": order.type,
        "side": order.side,
        "position_intent": order.intent,
        "time_in_force": order.time_in_force,
        "limit_price": _plain(order.limit_price),
        "stop_price": _plain(order.stop_price),
        "status": order.status,
        "extended_hours": order.extended_hours,
        "legs": [order_json(leg, stream=stream, nested=True) for leg in order.legs] or None
        if nested or stream
        else None,
        "trail_percent": _plain(order.trail_percent),
        "trail_price": _plain(order.trail_price),
        "hwm": _plain(order.high_water_mark),
    }
    if not stream:
        out |= {"subtag": None, "source": None}
    out["expires_at"] = rfc3339(order.expires_ns)
    if order.parent is not None and nested:
        del out["legs"]  # an exit has none, and Alpaca's own description lets a null stand at the top only
    return out


def trade_json(trades: Trades, row: int) -> Wire:
    """A trade as market data spells it; its number is its place in the day. W: an average price, which moves no bar's prices."""
    return {
        "t": rfc3339(int(trades.at_ns[row])), "x": "V", "p": float(trades.price[row]), "s": round(float(trades.size[row])),
        "c": ["@" if trades.counts[row] else "W"], "i": row + 1, "z": "C",
    }  # fmt: skip


def quote_json(quotes: Quotes, row: int) -> Wire:
    """A quote as market data spells it."""
    return {
        "t": rfc3339(int(quotes.at_ns[row])), "ax": "V", "ap": float(quotes.ask[row]), "as": round(float(quotes.ask_size[row])),
        "bx": "V", "bp": float(quotes.bid[row]), "bs": round(float(quotes.bid_size[row])), "c": ["R"], "z": "C",
    }  # fmt: skip


def _plain(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)


# ---------------------------------------------------------------------------------------------------------- numbers


def plain(value: Decimal) -> str:
    """`value` in positional notation without trailing zeros: "0", "1.5", "100000"."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def money(value: Decimal) -> str:
    """US dollars to six places."""
    return plain(value.quantize(MICRO, ROUND_HALF_UP))


def ratio(value: Decimal) -> str:
    """A fraction of one to five places."""
    return plain(value.quantize(RATIO, ROUND_HALF_UP))


# ------------------------------------------------------------------------------------------------------------- time


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(ns: int) -> str:
    """UTC with a Z and as many fractional digits as are needed, up to nine."""
    seconds, fraction = divmod(ns, SECOND_NS)
    if not fraction:
        return _second(seconds) + "Z"
    return f"{_second(seconds)}.{fraction:09d}".rstrip("0") + "Z"


def _instant(ns: int | None) -> str | None:
    return None if ns is None else rfc3339(ns)


def new_york(ns: int) -> str:
    """New York local time with its offset, as the clock endpoint spells it."""
    seconds, fraction = divmod(ns, SECOND_NS)
    text = datetime.fromtimestamp(seconds, NEW_YORK).isoformat()
    return text[:19] + (f".{fraction:09d}".rstrip("0") if fraction else "") + text[19:]


def local(ns: int) -> datetime:
    """New York local time, whole seconds."""
    return datetime.fromtimestamp(ns // SECOND_NS, NEW_YORK)


_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?(Z|[+-]\d{2}:?\d{2})?)?", re.ASCII | re.I
)


def parse_instant(text: str) -> int:
    """UTC nanoseconds of an RFC 3339 instant (no offset: UTC) or of midnight New York of a bare date. ValueError."""
    found = _RFC3339.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"invalid time: {text}")
    day, hour, minute, second, fraction, offset = found.groups()
    if hour is None:
        return new_york_ns(date.fromisoformat(day))
    zone: timezone = UTC
    if offset and offset.upper() != "Z":
        hours, minutes = int(offset[1:3]), int(offset[-2:])
        zone = timezone((1 if offset[0] == "+" else -1) * timedelta(hours=hours, minutes=minutes))
    at = datetime.fromisoformat(day).replace(hour=int(hour), minute=int(minute), second=int(second or 0), tzinfo=zone)
    return int(at.timestamp()) * SECOND_NS + int((fraction or "0").ljust(9, "0"))


# --------------------------------------------------------------------------------------------------------- identity

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)
_ASSETS = UUID("5d9c8f0e-3e56-5d4d-9a3e-0d7b9f8a1c21")


@lru_cache(maxsize=4096)
def asset_id(symbol: str) -> str:
    """The same for every twin, as an asset's id is the same for every account."""
    return str(uuid5(_ASSETS, symbol))


class Ids:
    """Identifiers drawn from a seed: the n-th of a kind is always the same."""

    def __init__(self, seed: int) -> None:
        self._space = uuid5(_ASSETS, f"exchange:{seed}")
        self._drawn = 0

    def fixed(self, name: str) -> str:
        """A UUID that depends on the seed and the name only."""
        return str(uuid5(self._space, name))

    def uuid(self, kind: str) -> str:
        self._drawn += 1
        return str(uuid5(self._space, f"{kind}:{self._drawn}"))

    def chance(self) -> Decimal:
        """A number from 0 up to 1, in steps of a millionth."""
        self._drawn += 1
        drawn = hashlib.blake2b(b"%b?%d" % (self._space.bytes, self._drawn), digest_size=8).digest()
        return Decimal(int.from_bytes(drawn) % 1_000_000) / 1_000_000

    def ulid(self, at_ns: int) -> str:
        """26 characters of time and chance; those of one millisecond sort in the order in which they were drawn."""
        self._drawn += 1
        chance = hashlib.blake2b(b"%b:%d" % (self._space.bytes, self._drawn), digest_size=5).digest()
        number = (at_ns // 1_000_000) << 80 | self._drawn << 40 | int.from_bytes(chance)
        return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def basic_credentials(header: str) -> tuple[str, str] | None:
    """Key and secret of an `Authorization: Basic` header; None when it is not one."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        key, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (key, secret) if colon else None


def authorized(headers: Mapping[str, str], keys: Mapping[str, str]) -> bool:
    """True where the headers carry a known key with its secret (APCA headers or Basic)."""
    key, secret = credentials(headers)
    return key is not None and keys.get(key) == secret


def credentials(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Key and secret that the headers carry, or (None, None)."""
    key, secret = headers.get("APCA-API-KEY-ID"), headers.get("APCA-API-SECRET-KEY")
    if key is not None and secret is not None:
        return key, secret
    lower = {name.lower(): value for name, value in headers.items()}
    if "apca-api-key-id" in lower:
        return lower["apca-api-key-id"], lower.get("apca-api-secret-key")
    return basic_credentials(lower.get("authorization", "")) or (None, None)
