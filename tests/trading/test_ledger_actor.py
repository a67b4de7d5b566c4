"""The ledger actor on the stepped system: commit, then tell; contradict it and trading halts."""

from collections.abc import Callable
from datetime import date, time
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from actors.kernel import EXIT_HALTED, Actor, ChildSpec, CrashAt, Faults, StartFailed, SteppedSystem, Supervisor
from actors.ledger import LedgerActor
from actors.messages import (
    AccountEntry,
    ApprovedIntent,
    DecisionRecorded,
    FillRecord,
    HaltTrading,
    LedgerSnapshot,
    OrderChanged,
    PositionRecord,
    Reconciled,
    RecordDecision,
    RecordOrderEvent,
    RecordReconciliation,
    RecordSessionClose,
    Refusal,
    SnapshotRequested,
    SymbolPrice,
    TargetWeight,
    TradingStateChanged,
)
from algo_royale.errors import LedgerError
from algo_royale.sessions import calendar, new_york_ns
from db.database import execute
from db.store import Store

START_NS = 1_000


class Probe(Actor[Any]):
    """Keeps what it hears, in one list shared by all probes."""

    def __init__(self, heard: list[tuple[str, Any]]) -> None:
        self._heard = heard

    def receive(self, message: Any) -> None:
        self._heard.append((self.path.rsplit("/", 1)[1], message))


class Bench:
    """A ledger actor between two probes."""

    def __init__(self, store: Callable[[], Store], faults: Faults | None = None) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.system = SteppedSystem(START_NS, faults=faults) if faults else SteppedSystem(START_NS)
        ref = self.system.ref
        specs = [ChildSpec(id=name, factory=lambda: Probe(self.heard)) for name in ("orders", "portfolio", "asker")] + [
            ChildSpec(
                id="ledger",
                factory=lambda: LedgerActor(
                    store, calendar=calendar(), orders=ref("root/orders"), portfolio=ref("root/portfolio")
                ),
            )
        ]
        self.system.start(ChildSpec(id="root", factory=lambda: Supervisor(specs)))

    def tell(self, *messages: Any) -> list[tuple[str, Any]]:
        """Tell the ledger, run until idle (and through restarts), and return what the probes heard of it."""
        self.heard.clear()
        for message in messages:
            self.system.ref("root/ledger").tell(message)
        self.system.run_until_idle()
        while self.system.exit_code is None and self.system.tree() and self._restarting():
            self.system.advance_to(self.system.next_timer_ns() or 0)
            self.system.run_until_idle()
        return list(self.heard)

    def _restarting(self) -> bool:
        (ledger,) = [row for row in self.system.tree() if row["path"] == "root/ledger"]
        return ledger["state"] != "running" and self.system.next_timer_ns() is not None


def memory() -> Callable[[], Store]:
    store = Store.open(None, run_id="run-1", now_ns=0, live_start_ns=50, ledger_id="ledger-a")
    return lambda: store


def account(cash: str = "1000", *positions: PositionRecord, **other: Any) -> RecordReconciliation:
    return RecordReconciliation(
        at_ns=1, cause_of="start", checked=2,  account_cash_usd=D(cash), account_equity_usd=D(cash),
        positions=positions, **other,
    )  # fmt: skip


def decision(n: int = 1, **other: Any) -> RecordDecision:
    intent = ApprovedIntent(
        client_order_id=f"ar-{n}", symbol="AAPL", side="buy", quantity=D(10), reference_price_usd=D("9.5")
    )
    refused = Refusal(intent=intent, code="ORDER_NOTIONAL", reason="too large", limit=D(1), value=D(2))
    target = TargetWeight(
        symbol="AAPL", state_in=True, score=0.5, viability=0.7, weight=0.25, price_usd=D("9.5"), held_quantity=D(0),
        target_quantity=D(10),
    )  # fmt: skip
    fields: dict[str, Any] = {
        "at_ns": 1, "decision_id": f"d-{n}", "bar_end_ns": n, "session_date": "2012-01-03", "equity_usd": D(1000),
        "cash_usd": D(1000), "strategy": "EqualWeight", "targets": (target,), "approved": (intent,), "refused": (refused,),
    }  # fmt: skip
    return RecordDecision(**fields | other)


def filled(n: int = 1, cumulative: str = "10", quantity: str = "10") -> RecordOrderEvent:
    fill = FillRecord(
        execution_id=f"e-{n}-{cumulative}", client_order_id=f"ar-{n}", broker_order_id=f"b-{n}", symbol="AAPL", side="buy",
        quantity=D(quantity), cumulative_quantity=D(cumulative), price_usd=D("9.25"), at_ns=5,
    )  # fmt: skip
    return RecordOrderEvent(at_ns=1, client_order_id=f"ar-{n}", broker_order_id=f"b-{n}", event="fill", fill=fill)


