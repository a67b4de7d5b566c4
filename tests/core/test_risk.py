"""Every refusal happens on one side of its boundary and not on the other, and nothing unapproved can pass for approved."""

import dataclasses
import itertools
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from algo_royale.holds import Hold
from algo_royale.orders import OrderIntent
from algo_royale.risk import (
    BY_CONTRADICTION,
    STATE_TRANSITIONS,
    ApprovedOrder,
    OnBreach,
    RefusalCode,
    RefusedOrder,
    RiskLimits,
    RiskSnapshot,
    StateEvent,
    TradingState,
    breach,
    check,
    committed_reason,
    gross_exposure,
    is_flattening,
    net_exposure,
    reduces,
)

D = Decimal
ONE = D(1)
BUY_60 = OrderIntent(client_order_id="c1", symbol="A", side="buy", quantity=D(60), reference_price_usd=D(10))
SELL_60 = dataclasses.replace(BUY_60, side="sell")
SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS
TRADING, REDUCING, HALTED = TradingState


def snapshot(**changes: Any) -> RiskSnapshot:
    """60 A at 10 and 5 B at 20 in an account worth 1000."""
    facts: dict[str, Any] = {
        "at_ns": 10 * MINUTE_NS, "equity_usd": D(1000), "session_start_equity_usd": D(1000), "peak_equity_usd": D(1000),
        "held": {"A": D(60), "B": D(5)}, "prices_usd": {"A": D(10), "B": D(20)},
    }  # fmt: skip
    return RiskSnapshot(**{**facts, **changes})


def limited(price: str) -> OrderIntent:
    return dataclasses.replace(BUY_60, limit_price_usd=D(price), order_type="limit")


