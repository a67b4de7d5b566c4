"""`data fetch`: Alpaca's history into a folder of bars, page by page, so that whatever stops it, the next one goes on from there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.data_writing import (
    TIMEFRAMES,
    Plans,
    add_bars,
    existing,
    print_written,
    sole_writer,
    target_option,
    write_plans,
)
from algo_royale.errors import BadConfiguration, BadInput, BadMarketData, BrokerRejected, BrokerUnavailable

if TYPE_CHECKING:
    from actors.alpaca import AlpacaRest
    from algo_royale.app.cli import Settings
    from algo_royale.broker.port import Wire
    from algo_royale.data.importing import Columns
    from algo_royale.market import Timeframe

PAGE = 10_000
"""Bars of one request: the most that Alpaca gives."""
RETRIES = 5
"""Times that one request is repeated by the transport, which waits as long as it is told, or up to half a minute."""
LOST_MAX = 3
"""Times in a row that an answer may be lost half way before we give up."""
SIP_DELAY_NS = 16 * 60 * 1_000_000_000
"""Without a subscription the last quarter of an hour of all exchanges is refused; so it waits for the next time."""
_RESOLUTION_NS = 1_000
"""Of the times in a request."""
EARLIEST = "2016-01-01"
"""Where Alpaca's history begins."""


@click.command("fetch")
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@target_option
@click.option("--timeframe", type=click.Choice(TIMEFRAMES), default="1Day", help="Length of a bar.")
@click.option(
    "--start", type=click.DateTime(["%Y-%m-%d"]), default=EARLIEST, metavar="DATE", help="First session that is wanted."
)
@click.option(
    "--end", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="Last one; default the newest that is over.",
    show_default=False,
)  # fmt: skip
@click.option(
    "--feed", type=click.Choice(["iex", "sip"]), help="Whose prices; default [broker] feed.", show_default=False
)
@click.option("--actions/--no-actions", default=True, help="Whether splits and dividends are fetched as well.")
@click.option(
    "--replace", is_flag=True, help="Let what Alpaca says win over contradicting bars and actions that are there."
)
@click.pass_obj
def fetch_command(
    settings: "Settings", /, symbols: Sequence[str], target: Path, timeframe: str, feed: str | None, actions: bool,
    replace: bool, **span: Any,
) -> int:  # fmt: skip
    """Fetch the bars of each SYMBOL from Alpaca, with its splits and dividends, into a folder that `--data` reads.

    What is there already is not fetched again: the same command brings a folder up to date, and goes on where one that was
    interrupted has ended. Prices are raw. Every page is checked before it is written; a bar that contradicts one that is
    there is refused. Rate limits are waited for. Exit code 1 if anything of a symbol could not be had.

    \b
    Examples:
      algo-royale --env prod_paper data fetch AAPL IBM --to ./bars
      algo-royale --env prod_paper data fetch SPY --timeframe 1Min --start 2024-01-02 --feed sip --to ./bars
    """
    from algo_royale.clock import WallClock
    from algo_royale.data.importing import TICKER
    from algo_royale.market import Timeframe

    for symbol in symbols:
        if not TICKER.fullmatch(symbol):
            raise BadInput(f"{symbol}: must be a ticker in capitals, such as AAPL or BRK.B")
    feed = feed or settings.config.broker.feed
    now_ns = WallClock().now_ns() - (SIP_DELAY_NS if feed == "sip" else 0)
    span_ns = _span(span["start"].date(), span["end"].date() if span["end"] else None, now_ns)
    rest = _client(settings, feed)
    fetching = _Fetching(rest, target, Timeframe(timeframe), now_ns, replace=replace)
    with sole_writer(target):
        try:
            for symbol in dict.fromkeys(symbols):
                fetching.fetch(symbol, span_ns, with_actions=actions)
        except BrokerUnavailable as error:
            fetching.failures.append(f"{error}; what has come is kept, and the same command goes on from there")
        finally:
            rest.close()
    if fetching.plans:
        print_written(settings, target, fetching.plans, (), fetching.notes, dry_run=False)
    for failure in fetching.failures:
        click.echo(f"error: {' '.join(failure.split())}", err=True)
    return int(bool(fetching.failures))


