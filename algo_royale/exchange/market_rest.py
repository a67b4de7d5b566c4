"""Market data over REST: bars, trades and quotes with their latest, snapshots, and corporate actions.

Everything is what the streams told: bars are made of the same trades, and nothing is known before it has happened.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import date
from fractions import Fraction
from typing import TYPE_CHECKING

from algo_royale.exchange.query import Query, choice, count, instant, names
from algo_royale.exchange.replay import ADJUSTMENTS
from algo_royale.exchange.wire import SECOND_NS, Refusal, Wire, asset_id, parse_instant, rfc3339
from algo_royale.market import CorporateAction, Timeframe
from algo_royale.sessions import new_york_date

if TYPE_CHECKING:
    from algo_royale.exchange.core import Exchange

_SYMBOL = re.compile(r"[A-Za-z][A-Za-z0-9./-]{0,20}", re.ASCII)
_TIMEFRAME = re.compile(r"([1-5]?\d)(Min|T)|(1?\d|2[0-3])(Hour|H)|1(Day|D|Week|W)|(1|2|3|4|6|12)(Month|M)", re.ASCII)
_DAILY = {"1Day": Timeframe.DAY_1, "1D": Timeframe.DAY_1}
_WITHIN_DAYS = {"1Min": Timeframe.MIN_1, "1T": Timeframe.MIN_1, "5Min": Timeframe.MIN_5, "5T": Timeframe.MIN_5,
                "15Min": Timeframe.MIN_15, "15T": Timeframe.MIN_15, "60Min": Timeframe.HOUR_1, "1Hour": Timeframe.HOUR_1,
                "1H": Timeframe.HOUR_1}  # fmt: skip
_FEEDS = ("iex", "sip", "otc", "boats", "delayed_sip")
_KINDS = ("trades", "quotes")
BACK_NS = 10 * 86_400 * SECOND_NS  # in which the latest bar lies: further back than the exchange was ever closed
SIP_DELAY_NS = 900 * SECOND_NS  # what the basic plan has to wait for all exchanges' data
_SINGULAR = {"bars": "bar", "trades": "trade", "quotes": "quote"}
_CORPORATE_TYPES = frozenset(
    ("reverse_split", "forward_split", "unit_split", "cash_dividend", "stock_dividend", "spin_off", "cash_merger",
     "stock_merger", "stock_and_cash_merger", "redemption", "name_change", "worthless_removal", "rights_distribution",
     "partial_call", "reorganization")
)  # fmt: skip


def serve(exchange: Exchange, path: str, query: Query) -> Wire | None:
    """The answer to a GET of market data; None for a path that is not market data's. Raises Refusal."""
    if path == "/v1/corporate-actions":
        return _corporate_actions(exchange, query)
    parts = path.removeprefix("/v2/stocks/").split("/")
    if not path.startswith("/v2/stocks/"):
        return None
    match parts:
        case ["bars"]:
            return _bars(exchange, query)
        case ["trades" | "quotes" as kind]:
            return _ticks(exchange, kind, query)
        case ["bars" | "trades" | "quotes" as kind, "latest"]:
            found = {s: latest for s in _asked(query) if (latest := _latest(exchange, kind, s, query)) is not None}
            return {kind: found, "currency": "USD"}
        case ["snapshots"]:
            return {s: _snapshot(exchange, s, query) for s in _asked(query) if s in exchange.replay.symbols}
        case [symbol, "bars"]:
            return _bars_of_one(exchange, symbol, query)
        case [symbol, "trades" | "quotes" as kind]:
            ticks, token = _tick_page(exchange, kind, [symbol], query)
            return {kind: ticks.get(symbol, []), "symbol": symbol, "next_page_token": token, "currency": "USD"}
        case [symbol, "bars" | "trades" | "quotes" as kind, "latest"]:
            return {_SINGULAR[kind]: _latest(exchange, kind, symbol, query), "symbol": symbol, "currency": "USD"}
        case [symbol, "snapshot"]:
            return {"symbol": symbol, "currency": "USD", **_snapshot(exchange, symbol, query)}
    return None


