"""Optimal weights on real returns are those of skfolio (tools/make_peer_weights.py)."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from algo_royale.data.catalog import bundled
from algo_royale.market import FloatArray, Timeframe
from algo_royale.portfolio import solvers

PEERS = json.loads((Path(__file__).parent / "peer_weights.json").read_text())
CASES = [(period, key) for period, found in PEERS["ranges"].items() for key in found["weights"]]


def returns(period: str) -> FloatArray:
    found = PEERS["ranges"][period]
    first, last = (date.fromisoformat(found[key]) for key in ("first", "last"))
    closes = np.column_stack([bundled().bars(s, Timeframe.DAY_1, first, last).close for s in PEERS["symbols"]])
    assert len(closes) == found["n_returns"] + 1
    changes: FloatArray = closes[1:] / closes[:-1] - 1.0
    return changes


def ours(key: str, window: FloatArray) -> FloatArray | None:
    n = window.shape[1]
    sigma = solvers.covariance(window, "ledoit_wolf" if key.endswith("shrunk") else "sample")
    if key.startswith("minimum_variance"):
        return solvers.minimum_variance(sigma, 1.0, 0.4 if key.endswith("cap_0.4") else 1.0)
    if key == "maximum_sharpe":
        return solvers.maximum_sharpe(sigma, solvers.mean(window, 0.0), 1.0, 1.0)
    if key == "maximum_diversification":
        found = solvers.maximum_diversification(sigma)
        return None if found is None else found / found.sum()
    budgets = np.full(n, 1 / n) if key == "equal_risk" else np.array(PEERS["budgets"])
    return solvers.risk_budgets(sigma, budgets)


@pytest.mark.parametrize("period, key", CASES)
def test_weights_are_those_of_another_library(period: str, key: str) -> None:
    found = ours(key, returns(period))

    assert found is not None
    assert found == pytest.approx(PEERS["ranges"][period]["weights"][key], abs=1e-4)  # its solver stops there
