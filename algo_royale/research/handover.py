"""From research to trading: what the artifacts found viable, as one immutable plan that both parity sides read."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from algo_royale.data.adjust import forward_adjusted
from algo_royale.data.catalog import Catalog
from algo_royale.engine import EngineConfig
from algo_royale.errors import AlgoRoyaleError, ArtifactError, BadInput, InsufficientHistory
from algo_royale.market import Timeframe
from algo_royale.portfolio.sizing import TRADER_RULES, AccountRules
from algo_royale.portfolio.weights import WeightConfig, allocate, lookback
from algo_royale.research import artifacts
from algo_royale.research.checks import rough_bars
from algo_royale.research.simulate import SimulationResult, SymbolInput, prepare, simulate
from algo_royale.risk import RiskLimits
from algo_royale.sessions import calendar, new_york_ns, warmup_session
from algo_royale.strategies import build, loading, strategy_id
from algo_royale.strategies.combined import CombinedSignal


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One viable strategy of a symbol, with the weight of its vote."""

    strategy: str
    strategy_id: str
    weight: float
    params: dict[str, Any]
    version: str = ""  # of a user's own code


class SymbolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A symbol that may be traded, and by what."""

    symbol: str
    viability: float
    members: tuple[Member, ...]


class TradingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a trader takes over from a backtest. `last_session` is the last day that the research has judged on,
    `data_end` the last day its data reach to."""

    timeframe: str
    universe: str
    symbols: tuple[SymbolPlan, ...]
    portfolio: str
    portfolio_params: dict[str, Any]
    warmup_bars: int
    last_session: str
    data_end: str = ""
    skipped: dict[str, str] = {}
    strategy_path: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(plan.symbol for plan in self.symbols)

    def refuse_columns(self) -> None:
        """Raise BadInput for the first strategy that reads a column of the data which no feed has."""
        for name in self.names:
            for strategy in self.combined(name).strategies:
                for column in sorted(strategy.columns):
                    raise BadInput(
                        f"{name}: {strategy.name} reads the extra column {column!r}, which a live feed does not have"
                    )

    def combined(self, symbol: str) -> CombinedSignal:
        """A fresh weighted combination of the symbol's viable strategies."""
        plan = next(plan for plan in self.symbols if plan.symbol == symbol)
        timeframe = Timeframe(self.timeframe)
        if any(m.version for m in plan.members):
            loading.load(self.strategy_path)
            for m in plan.members:
                loading.require(m.strategy, m.version)
        return CombinedSignal([(build(m.strategy, m.params, timeframe), m.weight) for m in plan.members])


def compile_ahead(plan: TradingPlan, config: EngineConfig) -> None:
    """Have everything compiled that the plan's first bar will need: on a machine that never did, that takes longer than an
    actor may be silent before its supervisor thinks that it hangs."""
    bars, count = rough_bars(1, 3, Timeframe(plan.timeframe)), len(config.symbols)
    for symbol in plan.names:
        combined = plan.combined(symbol)
        combined.explain(bars, combined.init())
        combined.update(bars, combined.init())
    returns = np.random.default_rng(1).normal(0.0, 0.01, (config.lookback, count))
    some = np.ones(count)
    allocate(config.strategy, config.params, returns, some > 0, some, config.viability_array, config.weights)


