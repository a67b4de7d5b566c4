"""The decision core, event by event: figures by hand, and a restart at any bar that changes nothing."""

import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from actors.messages import LedgerSnapshot, OrderRecord, PositionRecord, TargetWeight
from algo_royale import engine
from algo_royale.engine import (
    AccountReconciled,
    BarsClosed,
    Decision,
    EngineConfig,
    EngineState,
    FillApplied,
    OrderEnded,
    RecentCloses,
    SessionStarted,
    StateSet,
    SymbolBar,
    SymbolSplit,
    observe,
    rebuild,
    start,
    step,
)
from algo_royale.errors import BadConfiguration
from algo_royale.ledger import Account, Position
from algo_royale.orders import Fill, OrderStatus
from algo_royale.portfolio.sizing import TRADER_RULES, AccountRules
from algo_royale.research.simulate import Market, prepare, simulate
from algo_royale.risk import OnBreach, RefusalCode, RiskLimits, StateEvent, TradingState, committed_reason
from markets import random_symbol

D = Decimal
CASH = D(100_000)
TRADING, REDUCING, HALTED = TradingState
HOUR_NS = 3_600_000_000_000
EQUAL, MINIMUM = "EqualWeightPortfolioStrategy", "MinimumVariancePortfolioStrategy"


def config(*symbols: str, **changes: Any) -> EngineConfig:
    facts = {"ledger_id": "test", "symbols": symbols or ("A", "B"), "strategy": EQUAL, "rules": TRADER_RULES}
    return EngineConfig(**{**facts, **changes})


def bars(hour: int, **symbols: tuple[object, bool]) -> BarsClosed:
    """Bars of hour `hour` (four of them a session) as symbol=(close, state in)."""
    closes = {s: SymbolBar(D(str(c)), float(str(c)), inside, float(inside)) for s, (c, inside) in symbols.items()}
    return BarsClosed(hour * HOUR_NS, f"2010-01-{1 + hour // 4:02}", closes)


def told(state: EngineState, cfg: EngineConfig, *events: engine.Event) -> tuple[EngineState, list[Decision]]:
    decisions: list[Decision] = []
    for event in events:
        state, more = step(state, event, cfg)
        decisions += more
    return state, decisions


def filled(
    state: EngineState, order_id: str, quantity: object | None = None, price: object | None = None
) -> FillApplied:
    order = state.orders[order_id]
    shares = order.open_quantity if quantity is None else D(str(quantity))
    fill = Fill(
        execution_id="e", client_order_id=order_id, broker_order_id="b", symbol=order.symbol, side=order.side, quantity=shares,
        cumulative_quantity=order.filled_quantity + shares,
        price_usd=order.reference_price_usd if price is None else D(str(price)),
    )  # fmt: skip
    return FillApplied(fill)


def all_filled(state: EngineState, cfg: EngineConfig) -> EngineState:
    for order_id in list(state.orders):
        state, _ = step(state, filled(state, order_id), cfg)
    return state


def wanted(decision: Decision) -> list[tuple[str, str, Decimal]]:
    return [(a.intent.side, a.intent.symbol, a.intent.quantity) for a in decision.approved]


def refusals(decision: Decision) -> list[tuple[str, RefusalCode]]:
    return [(r.intent.symbol, r.code) for r in decision.refused]


def test_a_signal_becomes_sized_orders_once() -> None:
    cfg = config()
    event = bars(1, B=(50, True), A=(33.33, True))

    state, (decision,) = told(start(cfg, CASH), cfg, event)

    assert wanted(decision) == [("buy", "A", D(1050)), ("buy", "B", D(700))]  # 35 % of 100,000 at 33.33 and at 50
    assert [(t.symbol, t.weight, t.target_quantity) for t in decision.targets] == [
        ("A", 0.35, D(1050)),
        ("B", 0.35, D(700)),
    ]
    assert (decision.equity_usd, decision.bar_end_ns) == (CASH, HOUR_NS)
    assert step(state, event, cfg) == (state, ())


