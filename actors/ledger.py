"""The single writer of money facts: commits first, tells afterwards."""

import contextlib
from collections.abc import Callable, Mapping
from decimal import Decimal

import msgspec

from actors import messages as m
from actors.kernel import Actor, Halt, Ref
from actors.messages import LedgerMessage
from algo_royale.costs import SELL
from algo_royale.errors import LedgerError
from algo_royale.ledger import Position
from algo_royale.orders import Fill, Order, OrderEvent, OrderIntent
from algo_royale.phases import Job, Phase
from algo_royale.risk import StateEvent, TradingState
from algo_royale.sessions import Calendar, new_york_date
from db.store import NewDecision, NewEntry, ReconciliationOutcome, RecordedOrder, RefusedIntent, Store


class LedgerActor(Actor[LedgerMessage]):
    """Commits what it is told and then tells those who act on it. It never acts on anything that is not durable.

    What contradicts the ledger (a second decision for a bar, an order it does not know, a position that the broker sees
    otherwise) and what cannot be written halts trading: a recorded fact is never overwritten and never guessed away.
    """

    def __init__(
        self, store_factory: Callable[[], Store], *, calendar: Calendar, orders: Ref[m.OrdersMessage],
        portfolio: Ref[m.PortfolioMessage], settlement_days: int = 1,
    ) -> None:  # fmt: skip
        """`store_factory` opens the store, in this actor's thread, for every incarnation. Proceeds of a sale settle
        `settlement_days` sessions after it."""
        self._store_factory, self._orders, self._portfolio = store_factory, orders, portfolio
        self._calendar, self._settlement_days = calendar, settlement_days
        self._store: Store | None = None
        self._recorded = self._repeated = 0  # what was told and new, and what was known already
        self._compared = self._differences = 0

    def started(self) -> None:
        try:
            self._store = self._store_factory()
            self._store.load()
        except LedgerError as error:
            raise Halt(str(error)) from error

    def stopped(self, reason: object) -> None:
        if self._store is not None:
            self._store.close()

    def observe(self) -> Mapping[str, object]:
        account = self._store.account if self._store is not None else None
        return {
            "recorded": self._recorded, "repeated": self._repeated, "compared": self._compared, "differences": self._differences,
            "cash_usd": str(account.cash) if account is not None else None,
        }  # fmt: skip

    def receive(self, message: LedgerMessage) -> None:
        store = self._store
        assert store is not None
        try:
            match message:
                case m.RecordDecision():
                    self._on_decision(store, message)
                case m.RecordOrderEvent():
                    self._on_order_event(store, message)
                case m.SnapshotRequested():
                    self._on_snapshot_requested(store, message)
                case m.RecordReconciliation():
                    self._on_reconciliation(store, message)
                case m.RecordSessionClose():
                    prices = {part.symbol: part.price_usd for part in message.prices}
                    store.record_session_close(message.session_date, prices, now_ns=self.now_ns)
                case m.HaltTrading():
                    event = StateEvent.of_halt(TradingState(message.state), message.by)
                    self._move(store, event, message.reason, message.by)
                case m.ResumeTrading():
                    self._move(store, StateEvent.PERSON_RESUMES, message.reason, message.by)
                case m.FlattenRequested():
                    self._move(store, StateEvent.PERSON_FLATTENS, message.reason, message.by)
                case m.SessionJobDue():
                    self._on_session_job(store, message)
                case m.RecordSessionJob():
                    store.record_session_job(
                        message.session_date, message.phase, message.job, ok=message.ok, detail=message.detail,
                        now_ns=self.now_ns,
                    )  # fmt: skip
                case m.SessionJobsRequested():
                    jobs = m.SessionJobsKnown(at_ns=self.now_ns, jobs=store.session_jobs(message.since))
                    self.tell(self.ref(message.reply_to), jobs)
        except LedgerError as error:
            self._on_error(store, str(error))

    def _on_decision(self, store: Store, message: m.RecordDecision) -> None:
        decision = NewDecision(
            decision_id=message.decision_id, bar_end_ns=message.bar_end_ns, session_date=message.session_date,
            equity_usd=message.equity_usd, cash_usd=message.cash_usd, strategy=message.strategy,
            targets=msgspec.json.encode(message.targets).decode(), missing=message.missing,
            approved=[_intent(part) for part in message.approved],
            refused=[
                RefusedIntent(intent=_intent(r.intent), code=r.code, reason=r.reason, limit=r.limit, value=r.value)
                for r in message.refused
            ],
        )  # fmt: skip
        orders = store.record_decision(decision, now_ns=self.now_ns)
        self._recorded += 1
        answer = m.DecisionRecorded(
            at_ns=self.now_ns, decision_id=message.decision_id, bar_end_ns=message.bar_end_ns,
            orders=tuple(order_record(order) for order in orders),
        )  # fmt: skip
        self.tell(self._orders, answer)

    def _on_order_event(self, store: Store, message: m.RecordOrderEvent) -> None:
        change = store.record_order_event(
            message.client_order_id, OrderEvent(message.event), broker_order_id=message.broker_order_id,
            detail=message.detail, fill=None if message.fill is None else _fill(message.fill), now_ns=self.now_ns,
            successor=None if message.successor is None else _order(message.successor),
            settles_on="" if message.fill is None else self._settles_on(message.fill), found_by=message.found_by,
            reversed_execution_id=message.reversed_execution_id,
        )  # fmt: skip
        if not change.applied:
            self._repeated += 1
            return  # told before; whoever needs it has heard it, or asks for a snapshot
        self._recorded += 1
        position = None
        if change.position is not None:
            position = _position(change.recorded.order.symbol, change.position)
        changed = m.OrderChanged(
            at_ns=self.now_ns, order=order_record(change.recorded), event=message.event,
            fill=None if change.fill is None else message.fill, cash_usd=change.cash_usd, position=position,
            successor=None if change.successor is None else order_record(change.successor),
        )  # fmt: skip
        self.tell(self._orders, changed)
        self.tell(self._portfolio, changed)
        if change.halted is not None:
            self._halt(change.halted)

    def _settles_on(self, fill: m.FillRecord) -> str:
        """The session from which the proceeds of a sale may be spent."""
        if fill.side != SELL or not self._settlement_days:
            return ""
        traded = new_york_date(fill.at_ns or self.now_ns)
        return self._calendar.offset(traded, self._settlement_days).date.isoformat()

    def _on_snapshot_requested(self, store: Store, message: m.SnapshotRequested) -> None:
        facts = store.facts(now_ns=self.now_ns)
        snapshot = m.LedgerSnapshot(
            at_ns=self.now_ns, ledger_id=facts.ledger_id, cash_usd=facts.cash_usd,
            positions=_positions(facts.positions), open_orders=tuple(order_record(order) for order in facts.open_orders),
            last_decision_bar_end_ns=facts.last_decision_bar_end_ns, live_start_ns=facts.live_start_ns,
            session_start_equity_usd=facts.session_start_equity_usd, orders_recent_ns=facts.orders_recent_ns,
            orders_session_count=facts.orders_session_count, peak_equity_usd=facts.peak_equity_usd,
            state=facts.state.value, state_reason=facts.state_reason,
            last_targets=msgspec.json.decode(facts.last_targets, type=tuple[m.TargetWeight, ...]),
            last_targets_date=facts.last_targets_date, last_equity_usd=facts.last_equity_usd, last_session_date=facts.last_session_date,
            ended_orders=tuple(order_record(order) for order in facts.ended_orders),
            last_trades=tuple(m.LastTrade(symbol=s, side=side, at_ns=ns) for s, side, ns in facts.last_trades),
            unsettled=tuple(m.Unsettled(settles_on=on, amount_usd=amount) for on, amount in facts.unsettled),
        )  # fmt: skip
        self.tell(self.ref(message.reply_to), snapshot)

    def _on_reconciliation(self, store: Store, message: m.RecordReconciliation) -> None:
        outcome = self._reconcile(store, message)
        self._recorded += 1
        self._compared, self._differences = self._compared + 1, self._differences + len(outcome.differences)
        if not outcome.agreed and not message.is_final:
            differences = tuple(map(str, outcome.differences))
            self.tell(self._orders, m.Disagreed(at_ns=self.now_ns, differences=differences))
            return
        if not outcome.agreed and (words := store.broker_accepted()):
            self._accept_broker(store, message, words)
            outcome = self._reconcile(store, message, accepted=words)
        if not outcome.agreed:
            self._halt(store.latch.reason)
        reconciled = m.Reconciled(
            at_ns=self.now_ns, checked=message.checked, differences=len(outcome.differences),
            cash_usd=outcome.cash_usd if outcome.cash_usd is not None else Decimal(0),
            positions=_positions(outcome.positions),
            split=tuple(sorted({entry.symbol for entry in message.entries if entry.kind == "split"})),
        )  # fmt: skip
        self.tell(self._orders, reconciled)
        self.tell(self._portfolio, reconciled)

    def _reconcile(self, store: Store, message: m.RecordReconciliation, accepted: str = "") -> ReconciliationOutcome:
        return store.reconcile(
            cause_of=message.cause_of, checked=message.checked,
            cash_usd=message.account_cash_usd, equity_usd=message.account_equity_usd,
            positions={p.symbol: Position(p.quantity, p.average_cost_usd) for p in message.positions},
            entries=[NewEntry(e.entry_id, e.kind, e.symbol, e.quantity, e.cash_usd, e.at_ns) for e in message.entries],
            is_final=message.is_final, now_ns=self.now_ns, accepted=accepted,
            unlisted={} if accepted else {part.client_order_id: (part.filled_quantity, part.listed) for part in message.taken_back},
        )  # fmt: skip

    def _accept_broker(self, store: Store, message: m.RecordReconciliation, words: str) -> None:
        """After a person's word: executions that the broker shows no more are taken back by name, as if we had been told."""
        for part in message.taken_back:
            for fill in store.unlisted_fills(part.client_order_id, part.filled_quantity, part.listed):
                bust = m.RecordOrderEvent(
                    at_ns=message.at_ns, client_order_id=fill.client_order_id, broker_order_id=fill.broker_order_id,
                    event=OrderEvent.TRADE_BUST.value, detail=words, reversed_execution_id=fill.execution_id,
                    found_by=message.cause_of,
                )  # fmt: skip
                self._on_order_event(store, bust)

    def _on_session_job(self, store: Store, message: m.SessionJobDue) -> None:
        """Say what the books say of settled cash, of positions, and of the account's worth."""
        facts, ok = store.facts(now_ns=self.now_ns), True
        match message.job:
            case Job.SETTLEMENT:
                waiting = [(on, amount) for on, amount in facts.unsettled if on > message.session_date]
                detail = f"cash {facts.cash_usd}, all of it settled"
                if waiting:
                    parts = ", ".join(f"{amount} on {on}" for on, amount in waiting)
                    detail = f"cash {facts.cash_usd}, of which settle {parts}"
            case Job.POSITIONS:
                held = (f"{p.quantity} {symbol}" for symbol, p in sorted(facts.positions.items()))
                detail = ", ".join(held) or "no position"
            case _ if message.phase == Phase.AFTER_CLOSE:
                close = store.session_close(message.session_date)
                ok = close is not None
                detail = (
                    f"equity {close.equity_usd}" if close is not None else "not known: no bar of the close has come"
                )
            case _:
                equity, day = facts.last_equity_usd, facts.last_session_date
                detail = "nothing has been decided yet" if equity is None else f"equity {equity} after {day}"
        done = m.SessionJobDone.of(message, self.path, detail, at_ns=self.now_ns, ok=ok)
        self.tell(self.ref(message.reply_to), done)

    def _move(self, store: Store, event: StateEvent, reason: str, by: str) -> None:
        """Commit what trading may do after `event`, then tell it to all who act."""
        after = store.move(event, reason, by=by, now_ns=self.now_ns)
        if event is StateEvent.CONTRADICTED:
            self._halt(reason)
        self._tell_state(after, store.latch.reason)

    def _on_error(self, store: Store, reason: str) -> None:
        """What contradicts the ledger stays halted over a restart, where it can be written at all."""
        with contextlib.suppress(LedgerError):
            store.set_state(TradingState.HALTED, reason, by="ledger", now_ns=self.now_ns)
        self._halt(reason)

    def _halt(self, reason: str) -> None:
        """Tell everyone who could still act, then stop the system (exit code 5)."""
        self._tell_state(TradingState.HALTED, reason)
        raise Halt(reason)

    def _tell_state(self, state: TradingState, reason: str) -> None:
        changed = m.TradingStateChanged(at_ns=self.now_ns, state=state.value, reason=reason)
        self.tell(self._orders, changed)
        self.tell(self._portfolio, changed)


