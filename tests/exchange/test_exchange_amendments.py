"""What is said of a trade afterwards, on the stream and over REST; executions that are undone; fees that are told of.

The bars that are expected are made here, one trade at a time, from the trades, corrections and cancellations that were streamed.
"""

import json
from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest

from algo_royale.costs import CostRules
from algo_royale.exchange.amendments import Amended, Amendment
from algo_royale.exchange.control import control
from algo_royale.exchange.replay import MarketReplay
from algo_royale.sessions import calendar

SECOND_NS, MINUTE_NS = 1_000_000_000, 60_000_000_000
ALL = {"trades": ["*"], "bars": ["*"], "updatedBars": ["*"], "dailyBars": ["*"]}


def say(client: Any, name: str, **body: Any) -> Any:
    answer = control(client.exchange, f"/sim/{name}", json.dumps(body).encode())
    assert answer.status == 200, answer
    return answer.json


def at_minute(tape_replay: MarketReplay, minutes: float) -> int:
    return tape_replay.sessions[0].open_ns + int(minutes * MINUTE_NS)


def minute_bar(client: Any, start: str) -> Any:
    bars = client.get("/v2/stocks/bars", symbols="IBM", timeframe="1Min", start=start, end=start)["bars"].get("IBM")
    return bars[0] if bars else None


def test_a_late_trade_comes_at_once_and_its_minute_again_at_the_half_of_the_next(
    begin: Any, tape_replay: MarketReplay
) -> None:
    client = begin()
    client.exchange.advance(at_minute(tape_replay, 10) + 5 * SECOND_NS)
    stream = client.subscribed(**ALL)
    told = client.get("/v2/stocks/IBM/bars/latest")["bar"]
    say(client, "amend", kind="late", symbol="IBM", price=999.5, size=7, ago_s=10)
    late = client.heard(stream)["t"]
    say(client, "amend", kind="late", symbol="IBM", price=999.25, size=2, ago_s=10)
    client.heard(stream)
    client.exchange.advance(at_minute(tape_replay, 10.5) - 1)
    assert "u" not in client.heard(stream)
    client.exchange.advance(at_minute(tape_replay, 10.5))
    (again,) = client.heard(stream)["u"]  # once, for both

    assert [(t["p"], t["s"], t["t"]) for t in late] == [(999.5, 7, "2012-11-19T14:39:55Z")]
    assert (again["t"], again["v"], again["h"], again["c"]) == (told["t"], told["v"] + 9, 999.5, 999.25)
    assert {k: v for k, v in again.items() if k not in ("T", "S")} == minute_bar(client, told["t"])
    trades = client.get("/v2/stocks/IBM/trades", start="2012-11-19", limit="10000")["trades"]
    assert [t["i"] for t in trades if t["p"] == 999.5] == [late[0]["i"]]


def test_a_late_trade_of_the_minute_that_runs_is_in_its_bar(begin: Any, tape_replay: MarketReplay) -> None:
    client = begin()
    client.exchange.advance(at_minute(tape_replay, 10) + 20 * SECOND_NS)
    stream = client.subscribed(**ALL)
    say(client, "amend", kind="late", symbol="IBM", price=999.5, size=7, ago_s=10)
    client.exchange.advance(at_minute(tape_replay, 12))
    told = client.heard(stream)

    assert next(bar["h"] for bar in told["b"] if bar["S"] == "IBM") == 999.5 and "u" not in told


def test_after_the_close_the_days_bar_is_told_again_with_the_minutes(begin: Any, tape_replay: MarketReplay) -> None:
    client = begin()
    close = tape_replay.sessions[0].close_ns
    client.exchange.advance(close + 5 * SECOND_NS)
    before = client.get("/v2/stocks/IBM/snapshot")["dailyBar"]
    stream = client.subscribed(**ALL)
    say(client, "amend", kind="late", symbol="IBM", price=999.5, size=7, ago_s=10)
    client.exchange.advance(close + 31 * SECOND_NS)
    told = client.heard(stream)

    assert len(told["u"]) == 1 and len(told["d"]) == 1 and "b" not in told
    assert (told["d"][0]["v"], told["d"][0]["h"]) == (before["v"] + 7, 999.5)


