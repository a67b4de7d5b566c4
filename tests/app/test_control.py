"""The control socket: whose it is, what it makes of anything that is sent to it, and that it waits for nobody."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.kernel import Actor, ChildSpec, Message, Supervisor, ThreadSystem
from actors.messages import BarClosed, BarRow, SessionPhaseChanged
from algo_royale.app.cli.operating import rates
from algo_royale.app.control import (
    CONNECTIONS_MAX,
    LINE_MAX,
    ControlServer,
    Desk,
    Gauges,
    NoTrader,
    Refused,
    ask,
    reachable,
)
from algo_royale.clock import ManualClock
from conftest import ROOT

NOON_NS = 1_325_610_000_000_000_000


def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    if request["command"] == "no":
        raise Refused("never")
    if request["command"] == "bug":
        raise KeyError("oops")
    return {"heard": request["command"]}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@contextmanager
def plain(home: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        with reachable(home / "control.sock") as name:
            connection.connect(name)
        yield connection


def lines_of(connection: socket.socket) -> list[dict[str, Any]]:
    """Everything said until the other side closes, or has said one line."""
    with connection.makefile("rb") as lines:
        return [json.loads(lines.readline() or b"null")]


def test_a_question_is_answered_and_a_no_says_why(home: Path) -> None:
    with ControlServer(home, echo):
        assert ask(home, "status") == {"heard": "status"}
        with pytest.raises(Refused, match="^never$"):
            ask(home, "no")
        with pytest.raises(Refused, match="KeyError"):  # a bug is an answer, too
            ask(home, "bug")
        assert ask(home, "status") == {"heard": "status"}
    assert not (home / "control.sock").exists()


def test_only_the_owner_can_reach_it(home: Path) -> None:
    home.chmod(0o755)
    with ControlServer(home, echo):
        assert stat.S_IMODE((home / "control.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the system does not say who is at the other end")
def test_another_user_who_got_past_the_folder_is_refused(home: Path) -> None:
    with ControlServer(home, echo, owner=os.geteuid() + 1), pytest.raises(Refused, match="may not control this trader"):
        ask(home, "stop")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("opened", [False, True])
def test_a_process_of_another_user_gets_nowhere(home: Path, opened: bool) -> None:
    """By the modes; and where somebody has opened them, by who it is."""
    heard: list[object] = []
    with ControlServer(home, lambda request: heard.append(request) or {}):  # type: ignore[func-returns-value]
        if opened:
            for folder in (home, *home.parents[:3]):
                folder.chmod(folder.stat().st_mode | 0o055)
            (home / "control.sock").chmod(0o666)
        code = (
            "import os, socket, sys\nos.setgid(65534); os.setuid(65534)\n"
            "line = socket.socket(socket.AF_UNIX)\n"
            "try:\n    line.connect(sys.argv[1])\nexcept PermissionError:\n    print('refused'); raise SystemExit\n"
            'line.sendall(b\'{"command": "stop"}\\n\')\nprint(line.makefile().readline())'
        )
        with reachable(home / "control.sock") as name:
            done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
    assert ("may not control" if opened else "refused") in done.stdout
    assert heard == []


def test_a_socket_left_by_a_killed_process_is_replaced(home: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from algo_royale.app.control import ControlServer\n"
        "with ControlServer(Path(sys.argv[1]), lambda request: {}):\n    print('up', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (home / "control.sock").exists()
    with pytest.raises(NoTrader, match="no trader answers at"):
        ask(home, "status")

    with ControlServer(home, echo):
        assert ask(home, "status") == {"heard": "status"}


def test_a_path_longer_than_a_socket_may_have_is_no_limit(home: Path) -> None:
    deep = home / ("a" * 90) / ("b" * 90)
    deep.mkdir(parents=True)
    with ControlServer(deep, echo):
        assert ask(deep, "status") == {"heard": "status"}
        assert stat.S_ISSOCK((deep / "control.sock").stat().st_mode)


def test_a_place_without_sockets_stops_nobody(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ControlServer(home / "absent", echo) as deaf:
        assert "no control socket" in caplog.text
        assert (
            len(deaf._selector.get_map()) == 1
        )  # what ends it: a socket that does not listen would wake it without end


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"status\n", "the request is not JSON"),
        (b'["status"]\n', "a request is an object"),
        (b'{"command": 3}\n', "a request is an object"),
        (b"\xff\xfe\n", "the request is not JSON"),
        (b"[" * 60_000 + b"\n", "the request is not JSON"),
        (b"9" * 60_000 + b"\n", "the request is not JSON"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_nonsense_is_answered(home: Path, sent: bytes, said: str) -> None:
    with ControlServer(home, echo), plain(home) as connection:
        connection.sendall(sent)
        (answer,) = lines_of(connection)
        assert answer["ok"] is False and said in answer["error"]
        assert ask(home, "status") == {"heard": "status"}


def test_who_says_nothing_or_half_or_does_not_read_keeps_nobody_waiting(home: Path) -> None:
    """Mute callers, half a line, a caller that never reads a long answer, and more callers than there are lines."""
    big = "x" * 4_000_000
    with ControlServer(home, lambda request: {"text": big if request["command"] == "big" else "small"}):
        held = []
        for sent in (b"", b'{"command": ', b'{"command": "big"}\n'):
            connection = socket.socket(socket.AF_UNIX)
            with reachable(home / "control.sock") as name:
                connection.connect(name)
            connection.sendall(sent)
            held.append(connection)
        assert ask(home, "status")["text"] == "small"
        for _ in range(CONNECTIONS_MAX + 3):
            with reachable(home / "control.sock") as name:
                held.append(socket.socket(socket.AF_UNIX))
                held[-1].connect(name)
        assert ask(home, "status")["text"] == "small"
        assert len(ask(home, "big")["text"]) == len(big)
        for connection in held:
            connection.close()


def test_a_crowd_at_the_door_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses at once where the queue of a Unix socket is full; the one who asks tries again until it is let in."""
    listener = socket.socket(socket.AF_UNIX)
    with reachable(home / "control.sock") as name:
        listener.bind(name)
    listener.listen(0)
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for one in crowd:
        one.setblocking(False)
        with reachable(home / "control.sock") as name, suppress(BlockingIOError):
            one.connect(name)
    with pytest.raises(Refused, match="did not answer within 0.1 s"):
        ask(home, "status", timeout_s=0.1)

    def let_in() -> None:
        for _ in range(5):
            connection, _ = listener.accept()
            with connection:
                if connection.recv(100):
                    connection.sendall(b'{"ok": true, "heard": "status"}\n')

    door = threading.Thread(target=let_in, daemon=True)

    class OpensTheDoor(threading.Event):
        """What the one who asks waits with between two tries: the crowd leaves, and the door is opened."""

        def wait(self, timeout: float | None = None) -> bool:
            if not door.ident:
                for other in crowd:
                    other.close()
                door.start()
            return super().wait(timeout)

    monkeypatch.setattr("algo_royale.app.control.threading", SimpleNamespace(Event=OpensTheDoor))
    assert ask(home, "status") == {"heard": "status"}
    assert door.ident  # it was refused at first
    listener.close()


