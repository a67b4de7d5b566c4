"""Alpaca's JSON into our types: recorded traffic, documented conversations, and whatever else a wire may carry."""

import contextlib
import json
from datetime import UTC, datetime
from decimal import Decimal as D
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.broker import alpaca_wire as wire
from algo_royale.broker.alpaca_wire import BadWire
from algo_royale.market import Timeframe
from algo_royale.sessions import calendar
from conftest import shared

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def recorded(name: str) -> Any:
    return json.loads(shared(f"alpaca/recorded_2026-07-24/{name}.json").read_text())


# --- times and numbers ---


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-07-24T14:42:50.129256359Z", 1_784_904_170_129_256_359),
        ("2026-07-24T14:42:50.1Z", 1_784_904_170_100_000_000),
        ("2026-07-24T10:42:50.129256359-04:00", 1_784_904_170_129_256_359),
        ("1969-12-31T23:59:59.999999999Z", -1),
    ],
)
def test_times_keep_their_nanoseconds(text: str, at: int) -> None:
    """`datetime` and the SDK stop at microseconds."""
    assert wire.parse_time_ns(text) == at


@given(st.integers(0, 4_102_444_800_000_000_000))
def test_a_time_survives_the_round_trip_and_is_spelled_as_the_broker_does(at_ns: int) -> None:
    text = wire.format_time(at_ns)

    assert wire.parse_time_ns(text) == at_ns
    assert datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp() == at_ns // 10**9
    assert text.endswith("Z") and not ("." in text and text.endswith("0Z"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-07-24T14:42:50",
        "2026-07-24T14:42:50.12x4Z",
        None,
        12,
        "0001-01-01T00:00:00Z",
        "9999-01-01T00:00:00Z",
    ],
)
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(BadWire):
        wire.parse_time_ns(text)


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "ten", [], {}, True, "1e400", "1e999999999", "1e-999999999", 10**30]
)
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(BadWire, match="qty"):
        wire.decimal({"qty": value}, "qty")


ORDER = {
    "id": "b-1",
    "client_order_id": "ar-1",
    "symbol": "IBM",
    "side": "buy",
    "status": "new",
    "qty": "3",
    "filled_qty": "0",
}
FILL = {
    "id": "a::e-1", "order_id": "b-1", "symbol": "IBM", "side": "buy", "qty": "3", "cum_qty": "3", "price": "9",
    "transaction_time": "2026-07-24T14:42:50Z",
}  # fmt: skip
UPDATE = {
    "event": "fill",
    "order": {**ORDER, "filled_qty": "3"},
    "execution_id": "e-1",
    "qty": "3",
    "price": "9",
    "timestamp": "2026-07-24T14:42:50Z",
}
BAR = {"t": "2026-07-24T14:42:00Z", "o": 1, "h": 2, "l": 1, "c": 2, "v": 5, "vw": 1.5, "n": 3}
SNAPSHOT = {"IBM": {"latestTrade": {"p": 9}, "latestQuote": {"bp": 8, "ap": 10}}}
ACTIONS = {
    "forward_splits": [{"symbol": "IBM", "ex_date": "2026-07-24", "new_rate": 2, "old_rate": 1}],
    "cash_dividends": [{"symbol": "IBM", "ex_date": "2026-07-24", "rate": 1}],
}


