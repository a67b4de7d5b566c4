"""Opening a ledger: a SQLite file, memory, or a PostgreSQL database; durable, checked, readable while the trader writes."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import peewee

from algo_royale.errors import BadConfiguration, LedgerError

BUSY_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5
WRITER_WAIT_S = 2.0  # for the connection of a writer that has just died
# One writer per PostgreSQL schema: the first key of its advisory lock says that the lock is ours, the second which schema.
LOCK_CLASS = int.from_bytes(b"ARoy", "big")
_LOCK_KEYS = f"{LOCK_CLASS}, hashtext(current_schema())"

DRIVER_ERRORS: tuple[type[Exception], ...] = (peewee.PeeweeException, sqlite3.Error)
if find_spec("psycopg") is not None:  # an extra; peewee imports it too where it is there
    import psycopg

    DRIVER_ERRORS = (*DRIVER_ERRORS, psycopg.Error)

_CANNOT_OPEN: tuple[type[Exception], ...] = (*DRIVER_ERRORS, OSError)

Database = peewee.SqliteDatabase | peewee.PostgresqlDatabase


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """Where a PostgreSQL ledger is. Shown without its password, which is in no repr and no message."""

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.text)
            usable = parts.scheme in ("postgresql", "postgres") and parts.path.strip("/") and (parts.port or True)
        except ValueError:
            usable = False
        if not usable:  # what was written is not repeated: it may hold a password in the wrong place
            raise BadConfiguration("[database] url is not of the form postgresql://USER:PASSWORD@HOST:PORT/NAME")

    @property
    def name(self) -> str:
        """The database's name."""
        return unquote(urlsplit(self.text).path.strip("/"))

    @property
    def conninfo(self) -> str:
        """The whole address, with what must not be shown."""
        return "postgresql://" + self.text.split("://", 1)[1]

    def scrub(self, text: object) -> str:
        """`text` without the password, should a driver have put it there."""
        parts = urlsplit(self.text)
        secrets = [parts.password, *parse_qs(parts.query).get("password", ())]
        shown = str(text).strip()
        for secret in (form for found in secrets if found for form in (found, unquote(found))):
            shown = shown.replace(secret, "***")
        return shown

    def __str__(self) -> str:
        parts = urlsplit(self.text)
        host = parts.hostname or unquote("".join(parse_qs(parts.query).get("host", ())))
        user = f"{unquote(parts.username)}@" if parts.username else ""
        return f"postgresql://{user}{host}{f':{parts.port}' if parts.port else ''}/{self.name}"


def place_of(url: str, directory: Path) -> Path | PostgresUrl:
    """Where an environment's ledger is: at `url` ([database] url), or in a file of its folder where that is empty."""
    return PostgresUrl(url) if url else directory / "ledger.db"


Place = Path | PostgresUrl | None  # None: in memory, for the stepped system and for tests


def open_database(place: Place, *, read_only: bool = False, name: str = "reader") -> Database:
    """A connected database. `name` is what a PostgreSQL server shows of this connection.

    A reader must find a ledger: it never creates one. Raises LedgerError when it is missing, locked, or not to be reached.
    """
    if isinstance(place, PostgresUrl):
        return _open_postgres(place, read_only=read_only, name=name)
    return _open_sqlite(place, read_only=read_only)


def _open_postgres(url: PostgresUrl, *, read_only: bool, name: str) -> peewee.PostgresqlDatabase:
    if find_spec("psycopg") is None:
        raise LedgerError("a ledger in PostgreSQL needs psycopg: pip install 'algo-royale[postgres]'")
    # A dead line is noticed in seconds: a commit must not hang for the system's quarter of an hour.
    database = peewee.PostgresqlDatabase(
        url.conninfo, prefer_psycopg3=True, thread_safe=False, application_name=application_name(name),
        connect_timeout=CONNECT_TIMEOUT_S, keepalives_idle=10, keepalives_interval=5, keepalives_count=3,
        tcp_user_timeout=15_000,
    )  # fmt: skip
    try:
        database.connect()
        for setting in (
            "synchronous_commit = on",  # whatever the role or database says: a commit survives a power cut
            f"lock_timeout = {round(BUSY_TIMEOUT_S * 1000)}",
            f"default_transaction_read_only = {'on' if read_only else 'off'}",
        ):
            execute(database, f"SET {setting}")
    except DRIVER_ERRORS as error:
        if not database.is_closed():
            database.close()
        # `from None`: the driver's own error may carry the address
        raise LedgerError(f"the ledger at {url} cannot be opened: {url.scrub(error)}") from None
    return database


