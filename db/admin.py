"""Looking after a ledger: its migrations, its truth, and its end."""

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import peewee

from algo_royale.errors import BadInput, LedgerError
from algo_royale.ledger import FLAT, Account, Move, fold
from algo_royale.orders import REVERSALS, Fill
from db.database import (
    DRIVER_ERRORS,
    Database,
    Place,
    PostgresUrl,
    execute,
    first_line,
    open_database,
    snapshot,
    take_writer_lock,
    to_text,
    transaction,
)
from db.migrations import SESSION_SUMS, TABLES, Migration, MigrationState, migrate, migration_states
from db.store import move_of, positions_now

TINY = Decimal("1e-9")  # US dollars: what dividing costs by shares may lose


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseStatus:
    """A ledger as `db status` shows it; `problems` is what `check` found. `place` without a password."""

    place: str
    size_bytes: int
    migrations: tuple[MigrationState, ...]
    rows: dict[str, int]
    problems: tuple[str, ...]


def status(place: Place) -> DatabaseStatus:
    """The state of the ledger, as of one moment. Raises LedgerError when there is none, or it is not ours."""
    database = open_database(place, read_only=True, name="status")
    try:
        if not database.table_exists("schema_version"):
            raise LedgerError(f"there is no ledger at {place}")
        with snapshot(database):
            states = tuple(migration_states(database))
            tables = [name for name in database.get_tables() if name != "schema_version"]
            rows = {name: int(execute(database, f'SELECT count(*) FROM "{name}"')[0][0]) for name in sorted(tables)}
            problems = () if any(state.applied_ns is None for state in states) else tuple(check(database))
            size = _size_bytes(database, place)
    except DRIVER_ERRORS as error:
        raise LedgerError(f"the ledger at {place} cannot be read: {first_line(error)}") from error
    finally:
        database.close()
    return DatabaseStatus(place=str(place), size_bytes=size, migrations=states, rows=rows, problems=problems)


def _size_bytes(database: Database, place: Place) -> int:
    if isinstance(place, Path):
        return place.stat().st_size
    sizes = "SELECT sum(pg_total_relation_size(format('%I.%I', schemaname, tablename)::regclass)) "
    return int(execute(database, f"{sizes} FROM pg_tables WHERE schemaname = current_schema()")[0][0])


def exists(place: Place) -> bool:
    """Whether there is a ledger. Raises LedgerError when a server cannot be asked."""
    if isinstance(place, Path):
        return place.is_file()
    database = open_database(place, read_only=True)
    try:
        return bool(database.table_exists("meta"))
    finally:
        database.close()


def migrate_file(place: Place, *, now_ns: int) -> list[Migration]:
    """Bring the ledger up to date (creating it), and return what was applied."""
    database = open_database(place, name="migrate")
    try:
        take_writer_lock(database, name="migrate")
        return migrate(database, now_ns=now_ns)
    finally:
        database.close()


def drop(place: Path | PostgresUrl, *, name: str) -> None:
    """Delete the ledger for good. `name` must be its `database_name`, typed by a person.

    Of a PostgreSQL database only what is ours is dropped, in one transaction: the database itself may hold other things.
    """
    if not exists(place):
        raise LedgerError(f"there is no ledger at {place}")
    if name != database_name(place):
        raise BadInput(f"the database's name is {database_name(place)!r}, not {name!r}; nothing was deleted")
    if isinstance(place, Path):
        for suffix in ("", "-wal", "-shm"):
            place.with_name(place.name + suffix).unlink(missing_ok=True)
        return
    database = open_database(place, name="drop")
    try:
        take_writer_lock(database, name="drop")
        with transaction(database):
            for table in (*reversed(TABLES), "schema_version"):
                execute(database, f"DROP TABLE IF EXISTS {table}")
            execute(database, "DROP FUNCTION IF EXISTS ledger_append_only()")
    except DRIVER_ERRORS as error:
        raise LedgerError(
            f"the ledger at {place} cannot be dropped, nothing was deleted: {first_line(error)}"
        ) from error
    finally:
        database.close()


def database_name(place: Path | PostgresUrl) -> str:
    """What a person types to confirm a deletion: environment and file, as in "prod_paper/ledger", or the database's name."""
    return place.name if isinstance(place, PostgresUrl) else f"{place.parent.name}/{place.stem}"


def check(database: Database) -> list[str]:
    """What is wrong with a ledger, one sentence each; an empty list when everything adds up.

    The engine's own checks first. Then the folds that the rows' running states stand for: cash entries sum to the balance,
    fills sum to each order's filled quantity unless some are still missing, and all fills over the opening account give
    today's cash and positions, costs and profits; each session's equity is explained by the entries up to it.
    """
    problems = _check_engine(database)
    return problems or [
        *_check_cash(database),
        *_check_orders(database),
        *_check_account(database),
        *_check_closes(database),
    ]


def _check_engine(database: Database) -> list[str]:
    """What the database itself says of its rows, and of keeping them."""
    if isinstance(database, peewee.PostgresqlDatabase):
        settings = ("fsync", "full_page_writes", "synchronous_commit")
        off = [name for name in settings if execute(database, f"SHOW {name}") == [("off",)]]
        return [f"the server runs with {name} off: a power cut may take what was committed" for name in off]
    problems = [text for (text,) in execute(database, "PRAGMA integrity_check") if text != "ok"]
    return problems + [
        f"table {row[0]} row {row[1]} refers to a missing {row[2]}"
        for row in execute(database, "PRAGMA foreign_key_check")
    ]


