"""`data list|verify`: what bars there are and what is wrong with them; and the group of the commands that bring in more."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.data_fetch import fetch_command
from algo_royale.app.cli.data_writing import import_command, resample_command, timeframe_option
from algo_royale.app.cli.messages import print_json, print_table
from algo_royale.errors import BadInput, BadMarketData

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from algo_royale.data.catalog import Catalog
    from algo_royale.data.quality import Finding
    from algo_royale.market import Timeframe

SHOWN_MAX = 10
"""Findings of one kind and symbol that the report prints; `--json` has all."""

_data = click.option("--data", help="'bundled' or a folder; default [research] data.", show_default=False)


@click.group(name="data")
def data_group() -> None:
    """Market data: what there is, what is wrong with it, and bars of your own.

    \b
    Examples:
      algo-royale data list
      algo-royale data import AAPL.csv IBM.csv --to ./bars
      algo-royale data verify --data ./bars
    """


data_group.add_command(import_command)
data_group.add_command(fetch_command)
data_group.add_command(resample_command)


def _chosen(catalog: "Catalog", symbols: Sequence[str], wanted: str | None) -> "Iterator[tuple[str, Timeframe | None]]":
    """Each symbol with each length of bars that it has, or with the one that is wanted; None where the file cannot be read."""
    from algo_royale.market import Timeframe

    found = False
    for symbol in symbols:
        try:
            there = catalog.timeframes(symbol)
        except BadMarketData:
            yield symbol, None
            found = True
            continue
        for timeframe in there if wanted is None else (Timeframe(wanted),):
            if wanted is None or catalog.holds(symbol, timeframe):
                yield symbol, timeframe
                found = True
    if not found:
        raise BadInput(f"no {wanted} bars of {', '.join(symbols)} in {catalog.name}")


# --- list ----------------------------------------------------------------------------------------------------------------


@data_group.command("list")
@_data
@timeframe_option
@click.pass_obj
def list_command(settings: "Settings", data: str | None, timeframe: str | None) -> int:
    """List the symbols of a source, with what the calendar misses in them and their fingerprint.

    The fingerprint covers bars and actions; it changes when either does. Exit code 1 if a symbol cannot be read.

    \b
    Examples:
      algo-royale data list
      algo-royale data list --data ./bars --json
    """
    from algo_royale.data.catalog import open_catalog

    catalog = open_catalog(data or settings.config.research.data)
    rows = [_listed(catalog, *one) for one in _chosen(catalog, catalog.symbols(), timeframe)]
    if settings.json:
        print_json({"source": catalog.name, "symbols": rows})
    else:
        good = [row for row in rows if row["error"] is None]
        headers = ("symbol", "bars", "first", "last", "count", "missing", "actions", "fingerprint")
        print_table(
            headers, [[str(row[h])[:12] if h == "fingerprint" else row[h] for h in headers] for row in good],
            right=("count", "missing", "actions"),
        )  # fmt: skip
        for row in rows:
            if row["error"] is not None:
                click.echo(f"error: {row['error']}", err=True)
    return int(any(row["error"] is not None for row in rows))


def _listed(catalog: "Catalog", symbol: str, timeframe: "Timeframe | None") -> dict[str, Any]:
    import numpy as np

    from algo_royale.sessions import calendar, new_york_date

    row: dict[str, Any] = dict.fromkeys(
        ("symbol", "bars", "first", "last", "count", "missing", "actions", "fingerprint", "error")
    )
    row["symbol"] = symbol
    try:
        timeframe = timeframe or catalog.timeframes(symbol)[0]
        bars = catalog.bars(symbol, timeframe)
        first, last = (new_york_date(int(bars.start_ns[at])) for at in (0, -1))
        sessions = calendar().sessions(first, last)
        with_bars = len(np.unique(np.searchsorted([s.label_ns for s in sessions], bars.start_ns, side="right")))
        row |= {
            "bars": timeframe.value, "first": str(first), "last": str(last), "count": len(bars),
            "missing": len(sessions) - with_bars, "actions": len(catalog.actions(symbol)),
            "fingerprint": catalog.fingerprint([symbol], timeframe),
        }  # fmt: skip
    except BadMarketData as error:
        row["error"] = str(error)
    return row


# --- verify --------------------------------------------------------------------------------------------------------------


@data_group.command("verify")
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@_data
@timeframe_option
@click.pass_obj
def verify_command(settings: "Settings", symbols: Sequence[str], data: str | None, timeframe: str | None) -> int:
    """Report what is wrong with the bars of each SYMBOL (default all), and what to do about it.

    Looks for missing sessions, bars that cannot be true, duplicates, bad prints, large moves, splits and dividends that the
    prices contradict, and prices that stand still. Exit code 1 if anything is an error, 0 if there are only warnings.

    \b
    Examples:
      algo-royale data verify
      algo-royale data verify --data ./bars AAPL IBM
      algo-royale data verify --data ./bars --json
    """
    from algo_royale.data.catalog import open_catalog

    catalog = open_catalog(data or settings.config.research.data)
    chosen = list(_chosen(catalog, list(dict.fromkeys(symbols or catalog.symbols())), timeframe))
    reports = [_verified(catalog, *one) for one in chosen]
    _add_late(reports)
    for report in reports:
        findings = report["findings"]
        report["errors"] = sum(finding.severity == "error" for finding in findings)
        report["warnings"] = len(findings) - report["errors"]
        report["findings"] = [_plain(finding) for finding in findings]
    if settings.json:
        print_json({"source": catalog.name, "symbols": reports})
    else:
        _print_reports(reports)
    return int(any(report["errors"] for report in reports))


def _verified(catalog: "Catalog", symbol: str, timeframe: "Timeframe | None") -> dict[str, Any]:
    """What there is of a symbol's bars, and as `findings` what is wrong with them."""
    from algo_royale.data.quality import Finding, examine
    from algo_royale.sessions import new_york_date

    report: dict[str, Any] = {"symbol": symbol, "bars": None, "count": 0, "first": None, "last": None}
    try:
        timeframe = timeframe or catalog.timeframes(symbol)[0]
        where, columns = catalog.columns(symbol, timeframe)
        missing = [name for name in ("timestamp", "open", "high", "low", "close", "volume") if name not in columns]
        if missing or len(columns["timestamp"]) == 0:
            raise BadMarketData(f"{where}: no column {', '.join(missing)}" if missing else f"{where}: no rows")
        starts = columns["timestamp"]
        first, last = (str(new_york_date(int(at))) for at in (starts.min(), starts.max()))
        report |= {"bars": timeframe.value, "count": len(starts), "first": first, "last": last}
        report["findings"] = examine(symbol, columns, catalog.actions(symbol), timeframe)
    except BadMarketData as error:
        report["findings"] = [
            Finding(symbol=symbol, kind="unreadable", severity="error", first=None, last=None, count=1, what=str(error))
        ]
    return report