def test_a_correction_reaches_those_who_hear_trades_and_history_tells_of_both(
    begin: Any, tape_replay: MarketReplay
) -> None:
    client = begin()
    client.exchange.advance(at_minute(tape_replay, 10) + 5 * SECOND_NS)
    stream = client.subscribed(trades=["IBM"])
    deaf = client.subscribed(bars=["IBM"])
    wrong = client.get("/v2/stocks/IBM/trades/latest")["trade"]
    numbers = say(client, "amend", kind="correct", symbol="IBM", price=12.34, size=5)
    (message,) = client.heard(stream)["c"]
    found = client.get("/v2/stocks/IBM/trades", start=wrong["t"])["trades"]

    assert numbers == {"number": wrong["i"], "corrected": message["ci"]}
    assert (message["oi"], message["op"], message["os"]) == (wrong["i"], wrong["p"], wrong["s"])
    assert (message["cp"], message["cs"], message["t"]) == (12.34, 5, "2012-11-19T14:40:05Z")
    assert [(t["i"], t["p"], t.get("u")) for t in found] == [
        (wrong["i"], wrong["p"], "incorrect"), (message["ci"], 12.34, "corrected"),
    ]  # fmt: skip
    assert client.get("/v2/stocks/IBM/trades/latest")["trade"]["p"] == 12.34
    assert client.exchange.marks["IBM"] == Decimal("12.34")
    assert not deaf.outbox


def test_a_canceled_trade_is_in_no_bar(begin: Any, tape_replay: MarketReplay) -> None:
    client = begin()
    client.exchange.advance(at_minute(tape_replay, 10) + 1)
    stream = client.subscribed(**ALL)
    minute = client.get("/v2/stocks/IBM/bars/latest")["bar"]
    trades = client.get("/v2/stocks/IBM/trades", start=minute["t"], end="2012-11-19T14:39:59.999999999Z")["trades"]
    say(client, "amend", kind="cancel", symbol="IBM", number=trades[0]["i"], action="E")
    (message,) = client.heard(stream)["x"]
    client.exchange.advance(at_minute(tape_replay, 11))

    assert (message["i"], message["p"], message["s"], message["a"]) == (
        trades[0]["i"], trades[0]["p"], trades[0]["s"], "E",
    )  # fmt: skip
    told = client.heard(stream)
    if len(trades) > 1:
        (again,) = told["u"]
        assert (again["v"], again["o"]) == (minute["v"] - trades[0]["s"], trades[1]["p"])
    else:
        assert "u" not in told and minute_bar(client, minute["t"]) is None
    answer = control(client.exchange, "/sim/amend", b'{"kind":"cancel","symbol":"IBM","number":%d}' % trades[0]["i"])
    assert answer.status == 404, "it is void already"


def test_what_waits_for_a_trade_that_became_void_is_not_told(tape_replay: MarketReplay) -> None:
    market = Amended(tape_replay, seed=1, share=0.0)
    cancel, correct = (
        Amendment(at_ns=at_minute(tape_replay, n), symbol="IBM", session=0, kind=kind, number=3, corrected=corrected)
        for n, kind, corrected in ((10, "cancel", 0), (10.25, "correct", 9_999))
    )
    market.add(correct)
    market.add(cancel)
    told, message = market.take()

    assert told == cancel and message is not None and message["T"] == "x"
    assert market.take() == (correct, None)


def test_the_latest_trade_is_one_that_is_valid(begin: Any, tape_replay: MarketReplay) -> None:
    client = begin()
    client.exchange.advance(at_minute(tape_replay, 10))

    def latest() -> Any:
        return client.get("/v2/stocks/IBM/trades/latest")["trade"], client.get("/v2/stocks/IBM/snapshot")["latestTrade"]

    first, _ = latest()
    say(client, "amend", symbol="IBM", kind="cancel")
    before, shown = latest()
    assert before["i"] == first["i"] - 1 and before == shown
    say(client, "amend", symbol="IBM", kind="correct", price=191.5, size=4)
    corrected, shown = latest()
    assert (corrected["p"], corrected["s"], corrected["t"]) == (191.5, 4, before["t"]) and corrected == shown


