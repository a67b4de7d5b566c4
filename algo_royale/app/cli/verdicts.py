"""A backtest's result in the terminal: a row per symbol, what speaks for and against each, and the portfolio against holding.

Plain text: what a pipe gets is what a terminal shows, but for colour. Nothing wraps that can be left out.
"""

import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from actors.backtest import Progress
    from algo_royale.app.estimate import Estimate
    from algo_royale.app.report.model import Run, Subject
    from algo_royale.config import Config
    from algo_royale.research.plan import Plan, ResearchConfig

ROWS_MAX = 40  # symbols in the table, the best
WIDTH_MIN = 40


@dataclass(frozen=True, slots=True)
class Column:
    """`last` is the order in which columns leave when the terminal is too narrow, the highest first; 0 stays."""

    header: str
    last: int = 0
    left: bool = False


COLUMNS = (
    Column("", left=True), Column("strategy", left=True), Column("verdict", left=True), Column("return"),
    Column("hold", 2), Column("cagr", 5), Column("sharpe"), Column("max dd", 1), Column("trades", 3), Column("win", 4),
    Column("score", 6),
)  # fmt: skip


def show(
    verdicts: Mapping[str, Mapping[str, Any]], run: "Run | None", config: "Config", research: "ResearchConfig",
    plan: "Plan", progress: "Progress", elapsed_s: float, *, width: int,
) -> None:  # fmt: skip
    """Print it. `verdicts` are the summaries by symbol, the portfolio's as ""; `run` is what the report was made of."""
    width = max(WIDTH_MIN, width)
    units = f"{progress.completed} computed, {progress.reused} reused, {progress.failed} failed"
    click.echo(
        f"{count(len(research.symbols), 'symbol')}, {count(len(plan.windows), 'window')}; {units}; {elapsed_s:.1f} s"
    )
    click.echo(f"judged out of sample up to {plan.windows[-1].test_end}; held back from {plan.holdout_start}\n")
    holding = {} if run is None else {s.name: s.benchmark_figures["total_return"] for s in run.symbols}
    if run is not None and run.portfolio is not None:
        holding[""] = run.portfolio.benchmark_figures["total_return"]
    ranked = [*sorted((name for name in verdicts if name), key=lambda name: _rank(verdicts[name], name))]
    rows = [cells(name, verdicts[name], holding.get(name)) for name in ranked[:ROWS_MAX]]
    without = [name for name in research.symbols if name not in verdicts]
    rows += [(name, "-", "none", *("-",) * (len(COLUMNS) - 3)) for name in without[:ROWS_MAX]]
    if "" in verdicts:
        rows.append(cells("portfolio", verdicts[""], holding.get("")))
    for index, line in enumerate(table(COLUMNS, rows, width)):
        click.echo(click.style(line, bold=True) if index == 0 else line)
    hidden = max(0, len(ranked) - ROWS_MAX) + max(0, len(without) - ROWS_MAX)
    if hidden:
        click.echo(f"and {count(hidden, 'symbol')} more; the report lists them all")
    _why(verdicts, ranked, without, run, plan, width)
    shown = None if run is None else run.portfolio or (run.symbols[0] if len(run.symbols) == 1 else None)
    if shown is not None:
        click.echo("")
        for index, line in enumerate(against_holding(shown)):
            click.echo(click.style(line, bold=True) if index == 0 else line)
    click.echo("")
    if config.viability.note:
        note = f"thresholds of {config.environment}: {config.viability.note}"
        click.echo(textwrap.fill(note, width - 1, subsequent_indent="  "))
    click.echo(f"artifacts: {research.artifacts_root}")


