"""`data list|verify|import`: what bars there are, what is wrong with them, and how more come in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.messages import print_json, print_table
from algo_royale.errors import BadInput, BadMarketData

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from algo_royale.data.catalog import Catalog
    from algo_royale.data.importing import Columns, Import
    from algo_royale.data.quality import Finding
    from algo_royale.market import Timeframe

TIMEFRAMES = ("1Min", "5Min", "15Min", "1Hour", "1Day")
SHOWN_MAX = 10
"""Findings of one kind and symbol that the report prints; `--json` has all."""

_data = click.option("--data", help="'bundled' or a folder; default [research] data.", show_default=False)
_timeframe = click.option(
    "--timeframe", type=click.Choice(TIMEFRAMES), help="Length of a bar; default what the bars look like.", show_default=False
)  # fmt: skip


@click.group(name="data")
def data_group() -> None:
    """Market data: what there is, what is wrong with it, and bars of your own.

    \b
    Examples:
      algo-royale data list
      algo-royale data import AAPL.csv IBM.csv --to ./bars
      algo-royale data verify --data ./bars
    """


# --- list ----------------------------------------------------------------------------------------------------------------


@data_group.command("list")
@_data
@_timeframe
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
    rows = [_listed(catalog, symbol, timeframe) for symbol in catalog.symbols()]
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


def _listed(catalog: "Catalog", symbol: str, wanted: str | None) -> dict[str, Any]:
    import numpy as np

    from algo_royale.data.quality import timeframe_of
    from algo_royale.market import Timeframe
    from algo_royale.sessions import calendar, new_york_date

    row: dict[str, Any] = dict.fromkeys(
        ("symbol", "bars", "first", "last", "count", "missing", "actions", "fingerprint", "error")
    )
    row["symbol"] = symbol
    try:
        timeframe = Timeframe(wanted) if wanted else timeframe_of(catalog.columns(symbol)[1]["timestamp"])
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
@_timeframe
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
    from algo_royale.market import Timeframe

    catalog = open_catalog(data or settings.config.research.data)
    reports = [
        _verified(catalog, symbol, Timeframe(timeframe) if timeframe else None)
        for symbol in dict.fromkeys(symbols or catalog.symbols())
    ]
    if settings.json:
        print_json({"source": catalog.name, "symbols": reports})
    else:
        _print_reports(reports)
    return int(any(report["errors"] for report in reports))


def _verified(catalog: "Catalog", symbol: str, timeframe: "Timeframe | None") -> dict[str, Any]:
    from algo_royale.data.quality import Finding, examine, timeframe_of
    from algo_royale.sessions import new_york_date

    report: dict[str, Any] = {"symbol": symbol, "bars": None, "count": 0, "first": None, "last": None}
    try:
        where, columns = catalog.columns(symbol)
        missing = [name for name in ("timestamp", "open", "high", "low", "close", "volume") if name not in columns]
        if missing or len(columns["timestamp"]) == 0:
            raise BadMarketData(f"{where}: no column {', '.join(missing)}" if missing else f"{where}: no rows")
        starts = columns["timestamp"]
        timeframe = timeframe or timeframe_of(starts)
        first, last = (str(new_york_date(int(at))) for at in (starts.min(), starts.max()))
        report |= {"bars": timeframe.value, "count": len(starts), "first": first, "last": last}
        findings = examine(symbol, columns, catalog.actions(symbol), timeframe)
    except BadMarketData as error:
        findings = [
            Finding(symbol=symbol, kind="unreadable", severity="error", first=None, last=None, count=1, what=str(error))
        ]
    report["errors"] = sum(finding.severity == "error" for finding in findings)
    report["warnings"] = len(findings) - report["errors"]
    report["findings"] = [_plain(finding) for finding in findings]
    return report


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


# --- import --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Plan:
    """What an import will write for one symbol."""

    columns: "Columns"
    timeframe: "Timeframe"
    counts: dict[str, int] = field(default_factory=lambda: {"added": 0, "same": 0, "replaced": 0})
    actions: int = 0


@data_group.command("import")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="[FILE]...")
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of <SYMBOL>.parquet; made if there is none.",
    show_default=False,
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=SOURCE",
    help="Our column NAME is SOURCE in the files, or none if SOURCE is empty; repeatable.",
    show_default=False,
)
@click.option(
    "--symbol", help="Symbol of the bars, where neither a column nor the file's name says.", show_default=False
)
@click.option("--timezone", default="America/New_York", help="Zone of times that name none.")
@_timeframe
@click.option(
    "--actions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="CSV or Parquet of splits and dividends: symbol, ex_date, split_new and split_old or ratio, cash_amount.",
    show_default=False,
)
@click.option(
    "--replace",
    is_flag=True,
    help="Let new bars win over contradicting ones, and new actions over all of their symbol.",
)
@click.option("--dry-run", is_flag=True, help="Read, check and show; write nothing.")
@click.pass_obj
def import_command(
    settings: "Settings", files: Sequence[Path], target: Path, columns: Sequence[str], symbol: str | None, timezone: str,
    timeframe: str | None, actions: Path | None, replace: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Bring the bars of each FILE (CSV, CSV.gz, Parquet) into a folder that `--data` reads.

    Which column is what is guessed and shown; --column decides otherwise. Dates are sessions in New York. Bars that are there
    already are joined: the same bar again is dropped, a contradicting one refused. Everything is read and checked before
    anything is written; one bad row, and nothing is. Without FILE, --actions is applied to what the folder holds.

    \b
    Examples:
      algo-royale data import AAPL.csv IBM.csv --to ./bars
      algo-royale data import prices.parquet --to ./bars --column close=Last --actions splits.csv
      algo-royale data import new.csv --symbol BRK.B --to ./bars --replace --dry-run
    """
    from algo_royale.data.catalog import write_parquet
    from algo_royale.data.importing import read_bars
    from algo_royale.market import Timeframe

    if not files and actions is None:
        raise BadInput("nothing to import: name a FILE, or --actions FILE for what the folder holds")
    chosen, symbol = _chosen(columns), _checked_symbol(symbol)
    _check_timezone(timezone)
    wanted = Timeframe(timeframe) if timeframe else None
    plans: dict[str, _Plan] = {}
    documents = []
    for path in files:
        found = read_bars(path, chosen=chosen, symbol=symbol, timezone=timezone, timeframe=wanted)
        documents.append(_mapped(path, found))
        if not settings.json:
            _print_mapping(documents[-1])
        for name, bars in found.bars.items():
            _add(plans, name, bars, found.timeframe, target, replace=replace)
    notes = _add_actions(plans, actions, target, replace=replace) if actions else []
    for name, plan in plans.items():
        _check(name, plan)
    if not dry_run:
        try:
            for name, plan in plans.items():
                write_parquet(target / f"{name}.parquet", plan.columns)
        except OSError as error:
            raise BadInput(f"cannot write to {target}: {error.strerror or error}") from error
    _print_written(settings, target, plans, documents, notes, dry_run=dry_run)


