"""Refusals word for word as recorded or documented (status, code, message, further fields), and requests that make no sense."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.exchange.core import Exchange, ExchangeConfig
from conftest import shared

UNKNOWN_ID = "00000000-0000-0000-0000-000000000000"


def refused(code: int, message: str, **extra: str) -> dict[str, Any]:
    return {"code": code, "message": message, **extra}


FIELD = [
    ({"qty": "0"}, "qty must be > 0"),
    ({"qty": "-1"}, "qty must be > 0"),
    ({"qty": None}, "qty or notional is required"),
    ({"notional": "10"}, "only one of qty or notional is accepted"),
    ({"type": "limit"}, "limit orders require a limit price"),
    ({"type": "stop"}, "stop orders require a stop price"),
    ({"type": "stop_limit", "stop_price": "10"}, "stop limit orders require both stop and limit price"),
    ({"type": "trailing_stop"}, "trailing stop orders must specify one of trail_price or trail_percent"),
    ({"type": "trailing_stop", "trail_price": 1, "trail_percent": 1}, "trailing stop orders must specify one of trail_price or trail_percent"),
    ({"client_order_id": "x" * 129}, "client_order_id must be no more than 128 characters"),
    ({"symbol": None}, "symbol is required"),
    ({"side": "hold"}, "invalid side: hold"),
    ({"type": "best"}, "invalid type: best"),
    ({"time_in_force": "year"}, "invalid time_in_force: year"),
    ({"qty": "ten"}, "qty must be a number"),
    ({"qty": True}, "qty must be a number"),
    ({"qty": [1]}, "qty must be a number"),
    ({"qty": "NaN"}, "qty must be a number"),
    ({"qty": "1e-10"}, "qty is limited to 9 decimal places"),
    ({"client_order_id": 7}, "client_order_id must be a string"),
    ({"order_class": []}, "order_class must be a string"),
    ({"order_class": "heap"}, "invalid order_class: heap"),
    ({"position_intent": "buy_to_close"}, "invalid position_intent: buy_to_close"),
]  # fmt: skip

RULE = [
    ({"extended_hours": True}, "extended hours order must be DAY limit orders"),
    ({"qty": "0.5", "time_in_force": "gtc"}, "fractional orders must be DAY orders"),
    ({"qty": "0.5", "order_class": "bracket"}, "fractional orders must be simple orders"),
    ({"qty": "0.5", "type": "trailing_stop", "trail_price": "1"}, "fractional orders must be market, limit, stop, or stop_limit orders"),
    ({"qty": None, "notional": "0.99"}, "notional amount must be >= 1.00"),
    ({"side": "sell"}, 'asset "AAPL" cannot be sold short'),
    ({"side": "sell", "qty": "0.5"}, "fractional orders cannot be sold short"),
    ({"symbol": "ZZZZ"}, 'asset "ZZZZ" not found'),
    ({"symbol": "FB"}, 'asset "FB" is not tradable'),  # it has not begun to trade
    ({"type": "limit", "limit_price": "290.123"}, "invalid limit_price 290.123. sub-penny increment does not fulfill minimum pricing criteria"),
    ({"type": "limit", "limit_price": "0.12345"}, "invalid limit_price 0.12345. sub-penny increment does not fulfill minimum pricing criteria"),
    ({"type": "stop", "stop_price": "10.001"}, "invalid stop_price 10.001. sub-penny increment does not fulfill minimum pricing criteria"),
    ({"type": "stop", "stop_price": "10", "time_in_force": "ioc"}, "ioc orders must be market or limit orders"),
    ({"type": "trailing_stop", "trail_price": "1", "time_in_force": "cls"}, "cls orders must be market or limit orders"),
    ({"order_class": "mleg"}, "mleg orders are not served by this exchange"),
    ({"order_class": "oto", "stop_loss": {"stop_price": "9"}, "time_in_force": "ioc"}, "oto orders must be DAY or GTC orders"),
    ({"type": "limit", "limit_price": "10", "extended_hours": True, "time_in_force": "ioc"}, "extended hours order must be DAY limit orders"),
    ({"order_class": "oco", "type": "limit", "limit_price": "30", "stop_loss": {"stop_price": "9"}, "side": "sell"}, "oco orders need an open position"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), FIELD)
def test_wrong_fields_are_code_40010001(client: Any, fields: dict[str, Any], message: str) -> None:
    answer = client.order(**fields)
    assert (answer.status, answer.json) == (422, refused(40010001, message))


@pytest.mark.parametrize(("fields", "message"), RULE)
def test_broken_rules_are_code_42210000(client: Any, fields: dict[str, Any], message: str) -> None:
    answer = client.order(**fields)
    assert (answer.status, answer.json) == (422, refused(42210000, message))


@pytest.mark.parametrize("end", ["filled", "canceled", "expired"])
def test_a_client_order_id_stays_taken_after_the_order_has_ended(client: Any, end: str) -> None:
    placed = client.submit("AAPL", limit_price="20.50" if end == "filled" else "1", client_order_id="mine")
    if end == "canceled":
        client.ask("DELETE", f"/v2/orders/{placed['id']}")
    client.step(2)
    assert client.get(f"/v2/orders/{placed['id']}")["status"] == end

    answer = client.order("AAPL", client_order_id="mine")
    assert (answer.status, answer.json) == (422, refused(40010001, "client_order_id must be unique"))


def test_too_little_buying_power_says_both_sums(client: Any) -> None:
    answer = client.order("AAPL", "20001")  # last price 20.00
    expected = refused(40310000, "insufficient buying power", buying_power="400000", cost_basis="400020")
    assert (answer.status, answer.json) == (403, expected)


def test_selling_more_than_is_there_says_how_much_is_there(client: Any) -> None:
    client.hold("AAPL", "0.557436865")
    answer = client.order("AAPL", "1.057436865", "sell")
    assert (answer.status, answer.json) == (403, {
        "available": "0.557436865", "code": 40310000, "existing_qty": "0.557436865", "held_for_orders": "0",
        "message": "insufficient qty available for order (requested: 1.057436865, available: 0.557436865)", "symbol": "AAPL",
    })  # fmt: skip


def test_shares_held_by_an_open_sell_are_not_there_twice(client: Any) -> None:
    client.hold("AAPL", "10")
    first = client.submit("AAPL", "6", "sell")["id"]
    answer = client.order("AAPL", "5", "sell")
    assert answer.status == 403
    assert (answer.json["held_for_orders"], answer.json["available"], answer.json["related_orders"]) == (
        "6",
        "4",
        [first],
    )


@pytest.mark.parametrize(
    ("resting", "crossing", "reason"),
    [
        ({"side": "sell"}, {"side": "buy"}, "opposite side market/stop order exists"),
        ({"side": "sell", "limit_price": "25"}, {"side": "buy"}, "opposite side limit order exists"),
        (
            {"side": "sell", "limit_price": "25"},
            {"side": "buy", "limit_price": "25"},
            "opposite side limit order exists",
        ),
        ({"side": "buy", "limit_price": "10"}, {"side": "sell"}, "opposite side limit order exists"),
    ],
)
def test_orders_that_would_trade_with_each_other_are_refused(
    client: Any, resting: Any, crossing: Any, reason: str
) -> None:
    client.hold("AAPL", "10")
    first = client.submit("AAPL", "5", **resting)["id"]
    answer = client.order("AAPL", "5", **crossing)
    expected = refused(
        40310000, "potential wash trade detected. use complex orders", existing_order_id=first, reject_reason=reason
    )
    assert (answer.status, answer.json) == (403, expected)


def test_limits_that_do_not_cross_are_no_wash_trade(client: Any) -> None:
    client.hold("AAPL", "10")
    client.submit("AAPL", "5", "sell", limit_price="25")
    client.submit("AAPL", "5", "buy", limit_price="24.99")


def test_a_filled_order_cannot_be_canceled(client: Any) -> None:
    placed = client.submit("AAPL")["id"]
    client.step()
    answer = client.ask("DELETE", f"/v2/orders/{placed}")
    assert (answer.status, answer.json) == (422, refused(42210000, 'order is already in "filled" state'))


NOT_FOUND = [
    ("GET", f"/v2/orders/{UNKNOWN_ID}", {}, refused(40410000, f"order not found for {UNKNOWN_ID}")),
    ("DELETE", "/v2/orders/nonsense", {}, refused(40410000, "order not found for nonsense")),
    ("GET", "/v2/orders:by_client_order_id", {"client_order_id": "x"}, refused(40410000, "order not found for x")),
    ("GET", "/v2/positions/AAPL", {}, refused(40410000, "position does not exist")),
    ("GET", "/v2/assets/ZZZZ", {}, refused(40410000, "asset not found for ZZZZ")),
    ("GET", "/v2/nothing", {}, {"message": "endpoint not found."}),
    ("GET", "/", {}, {"message": "endpoint not found."}),
    ("PUT", "/v2/orders", {}, {"message": "endpoint not found."}),
    ("GET", "/v2/orders/a/b", {}, {"message": "endpoint not found."}),
    ("POST", "/v2/account", {}, {"message": "endpoint not found."}),
]


@pytest.mark.parametrize(("method", "path", "query", "body"), NOT_FOUND)
def test_what_is_not_there_is_404(client: Any, method: str, path: str, query: dict[str, str], body: Any) -> None:
    answer = client.ask(method, path, query)
    assert (answer.status, answer.json) == (404, body)


BARS = {"symbols": "AAPL", "timeframe": "1Day"}
BAD_QUERY = [
    ("/v2/orders", {"status": "maybe"}, 422, refused(40010001, "invalid status: maybe")),
    ("/v2/orders", {"limit": "501"}, 422, refused(40010001, "limit must be between 1 and 500")),
    ("/v2/orders", {"limit": "many"}, 422, refused(40010001, "limit must be between 1 and 500")),
    ("/v2/orders", {"after": "yesterday"}, 422, refused(40010001, "invalid after: yesterday")),
    ("/v2/orders", {"until": "2012-13-45"}, 422, refused(40010001, "invalid until: 2012-13-45")),
    ("/v2/orders:by_client_order_id", {}, 422, refused(40010001, "client_order_id is required")),
    ("/v2/account/activities", {"page_token": "x"}, 422, refused(40010001, "invalid page_token")),
    ("/v2/calendar", {"date_type": "SETTLEMENT"}, 422, refused(40010001, "calendars by settlement date are not served by this exchange")),
    ("/v2/stocks/bars", {"symbols": "AAPL"}, 400, {"message": "invalid timeframe: "}),
    ("/v2/stocks/bars", {**BARS, "timeframe": "60Min"}, 400, {"message": "invalid timeframe: 60Min"}),
    ("/v2/stocks/bars", {**BARS, "timeframe": "5Min"}, 422, {"message": "timeframe 5Min is not served by this exchange; it has 1Day, 1D bars"}),
    ("/v2/stocks/bars", {"timeframe": "1Day"}, 400, {"message": "symbols is required"}),
    ("/v2/stocks/bars", {**BARS, "symbols": "AA PL"}, 400, {"message": "invalid symbol: AA PL"}),
    ("/v2/stocks/bars", {**BARS, "limit": "10001"}, 400, {"message": "limit must be between 1 and 10000"}),
    ("/v2/stocks/bars", {**BARS, "adjustment": "magic"}, 400, {"message": "invalid adjustment: magic"}),
    ("/v2/stocks/bars", {**BARS, "adjustment": "spin-off"}, 422, {"message": "adjustment spin-off is not served by this exchange"}),
    ("/v2/stocks/bars", {**BARS, "feed": "otc"}, 422, {"message": "feed otc is not served by this exchange"}),
    ("/v2/stocks/bars", {**BARS, "feed": "radio"}, 400, {"message": "invalid feed: radio"}),
    ("/v2/stocks/bars", {**BARS, "currency": "EUR"}, 422, {"message": "currencies other than USD are not served by this exchange"}),
    ("/v2/stocks/bars", {**BARS, "page_token": "!"}, 400, {"message": "invalid page_token"}),
    ("/v2/stocks/bars", {**BARS, "start": "2012-12-01", "end": "2012-11-01"}, 400, {"message": "end should not be before start"}),
    ("/v1/corporate-actions", {"types": "gift"}, 400, {"message": "invalid types: gift"}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "query", "status", "body"), BAD_QUERY)
def test_a_wrong_query_is_answered_and_not_guessed_at(
    client: Any, path: str, query: Any, status: int, body: Any
) -> None:
    answer = client.ask("GET", path, query)
    assert (answer.status, answer.json) == (status, body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff\xfe", b'{"qty": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_400(client: Any, body: bytes) -> None:
    answer = client.ask("POST", "/v2/orders", body=body)
    assert (answer.status, answer.json) == (400, refused(40010000, "request body format is invalid"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"APCA-API-KEY-ID": "TWINKEY"},
        {"APCA-API-KEY-ID": "TWINKEY", "APCA-API-SECRET-KEY": "wrong"},
        {"Authorization": "Bearer TWINKEY"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"TWINKEY:wrong").decode()},
    ],
)
def test_wrong_keys_are_401_without_a_code(client: Any, headers: dict[str, str]) -> None:
    for path in ("/v2/account", "/nothing"):
        answer = client.exchange.handle("GET", path, {}, b"", headers)
        assert (answer.status, answer.json) == (401, {"message": "unauthorized."})
    for path in ("/v2/stocks/bars", "/v1/corporate-actions"):  # the other host has words of its own
        answer = client.exchange.handle("GET", path, {}, b"", headers)
        assert (answer.status, answer.json) == (403, {"message": "forbidden."})


@pytest.mark.parametrize(
    "headers",
    [
        {"apca-api-key-id": "TWINKEY", "apca-api-secret-key": "twin-secret"},
        {"Authorization": "Basic " + base64.b64encode(b"TWINKEY:twin-secret").decode()},
    ],
)
def test_keys_are_taken_in_any_case_and_as_basic_authorization(client: Any, headers: dict[str, str]) -> None:
    assert client.exchange.handle("GET", "/v2/clock", {}, b"", headers).status == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2),
)
NUMBERS = st.one_of(
    JSON,
    st.sampled_from(["1", "0", "-1", "1e3", "1e999999", "1e-999999", "١", " 1 ", "0x1", "1_0", 10**30, "1.0000000001"]),
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "symbol": st.sampled_from(["AAPL", "IBM", "FB", "aapl", ""]) | JSON,
        "qty": NUMBERS,
        "notional": NUMBERS,
        "side": st.sampled_from(["buy", "sell"]) | JSON,
        "type": st.sampled_from(["market", "limit", "stop"]) | JSON,
        "time_in_force": st.sampled_from(["day", "gtc"]) | JSON,
        "limit_price": NUMBERS,
        "client_order_id": JSON,
        "order_class": JSON,
        "extended_hours": JSON,
        "position_intent": JSON,
    },
)
PATHS = [
    "/v2/orders",
    "/v2/account/activities",
    "/v2/calendar",
    "/v2/stocks/bars",
    "/v1/corporate-actions",
    "/v2/assets",
    *("/v2/stocks/trades", "/v2/stocks/snapshots", "/v2/account/portfolio/history"),
]
WORDS = [
    "AAPL",
    "1Day",
    "2012-11-14",
    "9999-12-31T23:59:59+14:00",
    "0001-01-01",
    "1",
    "10",
    "desc",
    "all",
    "a|b|c",
    "٣",
]
QUERY = st.dictionaries(
    st.sampled_from(
        ["symbols", "timeframe", "start", "end", "limit", "status", "after", "until", "direction", "page_token", "page_size",
         "adjustment", "sort", "types", "ids", "date", "asof", "feed", "side", "activity_types", "after_order_id",
         "before_order_id", "category", "nested", "asset_class", "period", "intraday_reporting", "pnl_reset", "date_end", "currency",
         "client_order_id", "name", "exchange", "attributes", "date_type", "qty", "percentage"]
    ),
    st.sampled_from(WORDS) | st.text(max_size=6),
)  # fmt: skip


@given(body=BODY)
@settings(max_examples=200)
def test_no_order_makes_the_exchange_stumble_and_a_refused_one_changes_nothing(
    start: Any, body: dict[str, Any]
) -> None:
    client = start()
    before = json.dumps(client.exchange.truth())

    answer = client.ask("POST", "/v2/orders", body=body)

    assert answer.status in (200, 400, 403, 422)
    if answer.status != 200:
        assert json.dumps(client.exchange.truth()) == before
        assert isinstance(answer.json["message"], str) and isinstance(answer.json["code"], int)


@given(path=st.sampled_from(PATHS), query=QUERY)
@settings(max_examples=200)
def test_no_query_makes_the_exchange_stumble_or_changes_it(start: Any, path: str, query: dict[str, str]) -> None:
    client = start()
    before = json.dumps(client.exchange.truth())

    answer = client.ask("GET", path, query)

    assert answer.status in (200, 400, 404, 422)
    assert json.dumps(client.exchange.truth()) == before


ROUTES = [
    "/v2/orders", "/v2/orders/{order}", "/v2/orders/nobody", "/v2/positions", "/v2/positions/AAPL", "/v2/positions/ZZZZ",
    "/v2/watchlists", "/v2/watchlists/{watchlist}", "/v2/watchlists/{watchlist}/AAPL", "/v2/watchlists:by_name",
    "/v2/account/configurations", "/v2/account/portfolio/history", "/v2/account", "/v2/account/activities",
    "/v2/account/activities/FILL", "/v2/orders:by_client_order_id", "/v2/assets", "/v2/assets/AAPL", "/v2/clock", "/v2/calendar",
    "/v1/corporate-actions", "/v2/", "/",
]  # fmt: skip
DATA_ROUTES = [
    f"/v2/stocks/{path}" for path in (
        "bars", "bars/latest", "trades", "trades/latest", "quotes", "quotes/latest", "snapshots", "AAPL/bars", "AAPL/bars/latest",
        "AAPL/trades", "AAPL/trades/latest", "AAPL/quotes", "AAPL/quotes/latest", "AAPL/snapshot", "ZZZZ/snapshot",
    )
]  # fmt: skip
NOT_SERVED = {  # of the stock business: answered with 404
    "/v2/corporate_actions/announcements", "/v2/corporate_actions/announcements/{id}", "/v3/clock", "/v3/calendar/{market}",
    "/v2/positions/{symbol_or_contract_id}/exercise", "/v2/positions/{symbol_or_contract_id}/do-not-exercise",
    "/v2/stocks/auctions", "/v2/stocks/{symbol}/auctions", "/v2/stocks/meta/exchanges", "/v2/stocks/meta/conditions/{ticktype}",
}  # fmt: skip


def test_every_route_of_alpacas_that_is_served_is_tried_below() -> None:
    shapes = {re.sub(r"/(AAPL|ZZZZ|FILL|nobody|\{\w+\})(?=/|$)", "/*", route) for route in (*ROUTES, *DATA_ROUTES)}
    described = set()
    for name in ("trading", "market_data"):
        described |= set(
            re.findall(r"^  (/v[123]\S*):$", shared(f"alpaca/openapi/{name}_openapi.yaml").read_text(), re.MULTILINE)
        )
    ours = {path for path in described - NOT_SERVED if re.match(r"/v2/(account|assets|calendar|clock|corporate_actions|orders|positions"
            r"|watchlists|stocks)|/v3/|/v1/corporate-actions", path)}  # fmt: skip

    assert described >= NOT_SERVED
    assert {re.sub(r"\{\w+\}", "*", path) for path in ours} == shapes - {"/v2/", "/"}


@given(path=st.sampled_from(DATA_ROUTES), query=QUERY)
@settings(max_examples=120)
def test_no_query_makes_market_data_within_a_session_stumble_or_changes_it(
    trading_hour: Any, path: str, query: dict[str, str]
) -> None:
    before = json.dumps(trading_hour.exchange.truth())
    answer = trading_hour.ask("GET", path, query)

    assert answer.status in (200, 400, 403, 404, 422)
    assert json.dumps(trading_hour.exchange.truth()) == before


@pytest.fixture(scope="session")
def trading_hour(tape_replay: Any, start: Any) -> Any:
    """An account that holds something, ten minutes into the first session."""
    opens = tape_replay.sessions[0].open_ns
    client = type(start())(Exchange(tape_replay, ExchangeConfig(start_ns=opens + 300_000_000_000, sip=False)))
    client.submit("AAPL", "3")
    client.exchange.advance(opens + 600_000_000_000)
    return client


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["symbol", "symbols", "name", "qty", "notional", "side", "type", "time_in_force", "order_class", "limit_price",
         "stop_price", "trail", "trail_price", "trail_percent", "take_profit", "stop_loss", "client_order_id", "extended_hours",
         "suspend_trade", "no_shorting", "trade_confirm_email", "max_margin_multiplier", "percentage", "cancel_orders"]
    ),
    ANY,
    max_size=6,
)  # fmt: skip


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]), route=st.sampled_from(ROUTES), query=QUERY,
    body=FIELDS.map(lambda fields: json.dumps(fields).encode()) | st.binary(max_size=20),
)  # fmt: skip
@settings(max_examples=250)
def test_no_request_of_any_kind_makes_the_exchange_stumble_and_a_refused_one_changes_nothing(
    start: Any, method: str, route: str, query: dict[str, str], body: bytes
) -> None:
    client = start(shorting=True)
    client.hold()
    order = client.submit(limit_price="10.00", time_in_force="gtc")
    watchlist = client.ask("POST", "/v2/watchlists", body={"name": "some", "symbols": ["IBM"]}).json
    path = route.replace("{order}", order["id"]).replace("{watchlist}", watchlist["id"])

    def state() -> str:
        return json.dumps([client.exchange.truth(), client.exchange.watchlists, client.exchange.configurations])

    before = state()
    answer = client.ask(method, path, query, body)

    assert answer.status < 500
    if answer.status >= 400:
        assert state() == before
        assert isinstance(answer.json["message"], str)
