"""The compiled research account: by hand, and against the event-driven simulation on random markets."""

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.costs import CostRules
from algo_royale.engine import EngineConfig
from algo_royale.portfolio.sizing import AccountRules
from algo_royale.portfolio.weights import PORTFOLIOS, WeightConfig
from algo_royale.research.panel import PanelResult, panel, simulate_panel
from algo_royale.research.simulate import FillRow, SimulationResult, SymbolInput, prepare, simulate
from markets import day_ns, random_symbol

D = Decimal
CASH = D(100_000)
EQUAL = "EqualWeightPortfolioStrategy"
FREE = CostRules(slippage_bps=D(0))
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