def _asked(query: Query) -> list[str]:
    symbols = sorted(names(query, "symbols"))
    if not symbols:
        raise Refusal(400, None, "symbols is required")
    return _checked(symbols)


def _checked(symbols: list[str]) -> list[str]:
    for symbol in symbols:
        if not _SYMBOL.fullmatch(symbol):
            raise Refusal(400, None, f"invalid symbol: {symbol}")
    return symbols


def _check_feed(exchange: Exchange, query: Query) -> None:
    feed = query.get("feed", "iex")
    if feed not in _FEEDS:
        raise Refusal(400, None, f"invalid feed: {feed}")
    if feed not in ("iex", "sip"):
        raise Refusal(422, None, f"feed {feed} is not served by this exchange")
    if query.get("currency", "USD") != "USD":
        raise Refusal(422, None, "currencies other than USD are not served by this exchange")
    if feed == "sip" and not exchange.config.sip and _until(exchange, query) > exchange.now_ns - SIP_DELAY_NS:
        raise Refusal(403, None, "subscription does not permit querying recent SIP data")


def _until(exchange: Exchange, query: Query) -> int:
    """How recent what is asked for may be."""
    end = instant(query, "end", data=True)
    return exchange.now_ns if end is None else end


def _range(exchange: Exchange, query: Query) -> tuple[int, int]:
    """What `start` and `end` ask for, both included: from today's midnight until now unless they say otherwise."""
    now = exchange.now_ns
    start, end = instant(query, "start", data=True), instant(query, "end", data=True)
    start = parse_instant(new_york_date(now).isoformat()) if start is None else start
    end = now if end is None else end
    if end < start:
        raise Refusal(400, None, "end should not be before start")
    return start, end


# ------------------------------------------------------------------------------------------------- trades and quotes


def _ticks(exchange: Exchange, kind: str, query: Query) -> Wire:
    found, token = _tick_page(exchange, kind, _asked(query), query)
    return {kind: found, "next_page_token": token, "currency": "USD"}


def _tick_page(
    exchange: Exchange, kind: str, symbols: list[str], query: Query
) -> tuple[dict[str, list[Wire]], str | None]:
    """Trades or quotes by symbol, then time. Many share an instant, so the token also says how many of it were told."""
    _checked(symbols)
    _check_feed(exchange, query)
    left = count(query, "limit", 1000, 10_000, data=True)
    backwards = choice(query, "sort", ("asc", "desc"), "asc", data=True) == "desc"
    start, end = _range(exchange, query)
    resume = _read_token(query.get("page_token"))
    out: dict[str, list[Wire]] = {}
    for symbol in symbols:
        low, high, told = start, end, 0
        if resume is not None:
            if symbol < resume[0]:
                continue
            if symbol == resume[0]:
                told = resume[2]
                low, high = (low, resume[1]) if backwards else (resume[1], high)
        found = exchange.known.ticks_within(symbol, kind, low, high, exchange.now_ns)
        if backwards:
            found.reverse()
        found = found[told:]
        if left and found:
            out[symbol] = [message for _, message in found[:left]]
        if len(found) > left:
            at = found[left][0]
            same = sum(instant == at for instant, _ in found[:left])
            if resume is not None and symbol == resume[0] and at == resume[1]:
                same += told
            return out, _token(symbol, kind, at, same)
        left -= len(found)
    return out, None


def _latest(exchange: Exchange, kind: str, symbol: str, query: Query) -> Wire | None:
    """The newest bar of a minute (of a day where there are none), trade or quote."""
    _checked([symbol])
    _check_feed(exchange, query)
    if symbol not in exchange.replay.symbols:
        return None
    if kind in _KINDS:
        return exchange.known.last_tick(symbol, kind, exchange.now_ns)
    timeframe = Timeframe.DAY_1 if exchange.replay.tape is None else Timeframe.MIN_1
    return _last_bar(exchange, symbol, timeframe)


