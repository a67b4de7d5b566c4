"""The compiled research account: by hand, and against the event-driven simulation on random markets."""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.costs import CostRules
from algo_royale.engine import EngineConfig
from algo_royale.errors import BadInput
from algo_royale.holds import HoldRules
from algo_royale.market import Bars, CorporateAction, Timeframe
from algo_royale.portfolio.sizing import TRADER_RULES, AccountRules, OrderPolicy, OrderType
from algo_royale.portfolio.weights import PORTFOLIOS, WeightConfig
from algo_royale.research.panel import Panel, PanelResult, _through_events, panel, simulate_panel
from algo_royale.research.simulate import FillRow, SimulationResult, SymbolInput, prepare, simulate
from algo_royale.sessions import calendar
from markets import daily, day_ns, random_symbol, traded

D = Decimal
CASH = D(100_000)
EQUAL = "EqualWeightPortfolioStrategy"
HOUR_NS = 3_600_000_000_000
RESEARCH = [
    AccountRules(),
    AccountRules(costs=CostRules(slippage_bps=D(0), commission_bps=D(1)), drift_band=D(0), min_notional=D(0)),
    AccountRules(account="cash", costs=CostRules(commission_bps=D(3), commission_min=D(1), sec_fee_per_million=D(28))),
    AccountRules(account="cash", settlement_days=3, lot=D(1)),
    AccountRules(lot=D("0.25"), costs=CostRules(commission_per_share=D("0.01"), taf_per_share=D("0.02"), taf_cap=D(2))),
    AccountRules(shares=D(100), drift_band=D(0), costs=CostRules(slippage_bps=D(0), commission_bps=D(1))),
    AccountRules(account="cash", settlement_days=2, drift_band=D("0.05"), min_notional=D(3000)),
]


def both(inputs: dict[str, SymbolInput], since: int, **changes: Any) -> tuple[SimulationResult, PanelResult]:
    market = prepare(inputs, since, 2**62)
    config = EngineConfig(**{"ledger_id": "t", "symbols": tuple(inputs), "strategy": EQUAL, **changes})
    return simulate(market, config, CASH), simulate_panel(panel(market), config, float(CASH), fills=True)


def assert_same(slow: SimulationResult, fast: PanelResult, lot: Decimal) -> None:
    """The same fills, each within a lot; money to rounding."""
    assert [(f.timestamp, f.symbol, f.action) for f in fast.fills] == [
        (f.timestamp, f.symbol, f.action) for f in slow.fills
    ]
    for name in (f.name for f in dataclasses.fields(fast.fills[0])[3:]) if fast.fills else ():
        ours = [getattr(f, name) for f in fast.fills]
        theirs = [float(getattr(f, name)) for f in slow.fills]
        assert ours == pytest.approx(theirs, rel=1e-9, abs=float(lot) if "quantity" in name else 1e-4), name
    np.testing.assert_allclose(fast.equity, slow.equity, rtol=1e-9)
    np.testing.assert_allclose(fast.cash, slow.cash, rtol=1e-9, atol=1e-4)
    assert fast.closed_equity == pytest.approx(float(slow.closed_equity), rel=1e-9)
    assert (fast.num_fills, fast.solver_fallbacks) == (len(slow.fills), slow.solver_fallbacks)
    assert fast.notional == pytest.approx(sum(float(f.notional) for f in slow.fills), rel=1e-9)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, SymbolInput], dict[str, Any], int]:
    seed, n = draw(st.integers(0, 100_000)), draw(st.integers(1, 4))
    gaps, flips = draw(st.sampled_from([0.0, 0.1, 0.6])), draw(st.sampled_from([0.05, 0.4]))
    inputs = {s: random_symbol(s, seed + i, 70, gaps=gaps, flips=flips) for i, s in enumerate("DABC"[:n])}
    strategy = draw(st.sampled_from(sorted(PORTFOLIOS)))
    config = {
        "strategy": strategy, "params": {"lookback": 20} if PORTFOLIOS[strategy].space else {},
        "rules": draw(st.sampled_from(RESEARCH)), "rebalance": draw(st.sampled_from(["on_signal_change", "every_bar"])),
        "weights": WeightConfig(max_weight=draw(st.sampled_from([0.35, 1.0])), cash_buffer=draw(st.sampled_from([0.0, 0.02]))),
        "viability": {s: draw(st.sampled_from([0.3, 1.0])) for s in inputs}, "max_stale_bars": draw(st.integers(0, 3)),
    }  # fmt: skip
    return inputs, config, day_ns(draw(st.sampled_from([0, 10, 25])))


