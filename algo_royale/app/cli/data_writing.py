"""`data import|resample|fetch`: how bars come into a folder, one writer at a time and each file whole or not at all."""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.messages import print_json, print_table
from algo_royale.errors import AlreadyRunning, BadInput, BadMarketData

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from algo_royale.data.catalog import Catalog, Read
    from algo_royale.data.importing import Columns, Import
    from algo_royale.market import Bars, SymbolChange, Timeframe

TIMEFRAMES = ("1Min", "5Min", "15Min", "1Hour", "1Day")
target_option = click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder that will hold <timeframe>/<SYMBOL>.parquet; made if there is none.",
    show_default=False,
)
timeframe_option = click.option(
    "--timeframe", type=click.Choice(TIMEFRAMES), help="Length of a bar; default what the bars look like.", show_default=False
)  # fmt: skip


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Nobody else writes to the folder meanwhile; the operating system drops the lock with the process.

    Raises AlreadyRunning, or BadInput when there can be no such folder. A folder that stays empty is not left behind.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AlreadyRunning(f"another process is writing to {folder}; wait until it has ended") from None
    finally:
        os.close(handle)
        if new and not any(folder.iterdir()):
            folder.rmdir()


# --- import --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Plan:
    """What will be written of one symbol's bars of one length."""

    columns: "Columns"
    timeframe: "Timeframe"
    path: Path
    counts: dict[str, int] = field(default_factory=lambda: {"added": 0, "same": 0, "replaced": 0})
    actions: int = 0


