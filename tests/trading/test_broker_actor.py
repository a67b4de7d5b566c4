"""The broker actor over the twin's core: whatever is lost on the way, at most one order per intent and no fill unheard."""

import itertools
import json
from collections.abc import Sequence
from decimal import Decimal as D
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.broker import BrokerActor
from actors.direct import DirectBroker, DirectFaults, DirectStreams
from actors.kernel import Actor, ChildSpec, CrashAt, Ending, Reason, SteppedSystem, Stop, Supervisor
from actors.messages import (
    BrokerSnapshot,
    BrokerSnapshotRequested,
    BrokerStateChanged,
    CancelOrder,
    FrameReceived,
    LookUpOrder,
    OrderAbsent,
    OrderAccepted,
    OrderRecord,
    OrderRejected,
    SubmissionDelayed,
    SubmissionUncertain,
    SubmitOrder,
    TradeUpdated,
)
from actors.orders import LOOKBACK_NS
from algo_royale.broker.connection import Reconnect
from algo_royale.broker.prechecks import refusal
from algo_royale.errors import BrokerRejected, BrokerUnavailable
from twins import KEY, SECRET, SESSIONS, pass_time, small_exchange

HOUR_NS, SECOND_NS = 3_600_000_000_000, 1_000_000_000


class Probe(Actor[Any]):
    def __init__(self, heard: list[Any]) -> None:
        self._heard = heard

    def receive(self, message: Any) -> None:
        self._heard.append(message)


class Bench:
    """A broker actor, the twin behind it, and a probe where the dispatcher would be."""

    def __init__(
        self, *, keys: tuple[str, str] = (KEY, SECRET), faults: Any = None, live: bool = True, limit: int | None = None,
        **twin: Any,
    ) -> None:  # fmt: skip
        self.exchange = small_exchange(**twin)
        self.faults = DirectFaults()
        self.broker = DirectBroker(self.exchange, key=KEY, secret=SECRET, faults=self.faults)
        self.streams = DirectStreams(self.exchange, faults=self.faults)
        self.heard: list[Any] = []
        start_ns = self.exchange.now_ns
        self.system = SteppedSystem(start_ns, faults=faults) if faults else SteppedSystem(start_ns)
        orders = self.system.ref("root/orders")
        specs = [
            ChildSpec(id="orders", factory=lambda: Probe(self.heard)),
            ChildSpec(
                id="broker",
                factory=lambda: BrokerActor(
                    self.broker,
                    self.streams,
                    keys=keys,
                    orders=orders,
                    reconnect=Reconnect(base_s=1.0, limit_s=30.0),
                    requests_per_minute=limit,
                ),
            ),
        ]
        self.system.start(ChildSpec(id="root", factory=lambda: Supervisor(specs)))
        self.settle()
        if live:
            assert self.heard == [BrokerStateChanged(at_ns=start_ns, connected=True, detail="listening")]
            self.heard.clear()

    def restart_broker(self) -> None:
        """A new incarnation, made of what the bench now has."""
        self.system.ref("root/broker").tell_control(Stop(Reason(Ending.NORMAL)))
        self.settle()

    def settle(self) -> None:
        self.system.run_until_idle()
        while self.streams.pump():
            self.system.run_until_idle()

    def run_for(self, seconds: float) -> None:
        pass_time(self, seconds)

    def tell(self, *messages: Any) -> list[Any]:
        for message in messages:
            self.system.ref("root/broker").tell(message)
        self.settle()
        return self.heard

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    @property
    def orders_at_broker(self) -> list[str]:
        return [order.client_order_id for order in self.exchange.orders]


def order(n: int = 1, **other: Any) -> OrderRecord:
    fields: dict[str, Any] = {
        "client_order_id": f"ar-{n}", "broker_order_id": None, "decision_id": "d", "symbol": "IBM", "side": "buy",
        "quantity": D(3), "filled_quantity": D(0), "status": "recorded",
    }  # fmt: skip
    return OrderRecord(**fields | other)


