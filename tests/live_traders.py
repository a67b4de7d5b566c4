"""Traders on threads and in processes of their own, against the twin's server: for the proofs on whole processes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from algo_royale.app.trader import live_start, run_trader, twin_process
from algo_royale.research.handover import TradingPlan
from algo_royale.sessions import calendar
from db.store import Store
from traders import config, last_session, plan

LEDGER_ID = "0123456789ab"  # the one of the simulation: order ids begin with it


def new_home(home: Path, start: date) -> Path:
    """A home with an empty ledger, whose orders will be called like those of the simulation."""
    home.mkdir(parents=True)
    now_ns = calendar().offset(start, 0).label_ns
    Store.open(
        home / "ledger.db", run_id="new", now_ns=now_ns, live_start_ns=live_start(now_ns), ledger_id=LEDGER_ID
    ).close()
    return home


def trade(
    home: Path, *, start: date, sessions: int, speed: str = "max", the_plan: TradingPlan | None = None, run_id: str = "run-1",
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Run a trader on threads in this process against a twin in a process of its own; the run's summary."""
    the_plan = the_plan or plan()
    twin = twin_process(the_plan, config(), first=start, last=last_session(start, sessions), speed=speed)
    with twin as endpoints:
        return run_trader(the_plan, config(), endpoints, home=home, run_id=run_id, paced=speed == "max", **options)


@contextmanager
def ledger(home: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True)) as database:
        yield database
