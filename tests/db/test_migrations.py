"""The schema on real SQLite files: forward only, checked, and a failing step leaves nothing behind."""

from pathlib import Path

import pytest

from algo_royale.errors import LedgerError
from db.database import PostgresUrl, execute, open_database
from db.migrations import MIGRATIONS, TABLES, Migration, migrate, migration_states
from db.models import MODELS
from db.store import Reader

NEWEST = len(MIGRATIONS)
GOOD = Migration(NEWEST + 1, "a table more", ("CREATE TABLE extra (x INTEGER) STRICT",))


def test_a_new_ledger_gets_every_migration_once(place: Path | PostgresUrl) -> None:
    """The second call finds nothing to do, also through another connection."""
    database = open_database(place)

    assert migrate(database, now_ns=7) == list(MIGRATIONS)
    assert migrate(open_database(place), now_ns=8) == []
    assert [state.applied_ns for state in migration_states(database)] == [7] * len(MIGRATIONS)


def test_a_failing_migration_is_rolled_back_whole(place: Path | PostgresUrl) -> None:
    """Its first statement worked, and yet nothing of it stays; the migration before it does."""
    database = open_database(place)
    broken = Migration(NEWEST + 2, "breaks", ("CREATE TABLE half (x INTEGER)", "CREATE TABLE half (x INTEGER)"))

    with pytest.raises(LedgerError, match='half"? already exists'):
        migrate(database, now_ns=1, migrations=(*MIGRATIONS, GOOD, broken))

    assert database.table_exists("extra")
    assert not database.table_exists("half")
    assert [s.applied_ns for s in migration_states(database, (*MIGRATIONS, GOOD, broken))] == [1] * (NEWEST + 1) + [
        None
    ]


def test_a_ledger_of_a_newer_program_is_refused(place: Path | PostgresUrl) -> None:
    database = open_database(place)
    migrate(database, now_ns=1, migrations=(*MIGRATIONS, GOOD))

    with pytest.raises(LedgerError, match=f"schema version {NEWEST + 1}; this program knows up to {NEWEST}"):
        migrate(database, now_ns=2)


def test_an_edited_migration_is_refused(place: Path | PostgresUrl) -> None:
    database = open_database(place)
    migrate(database, now_ns=1, migrations=(*MIGRATIONS, GOOD))
    edited = Migration(NEWEST + 1, "a table more", ("CREATE TABLE extra (x INTEGER, y INTEGER) STRICT",))

    with pytest.raises(LedgerError, match=f"migration {NEWEST + 1} of the ledger was made by other statements"):
        migrate(database, now_ns=2, migrations=(*MIGRATIONS, edited))


def test_a_migration_that_orphans_rows_is_refused(place: Path | PostgresUrl) -> None:
    """Rows must still have what they refer to when a migration ends."""
    database = open_database(place)
    orphan = Migration(
        NEWEST + 1,
        "orphans",
        (
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
            "INSERT INTO child VALUES (1)",
        ),
    )

    with pytest.raises(LedgerError, match="without what they refer to|violates foreign key constraint"):
        migrate(database, now_ns=1, migrations=(*MIGRATIONS, orphan))
    assert not database.table_exists("child")


def test_the_halts_of_an_older_ledger_become_its_trading_states(place: Path | PostgresUrl) -> None:
    """Each row with its run, time and reason; a ledger that was halted still is."""
    database = open_database(place)
    migrate(database, now_ns=1, migrations=MIGRATIONS[:1])
    execute(database, "INSERT INTO run (run_id, started_ns) VALUES ('r-1', 1), ('r-2', 5)")
    execute(
        database,
        "INSERT INTO halt (run_id, at_ns, kind, reason) VALUES ('r-1', 2, 'halted', 'a stray position'), "
        "('r-2', 6, 'resumed', 'sold it'), ('r-2', 7, 'halted', 'again')",
    )

    with pytest.raises(LedgerError, match="is of an older program; `algo-royale db migrate` brings it up to date"):
        Reader(place)
    migrate(database, now_ns=8)

    assert execute(database, "SELECT run_id, at_ns, state, reason, set_by FROM trading_state ORDER BY seq") == [
        ("r-1", 2, "halted", "a stray position", "trader"),
        ("r-2", 6, "trading", "sold it", "person"),
        ("r-2", 7, "halted", "again", "trader"),
    ]
    assert not database.table_exists("halt")
    for change in ("UPDATE trading_state SET state = 'trading'", "DELETE FROM trading_state"):
        with pytest.raises(Exception, match="append-only"):
            execute(database, change)