def _last_bar(exchange: Exchange, symbol: str, timeframe: Timeframe, *, back: int = 1) -> Wire | None:
    now = exchange.now_ns
    found = exchange.known.history(symbol, timeframe, now - BACK_NS, now, now)
    if len(found) < back:
        return None
    return exchange.replay.bars_json(found.slice(len(found) - back, len(found) - back + 1), "raw", now)[0]


def _snapshot(exchange: Exchange, symbol: str, query: Query) -> Wire:
    """What is known of a symbol in one object; the daily bar is the running one while a session with trades is open."""
    if symbol not in exchange.replay.symbols:
        raise Refusal(404, None, f"symbol not found: {symbol}")
    running = exchange.running_day(symbol)
    known = {
        "latestTrade": _latest(exchange, "trades", symbol, query),
        "latestQuote": _latest(exchange, "quotes", symbol, query),
        "minuteBar": None if exchange.replay.tape is None else _last_bar(exchange, symbol, Timeframe.MIN_1),
        "dailyBar": running or _last_bar(exchange, symbol, Timeframe.DAY_1),
        "prevDailyBar": _last_bar(exchange, symbol, Timeframe.DAY_1, back=1 if running else 2),
    }
    return {name: value for name, value in known.items() if value is not None}


def _token(symbol: str, kind: str, at_ns: int, told: int = 0) -> str:
    return base64.b64encode(f"{symbol}|{kind}|{rfc3339(at_ns)}|{told}".encode()).decode()


# -------------------------------------------------------------------------------------------------------------- bars


def _bars(exchange: Exchange, query: Query) -> Wire:
    bars, token = _bar_page(exchange, _asked(query), query)
    return {"bars": bars, "next_page_token": token, "currency": "USD"}


def _bars_of_one(exchange: Exchange, symbol: str, query: Query) -> Wire:
    bars, token = _bar_page(exchange, [symbol], query)
    return {"bars": bars.get(symbol, []), "symbol": symbol, "next_page_token": token, "currency": "USD"}


def _bar_page(exchange: Exchange, symbols: list[str], query: Query) -> tuple[dict[str, list[Wire]], str | None]:
    """Closed bars by symbol, then time, at most `limit` of them over all symbols; and where the next page begins."""
    _checked(symbols)
    timeframe, adjustment = _check_bar_query(exchange, query)
    left = count(query, "limit", 1000, 10_000, data=True)
    backwards = choice(query, "sort", ("asc", "desc"), "asc", data=True) == "desc"
    now = exchange.now_ns
    start, end = _range(exchange, query)
    resume = _read_token(query.get("page_token"))
    bars: dict[str, list[Wire]] = {}
    for symbol in symbols:
        low, high = start, end
        if resume is not None:
            if symbol < resume[0]:
                continue
            if symbol == resume[0]:
                low, high = (low, resume[1]) if backwards else (resume[1], high)
        if symbol not in exchange.replay.symbols:
            continue
        found = exchange.known.history(symbol, timeframe, low, high, now)
        n = len(found)
        if not n:
            continue
        page = found.slice(max(0, n - left), n) if backwards else found.slice(0, left)
        if left:
            rows = exchange.replay.bars_json(page, adjustment, now)
            bars[symbol] = rows[::-1] if backwards else rows
        if n > left:
            following = int(found.start_ns[n - 1 - left if backwards else left])
            return bars, _token(symbol, timeframe.value, following)
        left -= n
    return bars, None