def test_a_line_without_end_is_cut_off(home: Path) -> None:
    with ControlServer(home, echo), plain(home) as connection:
        with pytest.raises(OSError):
            for _ in range(64):
                connection.sendall(b"x" * LINE_MAX)
        assert ask(home, "status") == {"heard": "status"}


# --- what a trader answers -------------------------------------------------------------------------------------------


class Work(Message, frozen=True):
    """Something to do."""


class Busy(Actor[Work]):
    """Is in the middle of something until it is let go."""

    def __init__(self, begun: threading.Event, go: threading.Event) -> None:
        self._begun, self._go = begun, go

    def observe(self) -> Mapping[str, object]:
        return {"state": "live"}

    def receive(self, message: Work) -> None:
        self._begun.set()
        with self.protected(60.0):
            self._go.wait(60.0)


class Kept:
    """A sink that keeps nothing."""

    def write(self, record: object) -> None: ...

    def event(self, at_ns: int, path: str, gen: int, what: str, detail: str) -> None: ...

    def close(self) -> None: ...


def at(path: str, make: Callable[[], Actor[Any]]) -> ChildSpec:
    """A tree whose leaf at `path` is that actor."""
    names = path.split("/")
    spec = ChildSpec(id=names[-1], factory=make)
    for name in reversed(names[:-1]):
        spec = ChildSpec(id=name, factory=lambda below=spec: Supervisor([below]))  # type: ignore[misc]
    return spec