def test_with_a_share_of_amended_trades_bars_are_what_the_stream_said_about_trades(
    begin: Any, tape_replay: MarketReplay
) -> None:
    client = begin(amended_trades=Decimal("0.05"), seed=3)
    stream = client.subscribed(**ALL)
    client.exchange.advance(tape_replay.sessions[0].close_ns + 3 * MINUTE_NS)
    trades: dict[int, dict[str, Any]] = {}
    bars: dict[str, Any] = {}
    kinds: dict[str, int] = defaultdict(int)
    daily, late, newest = None, 0, ""
    for frame in stream.outbox:
        for m in json.loads(frame):
            kinds[m["T"]] += m.get("S") == "IBM"
            match m:
                case {"S": "IBM", "T": "t"}:
                    assert m["i"] not in trades, "each trade is told once, a late one late"
                    trades[m["i"]] = m
                    late, newest = late + (m["t"][:19] < newest), max(newest, m["t"][:19])
                case {"S": "IBM", "T": "c"}:
                    trades[m["ci"]] = {**trades.pop(m["oi"]), "p": m["cp"], "s": m["cs"], "i": m["ci"]}
                case {"S": "IBM", "T": "x"}:
                    del trades[m["i"]]
                case {"S": "IBM", "T": "b" | "u"}:
                    so_far = [t["s"] for t in trades.values() if t["t"][:16] == m["t"][:16]]
                    assert m["v"] == sum(so_far), "a bar is made of what was told before it"
                    bars[m["t"]] = {k: v for k, v in m.items() if k not in ("T", "S")}
                case {"S": "IBM", "T": "d"}:
                    daily = {k: v for k, v in m.items() if k not in ("T", "S")}
    minutes = defaultdict(list)
    for trade in sorted(trades.values(), key=lambda t: (t["t"].ljust(30, "0").replace("Z", "0"), t["i"])):
        minutes[trade["t"][:17] + "00Z"].append(trade)

    assert min(kinds[kind] for kind in "tcxub") > 5 and late > 5
    for start, made_of in minutes.items():
        p = [t["p"] for t in made_of]
        assert (bars[start]["h"], bars[start]["l"]) == (max(p), min(p))
        assert (bars[start]["v"], bars[start]["n"]) == (sum(t["s"] for t in made_of), len(p))
    found = client.get("/v2/stocks/bars", symbols="IBM", timeframe="1Min", start="2012-11-19", limit="1000")
    assert found["bars"]["IBM"] == [bars[t] for t in sorted(minutes)]
    (day,) = client.get("/v2/stocks/bars", symbols="IBM", timeframe="1Day", start="2012-11-19")["bars"]["IBM"]
    assert day == daily and day["v"] == sum(t["s"] for t in trades.values())
    assert day["h"] == max(t["p"] for t in trades.values())


def test_amended_trades_come_alike_in_one_leap_and_minute_by_minute(begin: Any, tape_replay: MarketReplay) -> None:
    said = []
    for leap in (True, False):
        client = begin(amended_trades=Decimal("0.02"), start_ns=tape_replay.sessions[0].close_ns)
        stream = client.subscribed(updatedBars=["*"], trades=["*"])
        client.submit("IBM", "100", limit_price="188.00")
        end = tape_replay.sessions[2].close_ns
        while not leap and (at := client.exchange.next_event_ns()) is not None and at <= end:
            client.exchange.advance(at)
        client.exchange.advance(end)
        said.append(([m for kind in client.heard(stream).values() for m in kind], client.exchange.truth()))

    assert said[0][0] == said[1][0] and said[0][0]
    assert said[0][1] == {**said[1][1], "sent": said[0][1]["sent"]}


def test_the_running_daily_bar_is_told_each_minute_and_is_the_snapshots(begin: Any, tape_replay: MarketReplay) -> None:
    client = begin()
    stream = client.subscribed(bars=["IBM"], dailyBars=["IBM"])
    client.exchange.advance(at_minute(tape_replay, 25))
    told = client.heard(stream)
    for n, day in enumerate(told["d"]):
        so_far = told["b"][: n + 1]
        assert (day["o"], day["c"], day["v"]) == (so_far[0]["o"], so_far[-1]["c"], sum(b["v"] for b in so_far))
        assert (day["h"], day["l"]) == (max(b["h"] for b in so_far), min(b["l"] for b in so_far))
        assert day["t"] == "2012-11-19T05:00:00Z"
    snapshot = client.get("/v2/stocks/snapshots", symbols="IBM")["IBM"]

    assert len(told["d"]) == len(told["b"]) == 25
    assert snapshot["dailyBar"] == {k: v for k, v in told["d"][-1].items() if k not in ("T", "S")}


