"""The ledger's writer on real SQLite files: nothing twice, nothing lost, nothing overwritten."""

import multiprocessing
import os
from dataclasses import replace
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from algo_royale.errors import BadInput, LedgerError
from algo_royale.ledger import Position
from algo_royale.orders import Fill, OrderEvent, OrderIntent, OrderStatus
from algo_royale.risk import TradingState
from databases import new_schema, server
from db.admin import check
from db.database import Place, PostgresUrl, execute, open_database
from db.store import Latch, NewDecision, NewEntry, Reader, RefusedIntent, RunFigures, Store

DAY_NS = 86_400_000_000_000


def open_store(path: Place, run_id: str = "run-1", now_ns: int = 100) -> Store:
    return Store.open(path, run_id=run_id, now_ns=now_ns, live_start_ns=50, ledger_id="ledger-a")


def intent(n: int, *, symbol: str = "AAPL", side: str = "buy", quantity: str = "10") -> OrderIntent:
    return OrderIntent(
        client_order_id=f"ar-{n}", symbol=symbol, side=side, quantity=D(quantity), reference_price_usd=D("100.50")
    )


def decision(n: int, *approved: OrderIntent, refused: tuple[RefusedIntent, ...] = ()) -> NewDecision:
    return NewDecision(
        decision_id=f"d-{n}", bar_end_ns=n * DAY_NS, session_date="2012-01-03", equity_usd=D(100_000), cash_usd=D(100_000),
        strategy="EqualWeight", targets="[]", approved=approved, refused=refused,
    )  # fmt: skip


def fill(
    n: int, *, cumulative: str = "10", quantity: str = "10", price: str = "100", execution: str = "x", **other: Any
) -> Fill:
    base = Fill(
        execution_id=f"{execution}-{n}-{cumulative}", client_order_id=f"ar-{n}", broker_order_id=f"b-{n}", symbol="AAPL",
        side="buy", quantity=D(quantity), cumulative_quantity=D(cumulative), price_usd=D(price), at_ns=7,
    )  # fmt: skip
    return replace(base, **other)


def with_cash(store: Store, cash: str = "100000", **positions: Position) -> Store:
    outcome = store.reconcile(
        cause_of="start", checked=1, cash_usd=D(cash), equity_usd=D(cash), positions=positions, now_ns=101
    )
    assert outcome.agreed
    return store


def rows(store: Store, table: str) -> int:
    return int(execute(store.database, f"SELECT count(*) FROM {table}")[0][0])


@pytest.fixture
def store(place: Path | PostgresUrl) -> Store:
    return with_cash(open_store(place))


# --- decisions ---


def test_a_decision_its_orders_and_its_refusals_are_one_commit(store: Store, place: Path | PostgresUrl) -> None:
    no = RefusedIntent(intent=intent(3), code="GROSS_EXPOSURE", reason="too much", limit=D("1.5"), value=D("1.62"))

    recorded = store.record_decision(decision(1, intent(1), intent(2), refused=(no,)), now_ns=200)

    assert [(r.order.client_order_id, r.order.status, r.bar_end_ns) for r in recorded] == [
        ("ar-1", OrderStatus.RECORDED, DAY_NS), ("ar-2", OrderStatus.RECORDED, DAY_NS),
    ]  # fmt: skip
    other = open_database(place, read_only=True)
    assert execute(other, "SELECT code, limit_value, actual_value FROM refusal") == [("GROSS_EXPOSURE", "1.5", "1.62")]
    assert execute(other, "SELECT count(*) FROM orders") == [(2,)]


def test_a_decision_that_fails_half_way_leaves_nothing(store: Store) -> None:
    """The second order's id is taken by the first: the decision row must go too."""
    with pytest.raises(LedgerError, match="(?i)unique"):
        store.record_decision(decision(1, intent(1), intent(1)), now_ns=200)

    assert (rows(store, "decision"), rows(store, "orders"), rows(store, "order_event")) == (0, 0, 0)


def test_the_same_decision_again_is_the_first_one(store: Store) -> None:
    """After a crash it may be told twice; the orders come back as they stand now."""
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.ACCEPTED, broker_order_id="b-1", now_ns=201)

    (again,) = store.record_decision(decision(1, intent(1)), now_ns=300)

    assert again.order.status is OrderStatus.ACCEPTED
    assert (rows(store, "decision"), rows(store, "orders")) == (1, 1)


def test_a_bar_is_decided_once(store: Store) -> None:
    store.record_decision(decision(1, intent(1)), now_ns=200)

    with pytest.raises(LedgerError, match="was decided as d-1, not d-other"):
        store.record_decision(replace(decision(1, intent(9)), decision_id="d-other"), now_ns=300)
    assert rows(store, "orders") == 1


