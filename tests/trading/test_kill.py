"""However often and whenever the trader's process is killed: the account ends as if it had never happened."""

import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import websocket

from actors.kernel.journal import LogReader, LogUnreadable
from actors.messages import BrokerStateChanged
from algo_royale.app.trader import Endpoints
from algo_royale.broker.alpaca_wire import authenticate_text, listen_text
from algo_royale.sessions import calendar
from databases import PASSWORD, new_schema, server
from db.admin import status
from db.database import PostgresUrl
from live_traders import (
    LIFE_S,
    BadDay,
    Forked,
    Process,
    ask_paper,
    ended,
    facts_on_disk,
    ledger,
    prepared,
    running,
    spawn_paper,
    truth_errors,
    turns,
    twin,
    twin_truth,
    wait,
)
from traders import BUSY, SYMBOLS, last_session, ledger_of, nervous_plan, trader

HALF_A_DAY_NS = 43_200_000_000_000
LOOK_S, ASK_S = 0.0005, 0.005  # how often the files are looked at, and the twin is asked


@dataclass(frozen=True)
class Instant:
    """Kill once the twin's time has reached `at_ns` and `what` has then changed `count` times, and `late_s` after that."""

    at_ns: int
    what: str
    count: int
    late_s: float


def instants(rng: random.Random, sessions: int, kills: int) -> list[Instant]:
    """Random openings and closings, and random progress of something at each; a few right at the start of a life."""
    days = calendar().sessions(BUSY, last_session(BUSY, sessions - 3))
    times = sorted(rng.choices([ns for day in days for ns in (day.open_ns, day.close_ns)], k=kills))
    return [
        Instant(
            at_ns, rng.choice(("ledger", "ledger", "log", "twin", "start")), rng.randint(1, 5), rng.choice((0, rng.random() / 50))
        )
        for at_ns in times
    ]  # fmt: skip


