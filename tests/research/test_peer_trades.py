"""Whole backtests are, trade by trade, those of backtesting.py and vectorbt on real prices (tools/make_peer_trades.py)."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algo_royale.costs import CostRules
from algo_royale.data.catalog import bundled
from algo_royale.market import Bars, Timeframe
from algo_royale.research.backtest import Backtest, run
from algo_royale.strategies import build, default_trial, resolve

PEERS = json.loads((Path(__file__).parent / "peer_trades.json").read_text())
COMMISSION = Decimal(str(PEERS["commission"])) * 10_000
COSTS = {
    "backtesting": CostRules(slippage_bps=Decimal(0), commission_bps=COMMISSION),
    "vectorbt": CostRules(slippage_bps=Decimal(str(PEERS["slippage"])) * 10_000, commission_bps=COMMISSION),
}


def ours(engine: str, case: str) -> tuple[Bars, Backtest]:
    symbol, name = case.split()
    bars = bundled().bars(symbol, Timeframe.DAY_1)
    strategy = build(name, resolve(name, default_trial(name, Timeframe.DAY_1), Timeframe.DAY_1), Timeframe.DAY_1)
    return bars, run(bars, strategy.run(bars).signal, COSTS[engine], PEERS["cash"])


@pytest.mark.parametrize("engine, case", [(engine, case) for engine in COSTS for case in PEERS[engine]])
def test_every_trade_is_the_one_that_another_engine_makes(engine: str, case: str) -> None:
    theirs: dict[str, Any] = PEERS[engine][case]
    _, found = ours(engine, case)
    closed = len(found.trades) - found.trades.open_at_end
    assert closed == len(theirs["entry"]) > 0
    assert found.trades.entry[:closed].tolist() == theirs["entry"]
    assert found.trades.exit[:closed].tolist() == theirs["exit"]
    for name, digits in (("entry_price", 1e-9), ("exit_price", 1e-9), ("quantity", 1e-6)):
        assert getattr(found.trades, name)[:closed] == pytest.approx(theirs[name], rel=digits), name
    assert found.trades.net_pnl[:closed] == pytest.approx(theirs["net_pnl"], rel=1e-6, abs=0.05)


@pytest.mark.parametrize("engine, case", [(engine, case) for engine in COSTS for case in PEERS[engine]])
def test_what_is_left_at_the_end_is_what_another_engine_has(engine: str, case: str) -> None:
    """They mark an open position at the last close; ours sells it there, so its sale is put back."""
    bars, found = ours(engine, case)
    equity = float(found.equity[-1])
    if found.trades.open_at_end:
        before = PEERS["cash"] + float(np.sum(found.trades.net_pnl[:-1]))
        quantity, price = found.trades.quantity[-1], found.trades.entry_price[-1]
        paid = quantity * price * (1 + PEERS["commission"])
        equity = before - paid + quantity * float(bars.close[-1])
    assert equity == pytest.approx(PEERS[engine][case]["final_equity"], rel=1e-6)
