"""What ran live is what was tested: `research.simulate` and the whole actor system give the same orders and equity."""

import dataclasses
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from algo_royale.market import Bars
from algo_royale.research.handover import TradingPlan
from algo_royale.strategies.combined import CombinedSignal
from traders import config, ledger_of, plan, recorded_orders, simulated, simulated_orders, trader, truth_errors

PORTFOLIOS = ("EqualWeightPortfolioStrategy", "InverseVolatilityPortfolioStrategy", "MinimumVariancePortfolioStrategy")
HELD_BACK = 250  # sessions from START to the end of the bundled data


@pytest.mark.prove
@pytest.mark.parametrize("portfolio", PORTFOLIOS)
def test_stepped_trader_and_simulation_order_the_same_to_the_last_cent(portfolio: str, proving: bool) -> None:
    """Every order over the held-back period (bar, symbol, side, quantity, end), and the final equity."""
    sessions = HELD_BACK if proving else 90
    the_plan = plan(portfolio=portfolio)
    expected = simulated(sessions, the_plan)

    live = trader(sessions, the_plan)
    exit_code = live.run()

    assert exit_code == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert live.exchange.account.equity(live.exchange.marks) == expected.final_equity
    assert truth_errors(live) == []
    assert len(expected.orders) > 20  # a comparison of nothing proves nothing


def test_a_symbol_with_a_short_history_is_in_parity_too() -> None:
    """FB lists in May 2012: it joins when its warm-up allows, without being special-cased."""
    the_plan = plan(symbols=("AAPL", "FB", "MSFT"), strategies=("RSIStrategy",))
    expected = simulated(150, the_plan)

    live = trader(150, the_plan)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert any(order.symbol == "FB" for order in expected.orders)


class LateSignal:
    """A combined signal that says everything one bar too late."""

    def __init__(self, inner: CombinedSignal) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def update(self, bars: Bars, state: Any) -> Any:
        signal, score, state_in, after = self._inner.update(bars, state)
        return signal, score, np.concatenate(([state.is_in], state_in[:-1])) if len(bars) else state_in, after


def test_a_signal_one_bar_late_on_one_side_breaks_parity() -> None:
    """The comparison can fail: an off-by-one in the live path is seen."""
    expected = simulated(40)
    live = trader(40)
    in_time = live.parts

    live.parts = lambda **changes: dataclasses.replace(  # type: ignore[method-assign]
        in_time(**changes), combined=lambda symbol: LateSignal(live.plan.combined(symbol))
    )
    live.run()

    assert recorded_orders(live.store.database.connection()) != simulated_orders(expected)


def test_dropping_a_bar_of_warm_up_breaks_parity() -> None:
    """Feature state has the same origin on both sides or not at all: exponential averages remember where they began."""
    shorter = {name: getattr(plan(), name) for name in TradingPlan.__struct_fields__} | {"warmup_bars": 12}
    expected = simulated(90)

    live = trader(90, TradingPlan(**shorter))
    live.run()

    assert recorded_orders(live.store.database.connection()) != simulated_orders(expected)


def test_ledger_reports_the_equity_of_every_session() -> None:
    """The ledger's daily equity is the simulation's equity curve, to the cent."""
    expected = simulated(60)
    live = trader(60)
    live.run()

    rows = ledger_of(live)["session_equity"]

    assert [Decimal(str(row[2])) for row in rows] == [
        Decimal(str(v)).quantize(Decimal("0.0001")) for v in expected.equity
    ]


def test_the_configuration_under_test_is_the_shipped_one() -> None:
    """Parity holds under the limits that a user gets, not under none."""
    assert config().risk.orders_per_minute == 60
