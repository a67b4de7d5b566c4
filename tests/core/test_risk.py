"""Every refusal can happen, says its numbers, and nothing unapproved can pass for approved."""

import dataclasses
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from algo_royale.orders import OrderIntent
from algo_royale.risk import ApprovedOrder, RefusalCode, RefusedOrder, RiskLimits, RiskSnapshot, check, gross_exposure

BUY_60 = OrderIntent(
    client_order_id="c1", symbol="A", side="buy", quantity=Decimal(60), reference_price_usd=Decimal(10)
)
SELL_60 = dataclasses.replace(BUY_60, side="sell")
MINUTE_NS = 60 * 10**9


def snapshot(**changes: Any) -> RiskSnapshot:
    facts: dict[str, Any] = {
        "at_ns": 10 * MINUTE_NS, "equity_usd": Decimal(1000), "session_start_equity_usd": Decimal(1000),
        "held": {"A": Decimal(60), "B": Decimal(5)}, "prices_usd": {"A": Decimal(10), "B": Decimal(20)},
    }  # fmt: skip
    return RiskSnapshot(**{**facts, **changes})


REFUSALS: list[tuple[RefusalCode, OrderIntent, RiskSnapshot, RiskLimits, object, object]] = [
    (RefusalCode.HALTED, BUY_60, snapshot(halted_reason="reconcile"), RiskLimits(), None, None),
    (RefusalCode.SYMBOL_RESTRICTED, SELL_60, snapshot(), RiskLimits(restricted=frozenset({"A"})), None, None),
    (RefusalCode.QUANTITY_INVALID, dataclasses.replace(BUY_60, quantity=Decimal(0)), snapshot(), RiskLimits(), 0, 0),
    (RefusalCode.PRICE_MISSING, SELL_60, snapshot(prices_usd={}), RiskLimits(), None, None),
    (RefusalCode.PRICE_STALE, BUY_60, snapshot(stale=frozenset({"A"})), RiskLimits(), None, None),
    (RefusalCode.DUPLICATE_INTENT, SELL_60, snapshot(open_symbols=frozenset({"A"})), RiskLimits(), None, None),
    (RefusalCode.DUPLICATE_INTENT, BUY_60, snapshot(known_orders=frozenset({"c1"})), RiskLimits(), None, None),
    (RefusalCode.SHORT_SALE, SELL_60, snapshot(in_flight={"A": Decimal(-1)}), RiskLimits(), 59, 60),
    (RefusalCode.ORDER_NOTIONAL, BUY_60, snapshot(), RiskLimits(order_notional_usd=Decimal(599)), 599, 600),
    (RefusalCode.POSITION_NOTIONAL, BUY_60, snapshot(), RiskLimits(position_notional_usd=Decimal(1199)), 1199, 1200),
    (RefusalCode.GROSS_EXPOSURE, BUY_60, snapshot(), RiskLimits(gross_exposure_fraction=Decimal("1.2")), 1200, 1300),
    (
        RefusalCode.DAILY_LOSS, BUY_60, snapshot(equity_usd=Decimal(969)),
        RiskLimits(daily_loss_fraction=Decimal("0.03")), 30, 31,
    ),
    (
        RefusalCode.ORDER_RATE, SELL_60, snapshot(orders_recent_ns=(9 * MINUTE_NS, 9 * MINUTE_NS + 1, 10 * MINUTE_NS)),
        RiskLimits(orders_per_minute=2), 2, 3,
    ),
    (RefusalCode.BUYING_POWER, BUY_60, snapshot(buying_power_usd=Decimal(599)), RiskLimits(), 599, 600),
]  # fmt: skip


def test_the_cases_here_cover_every_code() -> None:
    assert {case[0] for case in REFUSALS} == set(RefusalCode)


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case[0].value)
def test_each_code_is_reached_with_its_numbers(case: tuple[Any, ...]) -> None:
    code, intent, facts, limits, limit, value = case

    verdict = check(intent, facts, limits, cost_usd=Decimal(600))

    assert isinstance(verdict, RefusedOrder)
    assert (verdict.code, verdict.limit, verdict.value) == (code, limit, value)
    assert verdict.reason.startswith(code.sentence)


@pytest.mark.parametrize("intent", [BUY_60, SELL_60], ids=["buy", "sell"])
def test_exactly_at_every_limit_is_approved(intent: OrderIntent) -> None:
    limits = RiskLimits(
        order_notional_usd=Decimal(600), position_notional_usd=Decimal(1200), gross_exposure_fraction=Decimal("1.3"),
        daily_loss_fraction=Decimal("0.03"), orders_per_minute=2, restricted=frozenset({"B"}),
    )  # fmt: skip

    verdict = check(
        intent,
        snapshot(buying_power_usd=Decimal(600), orders_recent_ns=(10 * MINUTE_NS,)),
        limits,
        cost_usd=Decimal(600),
    )

    assert isinstance(verdict, ApprovedOrder) and verdict.intent == intent


def test_a_sale_that_only_reduces_passes_the_limits_on_size_and_loss() -> None:
    tight = RiskLimits(
        order_notional_usd=Decimal(1), position_notional_usd=Decimal(1), gross_exposure_fraction=Decimal("0.01"),
        daily_loss_fraction=Decimal("0.01"),
    )  # fmt: skip
    facts = snapshot(equity_usd=Decimal(500), stale=frozenset({"A"}), buying_power_usd=Decimal(0))

    assert isinstance(check(SELL_60, facts, tight), ApprovedOrder)


def test_orders_in_flight_count_as_exposure() -> None:
    limits = RiskLimits(gross_exposure_fraction=Decimal("1.3"))
    assert isinstance(check(BUY_60, snapshot(), limits), ApprovedOrder)

    verdict = check(BUY_60, snapshot(in_flight={"B": Decimal(1)}), limits)

    assert isinstance(verdict, RefusedOrder) and verdict.code is RefusalCode.GROSS_EXPOSURE


def test_an_approved_order_is_in_flight_for_the_next_check() -> None:
    after = snapshot(buying_power_usd=Decimal(1000)).with_order(BUY_60, Decimal(601))

    assert after.projected("A") == 120 and after.buying_power_usd == 399 and after.orders_recent_ns == (10 * MINUTE_NS,)
    assert gross_exposure(after) == 1300
    again = check(dataclasses.replace(BUY_60, client_order_id="c2"), after, RiskLimits())
    assert isinstance(again, RefusedOrder) and again.code is RefusalCode.DUPLICATE_INTENT


def test_only_check_can_approve() -> None:
    with pytest.raises(TypeError, match=r"risk\.check"):
        ApprovedOrder(BUY_60, object())


def test_the_documented_table_is_the_enum() -> None:
    page = (Path(__file__).parents[2] / "docs" / "risk.md").read_text()
    rows = "\n".join(f"| `{code.value}` | {code.sentence} |" for code in RefusalCode)

    assert f"| code | meaning |\n|---|---|\n{rows}\n" in page
