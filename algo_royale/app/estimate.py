"""What a backtest will take, before it is run: a few of its own units are computed in a temporary folder, timed and thrown
away, and scaled to the rest."""

import resource
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from algo_royale.errors import AlgoRoyaleError
from algo_royale.portfolio import weights as portfolio_weights
from algo_royale.research import artifacts, stages
from algo_royale.research import plan as planning
from algo_royale.research.plan import Plan, ResearchConfig, Unit, reusable, series
from algo_royale.strategies import space

FEW, MORE = 6, 24  # trials of a measured study; what a trial takes is the difference
SYMBOLS, WINDOWS, STRATEGIES, PORTFOLIOS = 2, 2, 3, 2  # of the small run
START_S = 1.5  # until a worker has imported and planned
BAR_BYTES = 96  # a bar as research reads it: six numbers adjusted, six as traded


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the run: units to compute, and what one of them takes."""

    units: int
    seconds: float
    bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`stages` in their order; `seconds` of wall time with `workers`; `trials` are those of the units not yet there."""

    stages: Mapping[str, Stage]
    reused: int
    trials: int
    workers: int
    bars: int
    seconds: float
    disk_bytes: int
    memory_bytes: int
    measured_units: int
    measured_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: float
    bytes: float


def estimate(plan: Plan, config: ResearchConfig, *, workers: int, now_s: Callable[[], float]) -> Estimate:
    """Measure and scale. Nothing is left behind, and nothing below `config.artifacts_root` is touched.

    `now_s` is a clock that never runs backwards. Raises AlgoRoyaleError if not one unit can be computed.
    """
    began_s = now_s()
    wanted = [unit for unit in plan.units if not reusable(unit, config)]
    counts = {stage: sum(unit.stage == stage for unit in wanted) for stage in planning.STAGES}
    found: dict[str, Measured] = {}
    measured = 0
    if wanted:
        with tempfile.TemporaryDirectory(prefix="algo-royale-estimate-") as folder:
            small = sample(plan, config, Path(folder))
            found, measured = measure(small, config, now_s)
        found = {name: scaled(name, one, small, config, len(plan.windows)) for name, one in found.items()}
    told = {
        name: Stage(counts[name], found[name].seconds, found[name].bytes)
        if name in found
        else Stage(counts[name], 0.0, 0.0)
        for name in planning.STAGES
    }
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    bars = sum(len(series(config.data, symbol, config.timeframe).bars.start_ns) for symbol in config.symbols)
    return Estimate(
        stages=told, reused=len(plan.units) - len(wanted), workers=workers, bars=bars,
        trials=counts["signal_optimization"] * config.trials + counts["portfolio_optimization"] * config.portfolio_trials,
        seconds=START_S * bool(wanted) + sum(-(-stage.units // workers) * stage.seconds for stage in told.values()),
        disk_bytes=int(sum(stage.units * stage.bytes for stage in told.values())),
        memory_bytes=used * (workers + 1) + bars * BAR_BYTES, measured_units=measured, measured_s=now_s() - began_s,
    )  # fmt: skip


def sample(plan: Plan, config: ResearchConfig, root: Path) -> ResearchConfig:
    """A run like `config`, but with few symbols, strategies and windows, and few trials, that writes below `root`."""
    windows = plan.windows[-WINDOWS:]
    last = {window.window_id for window in windows}
    reach: dict[str, set[str]] = {}
    for unit in plan.units:
        if unit.stage == "signal_optimization" and unit.symbol and unit.window and unit.window.window_id in last:
            reach.setdefault(unit.symbol, set()).add(unit.window.window_id)
    symbols = sorted(reach, key=lambda symbol: (-len(reach[symbol]), symbol))[:SYMBOLS]
    by_size = sorted(config.strategies, key=lambda name: (len(space(name, config.timeframe)), name))
    per_year = config.timeframe.bars_per_year
    portfolios = sorted(config.portfolios, key=lambda name: (len(portfolio_weights.space(name, per_year)), name))
    return replace(
        config, artifacts_root=root, symbols=tuple(symbols or config.symbols[:SYMBOLS]), start=plan.start, end=plan.end,
        strategies=spread(by_size, STRATEGIES), portfolios=spread(portfolios, PORTFOLIOS),
        windows=replace(config.window_config, count=len(windows)), trials=min(config.trials, FEW),
        portfolio_trials=min(config.portfolio_trials, FEW),
    )  # fmt: skip


def spread(names: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of the names, evenly from the first to the last."""
    if len(names) <= count:
        return tuple(names)
    return tuple(names[round(i * (len(names) - 1) / (count - 1))] for i in range(count))


def measure(
    small: ResearchConfig, config: ResearchConfig, now_s: Callable[[], float]
) -> tuple[dict[str, Measured], int]:
    """Run the small run, each study once more with more trials; what a unit of each stage takes at the trials of `config`."""

    def timed(unit: Unit, like: ResearchConfig, *, keep: bool) -> Measured:
        began_s = now_s()
        result = stages.run_unit(unit, like)
        size = len(artifacts.dumps(result.document)) + (len(artifacts.npz(result.arrays)) if result.arrays else 0)
        if keep:
            stages.commit(result, unit, like, created_at="1970-01-01T00:00:00Z", run_time_sec=0.0)
        return Measured(now_s() - began_s, size)

    some: dict[str, list[Measured]] = {}
    more = replace(small, trials=MORE, portfolio_trials=MORE)
    units, failed = planning.plan(small).units, set[str]()
    for number, unit in enumerate(units):
        if failed.intersection(unit.depends_on):
            failed.add(unit.key)
            continue
        try:
            if number == 0:
                timed(unit, small, keep=False)  # the first one compiles
            one = timed(unit, small, keep=True)
            trials = {"signal_optimization": config.trials, "portfolio_optimization": config.portfolio_trials}.get(
                unit.stage
            )
            if trials is not None and trials > FEW:
                one = longer(one, timed(unit, more, keep=False), trials)
        except AlgoRoyaleError:
            failed.add(unit.key)  # the run itself will say why
            continue
        some.setdefault(unit.stage, []).append(one)
    if not some:
        raise AlgoRoyaleError("no unit of the run could be computed; run it to see why")
    means = {
        stage: Measured(sum(m.seconds for m in rows) / len(rows), sum(m.bytes for m in rows) / len(rows))
        for stage, rows in some.items()
    }
    return means, len(units) - len(failed)


def longer(few: Measured, more: Measured, trials: int) -> Measured:
    """What a study with `trials` takes, from one with FEW and one with MORE of them: a part for each and a part for all."""

    def line(a: float, b: float) -> float:
        return max(a, a + (b - a) * (trials - FEW) / (MORE - FEW))

    return Measured(line(few.seconds, more.seconds), line(few.bytes, more.bytes))


def scaled(stage: str, one: Measured, small: ResearchConfig, config: ResearchConfig, windows: int) -> Measured:
    """A unit of the small run as one of the whole run: what it reads grows with strategies, windows and symbols."""
    strategies = len(config.strategies) / len(small.strategies)
    portfolios = len(config.portfolios) / max(1, len(small.portfolios))
    longer_ = windows / min(windows, WINDOWS)
    factor = {
        "signal_evaluation": strategies * longer_, "symbol_summary": strategies,
        "portfolio_optimization": len(config.symbols) / len(small.symbols),
        "portfolio_evaluation": portfolios * longer_, "portfolio_summary": portfolios,
    }.get(stage, 1.0)  # fmt: skip
    size = one.bytes * (len(config.symbols) / len(small.symbols) if stage == "portfolio_optimization" else 1.0)
    return Measured(one.seconds * factor, size)