def order_record(recorded: RecordedOrder) -> m.OrderRecord:
    """An order of the store as messages carry it."""
    order = recorded.order
    return m.OrderRecord(
        client_order_id=order.client_order_id, broker_order_id=order.broker_order_id, decision_id=order.decision_id,
        symbol=order.symbol, side=order.side, quantity=order.quantity, filled_quantity=order.filled_quantity,
        status=order.status.value, order_type=order.order_type, time_in_force=order.time_in_force,
        limit_price_usd=order.limit_price_usd, reference_price_usd=order.reference_price_usd,
        bar_end_ns=recorded.bar_end_ns,
    )  # fmt: skip


def _order(part: m.OrderRecord) -> Order:
    return Order(
        client_order_id=part.client_order_id, broker_order_id=part.broker_order_id, decision_id=part.decision_id,
        symbol=part.symbol, side=part.side, quantity=part.quantity, order_type=part.order_type,
        time_in_force=part.time_in_force, limit_price_usd=part.limit_price_usd,
    )  # fmt: skip


def _intent(part: m.OrderIntent) -> OrderIntent:
    return OrderIntent(
        client_order_id=part.client_order_id, symbol=part.symbol, side=part.side, quantity=part.quantity,
        reference_price_usd=part.reference_price_usd, order_type=part.order_type, time_in_force=part.time_in_force,
        limit_price_usd=part.limit_price_usd,
    )  # fmt: skip


def _fill(part: m.FillRecord) -> Fill:
    return Fill(
        execution_id=part.execution_id, client_order_id=part.client_order_id, broker_order_id=part.broker_order_id,
        symbol=part.symbol, side=part.side, quantity=part.quantity, cumulative_quantity=part.cumulative_quantity,
        price_usd=part.price_usd, fees_usd=part.fees_usd, at_ns=part.at_ns,
    )  # fmt: skip


def _position(symbol: str, position: Position) -> m.PositionRecord:
    return m.PositionRecord(symbol=symbol, quantity=position.quantity, average_cost_usd=position.average_cost_usd)


def _positions(positions: Mapping[str, Position]) -> tuple[m.PositionRecord, ...]:
    return tuple(_position(symbol, held) for symbol, held in sorted(positions.items()))