SHORT = frozenset("A")
RECENT = (9 * MINUTE_NS, 9 * MINUTE_NS + 1, 10 * MINUTE_NS)  # the first is a full minute ago
IN_SESSION = {"session_ns": (9 * MINUTE_NS, 12 * MINUTE_NS)}  # a minute old, two to go
FLAT = {"held": {"B": D(5)}}
# code, what is just refused (intent, snapshot, limits), its limit and value, what is just allowed
Case = tuple[OrderIntent, RiskSnapshot, RiskLimits]
BOUNDARIES: list[tuple[RefusalCode, Case, object, object, Case]] = [
    (
        RefusalCode.HALTED, (SELL_60, snapshot(trading=HALTED, trading_reason="why"), RiskLimits()), None, None,
        (SELL_60, snapshot(trading=REDUCING), RiskLimits()),
    ),
    (
        RefusalCode.SYMBOL_RESTRICTED, (SELL_60, snapshot(), RiskLimits(restricted=frozenset("A"))), None, None,
        (SELL_60, snapshot(), RiskLimits(restricted=frozenset("B"))),
    ),
    (
        RefusalCode.QUANTITY_INVALID, (dataclasses.replace(BUY_60, quantity=D(0)), snapshot(), RiskLimits()), 0, 0,
        (dataclasses.replace(BUY_60, quantity=D("0.000001")), snapshot(), RiskLimits()),
    ),
    (
        RefusalCode.PRICE_MISSING, (SELL_60, snapshot(prices_usd={"B": D(20)}), RiskLimits()), None, None,
        (SELL_60, snapshot(prices_usd={"A": D(10)}), RiskLimits()),
    ),
    (
        RefusalCode.DUPLICATE_INTENT, (SELL_60, snapshot(open_sells=frozenset("A")), RiskLimits()), None, None,
        (SELL_60, snapshot(open_sells=frozenset("B")), RiskLimits()),
    ),
    (
        RefusalCode.DUPLICATE_INTENT, (BUY_60, snapshot(known_orders=frozenset({"c1"})), RiskLimits()), None, None,
        (BUY_60, snapshot(known_orders=frozenset({"c2"})), RiskLimits()),
    ),
    (
        RefusalCode.WASH_TRADE, (SELL_60, snapshot(open_buys=frozenset("A")), RiskLimits()), None, None,
        (SELL_60, snapshot(open_buys=frozenset("B")), RiskLimits()),
    ),
    (
        RefusalCode.WASH_TRADE, (BUY_60, snapshot(open_sells=frozenset("A")), RiskLimits()), None, None,
        (BUY_60, snapshot(open_sells=frozenset("B")), RiskLimits()),
    ),
    (
        RefusalCode.SYMBOL_HOLD, (BUY_60, snapshot(holds={"A": Hold.SELL_ONLY}), RiskLimits()), None, None,
        (BUY_60, snapshot(holds={"A": Hold.BUY_ONLY, "B": Hold.SELL_ONLY}), RiskLimits()),
    ),
    (
        RefusalCode.SYMBOL_HOLD, (SELL_60, snapshot(holds={"A": Hold.CLOSED_FOR_DAY}), RiskLimits()), None, None,
        (SELL_60, snapshot(holds={"A": Hold.PENDING_SETTLEMENT}), RiskLimits()),
    ),
    (  # 5 % of 10 is 0.5
        RefusalCode.PRICE_COLLAR, (limited("10.51"), snapshot(), RiskLimits(collar_fraction=D("0.05"))), D("10.5"), D("10.51"),
        (limited("10.5"), snapshot(), RiskLimits(collar_fraction=D("0.05"))),
    ),
    (
        RefusalCode.PRICE_COLLAR, (limited("9.49"), snapshot(), RiskLimits(collar_fraction=D("0.05"))), D("9.5"), D("9.49"),
        (limited("9.5"), snapshot(), RiskLimits(collar_fraction=D("0.05"))),
    ),
    (  # sized at 10 while the last trade was at 8: 25 % away
        RefusalCode.PRICE_COLLAR, (SELL_60, snapshot(prices_usd={"A": D(8)}), RiskLimits(collar_fraction=D("0.24"))),
        D("9.92"), 10, (SELL_60, snapshot(prices_usd={"A": D(8)}), RiskLimits(collar_fraction=D("0.25"))),
    ),
    (  # the close was at 10; the last trade, where it is known, is what counts
        RefusalCode.PRICE_COLLAR,
        (SELL_60, snapshot(trades_usd={"A": D(8)}), RiskLimits(collar_fraction=D("0.24"))), D("9.92"), 10,
        (SELL_60, snapshot(trades_usd={"A": D(8)}), RiskLimits(collar_fraction=D("0.25"))),
    ),
    (
        RefusalCode.ORDER_RATE, (SELL_60, snapshot(orders_recent_ns=RECENT), RiskLimits(orders_per_minute=2)), 2, 3,
        (SELL_60, snapshot(orders_recent_ns=RECENT), RiskLimits(orders_per_minute=3)),
    ),
    (
        RefusalCode.ORDERS_PER_DAY, (SELL_60, snapshot(orders_today=7), RiskLimits(orders_per_day=7)), 7, 8,
        (SELL_60, snapshot(orders_today=6), RiskLimits(orders_per_day=7)),
    ),
    (  # 3 % of 1000 are 30; reached is broken
        RefusalCode.DAILY_LOSS, (BUY_60, snapshot(equity_usd=D(970)), RiskLimits(daily_loss_fraction=D("0.03"))), 30, 30,
        (BUY_60, snapshot(equity_usd=D("970.01")), RiskLimits(daily_loss_fraction=D("0.03"))),
    ),
    (  # a fifth of the highest, 2000, are 400
        RefusalCode.DRAWDOWN,
        (BUY_60, snapshot(equity_usd=D(1600), peak_equity_usd=D(2000)), RiskLimits(drawdown_fraction=D("0.2"))), 400, 400,
        (BUY_60, snapshot(equity_usd=D("1600.01"), peak_equity_usd=D(2000)), RiskLimits(drawdown_fraction=D("0.2"))),
    ),
    (
        RefusalCode.REDUCING, (BUY_60, snapshot(trading=REDUCING, trading_reason="why"), RiskLimits()), None, None,
        (BUY_60, snapshot(trading=TRADING), RiskLimits()),
    ),
    (
        RefusalCode.SHORT_SALE, (SELL_60, snapshot(in_flight={"A": D(-1)}), RiskLimits()), 59, 60,
        (SELL_60, snapshot(in_flight={"A": D(1)}), RiskLimits()),
    ),
    (
        RefusalCode.SHORT_SALE, (SELL_60, snapshot(**FLAT), RiskLimits(shortable=frozenset("B"))), 0, 60,
        (SELL_60, snapshot(**FLAT), RiskLimits(shortable=SHORT)),
    ),
    (  # 59 held: no broker sells the last share short in the same order
        RefusalCode.SHORT_SALE, (SELL_60, snapshot(held={"A": D(59)}), RiskLimits(shortable=SHORT)), 59, 60,
        (SELL_60, snapshot(held={"A": D(60)}), RiskLimits(shortable=SHORT)),
    ),
    (
        RefusalCode.PRICE_STALE, (BUY_60, snapshot(stale=frozenset("A")), RiskLimits()), None, None,
        (BUY_60, snapshot(stale=frozenset("B")), RiskLimits()),
    ),
    (
        RefusalCode.SPREAD_WIDE, (BUY_60, snapshot(spreads={"A": D("0.0101")}), RiskLimits(spread_fraction=D("0.01"))),
        D("0.01"), D("0.0101"), (BUY_60, snapshot(spreads={"A": D("0.01")}), RiskLimits(spread_fraction=D("0.01"))),
    ),
    (
        RefusalCode.SESSION_PHASE, (BUY_60, snapshot(**IN_SESSION), RiskLimits(entry_after_open_s=61)), 61, 60,
        (BUY_60, snapshot(**IN_SESSION), RiskLimits(entry_after_open_s=60)),
    ),
    (
        RefusalCode.SESSION_PHASE, (BUY_60, snapshot(**IN_SESSION), RiskLimits(entry_before_close_s=121)), 121, 120,
        (BUY_60, snapshot(**IN_SESSION), RiskLimits(entry_before_close_s=120)),
    ),
    (
        RefusalCode.ORDER_QUANTITY, (BUY_60, snapshot(), RiskLimits(order_quantity=D(59))), 59, 60,
        (BUY_60, snapshot(), RiskLimits(order_quantity=D(60))),
    ),
    (
        RefusalCode.ORDER_NOTIONAL, (BUY_60, snapshot(), RiskLimits(order_notional_usd=D(599))), 599, 600,
        (BUY_60, snapshot(), RiskLimits(order_notional_usd=D(600))),
    ),
    (
        RefusalCode.POSITION_NOTIONAL, (BUY_60, snapshot(), RiskLimits(position_notional_usd=D(1199))), 1199, 1200,
        (BUY_60, snapshot(), RiskLimits(position_notional_usd=D(1200))),
    ),
    (
        RefusalCode.CONCENTRATION, (BUY_60, snapshot(), RiskLimits(concentration_fraction=D("1.19"))), 1190, 1200,
        (BUY_60, snapshot(), RiskLimits(concentration_fraction=D("1.2"))),
    ),
    (  # 120 A are 1200, 5 B are 100
        RefusalCode.GROSS_EXPOSURE, (BUY_60, snapshot(), RiskLimits(gross_exposure_fraction=D("1.29"))), 1290, 1300,
        (BUY_60, snapshot(), RiskLimits(gross_exposure_fraction=D("1.3"))),
    ),
    (  # short 60 A beside 100 of B: 600 + 100 gross
        RefusalCode.GROSS_EXPOSURE,
        (SELL_60, snapshot(**FLAT), RiskLimits(shortable=SHORT, gross_exposure_fraction=D("0.69"))), 690, 700,
        (SELL_60, snapshot(**FLAT), RiskLimits(shortable=SHORT, gross_exposure_fraction=D("0.7"))),
    ),
    (  # and 600 - 100 net
        RefusalCode.NET_EXPOSURE,
        (SELL_60, snapshot(**FLAT), RiskLimits(shortable=SHORT, net_exposure_fraction=D("0.49"))), 490, 500,
        (SELL_60, snapshot(**FLAT), RiskLimits(shortable=SHORT, net_exposure_fraction=D("0.5"))),
    ),
    (
        RefusalCode.NET_EXPOSURE, (BUY_60, snapshot(), RiskLimits(net_exposure_fraction=D("1.29"))), 1290, 1300,
        (BUY_60, snapshot(), RiskLimits(net_exposure_fraction=D("1.3"))),
    ),
    (
        RefusalCode.BUYING_POWER, (BUY_60, snapshot(buying_power_usd=D(599)), RiskLimits()), 599, 600,
        (BUY_60, snapshot(buying_power_usd=D(600)), RiskLimits()),
    ),
]  # fmt: skip