def _check_bar_query(exchange: Exchange, query: Query) -> tuple[Timeframe, str]:
    """The timeframe and adjustment asked for, once everything else about the series is known to be served."""
    text = query.get("timeframe", "")
    if not _TIMEFRAME.fullmatch(text) or text[0] == "0":
        raise Refusal(400, None, f"invalid timeframe: {text}")
    served = {**_DAILY, **(_WITHIN_DAYS if exchange.replay.tape is not None else {})}
    timeframe = served.get(text)
    if timeframe is None:
        raise Refusal(422, None, f"timeframe {text} is not served by this exchange; it has {', '.join(served)} bars")
    _check_feed(exchange, query)
    if query.get("asof", "-") != "-":
        instant(query, "asof", data=True)
    asked = set(query.get("adjustment", "raw").split(","))
    if "spin-off" in asked:
        raise Refusal(422, None, "adjustment spin-off is not served by this exchange")
    if not asked <= ADJUSTMENTS:
        raise Refusal(400, None, f"invalid adjustment: {query['adjustment']}")
    if "all" in asked or asked >= {"split", "dividend"}:
        return timeframe, "all"
    return timeframe, next(iter(asked - {"raw"}), "raw")


def _read_token(token: str | None) -> tuple[str, int, int] | None:
    if not token:
        return None
    try:
        symbol, _, at, told = base64.b64decode(token, validate=True).decode().split("|")
        return symbol, parse_instant(at), max(0, int(told))
    except ValueError:
        raise Refusal(400, None, "invalid page_token") from None


def _corporate_actions(exchange: Exchange, query: Query) -> Wire:
    """Splits and cash dividends announced by now: those whose ex-date is no later than the next session.

    The process date is the ex-date; CUSIPs are empty, because the replayed data have none.
    """
    types = names(query, "types")
    if not types <= _CORPORATE_TYPES:
        raise Refusal(400, None, f"invalid types: {query['types']}")
    symbols, ids = names(query, "symbols"), names(query, "ids")
    limit = count(query, "limit", 100, 1000, data=True)
    backwards = choice(query, "sort", ("asc", "desc"), "asc", data=True) == "desc"
    today = new_york_date(exchange.now_ns)
    announced = exchange.replay.calendar.next_session(exchange.now_ns).date
    days = [instant(query, name, data=True) for name in ("start", "end")]
    start, end = (today if ns is None else new_york_date(ns) for ns in days)
    if ids:
        start, end = date.min, date.max
    found = [
        _corporate_action(exchange, action, kind)
        for symbol in exchange.replay.symbols
        if not symbols or symbol in symbols
        for action in exchange.replay.actions[symbol]
        if start <= action.ex_date <= min(end, announced)
        for kind in _kinds(action)
        if not types or kind in types
    ]
    found = [entry for entry in found if not ids or entry[1]["id"] in ids]
    found.sort(key=lambda entry: (entry[1]["process_date"], entry[1]["symbol"], entry[0]), reverse=backwards)
    first = 0
    if token := query.get("page_token"):
        position = next((i for i, entry in enumerate(found) if entry[1]["id"] == token), None)
        if position is None:
            raise Refusal(400, None, "invalid page_token")
        first = position
    grouped: dict[str, list[Wire]] = {}
    for kind, entry in found[first : first + limit]:
        grouped.setdefault(kind + "s", []).append(entry)
    following = found[first + limit : first + limit + 1]
    return {"corporate_actions": grouped, "next_page_token": following[0][1]["id"] if following else None}


def _kinds(action: CorporateAction) -> Iterable[str]:
    if action.ratio != 1.0:
        yield "forward_split" if action.ratio > 1 else "reverse_split"
    if action.cash_usd:
        yield "cash_dividend"


def _corporate_action(exchange: Exchange, action: CorporateAction, kind: str) -> tuple[str, Wire]:
    day = action.ex_date.isoformat()
    entry: Wire = {
        "id": asset_id(f"{kind}:{action.symbol}:{day}"),
        "symbol": action.symbol,
        "process_date": day,
        "ex_date": day,
    }
    if kind == "cash_dividend":
        return kind, entry | {"cusip": "", "rate": action.cash_usd, "special": False, "foreign": False}
    exact = Fraction(action.ratio).limit_denominator(1000)
    entry |= {"new_rate": exact.numerator, "old_rate": exact.denominator}
    return kind, entry | ({"cusip": ""} if kind == "forward_split" else {"old_cusip": "", "new_cusip": ""})
