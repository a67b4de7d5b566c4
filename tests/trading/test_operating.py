"""A running trader answers the person who operates it, over its control socket, and does what it is told."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

from algo_royale.app.control import ask
from conftest import ROOT
from databases import PASSWORD, new_schema
from db.store import Reader
from live_traders import (
    ask_paper,
    ended,
    ledger,
    prepared,
    running,
    spawn,
    spawn_paper,
    truth_errors,
    twin,
    twin_truth,
    wait,
)
from traders import BUSY, last_session


def command(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "algo_royale", "--home", str(home), "--json", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def document(home: Path, *words: str) -> Any:
    done = command(home, *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def command_lines(*of: bytes) -> list[bytes]:
    """What `ps` has to show of such processes, where the system lists them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(path.read_bytes())
    return [words for words in found if any(name in words for name in of)]


def is_warm(directory: Path) -> bool:
    """Whether every signal has loaded its history (the first time ever, kernels are compiled meanwhile)."""
    signals = [row for row in ask(directory, "top")["actors"] if "/signal:" in row["path"]]
    return all(row["records"] > 1 and not row["mailbox"] for row in signals)


def redrawn(home: Path, columns: int, until: str) -> str:
    """What a terminal of so many columns gets from `actors top`, which is redrawn until Ctrl-C."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "algo_royale", "--home", str(home), "actors", "top", "--interval", "0.2"],
        env={**environment, "PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1"}, stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it, and so do its children
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while seen.count(until.encode()) < 3:
            seen += os.read(ours, 65_536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # until it closes the terminal; one that nobody reads takes no more
            while os.read(ours, 65_536):
                pass
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return seen.decode()


def test_status_top_and_stop_of_a_trader_that_waits_in_real_time(tmp_path: Path) -> None:
    directory = prepared(tmp_path, BUSY)

    with twin(BUSY, 2, speed="1") as endpoints, running(spawn(tmp_path, endpoints, "--speed", "1")) as life:
        wait(life, lambda: (directory / "control.sock").exists())
        wait(life, lambda: set(ask(directory, "status")["connections"].values()) == {"live"})
        wait(life, lambda: is_warm(directory))
        status = document(tmp_path, "status")
        top = document(tmp_path, "actors", "top", "--interval", "0.2")
        wide, narrow = (redrawn(tmp_path, columns, "signals/signal:AAPL") for columns in (80, 60))
        stopped = document(tmp_path, "stop")
        code, out, err = ended(life)

    assert (status["running"], status["pid"], stopped["pid"], code) == (True, life.pid, life.pid, 0), err
    live = status["trader"]
    assert live["now"].startswith(str(BUSY))  # the twin's time, not ours
    assert (live["phase"], live["stopping"], live["actors_down"]) == ("closed", False, [])
    assert live["run_id"] == json.loads(out)["run_id"]
    assert {row["actor"] for row in top["actors"]} >= {"root/trading/ledger", "root/trading/signals/signal:AAPL"}
    assert {row["state"] for row in top["actors"]} == {"running"}
    seen = {row["actor"]: row["observed"] for row in top["actors"]}
    assert "restarts" in wide and "restarts" not in narrow and "messages/s" in narrow
    assert "\u2026" not in wide + narrow and "Traceback" not in wide + narrow
    counters = {
        "state",
        "connections",
        "failures",
        "last_frame_age_s",
        "lag_s",
        "lag_max_s",
        "requests_left",
        "delayed",
    }
    assert counters | {"unheard", "lookups", "bad_frames"} <= set(seen["root/trading/broker"])
    assert {"filled", "doubles", "stale"} <= set(seen["root/trading/market_data"])
    assert {"resends", "waiting"} <= set(seen["root/trading/orders"])
    assert {"repeated", "compared", "differences"} <= set(seen["root/trading/ledger"])
    assert counters | {"stale", "silences", "late", "doubles", "others"} <= set(seen["root/trading/market_data"])
    assert not (directory / "control.sock").exists()
    after = document(tmp_path, "status")
    assert (after["running"], after["trader"]) == (False, None)
    for words, said in ((("actors", "top"), "no trader is running"), (("stop",), "no trader is running")):
        done = command(tmp_path, *words)
        assert (done.returncode, done.stdout) == (1, "") and said in done.stderr and done.stderr.count("\n") == 1


def test_at_the_end_open_orders_stay_or_are_cancelled_as_the_policy_says(tmp_path: Path) -> None:
    """The last session's decision leaves orders for an open that this trader does not wait for."""
    left: dict[str, set[str]] = {}
    for policy in ("keep", "cancel"):
        home = tmp_path / policy
        directory = prepared(home, BUSY)
        os.environ["ALGO_ROYALE__TRADER__ON_STOP"] = policy
        try:
            with twin(BUSY, 4) as endpoints:
                with running(spawn(home, endpoints, "--until", str(last_session(BUSY, 1)))) as life:
                    code, _, err = ended(life)
                truth = twin_truth(endpoints)
        finally:
            del os.environ["ALGO_ROYALE__TRADER__ON_STOP"]
        assert code == 0, err
        assert truth_errors(directory, truth) == []
        left[policy] = {order["status"] for order in truth["orders"]}
        with ledger(directory) as database:
            ((open_here,),) = database.execute(
                "SELECT count(*) FROM orders o JOIN order_event e ON e.seq = (SELECT max(seq) FROM order_event"
                " WHERE client_order_id = o.client_order_id) WHERE e.status IN ('accepted', 'open', 'recorded')"
            )
        assert (open_here == 0) == (policy == "cancel")
    assert left["cancel"] == {"canceled"}
    assert left["keep"] and "canceled" not in left["keep"]


