"""Opening the ledger's SQLite file: durable, checked, readable while the trader writes."""

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import peewee

from algo_royale.errors import LedgerError

BUSY_TIMEOUT_S = 5.0


def open_database(path: Path | None, *, read_only: bool = False) -> peewee.SqliteDatabase:
    """A connected database; `path=None` keeps it in memory (for the stepped system and for tests).

    WAL lets the command line read while the trader writes; `synchronous=FULL` makes a commit survive a power cut.
    A reader must exist already: it never creates a file. Raises LedgerError when the file is missing, locked or not SQLite.
    """
    pragmas: dict[str, object] = {"foreign_keys": 1}
    if path is None:
        target = ":memory:"
        pragmas |= {"journal_mode": "memory", "synchronous": 0}
    elif read_only:
        if not path.is_file():
            raise LedgerError(f"there is no ledger at {path}")
        # A WAL reader needs the -shm file, which an ordinary connection creates; query_only keeps it from writing rows.
        target = str(path)
        pragmas |= {"query_only": 1}
    else:
        target = str(path)
        pragmas |= {"journal_mode": "wal", "synchronous": 2}
    # One connection per Store, used by one thread at a time: peewee's per-thread connections would open a second one
    # for an actor that is restarted in another thread, and an in-memory database would be empty there.
    database = peewee.SqliteDatabase(
        target, pragmas=pragmas, timeout=BUSY_TIMEOUT_S, thread_safe=False, check_same_thread=False
    )
    try:
        if path is not None and not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
        else:
            is_new = False
        database.connect()
        execute(database, "SELECT count(*) FROM sqlite_master")  # a file that is not SQLite fails here
        if is_new and path is not None:
            os.chmod(path, 0o600)
            _sync_directory(path.parent)
    except (peewee.PeeweeException, OSError) as error:
        if not database.is_closed():
            database.close()
        raise LedgerError(f"the ledger at {path or ':memory:'} cannot be opened: {error}") from error
    return database


def execute(database: peewee.SqliteDatabase, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows; database errors come as peewee's."""
    rows: list[tuple[Any, ...]] = database.execute_sql(sql, parameters).fetchall()  # type: ignore[no-untyped-call]
    return rows


def _sync_directory(directory: Path) -> None:
    """Make a file's directory entry durable; without it a power cut may take a new file with all its commits."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_text(value: Decimal) -> str:
    """The one spelling of a decimal in the ledger: plain notation, no trailing zeros; equal values, equal text."""
    if not value.is_finite():
        raise LedgerError(f"{value} is not an amount")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def exact(value: Decimal) -> Decimal:
    """`value` as the ledger will give it back."""
    return Decimal(to_text(value))


class DecimalText(peewee.TextField):
    """A Decimal kept exactly, as text."""

    def db_value(self, value: Decimal | None) -> str | None:
        return None if value is None else to_text(value)

    def python_value(self, value: Any) -> Decimal | None:
        return None if value is None else Decimal(value)