def test_nothing_of_a_symbol_whose_feed_is_quiet_is_bought() -> None:
    """Nobody knows what it trades at. What is held may be sold, and the bar after, told of again, is bought."""
    cfg = config()
    quiet = structs.replace(bars(1, A=(10, True), B=(20, True)), stale=frozenset("A"))

    state, (decision,) = told(start(cfg, CASH), cfg, quiet)

    assert [symbol for _, symbol, _ in wanted(decision)] == ["B"]
    assert refusals(decision) == [("A", RefusalCode.PRICE_STALE)]
    state = all_filled(state, cfg)
    _, (decision,) = told(state, cfg, structs.replace(bars(2, A=(10, True), B=(20, False)), stale=frozenset("AB")))
    assert [(side, symbol) for side, symbol, _ in wanted(decision)] == [("sell", "B")]
    _, (decision,) = told(state, cfg, bars(2, A=(10, True), B=(20, False)))
    assert ("buy", "A") in [(side, symbol) for side, symbol, _ in wanted(decision)]


def test_orders_in_flight_count_as_held() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))

    state, (again,) = told(state, cfg, bars(2, A=(101, True), B=(50, False)))

    assert wanted(again) == [] and refusals(again) == []


def test_an_order_in_flight_keeps_a_second_one_of_its_symbol_back_until_it_ended() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    (order_id,) = state.orders

    state, (turned,) = told(state, cfg, bars(2, A=(100, False), B=(50, False)))
    state, (after,) = told(
        state,
        cfg,
        filled(state, order_id, 100),
        OrderEnded(order_id, OrderStatus.EXPIRED),
        bars(3, A=(100, False), B=(50, False)),
    )

    assert refusals(turned) == [("A", RefusalCode.WASH_TRADE)]
    assert wanted(after) == [("sell", "A", D(100))]


def test_prices_alone_move_nothing() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    state = all_filled(state, cfg)

    _, (quiet,) = told(state, cfg, bars(2, A=(200, True), B=(50, False)))

    assert quiet.targets == () and quiet.approved == () and quiet.equity_usd == CASH + 35_000


def test_every_bar_rebalances_beyond_the_drift_band() -> None:
    cfg = config(rebalance="every_bar")
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    state = all_filled(state, cfg)

    state, (near,) = told(state, cfg, bars(2, A=("100.70", True), B=(50, False)))
    _, (far,) = told(state, cfg, bars(3, A=(200, True), B=(50, False)))

    assert wanted(near) == []  # 160 dollars off
    assert wanted(far) == [("sell", "A", D(114))]  # 350 held, floor(.35 * 135000 / 200) = 236


def test_sells_are_decided_before_buys() -> None:
    cfg = config("A", "B", "C")
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(10, False), B=(10, True), C=(10, True)))
    state = all_filled(state, cfg)

    _, (decision,) = told(state, cfg, bars(2, A=(10, True), B=(10, True), C=(10, False)))

    assert wanted(decision) == [("sell", "C", D(3500)), ("buy", "A", D(3500))]


def test_what_was_not_filled_is_bought_at_the_next_bar() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    (order_id,) = state.orders
    state, _ = told(state, cfg, filled(state, order_id, 300), OrderEnded(order_id, OrderStatus.EXPIRED))

    state, (retry,) = told(state, cfg, bars(2, A=(100, True), B=(50, False)))
    state, (quiet,) = told(all_filled(state, cfg), cfg, bars(3, A=(100, True), B=(50, False)))

    assert wanted(retry) == [("buy", "A", D(50))]
    assert quiet.targets == ()


def test_a_rest_inside_the_band_is_let_go() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    (order_id,) = state.orders
    state, _ = told(state, cfg, filled(state, order_id, 346), OrderEnded(order_id, OrderStatus.CANCELED))

    state, (let_go,) = told(state, cfg, bars(2, A=(100, True), B=(50, False)))
    _, (quiet,) = told(state, cfg, bars(3, A=(150, True), B=(50, False)))

    assert wanted(let_go) == [] and let_go.targets[0].target_quantity == 346
    assert quiet.targets == ()