# --- order events and fills ---


def test_a_fill_moves_order_cash_and_position_in_one_commit(store: Store) -> None:
    store.record_decision(decision(1, intent(1)), now_ns=200)

    change = store.record_order_event(
        "ar-1", OrderEvent.FILL, broker_order_id="b-1", fill=fill(1, price="100.1234", fees_usd=D("0.35")), now_ns=201
    )

    assert change.applied
    assert change.recorded.order.status is OrderStatus.FILLED
    assert change.cash_usd == D("98998.416")  # 100000 - 10 * 100.1234 - 0.35
    assert change.position == Position(D(10), D("100.1234"))
    assert store.facts(now_ns=300).open_orders == ()


def test_a_fill_told_again_changes_nothing(store: Store) -> None:
    """Once by the stream, again by the stream, then by the REST activity under another id."""
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.PARTIAL_FILL, fill=fill(1, cumulative="4", quantity="4"), now_ns=201)
    before = (rows(store, "order_event"), rows(store, "cash_entry"), store.account)

    for told in (fill(1, cumulative="4", quantity="4"), fill(1, cumulative="4.0", quantity="4", execution="activity")):
        assert not store.record_order_event("ar-1", OrderEvent.PARTIAL_FILL, fill=told, now_ns=202).applied

    assert (rows(store, "order_event"), rows(store, "cash_entry"), store.account) == before


def test_one_execution_id_with_two_stories_is_refused(store: Store) -> None:
    """Dropping the second as a duplicate could lose shares, so a person has to look."""
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.record_order_event(
        "ar-1", OrderEvent.PARTIAL_FILL, fill=fill(1, cumulative="4", quantity="4", execution_id="e"), now_ns=201
    )

    with pytest.raises(LedgerError, match="execution e is booked as"):
        store.record_order_event("ar-1", OrderEvent.FILL, fill=fill(1, quantity="6", execution_id="e"), now_ns=202)


def test_an_old_status_never_moves_an_order_back(store: Store) -> None:
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.FILL, broker_order_id="b-1", fill=fill(1), now_ns=201)

    assert not store.record_order_event("ar-1", OrderEvent.NEW, broker_order_id="b-1", now_ns=202).applied
    assert not store.record_order_event("ar-1", OrderEvent.ACCEPTED, broker_order_id="b-1", now_ns=203).applied


def test_shares_that_changed_hands_count_after_the_order_ended(store: Store, place: Path | PostgresUrl) -> None:
    """A fill that overtook the cancel is booked, also by a store that has to read the order back from the file."""
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.CANCELED, now_ns=201)
    store.close()
    store = open_store(place, "run-2")

    change = store.record_order_event(
        "ar-1", OrderEvent.PARTIAL_FILL, fill=fill(1, cumulative="4", quantity="4"), now_ns=202
    )

    assert change.recorded.order.status is OrderStatus.CANCELED
    assert change.position == Position(D(4), D(100))


def test_a_fill_larger_than_its_order_is_booked_and_halts(store: Store) -> None:
    """The shares are ours, so they count; that they exist at all needs a person."""
    store.record_decision(decision(1, intent(1)), now_ns=200)

    change = store.record_order_event("ar-1", OrderEvent.FILL, fill=fill(1, cumulative="12", quantity="12"), now_ns=201)

    assert change.position == Position(D(12), D(100))
    assert change.halted == "ar-1: filled 12 of 10"
    assert store.facts(now_ns=300).halted_reason == "ar-1: filled 12 of 10"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"client_order_id": "ar-9"}, "order ar-9 is not in this ledger"),
        ({"broker_order_id": "b-other"}, "is b-1 at the broker; an event names b-other"),
    ],
)
def test_an_event_that_contradicts_the_ledger_is_refused(store: Store, wrong: dict[str, str], sentence: str) -> None:
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.ACCEPTED, broker_order_id="b-1", now_ns=201)
    told = {"client_order_id": "ar-1", "broker_order_id": "b-1"} | wrong

    with pytest.raises(LedgerError, match=sentence):
        store.record_order_event(
            told["client_order_id"], OrderEvent.NEW, broker_order_id=told["broker_order_id"], now_ns=202
        )


