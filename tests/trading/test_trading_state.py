"""Halt, resume, flatten and limits on losses, on the whole trader over the twin: what is committed is what is obeyed."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from actors.direct import DirectBroker
from actors.kernel import EXIT_HALTED, Faults
from actors.messages import FlattenRequested, HaltTrading, ResumeTrading
from algo_royale.app.stepped import HOUR_NS, SteppedTrader
from algo_royale.data.catalog import bundled
from algo_royale.errors import BrokerUnavailable
from algo_royale.research.handover import engine_config, simulate_plan
from algo_royale.risk import OnBreach, RiskLimits, TradingState
from algo_royale.sessions import calendar
from db.database import execute
from traders import (
    BUSY,
    START,
    config,
    last_session,
    ledger_of,
    plan,
    recorded_orders,
    simulated_orders,
    trader,
    truth_errors,
)

SESSIONS = 6
LEDGER = "root/trading/ledger"
TRADING, REDUCING, HALTED = TradingState


def at(text: str) -> int:
    """UTC nanoseconds of "month-day hour:minute" in New York in the autumn of 2012, before the clocks changed."""
    return int(datetime.fromisoformat(f"2012-{text}:00+00:00").astimezone(UTC).timestamp() + 4 * 3600) * 10**9


def halt(state: TradingState = HALTED) -> HaltTrading:
    return HaltTrading(at_ns=0, reason="lunch", state=state.value, by="ann")


FLATTEN = FlattenRequested(at_ns=0, reason="holiday", by="ann")
RESUME = ResumeTrading(at_ns=0, reason="back", by="ann")
BEFORE_OPEN, AFTER_OPEN = at("10-19 09:00"), at("10-19 09:30")  # orders of the 18th are open, then filled


def run(account: SteppedTrader, *told: tuple[int, Any], **options: Any) -> int:
    """Run to the end and tell the ledger each message at the first moment not before its time."""
    waiting = list(told)

    def watch() -> bool:
        system = account.system
        while waiting and system is not None and system.clock.now_ns() >= waiting[0][0]:
            system.ref(LEDGER).tell(waiting.pop(0)[1])
            system.run_until_idle()
        return False

    exit_code = account.run(should_stop=watch, **options)
    assert waiting == []
    return exit_code


def changed(account: SteppedTrader, **changes: Any) -> SteppedTrader:
    """A trader whose tree is made of other parts."""
    parts = account.parts
    account.parts = lambda **ports: dataclasses.replace(parts(**ports), **changes)  # type: ignore[method-assign]
    return account


def under(limits: RiskLimits, account: SteppedTrader) -> SteppedTrader:
    """A trader with other limits than its configuration's."""
    return changed(account, engine=dataclasses.replace(account.parts().engine, limits=limits))


def statuses(account: SteppedTrader) -> list[str]:
    return [row[4] for row in recorded_orders(account.store.database.connection())]


def states(account: SteppedTrader) -> list[tuple[object, ...]]:
    return execute(account.store.database, "SELECT state, reason, set_by FROM trading_state ORDER BY seq")


def refusals(account: SteppedTrader) -> set[object]:
    return {code for (code,) in execute(account.store.database, "SELECT code FROM refusal")}


def held(account: SteppedTrader) -> dict[str, Decimal]:
    assert account.store.account is not None
    return {s: p.quantity for s, p in account.store.account.positions.items()}


def test_a_persons_halt_takes_back_what_is_open_and_the_process_goes_on_recording() -> None:
    account = trader(SESSIONS, start=BUSY)

    assert run(account, (BEFORE_OPEN, halt())) == 0

    assert set(statuses(account)) == {"canceled"} and held(account) == {}
    assert states(account) == [("halted", "lunch", "ann")]
    assert refusals(account) == {"halted"}
    ((decisions,),) = execute(account.store.database, "SELECT count(*) FROM decision")
    assert decisions == SESSIONS
    assert truth_errors(account) == []