def test_a_refused_order_is_tried_again_at_each_bar() -> None:
    cfg = config(limits=RiskLimits(restricted=frozenset({"A"})))
    free = config()
    state, (first,) = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, True)))
    state = all_filled(state, cfg)

    state, (second,) = told(state, cfg, bars(2, A=(100, True), B=(60, True)))
    _, (third,) = told(state, free, bars(3, A=(100, True), B=(50, True)))

    assert refusals(first) == refusals(second) == [("A", RefusalCode.SYMBOL_RESTRICTED)]
    assert wanted(third) == [("buy", "A", D(350))]  # B is not touched


def test_a_symbol_silent_for_too_long_is_sold_and_comes_back() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, True)))
    state = all_filled(state, cfg)

    state, (once, twice) = told(state, cfg, bars(2, A=(100, True)), bars(3, A=(100, True)))
    state = all_filled(state, cfg)
    _, (back,) = told(state, cfg, bars(4, A=(100, True), B=(50, True)))

    assert once.targets == () and once.missing == ("B",)
    assert wanted(twice) == [("sell", "B", D(700))] and not twice.targets[1].state_in
    assert wanted(back) == [("buy", "B", D(700))]


def test_a_symbol_without_history_enough_waits_for_it_and_then_enters() -> None:
    cfg = config("A", strategy=MINIMUM, params={"lookback": 20})
    _, decisions = told(start(cfg, CASH), cfg, *(bars(h, A=(100 + h % 3, True)) for h in range(1, 23)))

    assert [bool(d.approved) for d in decisions] == [False] * 20 + [True, False]


def test_the_daily_loss_is_counted_from_the_last_decision_of_the_session_before() -> None:
    cfg = config("A", "B", limits=RiskLimits(daily_loss_fraction=D("0.1"), on_daily_loss=OnBreach.REFUSE))
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    state = all_filled(state, cfg)

    state, _ = told(state, cfg, bars(3, A=(80, True), B=(50, False)))  # 93,000 at the session's end
    state, (fine,) = told(state, cfg, bars(4, A=(60, True), B=(50, True)))  # 86,000: 7.5 % below it
    state, (over,) = told(state, cfg, bars(5, A=(50, True), B=(50, True)))  # 82,500: 11.3 % below it

    assert wanted(fine) == [("buy", "A", D(151)), ("buy", "B", D(602))]
    assert state.session_start_equity == 93_000
    assert over.refused == ()  # its orders are still in flight
    state, _ = told(state, cfg, *(OrderEnded(order_id, OrderStatus.REJECTED) for order_id in list(state.orders)))
    _, (refused,) = told(state, cfg, bars(6, A=(50, True), B=(50, True)))
    assert refusals(refused) == [("A", RefusalCode.DAILY_LOSS), ("B", RefusalCode.DAILY_LOSS)]


def test_a_loss_at_its_limit_leaves_only_reductions_until_a_person_resumes() -> None:
    """35,000 in A at 100; at 70 the account is at 89,500, a tenth and a bit below the session before."""
    cfg = config("A", "B", limits=RiskLimits(daily_loss_fraction=D("0.1")))
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    state = all_filled(state, cfg)

    state, (broken,) = told(state, cfg, bars(4, A=(70, True), B=(50, True)))
    assert broken.tightened == StateSet(REDUCING, "daily_loss of 10500.00 USD has reached its limit of 10000.00 USD")
    assert refusals(broken) == [("A", RefusalCode.DAILY_LOSS), ("B", RefusalCode.DAILY_LOSS)]
    state, (recovered,) = told(state, cfg, bars(8, A=(100, True), B=(50, True)))  # another session, all well again
    assert refusals(recovered) == [("B", RefusalCode.REDUCING)] and recovered.tightened is None
    state, (out,) = told(state, cfg, bars(9, A=(100, False), B=(50, True)))
    assert wanted(out) == [("sell", "A", D(350))] and refusals(out) == [("B", RefusalCode.REDUCING)]
    state, (resumed,) = told(
        all_filled(state, cfg), cfg, StateSet(TRADING, "looked"), bars(10, A=(100, False), B=(50, True))
    )
    assert wanted(resumed) == [("buy", "B", D(700))]