def test_status_and_top_wait_for_no_actor(home: Path) -> None:
    """The broker's actor hangs in a call with 500 messages behind it; both are answered at once, and say so."""
    begun, go = threading.Event(), threading.Event()
    gauges = Gauges(Kept())
    system = ThreadSystem(ManualClock(NOON_NS), log=gauges)
    system.start(at("root/trading/broker", lambda: Busy(begun, go)))
    broker = system.ref("root/trading/broker")
    for _ in range(501):
        broker.tell(Work(at_ns=NOON_NS))
    assert begun.wait(10)
    desk = Desk(system, gauges, {"run_id": "run-1", "environment": "dev_integration"})
    with ControlServer(home, desk.answer):
        status = ask(home, "status", timeout_s=1.0)
        top = ask(home, "top", timeout_s=1.0)
        assert not desk.stop_asked
        ask(home, "stop")
        assert desk.stop_asked
        assert ask(home, "status")["stopping"] is True
        with pytest.raises(Refused, match="unknown command 'dance'"):
            ask(home, "dance")
    go.set()
    system.run_until_idle()
    assert system.stop() == 0

    assert status["connections"] == {"trading": "live", "data": None}
    assert status["held_back"] == {}
    assert (status["run_id"], status["now_ns"], status["stopping"]) == ("run-1", NOON_NS, False)
    (row,) = (row for row in top["actors"] if row["path"] == broker.path)
    assert (row["mailbox"], row["state"], row["records"]) == (500, "running", 0)
    assert gauges.handled[broker.path][0] == 501


def test_the_newest_bar_and_the_phase_are_known() -> None:
    clock, gauges = ManualClock(NOON_NS), Gauges(Kept())

    class Anyone(Actor[object]):
        def receive(self, message: object) -> None: ...

    system = ThreadSystem(clock, log=gauges)
    root = system.start(at("root/any", Anyone))
    desk = Desk(system, gauges, {})
    before = desk.answer({"command": "status"})
    bar = BarRow(
        start_ns=NOON_NS - 90_000_000_000, end_ns=NOON_NS - 30_000_000_000, open=1, high=1, low=1, close=1, volume=1
    )
    for ref in (system.ref(f"{root.path}/any"),):
        ref.tell(BarClosed(at_ns=NOON_NS, symbol="IBM", timeframe="1Min", bar=bar))
        ref.tell(SessionPhaseChanged(at_ns=NOON_NS, session_date="2012-01-03", phase="open", open_ns=1, close_ns=2))
    system.run_until_idle()
    after = desk.answer({"command": "status"})
    system.stop()

    assert (before["bar_age_s"], before["phase"], before["actors_down"]) == (None, None, [])
    assert (after["bar_age_s"], after["phase"], after["session"]) == (30.0, "open", "2012-01-03")


def test_why_an_actor_fails_is_in_the_log_of_the_process_once(caplog: pytest.LogCaptureFixture) -> None:
    """Such as a strategy that raises at every bar: its symbol is not traded, and the person should know why."""
    gauges = Gauges(Kept())
    for detail in ("Traceback\n  line 1\nBadStrategy: mine.py:3: up: boom",) * 3 + ("another",):
        gauges.event(NOON_NS, "root/a", 1, "restarting", detail)
    gauges.event(NOON_NS, "root/a", 1, "started", "")
    assert [record.getMessage() for record in caplog.records] == [
        "actor restarting path=root/a reason='BadStrategy: mine.py:3: up: boom'", "actor restarting path=root/a reason=another",
    ]  # fmt: skip


def test_a_word_that_is_no_text_reaches_the_ledger_as_one_that_is() -> None:
    """A lone surrogate can be sent as JSON, and can be stored nowhere."""
    system = ThreadSystem(ManualClock(NOON_NS))
    told: list[Any] = []
    desk = Desk(system, Gauges(Kept()), {})
    desk._tell = lambda path, message: told.append(message) or {}  # type: ignore[func-returns-value, method-assign]
    desk.answer({"command": "halt", "reason": "\ud800\x1b[2J", "by": "\udcf6"})
    assert [(message.reason, message.by) for message in told] == [("\\ud800\\x1b[2J", "\\udcf6")]


def test_rates_are_those_between_two_looks() -> None:
    def look(at_s: float, records: int, took_us: int) -> dict[str, Any]:
        row = {"path": "root/a", "state": "running", "mailbox": 2, "handled": records, "restarts": 0, "last_error": ""}
        return {"at_ns": round(at_s * 1e9), "actors": [{**row, "records": records, "took_us": took_us}]}

    (row,) = rates(look(10.0, 100, 5_000), look(12.0, 300, 25_000))
    assert (row["messages_per_s"], row["mean_us"]) == (100.0, 100.0)
    (row,) = rates(look(10.0, 100, 5_000), look(12.0, 100, 5_000))
    assert (row["messages_per_s"], row["mean_us"]) == (0.0, None)