def kinds(heard: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    return [(who, type(message).__name__) for who, message in heard]


def test_a_decision_is_told_to_the_dispatcher_once_it_is_committed() -> None:
    store = memory()
    bench = Bench(store)
    bench.tell(account())

    heard = bench.tell(decision())

    assert kinds(heard) == [("orders", "DecisionRecorded")]
    recorded: DecisionRecorded = heard[0][1]
    assert [(o.client_order_id, o.status, o.bar_end_ns, o.quantity) for o in recorded.orders] == [
        ("ar-1", "recorded", 1, D(10))
    ]
    ((targets,),) = execute(store().database, "SELECT targets FROM decision")
    assert '"weight":0.25' in targets  # why, kept with what


def test_a_fill_is_told_to_dispatcher_and_portfolio_with_cash_and_position_after_it() -> None:
    bench = Bench(memory())
    bench.tell(account(), decision())

    heard = bench.tell(filled())

    assert kinds(heard) == [("orders", "OrderChanged"), ("portfolio", "OrderChanged")]
    changed: OrderChanged = heard[0][1]
    assert (changed.order.status, changed.cash_usd) == ("filled", D("907.5"))
    assert changed.position == PositionRecord(symbol="AAPL", quantity=D(10), average_cost_usd=D("9.25"))


def test_what_is_told_twice_is_answered_once() -> None:
    bench = Bench(memory())
    bench.tell(account(), decision())

    assert len(bench.tell(filled(), filled(), filled())) == 2


def test_whoever_starts_gets_the_facts_at_its_own_address() -> None:
    bench = Bench(memory())
    bench.tell(
        account("1000", PositionRecord(symbol="IBM", quantity=D(2), average_cost_usd=D(100))),
        decision(),
    )

    heard = bench.tell(SnapshotRequested(at_ns=1, reply_to="root/asker"))

    assert kinds(heard) == [("asker", "LedgerSnapshot")]
    snapshot: LedgerSnapshot = heard[0][1]
    assert (snapshot.ledger_id, snapshot.cash_usd, snapshot.live_start_ns) == ("ledger-a", D(1000), 50)
    assert [(p.symbol, p.quantity) for p in snapshot.positions] == [("IBM", D(2))]
    assert [o.client_order_id for o in snapshot.open_orders] == ["ar-1"]
    assert (snapshot.last_decision_bar_end_ns, snapshot.session_start_equity_usd) == (1, D(1000))


def test_an_unknown_account_is_told_as_unknown_and_not_as_empty() -> None:
    heard = Bench(memory()).tell(SnapshotRequested(at_ns=1, reply_to="root/asker"))

    assert heard[0][1].cash_usd is None


def test_agreement_lets_trading_go_on() -> None:
    bench = Bench(memory())

    heard = bench.tell(account("1000"))

    assert kinds(heard) == [("orders", "Reconciled"), ("portfolio", "Reconciled")]
    assert heard[0][1] == Reconciled(at_ns=START_NS, checked=2, differences=0, cash_usd=D(1000), positions=())


def test_a_fee_told_by_the_broker_is_no_disagreement() -> None:
    bench = Bench(memory())
    bench.tell(account("1000"))
    fee = AccountEntry(entry_id="f", kind="fee", symbol="", quantity=D(0), cash_usd=D("-1.5"), at_ns=2_000)

    heard = bench.tell(account("998.5", entries=(fee,)))

    assert [m.cash_usd for _, m in heard] == [D("998.5"), D("998.5")]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (account("990"), "ledger and broker disagree: cash: ledger 1000, broker 990"),
        (HaltTrading(at_ns=1, reason="the dispatcher found an order that nobody recorded"), "the dispatcher found"),
        (decision(2, bar_end_ns=1), "bar 1 was decided as d-1, not d-2"),
        (filled(9), "order ar-9 is not in this ledger"),
        (filled(1, cumulative="11", quantity="11"), "filled 11 of 10"),
    ],
)
def test_a_contradiction_is_told_to_all_who_act_and_stops_the_system(wrong: Any, reason: str) -> None:
    """Exit code 5; what was committed before stays as it was."""
    bench = Bench(memory())
    bench.tell(account(), decision())

    heard = bench.tell(wrong)

    halts = [(who, message) for who, message in heard if isinstance(message, TradingStateChanged)]
    assert [who for who, _ in halts] == ["orders", "portfolio"]
    assert reason in halts[0][1].reason
    assert not any(isinstance(message, Reconciled) for _, message in heard)
    assert bench.system.exit_code == EXIT_HALTED


