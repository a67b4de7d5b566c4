"""A trader ends when it is told to, in good order and in time, and the next one goes on from there."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from actors.kernel.journal import LogReader
from algo_royale.app.trader import Endpoints
from algo_royale.errors import LedgerError
from algo_royale.sessions import calendar
from db.store import Store
from live_traders import (
    ended,
    facts_on_disk,
    ledger,
    new_home,
    prepared,
    running,
    spawn,
    trade,
    truth_errors,
    twin,
    twin_truth,
    wait,
)
from traders import BUSY, config, last_session, ledger_of, trader

SESSIONS = 12


def time_of(endpoints: Endpoints) -> int:
    return int(requests.get(f"{endpoints.trading_url}/sim/clock", timeout=30).json()["now_ns"])


def close_of(session: int) -> int:
    """When the so many-th session from BUSY on closes."""
    return calendar().offset(BUSY, session - 1).close_ns


def wait_for_close(process: "subprocess.Popen[str]", endpoints: Endpoints, session: int) -> None:
    wait(process, lambda: time_of(endpoints) >= close_of(session))


def test_stopped_by_until_by_sigterm_and_by_ctrl_c_it_ends_as_if_never_stopped(tmp_path: Path) -> None:
    """Five lives, four of them ended early, each with exit code 0 within the deadline and a log that has its end; what is
    in the ledger is what a trader that was never stopped leaves. Nobody reads what one of them has to say."""
    undisturbed = trader(SESSIONS, start=BUSY)
    assert undisturbed.run() == 0
    directory = prepared(tmp_path, BUSY)

    with twin(BUSY, SESSIONS) as endpoints:
        with running(spawn(tmp_path, endpoints, "--until", str(last_session(BUSY, 2)))) as first:
            assert ended(first)[0] == 0
        assert close_of(2) <= time_of(endpoints) < close_of(3) - 86_400_000_000_000 / 2
        with ledger(directory) as database:
            (decided,) = database.execute("SELECT max(session_date) FROM decision").fetchone()
        assert decided == str(last_session(BUSY, 2))

        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # these tests run under it, and what they start does
        hangup = signal.SIGTERM if nohup else signal.SIGHUP
        for number, session in ((signal.SIGTERM, 4), (signal.SIGINT, 6), (hangup, 8)):
            with running(spawn(tmp_path, endpoints)) as life:
                if session == 8:
                    assert life.stderr is not None
                    life.stderr.close()
                    life.stderr = None
                wait_for_close(life, endpoints, session)
                life.send_signal(number)
                code, out, err = ended(life, config().trader.stop_deadline_s)
            assert code == 0, (out, err)
            assert time_of(endpoints) < close_of(SESSIONS)

        with running(spawn(tmp_path, endpoints)) as last:
            assert ended(last)[0] == 0
        truth = twin_truth(endpoints)

    for run in directory.glob("runs/*"):
        with LogReader(run / "messages.db") as log:
            assert log.run().ended_ns is not None and log.run().exit_code == 0
    assert len(list(directory.glob("runs/*"))) == 5
    assert truth_errors(directory, truth) == []
    assert facts_on_disk(directory) == ledger_of(undisturbed)


def test_a_second_trader_on_the_same_home_is_refused_and_the_first_one_goes_on(tmp_path: Path) -> None:
    """At the speed of real time the first does nothing but wait, and a SIGTERM still ends it at once."""
    directory = prepared(tmp_path, BUSY)

    with twin(BUSY, 2, speed="1") as endpoints, running(spawn(tmp_path, endpoints, "--speed", "1")) as first:
        wait(first, lambda: any(directory.glob("runs/*/messages.db")))
        with running(spawn(tmp_path, endpoints, "--speed", "1")) as second:
            code, out, err = ended(second)
        assert (code, out) == (1, "")
        assert "already running" in err and str(first.pid) in err
        assert first.poll() is None

        first.send_signal(signal.SIGTERM)
        code, out, err = ended(first, config().trader.stop_deadline_s)

    assert code == 0, (out, err)
    assert not (directory / "run-trader.pid").exists()


def test_a_ledger_that_is_gone_before_the_tree_stands_is_one_line_and_exit_code_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when the trader looked first; then another process took it, or its server went."""
    home, opened, open_store = new_home(tmp_path / "home", BUSY), iter((True, False)), Store.open

    def once(*place: Any, **options: Any) -> Store:
        if next(opened):
            return open_store(*place, **options)
        raise LedgerError("the ledger at x cannot be opened: gone")

    monkeypatch.setattr(Store, "open", once)

    with pytest.raises(LedgerError, match=r"^root/trading/ledger: the ledger at x cannot be opened: gone$"):
        trade(home, start=BUSY, sessions=1)