EVENTS = st.lists(
    st.sampled_from(
        [
            (OrderEvent.ACCEPTED, None), (OrderEvent.NEW, None), (OrderEvent.EXPIRED, None), (OrderEvent.SUBMITTED, None),
            (OrderEvent.PARTIAL_FILL, ("3", "3", "100")), (OrderEvent.PARTIAL_FILL, ("7", "4", "101.5")),
            (OrderEvent.FILL, ("10", "3", "99.0001")),
        ]
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS)
def test_any_order_of_events_books_each_fill_once(events: list[tuple[OrderEvent, tuple[str, str, str] | None]]) -> None:
    """Whatever is repeated, late or out of order: cash and position are the plain sum over the distinct fills."""
    store = with_cash(open_store(None))
    store.record_decision(decision(1, intent(1)), now_ns=200)
    filled, told = D(0), {}

    for n, (event, numbers) in enumerate(events):
        booked = None
        if numbers is not None:
            told[numbers[0]] = numbers
            booked = fill(1, cumulative=numbers[0], quantity=numbers[1], price=numbers[2])
        change = store.record_order_event("ar-1", event, fill=booked, now_ns=201 + n)
        assert change.recorded.order.filled_quantity >= filled
        filled = change.recorded.order.filled_quantity

    assert store.account is not None
    assert store.account.quantity("AAPL") == sum((D(q) for _, q, _ in told.values()), D(0))
    assert store.account.cash == 100_000 - sum((D(q) * D(p) for _, q, p in told.values()), D(0))
    assert check(store.database) == []


def test_whoever_restarts_learns_the_last_targets_and_what_the_session_before_ended_with(store: Store) -> None:
    """Quiet bars have no targets; the session's starting equity is that of the last decision in an earlier session."""
    days = (
        ("2012-01-03", "100", '[{"a":1}]'),
        ("2012-01-03", "101", '[{"b":2}]'),
        ("2012-01-04", "90", "[]"),
        ("2012-01-04", "80", "[]"),
    )
    for n, (session, equity, targets) in enumerate(days, start=1):
        told = replace(decision(n), session_date=session, equity_usd=D(equity), targets=targets)
        store.record_decision(told, now_ns=200 + n)

    facts = store.facts(now_ns=300)

    assert facts.last_targets == '[{"b":2}]'
    assert (facts.last_equity_usd, facts.last_session_date, facts.session_start_equity_usd) == (
        D(80),
        "2012-01-04",
        D(101),
    )


def test_what_was_written_is_what_is_read_back(store: Store, place: Path | PostgresUrl) -> None:
    """A store that opens the file knows exactly what the one that wrote it knew."""
    store.record_decision(decision(1, intent(1), intent(2, quantity="3.000")), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.ACCEPTED, broker_order_id="b-1", now_ns=201)
    store.record_order_event(
        "ar-1", OrderEvent.PARTIAL_FILL, fill=fill(1, cumulative="3", quantity="3", price="33.10"), now_ns=202
    )
    store.record_order_event(
        "ar-1", OrderEvent.PARTIAL_FILL, fill=fill(1, cumulative="4", quantity="1", price="33.2"), now_ns=203
    )
    facts = store.facts(now_ns=300)
    store.close()

    again = open_store(place, "run-2").facts(now_ns=300)

    assert repr(again) == repr(facts)  # repr, because Decimal("3.0") == Decimal("3") and a replay compares bytes
    assert again.session_start_equity_usd == D(100_000)
    assert again.orders_recent_ns == (DAY_NS, DAY_NS)
    assert again.last_decision_bar_end_ns == DAY_NS


# --- durability, one writer ---


def test_rows_can_only_be_added(store: Store) -> None:
    for statement in (
        "UPDATE cash_entry SET amount_usd = '0'",
        "DELETE FROM reconciliation",
        "UPDATE meta SET ledger_id = 'x'",
    ):
        with pytest.raises(Exception, match="append-only"):
            execute(store.database, statement)


def test_a_writer_that_was_replaced_can_write_no_more(tmp_path: Path) -> None:
    """A trader that hung and was given up may wake: neither it nor its successor may write over the other."""
    first = with_cash(open_store(tmp_path / "ledger.db"))
    second = open_store(tmp_path / "ledger.db", "run-2")

    with pytest.raises(LedgerError, match="someone else has written"):
        first.record_decision(decision(1, intent(1)), now_ns=200)
    second.record_decision(decision(1, intent(1)), now_ns=200)
    first.load()
    first.record_decision(decision(2, intent(2)), now_ns=201)
    with pytest.raises(LedgerError, match="someone else has written"):
        second.record_decision(decision(3, intent(3)), now_ns=202)


def test_on_a_server_there_is_one_writer_and_the_next_is_told_who() -> None:
    """Wherever it runs; the actor's own next incarnation, of the same run, takes over instead and cuts the first one off."""
    place = new_schema()
    first = with_cash(open_store(place))
    with pytest.raises(
        LedgerError, match="another process writes to this ledger: algo-royale run-1, from this machine"
    ):
        open_store(place, "run-2")
    first.record_decision(decision(1, intent(1)), now_ns=200)

    again = open_store(place, "run-1")

    with pytest.raises(LedgerError, match="cannot be written"):
        first.record_decision(decision(2, intent(2)), now_ns=201)
    with pytest.raises(LedgerError, match="loaded again first"):
        first.record_decision(decision(2, intent(2)), now_ns=201)
    again.record_decision(decision(2, intent(2)), now_ns=201)
    again.close()
    assert len(open_store(place, "run-2").facts(now_ns=1).open_orders) == 2
    elsewhere = open_store(new_schema(), "run-3")  # another schema is another ledger
    assert elsewhere.facts(now_ns=1).open_orders == ()


def test_a_server_that_dies_loses_nothing_that_was_told() -> None:
    """The store says that it could not write and refuses; what it had told before is there when the server is back."""
    place = new_schema()
    store = with_cash(open_store(place))
    store.record_decision(decision(1, intent(1)), now_ns=200)
    server().stop("immediate")
    try:
        with pytest.raises(LedgerError, match="cannot be written"):
            store.record_decision(decision(2, intent(2)), now_ns=201)
        with pytest.raises(LedgerError, match="cannot be opened"):
            open_store(place, "run-2")
    finally:
        server().start()
    with pytest.raises(LedgerError, match="loaded again first"):
        store.record_decision(decision(2, intent(2)), now_ns=201)

    later = open_store(place, "run-2")
    assert [r.order.client_order_id for r in later.facts(now_ns=1).open_orders] == ["ar-1"]
    assert check(later.database) == []


def test_a_full_disk_is_named_and_not_what_came_of_it(tmp_path: Path) -> None:
    """SQLite has ended the transaction by then, so that rolling it back fails as well."""
    store = Store.open(tmp_path / "ledger.db", run_id="run-1", now_ns=1, live_start_ns=1)
    execute(store.database, f"PRAGMA max_page_count = {execute(store.database, 'PRAGMA page_count')[0][0]}")
    with pytest.raises(LedgerError, match="^the ledger cannot be written: database or disk is full$"):
        for number in range(100):
            store.set_state(TradingState.HALTED, "x" * 10_000, by="ann", now_ns=number)
    store.close()


def test_a_store_that_failed_refuses_until_it_has_loaded(store: Store) -> None:
    """After a failed write its memory and the file could differ."""
    execute(store.database, "ALTER TABLE trading_state RENAME TO gone")
    with pytest.raises(LedgerError, match="no such table|does not exist"):
        store.set_state(TradingState.HALTED, "x", by="test", now_ns=1)
    execute(store.database, "ALTER TABLE gone RENAME TO trading_state")

    with pytest.raises(LedgerError, match="loaded again first"):
        store.set_state(TradingState.HALTED, "x", by="test", now_ns=1)
    store.load()
    store.set_state(TradingState.HALTED, "x", by="test", now_ns=1)


def _write_until_killed(path: Place, told: Any) -> None:
    store = with_cash(open_store(path))
    for n in range(1, 10_000):
        store.record_decision(decision(n, intent(n)), now_ns=200 + n)
        store.record_session_job("2012-01-03", "pre_market", f"job-{n}", ok=True, detail="", now_ns=200 + n)
        told.send(n)
        if n == 25:
            os._exit(9)


def test_what_was_told_is_on_disk_when_the_process_dies(place: Path | PostgresUrl) -> None:
    """Without closing anything: every decision whose recording was announced is found by the next process."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(place, there))
    process.start()
    process.join(30)
    told = [here.recv() for _ in range(25)]

    store = open_store(place, "run-2")

    assert process.exitcode == 9
    assert [r.order.client_order_id for r in store.facts(now_ns=1).open_orders] == [f"ar-{n}" for n in told]
    assert [job for _, _, job, _ in store.session_jobs("2012-01-01")] == [f"job-{n}" for n in told]


def test_only_what_would_merely_be_done_again_may_go_with_the_power(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row that money depends on waits for the disk."""
    asked: dict[str, set[str]] = {"synced": set(), "unsynced": set()}
    postgres = "Postgres" in type(store.database).__name__

    def watching(database: Any, sql: str, parameters: tuple[object, ...] = ()) -> Any:
        if sql.startswith("INSERT INTO"):
            ((level,),) = execute(database, "SHOW synchronous_commit" if postgres else "PRAGMA synchronous")
            asked["synced" if level in ("on", 2) else "unsynced"].add(sql.split()[2])
        return execute(database, sql, parameters)

    def compare_with(cash: str, *entries: NewEntry) -> None:
        cash_usd = store.facts(now_ns=1).cash_usd if cash == "ours" else D(cash)
        positions = dict(store.facts(now_ns=1).positions)
        assert cash_usd is not None
        store.reconcile(
            cause_of="periodic", checked=1, cash_usd=cash_usd, equity_usd=D(1), positions=positions, now_ns=300,
            entries=entries,
        )  # fmt: skip

    monkeypatch.setattr("db.store.execute", watching)
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.FILL, broker_order_id="b-1", fill=fill(1), now_ns=201)
    store.record_session_close("2012-01-03", {"AAPL": D(101)}, now_ns=202)
    store.set_state(TradingState.REDUCING, "loss", by="limit", now_ns=203)
    money = {"decision", "session_equity", "orders", "order_event", "fill", "cash_entry", "position_entry"}
    assert asked["synced"] >= money | {"session_close", "trading_state"}
    assert not asked["unsynced"]

    store.record_session_job("2012-01-03", "pre_market", "holds", ok=True, detail="", now_ns=204)
    compare_with("ours")
    assert asked["unsynced"] == {"session_job", "reconciliation"}

    for news in (("98999.99",), ("98999.99", entry("FEE", "fee-1", cash="-1"))):
        asked["synced"].clear()
        compare_with(*news)
        assert asked["synced"] >= {"reconciliation", "difference", "cash_entry"}
    compare_with("5")
    assert store.latch.state is TradingState.HALTED
    assert asked["unsynced"] == {"session_job", "reconciliation"}


