"""Alpaca's JSON <-> our types. No sockets, no clock.

Tolerant by rule: unknown fields, events and enum values are kept as text and never fail; what we rely on (ids, quantities,
prices, times) is checked, and raises `BadWire` with the field's name. Money and quantities are Decimal, times UTC nanoseconds.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from algo_royale.errors import BrokerError
from algo_royale.market import Timeframe
from algo_royale.sessions import Calendar

Wire = Mapping[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What is larger cannot be true, and what we would do with it (store, print, add up) would fail or never end.
TEXT_MAX = 256
DIGITS_MAX = 18  # before the point of a number
PLACES_MAX = 40  # and behind it
TIMES = range(-(10**18), 42 * 10**17)  # 1938 to 2103


class BadWire(BrokerError):
    """An object from the broker lacks what we rely on, or has it in a form that cannot be true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOrder:
    """An order as the broker sees it; `status` is the broker's word."""

    broker_order_id: str
    client_order_id: str
    symbol: str
    side: str
    status: str
    quantity: Decimal  # 0 for an order in dollars (notional), which we never send
    filled_quantity: Decimal
    submitted_ns: int
    order_type: str = "market"
    time_in_force: str = "day"
    limit_price_usd: Decimal | None = None
    replaces: str = ""  # the broker's id of the order in whose place this one stands
    replaced_by: str = ""  # and of the one in the place of this


@dataclass(frozen=True, slots=True, kw_only=True)
class WireTradeUpdate:
    """One event of `trade_updates`; price and quantity are this fill's (a correction's: what it now is), None where the
    event is no fill. `previous_execution_id`: what a bust or correction takes back."""

    event: str
    order: WireOrder
    at_ns: int
    execution_id: str | None
    fill_price_usd: Decimal | None
    fill_quantity: Decimal | None
    position_quantity: Decimal | None
    previous_execution_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFill:
    """A FILL activity. It names the order by the broker's id only."""

    activity_id: str
    broker_order_id: str
    symbol: str
    side: str
    quantity: Decimal
    cumulative_quantity: Decimal
    price_usd: Decimal
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WireEntry:
    """An activity that is no trade; `kind` is the broker's word in lower case, quantity and cash are signed."""

    activity_id: str
    kind: str
    symbol: str
    quantity: Decimal
    cash_usd: Decimal
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WirePosition:
    """Signed quantity (negative: short) and average entry price."""

    symbol: str
    quantity: Decimal
    average_cost_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class WireAccount:
    """Money of the account and whether it may trade."""

    account_number: str
    status: str
    cash_usd: Decimal
    equity_usd: Decimal
    is_blocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TradingFrame:
    """A frame of the trading stream: kind is authorization | listening | update | error | unknown."""

    kind: str
    ok: bool = False
    detail: str = ""
    update: WireTradeUpdate | None = None


# --- scalars ---------------------------------------------------------------------------------------------------------


def parse_time_ns(text: str) -> int:
    """RFC 3339 with 0 to 9 fractional digits and `Z` or an offset -> UTC nanoseconds, nothing truncated."""
    try:
        head, fraction, zone = _split_time(text)
        whole = datetime.fromisoformat(head + zone)
        nanos = int((fraction + "000000000")[:9])
    except (ValueError, TypeError, AttributeError) as error:
        raise BadWire(f"{_short(text)} is not an RFC 3339 time") from error
    if whole.tzinfo is None:
        raise BadWire(f"{_short(text)} has no time zone")
    since = whole - _EPOCH
    at_ns = (since.days * 86_400 + since.seconds) * 1_000_000_000 + nanos
    if at_ns not in TIMES:
        raise BadWire(f"{_short(text)} is no time of today's markets")
    return at_ns


def _split_time(text: str) -> tuple[str, str, str]:
    """('2026-01-01T00:00:00', '123', '+00:00')."""
    body, zone = (text[:-1], "+00:00") if text[-1:] in ("Z", "z") else (text, "")
    if not zone and len(text) > 6 and text[-6] in "+-":
        body, zone = text[:-6], text[-6:]
    head, _, fraction = body.partition(".")
    return head, fraction, zone