def _chosen(columns: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in columns]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise BadInput(f"--column {name}: say NAME=SOURCE, such as close=Last")
    return {name.strip(): source.strip() for name, _, source in pairs}


def _checked_symbol(symbol: str | None) -> str | None:
    from algo_royale.data.importing import TICKER

    if symbol is not None and not TICKER.fullmatch(symbol):
        raise BadInput(f"--symbol {symbol}: must be a ticker in capitals, such as AAPL or BRK.B")
    return symbol


def _check_timezone(name: str) -> None:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"--timezone {name}: no such time zone; say UTC or America/New_York, for example") from None


def _existing(plans: dict[str, _Plan], symbol: str, target: Path) -> _Plan | None:
    """What this import has made of the symbol so far, or what the folder holds of it."""
    from algo_royale.data.catalog import read_columns, symbol_files
    from algo_royale.data.importing import merge
    from algo_royale.data.quality import timeframe_of

    if symbol in plans:
        return plans[symbol]
    path = symbol_files(target).get(symbol)
    if path is None:
        return None
    if path.suffix != ".parquet":
        raise BadInput(f"{path} holds bars of {symbol} already; move it away and import it with the others")
    columns = merge(symbol, None, dict(read_columns(path)), replace=False).columns
    return _Plan(columns, timeframe_of(columns["timestamp"]))


