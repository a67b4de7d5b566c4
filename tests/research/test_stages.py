"""Whole runs on small made-up markets: what is in the artifacts, and what they depend on."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from algo_royale.errors import ArtifactError, BadInput, InsufficientHistory, UnknownName, UnsupportedTimeframe
from algo_royale.market import Timeframe
from algo_royale.portfolio import weights as portfolio_weights
from algo_royale.portfolio.weights import PORTFOLIOS
from algo_royale.research import artifacts, portfolio_stages, signal_stages, stages
from algo_royale.research.handover import load_plan, watch_research
from algo_royale.research.optimise import StudyFailed
from algo_royale.research.plan import Input, forget_data, series
from algo_royale.research.stages import ResearchConfig
from algo_royale.research.viability import Check, ViabilityConfig
from algo_royale.research.windows import WindowConfig
from algo_royale.sessions import calendar, new_york_ns

START = date(2009, 1, 2)
WINDOWS = WindowConfig(unit="sessions", train=250, test=60, embargo=3, holdout=60)
MILD = ViabilityConfig(
    checks=(
        Check(name="total_return", op=">", threshold=-0.5), Check(name="max_drawdown", op="<=", threshold=0.9),
        Check(name="win_rate", op=">=", threshold=0.2), Check(name="num_trades", op=">=", threshold=1),
    )
)  # fmt: skip


def market(seed: int, n: int) -> dict[str, np.ndarray]:
    """A random walk with waves, on real sessions."""
    rng = np.random.default_rng(seed)
    days = calendar().sessions(START, date(2013, 1, 1))[:n]
    drift = 0.004 * np.sin(np.arange(n) / 9 + seed)
    close = np.round(50 * np.exp(np.cumsum(drift + rng.normal(0, 0.012, n))), 2)
    open_ = np.round(np.concatenate(([50.0], close[:-1])) * (1 + rng.normal(0, 0.003, n)), 2)
    high = np.round(np.maximum(open_, close) * (1 + np.abs(rng.normal(0, 0.004, n))), 2)
    low = np.round(np.minimum(open_, close) * (1 - np.abs(rng.normal(0, 0.004, n))), 2)
    return {
        "timestamp": np.array([s.label_ns for s in days]), "open": open_, "high": high, "low": low, "close": close,
        "volume": rng.integers(100_000, 900_000, n).astype(float),
    }  # fmt: skip


def write_market(folder: Path, symbol: str, columns: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stamps = pyarrow.array(columns["timestamp"], pyarrow.timestamp("ns", tz="UTC"))
    pyarrow.parquet.write_table(pyarrow.table(columns | {"timestamp": stamps}), folder / f"{symbol}.parquet")


def data_folder(folder: Path, change: Callable[[dict[str, np.ndarray]], None] = lambda columns: None) -> Path:
    """Two symbols of 560 sessions and one, NEW, that begins late."""
    for seed, symbol, first in ((1, "AAA", 0), (2, "BBB", 0), (3, "NEW", 180)):
        columns = market(seed, 560)
        change(columns)
        write_market(folder, symbol, {name: column[first:] for name, column in columns.items()})
    return folder


def config(folder: Path, root: Path, **more: Any) -> ResearchConfig:
    return ResearchConfig(
        **{
            "artifacts_root": root, "data": str(folder), "symbols": ("AAA", "BBB", "NEW"), "windows": WINDOWS,
            "strategies": ("MeanReversionStrategy", "RSIStrategy"), "trials": 5, "portfolio_trials": 2,
            "portfolios": ("EqualWeightPortfolioStrategy", "InverseVolatilityPortfolioStrategy"), "min_trades": 1,
            "viability": MILD,
        }
        | more
    )  # fmt: skip


def documents(root: Path) -> dict[str, Any]:
    """Every artifact below a root by its path, without volatile values."""
    found = sorted(root.rglob("*.json"))
    return {str(p.relative_to(root)): artifacts.identity(json.loads(p.read_bytes())) for p in found}


def sidecars(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.npz"))}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResearchConfig, stages.Plan, dict[str, Any]]:
    """One run that most tests read."""
    folder = tmp_path_factory.mktemp("base")
    made = config(data_folder(folder / "data"), folder / "artifacts")
    plan, manifest = stages.run_all(made, created_at="2024-05-01T14:03:22Z")
    return made, plan, manifest


def test_every_unit_of_the_plan_has_its_file_and_no_other_is_there(base: tuple) -> None:
    made, plan, manifest = base

    files = {key for key in documents(made.artifacts_root) if key != "run_manifest.json"}
    assert files == {unit.key for unit in plan.units}
    assert {u["status"] for u in manifest["units"].values()} <= {"complete", "no_feasible_trial", "insufficient_data"}
    order = {unit.key: i for i, unit in enumerate(plan.units)}
    assert all(order[needed] < order[unit.key] for unit in plan.units for needed in unit.depends_on)


def test_a_short_history_has_fewer_windows_and_is_not_special(base: tuple) -> None:
    made, plan, manifest = base

    assert len(plan.windows) == 4
    whole = documents(made.artifacts_root)
    assert whole["signal/AAA/RSIStrategy/evaluation_result.json"]["n_windows"] == 4
    assert whole["signal/NEW/RSIStrategy/evaluation_result.json"]["n_windows"] == 1
    assert [k for k, u in manifest["units"].items() if u["status"] == "insufficient_data"] == [
        f"signal/NEW/{s}/{w.window_id}" for s in ("MeanReversionStrategy", "RSIStrategy") for w in plan.windows[:3]
    ]


def test_optimisation_says_what_the_catalogue_says(base: tuple) -> None:
    made, plan, _ = base
    key = f"signal/AAA/RSIStrategy/{plan.windows[2].window_id}/optimization_result.json"
    unit = plan.unit(key)
    document = artifacts.read(unit.path(made), "signal_optimization")

    assert document["window"]["window_id"] == unit.window.window_id
    assert set(document["optimization"]["meta"]) == {
        "symbol", "timeframe", "objective", "direction", "multi_objective", "n_trials", "n_feasible", "n_pruned",
        "n_failed", "seed", "sampler", "run_time_sec", "created_at", "code_version", "config_hash", "recipe", "data_fingerprint",
    }  # fmt: skip
    assert document["optimization"]["meta"]["created_at"] == "2024-05-01T14:03:22Z"
    assert document["optimization"]["best_value"] == document["optimization"]["metrics"]["sharpe_ratio"]
    assert {"psr", "deflated_sharpe", "pbo", "min_track_record"} <= set(document["optimization"]["overfitting"])
    assert {"psr", "min_track_record", "alpha", "cvar_95"} <= set(document["test"]["metrics"])
    assert document["test"]["metrics"]["n_sessions"] == 60
    assert document["optimization"]["metrics"]["n_sessions"] == 250


def test_evaluation_is_the_stitched_test_windows(base: tuple) -> None:
    made, plan, _ = base
    unit = next(u for u in plan.units if u.stage == "signal_evaluation" and u.symbol == "BBB")
    document = artifacts.read(unit.path(made))
    parts = [signal_stages.load_searched(made, k).arrays["test_returns"] for k in unit.depends_on if unit.strategy in k]

    returns = np.concatenate(parts)
    assert document["oos"]["n_sessions"] == len(returns) == 240
    assert document["oos"]["total_return"] == pytest.approx(np.prod(1 + returns) - 1)
    checked = {c["name"]: c["value"] for c in document["checks"]}
    assert checked["total_return"] == pytest.approx(np.mean([np.prod(1 + p) - 1 for p in parts]))
    assert document["oos"]["n_candidates"] == 2


def test_a_second_run_recomputes_nothing(base: tuple) -> None:
    made, _, manifest = base
    started: list[str] = []

    _, again = stages.run_all(made, on_unit=lambda unit: started.append(unit.key))

    assert started == []
    assert artifacts.identity(again) == artifacts.identity(manifest)


def test_two_runs_are_byte_identical_whatever_the_order(base: tuple, tmp_path: Path) -> None:
    """Any order that respects the dependencies, each unit after a round trip through pickle."""
    made, _, _ = base
    other = replace(made, artifacts_root=tmp_path)
    plan = pickle.loads(pickle.dumps(stages.plan(other)))
    left, done = list(plan.units), set()
    chance = random.Random(4)
    while left:
        ready = [u for u in left if done.issuperset(u.depends_on)]
        unit = chance.choice(ready)
        result = stages.run_unit(unit, pickle.loads(pickle.dumps(other)))
        stages.commit(result, unit, other, created_at="2030-01-01T00:00:00Z", run_time_sec=9.9)
        left.remove(unit)
        done.add(unit.key)
    stages.write_manifest(plan, other, failures={}, created_at="x", run_time_sec=1.0)

    assert documents(tmp_path) == documents(made.artifacts_root)
    assert sidecars(tmp_path) == sidecars(made.artifacts_root)


def test_another_process_with_another_hash_seed_makes_the_same_files(base: tuple, tmp_path: Path) -> None:
    made, _, _ = base
    recipe = tmp_path / "run.pickle"
    recipe.write_bytes(pickle.dumps(replace(made, artifacts_root=tmp_path / "a")))
    program = (
        "import pickle, pathlib, sys; from algo_royale.research import stages;"
        "stages.run_all(pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))"
    )
    environment = (
        os.environ | stages.WORKER_ENVIRONMENT | {"PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    )

    subprocess.run([sys.executable, "-c", program, str(recipe)], check=True, env=environment, timeout=120)

    assert documents(tmp_path / "a") == documents(made.artifacts_root)
    assert sidecars(tmp_path / "a") == sidecars(made.artifacts_root)


def test_a_strategy_that_cannot_read_the_bars_is_skipped_and_counts_for_nothing(base: tuple, tmp_path: Path) -> None:
    """The plan is the one without it, to the hash, and says why it is not there for any window."""
    made, plan, _ = base
    asked = replace(made, strategies=(*made.strategies, "TimeOfDayBiasStrategy"), artifacts_root=tmp_path)

    found = stages.plan(asked)
    manifest = stages.write_manifest(found, asked, failures={}, created_at="2024-05-01T14:03:22Z", run_time_sec=0.0)

    reasons = {key: why for key, why in found.skipped.items() if "TimeOfDayBiasStrategy" in key}
    assert found.units == plan.units
    assert len(reasons) == len(made.symbols) * len(plan.windows)
    assert set(reasons.values()) == {"unsupported_timeframe"}
    assert found.skipped == plan.skipped | reasons
    assert {key: manifest["units"][key]["status"] for key in reasons} == reasons
    assert (asked.strategies, asked.unsupported) == (made.strategies, ("TimeOfDayBiasStrategy",))


def test_a_run_of_nothing_but_such_strategies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTimeframe, match=r"TimeOfDayBiasStrategy.* 1Day"):
        config(tmp_path, tmp_path, strategies=("TimeOfDayBiasStrategy",))
    hourly = config(tmp_path, tmp_path, strategies=("TimeOfDayBiasStrategy",), timeframe=Timeframe.HOUR_1)
    assert (hourly.strategies, hourly.unsupported) == (("TimeOfDayBiasStrategy",), ())


def test_changed_data_files_are_seen_by_the_next_plan(base: tuple, tmp_path: Path) -> None:
    made, _, _ = base
    other = replace(made, data=str(data_folder(tmp_path / "data")), artifacts_root=tmp_path)
    before = stages.plan(other)

    def double(columns: dict[str, np.ndarray]) -> None:
        for name in ("open", "high", "low", "close"):
            columns[name] = columns[name] * 2

    data_folder(tmp_path / "data", double)
    assert stages.plan(other).data_fingerprint != before.data_fingerprint


def test_nothing_of_a_windows_train_part_depends_on_bars_after_it(base: tuple, tmp_path: Path) -> None:
    """Everything at and after B_k is replaced by another market; train artifacts and selections up to k stay."""
    made, plan, _ = base
    k = 1
    boundary = plan.windows[k].train_end_ns

    def alter(columns: dict[str, np.ndarray]) -> None:
        late = columns["timestamp"] >= boundary
        for name in ("open", "high", "low", "close"):
            columns[name][late] = np.round(columns[name][late][::-1] * 1.7, 2)
        low, high = columns["low"], columns["high"]
        columns["low"], columns["high"] = np.minimum(low, high), np.maximum(low, high)
        for name in ("open", "close"):
            columns["low"] = np.minimum(columns["low"], columns[name])
            columns["high"] = np.maximum(columns["high"], columns[name])

    other = replace(made, data=str(data_folder(tmp_path / "data", alter)), artifacts_root=tmp_path / "artifacts")
    stages.run_all(other)

    def train_part(root: Path, unit: stages.Unit) -> dict[str, Any]:
        document = artifacts.read(root / unit.key)
        kept = {name: document.get(name) for name in ("status", "window", "symbol_signals")}
        found = dict(document["optimization"])
        del found["meta"]
        return kept | {"optimization": found}

    same, differs = 0, 0
    for unit in plan.units:
        if unit.window is None:
            continue
        before, after = (train_part(c.artifacts_root, unit) for c in (made, other))
        if unit.window in plan.windows[: k + 1]:
            assert before == after, unit.key
            same += 1
        else:
            differs += before != after
    assert same and differs, "the altered bars do matter afterwards"


def test_the_holdout_changes_nothing(base: tuple, tmp_path: Path) -> None:
    made, plan, _ = base
    held_ns = new_york_ns(plan.holdout_start)

    def alter(columns: dict[str, np.ndarray]) -> None:
        late = columns["timestamp"] >= held_ns
        for name in ("open", "high", "low", "close"):
            columns[name][late] *= 3.0

    other = replace(made, data=str(data_folder(tmp_path / "data", alter)), artifacts_root=tmp_path / "artifacts")
    stages.run_all(other)

    def comparable(root: Path) -> str:
        found = documents(root)
        for unit in found["run_manifest.json"]["units"].values():
            unit.pop("sha256", None)  # of a document that names the fingerprint of all bars, held back or not
        text = json.dumps(found)
        for differing in {x for c in (made, other) for x in (c.data, *_fingerprints(c.artifacts_root))}:
            text = text.replace(differing, "*")
        return text

    assert comparable(tmp_path / "artifacts") == comparable(made.artifacts_root)


def _fingerprints(root: Path) -> set[str]:
    out = set()
    for document in documents(root).values():
        body = next(iter(document.values())) if len(document) == 1 else document
        out.add(body.get("data_fingerprint") or (body.get("meta") or body["optimization"]["meta"])["data_fingerprint"])
    return out


def test_the_first_window_falls_back_and_later_ones_choose_by_what_came_before(base: tuple) -> None:
    made, plan, _ = base
    rules = {}
    for unit in plan.units:
        if unit.stage == "portfolio_optimization" and unit.strategy == "EqualWeightPortfolioStrategy":
            signals = artifacts.read(unit.path(made))["symbol_signals"]
            rules[plan.windows.index(unit.window)] = {s: x["selection"] for s, x in signals.items()}
            for chosen in signals.values():
                if chosen["strategies"]:
                    assert sum(s["weight"] for s in chosen["strategies"]) == pytest.approx(1.0)

    assert set(rules[0].values()) == {"in_sample_fallback"} and set(rules[0]) == {"AAA", "BBB"}
    for i in (1, 2, 3):
        assert {rules[i]["AAA"], rules[i]["BBB"]} <= {"as_of_oos", "not_viable"}
    assert "as_of_oos" in {*rules[1].values(), *rules[2].values()}
    assert rules[3]["NEW"] == "in_sample_fallback", "its own first window"


def test_sessions_at_and_after_the_boundary_are_cut_from_the_votes(base: tuple) -> None:
    """The embargo pushes the last session of an earlier test past B_k: 3 of 60 are cut, a position there is closed."""
    made, plan, _ = base
    item = Input("AAA", "RSIStrategy", plan.windows[1])
    searched = signal_stages.input_searched(made, item)

    returns, _ = portfolio_stages.cut_at(made, item, searched, plan.windows[2].train_end_ns)
    whole, _ = portfolio_stages.cut_at(made, item, searched, plan.windows[3].train_end_ns)

    assert len(whole) == 60 and len(returns) == 57
    assert returns[:56].tolist() == whole[:56].tolist() == searched.arrays["test_returns"][:56].tolist()


def test_changed_in_sample_metrics_change_no_verdict(base: tuple) -> None:
    made, plan, _ = base
    unit = next(u for u in plan.units if u.stage == "signal_evaluation")
    own = [signal_stages.load_searched(made, k) for k in unit.depends_on if unit.strategy in k]
    space = signal_stages.space(unit.strategy, made.timeframe)
    before = signal_stages.evaluate_windows(made, own, [own], space)
    for searched in own:
        if searched.document["optimization"]["metrics"]:
            searched.document["optimization"]["metrics"] = dict.fromkeys(
                searched.document["optimization"]["metrics"], -9.0
            )
    after = signal_stages.evaluate_windows(made, own, [own], space)

    assert before["in_sample"] != after["in_sample"]
    for name in ("viability_score", "is_viable", "checks", "oos", "summary"):
        assert before[name] == after[name]


def test_every_portfolio_strategy_is_searched_and_judged_and_one_is_handed_over(base: tuple, tmp_path: Path) -> None:
    made, _, _ = base
    everything = replace(made, artifacts_root=tmp_path / "a", portfolios=tuple(PORTFOLIOS), portfolio_trials=3)
    shutil.copytree(made.artifacts_root, everything.artifacts_root)

    plan, _ = stages.run_all(everything, created_at="2024-05-01T14:03:22Z")

    assert all(stages.reusable(unit, everything) for unit in plan.units)
    for name in PORTFOLIOS:
        found = artifacts.read(artifacts.portfolio_evaluation_path(everything.artifacts_root, made.symbols, name))
        assert portfolio_weights.resolve(name, found["best_params"]) == found["best_params"]
    handed = load_plan(everything.artifacts_root)
    assert handed.portfolio in PORTFOLIOS
    assert handed.warmup_bars > portfolio_weights.lookback(handed.portfolio, handed.portfolio_params)
    fewer = msgspec.structs.replace(handed, symbols=handed.symbols[1:], portfolio="another")
    told = f"{handed.names[0]} is viable now; the portfolio strategy is another one: start again to trade that"
    assert watch_research(handed, everything.artifacts_root)() == ""
    assert watch_research(fewer, everything.artifacts_root)() == told


def test_the_risk_free_rate_and_the_length_of_bars_reach_the_allocator(base: tuple) -> None:
    weights = replace(base[0], rf=0.03, timeframe=Timeframe.HOUR_1, windows=None).weights

    assert (weights.rf, weights.bars_per_year) == (0.03, 1638)


def test_what_is_reused_depends_on_configuration_data_code_and_files(base: tuple, tmp_path: Path) -> None:
    made, _, _ = base
    copied = replace(made, artifacts_root=tmp_path / "a")
    shutil.copytree(made.artifacts_root, copied.artifacts_root)

    def stale(other: ResearchConfig) -> set[str]:
        return {u.stage for u in stages.plan(other).units if not stages.reusable(u, other)}

    evaluations = {
        "signal_evaluation",
        "symbol_summary",
        "portfolio_optimization",
        "portfolio_evaluation",
        "portfolio_summary",
    }
    everything = evaluations | {"signal_optimization"}
    assert stale(copied) == set()
    assert stale(replace(copied, seed=1)) == everything
    assert stale(replace(copied, trials=6)) == everything
    assert stale(replace(copied, viability=ViabilityConfig())) == evaluations
    assert stale(replace(copied, portfolio_trials=3)) == {s for s in everything if s.startswith("portfolio")}

    unit = next(u for u in stages.plan(copied).units if u.stage == "signal_optimization")
    sidecar = unit.path(copied).with_name("trials.npz")
    content = sidecar.read_bytes()
    sidecar.write_bytes(content[:-1])
    assert not stages.reusable(unit, copied)
    sidecar.write_bytes(content)
    assert stages.reusable(unit, copied)
    unit.path(copied).write_bytes(unit.path(copied).read_bytes()[:200])
    assert not stages.reusable(unit, copied)


def test_a_run_that_was_cut_short_is_finished_by_the_next(base: tuple, tmp_path: Path) -> None:
    made, plan, _ = base
    other = replace(made, artifacts_root=tmp_path)
    seen = 0

    def cut(unit: stages.Unit) -> None:
        nonlocal seen
        seen += 1
        if seen == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.run_all(other, on_unit=cut)
    done: list[str] = []
    stages.run_all(other, on_unit=lambda unit: done.append(unit.key))

    assert len(done) == len(plan.units) - 7
    assert documents(tmp_path) == documents(made.artifacts_root)


def test_a_failed_unit_leaves_no_artifact_and_the_others_complete(
    base: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plan, _ = base
    other = replace(made, artifacts_root=tmp_path)
    victim = plan.units[0]
    real = stages.run_unit

    def run_unit(unit: stages.Unit, config: ResearchConfig) -> stages.Result:
        if unit.key == victim.key:
            raise StudyFailed("no luck")
        return real(unit, config)

    monkeypatch.setattr(stages, "run_unit", run_unit)
    _, manifest = stages.run_all(other)

    assert not (tmp_path / victim.key).exists()
    assert manifest["units"][victim.key] == {"status": "failed", "error": "no luck"}
    failed = {k for k, u in manifest["units"].items() if u["status"] == "failed"}
    assert failed == {victim.key} | {u.key for u in plan.units if {victim.key, *failed} & set(u.depends_on)}
    assert manifest["units"]["signal/BBB/summary_result.json"]["status"] == "complete"


def test_a_unit_without_its_inputs_says_which_file_is_missing(base: tuple, tmp_path: Path) -> None:
    made, plan, _ = base
    unit = next(u for u in plan.units if u.stage == "signal_evaluation")

    with pytest.raises(ArtifactError, match="does not exist"):
        stages.run_unit(unit, replace(made, artifacts_root=tmp_path))


def test_no_feasible_trial_is_cash_and_not_a_failure(base: tuple, tmp_path: Path) -> None:
    made, _, _ = base
    other = replace(made, artifacts_root=tmp_path, min_trades=10_000, symbols=("AAA",))
    plan, manifest = stages.run_all(other)

    assert {u["status"] for k, u in manifest["units"].items() if "optimization" in k} == {"no_feasible_trial"}
    searched = artifacts.read(plan.units[0].path(other))
    assert searched["optimization"]["best_params"] is None
    assert searched["test"]["metrics"]["total_return"] == 0.0 and searched["test"]["metrics"]["num_trades"] == 0
    summary = artifacts.read(artifacts.symbol_summary_path(tmp_path, "AAA"))
    assert not summary["is_viable"] and summary["viability_score"] == 0.0
    portfolio = artifacts.read(artifacts.portfolio_summary_path(tmp_path, ("AAA",)))
    assert portfolio["oos"]["total_return"] == 0.0 and not portfolio["is_viable"]


def test_reads_of_the_holdout_are_counted_across_runs(base: tuple, tmp_path: Path) -> None:
    made, _, _ = base
    other = replace(made, artifacts_root=tmp_path / "a")
    shutil.copytree(made.artifacts_root, other.artifacts_root)

    assert [stages.read_holdout(other), stages.read_holdout(other)] == [1, 2]
    _, manifest = stages.run_all(other)
    assert manifest["holdout_reads"] == 2


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"symbols": ("AAA", "BB")}, UnknownName, "unknown symbol 'BB'; did you mean 'BBB'"),
        ({"strategies": ("RSIStrategi",)}, UnknownName, "did you mean 'RSIStrategy'"),
        ({"portfolios": ("EqualWeight",)}, UnknownName, "did you mean 'EqualWeightPortfolioStrategy'"),
        ({"start": date(2010, 1, 1), "end": date(2009, 1, 1)}, BadInput, "empty"),
        ({"windows": WindowConfig()}, InsufficientHistory, "no walk-forward window fits"),
        ({"symbols": ("NEW",), "start": START, "end": date(2010, 12, 1)}, InsufficientHistory, "none of NEW has bars"),
        ({"symbols": ()}, BadInput, "at least one symbol"),
        ({"symbols": ("AAA", "AAA")}, BadInput, "twice"),
        ({"data": "/nowhere"}, BadInput, "no market data"),
        ({"trials": 0}, BadInput, "trials"),
    ],
)  # fmt: skip
def test_an_impossible_run_is_refused_before_it_starts(
    base: tuple, tmp_path: Path, more: dict, error: type[Exception], words: str
) -> None:
    made, _, _ = base
    with pytest.raises(error, match=words):
        stages.plan(config(Path(made.data), tmp_path, **more))
    assert list(tmp_path.iterdir()) == []


def test_warm_up_reaches_back_before_the_interval_and_signals_start_flat(base: tuple) -> None:
    """A window's test signals are those of one strategy run from the warm-up before its train range."""
    made, plan, _ = base
    forget_data()
    data, window = series(made.data, "AAA", made.timeframe), plan.windows[2]
    low, high = data.span(window.test_start_ns, window.test_end_ns)
    params = {
        "entry_conditions": [{"RSIEntry": {"period": 5, "oversold": 40}}],
        "exit_conditions": [{"RSIExit": {"period": 5, "overbought": 60}}],
        "trend_conditions": [], "filter_conditions": [], "stateful_logic": None,
    }  # fmt: skip

    found = signal_stages.strategy_signal(made, data, "RSIStrategy", params, low, high, window.train_start_ns)

    strategy = signal_stages.build("RSIStrategy", params, made.timeframe)
    first = max(0, data.span(window.train_start_ns, 2**62)[0] - signal_stages.warmup_bars(made, "RSIStrategy"))
    _, state = strategy.update(data.bars.slice(first, low), strategy.init())
    expected, _ = strategy.update(data.bars.slice(low, high), strategy.reset_position(state))
    assert found.tolist() == expected.tolist() and np.abs(found).sum() > 0