@settings(deadline=None, max_examples=40)
@given(worlds())
def test_what_goes_through_events_is_told_as_the_arrays_tell_it(world: tuple[Any, Any, int]) -> None:
    """Round trips, their order, costs and what is sold at the end, for rules that both know."""
    inputs, config, since = world
    market = prepare(inputs, since, 2**62)
    engine = EngineConfig(**{"ledger_id": "t", "symbols": tuple(inputs), "strategy": EQUAL, **config})
    fast = simulate_panel(panel(market), engine, float(CASH), fills=True)

    slow = _through_events(simulate(market, engine, CASH), engine, fills=True)

    np.testing.assert_allclose(slow.trades, fast.trades, rtol=1e-6, atol=1e-4)
    assert [dataclasses.astuple(f)[:3] for f in slow.fills] == [dataclasses.astuple(f)[:3] for f in fast.fills]
    assert slow.notional == pytest.approx(fast.notional, rel=1e-9)
    assert slow.closed_equity == pytest.approx(fast.closed_equity, rel=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": OrderPolicy(type=OrderType.MARKETABLE_LIMIT, collar_bps=D(10), round_limits=False)},
        {"policy": OrderPolicy(type=OrderType.CLOSING_AUCTION)},
        {"holds": HoldRules(one_way=True)},
        {"holds": HoldRules(settlement_days=2), "account": "cash", "settlement_days": 2},
    ],
)
def test_research_honours_what_only_the_simulation_knows(changes: dict[str, Any]) -> None:
    """A policy or a hold gives what `simulate` gives, and not what market orders without holds give."""
    inputs = {s: random_symbol(s, 5 + i, 120, flips=0.4) for i, s in enumerate("AB")}
    plain, _ = both(inputs, 0, rebalance="every_bar", rules=AccountRules(drift_band=D(0)))
    slow, fast = both(inputs, 0, rebalance="every_bar", rules=AccountRules(**{"drift_band": D(0), **changes}))

    assert [float(f.price) for f in slow.fills] == [f.price for f in fast.fills]
    np.testing.assert_array_equal(fast.equity, slow.equity)
    assert [f.price for f in plain.fills] != [f.price for f in slow.fills]


@settings(deadline=None, max_examples=120)
@given(worlds())
def test_arrays_trade_as_events_do(world: tuple[Any, Any, int]) -> None:
    inputs, config, since = world
    slow, fast = both(inputs, since, **config)

    assert_same(slow, fast, config["rules"].lot)


def round_trips(fills: Sequence[FillRow], last: Mapping[str, float], kept: float) -> list[tuple[float, float]]:
    """Net profit and return on the money put in, from flat to flat; what is held in the end brings `kept` of its price."""
    held: dict[str, list[float]] = {}  # shares, paid, received
    out = []

    def close(symbol: str) -> None:
        _, paid, received = held.pop(symbol)
        out.append((received - paid, received / paid - 1.0))

    for fill in fills:
        entry = held.setdefault(fill.symbol, [0.0, 0.0, 0.0])
        notional, charged = float(fill.notional), float(fill.commission + fill.fees)
        if fill.action == "buy":
            entry[0] += float(fill.quantity)
            entry[1] += notional + charged
        else:
            entry[0] -= float(fill.quantity)
            entry[2] += notional - charged
        if fill.position_after == 0:
            close(fill.symbol)
    for symbol in sorted(held):
        held[symbol][2] += held[symbol][0] * last[symbol] * kept
        close(symbol)
    return out


@settings(deadline=None, max_examples=40)
@given(worlds())
def test_round_trips_of_the_kernel_are_those_of_the_fills(world: tuple[Any, Any, int]) -> None:
    inputs, config, since = world
    rules = dataclasses.replace(config["rules"], costs=CostRules(commission_bps=D(2)))
    slow, fast = both(inputs, since, **{**config, "rules": rules})
    prices = {symbol: float(price) for symbol, price in slow.state.prices.items()}

    expected = round_trips(slow.fills, prices, (1 - 5e-4) * (1 - 2e-4))

    assert len(fast.trades) == len(expected)
    assert fast.trades.ravel() == pytest.approx(np.array(expected).ravel(), rel=1e-6, abs=1e-3)


def test_a_quotient_a_hair_below_a_whole_share_is_that_share() -> None:
    """0.35 * 100,000 / 1.12 is 31,250, but 31,249.999999999996 in binary."""
    a = traded(daily("A", [1, 2], [1.12, 1.12], [1.12, 1.12]), [True, True])

    _, fast = both({"A": a}, 0, rules=AccountRules(lot=D(1)))

    assert [f.quantity for f in fast.fills] == [31_250.0]


def test_four_days_worked_by_hand() -> None:
    """In after day 1, out after day 3, 5 bp each way: 35 % of 100,000 at 100 are 350 shares."""
    a = traded(daily("A", [1, 2, 3, 4], [99, 101, 104, 110], [100, 102, 105, 111]), [True, True, False, False])
    _, fast = both({"A": a}, 0)

    assert [(f.action, f.quantity, f.cash_after, f.position_after, f.timestamp) for f in fast.fills] == [
        ("buy", 350.0, pytest.approx(64_632.325), 350.0, day_ns(2)),
        ("sell", 350.0, pytest.approx(103_113.075), 0.0, day_ns(4)),
    ]
    assert fast.equity.tolist() == pytest.approx([100_000, 100_332.325, 101_382.325, 103_113.075])
    assert fast.trades.tolist() == [[pytest.approx(3_113.075), pytest.approx(350 * 109.945 / 35_367.675 - 1)]]
    assert fast.notional == pytest.approx(350 * (101.0505 + 109.945)) and fast.closed_equity == fast.equity[-1]


