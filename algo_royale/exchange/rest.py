"""The REST surface: which request means what, and Alpaca's answer or refusal in Alpaca's own words.

What Alpaca knows and this exchange does not serve is refused with 422 and a sentence that says so, never answered wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from algo_royale.exchange import market_rest, records_rest
from algo_royale.exchange.matching import NINE_PLACES, increment
from algo_royale.exchange.query import Query, body_object, choice, count, flag, instant, names
from algo_royale.exchange.wire import (
    BAD_FIELD,
    NOT_ALLOWED,
    TOO_MANY,
    UNKNOWN,
    Leg,
    Order,
    OrderRequest,
    Refusal,
    Response,
    Wire,
    asset_id,
    authorized,
    money,
    new_york,
    order_json,
    plain,
    ratio,
    rfc3339,
)
from algo_royale.sessions import new_york_date

if TYPE_CHECKING:
    from algo_royale.exchange.core import Exchange

Answer = tuple[int, Any]

_ZERO, _HALF = Decimal(0), Decimal("0.5")
_TYPES = ("market", "limit", "stop", "stop_limit", "trailing_stop")
_TIMES = ("day", "gtc", "opg", "cls", "ioc", "fok")
_CLASSES = ("simple", "bracket", "oco", "oto", "mleg")
_QTY_MAX, _PRICE_MAX = Decimal(10) ** 9, Decimal(10) ** 7
_CALENDAR = (date(1998, 1, 2), date(2035, 12, 31))


def handle(
    exchange: Exchange, method: str, path: str, query: Query, body: bytes, headers: Mapping[str, str]
) -> Response:
    """Answer one request; see `Exchange.handle`."""
    if not authorized(headers, exchange.config.keys):
        of_data = path.startswith(("/v2/stocks/", "/v1/"))
        return Response(403, {"message": "forbidden."}) if of_data else Response(401, {"message": "unauthorized."})
    limits = exchange.count_request()
    if limits is not None and limits["X-RateLimit-Remaining"] == "-1":
        limits["X-RateLimit-Remaining"] = "0"
        return Response(429, {"code": TOO_MANY, "message": "rate limit exceeded"}, limits)
    try:
        status, answer = _route(exchange, method, path, query, body)
    except Refusal as refusal:
        return Response(refusal.status, refusal.body, limits or {})
    return Response(status, answer, limits or {})


def _route(exchange: Exchange, method: str, path: str, query: Query, body: bytes) -> Answer:
    if method == "POST" and path == "/v2/orders":
        return 200, exchange.submit(order_request(exchange, body))
    found = records_rest.serve(exchange, method, path, query, body, lambda which: _asset(exchange, which, {}))
    if found is not None:
        return found
    if method == "PATCH" and (tail := _tail(path, "/v2/orders/")):
        return 200, exchange.replace(_order(exchange, tail), _changes(body))
    if method == "DELETE":
        if path == "/v2/orders":
            return _cancel_all(exchange)
        if tail := _tail(path, "/v2/orders/"):
            exchange.cancel(_order(exchange, tail))
            return 204, None
        if path == "/v2/positions":
            return _close_all(exchange, query)
        if tail := _tail(path, "/v2/positions/"):
            return 200, _close_position(exchange, _holding(exchange, tail), query)
    if method == "GET":
        if (serve := _EXACT.get(path)) is not None:
            return 200, serve(exchange, query)
        for prefix, serve_one in _PREFIXED:
            if tail := _tail(path, prefix):
                return 200, serve_one(exchange, tail, query)
        if (answer := market_rest.serve(exchange, path, query)) is not None:
            return 200, answer
    raise Refusal(404, None, "endpoint not found.")


def _tail(path: str, prefix: str) -> str:
    """The one path segment after `prefix`, or nothing."""
    tail = path.removeprefix(prefix)
    return tail if path.startswith(prefix) and "/" not in tail else ""


# ------------------------------------------------------------------------------------------------------ order entry


def order_request(exchange: Exchange, body: bytes) -> OrderRequest:
    """The body of POST /v2/orders as a request that needs no more looking at its form. Raises Refusal."""
    fields = {name: value for name, value in body_object(body).items() if value is not None}
    symbol = _text(fields, "symbol")
    side = _one_of(fields, "side", ("buy", "sell"))
    kind = _one_of(fields, "type", _TYPES)
    time_in_force = _one_of(fields, "time_in_force", _TIMES)
    if fields.get("order_class") == "":
        del fields["order_class"]
    order_class = _one_of({"order_class": "simple", **fields}, "order_class", _CLASSES)
    qty, notional = _number(fields, "qty", _QTY_MAX), _number(fields, "notional", _QTY_MAX)
    prices = {
        name: _number(fields, name, _PRICE_MAX)
        for name in ("limit_price", "stop_price", "trail_price", "trail_percent")
    }
    _check_form(kind, qty, notional, prices)
    client_order_id = fields.get("client_order_id")
    if client_order_id is not None and not isinstance(client_order_id, str):
        raise Refusal(422, BAD_FIELD, "client_order_id must be a string")
    if client_order_id is not None and len(client_order_id) > 128:
        raise Refusal(422, BAD_FIELD, "client_order_id must be no more than 128 characters")
    if client_order_id and client_order_id in exchange.by_client_id:
        raise Refusal(422, BAD_FIELD, "client_order_id must be unique")
    if symbol not in exchange.named:
        raise Refusal(422, NOT_ALLOWED, f'asset "{symbol}" not found')
    extended = fields.get("extended_hours", False)
    if not isinstance(extended, bool):
        raise Refusal(422, BAD_FIELD, "extended_hours must be a boolean")
    _check_rules(kind, time_in_force, order_class, qty, notional, extended)
    for name in ("limit_price", "stop_price"):
        _check_increment(name, prices[name])
    legs = _legs(fields, kind, order_class, time_in_force, prices["limit_price"])
    request = OrderRequest(
        symbol=exchange.named[symbol], side=side, type=kind, qty=qty, notional=notional, time_in_force=time_in_force,
        order_class=order_class, extended_hours=extended, client_order_id=client_order_id or None, legs=legs, **prices,
    )  # fmt: skip
    _check_intent(exchange, fields, request)
    return request


def _legs(fields: Wire, kind: str, order_class: str, time_in_force: str, limit: Decimal | None) -> tuple[Leg, ...]:
    """The exits of a complex order, take profit first. An oco order's own price may come as its take profit."""
    given = {name: fields.get(name) for name in ("take_profit", "stop_loss")}
    if order_class == "simple":
        if any(given.values()):
            raise Refusal(422, BAD_FIELD, "take_profit and stop_loss need order_class bracket, oco or oto")
        return ()
    if order_class == "mleg":
        raise Refusal(422, NOT_ALLOWED, "mleg orders are not served by this exchange")
    legs = {name: _leg(name, value) for name, value in given.items() if value is not None}
    if order_class == "oco" and "take_profit" not in legs and limit is not None:
        legs["take_profit"] = Leg(limit_price=limit)
    if order_class in ("bracket", "oco") and len(legs) < 2:
        raise Refusal(422, BAD_FIELD, f"{order_class} orders require take_profit and stop_loss")
    if order_class == "oto" and len(legs) != 1:
        raise Refusal(422, BAD_FIELD, "oto orders require one of take_profit and stop_loss")
    if order_class == "oco" and (kind != "limit" or legs["take_profit"].limit_price != limit):
        raise Refusal(422, BAD_FIELD, "oco orders must be limit orders at their take_profit")
    _check_class(order_class, time_in_force)
    if kind == "trailing_stop":
        raise Refusal(422, NOT_ALLOWED, "trailing stop orders must be simple orders")
    return tuple(legs[name] for name in ("take_profit", "stop_loss") if name in legs)


