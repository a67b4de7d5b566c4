"""Stops, trailing stops, orders of money, times in force, complex orders, replacements, short sales and halts.

AAPL opens at 20.00 on the second session, ranges from 19.80 to 20.70 and closes at 20.50; the third opens at 20.50, ranges from
20.30 to 21.21 and closes at 21.00; the fourth opens at 21.00, ranges from 20.05 to 21.21 and closes at 20.25. Slippage: 5 basis points.
"""

from decimal import Decimal
from typing import Any

import pytest


def state(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v2/orders/{order['id']}", nested="true")
    return found


def told(client: Any, order: dict[str, Any]) -> list[str]:
    return [event["event"] for event in client.exchange.events if event["order_id"] == order["id"]]


def position(client: Any, symbol: str = "AAPL") -> str:
    found: str = client.get(f"/v2/positions/{symbol}")["qty"]
    return found


# --- stops


def test_a_stop_that_the_day_reached_is_filled_there_made_worse(client: Any) -> None:
    order = client.submit(type="stop", stop_price="20.40")
    client.step()
    assert state(client, order)["status"] == "new"
    client.step()

    assert (state(client, order)["status"], state(client, order)["filled_avg_price"]) == ("filled", "20.4102")


def test_a_bought_stop_is_not_filled_far_above_itself(client: Any) -> None:
    """Below 50 dollars it may cost 4 per cent more than its stop: 19.00 lets it pay 19.76, and the day stays above."""
    order = client.submit(type="stop", stop_price="19.00")
    client.step(2)

    assert told(client, order) == ["accepted", "new", "expired"]


def test_a_stop_limit_is_a_limit_once_its_stop_was_reached(client: Any) -> None:
    far = client.submit(type="stop_limit", stop_price="21.00", limit_price="21.10")
    near = client.submit(type="stop_limit", stop_price="20.40", limit_price="20.40", qty="2")
    client.step(2)

    assert state(client, far)["status"] == "expired"
    assert (state(client, near)["status"], state(client, near)["filled_avg_price"]) == ("filled", "20.4")


def test_a_trailing_stop_follows_the_high_and_sells_below_it(client: Any) -> None:
    """Bought at 20.00; the mark rises to the closes 20.50 and 21.00; 3 per cent below 21.00 is 20.37, which the fourth day reaches."""
    client.hold()
    order = client.submit(side="sell", type="trailing_stop", trail_percent="3", time_in_force="gtc")
    client.step(2)
    assert (state(client, order)["status"], state(client, order)["hwm"]) == ("new", "21")
    assert state(client, order)["stop_price"] == "20.37"
    client.step(2)

    assert (state(client, order)["status"], state(client, order)["filled_avg_price"]) == ("filled", "20.3598")


def test_a_trailing_stop_by_dollars_buys_above_the_low(client: Any) -> None:
    order = client.submit(type="trailing_stop", trail_price="0.45", time_in_force="gtc")
    client.step(2)

    assert (state(client, order)["status"], state(client, order)["filled_avg_price"]) == ("filled", "20.4602")


# --- money and times in force


def test_an_order_of_money_buys_what_a_cent_less_buys_to_nine_places(client: Any) -> None:
    order = client.submit(qty=None, notional="250.50")
    client.step()
    found = state(client, order)

    assert (found["qty"], found["notional"], found["filled_avg_price"]) == (None, "250.5", "20.01")
    assert found["filled_qty"] == str((Decimal("250.49") / Decimal("20.01")).quantize(Decimal("1e-9"), "ROUND_DOWN"))


def test_good_till_canceled_waits_for_later_sessions(client: Any) -> None:
    order = client.submit(limit_price="21.15", side="buy", time_in_force="gtc", type="stop_limit", stop_price="21.15")
    client.step(2)
    assert state(client, order)["status"] == "new"
    client.step(2)

    assert state(client, order)["status"] == "filled"
    assert state(client, order)["expires_at"].startswith("2013-02-10T21:15")


@pytest.mark.parametrize("time_in_force", ["ioc", "fok"])
def test_at_once_or_not_at_all(client: Any, time_in_force: str) -> None:
    client.step()
    no = client.submit(limit_price="19.00", time_in_force=time_in_force)
    yes = client.submit(limit_price="20.10", time_in_force=time_in_force)

    assert told(client, no) == ["pending_new", "new", "canceled"]
    assert told(client, yes) == ["pending_new", "new", "fill"]


def test_of_a_part_filled_at_once_the_rest_is_canceled_and_all_or_nothing_is_whole(start: Any) -> None:
    client = start(partial_fills=Decimal(1))
    client.step()
    at_once = client.submit(qty="100", time_in_force="ioc")
    whole = client.submit(qty="100", time_in_force="fok")

    assert told(client, at_once) == ["pending_new", "new", "partial_fill", "canceled"]
    assert 0 < Decimal(state(client, at_once)["filled_qty"]) < 100
    assert told(client, whole) == ["pending_new", "new", "fill"]


def test_the_opening_auction_takes_its_orders_and_cancels_what_it_does_not_fill(client: Any) -> None:
    client.exchange.advance(client.exchange.now_ns + 4 * 3_600_000_000_000)  # after seven in the evening
    market, limit = client.submit(time_in_force="opg"), client.submit(time_in_force="opg", limit_price="19.90")
    client.step()
    late = client.order(time_in_force="opg")

    assert (state(client, market)["status"], state(client, limit)["status"]) == ("filled", "canceled")
    assert late.status == 403 and late.json["message"].startswith("opg orders must be submitted after 7:00pm")


def test_the_closing_auction_fills_at_the_close(client: Any) -> None:
    client.step()
    market, limit = client.submit(time_in_force="cls"), client.submit(time_in_force="cls", limit_price="20.45")
    session = client.exchange.replay.calendar.session_at(client.exchange.now_ns)
    client.exchange.advance(session.close_ns - 60_000_000_000)
    late = client.order(time_in_force="cls")
    client.step()

    assert state(client, market)["filled_avg_price"] == "20.5102"  # 20.50 and the slippage, on the nearest tick
    assert (state(client, limit)["status"], late.status) == ("canceled", 403)


# --- complex orders


def bracket(client: Any, profit: str, stop: str, **fields: Any) -> dict[str, Any]:
    legs = {"take_profit": {"limit_price": profit}, "stop_loss": {"stop_price": stop}}
    found: dict[str, Any] = client.submit(order_class="bracket", time_in_force="gtc", **legs, **fields)
    return found


def test_exits_wait_for_their_entry_and_one_ends_the_other(client: Any) -> None:
    order = bracket(client, "21.10", "19.00")
    profit, stop = order["legs"]
    assert (profit["type"], profit["status"], stop["type"], stop["status"]) == ("limit", "held", "stop", "held")
    assert client.exchange.held("AAPL") == 0
    client.step()
    assert [leg["status"] for leg in state(client, order)["legs"]] == ["new", "new"]
    assert client.get("/v2/positions/AAPL")["qty_available"] == "0"
    client.step(3)

    assert told(client, profit) == ["held", "new", "fill"]
    assert told(client, stop) == ["held", "new", "canceled"]
    assert client.get("/v2/positions") == []


def test_canceling_an_entry_or_an_exit_ends_all_that_hangs_on_it(client: Any) -> None:
    first = bracket(client, "21.10", "17.00", limit_price="18.00", type="limit")
    client.ask("DELETE", f"/v2/orders/{first['id']}")
    assert {state(client, leg)["status"] for leg in first["legs"]} == {"canceled"}

    second = bracket(client, "25.00", "19.00")
    client.step()
    client.ask("DELETE", f"/v2/orders/{second['legs'][0]['id']}")
    assert state(client, second["legs"][1])["status"] == "canceled"
    assert position(client) == "10"


def test_a_part_of_the_profit_leaves_the_stop_what_is_left(start: Any) -> None:
    client = start(partial_fills=Decimal(1))
    client.hold("AAPL", "1")
    client.step(2)
    client.submit(qty="9", time_in_force="fok")
    client.step()
    order = client.submit(
        side="sell",
        type="limit",
        limit_price="20.00",
        order_class="oco",
        stop_loss={"stop_price": "19.00"},
        time_in_force="gtc",
    )
    found = state(client, order)

    assert found["status"] == "partially_filled"
    assert Decimal(found["legs"][0]["qty"]) == 10 - Decimal(found["filled_qty"])


def test_one_cancels_the_other(client: Any) -> None:
    client.hold()
    order = client.submit(
        side="sell",
        type="limit",
        limit_price="25.00",
        order_class="oco",
        stop_loss={"stop_price": "20.40"},
        time_in_force="gtc",
    )
    assert client.get("/v2/orders", nested="true")[0]["legs"][0]["type"] == "stop"
    client.step(2)

    assert (state(client, order)["status"], state(client, order["legs"][0])["status"]) == ("canceled", "filled")


def test_an_order_triggers_one_other(client: Any) -> None:
    order = client.submit(order_class="oto", stop_loss={"stop_price": "19.90"})
    client.step(2)

    assert state(client, order["legs"][0])["status"] == "filled"


def test_exits_on_the_wrong_side_of_the_price_are_refused(client: Any) -> None:
    answer = client.order(
        order_class="bracket", take_profit={"limit_price": "25.00"}, stop_loss={"stop_price": "20.00"}
    )

    assert answer.status == 422
    assert answer.json == {
        "base_price": "20", "code": 42210000, "message": "stop_loss.stop_price must be <= base_price - 0.01",
    }  # fmt: skip


# --- replacing


def test_a_replaced_order_is_told_as_the_old_one_replaced_and_a_new_one(client: Any) -> None:
    client.step()
    old = client.submit(limit_price="19.00")
    answer = client.ask("PATCH", f"/v2/orders/{old['id']}", body={"limit_price": "20.05", "qty": 3})
    new = answer.json

    assert (answer.status, new["replaces"], new["status"], new["qty"]) == (200, old["id"], "new", "3")
    assert (state(client, old)["status"], state(client, old)["replaced_by"]) == ("replaced", new["id"])
    assert (told(client, old)[-1], told(client, new)) == ("replaced", ["new", "fill"])
    assert position(client) == "3"


def test_what_is_not_at_the_market_cannot_be_replaced(client: Any) -> None:
    waiting = client.submit(limit_price="19.00")
    assert client.ask("PATCH", f"/v2/orders/{waiting['id']}", body={"qty": 2}).status == 422
    client.step()
    filled = client.submit()
    answer = client.ask("PATCH", f"/v2/orders/{filled['id']}", body={"qty": 2})

    assert (answer.status, answer.json["message"]) == (422, "unable to replace order, order is not open")


def replaced(client: Any, order: dict[str, Any], **changes: object) -> Any:
    return client.ask("PATCH", f"/v2/orders/{order['id']}", body=changes)


BRACKET = {"order_class": "bracket", "time_in_force": "gtc", "take_profit": {"limit_price": "30"}, "stop_loss": {"stop_price": "10"}}  # fmt: skip


def test_an_exit_is_replaced_in_its_group(client: Any) -> None:
    """Both hold the same ten shares, before and after, and the other still ends when it fills."""
    client.step()
    order = client.submit(**BRACKET)
    profit, stop = state(client, order)["legs"]
    nearer = replaced(client, profit, limit_price="19.50")

    assert nearer.status == 200, nearer
    assert told(client, nearer.json) == ["new", "fill"]
    assert (state(client, stop)["status"], client.get("/v2/positions")) == ("canceled", [])
    assert [leg["id"] for leg in state(client, order)["legs"]] == [nearer.json["id"], stop["id"]]


@pytest.mark.parametrize(("qty", "held"), [("4", "4"), ("12", "12")])
def test_exits_are_of_as_many_shares_as_their_entry_is_replaced_by(client: Any, qty: str, held: str) -> None:
    client.step()
    order = client.submit(limit_price="15", **BRACKET)
    answer = replaced(client, order, qty=qty, limit_price="21")

    assert answer.status == 200, answer
    assert [leg["qty"] for leg in state(client, answer.json)["legs"]] == [held, held]
    found = client.get("/v2/positions/AAPL")
    assert (found["qty"], found["qty_available"]) == (held, "0")


def test_exits_stay_of_as_many_shares_as_each_other(client: Any) -> None:
    client.hold()
    client.step()
    order = client.submit(
        side="sell", type="limit", limit_price="25.00", order_class="oco", stop_loss={"stop_price": "10"}, time_in_force="gtc"
    )  # fmt: skip
    answer = replaced(client, order["legs"][0], qty="6")

    assert answer.status == 200, answer
    assert (answer.json["qty"], state(client, order)["qty"]) == ("6", "6")
    assert client.get("/v2/positions/AAPL")["qty_available"] == "4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_price": "18"}, "limit orders require no stop price"),
        ({"trail": "2"}, "trail_price and trail_percent are for trailing stop orders only"),
        ({"qty": "2.5"}, "fractional orders must be DAY orders"),
        ({"limit_price": "31"}, "take_profit.limit_price must be >= base_price + 0.01"),
        ({"time_in_force": "ioc"}, "bracket orders must be DAY or GTC orders"),
    ],
)
def test_an_order_is_replaced_by_one_that_could_have_been_sent(client: Any, changes: Any, message: str) -> None:
    client.step()
    order = client.submit(limit_price="15", **BRACKET)
    answer = replaced(client, order, **changes)

    assert (answer.status, answer.json["message"]) == (422, message)
    assert state(client, order)["status"] == "new"


