"""The portfolio stages: search allocator parameters on signals chosen as of the window, judge them out of sample.

As-of rule: for window k the signals come from window k's train range, and who may vote from the test sessions of earlier
windows cut at B_k, the end of that train range. Nothing at or after B_k is read but the test itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from algo_royale.engine import EngineConfig
from algo_royale.errors import InsufficientHistory
from algo_royale.market import FloatArray, IntArray
from algo_royale.portfolio import weights as portfolio_weights
from algo_royale.research import artifacts, metrics, passport, viability
from algo_royale.research.metrics import Metrics, TradeResults
from algo_royale.research.optimise import Evaluation, Point, Study, over_folds
from algo_royale.research.panel import Panel, PanelFill, PanelResult, panel, simulate_panel
from algo_royale.research.plan import Input, ResearchConfig, Unit, series, warmup_bars
from algo_royale.research.signal_stages import (
    SUMMARY_KEYS,
    Part,
    Result,
    Searched,
    dear_block,
    dearer,
    evaluate_windows,
    honest_part,
    input_searched,
    judge_interval,
    load_searched,
    meta,
    run_study,
    search_block,
    stitched_values,
    strategy_signal,
    study_arrays,
    test_part,
    window_block,
)
from algo_royale.research.simulate import SymbolInput, prepare
from algo_royale.research.windows import Window
from algo_royale.sessions import calendar, new_york_ns
from algo_royale.strategies import build, strategy_id
from algo_royale.strategies.combined import CombinedSignal
from algo_royale.strategies.space import ParamSpec

OTHER_COSTS = (0, 3)  # beside one and two times the costs: what a report shows of how much a result leans on them


@dataclass(frozen=True, slots=True)
class Voter:
    """A strategy that votes on a symbol: its name, weight, arguments as resolved for the window, and viability as of it."""

    strategy: str
    weight: float
    params: Mapping[str, Any]
    score: float


@dataclass(frozen=True, slots=True)
class Selection:
    """Who votes on a symbol in a window, and by which rule they were chosen."""

    rule: str
    voters: tuple[Voter, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """A market laid out for simulation (None: nobody votes) with what its metrics need: sessions by label, and buy-and-hold returns."""

    panel: Panel | None
    last_bar: IntArray
    benchmark: FloatArray
    viability: Mapping[str, float]


def select_as_of(config: ResearchConfig, inputs: Sequence[Input], window: Window) -> dict[str, Selection]:
    """Per symbol with data for the window: who votes in it."""
    boundary = window.train_end_ns
    out = {}
    for symbol in sorted({i.symbol for i in inputs}):
        own = [i for i in inputs if i.symbol == symbol]
        searched = {i: input_searched(config, i) for i in own}
        current = {i.strategy: searched[i] for i in own if i.window == window}
        earlier = [i for i in own if i.window.test_start_ns < boundary and i.window != window]
        if not earlier:
            out[symbol] = _in_sample(config, current)
            continue
        parts = {
            name: [cut_at(config, i, searched[i], boundary) for i in earlier if i.strategy == name] for name in current
        }
        scores = {}
        for name in current:
            values, _ = stitched_values(config, parts[name], list(parts.values()))
            score = viability.judge(values, config.viability.among(values)).score
            if score >= config.viability.threshold and current[name].params is not None:
                scores[name] = score
        shares = viability.vote_weights(scores)
        voters = tuple(Voter(name, shares[name], current[name].params or {}, scores[name]) for name in shares)
        out[symbol] = Selection("as_of_oos", voters) if voters else Selection("not_viable")
    return out


def _in_sample(config: ResearchConfig, current: Mapping[str, Searched]) -> Selection:
    """The one strategy with the best in-sample objective (the first one, if there are several; ties by name)."""
    sign = 1.0 if config.objective.directions[0] == "maximize" else -1.0
    best: tuple[float, str] | None = None
    for name in sorted(current):
        value = current[name].document["optimization"]["best_value"]
        if value is None:
            continue
        value = sign * (value[0] if isinstance(value, list) else value)
        if best is None or value > best[0]:
            best = (value, name)
    if best is None:
        return Selection("not_viable")
    return Selection("in_sample_fallback", (Voter(best[1], 1.0, current[best[1]].params or {}, 1.0),))


def cut_at(config: ResearchConfig, item: Input, searched: Searched, boundary_ns: int) -> Part:
    """A test window's sessions before the boundary; a position open there is closed there."""
    window = item.window
    if window.test_end_ns <= boundary_ns:
        return test_part(searched)
    data = series(config.data, item.symbol, config.timeframe)
    low, high = data.span(window.test_start_ns, boundary_ns)
    if searched.params is None:
        signal = np.zeros(high - low, np.int8)
    else:
        signal = strategy_signal(config, data, item.strategy, searched.params, low, high, window.train_start_ns)
    done = judge_interval(config, data, signal, low, high)
    return done.returns, TradeResults(done.backtest.trades.net_pnl, done.backtest.trades.returns)


