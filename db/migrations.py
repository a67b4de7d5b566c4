"""Forward migrations of the ledger. A migration once released is never edited; the next change is the next number."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import peewee

from algo_royale.errors import LedgerError
from db.database import execute


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema: statements that run in one transaction, in order."""

    version: int
    name: str
    statements: tuple[str, ...]

    @property
    def checksum(self) -> str:
        return hashlib.sha256("\n;\n".join(self.statements).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class MigrationState:
    """A migration and when this database got it (None: not yet)."""

    migration: Migration
    applied_ns: int | None


_ROW = "seq INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES run (run_id), at_ns INTEGER NOT NULL"

_TABLES = {
    "run": "seq INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, started_ns INTEGER NOT NULL",
    "meta": "seq INTEGER PRIMARY KEY CHECK (seq = 1), run_id TEXT NOT NULL REFERENCES run (run_id), "
    "ledger_id TEXT NOT NULL, created_ns INTEGER NOT NULL, live_start_ns INTEGER NOT NULL",
    "decision": f"{_ROW}, decision_id TEXT NOT NULL UNIQUE, bar_end_ns INTEGER NOT NULL UNIQUE, "
    "session_date TEXT NOT NULL, equity_usd TEXT NOT NULL, cash_usd TEXT NOT NULL, strategy TEXT NOT NULL, "
    "targets TEXT NOT NULL, missing TEXT NOT NULL",
    "orders": f"{_ROW}, client_order_id TEXT NOT NULL UNIQUE CHECK (length(client_order_id) BETWEEN 1 AND 128), "
    "decision_id TEXT NOT NULL REFERENCES decision (decision_id), bar_end_ns INTEGER NOT NULL, symbol TEXT NOT NULL, "
    "side TEXT NOT NULL CHECK (side IN ('buy', 'sell')), quantity TEXT NOT NULL CHECK (CAST(quantity AS REAL) > 0), "
    "order_type TEXT NOT NULL, time_in_force TEXT NOT NULL, limit_price_usd TEXT, reference_price_usd TEXT NOT NULL",
    "order_event": f"{_ROW}, client_order_id TEXT NOT NULL REFERENCES orders (client_order_id), event TEXT NOT NULL, "
    "broker_order_id TEXT, status TEXT NOT NULL, filled_quantity TEXT NOT NULL, detail TEXT NOT NULL",
    "fill": f"{_ROW}, execution_id TEXT NOT NULL UNIQUE, "
    "client_order_id TEXT NOT NULL REFERENCES orders (client_order_id), broker_order_id TEXT NOT NULL, "
    "symbol TEXT NOT NULL, side TEXT NOT NULL CHECK (side IN ('buy', 'sell')), "
    "quantity TEXT NOT NULL CHECK (CAST(quantity AS REAL) > 0), cumulative_quantity TEXT NOT NULL, "
    "price_usd TEXT NOT NULL CHECK (CAST(price_usd AS REAL) > 0), fees_usd TEXT NOT NULL, filled_ns INTEGER NOT NULL, "
    "UNIQUE (client_order_id, cumulative_quantity)",
    "refusal": f"{_ROW}, decision_id TEXT NOT NULL REFERENCES decision (decision_id), client_order_id TEXT NOT NULL, "
    "symbol TEXT NOT NULL, side TEXT NOT NULL, quantity TEXT NOT NULL, reference_price_usd TEXT NOT NULL, "
    "code TEXT NOT NULL, reason TEXT NOT NULL, limit_value TEXT, actual_value TEXT",
    "cash_entry": f"{_ROW}, kind TEXT NOT NULL, reference TEXT NOT NULL, amount_usd TEXT NOT NULL, "
    "balance_usd TEXT NOT NULL",
    "position_entry": f"{_ROW}, kind TEXT NOT NULL, reference TEXT NOT NULL, symbol TEXT NOT NULL, "
    "quantity_change TEXT NOT NULL, price_usd TEXT NOT NULL, quantity TEXT NOT NULL, average_cost_usd TEXT NOT NULL, "
    "realised_usd TEXT NOT NULL",
    "session_equity": f"{_ROW}, session_date TEXT NOT NULL, phase TEXT NOT NULL, equity_usd TEXT NOT NULL, "
    "cash_usd TEXT NOT NULL",
    "reconciliation": f"{_ROW}, cause_of TEXT NOT NULL, checked INTEGER NOT NULL, agreed INTEGER NOT NULL, "
    "differences TEXT NOT NULL, ledger_cash_usd TEXT, broker_cash_usd TEXT NOT NULL, broker_equity_usd TEXT NOT NULL, "
    "ledger_positions TEXT NOT NULL, broker_positions TEXT NOT NULL",
    "halt": f"{_ROW}, kind TEXT NOT NULL CHECK (kind IN ('halted', 'resumed')), reason TEXT NOT NULL",
}

SESSION_SUMS = (
    "equity", "cash", "unsettled", "positions", "cost", "opening", "realised", "fees", "dividends", "interest", "transfers",
    "other",
)  # fmt: skip

_INDEXES = (
    "CREATE INDEX order_event_by_order ON order_event (client_order_id, seq)",
    "CREATE INDEX position_entry_by_symbol ON position_entry (symbol, seq)",
    "CREATE INDEX session_equity_by_date ON session_equity (session_date, seq)",
    "CREATE INDEX orders_by_time ON orders (at_ns)",
    "CREATE UNIQUE INDEX cash_entry_once ON cash_entry (reference) WHERE kind NOT IN ('opening', 'rounding')",
    "CREATE UNIQUE INDEX position_entry_once ON position_entry (reference) WHERE kind <> 'opening'",
    "CREATE INDEX fill_by_time ON fill (filled_ns)",
)


def _append_only(table: str) -> tuple[str, ...]:
    return tuple(
        f"CREATE TRIGGER {table}_no_{action} BEFORE {action} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        for action in ("update", "delete")
    )


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "the ledger's tables, append-only",
        tuple(f"CREATE TABLE {name} ({columns}) STRICT" for name, columns in _TABLES.items())
        + _INDEXES
        + tuple(trigger for name in _TABLES for trigger in _append_only(name)),
    ),
    Migration(
        2,
        "the trading state with who set it",
        (
            f"CREATE TABLE trading_state ({_ROW}, state TEXT NOT NULL CHECK (state IN ('trading', 'reducing', 'halted')), "
            "reason TEXT NOT NULL, set_by TEXT NOT NULL CHECK (set_by <> '')) STRICT",
            "INSERT INTO trading_state (run_id, at_ns, state, reason, set_by) "
            "SELECT run_id, at_ns, CASE kind WHEN 'halted' THEN 'halted' ELSE 'trading' END, reason, "
            "CASE kind WHEN 'halted' THEN 'trader' ELSE 'person' END FROM halt ORDER BY seq",
            "DROP TABLE halt",
            *_append_only("trading_state"),
        ),
    ),
    Migration(
        3,
        "when cash settles",
        ("ALTER TABLE cash_entry ADD COLUMN settles_on TEXT NOT NULL DEFAULT ''",),  # ISO date; empty: at once
    ),
    Migration(
        4,
        "executions that the venue takes back or corrects",
        (
            # A corrected execution stands at the same cumulative quantity as the one it corrects.
            f"CREATE TABLE fill_new ({_TABLES['fill'].removesuffix(', UNIQUE (client_order_id, cumulative_quantity)')}) STRICT",
            "INSERT INTO fill_new SELECT * FROM fill ORDER BY seq",
            "DROP TABLE fill",
            "ALTER TABLE fill_new RENAME TO fill",
            "CREATE INDEX fill_by_time ON fill (filled_ns)",
            "CREATE INDEX fill_by_order ON fill (client_order_id, cumulative_quantity)",
            *_append_only("fill"),
            f"CREATE TABLE reversal ({_ROW}, execution_id TEXT NOT NULL UNIQUE REFERENCES fill (execution_id), "
            "event TEXT NOT NULL CHECK (event IN ('trade_bust', 'trade_correct')), "
            "corrected_execution_id TEXT REFERENCES fill (execution_id)) STRICT",
            *_append_only("reversal"),
        ),
    ),
    Migration(
        5,
        "the account at each session's close",
        (
            f"CREATE TABLE session_close ({_ROW}, session_date TEXT NOT NULL UNIQUE, "
            + "".join(f"{name}_usd TEXT NOT NULL, " for name in SESSION_SUMS)
            + "positions TEXT NOT NULL, cash_seq INTEGER NOT NULL, position_seq INTEGER NOT NULL) STRICT",
            *_append_only("session_close"),
        ),
    ),
    Migration(
        6,
        "differences between ledger and broker, with both sides",
        (
            f"CREATE TABLE difference ({_ROW}, cause_of TEXT NOT NULL, subject TEXT NOT NULL, ours TEXT NOT NULL, "
            "theirs TEXT NOT NULL, resolution TEXT NOT NULL CHECK (resolution IN "
            "('adopted', 'took_over', 'booked', 'rounded', 'halted'))) STRICT",
            *_append_only("difference"),
        ),
    ),
)