def test_a_halt_takes_back_sells_as_well() -> None:
    account = trader(SESSIONS, start=BUSY)

    assert run(account, (at("10-22 09:00"), halt())) == 0

    ended = {(row[1], row[2]): row[4] for row in recorded_orders(account.store.database.connection())[1:]}
    assert ended == {("GOOG", "sell"): "canceled", ("AAPL", "buy"): "canceled", ("IBM", "buy"): "canceled"}
    assert truth_errors(account) == []


def test_a_halt_that_keeps_open_orders_books_their_fills_and_sends_nothing_more() -> None:
    account = changed(trader(SESSIONS, start=BUSY), cancels_on_halt=False)

    assert run(account, (BEFORE_OPEN, halt())) == 0

    assert set(statuses(account)) == {"filled"} and len(held(account)) > 0
    assert refusals(account) <= {"halted"}
    assert truth_errors(account) == []


def test_a_halt_outlives_the_process_and_only_a_person_lifts_it() -> None:
    account = trader(SESSIONS, start=BUSY)
    assert run(account, (BEFORE_OPEN, halt()), until_ns=at("10-19 17:00")) == 0
    sent = len(account.exchange.orders)

    assert run(account, until_ns=at("10-22 17:00")) == 0
    assert len(account.exchange.orders) == sent
    assert run(account, (at("10-22 18:00"), RESUME)) == 0

    assert len(account.exchange.orders) > sent and len(held(account)) > 0
    assert states(account) == [("halted", "lunch", "ann"), ("trading", "back", "ann")]
    assert truth_errors(account) == []


def test_while_reducing_open_buys_are_taken_back_and_open_sells_go_on() -> None:
    """GOOG is being sold, AAPL and IBM are being bought when it is told; afterwards only sells are recorded."""
    account = trader(SESSIONS, start=BUSY)

    assert run(account, (at("10-22 09:00"), halt(REDUCING))) == 0

    ended = {(row[1], row[2]): row[4] for row in recorded_orders(account.store.database.connection())[1:4]}
    assert ended == {("GOOG", "sell"): "filled", ("AAPL", "buy"): "canceled", ("IBM", "buy"): "canceled"}
    later = execute(account.store.database, f"SELECT DISTINCT side FROM orders WHERE at_ns > {at('10-22 09:00')}")
    assert later in ([("sell",)], []) and "reducing" in refusals(account)
    assert truth_errors(account) == []


def test_flatten_cancels_what_is_open_closes_what_is_held_and_buys_nothing_until_resumed() -> None:
    account = trader(SESSIONS, start=BUSY)

    assert run(account, (at("10-22 09:00"), FLATTEN), until_ns=at("10-23 17:00")) == 0

    assert held(account) == {} and account.exchange.account.positions == {}
    assert states(account) == [("reducing", "flatten: holiday", "ann")]
    assert statuses(account)[1:4] == ["canceled"] * 3  # a sell and two buys were open
    flat = execute(account.store.database, f"SELECT side FROM orders WHERE at_ns >= {at('10-22 09:00')}")
    assert flat and set(flat) == {("sell",)}
    assert truth_errors(account) == []
    assert run(account, (at("10-23 18:00"), RESUME)) == 0
    assert len(held(account)) > 0 and truth_errors(account) == []


def test_a_halted_trader_can_be_flattened_and_resumes_only_when_told() -> None:
    account = trader(SESSIONS, start=BUSY)

    assert run(account, (AFTER_OPEN, halt()), (at("10-22 09:00"), FLATTEN)) == 0

    assert held(account) == {} and [state for state, *_ in states(account)] == ["halted", "reducing"]
    assert truth_errors(account) == []


class AfterWish(Faults):
    """Crashes whoever handles the `count`-th message after the wish to flatten was handled."""

    def __init__(self, count: int, when: str) -> None:
        self._count, self._when, self._wished = count, when, 0
        self.struck = False

    def before(self, index: int, path: str, message: Any) -> BaseException | Any:
        if isinstance(message, FlattenRequested):
            self._wished = index
        return self._strike(index, "before")

    def after(self, index: int, path: str, message: Any) -> BaseException | Any:
        return self._strike(index, "after")

    def _strike(self, index: int, when: str) -> BaseException | None:
        if self.struck or not self._wished or when != self._when or index != self._wished + self._count:
            return None
        self.struck = True
        return RuntimeError("injected")


