"""An order that leaves later than it was decided, whatever for, is judged anew right before: too late or not allowed any more, it is
recorded as not sent, with the reason. And none is sent again before the broker has twice said that it does not hold it."""

from collections.abc import Callable
from decimal import Decimal as D
from typing import Any

import pytest

from actors.broker import BrokerActor
from actors.direct import DirectBroker, DirectFaults, DirectStreams
from actors.kernel import Actor, ChildSpec, Ending, Reason, SteppedSystem, Stop, Supervisor
from actors.ledger import LedgerActor
from actors.messages import (
    ApprovedIntent,
    FeedHealthChanged,
    FlattenRequested,
    HaltTrading,
    JobDue,
    LookUpOrder,
    RecordDecision,
    SubmitOrder,
    TradingEnds,
)
from actors.orders import OrdersActor
from algo_royale.broker.connection import Reconnect
from algo_royale.errors import BrokerUnavailable
from algo_royale.market import Timeframe
from algo_royale.sessions import calendar, new_york_date
from db.database import execute
from db.store import Store
from twins import KEY, SECRET, pass_time, small_exchange

MINUTE_NS, SECOND_NS = 60_000_000_000, 1_000_000_000
MOST = 24  # requests a minute: half of them for orders


class Ear(Actor[Any]):
    def receive(self, message: Any) -> None:
        pass


class Broker(DirectBroker):
    """The twin's REST, and when it was asked what; the next submit meets `refusal`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[tuple[int, str]] = []
        self.refusal: BrokerUnavailable | None = None

    def request(self, method: str, path: str, data: Any = None) -> Any:
        self.asked.append((self._exchange.now_ns, "look-up" if "client_order_id" in path else f"{method} {path}"))
        if method == "POST" and self.refusal is not None:
            error, self.refusal = self.refusal, None
            raise error
        return super().request(method, path, data)


class Desk:
    """Ledger, dispatcher and broker actor over the twin's core, ten minutes into a session of five-minute bars."""

    def __init__(self, *, limit: int | None = None, buys_wait: bool = False, cancels: bool = True) -> None:
        self.exchange, self.faults = small_exchange(), DirectFaults()
        self.broker = Broker(self.exchange, key=KEY, secret=SECRET, faults=self.faults)
        self.streams = DirectStreams(self.exchange, faults=self.faults)
        now_ns = self.exchange.now_ns
        self.store = Store.open(None, run_id="run", now_ns=now_ns, live_start_ns=now_ns)
        self.system = SteppedSystem(now_ns)
        ref = self.system.ref
        ledger, broker, orders = ref("root/ledger"), ref("root/broker"), ref("root/orders")
        make: dict[str, Callable[[], Any]] = {
            "portfolio": Ear,
            "ledger": lambda: LedgerActor(
                lambda: self.store, calendar=calendar(), orders=orders, portfolio=ref("root/portfolio")
            ),
            "broker": lambda: BrokerActor(
                self.broker, self.streams, keys=(KEY, SECRET), orders=orders, reconnect=Reconnect(base_s=1.0),
                requests_per_minute=limit,
            ),
            "orders": lambda: OrdersActor(
                calendar(), ledger=ledger, broker=broker, timeframe=Timeframe.MIN_5, buys_wait=buys_wait, cancels=cancels
            ),
        }  # fmt: skip
        specs = [ChildSpec(id=name, factory=factory) for name, factory in make.items()]
        self.system.start(ChildSpec(id="root", factory=lambda: Supervisor(specs)))
        self.run_for(3600 + 600)
        self.bar_end_ns = self.now_ns  # of the decisions; their orders are for the five minutes that follow
        self.broker.asked.clear()

    @property
    def now_ns(self) -> int:
        return self.exchange.now_ns

    def settle(self) -> None:
        self.system.run_until_idle()
        while self.streams.pump():
            self.system.run_until_idle()

    def run_for(self, seconds: float) -> None:
        pass_time(self, seconds)

    def tell(self, actor: str, *messages: Any) -> None:
        for message in messages:
            self.system.ref(f"root/{actor}").tell(message)
        self.settle()

    def decide(self, *intents: ApprovedIntent, end_ns: int | None = None) -> None:
        """Record what was decided on a bar."""
        end_ns = end_ns or self.bar_end_ns
        decision = RecordDecision(
            at_ns=self.now_ns, decision_id=f"d-{end_ns}", bar_end_ns=end_ns, session_date=new_york_date(end_ns).isoformat(),
            equity_usd=D(100_000), cash_usd=D(100_000), strategy="S", targets=(), approved=intents, refused=(),
        )  # fmt: skip
        self.tell("ledger", decision)

    def hold(self, symbol: str, quantity: int) -> None:
        self.decide(intent("held", symbol=symbol, quantity=D(quantity)))
        self.bar_end_ns += 5 * MINUTE_NS
        self.run_for(300)
        assert self.exchange.account.quantity(symbol) == quantity

    def mute(self) -> None:
        """The stream says nothing of orders from now on."""
        self.faults.frames = lambda endpoint, frames: [f for f in frames if '"event"' not in f]

    def at_broker(self, name: str = "late") -> int:
        return [order.client_order_id for order in self.exchange.orders].count(name)

    def stands(self, name: str = "late") -> tuple[str, str]:
        """Status and last words of an order in the ledger."""
        rows = execute(
            self.store.database, "SELECT status, detail FROM order_event WHERE client_order_id = ? ORDER BY seq", [name]
        )
        return rows[-1][0], rows[-1][1]

    def asked_about_orders(self) -> list[tuple[float, str]]:
        """Seconds since the first of them, and what was asked."""
        asked = [(at_ns, what) for at_ns, what in self.broker.asked if what in ("look-up", "POST /orders")]
        return [((at_ns - asked[0][0]) / 1e9, what) for at_ns, what in asked]