# --- reconciliation ---


def test_a_new_ledger_adopts_the_account_as_opening_entries(place: Path | PostgresUrl) -> None:
    store = with_cash(open_store(place), "500.25", IBM=Position(D(3), D("101.5")))

    facts = store.facts(now_ns=1)

    assert facts.cash_usd == D("500.25")
    assert facts.positions == {"IBM": Position(D(3), D("101.5"))}
    assert execute(store.database, "SELECT kind, amount_usd FROM cash_entry") == [("opening", "500.25")]


def test_a_position_that_the_broker_sees_otherwise_halts_and_changes_nothing(store: Store) -> None:
    outcome = store.reconcile(
        cause_of="periodic", checked=3, cash_usd=D(100_000), equity_usd=D(1), now_ns=300,
        positions={"IBM": Position(D(5), D(10))},
    )  # fmt: skip

    assert not outcome.agreed
    assert list(map(str, outcome.differences)) == ["IBM: ledger 0, broker 5"]
    assert store.facts(now_ns=1).positions == {}
    reason = store.facts(now_ns=1).halted_reason
    assert reason is not None and reason.startswith("ledger and broker disagree: IBM: ledger 0, broker 5. Compare with")


def test_on_a_persons_word_what_differs_becomes_entries_of_their_own_and_the_books_add_up(store: Store) -> None:
    """Shares that are new come at the broker's cost, those that are gone go at ours, cash is what it is: no profit, no loss."""

    def accept(cash: str, quantity: str, cost: str, now_ns: int) -> None:
        positions = {"IBM": Position(D(quantity), D(cost))}
        outcome = store.reconcile(
            cause_of="start", checked=1, cash_usd=D(cash), equity_usd=D(1), positions=positions, now_ns=now_ns,
            accepted="ann says so",
        )  # fmt: skip
        assert outcome.agreed and outcome.cash_usd == D(cash)
        held = {symbol: p.quantity for symbol, p in outcome.positions.items()}
        assert held == ({"IBM": D(quantity)} if D(quantity) else {})

    accept("99950", "5", "10", 300)
    accept("99970", "2", "10", 301)  # our cost stays
    accept("100020", "-3", "12", 302)  # through zero
    accept("99990", "0", "0", 303)

    moves = execute(
        store.database, "SELECT kind, quantity_change, price_usd, realised_usd FROM position_entry ORDER BY seq"
    )
    assert moves == [
        ("accepted", change, price, "0")
        for change, price in (("5", "10"), ("-3", "10"), ("-2", "10"), ("-3", "12"), ("3", "12"))
    ]
    kept = execute(
        store.database, "SELECT subject, ours, theirs FROM difference WHERE cause_of = 'ann says so' ORDER BY seq"
    )
    assert kept[:3] == [("IBM", "0", "5"), ("cash", "100000", "99950"), ("IBM", "5", "2")]
    close = store.record_session_close("2012-01-03", {}, now_ns=304)
    assert close is not None and (close.equity_usd, close.realised_usd, close.other_usd) == (D(99_990), D(0), D(-10))
    assert check(store.database) == []
    assert store.latch.state is TradingState.TRADING