def test_a_drawdown_at_its_limit_halts_and_a_resume_accepts_the_loss() -> None:
    """The peak is 114,000 (A at 140); a fifth of that are 22,800, reached at 91,200 or less."""
    cfg = config("A", limits=RiskLimits(drawdown_fraction=D("0.2")))
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True)))
    state = all_filled(state, cfg)

    state, (_, above, broken) = told(
        state, cfg, bars(2, A=(140, True)), bars(6, A=("74.86", True)), bars(9, A=(74, False))
    )
    assert above.tightened is None and broken.tightened is not None and broken.tightened.state is HALTED
    assert refusals(broken) == [("A", RefusalCode.HALTED)] and wanted(broken) == []
    state, (later, resumed) = told(
        state, cfg, bars(10, A=(139, False)), StateSet(TRADING, "looked"), bars(11, A=(120, False))
    )
    assert refusals(later) == [("A", RefusalCode.HALTED)]
    assert wanted(resumed) == [("sell", "A", D(350))] and resumed.tightened is None
    assert state.peak_equity == 113_650  # 139: of the bar before the resume


def test_a_wish_to_flatten_closes_everything_once_no_order_is_open_and_buys_nothing_until_resumed() -> None:
    cfg = config("A", "B", limits=RiskLimits(orders_per_minute=2, orders_per_day=3))
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, True)))
    wish = StateSet(REDUCING, committed_reason(StateEvent.PERSON_FLATTENS, "holiday"))

    (first,) = (order_id for order_id, order in state.orders.items() if order.symbol == "A")
    state, waiting = told(state, cfg, filled(state, first), wish, engine.Flatten(HOUR_NS + 10))
    assert waiting == []  # the order for B is open
    state, _ = told(state, cfg, OrderEnded(*state.orders, OrderStatus.CANCELED))
    strange = Position(D(3), D(7))  # of a symbol that is not traded here
    state, _ = told(state, cfg, AccountReconciled(state.account.cash, {**state.account.positions, "X": strange}))
    state, (flat,) = told(state, cfg, engine.Flatten(HOUR_NS + 10))

    assert wanted(flat) == [("sell", "A", D(350)), ("sell", "X", D(3))]
    assert [a.intent.reference_price_usd for a in flat.approved] == [D(100), D(7)]
    assert (flat.bar_end_ns, flat.decision_id) == (HOUR_NS + 11, f"{cfg.decision_prefix}{HOUR_NS + 11}")
    assert {(t.symbol, t.state_in, t.weight, t.target_quantity) for t in flat.targets} == {
        (s, False, 0.0, D(0)) for s in "ABX"
    }
    assert told(state, cfg, engine.Flatten(HOUR_NS + 20)) == (state, [])
    state = all_filled(state, cfg)
    state, (quiet,) = told(state, cfg, bars(2, A=(100, True), B=(50, True)))
    assert wanted(quiet) == [] and quiet.refused == ()
    _, (back,) = told(state, cfg, StateSet(TRADING, "over"), bars(4, A=(100, True), B=(50, True)))
    assert [symbol for _, symbol, _ in wanted(back)] == ["A", "B"]


def test_what_a_flatten_left_is_sold_at_the_next_bar() -> None:
    cfg = config("A")
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True)))
    state, _ = told(
        all_filled(state, cfg),
        cfg,
        StateSet(REDUCING, committed_reason(StateEvent.PERSON_FLATTENS, "x")),
        engine.Flatten(HOUR_NS + 10),
    )

    (order_id,) = state.orders
    _, (rest,) = told(
        state, cfg, filled(state, order_id, 100), OrderEnded(order_id, OrderStatus.EXPIRED), bars(2, A=(90, True))
    )

    assert wanted(rest) == [("sell", "A", D(250))]


def test_orders_per_day_count_within_a_session() -> None:
    cfg = config("A", "B", "C", limits=RiskLimits(orders_per_day=2))
    state, (first,) = told(start(cfg, CASH), cfg, bars(1, A=(10, True), B=(10, True), C=(10, True)))
    state, (same, next_day) = told(
        all_filled(state, cfg), cfg, bars(2, A=(10, True), B=(10, True), C=(10, True)),
        bars(4, A=(10, True), B=(10, True), C=(10, True)),
    )  # fmt: skip

    assert refusals(first) == refusals(same) == [("C", RefusalCode.ORDERS_PER_DAY)]
    assert [s for _, s, _ in wanted(next_day)] == ["C"]


