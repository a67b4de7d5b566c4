"""The message log: what every actor was told, when, by whom, why, and how it ended; one SQLite file per run.

Actors and supervisors hand records to a `Sink`; `MessageLog` queues them for one plain writer thread that encodes and
commits in groups. The log never blocks and never fails what it records: a full queue drops records and counts them in
a `gap` event, a locked file is retried, a full disk or any other error turns the log off with one ERROR line.
`LogReader` reads the file, also while it is being written.

`seq` is one sequence over messages and events in the order in which they were queued. A message is queued by its
recipient's thread when its handler ends, so `seq` order within one recipient is exactly its handling order.
"""

import contextlib
import fnmatch
import itertools
import logging
import math
import re
import sqlite3
import threading
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from actors.kernel.message import Message
from actors.kernel.record import Outcome, Record
from algo_royale.errors import AlgoRoyaleError

log = logging.getLogger(__name__)

QUEUE_LIMIT = 65_536
BATCH_LIMIT = 1_000
GROUP_S = 0.02  # how long the writer lets records gather before it commits them
BUSY_TIMEOUT_S = 5.0
PACKED_SIZE = 1024  # bytes from which a body shrinks to less than half
ZLIB = b"\x78"
SNAPSHOT_EVERY_S = 1.0

_SCHEMA = """
CREATE TABLE run    (id TEXT PRIMARY KEY, kind TEXT, started INT, ended INT, code TEXT, config TEXT, seed INT,
                     exit_code INT) STRICT;
CREATE TABLE path   (id INTEGER PRIMARY KEY, path TEXT UNIQUE) STRICT;
CREATE TABLE kind   (id INTEGER PRIMARY KEY, name TEXT, version INT, UNIQUE (name, version)) STRICT;
CREATE TABLE message(seq INTEGER PRIMARY KEY, id INT, cause INT, corr INT, sender INT, gen INT, recipient INT, kind INT,
                     sent INT, handled INT, took_us INT, outcome INT, attempt INT, detail TEXT, body BLOB) STRICT;
CREATE TABLE event  (seq INTEGER PRIMARY KEY, at INT, path INT, gen INT, what TEXT, detail TEXT) STRICT;
CREATE TABLE actor  (path INTEGER PRIMARY KEY, at INT, state TEXT, generation INT, restarts INT, mailbox INT,
                     handled INT, last_error TEXT) STRICT;
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS message_corr ON message (corr);
CREATE INDEX IF NOT EXISTS message_recipient ON message (recipient, seq);
"""
_INSERT_MESSAGE = "INSERT INTO message VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_INSERT_EVENT = "INSERT INTO event VALUES (?,?,?,?,?,?)"
_UPSERT_ACTOR = "INSERT OR REPLACE INTO actor VALUES (?,?,?,?,?,?,?,?)"


class LogUnreadable(AlgoRoyaleError):
    """The file is missing, or is not a message log, or is damaged."""


# --- message bodies --------------------------------------------------------------------------------------------------


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded message whose class this program does not know (any more), or whose fields changed since."""

    kind: str
    fields: Any


_encoder = msgspec.msgpack.Encoder(enc_hook=repr)  # anything that is not plain data is shown by its repr


def encode(message: object) -> bytes:
    """The body as stored: msgpack of the message's fields. Never raises for a message that can be shown at all."""
    try:
        return _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _encoder.encode({"type": type(message).__name__, "repr": repr(message)})


def message_classes() -> dict[str, list[type[Message]]]:
    """Every Message subclass imported so far by class name, the newest first (tests may reuse a name)."""
    found: dict[str, list[type[Message]]] = defaultdict(list)
    waiting: list[type[Message]] = [Message]
    while waiting:
        children = waiting.pop().__subclasses__()
        waiting.extend(children)
        for child in children:
            found[child.__name__].insert(0, child)
    return found