def _rank(verdict: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    return not verdict["is_viable"], -verdict["viability_score"], -(verdict["oos"]["sharpe_ratio"] or 0.0), name


def _why(
    verdicts: Mapping[str, Mapping[str, Any]], ranked: Sequence[str], without: Sequence[str], run: "Run | None",
    plan: "Plan", width: int,
) -> None:  # fmt: skip
    """A sentence per row of the table: the checks that failed, or what speaks against a verdict that passed."""
    from algo_royale.app.report.findings import NOTE, findings

    doubts: dict[str, list[str]] = {}
    for found in () if run is None else findings(run):
        if found.about and found.level != NOTE:
            doubts.setdefault(found.about, []).append(found.title[0].lower() + found.title[1:])
    click.echo(click.style("\nwhy", bold=True))
    for name in [*ranked[:ROWS_MAX], *([""] if "" in verdicts else [])]:
        said = reason(verdicts[name], doubts.get(name or "Portfolio", []))
        color = "green" if verdicts[name]["is_viable"] else "red"
        _paragraph(name or "portfolio", said, width, color)
    planned = {unit.symbol for unit in plan.units}
    for name in without[:ROWS_MAX]:
        why = "no verdict: see below" if name in planned else "its data cover no whole window"
        _paragraph(name, why, width, "yellow")


def _paragraph(name: str, said: str, width: int, color: str) -> None:
    filled = textwrap.fill(f"  {name}: {said}", width - 1, subsequent_indent="    ", break_on_hyphens=False)
    click.echo(filled.replace(name, click.style(name, fg=color), 1))


def reason(verdict: Mapping[str, Any], doubts: Sequence[str]) -> str:
    """Why a verdict is what it is."""
    checks = verdict["checks"]
    failed = [check for check in checks if not check["passed"]]
    if not failed:
        more = f"; {len(doubts) - 2} more in the report" if len(doubts) > 2 else ""
        return f"passes all {len(checks)} checks" + (f", but {'; '.join(doubts[:2])}{more}" if doubts else "")
    told = ", ".join(missed(check) for check in failed)
    return f"viable, though it fails {told}" if verdict["is_viable"] else f"fails {told}"


def missed(check: Mapping[str, Any]) -> str:
    must = ", a must" if check.get("hard") else ""
    return f"{check['name']} {number(check['value'])} (wants {check['op']} {check['threshold']:g}{must})"


def cells(name: str, verdict: Mapping[str, Any], holding: float | None) -> tuple[str, ...]:
    oos = verdict["oos"]
    return (
        name or "portfolio",
        verdict["strategy"].removesuffix("PortfolioStrategy").removesuffix("Strategy"),
        "viable" if verdict["is_viable"] else "no",
        percent(oos["total_return"]), percent(holding), percent(oos["cagr"]), number(oos["sharpe_ratio"]),
        number(oos["max_drawdown"], ".1%"), number(oos["num_trades"], "d"), number(oos["win_rate"], ".0%"),
        number(verdict["viability_score"]),
    )  # fmt: skip


def against_holding(subject: "Subject") -> list[str]:
    """The measures of a curve beside those of buying and holding, as traders' tools list them; all out of sample."""
    from algo_royale.app.report.findings import label
    from algo_royale.app.report.model import MONTHS, monthly, worst_drawdowns
    from algo_royale.research import metrics

    def figures(returns: Any, curve: Any) -> dict[str, str]:
        total = float(curve[-1]) - 1.0 if len(curve) else 0.0
        growth, deepest = metrics.cagr(total, len(returns)), metrics.drawdown(curve, 1.0)[0]
        months = [m for year in monthly(subject.dates, returns).values() for m in year[:MONTHS] if m is not None]
        falls = worst_drawdowns(subject.dates, curve, count=len(curve))
        longest = max((f.sessions for f in falls), default=0)
        spread = float(returns.std(ddof=1)) * metrics.SESSIONS_PER_YEAR**0.5 if len(returns) > 1 else None
        return {
            "return": percent(total), "cagr": percent(growth), "volatility (a year)": number(spread, ".1%"),
            "sharpe ratio": number(metrics.sharpe_ratio(returns)), "sortino ratio": number(metrics.sortino_ratio(returns)),
            "calmar ratio": number(metrics.calmar_ratio(growth, deepest)), "max drawdown": number(deepest, ".1%"),
            "longest drawdown": count(longest, "session"), "best month": percent(max(months, default=None)),
            "worst month": percent(min(months, default=None)),
        }  # fmt: skip

    mine, held = figures(subject.returns, subject.equity), figures(subject.benchmark, subject.benchmark_equity)
    document = subject.document
    oos, mean = document["oos"], {name: row["mean"] for name, row in document["summary"].items() if row}
    alone = {
        "exposure": number(mean.get("exposure"), ".0%"), "trades": number(oos["num_trades"], ",d"),
        "win rate": number(oos["win_rate"], ".0%"), "profit factor": number(mean.get("profit_factor")),
        "turnover (a year)": number(mean.get("turnover")), "alpha, beta": f"{number(mean.get('alpha'))}, {number(mean.get('beta'))}",
    }  # fmt: skip
    head = ("portfolio" if subject.is_portfolio else subject.name) + f" {label(subject.strategy)}"
    rows = [(head, "ours", "holding"), *((f"  {name}", value, held[name]) for name, value in mine.items())]
    rows += [(f"  {name}", value, "") for name, value in alone.items()]
    if len(subject.dates):
        rows.insert(1, ("  sessions", f"{len(subject.dates):,}", f"{subject.dates[0]} .. {subject.dates[-1]}"))
    return aligned(rows, left=1)


def show_estimate(found: "Estimate", plan: "Plan", research: "ResearchConfig", directory: Path) -> None:
    """What a run would take, stage by stage."""
    from algo_royale.app.cli.watching import STAGE_NAMES, duration

    units = sum(stage.units for stage in found.stages.values())
    place = next(path for path in (directory.resolve(), *directory.resolve().parents) if path.is_dir())
    free, physical = shutil.disk_usage(place).free, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rows = [
        ("data", f"{count(len(research.symbols), 'symbol')}, {found.bars:,} bars of {research.timeframe.value}, {plan.start} .. {plan.end}"),
        ("windows", f"{len(plan.windows)}, tested from {plan.windows[0].test_start} to {plan.windows[-1].test_end}"),
        ("to compute", f"{count(units, 'unit')} with {count(found.trials, 'trial')}; {found.reused:,} are there already"),
        ("time", f"about {duration(found.seconds)} with {count(found.workers, 'worker')}"),
        ("disk", f"about {_size(found.disk_bytes)}; {_size(free)} are free"),
        ("memory", f"about {_size(found.memory_bytes)} of the machine's {_size(physical)}"),
    ]  # fmt: skip
    for line in aligned(rows, left=2):
        click.echo(line)
    lines = [("", "units", "each", "together")]
    for name, stage in found.stages.items():
        if stage.units:
            each, together = f"{stage.seconds:.3f} s", duration(stage.units * stage.seconds)
            lines.append((STAGE_NAMES[name], f"{stage.units:,}", each, together))
    click.echo("")
    for line in aligned(lines, left=1):
        click.echo(line)
    told = f"scaled from {count(found.measured_units, 'unit')} measured in {found.measured_s:.1f} s; nothing was run or kept"
    click.echo(f"\n{told}")


def _size(size: float) -> str:
    for limit, unit, name in ((10**6, 10**3, "kB"), (10**9, 10**6, "MB")):
        if size < limit:
            return f"{size / unit:.0f} {name}"
    return f"{size / 10**9:.1f} GB"


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines no longer than `width`, if leaving columns out can make them so."""
    kept = list(range(len(columns)))
    while True:
        lines = aligned(
            [[columns[i].header for i in kept], *([row[i] for i in kept] for row in rows)],
            left=sum(columns[i].left for i in kept),
        )
        loose = [i for i in kept if columns[i].last]
        if max(map(len, lines)) <= width or not loose:
            return lines
        kept.remove(max(loose, key=lambda i: columns[i].last))


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Columns as wide as their widest cell, the first `left` of them to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def count(number_: int, what: str) -> str:
    return f"{number_:,} {what}{'' if number_ == 1 else 's'}"


def number(value: Any, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def percent(value: float | None) -> str:
    """Signed; of a multiple of ten nobody needs the digits."""
    return "-" if value is None else format(value, "+.1%" if abs(value) < 10 else "+,.0%")
