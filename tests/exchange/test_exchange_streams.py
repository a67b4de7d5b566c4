"""Both websocket protocols, message by message, without sockets; conversations as documented."""

import json
from typing import Any

import pytest

from algo_royale.errors import BadInput, BrokerUnavailable
from algo_royale.exchange.control import control
from algo_royale.exchange.streams import ERRORS
from conftest import shared

AUTH = {"action": "auth", "key": "TWINKEY", "secret": "twin-secret"}
LEGACY_AUTH = {"action": "authenticate", "data": {"key_id": "TWINKEY", "secret_key": "twin-secret"}}
AUTHORIZED = {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}
UNAUTHORIZED = {"stream": "authorization", "data": {"status": "unauthorized", "action": "authenticate"}}
LISTEN = {"action": "listen", "data": {"streams": ["trade_updates"]}}


def say(stream: Any, message: Any) -> list[Any]:
    """What the stream answers."""
    stream.outbox.clear()
    stream.receive(message if isinstance(message, (str, bytes)) else json.dumps(message))
    return [json.loads(frame) for frame in stream.outbox]


def lists(**channels: list[str]) -> list[dict[str, Any]]:
    names = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds", "corrections", "cancelErrors")
    return [{"T": "subscription", **{name: channels.get(name, []) for name in names}}]


def test_data_greets_authenticates_and_answers_with_all_subscriptions(client: Any) -> None:
    stream = client.exchange.open_stream("data")
    assert [json.loads(f) for f in stream.outbox] == [[{"T": "success", "msg": "connected"}]]
    assert say(stream, AUTH) == [[{"T": "success", "msg": "authenticated"}]]

    first = {"action": "subscribe", "trades": ["AAPL"], "quotes": ["AMD", "CLDR"], "bars": ["*"]}
    followed = {"corrections": ["AAPL"], "cancelErrors": ["AAPL"]}
    assert say(stream, first) == [lists(trades=["AAPL"], quotes=["AMD", "CLDR"], bars=["*"], **followed)]
    assert say(stream, {"action": "subscribe", "dailyBars": ["IBM"]}) == [
        lists(trades=["AAPL"], quotes=["AMD", "CLDR"], bars=["*"], dailyBars=["IBM"], **followed)
    ]
    assert say(stream, {"action": "unsubscribe", "bars": ["*"], "dailyBars": ["IBM"], "trades": ["AAPL"]}) == [
        lists(quotes=["AMD", "CLDR"])
    ]


def test_the_documented_conversations_come_out_word_for_word(client: Any) -> None:
    transcripts = json.loads(shared("alpaca/ws_transcripts.json").read_text())
    for family, endpoint in (("market_data", "data"), ("trading", "trading")):
        for conversation in transcripts[family]["conversations"]:
            stream = client.exchange.open_stream("test" if conversation["url_path"] == "/v2/test" else endpoint)
            if conversation["name"] == "subscribe_then_unsubscribe":  # begins after the authentication
                stream.receive(json.dumps(AUTH))
                stream.outbox.clear()
            _replay(stream, conversation["steps"])
            stream.close()


def test_every_message_has_exactly_the_fields_of_the_documented_one(begin: Any) -> None:
    """Trades, quotes, bars, corrections, cancellations, bands, halts; auction imbalances the twin has none of. A fill, too, but
    for what was added since it was written down."""
    transcripts = json.loads(shared("alpaca/ws_transcripts.json").read_text())
    want = {example["T"]: set(example) for example in transcripts["market_data"]["examples"]}
    client = begin()
    client.exchange.advance(client.exchange.replay.sessions[0].open_ns + 600_000_000_000)
    stream = client.exchange.open_stream("data", client.headers)
    say(
        stream,
        {"action": "subscribe", **{name: ["AAPL"] for name in ("trades", "quotes", "bars", "statuses", "lulds")}},
    )
    stream.outbox.clear()
    for name, body in [
        ("halt", {}), ("halt", {"halted": False}), ("bands", {}), ("amend", {"kind": "correct", "price": 30, "size": 1}),
        ("amend", {"kind": "cancel"}),
    ]:  # fmt: skip
        assert control(client.exchange, f"/sim/{name}", json.dumps({"symbol": "AAPL", **body}).encode()).status == 200
    trading = client.listen()
    client.submit("AAPL", "1")
    client.exchange.advance(client.exchange.now_ns + 60_000_000_000)
    told = [message for frame in stream.outbox for message in json.loads(frame)]

    assert {message["T"] for message in told} == set(want) - {"i"}
    for message in told:
        assert set(message) == want[message["T"]], message["T"]
    fill = next(update for update in (json.loads(f)["data"] for f in trading.outbox) if update["event"] == "fill")
    documented = transcripts["trading"]["fill_example"]["data"]
    assert set(documented) <= set(fill) and set(documented["order"]) <= set(fill["order"])