def test_an_entry_waits_for_its_hour_within_a_real_session() -> None:
    """Half past nine in New York on 3 January 2012 is 14:30 UTC; a bar that ends at the close is for the next session."""
    cfg = config("A", limits=RiskLimits(entry_after_open_s=1800, entry_before_close_s=3600))
    open_ns = 1_325_601_000 * 10**9

    def at(minutes: int) -> list[tuple[str, RefusalCode]]:
        bar = BarsClosed(open_ns + minutes * 60 * 10**9, "2012-01-03", {"A": SymbolBar(D(10), 10.0, True, 1.0)})
        return refusals(step(start(cfg, CASH), bar, cfg)[1][0])

    refused, allowed = [("A", RefusalCode.SESSION_PHASE)], []
    assert [at(29), at(30), at(330), at(331), at(390)] == [refused, allowed, allowed, refused, allowed]


def test_nothing_is_approved_while_halted() -> None:
    cfg = config()
    _, (halted, resumed) = told(
        start(cfg, CASH), cfg, StateSet(HALTED, "ledger differs"), bars(1, A=(100, True), B=(50, False)), StateSet(TRADING, "looked"),
        bars(2, A=(100, True), B=(50, False)),
    )  # fmt: skip

    assert refusals(halted) == [("A", RefusalCode.HALTED)] and "ledger differs" in halted.refused[0].reason
    assert wanted(resumed) == [("buy", "A", D(350))]


def test_orders_per_minute_count_over_bars() -> None:
    cfg = config("A", "B", "C", limits=RiskLimits(orders_per_minute=2))
    _, (decision,) = told(start(cfg, CASH), cfg, bars(1, A=(10, True), B=(10, True), C=(10, True)))

    assert [s for _, s, _ in wanted(decision)] == ["A", "B"] and refusals(decision) == [("C", RefusalCode.ORDER_RATE)]


def test_buys_fit_the_buying_power_and_the_rest_follows() -> None:
    """A margin account counts this bar's sales; a cash account does not, and buys once they have settled."""
    margin, cash = TRADER_RULES, dataclasses.replace(TRADER_RULES, account="cash")
    for rules, expected in ((margin, D(3500)), (cash, D(2998))):
        cfg = config("A", "B", "C", rules=rules)
        state, _ = told(start(cfg, CASH), cfg, bars(1, A=(10, True), B=(10, True), C=(10, False)))
        state = all_filled(state, cfg)  # 30,000 in cash

        state, (decision,) = told(state, cfg, bars(2, A=(10, True), B=(10, False), C=(10, True)))

        assert wanted(decision) == [("sell", "B", D(3500)), ("buy", "C", expected)]
        assert decision.targets[2].target_quantity == 3500


def test_a_cash_account_decides_on_settled_cash_only() -> None:
    cfg = config("A", "B", "C", rules=dataclasses.replace(TRADER_RULES, account="cash"))
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(10, True), B=(10, True), C=(10, False)))
    state, _ = told(all_filled(state, cfg), cfg, bars(2, A=(10, True), B=(10, False), C=(10, True)))
    state = all_filled(state, cfg)  # 35,000 of the sale are on their way, 20 dollars are there

    state, (same_session,) = told(state, cfg, bars(3, A=(10, True), B=(10, False), C=(10, True)))
    state = all_filled(state, cfg)
    state, (next_session,) = told(
        state, cfg, SessionStarted("2010-01-02"), bars(4, A=(10, True), B=(10, False), C=(10, True))
    )

    assert wanted(same_session) == [("buy", "C", D(1))]
    assert wanted(next_session) == [("buy", "C", D(501))]


def test_fills_that_are_told_twice_or_of_unknown_orders_change_nothing() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    (order_id,) = state.orders
    fill = filled(state, order_id, 100)
    once, _ = step(state, fill, cfg)

    twice, _ = step(once, fill, cfg)
    late, _ = step(all_filled(once, cfg), fill, cfg)

    assert twice.account == once.account and twice.ignored_fills == 1
    assert late.account.quantity("A") == 350 and late.ignored_fills == 1