@pytest.mark.parametrize(
    ("broker", "agreed"), [("100000.01", True), ("99999.99", True), ("100000.02", False), ("99999.98", False)]
)
def test_cash_may_differ_by_a_cent_which_is_booked_by_name(store: Store, broker: str, agreed: bool) -> None:
    outcome = store.reconcile(
        cause_of="periodic", checked=1, cash_usd=D(broker), equity_usd=D(1), positions={}, now_ns=300
    )

    assert outcome.agreed is agreed
    assert store.facts(now_ns=1).cash_usd == (D(broker) if agreed else D(100_000))
    kinds = [kind for (kind,) in execute(store.database, "SELECT kind FROM cash_entry ORDER BY seq")]
    assert kinds == (["opening", "rounding"] if agreed else ["opening"])


def test_each_fill_since_the_last_agreement_widens_the_tolerance_by_half_a_cent(
    store: Store, place: Path | PostgresUrl
) -> None:
    """The broker rounds cash to cents at each fill; and the count survives a restart."""
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.PARTIAL_FILL, fill=fill(1, cumulative="1", quantity="1"), now_ns=201)
    store.record_order_event("ar-1", OrderEvent.PARTIAL_FILL, fill=fill(1, cumulative="2", quantity="1"), now_ns=202)
    assert store.cash_tolerance_usd == D("0.020")
    store.close()
    store = open_store(place, "run-2")
    assert store.cash_tolerance_usd == D("0.020")

    held = {"AAPL": Position(D(2), D(100))}
    assert store.reconcile(
        cause_of="periodic", checked=1, cash_usd=D("99800.02"), equity_usd=D(1), positions=held, now_ns=300
    ).agreed
    assert store.cash_tolerance_usd == D("0.01")