def test_the_cases_here_cover_every_code() -> None:
    assert {case[0] for case in BOUNDARIES} == set(RefusalCode)


@pytest.mark.parametrize("case", BOUNDARIES, ids=lambda case: case[0].value)
def test_each_code_is_reached_on_one_side_of_its_boundary_and_not_on_the_other(case: tuple[Any, ...]) -> None:
    code, (intent, facts, limits), limit, value, (allowed, allowed_facts, allowed_limits) = case

    verdict = check(intent, facts, limits, cost_usd=D(600))

    assert isinstance(verdict, RefusedOrder)
    assert (verdict.code, verdict.limit, verdict.value) == (code, limit, value)
    assert verdict.reason.startswith(code.sentence)
    assert facts.trading_reason in verdict.reason
    approved = check(allowed, allowed_facts, allowed_limits, cost_usd=D(600))
    assert isinstance(approved, ApprovedOrder) and approved.intent == allowed


def test_outside_of_a_session_its_phase_does_not_matter() -> None:
    limits = RiskLimits(entry_after_open_s=10**6, entry_before_close_s=10**6)

    assert isinstance(check(BUY_60, snapshot(), limits), ApprovedOrder)


TIGHT = RiskLimits(
    order_quantity=D(1), order_notional_usd=D(1), position_notional_usd=D(1), concentration_fraction=D("0.01"),
    gross_exposure_fraction=D("0.01"), net_exposure_fraction=D("0.01"), daily_loss_fraction=D("0.01"),
    drawdown_fraction=D("0.01"), spread_fraction=D(0), entry_after_open_s=3600, entry_before_close_s=3600,
)  # fmt: skip
HARD = snapshot(
    equity_usd=D(500), stale=frozenset("A"), buying_power_usd=D(0), spreads={"A": D(1)}, trading=REDUCING, **IN_SESSION
)


