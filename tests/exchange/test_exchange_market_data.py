"""Clock, calendar, assets, historical bars and corporate actions: what is known when, and in which pages."""

from datetime import date
from typing import Any

import pytest

NOVEMBER = {"start": "2012-11-01", "end": "2012-12-31", "timeframe": "1Day"}


def closes(answer: Any, symbol: str = "AAPL") -> list[float]:
    return [bar["c"] for bar in answer["bars"].get(symbol, [])]


def test_a_bar_appears_when_its_session_has_closed_and_not_before(client: Any, replay: Any) -> None:
    session = replay.sessions[1]
    for ns, count in [(session.open_ns, 1), (session.close_ns - 1, 1), (session.close_ns, 2)]:
        client.exchange.advance(ns)
        assert len(closes(client.get("/v2/stocks/bars", symbols="AAPL", **NOVEMBER))) == count


def test_a_bar_has_every_field_and_starts_at_midnight_in_new_york(client: Any) -> None:
    (bar,) = client.get("/v2/stocks/bars", symbols="AAPL", **NOVEMBER)["bars"]["AAPL"]
    assert bar == {"t": "2012-11-12T05:00:00Z", "o": 20.0, "h": 20.2, "l": 19.8, "c": 20.0, "v": 1000, "n": 0, "vw": 0}


def test_start_and_end_are_inclusive_and_a_date_means_its_bar(client: Any) -> None:
    client.step(8)

    def asked(start: str, end: str) -> list[float]:
        return closes(client.get("/v2/stocks/bars", symbols="AAPL", timeframe="1D", start=start, end=end))

    assert asked("2012-11-13", "2012-11-14") == [20.5, 21.0]
    assert asked("2012-11-13T06:00:00+01:00", "2012-11-13T10:30:00+05:30") == [20.5]
    assert asked("2012-11-13T06:00:00.000000001+01:00", "2012-11-14") == [21.0]
    assert asked("2012-11-13T05:00:00Z", "2012-11-14T04:59:59.999999999Z") == [20.5]
    assert asked("2012-11-13T00:00:00.000000001-05:00", "2012-11-14T00:00:00-05:00") == [21.0]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_pages_of_any_size_hold_what_one_page_holds(client: Any, limit: int, sort: str) -> None:
    client.step(10)
    whole = client.get("/v2/stocks/bars", symbols="IBM,AAPL,ZZZZ", sort=sort, **NOVEMBER)
    assert (whole["next_page_token"], list(whole["bars"])) == (None, ["AAPL", "IBM"])

    joined: dict[str, list[Any]] = {}
    query = {"symbols": "IBM,AAPL,ZZZZ", "sort": sort, "limit": str(limit), **NOVEMBER}
    for _ in range(30):
        page = client.get("/v2/stocks/bars", **query)
        assert 0 < sum(map(len, page["bars"].values())) <= limit
        for symbol, bars in page["bars"].items():
            joined.setdefault(symbol, []).extend(bars)
        if page["next_page_token"] is None:
            break
        query["page_token"] = page["next_page_token"]

    assert joined == whole["bars"]
    times = [bar["t"] for bar in joined["AAPL"]]
    assert times == sorted(times, reverse=sort == "desc")


def test_no_bars_are_an_empty_object(client: Any) -> None:
    assert client.get("/v2/stocks/bars", symbols="ZZZZ", **NOVEMBER)["bars"] == {}
    assert client.get("/v2/stocks/ZZZZ/bars", **NOVEMBER)["bars"] == []


def test_one_symbol_has_a_path_of_its_own(client: Any) -> None:
    both = client.get("/v2/stocks/bars", symbols="AAPL", **NOVEMBER)
    one = client.get("/v2/stocks/AAPL/bars", **NOVEMBER)
    assert (one["symbol"], one["bars"]) == ("AAPL", both["bars"]["AAPL"])


def test_splits_adjust_the_past_from_their_ex_date_on(client: Any) -> None:
    client.to_open_of(date(2012, 11, 20))
    before = client.get("/v2/stocks/bars", symbols="AAPL", adjustment="split", **NOVEMBER)["bars"]["AAPL"]
    client.to_open_of(date(2012, 11, 21))
    after = client.get("/v2/stocks/bars", symbols="AAPL", adjustment="split", **NOVEMBER)["bars"]["AAPL"]

    assert (before[0]["c"], before[0]["v"]) == (20.0, 1000)
    assert (after[0]["o"], after[0]["h"], after[0]["l"], after[0]["c"], after[0]["v"]) == (10.0, 10.1, 9.9, 10.0, 2000)
    assert after[-1]["c"] == 10.875  # the day before: 21.75
    client.step(1)
    assert closes(client.get("/v2/stocks/bars", symbols="AAPL", adjustment="all", **NOVEMBER))[-1] == 11.0


