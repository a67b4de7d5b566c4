"""Every answer against Alpaca's own OpenAPI documents, the fields its SDK cannot do without, recorded answers, and its SDK's models."""

import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
import yaml
from alpaca.data.models.bars import BarSet
from alpaca.data.models.corporate_actions import CorporateActionsSet
from alpaca.data.models.quotes import QuoteSet
from alpaca.data.models.trades import TradeSet
from alpaca.trading import models as sdk
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.replay import MarketReplay
from algo_royale.exchange.tape import PathTape
from algo_royale.market import Timeframe
from conftest import shared

REQUIRED = {
    "account": "id account_number status",
    "order": "id client_order_id created_at updated_at submitted_at order_class time_in_force status extended_hours",
    "position": "asset_id symbol exchange asset_class qty avg_entry_price side cost_basis",
    "asset": "id class exchange symbol status tradable marginable shortable easy_to_borrow fractionable",
    "bar": "t o h l c v n vw",
    "fill": "activity_type id order_id symbol side qty cum_qty leaves_qty price transaction_time type order_status",
    "update": "at event_id event timestamp order",
}
HISTORY = {"timeframe": "1Day", "start": "2012-11-01", "end": "2012-12-31"}


def lived(client: Any) -> Any:
    """An account with a filled, an open, a canceled and an expired order, a position, and all three kinds of activity."""
    client.hold("AAPL", "10")
    client.submit("AAPL", "3", limit_price="1.00", client_order_id="expires")
    client.step(2)
    client.ask("DELETE", "/v2/orders/" + client.submit("IBM", "2")["id"])
    client.to_open_of(date(2012, 11, 21))
    client.step()
    client.submit("AAPL", "4", "sell", limit_price="30.00", client_order_id="open")
    return client


def answers(client: Any) -> Iterator[tuple[str, str, Any]]:
    """(path in the OpenAPI document, method, answer)."""
    order = client.exchange.orders[0]
    watchlist = client.ask("POST", "/v2/watchlists", body={"name": "some", "symbols": ["AAPL"]}).json
    yield "/v2/watchlists", "post", watchlist
    for path, served, query in [
        ("/v2/account", None, {}),
        ("/v2/account/activities", None, {}),
        ("/v2/account/activities/{activity_type}", "/v2/account/activities/FILL", {}),
        ("/v2/assets", None, {}),
        ("/v2/assets/{symbol_or_asset_id}", "/v2/assets/AAPL", {}),
        ("/v2/calendar", None, {"start": "2012-11-01", "end": "2012-12-01"}),
        ("/v2/clock", None, {}),
        ("/v2/orders", None, {"status": "all"}),
        ("/v2/orders/{order_id}", f"/v2/orders/{order.id}", {}),
        ("/v2/orders:by_client_order_id", None, {"client_order_id": order.client_order_id}),
        ("/v2/positions", None, {}),
        ("/v2/positions/{symbol_or_asset_id}", "/v2/positions/AAPL", {}),
        ("/v2/stocks/bars", None, {"symbols": "AAPL,IBM", **HISTORY}),
        ("/v2/stocks/bars", None, {"symbols": "AAPL,IBM", "limit": "1", **HISTORY}),
        ("/v2/stocks/{symbol}/bars", "/v2/stocks/AAPL/bars", HISTORY),
        ("/v2/orders", None, {"status": "all", "nested": "true"}),
        ("/v2/account/portfolio/history", None, {"timeframe": "1D"}),
        ("/v2/account/configurations", None, {}),
        ("/v2/watchlists", None, {}),
        ("/v2/watchlists/{watchlist_id}", f"/v2/watchlists/{watchlist['id']}", {}),
        ("/v2/stocks/bars/latest", None, {"symbols": "AAPL,IBM"}),
        ("/v1/corporate-actions", None, {"start": "2012-11-01", "end": "2012-12-01"}),
    ]:
        yield path, "get", client.get(served or path, **query)
    yield "/v2/orders", "post", client.submit("IBM", "1", limit_price="100")
    yield "/v2/orders", "delete", client.ask("DELETE", "/v2/orders").json
    yield (
        "/v2/account/configurations",
        "patch",
        client.ask("PATCH", "/v2/account/configurations", body={"no_shorting": True}).json,
    )


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    """Both OpenAPI documents by the prefix of the paths that they describe."""
    found = {}
    for name in ("trading", "market_data"):
        text = shared(f"alpaca/openapi/{name}_openapi.yaml").read_text()
        found[name] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    _nullable(found["market_data"])
    return found