@pytest.mark.parametrize(
    ("read", "whole", "wrong"),
    [
        (wire.parse_order, ORDER, {"qty": "-3"}),
        (wire.parse_order, ORDER, {"filled_qty": "-1"}),
        (wire.parse_order, ORDER, {"symbol": "A" * 257}),
        (wire.parse_order, ORDER, {"status": "\x1b[2Jnew"}),
        (wire.parse_order, ORDER, {"id": "\ud800"}),  # no text that can be stored
        (wire.parse_order, ORDER, {"replaces": 7}),
        (wire.parse_fill, FILL, {"qty": "-3"}),
        (wire.parse_fill, FILL, {"qty": "0"}),
        (wire.parse_fill, FILL, {"cum_qty": "-3"}),
        (wire.parse_fill, FILL, {"price": "-9"}),
        (wire.parse_fill, FILL, {"transaction_time": "9999-07-24T14:42:50Z"}),
        (wire.parse_trade_update, UPDATE, {"qty": "-3"}),
        (wire.parse_trade_update, UPDATE, {"order": ORDER}),
        (wire.parse_trade_update, UPDATE, {"price": "0"}),
        (wire.seen, SNAPSHOT, {"IBM": ["latestTrade"]}),
        (wire.seen, SNAPSHOT, {"IBM": {"latestTrade": 7}}),
        (wire.actions, ACTIONS, {"cash_dividends": [None]}),
        (wire.actions, ACTIONS, {"cash_dividends": 7}),
        (wire.actions, ACTIONS, {"cash_dividends": [{"symbol": "IBM", "ex_date": "2026-07-24", "rate": -1}]}),
        (
            wire.actions,
            ACTIONS,
            {"forward_splits": [{"symbol": "IBM", "ex_date": "2026-07-24", "new_rate": 0, "old_rate": 1}]},
        ),
    ],
)
def test_what_cannot_be_true_is_refused(read: Any, whole: dict[str, Any], wrong: dict[str, Any]) -> None:
    """In a word that can be printed and stored whatever it is about."""
    read(whole)
    with pytest.raises(BadWire) as refused:
        read({**whole, **wrong})
    assert len(str(refused.value)) < 200 and str(refused.value).isprintable()


@pytest.mark.parametrize(
    "payload", [b"\xc7\x0c\xd4\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c", b"\xd4\x05\xff"]
)
def test_extensions_of_msgpack_are_no_frames(payload: bytes) -> None:
    for parse in (wire.parse_trading_frame, wire.parse_data_frame):
        with pytest.raises(BadWire):
            parse(wire.frame_text(payload))


ODD = JSON | st.sampled_from(["1e999999999", "-3", "\ud800", "\x1b[2J", "x" * 999, "9999-01-01T00:00:00Z"])
READERS = [
    (wire.parse_order, ORDER), (wire.parse_fill, FILL), (wire.parse_trade_update, UPDATE), (wire.seen, SNAPSHOT),
    (lambda found: wire.seen({"IBM": found}), SNAPSHOT["IBM"]), (wire.actions, ACTIONS),
    (lambda found: wire.actions({"cash_dividends": [found]}), ACTIONS["cash_dividends"][0]),
    (lambda found: wire.bar_row(found, timeframe=Timeframe.MIN_1, calendar=calendar(), within_ns=range(0, 2 * 10**18)), BAR),
    (lambda found: wire.parse_position({"symbol": "IBM", "qty": "1", "avg_entry_price": "2"} | found), {"qty": "1"}),
    (lambda found: wire.parse_account({"account_number": "1", "cash": "1", "equity": "2"} | found), {"cash": "1"}),
]  # fmt: skip


@given(st.data())
def test_with_anything_anywhere_an_answer_is_read_or_refused(data: st.DataObject) -> None:
    """And what is read can be written down."""
    read, whole = data.draw(st.sampled_from(READERS))
    odd = {**whole, **data.draw(st.dictionaries(st.sampled_from(sorted(whole)), ODD, max_size=3))}
    with contextlib.suppress(BadWire):
        msgspec.json.encode(read(odd), enc_hook=str)


def test_quantities_leave_as_strings_without_exponents() -> None:
    """Whatever its spelling here, no float and no 1E+2 reaches the broker."""
    body = wire.order_body(
        client_order_id="ar-1", symbol="KO", side="buy", quantity=D("1E+2"), order_type="limit", time_in_force="day",
        limit_price=D("86.50"),
    )  # fmt: skip

    assert body == {
        "client_order_id": "ar-1", "symbol": "KO", "side": "buy", "qty": "100", "type": "limit", "time_in_force": "day",
        "limit_price": "86.50",
    }  # fmt: skip


# --- recorded traffic ---