def test_errors_are_the_documented_ones(client: Any) -> None:
    transcripts = json.loads(shared("alpaca/ws_transcripts.json").read_text())
    stream = client.exchange.open_stream("trading")
    stream.receive("nonsense")

    assert {str(code): text for code, text in ERRORS.items()} == transcripts["market_data"]["errors"]
    assert json.loads(stream.outbox[-1]) == transcripts["trading"]["in_stream_error"]


def _replay(stream: Any, steps: list[Any]) -> None:
    for direction, frame in steps:
        if direction == ">":
            text = json.dumps(frame)
            for known, ours in (("<KEY>", "TWINKEY"), ("<SECRET>", "twin-secret")):
                text = text.replace(known, ours)
            if '"*****"' in text:
                text = json.dumps(AUTH)
            stream.receive(text)
        elif not (isinstance(frame, list) and frame[0]["T"] in "tqb"):  # prices are the replay's own
            assert json.loads(stream.outbox.popleft()) == frame


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ({"action": "subscribe", "bars": ["AAPL"]}, 401, "not authenticated"),
        ({"action": "auth", "key": "TWINKEY", "secret": "wrong"}, 402, "auth failed"),
        ({"action": "auth", "key": "nobody", "secret": "x"}, 402, "auth failed"),
        ({"action": "auth"}, 400, "invalid syntax"),
        ({"action": "dance"}, 400, "invalid syntax"),
        ("{", 400, "invalid syntax"),
        ("[]", 400, "invalid syntax"),
        (b"\xff", 400, "invalid syntax"),
        ("[" * 100_000, 400, "invalid syntax"),
    ],
)
def test_data_errors_before_authentication(client: Any, message: Any, code: int, text: str) -> None:
    stream = client.exchange.open_stream("data")
    assert say(stream, message) == [[{"T": "error", "code": code, "msg": text}]]
    assert say(stream, AUTH) == [[{"T": "success", "msg": "authenticated"}]]


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (AUTH, 403, "already authenticated"),
        ({"action": "subscribe", "dailyBars": "AAPL"}, 400, "invalid syntax"),
        ({"action": "subscribe", "dailyBars": [1]}, 400, "invalid syntax"),
        ({"action": "subscribe", "orderbooks": ["AAPL"]}, 410, "invalid subscribe action for this feed"),
    ],
)
def test_data_errors_after_authentication_keep_the_subscriptions(
    client: Any, message: Any, code: int, text: str
) -> None:
    stream = client.watch("AAPL")
    assert say(stream, message) == [[{"T": "error", "code": code, "msg": text}]]
    assert say(stream, {"action": "subscribe"}) == [lists(dailyBars=["AAPL"])]


def test_keys_in_the_handshake_authenticate_without_a_message(client: Any) -> None:
    stream = client.exchange.open_stream("data", client.headers)
    assert [json.loads(f)[0]["msg"] for f in stream.outbox] == ["connected", "authenticated"]
    assert say(stream, AUTH)[0][0]["code"] == 403

    wrong = client.exchange.open_stream("data", {"APCA-API-KEY-ID": "x", "APCA-API-SECRET-KEY": "y"})
    assert json.loads(wrong.outbox[-1])[0]["code"] == 402


def test_a_plan_without_all_exchanges_has_iex_and_the_past(start: Any) -> None:
    client = start(sip=False)
    refused = client.exchange.open_stream("sip", client.headers)
    served = client.exchange.open_stream("data", client.headers)
    past = {"symbols": "AAPL", "timeframe": "1Day", "start": "2012-11-01", "end": "2012-11-12T20:30:00Z"}

    assert json.loads(refused.outbox[-1]) == [{"T": "error", "code": 409, "msg": "insufficient subscription"}]
    assert json.loads(served.outbox[-1]) == [{"T": "success", "msg": "authenticated"}]
    assert client.ask("GET", "/v2/stocks/bars", {**past, "feed": "sip"}).status == 200
    assert client.ask("GET", "/v2/stocks/bars", {**past, "feed": "iex", "end": "2012-11-12T21:00:00Z"}).status == 200
    answer = client.ask("GET", "/v2/stocks/bars", {**past, "feed": "sip", "end": "2012-11-12T21:00:00Z"})
    assert (answer.status, answer.json) == (403, {"message": "subscription does not permit querying recent SIP data"})
    assert client.ask("GET", "/v2/stocks/bars/latest", {"symbols": "AAPL", "feed": "sip"}).status == 403


def test_a_second_data_connection_is_told_at_authentication_until_the_first_is_gone(client: Any) -> None:
    first = client.watch("AAPL")
    second = client.exchange.open_stream("data")
    assert say(second, AUTH) == [[{"T": "error", "code": 406, "msg": "connection limit exceeded"}]]
    first.close()
    assert say(second, AUTH) == [[{"T": "success", "msg": "authenticated"}]]