def intent(name: str = "late", **other: Any) -> ApprovedIntent:
    fields: dict[str, Any] = {
        "client_order_id": name,
        "symbol": "IBM",
        "side": "buy",
        "quantity": D(1),
        "reference_price_usd": D(190),
    }
    return ApprovedIntent(**fields | other)


# --- each way in which an order may leave later: what holds it back, and what lets it go ---


def rate_limit(desk: Desk) -> None:
    desk.broker.refusal = BrokerUnavailable("429: rate limit exceeded", retry_after_s=10.0)
    desk.decide(intent())


def own_limit(desk: Desk) -> None:
    """The requests of this minute are used up, for ten seconds more."""
    spent = [LookUpOrder(at_ns=0, client_order_id=f"x-{n}") for n in range(MOST // 2)]
    desk.tell("broker", *spent)
    desk.run_for(50)
    desk.decide(intent())


def lost_on_the_way(desk: Desk) -> None:
    desk.faults.only, desk.faults.unavailable_before = "POST", 1
    desk.decide(intent())


def no_connection(desk: Desk) -> None:
    desk.streams.drop("trading")
    desk.settle()
    desk.decide(intent())


def no_answers(desk: Desk) -> None:
    """Neither the submit nor the first two look-ups are answered."""
    desk.faults.unavailable_before = 3
    desk.decide(intent())


def started_again(desk: Desk) -> None:
    """Nobody knows whether the former dispatcher had sent it: it had not."""
    desk.streams.drop("trading")
    desk.settle()
    desk.decide(intent())
    desk.tell("orders")
    desk.system.ref("root/orders").tell_control(Stop(Reason(Ending.NORMAL)))
    desk.settle()


def sales_first(desk: Desk) -> None:
    """The sale that pays for it has not ended; `end_sale` does that."""
    sell = intent(
        "sale", symbol="AAPL", side="sell", order_type="limit", limit_price_usd=D(900), reference_price_usd=D(20)
    )
    desk.decide(sell, intent())


DELAYS = [rate_limit, own_limit, lost_on_the_way, no_connection, no_answers, started_again, sales_first]

# --- what may have happened meanwhile ---


def person(message: type[Any], **fields: Any) -> Callable[[Desk], None]:
    return lambda desk: desk.tell("ledger", message(at_ns=desk.now_ns, reason="lunch", by="ann", **fields))


CHANGES: dict[str, Callable[[Desk], None]] = {
    "trading is halted": person(HaltTrading, state="halted"),
    "trading is reducing": person(HaltTrading, state="reducing"),
    "flatten": person(FlattenRequested),
    "the last price of IBM is stale": lambda desk: desk.tell(
        "orders", FeedHealthChanged(at_ns=desk.now_ns, state="stale", stale=("IBM",))
    ),
    "the trader is being stopped": lambda desk: desk.tell("orders", TradingEnds(at_ns=desk.now_ns)),
    "the time it was for is over": lambda desk: None,
}


def end_sale(desk: Desk) -> None:
    for sale in [o for o in desk.exchange.orders if o.client_order_id == "sale" and o.is_open]:
        desk.exchange.cancel(sale)
    desk.settle()


def desk_for(delay: Callable[..., None]) -> Desk:
    desk = Desk(limit=MOST if delay is own_limit else None, buys_wait=delay is sales_first)
    if delay is sales_first:
        desk.hold("AAPL", 1)
    return desk


@pytest.mark.parametrize("delay", DELAYS)
def test_an_order_that_had_to_wait_leaves_once_when_it_may(delay: Callable[..., None]) -> None:
    desk = desk_for(delay)

    delay(desk)
    assert desk.at_broker() == 0
    desk.run_for(1)
    end_sale(desk)
    desk.run_for(60)

    assert (desk.at_broker(), desk.stands()[0]) == (1, "filled")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("delay", DELAYS)
def test_an_order_that_had_to_wait_is_judged_anew_before_it_leaves(delay: Callable[..., None], change: str) -> None:
    """Recorded as not sent, and why; what the broker never had is not asked to be canceled there."""
    desk = desk_for(delay)
    late = change == "the time it was for is over"
    if late:  # but for the last second of it
        desk.run_for(299 - (50 if delay is own_limit else 0))
    delay(desk)
    assert desk.at_broker() == 0

    CHANGES[change](desk)
    desk.run_for(1)
    end_sale(desk)
    desk.run_for(360)

    status, words = desk.stands()
    assert (desk.at_broker(), status) == (0, "expired" if late or "stale" in change else "canceled")
    assert words.startswith(("never sent: ", "not at the broker: "))
    assert (change if change != "flatten" else "trading is reducing") in words
    assert not [what for _, what in desk.broker.asked if what.startswith("DELETE") and delay is not sales_first]


def test_an_order_before_its_time_is_judged_when_it_comes() -> None:
    """For the opening auction it is taken from seven in the evening on."""
    desk = Desk()
    close_ns = calendar().next_session(desk.now_ns - 12 * 60 * MINUTE_NS).close_ns
    desk.run_for((close_ns - desk.now_ns) / 1e9 + 1)
    desk.decide(intent("one", time_in_force="opg"), intent("two", symbol="AAPL", time_in_force="opg"), end_ns=close_ns)
    assert desk.at_broker("one") == desk.at_broker("two") == 0
    desk.run_for(2 * 3600)
    desk.tell("orders", FeedHealthChanged(at_ns=desk.now_ns, state="stale", stale=("AAPL",)))
    desk.run_for(3600)

    assert (desk.at_broker("one"), desk.at_broker("two")) == (1, 0)
    desk.run_for(16 * 3600)
    assert desk.stands("two")[0] == "expired" and "stale" in desk.stands("two")[1]


def test_where_a_halt_keeps_what_is_open_an_order_that_waited_is_kept_from_leaving_all_the_same() -> None:
    desk = Desk(cancels=False)
    rate_limit(desk)
    CHANGES["trading is halted"](desk)
    desk.run_for(60)
    assert (desk.at_broker(), desk.stands()[0]) == (0, "recorded")

    desk.run_for(300)
    assert desk.stands() == ("expired", "never sent: the time it was for is over; trading is halted")


def test_a_sale_that_waited_does_not_leave_beside_those_of_a_wish_to_flatten() -> None:
    """It makes the position smaller, so that reducing alone would let it go; the wish sells all of it anew."""
    desk = Desk()
    desk.hold("IBM", 2)
    desk.broker.refusal = BrokerUnavailable("429: rate limit exceeded", retry_after_s=10.0)
    desk.decide(intent(side="sell"))
    CHANGES["flatten"](desk)
    desk.run_for(60)

    assert (desk.at_broker(), desk.stands()[0]) == (0, "canceled")


def test_what_makes_a_position_smaller_leaves_on_a_stale_price_too() -> None:
    desk = Desk()
    desk.hold("IBM", 2)
    desk.tell("orders", FeedHealthChanged(at_ns=desk.now_ns, state="stale", stale=("IBM",)))
    desk.decide(intent(side="sell"))
    desk.run_for(1)

    assert desk.stands()[0] == "filled"


def test_a_price_that_is_fresh_again_lets_the_order_go() -> None:
    desk = Desk()
    desk.tell("orders", FeedHealthChanged(at_ns=desk.now_ns, state="stale", stale=("IBM",)))
    desk.decide(intent())
    assert desk.at_broker() == 0

    desk.tell("orders", FeedHealthChanged(at_ns=desk.now_ns, state="live", stale=()))
    desk.run_for(1)
    assert desk.stands()[0] == "filled"


def test_only_the_one_order_that_is_on_its_way_can_follow_a_halt() -> None:
    """Ten are decided; the halt is committed while the first is with the broker."""
    desk, posted = Desk(), list[str]()
    real = desk.broker.submit

    def submit(**asked: Any) -> Any:
        if not posted:
            desk.system.ref("root/ledger").tell(HaltTrading(at_ns=desk.now_ns, reason="lunch", by="ann"))
        posted.append(asked["client_order_id"])
        return real(**asked)

    desk.broker.submit = submit  # type: ignore[method-assign]
    desk.decide(*(intent(f"n-{n}") for n in range(10)))

    assert len(posted) <= 2
    assert {desk.stands(f"n-{n}")[0] for n in range(2, 10)} == {"canceled"}


def test_an_order_for_which_the_brokers_mailbox_has_no_room_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames fill it; an actor does not wait for room, and what is refused must not count as sent."""
    desk, real, refused = Desk(), OrdersActor.tell, list[Any]()

    def tell(self: OrdersActor, ref: Any, message: Any) -> bool:
        if isinstance(message, SubmitOrder) and len(refused) < 2:
            refused.append(message)
            return False
        return real(self, ref, message)

    monkeypatch.setattr(OrdersActor, "tell", tell)
    desk.decide(intent("one"), intent("two", symbol="AAPL"))
    assert len(refused) == 1 and desk.at_broker("one") == desk.at_broker("two") == 0
    desk.run_for(5)

    assert (len(refused), desk.at_broker("one"), desk.at_broker("two")) == (2, 1, 1)


# --- sent again, only after two looks that are apart ---


def test_an_order_whose_submit_is_lost_is_looked_up_twice_and_two_seconds_apart_before_it_is_sent_again() -> None:
    desk = Desk()
    lost_on_the_way(desk)
    desk.run_for(30)

    assert desk.asked_about_orders() == [
        (0.0, "POST /orders"), (0.0, "look-up"), (2.0, "look-up"), (2.0, "POST /orders"),
    ]  # fmt: skip
    assert (desk.at_broker(), desk.stands()[0]) == (1, "filled")
    assert desk.system.observe("root/orders")["resends"] == 1


def test_an_order_that_is_shown_only_after_the_first_look_is_adopted_and_not_sent_again() -> None:
    """Taken, its answer lost, and for a moment not to be seen: one absence proves nothing."""
    desk = Desk()
    desk.faults.lost_answers, desk.faults.only, desk.faults.unseen = 1, "POST", 1
    desk.mute()
    desk.decide(intent())
    desk.run_for(30)

    assert desk.asked_about_orders() == [(0.0, "POST /orders"), (0.0, "look-up"), (2.0, "look-up")]
    assert (desk.at_broker(), desk.stands()) == (1, ("accepted", "adopted"))


def test_a_comparison_between_the_looks_does_not_bring_the_second_one_forward() -> None:
    desk = Desk()
    lost_on_the_way(desk)
    for _ in range(3):
        desk.run_for(0.5)
        desk.tell("orders", JobDue(at_ns=desk.now_ns, job="reconcile"))
    assert desk.asked_about_orders() == [(0.0, "POST /orders"), (0.0, "look-up")]


def test_after_a_start_an_order_that_may_have_been_sent_is_looked_up_twice_first() -> None:
    desk = Desk()
    started_again(desk)
    desk.run_for(30)

    assert desk.asked_about_orders() == [(0.0, "look-up"), (2.0, "look-up"), (2.0, "POST /orders")]


@pytest.mark.parametrize("lives_s", [1, 200])
def test_an_order_that_may_be_at_the_broker_is_looked_up_although_its_time_is_over(lives_s: int) -> None:
    """It was taken, no answer came, and nobody could ask before its window had ended: it is there, and must not count as unsent."""
    desk = Desk()
    desk.faults.lost_answers, desk.faults.only = 1, "POST"
    real = desk.broker.order_by_client_id
    desk.broker.order_by_client_id = lambda _: (_ for _ in ()).throw(BrokerUnavailable("no route"))  # type: ignore[method-assign]
    desk.mute()
    desk.run_for(300 - lives_s)
    desk.decide(intent(order_type="limit", limit_price_usd=D(150)))
    desk.run_for(250)
    assert desk.stands()[0] == "submitted"
    desk.broker.order_by_client_id = real  # type: ignore[method-assign]
    desk.run_for(120)

    assert (desk.at_broker(), desk.stands()[0]) == (1, "open")


def test_when_nobody_says_whether_the_broker_holds_it_trading_halts_with_its_name() -> None:
    desk = Desk()
    desk.faults.lost_answers, desk.faults.only = 1, "POST"
    desk.broker.order_by_client_id = lambda _: (_ for _ in ()).throw(BrokerUnavailable("no route"))  # type: ignore[method-assign]
    desk.mute()
    desk.decide(intent())
    desk.run_for(600)

    assert desk.system.exit_reason == "root/ledger: cannot find out whether the broker holds late: no route"
