"""kill -9 between any two lines of any commit, on both engines: nothing half done, and nothing lost that was told."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from decimal import Decimal as D
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import peewee
import pytest

import db.database
import db.migrations
import db.store
from algo_royale.ledger import Position
from algo_royale.orders import Fill, OrderEvent, OrderIntent
from algo_royale.risk import TradingState
from databases import Server, needs_server, new_schema
from db.admin import check
from db.database import Place, execute
from db.store import NewDecision, NewEntry, Store

# Where a line counts: our own writing, and peewee's BEGIN, COMMIT and ROLLBACK.
TRACED = {module.__file__ for module in (db.store, db.database, peewee)}
DAY_NS = 86_400_000_000_000
KILLS = 50  # in one ledger; looking it through takes the longer the more is in it
NOON_NS = 1_325_610_000_000_000_000

Step = Callable[[Store, int], object]


def fill_of(n: int, execution: str, price: str) -> Fill:
    return Fill(
        execution_id=f"{execution}-{n}", client_order_id=f"o-{n}", broker_order_id=f"b-{n}", symbol="AAPL", side="sell",
        quantity=D(1), cumulative_quantity=D(1), price_usd=D(price), fees_usd=D("0.01"), at_ns=NOON_NS + n * DAY_NS,
    )  # fmt: skip


def decide(store: Store, n: int) -> object:
    intents = [
        OrderIntent(client_order_id=f"{name}-{n}", symbol="AAPL", side="sell", quantity=D(1), reference_price_usd=D(10))
        for name in ("o", "p")
    ]
    decision = NewDecision(
        decision_id=f"d-{n}", bar_end_ns=n, session_date=f"day-{n}", equity_usd=D(1), cash_usd=D(1), strategy="s",
        targets="[]", approved=intents,
    )  # fmt: skip
    return store.record_decision(decision, now_ns=NOON_NS + n * DAY_NS)


def sell(store: Store, n: int) -> object:
    return store.record_order_event(
        f"o-{n}", OrderEvent.FILL, fill=fill_of(n, "e", "10"), broker_order_id=f"b-{n}", settles_on="2012-01-04",
        now_ns=NOON_NS + n * DAY_NS, found_by="periodic",
    )  # fmt: skip


def correct(store: Store, n: int) -> object:
    return store.record_order_event(
        f"o-{n}", OrderEvent.TRADE_CORRECT, fill=fill_of(n, "c", "11"), reversed_execution_id=f"e-{n}",
        now_ns=NOON_NS + n * DAY_NS,
    )  # fmt: skip


def reconcile(store: Store, n: int) -> object:
    facts = store.facts(now_ns=NOON_NS + n * DAY_NS)
    assert facts.cash_usd is not None
    told = NewEntry(f"div-{n}", "div", "", D(0), D("0.5"), NOON_NS + n * DAY_NS)
    known = execute(store.database, "SELECT 1 FROM cash_entry WHERE reference = ?", (told.entry_id,))
    return store.reconcile(
        cause_of=f"periodic-{n}", checked=1, cash_usd=facts.cash_usd + (0 if known else told.cash_usd), equity_usd=D(1),
        positions=facts.positions, now_ns=NOON_NS + n * DAY_NS, entries=(told,),
    )  # fmt: skip


def close(store: Store, n: int) -> object:
    day = f"{2012 + n // 300:04d}-{n % 300 // 25 + 1:02d}-{n % 25 + 1:02d}"
    return store.record_session_close(day, {"AAPL": D(12)}, now_ns=NOON_NS + n * DAY_NS)


def halt(store: Store, n: int) -> object:
    return store.set_state(TradingState.HALTED, f"reason {n}", by="test", now_ns=NOON_NS + n * DAY_NS)


STEPS: tuple[Step, ...] = (decide, sell, correct, reconcile, close, halt)
# What is there once a step is done, and not before: a table, and how to find the n-th
TRACES = (
    ("decision", "decision_id = 'd-{n}'"),
    ("fill", "execution_id = 'e-{n}'"),
    ("reversal", "execution_id = 'e-{n}'"),
    ("reconciliation", "cause_of = 'periodic-{n}'"),
    ("session_close", "at_ns = {at_ns}"),
    ("trading_state", "reason = 'reason {n}'"),
)


def steps_done(store: Store, n: int) -> list[bool]:
    return [
        bool(execute(store.database, f"SELECT 1 FROM {table} WHERE {where.format(n=n, at_ns=NOON_NS + n * DAY_NS)}"))
        for table, where in TRACES
    ]


def take_steps(place: Place, n: int, line: int, told: Connection) -> None:
    """In a process of its own: all steps, killed after `line` lines; with `line` 0 it only counts them."""
    passed = 0

    def on_line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            passed += 1
            if passed == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    store = Store.open(place, run_id=f"child-{n}", now_ns=NOON_NS, live_start_ns=0)
    sys.settrace(on_line)
    for number, step in enumerate(STEPS, 1):
        step(store, n)
        told.send(number)
    sys.settrace(None)
    told.send(passed)
    os._exit(0)


def forked(place: Place, n: int, line: int) -> tuple[int, list[int]]:
    """Exit code, and what the child told."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=take_steps, args=(place, n, line, there))
    child.start()
    there.close()
    told = []
    try:
        while True:
            told.append(here.recv())
    except EOFError:
        pass
    child.join(30)
    return child.exitcode if child.exitcode is not None else -1, told


