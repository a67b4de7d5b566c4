"""`demo`: from bundled prices to a traded year in a minute, and what to look at next."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings

# Small enough for a minute on two cores with the kernels still to be compiled, large enough to be a real search.
TRIALS, PORTFOLIO_TRIALS, WINDOWS = 6, 3, 6
STRATEGIES = (
    "BollingerBandsStrategy", "MeanReversionStrategy", "MovingAverageCrossoverStrategy", "RSIStrategy",
    "TrailingStopStrategy",
)  # fmt: skip
PORTFOLIOS = ("EqualWeightPortfolioStrategy", "InverseVolatilityPortfolioStrategy", "MinimumVariancePortfolioStrategy")


@click.command("demo")
@click.option("--speed", default="max", help="Virtual seconds per second at the twin, or 'max'.")
@click.pass_obj
def demo_command(settings: "Settings", speed: str) -> int:
    """Run a small backtest on the bundled prices, then trade the year it held back through the Alpaca twin.

    Needs no account, no keys and no network. Everything it writes lands below the home directory.

    \b
    Examples:
      algo-royale demo
      algo-royale --home /tmp/royale demo
    """
    from algo_royale.app.cli.backtest import backtest
    from algo_royale.app.cli.trader import _speed, print_summary, trade

    settings = replace(settings, env="dev_integration")
    quiet = replace(settings, json=False)
    config = settings.with_flags(
        {
            "research": {
                "trials": TRIALS,
                "portfolio_trials": PORTFOLIO_TRIALS,
                "windows": WINDOWS,
                "data": "bundled",
                "strategies": STRATEGIES,
                "portfolios": PORTFOLIOS,
            },
            "trader": {"speed": speed if speed == "max" else _speed(speed)},
        }
    )

    def say(text: str) -> None:
        if not settings.json:
            click.echo(click.style(text, bold=True))

    say("1. run-backtest: which strategies hold up on prices they were not fitted to?")
    shown = replace(quiet, verbosity=-1) if settings.json else quiet
    outcome = backtest(shown, config, fresh=False, log_messages=False, show=not settings.json)
    if outcome.exit_code or outcome.interrupted:
        return outcome.exit_code
    say("\n2. run-trader: the year that the research never saw, through Alpaca's own client")
    summary = trade(settings, config)
    if settings.json:
        click.echo(json.dumps(summary, indent=2, allow_nan=False))
    else:
        print_summary(summary, settings)
        _page(settings, summary)
    return int(summary["exit_code"])


def _page(settings: "Settings", summary: dict[str, Any]) -> None:
    """The result against holding the same symbols, and the five commands to try next."""
    from rich.console import Console
    from rich.table import Table

    from algo_royale.data.catalog import bundled
    from algo_royale.market import Timeframe
    from db.store import Reader

    with Reader(settings.directory / "ledger.db") as reader:
        equity = [float(row["equity_usd"]) for row in reader.sessions()]
        orders, fills = reader.orders(), reader.fills()
    console = Console(highlight=False)
    click.echo(click.style("\n3. the result", bold=True))
    console.print(f"equity  {_sparkline(equity)}")
    start, end = summary["started_at"][:10], summary["ended_at"][:10]
    table = Table("", box=None, pad_edge=False)
    for header in ("buy and hold", "our orders", "our trades (USD)"):
        table.add_column(header, justify="right")
    holding = []
    for symbol in summary["symbols"]:
        bars = bundled().bars(symbol, Timeframe.DAY_1, _date(start), _date(end))
        traded = sum(float(f["quantity"]) * float(f["price_usd"]) for f in fills if f["symbol"] == symbol)
        holding.append(float(bars.close[-1]) / float(bars.open[0]) - 1)
        table.add_row(symbol, f"{holding[-1]:+.1%}", str(sum(o["symbol"] == symbol for o in orders)), f"{traded:,.0f}")
    console.print(table)
    if summary["equity_start"] and summary["equity_end"]:
        own_return = float(summary["equity_end"]) / float(summary["equity_start"]) - 1
        click.echo(f"this account {own_return:+.1%}, without dividends as in Alpaca's paper accounts")
        click.echo(f"the same symbols bought and held in equal parts {sum(holding) / len(holding):+.1%}")
    here = sys.argv[0] if Path(sys.argv[0]).name == "algo-royale" else "python -m algo_royale"
    program = "algo-royale" if shutil.which("algo-royale") else here  # an environment that is not activated
    home = "" if str(settings.home) == "var" else f" --home {settings.home}"
    click.echo(click.style("\nfive commands to try next", bold=True))
    last = orders[-1]["client_order_id"] if orders else "--symbol AAPL"
    for command, what in (
        ("orders", "every order, and where it stands"),
        (f"explain {last}", "why: votes, conditions, target, limits, fills"),
        ("messages stats", "who told whom how much, and how long it took"),
        ("actors tree", "the supervisor tree of the run"),
        ("run-backtest --trials 40", "a fuller search (resumes, some minutes)"),
    ):
        click.echo(f"  {program}{home} {command}\n      {what}")


def _date(text: str) -> Any:
    from datetime import date

    return date.fromisoformat(text)


def _sparkline(values: list[float], width: int = 48) -> str:
    """The series in one line of blocks, with its ends."""
    if not values:
        return "no session"
    step = -(-len(values) // width)
    shown = values[::step]
    low, high = min(shown), max(shown)
    blocks = "▁▂▃▄▅▆▇█"
    drawn = "".join(blocks[int((v - low) / (high - low or 1) * 7)] for v in shown)
    return f"{values[0]:,.0f} {drawn} {values[-1]:,.0f}"