def load_plan(root: Path, *, symbols: Sequence[str] | None = None, strategy_path: Sequence[str] = ()) -> TradingPlan:
    """Read the viable artifacts below `root` (an optimization root). `strategy_path` is where own strategies are now, if not
    where the backtest had them.

    Raises BadStrategy when one of those is not there or not what was judged; ArtifactError, saying what to do, when nothing is
    viable, the portfolio stage found nothing, or a file is missing, corrupt, of another schema or another length of bar, or of
    strategies that have changed since. A symbol that is not viable is in `skipped` with the reason.
    """
    manifest = artifacts.read(root / "run_manifest.json")
    _refuse_other_code(root / "run_manifest.json", manifest)
    own = manifest.get("settings", {}).get("strategy_versions", {})
    paths = tuple(strategy_path or manifest.get("settings", {}).get("strategy_path", ())) if own else ()
    universe_symbols = [str(s) for s in manifest["symbols"]]
    plans, skipped, warmup, last = [], {}, 0, ""
    for symbol in sorted(symbols if symbols is not None else universe_symbols):
        path = artifacts.symbol_summary_path(root, symbol)
        if not path.exists():
            skipped[symbol] = "the backtest has no summary for it"
            continue
        summary = _read(path, manifest)
        unfinished = _unfinished(manifest, root, path)
        if unfinished:
            skipped[symbol] = unfinished
            continue
        voters = [c for c in summary["candidates"] if c["weight"] > 0 and c["is_viable"]]
        if not voters:
            skipped[symbol] = f"not viable (best: {summary['strategy']}, score {summary['viability_score']:.2f})"
            continue
        viability = max(v["viability_score"] for v in voters)
        members = tuple(_member(root, symbol, voter, manifest, paths) for voter in voters)
        plans.append(SymbolPlan(symbol=symbol, viability=viability, members=members))
    if not plans:
        reasons = "; ".join(f"{symbol}: {why}" for symbol, why in skipped.items())
        raise ArtifactError(f"nothing is viable in {root}: {reasons}. Run `run-backtest` with other data or thresholds")
    path = artifacts.portfolio_summary_path(root, universe_symbols)
    portfolio = _read(path, manifest)
    if unfinished := _unfinished(manifest, root, path):
        raise ArtifactError(f"no portfolio in {root}: {unfinished}. Run `run-backtest` again")
    if not portfolio["is_viable"]:
        raise ArtifactError(
            f"no portfolio strategy is viable in {root} (best: {portfolio['strategy']}, "
            f"score {portfolio['viability_score']:.2f}). Run `run-backtest` with other data or thresholds"
        )
    for window in manifest["windows"]:
        warmup = max(warmup, int(window["warmup_bars"]))
        last = max(last, str(window["end_date"]))
    bars_per_year = Timeframe(str(manifest["timeframe"])).bars_per_year
    looks_back = lookback(str(portfolio["strategy"]), portfolio["best_params"], bars_per_year)
    return TradingPlan(
        timeframe=str(manifest["timeframe"]),
        universe=str(portfolio["universe"]),
        symbols=tuple(plans),
        portfolio=str(portfolio["strategy"]),
        portfolio_params=portfolio["best_params"],
        warmup_bars=max(warmup, looks_back + 1),
        last_session=last,
        data_end=str(manifest["end"]),
        skipped=skipped,
        strategy_path=paths,
    )


def watch_research(
    plan: TradingPlan, root: Path, *, symbols: Sequence[str] | None = None, strategy_path: Sequence[str] = ()
) -> Callable[[], str]:
    """What says how the artifacts below `root` now differ from `plan`, "" for not at all. They are read again only when they
    have been written again; a run goes on trading what it began with.
    """
    paths = [root / "run_manifest.json"]
    paths += [artifacts.symbol_summary_path(root, symbol) for symbol in (*plan.names, *plan.skipped)]
    seen: list[tuple[int, int]] | None = None
    said = ""

    def changes() -> str:
        nonlocal seen, said
        stamps = [(s.st_mtime_ns, s.st_size) for s in (path.stat() for path in paths if path.exists())]
        if stamps != seen:
            said = _difference(plan, load_plan(root, symbols=symbols, strategy_path=strategy_path))
            seen = stamps
        return said

    return changes


def _difference(traded: TradingPlan, found: TradingPlan) -> str:
    said = []
    before, now = ({plan.symbol: plan for plan in each.symbols} for each in (traded, found))
    for symbol in sorted({*before, *now}):
        if symbol not in now:
            said.append(f"{symbol} is not viable any more")
        elif symbol not in before:
            said.append(f"{symbol} is viable now")
        elif before[symbol] != now[symbol]:
            said.append(f"{symbol} has other viable strategies or parameters")
    if (traded.timeframe, traded.portfolio, traded.portfolio_params) != (
        found.timeframe,
        found.portfolio,
        found.portfolio_params,
    ):
        said.append("the portfolio strategy is another one")
    return f"{'; '.join(said)}: start again to trade that" if said else ""


