"""The three signal stages: search in the train range and judge in the test range, evaluate what was out of sample, and
choose per symbol.

Nothing of a window's search depends on a bar at or after the end of its train range.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from algo_royale.features import FeatureCache
from algo_royale.market import FloatArray, SignalArray
from algo_royale.research import artifacts, metrics, overfitting, passport, viability
from algo_royale.research.backtest import Backtest, cost_array, run_arrays
from algo_royale.research.metrics import Metrics, TradeResults
from algo_royale.research.optimise import Evaluate, Evaluation, Point, Study, optimise, over_folds, trial_seed
from algo_royale.research.plan import (
    Input,
    ResearchConfig,
    Series,
    Unit,
    optimisation_key,
    series,
    unit_recipe,
    warmup_bars,
)
from algo_royale.research.viability import Dimension
from algo_royale.research.windows import Window
from algo_royale.strategies import build, resolve, space, strategy_id

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a unit computed: its artifact, and arrays to keep beside it."""

    document: dict[str, Any]
    arrays: Arrays | None = None


def meta(unit: Unit, config: ResearchConfig, n_trials: int) -> dict[str, Any]:
    """What every artifact says of its making; commit adds when and how long."""
    directions = config.objective.directions
    single = len(directions) == 1
    return {
        **({"symbol": unit.symbol} if unit.symbol else {"symbols": list(config.symbols)}),
        "timeframe": config.timeframe.value,
        "objective": config.objective.names[0] if single else list(config.objective.names),
        "direction": directions[0] if single else list(directions),
        "n_trials": n_trials,
        "seed": config.seed,
        "code_version": artifacts.code_version(),
        "config_hash": unit.config_hash,
        "recipe": unit_recipe(unit, config),
        **({"strategy_version": version} if (version := config.versions.get(unit.strategy or "")) else {}),
        "data_fingerprint": unit.data_fingerprint,
    }


def window_block(config: ResearchConfig, window: Window, warmup: int) -> dict[str, Any]:
    """The `window` of an artifact."""
    cut = config.window_config
    return {
        "window_id": window.window_id, "start_date": window.train_start, "end_date": window.test_end,
        "train_start": window.train_start, "train_end": window.train_end,
        "test_start": window.test_start, "test_end": window.test_end,
        "mode": cut.mode, "unit": cut.unit, "embargo": cut.embargo, "warmup_bars": warmup,
    }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A backtest over one interval with its session returns."""

    backtest: Backtest
    returns: FloatArray
    metrics: Metrics


def judge_interval(
    config: ResearchConfig, data: Series, signal: SignalArray, low: int, high: int, *, full: bool = True
) -> Judged:
    """Backtest bars [low, high) with their signals; only what an objective needs unless `full`."""
    bars, last = data.bars, data.last_bars(low, high)
    costs = cost_array(config.costs)
    done = run_arrays(bars.open[low:high], bars.close[low:high], signal, costs, config.start_equity)
    returns = metrics.session_returns(done.equity, last, config.start_equity)
    if not full:
        total = float(done.equity[-1]) / config.start_equity - 1.0
        growth = metrics.cagr(total, len(returns))
        deepest, _ = metrics.drawdown(done.equity, config.start_equity)
        values: Metrics = {
            "total_return": total,
            "sharpe_ratio": metrics.sharpe_ratio(returns, rf=config.rf),
            "sortino_ratio": metrics.sortino_ratio(returns, rf=config.rf),
            "calmar_ratio": metrics.calmar_ratio(growth, deepest),
        }
        return Judged(done, returns, values)
    found = metrics.compute(
        equity=done.equity, last_bar=last, start_equity=config.start_equity,
        trades=TradeResults(done.trades.net_pnl, done.trades.returns), exposure=done.exposure, notional=done.notional,
        benchmark=buy_and_hold(data, low, high), rf=config.rf,
    )  # fmt: skip
    return Judged(done, returns, found)


def quick_judge(config: ResearchConfig, data: Series, low: int, high: int) -> Callable[[SignalArray], Evaluation]:
    """As `judge_interval` for the many trials of a search: of the metrics what they are chosen by, and nothing else."""
    open_, close, last = data.bars.open[low:high], data.bars.close[low:high], data.last_bars(low, high)
    costs, start, names = cost_array(config.costs), config.start_equity, config.search.wanted(config.objective)

    def judge(signal: SignalArray) -> Evaluation:
        done = run_arrays(open_, close, signal, costs, start)
        returns = metrics.session_returns(done.equity, last, start)
        found = metrics.chosen(names, done.equity, returns, start, done.trades.net_pnl, done.exposure, rf=config.rf)
        sharpe = metrics.session_sharpe(returns)
        return Evaluation(
            config.objective.score(found), len(done.trades), returns, np.nan if sharpe is None else sharpe,
            config.search.violations(found),
        )  # fmt: skip

    return judge


def run_study(
    unit: Unit, config: ResearchConfig, dimensions: Sequence[Dimension], evaluate: Evaluate, *, n_trials: int,
    seed_of: tuple[int, str, str, str, str],
) -> Study:  # fmt: skip
    """The unit's study, gone on with where its record ends if the configuration keeps one."""
    record = None
    if config.search.storage != "memory":
        from algo_royale.research.optuna_study import StudyRecord, open_storage

        name = f"{unit.key} {unit.config_hash} {unit.data_fingerprint} {artifacts.code_version()}"
        storage = open_storage(config.search.storage, unit.path(config).parent)
        record = StudyRecord(storage, name, dimensions, config.objective)
    return optimise(
        dimensions, evaluate, n_trials=n_trials, next_seed=lambda done: trial_seed(*seed_of, done),
        objective=config.objective, min_trades=config.min_trades, search=config.search, record=record,
    )  # fmt: skip


