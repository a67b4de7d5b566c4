"""The one look at the range that was held back: the viable plan, as it would be traded, on bars that no choice has seen.

Each look is counted in the manifest before anything is computed. After the first one the range is contaminated: whatever is
changed afterwards was changed by somebody who knows how it ended.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from algo_royale.data.catalog import open_catalog
from algo_royale.errors import ArtifactError, BadInput
from algo_royale.portfolio import weights as portfolio_weights
from algo_royale.research import artifacts, audit, signal_stages, stages
from algo_royale.research.handover import TradingPlan, load_plan
from algo_royale.research.panel import panel
from algo_royale.research.plan import ResearchConfig, forget_data, series, warmup_bars
from algo_royale.research.portfolio_stages import Interval, equal_hold, run_interval
from algo_royale.research.simulate import SymbolInput, prepare
from algo_royale.research.windows import WindowPlan, windows
from algo_royale.sessions import calendar, new_york_date, new_york_ns

COMPARED = ("total_return", "cagr", "sharpe_ratio", "max_drawdown", "win_rate", "num_trades", "n_sessions")


def final(root: Path, *, created_at: str, data: str | None = None, strategy_path: Sequence[str] = ()) -> dict[str, Any]:
    """Judge the plan below `root` on its holdout, count the look, and write `final_result.json`. `data`: where the bars are
    now, if not where the backtest found them.

    Raises ArtifactError if nothing is viable, the bars are others or a file is missing, and BadInput if nothing was held back;
    such a try counts as no look.
    """
    manifest = artifacts.read(root / artifacts.MANIFEST, "run_manifest")
    plan = load_plan(root, strategy_path=strategy_path)
    summary = artifacts.read(artifacts.portfolio_summary_path(root, manifest["symbols"]), "portfolio_summary")
    config = audit.recipe_config(summary, root, data or manifest["settings"]["data"])
    forget_data()
    if open_catalog(config.data).fingerprint(config.symbols, config.timeframe) != manifest["data_fingerprint"]:
        raise ArtifactError(f"the bars of {config.data!r} are not those of this run any more; run run-backtest again")
    if not config.window_config.holdout:
        raise BadInput("nothing was held back: run-backtest had --holdout 0")
    start, end = (date.fromisoformat(manifest[name]) for name in ("start", "end"))
    cut = windows(calendar(), config.window_config, config.timeframe, start=start, end=end)
    reads = stages.read_holdout(config)
    with np.errstate(all="ignore"):
        document = _judged(config, plan, cut) | {
            "schema_version": artifacts.SCHEMA_VERSION, "kind": "final_result", "strategy": plan.portfolio,
            "symbols": list(plan.names), "out_of_sample": {name: summary["oos"][name] for name in COMPARED},
            "holdout_reads": reads, "contaminated": reads > 1,
            "meta": {
                "created_at": created_at, "code_version": artifacts.code_version(), "researched_by": manifest["code_version"],
                "data_fingerprint": manifest["data_fingerprint"],
            },
        }  # fmt: skip
    artifacts.write(root / artifacts.FINAL, artifacts.dumps(document))
    found: dict[str, Any] = artifacts.plain(document)
    return found


def _judged(config: ResearchConfig, plan: TradingPlan, cut: WindowPlan) -> dict[str, Any]:
    """What the plan's symbols, each by itself, and its portfolio did in the holdout."""
    interval, inputs = _interval(config, plan, cut)
    done = run_interval(config, plan.portfolio, plan.portfolio_params, interval)
    return {
        "holdout": {"start": cut.holdout_start, "end": _last_session(inputs), "n_sessions": len(done.returns)},
        "portfolio": {
            "metrics": done.metrics | signal_stages.honest_part(done.returns, config),
            "benchmark_return": float(np.prod(1.0 + interval.benchmark)) - 1.0,
        },
        "signals": {name: _alone(config, plan, name, cut) for name in inputs},
        "silent": {name: "no bars in the held-back range" for name in plan.names if name not in inputs},
    }


def _alone(config: ResearchConfig, plan: TradingPlan, symbol: str, cut: WindowPlan) -> dict[str, Any]:
    """The symbol's strongest voter, all in, as its own evaluation judged it."""
    member = max(next(s for s in plan.symbols if s.symbol == symbol).members, key=lambda m: m.weight)
    data = series(config.data, symbol, config.timeframe)
    low, high = data.span(cut.holdout_start_ns, cut.end_ns)
    origin_ns = cut.windows[-1].train_start_ns
    signal = signal_stages.strategy_signal(config, data, member.strategy, member.params, low, high, origin_ns)
    done = signal_stages.judge_interval(config, data, signal, low, high)
    held = signal_stages.buy_and_hold(data, low, high)
    return {
        "strategy": member.strategy, "metrics": done.metrics | signal_stages.honest_part(done.returns, config),
        "benchmark_return": float(np.prod(1.0 + held)) - 1.0,
    }  # fmt: skip


def _interval(config: ResearchConfig, plan: TradingPlan, cut: WindowPlan) -> tuple[Interval, Mapping[str, SymbolInput]]:
    """The holdout laid out: features start where those of the last window do, positions are flat at its first bar."""
    inputs = {}
    for symbol in plan.names:
        data = series(config.data, symbol, config.timeframe)
        low, high = data.span(cut.holdout_start_ns, cut.end_ns)
        if low == high:
            continue
        first, _ = data.span(cut.windows[-1].train_start_ns, cut.end_ns)
        origin = max(0, first - max(warmup_bars(config), portfolio_weights.LOOKBACK_MAX))
        bars = data.bars.slice(origin, high)
        run = plan.combined(symbol).run(bars, start=low - origin)
        inputs[symbol] = SymbolInput(traded=bars, adjusted_close=bars.close, state_in=run.state_in, score=run.score)
    if not inputs:
        raise ArtifactError(f"no symbol of the plan has bars from {cut.holdout_start} on")
    laid_out = panel(prepare(inputs, cut.holdout_start_ns, cut.end_ns))
    last = np.flatnonzero(np.append(laid_out.day[1:] != laid_out.day[:-1], True))
    days = [new_york_ns(date.fromisoformat(str(np.datetime64(day, "D")))) for day in laid_out.day[last].tolist()]
    scores = {s.symbol: s.viability for s in plan.symbols if s.symbol in inputs}
    return Interval(laid_out, last, equal_hold(config, sorted(inputs), days), scores), inputs


def _last_session(inputs: Mapping[str, SymbolInput]) -> date:
    """The last session with a bar of the plan's symbols."""
    return max(new_york_date(int(one.traded.start_ns[-1])) for one in inputs.values())