def submit(n: int = 1, *, at_ns: int = 2**62, until_ns: int = 2**62, **other: Any) -> SubmitOrder:
    return SubmitOrder(at_ns=at_ns, order=order(n, **other), until_ns=until_ns)


def look_up(n: int = 1) -> LookUpOrder:
    return LookUpOrder(at_ns=1, client_order_id=f"ar-{n}")


def snapshot_request(since_ns: int = 0) -> BrokerSnapshotRequested:
    return BrokerSnapshotRequested(at_ns=1, cause_of="start", since_ns=since_ns, orders_after_ns=since_ns - LOOKBACK_NS)


# --- submitting ---


def test_an_order_is_accepted_and_its_events_follow() -> None:
    bench = Bench()
    bench.tell(submit())
    assert [m.status for m in bench.of(OrderAccepted)] == ["accepted"]

    bench.run_for(3601)  # the open is an hour away

    updates: list[TradeUpdated] = bench.of(TradeUpdated)
    assert [u.event for u in updates] == ["accepted", "new", "fill"]
    fill = updates[-1]
    assert (fill.fill_quantity, fill.fill_price_usd, fill.filled_quantity) == (D(3), D("190.095"), D(3))  # 190 + 5 bps
    assert fill.execution_id is not None


def test_an_order_that_is_found_is_not_posted_again() -> None:
    """The broker would refuse the second one by its id; but what is known to be there is not sent in the first place."""
    bench = Bench()
    bench.faults.only = "POST"
    bench.faults.lost_answers = 1
    posts: list[str] = []
    real = bench.exchange.handle

    def counting(method: str, path: str, *rest: Any) -> Any:
        posts.append(method)
        return real(method, path, *rest)

    bench.exchange.handle = counting  # type: ignore[method-assign]
    bench.tell(submit())

    assert posts == ["POST", "GET"]


def test_a_lost_answer_is_looked_up_and_adopted() -> None:
    """The order is there although nobody said so: it must not be sent a second time."""
    bench = Bench()
    bench.faults.only = "POST"
    bench.faults.lost_answers = 1

    bench.tell(submit())
    bench.tell(look_up())

    assert bench.orders_at_broker == ["ar-1"]
    assert [m.adopted for m in bench.of(OrderAccepted)] == [True, True]
    assert bench.of(OrderRejected) == []


def test_an_order_that_is_not_shown_is_said_to_be_absent_and_not_sent_again_here() -> None:
    """One look proves nothing; who may judge what the order still is sends it again, or does not."""
    bench = Bench()
    bench.faults.only = "POST"
    bench.faults.unavailable_before = 1

    bench.tell(submit())
    bench.tell(look_up())

    assert bench.orders_at_broker == []
    assert [(type(m), m.reason) for m in bench.heard] == [
        (OrderAbsent, "no answer to the submit: injected: no connection"), (OrderAbsent, ""),
    ]  # fmt: skip


def test_when_even_the_look_up_fails_we_say_that_we_do_not_know() -> None:
    """Never rejected, never accepted: and nothing is sent blindly."""
    bench = Bench()
    bench.faults.unavailable_before = 2

    bench.tell(submit())

    assert bench.orders_at_broker == []
    (uncertain,) = bench.heard
    assert isinstance(uncertain, SubmissionUncertain)


@pytest.mark.parametrize(("age_s", "left_s", "sent"), [(4, 100, True), (6, 100, False), (1, 0, False)])
def test_an_order_that_waited_in_the_mailbox_goes_back_unsent(age_s: int, left_s: int, sent: bool) -> None:
    """For more than five seconds, or until its time was over: it may be too late or not allowed any more."""
    bench = Bench()
    now_ns = bench.exchange.now_ns

    bench.tell(submit(at_ns=now_ns - age_s * SECOND_NS, until_ns=now_ns + left_s * SECOND_NS))

    assert (len(bench.orders_at_broker), len(bench.of(SubmissionDelayed))) == ((1, 0) if sent else (0, 1))
    assert [(m.wait_ns, m.reason) for m in bench.of(SubmissionDelayed)] == (
        [] if sent else [(0, f"it waited {age_s} s for its turn")]
    )