def _check_cash(database: Database) -> list[str]:
    balance = Decimal(0)
    for seq, amount, after in execute(database, "SELECT seq, amount_usd, balance_usd FROM cash_entry ORDER BY seq"):
        balance += Decimal(amount)
        if balance != Decimal(after):
            return [f"cash entry {seq} shows a balance of {after}; the entries up to it sum to {to_text(balance)}"]
    return []


def _check_orders(database: Database) -> list[str]:
    problems = []
    filled: dict[str, Decimal] = {}
    for client_order_id, text, event in execute(
        database, "SELECT client_order_id, filled_quantity, event FROM order_event ORDER BY seq"
    ):
        if event not in REVERSALS and Decimal(text) < filled.get(client_order_id, Decimal(0)):
            problems.append(
                f"order {client_order_id} went from {to_text(filled[client_order_id])} filled back to {text}"
            )
        filled[client_order_id] = Decimal(text)
    booked: defaultdict[str, Decimal] = defaultdict(Decimal)
    for client_order_id, quantity in execute(
        database,
        "SELECT client_order_id, quantity FROM fill WHERE execution_id NOT IN (SELECT execution_id FROM reversal)",
    ):
        booked[client_order_id] += Decimal(quantity)
    problems += [
        f"order {client_order_id} has {to_text(filled[client_order_id])} filled, its fills sum to {to_text(total)}"
        for client_order_id, total in booked.items()
        if total > filled[client_order_id]
    ]
    return problems


def _check_account(database: Database) -> list[str]:
    """Every position folded anew from what moved it, and the cash of all fills, without what was taken back."""
    gone = {execution_id for (execution_id,) in execute(database, "SELECT execution_id FROM reversal")}
    moves: defaultdict[str, list[Move]] = defaultdict(list)
    realised: defaultdict[str, Decimal] = defaultdict(Decimal)
    columns = "kind, reference, symbol, quantity_change, price_usd, realised_usd"
    for kind, reference, symbol, change, price, gained in execute(
        database, f"SELECT {columns} FROM position_entry ORDER BY seq"
    ):
        realised[symbol] += Decimal(gained)
        move = move_of(kind, Decimal(change), Decimal(price))
        if move is not None and not (kind == "fill" and reference in gone):
            moves[symbol].append(move)
    now, problems = positions_now(database), []
    for symbol in sorted(set(now) | set(moves)):
        held, profit = fold(moves[symbol])
        newest = now.get(symbol, FLAT)
        if newest.quantity != held.quantity:
            problems.append(
                f"{symbol}: fills and entries give {to_text(held.quantity)}, the newest entry says {to_text(newest.quantity)}"
            )
        elif abs(newest.average_cost_usd - held.average_cost_usd) > TINY or abs(realised[symbol] - profit) > TINY:
            problems.append(
                f"{symbol}: fills and entries give a cost of {to_text(held.average_cost_usd)} and a profit of {to_text(profit)}, "
                f"the ledger has {to_text(newest.average_cost_usd)} and {to_text(realised[symbol])}"
            )
    return problems + _check_fills(database, gone)


def _check_fills(database: Database, gone: set[str]) -> list[str]:
    """The cash entries of fills and of what took them back, against the fills that stand."""
    account = Account(cash=Decimal(0))
    columns = "execution_id, client_order_id, broker_order_id, symbol, side, quantity, cumulative_quantity, price_usd, fees_usd"
    for row in execute(database, f"SELECT {columns} FROM fill ORDER BY seq"):
        if row[0] not in gone:
            account = account.apply_fill(_fill(row))
    kinds = ", ".join(f"'{kind}'" for kind in ("fill", *sorted(REVERSALS)))
    entries = execute(database, f"SELECT amount_usd FROM cash_entry WHERE kind IN ({kinds})")
    cash = sum((Decimal(amount) for (amount,) in entries), Decimal(0))
    if cash == account.cash:
        return []
    return [f"cash entries of fills sum to {to_text(cash)}, the fills themselves to {to_text(account.cash)}"]


def _check_closes(database: Database) -> list[str]:
    """At each session's close: equity is cash and positions, and it is the opening and all that happened since."""
    problems = []
    for row in execute(
        database, f"SELECT session_date, {', '.join(f'{name}_usd' for name in SESSION_SUMS)} FROM session_close"
    ):
        day, v = row[0], dict(zip(SESSION_SUMS, map(Decimal, row[1:]), strict=True))
        if v["equity"] != v["cash"] + v["positions"]:
            problems.append(f"session {day}: equity is not cash and positions")
        gains = v["realised"] + v["positions"] - v["cost"] - v["fees"] + v["dividends"] + v["interest"]
        explained = v["opening"] + gains + v["transfers"] + v["other"]
        if abs(v["equity"] - explained) > TINY:
            problems.append(f"session {day}: equity of {to_text(v['equity'])}, entries explain {to_text(explained)}")
    return problems


def _fill(row: tuple[str, ...]) -> Fill:
    quantity, cumulative, price, fees = (Decimal(text) for text in row[5:])
    return Fill(
        execution_id=row[0], client_order_id=row[1], broker_order_id=row[2], symbol=row[3], side=row[4],
        quantity=quantity, cumulative_quantity=cumulative, price_usd=price, fees_usd=fees,
    )  # fmt: skip