def test_recorded_trade_updates_read_as_the_order_lived() -> None:
    """pending_new, new, fill; price and quantity are this fill's, and position is after it."""
    frames = [wire.parse_trading_frame(json.dumps(frame)) for frame in recorded("trade_updates")]

    assert [(f.kind, f.ok) for f in frames[:2]] == [("authorization", True), ("listening", True)]
    updates = [f.update for f in frames if f.update is not None]
    assert len(updates) == len(frames) - 2
    assert [u.event for u in updates][:3] == ["pending_new", "new", "fill"]
    fill = updates[2]
    assert (fill.fill_price_usd, fill.fill_quantity, fill.position_quantity) == (D("737.91"), D(1), D(1))
    assert fill.execution_id
    assert updates[0].execution_id is None
    assert fill.order.filled_quantity == D(1)


def test_recorded_account_orders_positions_and_activities_are_read() -> None:
    account = wire.parse_account(recorded("account"))
    orders = [wire.parse_order(item) for item in recorded("orders")]
    positions = [wire.parse_position(item) for item in recorded("positions")]
    fill, deposit = recorded("activities")

    assert (account.cash_usd, account.equity_usd, account.is_blocked) == (D(100_000), D(100_000), False)
    assert orders[0].submitted_ns == 1_784_904_169_356_957_709
    assert (orders[0].status, orders[0].filled_quantity) == ("filled", D(1))
    assert [(p.symbol, p.quantity) for p in positions] == [("SPY", D(1)), ("TSLA", D(-3))]
    parsed = wire.parse_fill(fill)
    assert (parsed.quantity, parsed.cumulative_quantity, parsed.price_usd) == (D(1), D(1), D("737.91"))
    entry = wire.parse_entry(deposit)
    assert (entry.kind, entry.cash_usd, entry.quantity) == ("jnlc", D(100_000), D(0))


def test_a_dividend_moves_cash_and_not_the_shares_that_it_is_paid_for() -> None:
    """The example of Alpaca's OpenAPI file; its `qty` is what contributed to the payment. One in shares has no cash."""
    told = {
        "activity_type": "DIV", "activity_sub_type": "SDIV", "created_at": "2021-05-10T14:01:04.650275Z", "date": "2019-08-01",
        "id": "20190801011955195::5f596936", "net_amount": "1.02", "per_share_amount": "0.51", "qty": "2", "symbol": "T",
    }  # fmt: skip
    paid = wire.parse_entry(told)
    assert (paid.kind, paid.symbol, paid.cash_usd, paid.quantity) == ("div", "T", D("1.02"), D(0))
    withheld = wire.parse_entry({**told, "activity_type": "DIVNRA", "net_amount": "-0.31"})
    assert (withheld.kind, withheld.cash_usd, withheld.quantity) == ("divnra", D("-0.31"), D(0))
    in_shares = wire.parse_entry({**told, "net_amount": "0", "per_share_amount": None})
    assert (in_shares.cash_usd, in_shares.quantity) == (D(0), D(2))
    split = wire.parse_entry({**told, "activity_type": "SPLIT", "qty": "-60", "net_amount": "4.1"})
    assert (split.cash_usd, split.quantity) == (D("4.1"), D(-60))


def test_documented_conversations_are_understood() -> None:
    talks = json.loads(shared("alpaca/ws_transcripts.json").read_text())
    for talk in talks["trading"]["conversations"]:
        kinds = [wire.parse_trading_frame(json.dumps(frame)).kind for way, frame in talk["steps"] if way == "<"]
        assert "unknown" not in kinds, talk["name"]


def test_what_we_say_is_what_the_documentation_says() -> None:
    assert json.loads(wire.authenticate_text("K", "S")) == {"action": "auth", "key": "K", "secret": "S"}
    assert json.loads(wire.listen_text()) == {"action": "listen", "data": {"streams": ["trade_updates"]}}


# --- small fixtures, for where the recordings are absent ---

ORDER = {
    "id": "b-1", "client_order_id": "ar-1", "symbol": "IBM", "side": "buy", "status": "partially_filled", "qty": "10",
    "filled_qty": "4", "filled_avg_price": "190.095", "submitted_at": "2012-11-13T14:30:00Z", "some_new_field": {"x": 1},
}  # fmt: skip
FILL = {
    "event": "partial_fill", "timestamp": "2012-11-13T14:30:00.000000007Z", "execution_id": "e-1", "price": "190.095",
    "qty": "4", "position_qty": "4", "order": ORDER,
}  # fmt: skip