def _leg(name: str, value: object) -> Leg:
    if not isinstance(value, dict):
        raise Refusal(422, BAD_FIELD, f"{name} must be an object")
    prices = {key: _number(value, key, _PRICE_MAX) for key in ("limit_price", "stop_price")}
    needed = "limit_price" if name == "take_profit" else "stop_price"
    if prices[needed] is None:
        raise Refusal(422, BAD_FIELD, f"{name}.{needed} is required")
    if name == "take_profit" and prices["stop_price"] is not None:
        raise Refusal(422, BAD_FIELD, "take_profit.stop_price is not accepted")
    for key, price in prices.items():
        _check_increment(f"{name}.{key}", price)
    return Leg(**prices)


def _text(fields: Wire, name: str) -> str:
    value = fields.get(name)
    if value is None or value == "":
        raise Refusal(422, BAD_FIELD, f"{name} is required")
    if not isinstance(value, str):
        raise Refusal(422, BAD_FIELD, f"{name} must be a string")
    return value


def _one_of(fields: Wire, name: str, allowed: Iterable[str]) -> str:
    value = _text(fields, name)
    if value not in allowed:
        raise Refusal(422, BAD_FIELD, f"invalid {name}: {value}")
    return value


def _number(fields: Wire, name: str, most: Decimal) -> Decimal | None:
    """A JSON number or string as a positive Decimal of at most nine places."""
    value = fields.get(name)
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | str)
        or (isinstance(value, str) and len(value) > 40)
    ):
        raise Refusal(422, BAD_FIELD, f"{name} must be a number")
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise Refusal(422, BAD_FIELD, f"{name} must be a number") from None
    if not number.is_finite():
        raise Refusal(422, BAD_FIELD, f"{name} must be a number")
    if number <= 0:
        raise Refusal(422, BAD_FIELD, f"{name} must be > 0")
    if number > most:
        raise Refusal(422, BAD_FIELD, f"{name} must be <= {most}")
    exponent = number.normalize().as_tuple().exponent
    if isinstance(exponent, int) and exponent < -9:
        raise Refusal(422, BAD_FIELD, f"{name} is limited to 9 decimal places")
    return number