def test_dividends_adjust_prices_by_their_share_of_the_close_before(client: Any) -> None:
    client.to_open_of(date(2012, 11, 15))
    factor = 1 - 0.85 / 192.0  # the raw close of the 14th

    adjusted = client.get("/v2/stocks/bars", symbols="IBM", adjustment="dividend", **NOVEMBER)["bars"]["IBM"]

    assert [bar["c"] for bar in adjusted] == pytest.approx([190 * factor, 191 * factor, 192 * factor], rel=1e-12)
    assert adjusted[0]["v"] == 1000
    combined = client.get("/v2/stocks/bars", symbols="IBM", adjustment="split,dividend", **NOVEMBER)
    assert combined == client.get("/v2/stocks/bars", symbols="IBM", adjustment="all", **NOVEMBER)
    assert closes(client.get("/v2/stocks/bars", symbols="IBM", adjustment="split", **NOVEMBER), "IBM") == [
        190,
        191,
        192,
    ]


def test_corporate_actions_are_known_the_evening_before(client: Any) -> None:
    def known() -> Any:
        return client.get("/v1/corporate-actions", start="2012-11-01", end="2012-12-31")["corporate_actions"]

    assert known() == {}
    client.to_open_of(date(2012, 11, 14))
    client.step()
    (dividend,) = known()["cash_dividends"]
    assert (dividend["symbol"], dividend["rate"], dividend["ex_date"]) == ("IBM", 0.85, "2012-11-15")
    client.to_open_of(date(2012, 11, 21))
    (split,) = known()["forward_splits"]
    assert (split["symbol"], split["new_rate"], split["old_rate"]) == ("AAPL", 2, 1)


def test_corporate_actions_are_filtered_and_paged(client: Any) -> None:
    client.to_open_of(date(2012, 11, 21))
    window = {"start": "2012-11-01", "end": "2012-12-31"}

    def kinds(**query: str) -> list[str]:
        return list(client.get("/v1/corporate-actions", **{**window, **query})["corporate_actions"])

    assert kinds(types="forward_split") == ["forward_splits"]
    assert kinds(symbols="IBM") == ["cash_dividends"]
    assert kinds(end="2012-11-14") == []
    first = client.get("/v1/corporate-actions", limit="1", **window)
    second = client.get("/v1/corporate-actions", limit="1", page_token=first["next_page_token"], **window)
    assert list(first["corporate_actions"]) + list(second["corporate_actions"]) == ["cash_dividends", "forward_splits"]
    assert second["next_page_token"] is None


def test_the_clock_follows_sessions_and_speaks_new_york_time(client: Any, replay: Any) -> None:
    second = replay.sessions[1]
    before = client.get("/v2/clock")
    assert before == {
        "timestamp": "2012-11-12T16:00:00-05:00", "is_open": False,
        "next_open": "2012-11-13T09:30:00-05:00", "next_close": "2012-11-13T16:00:00-05:00",
    }  # fmt: skip
    client.exchange.advance(second.open_ns)
    assert (client.get("/v2/clock")["is_open"], client.get("/v2/clock")["next_open"]) == (
        True,
        "2012-11-14T09:30:00-05:00",
    )
    client.exchange.advance(second.close_ns - 1)
    clock = client.get("/v2/clock")
    assert (clock["is_open"], clock["timestamp"]) == (True, "2012-11-13T15:59:59.999999999-05:00")
    client.exchange.advance(second.close_ns)
    assert client.get("/v2/clock")["is_open"] is False


def test_the_calendar_knows_holidays_and_half_days(client: Any) -> None:
    days = client.get("/v2/calendar", start="2012-11-21", end="2012-11-26")
    assert [(d["date"], d["open"], d["close"], d["settlement_date"]) for d in days] == [
        ("2012-11-21", "09:30", "16:00", "2012-11-23"),
        ("2012-11-23", "09:30", "13:00", "2012-11-26"),
        ("2012-11-26", "09:30", "16:00", "2012-11-27"),
    ]
    assert client.get("/v2/calendar", start="2012-11-26", end="2012-11-21") == []
    everything = client.get("/v2/calendar")
    assert (everything[0]["date"], everything[-1]["date"]) == ("1998-01-02", "2035-12-31")


def test_assets_are_what_is_replayed(client: Any) -> None:
    listed = {asset["symbol"]: asset for asset in client.get("/v2/assets", status="active", asset_class="us_equity")}
    assert {s: (a["exchange"], a["tradable"]) for s, a in listed.items()} == {
        "AAPL": ("NASDAQ", True), "FB": ("NASDAQ", False), "IBM": ("NYSE", True),
    }  # fmt: skip
    assert client.get("/v2/assets/" + listed["IBM"]["id"]) == client.get("/v2/assets/IBM")
    assert [a["symbol"] for a in client.get("/v2/assets", exchange="NYSE")] == ["IBM"]
    assert client.get("/v2/assets", asset_class="crypto") == client.get("/v2/assets", status="inactive") == []


def test_streamed_bars_are_those_that_history_gives_afterwards(client: Any) -> None:
    import json

    stream = client.watch("*")
    client.step(26)
    streamed: dict[str, list[Any]] = {}
    for frame in stream.outbox:
        for bar in json.loads(frame):
            assert bar.pop("T") == "d"
            streamed.setdefault(bar.pop("S"), []).append(bar)

    history = client.get("/v2/stocks/bars", symbols="AAPL,IBM,FB", **{**NOVEMBER, "start": "2012-11-13"})

    assert streamed == history["bars"]
    assert len(stream.outbox) == 13  # one frame per session, whatever the number of symbols