def test_a_fill_is_read_exactly() -> None:
    update = wire.parse_trade_update(FILL)

    assert (update.at_ns, update.execution_id) == (1_352_817_000_000_000_007, "e-1")
    assert (update.fill_price_usd, update.fill_quantity, update.order.filled_quantity) == (D("190.095"), D(4), D(4))


@pytest.mark.parametrize("missing", ["price", "qty", "order", "event", "filled_qty"])
def test_a_fill_without_its_numbers_is_refused(missing: str) -> None:
    """A fill read as zero shares would be a lost fill, and so would one that cannot be told from the others."""
    told = {**FILL, "order": {name: value for name, value in ORDER.items() if name != missing}}
    with pytest.raises(BadWire):
        wire.parse_trade_update({name: value for name, value in told.items() if name != missing})


@pytest.mark.parametrize(
    ("frame", "kind", "ok"),
    [
        (
            {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}},
            "authorization",
            True,
        ),
        (
            {"stream": "authorization", "data": {"status": "unauthorized", "action": "authenticate"}},
            "authorization",
            False,
        ),
        ({"stream": "authorization", "data": {"status": "unauthorized", "action": "listen"}}, "authorization", False),
        ({"stream": "listening", "data": {"streams": ["trade_updates"]}}, "listening", True),
        ({"stream": "listening", "data": {"streams": []}}, "listening", False),
        ({"action": "error", "data": {"error_message": "internal server error"}}, "error", False),
        ([{"T": "error", "code": 406, "msg": "connection limit exceeded"}], "error", False),
        ({"stream": "something_new", "data": 3}, "unknown", False),
    ],
)
def test_control_frames(frame: Any, kind: str, ok: bool) -> None:
    read = wire.parse_trading_frame(json.dumps(frame))
    assert (read.kind, read.ok) == (kind, ok)


@given(JSON)
def test_no_frame_can_do_more_than_be_refused(value: Any) -> None:
    streams = ("trade_updates", "listening", "authorization", value)
    frames = [value, *({"stream": stream, "data": value} for stream in streams)]
    frames += [{"stream": "listening", "data": {"streams": value}}, {"action": "error", "data": value}]
    frames += [{"stream": "trade_updates", "data": FILL | {field: value}} for field in FILL]
    for text in (str(value), *map(json.dumps, frames)):
        with contextlib.suppress(BadWire):
            wire.parse_trading_frame(text)


@given(st.dictionaries(st.sampled_from([*ORDER, "qty"]), JSON))
def test_no_order_can_do_more_than_be_refused(changes: dict[str, Any]) -> None:
    try:
        order = wire.parse_order(ORDER | changes)
    except BadWire:
        return
    assert order.quantity.is_finite() and order.filled_quantity.is_finite()


def test_a_short_position_is_negative_even_if_told_without_sign() -> None:
    told = {"symbol": "TSLA", "qty": "3", "side": "short", "avg_entry_price": "250"}
    assert wire.parse_position(told).quantity == D(-3)


def test_a_blocked_account_is_seen() -> None:
    told = {"id": "a", "account_number": "PA", "cash": "1", "equity": "1", "trading_blocked": True}
    assert wire.parse_account(told).is_blocked


# --- market data ---

BAR = {"t": "2012-11-23T05:00:00Z", "o": 10, "h": 12.5, "l": 9.5, "c": 11, "v": 1000, "n": 7, "vw": 10.9}


def test_a_daily_bar_ends_at_the_close_of_its_session() -> None:
    """2012-11-23, the day after Thanksgiving, closed at 13:00 New York."""
    row = wire.bar_row(BAR, timeframe=Timeframe.DAY_1, calendar=calendar())

    assert row is not None
    assert wire.format_time(row["start_ns"]) == "2012-11-23T05:00:00Z"
    assert wire.format_time(row["end_ns"]) == "2012-11-23T18:00:00Z"
    assert (row["open"], row["high"], row["low"], row["close"], row["volume"]) == (10.0, 12.5, 9.5, 11.0, 1000.0)
    assert (row["vwap"], row["trade_count"]) == (10.9, 7)


