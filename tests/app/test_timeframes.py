"""Every length of bar from end to end: minutes come in, longer bars are made of them, and each goes through research and simulation."""

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from algo_royale.app.cli import root
from algo_royale.data.catalog import open_catalog, write_parquet
from algo_royale.market import Timeframe
from algo_royale.research.handover import Member, SymbolPlan, TradingPlan, engine_config, simulate_plan
from algo_royale.sessions import calendar
from algo_royale.strategies import resolve, space
from markets import minutes

SESSIONS = calendar().sessions(date(2012, 10, 15), date(2012, 11, 30))
BARS_A_SESSION = {"1Min": 390, "5Min": 78, "15Min": 26, "1Hour": 7, "1Day": 1}
HALF_DAY = {"1Min": 210, "5Min": 42, "15Min": 14, "1Hour": 4, "1Day": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two symbols, and one more that has days only, over seven weeks with their hurricane and their half day; minutes as imported, the rest made of them."""
    made = tmp_path_factory.mktemp("minutes")
    for symbol, seed in (("AAA", 1), ("BBB", 2)):
        bars = minutes(symbol, seed, SESSIONS)
        columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume", "vwap")}
        cash = np.where(bars.start_ns == SESSIONS[20].open_ns, 0.5, 0.0)
        write_parquet(made / f"{symbol}.parquet", {"timestamp": bars.start_ns, **columns, "ex_dividend": cash})
    there = made / "bars"
    words = ["data", "import", made / "AAA.parquet", made / "BBB.parquet", "--to", there]
    assert CliRunner().invoke(root, [str(word) for word in words]).exit_code == 0
    longer = [word for name in BARS_A_SESSION if name != "1Min" for word in ("--to", name)]
    assert CliRunner().invoke(root, ["data", "resample", "--data", str(there), *longer]).exit_code == 0
    (there / "1Day" / "CCC.parquet").write_bytes((there / "1Day" / "AAA.parquet").read_bytes())
    return there


@pytest.mark.parametrize("timeframe", list(BARS_A_SESSION))
def test_a_backtest_on_each_length_of_bar_completes(tmp_path: Path, folder: Path, timeframe: str) -> None:
    """Signals, portfolios and report; the time of day is a strategy for intraday bars only, and days say so."""
    words = [
        "--home", tmp_path, "run-backtest", "--data", folder, "--timeframe", timeframe, "--unit", "sessions", "--train", 12,
        "--test", 5, "--holdout", 5, "--embargo", 1, "--strategies", "RSIStrategy,TimeOfDayBiasStrategy",
        "--portfolios", "EqualWeightPortfolioStrategy", "--trials", 2, "--portfolio-trials", 1, "--workers", 1, "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(root, [str(word) for word in words])

    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["timeframe"], document["units"]["failed"]) == (timeframe, 0)
    assert len(document["windows"]) >= 2
    symbols = ["AAA", "BBB", "CCC"] if timeframe == "1Day" else ["AAA", "BBB"]
    assert document["symbols"] == symbols
    assert document["data_fingerprint"] == open_catalog(folder).fingerprint(symbols, Timeframe(timeframe))
    manifest = json.loads(next(tmp_path.rglob("run_manifest.json")).read_text())
    assert ("unsupported_timeframe" in str(manifest)) == (timeframe == "1Day")
    assert Path(document["report"]).exists()


@pytest.mark.parametrize("timeframe", list(BARS_A_SESSION))
def test_what_a_trader_would_do_is_simulated_on_each_length_of_bar(folder: Path, timeframe: str) -> None:
    """Ten sessions with the half day after Thanksgiving: a decision at every bar's end, never after the close, and never in debt."""
    length = Timeframe(timeframe)
    defaults = {dimension.name: dimension.default for dimension in space("WickReversalStrategy", length)}
    params = resolve("WickReversalStrategy", defaults, length)
    member = Member(strategy="WickReversalStrategy", strategy_id="x", weight=1.0, params=params)
    plan = TradingPlan(
        timeframe=timeframe, universe="AAA_BBB", portfolio="EqualWeightPortfolioStrategy", portfolio_params={},
        symbols=tuple(SymbolPlan(symbol=s, viability=1.0, members=(member,)) for s in ("AAA", "BBB")),
        warmup_bars=30, last_session="2012-11-15",
    )  # fmt: skip
    start, end = date(2012, 11, 16), date(2012, 11, 30)
    result = simulate_plan(plan, open_catalog(folder), engine_config(plan, ledger_id="t"), start=start, end=end, cash_usd=Decimal(100_000))  # fmt: skip

    sessions = calendar().sessions(start, end)
    assert len(result.bar_end_ns) == BARS_A_SESSION[timeframe] * (len(sessions) - 1) + HALF_DAY[timeframe]
    closes = {s.close_ns for s in sessions}
    assert closes <= set(result.bar_end_ns.tolist())
    assert all(any(s.open_ns < end_ns <= s.close_ns for s in sessions) for end_ns in result.bar_end_ns.tolist())
    assert result.fills or timeframe == "1Day"
    assert (result.cash >= 0).all()
    assert result.equity[-1] > 0