def test_a_duplicate_is_the_order_itself() -> None:
    bench = Bench()
    bench.tell(submit())

    bench.tell(submit())  # as if the first answer had never been handled

    assert bench.orders_at_broker == ["ar-1"]
    assert [m.adopted for m in bench.of(OrderAccepted)] == [False, True]


def test_a_malformed_order_is_rejected_although_its_code_is_that_of_a_duplicate() -> None:
    bench = Bench()

    bench.tell(submit(side="sideways"))

    (rejected,) = bench.heard
    assert (rejected.status, rejected.code) == (422, 40010001)


def test_a_no_is_told_once_and_never_tried_again() -> None:
    bench = Bench()

    bench.tell(submit(quantity=D(100_000)))

    (rejected,) = bench.heard
    assert (rejected.client_order_id, rejected.status, rejected.code) == ("ar-1", 403, 40310000)
    assert rejected.reason == "insufficient buying power"


def test_a_rate_limit_is_not_answered_with_more_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    asked: list[str] = []

    def limited(method: str, path: str, data: Any = None) -> Any:
        asked.append(f"{method} {path}")
        raise BrokerUnavailable("429: rate limit exceeded", retry_after_s=3.0)

    monkeypatch.setattr(bench.broker, "request", limited)
    bench.tell(submit())

    assert asked == ["POST /orders"]  # and not even looked up: a 429 was certainly not taken
    assert [(type(m), m.wait_ns) for m in bench.heard] == [(SubmissionDelayed, 3 * SECOND_NS)]


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_crash_around_a_submit_never_makes_two_orders(where: str) -> None:
    """The dispatcher asks again with a look-up; whether the first one had gone out or not, there is one order."""
    probe = Bench()
    index = probe.system.handled_count
    bench = Bench(faults=CrashAt(index, where))
    bench.tell(submit())
    bench.run_for(30)

    bench.tell(look_up())
    if bench.of(OrderAbsent):
        bench.tell(submit())

    assert bench.orders_at_broker == ["ar-1"]
    assert bench.of(BrokerStateChanged)[-1].connected


def test_a_cancel_reaches_the_broker_also_after_a_failure() -> None:
    bench = Bench()
    bench.tell(submit())
    broker_order_id = bench.of(OrderAccepted)[0].broker_order_id
    bench.faults.unavailable_before = 1

    bench.tell(CancelOrder(at_ns=1, client_order_id="ar-1", broker_order_id=broker_order_id))
    bench.run_for(5)

    assert [u.event for u in bench.of(TradeUpdated)] == ["accepted", "canceled"]
    bench.tell(CancelOrder(at_ns=1, client_order_id="ar-1", broker_order_id="no-such-order"))  # refused, and no crash


# --- what would be refused is not asked, and not too often ---

