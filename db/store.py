"""The only queries of the ledger: `Store` writes (one writer), `Reader` answers the command line while it does.

Rows are only ever added. Where an order, the cash or a position stands is in its newest row, which carries the state after
it, so that opening a ledger needs no fold over its history; `db.admin.check` does that fold and compares.
Every write is one transaction, committed before the caller goes on; what cannot be written raises LedgerError, after which
the store refuses to work until it has loaded again from the file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec
import peewee

from algo_royale import orders
from algo_royale.errors import BadInput, LedgerError
from algo_royale.ledger import FLAT, Account, Flow, Move, Position, Resolution, flow_of, fold, moved
from algo_royale.orders import Fill, Order, OrderEvent, OrderIntent, OrderStatus
from algo_royale.risk import STATE_TRANSITIONS, StateEvent, TradingState, committed_reason, is_accepting
from algo_royale.sessions import new_york_date
from db import models
from db.database import (
    DRIVER_ERRORS,
    Database,
    Place,
    exact,
    execute,
    first_line,
    open_database,
    take_writer_lock,
    to_text,
    transaction,
    unsynced,
)
from db.migrations import SESSION_SUMS, TABLES, migrate, migration_states

CASH_TOLERANCE_USD = Decimal("0.01")
# The broker keeps cash in whole cents and we keep it exactly, so each fill may part us by half a cent more.
CASH_TOLERANCE_PER_FILL_USD = Decimal("0.005")
RECENT_NS = 60_000_000_000
ENDED_NS = 7 * 86_400 * 1_000_000_000
ACCEPTED = "accepted"  # an entry that a person took over from the broker
_FINAL = ", ".join(f"'{status.value}'" for status in sorted(orders.FINAL))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedOrder:
    """An order and the bar it was decided on."""

    order: Order
    bar_end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedIntent:
    """An intent that risk refused, with the rule's code and numbers."""

    intent: OrderIntent
    code: str
    reason: str
    limit: Decimal | None = None
    value: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDecision:
    """What `record_decision` commits; `targets` is JSON as the caller wants it explained later."""

    decision_id: str
    bar_end_ns: int
    session_date: str
    equity_usd: Decimal
    cash_usd: Decimal
    strategy: str
    targets: str
    approved: Sequence[OrderIntent]
    refused: Sequence[RefusedIntent] = ()
    missing: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NewEntry:
    """Shares or cash that the broker moved without an order of ours; `entry_id` is the broker's, and booked once."""

    entry_id: str
    kind: str
    symbol: str
    quantity: Decimal
    cash_usd: Decimal
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderChange:
    """What an order event did. `applied` is False when it said nothing new; then nothing was written."""

    recorded: RecordedOrder
    applied: bool
    fill: Fill | None = None
    cash_usd: Decimal | None = None
    position: Position | None = None
    halted: str | None = None  # the event cannot be true of an order we made; trading was halted in the same commit
    successor: RecordedOrder | None = None  # recorded in the same commit, in the place of an order that was replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The ledger at an instant, as committed. `cash_usd` is None until an account has been seen."""

    ledger_id: str
    live_start_ns: int
    cash_usd: Decimal | None
    positions: Mapping[str, Position]
    open_orders: tuple[RecordedOrder, ...]
    last_decision_bar_end_ns: int
    session_start_equity_usd: Decimal | None
    orders_recent_ns: tuple[int, ...]  # the bar times that decided them, for the order rate is counted by those
    state: TradingState = TradingState.TRADING
    state_reason: str = ""  # why it is that; empty until somebody has set it
    state_set_by: str = ""
    orders_session_count: int = 0  # orders decided in last_session_date
    peak_equity_usd: Decimal | None = None  # highest of any decision since trading was last resumed
    last_targets: str = "[]"  # of the latest decision that had any, as JSON
    last_targets_date: str = ""  # the session of that decision
    last_equity_usd: Decimal | None = None  # of the latest decision
    last_session_date: str = ""  # of the latest decision
    ended_orders: tuple[RecordedOrder, ...] = ()  # of the last days: a fill may be told of them late
    last_trades: tuple[tuple[str, str, int], ...] = ()  # (symbol, side, UTC ns) of each one's latest fill
    unsettled: tuple[tuple[str, Decimal], ...] = ()  # (session it settles on, US dollars) of proceeds that have yet to

    @property
    def halted_reason(self) -> str | None:
        """Why trading is halted; None when it is not."""
        return self.state_reason if self.state is TradingState.HALTED else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latch:
    """The trading state with who set it, when and why; a ledger that nobody has halted yet trades."""

    state: TradingState = TradingState.TRADING
    reason: str = ""
    set_by: str = ""
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that ledger and broker see differently: both sides, and what is done about it."""

    subject: str
    ours: str
    theirs: str
    resolution: Resolution

    def __str__(self) -> str:
        return f"{self.subject}: ledger {self.ours}, broker {self.theirs}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClose:
    """The account at the end of a session, in US dollars; from `opening_usd` on, sums since the ledger's opening.

    equity = cash + positions, and equity = opening + realised + (positions - cost) - fees + dividends + interest + transfers + other.
    `positions` are (symbol, quantity, average cost, mark); a mark of None: no price, valued at cost.
    """

    session_date: str
    equity_usd: Decimal
    cash_usd: Decimal
    unsettled_usd: Decimal  # the part of the cash that settles in a later session
    positions_usd: Decimal
    cost_usd: Decimal  # of the positions
    opening_usd: Decimal  # cash and positions at cost that the ledger began with
    realised_usd: Decimal  # before fees
    fees_usd: Decimal
    dividends_usd: Decimal
    interest_usd: Decimal
    transfers_usd: Decimal
    other_usd: Decimal  # rounding, and what the broker moved under a name that we do not class
    positions: tuple[tuple[str, Decimal, Decimal, Decimal | None], ...] = ()

    @property
    def unrealised_usd(self) -> Decimal:
        return self.positions_usd - self.cost_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationOutcome:
    """Whether ledger and broker agree, and what was found; a disagreement has halted trading in the same commit."""

    agreed: bool
    differences: tuple[Difference, ...]
    cash_usd: Decimal | None
    positions: Mapping[str, Position]


def compare(
    account: Account, *, cash_usd: Decimal, positions: Mapping[str, Position], tolerance_usd: Decimal
) -> tuple[Difference, ...]:
    """What the broker says otherwise and no rule resolves. Quantities must be equal; costs may differ."""
    found = []
    for symbol in sorted(set(account.positions) | set(positions)):
        ours, theirs = account.quantity(symbol), positions.get(symbol, FLAT).quantity
        if ours != theirs:
            found.append(Difference(symbol, to_text(ours), to_text(theirs), Resolution.HALTED))
    if abs(account.cash - cash_usd) > tolerance_usd:
        found.append(Difference("cash", to_text(account.cash), to_text(cash_usd), Resolution.HALTED))
    return tuple(found)


def fresh_ledger_id(run_id: str, now_ns: int) -> str:
    """A name for a ledger that begins with this run; every client order id is derived from it."""
    return hashlib.blake2s(f"{run_id}|{now_ns}".encode(), digest_size=6).hexdigest()


class Store:
    """The single writer. It keeps the open orders and the account in memory, moved only after a commit."""

    def __init__(self, database: Database, *, run_id: str, is_memory: bool) -> None:
        self._database, self._run_id, self._is_memory = database, run_id, is_memory
        self._broken = False
        self._data_version = 0
        self._open: dict[str, RecordedOrder] = {}
        self._account: Account | None = None
        self._fills_since_agreement = 0
        self._facts_ledger_id = ""
        self._live_start_ns = 0

    @classmethod
    def open(
        cls, place: Place, *, run_id: str, now_ns: int, live_start_ns: int, ledger_id: str | None = None
    ) -> "Store":
        """Open (or create) and migrate the ledger at `place`, None for memory, and enter this run in it.

        `ledger_id` and `live_start_ns` count only for a new ledger; an old one keeps its own.
        """
        database = open_database(place, name=run_id)
        try:
            take_writer_lock(database, name=run_id)
            migrate(database, now_ns=now_ns)
            store = cls(database, run_id=run_id, is_memory=place is None)
            store._enter(now_ns, live_start_ns, ledger_id or fresh_ledger_id(run_id, now_ns))
        except BaseException:
            database.close()
            raise
        return store

    @classmethod
    def before_run(cls, place: Place, run_id: str) -> "Store":
        """`as_of` on a ledger that is only read, so that a trader that is using it does not notice."""
        database = open_database(place, read_only=True)
        try:
            return cls(database, run_id=run_id, is_memory=False).as_of(run_id)
        finally:
            database.close()

    def _enter(self, now_ns: int, live_start_ns: int, ledger_id: str) -> None:
        self._data_version = self._read_version()
        with self._write():
            if not self._rows("SELECT 1 FROM run WHERE run_id = ?", self._run_id):
                self._insert("INSERT INTO run (run_id, started_ns) VALUES (?, ?)", self._run_id, now_ns)
            if not self._rows("SELECT 1 FROM meta"):
                self._insert(
                    "INSERT INTO meta (seq, run_id, ledger_id, created_ns, live_start_ns) VALUES (1, ?, ?, ?, ?)",
                    self._run_id, ledger_id, now_ns, live_start_ns,
                )  # fmt: skip
        self.load()

    @property
    def ledger_id(self) -> str:
        return self._facts_ledger_id

    @property
    def database(self) -> Database:
        return self._database

    def close(self) -> None:
        """Close the file. A ledger in memory lives as long as its object, so that a restarted actor finds it again."""
        if not self._is_memory and not self._database.is_closed():
            self._database.close()

    def load(self) -> None:
        """Read the state from the rows; also what makes a store that failed work again."""
        try:
            self._data_version = self._read_version()
            self._open = {r.order.client_order_id: r for r in self._load_orders(f"e.status NOT IN ({_FINAL})")}
            self._account = self._load_account()
            ((self._facts_ledger_id, self._live_start_ns),) = self._rows("SELECT ledger_id, live_start_ns FROM meta")
            ((self._fills_since_agreement,),) = self._rows(
                "SELECT count(*) FROM fill WHERE at_ns > "
                "(SELECT coalesce(max(at_ns), 0) FROM reconciliation WHERE agreed = 1)"
            )
        except DRIVER_ERRORS as error:
            raise LedgerError(f"the ledger cannot be read: {first_line(error)}") from error
        self._broken = False

    # --- decisions ---

    def record_decision(self, decision: NewDecision, *, now_ns: int) -> tuple[RecordedOrder, ...]:
        """Commit a decision with its orders and refusals, in one transaction, and return the orders.

        The same decision again returns its orders as they stand now and writes nothing; a second decision for a bar that
        has one raises LedgerError.
        """
        with self._write():
            known = self._rows(
                "SELECT decision_id FROM decision WHERE decision_id = ? OR bar_end_ns = ?",
                decision.decision_id, decision.bar_end_ns,
            )  # fmt: skip
            if not known:
                recorded = self._insert_decision(decision, now_ns)
        if known:
            if any(decision_id != decision.decision_id for (decision_id,) in known):
                raise LedgerError(f"bar {decision.bar_end_ns} was decided as {known[0][0]}, not {decision.decision_id}")
            return tuple(self._load_orders("o.decision_id = ?", decision.decision_id))
        self._open |= {r.order.client_order_id: r for r in recorded}
        return recorded

    def _insert_decision(self, decision: NewDecision, now_ns: int) -> tuple[RecordedOrder, ...]:
        self._insert(
            "INSERT INTO decision (run_id, at_ns, decision_id, bar_end_ns, session_date, equity_usd, cash_usd, strategy, "
            "targets, missing) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._run_id, now_ns, decision.decision_id, decision.bar_end_ns, decision.session_date,
            to_text(decision.equity_usd), to_text(decision.cash_usd), decision.strategy, decision.targets,
            json.dumps(list(decision.missing)),
        )  # fmt: skip
        self._insert(
            "INSERT INTO session_equity (run_id, at_ns, session_date, phase, equity_usd, cash_usd) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            self._run_id, now_ns, decision.session_date, "close", to_text(decision.equity_usd), to_text(decision.cash_usd),
        )  # fmt: skip
        recorded = []
        for intent in decision.approved:
            order = orders.order_of(_exact_intent(intent), decision.decision_id)
            recorded.append(RecordedOrder(order=order, bar_end_ns=decision.bar_end_ns))
            self._insert_order(recorded[-1], "", now_ns)
        for refusal in decision.refused:
            intent = refusal.intent
            self._insert(
                "INSERT INTO refusal (run_id, at_ns, decision_id, client_order_id, symbol, side, quantity, "
                "reference_price_usd, code, reason, limit_value, actual_value) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._run_id, now_ns, decision.decision_id, intent.client_order_id, intent.symbol, intent.side,
                to_text(intent.quantity), to_text(intent.reference_price_usd), refusal.code, refusal.reason,
                _text_or_none(refusal.limit), _text_or_none(refusal.value),
            )  # fmt: skip
        return tuple(recorded)

    # --- order events ---

    def _insert_order(self, recorded: RecordedOrder, detail: str, now_ns: int) -> None:
        order = recorded.order
        self._insert(
            "INSERT INTO orders (run_id, at_ns, client_order_id, decision_id, bar_end_ns, symbol, side, quantity, "
            "order_type, time_in_force, limit_price_usd, reference_price_usd) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._run_id, now_ns, order.client_order_id, order.decision_id, recorded.bar_end_ns, order.symbol,
            order.side, to_text(order.quantity), order.order_type, order.time_in_force,
            _text_or_none(order.limit_price_usd), to_text(order.reference_price_usd),
        )  # fmt: skip
        self._insert_event(order, OrderStatus.RECORDED.value, detail, now_ns)

    def record_order_event(
        self, client_order_id: str, event: OrderEvent, *, now_ns: int,
        broker_order_id: str | None = None, detail: str = "", fill: Fill | None = None, successor: Order | None = None,
        settles_on: str = "", found_by: str = "", reversed_execution_id: str = "",
    ) -> OrderChange:  # fmt: skip
        """Move an order by `algo_royale.orders.apply` and book its fill, in one commit.

        An event that changes nothing is entered once, with what was odd about it; the same again (a fill told twice, an old
        status) writes nothing. `successor`: the order that goes on in the place of one that was replaced; it belongs to the
        same decision and is recorded in the same commit. `settles_on`: the session (ISO date) from which proceeds may be
        spent; empty: at once. `found_by`: the comparison with the broker that brought this to light; then both sides are
        kept as a difference that was taken over. `reversed_execution_id`: of a bust or correction, the execution that it
        takes back; its cash and shares are taken back by entries of their own, and `fill`, if given, is booked in its place.
        Raises LedgerError for an order that is not in this ledger, or that the broker now knows under another id.
        """
        if fill is not None:
            fill = _exact_fill(fill)
        with self._write():
            before = self._open.get(client_order_id) or self._load_order(client_order_id)
            self._check_event(before.order, broker_order_id, fill)
            reversal = self._load_fill(reversed_execution_id, before.order) if reversed_execution_id else None
            change = orders.apply(
                before.order, event, fill=fill, reversal=reversal, broker_order_id=broker_order_id
            )  # fmt: skip
            note = "; ".join(text for text in (detail, change.anomaly) if text)
            if change.fill is None and change.order == before.order:
                if not change.repeated:
                    self._insert_note(before.order, event, note, now_ns)
                return OrderChange(recorded=before, applied=False)
            after, heir = RecordedOrder(order=change.order, bar_end_ns=before.bar_end_ns), None
            if successor is not None:
                heir = _heir(before, successor)
                note = f"goes on as {successor.client_order_id}"
                self._insert_order(heir, f"in the place of {client_order_id}", now_ns)
            self._insert_event(change.order, event.value, note, now_ns)
            if found_by:
                found = Difference(
                    f"order {client_order_id}", _stand(before.order), _stand(change.order), Resolution.TOOK_OVER
                )
                self._insert_difference(found_by, found, now_ns)
            account = self._book_change(change, event, settles_on, now_ns)
            halted = None
            if change.order.filled_quantity > change.order.quantity:
                halted = f"{client_order_id}: {change.anomaly}"
                self._tighten(TradingState.HALTED, halted, "ledger", now_ns)
        self._account = account
        self._fills_since_agreement += (change.fill is not None) + (change.reversal is not None)
        if change.order.final:
            self._open.pop(client_order_id, None)
        else:
            self._open[client_order_id] = after
        if heir is not None:
            self._open[heir.order.client_order_id] = heir
        held = None
        if account is not None and (change.fill is not None or change.reversal is not None):
            held = account.positions.get(change.order.symbol, FLAT)
        return OrderChange(
            recorded=after, applied=True, fill=change.fill, cash_usd=account.cash if account else None, position=held,
            halted=halted, successor=heir,
        )  # fmt: skip

    def _insert_note(self, order: Order, event: OrderEvent, note: str, now_ns: int) -> None:
        """Enter a word that changed nothing, unless just that is entered already."""
        known = self._rows(
            "SELECT 1 FROM order_event WHERE client_order_id = ? AND event = ? AND status = ? AND detail = ? LIMIT 1",
            order.client_order_id, event.value, order.status.value, note,
        )  # fmt: skip
        if not known:
            self._insert_event(order, event.value, note, now_ns)

    def _check_event(self, order: Order, broker_order_id: str | None, fill: Fill | None) -> None:
        if None not in (broker_order_id, order.broker_order_id) and broker_order_id != order.broker_order_id:
            raise LedgerError(
                f"{order.client_order_id} is {order.broker_order_id} at the broker; an event names {broker_order_id}"
            )
        if fill is None:
            return
        if (fill.client_order_id, fill.symbol, fill.side) != (order.client_order_id, order.symbol, order.side):
            raise LedgerError(f"fill {fill.execution_id} is not of order {order.client_order_id}: {fill}")
        known = self._rows(
            "SELECT client_order_id, cumulative_quantity FROM fill WHERE execution_id = ?", fill.execution_id
        )
        if known and known[0] != (fill.client_order_id, to_text(fill.cumulative_quantity)):
            raise LedgerError(f"execution {fill.execution_id} is booked as {known[0]} and told as {fill.identity}")

    def _load_fill(self, execution_id: str, order: Order) -> Fill | None:
        """A booked fill of `order`, or None."""
        rows = self._rows(
            "SELECT client_order_id, broker_order_id, symbol, side, quantity, cumulative_quantity, price_usd, fees_usd, "
            "filled_ns FROM fill WHERE execution_id = ?", execution_id,
        )  # fmt: skip
        if not rows:
            return None
        client_order_id, broker_order_id, symbol, side, *numbers, at_ns = rows[0]
        if client_order_id != order.client_order_id:
            raise LedgerError(f"execution {execution_id} is of {client_order_id}, not of {order.client_order_id}")
        quantity, cumulative, price, fees = map(Decimal, numbers)
        return Fill(
            execution_id=execution_id, client_order_id=client_order_id, broker_order_id=broker_order_id, symbol=symbol,
            side=side, quantity=quantity, cumulative_quantity=cumulative, price_usd=price, fees_usd=fees, at_ns=at_ns,
        )  # fmt: skip

    def _book_change(
        self, change: orders.Change, event: OrderEvent, settles_on: str, now_ns: int
    ) -> Account | None:  # fmt: skip
        """The account after what an event took back and what it filled."""
        account, taken, fill = self._account, change.reversal, change.fill
        if account is None and (taken or fill):
            raise LedgerError(
                f"{event.value} of {change.order.client_order_id} came before the account's cash was known"
            )
        if account is not None and taken is not None:
            account = self._take_back(account, taken, event, now_ns)
        if account is not None and fill is not None:
            account = self._book(account, fill, settles_on, now_ns)
        if taken is not None:
            self._insert(
                "INSERT INTO reversal (run_id, at_ns, execution_id, event, corrected_execution_id) VALUES (?, ?, ?, ?, ?)",
                self._run_id, now_ns, taken.execution_id, event.value, fill.execution_id if fill else None,
            )  # fmt: skip
        return account

    def _take_back(self, before: Account, fill: Fill, event: OrderEvent, now_ns: int) -> Account:
        """Reverse a booked fill by entries of its own: the account as if it had never been, from today on."""
        moves, realised = self._moves(fill.symbol, without=fill.execution_id)
        after = _exact_account(before.take_back(fill, moves, realised_usd=realised))
        ((settles_on, amount),) = self._rows(
            "SELECT settles_on, amount_usd FROM cash_entry WHERE kind = 'fill' AND reference = ?", fill.execution_id
        )
        if settles_on:  # what was to settle then is not to come any more
            part = (date.fromisoformat(settles_on).toordinal(), -Decimal(amount))
            after = replace(after, unsettled=(*after.unsettled, part)).settle(new_york_date(now_ns).toordinal())
        reference = f"{event.value} of {fill.execution_id}"
        self._insert_cash(event.value, reference, after.cash - before.cash, after.cash, now_ns, settles_on=settles_on)
        self._insert_position(
            event.value, reference, fill.symbol, after.quantity(fill.symbol) - before.quantity(fill.symbol),
            fill.price_usd, after.positions.get(fill.symbol, FLAT), after.realised_pnl - before.realised_pnl, now_ns,
        )  # fmt: skip
        return after

    def _moves(self, symbol: str, *, without: str) -> tuple[list[Move], Decimal]:
        """What moved a symbol's position but for the executions taken back and this one; and the profit realised in it."""
        gone = {without, *(execution_id for (execution_id,) in self._rows("SELECT execution_id FROM reversal"))}
        moves, realised = [], Decimal(0)
        for kind, reference, change, price, gained in self._rows(
            "SELECT kind, reference, quantity_change, price_usd, realised_usd FROM position_entry WHERE symbol = ? "
            "ORDER BY seq", symbol,
        ):  # fmt: skip
            realised += Decimal(gained)
            move = move_of(kind, Decimal(change), Decimal(price))
            if move is not None and not (kind == "fill" and reference in gone):
                moves.append(move)
        return moves, realised

    def _book(self, before: Account, fill: Fill, settles_on: str, now_ns: int) -> Account:
        self._insert(
            "INSERT INTO fill (run_id, at_ns, execution_id, client_order_id, broker_order_id, symbol, side, quantity, "
            "cumulative_quantity, price_usd, fees_usd, filled_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._run_id, now_ns, fill.execution_id, fill.client_order_id, fill.broker_order_id, fill.symbol, fill.side,
            to_text(fill.quantity), to_text(fill.cumulative_quantity), to_text(fill.price_usd), to_text(fill.fees_usd),
            fill.at_ns,
        )  # fmt: skip
        settles_at = date.fromisoformat(settles_on).toordinal() if settles_on else None
        today = new_york_date(now_ns).toordinal()
        after = _exact_account(before.settle(today).apply_fill(fill, settles_at=settles_at))
        change = after.cash - before.cash
        self._insert_cash(
            "fill", fill.execution_id, change, after.cash, now_ns, settles_on=settles_on if change > 0 else ""
        )
        self._insert_position(
            "fill", fill.execution_id, fill.symbol, after.quantity(fill.symbol) - before.quantity(fill.symbol),
            fill.price_usd, after.positions.get(fill.symbol, FLAT), after.realised_pnl - before.realised_pnl, now_ns,
        )  # fmt: skip
        return after

    # --- sessions ---

    def record_session_close(
        self, session_date: str, prices: Mapping[str, Decimal], *, now_ns: int
    ) -> SessionClose | None:  # fmt: skip
        """Commit what the account is worth at the end of a session, at these prices, each session once.

        Told again it returns what was committed. A ledger that knows no account yet has nothing to say: None.
        """
        with self._write():
            known = self.session_close(session_date)
            if known is not None or self._account is None:
                return known
            before = self._rows("SELECT max(seq) FROM session_close")[0][0]
            close, cash_seq, position_seq = self._close_of(session_date, self._account, prices, before)
            columns = [*(f"{name}_usd" for name in SESSION_SUMS)]
            self._insert(
                f"INSERT INTO session_close (run_id, at_ns, session_date, {', '.join(columns)}, positions, cash_seq, "
                f"position_seq) VALUES ({', '.join('?' * (len(columns) + 6))})",
                self._run_id, now_ns, session_date, *(to_text(getattr(close, name)) for name in columns),
                json.dumps([[s, to_text(q), to_text(c), _text_or_none(p)] for s, q, c, p in close.positions]),
                cash_seq, position_seq,
            )  # fmt: skip
        return close

    def record_session_job(
        self, session_date: str, phase: str, job: str, *, ok: bool, detail: str, now_ns: int
    ) -> None:  # fmt: skip
        """Commit how a job of a session ended; lost with the power, it is only done again."""
        with self._write(synced=False):
            self._insert(
                "INSERT INTO session_job (run_id, at_ns, session_date, phase, job, ok, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
                self._run_id, now_ns, session_date, phase, job, int(ok), detail,
            )  # fmt: skip

    def session_jobs(self, since: str) -> tuple[tuple[str, str, str, bool], ...]:
        """(session, phase, job, ended well) of the sessions since that date, in the order in which they were recorded."""
        rows = self._rows(
            "SELECT session_date, phase, job, ok FROM session_job WHERE session_date >= ? ORDER BY seq", since
        )
        return tuple((day, phase, job, bool(ok)) for day, phase, job, ok in rows)

    def session_close(self, session_date: str) -> SessionClose | None:
        """What was committed at the end of that session."""
        columns = [f"{name}_usd" for name in SESSION_SUMS]
        rows = self._rows(
            f"SELECT positions, {', '.join(columns)} FROM session_close WHERE session_date = ?", session_date
        )
        if not rows:
            return None
        positions, *sums = rows[0]
        return SessionClose(
            session_date=session_date, positions=closed_positions(positions),
            **dict(zip(columns, map(Decimal, sums), strict=True)),
        )  # fmt: skip

    def _close_of(
        self, session_date: str, account: Account, prices: Mapping[str, Decimal], before: int | None
    ) -> tuple[SessionClose, int, int]:  # fmt: skip
        """The account at `prices`, with the sums of the close before (row `before`) carried on over the entries since."""
        sums = dict.fromkeys((*Flow, "opening", "realised"), Decimal(0))
        cash_seq = position_seq = 0
        if before is not None:
            (row,) = self._rows(
                "SELECT fees_usd, dividends_usd, interest_usd, transfers_usd, other_usd, opening_usd, realised_usd, "
                "cash_seq, position_seq FROM session_close WHERE seq = ?", before,
            )  # fmt: skip
            *known, cash_seq, position_seq = row
            sums = dict(zip(sums, map(Decimal, known), strict=True))
        for seq, kind, reference, amount in self._rows(
            "SELECT seq, kind, reference, amount_usd FROM cash_entry WHERE seq > ? ORDER BY seq", cash_seq
        ):
            cash_seq = seq
            if kind == "fill" or kind in orders.REVERSALS:
                execution_id = reference.removeprefix(f"{kind} of ")
                ((fees,),) = self._rows("SELECT fees_usd FROM fill WHERE execution_id = ?", execution_id)
                sums[Flow.FEE] += Decimal(fees) if kind == "fill" else -Decimal(fees)
            elif kind == "opening":
                sums["opening"] += Decimal(amount)
            else:
                flow = flow_of(kind)
                sums[flow] += -Decimal(amount) if flow is Flow.FEE else Decimal(amount)
        for seq, kind, change, price, realised in self._rows(
            "SELECT seq, kind, quantity_change, price_usd, realised_usd FROM position_entry WHERE seq > ? ORDER BY seq",
            position_seq,
        ):
            position_seq = seq
            sums["realised"] += Decimal(realised)
            if kind == "opening":
                sums["opening"] += Decimal(change) * Decimal(price)
            elif kind == ACCEPTED:
                sums[Flow.OTHER] += Decimal(change) * Decimal(price)
        held = tuple((s, p.quantity, p.average_cost_usd, prices.get(s)) for s, p in sorted(account.positions.items()))
        cost = sum((q * average for _, q, average, _ in held), Decimal(0))
        worth = sum((q * (average if price is None else price) for _, q, average, price in held), Decimal(0))
        today = date.fromisoformat(session_date).toordinal()
        close = SessionClose(
            session_date=session_date, equity_usd=account.cash + worth, cash_usd=account.cash,
            unsettled_usd=account.settle(today).unsettled_cash, positions_usd=worth, cost_usd=cost,
            opening_usd=sums["opening"], realised_usd=sums["realised"], fees_usd=sums[Flow.FEE],
            dividends_usd=sums[Flow.DIVIDEND], interest_usd=sums[Flow.INTEREST], transfers_usd=sums[Flow.TRANSFER],
            other_usd=sums[Flow.OTHER], positions=held,
        )  # fmt: skip
        return _exact_close(close), cash_seq, position_seq

    # --- reconciliation, halts ---

    def reconcile(
        self, *, cause_of: str, checked: int, cash_usd: Decimal, equity_usd: Decimal,
        positions: Mapping[str, Position], now_ns: int, entries: Sequence[NewEntry] = (), is_final: bool = True,
        accepted: str = "", unlisted: Mapping[str, tuple[Decimal, Sequence[str]]] = MappingProxyType({}),
    ) -> ReconciliationOutcome:  # fmt: skip
        """Compare with the broker's cash and positions and commit both sides with the verdict, and each difference with what
        was done about it.

        `entries` (splits, dividends, fees, deposits) since the ledger's opening are booked first, each once. A ledger that knows no account yet adopts the broker's as opening entries. Cash may differ by a cent, and
        half a cent for every fill since the last agreement (the broker rounds cash to cents): such a difference is booked
        as an entry of its own. Any other difference halts trading, in the same commit, and changes nothing else; where it is
        not yet `is_final`, or a person has given their word for it (`broker_accepted`), nothing is changed at all.

        `unlisted`: orders of which the broker shows less filled than we have, how much, and the executions that it still lists; the
        others are named in the halt's reason. `accepted`: the words of the person who takes the broker's side: then what still
        differs is booked as entries of that name, each kept as a difference with both sides.
        """
        cash_usd, equity_usd = exact(cash_usd), exact(equity_usd)
        positions = {symbol: _exact_position(held) for symbol, held in positions.items() if held.quantity}
        before = self._account

        def apart(account: Account | None) -> tuple[Difference, ...]:
            if account is None:
                return ()
            return compare(account, cash_usd=cash_usd, positions=positions, tolerance_usd=self.cash_tolerance_usd)

        differences = apart(before)
        is_news = before is None or before.cash != cash_usd or bool(entries) or bool(differences)
        with self._write(synced=is_news):  # a comparison that found all as it was is only made again
            if before is not None and entries:
                before = self._book_entries(before, entries, cause_of, now_ns)
                differences = apart(before)
            self._insert(
                "INSERT INTO reconciliation (run_id, at_ns, cause_of, checked, agreed, differences, ledger_cash_usd, "
                "broker_cash_usd, broker_equity_usd, ledger_positions, broker_positions) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._run_id, now_ns, cause_of, checked, int(not differences or bool(accepted)), json.dumps([str(found) for found in differences]),
                None if before is None else to_text(before.cash), to_text(cash_usd), to_text(equity_usd),
                _positions_json({} if before is None else before.positions), _positions_json(positions),
            )  # fmt: skip
            account = before
            if differences and accepted and before is not None:
                account, differences = self._adopt(before, cash_usd, positions, differences, accepted, now_ns), ()
            elif differences and (not is_final or self.broker_accepted()):
                pass
            elif differences:
                for found in differences:
                    self._insert_difference(cause_of, found, now_ns)
                reason = self._disagreement(differences, unlisted)
                self._tighten(TradingState.HALTED, reason, "ledger", now_ns)
            elif before is None:
                account = self._open_account(cash_usd, positions, now_ns)
                theirs = f"cash {to_text(cash_usd)}, positions {_positions_json(positions)}"
                adopted = Difference("account", "unknown", theirs, Resolution.ADOPTED)
                self._insert_difference(cause_of, adopted, now_ns)
            elif before.cash != cash_usd:
                rounded = Difference("cash", to_text(before.cash), to_text(cash_usd), Resolution.ROUNDED)
                self._insert_difference(cause_of, rounded, now_ns)
                self._insert_cash("rounding", cause_of, cash_usd - before.cash, cash_usd, now_ns)
                account = replace(before, cash=cash_usd)
        self._account = account
        if not differences:
            self._fills_since_agreement = 0
        return ReconciliationOutcome(
            agreed=not differences, differences=differences, cash_usd=account.cash if account else None,
            positions=account.positions if account else {},
        )  # fmt: skip

    def _disagreement(
        self, differences: Sequence[Difference], unlisted: Mapping[str, tuple[Decimal, Sequence[str]]]
    ) -> str:
        """Why trading halts, and what a person does about it."""
        gone = [
            f"execution {fill.execution_id} of order {name} ({fill.side} {to_text(fill.quantity)} {fill.symbol} at "
            f"{to_text(fill.price_usd)}) is booked here and not listed there any more"
            for name, (filled, listed) in sorted(unlisted.items())
            for fill in self.unlisted_fills(name, filled, listed)
        ]
        found = "; ".join([*map(str, differences), *gone])
        return (
            f"ledger and broker disagree: {found}. Compare with the broker's own page; where the broker is right, "
            "`algo-royale resume --accept-broker --reason ...` lets the next start book it"
        )

    def unlisted_fills(self, client_order_id: str, filled: Decimal, listed: Sequence[str]) -> list[Fill]:
        """The booked executions of an order that are not among these, if they are just what it has filled beyond `filled`."""
        order = self._load_order(client_order_id).order
        rows = self._rows("SELECT execution_id FROM fill WHERE client_order_id = ? ORDER BY seq", client_order_id)
        gone = [name for (name,) in rows if name not in listed and name not in order.reversed]
        fills = [fill for fill in (self._load_fill(name, order) for name in gone) if fill is not None]
        return fills if sum(fill.quantity for fill in fills) == order.filled_quantity - filled else []

    def broker_accepted(self) -> str:
        """The word of the person who resumed trading and takes the broker's side in what differs; empty where nobody does.
        It counts for one comparison: the first that ends in agreement after it."""
        latched = latch(self._database)
        if not is_accepting(latched.state, latched.reason):
            return ""
        used = self._rows(
            "SELECT 1 FROM reconciliation c JOIN run r ON r.run_id = c.run_id WHERE c.agreed = 1 AND r.seq > (SELECT n.seq "
            "FROM trading_state t JOIN run n ON n.run_id = t.run_id ORDER BY t.seq DESC LIMIT 1) LIMIT 1"
        )
        return "" if used else f"{latched.reason} ({latched.set_by})"

    def _adopt(
        self, account: Account, cash_usd: Decimal, positions: Mapping[str, Position], differences: Sequence[Difference],
        words: str, now_ns: int,
    ) -> Account:  # fmt: skip
        """Book what differs as entries of their own, on a person's word: shares that are gone at what they cost us, without profit or
        loss; shares that are new at what the broker says they cost; cash as it is."""
        for found in differences:
            self._insert_difference(words, replace(found, resolution=Resolution.ADOPTED), now_ns)
            reference = f"{self._run_id} {now_ns} {found.subject}"
            if found.subject == "cash":
                self._insert_cash(ACCEPTED, reference, cash_usd - account.cash, cash_usd, now_ns)
                account = replace(account, cash=cash_usd)
                continue
            symbol = found.subject
            held, theirs = account.positions.get(symbol, FLAT), positions.get(symbol, FLAT)
            steps = [theirs.quantity - held.quantity]
            if held.quantity * theirs.quantity < 0:  # through zero: what was held goes first
                steps = [-held.quantity, theirs.quantity]
            for number, change in enumerate(steps):
                grows = not held.quantity or (held.quantity > 0) == (change > 0)
                price = theirs.average_cost_usd if grows else held.average_cost_usd
                before = [Move(held.quantity, held.average_cost_usd)] if held.quantity else []
                held, realised = fold([*before, Move(change, price)])
                held = _exact_position(held)
                self._insert_position(ACCEPTED, f"{reference} {number}", symbol, change, price, held, realised, now_ns)
            kept = {s: p for s, p in {**account.positions, symbol: held}.items() if p.quantity}
            account = replace(account, positions=dict(sorted(kept.items())))
        return account

    @property
    def cash_tolerance_usd(self) -> Decimal:
        """How far our cash and the broker's may be apart by rounding alone."""
        return CASH_TOLERANCE_USD + CASH_TOLERANCE_PER_FILL_USD * self._fills_since_agreement

    def _open_account(self, cash_usd: Decimal, positions: Mapping[str, Position], now_ns: int) -> Account:
        self._insert_cash("opening", "account", cash_usd, cash_usd, now_ns)
        for symbol, held in sorted(positions.items()):
            self._insert_position(
                "opening", "account", symbol, held.quantity, held.average_cost_usd, held, Decimal(0), now_ns
            )
        return Account(cash=cash_usd, positions=dict(sorted(positions.items())))

    def _book_entries(
        self, account: Account, entries: Sequence[NewEntry], cause_of: str, now_ns: int
    ) -> Account:  # fmt: skip
        """Book what is new. What happened before the opening is part of the opening's figures.

        A split may be told as all old shares going and the new ones coming: what comes in a day is booked before what goes, or
        nothing would be left in between that the cost is of.
        """
        opened = self._rows("SELECT at_ns FROM cash_entry WHERE kind = 'opening'")
        before = account

        def goes_last(entry: NewEntry) -> tuple[date, bool]:
            return new_york_date(entry.at_ns), before.quantity(entry.symbol) * entry.quantity < 0

        for entry in sorted(entries, key=goes_last):
            if entry.at_ns <= opened[0][0] or self._rows(
                "SELECT 1 FROM cash_entry WHERE reference = ? UNION SELECT 1 FROM position_entry WHERE reference = ?",
                entry.entry_id, entry.entry_id,
            ):  # fmt: skip
                continue
            theirs = f"{entry.kind} {entry.entry_id}: cash {to_text(entry.cash_usd)}, shares {to_text(entry.quantity)}"
            booked = Difference(entry.symbol or "cash", "not booked", theirs, Resolution.BOOKED)
            self._insert_difference(cause_of, booked, now_ns)
            if entry.cash_usd:
                account = replace(account, cash=exact(account.cash + entry.cash_usd))
                self._insert_cash(entry.kind, entry.entry_id, entry.cash_usd, account.cash, now_ns)
            if entry.quantity and entry.symbol:
                held, realised = moved(account.positions.get(entry.symbol, FLAT), entry.quantity)
                held, realised = _exact_position(held), exact(realised)
                positions = {s: p for s, p in {**account.positions, entry.symbol: held}.items() if p.quantity}
                account = replace(
                    account, positions=dict(sorted(positions.items())), realised_pnl=account.realised_pnl + realised
                )
                self._insert_position(
                    entry.kind, entry.entry_id, entry.symbol, entry.quantity, Decimal(0), held, realised, now_ns
                )
        return account

    def set_state(self, state: TradingState, reason: str, *, by: str, now_ns: int) -> Latch:
        """Commit that trading may do no more than `state`, and return the latch as it stands then.

        It only tightens: a state that allows more than the present one is not taken, and the same again with the same
        reason writes nothing. TRADING is given back by `resume` alone.
        """
        if state is TradingState.TRADING:
            raise ValueError("only resume() gives trading back")
        with self._write():
            self._tighten(state, reason, by, now_ns)
        return latch(self._database)

    def resume(self, reason: str, *, by: str, now_ns: int, to: TradingState = TradingState.TRADING) -> None:
        """Commit that the person `by` has looked and lets trading go on, or `to` reduce."""
        with self._write():
            self._insert_state(to, reason, by, now_ns)

    def move(
        self, event: StateEvent, reason: str, *, by: str, now_ns: int, accepts_broker: bool = False
    ) -> TradingState:  # fmt: skip
        """Commit what trading may do after `event`, by the one table for it, and return that. `accepts_broker`: who resumes takes the
        broker's word for what differs (`broker_accepted`)."""
        reason, before = committed_reason(event, reason, accepts_broker=accepts_broker), self.latch.state
        after = STATE_TRANSITIONS[before][event]
        if after.severity < before.severity:
            self.resume(reason, by=by, now_ns=now_ns, to=after)
        elif after is not TradingState.TRADING:
            self.set_state(after, reason, by=by, now_ns=now_ns)
        return after

    @property
    def latch(self) -> Latch:
        """The trading state as last committed."""
        return latch(self._database)

    def _tighten(self, state: TradingState, reason: str, by: str, now_ns: int) -> None:
        before = latch(self._database)
        if before.state.severity > state.severity or (before.state, before.reason) == (state, reason):
            return
        self._insert_state(state, reason, by, now_ns)

    # --- reading ---

    def facts(self, *, now_ns: int) -> Facts:
        """Everything an actor that has just started needs to know."""
        try:
            ((last_bar_end_ns,),) = self._rows("SELECT coalesce(max(bar_end_ns), 0) FROM decision")
            recent = self._rows("SELECT bar_end_ns FROM orders WHERE at_ns > ? ORDER BY seq", now_ns - RECENT_NS)
            latest = self._rows("SELECT equity_usd, session_date FROM decision ORDER BY bar_end_ns DESC LIMIT 1")
            targets = self._rows(
                "SELECT targets, session_date FROM decision WHERE targets != '[]' ORDER BY bar_end_ns DESC LIMIT 1"
            )
            start_equity, peak_equity = self._bases()
            session_orders = self._rows(
                "SELECT count(*) FROM orders o JOIN decision d ON d.decision_id = o.decision_id "
                "WHERE d.session_date = ?", latest[0][1] if latest else "",
            )  # fmt: skip
            latched = latch(self._database)
        except DRIVER_ERRORS as error:
            raise LedgerError(f"the ledger cannot be read: {first_line(error)}") from error
        account = self._account
        return Facts(
            ledger_id=self._facts_ledger_id,
            live_start_ns=self._live_start_ns,
            cash_usd=account.cash if account else None,
            positions=account.positions if account else {},
            open_orders=tuple(self._open.values()),
            last_decision_bar_end_ns=last_bar_end_ns,
            session_start_equity_usd=start_equity,
            orders_recent_ns=tuple(bar_end_ns for (bar_end_ns,) in recent),
            state=latched.state,
            state_reason=latched.reason,
            state_set_by=latched.set_by,
            orders_session_count=session_orders[0][0],
            peak_equity_usd=peak_equity,
            last_targets=targets[0][0] if targets else "[]",
            last_targets_date=targets[0][1] if targets else "",
            last_equity_usd=Decimal(latest[0][0]) if latest else None,
            last_session_date=latest[0][1] if latest else "",
            last_trades=tuple(
                self._rows("SELECT symbol, side, max(filled_ns) FROM fill GROUP BY symbol, side ORDER BY symbol, side")
            ),
            ended_orders=tuple(self._load_orders(f"e.status IN ({_FINAL}) AND o.at_ns > ?", now_ns - ENDED_NS)),
            unsettled=_unsettled(account, new_york_date(now_ns)) if account else (),
        )

    def _bases(self) -> tuple[Decimal | None, Decimal | None]:
        """What losses are counted from: the equity when the session began, and the highest since. A person who resumes
        trading accepts the losses so far: both then begin with the equity of the decision before."""
        ((resumed_ns,),) = self._rows("SELECT coalesce(max(at_ns), 0) FROM trading_state WHERE state = 'trading'")
        accepted = self._rows(
            "SELECT equity_usd, session_date FROM decision WHERE at_ns <= ? ORDER BY bar_end_ns DESC LIMIT 1",
            resumed_ns,
        )
        started = self._rows(
            "SELECT equity_usd FROM decision WHERE session_date < (SELECT max(session_date) FROM decision) "
            "ORDER BY bar_end_ns DESC LIMIT 1"
        ) or self._rows(
            "SELECT equity_usd FROM session_equity WHERE session_date = "
            "(SELECT max(session_date) FROM session_equity) ORDER BY seq LIMIT 1"
        )
        if accepted and self._rows("SELECT max(session_date) FROM decision") == [(accepted[0][1],)]:
            started = [accepted[0][:1]]
        # The highest amount has the highest number, and few others have the same one.
        number = "CAST(equity_usd AS DOUBLE PRECISION)"
        since = self._rows(
            f"SELECT equity_usd FROM decision WHERE at_ns > ? AND {number} = "
            f"(SELECT max({number}) FROM decision WHERE at_ns > ?)", resumed_ns, resumed_ns,
        )  # fmt: skip
        highest = max((Decimal(row[0]) for row in (*accepted, *since)), default=None)
        return Decimal(started[0][0]) if started else None, highest

    @property
    def account(self) -> Account | None:
        return self._account

    def as_of(self, run_id: str) -> "Store":
        """A copy in memory of what stood here before `run_id` began, on which that run can be replayed.

        The ledger's name and live start are kept even when that run created them. Raises BadInput for an unknown run.
        """
        begun = self._rows("SELECT seq, started_ns FROM run WHERE run_id = ?", run_id)
        if not begun:
            known = [name for (name,) in self._rows("SELECT run_id FROM run ORDER BY seq DESC LIMIT 5")]
            raise BadInput(f"the ledger has no run {run_id!r}; its last runs: {', '.join(known)}")
        ((run_seq, started_ns),) = begun
        ((ledger_id, live_start_ns),) = self._rows("SELECT ledger_id, live_start_ns FROM meta")
        copy = open_database(None)
        migrate(copy, now_ns=started_ns)
        before = "SELECT run_id FROM run WHERE seq < ?"
        with transaction(copy):
            for table in TABLES:
                rows = self._rows(f"SELECT * FROM {table} WHERE run_id IN ({before}) ORDER BY seq", run_seq)
                for row in rows:
                    execute(copy, f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        store = Store(copy, run_id=run_id, is_memory=True)
        store._enter(started_ns, live_start_ns, ledger_id)
        return store

    # --- rows ---

    def _load_order(self, client_order_id: str) -> RecordedOrder:
        found = self._load_orders("o.client_order_id = ?", client_order_id)
        if not found:
            raise LedgerError(f"order {client_order_id} is not in this ledger")
        return found[0]

    def _load_orders(self, where: str, *parameters: object) -> list[RecordedOrder]:
        rows = self._rows(
            "SELECT o.client_order_id, o.decision_id, o.bar_end_ns, o.symbol, o.side, o.quantity, o.order_type, "
            "o.time_in_force, o.limit_price_usd, o.reference_price_usd, e.broker_order_id, e.status, e.filled_quantity "
            "FROM orders o JOIN order_event e ON e.seq = "
            "(SELECT max(seq) FROM order_event WHERE client_order_id = o.client_order_id) "
            f"WHERE {where} ORDER BY o.seq",
            *parameters,
        )
        return [self._recorded_order(row) for row in rows]

    def _recorded_order(self, row: tuple[Any, ...]) -> RecordedOrder:
        booked = self._rows(
            "SELECT f.cumulative_quantity, f.quantity, f.execution_id, r.execution_id FROM fill f "
            "LEFT JOIN reversal r ON r.execution_id = f.execution_id WHERE f.client_order_id = ? ORDER BY f.seq", row[0],
        )  # fmt: skip
        order = Order(
            client_order_id=row[0], decision_id=row[1], symbol=row[3], side=row[4], quantity=Decimal(row[5]),
            order_type=row[6], time_in_force=row[7],
            limit_price_usd=None if row[8] is None else Decimal(row[8]), reference_price_usd=Decimal(row[9]),
            broker_order_id=row[10], status=OrderStatus(row[11]), filled_quantity=Decimal(row[12]),
            booked=tuple((Decimal(cumulative), Decimal(quantity)) for cumulative, quantity, _, gone in booked if not gone),
            reversed=tuple(execution_id for _, _, execution_id, gone in booked if gone),
        )  # fmt: skip
        return RecordedOrder(order=order, bar_end_ns=row[2])

    def _load_account(self) -> Account | None:
        cash = self._rows("SELECT balance_usd, at_ns FROM cash_entry ORDER BY seq DESC LIMIT 1")
        if not cash:
            return None
        # a day of margin, for the last entry may be of an evening that is the next day already somewhere
        settled_by = new_york_date(cash[0][1]) - timedelta(days=1)
        unsettled = self._rows(
            "SELECT settles_on, amount_usd FROM cash_entry WHERE settles_on > ? ORDER BY seq", settled_by.isoformat()
        )
        return Account(
            cash=Decimal(cash[0][0]), positions=positions_now(self._database),
            unsettled=tuple((date.fromisoformat(on).toordinal(), Decimal(amount)) for on, amount in unsettled),
        )  # fmt: skip

    def _insert_event(self, order: Order, event: str, detail: str, now_ns: int) -> None:
        self._insert(
            "INSERT INTO order_event (run_id, at_ns, client_order_id, event, broker_order_id, status, filled_quantity, "
            "detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            self._run_id, now_ns, order.client_order_id, event, order.broker_order_id, order.status.value,
            to_text(order.filled_quantity), detail,
        )  # fmt: skip

    def _insert_cash(
        self, kind: str, reference: str, amount: Decimal, balance: Decimal, now_ns: int, *, settles_on: str = ""
    ) -> None:
        self._insert(
            "INSERT INTO cash_entry (run_id, at_ns, kind, reference, amount_usd, balance_usd, settles_on) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            self._run_id, now_ns, kind, reference, to_text(amount), to_text(balance), settles_on,
        )  # fmt: skip

    def _insert_difference(self, cause_of: str, found: Difference, now_ns: int) -> None:
        self._insert(
            "INSERT INTO difference (run_id, at_ns, cause_of, subject, ours, theirs, resolution) VALUES (?, ?, ?, ?, ?, ?, ?)",
            self._run_id, now_ns, cause_of, found.subject, found.ours, found.theirs, found.resolution.value,
        )  # fmt: skip

    def _insert_position(
        self, kind: str, reference: str, symbol: str, change: Decimal, price: Decimal, after: Position,
        realised: Decimal, now_ns: int,
    ) -> None:  # fmt: skip
        self._insert(
            "INSERT INTO position_entry (run_id, at_ns, kind, reference, symbol, quantity_change, price_usd, quantity, "
            "average_cost_usd, realised_usd) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._run_id, now_ns, kind, reference, symbol, to_text(change), to_text(price), to_text(after.quantity),
            to_text(after.average_cost_usd), to_text(realised),
        )  # fmt: skip

    def _insert_state(self, state: TradingState, reason: str, by: str, now_ns: int) -> None:
        self._insert(
            "INSERT INTO trading_state (run_id, at_ns, state, reason, set_by) VALUES (?, ?, ?, ?, ?)",
            self._run_id, now_ns, state.value, reason, by,
        )  # fmt: skip

    def _insert(self, sql: str, *parameters: object) -> None:
        execute(self._database, sql, parameters)

    def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        return execute(self._database, sql, parameters)

    def _read_version(self) -> int:
        """Changes when another connection has committed; in PostgreSQL none can while we hold the writer's lock."""
        if isinstance(self._database, peewee.PostgresqlDatabase):
            return 0
        return int(self._rows("PRAGMA data_version")[0][0])

    @contextmanager
    def _write(self, *, synced: bool = True) -> Iterator[None]:
        """One transaction. It refuses when another connection has committed since we loaded: a trader that was thought dead
        and still writes must not be overwritten, nor overwrite us.

        `synced`: on the disk before the caller goes on. Else a power cut may take it, though no end of the process does, and what is
        synced later takes it along."""
        if self._broken:
            raise LedgerError("the ledger failed before; it must be loaded again first")
        try:
            with transaction(self._database) if synced else unsynced(self._database):
                if not self._is_memory and self._read_version() != self._data_version:
                    raise LedgerError("someone else has written to the ledger while it was ours")
                yield
        except DRIVER_ERRORS as error:
            self._broken = True
            raise LedgerError(f"the ledger cannot be written: {first_line(error)}") from error


def positions_now(database: Database) -> dict[str, Position]:
    """Positions that are not flat, from the newest entry of each symbol."""
    rows = execute(
        database,
        "SELECT symbol, quantity, average_cost_usd FROM position_entry "
        "WHERE seq IN (SELECT max(seq) FROM position_entry GROUP BY symbol)",
    )
    held = {symbol: Position(Decimal(q), Decimal(cost)) for symbol, q, cost in rows if Decimal(q)}
    return dict(sorted(held.items()))  # whatever alphabet the database sorts by


def latch(database: Database) -> Latch:
    """The trading state as last committed."""
    rows = execute(database, "SELECT state, reason, set_by, at_ns FROM trading_state ORDER BY seq DESC LIMIT 1")
    return (
        Latch(state=TradingState(rows[0][0]), reason=rows[0][1], set_by=rows[0][2], at_ns=rows[0][3])
        if rows
        else Latch()
    )


def _heir(before: RecordedOrder, successor: Order) -> RecordedOrder:
    """A successor as it is recorded: of the decision that the replaced order is of, and sized at the same price."""
    order = msgspec.structs.replace(
        successor, decision_id=before.order.decision_id, reference_price_usd=before.order.reference_price_usd,
        quantity=exact(successor.quantity), status=OrderStatus.RECORDED,
    )  # fmt: skip
    return RecordedOrder(order=order, bar_end_ns=before.bar_end_ns)


def _stand(order: Order) -> str:
    return f"{order.status.value}, {to_text(order.filled_quantity)} filled"


def _text_or_none(value: Decimal | None) -> str | None:
    return None if value is None else to_text(value)


def _exact_intent(intent: OrderIntent) -> OrderIntent:
    limit = intent.limit_price_usd
    return replace(
        intent, quantity=exact(intent.quantity), reference_price_usd=exact(intent.reference_price_usd),
        limit_price_usd=None if limit is None else exact(limit),
    )  # fmt: skip


def _exact_fill(fill: Fill) -> Fill:
    return replace(
        fill, quantity=exact(fill.quantity), cumulative_quantity=exact(fill.cumulative_quantity),
        price_usd=exact(fill.price_usd), fees_usd=exact(fill.fees_usd),
    )  # fmt: skip


def _exact_position(position: Position) -> Position:
    return Position(exact(position.quantity), exact(position.average_cost_usd))


def _exact_account(account: Account) -> Account:
    """Spelled as the file spells it, so that a store that has loaded and one that has not tell equal messages."""
    positions = {symbol: _exact_position(held) for symbol, held in sorted(account.positions.items())}
    return replace(account, cash=exact(account.cash), positions=positions)


def move_of(kind: str, change: Decimal, price: Decimal) -> Move | None:
    """A position entry as a move; None for one that only takes back another."""
    if kind in orders.REVERSALS:
        return None
    return Move(change, price if kind in ("opening", "fill", ACCEPTED) else None)


def _exact_close(close: SessionClose) -> SessionClose:
    sums: dict[str, Any] = {f.name: exact(getattr(close, f.name)) for f in fields(close) if f.name.endswith("_usd")}
    return replace(close, **sums)


def _unsettled(account: Account, today: date) -> tuple[tuple[str, Decimal], ...]:
    parts = account.settle(today.toordinal()).unsettled
    return tuple((date.fromordinal(day).isoformat(), amount) for day, amount in parts)


def closed_positions(text: str) -> tuple[tuple[str, Decimal, Decimal, Decimal | None], ...]:
    """The positions of a session's close as the ledger keeps them."""
    rows = ((s, Decimal(q), Decimal(cost), mark) for s, q, cost, mark in json.loads(text))
    return tuple((s, q, cost, None if mark is None else Decimal(mark)) for s, q, cost, mark in rows)


def _positions_json(positions: Mapping[str, Position]) -> str:
    return json.dumps(
        {symbol: [to_text(p.quantity), to_text(p.average_cost_usd)] for symbol, p in sorted(positions.items())}
    )


# --- for the command line --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSummary:
    """What `status` says of a ledger."""

    ledger_id: str
    created_ns: int
    last_run_id: str
    runs: int
    decisions: int
    orders: int
    fills: int
    refusals: int
    open_orders: int
    cash_usd: Decimal | None
    equity_usd: Decimal | None
    session_date: str | None
    reconciliations: int
    disagreements: int
    latch: Latch


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What a run's summary says of its ledger; the equity is the broker's when the run first compared."""

    sessions: int
    fills: int
    refused: int
    checked: int
    differences: int
    equity_start_usd: Decimal | None


class Reader:
    """Read-only queries on a ledger, also while a trader writes to it."""

    def __init__(self, place: Place) -> None:
        self._database = open_database(place, read_only=True)
        try:
            if not self._database.table_exists("meta"):
                raise LedgerError(f"there is no ledger of this program at {place}")
            if any(state.applied_ns is None for state in migration_states(self._database)):
                raise LedgerError(f"{place} is of an older program; `algo-royale db migrate` brings it up to date")
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self, query: Any) -> list[dict[str, Any]]:
        try:
            return [dict(row) for row in query.dicts().execute(self._database)]
        except DRIVER_ERRORS as error:
            raise LedgerError(f"the ledger cannot be read: {first_line(error)}") from error

    def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        try:
            return execute(self._database, sql, parameters)
        except DRIVER_ERRORS as error:
            raise LedgerError(f"the ledger cannot be read: {first_line(error)}") from error

    def _each(self, query: Any) -> Iterator[tuple[Any, ...]]:
        """Row by row, for what would be much at once."""
        try:
            yield from query.tuples().iterator(self._database)
        except DRIVER_ERRORS as error:
            raise LedgerError(f"the ledger cannot be read: {first_line(error)}") from error

    def orders(
        self, *, since_ns: int = 0, symbol: str | None = None, status: str | None = None, order_id: str | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Orders with where they stand, oldest first; `status` may be "open" for all that are not final, `order_id` is an order's
        own or the broker's."""
        order, event = models.Order, models.OrderEvent
        last = (
            event.select(peewee.fn.MAX(event.seq).alias("last")).group_by(event.client_order_id).alias("newest")
        )  # one row per order
        fields = (
            order.at_ns, order.client_order_id, order.decision_id, order.bar_end_ns, order.symbol, order.side,
            order.quantity, order.order_type, order.time_in_force, order.limit_price_usd, order.reference_price_usd,
            event.status, event.filled_quantity, event.broker_order_id, event.at_ns.alias("updated_ns"), event.detail,
        )  # fmt: skip
        query = (
            order.select(*fields)
            .join(event, on=(event.client_order_id == order.client_order_id))
            .join(last, on=(last.c.last == event.seq))
            .where(order.at_ns >= since_ns)
            .order_by(order.seq.desc())
        )
        if symbol is not None:
            query = query.where(order.symbol == symbol)
        if order_id is not None:
            told = models.OrderEvent.alias()
            ids = told.select(told.client_order_id).where(
                (told.client_order_id == order_id) | (told.broker_order_id == order_id)
            )
            query = query.where(order.client_order_id.in_(ids))
        if status == "open":
            query = query.where(event.status.not_in([s.value for s in orders.FINAL]))
        elif status is not None:
            query = query.where(event.status == status)
        return self._all(query.limit(limit) if limit is not None else query)[::-1]

    def fills(self, *, since_ns: int = 0, symbol: str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """Fills, oldest first."""
        fill = models.Fill
        query = fill.select().where(fill.filled_ns >= since_ns).order_by(fill.seq.desc())
        if symbol is not None:
            query = query.where(fill.symbol == symbol)
        return self._all(query.limit(limit) if limit is not None else query)[::-1]

    def positions(self) -> list[dict[str, Any]]:
        """Positions that are not flat, with the profit realised in them so far."""
        entry = models.PositionEntry
        realised: dict[str, Decimal] = {}
        gains = entry.select(entry.symbol, entry.realised_usd).where(entry.realised_usd != Decimal(0))
        for symbol, gained in self._each(gains):
            realised[symbol] = realised.get(symbol, Decimal(0)) + gained
        return [
            {
                "symbol": symbol, "quantity": held.quantity, "average_cost_usd": held.average_cost_usd,
                "cost_usd": held.quantity * held.average_cost_usd, "realised_usd": realised.get(symbol, Decimal(0)),
            }
            for symbol, held in positions_now(self._database).items()
        ]  # fmt: skip

    def sessions(self) -> list[dict[str, Any]]:
        """Equity by session and phase, oldest first."""
        return self._all(models.SessionEquity.select().order_by(models.SessionEquity.seq))

    def closes(self) -> list[dict[str, Any]]:
        """The account at each session's close, oldest first: the daily equity curve."""
        rows = self._all(models.SessionClose.select().order_by(models.SessionClose.seq))
        for row in rows:
            row["unrealised_usd"] = row["positions_usd"] - row["cost_usd"]
            row["positions"] = json.loads(row["positions"])
            del row["cash_seq"], row["position_seq"]
        return rows

    def differences(self) -> list[dict[str, Any]]:
        """What ledger and broker saw differently, oldest first."""
        return self._all(models.Difference.select().order_by(models.Difference.seq))

    def refusals(self, *, since_ns: int = 0, symbol: str | None = None) -> list[dict[str, Any]]:
        """Intents that our own limits refused, oldest first."""
        row = models.RefusalRow
        query = row.select().where(row.at_ns >= since_ns).order_by(row.seq)
        return self._all(query.where(row.symbol == symbol) if symbol is not None else query)

    def decisions(self, *, since_ns: int = 0) -> list[dict[str, Any]]:
        """Decisions with their targets as JSON text, oldest first."""
        row = models.Decision
        return self._all(row.select().where(row.at_ns >= since_ns).order_by(row.seq))

    def decision(self, *, until_ns: int, with_targets: bool = False) -> dict[str, Any] | None:
        """The last decision on a bar that closed at or before `until_ns`; with `with_targets` the last that weighed anything."""
        row = models.Decision
        query = row.select().where(row.bar_end_ns <= until_ns).order_by(row.bar_end_ns.desc()).limit(1)
        found = self._all(query.where(row.targets != "[]") if with_targets else query)
        return found[0] if found else None

    def order_events(self, client_order_id: str) -> list[dict[str, Any]]:
        """Every step of one order, oldest first."""
        event = models.OrderEvent
        return self._all(event.select().where(event.client_order_id == client_order_id).order_by(event.seq))

    def reconciliations(self) -> list[dict[str, Any]]:
        """Comparisons with the broker, oldest first."""
        return self._all(models.Reconciliation.select().order_by(models.Reconciliation.seq))

    def failed_jobs(self, *, sessions: int = 2) -> list[dict[str, Any]]:
        """Jobs of the latest sessions on record whose last try did not end well, oldest first. A session that nobody attended is one of them, named `session`."""
        row, newer = models.SessionJob, models.SessionJob.alias()
        days = row.select(row.session_date).distinct().order_by(row.session_date.desc()).limit(sessions)
        again = newer.select(newer.seq).where(
            newer.session_date == row.session_date, newer.phase == row.phase, newer.job == row.job, newer.seq > row.seq
        )
        fields = (row.session_date, row.phase, row.job, row.detail, row.at_ns)
        failed = row.select(*fields).where(row.ok == 0, row.session_date.in_(days), ~peewee.fn.EXISTS(again))
        return self._all(failed.order_by(row.session_date, row.seq))

    def trading_states(self) -> list[dict[str, Any]]:
        """Every change of the trading state with who made it and why, oldest first."""
        return self._all(models.TradingStateRow.select().order_by(models.TradingStateRow.seq))

    def statuses(self, *, since_ns: int = 0) -> dict[str, int]:
        """How many of the orders that were recorded since then stand how."""
        rows = self._rows(
            "SELECT e.status, count(*) FROM orders o JOIN order_event e ON e.seq = "
            "(SELECT max(seq) FROM order_event WHERE client_order_id = o.client_order_id) "
            "WHERE o.at_ns >= ? GROUP BY e.status",
            since_ns,
        )
        return {str(status): int(count) for status, count in rows}

    def run(self, run_id: str) -> RunFigures:
        """What one run added to the ledger, in a few figures."""
        figures = self._rows(
            "SELECT (SELECT count(DISTINCT session_date) FROM decision WHERE run_id = ?), "
            "(SELECT count(*) FROM fill WHERE run_id = ?), (SELECT count(*) FROM refusal WHERE run_id = ?), "
            "(SELECT count(*) FROM reconciliation WHERE run_id = ?), "
            "(SELECT count(*) FROM reconciliation WHERE run_id = ? AND agreed = 0), "
            "(SELECT broker_equity_usd FROM reconciliation WHERE run_id = ? ORDER BY seq LIMIT 1)",
            *(run_id,) * 6,
        )
        sessions, fills, refused, checked, differences, equity = figures[0]
        return RunFigures(
            sessions=sessions, fills=fills, refused=refused, checked=checked, differences=differences,
            equity_start_usd=None if equity is None else Decimal(equity),
        )  # fmt: skip

    def summary(self) -> LedgerSummary:
        """The ledger in a few figures."""

        def one(sql: str) -> tuple[Any, ...]:
            rows = self._rows(sql)
            return rows[0] if rows else (None,) * 4

        ledger_id, created_ns = one("SELECT ledger_id, created_ns FROM meta")[:2]
        session_date, equity = one("SELECT session_date, equity_usd FROM session_equity ORDER BY seq DESC LIMIT 1")[:2]
        cash = one("SELECT balance_usd FROM cash_entry ORDER BY seq DESC LIMIT 1")[0]
        checks, agreed = one("SELECT count(*), coalesce(sum(agreed), 0) FROM reconciliation")
        return LedgerSummary(
            ledger_id=ledger_id, created_ns=created_ns,
            last_run_id=one("SELECT run_id FROM run ORDER BY seq DESC LIMIT 1")[0],
            runs=one("SELECT count(*) FROM run")[0], decisions=one("SELECT count(*) FROM decision")[0],
            orders=one("SELECT count(*) FROM orders")[0], fills=one("SELECT count(*) FROM fill")[0],
            refusals=one("SELECT count(*) FROM refusal")[0],
            open_orders=sum(n for status, n in self.statuses().items() if status not in orders.FINAL),
            cash_usd=None if cash is None else Decimal(cash), equity_usd=None if equity is None else Decimal(equity),
            session_date=session_date, reconciliations=checks, disagreements=checks - agreed,
            latch=latch(self._database),
        )  # fmt: skip