def test_a_second_trading_connection_is_refused_until_the_first_is_gone(client: Any) -> None:
    first = client.listen()
    with pytest.raises(BrokerUnavailable, match="429"):
        client.exchange.open_stream("trading")
    first.close()
    assert client.exchange.open_stream("trading").sent == 0
    with pytest.raises(BadInput, match="news"):
        client.exchange.open_stream("news")


@pytest.mark.parametrize("auth", [AUTH, LEGACY_AUTH])
def test_trading_takes_both_forms_of_authentication_and_listen_replaces(client: Any, auth: Any) -> None:
    stream = client.exchange.open_stream("trading")
    assert list(stream.outbox) == []  # no greeting
    assert say(stream, auth) == [AUTHORIZED]
    assert say(stream, LISTEN) == [{"stream": "listening", "data": {"streams": ["trade_updates"]}}]
    assert say(stream, {"action": "listen", "data": {"streams": ["weather"]}}) == [
        {"stream": "listening", "data": {"streams": []}}
    ]
    client.submit("AAPL")
    assert not [f for f in stream.outbox if "trade_updates" in f]


@pytest.mark.parametrize(
    "auth",
    [
        {"action": "auth", "key": "TWINKEY", "secret": "wrong"},
        {"action": "authenticate", "data": {"key_id": "TWINKEY"}},
        {"action": "authenticate", "data": "TWINKEY"},
        {"action": "auth", "key": ["TWINKEY"], "secret": {}},
    ],
)
def test_trading_with_wrong_keys_is_unauthorized(client: Any, auth: Any) -> None:
    stream = client.exchange.open_stream("trading")
    assert say(stream, auth) == [UNAUTHORIZED]
    assert say(stream, LISTEN) == [{"stream": "authorization", "data": {"status": "unauthorized", "action": "listen"}}]


@pytest.mark.parametrize("message", ["{", {"action": "dance"}, {"action": "listen", "data": {"streams": 1}}])
def test_trading_hangs_up_on_what_it_does_not_understand(client: Any, message: Any) -> None:
    stream = client.exchange.open_stream("trading", client.headers)
    assert say(stream, message) == [{"action": "error", "data": {"error_message": "internal server error"}}]
    assert stream.closed
    assert say(stream, LISTEN) == []


def test_an_order_tells_its_whole_life_in_the_order_in_which_it_happened(client: Any) -> None:
    stream = client.listen()
    client.submit("AAPL", "10", client_order_id="fills")
    client.submit("AAPL", "10", limit_price="1", client_order_id="expires")
    client.step(2)
    client.submit("AAPL", "4", "sell", client_order_id="sells")
    canceled = client.submit("IBM", "1", client_order_id="canceled")["id"]
    client.ask("DELETE", f"/v2/orders/{canceled}")
    client.step()

    told = [json.loads(frame)["data"] for frame in stream.outbox]

    assert [(t["event"], t["order"]["client_order_id"], t["order"]["status"]) for t in told] == [
        ("accepted", "fills", "accepted"),
        ("accepted", "expires", "accepted"),
        ("new", "fills", "new"),
        ("fill", "fills", "filled"),
        ("new", "expires", "new"),
        ("expired", "expires", "expired"),
        ("accepted", "sells", "accepted"),
        ("accepted", "canceled", "accepted"),
        ("canceled", "canceled", "canceled"),
        ("new", "sells", "new"),
        ("fill", "sells", "filled"),
    ]
    fills = [t for t in told if t["event"] == "fill"]
    assert [(f["price"], f["qty"], f["position_qty"], f["settle_date"]) for f in fills] == [
        ("20.01", "10", "10", "2012-11-14"),
        ("20.4898", "4", "6", "2012-11-15"),
    ]
    assert told[0]["order"]["cancel_requested_at"] is None and told[8]["order"]["cancel_requested_at"] is not None
    assert [t["event_id"] for t in told] == sorted({t["event_id"] for t in told})
    assert all(len(t["event_id"]) == 26 for t in told)


def test_frames_are_counted_for_the_connection_that_lives(client: Any) -> None:
    assert client.exchange.sent() == {"data": 0, "trading": 0}
    data, trading = client.watch("AAPL"), client.listen()
    assert client.exchange.sent() == {"data": 3, "trading": 1}
    client.submit("AAPL")
    client.step(2)
    assert client.exchange.sent() == {"data": 4, "trading": 4}
    client.exchange.open_stream("data")  # a stranger that has not signed in changes nothing
    assert client.exchange.sent()["data"] == 4
    data.close()
    trading.close()
    assert client.exchange.sent() == {"data": 1, "trading": 0}


def test_only_subscribed_symbols_are_sent_in_one_frame_and_nothing_at_the_open(client: Any) -> None:
    one, nothing = client.watch("IBM"), None
    client.step()
    assert list(one.outbox) == []
    client.step()
    assert [[bar["S"] for bar in json.loads(frame)] for frame in one.outbox] == [["IBM"]]
    one.close()
    nothing = client.watch()
    client.step(2)
    assert list(nothing.outbox) == []
