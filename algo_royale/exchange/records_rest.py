"""What an account keeps beside its orders: portfolio history, watchlists, and its own settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from algo_royale.exchange.query import Query, body_object, choice, instant
from algo_royale.exchange.wire import BAD_FIELD, SECOND_NS, UNKNOWN, Refusal, Wire, asset_id, rfc3339
from algo_royale.sessions import new_york_date, new_york_ns

if TYPE_CHECKING:
    from algo_royale.exchange.core import Exchange

Answer = tuple[int, Any]
_PERIOD = re.compile(r"(\d{1,3})([DWMA])", re.ASCII)
_DAYS = {"D": 1, "W": 7, "M": 30, "A": 365}
_MINUTES = {"1Min": 1, "5Min": 5, "15Min": 15, "1H": 60, "1D": 0}
CONFIGURATIONS: Wire = {
    "dtbp_check": "entry", "fractional_trading": True, "max_margin_multiplier": "4", "max_options_trading_level": 0,
    "no_shorting": False, "pdt_check": "entry", "ptp_no_exception_entry": False, "suspend_trade": False,
    "trade_confirm_email": "all",
}  # fmt: skip
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "dtbp_check": ("both", "entry", "exit"), "fractional_trading": (True, False), "max_margin_multiplier": ("1", "2", "4"),
    "max_options_trading_level": (0, 1, 2, 3), "no_shorting": (True, False), "pdt_check": ("both", "entry", "exit"),
    "ptp_no_exception_entry": (True, False), "suspend_trade": (True, False), "trade_confirm_email": ("all", "none"),
}  # fmt: skip


def serve(
    exchange: Exchange, method: str, path: str, query: Query, body: bytes, asset: Callable[[str], Wire]
) -> Answer | None:
    """The answer to a request of these, None for any other path. `asset` spells an asset. Raises Refusal."""
    if path == "/v2/account/portfolio/history" and method == "GET":
        return 200, portfolio_history(exchange, query)
    if path == "/v2/account/configurations" and method in ("GET", "PATCH"):
        if method == "PATCH":
            _configure(exchange, body_object(body))
        return 200, dict(exchange.configurations)
    if path == "/v2/watchlists" or path.startswith(("/v2/watchlists/", "/v2/watchlists:by_name")):
        return _watchlists(exchange, method, path, query, body, asset)
    return None


# --------------------------------------------------------------------------------------------------------- settings


def _configure(exchange: Exchange, changes: Wire) -> None:
    for name, value in changes.items():
        if name not in _ALLOWED:
            raise Refusal(422, BAD_FIELD, f"unknown field: {name}")
        if not any(value == allowed and type(value) is type(allowed) for allowed in _ALLOWED[name]):
            raise Refusal(422, BAD_FIELD, f"invalid {name}: {value}")
    exchange.configurations.update(changes)


# -------------------------------------------------------------------------------------------------------- watchlists


def _watchlists(
    exchange: Exchange, method: str, path: str, query: Query, body: bytes, asset: Callable[[str], Wire]
) -> Answer:
    lists = exchange.watchlists
    if path == "/v2/watchlists":
        if method == "GET":
            return 200, [
                {k: v for k, v in _shown(exchange, found, asset).items() if k != "assets"} for found in lists.values()
            ]
        if method == "POST":
            return 200, _shown(exchange, _create(exchange, body_object(body)), asset)
        raise Refusal(404, None, "endpoint not found.")
    if path == "/v2/watchlists:by_name":
        wanted = [found["id"] for found in lists.values() if found["name"] == query.get("name")]
        tail = [wanted[0]] if wanted else [""]
    else:
        tail = path.removeprefix("/v2/watchlists/").split("/")
    found = lists.get(tail[0])
    if found is None or len(tail) > 2:
        raise Refusal(404, UNKNOWN, f"watchlist not found for {tail[0] or query.get('name', '')}")
    if method == "DELETE":
        if len(tail) == 2:
            if tail[1] not in found["symbols"]:
                raise Refusal(404, UNKNOWN, f"asset not found for {tail[1]}")
            found["symbols"].remove(tail[1])
            return 200, _shown(exchange, _touched(exchange, found), asset)
        del lists[found["id"]]
        return 204, None
    if method == "GET" and len(tail) == 1:
        return 200, _shown(exchange, found, asset)
    if method in ("PUT", "POST") and len(tail) == 1:
        fields = body_object(body)
        if method == "PUT":
            found |= _fields(exchange, fields, found)
        else:
            symbol = _known(exchange, fields.get("symbol"))
            found["symbols"] = list(dict.fromkeys([*found["symbols"], symbol]))
        return 200, _shown(exchange, _touched(exchange, found), asset)
    raise Refusal(404, None, "endpoint not found.")


def _create(exchange: Exchange, fields: Wire) -> Wire:
    made = _fields(exchange, fields, {"name": None, "symbols": []})
    if not made["name"]:
        raise Refusal(422, BAD_FIELD, "name is required")
    identity = exchange.ids.uuid("watchlist")
    at = rfc3339(exchange.now_ns // 1000 * 1000)
    found = exchange.watchlists[identity] = {"id": identity, "created_at": at, "updated_at": at, **made}
    return found


def _fields(exchange: Exchange, fields: Wire, old: Wire) -> Wire:
    name, symbols = fields.get("name") or old["name"], fields.get("symbols")
    if name is not None and (not isinstance(name, str) or len(name) > 64):
        raise Refusal(422, BAD_FIELD, "name must be a string of at most 64 characters")
    if any(each["name"] == name and each["name"] != old["name"] for each in exchange.watchlists.values()):
        raise Refusal(422, BAD_FIELD, "watchlist name must be unique")
    if symbols is None:
        symbols = old["symbols"]
    if not isinstance(symbols, list):
        raise Refusal(422, BAD_FIELD, "symbols must be a list")
    return {"name": name, "symbols": list(dict.fromkeys(_known(exchange, symbol) for symbol in symbols))}


def _known(exchange: Exchange, symbol: object) -> str:
    if symbol not in exchange.replay.symbols:
        raise Refusal(422, BAD_FIELD, f"asset not found for {symbol}")
    return str(symbol)


def _touched(exchange: Exchange, found: Wire) -> Wire:
    found["updated_at"] = rfc3339(exchange.now_ns // 1000 * 1000)
    return found


def _shown(exchange: Exchange, found: Wire, asset: Callable[[str], Wire]) -> Wire:
    kept = {name: value for name, value in found.items() if name != "symbols"}
    assets = [asset(asset_id(symbol)) for symbol in found["symbols"]]
    return {**kept, "account_id": exchange.ids.fixed("account"), "assets": assets}


# ------------------------------------------------------------------------------------------------- portfolio history


def portfolio_history(exchange: Exchange, query: Query) -> Wire:
    """Equity over time: at each close, or at minutes of regular sessions where a tape is replayed.

    Profit and loss count from the equity before the first point; within a day they begin anew each session unless
    `pnl_reset` is no_reset.
    """
    span_days = _period(query)
    timeframe = query.get("timeframe") or ("1Min" if span_days < 7 else "15Min" if span_days < 30 else "1D")
    if timeframe not in _MINUTES:
        raise Refusal(422, BAD_FIELD, f"invalid timeframe: {timeframe}")
    if timeframe != "1D" and span_days > 30:
        raise Refusal(422, BAD_FIELD, "only 1D timeframe is allowed for periods of more than 30 days")
    choice(query, "intraday_reporting", ("market_hours", "extended_hours", "continuous"), "market_hours")
    resets = choice(query, "pnl_reset", ("per_day", "no_reset"), "per_day") == "per_day" and timeframe != "1D"
    given_start, given_end = instant(query, "start"), instant(query, "end") or instant(query, "date_end")
    end = exchange.now_ns if given_end is None else given_end
    first_day = new_york_date(end) - timedelta(days=span_days)
    start = new_york_ns(first_day) if given_start is None else given_start
    step_ns = _MINUTES[timeframe] * 60 * SECOND_NS
    samples = exchange.daily_equity if timeframe == "1D" else exchange.minute_equity
    before = [equity for at, equity in exchange.daily_equity if at < start]
    base = before[-1] if before else exchange.config.cash
    points = [(at, equity) for at, equity in samples if start <= at <= end and (not step_ns or at % step_ns == 0)]
    profit, from_base, today = [], base, None
    for at, equity in points:
        day = new_york_date(at)
        if resets and day != today:
            from_base, today = _equity_before(exchange, day, base), day
        profit.append((equity - from_base, from_base))
    return {
        "timestamp": [at // SECOND_NS for at, _ in points],
        "equity": [float(equity) for _, equity in points],
        "profit_loss": [float(gained) for gained, _ in profit],
        "profit_loss_pct": [float(gained / of) if of else None for gained, of in profit],
        "base_value": float(base),
        "base_value_asof": exchange.replay.calendar.previous_session(start).date.isoformat(),
        "timeframe": timeframe,
        "cashflow": {},
    }


def _equity_before(exchange: Exchange, day: date, base: Decimal) -> Decimal:
    earlier = [equity for at, equity in exchange.daily_equity if new_york_date(at) < day]
    return earlier[-1] if earlier else base


def _period(query: Query) -> int:
    found = _PERIOD.fullmatch(query.get("period") or "1M")
    if found is None or not int(found[1]):
        raise Refusal(422, BAD_FIELD, f"invalid period: {query.get('period')}")
    if all(query.get(name) for name in ("start", "end", "period")):
        raise Refusal(422, BAD_FIELD, "only two of start, end and period can be specified at the same time")
    return int(found[1]) * _DAYS[found[2]]