def _check_form(kind: str, qty: Decimal | None, notional: Decimal | None, prices: Mapping[str, Decimal | None]) -> None:
    """Fields that belong together, as code 40010001."""
    limit, stop = prices["limit_price"], prices["stop_price"]
    wrong = ""
    if qty is None and notional is None:
        wrong = "qty or notional is required"
    elif qty is not None and notional is not None:
        wrong = "only one of qty or notional is accepted"
    elif kind == "market" and (limit is not None or stop is not None):
        wrong = "market orders require no stop or limit price"
    elif kind == "limit" and limit is None:
        wrong = "limit orders require a limit price"
    elif kind == "limit" and stop is not None:
        wrong = "limit orders require no stop price"
    elif kind == "stop" and stop is None:
        wrong = "stop orders require a stop price"
    elif kind == "stop_limit" and (stop is None or limit is None):
        wrong = "stop limit orders require both stop and limit price"
    elif kind == "stop" and limit is not None:
        wrong = "stop orders require no limit price"
    elif kind == "trailing_stop" and (prices["trail_price"] is None) == (prices["trail_percent"] is None):
        wrong = "trailing stop orders must specify one of trail_price or trail_percent"
    elif kind == "trailing_stop" and (limit is not None or stop is not None):
        wrong = "trailing stop orders require no stop or limit price"
    elif kind != "trailing_stop" and (prices["trail_price"] or prices["trail_percent"]) is not None:
        wrong = "trail_price and trail_percent are for trailing stop orders only"
    if wrong:
        raise Refusal(422, BAD_FIELD, wrong)


def _check_rules(
    kind: str, time_in_force: str, order_class: str, qty: Decimal | None, notional: Decimal | None, extended: bool
) -> None:
    """Alpaca's rules of business, as code 42210000."""
    fractional = notional is not None or (qty is not None and qty != qty.to_integral_value())
    wrong = ""
    if extended and (kind != "limit" or time_in_force != "day" or order_class != "simple"):
        wrong = "extended hours order must be DAY limit orders"
    elif time_in_force in ("ioc", "fok", "opg", "cls") and kind not in ("market", "limit"):
        wrong = f"{time_in_force} orders must be market or limit orders"
    elif kind == "trailing_stop" and time_in_force not in ("day", "gtc"):
        wrong = "trailing stop orders must be DAY or GTC orders"
    elif fractional and time_in_force != "day":
        wrong = "fractional orders must be DAY orders"
    elif fractional and order_class != "simple":
        wrong = "fractional orders must be simple orders"
    elif fractional and kind == "trailing_stop":
        wrong = "fractional orders must be market, limit, stop, or stop_limit orders"
    elif notional is not None and notional < 1:
        wrong = "notional amount must be >= 1.00"
    if wrong:
        raise Refusal(422, NOT_ALLOWED, wrong)


