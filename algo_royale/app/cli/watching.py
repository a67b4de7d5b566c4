"""A backtest while it runs, on stderr: how far it is, how long it will take, and the best it has found so far."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from actors.backtest import Progress
    from actors.messages import Headline
    from algo_royale.research.plan import Plan

STAGE_NAMES = {
    "signal_optimization": "optimise signals",
    "signal_evaluation": "judge signals",
    "symbol_summary": "judge symbols",
    "portfolio_optimization": "optimise portfolios",
    "portfolio_evaluation": "judge portfolios",
    "portfolio_summary": "choose portfolio",
}
BEST_SHOWN = 3


class Best:
    """The best so far: per symbol (or the portfolio, as "") and strategy, what is maximised, out of sample.

    Until a pair is judged over all its windows, the mean of those that are done stands for it.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], dict[str, float | None]] = {}
        self._judged: dict[tuple[str, str], float | None] = {}
        self._verdicts: dict[str, bool] = {}
        self._objective = ""

    def add(self, news: "Iterable[Headline]") -> None:
        """Headlines in any order; one that is told twice counts once."""
        for told in news:
            self._objective = told.objective
            if told.stage.endswith("optimization"):
                self._windows.setdefault((told.symbol, told.strategy), {})[told.window_id] = told.out_of_sample
            elif told.stage.endswith("evaluation"):
                self._judged[told.symbol, told.strategy] = told.out_of_sample
            elif told.viable is not None:
                self._verdicts[told.symbol] = told.viable

    def ranked(self) -> list[tuple[float, str, str]]:
        """(value, symbol, strategy), the best first, one per symbol."""
        values = dict(self._judged)
        for pair, windows in self._windows.items():
            seen = [value for value in windows.values() if value is not None]
            if pair not in values and seen:
                values[pair] = sum(seen) / len(seen)
        best: dict[str, tuple[float, str, str]] = {}
        for (symbol, strategy), value in values.items():
            if value is not None and (symbol not in best or (-value, strategy) < (-best[symbol][0], best[symbol][2])):
                best[symbol] = (value, symbol, strategy)
        return sorted(best.values(), key=lambda row: (-row[0], row[1]))

    def line(self, most: int = BEST_SHOWN) -> str:
        """As in `best so far: AAPL PullbackEntry 1.63 (sharpe_ratio out of sample)`; empty before there is one."""
        told = [
            f"{symbol or 'portfolio'} {short(strategy)} {value:.2f}" for value, symbol, strategy in self.ranked()[:most]
        ]
        if not told or most == 1:
            return f"best so far: {told[0]}" if told else ""
        symbols = [viable for symbol, viable in self._verdicts.items() if symbol]
        judged = f"{sum(symbols)} of {len(symbols)} symbols viable; " if symbols else ""
        return f"{judged}best so far: {', '.join(told)} ({self._objective} out of sample)"


def short(strategy: str) -> str:
    return strategy.removesuffix("PortfolioStrategy").removesuffix("Strategy")


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.5 h, 2.1 days."""
    for limit, unit, name in ((90.0, 1.0, "s"), (5400.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}" if name == "h" else f"{max(1, round(seconds / unit))} {name}"
    return f"{seconds / 86_400:.1f} days"


class Display:
    """A bar per stage with the time left on a terminal, a line per quarter of a stage otherwise.

    With -v there is also a line for every unit that is begun. `now_s` is any clock that never runs backwards.
    """

    def __init__(self, plan: "Plan", *, verbosity: int, now_s: Callable[[], float]) -> None:
        self._quiet, self._verbose, self._live, self._now_s = verbosity < 0, verbosity > 0, None, now_s
        self._begun: set[tuple[str, str]] = set()
        self._totals: dict[str, int] = {}
        for unit in plan.units:
            self._totals[unit.stage] = self._totals.get(unit.stage, 0) + 1
        self._quarters = dict.fromkeys(self._totals, 0)
        self._first: dict[str, tuple[float, int]] = {}  # stage -> when a unit of it first ran, and how many were done
        self._best = Best()

    _live: Any
    _bars: Any
    _tasks: Mapping[str, Any]

    def __enter__(self) -> "Display":
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
        self._best.add(progress.news)
        for stage, _ in progress.running:
            self._first.setdefault(stage, (self._now_s(), progress.stage_counts[stage][0]))
        if self._live is not None:
            self._show_bars(progress)
        elif not self._quiet:
            self._show_lines(progress)

    def _show_lines(self, progress: "Progress") -> None:
        for stage, label in progress.running if self._verbose else ():
            if (stage, label) not in self._begun:
                self._begun.add((stage, label))
                click.echo(f"{STAGE_NAMES[stage]}: begin {label}", err=True)
        for stage, (done, total) in progress.stage_counts.items():
            quarter = done * 4 // total
            if quarter > self._quarters[stage]:
                self._quarters[stage] = quarter
                more = [self._left(stage, done, total), self._best.line(1)] if done < total else []
                click.echo("; ".join([f"{STAGE_NAMES[stage]}: {done} of {total}", *filter(None, more)]), err=True)

    def _left(self, stage: str, done: int, total: int) -> str:
        """The time that a stage still takes at the pace of its units so far, if any was computed."""
        began_s, before = self._first.get(stage, (0.0, done))
        if done <= before:
            return ""
        return f"about {duration((self._now_s() - began_s) / (done - before) * (total - done))} left"

    def _show_bars(self, progress: "Progress") -> None:
        from rich.console import Group
        from rich.text import Text

        begun = {stage for stage, _ in progress.running}
        for stage, (done, total) in progress.stage_counts.items():
            task = self._tasks[stage]
            if (done or stage in begun) and not self._bars.tasks[task].started:
                self._bars.start_task(task)
            self._bars.update(task, completed=done, total=total)
        now = ("finishing " if progress.stopping else "") + ", ".join(
            short_label(label) for _, label in progress.running
        )
        best = Text(self._best.line(), no_wrap=True, overflow="ellipsis")
        self._live.update(Group(self._bars, best, Text(now, style="dim", no_wrap=True, overflow="ellipsis")))


def short_label(label: str) -> str:
    return label.replace("PortfolioStrategy", "").replace("Strategy", "")
