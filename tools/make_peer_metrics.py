"""Make tests/research/peer_metrics.json: what empyrical-reloaded and quantstats measure on real returns.

    python -m venv peers && peers/bin/pip install empyrical-reloaded==0.7.1 quantstats==0.0.86 pyarrow
    peers/bin/python tools/make_peer_metrics.py

Written without any code of this project. Returns of the bundled closes of IBM and MSFT, MSFT's as the benchmark of IBM and the
other way round; no split lies in the ranges.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import empyrical
import pandas as pd
import quantstats.stats as quantstats

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "tests" / "research" / "peer_metrics.json"
RANGES = {"2008": ("2008-01-01", "2008-12-31"), "2009-2012": ("2009-01-01", "2012-12-31")}
RF = 0.02  # a year, of the ratios named *_rf


def measured(returns: pd.Series, market: pd.Series) -> dict[str, dict[str, float]]:
    daily = RF / 252
    e: dict[str, Any] = {
        "total_return": empyrical.cum_returns_final(returns), "cagr": empyrical.annual_return(returns),
        "volatility": empyrical.annual_volatility(returns), "sharpe_ratio": empyrical.sharpe_ratio(returns),
        "sharpe_ratio_rf": empyrical.sharpe_ratio(returns, risk_free=daily),
        "sortino_ratio": empyrical.sortino_ratio(returns),
        "sortino_ratio_rf": empyrical.sortino_ratio(returns, required_return=daily),
        "max_drawdown": empyrical.max_drawdown(returns), "calmar_ratio": empyrical.calmar_ratio(returns),
        "tail_ratio": empyrical.tail_ratio(returns), "value_at_risk": empyrical.value_at_risk(returns),
        "conditional_value_at_risk": empyrical.conditional_value_at_risk(returns),
        "beta": empyrical.beta(returns, market), "compounded_alpha": empyrical.alpha(returns, market),
    }  # fmt: skip
    q: dict[str, Any] = {
        "total_return": quantstats.comp(returns), "volatility": quantstats.volatility(returns),
        "sharpe_ratio": quantstats.sharpe(returns), "sortino_ratio": quantstats.sortino(returns),
        "max_drawdown": quantstats.max_drawdown(returns), "tail_ratio": quantstats.tail_ratio(returns),
    }  # fmt: skip
    return {"empyrical": {k: float(v) for k, v in e.items()}, "quantstats": {k: float(v) for k, v in q.items()}}


def main() -> None:
    table = pd.read_parquet(ROOT / "algo_royale" / "data" / "bundled.parquet")
    closes = table.pivot(index="timestamp", columns="symbol", values="close")[["IBM", "MSFT"]].dropna()
    versions = {
        name: importlib.metadata.version(name) for name in ("empyrical-reloaded", "quantstats", "pandas", "numpy")
    }
    out: dict[str, Any] = {"versions": versions, "rf": RF, "cases": []}
    for start, end in RANGES.values():
        returns = closes.loc[start:end].pct_change().dropna()
        returns.index = returns.index.tz_localize(None)
        for name, other in (("IBM", "MSFT"), ("MSFT", "IBM")):
            found = measured(returns[name], returns[other])
            out["cases"].append(
                {"symbol": name, "benchmark": other, "start": start, "end": end, "n": len(returns)} | found
            )
    TARGET.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