def test_an_auction_that_is_over_is_too_late_for_a_replacement(client: Any) -> None:
    client.step()
    order = client.submit(limit_price="15")

    assert "opg orders must be submitted after" in replaced(client, order, time_in_force="opg").json["message"]


def test_a_replacement_does_not_trade_with_an_order_of_its_own(client: Any) -> None:
    client.hold()
    client.step()
    client.submit(qty="5", side="sell", limit_price="22", client_order_id="sale")
    order = client.submit(qty="5", limit_price="15")

    assert "wash trade" in replaced(client, order, limit_price="22").json["message"]


def test_a_replacement_needs_the_buying_power_that_it_adds(client: Any) -> None:
    client.step()
    old = client.submit(limit_price="19.00", qty="20000")  # 380,000 of 400,000

    assert client.ask("PATCH", f"/v2/orders/{old['id']}", body={"qty": 21000}).status == 200
    newer = client.get("/v2/orders")[0]
    assert client.ask("PATCH", f"/v2/orders/{newer['id']}", body={"qty": 22000}).status == 403


# --- selling short


def test_a_short_sale_owes_shares_and_a_purchase_gives_them_back(start: Any) -> None:
    client = start(shorting=True)
    order = client.submit(side="sell", qty="100")
    assert order["position_intent"] == "sell_to_open"
    client.step()
    owed, account = client.get("/v2/positions/AAPL"), client.get("/v2/account")
    assert (owed["qty"], owed["side"], owed["qty_available"]) == ("-100", "short", "-100")
    assert (account["short_market_value"], account["cash"]) == ("-2000", "101999")
    assert Decimal(account["buying_power"]) == 4 * Decimal(account["equity"]) - 2000

    more = client.order(side="buy", qty="101")
    assert (more.status, more.json["code"]) == (403, 40310000)
    back = client.submit(side="buy", qty="100")
    assert back["position_intent"] == "buy_to_close"
    assert client.get("/v2/positions") == []


