"""The control socket: how other processes of the same user ask a running trader, and tell it, things.

A Unix socket in the environment's folder (mode 0600, in a folder of mode 0700). One JSON object per line each way:
`{"command": "status"}` is answered by `{"ok": true, ...}` or `{"ok": false, "error": "..."}`. One thread serves all
connections and never waits: not for a client that says nothing or does not read, and not for an actor.
"""

import json
import logging
import os
import selectors
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.kernel import Ref, ThreadSystem, spawn_thread
from actors.kernel.record import Record, Sink
from actors.messages import (
    BarClosed,
    FlattenRequested,
    HaltTrading,
    HistoryLoaded,
    ResumeTrading,
    SessionPhaseChanged,
)
from algo_royale.app.logs import fact, visible
from algo_royale.errors import AlgoRoyaleError
from algo_royale.risk import person

log = logging.getLogger(__name__)

SOCKET = "control.sock"
LINE_MAX = 65_536
CONNECTIONS_MAX = 32
PATH_MAX = 100  # bytes; the systems' limits are 104 and 108
CHUNK = 65_536
CONNECT_AGAIN_S = 0.02

Document = Mapping[str, Any]


class NoTrader(AlgoRoyaleError):
    """Nobody listens at the control socket."""


class Refused(AlgoRoyaleError):
    """The trader has heard the command and says no, or does not answer."""


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """`path` by a name that is short enough for a Unix socket: where it is not, by way of a link that is gone afterwards."""
    if len(os.fsencode(path)) <= PATH_MAX:
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="ar-") as folder:
        link = Path(folder) / "d"
        link.symlink_to(path.parent.absolute(), target_is_directory=True)
        yield str(link / path.name)


# --- the trader's side -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Line:
    """A connection: what has come of a request, and what has not gone yet of the answers."""

    heard: bytearray = field(default_factory=bytearray)
    to_say: bytearray = field(default_factory=bytearray)
    closing: bool = False
    stranger: int | None = None  # the user at the other end, if it may not control us


class ControlServer:
    """Serves `answer` on the socket in `directory` while it is entered.

    The caller holds the environment's lock, so that a socket that is there already was left by a process that died.
    A peer that is neither `owner` (by default our user) nor root is refused, should it ever get past the folder's mode.
    A socket that cannot be made is reported and left out: the trader trades without it, and SIGTERM still stops it.
    """

    def __init__(self, directory: Path, answer: Callable[[Document], Document], *, owner: int | None = None) -> None:
        self._path, self._answer = directory / SOCKET, answer
        self._owners = {0, os.geteuid()} if owner is None else {owner}
        self._selector = selectors.DefaultSelector()
        self._lines: dict[socket.socket, _Line] = {}

    def __enter__(self) -> "ControlServer":
        self._wake, woken = socket.socketpair()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.chmod(0o700)
            made = self._path.with_suffix(".new")
            made.unlink(missing_ok=True)
            with reachable(made) as name:
                self._listener.bind(name)
            made.chmod(0o600)
            self._listener.listen(CONNECTIONS_MAX)
            self._listener.setblocking(False)
            made.replace(self._path)  # who sees it finds somebody listening
            self._selector.register(self._listener, selectors.EVENT_READ)  # one that does not listen is ready for ever
        except OSError as error:
            log.error(fact("no control socket", path=self._path, reason=error))
        self._selector.register(woken, selectors.EVENT_READ)
        self._thread = spawn_thread("control", lambda: self._serve(woken))
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join(5.0)
        self._path.unlink(missing_ok=True)

    def _serve(self, woken: socket.socket) -> None:
        while True:
            for key, events in self._selector.select():
                if key.fileobj is woken:
                    for open_one in (woken, self._listener, *self._lines):
                        open_one.close()
                    self._selector.close()
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._move(key.fileobj, events)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        if len(self._lines) >= CONNECTIONS_MAX:
            self._drop(next(iter(self._lines)))  # the oldest: those who only hold the line do not keep others out
        connection.setblocking(False)
        line = self._lines[connection] = _Line()
        self._selector.register(connection, selectors.EVENT_READ)
        uid = peer_uid(connection)
        if uid is not None and uid not in self._owners:
            log.warning(fact("control refused", uid=uid))
            line.stranger = uid

    def _move(self, connection: socket.socket, events: int) -> None:
        line = self._lines.get(connection)
        if line is None:
            return
        try:
            if events & selectors.EVENT_READ and not line.closing:
                self._hear(connection, line)
            if line.to_say:
                del line.to_say[: connection.send(line.to_say)]
        except BlockingIOError:
            pass
        except OSError:
            line.closing, line.to_say = True, bytearray()
        if line.closing and not line.to_say:
            self._drop(connection)
        elif connection in self._lines:
            wanted = selectors.EVENT_WRITE if line.to_say else selectors.EVENT_READ
            self._selector.modify(connection, wanted)

    def _hear(self, connection: socket.socket, line: _Line) -> None:
        came = connection.recv(CHUNK)
        line.heard += came
        while b"\n" in line.heard and not line.closing:
            text, _, rest = bytes(line.heard).partition(b"\n")
            line.heard = bytearray(rest)
            if line.stranger is None:
                self._say(connection, self._answered(text))
            else:
                self._say(connection, {"ok": False, "error": f"user {line.stranger} may not control this trader"})
        if not came or len(line.heard) > LINE_MAX:
            line.closing = True

    def _answered(self, text: bytes) -> Document:
        try:
            request = json.loads(text)
            if not isinstance(request, dict) or not isinstance(request.get("command"), str):
                return {"ok": False, "error": 'a request is an object such as {"command": "status"}'}
            return {"ok": True, **self._answer(request)}
        except (ValueError, RecursionError):
            return {"ok": False, "error": "the request is not JSON"}
        except AlgoRoyaleError as error:
            return {"ok": False, "error": str(error)}
        except (LookupError, TypeError, AttributeError, OSError) as error:
            # What a defect of ours raises: the person who needs this socket to halt keeps it, and hears of the defect.
            log.exception(fact("control command failed", request=text[:200]))
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    def _say(self, connection: socket.socket, document: Document) -> None:
        line = self._lines[connection]
        line.to_say += json.dumps(document, default=str).encode() + b"\n"
        self._selector.modify(connection, selectors.EVENT_WRITE)

    def _drop(self, connection: socket.socket) -> None:
        self._lines.pop(connection, None)
        with suppress(KeyError):
            self._selector.unregister(connection)
        connection.close()