def test_bands_are_five_per_cent_around_the_last_price_unless_they_are_said(client: Any) -> None:
    stream = client.subscribed(lulds=["AAPL"], statuses=["*"])
    client.to_open_of(calendar().next_session(client.exchange.now_ns).date)
    last = client.exchange.marks["AAPL"]
    say(client, "bands", symbol="AAPL")
    say(client, "bands", symbol="IBM")
    say(client, "bands", symbol="AAPL", up=30, down="9.5", indicator="A")
    say(client, "halt", symbol="IBM")
    told = client.heard(stream)

    assert [(m["u"], m["d"], m["i"]) for m in told["l"]] == [
        (float(last) * 1.05, float(last) * 0.95, "B"), (30.0, 9.5, "A"),
    ]  # fmt: skip
    assert [(m["S"], m["sc"]) for m in told["s"]] == [("IBM", "H")]


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("amend", b'{"kind":"late","symbol":"AAPL","price":1,"size":1}', 422), ("bands", b'{"symbol":"ZZZZ"}', 404),
        ("undo", b'{"execution_id":"none"}', 404), ("undo", b"[]", 400), ("halt", b"\xff", 400), ("amend", b'{"kind":"x"}', 400),
        ("undo", b'{"execution_id":"none","price":-1}', 422),
    ],
)  # fmt: skip
def test_what_cannot_be_done_at_the_exchange_is_refused(client: Any, name: str, body: bytes, status: int) -> None:
    assert control(client.exchange, f"/sim/{name}", body).status == status


@pytest.mark.parametrize("ago_s", [-1, 86_400, 10**9])
def test_a_late_trade_is_of_this_session_and_not_of_the_future(
    begin: Any, tape_replay: MarketReplay, ago_s: int
) -> None:
    client = begin()
    client.exchange.advance(at_minute(tape_replay, 10))
    body = json.dumps({"kind": "late", "symbol": "IBM", "price": 1, "size": 1, "ago_s": ago_s}).encode()

    assert control(client.exchange, "/sim/amend", body).status == 422
    assert not client.exchange.known.is_amended("IBM", 0)


# ------------------------------------------------------------------------------------------------ executions undone


def figures(client: Any) -> Any:
    account, positions = client.get("/v2/account"), client.get("/v2/positions")
    names = ("symbol", "qty", "qty_available", "avg_entry_price", "unrealized_pl", "unrealized_intraday_pl")
    return account["cash"], account["equity"], [{n: p[n] for n in names} for p in positions]


def test_a_busted_execution_never_was_in_the_books(start: Any) -> None:
    client, never = start(), start()
    for each in (client, never):
        each.submit("AAPL", "10", client_order_id="first")
        each.step()
    stream = client.listen()
    client.submit("AAPL", "7", client_order_id="busted")
    for each in (client, never):
        each.step(2)
        each.submit("IBM", "1", client_order_id="last")
        each.step()
    assert figures(client) != figures(never)
    fill = next(e for e in client.exchange.events if e["event"] == "fill" and e["client_order_id"] == "busted")
    stream.outbox.clear()
    say(client, "undo", execution_id=fill["execution_id"])
    told = [json.loads(frame)["data"] for frame in stream.outbox]

    assert figures(client) == figures(never)
    assert [(t["event"], t["previous_execution_id"], t["qty"], t["position_qty"]) for t in told] == [
        ("trade_bust", fill["execution_id"], "7", "10")
    ]
    assert (told[0]["order"]["filled_qty"], told[0]["order"]["status"]) == ("0", "filled")
    fills = client.get("/v2/account/activities/FILL")
    assert sum(Decimal(f["qty"]) for f in fills) == 11
    again = control(client.exchange, "/sim/undo", json.dumps({"execution_id": fill["execution_id"]}).encode())
    assert again.status == 404


