"""Strategies that users write: what their files may say, that they go the one path, and what is said of broken ones."""

import importlib
import math
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from algo_royale.app.cli import root
from algo_royale.app.cli.strategies import STRATEGY_FILES
from algo_royale.data.catalog import bundled
from algo_royale.errors import BadInput, BadStrategy
from algo_royale.market import ENTER, EXIT, HOLD, Bars, Timeframe
from algo_royale.research import artifacts, stages
from algo_royale.research.handover import load_plan
from algo_royale.research.plan import ResearchConfig, config_hash, plan
from algo_royale.research.viability import Check, ViabilityConfig
from algo_royale.research.windows import WindowConfig
from algo_royale.strategies import (
    CONDITIONS,
    LOGICS,
    STRATEGIES,
    FeatureCache,
    Strategy,
    build,
    default_trial,
    loading,
    required_history,
    resolve,
    space,
)
from algo_royale.strategies.own import Position, window

DAY = Timeframe.DAY_1
HEAD = "from algo_royale.strategies.own import *\n"
BUILT_IN = (tuple(STRATEGIES), tuple(CONDITIONS), tuple(LOGICS))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    loading.forget()
    assert (tuple(STRATEGIES), tuple(CONDITIONS), tuple(LOGICS)) == BUILT_IN


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(HEAD + text)
    return str(path)


def made(folder: Path, text: str, name: str = "Mine") -> Strategy:
    loading.load([write(folder, text)])
    return build(name, resolve(name, default_trial(name, DAY), DAY), DAY)


DIP = """
@condition(lookback="days")
def dip(bars, days=integer(5, 60, 20), depth=number(0.5, 3.0, 1.0)):
    return bars.close[-1] < bars.close.mean() - depth * bars.close.std()

strategy("Mine", entry=dip, exit="RSIAboveThreshold")
"""


def test_a_condition_sees_its_window_and_says_what_a_loop_says(tmp_path: Path, g: Bars) -> None:
    strategy = made(tmp_path, DIP)
    close, said = g.close, strategy.judged(g, strategy.init())[1]["entry dip"]

    expected = [
        t >= 19 and close[t] < close[t - 19 : t + 1].mean() - close[t - 19 : t + 1].std() for t in range(len(close))
    ]
    assert said.tolist() == expected and 100 < sum(expected) < 600


def test_its_parameters_are_searched_and_its_warm_up_is_known(tmp_path: Path) -> None:
    made(tmp_path, DIP)

    assert [(d.name, d.low, d.high, d.default) for d in space("Mine", DAY)[:2]] == [
        ("entry.dip.days", 5, 60, 20),
        ("entry.dip.depth", 0.5, 3.0, 1.0),
    ]
    assert (
        required_history("Mine", DAY) == required_history("RSIStrategy", DAY) // 30 * 14 == 308
    )  # of RSI(14), not of 60


