"""`run-backtest`: the research pipeline, its progress and its verdicts."""

import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.strategies import load_own, strategy_path_option
from algo_royale.errors import AlgoRoyaleError, ArtifactError, BadInput

if TYPE_CHECKING:
    from actors.backtest import Progress
    from algo_royale.app.backtest import Outcome
    from algo_royale.app.cli import Settings
    from algo_royale.app.report.model import Run
    from algo_royale.config import Config
    from algo_royale.research.plan import Plan, ResearchConfig

DAY = click.DateTime(["%Y-%m-%d"])


def _names(option: str, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(part.strip() for part in value.split(",") if part.strip())
    if option == "symbols":
        names = tuple(name.upper() for name in names)
    if not names:
        raise BadInput(f"--{option} names nothing; leave it out to take all")
    return names


@click.command("run-backtest")
@click.option("--symbols", help="Comma-separated; default all of the data.", show_default=False)
@click.option("--strategies", help="Comma-separated signal strategies; default all.", show_default=False)
@strategy_path_option
@click.option("--unproven", is_flag=True, default=None, help="Run own strategies that fail `check lookahead`, too.")
@click.option("--portfolios", help="Comma-separated portfolio strategies; default all.", show_default=False)
@click.option("--data", help="'bundled', or a folder of <SYMBOL>.parquet or .csv files.")
@click.option("--timeframe", type=click.Choice(["1Min", "5Min", "15Min", "1Hour", "1Day"]), help="Length of a bar.")
@click.option("--start", type=DAY, help="First date; default where the data begin.")
@click.option("--end", type=DAY, help="Last date; default where the data end.")
@click.option(
    "--unit", type=click.Choice(["years", "months", "sessions", "bars"]), help="Unit of the four lengths below."
)
@click.option("--train", type=int, help="Length of each in-sample range.")
@click.option("--test", type=int, help="Length of each out-of-sample range.")
@click.option("--step", type=int, help="Distance between windows; default the test length.")
@click.option("--holdout", type=int, help="Length of the end that research never sees.")
@click.option("--embargo", type=int, help="Sessions between in-sample and out-of-sample.")
@click.option("--windows", type=int, help="Only the last so many windows.")
@click.option("--trials", type=int, help="Trials per signal study.")
@click.option("--portfolio-trials", type=int, help="Trials per portfolio study.")
@click.option(
    "--objective",
    help="What the studies maximise: total_return, sharpe_ratio, sortino_ratio, calmar_ratio; several by comma.",
)
@click.option("--sampler", type=click.Choice(["tpe", "qmc", "random", "grid"]), help="How the studies search.")
@click.option("--folds", type=int, help="Parts of the train range that trials are judged on.")
@click.option("--pruner", type=click.Choice(["none", "median", "hyperband"]), help="Gives trials up after poor folds.")
@click.option(
    "--storage", type=click.Choice(["memory", "journal", "sqlite"]), help="Where unfinished studies are kept."
)
@click.option("--seed", type=int, help="Seed of every study.")
@click.option("--workers", type=int, help="Worker processes; 0 takes one per core.")
@click.option("--engine", type=click.Choice(["processes", "ray"]), help="Where the workers compute.")
@click.option("--cluster", help="Address of a Ray cluster, host:port; empty starts one on this machine.")
@click.option("--name", help="Keep this run apart under a name; run-trader trades the one without.", show_default=False)
@click.option("--estimate", is_flag=True, help="Say what the run would take, and do not run it.")
@click.option("--fresh", is_flag=True, help="Compute everything again instead of resuming.")
@click.option("--log", "log_messages", is_flag=True, help="Keep the run's messages for `messages` and `actors`.")
@click.pass_obj
def run_backtest_command(
    settings: "Settings",
    /,
    name: str | None,
    estimate: bool,
    fresh: bool,
    log_messages: bool,
    start: datetime | None,
    end: datetime | None,
    **options: Any,
) -> int:
    """Search, judge and choose strategies by walk-forward, and write what is viable as JSON artifacts.

    Finished units are kept: an interrupted run goes on where it stopped. Options not given come from [research] of the
    configuration.

    \b
    Examples:
      run-backtest
      run-backtest --symbols AAPL,IBM --strategies RSIStrategy --trials 100
      run-backtest --data ./bars --train 5 --test 1 --json
      run-backtest --strategies BuyTheDip --strategy-path strategies
      run-backtest --trials 500 --estimate
      run-backtest --symbols AAPL --trials 10 --name quick-look
    """
    lists = {name: _names(name, options.pop(name)) for name in ("symbols", "strategies", "portfolios")}
    dates = {"start": start and start.date(), "end": end and end.date()}
    options["strategy_path"] = options["strategy_path"] or None
    asked = {name: options.pop(name) for name in ("sampler", "folds", "pruner", "storage")}
    search = {name: value for name, value in asked.items() if value is not None} or None
    config = settings.with_flags({"research": {**options, **lists, **dates, "search": search}})
    root = artifacts_root(settings.directory, name)
    if estimate:
        return _estimate(settings, config, root)
    return backtest(settings, config, fresh=fresh, log_messages=log_messages, root=root).exit_code


def artifacts_root(directory: Path, name: str | None) -> Path:
    """Where a run keeps its artifacts: the one that is traded, or one of a name of its own."""
    if name is None:
        return directory / "artifacts"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise BadInput(f"--name {name!r}: letters, digits, dot, dash and underscore, at most 64, and no path")
    return directory / "research" / name / "artifacts"


def research_config(config: "Config", root: Path) -> "ResearchConfig":
    """The run that a configuration asks for. Raises UnknownName for names that do not exist."""
    from algo_royale.data.catalog import open_catalog
    from algo_royale.market import Timeframe
    from algo_royale.portfolio.weights import PORTFOLIOS
    from algo_royale.research.optimise import Objective
    from algo_royale.research.plan import ResearchConfig
    from algo_royale.strategies import STRATEGIES

    research, timeframe = config.research, Timeframe(config.research.timeframe)
    load_own(research.strategy_path)
    found = ResearchConfig(
        artifacts_root=root, cache=root.with_name("cache"), symbols=research.symbols or open_catalog(research.data).symbols(timeframe),
        strategies=research.strategies or tuple(STRATEGIES), strategy_path=research.strategy_path, portfolios=research.portfolios or tuple(PORTFOLIOS),
        timeframe=timeframe, data=research.data, start=research.start, end=research.end, windows=research.window_config(),
        trials=research.trials, portfolio_trials=research.portfolio_trials, objective=Objective(names=research.objective),
        search=research.search_rules(), min_trades=research.min_trades, seed=research.seed, costs=config.costs.rules(), rf=research.rf,
        start_equity=float(config.account.cash), viability=config.viability.rules(), rules=config.research_rules(),
        weights=config.account.weights(bars_per_year=timeframe.bars_per_year),
    )  # fmt: skip
    if found.versions and not research.unproven:
        from algo_royale.research.checks import refuse_leaks

        refuse_leaks(found.versions, timeframe)
    return found


def backtest(
    settings: "Settings",
    config: "Config",
    *,
    fresh: bool,
    log_messages: bool,
    show: bool = True,
    root: Path | None = None,
) -> "Outcome":
    """Run the pipeline of `config` and show it. Artifacts land below `root`; None is where the trader looks for them."""
    from actors.stage_worker import Child

    # A worker imports for a second or two; the first one does so while this process does, too.
    warm = partial(importlib.import_module, "algo_royale.app.backtest")
    spare = [Child(warm)] if config.research.engine == "processes" else []
    from actors.kernel.journal import MessageLog, RunInfo
    from algo_royale.app.backtest import engine, iso, run_backtest
    from algo_royale.app.cli.verdicts import show as show_verdicts
    from algo_royale.app.cli.watching import Display
    from algo_royale.app.lock import single_instance
    from algo_royale.clock import WallClock
    from algo_royale.research import plan as planning
    from algo_royale.research import stages

    clock = WallClock()
    began_ns, began_s = clock.now_ns(), clock.monotonic_s()
    run_id = f"backtest-{iso(began_ns).replace(':', '').replace('-', '')}-{os.getpid()}"
    with single_instance(settings.directory, "run-backtest"):
        research = research_config(config, root or artifacts_root(settings.directory, None))
        plan = planning.plan(research)
        if settings.verbosity >= 0 and (replaced := taken_over(research)):
            click.echo(f"warning: {replaced}", err=True)
        log = None
        if log_messages:
            info = RunInfo(id=run_id, kind="backtest", started_ns=began_ns, code=plan.code_version, seed=research.seed)
            log = MessageLog(settings.directory / "runs" / run_id / "messages.db", info)
        wanted = (config.research.engine, config.research.cluster, config.research.workers)
        display = Display(plan, verbosity=settings.verbosity, now_s=clock.monotonic_s)
        by_processes = config.research.engine == "processes"
        ahead = Child(partial(stages.compile_ahead, research)) if by_processes and stages.must_compile() else None
        with engine(*wanted, spare) as (computing, workers), display:
            outcome = run_backtest(
                plan,
                research,
                workers=workers,
                on_progress=display.show,
                on_interrupt=_say_interrupted,
                fresh=fresh,
                log=log,
                computing=computing,
            )
        if ahead is not None:
            ahead.pipe.close()
        if not outcome.aborted:
            elapsed_s = round(clock.monotonic_s() - began_s, 3)
            failures = outcome.progress.failures
            stages.write_manifest(plan, research, failures=failures, created_at=iso(began_ns), run_time_sec=elapsed_s)
            verdicts = _verdicts(research, plan)
            page, run = _report(research.artifacts_root)
            if settings.json and show:
                document = _document(run_id, config, research, plan, outcome.progress, workers, elapsed_s, verdicts)
                click.echo(json.dumps(document | {"report": page and str(page)}, indent=2, allow_nan=False))
            elif show:
                width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
                show_verdicts(verdicts, run, config, research, plan, outcome.progress, elapsed_s, width=width)
                if page:
                    click.echo(f"report: {page}")
    _say_what_is_left(outcome)
    return outcome


def taken_over(research: "ResearchConfig") -> str | None:
    """What of an earlier run's result this one is going to replace with less, in a sentence; None if nothing."""
    from algo_royale.app.cli.verdicts import count
    from algo_royale.research import artifacts

    try:
        before = artifacts.read(research.artifacts_root / artifacts.MANIFEST, "run_manifest")
    except ArtifactError:
        return None
    if not any(unit["status"] == "complete" for unit in before["units"].values()):
        return None
    lost = []
    for what in ("symbols", "strategies", "portfolios"):
        gone = sorted(set(before[what]) - set(getattr(research, what)))
        if gone:
            shown = ", ".join(gone[:4]) + (f" and {len(gone) - 4} more" if len(gone) > 4 else "")
            lost.append(f"{what} {shown}")
    for what in ("trials", "portfolio_trials"):
        asked, had = getattr(research, what), before.get("settings", {}).get(what, 0)
        if asked < had:
            lost.append(f"{had} {what.replace('_', ' ')} instead of {asked}")
    if not lost:
        return None
    when, size = before["meta"]["created_at"][:10], count(len(before["symbols"]), "symbol")
    return (
        f"this replaces the result of {when} ({size}) for `report` and `run-trader`; it had {'; '.join(lost)}."
        " --name NAME keeps runs apart"
    )


def _estimate(settings: "Settings", config: "Config", root: Path) -> int:
    """Print what the run would take."""
    from algo_royale.app.cli.verdicts import show_estimate
    from algo_royale.app.estimate import estimate
    from algo_royale.clock import WallClock
    from algo_royale.research import plan as planning

    research = research_config(config, root)
    plan, workers = planning.plan(research), config.research.workers or os.cpu_count() or 1
    found = estimate(plan, research, workers=workers, now_s=WallClock().monotonic_s)
    if settings.json:
        click.echo(json.dumps(asdict(found), indent=2, allow_nan=False))
    else:
        show_estimate(found, plan, research, settings.directory)
    return 0


def _report(root: Path) -> "tuple[Path | None, Run | None]":
    """Write the run's page beside its artifacts, and give back what it was made of; a page that cannot be made takes no
    result away."""
    from algo_royale.app import report
    from algo_royale.app.report import model

    target = report.place(root)
    try:
        run = model.load(root)
        report.write(run, target)
    except AlgoRoyaleError as error:
        click.echo(f"no report: {' '.join(str(error).split())}", err=True)
        return None, None
    return target, run


def _say_interrupted() -> None:
    click.echo("finishing the units that are running; Ctrl-C again ends them at once", err=True)


def _say_what_is_left(outcome: "Outcome") -> None:
    """On stderr: units that failed, and how to go on with what is not done."""
    progress = outcome.progress
    because = [key for key, error in progress.failures.items() if error.endswith(", which failed")]
    for key, error in sorted(progress.failures.items()):
        if key not in because:
            click.echo(f"failed: {key}: {error.strip().splitlines()[-1]}", err=True)
    if because:
        click.echo(f"failed: {len(because)} more units that need one of these; run_manifest.json lists them", err=True)
    if outcome.gave_up:
        click.echo(f"error: the run gave up: {' '.join(outcome.gave_up.split())}", err=True)
    left = progress.planned - progress.done
    if left:
        why = "interrupted" if outcome.interrupted else "ended"
        click.echo(f"{why} with {left} of {progress.planned} units to go; run the same command to resume", err=True)


def _verdicts(research: "ResearchConfig", plan: "Plan") -> dict[str, dict[str, Any]]:
    """The summaries that this configuration, data and code made: by symbol, and the portfolio's as ""."""
    from algo_royale.research import artifacts
    from algo_royale.research.plan import reusable

    summaries = [unit for unit in plan.units if unit.stage in ("symbol_summary", "portfolio_summary")]
    return {unit.symbol or "": artifacts.read(unit.path(research)) for unit in summaries if reusable(unit, research)}


def _document(
    run_id: str, config: "Config", research: "ResearchConfig", plan: "Plan", progress: "Progress", workers: int,
    elapsed_s: float, verdicts: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """What `--json` prints. A symbol whose verdict was not reached is absent, a portfolio is null."""
    from algo_royale.research import artifacts
    from algo_royale.research.plan import warmup_bars
    from algo_royale.research.signal_stages import window_block

    shown = {
        name: {key: found[key] for key in ("strategy", "is_viable", "viability_score", "best_params")}
        for name, found in verdicts.items()
    }
    portfolio = shown.pop("", None)
    return {
        "run_id": run_id,
        "schema_version": artifacts.SCHEMA_VERSION,
        "environment": config.environment,
        "timeframe": research.timeframe.value,
        "seed": research.seed,
        "engine": config.research.engine,
        "workers": workers,
        "data_fingerprint": plan.data_fingerprint,
        "symbols": list(research.symbols),
        "windows": [artifacts.plain(window_block(research, w, warmup_bars(research))) for w in plan.windows],
        "units": {name: getattr(progress, name) for name in ("planned", "completed", "reused", "failed")},
        "signal": shown,
        "portfolio": portfolio and portfolio | {"metrics": verdicts[""]["oos"]},
        "artifacts_root": str(research.artifacts_root),
        "elapsed_s": elapsed_s,
    }