@pytest.mark.parametrize("intent", [SELL_60, dataclasses.replace(SELL_60, quantity=D(1))])
def test_a_sale_that_only_reduces_passes_every_limit_on_size_exposure_and_loss(intent: OrderIntent) -> None:
    assert isinstance(check(intent, HARD, TIGHT, cost_usd=D(1)), ApprovedOrder)


def test_buying_back_what_was_sold_short_reduces_as_well() -> None:
    facts = replace(HARD, held={"A": D(-60)})

    assert isinstance(check(BUY_60, facts, TIGHT, cost_usd=D(600)), ApprovedOrder)
    too_many = check(dataclasses.replace(BUY_60, quantity=D(61)), facts, TIGHT)
    assert isinstance(too_many, RefusedOrder) and too_many.code is RefusalCode.DRAWDOWN


def test_a_fraction_of_a_share_is_not_sold_short() -> None:
    """No broker takes that; a whole one where shorts are allowed, and the fraction that is held, may be sold."""
    limits, half = RiskLimits(shortable=SHORT), dataclasses.replace(SELL_60, quantity=D("0.5"))
    flat = snapshot(held={})

    refused = check(half, flat, limits)
    assert isinstance(refused, RefusedOrder) and refused.code is RefusalCode.SHORT_SALE
    assert isinstance(check(dataclasses.replace(half, quantity=D(1)), flat, limits), ApprovedOrder)
    assert isinstance(check(half, snapshot(held={"A": D("0.5")}), limits), ApprovedOrder)


def test_what_balances_a_one_sided_book_is_no_breach_of_the_net_limit() -> None:
    """100 of B long at a limit of 20: selling 1 A short leaves 90, still too much, but less."""
    limits = RiskLimits(net_exposure_fraction=D("0.02"), shortable=SHORT)

    assert isinstance(check(dataclasses.replace(SELL_60, quantity=D(1)), snapshot(**FLAT), limits), ApprovedOrder)


def test_orders_in_flight_count_as_exposure() -> None:
    limits = RiskLimits(gross_exposure_fraction=D("1.3"))
    assert isinstance(check(BUY_60, snapshot(), limits), ApprovedOrder)

    verdict = check(BUY_60, snapshot(in_flight={"B": D(1)}), limits)

    assert isinstance(verdict, RefusedOrder) and verdict.code is RefusalCode.GROSS_EXPOSURE