def test_every_difference_is_kept_with_both_sides_and_what_was_done(store: Store, place: Path | PostgresUrl) -> None:
    """Adopted, taken over, booked, rounded, halted: there is no other way for the two to come together again."""
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.FILL, fill=fill(1), found_by="reconnect", now_ns=201)
    store.record_order_event("ar-1", OrderEvent.FILL, fill=fill(1), found_by="periodic", now_ns=202)
    held = {"AAPL": Position(D(10), D(100))}
    fee = NewEntry("f-1", "fee", "", D(0), D("-0.37"), 250)
    store.reconcile(
        cause_of="periodic",
        checked=1,
        cash_usd=D("98999.64"),
        equity_usd=D(1),
        positions=held,
        now_ns=300,
        entries=[fee],
    )
    store.reconcile(
        cause_of="periodic",
        checked=1,
        cash_usd=D("98999.64"),
        equity_usd=D(1),
        positions=held,
        now_ns=301,
        entries=[fee],
    )
    store.reconcile(cause_of="start", checked=1, cash_usd=D(90_000), equity_usd=D(1), positions={}, now_ns=302)

    with Reader(place) as reader:
        found = [(d["cause_of"], d["subject"], d["ours"], d["theirs"], d["resolution"]) for d in reader.differences()]

    assert found == [
        ("start", "account", "unknown", "cash 100000, positions {}", "adopted"),
        ("reconnect", "order ar-1", "recorded, 0 filled", "filled, 10 filled", "took_over"),
        ("periodic", "cash", "not booked", "fee f-1: cash -0.37, shares 0", "booked"),
        ("periodic", "cash", "98999.63", "98999.64", "rounded"),
        ("start", "AAPL", "10", "0", "halted"),
        ("start", "cash", "98999.64", "90000", "halted"),
    ]
    assert store.facts(now_ns=400).positions["AAPL"].quantity == 10


def entry(kind: str, entry_id: str, *, quantity: str = "0", cash: str = "0", at_ns: int = 250) -> NewEntry:
    return NewEntry(entry_id, kind, "IBM" if D(quantity) else "", D(quantity), D(cash), at_ns)