BROKEN: list[dict[str, Any]] = [
    {"quantity": D(0)}, {"quantity": D("-1")}, {"quantity": D("1.0000000001")}, {"order_type": "wish"}, {"time_in_force": "soon"},
    {"order_type": "limit"}, {"order_type": "limit", "limit_price_usd": D(0)},
    {"order_type": "limit", "limit_price_usd": D("190.123")}, {"order_type": "limit", "limit_price_usd": D("0.12345")},
    {"quantity": D("1.5"), "time_in_force": "gtc"}, {"quantity": D("1.5"), "time_in_force": "cls"},
    {"client_order_id": "x" * 129}, {"order_type": "stop", "time_in_force": "ioc"}, {"order_type": "stop"},
    {"order_type": "stop_limit", "limit_price_usd": D(190)}, {"order_type": "trailing_stop"}, {"limit_price_usd": D(190)},
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_the_broker_would_refuse_is_not_sent(broken: dict[str, Any]) -> None:
    """Refused here with the reason; the twin, asked the same, refuses it too."""
    bench = Bench()
    asked: list[str] = []
    real = bench.broker.request
    bench.broker.request = lambda method, *rest: asked.append(method) or real(method, *rest)  # type: ignore[method-assign,func-returns-value]

    bench.tell(submit(**broken))

    (rejected,) = bench.heard
    assert (rejected.status, rejected.code, asked) == (0, None, [])
    assert rejected.reason.startswith("not sent: ")
    spelt = {"limit_price" if name == "limit_price_usd" else name: value for name, value in broken.items()}
    plain = {"client_order_id": "ar-1", "symbol": "IBM", "side": "buy", "quantity": D(3)}
    with pytest.raises(BrokerRejected):
        bench.broker.submit(**plain | spelt)  # type: ignore[arg-type]


FINE: list[dict[str, Any]] = [
    {}, {"quantity": D("0.123456789")}, {"order_type": "limit", "limit_price_usd": D("190.12")},
    {"order_type": "limit", "limit_price_usd": D("0.1234")}, {"time_in_force": "opg"}, {"time_in_force": "gtc"},
    {"order_type": "limit", "limit_price_usd": D("190.12"), "time_in_force": "cls"}, {"client_order_id": "a.B-1_" + "x" * 122},
]  # fmt: skip


@pytest.mark.parametrize("fine", FINE)
def test_nothing_else_is_held_back(fine: dict[str, Any]) -> None:
    bench = Bench()

    bench.tell(submit(**fine))

    assert len(bench.orders_at_broker) == 1


JUDGED = small_exchange()
NUMBER = itertools.count()


@given(
    quantity=st.decimals("-1", "3", places=10) | st.integers(-1, 3).map(D) | st.decimals("0", "3", places=9),
    order_type=st.sampled_from(["market", "limit", "stop", "stop_limit", "trailing_stop", "wish"]),
    time_in_force=st.sampled_from(["day", "gtc", "opg", "cls", "ioc", "fok", "soon"]),
    limit_price_usd=st.none() | st.decimals("-1", "2", places=5) | st.decimals("0", "20", places=2),
)
def test_it_refuses_just_what_the_form_of_an_order_forbids(**fields: Any) -> None:
    """Whatever is asked: refused here if and only if the twin calls it malformed (422); what else it says is its own to judge."""
    asked = order(1, client_order_id=f"j-{next(NUMBER)}", **fields)
    ours = refusal(asked)
    broker = DirectBroker(JUDGED, key=KEY, secret=SECRET)
    try:
        broker.submit(
            client_order_id=asked.client_order_id, symbol=asked.symbol, side=asked.side, quantity=asked.quantity,
            order_type=asked.order_type, time_in_force=asked.time_in_force, limit_price=asked.limit_price_usd,
        )  # fmt: skip
        theirs = None
    except BrokerRejected as error:
        theirs = error.message if error.status == 422 else None
    assert (ours is None) == (theirs is None), (ours, theirs)


def limited(bench: Bench) -> list[int]:
    """Has the twin refuse from 200 requests a minute on, as the broker does, and counts its refusals."""
    refused: list[int] = []
    real = bench.exchange.handle

    def handle(*asked: Any) -> Any:
        response = real(*asked)
        if response.status == 429:
            refused.append(bench.exchange.now_ns)
        return response

    bench.exchange.handle = handle  # type: ignore[method-assign]
    return refused


def test_a_burst_of_orders_stays_below_the_broker_s_limit_and_cancels_still_pass() -> None:
    """300 orders at once: 160 go out, the others come back with the time to ask again, and never a 429."""
    bench = Bench(limit=180, requests_per_minute=200)
    refused = limited(bench)
    bench.tell(*(submit(n, quantity=D(1)) for n in range(300)))
    assert len(bench.orders_at_broker) == 160
    assert {m.wait_ns for m in bench.of(SubmissionDelayed)} == {60 * SECOND_NS}

    first = bench.of(OrderAccepted)[0].broker_order_id
    bench.tell(CancelOrder(at_ns=1, client_order_id="ar-0", broker_order_id=first))
    assert bench.exchange.orders[0].status == "canceled"
    assert bench.of(SubmissionUncertain) == []
    bench.run_for(60)
    bench.tell(*(submit(n, quantity=D(1)) for n in range(160, 300)))

    assert sorted(bench.orders_at_broker) == sorted(f"ar-{n}" for n in range(300))
    assert refused == []
    assert bench.system.observe("root/broker")["delayed"] == 140


def test_without_our_own_limit_the_broker_s_is_met() -> None:
    """The test above can fail."""
    bench = Bench(requests_per_minute=200)
    refused = limited(bench)
    bench.tell(*(submit(n, quantity=D(1)) for n in range(300)))

    assert len(refused) >= 1


def test_after_a_rate_limit_nothing_is_asked_before_its_time() -> None:
    bench = Bench()
    asked: list[tuple[float, str]] = []
    start_ns = bench.exchange.now_ns
    left = [1]
    real = bench.broker.request

    def request(method: str, path: str, data: Any = None) -> Any:
        asked.append(((bench.exchange.now_ns - start_ns) / 1e9, method))
        if left:
            left.pop()
            raise BrokerUnavailable("429: rate limit exceeded", retry_after_s=20.0)
        return real(method, path, data)

    bench.broker.request = request  # type: ignore[method-assign]
    bench.tell(submit(1))
    bench.tell(submit(2), look_up(1), snapshot_request())
    bench.run_for(25)

    assert asked[0] == (0.0, "POST")
    assert {at_s for at_s, _ in asked[1:]} == {20.0}
    assert bench.orders_at_broker == []
    assert [m.wait_ns for m in bench.of(SubmissionDelayed)] == [20 * SECOND_NS] * 3
    assert len(bench.of(BrokerSnapshot)) == 1


# --- the stream ---


def test_the_broker_counts_as_connected_only_when_it_listens() -> None:
    """Authorized is not enough: a fill before `listening` would be unheard."""
    bench = Bench(live=False)
    frames: list[str] = []
    bench.faults.frames = lambda _, taken: frames.extend(taken) or [f for f in taken if "listening" not in f]
    bench.streams.drop("trading")
    bench.settle()
    bench.heard.clear()
    bench.run_for(2)

    assert any("authorized" in frame for frame in frames)
    assert not any(m.connected for m in bench.of(BrokerStateChanged))


def test_a_lost_connection_is_told_and_mended() -> None:
    bench = Bench()

    bench.streams.drop("trading")
    bench.settle()
    assert [m.connected for m in bench.heard] == [False]
    bench.run_for(10)

    assert [m.connected for m in bench.heard] == [False, True]
    bench.tell(submit())
    bench.run_for(3601)
    assert [u.event for u in bench.of(TradeUpdated)] == ["accepted", "new", "fill"]


def test_attempts_grow_rarer_while_the_broker_is_down() -> None:
    """Exponential with jitter of a quarter, limited; no storm on a broker that is down."""
    bench = Bench()
    opened: list[int] = []

    class Down(DirectStreams):
        def open(self, *args: Any) -> Any:
            opened.append(bench.system.clock.now_ns())
            handle = super().open(*args)
            self.drop("trading", "handshake: OSError")
            return handle

    down = Down(bench.exchange, faults=bench.faults)
    real = bench.streams
    real.drop("trading")
    bench.streams = down
    bench.restart_broker()
    bench.run_for(300)
    gaps = [(b - a) / 1e9 for a, b in itertools.pairwise(opened)]

    planned = (1, 2, 4, 8, 16, 30, 30, 30)
    assert len(gaps) > len(planned)
    assert all(0.75 * plan <= gap <= 1.25 * plan for gap, plan in zip(gaps, planned, strict=False))
    assert len({round(gap / plan, 6) for gap, plan in zip(gaps, planned, strict=False)}) == len(planned)  # jitter


def test_success_makes_the_next_attempt_quick_again() -> None:
    """A line that is lost once an hour is mended in a second, each time."""
    bench = Bench()
    for _ in range(4):
        bench.streams.drop("trading")
        bench.settle()
        bench.run_for(1.3)
        assert bench.of(BrokerStateChanged)[-1].connected
        bench.run_for(3600)


def test_a_line_that_dies_as_soon_as_it_is_live_is_not_tried_ever_again_at_once() -> None:
    """Live for a moment is no success: without this a broker that drops us each time would see a storm."""
    bench = Bench()
    opened: list[int] = []
    real = bench.exchange.open_stream

    def counting(endpoint: str, *rest: Any) -> Any:
        opened.append(bench.system.clock.now_ns())
        return real(endpoint, *rest)

    bench.exchange.open_stream = counting  # type: ignore[method-assign]
    for _ in range(1200):
        bench.streams.drop("trading")
        bench.run_for(0.25)  # five minutes in all

    assert 10 <= len(opened) <= 16  # 1, 2, 4, 8, 16, 30, 30 ...: and not 150


def test_a_second_connection_is_refused_and_waited_for() -> None:
    """The twin, as the broker, lets one trading stream in; ours comes back when the other has gone."""
    bench = Bench()
    bench.streams.drop("trading")
    intruder = bench.exchange.open_stream("trading")
    bench.run_for(60)
    assert not bench.of(BrokerStateChanged)[-1].connected

    intruder.close()
    bench.run_for(200)

    assert bench.of(BrokerStateChanged)[-1].connected


def test_wrong_keys_are_told_as_such_and_tried_rarely() -> None:
    bench = Bench(keys=(KEY, "wrong"), live=False)
    bench.run_for(1000)

    states = bench.of(BrokerStateChanged)
    assert not any(m.connected for m in states)
    assert "not authorized" in states[0].detail
    assert 5 <= len(states) <= 12  # about every two minutes


def test_a_handshake_that_hangs_is_given_up() -> None:
    bench = Bench()
    bench.faults.frames = lambda _, taken: []  # mute
    bench.streams.drop("trading")
    bench.run_for(15)
    bench.faults.frames = None
    bench.run_for(60)

    assert [m.connected for m in bench.of(BrokerStateChanged)] == [False, True]


JUNK = ["", "{", "[1, 2]", "null", '{"stream": "trade_updates", "data": {}}', '{"stream": "news"}', '"text"', "[[]]",
        '{"stream": "trade_updates", "data": {"event": "fill", "order": {"id": "x"}}}', '{"T": "subscription"}']  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
def test_a_frame_that_makes_no_sense_is_counted_and_stops_nothing(junk: str) -> None:
    bench = Bench()
    bench.faults.frames = lambda _, taken: [junk, *taken]

    bench.tell(submit())
    bench.settle()

    assert [u.event for u in bench.of(TradeUpdated)] == ["accepted"]
    counts = bench.system.observe("root/broker")
    assert int(str(counts["bad_frames"])) + int(str(counts["unknown_frames"])) == 1


def test_an_event_nobody_knows_is_passed_on_as_it_is() -> None:
    bench = Bench()

    def rename(_: str, taken: Sequence[str]) -> Sequence[str]:
        return [frame.replace('"event":"accepted"', '"event":"brand_new","surprise":1') for frame in taken]

    bench.faults.frames = rename
    bench.tell(submit())

    assert [u.event for u in bench.of(TradeUpdated)] == ["brand_new"]


def test_a_frame_of_an_older_connection_is_ignored() -> None:
    bench = Bench()
    stale = json.dumps({"stream": "authorization", "data": {"status": "unauthorized", "action": "authenticate"}})
    bench.tell(FrameReceived(at_ns=1, endpoint="trading", connection=1, text=stale))

    assert bench.heard == []


def test_a_mute_trading_stream_is_found_out_by_a_snapshot_and_connected_anew() -> None:
    """The socket is open and says nothing: the fills that REST knows for five seconds it should have told."""
    bench = Bench()
    bench.faults.frames = lambda endpoint, frames: [f for f in frames if '"event"' not in f]
    bench.tell(submit())
    bench.run_for(3601)
    bench.tell(snapshot_request())
    assert bench.of(BrokerStateChanged) == []  # too fresh to say
    assert len(bench.of(BrokerSnapshot)[0].fills) == 1

    bench.run_for(6)
    bench.tell(snapshot_request())
    assert [(m.connected, m.detail) for m in bench.of(BrokerStateChanged)] == [
        (False, "the stream did not tell 1 fills")
    ]
    bench.run_for(3)

    assert bench.of(BrokerStateChanged)[-1].connected
    bench.heard.clear()
    bench.run_for(60)
    bench.tell(snapshot_request())  # what happened before this connection it need not tell
    assert [type(m) for m in bench.heard] == [BrokerSnapshot]


def test_a_stream_that_told_its_fills_is_left_alone() -> None:
    bench = Bench()
    bench.tell(submit(), submit(2))
    bench.run_for(3700)
    bench.tell(snapshot_request())

    assert bench.of(BrokerStateChanged) == []
    assert bench.system.observe("root/broker")["unheard"] == 0


# --- the broker's truth ---


def test_a_snapshot_is_the_broker_s_truth() -> None:
    bench = Bench()
    bench.tell(submit(1), submit(2, symbol="AAPL", quantity=D(10)))
    bench.run_for(3601)
    bench.heard.clear()

    (snapshot,) = bench.tell(snapshot_request())

    assert isinstance(snapshot, BrokerSnapshot)
    assert [(o.client_order_id, o.status, o.filled_quantity) for o in snapshot.orders] == [
        ("ar-1", "filled", D(3)), ("ar-2", "filled", D(10)),
    ]  # fmt: skip
    assert [(f.client_order_id, f.quantity, f.cumulative_quantity, f.price_usd) for f in snapshot.fills] == [
        ("ar-1", D(3), D(3), D("190.095")), ("ar-2", D(10), D(10), D("20.01")),
    ]  # fmt: skip
    assert [(p.symbol, p.quantity) for p in snapshot.positions] == [("AAPL", D(10)), ("IBM", D(3))]
    assert snapshot.cash_usd == D(100_000) - 3 * D("190.095") - 10 * D("20.01")


def test_a_fill_has_one_identity_on_the_stream_and_in_a_snapshot() -> None:
    bench = Bench()
    bench.tell(submit())
    bench.run_for(3601)
    streamed = bench.of(TradeUpdated)[-1]

    polled = bench.tell(snapshot_request())[-1].fills[0]

    assert (polled.execution_id, polled.cumulative_quantity) == (streamed.execution_id, streamed.filled_quantity)


def test_shares_that_moved_without_an_order_are_in_the_snapshot() -> None:
    bench = Bench()
    bench.tell(submit(1, symbol="AAPL", quantity=D(10)))
    bench.run_for((SESSIONS[3].open_ns - bench.exchange.now_ns) / 1e9 + 1)  # over the split

    snapshot = bench.tell(snapshot_request())[-1]

    assert [(e.kind, e.symbol, e.quantity) for e in snapshot.entries if e.kind == "split"] == [("split", "AAPL", D(10))]
    assert [(p.symbol, p.quantity) for p in snapshot.positions] == [("AAPL", D(20))]


def test_no_snapshot_is_given_before_the_stream_is_live() -> None:
    """Orders would go whose fills nobody hears. The dispatcher asks again when it is told of the connection."""
    bench = Bench()
    bench.streams.drop("trading")
    bench.settle()

    bench.tell(snapshot_request())

    assert bench.of(BrokerSnapshot) == []
    bench.run_for(10)
    assert bench.of(BrokerStateChanged)[-1].connected
    bench.tell(snapshot_request())
    assert len(bench.of(BrokerSnapshot)) == 1


def test_a_snapshot_that_fails_is_told_as_disconnected_and_delivered_later() -> None:
    bench = Bench()
    bench.faults.unavailable_before = 1

    bench.tell(snapshot_request())
    assert [(m.connected, m.detail) for m in bench.heard] == [(False, "no snapshot: injected: no connection")]
    bench.run_for(5)

    assert [type(m) for m in bench.heard] == [BrokerStateChanged, BrokerSnapshot]


def test_an_order_of_a_persons_that_cannot_be_read_does_not_hide_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.tell(submit())
    real = bench.broker.orders
    odd = [{"id": "b-9", "client_order_id": "mine\n", "symbol": "X"}, {"client_order_id": None}, {}]
    monkeypatch.setattr(bench.broker, "orders", lambda **query: [*odd, *real(**query)])
    bench.tell(snapshot_request())

    (snapshot,) = bench.of(BrokerSnapshot)
    assert [found.client_order_id for found in snapshot.orders] == ["ar-1"]


def test_a_snapshot_taken_while_the_account_moves_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions read before a fill and activities read after it would look like a disagreement."""
    bench = Bench()
    bench.tell(submit(), snapshot_request())
    bench.heard.clear()
    real = bench.broker.account
    calls: list[int] = []

    def moving() -> Any:
        account = real()
        calls.append(1)
        if len(calls) == 1:
            bench.exchange.advance(bench.exchange.now_ns + HOUR_NS + 1)  # the open, just now
        return account

    monkeypatch.setattr(bench.broker, "account", moving)
    bench.tell(snapshot_request())
    (snapshot,) = bench.of(BrokerSnapshot)

    assert len(calls) == 2
    assert [f.quantity for f in snapshot.fills] == [D(3)]
    assert [p.quantity for p in snapshot.positions] == [D(3)]
    assert snapshot.cash_usd == D(100_000) - 3 * D("190.095")


def test_a_snapshot_of_a_quiet_account_asks_four_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken often: orders, positions, account, activities, and nothing twice."""
    bench = Bench()
    bench.tell(snapshot_request())
    asked: list[str] = []
    real = bench.broker.request

    def counting(method: str, path: str, data: Any = None) -> Any:
        asked.append(path)
        return real(method, path, data)

    monkeypatch.setattr(bench.broker, "request", counting)
    bench.tell(snapshot_request())

    assert asked == ["/orders", "/positions", "/account", "/account/activities"]


def test_what_only_a_narrower_snapshot_left_out_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Periodic snapshots reach less far back than those of a session; an old fill is not a movement of the account."""
    bench = Bench()
    bench.tell(submit())
    bench.exchange.advance(bench.exchange.now_ns + HOUR_NS + 1)
    bench.tell(snapshot_request())
    filled_ns = bench.exchange.now_ns
    asked: list[str] = []
    real = bench.broker.request

    def counting(method: str, path: str, data: Any = None) -> Any:
        asked.append(path)
        return real(method, path, data)

    bench.exchange.advance(filled_ns + HOUR_NS)
    bench.tell(snapshot_request(filled_ns + HOUR_NS // 2))
    monkeypatch.setattr(bench.broker, "request", counting)
    bench.tell(snapshot_request())

    assert [len(s.fills) for s in bench.of(BrokerSnapshot)] == [1, 0, 1]
    assert asked == ["/orders", "/positions", "/account", "/account/activities"]