def check_request(request: OrderRequest) -> None:
    """Whether an order may be what `request` says, for one that takes the place of another. Raises Refusal."""
    names = ("limit_price", "stop_price", "trail_price", "trail_percent")
    _check_form(request.type, request.qty, request.notional, {name: getattr(request, name) for name in names})
    _check_rules(
        request.type, request.time_in_force, request.order_class, request.qty, request.notional, request.extended_hours
    )
    _check_class(request.order_class, request.time_in_force)


def _check_class(order_class: str, time_in_force: str) -> None:
    if order_class != "simple" and time_in_force not in ("day", "gtc"):
        raise Refusal(422, NOT_ALLOWED, f"{order_class} orders must be DAY or GTC orders")


def _check_increment(name: str, price: Decimal | None) -> None:
    if price is not None and price % increment(price):
        text = f"invalid {name} {plain(price)}. sub-penny increment does not fulfill minimum pricing criteria"
        raise Refusal(422, NOT_ALLOWED, text)


def _check_intent(exchange: Exchange, fields: Wire, request: OrderRequest) -> None:
    """What the client says the order does must be what it would do."""
    intent = fields.get("position_intent")
    held = exchange.account.quantity(request.symbol)
    closes = held < 0 if request.side == "buy" else held > 0
    if intent is None or intent == f"{request.side}_to_{'close' if closes else 'open'}":
        return
    if intent == "sell_to_open" and request.side == "sell" and not exchange.config.shorting:
        raise Refusal(422, NOT_ALLOWED, f'asset "{request.symbol}" cannot be sold short')
    if intent == "sell_to_close" and request.side == "sell" and held == 0:
        return  # refused for what is missing
    raise Refusal(422, BAD_FIELD, f"invalid position_intent: {intent}")


# ----------------------------------------------------------------------------------------------------------- orders


def _order(exchange: Exchange, order_id: str) -> Order:
    order = exchange.by_id.get(order_id.lower())
    if order is None:
        raise Refusal(404, UNKNOWN, f"order not found for {order_id}")
    return order


def _cancel_all(exchange: Exchange) -> Answer:
    attempts = list(exchange.open_orders.values())
    for order in attempts:
        exchange.cancel(order)
    return 207, [{"id": order.id, "status": 200} for order in attempts]


def _changes(body: bytes) -> Wire:
    """The body of PATCH /v2/orders/{id}; fields that are absent or null keep what the order has."""
    fields = body_object(body)
    changes: Wire = {
        name: _number(fields, name, _QTY_MAX if name == "qty" else _PRICE_MAX)
        for name in ("qty", "limit_price", "stop_price", "trail")
    }
    for name in ("limit_price", "stop_price"):
        _check_increment(name, changes[name])
    if fields.get("time_in_force") is not None:
        changes["time_in_force"] = _one_of(fields, "time_in_force", _TIMES)
    if fields.get("client_order_id"):
        changes["client_order_id"] = _text(fields, "client_order_id")
        if len(changes["client_order_id"]) > 128:
            raise Refusal(422, BAD_FIELD, "client_order_id must be no more than 128 characters")
    return changes


def _close_all(exchange: Exchange, query: Query) -> Answer:
    if query.get("cancel_orders", "").lower() == "true":
        _cancel_all(exchange)
    closed = []
    for symbol in sorted(exchange.account.positions):
        try:
            status, answer = 200, _close_position(exchange, symbol, {})
        except Refusal as refusal:
            status, answer = refusal.status, refusal.body
        closed.append({"symbol": symbol, "status": status, "body": answer})
    return 207, closed