def test_splits_and_fees_are_booked_once_and_explain_the_difference(place: Path | PostgresUrl) -> None:
    """A two for one split doubles the shares and halves their cost; entries older than the opening are part of it."""
    store = with_cash(open_store(place), "1000", IBM=Position(D(3), D("101.5")))
    told = [
        entry("jnlc", "deposit", cash="1000", at_ns=101),
        entry("split", "s-1", quantity="3"),
        entry("fee", "f-1", cash="-0.37"),
    ]

    for _ in range(2):
        assert store.reconcile(
            cause_of="periodic", checked=1, cash_usd=D("999.63"), equity_usd=D(1), now_ns=300, entries=told,
            positions={"IBM": Position(D(6), D("50.75"))},
        ).agreed  # fmt: skip

    assert store.facts(now_ns=1).positions == {"IBM": Position(D(6), D("50.75"))}
    assert store.facts(now_ns=1).cash_usd == D("999.63")
    booked = execute(store.database, "SELECT kind, amount_usd FROM cash_entry ORDER BY seq")
    assert booked == [("opening", "1000"), ("fee", "-0.37")]
    assert check(store.database) == []


def test_a_halt_lasts_until_a_person_resumes(store: Store, place: Path | PostgresUrl) -> None:
    store.set_state(TradingState.HALTED, "a reason", by="risk", now_ns=300)
    store.close()
    store = open_store(place, "run-2")
    facts = store.facts(now_ns=1)
    assert (facts.state, facts.state_reason, facts.halted_reason) == (TradingState.HALTED, "a reason", "a reason")

    store.resume("looked at it", by="ann", now_ns=400)

    facts = store.facts(now_ns=1)
    assert (facts.state, facts.state_reason, facts.halted_reason) == (TradingState.TRADING, "looked at it", None)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([TradingState.REDUCING, TradingState.HALTED, TradingState.TRADING]), st.sampled_from("ab")
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_a_machine_only_tightens_the_trading_state(steps: list[tuple[TradingState, str]]) -> None:
    """Against the plainest model: the most severe since the last resume, with the first row for each new reason."""
    store = open_store(None)
    rank = {TradingState.TRADING: 0, TradingState.REDUCING: 1, TradingState.HALTED: 2}
    expected: list[tuple[str, str, str]] = []
    state, reason = TradingState.TRADING, ""
    for asked, why in steps:
        if asked is TradingState.TRADING:
            store.resume(why, by="ann", now_ns=1)
            state, reason = asked, why
            expected.append((state.value, reason, "ann"))
        else:
            latched = store.set_state(asked, why, by="risk", now_ns=1)
            if rank[asked] >= rank[state] and (asked, why) != (state, reason):
                state, reason = asked, why
                expected.append((state.value, reason, "risk"))
            assert (latched.state, latched.reason) == (state, reason)

    assert (store.facts(now_ns=2).state, store.facts(now_ns=2).state_reason) == (state, reason)
    assert execute(store.database, "SELECT state, reason, set_by FROM trading_state ORDER BY seq") == expected


def test_trading_is_not_given_back_by_setting_it(store: Store) -> None:
    with pytest.raises(ValueError, match="only resume"):
        store.set_state(TradingState.TRADING, "all good", by="risk", now_ns=1)


# --- replay, reading ---


def test_as_of_shows_what_stood_before_a_run(store: Store, place: Path | PostgresUrl) -> None:
    store.record_decision(decision(1, intent(1)), now_ns=200)
    store.close()
    second = open_store(place, "run-2", now_ns=500)
    begun_with = second.facts(now_ns=600)
    second.record_order_event("ar-1", OrderEvent.FILL, fill=fill(1), now_ns=501)

    before_second, before_first = second.as_of("run-2"), second.as_of("run-1")

    assert repr(before_second.facts(now_ns=600)) == repr(begun_with)
    assert before_first.facts(now_ns=600).cash_usd is None
    assert before_first.ledger_id == "ledger-a"
    assert rows(before_first, "decision") == 0
    with pytest.raises(BadInput, match="no run 'run-9'; its last runs: run-2, run-1"):
        second.as_of("run-9")


def test_the_command_line_reads_while_the_trader_writes(store: Store, place: Path | PostgresUrl) -> None:
    store.record_decision(decision(1, intent(1), intent(2, symbol="IBM")), now_ns=200)
    store.record_order_event("ar-1", OrderEvent.ACCEPTED, broker_order_id="b-1", now_ns=201)
    store.record_order_event("ar-1", OrderEvent.FILL, broker_order_id="b-1", fill=fill(1), now_ns=202)

    with Reader(place) as reader:
        assert [(o["client_order_id"], o["status"]) for o in reader.orders()] == [
            ("ar-1", "filled"),
            ("ar-2", "recorded"),
        ]
        assert [o["client_order_id"] for o in reader.orders(status="open")] == ["ar-2"]
        assert [o["client_order_id"] for o in reader.orders(symbol="IBM")] == ["ar-2"]
        assert [o["client_order_id"] for o in reader.orders(limit=1)] == ["ar-2"]
        assert [f["price_usd"] for f in reader.fills()] == [D(100)]
        assert [(p["symbol"], p["quantity"], p["cost_usd"]) for p in reader.positions()] == [("AAPL", D(10), D(1000))]
        store.set_state(TradingState.HALTED, "enough", by="orders", now_ns=300)
        summary = reader.summary()
    assert (summary.orders, summary.fills, summary.open_orders) == (2, 1, 1)
    assert summary.latch == Latch(state=TradingState.HALTED, reason="enough", set_by="orders", at_ns=300)
    assert summary.cash_usd == D(99_000)