def _add_late(reports: Sequence[Mapping[str, Any]]) -> None:
    """A symbol whose bars end before those of the others is out of date, or is traded no more."""
    from datetime import date

    from algo_royale.data.quality import late

    ends = {i: date.fromisoformat(report["last"]) for i, report in enumerate(reports) if report["last"]}
    for i, end in ends.items():
        same = [other for j, other in ends.items() if reports[j]["bars"] == reports[i]["bars"]]
        reports[i]["findings"].extend(late(reports[i]["symbol"], end, max(same)))


def _plain(finding: "Finding") -> dict[str, Any]:
    day = {"first": finding.first, "last": finding.last}
    return {
        "severity": finding.severity, "kind": finding.kind, **{k: v and v.isoformat() for k, v in day.items()},
        "count": finding.count, "what": finding.what, "advice": finding.advice,
    }  # fmt: skip


def _print_reports(reports: Iterable[Mapping[str, Any]]) -> None:
    """A line per symbol and finding; what to do about each kind below them, once."""
    advice: dict[str, str] = {}
    for report in reports:
        span = (
            f"{report['count']} bars of {report['bars']}, {report['first']} to {report['last']}: "
            if report["bars"]
            else ""
        )
        counts = f"{_count(report['errors'], 'error')}, {_count(report['warnings'], 'warning')}"
        verdict = counts if report["findings"] else "nothing found"
        click.echo(click.style(report["symbol"], bold=True) + f"  {span}{verdict}")
        shown: dict[str, int] = {}
        for finding in report["findings"]:
            shown[finding["kind"]] = shown.get(finding["kind"], 0) + 1
            if shown[finding["kind"]] > SHOWN_MAX:
                continue
            advice[finding["kind"]] = finding["advice"]
            days = finding["first"] or ""
            days += f"..{finding['last']}" if finding["last"] != finding["first"] else ""
            colour = "red" if finding["severity"] == "error" else "yellow"
            click.echo(
                f"  {click.style(finding['severity'].ljust(7), fg=colour)}  {days}  {finding['kind']}: {finding['what']}"
            )
        for kind, count in shown.items():
            if count > SHOWN_MAX:
                click.echo(f"  {count - SHOWN_MAX} more of {kind}; --json has all")
    if advice:
        click.echo("\nwhat to do")
        for kind, text in advice.items():
            click.echo(f"  {kind}: {text}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