def test_a_corrected_execution_costs_what_it_says_over_a_split_too(client: Any) -> None:
    client.submit("AAPL", "10", client_order_id="one")
    client.step(2)
    fill = next(e for e in client.exchange.events if e["event"] == "fill")
    while client.exchange.account.quantity("AAPL") == 10:
        client.step()
    say(client, "undo", execution_id=fill["execution_id"], price="20")
    position = client.get("/v2/positions/AAPL")

    assert (position["qty"], position["avg_entry_price"]) == ("20", "10")
    assert Decimal(client.get("/v2/account")["cash"]) == Decimal(100_000) - 200
    assert client.events()[-1] == ("trade_correct", "one")
    assert client.get("/v2/account/activities/FILL")[0]["price"] == "20"
    order = client.get("/v2/orders:by_client_order_id", client_order_id="one")
    assert (order["filled_qty"], order["filled_avg_price"]) == ("10", "20")


@pytest.mark.parametrize("price", ["60.03", None])
def test_what_a_sale_is_corrected_to_is_no_cost_of_what_was_kept(client: Any, price: str | None) -> None:
    """Ten bought at 20.01 in this session; five sold at a price that makes as much of them as the others cost, or not at all."""
    client.submit("AAPL", "10")
    client.step()
    client.submit("AAPL", "5", side="sell")
    sale = next(e for e in reversed(client.exchange.events) if e["event"] == "fill")
    say(client, "undo", execution_id=sale["execution_id"], **({} if price is None else {"price": price}))
    position = client.get("/v2/positions/AAPL")

    cost = Decimal("20.01") * Decimal(position["qty"])
    assert position["qty"] == ("5" if price else "10")
    assert Decimal(position["market_value"]) - Decimal(position["unrealized_intraday_pl"]) == cost


def test_the_fees_of_a_busted_sale_are_not_told(start: Any) -> None:
    client = start(costs=CostRules(sec_fee_per_million=Decimal("20.6")))
    client.hold("AAPL", "1000")
    client.step()
    client.submit("AAPL", "400", side="sell")
    sale = next(e for e in reversed(client.exchange.events) if e["event"] == "fill")
    say(client, "undo", execution_id=sale["execution_id"])
    client.step()

    assert client.exchange.truth()["fees"] == "0"
    assert client.get("/v2/account/activities/FEE") == []


def test_orders_that_would_close_what_was_busted_are_canceled(client: Any) -> None:
    client.hold("AAPL", "10")
    client.submit("AAPL", "6", side="sell", limit_price="90", time_in_force="gtc", client_order_id="exit")
    fill = next(e for e in client.exchange.events if e["event"] == "fill")
    say(client, "undo", execution_id=fill["execution_id"])

    assert client.events()[-2:] == [("trade_bust", fill["client_order_id"]), ("canceled", "exit")]
    assert client.get("/v2/positions") == []


def test_the_days_regulatory_fees_are_told_once_as_an_activity(start: Any) -> None:
    rules = CostRules(slippage_bps=Decimal(0), price_tick=Decimal("0.01"), sec_fee_per_million=Decimal("20.6"),
                      taf_per_share=Decimal("0.000195"), taf_cap=Decimal("9.79"))  # fmt: skip
    client = start(costs=rules)
    client.hold("AAPL", "1000")
    client.submit("AAPL", "400", side="sell")
    client.step()
    client.submit("AAPL", "600", side="sell")
    client.step()
    (fee,) = client.get("/v2/account/activities/FEE")
    sold = [f for f in client.get("/v2/account/activities/FILL") if f["side"] == "sell"]
    expected = sum(
        round(
            Decimal(f["qty"]) * Decimal(f["price"]) * Decimal("0.0000206") + Decimal(f["qty"]) * Decimal("0.000195"), 2
        )
        for f in sold
    )

    assert Decimal(fee["net_amount"]) == -expected and expected > 0
    assert (fee["date"], fee["description"]) == ("2012-11-14", "Regulatory fees of 2 sales")
    assert client.exchange.truth()["fees"] == str(expected)
    client.step(2)
    assert client.get("/v2/account/activities/FEE") == [fee]
