"""`orders`, `positions`, `fills`: what a trader has done, from its ledger; and whether one runs, from its lock."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.messages import print_json, print_table, short_time, to_ns, when
from algo_royale.errors import BadInput
from algo_royale.orders import OrderStatus

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from db.database import PostgresUrl
    from db.store import Reader

INSTANCE = "run-trader"
STATUSES = ("open", *(status.value for status in OrderStatus if status is not OrderStatus.OPEN))


def running_trader(directory: Path) -> int | None:
    """The process that trades in this environment's folder, or None. Looks at its lock without taking it.

    A process that died leaves its pid behind, and the system may have given that number to another one since; where
    the system lists its file locks (Linux), a pid without the lock is not believed.
    """
    from algo_royale.app.lock import holder

    pid = holder(directory, INSTANCE)
    if pid is None or is_locked(directory / f"{INSTANCE}.lock") is False:
        return None
    return pid


def is_locked(path: Path, *, locks: Path = Path("/proc/locks")) -> bool | None:
    """Whether some process holds a lock on the file; None where the system does not say (sandboxes show an empty list)."""
    try:
        inode = str(path.stat().st_ino)
        held = [line.split() for line in locks.read_text(encoding="ascii").splitlines() if "->" not in line]
    except OSError:
        return None
    return any(len(fields) > 5 and fields[5].rpartition(":")[2] == inode for fields in held) if held else None


def ledger_place(settings: "Settings") -> "Path | PostgresUrl":
    """The environment's ledger, or the one of its latest dry run, which is always a file."""
    from db.database import place_of

    if settings.dry_run:
        dry = settings.directory / "dry-run"
        return max(dry.glob("*.db"), default=dry / "none.db")
    return place_of(settings.config.database.url.get_secret_value(), settings.directory)


def has_ledger(settings: "Settings") -> bool:
    """Whether there is one already."""
    from db.admin import exists

    return exists(ledger_place(settings))


def _of_dry_run(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.obj = replace(ctx.obj, dry_run=True)


dry_run_option = click.option(
    "--dry-run", is_flag=True, expose_value=False, callback=_of_dry_run, help="Of the latest dry run instead."
)


def open_reader(settings: "Settings") -> "Reader":
    from db.store import Reader

    place = ledger_place(settings)
    if not has_ledger(settings):
        raise BadInput(
            f"there is no ledger at {place}; `run-trader{' --dry-run' if settings.dry_run else ''}` makes one"
        )
    return Reader(place)


def summary_of(reader: "Reader") -> dict[str, Any]:
    found = reader.summary()
    return {
        "ledger_id": found.ledger_id, "created": when(found.created_ns), "run_id": found.last_run_id, "runs": found.runs,
        "decisions": found.decisions, "orders": found.orders, "open_orders": found.open_orders, "fills": found.fills,
        "refusals": found.refusals, "cash_usd": found.cash_usd, "equity_usd": found.equity_usd,
        "session": found.session_date, "reconciliations": found.reconciliations, "disagreements": found.disagreements,
        "state": found.latch.state.value, "state_reason": found.latch.reason or None,
        "state_set_by": found.latch.set_by or None, "state_since": when(found.latch.at_ns) if found.latch.at_ns else None,
    }  # fmt: skip


# --- orders, positions, fills ----------------------------------------------------------------------------------------

_Column = tuple[str, str]  # (header, field)
_ORDERS: Sequence[_Column] = (
    ("time", "at_ns"), ("symbol", "symbol"), ("side", "side"), ("quantity", "quantity"), ("filled", "filled_quantity"),
    ("status", "status"), ("updated", "updated_ns"), ("type", "order_type"), ("order", "client_order_id"),
    ("detail", "detail"),
)  # fmt: skip
_FILLS: Sequence[_Column] = (
    ("time", "filled_ns"), ("symbol", "symbol"), ("side", "side"), ("quantity", "quantity"), ("price", "price_usd"),
    ("fees", "fees_usd"), ("order", "client_order_id"),
)  # fmt: skip
POSITIONS: Sequence[_Column] = (
    ("symbol", "symbol"), ("quantity", "quantity"), ("average cost", "average_cost_usd"), ("cost", "cost_usd"),
    ("realised", "realised_usd"),
)  # fmt: skip
_EQUITY: Sequence[_Column] = (
    ("session", "session_date"), ("equity", "equity_usd"), ("cash", "cash_usd"), ("unsettled", "unsettled_usd"),
    ("positions", "positions_usd"), ("realised", "realised_usd"), ("unrealised", "unrealised_usd"), ("fees", "fees_usd"),
    ("dividends", "dividends_usd"), ("transfers", "transfers_usd"),
)  # fmt: skip
_DIFFERENCES: Sequence[_Column] = (
    ("time", "at_ns"), ("found by", "cause_of"), ("subject", "subject"), ("ledger", "ours"), ("broker", "theirs"),
    ("done", "resolution"),
)  # fmt: skip
_NUMBERS = ("quantity", "filled", "price", "fees", "average cost", "cost", "realised", "equity", "cash", "unsettled", "positions",
    "unrealised", "dividends", "transfers")  # fmt: skip


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[_Column]) -> None:
    table = [[_cell(field, row[field]) for _, field in columns] for row in rows]
    print_table([header for header, _ in columns], table, right=_NUMBERS)