def _member(
    root: Path, symbol: str, voter: Mapping[str, Any], manifest: Mapping[str, Any], paths: Sequence[str]
) -> Member:  # fmt: skip
    """A voter with its arguments; one of the user's own only in the version that was judged, and any only as the strategy that its
    identifier names."""
    name, versions = voter["strategy"], manifest.get("settings", {}).get("strategy_versions", {})
    if name in versions:
        loading.load(paths)
        loading.require(name, versions[name])
    path = artifacts.evaluation_path(root, symbol, name)
    params = _read(path, manifest)["best_params"]
    try:
        found = strategy_id(name, params, Timeframe(manifest["timeframe"]))
    except AlgoRoyaleError as error:
        raise ArtifactError(
            f"{path}: {name} cannot be built as it was judged: {error}. Run `run-backtest` again"
        ) from error
    if found != voter["strategy_id"]:
        raise ArtifactError(
            f"{path}: {name} with these arguments is {found}, the backtest judged {voter['strategy_id']}; run `run-backtest` again"
        )
    return Member(
        strategy=name, strategy_id=found, weight=voter["weight"], params=params, version=versions.get(name, "")
    )  # fmt: skip


def _refuse_other_code(path: Path, manifest: Mapping[str, Any]) -> None:
    """What the program's strategies do may have changed since they were judged, without any of their arguments."""
    known = [timeframe.value for timeframe in Timeframe]
    if manifest["timeframe"] not in known:
        raise ArtifactError(
            f"{path} is of {manifest['timeframe']} bars, none of {', '.join(known)}; run `run-backtest` again"
        )
    judged, now = manifest.get("strategies_version"), artifacts.strategies_version()
    if judged is not None and judged != now:
        raise ArtifactError(
            f"the program's strategies have changed since the backtest (version {now}, it was {judged}): run `run-backtest` "
            f"again, or use the release that made {path.parent}"
        )


def _read(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """An artifact of this run's length of bar."""
    document = artifacts.read(path)
    timeframe = document["meta"].get("timeframe", manifest["timeframe"])
    if timeframe != manifest["timeframe"]:
        raise ArtifactError(
            f"{path} is of {timeframe} bars, the last backtest was of {manifest['timeframe']}; run `run-backtest` again"
        )
    return document


def _unfinished(manifest: Mapping[str, Any], root: Path, path: Path) -> str:
    """Why the summary at `path` is not the last backtest's, or an empty text: an older run's may still lie there."""
    status = manifest["units"].get(path.relative_to(root).as_posix(), {"status": "not planned"})["status"]
    return "" if status == "complete" else f"the last backtest did not finish it ({status})"


def engine_config(
    plan: TradingPlan,
    *,
    ledger_id: str,
    rules: AccountRules = TRADER_RULES,
    limits: RiskLimits | None = None,
    weights: WeightConfig | None = None,
) -> EngineConfig:
    """What the plan's portfolio decisions depend on, for the trader and for its simulation alike."""
    return EngineConfig(
        ledger_id=ledger_id,
        symbols=plan.names,
        strategy=plan.portfolio,
        params=plan.portfolio_params,
        weights=weights or WeightConfig(bars_per_year=Timeframe(plan.timeframe).bars_per_year),
        rules=rules,
        limits=limits or RiskLimits(),
        viability={symbol.symbol: symbol.viability for symbol in plan.symbols},
    )


def simulate_plan(
    plan: TradingPlan, catalog: Catalog, config: EngineConfig, *, start: date, end: date, cash_usd: Decimal
) -> SimulationResult:
    """What the trader must do with this plan over the sessions of [start, end], under its own account rules.

    Features are warmed over the sessions before the first one that hold `plan.warmup_bars` bars, forward adjustment starts with
    the first of those, and the position state is flat at the first session, exactly as the signal actors do it.
    """
    sessions = calendar().sessions(start, end)
    if not sessions:
        raise InsufficientHistory(f"no exchange session in {start}..{end}")
    first = warmup_session(sessions[0], Timeframe(plan.timeframe), plan.warmup_bars, calendar())
    inputs = {}
    for symbol in plan.names:
        raw = catalog.bars(symbol, Timeframe(plan.timeframe), first.date, end)
        actions = tuple(a for a in catalog.actions(symbol) if first.date <= a.ex_date <= end)
        adjusted = forward_adjusted(raw, actions)
        live = int(np.searchsorted(raw.start_ns, sessions[0].label_ns))
        run = plan.combined(symbol).run(adjusted, start=live)
        inputs[symbol] = SymbolInput(
            traded=raw, adjusted_close=adjusted.close, state_in=run.state_in, score=run.score, actions=actions
        )
    market = prepare(inputs, sessions[0].label_ns, new_york_ns(end) + 86_400_000_000_000)
    return simulate(market, config, cash_usd)
