"""Weights become whole orders: figures by hand, and money that is never exceeded."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.costs import CostRules
from algo_royale.errors import BadConfiguration
from algo_royale.portfolio.sizing import (
    TRADER_RULES,
    AccountRules,
    Desire,
    OrderPolicy,
    OrderType,
    buy_cost,
    desire,
    floor_lot,
    in_order,
    scale_buys,
    scale_desires,
    sell_proceeds,
)

EQUITY = Decimal(100_000)
D = Decimal


@pytest.mark.parametrize(
    ("weight", "price", "projected", "target", "ordered"),
    [
        (0.35, "33.33", "0", "1050", "1050"),  # floor(35000 / 33.33)
        (0.35, "33.33", "1200", "1050", "-150"),
        (0.35, "100", "346", "346", "0"),  # 4 shares, 400 dollars: inside half a percent
        (0.35, "100", "345", "350", "5"),  # 500 dollars: not inside
        (0.0, "100", "3", "0", "-3"),  # out sells everything, however small
        (0.0, "100", "0", "0", "0"),
        (0.35, "50000", "0", "0", "0"),  # not one share to be had
    ],
)
def test_a_weight_becomes_a_whole_number_of_shares(
    weight: float, price: str, projected: str, target: str, ordered: str
) -> None:
    wanted = desire("A", weight, EQUITY, D(price), D(projected), TRADER_RULES)

    assert (wanted.target_quantity, wanted.ordered) == (D(target), D(ordered))


def test_less_than_the_minimum_notional_is_left_alone() -> None:
    rules = AccountRules(drift_band=D(0), min_notional=D(50), lot=D(1))

    assert desire("A", 0.1, D(1000), D(49), D(1), rules).ordered == 0
    assert desire("A", 0.1, D(1000), D(50), D(1), rules).ordered == 1


@given(st.decimals(0, 10**9, places=9), st.sampled_from([D(1), D("0.000001"), D("0.25")]))
def test_a_lot_is_floored_not_rounded(quantity: Decimal, lot: Decimal) -> None:
    floored = floor_lot(quantity, lot)

    assert floored % lot == 0 and floored <= quantity < floored + lot


def test_sells_come_first_then_buys_each_in_symbol_order() -> None:
    wanted = [
        Desire(symbol=s, target_quantity=D(1), ordered=D(q))
        for s, q in (("D", 1), ("C", -1), ("B", 2), ("A", 0), ("AA", -3))
    ]

    assert [d.symbol for d in in_order(wanted)] == ["AA", "C", "B", "D"]


def test_buys_are_scaled_by_one_factor_and_floored() -> None:
    rules = AccountRules(lot=D(1), costs=CostRules(slippage_bps=D(0)))

    # 300*10 + 100*20 = 5000 wanted, 2500 there
    assert scale_buys([D(300), D(100)], [D(10), D(20)], D(2500), rules) == [D(150), D(50)]
    assert scale_buys([D(300), D(100)], [D(10), D(20)], D(2499), rules) == [D(149), D(49)]
    assert scale_buys([D(300), D(100)], [D(10), D(20)], D(5000), rules) == [D(300), D(100)]
    assert scale_buys([D(300), D(100)], [D(10), D(20)], D(-5), rules) == [D(0), D(0)]


def test_a_buy_that_scaling_leaves_too_small_is_dropped() -> None:
    rules = AccountRules(lot=D(1), min_notional=D(100), costs=CostRules(slippage_bps=D(0)))

    # 300*10 + 20*10 = 3200 wanted, 1600 there: the second would be 10 shares, exactly enough; with 1590 it is 9
    assert scale_buys([D(300), D(20)], [D(10), D(10)], D(1600), rules) == [D(150), D(10)]
    assert scale_buys([D(300), D(20)], [D(10), D(10)], D(1590), rules) == [D(149), D(0)]


def test_what_a_trade_takes_and_brings_is_after_slippage_commission_and_fees() -> None:
    costs = CostRules(slippage_bps=D(100), commission_bps=D(10), sec_fee_per_million=D(1000))
    rules = AccountRules(lot=D(1), costs=costs)

    assert buy_cost(D(10), D(50), rules) == D("505") + D("0.505")
    assert sell_proceeds(D(10), D(50), rules) == D("495") - D("0.495") - D("0.495")


def test_scaling_keeps_the_target_so_that_the_rest_is_bought_later() -> None:
    rules = AccountRules(lot=D(1), costs=CostRules(slippage_bps=D(0)))
    wanted = [
        Desire(symbol="A", target_quantity=D(10), ordered=D(10)),
        Desire(symbol="B", target_quantity=D(0), ordered=D(-7)),
    ]

    scaled = scale_desires(wanted, {"A": D(10)}, D(55), rules)

    assert [(d.target_quantity, d.ordered) for d in scaled] == [(D(10), D(5)), (D(0), D(-7))]


orders = st.lists(st.tuples(st.integers(1, 10**10), st.integers(1, 10**6)), min_size=1, max_size=6)


@given(
    orders,
    st.integers(0, 10**9),
    st.sampled_from([D(1), D("0.000001")]),
    st.sampled_from([0, 5, 300]),
    st.sampled_from([0, 7]),
)
def test_scaled_buys_never_cost_more_than_there_is(
    rows: list[tuple[int, int]], cents: int, lot: Decimal, bps: int, least: int
) -> None:
    rules = AccountRules(lot=lot, costs=CostRules(slippage_bps=D(bps), commission_bps=D(bps), commission_min=D(least)))
    wanted = [floor_lot(D(q) / 10**6, lot) for q, _ in rows]
    prices, power = [D(p) / 100 for _, p in rows], D(cents) / 100

    scaled = scale_buys(wanted, prices, power, rules)

    cost = sum((buy_cost(q, p, rules) for q, p in zip(scaled, prices, strict=True)), D(0))
    assert cost <= power
    assert all(0 <= s <= w and s % lot == 0 for s, w in zip(scaled, wanted, strict=True))
    if sum((buy_cost(q, p, rules) for q, p in zip(wanted, prices, strict=True)), D(0)) <= power:
        assert scaled == wanted


def test_rules_that_make_no_sense_are_refused() -> None:
    for wrong in ({"lot": D(0)}, {"account": "ira"}, {"shortfall": "hope"}, {"drift_band": D(-1)}):
        with pytest.raises(BadConfiguration):
            AccountRules(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("side", "last", "collar", "limit"),
    [
        ("buy", "100", 50, "100.50"),
        ("sell", "100", 50, "99.50"),
        ("buy", "33.33", 50, "33.49"),  # 33.49665, not above it
        ("sell", "33.33", 50, "33.17"),  # 33.16335, not below it
        ("buy", "0.5", 50, "0.5025"),
        ("sell", "0.51237", 30, "0.5109"),  # 0.51083...
        ("buy", "0.999", 50, "1.00"),  # 1.003995: above a dollar a step is a cent
        ("sell", "1.001", 50, "0.9960"),  # 0.995995: below a dollar it is finer
        ("buy", "100", 0, "100"),
    ],
)
def test_a_limit_stays_within_its_collar_on_the_step_of_its_price(
    side: str, last: str, collar: int, limit: str
) -> None:
    policy = OrderPolicy(type=OrderType.MARKETABLE_LIMIT, collar_bps=D(collar))

    assert policy.terms(side, D(last), is_daily=True) == ("limit", "day", D(limit))
    assert policy.terms(side, D(last), is_daily=False).time_in_force == "ioc"
    resting = OrderPolicy(type=OrderType.MARKETABLE_LIMIT, collar_bps=D(collar), limit_rests=True)
    assert resting.terms(side, D(last), is_daily=False) == ("limit", "day", D(limit))


@given(st.sampled_from(["buy", "sell"]), st.integers(1, 10**8), st.integers(0, 9_999))
def test_no_limit_is_beyond_its_collar_and_none_has_a_price_that_the_broker_refuses(
    side: str, millis: int, collar: int
) -> None:
    last = D(millis) / 1000
    limit = OrderPolicy(type=OrderType.MARKETABLE_LIMIT, collar_bps=D(collar)).limit(side, last)
    beyond = limit - last if side == "buy" else last - limit

    assert beyond <= last * collar / 10_000
    assert limit % (D("0.01") if limit >= 1 else D("0.0001")) == 0
    assert last * collar / 10_000 - beyond < D("0.01")


def test_auctions_and_market_orders_have_no_limit() -> None:
    said = {p: OrderPolicy(type=p).terms("buy", D(100), is_daily=True) for p in OrderType}

    assert said[OrderType.MARKET] == ("market", "day", None)
    assert said[OrderType.OPENING_AUCTION] == ("market", "opg", None)
    assert said[OrderType.CLOSING_AUCTION] == ("market", "cls", None)


def test_policies_that_the_broker_would_refuse_are_refused() -> None:
    for collar in (-1, 10_000):
        with pytest.raises(BadConfiguration, match="collar_bps"):
            OrderPolicy(collar_bps=D(collar))
    with pytest.raises(BadConfiguration, match="auction"):
        AccountRules(lot=D("0.5"), shortfall="borrow", policy=OrderPolicy(type=OrderType.CLOSING_AUCTION))
