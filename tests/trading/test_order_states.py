"""Every state of an order crossed with the death of the trader's process: nothing is sent twice and no fill is lost."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from actors.direct import DirectBroker, DirectFaults
from actors.kernel import EXIT_HALTED, SteppedSystem
from actors.trading import tree
from algo_royale.app.pacing import DirectMarket, run_paced
from algo_royale.app.stepped import SteppedTrader
from algo_royale.exchange.wire import Order
from algo_royale.orders import OrderStatus
from algo_royale.risk import StateEvent, committed_reason
from db.admin import check
from db.database import execute
from db.store import Store
from traders import BUSY, trader, truth_errors

SESSIONS = 3
Deed = Callable[[SteppedTrader, Order], object]


class Killed(BaseException):
    """The process is gone; nothing of it is left but what it committed and what the exchange knows."""


class MortalSystem(SteppedSystem):
    """Dies between two messages as soon as `fatal()`."""

    fatal: Callable[[], bool] = staticmethod(bool)

    def step(self) -> bool:
        went_on = super().step()
        if self.fatal():
            raise Killed
        return went_on


def live(account: SteppedTrader, fatal: Callable[[], bool] = bool) -> int | None:
    """A trader's process to the end of the market: its exit code, or None if it was killed."""
    account.store.load()
    system = account.system = MortalSystem(account.exchange.now_ns)
    system.fatal = fatal
    try:
        system.start(tree(account.parts(), system))
        run_paced(system, DirectMarket(account.exchange, account.streams), system.clock)
    except Killed:
        return None
    return system.stop(20.0)


def statuses(account: SteppedTrader) -> set[str]:
    """Of all orders, as last committed."""
    rows = account.store.database.connection().execute(
        "SELECT status FROM order_event WHERE seq IN (SELECT max(seq) FROM order_event GROUP BY client_order_id)"
    )
    return {str(status) for (status,) in rows}


