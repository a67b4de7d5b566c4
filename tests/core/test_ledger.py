"""Accounts folded from fills: hand-worked figures and what is conserved."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.costs import CostRules, commission, fill_price
from algo_royale.ledger import Account, Move, Position, flow_of, moved
from algo_royale.orders import Fill

CASH = Decimal(100_000)


def fill(side: str, quantity: object, price: object, fee: object = 0, symbol: str = "KO") -> Fill:
    q = Decimal(str(quantity))
    return Fill(
        execution_id="e", client_order_id="c", broker_order_id="b", symbol=symbol, side=side, quantity=q,
        cumulative_quantity=q, price_usd=Decimal(str(price)), fees_usd=Decimal(str(fee)),
    )  # fmt: skip


def folded(*fills: Fill) -> Account:
    account = Account(cash=CASH)
    for one in fills:
        account = account.apply_fill(one)
    return account


def test_buys_average_the_cost_and_sells_keep_it() -> None:
    account = folded(fill("buy", 10, 100), fill("buy", 30, 110), fill("sell", 20, 120, fee=1))

    assert account.positions == {"KO": Position(Decimal(20), Decimal("107.5"))}
    assert account.realised_pnl == Decimal(250)  # 20 * (120 - 107.5)
    assert (account.cash, account.fees) == (Decimal(98_099), Decimal(1))
    assert account.equity({"KO": Decimal(120)}) == Decimal(100_499)


def test_selling_everything_leaves_no_position() -> None:
    account = folded(fill("buy", 10, 100), fill("sell", 10, 90))

    assert account.positions == {} and account.realised_pnl == -100 and account.cash == CASH - 100


def test_selling_through_zero_opens_a_short_at_the_price_sold() -> None:
    account = folded(fill("buy", 10, 100), fill("sell", 15, 90), fill("buy", 2, 80))

    assert account.positions == {"KO": Position(Decimal(-3), Decimal(90))}
    assert account.realised_pnl == Decimal(-80)  # -100 closing the long, +20 on two of the short


def test_a_position_without_a_price_counts_at_cost() -> None:
    assert folded(fill("buy", 10, 100)).equity({}) == CASH


def test_a_split_changes_shares_and_cost_but_not_value() -> None:
    account = folded(fill("buy", 10, 100)).split("KO", Decimal(2)).split("GE", Decimal(3))

    assert account.positions == {"KO": Position(Decimal(20), Decimal(50))}


def test_shares_moved_without_a_price_keep_their_cost_and_the_last_ones_take_it_with_them() -> None:
    long, short = Position(Decimal(10), Decimal(6)), Position(Decimal(-4), Decimal(5))

    assert moved(long, Decimal(-7)) == (Position(Decimal(3), Decimal(20)), 0)  # a reverse split of ten for three
    assert moved(short, Decimal(-4)) == (Position(Decimal(-8), Decimal("2.5")), 0)
    assert moved(long, Decimal(-10)) == (Position(Decimal(0), Decimal(0)), -60)
    assert moved(short, Decimal(4)) == (Position(Decimal(0), Decimal(0)), 20)  # what it was sold for is earned
    assert moved(long, Decimal(-12)) == (Position(Decimal(-2), Decimal(0)), -60)
    assert moved(Position(Decimal(0), Decimal(0)), Decimal(5)) == (Position(Decimal(5), Decimal(0)), 0)  # a spin-off


@pytest.mark.parametrize(
    ("kind", "flow"),
    [
        ("fee", "fee"), ("cfee", "fee"), ("ptc", "fee"), ("divfee", "fee"), ("div", "dividend"), ("divnra", "dividend"),
        ("cgd", "dividend"), ("int", "interest"), ("intnra", "interest"), ("inttw", "interest"), ("csd", "transfer"),
        ("csw", "transfer"), ("jnlc", "transfer"), ("acatc", "transfer"), ("trans", "transfer"), ("split", "other"),
        ("ma", "other"), ("rounding", "other"),
    ],
)  # fmt: skip
def test_cash_is_classed_by_the_brokers_word(kind: str, flow: str) -> None:
    assert flow_of(kind).value == flow


def test_proceeds_are_cash_at_once_and_spendable_when_they_settle() -> None:
    account = folded(fill("buy", 10, 100)).apply_fill(fill("sell", 10, 110, fee=2), settles_at=7)

    assert (account.cash, account.settled_cash, account.unsettled_cash) == (CASH + 98, CASH - 1000, Decimal(1098))
    assert account.settle(6).settled_cash == CASH - 1000
    assert account.settle(7).settled_cash == CASH + 98


trades = st.lists(
    st.tuples(
        st.sampled_from(["A", "B"]), st.sampled_from(["buy", "sell"]), st.integers(1, 10**9), st.integers(1, 10**7), st.integers(0, 99)
    ),
    max_size=25,
)  # fmt: skip


@given(trades)
def test_cash_and_positions_are_what_an_exact_fold_says(rows: list[tuple[str, str, int, int, int]]) -> None:
    """Sums in fractions, in no particular way like the code: cash flows, net shares, and the conservation law."""
    fills = [
        fill(side, Decimal(q) / 10**6, Decimal(p) / 100, Decimal(f) / 100, symbol) for symbol, side, q, p, f in rows
    ]
    account = folded(*fills)
    signs = [1 if one.side == "buy" else -1 for one in fills]
    cash = Fraction(CASH) - sum(
        (Fraction(one.quantity) * Fraction(one.price_usd) * sign + Fraction(one.fees_usd) for one, sign in zip(fills, signs, strict=True)),
        Fraction(0),
    )  # fmt: skip
    for symbol in ("A", "B"):
        assert account.quantity(symbol) == sum(
            (o.quantity * s for o, s in zip(fills, signs, strict=True) if o.symbol == symbol), 0
        )
    assert Fraction(account.cash) == cash
    assert account.fees == sum((one.fees_usd for one in fills), 0)
    at_cost = sum((p.quantity * p.average_cost_usd for p in account.positions.values()), Decimal(0))
    assert abs(account.cash + at_cost - (CASH + account.realised_pnl - account.fees)) < Decimal("1e-9")


@given(trades, st.integers(0, 50), st.integers(0, 50))
def test_higher_costs_never_raise_the_equity_of_the_same_trades(
    rows: list[tuple[str, str, int, int, int]], bps: int, more_bps: int
) -> None:
    def final(slippage: int, charge: int) -> Decimal:
        rules = CostRules(
            slippage_bps=Decimal(slippage), commission_bps=Decimal(charge), commission_min=Decimal(charge)
        )
        fills = []
        for symbol, side, q, p, _ in rows:
            quantity, price = Decimal(q) / 10**6, fill_price(side, Decimal(p) / 100, rules)
            fills.append(fill(side, quantity, price, commission(side, quantity, price, rules), symbol))
        return folded(*fills).equity({"A": Decimal(5), "B": Decimal(7)})

    assert final(bps + more_bps, more_bps) <= final(bps, 0) + Decimal("1e-12")


@given(trades, st.integers(0, 99))
def test_taking_back_a_fill_gives_the_account_without_it(rows: list[tuple[str, str, int, int, int]], at: int) -> None:
    """In every figure, whichever fill it is; average costs are divided in another order, so to 1e-9."""
    fills = [
        fill(side, Decimal(q) / 10**6, Decimal(p) / 100, Decimal(f) / 100, symbol) for symbol, side, q, p, f in rows
    ]
    if not fills:
        return
    gone = fills.pop(at % len(fills))
    with_it = folded(*fills[: at % (len(fills) + 1)], gone, *fills[at % (len(fills) + 1) :])
    moves = [
        Move(one.quantity if one.side == "buy" else -one.quantity, one.price_usd)
        for one in fills
        if one.symbol == gone.symbol
    ]
    others = folded(*(one for one in fills if one.symbol != gone.symbol)).realised_pnl

    after, without = with_it.take_back(gone, moves, realised_usd=with_it.realised_pnl - others), folded(*fills)

    assert (after.cash, after.fees, after.positions.keys()) == (without.cash, without.fees, without.positions.keys())
    assert abs(after.realised_pnl - without.realised_pnl) < Decimal("1e-9")
    for symbol, position in without.positions.items():
        assert after.positions[symbol].quantity == position.quantity
        assert abs(after.positions[symbol].average_cost_usd - position.average_cost_usd) < Decimal("1e-9")