def _close_position(exchange: Exchange, symbol: str, query: Query) -> Wire:
    """A market order against the position: all of it, `qty` shares or `percentage` per cent."""
    held = exchange.account.quantity(symbol)
    qty, share = _number(dict(query), "qty", _QTY_MAX), _number(dict(query), "percentage", Decimal(100))
    if qty is not None and share is not None:
        raise Refusal(422, BAD_FIELD, "only one of qty or percentage is accepted")
    if share is not None:
        qty = (abs(held) * share / 100).quantize(NINE_PLACES, ROUND_DOWN)
        if qty == 0:
            raise Refusal(422, BAD_FIELD, "qty must be > 0")
    side = "sell" if held > 0 else "buy"
    return exchange.submit(OrderRequest(symbol=symbol, side=side, type="market", qty=abs(held) if qty is None else qty))


def _order_by_id(exchange: Exchange, order_id: str, query: Query) -> Wire:
    return order_json(_order(exchange, order_id), nested=flag(query, "nested"))


def _order_by_client_id(exchange: Exchange, query: Query) -> Wire:
    wanted = query.get("client_order_id", "")
    if not wanted:
        raise Refusal(422, BAD_FIELD, "client_order_id is required")
    order = exchange.by_client_id.get(wanted)
    if order is None:
        raise Refusal(404, UNKNOWN, f"order not found for {wanted}")
    return order_json(order)


def _orders(exchange: Exchange, query: Query) -> list[Wire]:
    status = choice(query, "status", ("open", "closed", "all"), "open")
    direction = choice(query, "direction", ("asc", "desc"), "desc")
    limit = count(query, "limit", 50, 500)
    after, until = instant(query, "after"), instant(query, "until")
    symbols, side = names(query, "symbols"), query.get("side")
    if side and side not in ("buy", "sell"):
        raise Refusal(422, BAD_FIELD, f"invalid side: {side}")
    classes = names(query, "asset_class")
    after_order, before_order = query.get("after_order_id"), query.get("before_order_id")
    if after_order and before_order:
        raise Refusal(422, BAD_FIELD, "only one of before_order_id or after_order_id is accepted")
    if after_order:
        after = max(after or 0, _order(exchange, after_order).submitted_ns)
    if before_order:
        until = _order(exchange, before_order).submitted_ns
    pool = exchange.open_orders.values() if status == "open" else exchange.orders
    chosen = [
        order
        for order in pool
        if not (status == "closed" and order.is_open)
        and (after is None or order.submitted_ns > after)
        and (until is None or order.submitted_ns < until)
        and (not symbols or order.symbol in symbols)
        and (not side or order.side == side)
        and (not classes or classes & {"us_equity", "all"})
    ]
    nested = flag(query, "nested")
    chosen = [order for order in chosen if not (nested and order.parent is not None)]
    chosen.sort(key=lambda order: order.submitted_ns, reverse=direction == "desc")
    return [order_json(order, nested=nested) for order in chosen[:limit]]


# ---------------------------------------------------------------------------------------------------------- account


