"""Orders, fills and money. Prices and sums are worked out by hand from the bars in conftest."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from algo_royale.costs import CostRules


def test_a_market_order_sent_after_the_close_fills_at_the_next_open_five_basis_points_worse(client: Any) -> None:
    answer = client.submit("AAPL", "10", client_order_id="a")
    assert (answer["status"], answer["filled_qty"]) == ("accepted", "0")

    client.step()  # AAPL opens at 20.00

    order = client.get(f"/v2/orders/{answer['id']}")
    assert (order["status"], order["filled_qty"], order["filled_avg_price"]) == ("filled", "10", "20.01")
    assert (order["submitted_at"], order["filled_at"]) == ("2012-11-13T14:30:00Z", "2012-11-13T14:30:00.000001Z")
    assert client.get("/v2/account")["cash"] == "99799.9"
    assert client.events() == [("accepted", "a"), ("new", "a"), ("fill", "a")]


def test_a_market_order_during_the_session_is_pending_then_fills_at_the_last_known_price(client: Any) -> None:
    client.step()
    answer = client.submit("AAPL", "10", client_order_id="a")

    assert answer["status"] == "pending_new"
    assert client.get(f"/v2/orders/{answer['id']}")["filled_avg_price"] == "20.01"
    assert client.events() == [("pending_new", "a"), ("new", "a"), ("fill", "a")]


def test_a_sale_receives_less_than_the_open_on_the_nearest_tick(client: Any) -> None:
    client.hold("AAPL", "10")
    client.submit("AAPL", "10", "sell")
    client.step()  # opens at 20.50; 20.50 * 0.9995 = 20.48975, half even on 0.0001

    assert client.exchange.activities[-1][1]["price"] == "20.4898"
    assert client.get("/v2/positions") == []
    assert client.get("/v2/account")["cash"] == "100004.798"  # 99799.90 + 204.898


@pytest.mark.parametrize(
    ("limit", "price", "at"),
    [
        ("20.50", "20.01", "open"),  # better than the limit, still five basis points worse than the open
        ("20.00", "20", "open"),  # never worse than the limit
        ("19.99", "19.99", "close"),  # the session's low is 19.80
        ("19.80", "19.8", "close"),
        ("19.79", None, "never"),
    ],
)
def test_a_buy_limit_fills_at_the_open_or_at_the_limit_or_expires(client: Any, limit: str, price: str, at: str) -> None:
    placed = client.submit("AAPL", "10", limit_price=limit)["id"]

    client.step()
    assert client.get(f"/v2/orders/{placed}")["status"] == ("filled" if at == "open" else "new")
    client.step()
    order = client.get(f"/v2/orders/{placed}")

    assert (order["filled_avg_price"], order["status"]) == (price, "expired" if price is None else "filled")


@pytest.mark.parametrize(
    ("limit", "price"),
    [("20.00", "20.4898"), ("20.49", "20.49"), ("21.21", "21.21"), ("21.22", None)],  # opens at 20.50, high 21.21
)
def test_a_sell_limit_fills_at_the_open_or_at_the_limit_or_expires(client: Any, limit: str, price: str | None) -> None:
    client.hold("AAPL", "10")
    placed = client.submit("AAPL", "10", "sell", limit_price=limit)["id"]

    client.step(2)

    assert client.get(f"/v2/orders/{placed}")["filled_avg_price"] == price


def test_an_order_in_a_symbol_without_a_bar_that_session_expires_at_the_close(client: Any) -> None:
    client.to_open_of(date(2012, 11, 19))
    client.step()
    placed = client.submit("IBM", "1")["id"]

    client.step()
    assert client.get(f"/v2/orders/{placed}")["status"] == "new"
    client.step()

    order = client.get(f"/v2/orders/{placed}")
    assert (order["status"], order["expires_at"]) == ("expired", "2012-11-20T21:00:00Z")
    assert order["expired_at"].startswith("2012-11-20T21:00:00")


def test_an_order_of_a_half_day_expires_at_one_in_the_afternoon(client: Any) -> None:
    client.to_open_of(date(2012, 11, 21))
    client.step()

    assert client.submit("AAPL")["expires_at"] == "2012-11-23T18:00:00Z"


def test_open_buys_hold_back_buying_power_and_sells_free_none_before_they_fill(client: Any) -> None:
    client.hold("AAPL", "100")  # bought at 20.01, closes at 20.50: equity 100049, long 2050
    assert client.get("/v2/account")["buying_power"] == "398146"  # 4 * 100049 - 2050

    client.submit("IBM", "10", limit_price="100")
    client.submit("AAPL", "50", "sell")

    assert client.get("/v2/account")["buying_power"] == "397146"


def test_a_flat_account_may_spend_four_times_its_cash(client: Any) -> None:
    account = client.get("/v2/account")
    assert (account["buying_power"], account["regt_buying_power"], account["equity"]) == ("400000", "200000", "100000")


def test_open_sells_hold_back_shares(client: Any) -> None:
    client.hold("AAPL", "10")
    client.submit("AAPL", "4", "sell")

    position = client.get("/v2/positions/AAPL")
    assert (position["qty"], position["qty_available"]) == ("10", "6")


def test_yesterday_is_what_the_position_is_compared_with(client: Any) -> None:
    client.hold("AAPL", "10")  # at 20.01; closes at 20.50
    today = client.get("/v2/positions/AAPL")
    assert (today["unrealized_pl"], today["unrealized_intraday_pl"]) == ("4.9", "4.9")
    client.step(2)  # the next session closes at 21.00

    position = client.get("/v2/positions/AAPL")
    assert (position["unrealized_pl"], position["unrealized_intraday_pl"]) == ("9.9", "5")
    assert (position["lastday_price"], position["change_today"]) == ("20.5", "0.02439")
    assert (position["avg_entry_price"], position["cost_basis"], position["unrealized_plpc"]) == (
        "20.01",
        "200.1",
        "0.04948",
    )
    assert client.get("/v2/account")["last_equity"] == "100004.9"


def test_a_part_sold_takes_its_part_of_yesterdays_worth_along(client: Any) -> None:
    client.hold("AAPL", "10")  # worth 20.50 each at the close
    client.submit("AAPL", "4", "sell")
    client.step(2)  # closes at 21.00

    position = client.get("/v2/positions/AAPL")
    assert (position["unrealized_intraday_pl"], position["unrealized_intraday_plpc"]) == ("3", "0.02439")  # 6 * 0.50


def test_a_split_multiplies_shares_and_changes_no_worth(client: Any) -> None:
    client.to_open_of(date(2012, 11, 19))
    client.submit("AAPL", "10")  # at the open, 21.50 -> 21.5108 (21.51075, half even)
    client.to_open_of(date(2012, 11, 20))
    client.step()
    before = client.get("/v2/account")["equity"]
    client.step()  # the split's ex-date opens at 10.875, half of the last close

    position = client.get("/v2/positions/AAPL")
    assert (position["qty"], position["avg_entry_price"], position["current_price"]) == ("20", "10.7554", "10.875")
    assert (position["lastday_price"], position["change_today"]) == ("10.875", "0")
    assert client.get("/v2/account")["equity"] == before
    split = client.get("/v2/account/activities", activity_types="SPLIT")
    assert [(a["symbol"], a["qty"], a["date"]) for a in split] == [("AAPL", "10", "2012-11-21")]


def test_fractions_are_bought_to_nine_places(client: Any) -> None:
    client.submit("AAPL", 0.123456789)
    client.step()

    assert client.get("/v2/positions/AAPL")["qty"] == "0.123456789"


def test_commission_and_fees_are_those_of_the_backtest(start: Any) -> None:
    rules = CostRules(
        slippage_bps=Decimal(0),
        commission_per_share=Decimal("0.005"),
        commission_min=Decimal(1),
        price_tick=Decimal("0.0001"),
    )
    client = start(costs=rules)
    client.submit("AAPL", "1000")
    client.step()

    assert client.get("/v2/account")["cash"] == "79995"  # 100000 - 1000 * 20.00 - 1000 * 0.005


def test_canceling_ends_an_order_once_and_again_succeeds(client: Any) -> None:
    placed = client.submit("AAPL", client_order_id="a")["id"]

    assert [client.ask("DELETE", f"/v2/orders/{placed}").status for _ in range(2)] == [204, 204]
    assert client.events() == [("accepted", "a"), ("canceled", "a")]
    assert client.get("/v2/account")["buying_power"] == "400000"


def test_canceling_all_names_every_open_order(client: Any) -> None:
    placed = [client.submit("AAPL", limit_price=price)["id"] for price in ("10", "11")]

    answer = client.ask("DELETE", "/v2/orders")

    assert (answer.status, answer.json) == (207, [{"id": i, "status": 200} for i in placed])
    assert client.get("/v2/orders") == []
    assert client.ask("DELETE", "/v2/orders").json == []


def test_orders_are_listed_newest_first_and_filtered(client: Any) -> None:
    first = client.submit("AAPL", limit_price="10", client_order_id="one")
    client.submit("IBM", "1", limit_price="100", client_order_id="two")
    last = client.submit("AAPL", limit_price="11", client_order_id="three")
    client.ask("DELETE", f"/v2/orders/{first['id']}")

    def listed(**query: str) -> list[str]:
        return [order["client_order_id"] for order in client.get("/v2/orders", **query)]

    assert listed() == ["three", "two"]
    assert listed(status="all", direction="asc") == ["one", "two", "three"]
    assert listed(status="closed") == ["one"]
    assert listed(status="all", symbols="AAPL,FB") == ["three", "one"]
    assert listed(status="all", side="sell") == []
    assert listed(status="all", limit="2") == ["three", "two"]
    assert listed(status="all", after=first["submitted_at"]) == ["three", "two"]
    assert listed(status="all", until=last["submitted_at"]) == ["two", "one"]
    assert listed(status="all", after_order_id=first["id"], direction="asc") == ["two", "three"]
    assert listed(status="all", before_order_id=last["id"], nested="True") == ["two", "one"]


def test_paging_orders_by_their_last_time_loses_and_repeats_none(client: Any) -> None:
    sent = [client.submit("AAPL", "1", limit_price="10")["id"] for _ in range(7)]

    seen: list[str] = []
    query = {"status": "all", "limit": "3"}
    while (page := client.get("/v2/orders", **query)) and len(seen) < 20:
        seen += [order["id"] for order in page]
        query["until"] = page[-1]["submitted_at"]

    assert seen == sent[::-1]


def test_an_order_is_found_by_its_client_id_and_keeps_it_after_its_end(client: Any) -> None:
    client.submit("AAPL", client_order_id="mine")
    client.step(2)

    assert client.get("/v2/orders:by_client_order_id", client_order_id="mine")["status"] == "filled"


def test_the_exchange_names_orders_that_come_without_a_client_id(client: Any) -> None:
    one, two = client.submit("AAPL"), client.submit("AAPL")
    assert len({one["client_order_id"], two["client_order_id"], one["id"], two["id"]}) == 4


def test_an_order_may_name_its_asset_by_id(client: Any) -> None:
    asset = client.get("/v2/assets/AAPL")["id"]
    assert client.submit(asset)["symbol"] == "AAPL"


def test_fill_activities_page_by_the_last_id(client: Any) -> None:
    for _ in range(5):
        client.submit("AAPL", "1")
    client.step()

    seen: list[str] = []
    query = {"direction": "asc", "page_size": "2"}
    while (page := client.get("/v2/account/activities/FILL", **query)) and len(seen) < 20:
        seen += [activity["order_id"] for activity in page]
        query["page_token"] = page[-1]["id"]

    assert seen == [order.id for order in client.exchange.orders]
    fill = client.get("/v2/account/activities", activity_types="FILL")[0]
    assert fill["id"].startswith("20121113093000")  # New York local
    assert (fill["qty"], fill["cum_qty"], fill["leaves_qty"], fill["type"]) == ("1", "1", "0", "fill")
    assert len(client.get("/v2/account/activities", category="trade_activity", after=fill["transaction_time"])) <= 1


def test_the_account_opens_with_a_deposit(client: Any) -> None:
    (deposit,) = client.get("/v2/account/activities")
    assert (deposit["activity_type"], deposit["net_amount"], deposit["date"]) == ("JNLC", "100000", "2012-11-11")


def test_born_during_a_session_it_knows_the_open(start: Any, replay: Any) -> None:
    client = start(start_ns=replay.sessions[3].open_ns + 1)

    order = client.submit("AAPL", "1")

    assert order["status"] == "pending_new"
    assert client.get(f"/v2/orders/{order['id']}")["filled_avg_price"] == "21.0105"  # opens at 21.00
    assert client.get("/v2/positions/AAPL")["lastday_price"] == "21"


def test_events_stop_at_the_end_and_time_goes_on(start: Any, replay: Any) -> None:
    end = replay.sessions[2].close_ns
    client = start(end_ns=end)
    client.step(4)

    assert client.exchange.next_event_ns() is None
    client.exchange.advance(end + 7)
    client.exchange.advance(end)  # never backwards
    assert client.exchange.now_ns == end + 7


@pytest.mark.parametrize("steps", [0, 1])
def test_advancing_in_one_leap_ends_like_advancing_event_by_event(start: Any, replay: Any, steps: int) -> None:
    def run(leap: bool) -> str:
        client = start(seed=3)
        client.step(steps)
        client.submit("AAPL", "3", client_order_id="x")
        client.submit("AAPL", "5", limit_price="19.90", client_order_id="y")
        if leap:
            client.exchange.advance(replay.sessions[5].close_ns)
        else:
            while client.exchange.now_ns < replay.sessions[5].close_ns:
                client.step()
        return json.dumps(client.exchange.truth())

    assert run(leap=True) == run(leap=False)


def test_same_seed_and_script_give_the_same_bytes_and_another_seed_other_names(start: Any) -> None:
    def run(seed: int) -> str:
        client = start(seed=seed)
        trading, data = client.listen(), client.watch("*")
        client.submit("AAPL", "3")
        client.submit("IBM", "2", limit_price="150")
        client.step(4)
        client.submit("AAPL", "1", "sell")
        client.step()
        return "\n".join([json.dumps(client.exchange.truth()), *trading.outbox, *data.outbox])

    assert run(1) == run(1)
    assert run(1) != run(2)
