"""Portfolio history, watchlists, settings, dividends, and the plan's limit of symbols."""

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from algo_royale.errors import BadInput
from algo_royale.exchange.control import control
from algo_royale.exchange.journal import Journal


def test_history_has_the_equity_of_every_close_and_counts_from_the_one_before(client: Any) -> None:
    """10 AAPL bought at 20.01: the closes 20.50, 21.00 and 20.25 are worth 4.90, 9.90 and 2.40 more than was paid."""
    client.submit()
    client.step(6)
    found = client.get("/v2/account/portfolio/history", period="1M", timeframe="1D")

    assert found["equity"] == [100_004.9, 100_009.9, 100_002.4]
    assert found["profit_loss"] == pytest.approx([4.9, 9.9, 2.4])
    assert found["profit_loss_pct"] == pytest.approx([4.9e-5, 9.9e-5, 2.4e-5])
    assert (found["base_value"], found["timeframe"]) == (100_000, "1D")
    assert found["timestamp"] == [s.close_ns // 10**9 for s in client.exchange.replay.sessions[1:4]]

    later = client.get("/v2/account/portfolio/history", start="2012-11-15T00:00:00Z", timeframe="1D")
    assert (later["base_value"], later["equity"]) == (100_009.9, [100_002.4])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"period": "1X"}, "invalid period: 1X"), ({"timeframe": "2Min"}, "invalid timeframe: 2Min"),
        ({"period": "1A", "timeframe": "1Min"}, "only 1D timeframe is allowed for periods of more than 30 days"),
        ({"start": "2012-11-01", "end": "2012-11-02", "period": "1D"}, "only two of start, end and period can be specified at the same time"),
    ],
)  # fmt: skip
def test_a_wrong_history_is_refused(client: Any, query: dict[str, str], message: str) -> None:
    answer = client.ask("GET", "/v2/account/portfolio/history", query)

    assert (answer.status, answer.json["message"]) == (422, message)


def test_a_watchlist_is_made_changed_found_by_name_and_deleted(client: Any) -> None:
    made = client.ask("POST", "/v2/watchlists", body={"name": "mine", "symbols": ["IBM"]}).json
    path = f"/v2/watchlists/{made['id']}"
    assert [asset["symbol"] for asset in made["assets"]] == ["IBM"]
    client.ask("POST", path, body={"symbol": "AAPL"})
    client.ask("DELETE", f"{path}/IBM")
    assert [a["symbol"] for a in client.get("/v2/watchlists:by_name", name="mine")["assets"]] == ["AAPL"]
    client.ask("PUT", path, body={"name": "ours", "symbols": ["IBM", "AAPL"]})
    assert client.get(path)["name"] == "ours"
    assert [found["name"] for found in client.get("/v2/watchlists")] == ["ours"]
    again = client.ask("POST", "/v2/watchlists", body={"name": "ours", "symbols": []})
    assert (again.status, again.json["message"]) == (422, "watchlist name must be unique")
    assert client.ask("POST", path, body={"symbol": "ZZZZ"}).status == 422

    assert client.ask("DELETE", path).status == 204
    assert client.ask("GET", path).status == 404


def test_a_person_can_stop_the_account_from_trading(client: Any) -> None:
    assert client.get("/v2/account/configurations")["suspend_trade"] is False
    changed = client.ask("PATCH", "/v2/account/configurations", body={"suspend_trade": True}).json
    assert changed["suspend_trade"] is True

    answer = client.order()

    assert (answer.status, answer.json["message"]) == (403, "new orders are rejected by user request")
    assert client.ask("PATCH", "/v2/account/configurations", body={"suspend_trade": "yes"}).status == 422
    assert client.ask("PATCH", "/v2/account/configurations", body={"sleep": 1}).status == 422


def test_a_dividend_is_paid_to_those_who_held_the_share_overnight(start: Any) -> None:
    """IBM pays 0.85 on 2012-11-15."""
    client = start(pay_dividends=True)
    client.hold("IBM", "10")
    before = Decimal(client.get("/v2/account")["cash"])
    client.to_open_of(date(2012, 11, 15))
    (paid,) = client.get("/v2/account/activities/DIV")

    assert Decimal(client.get("/v2/account")["cash"]) - before == Decimal("8.50")
    assert (paid["symbol"], paid["qty"], paid["per_share_amount"], paid["net_amount"]) == ("IBM", "10", "0.85", "8.5")


def test_a_paper_account_is_paid_no_dividend(client: Any) -> None:
    client.hold("IBM", "10")
    client.to_open_of(date(2012, 11, 15))

    assert client.get("/v2/account/activities/DIV") == []


def test_more_symbols_than_the_plan_has_are_refused_and_the_old_ones_kept(start: Any) -> None:
    client = start(symbols_max=2)
    stream = client.exchange.open_stream("data", client.headers)
    stream.receive('{"action":"subscribe","trades":["AAPL"],"quotes":["IBM"],"bars":["FB"]}')
    stream.outbox.clear()
    stream.receive('{"action":"subscribe","quotes":["FB"]}')
    stream.receive('{"action":"subscribe","quotes":["AAPL"]}')

    told = [json.loads(frame)[0] for frame in stream.outbox]
    assert (told[0]["code"], told[0]["msg"]) == (405, "symbol limit exceeded")
    assert (told[1]["trades"], told[1]["quotes"]) == (["AAPL"], ["IBM", "AAPL"])


def test_a_journal_is_lived_through_again_with_the_time_since_the_last_request(start: Any, tmp_path: Path) -> None:
    path, body = tmp_path / "state.jsonl", b'{"symbol":"IBM"}'
    client = start()
    journal = Journal(path, client.exchange, "one")
    journal.request("POST", "/sim/halt", {}, body)
    control(client.exchange, "/sim/halt", body)
    assert client.exchange.halted
    client.exchange.advance(client.exchange.now_ns + 10**12)
    for _ in range(2):
        journal.time()

    assert path.read_bytes().count(b"\n") == 3, "who it is of, the request, and the time once"
    again = start()
    Journal(path, again.exchange, "one")
    assert again.exchange.now_ns == client.exchange.now_ns and again.exchange.halted == client.exchange.halted
    with pytest.raises(BadInput, match="is the state of another exchange"):
        Journal(path, start().exchange, "two")