def test_halt_resume_and_flatten_of_a_running_trader_are_committed_before_the_command_ends(tmp_path: Path) -> None:
    directory = prepared(tmp_path, BUSY)

    with twin(BUSY, 2, speed="1") as endpoints, running(spawn(tmp_path, endpoints, "--speed", "1")) as life:
        wait(life, lambda: (directory / "run-trader.pid").exists())  # it starts, and has no socket yet
        halted = document(tmp_path, "halt", "--reason", "earnings", "--by", "ada", "--timeout", "60")
        wait(life, lambda: is_warm(directory))
        stood = document(tmp_path, "status")["ledger"]
        reducing = document(tmp_path, "flatten", "--yes", "--by", "ada")
        resumed = document(tmp_path, "resume", "--reason", "over", "--by", "risk")
        idle = command(tmp_path, "resume", "--reason", "again")
        assert life.poll() is None
        document(tmp_path, "stop")
        assert ended(life)[0] == 0

    assert (halted["running"], halted["state"], halted["reason"], halted["by"]) == (True, "halted", "earnings", "ada")
    assert (stood["state"], stood["state_reason"], stood["state_set_by"]) == ("halted", "earnings", "ada")
    assert (reducing["state"], reducing["reason"]) == ("reducing", "flatten: flattened by hand")
    assert (resumed["state"], resumed["by"]) == ("trading", "user risk")  # no person is taken for a machine
    assert (idle.returncode, idle.stderr) == (1, "error: trading is neither halted nor reducing\n")


def test_without_a_trader_the_word_is_committed_for_the_next_one(tmp_path: Path) -> None:
    """In the order in which one may say it; a trader that starts halted stays up and sends nothing until it is resumed."""
    directory = prepared(tmp_path, BUSY)
    said = [document(tmp_path, *words.split(), "--by", "ada") for words in ("halt --reduce", "halt", "flatten --yes")]
    assert [(one["running"], one["state"]) for one in said] == [
        (False, "reducing"),
        (False, "halted"),
        (False, "reducing"),
    ]
    assert document(tmp_path, "resume", "--reason", "fine", "--by", "ada")["state"] == "trading"
    document(tmp_path, "halt", "--by", "ada")

    with twin(BUSY, 3) as endpoints, running(spawn(tmp_path, endpoints)) as life:
        code, out, err = ended(life)
        truth = twin_truth(endpoints)

    assert code == 0, err
    assert json.loads(out)["orders"]["submitted"] == 0 and truth["orders"] == []
    with ledger(directory) as database:
        assert database.execute("SELECT count(*) FROM decision").fetchone()[0] > 0


def test_flatten_asks_first_and_nothing_is_done_after_a_no(tmp_path: Path) -> None:
    directory = prepared(tmp_path, BUSY)
    before = (directory / "ledger.db").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "algo_royale", "--home", str(tmp_path), "flatten"], input="n\n",
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "Close every position of dev_integration?" in done.stderr
    assert (directory / "ledger.db").read_bytes() == before


def test_a_running_trader_on_a_server_obeys_and_keeps_every_other_one_away(tmp_path: Path) -> None:
    """Also one from another home, which no lock of a file would keep away."""
    home, other, place = tmp_path / "one", tmp_path / "other", new_schema()
    directory = prepared(home, BUSY, on_server=place)
    prepared(other, BUSY, on_server=new_schema())

    with twin(BUSY, 2, speed="1") as endpoints, running(spawn_paper(home, endpoints, place)) as life:
        wait(life, lambda: (directory / "control.sock").exists())
        wait(life, lambda: ask(directory, "status")["connections"]["trading"] == "live")
        with running(spawn_paper(other, endpoints, place)) as second:
            refused = ended(second)
        shown = command_lines(b"run-trader", b"postgres")
        halted = ask_paper(home, place, "halt", "--reason", "earnings", "--by", "ada")
        stood = ask_paper(home, place, "status")
        resumed = ask_paper(home, place, "resume", "--reason", "over", "--by", "ada")
        ask_paper(home, place, "stop")
        code, _, err = ended(life)

    assert refused[0] == 5 and refused[1] == ""
    line = refused[2].splitlines()[-1]
    assert line.startswith("error: another process writes to this ledger: algo-royale trader-")
    assert PASSWORD not in refused[2]
    assert not any(PASSWORD.encode() in words for words in shown)
    assert (halted["running"], halted["state"], resumed["state"], code) == (True, "halted", "trading", 0), err
    assert (stood["ledger"]["state"], stood["ledger"]["state_set_by"]) == ("halted", "ada")
    with Reader(place) as reader:
        assert [row["state"] for row in reader.trading_states()] == ["halted", "trading"]