def buy_and_hold(data: Series, low: int, high: int) -> FloatArray:
    """Session returns of holding the symbol from the first open, without costs."""
    if high == low:
        return np.empty(0)
    return metrics.session_returns(data.bars.close[low:high], data.last_bars(low, high), float(data.bars.open[low]))


def strategy_signal(
    config: ResearchConfig, data: Series, name: str, params: Mapping[str, Any], low: int, high: int, origin_ns: int
) -> SignalArray:
    """Signals on bars [low, high), flat at `low`; features start the strategy's warm-up before the bar at `origin_ns`."""
    first, _ = data.span(origin_ns, origin_ns)
    origin = max(0, first - warmup_bars(config, name))
    run = build(name, params, config.timeframe, data.bars.extra).run(data.bars.slice(origin, high), start=low - origin)
    return run.signal[low - origin :]


def optimise_signal(unit: Unit, config: ResearchConfig) -> Result:
    """Search parameters on the train range; backtest the best on the test range."""
    assert unit.symbol and unit.strategy and unit.window
    data, window, name = series(config.data, unit.symbol, config.timeframe), unit.window, unit.strategy
    low, high = data.span(window.train_start_ns, window.train_end_ns)
    origin = max(0, low - warmup_bars(config, name))
    train = data.bars.slice(origin, high)
    cache = FeatureCache(train)

    edges = data.session_edges(low, high, config.search.folds)
    judges = [quick_judge(config, data, *edges[i : i + 2]) for i in range(config.search.folds)]

    def signal_of(point: Point, start: int) -> SignalArray:
        strategy = build(name, resolve(name, point, config.timeframe), config.timeframe)
        return strategy.run(train, start=start - origin, cache=cache).signal

    def evaluate(point: Point, fold: int) -> Evaluation:
        start, end = edges[fold : fold + 2]
        return judges[fold](signal_of(point, start)[start - origin : end - origin])

    dimensions = space(name, config.timeframe)
    study = run_study(
        unit, config, dimensions, evaluate, n_trials=config.trials,
        seed_of=(config.seed, "signal", unit.symbol, name, window.window_id),
    )  # fmt: skip
    best = None
    if study.best:
        best = judge_interval(config, data, signal_of(study.best.point, low)[low - origin :], low, high)
    judge = over_folds(evaluate, config.search, config.objective)
    around = passport.plateau(dimensions, study, judge, config.objective, config.min_trades)
    return _optimised(unit, config, data, study, best, around)


def _optimised(
    unit: Unit, config: ResearchConfig, data: Series, study: Study, best: Judged | None, around: dict[str, Any] | None
) -> Result:
    assert unit.symbol and unit.strategy and unit.window
    window, name = unit.window, unit.strategy
    low, high = data.span(window.test_start_ns, window.test_end_ns)
    params = resolve(name, study.best.point, config.timeframe) if study.best else None
    if params is None:
        signal = np.zeros(high - low, np.int8)
    else:
        signal = strategy_signal(config, data, name, params, low, high, window.train_start_ns)
    test = judge_interval(config, data, signal, low, high)
    dear = judge_interval(dearer(config), data, signal, low, high, full=False)
    document = {
        "schema_version": artifacts.SCHEMA_VERSION,
        "kind": "signal_optimization",
        "status": "complete" if study.best else "no_feasible_trial",
        "strategy": name,
        "symbol": unit.symbol,
        "optimization": {
            **search_block(unit, config, study, params, best.metrics if best else None, around),
            "strategy_id": strategy_id(name, params, config.timeframe) if params is not None else None,
        },
        "test": {"metrics": test.metrics | honest_part(test.returns, config), "double_costs": dear_block(dear.metrics)},
        "window": window_block(config, window, warmup_bars(config, name)),
    }
    trades = test.backtest.trades
    arrays = study_arrays(space(name, config.timeframe), study) | {
        "test_returns": test.returns, "test_trade_pnl": trades.net_pnl, "test_trade_returns": trades.returns,
        "test_returns_double_costs": dear.returns,
    }  # fmt: skip
    return Result(document, arrays)