def test_long_and_short_do_not_mix(start: Any) -> None:
    client = start(shorting=True)
    client.submit(side="sell", qty="100", limit_price="30.00")

    answer = client.order(side="buy", qty="100", limit_price="10.00")

    assert answer.json["message"] == "cannot open a long buy while a short sell order is open"


def test_a_poor_account_cannot_sell_short(start: Any) -> None:
    answer = start(shorting=True, cash=Decimal(1999)).order(side="sell", qty="1")

    assert (answer.status, answer.json["message"]) == (403, "account is not allowed to short")


# --- positions, halts, limits


def test_positions_are_closed_whole_or_in_part(client: Any) -> None:
    client.hold()
    client.step()
    part = client.ask("DELETE", "/v2/positions/AAPL", {"percentage": "25"})
    assert (part.status, part.json["qty"], position(client)) == (200, "2.5", "7.5")
    whole = client.ask("DELETE", "/v2/positions")

    assert (whole.status, whole.json[0]["symbol"], whole.json[0]["status"]) == (207, "AAPL", 200)
    assert client.get("/v2/positions") == []


def test_nothing_fills_in_a_halted_symbol_until_trading_resumes(client: Any) -> None:
    stream = client.exchange.open_stream("data", client.headers)
    stream.receive('{"action":"subscribe","statuses":["AAPL"]}')
    stream.outbox.clear()
    client.step()
    client.exchange.halt("AAPL")
    order = client.submit()
    assert state(client, order)["status"] == "new"
    client.exchange.halt("AAPL", halted=False)

    assert state(client, order)["status"] == "filled"
    assert ['"sc":"H"' in stream.outbox[0], '"sc":"T"' in stream.outbox[1]] == [True, True]


def test_parts_of_an_order_are_told_one_by_one_and_add_up(start: Any) -> None:
    client = start(partial_fills=Decimal(1))
    order = client.submit(qty="100", time_in_force="gtc")
    client.step(8)
    fills = [a for a in client.get("/v2/account/activities/FILL", direction="asc") if a["order_id"] == order["id"]]

    assert len(fills) > 1
    assert {a["type"] for a in fills[:-1]} == {"partial_fill"}
    assert [Decimal(a["cum_qty"]) + Decimal(a["leaves_qty"]) for a in fills] == [100] * len(fills)


def test_too_many_requests_in_a_minute_are_answered_with_429_and_when_to_come_again(start: Any) -> None:
    client = start(requests_per_minute=2)
    left = [client.ask("GET", "/v2/clock").headers["X-RateLimit-Remaining"] for _ in range(2)]
    refused = client.ask("GET", "/v2/clock")
    assert (left, refused.status, refused.json["code"]) == (["1", "0"], 429, 42910000)
    again_s = int(refused.headers["X-RateLimit-Reset"])
    client.exchange.advance(again_s * 1_000_000_000)

    assert client.ask("GET", "/v2/clock").status == 200