@click.command("import")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="[FILE]...")
@target_option
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
@timeframe_option
@click.option(
    "--actions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="CSV or Parquet of splits and dividends: symbol, ex_date, split_new and split_old or ratio, cash_amount.",
    show_default=False,
)
@click.option(
    "--changes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="CSV or Parquet of symbol changes: old_symbol, new_symbol, date of the first session under the new name.",
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
    timeframe: str | None, actions: Path | None, changes: Path | None, replace: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Bring the bars of each FILE (CSV, CSV.gz, Parquet) into a folder that `--data` reads.

    Which column is what is guessed and shown; --column decides otherwise. Dates are sessions in New York. Bars that are there
    already are joined: the same bar again is dropped, a contradicting one refused. Everything is read and checked before
    anything is written; one bad row, and nothing is. Without FILE, --actions and --changes are applied to what the folder holds.

    \b
    Examples:
      algo-royale data import AAPL.csv IBM.csv --to ./bars
      algo-royale data import prices.parquet --to ./bars --column close=Last --actions splits.csv
      algo-royale data import new.csv --symbol BRK.B --to ./bars --replace --dry-run
    """
    from algo_royale.data.catalog import CHANGES, write_changes
    from algo_royale.data.importing import read_bars
    from algo_royale.market import Timeframe

    if not files and actions is None and changes is None:
        raise BadInput("nothing to import: name a FILE, or --actions or --changes FILE for what the folder holds")
    chosen, symbol = _chosen(columns), _checked_symbol(symbol)
    _check_timezone(timezone)
    wanted = Timeframe(timeframe) if timeframe else None
    found_files = []
    for path in files:
        found = read_bars(path, chosen=chosen, symbol=symbol, timezone=timezone, timeframe=wanted)
        found_files.append((_mapped(path, found), found))
        if not settings.json:
            _print_mapping(found_files[-1][0])
    with sole_writer(target):
        plans: Plans = {}
        for _, found in found_files:
            for name, bars in found.bars.items():
                add_bars(plans, name, bars, found.timeframe, target, replace=replace)
        notes = _add_actions(plans, actions, target, replace=replace) if actions else []
        renamed = _all_changes(target, changes, replace=replace)
        notes += [f"{change.new} was {change.old} before {change.day}" for change in renamed]
        check_plans(plans)
        if not dry_run:
            write_plans(plans, target)
        if renamed and not dry_run:
            write_changes(target / CHANGES, renamed)
    print_written(settings, target, plans, [document for document, _ in found_files], notes, dry_run=dry_run)


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


Plans = dict[tuple[str, "Timeframe"], Plan]


def existing(plans: Plans, symbol: str, timeframe: "Timeframe", target: Path) -> Plan | None:
    """What has been planned of these bars so far, or what the folder holds of them."""
    from algo_royale.data.catalog import bar_files, read_columns
    from algo_royale.data.importing import merge
    from algo_royale.data.quality import timeframe_of

    if (symbol, timeframe) in plans:
        return plans[symbol, timeframe]
    files = bar_files(target)
    for path in (files.get((symbol, timeframe)), files.get((symbol, None))):
        if path is None:
            continue
        columns = dict(read_columns(path))
        if path.parent == target and "timestamp" in columns and timeframe_of(columns["timestamp"]) is not timeframe:
            continue
        if path.suffix != ".parquet":
            raise BadInput(f"{path} holds bars of {symbol} already; move it away and import it with the others")
        return Plan(merge(symbol, None, columns, replace=False).columns, timeframe, path)
    return None


def add_bars(
    plans: Plans, symbol: str, bars: "Columns", timeframe: "Timeframe", target: Path, *, replace: bool
) -> Plan:
    """Plan to join these bars to what there is of them."""
    from algo_royale.data.importing import merge

    old = existing(plans, symbol, timeframe, target)
    merged = merge(symbol, old.columns if old else None, bars, replace=replace)
    path = target / timeframe.value / f"{symbol}.parquet"
    plan = plans[symbol, timeframe] = old or Plan(merged.columns, timeframe, path)
    plan.columns = merged.columns
    for name in plan.counts:
        plan.counts[name] += getattr(merged, name)
    return plan


def _add_actions(plans: Plans, path: Path, target: Path, *, replace: bool) -> list[str]:
    """Put the actions of the symbols at hand into their bars: those imported now, or all of the folder if none are."""
    from algo_royale.data.catalog import bar_files, open_catalog
    from algo_royale.data.importing import add_actions, read_actions

    found = read_actions(path)
    if not plans and bar_files(target):
        there = open_catalog(target)
        for symbol in (s for s, _ in bar_files(target) if s in found):
            for timeframe in there.timeframes(symbol):
                if (plan := existing(plans, symbol, timeframe, target)) is not None:
                    plans[symbol, timeframe] = plan
    if not plans:
        raise BadInput(f"{path.name}: none of its symbols is in {target}: {', '.join(sorted(found)[:12])}")
    notes = [f"{symbol}: no actions in {path.name}" for symbol, _ in plans if symbol not in found]
    for (symbol, _), plan in plans.items():
        if symbol in found:
            plan.columns, more = add_actions(symbol, plan.columns, found[symbol], replace=replace)
            notes += more
    return list(dict.fromkeys(notes))


def _all_changes(target: Path, file: Path | None, *, replace: bool) -> "list[SymbolChange]":
    """The folder's symbol changes and the file's; with `replace` the file's are all there are. Empty if there is no file."""
    from algo_royale.data.catalog import CHANGES, read_changes

    if file is None:
        return []
    there = target / CHANGES
    before = read_changes(there) if there.exists() and not replace else ()
    found: dict[tuple[str, date], SymbolChange] = {}
    for change in (*before, *read_changes(file)):
        if found.setdefault((change.new, change.day), change) != change:
            raise BadMarketData(
                f"{file.name}: on {change.day} {change.old} became {change.new}, but {there} says "
                f"{found[change.new, change.day].old}; --replace takes the new one"
            )
    return list(found.values())


def check_plans(plans: Plans) -> None:
    """The catalogue must be able to use what is written: the same checks that it makes."""
    from algo_royale.data.catalog import Catalog

    for (symbol, timeframe), plan in plans.items():
        catalog = Catalog("import", {symbol: (timeframe,)}, _reader(plan.columns))
        catalog.bars(symbol, timeframe)
        plan.actions = len(catalog.actions(symbol))


def _reader(columns: "Columns") -> "Read":
    return lambda symbol, _: (f"{symbol}.parquet", columns)


def write_plans(plans: Plans, target: Path) -> None:
    """Replace the files one by one."""
    from algo_royale.data.catalog import write_parquet

    try:
        for plan in plans.values():
            write_parquet(plan.path, plan.columns)
    except OSError as error:
        raise BadInput(f"cannot write to {target}: {error.strerror or error}") from error


def _mapped(path: Path, found: "Import") -> dict[str, Any]:
    return {
        "file": str(path), "timeframe": found.timeframe.value, "columns": dict(found.mapping.sources),
        "time_of_day": found.mapping.time_of_day, "symbols": list(found.bars), "notes": list(found.notes),
        "ignored": dict(found.mapping.ignored), "extra": list(found.mapping.extra),
    }  # fmt: skip


def _print_mapping(document: Mapping[str, Any]) -> None:
    """On stderr, before anything is written."""
    pairs = [f"{name}={source}" if name != source else name for name, source in document["columns"].items()]
    pairs += [f"{name} (true or false)" for name in document["extra"]]
    beside = f" with {document['time_of_day']}" if document["time_of_day"] else ""
    symbols = ", ".join(document["symbols"][:8]) + (", ..." if len(document["symbols"]) > 8 else "")
    click.echo(f"{document['file']}: {document['timeframe']} bars of {symbols}: {', '.join(pairs)}{beside}", err=True)
    for name, why in document["ignored"].items():
        click.echo(f"  ignored {name}: {why}", err=True)
    for note in document["notes"]:
        click.echo(f"  {note}", err=True)


def print_written(
    settings: "Settings", target: Path, plans: Plans, files: Sequence[Mapping[str, Any]],
    notes: Sequence[str], *, dry_run: bool,
) -> None:  # fmt: skip
    rows = []
    for (symbol, timeframe), plan in sorted(plans.items(), key=lambda item: (item[0][0], item[0][1].minutes)):
        times = plan.columns["timestamp"]
        first, last = (str(_day(int(at))) for at in (times[0], times[-1]))
        rows.append(
            {
                "symbol": symbol, "file": str(plan.path), "bars": timeframe.value,
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


# --- resample ------------------------------------------------------------------------------------------------------------


@click.command("resample")
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@click.option("--data", help="A folder of bars; default [research] data.", show_default=False)
@click.option(
    "--from",
    "shorter",
    type=click.Choice(TIMEFRAMES[:-1]),
    help="Length of the bars there are; default the shortest there are of the symbol.",
    show_default=False,
)
@click.option(
    "--to",
    "longer",
    type=click.Choice(TIMEFRAMES[1:]),
    multiple=True,
    required=True,
    help="Length of the bars to make; repeatable.",
    show_default=False,
)
@click.option("--replace", is_flag=True, help="Let the made bars win over contradicting ones that are there.")
@click.pass_obj
def resample_command(
    settings: "Settings", symbols: Sequence[str], data: str | None, shorter: str | None, longer: Sequence[str], replace: bool
) -> None:  # fmt: skip
    """Make longer bars of the shorter ones of each SYMBOL (default all) in a folder, beside them.

    Bars lie on the clock of New York as Alpaca's do (the hour of the open is 09:00 and holds half an hour), never cross a
    session, and end with it on half days. A last bar that is not complete is left out. Splits and dividends come along.

    \b
    Examples:
      algo-royale data resample --data ./bars --to 5Min --to 1Hour
      algo-royale data resample AAPL --data ./bars --from 1Min --to 1Day --replace
    """
    from algo_royale.data.catalog import open_catalog

    source = data or settings.config.research.data
    if source == "bundled":
        raise BadInput("the bundled bars are daily and stay as they are; name a folder with --data")
    catalog, target = open_catalog(source), Path(source)
    with sole_writer(target):
        plans: Plans = {}
        notes = []
        for symbol in dict.fromkeys(symbols or catalog.symbols()):
            for length in dict.fromkeys(longer):
                notes += _plan_longer(plans, catalog, symbol, shorter, length, target, replace=replace)
        check_plans(plans)
        write_plans(plans, target)
    print_written(settings, target, plans, (), notes, dry_run=False)


def _plan_longer(
    plans: Plans, catalog: "Catalog", symbol: str, shorter: str | None, longer: str, target: Path, *, replace: bool
) -> list[str]:
    """Plan one symbol's bars of one length; returns what is worth saying."""
    from algo_royale.data.importing import add_actions
    from algo_royale.data.resample import Resampler
    from algo_royale.market import Timeframe

    source = Timeframe(shorter) if shorter else catalog.timeframes(symbol)[0]
    resampler = Resampler(Timeframe(longer))
    made = resampler.update(catalog.bars(symbol, source))
    notes = [f"{symbol}: the last {longer} bar is not complete and left out"] if resampler.under_way else []
    if not len(made):
        return notes
    plan = add_bars(plans, symbol, _columns_of(made), resampler.timeframe, target, replace=replace)
    actions = [(action.ex_date, action.ratio, action.cash_usd) for action in catalog.actions(symbol)]
    if actions:
        plan.columns, _ = add_actions(symbol, plan.columns, actions, replace=replace)
    return notes


def _columns_of(bars: "Bars") -> "Columns":
    """Bars as the columns of a file."""
    import numpy as np

    columns: Columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume", "vwap")}
    columns |= {name: column.astype(np.float64) for name, column in bars.extra.items()}
    counts = np.where(bars.trade_count < 0, np.nan, bars.trade_count.astype(np.float64))
    return {"timestamp": bars.start_ns, **columns, "trade_count": counts}