def test_a_ledger_that_cannot_be_written_halts_instead_of_telling() -> None:
    """Disk full, file gone, database locked: no order may leave that is not on record."""
    store = memory()
    bench = Bench(store)
    bench.tell(account())
    execute(store().database, "DROP TABLE refusal")

    heard = bench.tell(decision())

    assert kinds(heard) == [("orders", "TradingStateChanged"), ("portfolio", "TradingStateChanged")]
    assert bench.system.exit_code == EXIT_HALTED
    assert execute(store().database, "SELECT count(*) FROM orders") == [(0,)]


def test_a_sessions_close_is_kept_once_and_told_to_nobody() -> None:
    store = memory()
    bench = Bench(store)
    bench.tell(account(), decision(), filled(1, "10", "10"))
    close = RecordSessionClose(
        at_ns=1, session_date="2012-01-03", prices=(SymbolPrice(symbol="AAPL", price_usd=D(101)),)
    )

    assert bench.tell(close, close) == []

    (row,) = execute(store().database, "SELECT equity_usd, cash_usd, positions_usd, cost_usd FROM session_close")
    equity, cash, positions, cost = map(D, row)
    assert (positions, equity) == (D(1010), cash + 1010)
    assert cash + cost == D(1000)


def test_a_busted_execution_leaves_the_position_and_says_so() -> None:
    bench = Bench(memory())
    bench.tell(account(), decision(), filled(1, "10", "10"))
    told = filled(1, "10", "10")
    assert told.fill is not None
    bust = structs.replace(told, event="trade_bust", fill=None, reversed_execution_id=told.fill.execution_id)

    heard = bench.tell(bust, bust)

    assert kinds(heard) == [("orders", "OrderChanged"), ("portfolio", "OrderChanged")]
    changed = heard[0][1]
    assert (changed.fill, changed.cash_usd, changed.position.quantity) == (None, D(1000), D(0))


@pytest.mark.parametrize(
    ("day", "settles_on"), [("2012-02-17T15:00", "2012-02-21"), ("2012-07-03T12:59", "2012-07-05"), ("2012-01-03T10:00", "2012-01-04")]
)  # fmt: skip
def test_proceeds_settle_on_the_next_session(day: str, settles_on: str) -> None:
    """One session later: over a weekend with a holiday, over a half day and Independence Day, over a night."""
    at_ns = new_york_ns(date.fromisoformat(day[:10]), time.fromisoformat(day[11:]))
    store = memory()
    bench = Bench(store)
    held = PositionRecord(symbol="AAPL", quantity=D(10), average_cost_usd=D(50))
    bench.tell(structs.replace(account(), positions=(held,)))
    order = decision()
    sells = tuple(structs.replace(intent, side="sell") for intent in order.approved)
    bench.tell(structs.replace(order, approved=sells))
    told = filled(1, "10", "10")
    assert told.fill is not None
    bench.tell(structs.replace(told, fill=structs.replace(told.fill, side="sell", at_ns=at_ns)))

    assert execute(store().database, "SELECT settles_on FROM cash_entry WHERE kind = 'fill'") == [(settles_on,)]


def test_a_ledger_that_cannot_be_opened_does_not_start() -> None:
    def broken() -> Store:
        raise LedgerError("the ledger at x cannot be opened")

    bench_system = SteppedSystem(START_NS)
    spec = ChildSpec(
        id="root",
        factory=lambda: LedgerActor(
            broken, calendar=calendar(), orders=bench_system.ref("a"), portfolio=bench_system.ref("b")
        ),
    )
    with pytest.raises(StartFailed, match="cannot be opened"):
        bench_system.start(spec)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("index", range(5))
def test_a_crash_at_any_message_loses_at_most_what_was_not_committed(tmp_path: Path, index: int, where: str) -> None:
    """After a restart the file decides: told again, everything ends as in a run without a crash."""

    def store() -> Store:
        return Store.open(tmp_path / "ledger.db", run_id="run-1", now_ns=0, live_start_ns=50, ledger_id="ledger-a")

    script = [account(), decision(), filled(1, "4", "4"), filled(1, "10", "6"), decision(2)]
    bench = Bench(store, CrashAt(index, where))  # type: ignore[arg-type]
    for message in script:
        bench.tell(message)
        bench.tell(message)  # senders repeat what was not answered
    facts = bench.tell(SnapshotRequested(at_ns=1, reply_to="root/asker"))[0][1]

    assert facts.cash_usd == D("907.5")
    assert [(p.symbol, p.quantity) for p in facts.positions] == [("AAPL", D(10))]
    assert [o.client_order_id for o in facts.open_orders] == ["ar-2"]
    assert bench.system.exit_code is None