def saying(*words: str) -> DirectFaults:
    """The line on which the first news of an order is followed by `words` about it."""
    said: list[str] = []

    def frames(endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        out = list(frames)
        for frame in frames if endpoint == "trading" and not said else ():
            told = json.loads(frame)
            if told.get("stream") == "trade_updates":
                said.append(frame)
                out += [frame.replace(f'"event":"{told["data"]["event"]}"', f'"event":"{word}"') for word in words]
                break
        return out

    return DirectFaults(frames=frames)


def once(deed: Deed, event: str) -> Callable[[SteppedTrader], None]:
    """Does the deed to the first order of the exchange that `event` was told of."""
    done: list[Any] = []

    def look(account: SteppedTrader) -> None:
        told = [one for one in account.exchange.events if one["event"] == event]
        if told and not done:
            done.append(told)
            deed(account, account.exchange.by_id[told[0]["order_id"]])

    return look


def cancel(account: SteppedTrader, order: Order) -> None:
    account.exchange.cancel(order)


def expire(account: SteppedTrader, order: Order) -> None:
    account.exchange._finish(order, "expired")


def replaced(account: SteppedTrader, order: Order) -> None:
    """A person halves what is left of an order, on the broker's own screen."""
    account.exchange.replace(order, {"qty": order.filled_qty + max(Decimal(1), order.left // 2)})


def prepared(case: str) -> tuple[SteppedTrader, Callable[[SteppedTrader], object]]:
    """A trader of which some order will be in the state of `case`, and what has to be done for it between two messages."""
    said = {
        "pending_cancel": "pending_cancel",
        "pending_replace": "pending_replace",
        "canceled, but it fills": "canceled",
    }
    faults = saying(said[case]) if case in said else DirectFaults()
    account = trader(SESSIONS, start=BUSY, faults=faults)
    exchange = account.exchange

    def leave_without_answer(account: SteppedTrader) -> None:
        if "recorded" in statuses(account) and not faults.log:
            faults.lost_answers = 2  # of the order, and of the question what became of it

    if case in ("partially_filled", "replaced"):
        exchange.config = dataclasses.replace(exchange.config, partial_fills=Decimal(1))
    exchange.configurations["suspend_trade"] = case == "rejected"
    deeds = {
        "canceled": once(cancel, "accepted"), "expired": once(expire, "accepted"),
        "replaced": once(replaced, "partial_fill"), "submitted": leave_without_answer,
    }  # fmt: skip
    return account, deeds.get(case, bool)


CASES = [*(status.value for status in OrderStatus), "canceled, but it fills"]


@pytest.mark.parametrize("asleep_h", [0, 20])
@pytest.mark.parametrize("case", CASES)
def test_a_trader_that_dies_with_an_order_in_any_state_goes_on_as_if_it_had_not(case: str, asleep_h: int) -> None:
    """Started again at once, or when the session that the order was for is running: what filled meanwhile is found."""
    account, look = prepared(case)

    def fatal() -> bool:
        look(account)
        return case.partition(",")[0] in statuses(account)

    assert live(account, fatal) is None, f"no order was ever {case}"
    account.exchange.configurations["suspend_trade"] = False
    account.exchange.advance(account.exchange.now_ns + asleep_h * 3_600_000_000_000)
    exit_code = live(account)

    assert exit_code == 0, account.system and account.system.exit_reason
    assert truth_errors(account) == []
    rows = account.store.database.connection().execute("SELECT client_order_id FROM orders")
    assert {order.client_order_id for order in account.exchange.orders} <= {row[0] for row in rows}
    assert len(account.exchange.orders) >= 3


def test_the_order_that_a_person_put_in_the_place_of_ours_is_ours() -> None:
    """Its fills are booked, and nothing is ordered for its symbol while it is open."""
    account, look = prepared("replaced")
    exit_code = live(account, lambda: bool(look(account)))

    rows = account.store.database.connection().execute(
        "SELECT o.client_order_id, e.detail, e.event, o.decision_id FROM orders o JOIN order_event e USING (client_order_id) "
        "WHERE e.event = 'replaced' OR e.detail LIKE 'in the place of %'"
    ).fetchall()  # fmt: skip
    (old,) = [row for row in rows if row[2] == "replaced"]
    (new,) = [row for row in rows if row[2] == "recorded"]
    assert exit_code == 0 and truth_errors(account) == []
    assert (old[1], new[1]) == (f"goes on as {new[0]}", f"in the place of {old[0]}")
    assert new[3] == old[3]  # one decision explains both


def test_every_word_about_an_order_is_in_the_ledger_once() -> None:
    """Words that change nothing, that cannot be, and that nobody knows: none is dropped, none stops the trader."""
    words = ("suspended", "suspended", "order_replace_rejected", "trade_bust", "entangled", "entangled", "suspended")
    account = trader(SESSIONS, start=BUSY, faults=saying(*words))

    assert live(account) == 0 and truth_errors(account) == []
    database = account.store.database.connection()
    (first,) = database.execute("SELECT client_order_id FROM order_event WHERE event = 'suspended'").fetchone()
    rows = database.execute(
        "SELECT event, status, detail FROM order_event WHERE client_order_id = ? ORDER BY seq", [first]
    )
    assert rows.fetchall() == [
        ("recorded", "recorded", ""),
        ("accepted", "accepted", ""),
        ("suspended", "accepted", ""),
        ("order_replace_rejected", "accepted", ""),
        ("trade_bust", "accepted", "trade_bust of an execution that is not booked"),
        ("unknown", "accepted", "entangled; unknown told of an order that is accepted"),
        ("new", "open", ""),
        ("fill", "filled", ""),
    ]


@pytest.mark.parametrize("asleep_h", [None, 0, 20])
@pytest.mark.parametrize("price", [None, Decimal("123.45")])
def test_an_execution_that_the_venue_takes_back_is_taken_back_here(price: Decimal | None, asleep_h: int | None) -> None:
    """Busted, or corrected to another price, while the trader runs, or dies of it: cash and positions are the exchange's."""
    account, taken = trader(SESSIONS, start=BUSY), []

    def look() -> bool:
        database = account.store.database.connection()
        booked = database.execute("SELECT execution_id FROM fill ORDER BY seq LIMIT 1").fetchone()
        if booked and not taken:
            taken.append(booked[0])
            account.exchange.undo(booked[0], price)
        heard = bool(taken) and database.execute("SELECT 1 FROM reversal").fetchone() is not None
        return heard and asleep_h is not None

    exit_code = live(account, look)
    if asleep_h is not None:
        account.exchange.advance(account.exchange.now_ns + asleep_h * 3_600_000_000_000)
        exit_code = live(account)

    ours, theirs = account.store.account, account.exchange.account
    assert taken and exit_code == 0, account.system and account.system.exit_reason
    assert ours is not None and ours.cash == theirs.cash
    assert {s: p.quantity for s, p in ours.positions.items()} == {s: p.quantity for s, p in theirs.positions.items()}


# --- what nobody heard of ---


def unheard(words: str) -> DirectFaults:
    return DirectFaults(frames=lambda endpoint, frames: [frame for frame in frames if words not in frame])


def bust_first_fill(account: SteppedTrader) -> Callable[[], bool]:
    """The venue takes the first execution back once it is booked."""
    taken: list[str] = []

    def look() -> bool:
        booked = execute(account.store.database, "SELECT execution_id FROM fill ORDER BY seq LIMIT 1")
        if booked and not taken:
            taken.append(booked[0][0])
            account.exchange.undo(booked[0][0])
        return False

    return look


def sell_by_hand(account: SteppedTrader) -> Callable[[], bool]:
    """A person sells a share of something held, on the broker's own screen."""
    key, secret = account.keys
    done: list[Any] = []

    def look() -> bool:
        held = sorted(s for s, p in account.exchange.account.positions.items() if p.quantity > 1)
        if held and not done:
            asked = {"client_order_id": "by hand", "symbol": held[0], "side": "sell", "quantity": Decimal(1)}
            done.append(DirectBroker(account.exchange, key=key, secret=secret).submit(**asked))
        return False

    return look


def resume(account: SteppedTrader, reason: str, *, accepts_broker: bool) -> None:
    words = committed_reason(StateEvent.PERSON_RESUMES, reason, accepts_broker=accepts_broker)
    now_ns, file = account.exchange.now_ns, account.ledger  # type: ignore[attr-defined]
    store = Store.open(file, run_id=f"resume {reason}", now_ns=now_ns, live_start_ns=0)
    store.resume(words, by="ann", now_ns=now_ns)
    store.close()
    account.store = Store.open(file, run_id=f"after {reason}", now_ns=now_ns, live_start_ns=0)


@pytest.mark.parametrize("deed", [bust_first_fill, sell_by_hand])
def test_what_the_broker_did_unheard_halts_with_its_name_until_a_person_takes_its_word(
    deed: Any, tmp_path: Path
) -> None:
    """Nothing is changed by itself: a resume alone halts again; with the person's word each difference is booked by name, both
    sides kept, once; from then on any other difference halts anew."""
    account = trader(SESSIONS, start=BUSY, faults=unheard("trade_bust"), ledger=tmp_path / "ledger.db")
    account.ledger = tmp_path / "ledger.db"  # type: ignore[attr-defined]
    look = deed(account)
    assert live(account, look) == EXIT_HALTED
    reason = account.store.latch.reason
    assert "resume --accept-broker" in reason
    (first,) = execute(account.store.database, "SELECT execution_id, client_order_id FROM fill ORDER BY seq LIMIT 1")
    if deed is bust_first_fill:
        assert f"execution {first[0]} of order {first[1]} (buy " in reason and "not listed there any more" in reason
    before = execute(account.store.database, "SELECT count(*) FROM position_entry")

    resume(account, "looked", accepts_broker=False)
    assert live(account, look) == EXIT_HALTED
    assert execute(account.store.database, "SELECT count(*) FROM position_entry") == before

    resume(account, "their page says so", accepts_broker=True)
    assert live(account, look) == 0, account.system and account.system.exit_reason
    ours, theirs = account.store.account, account.exchange.account
    assert ours is not None and abs(ours.cash - theirs.cash) < Decimal("0.01")
    assert {s: p.quantity for s, p in ours.positions.items()} == {s: p.quantity for s, p in theirs.positions.items()}
    assert check(account.store.database) == []
    kept = execute(account.store.database, "SELECT subject, ours, theirs, resolution, cause_of FROM difference")
    words = "accept broker: their page says so (ann)"
    if deed is bust_first_fill:
        assert execute(account.store.database, "SELECT execution_id, event FROM reversal") == [(first[0], "trade_bust")]
        assert (f"order {first[1]}", "took_over") in [(subject, what) for subject, _, _, what, _ in kept]
    else:
        adopted = [
            (subject, ours, theirs)
            for subject, ours, theirs, what, cause in kept
            if (what, cause) == ("adopted", words)
        ]
        assert [subject for subject, *_ in adopted] == [adopted[0][0], "cash"]
        assert Decimal(adopted[0][1]) - Decimal(adopted[0][2]) == 1
        assert {kind for (kind,) in execute(account.store.database, "SELECT kind FROM cash_entry")} >= {"accepted"}

    account.exchange.account = dataclasses.replace(account.exchange.account, cash=theirs.cash + 1000)
    assert account.store.broker_accepted() == ""
    assert live(account) == EXIT_HALTED
    assert "cash: ledger" in account.store.latch.reason
