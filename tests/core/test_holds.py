"""The table of holds, cell by cell; what each holds back; and that a restart stands where the events led."""

import dataclasses
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.messages import LastTrade, LedgerSnapshot, PositionRecord
from algo_royale.engine import (
    BarsClosed,
    Decision,
    EngineConfig,
    EngineState,
    FillApplied,
    SymbolBar,
    rebuild,
    start,
    step,
)
from algo_royale.errors import BadConfiguration
from algo_royale.holds import TRANSITIONS, Hold, HoldEvent, HoldRules, SymbolHold, move, of_facts, passed
from algo_royale.market import Timeframe
from algo_royale.orders import Fill
from algo_royale.portfolio.sizing import TRADER_RULES
from algo_royale.portfolio.weights import WeightConfig
from algo_royale.risk import RefusalCode
from algo_royale.sessions import calendar

D = Decimal
MINUTE_NS = 60_000_000_000
EVERY = HoldRules(one_way=True, post_fill_delay_s=600, settlement_days=1, no_day_trades=True)

# What follows in each cell, by hand: h: hold_all. a: of closed_for_day, post_fill_delay, pending_settlement and rest the first
# that is not over, or hold_all while an order is open. d, u, r: the same from post_fill_delay, pending_settlement, rest on.
TABLE = """
                   ordered bought sold ended moved delay_over settled session_over
start              h       a      a    .     r     .          .       .
buy_only           h       a      a    .     r     .          .       .
sell_only          h       a      a    .     r     .          .       .
hold_all           h       a      a    a     .     .          .       .
post_fill_delay    h       a      a    .     .     u          .       .
pending_settlement h       a      a    .     .     .          r       .
closed_for_day     h       a      a    .     .     .          .       d
"""
HEAD, *ROWS = (line.split() for line in TABLE.strip().splitlines())
CELLS = [(row[0], event, code) for row in ROWS for event, code in zip(HEAD, row[1:], strict=True)]

THURSDAY, FRIDAY, MONDAY = (calendar().offset(date(2024, 6, day), 0) for day in (20, 21, 24))
SOLD = THURSDAY.open_ns + 5 * MINUTE_NS
# situation -> (facts, now, session of now, what is the case then)
SITUATIONS: dict[str, tuple[SymbolHold, int, str, str]] = {
    "an order is open": (SymbolHold(is_open=True, sold_ns=SOLD), SOLD, "2024-06-20", "hold_all"),
    "traded today": (SymbolHold(sold_ns=SOLD), SOLD + MINUTE_NS, "2024-06-20", "closed_for_day"),
    "sold yesterday": (SymbolHold(sold_ns=SOLD, is_held=True), FRIDAY.open_ns, "2024-06-21", "sell_only"),
    "never traded": (SymbolHold(), SOLD, "2024-06-20", "buy_only"),
}
FROM = {"a": 0, "d": 2, "u": 3, "r": 4}
ORDER = ("hold_all", "closed_for_day", "post_fill_delay", "pending_settlement", "rest")


def test_the_table_here_has_every_state_and_every_event() -> None:
    assert {row[0] for row in ROWS} == set(Hold) == set(TRANSITIONS)
    assert set(HEAD) == set(HoldEvent)