@pytest.mark.prove
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wish_to_flatten_is_not_lost_by_a_crash(when: str, proving: bool) -> None:
    """Whoever dies at whatever message after the wish: everything is closed at the next open, and nothing twice."""
    wrong = []
    for count in range(1, 50, 1 if proving else 8):
        account, faults = trader(SESSIONS, start=BUSY), AfterWish(count, when)
        exit_code = run(account, (at("10-22 09:00"), FLATTEN), faults=faults, until_ns=at("10-22 12:00"))
        problems = truth_errors(account)
        if exit_code or held(account) or not faults.struck:
            problems.append(f"exit code {exit_code}, held {held(account)}, struck {faults.struck}")
        if problems:
            wrong.append(f"crash {when} message {count}: {'; '.join(problems)}")

    assert wrong == []


TIGHT = RiskLimits(
    daily_loss_fraction=Decimal("0.015"), drawdown_fraction=Decimal("0.04"), orders_per_day=2,
    concentration_fraction=Decimal("0.36"),
)  # fmt: skip


@pytest.mark.parametrize(
    "limits", [TIGHT, dataclasses.replace(TIGHT, on_daily_loss=OnBreach.REFUSE)], ids=["reduces", "halts"]
)
def test_limits_on_losses_act_in_the_trader_as_in_the_simulation(limits: RiskLimits) -> None:
    """The same orders to the last share, past the moment at which the latch closes."""
    account, cfg = under(limits, trader(90)), config()
    rules = engine_config(
        plan(), ledger_id="0123456789ab", rules=cfg.trader_rules(), limits=limits, weights=cfg.account.weights()
    )
    expected = simulate_plan(
        plan(), bundled(), rules, start=START, end=last_session(START, 90), cash_usd=cfg.account.cash
    )

    assert account.run() == 0

    assert expected.state.trading is not TRADING
    assert states(account) == [(expected.state.trading.value, expected.state.trading_reason, "risk")]
    assert recorded_orders(account.store.database.connection()) == simulated_orders(expected)
    assert truth_errors(account) == []


def test_peak_session_start_and_latch_survive_a_restart_every_session() -> None:
    """A process a day decides what one process decides, before and after the limits on losses close the latch."""
    limits = dataclasses.replace(TIGHT, on_daily_loss=OnBreach.REFUSE, drawdown_fraction=Decimal("0.012"))
    whole, parts = under(limits, trader(30)), under(limits, trader(30))
    assert whole.run() == 0
    assert "drawdown" in str(states(whole))
    for day in range(1, 31):
        session = calendar().offset(last_session(START, day), 0)
        assert parts.run(until_ns=session.close_ns + HOUR_NS) == 0

    assert ledger_of(parts) == ledger_of(whole)


class Quoted(DirectBroker):
    """The twin's data, with a market of its own: GOOG has a wide spread, AAPL a trade far away, nobody quotes IBM."""

    fails = False
    asked = 0

    def snapshots(self, *, symbols: Sequence[str]) -> Any:
        self.asked += 1
        if self.fails:
            raise BrokerUnavailable("injected")
        return {
            "GOOG": {"latestTrade": {"p": 690}, "latestQuote": {"bp": 680, "ap": 700}},  # 20 of 690: 2.9 %
            "AAPL": {"latestTrade": {"p": 500}, "latestQuote": {"bp": 0, "ap": 609}},  # against 609.84 at the close
            "IBM": {"latestQuote": None}, "MSFT": {},
        }  # fmt: skip


def quoted(limits: RiskLimits, *, fails: bool = False) -> tuple[SteppedTrader, Quoted]:
    account = under(limits, trader(2, start=BUSY))
    data = Quoted(account.exchange, key=account.keys[0], secret=account.keys[1], faults=account.streams.faults)
    data.fails = fails
    assert account.run(changes={"data": data}) == 0
    return account, data