def format_time(at_ns: int) -> str:
    """UTC nanoseconds -> RFC 3339 `Z`, trailing zeros of the fraction dropped, as the broker spells it."""
    seconds, nanos = divmod(at_ns, 1_000_000_000)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{text}{fraction}Z"


def seen(wire: Wire) -> dict[str, tuple[Decimal | None, Decimal | None]]:
    """Of each symbol of a snapshot answer the last trade's price and the spread of the last quote over its middle; None where
    there is none that means something (one side empty, or crossed)."""
    out = {}
    for symbol, found in wire.items():
        snapshot = _mapping(found or {}, "a snapshot")
        trade, quote = (_mapping(snapshot.get(name) or {}, name) for name in ("latestTrade", "latestQuote"))
        price = decimal(trade, "p") if trade else None
        bid, ask = (decimal(quote, name) if quote else Decimal(0) for name in ("bp", "ap"))
        spread = (ask - bid) * 2 / (ask + bid) if 0 < bid <= ask else None
        out[symbol] = (price if price else None, spread)
    return out


def decimal(wire: Wire, field: str) -> Decimal:
    """A number that must be there, sent as string (trading) or number; never NaN."""
    value = optional_decimal(wire, field)
    if value is None:
        raise BadWire(f"{field} is missing")
    return value


def optional_decimal(wire: Wire, field: str) -> Decimal | None:
    value = wire.get(field)
    if value is None or value == "":
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation as error:
        raise BadWire(f"{field} {_short(value)} is not a number") from error
    if not number.is_finite():
        raise BadWire(f"{field} {_short(value)} is not a finite number")
    if number.adjusted() >= DIGITS_MAX or int(number.as_tuple().exponent) < -PLACES_MAX:
        raise BadWire(f"{field} {_short(value)} is no number of shares or dollars")
    return number


def _amount(wire: Wire, field: str) -> Decimal:
    """What cannot be negative; 0 where it is not there."""
    number = optional_decimal(wire, field) or Decimal(0)
    if number < 0:
        raise BadWire(f"{field} {number} is below 0")
    return number


def _positive(wire: Wire, field: str) -> Decimal:
    number = decimal(wire, field)
    if number <= 0:
        raise BadWire(f"{field} {number} of an execution")
    return number


def _text(wire: Wire, field: str) -> str:
    """An id, a symbol or a word of the broker's."""
    value = wire.get(field)
    if not isinstance(value, str) or not value:
        raise BadWire(f"{field} is missing")
    if len(value) > TEXT_MAX or not value.isprintable():
        raise BadWire(f"{field} {_short(value)} is no name")
    return value


def _optional_text(wire: Wire, field: str, default: str = "") -> str:
    return _text(wire, field) if wire.get(field) else default


def plain(value: object, limit: int = TEXT_MAX) -> str:
    """Words of the broker's for people: so long at most, and with control characters as escapes."""
    text = str(value)[:limit]
    return text if text.isprintable() else ascii(text)[1:-1][:limit]


def _short(value: object) -> str:
    return plain(repr(value), 80)


def _mapping(value: object, what: str) -> Wire:
    if not isinstance(value, Mapping):
        raise BadWire(f"{what} is not an object")
    return value


# --- trading objects -------------------------------------------------------------------------------------------------


def order_body(
    *,
    client_order_id: str,
    symbol: str,
    side: str,
    quantity: Decimal,
    order_type: str,
    time_in_force: str,
    limit_price: Decimal | None,
) -> dict[str, Any]:
    """The body of POST /v2/orders; quantities and prices as strings, so that no float touches them."""
    body: dict[str, Any] = {
        "symbol": symbol,
        "qty": format(quantity, "f"),
        "side": side,
        "type": order_type,
        "time_in_force": time_in_force,
        "client_order_id": client_order_id,
    }
    if limit_price is not None:
        body["limit_price"] = format(limit_price, "f")
    return body