@lru_cache(maxsize=4)
def _selection(
    config: ResearchConfig, unit_inputs: tuple[Input, ...], window: Window, _data: str
) -> dict[str, Selection]:
    return select_as_of(config, unit_inputs, window)


class Span(NamedTuple):
    """Sessions from `first` to `last`, both inclusive, and the bars that start in [start_ns, end_ns)."""

    first: date
    last: date
    start_ns: int
    end_ns: int


def train_span(window: Window) -> Span:
    return Span(window.train_start, window.train_end, window.train_start_ns, window.train_end_ns)


def test_span(window: Window) -> Span:
    return Span(window.test_start, window.test_end, window.test_start_ns, window.test_end_ns)


def fold_spans(span: Span, folds: int) -> list[Span]:
    """The span in equal parts of whole sessions."""
    sessions = calendar().sessions(span.first, span.last)
    if len(sessions) < folds:
        raise InsufficientHistory(f"{len(sessions)} sessions cannot be cut into {folds} folds")
    edges = [len(sessions) * i // folds for i in range(folds + 1)]
    starts = [span.start_ns, *(sessions[at].label_ns for at in edges[1:-1]), span.end_ns]
    return [
        Span(sessions[a].date, sessions[b - 1].date, *between)
        for (a, b), between in zip(pairwise(edges), pairwise(starts), strict=True)
    ]


@lru_cache(maxsize=16)
def _interval(
    config: ResearchConfig, unit_inputs: tuple[Input, ...], window: Window, _data: str, span: Span
) -> Interval:
    """A part of the window; the same for every portfolio strategy, so kept from one to the next."""
    selection = _selection(config, unit_inputs, window, _data)
    inputs, scores = {}, {}
    for symbol, chosen in selection.items():
        if not chosen.voters:
            continue
        data = series(config.data, symbol, config.timeframe)
        first, _ = data.span(window.train_start_ns, window.train_end_ns)
        low, high = data.span(span.start_ns, span.end_ns)
        origin = max(0, first - max(warmup_bars(config), portfolio_weights.LOOKBACK_MAX))
        bars = data.bars.slice(origin, high)
        combined = CombinedSignal([(build(v.strategy, v.params, config.timeframe), v.weight) for v in chosen.voters])
        run = combined.run(bars, start=low - origin)
        inputs[symbol] = SymbolInput(traded=bars, adjusted_close=bars.close, state_in=run.state_in, score=run.score)
        scores[symbol] = max(v.score for v in chosen.voters)
    labels = [session.label_ns for session in calendar().sessions(span.first, span.last)]
    if not inputs:
        return Interval(None, np.arange(len(labels)), equal_hold(config, sorted(selection), labels), scores)
    laid_out = panel(prepare(inputs, span.start_ns, span.end_ns))
    last = np.flatnonzero(np.append(laid_out.day[1:] != laid_out.day[:-1], True))
    traded = [new_york_ns(date.fromisoformat(str(np.datetime64(day, "D")))) for day in laid_out.day[last].tolist()]
    return Interval(laid_out, last, equal_hold(config, sorted(selection), traded), scores)


def equal_hold(config: ResearchConfig, symbols: Sequence[str], labels: Sequence[int]) -> FloatArray:
    """Session returns of holding the symbols from the first open, equal money in each, without costs."""
    if not labels or not symbols:
        return np.zeros(len(labels))
    worth = np.zeros(len(labels))
    for symbol in symbols:
        data = series(config.data, symbol, config.timeframe)
        low, _ = data.span(labels[0], labels[0])
        # Bars up to the end of each session: those before the next session's label (the last one's is a day later).
        ends = np.searchsorted(data.bars.start_ns, [*labels[1:], labels[-1] + 86_400_000_000_000]) - 1
        worth += data.bars.close[np.maximum(ends, low)] / data.bars.open[low]
    return metrics.session_returns(worth, np.arange(len(labels)), float(len(symbols)))


@dataclass(frozen=True, slots=True, eq=False)
class Simulated:
    """A simulation with its session returns; `trades` are round trips per symbol, flat to flat."""

    result: PanelResult | None
    equity: FloatArray
    returns: FloatArray
    trades: TradeResults
    metrics: Metrics


def run_interval(
    config: ResearchConfig, strategy: str, params: Mapping[str, Any], interval: Interval, *, fills: bool = False
) -> Simulated:
    """Simulate an allocator over an interval under research rules; the last equity is after selling everything."""
    n = len(interval.last_bar)
    if interval.panel is None:
        equity = np.full(n, config.start_equity)
        return _simulated(config, interval, None, equity, TradeResults.none(), 0.0, 0.0)
    engine = EngineConfig(
        ledger_id="research", symbols=interval.panel.symbols, strategy=strategy, params=params,
        weights=config.weights, rules=config.account_rules, viability=interval.viability,
    )  # fmt: skip
    result = simulate_panel(interval.panel, engine, config.start_equity, fills=fills)
    equity = result.equity.copy()
    exposure = float((1.0 - result.cash / equity).mean())
    notional = result.notional + result.closed_equity - float(result.cash[-1])
    equity[-1] = result.closed_equity
    trades = TradeResults(result.trades[:, 0], result.trades[:, 1])
    return _simulated(config, interval, result, equity, trades, exposure, notional)


def _simulated(
    config: ResearchConfig, interval: Interval, result: PanelResult | None, equity: FloatArray,
    trades: TradeResults, exposure: float, notional: float,
) -> Simulated:  # fmt: skip
    found = metrics.compute(
        equity=equity, last_bar=interval.last_bar, start_equity=config.start_equity, trades=trades, exposure=exposure,
        notional=notional, benchmark=interval.benchmark, rf=config.rf,
    )  # fmt: skip
    found |= {
        "num_fills": result.num_fills if result else 0,
        "solver_fallbacks": result.solver_fallbacks if result else 0,
    }
    returns = metrics.session_returns(equity, interval.last_bar, config.start_equity)
    return Simulated(result, equity, returns, trades, found)


def _space(config: ResearchConfig, name: str) -> tuple[ParamSpec, ...]:
    return portfolio_weights.space(name, config.weights.bars_per_year)


def optimise_portfolio(unit: Unit, config: ResearchConfig) -> Result:
    """Search an allocator's parameters on the train range; simulate the best on the test range."""
    assert unit.strategy and unit.window
    window, name, data = unit.window, unit.strategy, unit.data_fingerprint
    selection = _selection(config, unit.inputs, window, data)
    dimensions, whole = _space(config, name), train_span(window)
    train = _interval(config, unit.inputs, window, data, whole)
    parts = [train]
    if config.search.folds > 1:
        parts = [_interval(config, unit.inputs, window, data, s) for s in fold_spans(whole, config.search.folds)]

    def evaluate(point: Point, fold: int) -> Evaluation:
        done = run_interval(config, name, point, parts[fold])
        sharpe = metrics.session_sharpe(done.returns)
        return Evaluation(
            config.objective.score(done.metrics), len(done.trades.net_pnl), done.returns,
            np.nan if sharpe is None else sharpe, config.search.violations(done.metrics),
        )  # fmt: skip

    study = Study((), None, ())
    if train.panel is not None:
        study = run_study(
            unit, config, dimensions, evaluate, n_trials=config.portfolio_trials,
            seed_of=(config.seed, "portfolio", artifacts.universe_name(config.symbols), name, window.window_id),
        )  # fmt: skip
    best = run_interval(config, name, study.best.point, train) if study.best else None
    judge = over_folds(evaluate, config.search, config.objective)
    around = passport.plateau(dimensions, study, judge, config.objective, config.min_trades)
    return _optimised(unit, config, selection, study, best, around)


def _optimised(
    unit: Unit, config: ResearchConfig, selection: Mapping[str, Selection], study: Study, best: Simulated | None,
    around: dict[str, Any] | None,
) -> Result:  # fmt: skip
    assert unit.strategy and unit.window
    window = unit.window
    test_interval = _interval(config, unit.inputs, window, unit.data_fingerprint, test_span(window))
    params = (
        portfolio_weights.resolve(unit.strategy, study.best.point, config.weights.bars_per_year) if study.best else None
    )
    if params is None:
        test_interval = Interval(None, np.arange(len(test_interval.last_bar)), test_interval.benchmark, {})
    test = run_interval(config, unit.strategy, params or {}, test_interval, fills=True)
    dear = run_interval(dearer(config), unit.strategy, params or {}, test_interval)
    document = {
        "schema_version": artifacts.SCHEMA_VERSION,
        "kind": "portfolio_optimization",
        "status": "complete" if study.best else "no_feasible_trial",
        "strategy": unit.strategy,
        "symbols": list(config.symbols),
        "symbol_signals": {symbol: _signals(config, chosen) for symbol, chosen in selection.items()},
        "optimization": search_block(unit, config, study, params, best.metrics if best else None, around),
        "test": {
            "params": params,
            "metrics": test.metrics | honest_part(test.returns, config),
            "double_costs": dear_block(dear.metrics),
            "transactions": [_row(i, fill) for i, fill in enumerate(test.result.fills if test.result else (), 1)],
        },
        "window": window_block(config, window, warmup_bars(config)),
    }
    arrays = study_arrays(_space(config, unit.strategy), study) | {
        "test_returns": test.returns, "test_trade_pnl": test.trades.net_pnl, "test_trade_returns": test.trades.returns,
        "test_returns_double_costs": dear.returns,
    }  # fmt: skip
    for multiple in OTHER_COSTS:
        other = run_interval(at_costs(config, multiple), unit.strategy, params or {}, test_interval)
        arrays[f"test_returns_costs_{multiple}"] = other.returns
    return Result(document, arrays)


def at_costs(config: ResearchConfig, multiple: int) -> ResearchConfig:
    """The same research where every execution costs so many times as much."""
    rules = replace(config.account_rules, costs=config.account_rules.costs.times(multiple))
    return replace(config, costs=config.costs.times(multiple), rules=rules)


def _signals(config: ResearchConfig, chosen: Selection) -> dict[str, Any]:
    return {
        "selection": chosen.rule,
        "strategies": [
            {
                "strategy": v.strategy,
                "strategy_id": strategy_id(v.strategy, v.params, config.timeframe),
                "weight": v.weight,
            }
            for v in chosen.voters
        ],
    }


def _row(number: int, fill: PanelFill) -> dict[str, Any]:
    money = (
        "quantity", "price", "notional", "commission", "fees", "slippage_cost", "cash_after", "unsettled_after",
        "position_after",
    )  # fmt: skip
    at = np.datetime64(fill.timestamp, "ns").astype("datetime64[s]")
    return {
        "fill_id": number, "timestamp": f"{at}Z", "symbol": fill.symbol, "action": fill.action,
        **{name: getattr(fill, name) for name in money},
    }  # fmt: skip


def evaluate_portfolio(unit: Unit, config: ResearchConfig) -> Result:
    """A portfolio strategy over all its test windows, deflated by how many were compared."""
    assert unit.strategy
    grouped = {name: [load_searched(config, k) for k in _keys(unit, config, name)] for name in config.portfolios}
    own = grouped[unit.strategy]
    trials = sum(s.document["optimization"]["meta"]["n_trials"] for s in own)
    body = evaluate_windows(config, own, list(grouped.values()), _space(config, unit.strategy))
    return Result(
        {
            "schema_version": artifacts.SCHEMA_VERSION, "kind": "portfolio_evaluation", "strategy": unit.strategy,
            "symbols": list(config.symbols), **body, "meta": meta(unit, config, trials),
        }
    )  # fmt: skip


def _keys(unit: Unit, config: ResearchConfig, name: str) -> list[str]:
    """Keys of a portfolio strategy's optimisations, in time order."""
    folder = artifacts.portfolio_folder(config.symbols, name)
    return [f"{folder}/{window.window_id}/{artifacts.OPTIMIZATION}" for window in unit.windows]


def summarise_portfolio(unit: Unit, config: ResearchConfig) -> Result:
    """The best portfolio strategy; it alone has weight 1, if it is viable."""
    root = config.artifacts_root
    evaluations = [
        artifacts.read(artifacts.portfolio_evaluation_path(root, config.symbols, name), "portfolio_evaluation")
        for name in config.portfolios
    ]
    ranked = viability.best_first(evaluations)
    chosen = ranked[0]
    candidates = [
        {
            "strategy": e["strategy"],
            "is_viable": e["is_viable"],
            "viability_score": e["viability_score"],
            "weight": 1.0 if e is chosen and e["is_viable"] else 0.0,
        }
        for e in ranked
    ]
    return Result(
        {
            "schema_version": artifacts.SCHEMA_VERSION, "kind": "portfolio_summary", "symbols": list(config.symbols),
            "universe": artifacts.universe_name(config.symbols), **{key: chosen[key] for key in SUMMARY_KEYS},
            "n_candidates": len(candidates), "candidates": candidates,
            "meta": meta(unit, config, sum(e["meta"]["n_trials"] for e in evaluations)),
        }
    )  # fmt: skip