def test_the_market_is_looked_at_before_a_decision_where_a_limit_on_the_spread_is_set() -> None:
    """GOOG is to be bought on the 18th; on the 19th AAPL and IBM are."""
    limits = RiskLimits(spread_fraction=Decimal("0.02"), collar_fraction=Decimal("0.1"))

    account, data = quoted(limits)

    rows = execute(account.store.database, "SELECT symbol, code, limit_value, actual_value FROM refusal ORDER BY seq")
    assert [row[:2] for row in rows] == [("GOOG", "spread_wide"), ("AAPL", "price_collar"), ("GOOG", "spread_wide")]
    assert float(str(rows[0][3])) == pytest.approx(20 / 690) and float(str(rows[1][2])) == 550
    assert data.asked == 2 and set(held(account)) == set()


def test_a_market_that_nobody_can_see_holds_nothing_back() -> None:
    seen, data = quoted(RiskLimits(spread_fraction=Decimal("0.02")), fails=True)
    without, other = quoted(RiskLimits())

    assert (data.asked, other.asked) == (2, 0) and refusals(seen) == set()
    assert recorded_orders(seen.store.database.connection()) == recorded_orders(without.store.database.connection())


class Lagging(DirectBroker):
    """The twin's REST, whose positions are empty from the first time that there are any, for so many seconds."""

    seconds = 0.0
    since_ns = 0

    def request(self, method: str, path: str, data: Any = None) -> Any:
        answer = super().request(method, path, data)
        if path != "/positions" or not answer:
            return answer
        now_ns = self._exchange.now_ns
        self.since_ns = self.since_ns or now_ns
        return [] if now_ns < self.since_ns + self.seconds * 1e9 else answer


def lagging(seconds: float) -> tuple[SteppedTrader, int]:
    account = trader(SESSIONS, start=BUSY)
    broker = Lagging(account.exchange, key=account.keys[0], secret=account.keys[1], faults=account.streams.faults)
    broker.seconds = seconds
    return account, account.run(changes={"broker": broker})


def test_positions_that_lag_behind_are_looked_at_again_before_they_count() -> None:
    """Both sides of the first look are on record, nothing else differs from a run without the lag."""
    undisturbed = trader(SESSIONS, start=BUSY)
    assert undisturbed.run() == 0

    account, exit_code = lagging(3.0)

    assert (exit_code, states(account)) == (0, [])
    assert ledger_of(account) == ledger_of(undisturbed)
    looks = execute(account.store.database, "SELECT agreed, cause_of, differences FROM reconciliation ORDER BY seq")
    first = next(i for i, (agreed, *_) in enumerate(looks) if not agreed)
    assert "GOOG: ledger 50, broker 0" in str(looks[first][2]) and looks[first + 1][:2] == (1, "second look")


def test_a_difference_that_stays_halts_after_the_second_look() -> None:
    account, exit_code = lagging(1e6)

    assert exit_code == EXIT_HALTED
    ((state, reason, by),) = states(account)
    assert (state, by) == ("halted", "ledger") and "GOOG: ledger 50, broker 0" in str(reason)
    looks = execute(account.store.database, "SELECT at_ns FROM reconciliation WHERE agreed = 0 ORDER BY seq")
    (first,), (second,) = looks
    assert second - first == 5 * 10**9  # type: ignore[operator]  # config: second_look_s
    assert execute(account.store.database, "SELECT resolution FROM difference WHERE subject = 'GOOG'") == [("halted",)]


def test_a_contradiction_is_latched_and_ends_the_process() -> None:
    account = trader(SESSIONS, start=BUSY)

    assert run(account, (BEFORE_OPEN, HaltTrading(at_ns=0, reason="an order that nobody recorded"))) == EXIT_HALTED

    assert states(account) == [("halted", "an order that nobody recorded", "orders")]
