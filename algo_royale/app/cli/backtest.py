"""`run-backtest`: the research pipeline, its progress and its verdicts."""

import json
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.strategies import load_own, strategy_path_option
from algo_royale.errors import AlgoRoyaleError, BadInput

if TYPE_CHECKING:
    from actors.backtest import Progress
    from algo_royale.app.backtest import Outcome
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


def _names(option: str, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(part.strip() for part in value.split(",") if part.strip())
    if not names:
        raise BadInput(f"--{option} names nothing; leave it out to take all")
    return names


@click.command("run-backtest")
@click.option("--symbols", help="Comma-separated; default all of the data.", show_default=False)
@click.option("--strategies", help="Comma-separated signal strategies; default all.", show_default=False)
@strategy_path_option
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
    "--objective", type=click.Choice(["total_return", "sharpe_ratio", "sortino_ratio", "calmar_ratio"]),
    help="What the studies maximise.",
)  # fmt: skip
@click.option("--seed", type=int, help="Seed of every study.")
@click.option("--workers", type=int, help="Worker processes; 0 takes one per core.")
@click.option("--fresh", is_flag=True, help="Compute everything again instead of resuming.")
@click.option("--log", "log_messages", is_flag=True, help="Keep the run's messages for `messages` and `actors`.")
@click.pass_obj
def run_backtest_command(
    settings: "Settings",
    /,
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
    """
    lists = {name: _names(name, options.pop(name)) for name in ("symbols", "strategies", "portfolios")}
    dates = {"start": start and start.date(), "end": end and end.date()}
    options["strategy_path"] = options["strategy_path"] or None
    config = settings.with_flags({"research": {**options, **lists, **dates}})
    return backtest(settings, config, fresh=fresh, log_messages=log_messages).exit_code


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
    return ResearchConfig(
        artifacts_root=root, symbols=research.symbols or tuple(open_catalog(research.data).symbols()),
        strategies=research.strategies or tuple(STRATEGIES), strategy_path=research.strategy_path, portfolios=research.portfolios or tuple(PORTFOLIOS),
        timeframe=timeframe, data=research.data, start=research.start, end=research.end, windows=research.window_config(),
        trials=research.trials, portfolio_trials=research.portfolio_trials, objective=Objective(names=(research.objective,)),
        min_trades=research.min_trades, seed=research.seed, costs=config.costs.rules(),
        start_equity=float(config.account.cash), viability=config.viability.rules(), rules=config.research_rules(),
        weights=config.account.weights(bars_per_year=timeframe.bars_per_year),
    )  # fmt: skip


def backtest(
    settings: "Settings", config: "Config", *, fresh: bool, log_messages: bool, show: bool = True
) -> "Outcome":
    """Run the pipeline of `config` and show it."""
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
        research = research_config(config, settings.directory / "artifacts")
        plan = planning.plan(research)
        workers = config.research.workers or os.cpu_count() or 1
        log = None
        if log_messages:
            info = RunInfo(id=run_id, kind="backtest", started_ns=began_ns, code=plan.code_version, seed=research.seed)
            log = MessageLog(settings.directory / "runs" / run_id / "messages.db", info)
        with _Display(plan, verbosity=settings.verbosity) as display:
            outcome = run_backtest(
                plan,
                research,
                workers=workers,
                on_progress=display.show,
                on_interrupt=_say_interrupted,
                fresh=fresh,
                log=log,
            )
        if not outcome.aborted:
            elapsed_s = round(clock.monotonic_s() - began_s, 3)
            failures = outcome.progress.failures
            stages.write_manifest(plan, research, failures=failures, created_at=iso(began_ns), run_time_sec=elapsed_s)
            verdicts = _verdicts(research, plan)
            page = _report(research.artifacts_root)
            if settings.json and show:
                document = _document(run_id, config, research, plan, outcome.progress, workers, elapsed_s, verdicts)
                click.echo(json.dumps(document | {"report": page and str(page)}, indent=2, allow_nan=False))
            elif show:
                _print_summary(verdicts, config, research, plan, outcome.progress, elapsed_s)
                if page:
                    click.echo(f"report: {page}")
    _say_what_is_left(outcome)
    return outcome


def _report(root: Path) -> Path | None:
    """Write the run's page beside its artifacts; a page that cannot be made takes no result away."""
    from algo_royale.app import report

    target = report.place(root)
    try:
        report.write(root, target)
    except AlgoRoyaleError as error:
        click.echo(f"no report: {' '.join(str(error).split())}", err=True)
        return None
    return target


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


class _Display:
    """Progress on stderr: a bar per stage with the time left on a terminal, a line per quarter of a stage otherwise.

    With -v there is also a line for every unit that is begun.
    """

    def __init__(self, plan: "Plan", *, verbosity: int) -> None:
        self._quiet, self._verbose, self._live = verbosity < 0, verbosity > 0, None
        self._begun: set[tuple[str, str]] = set()
        self._totals: dict[str, int] = {}
        for unit in plan.units:
            self._totals[unit.stage] = self._totals.get(unit.stage, 0) + 1
        self._quarters = dict.fromkeys(self._totals, 0)

    _live: Any
    _bars: Any
    _tasks: Mapping[str, Any]

    def __enter__(self) -> "_Display":
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
            )  # fmt: skip
            self._tasks = {
                stage: self._bars.add_task(STAGE_NAMES[stage], total=total, start=False)
                for stage, total in self._totals.items()
            }
            self._live = Live(self._bars, console=Console(stderr=True, highlight=False), refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(self._bars, refresh=True)
            self._live.stop()
            click.echo("", err=True)

    def show(self, progress: "Progress") -> None:
        """Called in the coordinator's thread, at every change."""
        if self._live is not None:
            self._show_bars(progress)
        elif not self._quiet:
            for stage, label in progress.running if self._verbose else ():
                if (stage, label) not in self._begun:
                    self._begun.add((stage, label))
                    click.echo(f"{STAGE_NAMES[stage]}: begin {label}", err=True)
            for stage, (done, total) in progress.stage_counts.items():
                quarter = done * 4 // total
                if quarter > self._quarters[stage]:
                    self._quarters[stage] = quarter
                    click.echo(f"{STAGE_NAMES[stage]}: {done} of {total}", err=True)

    def _show_bars(self, progress: "Progress") -> None:
        from rich.console import Group
        from rich.text import Text

        begun = {stage for stage, _ in progress.running}
        for stage, (done, total) in progress.stage_counts.items():
            task = self._tasks[stage]
            if (done or stage in begun) and not self._bars.tasks[task].started:
                self._bars.start_task(task)
            self._bars.update(task, completed=done, total=total)
        labels = [label.replace("PortfolioStrategy", "").replace("Strategy", "") for _, label in progress.running]
        now = ("finishing " if progress.stopping else "") + ", ".join(labels)
        line = Text(now, style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(self._bars, line))


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
        "engine": "processes",
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


COLUMNS = ("", "strategy", "viable", "score", "return", "sharpe", "max dd", "trades")


def _print_summary(
    verdicts: Mapping[str, Mapping[str, Any]], config: "Config", research: "ResearchConfig", plan: "Plan",
    progress: "Progress", elapsed_s: float,
) -> None:  # fmt: skip
    """A table that fits 80 columns, and below it what each verdict found wanting."""
    units = f"{progress.completed} computed, {progress.reused} reused, {progress.failed} failed"
    click.echo(
        f"{_count(len(research.symbols), 'symbol')}, {_count(len(plan.windows), 'window')}; {units}; {elapsed_s:.1f} s"
    )
    click.echo(f"judged out of sample up to {plan.windows[-1].test_end}; held back from {plan.holdout_start}\n")
    rows: list[tuple[str, ...]] = [COLUMNS]
    wanting: dict[str, str] = {}
    for name in [*research.symbols, ""]:
        if name in verdicts:
            rows.append(_cells(name or "portfolio", verdicts[name]))
            missed = [_missed(check) for check in verdicts[name]["checks"] if not check["passed"]]
            wanting[name or "portfolio"] = ", ".join(missed)
        elif name:
            rows.append((name, "-", "no", *("-",) * 5))
            none_planned = not any(unit.symbol == name for unit in plan.units)
            wanting[name] = "its data cover no whole window" if none_planned else "no verdict: see below"
    for index, line in enumerate(_aligned(rows)):
        click.echo(click.style(line, bold=True) if index == 0 else line)
    found = [f"  {name}: {what}" for name, what in wanting.items() if what]
    if found:
        click.echo("\nwhat was missed")
        for line in found:
            click.echo(textwrap.fill(line, 79, subsequent_indent="    ", break_on_hyphens=False))
    click.echo("")
    if config.viability.note:
        note = f"thresholds of {config.environment}: {config.viability.note}"
        click.echo(textwrap.fill(note, 79, subsequent_indent="  "))
    click.echo(f"artifacts: {research.artifacts_root}")


def _cells(name: str, verdict: Mapping[str, Any]) -> tuple[str, ...]:
    oos = verdict["oos"]
    return (
        name,
        verdict["strategy"].removesuffix("PortfolioStrategy").removesuffix("Strategy"),
        "yes" if verdict["is_viable"] else "no",
        f"{verdict['viability_score']:.2f}",
        _number(oos["total_return"], "+.1%"),
        _number(oos["sharpe_ratio"]),
        _number(oos["max_drawdown"], ".1%"),
        _number(oos["num_trades"], "d"),
    )


def _missed(check: Mapping[str, Any]) -> str:
    return f"{check['name']} {_number(check['value'])} (wants {check['op']} {check['threshold']:g})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, names to the left, numbers to the right: nothing is cut, nothing wraps."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < 3 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(value: Any, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)