def test_a_volume_weighted_price_of_0_is_none() -> None:
    row = wire.bar_row({**BAR, "vw": 0}, timeframe=Timeframe.DAY_1, calendar=calendar())

    assert row is not None and row["vwap"] is None


@pytest.mark.parametrize(
    ("start", "timeframe", "end"),
    [
        ("2012-11-21T14:30:00Z", Timeframe.MIN_1, "2012-11-21T14:31:00Z"),
        ("2012-11-21T20:30:00Z", Timeframe.HOUR_1, "2012-11-21T21:00:00Z"),  # cut by the close
    ],
)
def test_an_intraday_bar_ends_after_its_length_or_at_the_close(start: str, timeframe: Timeframe, end: str) -> None:
    row = wire.bar_row(BAR | {"t": start}, timeframe=timeframe, calendar=calendar())
    assert row is not None and wire.format_time(row["end_ns"]) == end


@pytest.mark.parametrize(
    "wrong",
    [{"t": "2012-11-22T05:00:00Z"}, {"t": None}, {"c": 0}, {"c": -1}, {"h": 9}, {"l": 11.5}, {"v": -1}, {"o": "NaN"}, {"c": None}],
)  # fmt: skip
def test_a_bar_that_cannot_be_true_is_none(wrong: dict[str, Any]) -> None:
    """Thanksgiving has no session; a price of nothing, a high below the close: such a bar is not repaired."""
    assert wire.bar_row(BAR | wrong, timeframe=Timeframe.DAY_1, calendar=calendar()) is None


def test_corporate_actions_by_symbol_and_date() -> None:
    told = {
        "forward_splits": [{"symbol": "AAPL", "ex_date": "2005-02-28", "new_rate": 2, "old_rate": 1}],
        "reverse_splits": [{"symbol": "C", "ex_date": "2011-05-09", "new_rate": 1, "old_rate": 10}],
        "cash_dividends": [{"symbol": "AAPL", "ex_date": "2000-01-03", "rate": 0.125}],
        "stock_dividends": [{"symbol": "X", "ex_date": "2001-01-02", "rate": 0.05}],
        "name_changes": [{"old_symbol": "A", "new_symbol": "B"}],
    }

    assert wire.actions({"corporate_actions": told}) == wire.actions(told) == {
        "AAPL": [
            {"ex_date": "2000-01-03", "ratio": 1.0, "cash_usd": 0.125},
            {"ex_date": "2005-02-28", "ratio": 2.0, "cash_usd": 0.0},
        ],
        "C": [{"ex_date": "2011-05-09", "ratio": 0.1, "cash_usd": 0.0}],
        "X": [{"ex_date": "2001-01-02", "ratio": 1.05, "cash_usd": 0.0}],
    }  # fmt: skip


def test_a_split_without_its_rates_is_refused() -> None:
    """Left out, the next bar would look like a crash and be traded on."""
    with pytest.raises(BadWire, match="new_rate"):
        wire.actions({"forward_splits": [{"symbol": "AAPL", "ex_date": "2005-02-28", "old_rate": 1}]})


def test_a_snapshot_tells_the_last_trade_and_the_spread_over_the_middle() -> None:
    """A side that is empty, a crossed quote and nothing at all say nothing."""
    told = {
        "A": {"latestTrade": {"p": 10.5}, "latestQuote": {"bp": 9, "ap": 11}},
        "B": {"latestTrade": {"p": 0}, "latestQuote": {"bp": 0, "ap": 11}},
        "C": {"latestQuote": {"bp": 11, "ap": 9}}, "D": {"latestTrade": None}, "E": None,
    }  # fmt: skip

    assert wire.seen(told) == {
        "A": (D("10.5"), D("0.2")), "B": (None, None), "C": (None, None), "D": (None, None), "E": (None, None),
    }  # fmt: skip
    with pytest.raises(wire.BadWire):
        wire.seen({"A": {"latestTrade": {"p": "x"}}})