def test_a_split_changes_quantities_and_orders_nothing() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    state = all_filled(state, cfg)

    state, _ = told(state, cfg, SymbolSplit("A", D(7)))
    assert (state.account.quantity("A"), state.account.equity(state.prices)) == (D(2450), CASH)
    event = bars(2, A=(14, True), B=(50, False))
    _, (quiet,) = told(state, cfg, event)

    assert quiet.targets == ()


def test_reconciled_facts_replace_the_fold() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, AccountReconciled(D(5), {"A": Position(D(2), D(3))}))

    assert state.account == Account(cash=D(5), positions={"A": Position(D(2), D(3))})


def test_what_the_broker_moved_without_our_order_is_no_shortfall_but_a_missing_fill_is() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, True)))
    a, b = state.orders
    state, _ = told(state, cfg, filled(state, a), filled(state, b, 300), OrderEnded(b, OrderStatus.CANCELED))

    moved = AccountReconciled(CASH - 50_000, {"A": Position(D(2450), D("14.3")), "B": Position(D(400), D(50))})
    _, (decision,) = told(state, cfg, moved, bars(2, A=("14.30", True), B=(50, True)))

    assert wanted(decision) == [("buy", "B", D(335))]  # 35 % of 105,035 at 50 is 735, less the 400 there are


def test_targets_follow_a_split_once_although_shares_and_fills_come_from_the_broker() -> None:
    """350 A are wanted, 100 were bought before a split of 3:1 and 250 of the new ones after it: 1050 are wanted, 550 are held."""
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    (order_id,) = state.orders
    state, _ = told(state, cfg, filled(state, order_id, 100))
    state, _ = told(state, cfg, filled(state, order_id, 250))
    moved = AccountReconciled(D(66_667), {"A": Position(D(550), D(60))}, frozenset("A"))
    event = bars(4, A=("33.4", True), B=(50, False))
    told_of = BarsClosed(event.bar_end_ns, event.session, event.bars, splits={"A": D(3)})

    state, (decision,) = told(state, cfg, moved, told_of)

    equity = 66_667 + 550 * D("33.4")
    assert [t.target_quantity for t in decision.targets if t.symbol == "A"] == [(equity * D("0.35") / D("33.4")) // 1]
    state = all_filled(state, cfg)
    goal = state.goals[0]
    again = bars(5, A=("33.4", True), B=(50, False))
    state, (quiet,) = told(state, cfg, BarsClosed(again.bar_end_ns, again.session, again.bars, splits={"A": D(3)}))
    assert quiet.targets == () and state.goals[0] == goal == state.account.quantity("A")


def test_a_restart_after_a_split_knows_the_targets_in_new_shares() -> None:
    cfg = config()
    state, decisions = told(start(cfg, CASH), cfg, bars(1, A=(100, True), B=(50, False)))
    state = all_filled(state, cfg)
    known = structs.replace(snapshot(state, decisions), last_targets_date="2010-01-01")
    known = structs.replace(
        known, positions=(PositionRecord(symbol="A", quantity=D(1050), average_cost_usd=D("33.3")),)
    )
    split = (("2009-12-31", D(7)), ("2010-01-01", D(5)), ("2010-01-02", D(3)), ("2010-01-03", D(2)))
    closes = {"A": RecentCloses((HOUR_NS,), (100.0,), D(100), split), "B": RecentCloses((HOUR_NS,), (50.0,), D(50))}
    event = bars(4, A=("33.4", True), B=(50, False))

    after, (quiet,) = rebuild(
        cfg, known, closes, BarsClosed(event.bar_end_ns, event.session, event.bars, splits={"A": D(3)}), decide=True
    )

    assert after.goals == (D(1050), D(0)) and quiet.targets == ()


def test_observing_a_bar_takes_prices_and_leaves_the_books_alone() -> None:
    cfg = config()
    state, _ = told(start(cfg, CASH), cfg, bars(1, A=(100, False), B=(50, False)))

    seen = observe(state, bars(9, A=(120, True), B=(50, False)), cfg)

    assert seen.prices["A"] == 120 and [seen.last[s].state_in for s in seen.last] == [True, False]
    assert (seen.equity, seen.session, seen.session_start_equity) == (
        state.equity,
        state.session,
        state.session_start_equity,
    )
    assert step(seen, bars(9, A=(120, True), B=(50, False)), cfg) == (seen, ())


@pytest.mark.parametrize("wrong", [{"symbols": ()}, {"symbols": ("A", "A")}, {"rebalance": "monthly"}])
def test_a_configuration_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadConfiguration):
        config(**wrong) if "symbols" not in wrong else EngineConfig(ledger_id="t", strategy=EQUAL, **wrong)


