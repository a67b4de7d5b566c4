"""Measures agree with empyrical-reloaded and quantstats on real returns (tools/make_peer_metrics.py made the figures)."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algo_royale.data.catalog import bundled
from algo_royale.market import FloatArray, Timeframe
from algo_royale.research import metrics

PEERS: dict[str, Any] = json.loads((Path(__file__).parent / "peer_metrics.json").read_text())
CASES = [pytest.param(case, id=f"{case['symbol']}-{case['start'][:4]}") for case in PEERS["cases"]]


def returns(symbol: str, case: dict[str, Any]) -> FloatArray:
    bars = bundled().bars(
        symbol, Timeframe.DAY_1, date.fromisoformat(case["start"]), date.fromisoformat(case["end"])
    )  # raw closes
    return bars.close[1:] / bars.close[:-1] - 1.0


def ours(case: dict[str, Any], rf: float = 0.0) -> metrics.Metrics:
    mine, other = returns(case["symbol"], case), returns(case["benchmark"], case)
    assert len(mine) == case["n"]
    equity = np.cumprod(1.0 + mine)
    return metrics.compute(
        equity=equity, last_bar=np.arange(len(mine)), start_equity=1.0, trades=metrics.TradeResults.none(), benchmark=other,
        rf=rf,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_empyrical_says_the_same(case: dict[str, Any]) -> None:
    """It calls losses negative where we do not, and compounds alpha where we multiply."""
    found, risky, told = ours(case), ours(case, PEERS["rf"]), case["empyrical"]

    for name in (
        "total_return",
        "cagr",
        "volatility",
        "sharpe_ratio",
        "sortino_ratio",
        "calmar_ratio",
        "tail_ratio",
        "beta",
    ):
        assert found[name] == pytest.approx(told[name], rel=1e-9), name
    for name in ("sharpe_ratio", "sortino_ratio"):
        assert risky[name] == pytest.approx(told[f"{name}_rf"], rel=1e-9), name
    assert found["max_drawdown"] == pytest.approx(-told["max_drawdown"], rel=1e-9)
    assert found["var_95"] == pytest.approx(-told["value_at_risk"], rel=1e-9)
    assert found["cvar_95"] == pytest.approx(-told["conditional_value_at_risk"], rel=1e-9)
    assert (1.0 + found["alpha"] / 252) ** 252 - 1.0 == pytest.approx(told["compounded_alpha"], rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_quantstats_says_the_same(case: dict[str, Any]) -> None:
    found, told = ours(case), case["quantstats"]

    for name in ("total_return", "volatility", "sharpe_ratio", "sortino_ratio", "tail_ratio"):
        assert found[name] == pytest.approx(told[name], rel=1e-9), name
    assert found["max_drawdown"] == pytest.approx(-told["max_drawdown"], rel=1e-9)


def test_the_file_says_which_versions_made_it() -> None:
    assert PEERS["versions"].keys() >= {"empyrical-reloaded", "quantstats"}
