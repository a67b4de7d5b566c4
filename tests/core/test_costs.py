"""Slippage, commission and fees, worked out by hand."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.costs import BUY, SELL, CostRules, commission, fees, fill_price, usd

TICK = CostRules(slippage_bps=Decimal(5), price_tick=Decimal("0.0001"))


@pytest.mark.parametrize(
    ("side", "reference", "expected"),
    [(BUY, "100.03", "100.0800"), (SELL, "100.03", "99.9800"), (BUY, "33.333", "33.3497"), (SELL, "0.5", "0.4998")],
)
def test_market_orders_fill_worse_by_the_slippage_on_the_nearest_tick(side: str, reference: str, expected: str) -> None:
    assert fill_price(side, Decimal(reference), TICK) == Decimal(expected)


def test_without_a_tick_the_price_is_not_rounded() -> None:
    rules = CostRules(slippage_bps=Decimal(5))

    assert fill_price(BUY, Decimal("33.333"), rules) == Decimal("33.3496665")


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [(Decimal(10), "1.00"), (Decimal(1000), "8.50"), (Decimal(0), "0")],
)
def test_commission_is_per_notional_and_share_but_at_least_the_minimum(quantity: Decimal, expected: str) -> None:
    rules = CostRules(
        commission_bps=Decimal(1),
        commission_per_share=Decimal("0.0035"),
        commission_min=Decimal(1),
        price_tick=Decimal("0.01"),
    )

    assert commission(BUY, quantity, Decimal(50), rules) == Decimal(expected)


def test_only_sales_pay_regulatory_fees_and_the_trading_activity_fee_is_capped() -> None:
    rules = CostRules(
        sec_fee_per_million=Decimal("27.80"), taf_per_share=Decimal("0.000166"), taf_cap=Decimal("8.30"),
        price_tick=Decimal("0.01"),
    )  # fmt: skip

    assert fees(BUY, Decimal(100), Decimal(50), rules) == 0
    assert fees(SELL, Decimal(100), Decimal(50), rules) == Decimal("0.16")  # 0.139 + 0.0166
    assert fees(SELL, Decimal(100_000), Decimal(1), rules) == Decimal("11.08")  # 2.78 + 8.30


@given(st.floats(min_value=1e-4, max_value=1e6))
def test_a_float_price_becomes_the_decimal_that_reads_back_as_it(price: float) -> None:
    assert float(usd(price)) == price
    assert usd(123.45) == Decimal("123.45")
