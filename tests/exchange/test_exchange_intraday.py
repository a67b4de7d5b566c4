"""A twin that replays trades and quotes: orders meet the best bid and offer, and bars are made of what was streamed."""

import json
from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest

from algo_royale.costs import CostRules
from algo_royale.exchange.replay import MarketReplay

MINUTE_NS = 60_000_000_000


@pytest.fixture
def client(begin: Any) -> Any:
    return begin()


def test_streamed_bars_are_the_aggregate_of_streamed_trades(client: Any, tape_replay: MarketReplay) -> None:
    stream = client.subscribed(trades=["IBM"], bars=["IBM"], dailyBars=["IBM"])
    client.exchange.advance(tape_replay.sessions[0].close_ns)
    told = client.heard(stream)
    minutes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trade in told["t"]:
        minutes[trade["t"][:16]].append(trade)

    assert 380 <= len(told["b"]) <= 390
    for bar in told["b"]:
        trades = minutes.pop(bar["t"][:16])
        prices = [t["p"] for t in trades]
        assert (bar["o"], bar["h"], bar["l"], bar["c"]) == (prices[0], max(prices), min(prices), prices[-1])
        assert (bar["v"], bar["n"]) == (sum(t["s"] for t in trades), len(trades))
    assert not minutes
    day = told["d"][-1]
    assert day["v"] == sum(bar["v"] for bar in told["b"])
    assert (day["h"], day["l"]) == (max(b["h"] for b in told["b"]), min(b["l"] for b in told["b"]))


def test_history_gives_the_bars_and_trades_that_were_streamed(client: Any, tape_replay: MarketReplay) -> None:
    stream = client.subscribed(trades=["IBM"], bars=["IBM"], quotes=["IBM"])
    now = tape_replay.sessions[0].open_ns + 37 * MINUTE_NS + 5_000_000_000
    client.exchange.advance(now)
    told = client.heard(stream)
    whole = {"symbols": "IBM", "start": "2012-11-19", "limit": "10000"}

    def without(kind: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in message.items() if k not in ("T", "S")} for message in told[kind]]

    assert client.get("/v2/stocks/bars", timeframe="1Min", **whole)["bars"]["IBM"] == without("b")
    assert client.get("/v2/stocks/trades", **whole)["trades"]["IBM"] == without("t")
    assert client.get("/v2/stocks/quotes", **whole)["quotes"]["IBM"] == without("q")
    assert client.get("/v2/stocks/trades/latest", symbols="IBM")["trades"]["IBM"] == without("t")[-1]
    assert client.get("/v2/stocks/IBM/quotes/latest")["quote"] == without("q")[-1]
    snapshot = client.get("/v2/stocks/snapshots", symbols="IBM,ZZZZ")["IBM"]
    assert (snapshot["latestTrade"], snapshot["minuteBar"]) == (without("t")[-1], without("b")[-1])


@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_pages_of_trades_hold_what_one_page_holds(client: Any, tape_replay: MarketReplay, sort: str) -> None:
    client.exchange.advance(tape_replay.sessions[0].open_ns + 30 * MINUTE_NS)
    query = {"symbols": "AAPL,IBM", "start": "2012-11-19", "sort": sort}
    whole = client.get("/v2/stocks/trades", limit="10000", **query)["trades"]
    paged: dict[str, list[Any]] = {"AAPL": [], "IBM": []}
    token = None
    while True:
        answer = client.get("/v2/stocks/trades", limit="7", **query, **({"page_token": token} if token else {}))
        for symbol, trades in answer["trades"].items():
            paged[symbol] += trades
        if (token := answer["next_page_token"]) is None:
            break

    assert paged == whole


def test_longer_bars_are_made_of_minutes_and_end_with_a_half_day(client: Any, tape_replay: MarketReplay) -> None:
    half = tape_replay.sessions[-1]
    client.exchange.advance(half.close_ns)
    bars = client.get("/v2/stocks/bars", symbols="IBM", timeframe="1Hour", start="2012-11-23", limit="100")["bars"][
        "IBM"
    ]

    assert [bar["t"][11:16] for bar in bars] == ["14:00", "15:00", "16:00", "17:00"]  # 09:00 to 12:00 in New York
    daily = client.get("/v2/stocks/bars", symbols="IBM", timeframe="1Day", start="2012-11-23")["bars"]["IBM"][0]
    assert sum(bar["v"] for bar in bars) == daily["v"]
    assert max(bar["h"] for bar in bars) == daily["h"]


