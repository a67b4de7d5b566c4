"""Make tests/portfolio/peer_weights.json: what skfolio allocates on real returns.

    python -m venv peers && peers/bin/pip install skfolio==1.12.2 pyarrow==26.0.1
    peers/bin/python tools/make_peer_weights.py

Written without any code of this project. Returns of the bundled closes in sessions without a split, sample covariance, long only.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from skfolio import RiskMeasure
from skfolio.moments import EmpiricalCovariance, EmpiricalMu, LedoitWolf
from skfolio.optimization import MaximumDiversification, MeanRisk, ObjectiveFunction, RiskBudgeting
from skfolio.prior import EmpiricalPrior

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "tests" / "portfolio" / "peer_weights.json"
SYMBOLS = ["AAPL", "GOOG", "IBM", "MSFT"]
RANGES = {
    "2009": ("2009-01-01", "2009-12-31"),
    "2010-2011": ("2010-01-01", "2011-12-31"),
    "2012": ("2012-01-01", "2012-05-31"),
}
BUDGETS = [0.4, 0.3, 0.2, 0.1]
TIGHT = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}


def models() -> dict[str, Any]:
    prior = EmpiricalPrior(mu_estimator=EmpiricalMu(), covariance_estimator=EmpiricalCovariance())
    shrunk = EmpiricalPrior(mu_estimator=EmpiricalMu(), covariance_estimator=LedoitWolf())
    common: dict[str, Any] = {"prior_estimator": prior, "solver_params": TIGHT}
    least: dict[str, Any] = {
        "objective_function": ObjectiveFunction.MINIMIZE_RISK,
        "risk_measure": RiskMeasure.VARIANCE,
    }
    ratio: dict[str, Any] = {
        "objective_function": ObjectiveFunction.MAXIMIZE_RATIO,
        "risk_measure": RiskMeasure.VARIANCE,
    }
    budgets: dict[str, Any] = {"risk_measure": RiskMeasure.VARIANCE}
    return {
        "minimum_variance": MeanRisk(**least, **common),
        "minimum_variance_cap_0.4": MeanRisk(**least, **common, max_weights=0.4),
        "minimum_variance_shrunk": MeanRisk(**least, prior_estimator=shrunk, solver_params=TIGHT),
        "maximum_sharpe": MeanRisk(**ratio, **common),
        "equal_risk": RiskBudgeting(**budgets, **common),
        "risk_budgets": RiskBudgeting(**budgets, **common, risk_budget=BUDGETS),
        "maximum_diversification": MaximumDiversification(**common),
    }


def main() -> None:
    table = pd.read_parquet(ROOT / "algo_royale" / "data" / "bundled.parquet")
    closes = table.pivot(index="timestamp", columns="symbol", values="close")[SYMBOLS].dropna()
    out: dict[str, Any] = {
        "skfolio": importlib.metadata.version("skfolio"),
        "symbols": SYMBOLS,
        "budgets": BUDGETS,
        "ranges": {},
    }
    for name, (first, last) in RANGES.items():
        returns = closes.loc[first:last].pct_change().dropna()
        out["ranges"][name] = {
            "first": first, "last": last, "n_returns": len(returns),
            "weights": {key: np.round(model.fit(returns).weights_, 9).tolist() for key, model in models().items()},
        }  # fmt: skip
    TARGET.write_text(json.dumps(out, indent=1) + "\n")
    print(TARGET.relative_to(ROOT))


if __name__ == "__main__":
    main()