def test_fills_keep_their_rows_when_their_table_is_made_anew(place: Path | PostgresUrl) -> None:
    """And are append-only afterwards; two executions may then stand at one cumulative quantity, as a correction needs."""
    database = open_database(place)
    migrate(database, now_ns=1, migrations=MIGRATIONS[:3])
    for statement in (
        "INSERT INTO run (run_id, started_ns) VALUES ('r', 1)",
        "INSERT INTO decision (run_id, at_ns, decision_id, bar_end_ns, session_date, equity_usd, cash_usd, strategy, targets, "
        "missing) VALUES ('r', 1, 'd', 1, '2012-01-03', '1', '1', 's', '[]', '[]')",
        "INSERT INTO orders (run_id, at_ns, client_order_id, decision_id, bar_end_ns, symbol, side, quantity, order_type, "
        "time_in_force, reference_price_usd) VALUES ('r', 1, 'o', 'd', 1, 'A', 'buy', '2', 'market', 'day', '9')",
    ):
        execute(database, statement)
    book = (
        "INSERT INTO fill (run_id, at_ns, execution_id, client_order_id, broker_order_id, symbol, side, quantity, "
        "cumulative_quantity, price_usd, fees_usd, filled_ns) VALUES ('r', 1, ?, 'o', 'b', 'A', 'buy', '1', ?, '9', '0', 1)"
    )
    execute(database, book, ("e-1", "1"))
    execute(database, book, ("e-2", "2"))

    migrate(database, now_ns=2)

    execute(database, book, ("e-3", "2"))
    found = execute(database, "SELECT execution_id, cumulative_quantity FROM fill ORDER BY seq")
    assert found == [("e-1", "1"), ("e-2", "2"), ("e-3", "2")]
    for change in ("UPDATE fill SET quantity = '3'", "DELETE FROM fill"):
        with pytest.raises(Exception, match="append-only"):
            execute(database, change)
    with pytest.raises(Exception, match="(?i)unique"):
        execute(database, book, ("e-3", "3"))


@pytest.mark.parametrize("table", TABLES)
def test_every_row_says_which_run_wrote_it(table: str) -> None:
    database = open_database(None)
    migrate(database, now_ns=1)

    assert "run_id" in [column.name for column in database.get_columns(table)]


@pytest.mark.parametrize("model", MODELS)
def test_the_models_name_the_columns_that_the_migrations_made(model: type) -> None:
    """peewee's view and the schema cannot drift apart."""
    database = open_database(None)
    migrate(database, now_ns=1)
    meta = model._meta  # type: ignore[attr-defined]

    assert sorted(meta.columns) == sorted(column.name for column in database.get_columns(meta.table_name))


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)

    with pytest.raises(LedgerError, match="cannot be opened"):
        open_database(path)


def test_a_reader_never_creates_a_ledger_and_never_writes(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger at"):
        open_database(tmp_path / "ledger.db", read_only=True)
    migrate(open_database(tmp_path / "ledger.db"), now_ns=1)

    reader = open_database(tmp_path / "ledger.db", read_only=True)
    with pytest.raises(Exception, match="readonly"):
        execute(reader, "INSERT INTO run (run_id, started_ns) VALUES ('r', 1)")


def test_the_ledger_file_is_private_durable_and_readable_while_written(tmp_path: Path) -> None:
    database = open_database(tmp_path / "ledger.db")

    assert (tmp_path / "ledger.db").stat().st_mode & 0o077 == 0
    assert database.pragma("journal_mode") == "wal"
    assert database.pragma("synchronous") == 2
    assert database.pragma("foreign_keys") == 1