FORMS = {
    "window": DIP,
    "series": """
import numpy as np
@condition(lookback=2, vectorised=True)
def rises(bars):
    return np.append([False], bars.close[1:] > bars.close[:-1])
strategy("Mine", entry=rises, exit="RSIAboveThreshold")
""",
    "steps": """
@condition(state=(0.0,), lookback=3)
def up_three(bar, state):
    run = state[0] + 1 if bar.close > bar.open else 0.0
    return run >= 3, (run,)
strategy("Mine", entry=up_three, exit="RSIAboveThreshold")
""",
    "scan": """
import numpy as np
@condition(state=(0.0,), lookback=1, vectorised=True)
def even_bars(bars, state):
    counts = state[0] + np.arange(1, len(bars) + 1)
    return counts % 2 == 0, (counts[-1] % 2,)
strategy("Mine", entry=even_bars, exit="RSIAboveThreshold")
""",
    "feature": """
@feature(lookback="days")
def height(bars, days=integer(5, 60, 20)):
    return bars.close[-1] / bars.low.min() - 1

@condition(uses=(height, "rsi", "hist_volatility_20"))
def low(bars, most=number(0.0, 0.1, 0.02)):
    return bars.height[-1] < most and bars.rsi[-1] < 50 and bars.hist_volatility_20[-1] > 0
strategy("Mine", entry=low, exit="RSIAboveThreshold")
""",
    "rule": """
@rule(lookback=2)
def turns(bars):
    return ENTER if bars.close[-1] < bars.close[-2] else EXIT
strategy("Mine", logic=turns, trend="TrendAboveSMA")
""",
    "position": """
@rule(lookback=3)
def holds(bars, position, days=integer(1, 9, 4)):
    if position.is_in:
        return EXIT if position.bars_held >= days else HOLD
    return ENTER if bars.close[-1] < bars.close[0] else HOLD
strategy("Mine", logic=holds, exit="BollingerBandsExit")
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_goes_the_one_path(form: str, tmp_path: Path, g: Bars) -> None:
    """One portion, many portions with empty ones and single bars, from a period's start, with a cache: the same bits."""
    strategy, rng = made(tmp_path, FORMS[form]), np.random.default_rng(3)
    whole = strategy.run(g)
    cuts = np.sort(rng.integers(0, len(g) + 1, 80)).tolist()
    state, parts = strategy.init(), []
    for low, high in zip([0, *cuts], [*cuts, len(g)], strict=True):
        signal, state = strategy.update(g.slice(low, high), type(state).from_bytes(state.to_bytes()))
        parts.append(signal)
    _, middle = strategy.update(g.slice(0, 700), strategy.init())
    late, _ = strategy.step(g.slice(700, len(g)), strategy.reset_position(middle))

    np.testing.assert_array_equal(np.concatenate(parts), whole.signal)
    np.testing.assert_array_equal(strategy.run(g, start=700).signal[700:], late.signal)
    np.testing.assert_array_equal(strategy.run(g, start=700, cache=FeatureCache(g)).state_in[700:], late.state_in)
    assert (whole.signal == ENTER).sum() > 20 and (whole.signal == EXIT).sum() > 5
    assert strategy.explain(g, strategy.init())


def test_a_rule_is_told_the_position_that_its_signals_make(tmp_path: Path, make_bars) -> None:  # type: ignore[no-untyped-def]
    """Bought at the open after the signal; the highest close and the count of bars start there; out again after two."""
    strategy = made(
        tmp_path,
        """
SEEN = []
@rule
def watches(bars, position):
    SEEN.append(position)
    if position.is_in:
        return EXIT if position.bars_held == 2 else HOLD
    return ENTER if bars.close[-1] == 10 else HOLD
strategy("Mine", logic=watches)
""",
    )
    close = [11.0, 10.0, 12.0, 14.0, 13.0, 12.0, 10.0]
    bars = make_bars(
        [11.0, 11.0, 9.0, 12.0, 14.0, 13.0, 12.0], np.array(close) + 6, np.array(close) - 6, close, np.ones(7)
    )
    signal = strategy.run(bars).signal
    seen = strategy.logic.rule.own.function.__globals__["SEEN"]  # type: ignore[union-attr]

    assert signal.tolist() == [HOLD, ENTER, HOLD, HOLD, EXIT, HOLD, ENTER]
    assert [tuple(p) for p in seen[2:5]] == [(True, 9.0, 12.0, 0, 0), (True, 9.0, 14.0, 1, 0), (True, 9.0, 14.0, 2, 0)]
    assert [(p.is_in, p.bars_since_exit) for p in seen[5:]] == [(False, 0), (False, 1)]
    assert isinstance(seen[0], Position) and math.isnan(seen[0].entry_price) and seen[0].bars_since_exit >= 10**9


def test_other_code_is_another_strategy(tmp_path: Path) -> None:
    """The same name and arguments with a changed file have another version and id, so nothing of the old is used again."""
    before = made(tmp_path, DIP)
    version = loading.versions()["Mine"]
    after = made(tmp_path, DIP.replace("mean()", "max()"))

    assert loading.versions()["Mine"] != version and after.id != before.id
    with pytest.raises(BadStrategy, match=r"mine\.py:7: Mine has changed since the backtest"):
        loading.require("Mine", version)
    loading.require("Mine", loading.versions()["Mine"])
    loading.require("RSIStrategy", "")


def test_a_folder_is_loaded_without_tests_and_private_files(tmp_path: Path) -> None:
    write(tmp_path, DIP, "one.py")
    for name in ("test_one.py", "_helper.py", "conftest.py"):
        (tmp_path / name).write_text("raise SystemExit(3)")

    assert set(loading.load([str(tmp_path)])) == {"Mine"}


def test_an_installed_package_brings_strategies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point; a change of any file of the package is another version."""
    package = tmp_path / "their_strategies"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("DEPTH = 1.5\n")
    write(package, "from their_strategies.parts import DEPTH\n" + DIP.replace("0.5, 3.0, 1.0", "0.5, 3.0, DEPTH"))
    info = tmp_path / "their_strategies-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-strategies\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{loading.GROUP}]\nmine = their_strategies.mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    loading._packages.cache_clear()
    try:
        version = loading.load()["Mine"]
        (package / "parts.py").write_text("DEPTH = 2.5\n")
        loading.renew("Mine")
    finally:
        loading._packages.cache_clear()

    assert default_trial("Mine", DAY)["entry.dip.depth"] in (1.5, 2.5)
    assert loading.versions()["Mine"] != version


def ask(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(root, list(words))
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("kind", STRATEGY_FILES)
def test_a_new_strategy_runs_at_once_and_passes_its_own_test(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "strategies")
    name = f"FreshDip{kind.title()}"
    code, out, _ = ask("strategies", "new", name, "--kind", kind)
    assert code == 0 and "check lookahead" in out and f"run-backtest --strategies {name}" in out

    file = tmp_path / "strategies" / f"fresh_dip_{kind}.py"
    code, out, _ = ask("strategies", "show", name, "--strategy-path", str(file))
    assert code == 0 and "default" in out
    tests = runpy.run_path(str(file.with_name(f"test_{file.stem}.py")))
    found = [test for test_name, test in tests.items() if test_name.startswith("test_")]
    for test in found:
        test()
    assert len(found) == (2 if kind == "composition" else 3)

    code, _, err = ask("strategies", "new", name)
    assert code == 1 and "is there already" in err


def test_a_test_of_ones_own_gives_plain_numbers() -> None:
    bars = window(close=[1.0, 2.0, 3.0], volume=[5.0, 6.0, 7.0])

    assert len(bars) == 3 and bars.volume[-1] == 7.0 and bars.open[0] == 1.0
    assert bars.time[0] == np.datetime64("2024-01-01T00:00") and bars.time[-1] - bars.time[0] == np.timedelta64(2, "D")
    with pytest.raises(AttributeError, match="uses="):
        _ = bars.rsi
    with pytest.raises(ValueError, match="read-only"):
        made_read_only = window(close=[1.0]).close
        made_read_only.flags.writeable = False
        made_read_only[0] = 2.0


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small backtest of an own strategy in this process; viable by thresholds that everything passes."""
    folder = tmp_path_factory.mktemp("own")
    file = write(folder, DIP)
    config = ResearchConfig(
        artifacts_root=folder / "artifacts", symbols=("AAPL",), strategies=("Mine",), portfolios=("EqualWeightPortfolioStrategy",),
        windows=replace(WindowConfig.default(DAY), count=1), trials=2, portfolio_trials=1, min_trades=0, strategy_path=(file,),
        viability=ViabilityConfig(checks=(Check(name="max_drawdown", op="<=", threshold=1.0),), hard_checks=()),
    )  # fmt: skip
    stages.run_all(config)
    loading.forget()
    return folder


@pytest.mark.usefixtures("nothing_is_left")
def test_the_trader_takes_over_only_the_code_that_was_judged(judged: Path) -> None:
    """From the file where the backtest found it, or where it is now; a changed one is refused with the reason."""
    plan = load_plan(judged / "artifacts")
    (member,) = plan.symbols[0].members
    assert (member.strategy, member.version) == ("Mine", loading.versions()["Mine"])
    assert plan.combined("AAPL").strategies[0].id == member.strategy_id

    loading.forget()
    moved = judged / "moved"
    moved.mkdir()
    (moved / "mine.py").write_text((judged / "mine.py").read_text())
    assert load_plan(judged / "artifacts", strategy_path=[str(moved)]).names == ("AAPL",)

    loading.forget()
    (moved / "mine.py").write_text((judged / "mine.py").read_text() + "# better\n")
    with pytest.raises(
        BadStrategy, match=r"mine\.py:7: Mine has changed since the backtest \(version .*run `run-backtest` again"
    ):
        load_plan(judged / "artifacts", strategy_path=[str(moved)])


def test_a_changed_file_makes_nothing_of_the_old_results_again(judged: Path) -> None:
    """Artifacts hold the version; a unit of another one is not reusable, one of a built-in strategy does not care."""
    document = artifacts.read(
        next((judged / "artifacts" / "signal" / "AAPL" / "Mine").rglob("optimization_result.json"))
    )
    meta = document["optimization"]["meta"]
    assert (
        meta["strategy_version"] == meta["recipe"]["strategy_versions"]["Mine"] and len(meta["strategy_version"]) == 16
    )

    changed = judged / "changed"
    changed.mkdir()
    hashes = []
    for text in (DIP, DIP, DIP.replace("20)", "21)")):
        file = write(changed, text)
        config = ResearchConfig(
            artifacts_root=changed, symbols=("AAPL",), strategies=("Mine", "RSIStrategy"), strategy_path=(file,)
        )
        hashes.append(
            [config_hash(config, "signal", (date(2005, 1, 1), date(2010, 1, 1)), n) for n in config.strategies]
        )
    assert hashes[0] == hashes[1] and hashes[1][0] != hashes[2][0] and hashes[1][1] == hashes[2][1]


def test_a_run_notices_that_its_strategy_changed_meanwhile(tmp_path: Path) -> None:
    file = write(tmp_path, DIP)
    config = ResearchConfig(
        artifacts_root=tmp_path / "a", symbols=("AAPL",), strategies=("Mine",), strategy_path=(file,)
    )
    write(tmp_path, DIP + "\n")

    with pytest.raises(BadStrategy, match="has changed"):
        plan(config)


def test_a_strategy_may_enter_on_a_column_of_the_data(tmp_path: Path) -> None:
    """Through the whole research: bought only where the column says so; the trader, whose feed has no such column, says no."""
    bars = bundled().bars("AAPL", DAY)
    marked = np.random.default_rng(1).random(len(bars)) < 0.05
    prices = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    (tmp_path / "1Day").mkdir()
    table = {"timestamp": pa.array(bars.start_ns, pa.timestamp("ns", "UTC")), **prices, "entry_signal": marked}
    pq.write_table(pa.table(table), tmp_path / "1Day" / "AAPL.parquet")
    file = write(tmp_path, "strategy('Mine', entry='BooleanColumnEntry', exit='RSIExit')\n")
    config = ResearchConfig(
        artifacts_root=tmp_path / "artifacts", data=str(tmp_path), symbols=("AAPL",), strategies=("Mine",),
        portfolios=("EqualWeightPortfolioStrategy",), windows=replace(WindowConfig.default(DAY), count=1), trials=2,
        portfolio_trials=1, min_trades=0, strategy_path=(file,),
        viability=ViabilityConfig(checks=(Check(name="max_drawdown", op="<=", threshold=1.0),), hard_checks=()),
    )  # fmt: skip
    stages.run_all(config)

    made_of = build("Mine", resolve("Mine", default_trial("Mine", DAY), DAY), DAY)
    signal = made_of.run(replace(bars, extra={"entry_signal": marked})).signal
    assert (signal == ENTER).any() and not (signal[~marked] == ENTER).any()
    with pytest.raises(
        BadInput, match="AAPL: Mine reads the extra column 'entry_signal', which a live feed does not have"
    ):
        load_plan(tmp_path / "artifacts").refuse_columns()