def test_a_market_order_buys_at_the_offer_and_sells_at_the_bid(begin: Any, tape_replay: MarketReplay) -> None:
    client = begin(costs=CostRules(slippage_bps=Decimal(0)))
    client.exchange.advance(tape_replay.sessions[0].open_ns + 10 * MINUTE_NS)
    quote = client.get("/v2/stocks/IBM/quotes/latest")["quote"]
    bought, sold = client.submit("IBM"), client.submit("IBM", side="sell")

    prices = [float(client.get(f"/v2/orders/{o['id']}")["filled_avg_price"]) for o in (bought, sold)]
    assert prices == [quote["ap"], quote["bp"]]


def test_a_limit_fills_at_the_first_quote_that_meets_it_and_not_before(begin: Any, tape_replay: MarketReplay) -> None:
    client = begin(costs=CostRules(slippage_bps=Decimal(0)))
    client.exchange.advance(tape_replay.sessions[0].open_ns + MINUTE_NS)
    offered = client.get("/v2/stocks/IBM/quotes/latest")["quote"]["ap"]
    limit = round(offered - 0.15, 2)
    order = client.submit("IBM", limit_price=str(limit))
    client.exchange.advance(tape_replay.sessions[0].close_ns)
    quotes = client.get("/v2/stocks/quotes", symbols="IBM", start=order["created_at"], limit="10000")["quotes"]["IBM"]
    met = next((q for q in quotes if q["ap"] <= limit), None)
    found = client.get(f"/v2/orders/{order['id']}")

    assert met is not None, "the path of this seed goes there"
    assert (found["status"], float(found["filled_avg_price"])) == ("filled", met["ap"])
    assert found["filled_at"][:19] == met["t"][:19]


def test_a_stop_is_set_off_by_a_trade(begin: Any, tape_replay: MarketReplay) -> None:
    client = begin()
    client.exchange.advance(tape_replay.sessions[0].open_ns + MINUTE_NS)
    last = client.get("/v2/stocks/IBM/trades/latest")["trade"]["p"]
    order = client.submit("IBM", type="stop", stop_price=str(round(last + 0.2, 2)))
    client.exchange.advance(tape_replay.sessions[0].close_ns)
    trades = client.get("/v2/stocks/trades", symbols="IBM", start=order["created_at"], limit="10000")["trades"]["IBM"]
    reached = next(t for t in trades if t["p"] >= round(last + 0.2, 2))

    assert client.get(f"/v2/orders/{order['id']}")["filled_at"][:19] == reached["t"][:19]


def test_everything_in_one_leap_is_everything_minute_by_minute(begin: Any, tape_replay: MarketReplay) -> None:
    after = tape_replay.sessions[0].close_ns
    leap, walk = begin(seed=2, start_ns=after), begin(seed=2, start_ns=after)
    for client in (leap, walk):
        client.submit("IBM", "100", time_in_force="gtc", limit_price="188.00")
        client.submit("AAPL", "10")
    leap.exchange.advance(tape_replay.sessions[2].close_ns)
    while (at := walk.exchange.next_event_ns()) is not None and at <= tape_replay.sessions[2].close_ns:
        walk.exchange.advance(at)

    assert json.dumps(leap.exchange.truth(), sort_keys=True) == json.dumps(walk.exchange.truth(), sort_keys=True)


def test_born_in_the_middle_of_a_session_it_knows_the_market(begin: Any, tape_replay: MarketReplay) -> None:
    now = tape_replay.sessions[1].open_ns + 45 * MINUTE_NS
    late, early = begin(start_ns=now), begin()
    early.exchange.advance(now)

    assert late.exchange.marks == early.exchange.marks
    assert late.exchange.quotes == early.exchange.quotes
    assert late.get("/v2/stocks/IBM/bars/latest") == early.get("/v2/stocks/IBM/bars/latest")