# --- restart ---------------------------------------------------------------------------------------------------------


def snapshot(state: EngineState, decisions: Sequence[Decision], cash: Decimal | None = None) -> LedgerSnapshot:
    """What a ledger that committed `decisions` and the account's fills would tell; nothing else of `state` is used."""
    last = decisions[-1] if decisions else None
    targeted = [d for d in decisions if d.targets]
    earlier = [d for d in decisions if last is not None and d.session_date < last.session_date]
    orders = [OrderRecord(
        client_order_id=o.client_order_id, broker_order_id=None, decision_id=o.decision_id, symbol=o.symbol, side=o.side,
        quantity=o.quantity, filled_quantity=o.filled_quantity, status=o.status.value,
        reference_price_usd=o.reference_price_usd,
    ) for o in state.orders.values()]  # fmt: skip
    fields = TargetWeight.__struct_fields__
    return LedgerSnapshot(
        at_ns=0, ledger_id="test", cash_usd=state.account.cash if cash is None else cash,
        positions=tuple(PositionRecord(symbol=s, quantity=p.quantity, average_cost_usd=p.average_cost_usd) for s, p in
                        state.account.positions.items()),
        open_orders=tuple(orders), last_decision_bar_end_ns=last.bar_end_ns if last else 0, live_start_ns=0,
        session_start_equity_usd=earlier[-1].equity_usd if earlier else decisions[0].equity_usd if decisions else None,
        orders_recent_ns=tuple(d.bar_end_ns for d in decisions for _ in d.approved),
        state=state.trading.value, state_reason=state.trading_reason,
        peak_equity_usd=max((d.equity_usd for d in decisions), default=None),
        orders_session_count=sum(len(d.approved) for d in decisions if last and d.session_date == last.session_date),
        last_targets=tuple(
            TargetWeight(**{name: getattr(t, name) for name in fields}) for t in targeted[-1].targets
        ) if targeted else (),
        last_equity_usd=last.equity_usd if last else None, last_session_date=last.session_date if last else "",
    )  # fmt: skip


def closes_until(market: Market, steps: int) -> dict[str, RecentCloses]:
    out = {}
    for symbol in market.symbols:
        old = market.history[symbol]
        rows = [
            (m.closed.bar_end_ns, m.closed.bars[symbol]) for m in list(market.steps)[:steps] if symbol in m.closed.bars
        ]
        times = [*old.bar_ends_ns, *(end for end, _ in rows)]
        out[symbol] = RecentCloses(
            times,
            [*old.adjusted_closes, *(bar.adjusted_close for _, bar in rows)],
            rows[-1][1].close_usd if rows else None,
        )
    return out