def _span(start: date, end: date | None, now_ns: int) -> tuple[int, int]:
    """[from, until) in UTC nanoseconds: bars that start later than now are never asked for."""
    from datetime import timedelta

    from algo_royale.sessions import new_york_ns

    until = now_ns if end is None else min(now_ns, new_york_ns(end + timedelta(days=1)))
    if new_york_ns(start) >= until:
        raise BadInput(f"--start {start} is after --end {end}" if end else f"--start {start} is still to come")
    return new_york_ns(start), until


def _client(settings: "Settings", feed: str) -> "AlpacaRest":
    broker = settings.config.broker
    if broker.is_twin:
        raise BadConfiguration(
            f"{settings.env} has no market data server; say --env prod_paper, or give [broker] the addresses of a running one"
        )
    keys = settings.keys()
    if keys is None:
        raise BadConfiguration("no broker keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY, or [broker] keys_file")
    from actors.alpaca import AlpacaRest  # late: it takes a second

    key, secret = keys.pair()
    return AlpacaRest(
        key=key, secret=secret, trading_url=broker.trading_url, data_url=broker.data_url, feed=feed,
        data_retries=RETRIES, timeouts_s=broker.timeouts_s,
    )  # fmt: skip


@dataclass(slots=True)
class _Range:
    """Bars that start in [low, high) are missing; asked for in the order in which they join what is there."""

    low: int
    high: int
    newest_first: bool