def test_an_approved_order_is_in_flight_for_the_next_check() -> None:
    after = snapshot(buying_power_usd=D(1000)).with_order(BUY_60, D(601))

    assert after.projected("A") == 120 and after.buying_power_usd == 399 and after.orders_recent_ns == (10 * MINUTE_NS,)
    assert (gross_exposure(after), net_exposure(after), after.orders_today) == (1300, 1300, 1)
    again = check(dataclasses.replace(BUY_60, client_order_id="c2"), after, RiskLimits())
    assert isinstance(again, RefusedOrder) and again.code is RefusalCode.DUPLICATE_INTENT
    against = check(dataclasses.replace(SELL_60, client_order_id="c2"), after, RiskLimits())
    assert isinstance(against, RefusedOrder) and against.code is RefusalCode.WASH_TRADE


# --- approved orders, recomputed another way -------------------------------------------------------------------------

NAMES = ("A", "B", "C")
AMOUNTS = st.integers(0, 200).map(D)
FRACTIONS = st.integers(0, 30).map(lambda n: D(n) / 10)


def off_or(values: Any) -> Any:
    return st.none() | values


LIMITS = st.builds(
    RiskLimits,
    order_quantity=off_or(AMOUNTS), order_notional_usd=off_or(AMOUNTS.map(lambda n: n * 10)),
    position_notional_usd=off_or(AMOUNTS.map(lambda n: n * 10)), concentration_fraction=off_or(FRACTIONS),
    gross_exposure_fraction=off_or(FRACTIONS), net_exposure_fraction=off_or(FRACTIONS),
    daily_loss_fraction=off_or(st.integers(1, 9).map(lambda n: D(n) / 10)),
    drawdown_fraction=off_or(st.integers(1, 9).map(lambda n: D(n) / 10)),
    orders_per_minute=off_or(st.integers(1, 3)), orders_per_day=off_or(st.integers(1, 3)),
    collar_fraction=off_or(FRACTIONS), spread_fraction=off_or(FRACTIONS),
    restricted=st.frozensets(st.sampled_from(NAMES), max_size=1), shortable=st.frozensets(st.sampled_from(NAMES)),
)  # fmt: skip
QUANTITIES = st.dictionaries(st.sampled_from(NAMES), st.integers(-100, 100).map(D))
SNAPSHOTS = st.builds(
    RiskSnapshot,
    at_ns=st.just(10 * MINUTE_NS), equity_usd=st.integers(1, 3000).map(D), session_start_equity_usd=st.integers(1, 3000).map(D),
    peak_equity_usd=st.integers(1, 3000).map(D), held=QUANTITIES, in_flight=QUANTITIES,
    prices_usd=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 50).map(D), min_size=2),
    spreads=st.dictionaries(st.sampled_from(NAMES), FRACTIONS), stale=st.frozensets(st.sampled_from(NAMES)),
    orders_recent_ns=st.lists(st.sampled_from(RECENT), max_size=3).map(tuple), orders_today=st.integers(0, 3),
    buying_power_usd=off_or(AMOUNTS.map(lambda n: n * 10)), trading=st.sampled_from(TradingState),
)  # fmt: skip
INTENTS = st.builds(
    OrderIntent, client_order_id=st.just("c"), symbol=st.sampled_from(NAMES), side=st.sampled_from(["buy", "sell"]),
    quantity=st.integers(0, 120).map(D), reference_price_usd=st.integers(1, 50).map(D),
    limit_price_usd=off_or(st.integers(1, 50).map(D)),
)  # fmt: skip