def parse_order(wire: Wire) -> WireOrder:
    """An order of the REST API or of a trade update."""
    submitted = wire.get("submitted_at") or wire.get("created_at")
    return WireOrder(
        broker_order_id=_text(wire, "id"),
        client_order_id=_text(wire, "client_order_id"),
        symbol=_text(wire, "symbol"),
        side=_text(wire, "side"),
        status=_text(wire, "status"),
        quantity=_amount(wire, "qty"),
        filled_quantity=_amount(wire, "filled_qty"),
        submitted_ns=parse_time_ns(submitted) if submitted else 0,
        order_type=_optional_text(wire, "type") or _optional_text(wire, "order_type", "market"),
        time_in_force=_optional_text(wire, "time_in_force", "day"),
        limit_price_usd=optional_decimal(wire, "limit_price"),
        replaces=_optional_text(wire, "replaces"),
        replaced_by=_optional_text(wire, "replaced_by"),
    )


def family(orders: Iterable[WireOrder], is_ours: Callable[[str], bool]) -> set[str]:
    """The broker's ids of our orders, and of those that stand in the place of one of ours however often it was replaced:
    those carry a client id that whoever replaced it chose."""
    listed = list(orders)
    found = {order.broker_order_id for order in listed if is_ours(order.client_order_id)}
    while more := {o.broker_order_id for o in listed if o.replaces in found and o.broker_order_id not in found}:
        found |= more
    return found


def parse_fill(wire: Wire) -> WireFill:
    """A FILL activity."""
    return WireFill(
        activity_id=_text(wire, "id"),
        broker_order_id=_text(wire, "order_id"),
        symbol=_text(wire, "symbol"),
        side="buy" if _text(wire, "side") == "buy" else "sell",  # "sell_short" is a sell
        quantity=_positive(wire, "qty"),
        cumulative_quantity=_positive(wire, "cum_qty"),
        price_usd=_positive(wire, "price"),
        at_ns=parse_time_ns(_text(wire, "transaction_time")),
    )


def parse_entry(wire: Wire) -> WireEntry:
    """A non-trade activity. Its time is that of its booking; where only its date is known, the end of that day in UTC."""
    created = wire.get("created_at")
    if created:
        at_ns = parse_time_ns(created)
    else:
        at_ns = parse_time_ns(f"{_text(wire, 'date')}T23:59:59Z")
    kind = _text(wire, "activity_type").lower()
    quantity, cash = (optional_decimal(wire, name) or Decimal(0) for name in ("qty", "net_amount"))
    if kind.startswith("div") and cash:
        quantity = Decimal(0)  # the shares that were paid for; a dividend of shares has no cash
    return WireEntry(
        activity_id=_text(wire, "id"),
        kind=kind,
        symbol=_text(wire, "symbol") if wire.get("symbol") else "",
        quantity=quantity,
        cash_usd=cash,
        at_ns=at_ns,
    )


def parse_position(wire: Wire) -> WirePosition:
    """A position; the sign follows `side` should `qty` come unsigned."""
    quantity = decimal(wire, "qty")
    if wire.get("side") == "short":
        quantity = -abs(quantity)
    return WirePosition(
        symbol=_text(wire, "symbol"), quantity=quantity, average_cost_usd=decimal(wire, "avg_entry_price")
    )


def parse_account(wire: Wire) -> WireAccount:
    return WireAccount(
        account_number=_text(wire, "account_number"),
        status=_optional_text(wire, "status"),
        cash_usd=decimal(wire, "cash"),
        equity_usd=decimal(wire, "equity"),
        is_blocked=any(
            wire.get(flag) is True for flag in ("trading_blocked", "account_blocked", "trade_suspended_by_user")
        ),
    )