@lru_cache(maxsize=1024)
def _decoder(cls: type[Message]) -> msgspec.msgpack.Decoder[Message]:
    return msgspec.msgpack.Decoder(cls)


def decode(body: bytes, kind: str) -> Message | Unknown:
    """The message again, or an `Unknown` view of its fields. Never raises for bytes that `encode` wrote."""
    for cls in message_classes().get(kind, ()):
        with contextlib.suppress(msgspec.MsgspecError):
            return _decoder(cls).decode(body)
    try:
        return Unknown(kind=kind, fields=msgspec.msgpack.decode(body))
    except msgspec.MsgspecError:
        return Unknown(kind=kind, fields={"body": body.hex()})


def pack(body: bytes) -> bytes:
    """A body as it lies in the file: compressed where it is large. The first byte tells, for no message begins with zlib's."""
    return zlib.compress(body, 1) if len(body) >= PACKED_SIZE else body


def unpack(stored: bytes) -> bytes:
    """The body again; bytes that cannot be read are left as they are, for `decode` to show."""
    if stored[:1] == ZLIB:
        with contextlib.suppress(zlib.error):
            return zlib.decompress(stored)
    return stored


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What run a log belongs to. `code` and `config` identify the program and its configuration (hashes, versions)."""

    id: str
    kind: str
    started_ns: int
    code: str = ""
    config: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class LogState:
    """Whether the log still writes, why not, and what it has written and lost."""

    on: bool
    reason: str
    written: int
    dropped: int


@dataclass(frozen=True, slots=True)
class _Event:
    at_ns: int
    path: str
    gen: int
    what: str
    detail: str


@dataclass(slots=True)
class _Gap:
    """Stands in the queue where records were dropped because it was full."""

    count: int = 0


@dataclass(slots=True)
class _Batch:
    """Rows of one transaction, and the flushes that wait for it."""

    messages: list[tuple[Any, ...]] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    paths: list[tuple[int, str]] = field(default_factory=list)
    kinds: list[tuple[int, str, int]] = field(default_factory=list)
    flushes: list[threading.Event] = field(default_factory=list)


class MessageLog:
    """A `Sink` that writes one run's messages and events to `path`. One file is one run: an older file of that name is
    set aside as `<name>.<n>`, whatever is in it.

    `write` and `event` may be called from any thread and return at once. Errors never reach the caller; see `state`.
    """

    def __init__(
        self, path: Path, run: RunInfo, *, queue_limit: int = QUEUE_LIMIT, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> None:
        from actors.kernel.threads import spawn_thread  # not needed by readers

        self.path, self.run = path, run
        self._limit, self._busy_timeout_s = queue_limit, busy_timeout_s
        self._queue: deque[Record | _Event | _Gap | threading.Event] = deque()
        self._wake, self._asleep = threading.Event(), False
        self._hurry = threading.Event()  # somebody waits: commit now instead of gathering
        self._drop_lock, self._dropped = threading.Lock(), 0
        self._gap: _Gap | None = None  # the one still in the queue
        self._written, self._last_ns = 0, run.started_ns
        self._off_reason: str | None = None
        self._closing = False
        self._exit_code: int | None = None
        self._ended_ns: int | None = None
        self._path_ids: dict[str, int] = {}
        self._kind_ids: dict[type, int] = {}
        self._seq = itertools.count(1)
        self._tree: Callable[[], Iterable[Mapping[str, Any]]] | None = None
        self._thread = spawn_thread("message-log", self._work)

    # -- the actors' side

    def write(self, record: "Record | _Event") -> None:
        """Queue one ended message; about a queue put."""
        queue = self._queue
        if len(queue) >= self._limit or self._off_reason is not None:
            self._drop()
            return
        queue.append(record)
        if self._asleep:
            self._asleep = False
            self._wake.set()

    def event(self, at_ns: int, path: str, gen: int, what: str, detail: str = "") -> None:
        """Queue one event of an actor's life. An `exit` event's number is the run's exit code."""
        self.write(_Event(at_ns, path, gen, what, detail))

    def _drop(self) -> None:
        with self._drop_lock:
            self._dropped += 1
            if self._gap is None:
                self._gap = _Gap()
                self._queue.append(self._gap)
            self._gap.count += 1

    @property
    def state(self) -> LogState:
        """A snapshot from any thread."""
        reason = self._off_reason
        return LogState(reason is None, reason or "", self._written, self._dropped)

    def watch(self, tree: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Store `tree()` (a system's `tree` method: path, state, generation, restarts, mailbox, handled, last_error)
        about every second while messages flow, so that readers in other processes see mailbox depths."""
        self._tree = tree

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything queued before this call is committed. False: it is not (log off, or time is up)."""
        done = threading.Event()
        self._queue.append(done)
        self._hurry.set()
        self._wake.set()
        return done.wait(timeout_s) and self._off_reason is None

    def close(self) -> None:
        """`finish`, as a system calls it."""
        self.finish()

    def finish(self, exit_code: int | None = None, *, ended_ns: int | None = None, timeout_s: float = 10.0) -> bool:
        """Write what is queued and the run's end, make the indexes, and end the thread. True if all of it is on disk.

        `exit_code` defaults to that of the `exit` event, `ended_ns` to the time of the last record.
        """
        if not self._closing:
            self._exit_code, self._ended_ns = exit_code, ended_ns
            self._closing = True
            self._hurry.set()
            self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and self._off_reason is None

    # -- the writer's side: everything below runs in the writer thread only

    def _work(self) -> None:
        try:
            with contextlib.closing(self._open()) as connection:
                self._write_until_closed(connection)
                self._finish(connection)
        except Exception as error:  # whatever it is, it ends the log and says so; it never ends the run
            self._turn_off(error)
            self._discard_until_closed()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._set_aside()
        connection = sqlite3.connect(self.path, timeout=self._busy_timeout_s, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        run = self.run
        connection.execute(
            "INSERT INTO run VALUES (?,?,?,NULL,?,?,?,NULL)",
            (run.id, run.kind, run.started_ns, run.code, run.config, run.seed),
        )
        self._inode = self.path.stat().st_ino
        if aside is not None:
            self._queue.appendleft(
                _Event(run.started_ns, "", 0, "set_aside", f"an earlier file of this name is now {aside.name}")
            )
            log.warning("message log found a file in its place path=%s set_aside=%s", self.path, aside.name)
        return connection

    def _set_aside(self) -> Path | None:
        """Move an existing file (complete, killed half-way or corrupt: all the same) and its WAL out of the way."""
        if not self.path.exists():
            return None
        for n in itertools.count(1):
            aside = self.path.with_name(f"{self.path.name}.{n}")
            if not aside.exists():
                break
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        return aside

    def _write_until_closed(self, connection: sqlite3.Connection) -> None:
        snapshot_due = 0.0
        while True:
            closing = self._closing  # read before the queue: what was queued before finish() is written
            if not self._queue and not closing:
                self._sleep()
            if len(self._queue) < BATCH_LIMIT:
                self._hurry.wait(GROUP_S)
            self._hurry.clear()
            while self._queue:
                self._commit(connection, self._gather())
            if self._tree is not None and (closing or time.monotonic() >= snapshot_due):
                self._snapshot(connection, self._tree)
                snapshot_due = time.monotonic() + SNAPSHOT_EVERY_S
            if closing:
                return

    def _sleep(self) -> None:
        self._wake.clear()
        self._asleep = True
        if self._queue or self._closing:  # a record that came between the look and the flag
            self._asleep = False
            return
        self._wake.wait()
        self._asleep = False

    def _gather(self) -> _Batch:
        """Encode up to BATCH_LIMIT queued records."""
        batch = _Batch()
        for _ in range(min(len(self._queue), BATCH_LIMIT)):
            item = self._queue.popleft()
            if type(item) is Record:
                batch.messages.append(self._row(batch, item))
            elif isinstance(item, threading.Event):
                batch.flushes.append(item)
            elif isinstance(item, _Gap):
                with self._drop_lock:
                    self._gap = None  # drops from here on stand for themselves
                self._add_event(batch, _Event(self._last_ns, "", 0, "gap", str(item.count)))
            elif isinstance(item, _Event):
                self._add_event(batch, item)
                self._last_ns = item.at_ns
        return batch

    def _add_event(self, batch: _Batch, event: _Event) -> None:
        if event.what == "exit" and self._exit_code is None:
            number = re.search(r"\d+", event.detail)
            self._exit_code = int(number.group()) if number else None
        path_id = self._path_id(batch, event.path)
        batch.events.append((next(self._seq), event.at_ns, path_id, event.gen, event.what, event.detail))

    def _row(self, batch: _Batch, record: Record) -> tuple[Any, ...]:
        self._last_ns = record.handled_ns or record.sent_ns
        message = record.message
        return (
            next(self._seq),
            record.id,
            record.cause,
            record.corr,
            self._path_ids.get(record.sender) or self._path_id(batch, record.sender),
            record.gen,
            self._path_ids.get(record.recipient) or self._path_id(batch, record.recipient),
            self._kind_ids.get(type(message)) or self._kind_id(batch, type(message)),
            record.sent_ns,
            record.handled_ns,
            record.took_us,
            record.outcome.value,
            record.attempt,
            record.detail or None,
            pack(encode(message)),
        )

    def _path_id(self, batch: _Batch, path: str) -> int:
        found = self._path_ids.get(path)
        if found is None:
            found = self._path_ids[path] = len(self._path_ids) + 1
            batch.paths.append((found, path))
        return found

    def _kind_id(self, batch: _Batch, cls: type) -> int:
        found = self._kind_ids.get(cls)
        if found is None:
            # Two classes of one name (tests) are two versions of it.
            version = 1 + sum(known.__name__ == cls.__name__ for known in self._kind_ids)
            found = self._kind_ids[cls] = len(self._kind_ids) + 1
            batch.kinds.append((found, cls.__name__, version))
        return found

    def _commit(self, connection: sqlite3.Connection, batch: _Batch) -> None:
        def write() -> None:
            connection.executemany("INSERT INTO path VALUES (?,?)", batch.paths)
            connection.executemany("INSERT INTO kind VALUES (?,?,?)", batch.kinds)
            connection.executemany(_INSERT_MESSAGE, batch.messages)
            connection.executemany(_INSERT_EVENT, batch.events)

        try:
            if batch.messages or batch.events:
                self._transact(connection, write)
                if self.path.stat().st_ino != self._inode:
                    raise FileNotFoundError(f"{self.path} was replaced while it was written")
        except (sqlite3.Error, OSError):
            self._lose(len(batch.messages) + len(batch.events))
            self._queue.extendleft(batch.flushes)  # answered once `state` says that the log is off
            raise
        self._written += len(batch.messages)
        for flush in batch.flushes:
            flush.set()

    def _transact(self, connection: sqlite3.Connection, write: Callable[[], None]) -> None:
        """One transaction, tried again for as long as somebody else holds the file (unless we are closing)."""
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                write()
                connection.execute("COMMIT")
                return
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or self._closing:
                    raise

    def _snapshot(self, connection: sqlite3.Connection, tree: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        batch, at_ns = _Batch(), self._last_ns
        rows = [
            (
                self._path_id(batch, str(cell["path"])), at_ns, str(cell["state"]), int(cell["generation"]),
                int(cell["restarts"]), int(cell["mailbox"]), int(cell["handled"]), str(cell["last_error"] or ""),
            )
            for cell in tree()
        ]  # fmt: skip

        def write() -> None:
            connection.executemany("INSERT INTO path VALUES (?,?)", batch.paths)
            connection.executemany(_UPSERT_ACTOR, rows)

        self._transact(connection, write)

    def _finish(self, connection: sqlite3.Connection) -> None:
        ended = self._last_ns if self._ended_ns is None else self._ended_ns

        def write() -> None:
            connection.execute("UPDATE run SET ended = ?, exit_code = ?", (ended, self._exit_code))

        self._transact(connection, write)
        connection.executescript(_INDEXES)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _lose(self, count: int) -> None:
        with self._drop_lock:
            self._dropped += count

    def _turn_off(self, error: Exception) -> None:
        self._off_reason = f"{type(error).__name__}: {error}"
        log.error("message log is off, trading goes on path=%s reason=%s", self.path, self._off_reason)
        with contextlib.suppress(OSError):  # best effort: the disk may be full
            off_note(self.path).write_text(self._off_reason)

    def _discard_until_closed(self) -> None:
        """Nothing enters the queue any more; free what is in it and answer those who wait for a flush."""
        while True:
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, threading.Event):
                    item.set()
                elif not isinstance(item, _Gap):
                    self._lose(1)
            if self._closing:
                return
            self._sleep()


def off_note(path: Path) -> Path:
    """The file that says why the log at `path` was turned off, beside it."""
    return path.with_name(path.name + ".off")


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """A log's header. `ended_ns` and `exit_code` are None while the run goes on, and for ever if it was killed."""

    id: str
    kind: str
    started_ns: int
    ended_ns: int | None
    code: str
    config: str
    seed: int
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded message, with the fields of `Record`."""

    seq: int
    id: int
    cause: int
    corr: int
    sender: str
    gen: int
    recipient: str
    kind: str
    sent_ns: int
    handled_ns: int
    took_us: int
    outcome: Outcome
    attempt: int
    detail: str
    body: bytes

    @property
    def message(self) -> Message | Unknown:
        """The message again."""
        return decode(self.body, self.kind)

    @property
    def at_ns(self) -> int:
        """When it was handled; when it was sent if it never was."""
        return self.handled_ns or self.sent_ns


@dataclass(frozen=True, slots=True)
class Event:
    """One event of an actor's life; path "" is the log itself."""

    seq: int
    at_ns: int
    path: str
    gen: int
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class TraceLine:
    """One message of a causal tree in reading order. `last` says of each depth whether a sibling is still to come."""

    entry: Entry
    last: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class ActorStats:
    """One actor's work. Times are of the handler, in microseconds, by nearest rank."""

    path: str
    handled: int
    failed: int
    dead: int
    took_us_p50: int
    took_us_p99: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Totals of a log. `dropped` counts the records that gap events stand for."""

    messages: int
    dropped: int
    first_ns: int
    last_ns: int
    actors: tuple[ActorStats, ...]
    kinds: dict[str, int]


@dataclass(frozen=True, slots=True)
class ActorState:
    """An actor as the log knows it. `mailbox` is None if the run stored no snapshots of its mailboxes."""

    path: str
    state: str
    generation: int
    restarts: int
    failures: int
    mailbox: int | None
    handled: int
    dead: int
    last_error: str


HANDLED = (Outcome.OK, Outcome.FAILED)
DEAD = (Outcome.DEAD, Outcome.OVERFLOW, Outcome.FENCED, Outcome.DISCARDED)

_SELECT = """SELECT m.seq, m.id, m.cause, m.corr, s.path, m.gen, r.path, k.name, m.sent, m.handled, m.took_us, m.outcome,
 m.attempt, m.detail, m.body FROM message m JOIN path s ON s.id = m.sender JOIN path r ON r.id = m.recipient
 JOIN kind k ON k.id = m.kind """


def _entry(row: tuple[Any, ...]) -> Entry:
    facts = (*row[:11], Outcome(row[11]), row[12], row[13] or "", unpack(row[14]))
    return Entry(*facts)


class LogReader:
    """Read-only view of a message log; every call sees what was committed when it was made.

    Raises LogUnreadable where the file is missing, is not a message log, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise LogUnreadable(f"no message log at {path}")
        try:
            self._connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
        except sqlite3.Error as error:
            raise LogUnreadable(f"{path}: {error}") from error
        self.run()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, sql: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, arguments).fetchall()
        except sqlite3.Error as error:
            raise LogUnreadable(f"{self.path} is damaged or is not a message log: {error}") from error

    def run(self) -> Run:
        rows = self._rows("SELECT id, kind, started, ended, code, config, seed, exit_code FROM run")
        if not rows:
            raise LogUnreadable(f"{self.path} has no run in it")
        return Run(*rows[0])

    def off_reason(self) -> str:
        """Why the log was turned off before its run ended; empty if it was not."""
        note = off_note(self.path)
        return note.read_text() if note.is_file() else ""

    def paths(self, pattern: str | None = None) -> list[str]:
        """Actor paths, all or those that `pattern` names: a path, a glob, or the last part of a path."""
        paths = sorted(path for (path,) in self._rows("SELECT path FROM path") if path)
        if pattern is None:
            return paths
        return [
            path for path in paths if fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*/{pattern}")
        ]

    def recipients(self) -> list[str]:
        """Paths that have handled messages."""
        sql = "SELECT DISTINCT p.path FROM message m JOIN path p ON p.id = m.recipient WHERE m.attempt <> 0 ORDER BY 1"
        return [path for (path,) in self._rows(sql)]

    def messages(
        self,
        *,
        actor: str | None = None,
        recipient: str | None = None,
        sender: str | None = None,
        kind: str | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        corr: int | None = None,
        outcomes: Iterable[Outcome] | None = None,
        after_seq: int = 0,
        limit: int | None = None,
    ) -> list[Entry]:
        """Messages in the order of handling; with `limit` the newest ones.

        `actor` (as recipient or sender), `recipient` and `sender` are patterns of `paths`; `kind` is a class name or a
        glob, in any case; times are those of `Entry.at_ns`, `since_ns` <= t < `until_ns`.
        """
        where, arguments = ["m.seq > ?"], [after_seq]

        def among(columns: Sequence[str], ids: Sequence[int]) -> None:
            marks = ",".join("?" * len(ids))
            where.append("(" + " OR ".join(f"{column} IN ({marks})" for column in columns) + ")")
            arguments.extend([*ids] * len(columns))

        for pattern, columns in (
            (actor, ("m.sender", "m.recipient")),
            (recipient, ("m.recipient",)),
            (sender, ("m.sender",)),
        ):
            if pattern is not None:
                among(columns, self._path_ids(pattern))
        if kind is not None:
            known = self._rows("SELECT id, name FROM kind")
            among(("m.kind",), [n for n, name in known if fnmatch.fnmatchcase(name.lower(), kind.lower())])
        if outcomes is not None:
            among(("m.outcome",), [int(outcome) for outcome in outcomes])
        time_of = "(CASE m.handled WHEN 0 THEN m.sent ELSE m.handled END)"
        for value, condition in ((since_ns, f"{time_of} >= ?"), (until_ns, f"{time_of} < ?"), (corr, "m.corr = ?")):
            if value is not None:
                where.append(condition)
                arguments.append(value)
        order = "ORDER BY m.seq" if limit is None else "ORDER BY m.seq DESC LIMIT ?"
        arguments.extend([] if limit is None else [limit])
        found = self._entries(f"WHERE {' AND '.join(where)} {order}", arguments)
        return found if limit is None else found[::-1]

    def _path_ids(self, pattern: str) -> list[int]:
        wanted = set(self.paths(pattern))
        return [n for n, path in self._rows("SELECT id, path FROM path") if path in wanted]

    def _entries(self, tail: str, arguments: Sequence[object]) -> list[Entry]:
        return [_entry(row) for row in self._rows(_SELECT + tail, arguments)]

    def show(self, message_id: int) -> Entry | None:
        """The message of that id."""
        found = self._entries("WHERE m.id = ? ORDER BY m.seq LIMIT 1", (message_id,))
        return found[0] if found else None

    def trace(self, id_or_corr: int) -> list[TraceLine]:
        """Everything that came of one root: the causal tree of a message (its whole correlation) or of a correlation.

        Children in the order of sending, below what caused them. Empty if the number is neither.
        """
        entry = self.show(id_or_corr)
        corr = entry.corr if entry is not None else id_or_corr
        entries = self._entries("WHERE m.corr = ? ORDER BY m.id", (corr,))
        known = {entry.id for entry in entries}
        children: dict[int, list[Entry]] = defaultdict(list)
        for entry in entries:  # a cause that is not in the log (lost in a gap, or a start) makes a root
            children[entry.cause if entry.cause in known and entry.cause != entry.id else 0].append(entry)
        lines: list[TraceLine] = []
        waiting = [TraceLine(root, ()) for root in reversed(children[0])]
        while waiting:
            line = waiting.pop()
            lines.append(line)
            below = children[line.entry.id]
            waiting.extend(
                TraceLine(child, (*line.last, place == len(below) - 1))
                for place, child in reversed(list(enumerate(below)))
            )
        return lines

    def dead_letters(self, limit: int | None = None) -> list[Entry]:
        """Messages that ended otherwise than handled: poison (failed), dead, overflow, fenced, discarded."""
        return self.messages(outcomes=(Outcome.FAILED, *DEAD), limit=limit)

    def events(self, path: str | None = None) -> list[Event]:
        """Events in order, all or of one path ("" is the log itself)."""
        where, arguments = ("", ()) if path is None else ("WHERE p.path = ? ", (path,))
        return [
            Event(seq, at, of, gen, what, detail or "")
            for seq, at, of, gen, what, detail in self._rows(
                "SELECT e.seq, e.at, p.path, e.gen, e.what, e.detail FROM event e JOIN path p ON p.id = e.path "
                f"{where}ORDER BY e.seq",
                arguments,
            )
        ]

    def gaps(self) -> int:
        """How many records were dropped because the queue was full."""
        return sum(int(event.detail) for event in self.events("") if event.what == "gap")

    def inbox(self, path: str) -> list[Entry | Event]:
        """What one actor lived through, in order: the messages whose handler ran (to its end, or until it failed) and
        the events of its life between them, which say where one generation ends and the next begins."""
        handled = self._entries(
            "WHERE r.path = ? AND m.attempt <> 0 ORDER BY m.seq",
            (path,),
        )
        lived: list[Entry | Event] = [*handled, *self.events(path)]
        return sorted(lived, key=lambda item: item.seq)

    def sent_by(self, path: str) -> list[Entry]:
        """What one actor sent, in the order of sending, however it ended."""
        return self._entries("WHERE s.path = ? ORDER BY m.id", (path,))

    def stats(self) -> Stats:
        took: dict[str, list[int]] = defaultdict(list)
        failed: dict[str, int] = defaultdict(int)
        dead: dict[str, int] = defaultdict(int)
        names = dict(self._rows("SELECT id, path FROM path"))
        for recipient, outcome, took_us in self._rows("SELECT recipient, outcome, took_us FROM message"):
            path = names.get(recipient, "?")
            if outcome in HANDLED:
                took[path].append(took_us)
                failed[path] += outcome == Outcome.FAILED
            else:
                dead[path] += outcome in DEAD
        actors = tuple(
            ActorStats(
                path, len(took[path]), failed[path], dead[path], percentile(took[path], 50), percentile(took[path], 99)
            )
            for path in sorted({*took, *dead})
        )
        kinds = self.kinds()
        times = self._rows("SELECT min(m.sent), max(max(m.sent, m.handled)) FROM message m")[0]
        return Stats(sum(kinds.values()), self.gaps(), times[0] or 0, times[1] or 0, actors, kinds)

    def kinds(self) -> dict[str, int]:
        """How many messages of each kind there are, the most frequent first."""
        return dict(
            self._rows(
                "SELECT k.name, count(*) FROM message m JOIN kind k ON k.id = m.kind GROUP BY k.name ORDER BY 2 DESC, 1"
            )
        )

    def tree(self) -> list[ActorState]:
        """Every actor and supervisor that has started, in the order of the paths' first appearance below their parent."""
        events: dict[str, list[Event]] = defaultdict(list)
        for event in self.events():
            if event.path:
                events[event.path].append(event)
        stored = {
            row[0]: row[1:] for row in self._rows("SELECT p.path, a.mailbox FROM actor a JOIN path p ON p.id = a.path")
        }
        work = {actor.path: actor for actor in self.stats().actors}
        ended = self.run().ended_ns is not None
        states = []
        for path in _tree_order([*events, *(path for path in stored if path not in events)]):
            lived = events.get(path, [])
            generation = max((event.gen for event in lived), default=0)
            failures = [event for event in lived if event.what in _FAILURES]
            did = work.get(path, ActorStats(path, 0, 0, 0, 0, 0))
            states.append(
                ActorState(
                    path=path,
                    state=_state_after(lived, ended),
                    generation=generation,
                    restarts=max(0, generation - 1),
                    failures=len(failures),
                    mailbox=stored[path][0] if path in stored else None,
                    handled=did.handled,
                    dead=did.dead,
                    last_error=failures[-1].detail.strip().rsplit("\n", 1)[-1] if failures else "",
                )
            )
        return states

    def follow(self, *, after_seq: int, poll_s: float = 0.2, **filters: Any) -> Iterator[Entry]:
        """New messages as they are committed, until the run has ended. `filters` are those of `messages`."""
        while True:
            ended = self.run().ended_ns is not None  # read before the messages: none comes after it
            for entry in self.messages(after_seq=after_seq, **filters):
                after_seq = entry.seq
                yield entry
            if ended:
                return
            time.sleep(poll_s)

    def last_seq(self) -> int:
        return int(self._rows("SELECT coalesce(max(seq), 0) FROM message")[0][0])


def percentile(values: Sequence[int], percent: int) -> int:
    """Nearest rank; 0 for no values."""
    if not values:
        return 0
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


_FAILURES = ("failed", "hung", "vanished", "escalated", "halted")
_STATES = {
    "started": "running",
    "failed": "failed",
    "hung": "hung",
    "vanished": "vanished",
    "fenced": "fenced",
    "abandoned": "abandoned",
    "restarting": "restarting",
    "stopped": "stopped",
    "terminated": "terminated",
    "escalated": "escalated",
    "halted": "halted",
}


def _state_after(lived: Sequence[Event], run_ended: bool) -> str:
    """The state that an actor's last telling event left it in."""
    states = [_STATES[event.what] for event in lived if event.what in _STATES]
    if states[-2:] == ["stopped", "terminated"]:  # its address was closed after it had ended in good order
        return "stopped"
    if states:
        return "ended" if run_ended and states[-1] == "running" else states[-1]
    return "unknown"


def _tree_order(paths: Iterable[str]) -> list[str]:
    """Parents before children, siblings in the order of their first appearance."""
    place: dict[str, int] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            place.setdefault("/".join(parts[:depth]), len(place))
    known = set(paths)

    def key(path: str) -> list[int]:
        parts = path.split("/")
        return [place["/".join(parts[: depth + 1])] for depth in range(len(parts))]

    return sorted(known, key=key)