LIMITS = RiskLimits(
    order_notional_usd=D(45_000),
    gross_exposure_fraction=D("0.9"),
    daily_loss_fraction=D("0.004"),
    orders_per_minute=2,
    on_daily_loss=OnBreach.REFUSE,
)
LATCHING = RiskLimits(daily_loss_fraction=D("0.02"), drawdown_fraction=D("0.05"), orders_per_day=3)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000), st.sampled_from(["EqualWeightPortfolioStrategy", "InverseVolatilityPortfolioStrategy"]),
    st.sampled_from([RiskLimits(), LIMITS, LATCHING]), st.integers(2, 40), st.integers(0, 2),
)  # fmt: skip
def test_a_restart_at_any_bar_decides_what_an_uninterrupted_run_decides(
    seed: int, strategy: str, limits: RiskLimits, at: int, moment: int
) -> None:
    """Restart before the bar is decided, after its decision, or after that decision's orders filled."""
    inputs = {s: random_symbol(s, seed + i, 70, gaps=0.1, flips=0.2) for i, s in enumerate("ABC")}
    market = prepare(inputs, int(inputs["A"].traded.start_ns[15]), 2**62)
    params = {"lookback": 10} if "Inverse" in strategy else {}
    cfg = config("A", "B", "C", strategy=strategy, params=params, limits=limits)
    decisions, state, restarted = [], start(cfg, CASH, engine.history_before(cfg, market.history, 2**62)[0]), 0
    uninterrupted = simulate(market, cfg, CASH)
    moments = list(market.steps)
    for index, now in enumerate(moments):
        for order in sorted(state.orders.values(), key=lambda o: (o.side == "buy", o.symbol)):
            if order.symbol in now.closed.bars:
                traded = inputs[order.symbol].traded
                opened = traded.open[traded.end_ns.tolist().index(now.closed.bar_end_ns)]
                price = engine_price(order.side, D(repr(float(opened))), cfg.rules)
                state, _ = step(state, filled(state, order.client_order_id, price=price), cfg)
            else:
                state, _ = step(state, OrderEnded(order.client_order_id, OrderStatus.EXPIRED), cfg)
            if moment == 2 and index == at:
                last = moments[index - 1].closed
                state, more = rebuild(cfg, snapshot(state, decisions), closes_until(market, index), last, decide=True)
                assert more == ()
                restarted += 1
        if moment == 0 and index == at:
            state, more = rebuild(cfg, snapshot(state, decisions), closes_until(market, index), now.closed, decide=True)
        else:
            state, more = step(state, now.closed, cfg)
        decisions += more
        if moment == 1 and index == at:
            state, more = rebuild(
                cfg, snapshot(state, decisions), closes_until(market, index + 1), now.closed, decide=True
            )
            assert more == ()
    assert [d for d in decisions if d.targets] == list(uninterrupted.decisions)
    assert state.equity == uninterrupted.final_equity


def engine_price(side: str, opened: Decimal, rules: AccountRules) -> Decimal:
    """Slippage of 5 basis points on a tick of 0.0001, written out once more."""
    assert rules is TRADER_RULES
    return (opened * (D("1.0005") if side == "buy" else D("0.9995"))).quantize(D("0.0001"))


def test_without_known_cash_nothing_is_rebuilt() -> None:
    cfg = config()
    known = snapshot(start(cfg, CASH), ())
    unknown = LedgerSnapshot(**{**{f: getattr(known, f) for f in known.__struct_fields__}, "cash_usd": None})

    with pytest.raises(BadConfiguration, match="reconcile"):
        rebuild(cfg, unknown, {}, bars(1, A=(1, True)), decide=True)


def test_an_order_of_a_symbol_without_any_price_is_refused_by_name() -> None:
    cfg = config()
    held = Account(cash=CASH, positions={"B": Position(D(5), D(7))})
    known = snapshot(structs.replace(start(cfg, CASH), account=held), ())

    _, (decision,) = rebuild(cfg, known, {}, bars(1, A=(100, True)), decide=True)

    assert refusals(decision) == [("B", RefusalCode.PRICE_MISSING)] and wanted(decision) == [("buy", "A", D(350))]


def test_history_of_other_symbols_times_is_carried_forward() -> None:
    cfg = config("A", "B", strategy="InverseVolatilityPortfolioStrategy", params={"lookback": 10})
    closes = {"A": RecentCloses([1, 2, 3, 4], [10.0, 11.0, 12.0, 13.0]), "B": RecentCloses([2, 3], [5.0, 6.0])}

    history, missed = engine.history_before(cfg, closes, 5)

    assert history[-4:].tolist()[1:] == [[11, 5], [12, 6], [13, 6]] and np.isnan(history[-4, 1])
    assert missed == (0, 1)


def test_orders_of_the_minute_before_a_restart_count_after_it() -> None:
    cfg = config(limits=RiskLimits(orders_per_minute=2))
    known = snapshot(start(cfg, CASH), ())
    busy = LedgerSnapshot(
        **{**{f: getattr(known, f) for f in known.__struct_fields__}, "orders_recent_ns": (HOUR_NS - 1,) * 2}
    )

    _, (decision,) = rebuild(cfg, busy, {}, bars(1, A=(100, True)), decide=True)

    assert refusals(decision) == [("A", RefusalCode.ORDER_RATE)]