def test_a_portfolio_rebalanced_at_given_closes_is_what_a_plain_loop_makes_of_it() -> None:
    """Inverse volatility at every fifth close, filled whole at the next open: the loop knows nothing of lots or orders."""
    days, n, lookback, slip = 120, 6, 20, 5e-4
    rng = np.random.default_rng(3)
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, (days, n)), axis=0))
    opens = np.vstack((np.full((1, n), 50.0), close[:-1])) * np.exp(rng.normal(0, 0.003, (days, n)))
    at = np.arange(1, days + 1) % 5 == 0
    at[:lookback] = False
    cash, shares, wanted, equity = float(CASH), np.zeros(n), None, []
    for t in range(days):
        if wanted is not None:
            change = wanted - shares
            cash -= float((change * opens[t] * (1 + slip * np.sign(change))).sum())
            shares, wanted = wanted, None
        equity.append(cash + float((shares * close[t]).sum()))
        if at[t]:
            window = close[t - lookback : t + 1]
            inverse = 1 / np.std(window[1:] / window[:-1] - 1, axis=0, ddof=1)
            wanted = 0.98 * inverse / inverse.sum() * equity[-1] / close[t]
    names = tuple("ABCDEF")
    starts = np.array([day_ns(t) for t in range(days)], np.int64)
    config = EngineConfig(
        ledger_id="t", symbols=names, strategy="InverseVolatilityPortfolioStrategy", params={"lookback": lookback},
        rules=AccountRules(drift_band=D(0), min_notional=D(0)), weights=WeightConfig(max_weight=1.0),
    )  # fmt: skip

    done = simulate_panel(Panel.whole(names, starts, starts + 1, opens, close), config, float(CASH), rebalance_at=at)

    np.testing.assert_allclose(done.equity, equity, rtol=1e-6)
    assert done.num_fills == n * (int(at.sum()) - 1)


def test_sessions_end_in_cash_in_the_arrays_too() -> None:
    """Hourly bars, the second day: the exit decided at the last close but one fills at the last open."""
    days = calendar().sessions(dt.date(2012, 11, 20), dt.date(2012, 11, 21))
    starts = np.array([d.label_ns + hour * HOUR_NS for d in days for hour in range(9, 16)], np.int64)
    close = 100 + np.arange(len(starts)) * 0.1 + np.arange(len(starts)) % 2
    bars = Bars(
        symbol="A", timeframe=Timeframe.HOUR_1, start_ns=starts, end_ns=starts + HOUR_NS, open=close, high=close, low=close,
        close=close, volume=np.ones(len(starts)), vwap=np.full(len(starts), np.nan), trade_count=np.full(len(starts), -1),
    )  # fmt: skip
    slow, fast = both(
        {"A": traded(bars, [True] * len(starts))}, 0, strategy="WinnerTakesAllPortfolioStrategy",
        weights=WeightConfig(bars_per_year=Timeframe.HOUR_1.bars_per_year),
        params={"lookback": 5, "move_to_cash_at_end_of_day": True},
    )  # fmt: skip

    assert_same(slow, fast, D("0.000001"))
    assert [(f.action, (f.timestamp - days[1].label_ns) // HOUR_NS) for f in fast.fills] == [("buy", 10), ("sell", 15)]


def test_what_only_the_events_know_is_refused_of_arrays_that_came_from_no_market() -> None:
    config = EngineConfig(ledger_id="t", symbols=("A",), strategy=EQUAL)
    laid_out = panel(prepare({"A": random_symbol("A", 1, 5)}, 0, 2**62))
    split = CorporateAction(symbol="A", ex_date=dt.date(2010, 1, 2), ratio=2.0)
    one = dataclasses.replace(random_symbol("A", 1, 5), actions=(split,))

    with pytest.raises(BadInput, match="no price tick, no borrowing"):
        arrays = dataclasses.replace(laid_out, market=None)
        simulate_panel(arrays, dataclasses.replace(config, rules=TRADER_RULES), 1.0)
    with pytest.raises(BadInput, match="the market has"):
        simulate_panel(laid_out, dataclasses.replace(config, symbols=("B",)), 1.0)
    with pytest.raises(BadInput, match="event-driven"):
        panel(prepare({"A": one}, 0, 2**62))
    with pytest.raises(BadInput, match="open is"):
        dataclasses.replace(laid_out, open=laid_out.open[1:])


def test_an_empty_range_leaves_the_cash() -> None:
    _, fast = both({"A": random_symbol("A", 1, 5)}, 2**61)

    assert (len(fast.equity), fast.closed_equity, fast.num_fills) == (0, 100_000.0, 0)