def begun(place: Place) -> int:
    """A ledger in which all steps have been taken once; how many lines that was."""
    store = Store.open(place, run_id="start", now_ns=NOON_NS, live_start_ns=0)
    held = {"AAPL": Position(D(10_000), D(9))}
    store.reconcile(cause_of="start", checked=1, cash_usd=D(1000), equity_usd=D(1), positions=held, now_ns=NOON_NS - 1)
    store.close()
    exit_code, (*_, lines) = forked(place, 1, 0)
    assert exit_code == 0
    return lines


def killed_at(lines: Sequence[int], place: Place) -> None:
    """One ledger, killed again and again after so many lines; each start goes on from what is there."""
    for n, line in enumerate(lines, 2):
        exit_code, told = forked(place, n, line)
        assert exit_code == -signal.SIGKILL

        store = Store.open(place, run_id=f"parent-{n}", now_ns=NOON_NS, live_start_ns=0)

        done = steps_done(store, n)
        assert done == sorted(done, reverse=True)  # no step without those before it
        assert sum(done) in (len(told), len(told) + 1), (line, told, done)  # committed and not yet told, at most
        assert check(store.database) == []
        for step in STEPS[sum(done) :]:
            step(store, n)
        assert all(steps_done(store, n))
        store.resume("go on", by="test", now_ns=NOON_NS)
        store.close()
    store = Store.open(place, run_id="end", now_ns=NOON_NS, live_start_ns=0)
    facts, times = store.facts(now_ns=NOON_NS), len(lines) + 1
    assert facts.positions["AAPL"].quantity == 10_000 - times
    assert facts.cash_usd == 1000 + times * D("11.49")  # sold at 11 after the correction, a cent of fees, a dividend
    assert check(store.database) == []
    store.close()


@pytest.mark.prove
def test_a_kill_between_any_two_lines_leaves_whole_commits_and_all_that_was_told(place: Place, proving: bool) -> None:
    """After every line, 50 in a ledger; in the suite after 14 of them."""
    lines = begun(place)
    assert lines > 300
    chosen = range(1, lines + 1, 1 if proving else lines // 14)
    assert len(chosen) >= 14
    for first in range(0, len(chosen), KILLS):
        if first:
            place = place.with_name(f"{first}.db") if isinstance(place, Path) else new_schema()
            assert begun(place) == lines
        killed_at(chosen[first : first + KILLS], place)


def serve(told: Connection) -> None:
    """In a process of its own: a server, until somebody kills us."""
    folder = Server().folder
    told.send((folder, int((folder / "data" / "postmaster.pid").read_text().split()[0])))
    threading.Event().wait(60)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_test_run_leaves_no_server_and_no_folder() -> None:
    needs_server()
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=serve, args=(there,))
    child.start()
    there.close()
    folder, pid = here.recv()
    assert is_running(pid)
    child.kill()
    child.join(30)

    tick = threading.Event()
    for _ in range(3000):
        if not folder.exists() and not is_running(pid):
            break
        tick.wait(0.01)
    assert (folder.exists(), is_running(pid)) == (False, False)
