"""`run-backtest`: the research pipeline, its progress and its verdicts."""

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.errors import BadInput

if TYPE_CHECKING:
    from actors.backtest import Progress
    from algo_royale.app.cli import Settings
    from algo_royale.config import Config
    from algo_royale.research.plan import Plan, ResearchConfig

DAY = click.DateTime(["%Y-%m-%d"])
STAGE_NAMES = {
    "signal_optimization": "optimise signals",
    "signal_evaluation": "judge signals",
    "symbol_summary": "judge symbols",
    "portfolio_optimization": "optimise portfolios",
    "portfolio_evaluation": "judge portfolios",
    "portfolio_summary": "choose portfolio",
}


def _names(value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


@click.command("run-backtest")
@click.option("--symbols", help="Comma-separated; default all of the data.", show_default=False)
@click.option("--strategies", help="Comma-separated signal strategies; default all.", show_default=False)
@click.option("--portfolios", help="Comma-separated portfolio strategies; default all.", show_default=False)
@click.option("--data", help="'bundled', or a folder of <SYMBOL>.parquet or .csv files.")
@click.option("--timeframe", type=click.Choice(["1Min", "5Min", "15Min", "1Hour", "1Day"]), help="Length of a bar.")
@click.option("--start", type=DAY, help="First date; default where the data begin.")
@click.option("--end", type=DAY, help="Last date; default where the data end.")
@click.option("--unit", type=click.Choice(["years", "months", "sessions", "bars"]), help="Unit of the four lengths below.")
@click.option("--train", type=int, help="Length of each in-sample range.")
@click.option("--test", type=int, help="Length of each out-of-sample range.")
@click.option("--step", type=int, help="Distance between windows; default the test length.")
@click.option("--holdout", type=int, help="Length of the end that research never sees.")
@click.option("--embargo", type=int, help="Sessions between in-sample and out-of-sample.")
@click.option("--windows", type=int, help="Only the last so many windows.")
@click.option("--trials", type=int, help="Trials per signal study.")
@click.option("--portfolio-trials", type=int, help="Trials per portfolio study.")
@click.option(
    "--objective", type=click.Choice(["total_return", "sharpe_ratio", "sortino_ratio", "calmar_ratio"]),
    help="What the studies maximise.",
)  # fmt: skip
@click.option("--seed", type=int, help="Seed of every study.")
@click.option("--workers", type=int, help="Worker processes; 0 takes one per core.")
@click.option("--fresh", is_flag=True, help="Compute everything again instead of resuming.")
@click.option("--log", "log_messages", is_flag=True, help="Keep the run's messages for `messages` and `actors`.")
@click.pass_obj
def run_backtest_command(
    settings: "Settings", fresh: bool, log_messages: bool, start: datetime | None, end: datetime | None, **options: Any
) -> int:
    """Search, judge and choose strategies by walk-forward, and write what is viable as JSON artifacts.

    Finished units are kept: an interrupted run goes on where it stopped. Options not given come from [research] of the
    configuration.

    \b
    Examples:
      run-backtest
      run-backtest --symbols AAPL,IBM --strategies RSIStrategy --trials 100
      run-backtest --data ./bars --train 5 --test 1 --json
    """
    lists = {name: _names(options.pop(name)) for name in ("symbols", "strategies", "portfolios")}
    dates = {"start": start and start.date(), "end": end and end.date()}
    config = settings.with_flags({"research": {**options, **lists, **dates}})
    return backtest(settings, config, fresh=fresh, log_messages=log_messages)


def research_config(config: "Config", root: Path) -> "ResearchConfig":
    """The run that a configuration asks for. Raises UnknownName for names that do not exist."""
    from algo_royale.data.catalog import open_catalog
    from algo_royale.market import Timeframe
    from algo_royale.portfolio.weights import PORTFOLIOS
    from algo_royale.research.optimise import Objective
    from algo_royale.research.plan import ResearchConfig
    from algo_royale.strategies import STRATEGIES

    research, timeframe = config.research, Timeframe(config.research.timeframe)
    return ResearchConfig(
        artifacts_root=root, symbols=research.symbols or tuple(open_catalog(research.data).symbols()),
        strategies=research.strategies or tuple(STRATEGIES), portfolios=research.portfolios or tuple(PORTFOLIOS),
        timeframe=timeframe, data=research.data, start=research.start, end=research.end, windows=research.window_config(),
        trials=research.trials, portfolio_trials=research.portfolio_trials, objective=Objective(names=(research.objective,)),
        min_trades=research.min_trades, seed=research.seed, costs=config.costs.rules(),
        start_equity=float(config.account.cash), viability=config.viability.rules(),
        weights=config.account.weights(bars_per_year=timeframe.bars_per_year),
    )  # fmt: skip


def backtest(settings: "Settings", config: "Config", *, fresh: bool, log_messages: bool, show: bool = True) -> int:
    """Run the pipeline of `config` and show it; the exit code."""
    from actors.kernel.journal import MessageLog, RunInfo
    from algo_royale.app.backtest import iso, run_backtest
    from algo_royale.app.lock import single_instance
    from algo_royale.clock import WallClock
    from algo_royale.research import plan as planning
    from algo_royale.research import stages

    clock = WallClock()
    began_ns, began_s = clock.now_ns(), clock.monotonic_s()
    run_id = f"backtest-{iso(began_ns).replace(':', '').replace('-', '')}-{os.getpid()}"
    with single_instance(settings.directory, "run-backtest"):
        root = settings.directory / "artifacts"
        research = research_config(config, root)
        plan = planning.plan(research)
        workers = config.research.workers or os.cpu_count() or 1
        log = None
        if log_messages:
            info = RunInfo(id=run_id, kind="backtest", started_ns=began_ns, code=plan.code_version, seed=research.seed)
            log = MessageLog(settings.directory / "runs" / run_id / "messages.db", info)
        display = _Display(plan, quiet=settings.verbosity < 0)
        with display:
            code, progress = run_backtest(
                plan, research, workers=workers, on_progress=display.show, fresh=fresh, log=log
            )
        elapsed_s = round(clock.monotonic_s() - began_s, 3)
        stages.write_manifest(
            plan, research, failures=progress.failures, created_at=iso(began_ns), run_time_sec=elapsed_s
        )
        document = _document(run_id, config, research, plan, progress, workers, elapsed_s)
        if settings.json:
            click.echo(json.dumps(document, indent=2, allow_nan=False))
        elif show:
            _print_summary(document, config, research, plan)
    for key, error in sorted(progress.failures.items()):
        click.echo(f"failed: {key}: {error.strip().splitlines()[-1]}", err=True)
    if progress.stopping:
        left = progress.planned - progress.done
        click.echo(f"interrupted with {left} of {progress.planned} units to go; run the same command to resume", err=True)
    return code


class _Display:
    """Progress on stderr: a bar per stage with the time left on a terminal, one line per stage and tenth otherwise."""

    def __init__(self, plan: "Plan", *, quiet: bool) -> None:
        self._quiet, self._said, self._bar, self._tasks = quiet, "", None, {}
        self._totals: dict[str, int] = {}
        for unit in plan.units:
            self._totals[unit.stage] = self._totals.get(unit.stage, 0) + 1

    _bar: Any
    _tasks: dict[str, Any]

    def __enter__(self) -> "_Display":
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
                TimeRemainingColumn(), TextColumn("{task.fields[now]}"), console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            for stage, total in self._totals.items():
                self._tasks[stage] = self._bar.add_task(STAGE_NAMES[stage], total=total, now="", start=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: "Progress") -> None:
        """Called in the coordinator's thread, at every change."""
        if self._bar is not None:
            for stage, (done, _) in progress.stage_counts.items():
                if (done or stage == progress.stage) and not self._bar.tasks[self._tasks[stage]].started:
                    self._bar.start_task(self._tasks[stage])
                now = ", ".join(progress.running) if stage == progress.stage else ""
                self._bar.update(self._tasks[stage], completed=done, now=now[:60])
        elif not self._quiet:
            done, total = progress.stage_counts.get(progress.stage, (0, 0))
            said = f"{STAGE_NAMES.get(progress.stage, 'nothing')}: {done - done % max(1, total // 4)} of {total}" if total else ""
            if said and said != self._said:
                self._said = said
                click.echo(said, err=True)


def _document(
    run_id: str, config: "Config", research: "ResearchConfig", plan: "Plan", progress: "Progress", workers: int,
    elapsed_s: float,
) -> dict[str, Any]:  # fmt: skip
    """What `--json` prints (docs/cli.md). A verdict that was not reached is absent."""
    from algo_royale.errors import ArtifactError
    from algo_royale.research import artifacts
    from algo_royale.research.plan import reusable
    from algo_royale.research.signal_stages import window_block

    root, made = research.artifacts_root, {u.key for u in plan.units if u.stage.endswith("summary") and reusable(u, research)}
    signal = {}
    for symbol in research.symbols:
        path = artifacts.symbol_summary_path(root, symbol)
        if str(path.relative_to(root)) in made:
            signal[symbol] = _verdict(artifacts.read(path))
    portfolio: dict[str, Any] | None = None
    path = artifacts.portfolio_summary_path(root, research.symbols)
    if str(path.relative_to(root)) in made:
        try:
            found = artifacts.read(path)
            portfolio = _verdict(found) | {"metrics": found["oos"]}
        except ArtifactError as error:
            raise BadInput(str(error)) from error
    return {
        "run_id": run_id,
        "schema_version": artifacts.SCHEMA_VERSION,
        "environment": config.environment,
        "timeframe": research.timeframe.value,
        "seed": research.seed,
        "engine": "processes",
        "workers": workers,
        "data_fingerprint": plan.data_fingerprint,
        "symbols": list(research.symbols),
        "windows": [artifacts.plain(window_block(research, w, 0) | {"warmup_bars": None}) for w in plan.windows],
        "holdout_start": plan.holdout_start.isoformat(),
        "units": {
            "planned": progress.planned,
            "completed": progress.completed,
            "reused": progress.reused,
            "failed": progress.failed,
        },
        "signal": signal,
        "portfolio": portfolio,
        "artifacts_root": str(root),
        "report": None,
        "elapsed_s": elapsed_s,
    }


def _verdict(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "strategy": summary["strategy"],
        "is_viable": summary["is_viable"],
        "viability_score": summary["viability_score"],
        "best_params": summary["best_params"],
        "oos": summary["oos"],
        "failed_checks": [c for c in summary["checks"] if not c["passed"]],
    }


def _print_summary(document: dict[str, Any], config: "Config", research: "ResearchConfig", plan: "Plan") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(no_color=True if os.environ.get("NO_COLOR") else None, highlight=False)
    units = document["units"]
    console.print(
        f"{len(document['symbols'])} symbols, {len(plan.windows)} windows, {units['completed']} units computed, "
        f"{units['reused']} reused, {units['failed']} failed, {document['elapsed_s']:.1f} s"
    )
    console.print(f"judged out of sample up to {plan.windows[-1].test_end}; held back from {plan.holdout_start}")
    table = Table("", "strategy", "viable", "score", "return", "sharpe", "drawdown", "trades", "why not", box=None, pad_edge=False)
    for symbol, verdict in document["signal"].items():
        table.add_row(symbol, *_cells(verdict))
    for symbol in research.symbols:
        if symbol not in document["signal"]:
            table.add_row(symbol, "", "no", "", "", "", "", "", "too little data, or its units failed")
    if document["portfolio"]:
        table.add_row("portfolio", *_cells(document["portfolio"]))
    console.print(table)
    if config.viability.note:
        console.print(f"thresholds of {config.environment}: {config.viability.note}")
    console.print(f"artifacts: {document['artifacts_root']}")


def _cells(verdict: dict[str, Any]) -> list[str]:
    oos = verdict["oos"]
    failed = ", ".join(f"{c['name']} {_number(c['value'])} not {c['op']} {c['threshold']:g}" for c in verdict["failed_checks"])
    return [
        verdict["strategy"].removesuffix("PortfolioStrategy").removesuffix("Strategy"),
        "yes" if verdict["is_viable"] else "no",
        f"{verdict['viability_score']:.2f}",
        _number(oos["total_return"], "+.1%"),
        _number(oos["sharpe_ratio"]),
        _number(oos["max_drawdown"], ".1%"),
        _number(oos["num_trades"], "d"),
        failed,
    ]


def _number(value: Any, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)