@pytest.mark.parametrize(("state", "event", "code"), CELLS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_event_in_every_state_leads_to_the_first_that_applies(
    state: str, event: str, code: str, situation: str
) -> None:
    facts, at_ns, session, case = SITUATIONS[situation]
    rest = "sell_only" if facts.is_held else "buy_only"
    if code in ".h":
        expected = state if code == "." else "hold_all"
    elif case in ORDER and ORDER.index(case) >= FROM[code]:
        expected = case
    else:  # the case lies before where the cell looks from, so what comes after it in the same situation
        delayed = situation in ("an order is open", "traded today")
        expected = {"d": "post_fill_delay", "u": "pending_settlement"}.get(code, rest) if delayed else rest

    assert move(replace(facts, hold=Hold(state)), HoldEvent(event), EVERY, at_ns, session).hold == expected


@pytest.mark.parametrize(
    ("hold", "buy", "sell"),
    [
        ("start", True, True), ("buy_only", True, False), ("sell_only", False, True), ("hold_all", False, False),
        ("post_fill_delay", False, False), ("pending_settlement", False, True), ("closed_for_day", False, False),
    ],
)  # fmt: skip
def test_what_each_hold_lets_through(hold: str, buy: bool, sell: bool) -> None:
    assert (Hold(hold).allows("buy"), Hold(hold).allows("sell")) == (buy, sell)


def test_time_alone_leads_out_of_every_hold() -> None:
    """10 minutes from the fill, then settlement on the next session, which a weekend does not bring nearer."""
    rules, sold = HoldRules(post_fill_delay_s=600, settlement_days=1), FRIDAY.open_ns + MINUTE_NS
    now = move(SymbolHold(sold_ns=sold), HoldEvent.SOLD, rules, sold, "2024-06-21")

    def at(ns: int, session: str) -> str:
        return passed(now, rules, ns, session).hold.value

    assert at(sold + 10 * MINUTE_NS - 1, "2024-06-21") == "post_fill_delay"
    assert at(sold + 10 * MINUTE_NS, "2024-06-21") == "pending_settlement"
    assert at(FRIDAY.close_ns - 1, "2024-06-21") == "pending_settlement"
    assert at(MONDAY.open_ns, "2024-06-24") == "start"


rules_of = st.builds(
    HoldRules, one_way=st.booleans(), post_fill_delay_s=st.sampled_from([0, 60, 900]), settlement_days=st.integers(0, 2),
    no_day_trades=st.booleans(),
)  # fmt: skip
deeds = st.lists(
    st.tuples(st.sampled_from(["order", "buy", "sell", "end", "move", "look"]), st.integers(1, 2000)), max_size=25
)


@given(rules_of, deeds)
def test_events_and_facts_lead_to_the_same_hold(rules: HoldRules, events: list[tuple[str, int]]) -> None:
    """Whatever happened, a trader that starts now and reads its ledger holds back what one that was there does."""
    now, at_ns = SymbolHold(), THURSDAY.open_ns
    for deed, minutes in events:
        at_ns += minutes * MINUTE_NS
        running = calendar().session_at(at_ns) or calendar().next_session(at_ns)
        at_ns, session = max(at_ns, running.open_ns), running.date.isoformat()
        if deed == "order":
            now = move(replace(now, is_open=True), HoldEvent.ORDERED, rules, at_ns, session)
        elif deed == "buy":
            now = replace(now, bought_ns=at_ns, is_held=True)
            now = move(now, HoldEvent.BOUGHT, rules, at_ns, session)
        elif deed == "sell":
            now = replace(now, sold_ns=at_ns, is_held=False, is_open=False)
            now = move(now, HoldEvent.SOLD, rules, at_ns, session)
        elif deed == "end":
            now = move(replace(now, is_open=False), HoldEvent.ENDED, rules, at_ns, session)
        elif deed == "move":
            now = move(replace(now, is_held=not now.is_held), HoldEvent.MOVED, rules, at_ns, session)
        now = passed(now, rules, at_ns, session)

        assert now == of_facts(now, rules, at_ns, session)


# --- in the engine ---

MINUTES = WeightConfig(bars_per_year=Timeframe.MIN_5.bars_per_year)


def config(**rules: Any) -> EngineConfig:
    return EngineConfig(
        ledger_id="test", symbols=("A",), strategy="EqualWeightPortfolioStrategy",
        rules=dataclasses.replace(TRADER_RULES, holds=HoldRules(**rules)), weights=MINUTES,
    )  # fmt: skip


def bar(minute: int, inside: bool, session: Any = THURSDAY, close: int = 100) -> BarsClosed:
    return BarsClosed(
        session.open_ns + minute * MINUTE_NS, session.date.isoformat(), {"A": SymbolBar(D(close), float(close), inside, 1.0)}
    )  # fmt: skip


def fill_at(state: EngineState, minute: int, session: Any = THURSDAY) -> FillApplied:
    (order,) = state.orders.values()
    fill = Fill(
        execution_id="e", client_order_id=order.client_order_id, broker_order_id="b", symbol="A", side=order.side,
        quantity=order.quantity, cumulative_quantity=order.quantity, price_usd=D(100),
        at_ns=session.open_ns + minute * MINUTE_NS + 1,
    )  # fmt: skip
    return FillApplied(fill)


def bought(cfg: EngineConfig) -> EngineState:
    """350 shares of A, ordered at the fifth minute and filled at once."""
    state, _ = step(start(cfg, D(100_000)), bar(5, True), cfg)
    return step(state, fill_at(state, 5), cfg)[0]


def verdict(decision: Decision) -> str:
    if decision.refused:
        assert [r.code for r in decision.refused] == [RefusalCode.SYMBOL_HOLD]
        return decision.refused[0].reason.partition("(")[2].rstrip(")")
    return decision.approved[0].intent.side if decision.approved else "nothing"


@pytest.mark.parametrize(
    ("rules", "minute", "session", "said"),
    [
        ({}, 10, THURSDAY, "sell"),
        ({"post_fill_delay_s": 600}, 10, THURSDAY, "post_fill_delay"),
        ({"post_fill_delay_s": 600}, 15, THURSDAY, "sell"),
        ({"no_day_trades": True}, 385, THURSDAY, "closed_for_day"),
        ({"no_day_trades": True}, 390, THURSDAY, "sell"),  # orders of the last bar are the next session's
        ({"no_day_trades": True}, 5, FRIDAY, "sell"),
        ({"one_way": True}, 10, THURSDAY, "sell"),
        ({"settlement_days": 1}, 10, THURSDAY, "sell"),
    ],
)
def test_a_sale_after_a_purchase_waits_as_the_rules_say(
    rules: dict[str, Any], minute: int, session: Any, said: str
) -> None:
    cfg = config(**rules)
    _, (decision,) = step(bought(cfg), bar(minute, False, session), cfg)

    assert verdict(decision) == said


@pytest.mark.parametrize(
    ("rules", "minute", "session", "said"),
    [
        ({}, 15, THURSDAY, "buy"),
        ({"settlement_days": 1}, 385, THURSDAY, "pending_settlement"),
        ({"settlement_days": 1}, 390, THURSDAY, "buy"),
        ({"settlement_days": 2}, 390, THURSDAY, "pending_settlement"),
        ({"settlement_days": 2}, 390, FRIDAY, "buy"),
    ],
)
def test_a_purchase_after_a_sale_waits_for_the_proceeds(
    rules: dict[str, Any], minute: int, session: Any, said: str
) -> None:
    cfg = config(**rules)
    state, _ = step(bought(cfg), bar(10, False), cfg)
    state, _ = step(state, fill_at(state, 10), cfg)

    _, (decision,) = step(state, bar(minute, True, session), cfg)

    assert verdict(decision) == said


def test_a_held_symbol_is_not_trimmed_where_it_is_only_bought_flat_and_sold_whole() -> None:
    cfg = dataclasses.replace(config(one_way=True), rebalance="every_bar")

    _, (decision,) = step(bought(cfg), bar(10, True, close=50), cfg)  # worth half: 350 more would restore the weight

    assert verdict(decision) == "sell_only"


@pytest.mark.parametrize("minute", [10, 15, 385, 390])
def test_a_restart_holds_back_what_an_uninterrupted_run_does(minute: int) -> None:
    """From the ledger's positions and the symbols' last trades alone."""
    cfg = config(post_fill_delay_s=600, no_day_trades=True)
    state = bought(cfg)
    held = state.account.positions["A"]
    target = next(iter(step(start(cfg, D(100_000)), bar(5, True), cfg)[1])).targets
    snapshot = LedgerSnapshot(
        at_ns=0, ledger_id="test", cash_usd=state.account.cash, open_orders=(), live_start_ns=0,
        positions=(PositionRecord(symbol="A", quantity=held.quantity, average_cost_usd=held.average_cost_usd),),
        last_decision_bar_end_ns=state.bar_end_ns, last_targets=target,  # type: ignore[arg-type]
        last_trades=(LastTrade(symbol="A", side="buy", at_ns=fill_at(step(start(cfg, D(100_000)), bar(5, True), cfg)[0], 5).fill.at_ns),),
    )  # fmt: skip

    _, (expected,) = step(state, bar(minute, False), cfg)
    _, (decision,) = rebuild(cfg, snapshot, {}, bar(minute, False), decide=True)

    assert verdict(decision) == verdict(expected)


def test_rules_that_make_no_sense_are_refused() -> None:
    for wrong in ({"post_fill_delay_s": -1}, {"post_fill_delay_s": 23_401}, {"settlement_days": -1}):
        with pytest.raises(BadConfiguration):
            HoldRules(**wrong)  # type: ignore[arg-type]


def test_holds_that_cannot_come_to_bear_on_daily_bars_are_not_kept() -> None:
    """Research of a cash account stays in compiled code; two days to settlement do bear on a daily bar's order."""
    for rules, bears in (({"settlement_days": 1}, False), ({"settlement_days": 2}, True), ({"no_day_trades": True}, False),
                         ({"post_fill_delay_s": 23_400}, False), ({"one_way": True}, True)):  # fmt: skip
        assert HoldRules(**rules).matters(is_daily=True) == bears
        assert HoldRules(**rules).matters(is_daily=False)