def _cell(field: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if field == "average_cost_usd":
        return f"{value:.4f}"
    if field.endswith("_usd") and field not in ("price_usd", "fees_usd"):
        return f"{value:.2f}"
    if field.endswith("_ns"):
        return short_time(value) if sys.stdout.isatty() else when(value)
    return str(value)


def _documents(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for `--json`: money as strings, each time also readable."""
    documents = []
    for row in rows:
        document = {name: value for name, value in row.items() if name != "seq"}
        for name in [name for name in document if name.endswith("_ns") and document[name] is not None]:
            document[name.removesuffix("_ns")] = when(document[name])
        documents.append(document)
    return documents


def _result(
    settings: "Settings", rows: Sequence[Mapping[str, Any]], columns: Sequence[_Column], *, nothing: str
) -> None:
    if settings.json:
        print_json(_documents(rows))
    elif rows:
        show_rows(rows, columns)
    else:
        click.echo(nothing, err=True)


def _since(text: str | None) -> int:
    return 0 if text is None else to_ns(text)


@click.command("orders")
@click.option("--since", metavar="TIME", help="ISO date or time, New York; orders decided from then on.")
@click.option("--symbol", help="Only this symbol.")
@click.option("--status", type=click.Choice(STATUSES), help="Only these; 'open' is every order that can still fill.")
@click.option("--limit", default=100, type=click.IntRange(min=1), help="At most so many, the newest.")
@dry_run_option
@click.pass_obj
def orders_command(settings: "Settings", since: str | None, symbol: str | None, status: str | None, limit: int) -> None:
    """List the ledger's orders with where each stands, oldest first.

    \b
    Examples:
      algo-royale orders --status open
      algo-royale orders --symbol AAPL --since 2012-06-01 --json
    """
    with closing(open_reader(settings)) as reader:
        rows = reader.orders(since_ns=_since(since), symbol=_symbol(symbol), status=status, limit=limit)
    _result(settings, rows, _ORDERS, nothing="no such orders")


@click.command("positions")
@click.option("--symbol", help="Only this symbol.")
@dry_run_option
@click.pass_obj
def positions_command(settings: "Settings", symbol: str | None) -> None:
    """List what the ledger holds, at average cost, with the profit realised in it so far.

    \b
    Examples:
      algo-royale positions
      algo-royale positions --json
    """
    with closing(open_reader(settings)) as reader:
        rows = [row for row in reader.positions() if _symbol(symbol) in (None, row["symbol"])]
    _result(settings, rows, POSITIONS, nothing="no positions")


@click.command("fills")
@click.option("--since", metavar="TIME", help="ISO date or time, New York; fills from then on.")
@click.option("--symbol", help="Only this symbol.")
@click.option("--limit", default=100, type=click.IntRange(min=1), help="At most so many, the newest.")
@dry_run_option
@click.pass_obj
def fills_command(settings: "Settings", since: str | None, symbol: str | None, limit: int) -> None:
    """List the executions of the ledger's orders, oldest first.

    \b
    Examples:
      algo-royale fills
      algo-royale fills --symbol IBM --since 2012-06-01T09:30 --json
    """
    with closing(open_reader(settings)) as reader:
        rows = reader.fills(since_ns=_since(since), symbol=_symbol(symbol), limit=limit)
    _result(settings, rows, _FILLS, nothing="no such fills")


@click.command("equity")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First session; default the ledger's first.")
@dry_run_option
@click.pass_obj
def equity_command(settings: "Settings", since: datetime | None) -> None:
    """List what the account was worth at each session's close, with where it came from.

    Equity is cash and positions; realised, fees, dividends and transfers are sums since the ledger began. A session whose
    close the trader did not see has a row without figures ("seen": false): nothing is guessed.

    \b
    Examples:
      algo-royale equity
      algo-royale equity --since 2012-06-01 --json
    """
    with closing(open_reader(settings)) as reader:
        closes = _with_gaps(reader.closes())
    rows = [row for row in closes if since is None or row["session_date"] >= str(since.date())]
    after = "" if since is None else f" since {since:%Y-%m-%d}"
    _result(settings, rows, _EQUITY, nothing=f"no session has closed yet{after}")


def _with_gaps(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The closes in order, and between them each session of the calendar that has none, without figures."""
    from algo_royale.sessions import calendar

    seen = {row["session_date"]: {**row, "seen": True} for row in rows}
    if not seen:
        return []
    first, last = (date.fromisoformat(day) for day in (min(seen), max(seen)))
    unseen = {**dict.fromkeys(rows[0]), "seen": False}
    days = {session.date.isoformat() for session in calendar().sessions(first, last)} | set(seen)
    return [seen.get(day) or {**unseen, "session_date": day} for day in sorted(days)]


@click.command("differences")
@dry_run_option
@click.pass_obj
def differences_command(settings: "Settings") -> None:
    """List what ledger and broker saw differently, both sides, and what was done about it.

    \b
    Examples:
      algo-royale differences
      algo-royale differences --json
    """
    with closing(open_reader(settings)) as reader:
        rows = reader.differences()
    _result(settings, rows, _DIFFERENCES, nothing="ledger and broker have always agreed")


def _symbol(text: str | None) -> str | None:
    return None if text is None else text.strip().upper()