def parse_trade_update(data: Wire) -> WireTradeUpdate:
    """The `data` of a trade_updates frame."""
    event = _text(data, "event")
    is_fill, is_correction = event in ("fill", "partial_fill"), event == "trade_correct"
    read, order = _positive if is_fill else optional_decimal, _mapping(data.get("order"), "order")
    if is_fill:
        _positive(order, "filled_qty")  # what tells this fill from the others: not known is not nothing
    at = data.get("timestamp") or data.get("at")
    return WireTradeUpdate(
        event=event,
        order=parse_order(order),
        at_ns=parse_time_ns(at) if at else 0,
        execution_id=_optional_text(data, "execution_id") or None,
        fill_price_usd=read(data, "price") if is_fill or is_correction else None,
        fill_quantity=read(data, "qty") if is_fill or is_correction else None,
        position_quantity=optional_decimal(data, "position_qty"),
        previous_execution_id=_optional_text(data, "previous_execution_id") or None,
    )


# --- trading stream --------------------------------------------------------------------------------------------------


def authenticate_text(key: str, secret: str) -> str:
    """The auth message of both streams (the current form)."""
    return json.dumps({"action": "auth", "key": key, "secret": secret})


def listen_text() -> str:
    """Asks for trade_updates; replaces the set of streams."""
    return json.dumps({"action": "listen", "data": {"streams": ["trade_updates"]}})


def subscribe_text(channels: Mapping[str, list[str]]) -> str:
    """Adds to the subscription of the data stream: {"bars": ["AAPL"], "dailyBars": [...]}."""
    return json.dumps({"action": "subscribe", **{name: list(symbols) for name, symbols in channels.items()}})


MSGPACK = "msgpack:"


def frame_text(payload: bytes) -> str:
    """A frame's payload as text that loses nothing, told by its content: paper sends binary frames that hold JSON, and whoever is
    asked for it, or not, sends msgpack. Nothing is parsed here."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return MSGPACK + base64.b64encode(payload).decode()


def parse_trading_frame(text: str) -> TradingFrame:
    """A frame of the trading stream; raises BadWire for what is not JSON or a broken update."""
    frame = _json(text)
    if isinstance(frame, list) and len(frame) == 1:
        frame = frame[0]
    if not isinstance(frame, Mapping):
        raise BadWire(f"frame is a {type(frame).__name__}")
    data = frame.get("data")
    stream = frame.get("stream")
    if stream == "trade_updates":
        return TradingFrame(kind="update", ok=True, update=parse_trade_update(_mapping(data, "data")))
    if stream == "authorization":
        fields = _mapping(data, "data")
        is_listen = fields.get("action") == "listen"
        return TradingFrame(
            kind="authorization",
            ok=fields.get("status") == "authorized" and not is_listen,
            detail=plain(f"{fields.get('action', '')}: {fields.get('status', '')}"),
        )
    if stream == "listening":
        named = _mapping(data, "data").get("streams")
        streams = named if isinstance(named, list) else []
        return TradingFrame(kind="listening", ok="trade_updates" in streams, detail=plain(",".join(map(str, streams))))
    if frame.get("action") == "error" or frame.get("T") == "error":
        fields = data if isinstance(data, Mapping) else frame
        return TradingFrame(kind="error", detail=plain(fields.get("error_message") or fields.get("msg") or frame))
    return TradingFrame(kind="unknown", detail=plain(stream or frame.get("T") or frame.get("action")))


# --- market data -----------------------------------------------------------------------------------------------------


def parse_data_frame(text: str) -> list[dict[str, Any]]:
    """The messages of one data-stream frame, unparsed objects in order; raises BadWire for what is not a JSON array."""
    frame = _json(text)
    messages = frame if isinstance(frame, list) else [frame]
    if not all(isinstance(message, dict) for message in messages):
        raise BadWire("a message of the frame is not an object")
    return messages


def bar_time_ns(wire: Wire) -> int:
    """When a bar starts; before all time where that cannot be read."""
    try:
        return parse_time_ns(_text(wire, "t"))
    except BadWire:
        return -1


def bar_row(
    wire: object, *, timeframe: Timeframe, calendar: Calendar, within_ns: range | None = None
) -> dict[str, Any] | None:
    """A bar of the data stream or the REST API as the fields of `BarRow`; None for one that cannot be true.

    A bar that starts outside `within_ns` is none either, and is not looked up: a calendar of the year 9999 takes minutes.

    `t` labels the start: midnight New York of the session for daily bars, which end at the session's close. Intraday bars
    end after their length or at the close, whichever is earlier.
    """
    if not isinstance(wire, Mapping):
        return None
    try:
        start_ns = parse_time_ns(_text(wire, "t"))
        fields: dict[str, Any] = {
            name: float(decimal(wire, key))
            for name, key in (("open", "o"), ("high", "h"), ("low", "l"), ("close", "c"), ("volume", "v"))
        }
        vwap, count = optional_decimal(wire, "vw"), optional_decimal(wire, "n")
    except BadWire:
        return None
    if within_ns is not None and start_ns not in within_ns:
        return None
    if timeframe is Timeframe.DAY_1:
        # midnight in New York is 04:00 or 05:00 UTC of the same date
        session = calendar.session_on((_EPOCH + timedelta(microseconds=start_ns // 1000)).date())
        end_ns = session.close_ns if session is not None else None
    else:
        session = calendar.session_at(start_ns)
        length_ns = timeframe.minutes * 60_000_000_000
        end_ns = start_ns + length_ns if session is None else min(start_ns + length_ns, session.close_ns)
    prices = (fields["open"], fields["high"], fields["low"], fields["close"])
    if (
        end_ns is None
        or min(prices) <= 0
        or fields["volume"] < 0
        or max(prices) > fields["high"]
        or min(prices) < fields["low"]
    ):
        return None
    return {
        "start_ns": start_ns,
        "end_ns": end_ns,
        **fields,
        "vwap": float(vwap) if vwap else None,  # 0 is how Alpaca spells that there is none
        "trade_count": None if count is None else int(count),
    }


def actions(wire: Wire) -> dict[str, list[dict[str, Any]]]:
    """Splits and cash dividends by symbol as the fields of `ActionRecord`, by ex-date; other kinds are left out.

    `wire` is the mapping of kind to rows, {"forward_splits": [{"symbol", "ex_date", "new_rate", "old_rate"}], ...}, bare or
    under "corporate_actions". A row that lacks what we need raises BadWire: an unadjusted bar would be a false signal.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, rows in _mapping(wire.get("corporate_actions") or wire, "corporate_actions").items():
        if kind not in ("forward_splits", "reverse_splits", "stock_dividends", "cash_dividends"):
            continue
        if not isinstance(rows or [], list):
            raise BadWire(f"{kind} is not a list")
        for row in (_mapping(row, f"a row of {kind}") for row in rows or ()):
            found.setdefault(_text(row, "symbol"), []).append(_action(kind, row))
    for rows in found.values():
        rows.sort(key=lambda row: row["ex_date"])
    return found