def broken_by(intent: OrderIntent, facts: RiskSnapshot, limits: RiskLimits, cost: Decimal) -> list[str]:
    """What the account would look like after the order, in floats and loops, and which limits that breaks."""
    wrong: list[str] = []

    def need(name: str, holds: bool) -> None:
        if not holds:
            wrong.append(name)

    def at_most(name: str, value: float, limit: Decimal | None, of: Decimal = ONE) -> None:
        need(name, limit is None or value <= float(limit * of) + 1e-9)

    before = {s: float(facts.held.get(s, 0)) + float(facts.in_flight.get(s, 0)) for s in NAMES}
    sign = 1.0 if intent.side == "buy" else -1.0
    after = {**before, intent.symbol: before[intent.symbol] + sign * float(intent.quantity)}
    price = {s: float(p) for s, p in facts.prices_usd.items()}
    here = price[intent.symbol]
    nearer = abs(after[intent.symbol]) < abs(before[intent.symbol])
    closing = nearer and after[intent.symbol] * before[intent.symbol] >= 0
    recent = [t for t in facts.orders_recent_ns if facts.at_ns - t < MINUTE_NS]
    need("halted", facts.trading != "halted")
    need("restricted", intent.symbol not in limits.restricted)
    need("quantity", intent.quantity > 0)
    at_most("rate", len(recent) + 1, None if limits.orders_per_minute is None else D(limits.orders_per_minute))
    at_most("per day", facts.orders_today + 1, None if limits.orders_per_day is None else D(limits.orders_per_day))
    for named in (intent.reference_price_usd, intent.limit_price_usd):
        at_most("collar", 0.0 if named is None else abs(float(named) - here), limits.collar_fraction, D(here))
    if closing:
        return wrong
    need("reducing", facts.trading == "trading")
    need("stale", intent.symbol not in facts.stale)
    at_most("spread", float(facts.spreads.get(intent.symbol, 0)), limits.spread_fraction)
    if intent.side == "sell":
        need("short", intent.symbol in limits.shortable and before[intent.symbol] <= 0)
    for base, fraction in (
        (facts.session_start_equity_usd, limits.daily_loss_fraction), (facts.peak_equity_usd, limits.drawdown_fraction),
    ):  # fmt: skip
        assert base is not None
        lost = float(base - facts.equity_usd)
        need("loss", fraction is None or lost <= 0 or lost < float(fraction * base))
    at_most("quantity", float(intent.quantity), limits.order_quantity)
    at_most("notional", float(intent.quantity) * here, limits.order_notional_usd)
    at_most("position", abs(after[intent.symbol]) * here, limits.position_notional_usd)
    at_most("concentration", abs(after[intent.symbol]) * here, limits.concentration_fraction, facts.equity_usd)
    at_most("gross", sum(abs(after[s]) * price[s] for s in price), limits.gross_exposure_fraction, facts.equity_usd)
    net, was = (abs(sum(book[s] * price[s] for s in price)) for book in (after, before))
    if net > was:
        at_most("net", net, limits.net_exposure_fraction, facts.equity_usd)
    at_most("power", float(cost), facts.buying_power_usd)
    return wrong


@given(INTENTS, SNAPSHOTS, LIMITS, AMOUNTS)
def test_an_order_is_approved_exactly_when_it_breaks_no_limit(
    intent: OrderIntent, facts: RiskSnapshot, limits: RiskLimits, cost: Decimal
) -> None:
    """Two computations that share nothing agree, so no approved order ever breaks a limit, and none is refused idly."""
    verdict = check(intent, facts, limits, cost_usd=cost)

    if intent.symbol not in facts.prices_usd:
        assert isinstance(verdict, RefusedOrder)
    else:
        assert isinstance(verdict, ApprovedOrder) == (broken_by(intent, facts, limits, cost) == [])


def _permuted(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(items) for items in itertools.permutations(values.items())]


@given(INTENTS, SNAPSHOTS, LIMITS)
def test_a_verdict_does_not_depend_on_the_order_in_which_facts_were_put_together(
    intent: OrderIntent, facts: RiskSnapshot, limits: RiskLimits
) -> None:
    thirds = {symbol: price / 3 for symbol, price in facts.prices_usd.items()}  # sums of these are rounded
    facts = replace(facts, prices_usd=thirds)
    verdicts = {
        repr(check(intent, replace(facts, held=held, in_flight=flying, prices_usd=prices), limits))
        for held, flying, prices in zip(
            _permuted(facts.held) * 6, _permuted(facts.in_flight) * 6, _permuted(facts.prices_usd), strict=False
        )
    }

    assert len(verdicts) == 1


# --- what trading may do at all --------------------------------------------------------------------------------------


def test_the_table_of_the_trading_state_says_everything() -> None:
    assert {state: set(row) for state, row in STATE_TRANSITIONS.items()} == {
        state: set(StateEvent) for state in TradingState
    }


@given(st.lists(st.sampled_from([event for event in StateEvent if not event.startswith("person")])))
def test_no_machine_ever_loosens_what_trading_may_do(events: list[StateEvent]) -> None:
    state = TRADING
    for event in events:
        after = STATE_TRANSITIONS[state][event]
        assert after.severity >= state.severity
        state = after