class Life:
    """One process of the trader, and what can be seen of it from outside."""

    def __init__(self, home: Path, directory: Path, endpoints: Endpoints, *options: str) -> None:
        self.directory, self.endpoints, self.options = directory, endpoints, ("--quiet", *options)
        self.before = set(directory.glob("runs/*"))
        self.process = self._spawn(home)
        self._session = requests.Session()

    def _spawn(self, home: Path) -> Process:
        return Forked(home, self.endpoints, *self.options)

    def kill_at(self, instant: Instant, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Returns when it is dead."""
        self.reach(instant, meanwhile)
        self.process.kill()
        self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL, "it had ended before it was killed"

    def reach(self, instant: Instant, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Until then; where nothing more happens, until half a day later. `meanwhile` is called when the time has come."""
        if instant.what != "start":
            wait(self.process, lambda: self._clock()["now_ns"] >= instant.at_ns)
        meanwhile()
        seen = {"ledger": self._ledger, "log": self._log, "twin": self._events, "start": self._start}[instant.what]
        overdue_ns = max(instant.at_ns, self._clock()["now_ns"]) + HALF_A_DAY_NS
        changes, last = 0, seen()
        for turn in turns(self.process, ASK_S if instant.what == "twin" else LOOK_S):
            if (now := seen()) != last:
                changes, last = changes + 1, now
            if changes >= instant.count or (turn % 20 == 0 and self._clock()["now_ns"] > overdue_ns):
                break
        threading.Event().wait(instant.late_s)

    def _clock(self) -> dict[str, int]:
        found: dict[str, int] = self._session.get(f"{self.endpoints.trading_url}/sim/clock", timeout=30).json()
        return found

    def _events(self) -> int:
        return self._clock()["events"]

    def _ledger(self) -> Any:
        return _stamp(self.directory / "ledger.db-wal")

    def _log(self) -> Any:
        return [_stamp(run / "messages.db-wal") for run in set(self.directory.glob("runs/*")) - self.before]

    def _start(self) -> Any:
        """Its lock, its log, its first commits: the first things that a life does."""
        pid = self.directory / "run-trader.pid"
        return pid.exists() and pid.read_text() == f"{self.process.pid}\n", self._log(), self._ledger()


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


@pytest.mark.prove
def test_killed_at_random_instants_the_trader_ends_with_the_undisturbed_ledger(tmp_path: Path, proving: bool) -> None:
    """30 kills in 25 sessions (3 in 6 in the suite): no order twice, no fill lost, the ledger is the twin's truth and the
    ledger of a trader that was left alone."""
    sessions, kills = (25, 30) if proving else (6, 3)
    undisturbed = trader(sessions, start=BUSY)
    assert undisturbed.run() == 0
    directory = prepared(tmp_path, BUSY)

    with twin(BUSY, sessions) as endpoints:
        for instant in instants(random.Random(20121018), sessions, kills):
            Life(tmp_path, directory, endpoints).kill_at(instant)
        last = Forked(tmp_path, endpoints, "--quiet")
        output = last.communicate(timeout=LIFE_S)
        truth = twin_truth(endpoints)

    assert last.returncode == 0, output
    assert len(list(directory.glob("runs/*"))) <= kills + 1
    assert truth_errors(directory, truth) == []
    assert facts_on_disk(directory) == ledger_of(undisturbed)
    assert len(truth["fills"]) >= 8


@pytest.mark.prove
def test_killed_at_random_instants_while_the_broker_fails_the_ledger_is_its_truth(
    tmp_path: Path, proving: bool, proof_seed: int
) -> None:
    """100 kills in 60 sessions (2 in 5 in the suite), while one request and frame in twenty fails and at each kill a line has been
    cut, muted or refused: no order twice, no fill lost, positions and cash are the twin's. `--proof-seed` chooses other kills
    and faults."""
    sessions, kills = (60, 100) if proving else (5, 2)
    with nervous_plan(SYMBOLS, BUSY) as the_plan, twin(BUSY, sessions, the_plan=the_plan) as endpoints:
        directory, own = prepared(tmp_path, BUSY, the_plan), ("--strategy-path", *the_plan.strategy_path)
        day = BadDay(endpoints, proof_seed, share=0.05)
        for number, instant in enumerate(instants(random.Random(proof_seed + 1), sessions, kills)):
            life = Life(tmp_path, directory, endpoints, *own)
            with running(life.process):
                life.kill_at(instant, day.strike)
            print(f"{number + 1}: {instant}, {day.struck[-1]}", flush=True)  # with -s: how far it is
        with running(Forked(tmp_path, endpoints, "--quiet", *own)) as last:
            code, *words = ended(last, LIFE_S)
        truth, happened = twin_truth(endpoints), day.happened()

    assert code == 0, words
    assert truth_errors(directory, truth) == []
    assert len(truth["fills"]) >= (2 * sessions if proving else 2)
    assert sum(happened.values()) > 2 * kills


def test_no_time_passes_while_a_dead_traders_connection_is_still_in_the_way(tmp_path: Path) -> None:
    """The broker takes one order stream an account. Where it still counts the former one, the next trader is refused with
    429, tries again, and misses nothing meanwhile."""
    undisturbed = trader(4, start=BUSY)
    assert undisturbed.run() == 0
    directory = prepared(tmp_path, BUSY)

    with twin(BUSY, 4) as endpoints:
        born_ns = twin_truth(endpoints)["now_ns"]
        former = websocket.create_connection(endpoints.trading_stream_url)
        for text in (authenticate_text(*endpoints.keys), listen_text()):
            former.send(text)
            former.recv()
        life = Life(tmp_path, directory, endpoints)
        wait(life.process, lambda: any("429" in detail for detail in _broker_states(directory)))
        assert twin_truth(endpoints)["now_ns"] == born_ns
        former.close()
        output = life.process.communicate(timeout=LIFE_S)
        truth = twin_truth(endpoints)

    assert life.process.returncode == 0, output
    assert truth_errors(directory, truth) == []
    assert facts_on_disk(directory) == ledger_of(undisturbed)


def test_a_broker_that_restarts_without_its_memory_ends_the_trader_until_a_person_has_looked(tmp_path: Path) -> None:
    directory = prepared(tmp_path, BUSY)
    with twin(BUSY, 6) as endpoints:
        with running(Forked(tmp_path, endpoints, "--quiet")) as life:
            wait(life, lambda: bool(twin_truth(endpoints)["positions"]))
            BadDay(endpoints, seed=1, share=0.0).forget()
            code, words, _ = ended(life)
        with running(Forked(tmp_path, endpoints, "--quiet")) as again:
            refused, why, _ = ended(again)
        truth = twin_truth(endpoints)

    assert code == 5
    assert words.splitlines()[-1].startswith("error: root/trading/ledger: ledger and broker disagree: "), words
    assert refused == 1
    assert why.startswith("error: trading is halted: ledger and broker disagree: ") and why.count("\n") == 1, why
    assert truth["orders"] == []
    with ledger(directory) as database:
        assert database.execute("SELECT count(*) FROM fill").fetchone()[0] > 0


def _broker_states(directory: Path) -> list[str]:
    """What the broker's edge has said about its connection, as far as the log has it."""
    told = []
    for path in directory.glob("runs/*/messages.db"):
        with suppress(LogUnreadable), LogReader(path) as log:  # it may be about to be made
            states = [entry.message for entry in log.messages(kind="BrokerStateChanged")]
            told += [state.detail for state in states if isinstance(state, BrokerStateChanged)]
    return told


# --- with the ledger on a server ---


class PaperLife(Life):
    """One whose ledger is on a server."""

    def __init__(self, home: Path, directory: Path, endpoints: Endpoints, place: PostgresUrl) -> None:
        self.place = place
        self._look = psycopg.connect(place.text, autocommit=True)
        super().__init__(home, directory, endpoints)

    def _spawn(self, home: Path) -> "subprocess.Popen[str]":
        return spawn_paper(home, self.endpoints, self.place, *self.options)

    def _ledger(self) -> Any:
        newest = ", ".join(f"(SELECT max(seq) FROM {table})" for table in ("session_job", "decision", "order_event"))
        return self._look.execute(f"SELECT {newest}").fetchone()

    def end(self, instant: Instant) -> str:
        """Kill it then; what it had said."""
        self.reach(instant)
        self.process.kill()
        out, err = self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL, err
        return out + err

    def end_with_its_server(self, instant: Instant) -> str:
        """Let the server die then, as by a power cut, and come back; what the trader said at its end."""
        self.reach(replace(instant, what="ledger"))
        self.process.send_signal(signal.SIGSTOP)
        server().restart()
        self.process.send_signal(signal.SIGCONT)
        code, out, err = ended(self.process)
        *restarts, said = err.splitlines()
        assert code == 5 and said.startswith("error: root/trading/"), err
        assert all("actor restarting" in line for line in restarts), err
        return out + err


@pytest.mark.prove
def test_killed_and_robbed_of_its_server_the_trader_ends_with_the_undisturbed_ledger(
    tmp_path: Path, proving: bool
) -> None:
    """30 times in 25 sessions (2 in 4 in the suite) the trader is killed or, in turn, its server dies as by a power cut, and the
    trader ends with exit code 5. The next start goes on: no order twice, no fill lost, the ledger of a trader that was left alone."""
    sessions, ends = (25, 30) if proving else (4, 2)
    undisturbed, place = trader(sessions, start=BUSY), new_schema()
    assert undisturbed.run() == 0
    directory = prepared(tmp_path, BUSY, on_server=place)

    said = []
    with twin(BUSY, sessions) as endpoints:
        for number, instant in enumerate(instants(random.Random(20121018), sessions, ends)):
            life = PaperLife(tmp_path, directory, endpoints, place)
            said.append(life.end_with_its_server(instant) if number % 2 else life.end(instant))
        with running(spawn_paper(tmp_path, endpoints, place, "-vv")) as last:
            code, out, err = ended(last, LIFE_S)
        truth = twin_truth(endpoints)

    assert code == 0, err
    assert truth_errors(place, truth) == []
    assert facts_on_disk(place) == ledger_of(undisturbed)
    assert len(truth["fills"]) >= 8
    assert status(place).problems == ()
    documents = look_around(tmp_path, place, truth)
    written = [path.read_bytes().decode(errors="replace") for path in directory.rglob("*") if path.is_file()]
    assert [text for text in (*said, out, err, documents, *written) if PASSWORD in text] == []
    assert not (directory / "ledger.db").exists()


def look_around(home: Path, place: PostgresUrl, truth: dict[str, Any]) -> str:
    """What the commands say of it."""
    fills, shown = ask_paper(home, place, "fills"), ask_paper(home, place, "status")
    assert len(fills) == len(truth["fills"])
    assert (shown["running"], shown["ledger"]["fills"]) == (False, len(fills))
    story = ask_paper(home, place, "explain", fills[0]["client_order_id"])
    assert fills[0]["client_order_id"] in json.dumps(story)
    assert len(ask_paper(home, place, "equity")) >= 3
    return json.dumps(
        [fills, shown, story, ask_paper(home, place, "differences"), ask_paper(home, place, "db", "status")]
    )
