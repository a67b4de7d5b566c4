"""`run-exchange`: the Alpaca twin alone, on loopback, replaying a catalogue's sessions."""

import asyncio
import dataclasses
import json
import os
import sys
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from algo_royale.costs import CostRules
    from algo_royale.exchange.core import Exchange
    from algo_royale.exchange.replay import MarketReplay

DEFAULT_SESSIONS = 250
DAY = click.DateTime(["%Y-%m-%d"])


@click.command("run-exchange")
@click.option("--host", default="127.0.0.1", help="Loopback address to serve on.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option("--data", default="bundled", help="'bundled', or a folder of <SYMBOL>.parquet or .csv files.")
@click.option("--symbols", default="", help="Comma-separated; default all of the data.", show_default=False)
@click.option("--start", type=DAY, help=f"First session; default the last {DEFAULT_SESSIONS} of the data.")
@click.option("--end", type=DAY, help="Last session; default the last of the data.")
@click.option(
    "--speed", default="1", help="Virtual seconds per second, or 'max': time moves by POST /sim/advance only."
)
@click.option("--seed", default=0, type=int, help="Seed of all identifiers.")
@click.option("--cash", default="100000", help="Opening cash in US dollars.")
@click.option(
    "--cost", "costs", multiple=True, metavar="NAME=VALUE", help="A cost rule, e.g. slippage_bps=5; repeatable."
)
@click.option(
    "--market", type=click.Choice(["sessions", "path", "minutes", "ticks"]), default="sessions",
    help="What happens within a session: nothing but its open and close; trades and quotes drawn through the daily bars,"
    " or through the minute bars (the shortest there are); or recorded ones (--data is a folder of DATE/trades_<SYMBOL>.parquet).",
)  # fmt: skip
@click.option(
    "--spread-bps", type=click.FloatRange(0, 1000), default=2.0,
    help="Between bid and offer of a drawn market, at least a cent; 0 for none, so that orders pay --cost alone.",
)  # fmt: skip
@click.option(
    "--whole-shares", default="", help="Symbols that are not traded in fractions; comma-separated.", show_default=False
)
@click.option("--shorting/--no-shorting", default=False, help="Whether shares may be sold short.")
@click.option(
    "--partial-fills", default="0", metavar="SHARE", help="Share of executions that fill a part only, 0 to 1."
)
@click.option("--dividends/--no-dividends", default=False, help="Whether dividends are paid, as to live accounts.")
@click.option(
    "--amended-trades", default="0", metavar="SHARE",
    help="Share of trades that are reported late, corrected or canceled, 0 to 1.",
)  # fmt: skip
@click.option(
    "--symbols-max", type=click.IntRange(1), metavar="N",
    help="Symbols of trades and quotes on a data stream (Alpaca's basic plan: 30); default no limit.",
)  # fmt: skip
@click.option(
    "--sip/--no-sip",
    default=True,
    help="Whether the data plan has all exchanges, or as Alpaca's basic plan IEX and the past.",
)
@click.option(
    "--rate-limit", type=click.IntRange(1), metavar="N", help="Requests a minute before 429; default no limit."
)
@click.option(
    "--state", type=click.Path(dir_okay=False), metavar="FILE",
    help="Write down what is asked, and go on from there where FILE has something already.",
)  # fmt: skip
@click.option("--exit-with-parent", type=int, metavar="PID", help="End when the parent process PID is gone.")
@click.pass_obj
def run_exchange_command(
    settings: "Settings", host: str, port: int, data: str, symbols: str, start: datetime | None, end: datetime | None,
    speed: str, seed: int, cash: str, costs: tuple[str, ...], market: str, spread_bps: float, whole_shares: str, shorting: bool, partial_fills: str,
    dividends: bool, amended_trades: str, symbols_max: int | None, sip: bool, rate_limit: int | None, state: str | None, exit_with_parent: int | None,
) -> None:  # fmt: skip
    """Serve a simulated Alpaca on loopback until SIGTERM or Ctrl-C.

    It answers Alpaca's REST requests and both websockets on one port, over real bars in virtual time. It prints its URL, or
    with --json one object with all addresses and the keys (which guard nothing).

    \b
    Examples:
      run-exchange --start 2012-06-01 --speed 3600
      run-exchange --speed max --symbols AAPL,IBM --json
      run-exchange --data ./bars --cash 25000 --cost slippage_bps=2
      run-exchange --market path --partial-fills 0.1 --shorting --speed 60
    """
    from algo_royale.exchange.journal import Journal
    from algo_royale.exchange.server import TwinServer

    rules = {
        "seed": seed, "cash": _decimal("--cash", cash), "costs": _costs(costs, market), "shorting": shorting,
        "partial_fills": _decimal("--partial-fills", partial_fills), "requests_per_minute": rate_limit,
        "pay_dividends": dividends, "symbols_max": symbols_max, "sip": sip,
        "amended_trades": _decimal("--amended-trades", amended_trades), "whole_shares": frozenset(_symbols(whole_shares)),
    }  # fmt: skip
    exchange = _exchange(data, symbols, start and start.date(), end and end.date(), market, spread_bps, rules)
    told = {
        **rules,
        "whole_shares": sorted(_symbols(whole_shares)),
        "form": 3,
        "data": data,
        "symbols": symbols,
        "market": market,
        "spread_bps": spread_bps,
        "start": str(start),
        "end": str(end),
    }
    identity = json.dumps({name: str(value) for name, value in told.items()}, sort_keys=True)
    journal = None if state is None else Journal(Path(state), exchange, identity)
    server = TwinServer(exchange, speed=_speed(speed), journal=journal)

    def on_ready(url: str) -> None:
        found = _description(exchange, url, speed)
        click.echo(json.dumps(found) if settings.json else url)
        if sys.stderr.isatty() and not settings.json and settings.verbosity >= 0:
            click.echo(
                f"keys {found['key_id']} / {found['secret_key']}; {', '.join(found['symbols'])}\n"
                f"sessions {found['start'][:10]} to {found['end'][:10]} at speed {speed}; Ctrl-C ends it",
                err=True,
            )

    asyncio.run(server.run(host, port, on_ready, parent_pid=exit_with_parent))


def _exchange(
    data: str, symbols: str, start: date | None, end: date | None, market: str, spread_bps: float, rules: dict[str, Any]
) -> "Exchange":
    """An exchange born at the midnight (New York) of its first session. Raises BadInput for what cannot be replayed."""
    from algo_royale.exchange.core import Exchange, ExchangeConfig

    if rules["cash"] <= 0:
        raise BadInput(f"--cash {rules['cash']} is not positive")
    for name in ("partial_fills", "amended_trades"):
        if not 0 <= rules[name] <= 1:
            raise BadInput(f"--{name.replace('_', '-')} {rules[name]} is not between 0 and 1")
    if rules["amended_trades"] and market == "sessions":
        raise BadInput("--amended-trades needs a market that has trades: --market path, minutes or ticks")
    replay = _replay(data, _symbols(symbols) or None, market, rules["seed"], spread_bps)
    if strange := rules["whole_shares"] - set(replay.symbols):
        raise UnknownName("symbol", min(strange), replay.symbols)
    sessions = [s for s in replay.sessions if (start is None or s.date >= start) and (end is None or s.date <= end)]
    if not sessions:
        have = f"{replay.sessions[0].date}..{replay.sessions[-1].date}"
        raise BadInput(f"no sessions from {start or have[:10]} to {end or have[-10:]}: the data have {have}")
    if start is None:
        sessions = sessions[-DEFAULT_SESSIONS:]
    return Exchange(replay, ExchangeConfig(start_ns=sessions[0].label_ns, end_ns=sessions[-1].close_ns, **rules))


def _symbols(text: str) -> list[str]:
    return [name.strip().upper() for name in text.split(",") if name.strip()]


def _replay(data: str, symbols: list[str] | None, market: str, seed: int, spread_bps: float) -> "MarketReplay":
    from algo_royale.data.catalog import open_catalog
    from algo_royale.exchange.replay import MarketReplay
    from algo_royale.exchange.tape import TickTape
    from algo_royale.market import Timeframe
    from algo_royale.sessions import calendar

    if market == "ticks":
        return MarketReplay.of_ticks(TickTape(Path(data)), calendar(), symbols)
    catalog, timeframe = open_catalog(data), Timeframe.DAY_1
    if market == "minutes":
        there = [catalog.timeframes(symbol) for symbol in symbols or catalog.symbols()]
        within = [t for t in Timeframe if t is not Timeframe.DAY_1 and all(t in each for each in there)]
        timeframe = within[0] if within else Timeframe.MIN_1  # of which the catalogue says that there are none
    path_seed = None if market == "sessions" else seed
    return MarketReplay.of(catalog, calendar(), symbols, timeframe=timeframe, seed=path_seed, spread_bps=spread_bps)


def _description(exchange: "Exchange", url: str, speed: str) -> dict[str, Any]:
    """What a client needs to know, for `--json`."""
    from algo_royale.exchange.wire import rfc3339

    key, secret = next(iter(exchange.config.keys.items()))
    assert exchange.config.end_ns is not None
    return {
        "url": url,
        "data_stream": f"{url.replace('http', 'ws', 1)}/v2/iex",
        "trading_stream": f"{url.replace('http', 'ws', 1)}/stream",
        "key_id": key,
        "secret_key": secret,
        "symbols": list(exchange.replay.symbols),
        "start": rfc3339(exchange.config.start_ns),
        "end": rfc3339(exchange.config.end_ns),
        "speed": speed,
        "seed": exchange.config.seed,
        "pid": os.getpid(),
    }


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"--speed {text!r} is neither a number nor max") from None


def _decimal(what: str, text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise BadInput(f"{what} {text!r} is not a number")
    return number


def _costs(pairs: tuple[str, ...], market: str) -> "CostRules":
    """Where there are quotes, orders pay the spread and no slippage beside it, unless asked for."""
    from algo_royale.costs import CostRules
    from algo_royale.exchange.wire import TWIN_COSTS

    known = [f.name for f in dataclasses.fields(CostRules)]
    changes: dict[str, Any] = {} if market == "sessions" else {"slippage_bps": Decimal(0)}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in known:
            raise UnknownName("cost rule", name, known)
        changes[name] = None if name == "price_tick" and value.lower() == "none" else _decimal(f"--cost {name}", value)
    return dataclasses.replace(TWIN_COSTS, **changes)