def _nullable(node: Any) -> None:
    """OpenAPI 3.0 says `nullable: true` where JSON Schema has a second type."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _nullable(child)
    if isinstance(node, dict) and node.get("nullable") is True and isinstance(node.get("type"), str):
        node["type"] = [node["type"], "null"]


def _errors(documents: dict[str, Any], path: str, method: str, answer: Any) -> list[str]:
    document = documents["market_data" if path.startswith(("/v1/", "/v2/stocks")) else "trading"]
    answers = document["paths"][path][method]["responses"]
    status = next(code for code in ("200", "207") if code in answers)
    schema = {"$ref": "doc:#" + _pointer(path, method, status)}
    registry: Registry[Any] = Registry().with_resource("doc:", Resource(contents=document, specification=DRAFT202012))
    checker = Draft202012Validator(schema, registry=registry, format_checker=FormatChecker())
    return [f"{path}: {'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in checker.iter_errors(answer)]


def _pointer(path: str, method: str, status: str) -> str:
    parts = ("paths", path, method, "responses", status, "content", "application/json", "schema")
    return "".join(
        "/" + part.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D") for part in parts
    )


def test_every_answer_is_valid_by_alpacas_openapi_documents(client: Any, documents: dict[str, Any]) -> None:
    problems = [p for path, method, answer in answers(lived(client)) for p in _errors(documents, path, method, answer)]
    assert problems == []


def complex_answers(client: Any) -> Iterator[tuple[str, str, Any]]:
    """Orders of every class and type, replaced and closed, short and long, of money and of shares."""
    exits = {"take_profit": {"limit_price": "25.00"}, "stop_loss": {"stop_price": "15.00", "limit_price": "14.90"}}
    for fields in (
        {"type": "stop", "stop_price": "30.00"}, {"type": "stop_limit", "stop_price": "30.00", "limit_price": "31.00"},
        {"type": "trailing_stop", "trail_percent": "5"}, {"type": "trailing_stop", "trail_price": "1"},
        {"qty": None, "notional": "100"}, {"time_in_force": "cls"}, {"time_in_force": "gtc", "order_class": "bracket", **exits},
    ):  # fmt: skip
        yield "/v2/orders", "post", client.submit(**fields)
    yield "/v2/orders", "post", client.submit("IBM", "5", "sell")
    client.step()
    resting = client.submit(limit_price="10.00")
    changed = client.ask("PATCH", f"/v2/orders/{resting['id']}", body={"qty": "3"})
    yield "/v2/orders/{order_id}", "patch", changed.json
    yield "/v2/orders", "get", client.get("/v2/orders", status="all", nested="true")
    yield "/v2/positions", "get", client.get("/v2/positions")
    yield "/v2/positions/{symbol_or_asset_id}", "delete", client.ask("DELETE", "/v2/positions/IBM").json
    yield "/v2/positions", "delete", client.ask("DELETE", "/v2/positions", {"cancel_orders": "true"}).json
    yield "/v2/account", "get", client.get("/v2/account")


def tape_answers(client: Any) -> Iterator[tuple[str, str, Any]]:
    """Market data within a session."""
    span = {"start": "2012-11-01", "end": "2012-12-31"}
    for path, query in [
        ("/v2/stocks/bars", {"timeframe": "5Min", **span}), ("/v2/stocks/trades", span), ("/v2/stocks/quotes", span),
        ("/v2/stocks/bars/latest", {}), ("/v2/stocks/trades/latest", {}), ("/v2/stocks/quotes/latest", {}),
        ("/v2/stocks/snapshots", {}),
    ]:  # fmt: skip
        yield path, "get", client.get(path, symbols="AAPL,IBM", **query)
    for kind in ("trades", "quotes"):
        yield f"/v2/stocks/{{symbol}}/{kind}", "get", client.get(f"/v2/stocks/AAPL/{kind}", **span)
        yield f"/v2/stocks/{{symbol}}/{kind}/latest", "get", client.get(f"/v2/stocks/AAPL/{kind}/latest")
    yield "/v2/stocks/{symbol}/bars/latest", "get", client.get("/v2/stocks/AAPL/bars/latest")
    yield "/v2/stocks/{symbol}/snapshot", "get", client.get("/v2/stocks/AAPL/snapshot")
    yield "/v2/account/portfolio/history", "get", client.get("/v2/account/portfolio/history", period="1D")


def test_every_kind_of_order_is_valid_by_alpacas_openapi_documents(start: Any, documents: dict[str, Any]) -> None:
    client = start(shorting=True, partial_fills=Decimal("0.5"))
    problems = [p for path, method, answer in complex_answers(client) for p in _errors(documents, path, method, answer)]
    assert problems == []
    assert [sdk.Order(**order).legs for order in client.get("/v2/orders", status="all", nested="true")]


def test_market_data_within_a_session_is_valid_by_alpacas_openapi_documents(
    start: Any, replay: Any, documents: dict[str, Any]
) -> None:
    bars = {s: replay.history(s, Timeframe.DAY_1, 0, 2**62, 2**62) for s in replay.symbols}
    tape = MarketReplay(bars, replay.calendar, replay.actions, PathTape(bars, trades=40))
    client = type(start())(Exchange(tape, ExchangeConfig(start_ns=tape.sessions[1].open_ns)))
    client.exchange.advance(tape.sessions[1].open_ns + 7_200_000_000_000)
    found = list(tape_answers(client))

    assert [p for path, method, answer in found for p in _errors(documents, path, method, answer)] == []
    assert TradeSet(found[1][2]["trades"]).data["AAPL"] and QuoteSet(found[2][2]["quotes"]).data["IBM"]


def test_the_validation_sees_a_wrong_answer(client: Any, documents: dict[str, Any]) -> None:
    account = {**client.get("/v2/account"), "cash": 100000.0}
    assert "cash" in _errors(documents, "/v2/account", "get", account)[0]
    bars = client.get("/v2/stocks/bars", symbols="AAPL", **HISTORY)
    del bars["bars"]["AAPL"][0]["vw"]
    assert _errors(documents, "/v2/stocks/bars", "get", bars)


def test_nothing_is_missing_that_the_sdk_needs(client: Any) -> None:
    stream = client.listen()
    lived(client)
    found = {
        "account": [client.get("/v2/account")],
        "order": client.get("/v2/orders", status="all"),
        "position": client.get("/v2/positions"),
        "asset": client.get("/v2/assets"),
        "bar": client.get("/v2/stocks/bars", symbols="AAPL", **HISTORY)["bars"]["AAPL"],
        "fill": client.get("/v2/account/activities/FILL"),
        "update": [json.loads(frame)["data"] for frame in stream.outbox],
    }
    for kind, names in REQUIRED.items():
        assert found[kind], kind
        for item in found[kind]:
            assert [name for name in names.split() if item.get(name) is None] == [], kind


def _texts(value: Any) -> Iterator[Any]:
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(child)
    if not isinstance(value, dict | list):
        yield value


def test_money_and_quantities_are_text(client: Any) -> None:
    lived(client)
    for path in ("/v2/account", "/v2/positions", "/v2/orders", "/v2/account/activities"):
        numbers = {v for v in _texts(client.get(path)) if isinstance(v, int | float) and not isinstance(v, bool)}
        assert numbers <= {0}, path  # the option levels and the crypto tier of the account


@pytest.mark.parametrize(
    ("recording", "path"),
    [("account", "/v2/account"), ("orders", "/v2/orders"), ("positions", "/v2/positions"), ("assets", "/v2/assets"), ("clock", "/v2/clock")],
)  # fmt: skip
def test_answers_have_exactly_the_fields_of_recorded_ones(client: Any, recording: str, path: str) -> None:
    recorded = json.loads(shared(f"alpaca/recorded_2026-07-24/{recording}.json").read_text())
    lived(client)
    query = {"status": "all"} if recording == "orders" else {}
    served = client.get(path, **query)
    want, got = (recorded, served) if isinstance(recorded, dict) else (recorded[0], served[0])
    assert set(got) == set(want)


def test_trade_updates_have_exactly_the_fields_of_recorded_ones(client: Any) -> None:
    recorded = json.loads(shared("alpaca/recorded_2026-07-24/trade_updates.json").read_text())
    want = {frame["data"]["event"]: frame["data"] for frame in recorded[2:5]}  # the real ones: pending_new, new, fill
    client.step()
    stream = client.listen()
    client.submit("AAPL", "1")

    told = [json.loads(frame)["data"] for frame in stream.outbox]

    assert [t["event"] for t in told] == ["pending_new", "new", "fill"] == list(want)
    for update in told:
        assert set(update) == set(want[update["event"]])
        assert set(update["order"]) == set(want[update["event"]]["order"])
        assert update["order"]["status"] == want[update["event"]]["order"]["status"]


def test_alpacas_own_models_read_every_answer(client: Any) -> None:
    stream = client.listen()
    lived(client)

    account = sdk.TradeAccount(**client.get("/v2/account"))
    assert account.cash == client.get("/v2/account")["cash"]
    orders = [sdk.Order(**order) for order in client.get("/v2/orders", status="all")]
    assert {order.status.value for order in orders} == {"filled", "expired", "canceled", "accepted"}
    (position,) = (sdk.Position(**p) for p in client.get("/v2/positions"))
    assert position.qty == "20"
    assert [sdk.Asset(**a).symbol for a in client.get("/v2/assets")] == ["AAPL", "FB", "IBM"]
    assert sdk.Clock(**client.get("/v2/clock")).is_open is False
    assert sdk.Calendar(**client.get("/v2/calendar", start="2012-11-23", end="2012-11-23")[0]).close.hour == 13
    bars = client.get("/v2/stocks/bars", symbols="AAPL,IBM", **HISTORY)["bars"]
    assert BarSet(bars).data["AAPL"][0].close == 20.0
    actions = client.get("/v1/corporate-actions", start="2012-11-01", end="2012-12-01")["corporate_actions"]
    assert set(CorporateActionsSet(actions).data) == {"cash_dividends", "forward_splits"}
    updates = [sdk.TradeUpdate(**json.loads(frame)["data"]) for frame in stream.outbox]
    assert [u.price for u in updates if u.event == "fill"] == [20.01]