def peer_uid(connection: socket.socket) -> int | None:
    """The user at the other end; None where the system does not say (then the folder's mode alone keeps others out)."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return int(uid)


# --- the other side --------------------------------------------------------------------------------------------------


def _connect(connection: socket.socket, name: str, timeout_s: float) -> None:
    """Connect, again and again while too many others wait to be let in: a Unix socket with a timeout does not wait itself."""
    tick = threading.Event()
    for _ in range(round(timeout_s / CONNECT_AGAIN_S)):
        try:
            return connection.connect(name)
        except BlockingIOError:
            tick.wait(CONNECT_AGAIN_S)
    connection.connect(name)


def ask(directory: Path, command: str, *, timeout_s: float = 5.0, **arguments: object) -> dict[str, Any]:
    """The answer of the trader of this folder. Raises NoTrader, or Refused with what it says."""
    path = directory / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with reachable(path) as name:
                _connect(connection, name, timeout_s)
        except BlockingIOError as error:
            raise Refused(f"the trader did not answer within {timeout_s:g} s") from error
        except PermissionError as error:
            raise Refused(f"{path} belongs to another user, who alone may control that trader") from error
        except OSError as error:
            raise NoTrader(f"no trader answers at {path}") from error
        try:
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                text = lines.readline()
        except TimeoutError as error:
            raise Refused(f"the trader did not answer within {timeout_s:g} s") from error
        except OSError as error:
            raise NoTrader(f"the trader at {path} ended before it had answered") from error
    if not text:
        raise NoTrader(f"the trader at {path} ended before it had answered")
    answer: dict[str, Any] = json.loads(text)
    if not answer.pop("ok"):
        raise Refused(str(answer["error"]))
    return answer


# --- what a trader answers -------------------------------------------------------------------------------------------


class Gauges:
    """A sink in front of the message log that remembers what people ask for while a trader runs: who handled how much and
    for how long, the newest bar, the phase of the session. It costs a look-up per record and never blocks."""

    def __init__(self, log: Sink) -> None:
        self._log = log
        self.handled: dict[str, list[int]] = {}  # path -> [records, microseconds]; one writer each: its own thread
        self.bar_end_ns = 0
        self.session: SessionPhaseChanged | None = None
        self._failed: dict[str, str] = {}  # path -> why it was restarted last

    def write(self, record: Record) -> None:
        sums = self.handled.get(record.recipient)
        if sums is None:
            sums = self.handled.setdefault(record.recipient, [0, 0])
        sums[0] += 1
        sums[1] += record.took_us
        kind = type(record.message)
        if kind is BarClosed:
            self._saw(record.message.bar.end_ns)
        elif kind is HistoryLoaded and record.message.bars:
            self._saw(record.message.bars[-1].end_ns)
        elif kind is SessionPhaseChanged:
            self.session = record.message
        self._log.write(record)

    def _saw(self, end_ns: int) -> None:
        self.bar_end_ns = max(self.bar_end_ns, end_ns)

    def event(self, at_ns: int, path: str, gen: int, what: str, detail: str) -> None:
        if what in ("restarting", "abandoned", "escalated"):
            reason = (detail.splitlines() or [""])[-1][:300]
            if self._failed.get(path) != reason:  # one that fails again and again is told once
                self._failed[path] = reason
                log.warning(fact(f"actor {what}", path=path, reason=reason))
        self._log.event(at_ns, path, gen, what, detail)

    def close(self) -> None:
        self._log.close()


LEDGER, PORTFOLIO, NOTIFIER = "root/trading/ledger", "root/trading/portfolio", "root/notifier"
CONNECTIONS = {"trading": "root/trading/broker", "data": "root/trading/market_data"}  # whose `observe` says "state"
COUNTERS = frozenset({*CONNECTIONS.values(), "root/trading/orders", LEDGER})  # what they observe is shown


class Desk:
    """Answers the commands of the control socket for one running trader, from what is at hand: it asks no actor.

    What the ledger knows (positions, open orders, the trading state) the asking process reads there itself.
    """

    def __init__(self, system: ThreadSystem, gauges: Gauges, about: Document) -> None:
        """`about`: what never changes of the run (run_id, environment and the like), part of every status."""
        self._system, self._gauges, self._about = system, gauges, about
        self.stop_asked = False

    def answer(self, request: Document) -> Document:
        """Raises Refused for what it does not know."""
        match request["command"]:
            case "status":
                return self._status()
            case "top":
                return self._top()
            case "stop":
                self.stop_asked = True
                return {"stopping": True}
            case "halt" | "resume" | "flatten":
                return self._tell(LEDGER, self._order(request))
        raise Refused(f"unknown command {request['command']!r}")

    def _order(self, request: Document) -> HaltTrading | ResumeTrading | FlattenRequested:
        """A person's word on the trading state, for the ledger to commit."""
        reason, by, now_ns = request.get("reason"), request.get("by"), self._system.now_ns()
        if not (isinstance(reason, str) and reason.strip() and isinstance(by, str) and by.strip()):
            raise Refused("say who you are (by) and why (reason)")
        reason, by = visible(reason), person(visible(by))  # what is committed can be stored and shown
        match request["command"], request.get("state", "halted"):
            case "resume", _:
                return ResumeTrading(at_ns=now_ns, reason=reason, by=by)
            case "flatten", _:
                return FlattenRequested(at_ns=now_ns, reason=reason, by=by)
            case _, "halted" | "reducing" as state:
                return HaltTrading(at_ns=now_ns, reason=reason, state=state, by=by)
        raise Refused("a state to halt in is halted or reducing")

    def _status(self) -> Document:
        now_ns, bar_ns, session = self._system.now_ns(), self._gauges.bar_end_ns, self._gauges.session
        rows = self._system.tree()
        return {
            **self._about,
            "pid": os.getpid(),
            "now_ns": now_ns,
            "stopping": self.stop_asked or self._system.exit_code is not None,
            "session": None if session is None else session.session_date,
            "phase": None if session is None else session.phase,
            "connections": {name: self._system.glance(path).get("state") for name, path in CONNECTIONS.items()},
            "bar_end_ns": bar_ns or None,
            "bar_age_s": round((now_ns - bar_ns) / 1e9, 3) if bar_ns else None,
            "held_back": self._system.glance(PORTFOLIO).get("held_back", {}),
            "actors": len(rows),
            "actors_down": [row["path"] for row in rows if row["state"] != "running"],
            "restarts": sum(int(str(row["restarts"])) for row in rows),
            "dead_letters": self._system.dead_letter_count,
            "notifications": dict(self._system.glance(NOTIFIER)) or None,
        }

    def _top(self) -> Document:
        """Counts since the start; who asks twice has rates. `at_ns` is the machine's, for mailboxes know no other time."""
        actors = []
        for row in self._system.tree():
            records, took_us = self._gauges.handled.get(str(row["path"]), (0, 0))
            observed = self._system.glance(str(row["path"])) if row["path"] in COUNTERS else None
            actors.append({**row, "records": records, "took_us": took_us, "observed": observed})
        return {"run_id": self._about.get("run_id"), "at_ns": self._system.stopwatch(), "actors": actors}

    def _tell(self, path: str, message: Any) -> Document:
        ref: Ref[Any] = self._system.ref(path)
        if not ref.tell(message):
            raise Refused(f"{path} takes no messages now")
        return {"told": True}