# Tables in an order that satisfies their references; the copy of `Store.as_of` follows it.
TABLES = (*(name for name in _TABLES if name != "halt"), "trading_state", "reversal", "session_close", "difference")


def applied(database: peewee.SqliteDatabase) -> dict[int, tuple[str, int]]:
    """Version -> (checksum, applied_ns) of the migrations this database has had."""
    if not database.table_exists("schema_version"):
        return {}
    rows = execute(database, "SELECT version, checksum, applied_ns FROM schema_version ORDER BY version")
    return {version: (checksum, at_ns) for version, checksum, at_ns in rows}


def migration_states(
    database: peewee.SqliteDatabase, migrations: Sequence[Migration] = MIGRATIONS
) -> list[MigrationState]:
    """Every known migration with its state; raises LedgerError when the database was made by other code than this."""
    done = applied(database)
    by_version = {migration.version: migration for migration in migrations}
    for version, (checksum, _) in done.items():
        if version not in by_version:
            newest = max(by_version, default=0)
            raise LedgerError(f"the ledger has schema version {version}; this program knows up to {newest}: upgrade it")
        if by_version[version].checksum != checksum:
            raise LedgerError(f"migration {version} of the ledger was made by other statements than this program's")
    return [MigrationState(m, done[m.version][1] if m.version in done else None) for m in migrations]


