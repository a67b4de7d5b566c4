"""The all-in kernel agrees with a slow loop, and money is conserved."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.costs import CostRules
from algo_royale.research.backtest import Backtest, cost_array, run_arrays

FREE = CostRules(slippage_bps=Decimal(0))
RULES = CostRules(
    slippage_bps=Decimal(7), commission_bps=Decimal(3), commission_per_share=Decimal("0.005"),
    commission_min=Decimal(1), sec_fee_per_million=Decimal("27.8"), taf_per_share=Decimal("0.000166"),
    taf_cap=Decimal("8.30"),
)  # fmt: skip


def backtest(opens: list[float], closes: list[float], signals: list[int], rules: CostRules = FREE) -> Backtest:
    return run_arrays(np.array(opens), np.array(closes), np.array(signals, np.int8), cost_array(rules), 100_000.0)


def slow(opens: list[float], closes: list[float], signals: list[int], rules: CostRules) -> tuple[list, list]:
    """The rules of the catalogue, one bar after the other, written without looking at the kernel."""
    s, k, cps, low, sec, taf, cap = (
        float(x)
        for x in (
            rules.slippage_bps / 10000, rules.commission_bps / 10000, rules.commission_per_share,
            rules.commission_min, rules.sec_fee_per_million / 1_000_000, rules.taf_per_share, rules.taf_cap,
        )
    )  # fmt: skip
    cash, shares, before = 100_000.0, 0.0, 0.0
    equity, trades = [], []

    def sell(reference: float) -> float:
        notional = shares * reference * (1 - s)
        taf_fee = min(taf * shares, cap) if cap else taf * shares
        return notional - max(low, k * notional + cps * shares) - sec * notional - taf_fee

    for t in range(len(closes)):
        yesterday = signals[t - 1] if t else 0
        if yesterday == 1 and shares == 0:
            price = opens[t] * (1 + s)
            wanted = cash / (price * (1 + k) + cps)
            if max(low, wanted * (price * k + cps)) == low:
                wanted = (cash - low) / price
            if wanted > 0:
                before, shares, cash, entry = cash, wanted, 0.0, t
        elif yesterday == -1 and shares > 0:
            cash, shares = sell(opens[t]), 0.0
            trades.append((entry, t, cash - before, False))
        equity.append(cash + shares * closes[t])
    if shares:
        equity[-1] = sell(closes[-1])
        trades.append((entry, len(closes) - 1, equity[-1] - before, True))
    return equity, trades


series = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(1.0, 500.0), min_size=n, max_size=n),
        st.lists(st.floats(1.0, 500.0), min_size=n, max_size=n),
        st.lists(st.sampled_from([-1, 0, 1]), min_size=n, max_size=n),
    )
)


@settings(max_examples=200, deadline=None)
@given(series, st.sampled_from([FREE, RULES, CostRules(), CostRules(commission_min=Decimal(40))]))
def test_kernel_agrees_with_a_slow_loop(data: tuple, rules: CostRules) -> None:
    done = backtest(*data, rules)
    equity, trades = slow(*data, rules)

    np.testing.assert_allclose(done.equity, equity, rtol=1e-12)
    assert list(zip(done.trades.entry.tolist(), done.trades.exit.tolist(), strict=True)) == [t[:2] for t in trades]
    np.testing.assert_allclose(done.trades.net_pnl, [t[2] for t in trades], rtol=1e-9, atol=1e-6)
    assert done.trades.open_at_end == bool(trades and trades[-1][3])


@settings(max_examples=100, deadline=None)
@given(series)
def test_profit_is_the_sum_of_trades_and_gross_less_costs(data: tuple) -> None:
    done = backtest(*data, RULES)

    profit = done.equity[-1] - 100_000.0
    assert profit == pytest.approx(done.trades.net_pnl.sum(), rel=1e-9, abs=1e-6)
    assert profit == pytest.approx(done.trades.gross_pnl.sum() - done.trades.costs.sum(), rel=1e-9, abs=1e-6)
    assert (done.trades.costs > 0).all()
    assert np.prod(1 + done.trades.returns) == pytest.approx(done.equity[-1] / 100_000.0, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(series)
def test_higher_costs_never_raise_the_final_equity(data: tuple) -> None:
    dear = CostRules(slippage_bps=Decimal(20), commission_bps=Decimal(3))

    assert backtest(*data, dear).equity[-1] <= backtest(*data, CostRules()).equity[-1] * (1 + 1e-12)
    assert backtest(*data, CostRules()).equity[-1] <= backtest(*data, FREE).equity[-1] * (1 + 1e-12)


@settings(max_examples=100, deadline=None)
@given(series)
def test_fills_come_after_their_signal_at_that_open_within_the_slippage(data: tuple) -> None:
    opens, _, signals = data
    done = backtest(*data, CostRules())

    for i in range(len(done.trades)):
        entry, leave = int(done.trades.entry[i]), int(done.trades.exit[i])
        assert signals[entry - 1] == 1 and entry >= 1
        assert done.trades.entry_price[i] == pytest.approx(opens[entry] * 1.0005, rel=1e-12)
        if not (done.trades.open_at_end and i == len(done.trades) - 1):
            assert leave > entry and signals[leave - 1] == -1
            assert done.trades.exit_price[i] == pytest.approx(opens[leave] * 0.9995, rel=1e-12)


def test_delaying_a_signal_by_a_bar_delays_exactly_its_fill() -> None:
    rng = np.random.default_rng(3)
    opens, closes = rng.uniform(50, 60, 20).tolist(), rng.uniform(50, 60, 20).tolist()
    signals = [0] * 20
    signals[2], signals[6], signals[10], signals[15] = 1, -1, 1, -1
    later = [*signals]
    later[10], later[11] = 0, 1

    a, b = backtest(opens, closes, signals), backtest(opens, closes, later)

    assert a.trades.entry.tolist() == [3, 11] and b.trades.entry.tolist() == [3, 12]
    assert a.trades.exit.tolist() == b.trades.exit.tolist() == [7, 16]
    assert a.equity[:11].tolist() == b.equity[:11].tolist()


def test_constant_prices_without_costs_leave_equity_alone() -> None:
    done = backtest([50.0] * 9, [50.0] * 9, [1, 0, -1, 1, 1, -1, 0, 1, 1])

    assert done.equity.tolist() == [100_000.0] * 9


def test_an_open_position_is_closed_with_costs_and_counted() -> None:
    done = backtest([100.0, 100.0, 100.0], [100.0, 100.0, 90.0], [1, 0, 0], CostRules(slippage_bps=Decimal(10)))

    assert done.trades.open_at_end and len(done.trades) == 1
    assert done.equity[-1] == pytest.approx(100_000 / 1.001 / 100 * 90 * 0.999)
    assert done.exposure == pytest.approx(2 / 3)


def test_a_signal_on_the_last_bar_and_on_an_empty_series_does_nothing() -> None:
    assert len(backtest([100.0, 100.0], [100.0, 100.0], [0, 1]).trades) == 0
    assert len(backtest([], [], []).trades) == 0


def slow_lots(
    opens: list[float], closes: list[float], signals: list[int], lot: float, rate: float
) -> tuple[list, list]:
    """A fixed number of shares per purchase, commission by the notional, in the order a broker books them."""
    cash, shares, before, entry = 10_000.0, 0.0, 0.0, 0
    equity, trades = [], []
    for t in range(len(closes)):
        yesterday = signals[t - 1] if t else 0
        if yesterday == 1 and shares == 0 and lot * opens[t] + lot * (opens[t] * rate) <= cash:
            before, entry, shares = cash, t, lot
            cash -= lot * opens[t] + lot * (opens[t] * rate)
        elif yesterday == -1 and shares > 0:
            cash += lot * opens[t] - rate * (lot * opens[t])
            shares = 0.0
            trades.append((entry, t, cash - before))
        equity.append(cash + shares * closes[t])
    if shares:
        equity[-1] = cash + lot * closes[-1] - rate * (lot * closes[-1])
        trades.append((entry, len(closes) - 1, equity[-1] - before))
    return equity, trades


@settings(max_examples=200, deadline=None)
@given(series, st.sampled_from([1.0, 30.0, 100.0]))
def test_a_fixed_lot_leaves_the_rest_in_cash_and_is_not_bought_where_the_cash_does_not_reach(
    data: tuple, lot: float
) -> None:
    rules = CostRules(slippage_bps=Decimal(0), commission_bps=Decimal(1))
    done = run_arrays(
        np.array(data[0]), np.array(data[1]), np.array(data[2], np.int8), cost_array(rules), 10_000.0, lot=lot
    )
    equity, trades = slow_lots(*data, lot, 1e-4)

    np.testing.assert_allclose(done.equity, equity, rtol=1e-14)
    assert list(zip(done.trades.entry.tolist(), done.trades.exit.tolist(), strict=True)) == [t[:2] for t in trades]
    np.testing.assert_allclose(done.trades.net_pnl, [t[2] for t in trades], rtol=1e-9, atol=1e-9)
    assert (done.trades.quantity == lot).all()


def test_a_lot_of_no_shares_is_refused() -> None:
    with pytest.raises(ValueError, match="positive number of shares"):
        run_arrays(np.ones(2), np.ones(2), np.zeros(2, np.int8), cost_array(FREE), 1.0, lot=0.0)