def dearer(config: ResearchConfig) -> ResearchConfig:
    """The same research where every execution costs twice as much."""
    rules = config.account_rules
    return replace(
        config, costs=config.costs.times(passport.COST_MULTIPLE),
        rules=replace(rules, costs=rules.costs.times(passport.COST_MULTIPLE)),
    )  # fmt: skip


def dear_block(found: Metrics) -> Metrics:
    """What a test range made of doubled costs."""
    return {name: found[name] for name in ("total_return", "sharpe_ratio")}


def honest_part(returns: FloatArray, config: ResearchConfig) -> Metrics:
    """What a test range adds to its metrics: the odds, not deflated, since nothing was chosen there."""
    odds = metrics.luck(returns, rf=config.rf)
    return {"psr": odds["psr"], "min_track_record": odds["min_track_record"]}


def search_block(
    unit: Unit, config: ResearchConfig, study: Study, params: Mapping[str, Any] | None, best: Metrics | None,
    around: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """The `optimization` of an artifact, with the in-sample odds deflated by the study's own trials."""
    values = study.best.evaluation.values if study.best else None
    sharpes = [t.evaluation.sharpe for t in study.trials if np.isfinite(t.evaluation.sharpe)]
    odds: dict[str, Any] | None = None
    if study.best:
        odds = dict(metrics.luck(study.best.evaluation.returns, sharpes, rf=config.rf))
        matrix = np.column_stack([t.evaluation.returns for t in study.trials])
        found = overfitting.pbo(matrix)
        odds |= {
            "n_trials_effective": len(sharpes),
            "pbo": found.probability if found else None,
            "pbo_blocks": found.blocks if found else None,
        }
    return {
        "strategy": unit.strategy,
        "best_value": None if values is None else values[0] if len(values) == 1 else list(values),
        "best_trial": study.best.number if study.best else None,
        "best_params": params,
        "metrics": best,
        "overfitting": odds,
        "trials": passport.search_size(study),
        "plateau": around,
        "meta": meta(unit, config, len(study.trials) + len(study.attempts))
        | {
            "multi_objective": len(config.objective.names) > 1,
            "n_feasible": study.n_feasible,
            "n_pruned": len(study.attempts) - len(study.failures),
            "n_failed": len(study.failures),
            "sampler": config.search.sampler,
        },
    }


def study_arrays(dimensions: Sequence[Dimension], study: Study) -> Arrays:
    """What is kept of a study: points (a choice as its index), values, trades, Sharpe ratios, and the session returns of
    its distinct points (`returns[which[i]]` are those of trial i). `parts` are the objective after each fold.

    Trials that did not complete are `other_*`: those that failed have the last line of their error, pruned ones none.
    """

    def coded_point(point: Point) -> list[float]:
        return [d.choices.index(point[d.name]) if d.kind == "categorical" else point[d.name] for d in dimensions]

    coded = [coded_point(t.point) for t in study.trials]
    others = study.attempts
    seen: dict[tuple[float, ...], int] = {}
    which = [seen.setdefault(tuple(row), len(seen)) for row in coded]
    first = [which.index(i) for i in range(len(seen))]
    n_values = len(study.trials[0].evaluation.values or (0,)) if study.trials else 1
    values = [t.evaluation.values or (np.nan,) * n_values for t in study.trials]
    return {
        "points": np.array(coded, np.float64).reshape(len(study.trials), len(dimensions)),
        "numbers": np.array([t.number for t in study.trials], np.int64),
        "values": np.array(values, np.float64),
        "num_trades": np.array([t.evaluation.num_trades for t in study.trials], np.int64),
        "sharpes": np.array([t.evaluation.sharpe for t in study.trials], np.float64),
        "which": np.array(which, np.int64),
        "returns": np.array([study.trials[i].evaluation.returns for i in first], np.float64),
        "best_point": np.array(coded[study.trials.index(study.best)] if study.best else [], np.float64),
        "parts": np.array([t.parts for t in study.trials], np.float64),
        "other_points": np.array([coded_point(a.point) for a in others]).reshape(len(others), len(dimensions)),
        "other_numbers": np.array([a.number for a in others], np.int64),
        "other_errors": np.array([a.error.strip().rpartition("\n")[2] for a in others], np.str_),
        "other_parts": np.array([a.parts[-1] if a.parts else np.nan for a in others], np.float64),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """A committed optimisation: its document and the arrays that evaluation needs."""

    document: dict[str, Any]
    arrays: Arrays

    @property
    def params(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.document["optimization"]["best_params"]
        return found

    def point(self, dimensions: Sequence[Dimension]) -> Point | None:
        """The chosen point of the search space."""
        if self.params is None:
            return None
        return {
            d.name: d.choices[int(x)] if d.kind == "categorical" else int(x) if d.kind == "int" else float(x)
            for d, x in zip(dimensions, self.arrays["best_point"], strict=True)
        }


def load_searched(config: ResearchConfig, key: str) -> Searched:
    """A committed optimisation by its unit's key, reading only what later stages use."""
    return _load_searched(config.artifacts_root / key)


def _load_searched(path: Path) -> Searched:
    document = artifacts.read(path)
    sidecar = document["sidecar"]
    wanted = ("best_point", "test_returns", "test_trade_pnl", "test_trade_returns", "test_returns_double_costs")
    return Searched(document, artifacts.read_sidecar(path.with_name(sidecar["file"]), sidecar["sha256"], wanted))


def input_searched(config: ResearchConfig, item: Input) -> Searched:
    return load_searched(config, optimisation_key(*item))


def evaluate_windows(
    config: ResearchConfig,
    own: Sequence[Searched],
    candidates: Sequence[Sequence[Searched]],
    dimensions: Sequence[Dimension],
) -> dict[str, Any]:
    """Judge one strategy on its test windows alone; `candidates` are all strategies (this one too) it was compared with.

    In-sample metrics are reported and, unless a check of the configuration names one, never judged.
    """
    oos = [s.document["test"]["metrics"] for s in own]
    in_sample = [m for s in own if (m := s.document["optimization"]["metrics"]) is not None]
    values, stitched = stitched_values(
        config, [test_part(s) for s in own], [[test_part(s) for s in c] for c in candidates]
    )
    summary, before = metrics.summarise(oos), metrics.summarise(in_sample)
    lost = viability.degradation(before, summary)
    block = _passport(config, own, candidates, stitched, lost)
    verdict = viability.judge(block | values, config.viability)
    points = [(s, p) for s in own if (p := s.point(dimensions)) is not None]
    common = viability.most_common(dimensions, [p for _, p in points])
    return {
        "metric_type": "oos",
        "n_windows": len(own),
        "is_viable": verdict.is_viable,
        "viability_score": verdict.score,
        "checks": verdict.checks,
        "summary": summary,
        "in_sample": before,
        "degradation": lost,
        "oos": stitched,
        "passport": block,
        "best_params": own[-1].params,
        "most_common_best_params": None if common is None else points[common][0].params,
        "param_consistency": viability.param_consistency(dimensions, [p for _, p in points]) if points else None,
        "window_params": [
            {
                "window_id": s.document["window"]["window_id"],
                "status": s.document["status"],
                "params": s.params,
            }
            for s in own
        ],
    }


def _passport(
    config: ResearchConfig, own: Sequence[Searched], candidates: Sequence[Sequence[Searched]], oos: Metrics,
    lost: Mapping[str, float | None],
) -> Metrics:  # fmt: skip
    def end_to_end(parts: Sequence[Searched], name: str) -> FloatArray:
        return metrics.stitch([s.arrays[name] for s in parts], 1.0)[0]

    searches = [s.document["optimization"] for s in own]
    odds = [s["overfitting"]["pbo"] for s in searches if s["overfitting"] and s["overfitting"]["pbo"] is not None]
    compared = [
        passport.Candidate(
            returns=end_to_end(parts, "test_returns"),
            recorded=sum(t["recorded"] + t["pruned"] for t in (s.document["optimization"]["trials"] for s in parts)),
            independent=sum(s.document["optimization"]["trials"]["independent"] for s in parts),
        )
        for parts in candidates
    ]
    return passport.passport(
        oos, compared, end_to_end(own, "test_returns"), end_to_end(own, "test_returns_double_costs"), rf=config.rf,
        lost=lost, search_pbo=odds, plateaus=[s["plateau"]["share"] for s in searches if s["plateau"]],
    )  # fmt: skip


Part = tuple[FloatArray, TradeResults]


def test_part(searched: Searched) -> Part:
    a = searched.arrays
    return a["test_returns"], TradeResults(a["test_trade_pnl"], a["test_trade_returns"])


def stitched_values(
    config: ResearchConfig, own: Sequence[Part], candidates: Sequence[Sequence[Part]]
) -> tuple[Metrics, Metrics]:
    """(values to judge, `oos` of the artifact) of test windows put end to end, cash where nothing was chosen."""
    returns, equity = metrics.stitch([part[0] for part in own], config.start_equity)
    pnl = np.concatenate([part[1].net_pnl for part in own])
    sharpes = [
        sharpe
        for parts in candidates
        if (sharpe := metrics.session_sharpe(metrics.stitch([p[0] for p in parts], 1.0)[0])) is not None
    ]
    total = float(equity[-1]) / config.start_equity - 1.0 if len(equity) else 0.0
    odds = metrics.luck(returns, sharpes, rf=config.rf)
    oos: Metrics = {
        "total_return": total,
        "cagr": metrics.cagr(total, len(returns)),
        "sharpe_ratio": metrics.sharpe_ratio(returns, rf=config.rf),
        "max_drawdown": metrics.drawdown(equity, config.start_equity)[0],
        "win_rate": float((pnl > 0).mean()) if len(pnl) else None,
        "num_trades": len(pnl),
        "n_sessions": len(returns),
        "psr": odds["psr"],
        "deflated_sharpe": odds["deflated_sharpe"],
        "sr_benchmark": odds["sr_benchmark"],
        "min_track_record": odds["min_track_record"],
        "n_candidates": len(candidates),
    }
    per_window = [float(np.prod(1.0 + part[0])) - 1.0 for part in own]
    return oos | {"total_return": float(np.mean(per_window))}, oos


def evaluate_signal(unit: Unit, config: ResearchConfig) -> Result:
    """A strategy of a symbol over all its test windows."""
    assert unit.symbol and unit.strategy
    grouped = {
        name: [input_searched(config, i) for i in unit.inputs if i.strategy == name] for name in config.strategies
    }
    own = grouped[unit.strategy]
    trials = sum(s.document["optimization"]["meta"]["n_trials"] for s in own)
    body = evaluate_windows(config, own, list(grouped.values()), space(unit.strategy, config.timeframe))
    return Result(
        {
            "schema_version": artifacts.SCHEMA_VERSION, "kind": "signal_evaluation",
            "strategy": unit.strategy, "symbol": unit.symbol, **body, "meta": meta(unit, config, trials),
        }
    )  # fmt: skip


SUMMARY_KEYS = (
    "strategy", "metric_type", "n_windows", "is_viable", "viability_score", "param_consistency", "best_params",
    "most_common_best_params", "summary", "in_sample", "degradation", "oos", "passport", "checks", "window_params",
)  # fmt: skip


def summarise_symbol(unit: Unit, config: ResearchConfig) -> Result:
    """The best strategy of a symbol, and what each candidate's vote weighs."""
    assert unit.symbol
    evaluations = [
        artifacts.read(artifacts.evaluation_path(config.artifacts_root, unit.symbol, name), "signal_evaluation")
        for name in config.strategies
    ]
    ranked = viability.best_first(evaluations)
    voters = {
        e["strategy"]: e["viability_score"] for e in evaluations if e["is_viable"] and e["best_params"] is not None
    }
    weights = viability.vote_weights(voters)
    candidates = [
        {
            "strategy": e["strategy"],
            "strategy_id": _id(config, e),
            "is_viable": e["is_viable"],
            "viability_score": e["viability_score"],
            "weight": weights.get(e["strategy"], 0.0),
        }
        for e in ranked
    ]
    chosen = ranked[0]
    return Result(
        {
            "schema_version": artifacts.SCHEMA_VERSION, "kind": "signal_summary", "symbol": unit.symbol,
            **{key: chosen[key] for key in SUMMARY_KEYS}, "n_candidates": len(candidates), "candidates": candidates,
            "meta": meta(unit, config, sum(e["meta"]["n_trials"] for e in evaluations)),
        }
    )  # fmt: skip


def _id(config: ResearchConfig, evaluation: Mapping[str, Any]) -> str | None:
    params = evaluation["best_params"]
    return None if params is None else strategy_id(evaluation["strategy"], params, config.timeframe)


def sidecar_entry(content: bytes) -> dict[str, str]:
    """How an artifact names the arrays beside it."""
    return {"file": artifacts.SIDECAR, "sha256": hashlib.sha256(content).hexdigest()}
