"""What the person at the twin may do to its market and books: halts, bands, amendments of trades, busts. Bodies of POST /sim/<name>.

Unlike faults of transport these happen at the exchange: they are part of its truth and of its journal.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

import msgspec
import numpy as np

from algo_royale.exchange.amendments import Amendment
from algo_royale.exchange.core import Exchange
from algo_royale.exchange.wire import BAD_FIELD, NOT_ALLOWED, SECOND_NS, UNKNOWN, Refusal, Response, Wire, plain

BAND = Decimal("0.05")  # of the last price, on either side: that of the large companies


class Halt(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Stop or resume trading in a symbol, and tell `statuses`."""

    symbol: str
    halted: bool = True


class Bands(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Tell `lulds` the limits up and down of a symbol, by default five per cent around the last price."""

    symbol: str
    up: Decimal | None = None
    down: Decimal | None = None
    indicator: str = "B"


class Amend(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Say something of a trade of this session. late: one of `price` and `size` was made `ago_s` seconds ago. correct: trade
    `number` (by default the last) was of `price` and `size`. cancel: it never was (`action` C), or was an error (E)."""

    kind: Literal["late", "correct", "cancel"]
    symbol: str
    number: int | None = None
    price: float = 0.0
    size: float = 0.0
    ago_s: float = 0.0
    action: Literal["C", "E"] = "C"


class Undo(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Bust an execution, or with a `price` correct it."""

    execution_id: str
    price: Decimal | None = None


def control(exchange: Exchange, path: str, body: bytes) -> Response:
    """Do what the body asks for. 400 for one that cannot be understood, 404 or 422 for what is not possible."""
    form, act = FORMS[path]
    try:
        asked = msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Response(400, {"message": f"request body format is invalid: {error}"})
    try:
        symbol = getattr(asked, "symbol", None)
        if symbol is not None and symbol not in exchange.replay.symbols:
            raise Refusal(404, None, f"asset not found for {symbol}")
        return Response(200, act(exchange, asked))
    except Refusal as refusal:
        return Response(refusal.status, refusal.body)


def _halt(exchange: Exchange, asked: Halt) -> Wire:
    exchange.halt(asked.symbol, halted=asked.halted)
    return {"halted": sorted(exchange.halted)}


def _bands(exchange: Exchange, asked: Bands) -> Wire:
    last = exchange.marks.get(asked.symbol)
    if last is None:
        raise Refusal(422, NOT_ALLOWED, f"{asked.symbol} has no price yet")
    up = (last * (1 + BAND)).quantize(Decimal("0.01")) if asked.up is None else asked.up
    down = (last * (1 - BAND)).quantize(Decimal("0.01")) if asked.down is None else asked.down
    exchange.tell_bands(asked.symbol, up, down, asked.indicator)
    return {"up": plain(up), "down": plain(down)}


def _amend(exchange: Exchange, asked: Amend) -> Wire:
    if exchange.replay.tape is None:
        raise Refusal(422, NOT_ALLOWED, "this market has no trades: run the twin with --market path, minutes or ticks")
    symbol, session, now = asked.symbol, exchange.tick_session, exchange.now_ns
    if asked.kind != "cancel" and not (asked.price > 0 and asked.size > 0):
        raise Refusal(422, BAD_FIELD, "price and size must be > 0")
    number, happened = 0, now - int(asked.ago_s * SECOND_NS)
    if asked.kind == "late":
        if happened > now or exchange.replay.sessions[session].label_ns > happened:
            raise Refusal(422, BAD_FIELD, "ago_s is not within this session")
        number = exchange.known.next_number(symbol, session)
    else:
        known, happened = exchange.known.known(symbol, session), 0
        made = int(np.searchsorted(known.trades.at_ns, now, side="right"))
        valid = [n for n in known.number[:made].tolist() if known.fate.get(n, "corrected") == "corrected"]
        number = (valid[-1] if valid else 0) if asked.number is None else asked.number
        if number not in valid:
            raise Refusal(404, UNKNOWN, f"trade not found for {asked.number}")
    corrected = exchange.known.next_number(symbol, session) if asked.kind == "correct" else 0
    exchange.amend(
        Amendment(
            at_ns=now, symbol=symbol, session=session, kind=asked.kind, number=number, corrected=corrected,
            happened_ns=happened, price=asked.price, size=asked.size, action=asked.action,
        )
    )  # fmt: skip
    return {"number": number, "corrected": corrected or None}


def _undo(exchange: Exchange, asked: Undo) -> Wire:
    if asked.price is not None and asked.price <= 0:
        raise Refusal(422, BAD_FIELD, "price must be > 0")
    exchange.undo(asked.execution_id, asked.price)
    return {"cash": plain(exchange.account.cash)}


FORMS: dict[str, tuple[Any, Callable[[Exchange, Any], Wire]]] = {
    "/sim/halt": (Halt, _halt), "/sim/bands": (Bands, _bands), "/sim/amend": (Amend, _amend), "/sim/undo": (Undo, _undo),
}  # fmt: skip