def test_only_a_persons_resume_gives_trading_back() -> None:
    back = {(s, e) for s, row in STATE_TRANSITIONS.items() for e, after in row.items() if after is TRADING}

    assert back == {(state, StateEvent.PERSON_RESUMES) for state in TradingState}


@pytest.mark.parametrize(
    ("state", "by", "event"),
    [
        (REDUCING, "risk", StateEvent.LIMIT_REDUCES), (HALTED, "risk", StateEvent.LIMIT_HALTS),
        (REDUCING, "ann", StateEvent.PERSON_REDUCES), (HALTED, "ann", StateEvent.PERSON_HALTS),
        *((HALTED, name, StateEvent.CONTRADICTED) for name in sorted(BY_CONTRADICTION)),
    ],
)  # fmt: skip
def test_who_wants_it_says_what_it_is(state: TradingState, by: str, event: StateEvent) -> None:
    assert StateEvent.of_halt(state, by) is event


def test_of_two_broken_limits_the_harder_answer_counts() -> None:
    limits = RiskLimits(daily_loss_fraction=D("0.1"), drawdown_fraction=D("0.2"))

    both = breach(limits, equity=D(80), session_start=D(90), peak=D(100))
    milder = breach(
        dataclasses.replace(limits, on_drawdown=OnBreach.REFUSE), equity=D(80), session_start=D(90), peak=D(100)
    )

    assert both is not None and (both.code, both.event) == (RefusalCode.DRAWDOWN, StateEvent.LIMIT_HALTS)
    assert both.reason == "drawdown of 20.00 USD has reached its limit of 20.00 USD"
    assert milder is not None and (milder.code, milder.event) == (RefusalCode.DAILY_LOSS, StateEvent.LIMIT_REDUCES)


def test_where_nothing_may_be_lost_the_first_cent_is_too_much_and_no_loss_is_none() -> None:
    limits = RiskLimits(daily_loss_fraction=D(0), drawdown_fraction=D(0))

    assert breach(limits, equity=D(100), session_start=D(100), peak=D(100)) is None
    assert breach(limits, equity=D("99.99"), session_start=D(100), peak=None) is not None


def test_a_limit_that_only_refuses_moves_nothing() -> None:
    limits = RiskLimits(daily_loss_fraction=D("0.1"), on_daily_loss=OnBreach.REFUSE)
    found = breach(limits, equity=D(80), session_start=D(100), peak=None)

    assert found is not None and found.event is None


def test_a_wish_to_close_everything_is_known_by_its_reason() -> None:
    wish = committed_reason(StateEvent.PERSON_FLATTENS, "holiday")
    assert is_flattening(REDUCING, wish) and not is_flattening(HALTED, wish)
    for event in set(StateEvent) - {StateEvent.PERSON_FLATTENS}:  # also where somebody quotes one
        assert not is_flattening(REDUCING, committed_reason(event, "holiday"))
        assert not is_flattening(REDUCING, committed_reason(event, f"flatten: {wish}"))
    assert committed_reason(StateEvent.PERSON_FLATTENS, wish) == wish


@given(st.integers(-50, 50).map(D), st.integers(-50, 50).map(D))
def test_an_order_reduces_when_every_share_of_it_comes_off_the_position(position: Decimal, signed: Decimal) -> None:
    shares = range(1, int(abs(signed)) + 1)
    one = 1 if signed > 0 else -1

    assert reduces(position, signed) == (
        signed != 0 and all(abs(position + one * n) == abs(position) - n for n in shares)
    )


# --- approval --------------------------------------------------------------------------------------------------------


def test_only_check_can_approve() -> None:
    with pytest.raises(TypeError, match=r"risk\.check"):
        ApprovedOrder(BUY_60, object())


def test_the_documented_table_is_the_enum() -> None:
    page = (Path(__file__).parents[2] / "docs" / "risk.md").read_text()
    rows = "\n".join(f"| `{code.value}` | {code.sentence} |" for code in RefusalCode)

    assert f"| code | meaning |\n|---|---|\n{rows}\n" in page


def test_the_documented_moves_of_the_trading_state_are_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "risk.md").read_text()
    rows = [
        f"| `{s}` | " + " | ".join(f"`{STATE_TRANSITIONS[s][event]}`" for event in StateEvent) + " |"
        for s in TradingState
    ]

    assert "\n".join(rows) in page