class _Fetching:
    """What one command has fetched so far. `plans` holds what is on disk of every symbol at hand."""

    def __init__(self, rest: "AlpacaRest", target: Path, timeframe: "Timeframe", now_ns: int, *, replace: bool) -> None:
        self.plans: Plans = {}
        self.failures: list[str] = []
        self.notes: list[str] = []
        self._rest, self._target, self._timeframe, self._now_ns = rest, target, timeframe, now_ns
        self._replace = replace

    def fetch(self, symbol: str, span_ns: tuple[int, int], *, with_actions: bool) -> None:
        """Fetch what is missing of one symbol and write it, page by page. What is wrong with it alone goes to `failures`.

        Raises BrokerUnavailable, and BrokerRejected where the keys, or the feed for these keys, are refused.
        """
        try:
            for wanted in self._missing(symbol, span_ns):
                for columns in self._pages(symbol, wanted):
                    self._write(symbol, columns)
            if existing(self.plans, symbol, self._timeframe, self._target) is None:
                raise BadMarketData(f"Alpaca has no {self._timeframe.value} bars of it from {_day(span_ns[0])} on")
            if with_actions:
                self._fetch_actions(symbol)
        except (BadMarketData, BrokerRejected) as error:
            if isinstance(error, BrokerRejected) and error.status in (401, 403):
                raise  # the keys, or what they have subscribed to: every symbol would meet it
            self.failures.append(str(error) if str(error).startswith(symbol) else f"{symbol}: {error}")

    def _missing(self, symbol: str, span_ns: tuple[int, int]) -> Iterator[_Range]:
        """What lies after the bars that are there, beginning with the last of them, which must be told the same; and before.

        The part before is fetched from its end, so that what an interruption leaves has no hole.
        """
        low, high = span_ns
        plan = existing(self.plans, symbol, self._timeframe, self._target)
        if plan is None:
            yield _Range(low, high, newest_first=False)
            return
        self.plans[symbol, self._timeframe] = plan
        first, last = (int(plan.columns["timestamp"][i]) for i in (0, -1))
        if last < high:
            yield _Range(last, high, newest_first=False)
        if low < first:
            yield _Range(low, first, newest_first=True)

    def _pages(self, symbol: str, wanted: _Range) -> "Iterator[Columns]":
        """The bars of a range, a page at a time and each in order of time, without those that are not over."""
        from algo_royale.broker.alpaca_wire import parse_time_ns

        low, high = wanted.low, wanted.high
        while low < high:
            rows = self._page(symbol, low, high, newest_first=wanted.newest_first)
            starts = [parse_time_ns(row.get("t", "")) for row in rows]
            good = self._checked(symbol, rows, starts)
            if len(good["timestamp"]):
                yield good
            if len(rows) < PAGE:
                return
            low, high = (low, min(starts)) if wanted.newest_first else (max(starts) + _RESOLUTION_NS, high)

    def _page(self, symbol: str, low: int, high: int, *, newest_first: bool) -> "list[Wire]":
        """One answer. An answer that is lost half way is asked for again: the transport repeats only what has not begun."""
        from requests.exceptions import ChunkedEncodingError

        for lost in range(LOST_MAX + 1):
            try:
                return self._rest.bars(
                    symbol=symbol, timeframe=self._timeframe.value, start_ns=low, end_ns=high, limit=PAGE, newest_first=newest_first
                )  # fmt: skip
            except BrokerUnavailable as error:
                if lost == LOST_MAX or not isinstance(error.__cause__, ChunkedEncodingError):
                    raise
        raise AssertionError("the loop returns or raises")

    def _checked(self, symbol: str, rows: "Sequence[Wire]", starts: list[int]) -> "Columns":
        """Bars as columns in order of time. What cannot be true is left out and said; what is not over waits for the next time."""
        import numpy as np

        from algo_royale.broker.alpaca_wire import bar_row
        from algo_royale.sessions import calendar

        found: dict[int, dict[str, Any]] = {}
        for start, row in zip(starts, rows, strict=True):
            fields = bar_row(row, timeframe=self._timeframe, calendar=calendar())
            if fields is None:
                self.failures.append(f"{symbol}: a bar that cannot be true is left out: {dict(row)}")
            elif fields["end_ns"] <= self._now_ns:
                found[start] = fields
        bars = [found[start] for start in sorted(found)]
        columns: Columns = {"timestamp": np.array(sorted(found), np.int64)}
        for name in ("open", "high", "low", "close", "volume", "vwap", "trade_count"):
            columns[name] = np.array([np.nan if bar[name] is None else bar[name] for bar in bars], np.float64)
        columns["vwap"][columns["vwap"] == 0.0] = np.nan  # how Alpaca spells a bar without trades
        return columns

    def _write(self, symbol: str, columns: "Columns") -> None:
        plan = add_bars(self.plans, symbol, columns, self._timeframe, self._target, replace=self._replace)
        write_plans({(symbol, self._timeframe): plan}, self._target)
        times = columns["timestamp"]
        told = f"{len(times)} bars, {_day(int(times[0]))} to {_day(int(times[-1]))}; {len(plan.columns['timestamp'])} in all"
        click.echo(f"{symbol}: {told}", err=True)

    def _fetch_actions(self, symbol: str) -> None:
        """Splits and dividends over all the bars there are, put into the rows of their ex-dates."""
        from algo_royale.broker.alpaca_wire import BadWire, actions
        from algo_royale.data.importing import add_actions

        plan = self.plans[symbol, self._timeframe]
        first, last = (_day(int(plan.columns["timestamp"][i])) for i in (0, -1))
        try:
            wire = self._rest.corporate_actions(symbol=symbol, start=first.isoformat(), end=last.isoformat())
            told = actions(wire).get(symbol, [])
        except BadWire as error:
            raise BadMarketData(f"{symbol}: corporate actions: {error}") from error
        found = [(date.fromisoformat(row["ex_date"]), row["ratio"], row["cash_usd"]) for row in told]
        plan.actions = len(found)
        if found:
            plan.columns, notes = add_actions(symbol, plan.columns, found, replace=self._replace)
            self.notes += notes
            write_plans({(symbol, self._timeframe): plan}, self._target)


def _day(at_ns: int) -> date:
    from algo_royale.sessions import new_york_date

    return new_york_date(at_ns)
