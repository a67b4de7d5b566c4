"""`strategies list|show|new`: what can be searched, over which values, and how to begin one's own."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

strategy_path_option = click.option(
    "--strategy-path", metavar="PATH", multiple=True, show_default=False,
    help="File or folder of your own strategies; repeatable.",
)  # fmt: skip


def load_own(paths: Sequence[str]) -> dict[str, str]:
    """Put own strategies into the tables: those of installed packages and of `paths`. Versions by name."""
    from algo_royale.strategies import loading

    return loading.load(paths)


@click.group(name="strategies")
def strategies_group() -> None:
    """Signal strategies, what they search, and your own ones.

    \b
    Examples:
      algo-royale strategies list
      algo-royale strategies show RSIStrategy
      algo-royale strategies new BuyTheDip
    """


@strategies_group.command("list")
@strategy_path_option
@click.pass_obj
def list_command(settings: Any, strategy_path: tuple[str, ...]) -> None:
    """List the signal and portfolio strategies.

    \b
    Examples:
      algo-royale strategies list
      algo-royale --json strategies list --strategy-path strategies
    """
    from algo_royale.market import Timeframe
    from algo_royale.portfolio.weights import PORTFOLIOS
    from algo_royale.portfolio.weights import space as portfolio_space
    from algo_royale.strategies import STRATEGIES, required_history, space

    own = load_own(strategy_path or settings.config.research.strategy_path)
    rows: list[dict[str, Any]] = [
        {
            "kind": "own signal" if name in own else "signal",
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
@strategy_path_option
@click.pass_obj
def show_command(settings: Any, name: str, timeframe: str, strategy_path: tuple[str, ...]) -> None:
    """Show the search space of NAME, a signal or portfolio strategy.

    \b
    Examples:
      algo-royale strategies show RSIStrategy
      algo-royale strategies show BuyTheDip --strategy-path strategies
      algo-royale strategies show MinimumVariancePortfolioStrategy
    """
    from algo_royale.errors import UnknownName
    from algo_royale.market import Timeframe
    from algo_royale.portfolio.weights import PORTFOLIOS
    from algo_royale.portfolio.weights import space as portfolio_space
    from algo_royale.strategies import STRATEGIES, space

    load_own(strategy_path or settings.config.research.strategy_path)
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


@strategies_group.command("new")
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(["condition", "composition", "rule"]), default="condition",
    help="A condition of your own, known conditions put together, or a rule that says everything.",
)  # fmt: skip
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("strategies"), help="Where to."
)
@click.pass_obj
def new_command(settings: Any, name: str, kind: str, folder: Path) -> None:
    """Write a strategy of your own: a documented file that runs at once, and its test beside it.

    \b
    Examples:
      algo-royale strategies new BuyTheDip
      algo-royale strategies new WeekInWeekOut --kind rule --folder mine
    """
    from algo_royale.errors import BadInput
    from algo_royale.strategies import STRATEGIES

    load_own(())
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{2,60}", name):
        raise BadInput(f"{name!r} is no name for a strategy: three or more letters and digits, as BuyTheDip")
    if name in STRATEGIES:
        raise BadInput(f"{name!r} is the name of a strategy that is there already; choose another")
    stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    texts = {
        folder / f"{stem}.py": STRATEGY_FILES[kind], folder / f"test_{stem}.py": _TEST.replace("#EXAMPLE#", _EXAMPLES[kind])
    }  # fmt: skip
    for path in texts:
        if path.exists():
            raise BadInput(f"{path} is there already; choose another name or --folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text.replace("NAME", name).replace("STEM", stem), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror or error}") from error
    written = [str(path) for path in texts]
    if settings.json:
        click.echo(json.dumps({"strategy": name, "written": written}, indent=2))
        return
    at = f"--strategy-path {folder / stem}.py"
    click.echo(
        f"wrote {written[0]} and {written[1]}; next:\n"
        f"  algo-royale check lookahead {name} {at}\n"
        f"  run-backtest --strategies {name} {at}\n"
        f"  python -m pytest {written[1]}"
    )


STRATEGY_FILES = {
    "condition": '''"""NAME: buy when the close is far below its mean, sell when the RSI says that it has recovered."""

from algo_royale.strategies.own import condition, integer, number, strategy

# A condition says of ONE bar whether something holds. It is given the last `lookback` bars as numpy arrays, oldest first:
# bars.open, high, low, close, volume, vwap, time; [-1] is the bar that is judged. There are no later bars in it, so it
# cannot look ahead. Each parameter says what may be searched: integer(low, high, default), number(...), choice(...).


@condition(lookback="days")
def STEM_entry(bars, days=integer(10, 60, 20), depth=number(1.0, 3.0, 2.0)):
    """The close is `depth` standard deviations below the mean of the last `days` closes."""
    return bars.close[-1] < bars.close.mean() - depth * bars.close.std()


# Optional: the same for all bars at once, to be fast. It can get it wrong; `algo-royale check lookahead` compares the two.
# @STEM_entry.vectorised
# def _(bars, days, depth):
#     return an array of bool, one per bar

# entry: any of them buys, if all of trend=[...] hold; exit: any of them sells, and wins over a buy. A name in quotes is a
# condition of the catalogue (docs/strategies.md); its parameters are searched too.
strategy("NAME", entry=STEM_entry, exit="RSIAboveThreshold")
''',
    "composition": '''"""NAME: conditions of the catalogue put together, and searched in narrower ranges."""

from algo_royale.strategies.own import choice, integer, strategy

# Names are those of docs/strategies.md. Buy if any of `entry` and all of `trend` hold; sell if any of `exit` holds or the
# stateful logic (a trailing stop, here) says so; a sale wins. `shared` makes one dimension of a parameter that several
# take; `limits` narrows what is searched: integer(low, high, default), number(...), choice(...).
strategy(
    "NAME",
    entry=["RSIEntry", "VWAPReversionEntry"],
    exit="RSIExit",
    trend=["PriceAboveSMA"],
    logic="TrailingStop",
    shared=["period"],
    limits={"RSIEntry": {"period": integer(5, 20, 14)}, "PriceAboveSMA": {"sma": choice(100, 200)}},
)
''',
    "rule": '''"""NAME: buy a low of some days, sell after a gain or when some days are over."""

from algo_royale.strategies.own import ENTER, EXIT, HOLD, integer, return_threshold, rule, strategy

# A rule says everything: ENTER, EXIT or HOLD for the last of the bars that it is given. What it says is done at the open
# of the next bar. With an argument `position` it is told what it holds: is_in, entry_price, high_since_entry, bars_held,
# bars_since_exit. It must not remember anything by itself: research and the trader begin at different bars.


@rule(lookback="days")
def STEM_rule(bars, position, days=integer(3, 20, 5), hold=integer(2, 20, 10), gain=return_threshold(0.01, 0.2, 0.05)):
    """In at the lowest close of `days`; out `gain` above the entry, or after `hold` bars."""
    if not position.is_in:
        return ENTER if bars.close[-1] <= bars.close.min() else HOLD
    won = bars.close[-1] > (1 + gain) * position.entry_price
    return EXIT if won or position.bars_held >= hold else HOLD


# trend: conditions that must hold for an entry; a name in quotes is one of the catalogue (docs/strategies.md).
strategy("NAME", logic=STEM_rule, trend="TrendAboveSMA")
''',
}

_TEST = '''"""NAME, proven: it looks only back, it forgets what came before its warm-up, and it says what it should."""

from pathlib import Path

from algo_royale.market import Timeframe
from algo_royale.research import checks
from algo_royale.strategies import loading

FILE = Path(__file__).with_name("STEM.py")
DAY = Timeframe.DAY_1
#EXAMPLE#

def test_it_looks_only_back():
    loading.load([str(FILE)])

    proofs = checks.look_ahead("NAME", [checks.rough_bars(1, 400, DAY)], seed=1, point_count=2)

    assert [proof.finding for proof in proofs if proof.finding] == []


def test_it_forgets_what_came_before_its_warm_up():
    loading.load([str(FILE)])

    assert checks.forgetting("NAME", DAY, seed=1, point_count=2).finding is None
'''

_EXAMPLES = {
    "composition": "",
    "condition": """

def test_it_buys_far_below_the_mean():
    from STEM import STEM_entry

    from algo_royale.strategies.own import window

    assert STEM_entry(window(close=[10, 10, 10, 10, 10, 7]), days=6, depth=2.0)
    assert not STEM_entry(window(close=[10, 10, 10, 10, 10, 10]), days=6, depth=2.0)

""",
    "rule": """

def test_it_buys_the_low_and_sells_the_gain():
    from STEM import STEM_rule

    from algo_royale.strategies.own import ENTER, EXIT, HOLD, Position, window

    out = Position(False, float("nan"), float("nan"), 0, 10)
    held = Position(True, 9.0, 10.0, 3, 0)
    assert STEM_rule(window(close=[11, 10, 9]), out, days=3) == ENTER
    assert STEM_rule(window(close=[9, 10, 9.2]), held, gain=0.05) == HOLD
    assert STEM_rule(window(close=[9, 10, 9.6]), held, gain=0.05) == EXIT

""",
}