def _account(exchange: Exchange, query: Query) -> Wire:
    figures, cash = exchange.figures(), exchange.account.cash
    equity, value = figures.equity, figures.long_value - figures.short_value
    excess = max(_ZERO, equity - _HALF * value - figures.reserved)  # Regulation T: half of what is held
    overnight = max(_ZERO, 2 * (equity - _HALF * value) - figures.reserved)
    return {
        "id": exchange.ids.fixed("account"),
        "admin_configurations": {},
        "user_configurations": None,
        "account_number": f"PA{exchange.ids.fixed('account').replace('-', '')[:10].upper()}",
        "status": "ACTIVE",
        "crypto_status": "ACTIVE",
        "options_approved_level": 0,
        "options_trading_level": 0,
        "currency": "USD",
        "buying_power": money(figures.buying_power),
        "regt_buying_power": money(overnight),
        "effective_buying_power": money(figures.buying_power),
        "non_marginable_buying_power": money(excess),
        "options_buying_power": money(excess),
        "cash": money(cash),
        "accrued_fees": "0",
        "portfolio_value": money(equity),
        "trading_blocked": False,
        "transfers_blocked": False,
        "account_blocked": False,
        "created_at": rfc3339(exchange.config.start_ns // 1000 * 1000),
        "trade_suspended_by_user": False,
        "multiplier": str(exchange.config.multiplier),
        "shorting_enabled": exchange.config.shorting,
        "equity": money(equity),
        "last_equity": money(exchange.last_equity),
        "long_market_value": money(figures.long_value),
        "short_market_value": money(figures.short_value),
        "position_market_value": money(value),
        "initial_margin": money(_HALF * value),
        "maintenance_margin": money(Decimal("0.3") * value),
        "last_maintenance_margin": money(Decimal("0.3") * exchange.last_long_value),
        "sma": money(excess),
        "balance_asof": exchange.balance_date.isoformat(),
        "crypto_tier": 0,
        "intraday_adjustments": "0",
        "pending_reg_taf_fees": "0",
    }


def _positions(exchange: Exchange, query: Query) -> list[Wire]:
    return [_position_json(exchange, symbol) for symbol in sorted(exchange.account.positions)]


def _position(exchange: Exchange, which: str, query: Query) -> Wire:
    return _position_json(exchange, _holding(exchange, which))


def _holding(exchange: Exchange, which: str) -> str:
    """The symbol of a position, named by it or by its asset."""
    symbol = exchange.named.get(which)
    if symbol is None or symbol not in exchange.account.positions:
        raise Refusal(404, UNKNOWN, "position does not exist")
    return symbol


def _position_json(exchange: Exchange, symbol: str) -> Wire:
    held = exchange.account.positions[symbol]
    price, lastday = exchange.marks[symbol], exchange.lastday.get(symbol, exchange.marks[symbol])
    value, cost = held.quantity * price, held.quantity * held.average_cost_usd
    basis, sign = exchange.intraday_basis[symbol], 1 if held.quantity > 0 else -1
    free = abs(held.quantity) - exchange.held(symbol)
    return {
        "asset_id": asset_id(symbol),
        "symbol": symbol,
        "exchange": _listing(exchange, symbol),
        "asset_class": "us_equity",
        "asset_marginable": True,
        "qty": plain(held.quantity),
        "qty_available": plain(sign * free),
        "avg_entry_price": money(held.average_cost_usd),
        "side": "long" if sign > 0 else "short",
        "market_value": money(value),
        "cost_basis": money(cost),
        "unrealized_pl": money(value - cost),
        "unrealized_plpc": ratio((value - cost) / abs(cost)),
        "unrealized_intraday_pl": money(value - basis),
        "unrealized_intraday_plpc": ratio((value - basis) / abs(basis)),
        "current_price": money(price),
        "lastday_price": money(lastday),
        "change_today": ratio(price / lastday - 1),
    }


def _activities(exchange: Exchange, query: Query) -> list[Wire]:
    kinds = names(query, "activity_types")
    category = query.get("category")
    if kinds and category:
        raise Refusal(422, BAD_FIELD, "only one of activity_types or category is accepted")
    if category and category not in ("trade_activity", "non_trade_activity"):
        raise Refusal(422, BAD_FIELD, f"invalid category: {category}")
    direction = choice(query, "direction", ("asc", "desc"), "desc")
    size = count(query, "page_size", 100, 100)
    after, until, order_id = instant(query, "after"), instant(query, "until"), query.get("order_id")
    day = instant(query, "date")
    chosen = [
        activity
        for at_ns, activity in exchange.activities
        if (not kinds or activity["activity_type"] in kinds)
        and (not category or (activity["activity_type"] == "FILL") == (category == "trade_activity"))
        and (after is None or at_ns > after)
        and (until is None or at_ns < until)
        and (day is None or new_york_date(at_ns) == new_york_date(day))
        and (not order_id or activity.get("order_id") == order_id)
    ]
    if direction == "desc":
        chosen.reverse()
    if token := query.get("page_token"):
        start = next((i + 1 for i, activity in enumerate(chosen) if activity["id"] == token), None)
        if start is None:
            raise Refusal(422, BAD_FIELD, "invalid page_token")
        chosen = chosen[start:]
    return chosen[:size]


def _activities_of_kind(exchange: Exchange, kind: str, query: Query) -> list[Wire]:
    return _activities(exchange, {**query, "activity_types": kind})


# --------------------------------------------------------------------------------------------- assets and calendar


def _listing(exchange: Exchange, symbol: str) -> str:
    return "NYSE" if symbol in exchange.config.nyse_listed else "NASDAQ"


def _asset_json(exchange: Exchange, symbol: str) -> Wire:
    return {
        "id": asset_id(symbol),
        "class": "us_equity",
        "exchange": _listing(exchange, symbol),
        "symbol": symbol,
        "name": f"{symbol} Common Stock",
        "status": "active",
        "tradable": symbol in exchange.marks,
        "marginable": True,
        "maintenance_margin_requirement": 30,
        "margin_requirement_long": "30",
        "margin_requirement_short": "100",
        "shortable": exchange.config.shorting,
        "easy_to_borrow": exchange.config.shorting,
        "borrow_status": "easy_to_borrow" if exchange.config.shorting else "hard_to_borrow",
        "fractionable": symbol not in exchange.config.whole_shares,
        "attributes": [],
    }


def _assets(exchange: Exchange, query: Query) -> list[Wire]:
    if query.get("status", "active") != "active" or query.get("asset_class", "us_equity") != "us_equity":
        return []
    if query.get("attributes"):
        return []
    listed = [_asset_json(exchange, symbol) for symbol in exchange.replay.symbols]
    wanted = query.get("exchange")
    return [asset for asset in listed if not wanted or asset["exchange"] == wanted]


def _asset(exchange: Exchange, which: str, query: Query) -> Wire:
    if which not in exchange.named:
        raise Refusal(404, UNKNOWN, f"asset not found for {which}")
    return _asset_json(exchange, exchange.named[which])


def _clock(exchange: Exchange, query: Query) -> Wire:
    calendar, now = exchange.replay.calendar, exchange.now_ns + exchange.clock_skew_ns
    under_way, coming = calendar.session_at(now), calendar.next_session(now)
    return {
        "timestamp": new_york(now),
        "is_open": under_way is not None,
        "next_open": new_york(coming.open_ns),
        "next_close": new_york((under_way or coming).close_ns),
    }


def _calendar(exchange: Exchange, query: Query) -> list[Wire]:
    """Sessions from `start` to `end`, within the years of the bundled calendar (Alpaca's own reaches from 1970 to 2029)."""
    if query.get("date_type", "TRADING") != "TRADING":
        raise Refusal(422, BAD_FIELD, "calendars by settlement date are not served by this exchange")
    days = [instant(query, name) for name in ("start", "end")]
    start = _CALENDAR[0] if days[0] is None else max(_CALENDAR[0], new_york_date(days[0]))
    end = _CALENDAR[1] if days[1] is None else min(_CALENDAR[1], new_york_date(days[1]))
    if end < start:
        return []
    calendar = exchange.replay.calendar
    found = calendar.sessions(start, end)
    if not found:
        return []
    settled = [*found[1:], calendar.next_session(found[-1].open_ns)]  # one session after the trade
    return [
        {
            "date": session.date.isoformat(),
            "open": new_york(session.open_ns)[11:16],
            "close": new_york(session.close_ns)[11:16],
            "session_open": "0400",
            "session_close": "2000",
            "settlement_date": settlement.date.isoformat(),
        }
        for session, settlement in zip(found, settled, strict=True)
    ]


_EXACT: dict[str, Callable[[Exchange, Query], Any]] = {
    "/v2/account": _account,
    "/v2/account/activities": _activities,
    "/v2/orders": _orders,
    "/v2/orders:by_client_order_id": _order_by_client_id,
    "/v2/positions": _positions,
    "/v2/assets": _assets,
    "/v2/clock": _clock,
    "/v2/calendar": _calendar,
}
_PREFIXED: tuple[tuple[str, Callable[[Exchange, str, Query], Any]], ...] = (
    ("/v2/orders/", _order_by_id),
    ("/v2/positions/", _position),
    ("/v2/assets/", _asset),
    ("/v2/account/activities/", _activities_of_kind),
)