def _action(kind: str, row: Wire) -> dict[str, Any]:
    ex_date = _date(row)
    if kind == "cash_dividends":
        return {"ex_date": ex_date, "ratio": 1.0, "cash_usd": float(_rate(row))}
    if kind == "stock_dividends":
        return {"ex_date": ex_date, "ratio": 1.0 + float(_rate(row)), "cash_usd": 0.0}
    old, new = decimal(row, "old_rate"), decimal(row, "new_rate")
    if min(old, new) <= 0:
        raise BadWire(f"a split of {old} into {new}")
    return {"ex_date": ex_date, "ratio": float(new) / float(old), "cash_usd": 0.0}


def _rate(row: Wire) -> Decimal:
    rate = decimal(row, "rate")
    if rate < 0:
        raise BadWire(f"rate {rate} of a dividend")
    return rate


def _date(row: Wire) -> str:
    text = _text(row, "ex_date")
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise BadWire(f"ex_date {_short(text)} is not a date") from error


def _json(text: str) -> Any:
    try:
        if text.startswith(MSGPACK):  # its timestamps are cut to microseconds
            return msgspec.to_builtins(msgspec.msgpack.decode(base64.b64decode(text[len(MSGPACK) :])))
        return json.loads(text)
    except (
        ValueError,
        TypeError,
        RecursionError,
        msgspec.MsgspecError,
    ) as error:  # TypeError: an extension of msgpack's
        raise BadWire(f"frame is not JSON: {_short(text[:80])}") from error