def _add(
    plans: dict[str, _Plan], symbol: str, bars: "Columns", timeframe: "Timeframe", target: Path, *, replace: bool
) -> None:
    from algo_royale.data.importing import merge

    old = _existing(plans, symbol, target)
    if old is not None and old.timeframe is not timeframe:
        raise BadInput(
            f"{symbol}: {target} holds {old.timeframe.value} bars and these are {timeframe.value}; give them a folder of their own, or say --timeframe"
        )
    merged = merge(symbol, old.columns if old else None, bars, replace=replace)
    plan = plans[symbol] = old or _Plan(merged.columns, timeframe)
    plan.columns = merged.columns
    for name in plan.counts:
        plan.counts[name] += getattr(merged, name)


def _add_actions(plans: dict[str, _Plan], path: Path, target: Path, *, replace: bool) -> list[str]:
    """Put the actions of the symbols at hand into their bars: those imported now, or all of the folder if none are."""
    from algo_royale.data.catalog import symbol_files
    from algo_royale.data.importing import add_actions, read_actions

    found = read_actions(path)
    for symbol in symbol_files(target) if not plans else ():
        if symbol in found and (plan := _existing(plans, symbol, target)) is not None:
            plans[symbol] = plan
    if not plans:
        raise BadInput(f"{path.name}: none of its symbols is in {target}: {', '.join(sorted(found)[:12])}")
    notes = [f"{symbol}: no actions in {path.name}" for symbol in plans if symbol not in found]
    for symbol, plan in plans.items():
        if symbol in found:
            plan.columns, more = add_actions(symbol, plan.columns, found[symbol], replace=replace)
            notes += more
    return notes


def _check(symbol: str, plan: _Plan) -> None:
    """The catalogue must be able to use what is written: the same checks that it makes."""
    from algo_royale.data.catalog import Catalog

    catalog = Catalog("import", [symbol], lambda name: (f"{name}.parquet", plan.columns))
    catalog.bars(symbol, plan.timeframe)
    plan.actions = len(catalog.actions(symbol))


def _mapped(path: Path, found: "Import") -> dict[str, Any]:
    return {
        "file": str(path), "timeframe": found.timeframe.value, "columns": dict(found.mapping.sources),
        "time_of_day": found.mapping.time_of_day, "symbols": list(found.bars), "notes": list(found.notes),
        "ignored": dict(found.mapping.ignored),
    }  # fmt: skip


def _print_mapping(document: Mapping[str, Any]) -> None:
    """On stderr, before anything is written."""
    pairs = [f"{name}={source}" if name != source else name for name, source in document["columns"].items()]
    beside = f" with {document['time_of_day']}" if document["time_of_day"] else ""
    symbols = ", ".join(document["symbols"][:8]) + (", ..." if len(document["symbols"]) > 8 else "")
    click.echo(f"{document['file']}: {document['timeframe']} bars of {symbols}: {', '.join(pairs)}{beside}", err=True)
    for name, why in document["ignored"].items():
        click.echo(f"  ignored {name}: {why}", err=True)
    for note in document["notes"]:
        click.echo(f"  {note}", err=True)


def _print_written(
    settings: "Settings", target: Path, plans: Mapping[str, _Plan], files: Sequence[Mapping[str, Any]],
    notes: Sequence[str], *, dry_run: bool,
) -> None:  # fmt: skip
    rows = []
    for symbol, plan in sorted(plans.items()):
        times = plan.columns["timestamp"]
        first, last = (str(_day(int(at))) for at in (times[0], times[-1]))
        rows.append(
            {
                "symbol": symbol, "file": str(target / f"{symbol}.parquet"), "bars": plan.timeframe.value,
                "count": len(times), **plan.counts, "actions": plan.actions, "first": first, "last": last,
            }
        )  # fmt: skip
    if settings.json:
        print_json({"written": not dry_run, "files": list(files), "symbols": rows, "notes": list(notes)})
        return
    for note in notes:
        click.echo(note, err=True)
    headers = ("symbol", "bars", "first", "last", "count", "added", "same", "replaced", "actions")
    print_table(headers, [[row[name] for name in headers] for row in rows], right=headers[4:])
    click.echo(
        f"dry run: nothing is written to {target}" if dry_run else f"written to {target}; use it with --data {target}",
        err=True,
    )


def _day(at_ns: int) -> date:
    from algo_royale.sessions import new_york_date

    return new_york_date(at_ns)