def migrate(
    database: peewee.SqliteDatabase, *, now_ns: int, migrations: Sequence[Migration] = MIGRATIONS
) -> list[Migration]:
    """Apply what is missing, each migration in one transaction, and return what was applied.

    A failing migration is rolled back whole and raises LedgerError; the earlier ones stay.
    """
    try:
        execute(
            database,
            "CREATE TABLE IF NOT EXISTS schema_version "
            "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_ns INTEGER NOT NULL) STRICT",
        )
        pending = [state.migration for state in migration_states(database, migrations) if state.applied_ns is None]
        for migration in pending:
            _apply(database, migration, now_ns)
    except peewee.PeeweeException as error:
        raise LedgerError(f"the ledger could not be migrated, nothing of the failing step was kept: {error}") from error
    return pending


def _apply(database: peewee.SqliteDatabase, migration: Migration, now_ns: int) -> None:
    with database.atomic("IMMEDIATE"):
        if migration.version in applied(database):
            return  # another process was faster
        for statement in migration.statements:
            execute(database, statement)
        broken = execute(database, "PRAGMA foreign_key_check")
        if broken:
            raise LedgerError(f"migration {migration.version} leaves {len(broken)} rows without what they refer to")
        execute(
            database,
            "INSERT INTO schema_version VALUES (?, ?, ?, ?)",
            (migration.version, migration.name, migration.checksum, now_ns),
        )
