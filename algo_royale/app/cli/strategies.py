"""`strategies list|show`: what can be searched, and over which values."""

import json
from typing import Any

import click


@click.group(name="strategies")
def strategies_group() -> None:
    """Signal strategies and what they search.

    \b
    Examples:
      algo-royale strategies list
      algo-royale strategies show RSIStrategy
    """


@strategies_group.command("list")
@click.pass_obj
def list_command(settings: Any) -> None:
    """List the signal and portfolio strategies.

    \b
    Examples:
      algo-royale strategies list
      algo-royale --json strategies list
    """
    from algo_royale.market import Timeframe
    from algo_royale.portfolio.weights import PORTFOLIOS
    from algo_royale.portfolio.weights import space as portfolio_space
    from algo_royale.strategies import STRATEGIES, required_history, space

    rows: list[dict[str, Any]] = [
        {
            "kind": "signal",
            "name": name,
            "dimensions": len(space(name, Timeframe.DAY_1)),
            "history_bars": required_history(name, Timeframe.DAY_1),
        }
        for name in STRATEGIES
    ] + [
        {"kind": "portfolio", "name": name, "dimensions": len(portfolio_space(name)), "history_bars": None}
        for name in PORTFOLIOS
    ]
    if settings.json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("kind", "strategy", "dimensions", "history (bars)", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["kind"], row["name"], str(row["dimensions"]), str(row["history_bars"] or ""))
    Console().print(table)


@strategies_group.command("show")
@click.argument("name")
@click.option(
    "--timeframe",
    default="1Day",
    type=click.Choice(["1Min", "5Min", "15Min", "1Hour", "1Day"]),
    help="Length of a bar.",
)
@click.pass_obj
def show_command(settings: Any, name: str, timeframe: str) -> None:
    """Show the search space of NAME, a signal or portfolio strategy.

    \b
    Examples:
      algo-royale strategies show RSIStrategy
      algo-royale strategies show MinimumVariancePortfolioStrategy
    """
    from algo_royale.errors import UnknownName
    from algo_royale.market import Timeframe
    from algo_royale.portfolio.weights import PORTFOLIOS
    from algo_royale.portfolio.weights import space as portfolio_space
    from algo_royale.strategies import STRATEGIES, space

    if name not in STRATEGIES and name not in PORTFOLIOS:
        raise UnknownName("strategy", name, [*STRATEGIES, *PORTFOLIOS])
    bars = Timeframe(timeframe)
    found = space(name, bars) if name in STRATEGIES else portfolio_space(name, bars.bars_per_year)
    rows = [
        {
            "name": p.name, "kind": p.kind, "low": p.low, "high": p.high, "log": p.log, "choices": p.choices,
            "default": p.default,
        }
        for p in found
    ]  # fmt: skip
    if settings.json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(f"{name} has nothing to search", err=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("parameter", "kind", "values", "default", box=None, pad_edge=False)
    for row in rows:
        choices: Any = row["choices"]
        values = (
            ", ".join(map(str, choices))
            if choices
            else f"{row['low']} .. {row['high']}{' (log)' if row['log'] else ''}"
        )
        table.add_row(str(row["name"]), str(row["kind"]), values, str(row["default"]))
    Console().print(table)