def test_failed_jobs_are_those_of_the_latest_sessions_whose_last_try_failed(
    store: Store, place: Path | PostgresUrl
) -> None:
    told = [
        ("2012-01-03", "after_close", "parity", False), ("2012-01-04", "after_close", "session", False),
        ("2012-01-05", "pre_market", "reconcile", False), ("2012-01-05", "pre_market", "warm_up", False),
        ("2012-01-05", "pre_market", "reconcile", True), ("2012-01-05", "after_close", "reconcile", False),
        ("2012-01-05", "after_close", "equity", True),
    ]  # fmt: skip
    for at_ns, (day, phase, job, ok) in enumerate(told, 300):
        store.record_session_job(day, phase, job, ok=ok, detail=f"{job} of {day}", now_ns=at_ns)

    with Reader(place) as reader:
        found, all_days = reader.failed_jobs(), reader.failed_jobs(sessions=9)
    assert [(job["session_date"], job["phase"], job["job"], job["detail"], job["at_ns"]) for job in found] == [
        ("2012-01-04", "after_close", "session", "session of 2012-01-04", 301),
        ("2012-01-05", "pre_market", "warm_up", "warm_up of 2012-01-05", 303),
        ("2012-01-05", "after_close", "reconcile", "reconcile of 2012-01-05", 305),
    ]
    assert [job["job"] for job in all_days] == ["parity", "session", "warm_up", "reconcile"]


def test_a_run_in_figures_counts_what_that_run_wrote(place: Path | PostgresUrl) -> None:
    """Counted by the database: a run may have any number of rows."""
    first = open_store(place, "run-0")
    first.reconcile(cause_of="start", checked=1, cash_usd=D(90_000), equity_usd=D(90_000), positions={}, now_ns=101)
    first.record_decision(replace(decision(1), session_date="2012-01-02"), now_ns=102)
    first.close()
    store = open_store(place, "run-1")
    refused = RefusedIntent(intent=intent(3), code="position", reason="too much")
    store.record_decision(decision(2, intent(1), intent(2, symbol="IBM"), refused=(refused,)), now_ns=200)
    store.record_decision(decision(3), now_ns=201)
    store.reconcile(cause_of="start", checked=1, cash_usd=D(90_000), equity_usd=D(90_001), positions={}, now_ns=202)
    store.record_order_event("ar-1", OrderEvent.FILL, broker_order_id="b-1", fill=fill(1), now_ns=203)
    store.reconcile(cause_of="periodic", checked=1, cash_usd=D(1), equity_usd=D(1), positions={}, now_ns=204)

    with Reader(place) as reader:
        assert reader.run("run-1") == RunFigures(
            sessions=1, fills=1, refused=1, checked=2, differences=1, equity_start_usd=D(90_001)
        )
        assert reader.run("run-0") == RunFigures(
            sessions=1, fills=0, refused=0, checked=1, differences=0, equity_start_usd=D(90_000)
        )
        assert reader.run("nobody's").equity_start_usd is None
        assert reader.statuses(since_ns=200) == {"filled": 1, "recorded": 1}
        assert reader.statuses(since_ns=201) == {}


def test_the_peak_of_equity_is_exact_where_floats_are_equal(store: Store) -> None:
    """The three highest are one and the same number to a float."""
    for n, equity in enumerate(("99", "100000000000000000.01", "100000000000000000.03", "100000000000000000.02", "9")):
        store.record_decision(replace(decision(n + 1), equity_usd=D(equity)), now_ns=200 + n)

    assert store.facts(now_ns=300).peak_equity_usd == D("100000000000000000.03")


def test_a_fresh_ledger_has_a_summary_too(place: Path | PostgresUrl) -> None:
    open_store(place)
    with Reader(place) as reader:
        summary = reader.summary()
    assert (summary.cash_usd, summary.equity_usd, summary.orders, summary.disagreements) == (None, None, 0, 0)