def application_name(name: str) -> str:
    """What the server calls a connection of ours; it keeps 63 characters."""
    return f"algo-royale {name}"[:63]


def take_writer_lock(database: Database, *, name: str) -> None:
    """Make this connection the only writer of its PostgreSQL schema until it closes; SQLite checks at each commit instead.

    A former connection under the same `name` is a thread of ours that was given up: it is cut off, and cannot write any more.
    One of a process that has just died ends by itself. Anybody else's keeps the ledger: LedgerError.
    """
    if not isinstance(database, peewee.PostgresqlDatabase):
        return
    if execute(database, f"SELECT pg_try_advisory_lock({_LOCK_KEYS})")[0][0]:
        return
    holder = (
        "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
        f"AND l.classid = {LOCK_CLASS} AND l.objid::bigint = (hashtext(current_schema())::bigint & 4294967295) "
        "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    ours = application_name(name)
    execute(database, f"SELECT pg_terminate_backend(a.pid) {holder} AND a.application_name = ?", (ours,))
    execute(database, f"SET lock_timeout = {round(WRITER_WAIT_S * 1000)}")
    try:
        execute(database, f"SELECT pg_advisory_lock({_LOCK_KEYS})")
    except DRIVER_ERRORS as error:
        found = execute(database, f"SELECT a.application_name, a.client_addr, a.backend_start {holder}")
        who = "".join(
            f": {who}, from {where or 'this machine'}, since {since:%Y-%m-%d %H:%M %Z}" for who, where, since in found
        )
        raise LedgerError(f"another process writes to this ledger{who}") from error
    execute(database, f"SET lock_timeout = {round(BUSY_TIMEOUT_S * 1000)}")


def _open_sqlite(path: Path | None, *, read_only: bool) -> peewee.SqliteDatabase:
    """WAL lets the command line read while the trader writes; `synchronous=FULL` makes a commit survive a power cut."""
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
    except _CANNOT_OPEN as error:
        if not database.is_closed():
            database.close()
        raise LedgerError(f"the ledger at {path or ':memory:'} cannot be opened: {error}") from error
    return database


def execute(database: Database, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """Run one statement, its parameters marked by `?`, and return its rows; errors are among DRIVER_ERRORS.

    Straight to the driver: peewee's own way of running a statement takes as long as the statement.
    """
    connection = database.connection()  # type: ignore[no-untyped-call]
    if isinstance(database, peewee.PostgresqlDatabase):
        # without parameters a statement goes as it is, percent signs and all
        cursor = connection.execute(sql.replace("?", "%s"), parameters) if parameters else connection.execute(sql)
        return cursor.fetchall() if cursor.description is not None else []
    rows: list[tuple[Any, ...]] = connection.execute(sql, parameters).fetchall()
    return rows


def first_line(error: BaseException) -> str:
    """What a driver says, without the statement that it repeats below; of a chain (a rollback that failed because the disk
    is full) what it said first."""
    while isinstance(error.__context__, DRIVER_ERRORS):
        error = error.__context__
    return str(error).strip().split("\n", 1)[0]


def transaction(database: Database) -> AbstractContextManager[Any]:
    """One transaction for writing; nested ones are part of the outer one."""
    if isinstance(database, peewee.PostgresqlDatabase):
        return database.atomic()
    return database.atomic("IMMEDIATE")


@contextmanager
def unsynced(database: Database) -> Iterator[None]:
    """`transaction` whose end does not wait for the disk: the process may die, the power may not fail."""
    if isinstance(database, peewee.PostgresqlDatabase):
        with transaction(database):
            execute(database, "SET LOCAL synchronous_commit = off")
            yield
        return
    ((level,),) = execute(database, "PRAGMA synchronous")
    execute(database, f"PRAGMA synchronous = {min(level, 1)}")
    try:
        with transaction(database):
            yield
    finally:
        execute(database, f"PRAGMA synchronous = {level}")


@contextmanager
def snapshot(database: Database) -> Iterator[None]:
    """All reads within see one state of the ledger, also while a trader writes."""
    is_postgres = isinstance(database, peewee.PostgresqlDatabase)
    execute(database, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if is_postgres else "BEGIN")
    try:
        yield
    finally:
        execute(database, "ROLLBACK")


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
