"""The order dispatcher: committed orders to the broker, the broker's answers and events to the ledger."""

from decimal import Decimal

from actors.kernel import Actor, Halt, Ref
from actors.messages import (
    BrokerMessage,
    BrokerSnapshot,
    BrokerSnapshotRequested,
    BrokerStateChanged,
    CancelOrder,
    DecisionRecorded,
    Disagreed,
    FeedHealthChanged,
    FillRecord,
    HaltTrading,
    JobDue,
    LedgerMessage,
    LedgerSnapshot,
    LookUpOrder,
    OrderAbsent,
    OrderAccepted,
    OrderChanged,
    OrderRecord,
    OrderRejected,
    OrdersMessage,
    Reconciled,
    RecordOrderEvent,
    RecordReconciliation,
    SessionJobDone,
    SessionJobDue,
    SessionPhaseChanged,
    SnapshotRequested,
    SubmissionDelayed,
    SubmissionUncertain,
    SubmitOrder,
    TakenBack,
    TimerFired,
    TradeUpdated,
    TradingEnds,
    TradingStateChanged,
)
from algo_royale.costs import BUY
from algo_royale.ids import is_ours
from algo_royale.market import Timeframe
from algo_royale.orders import FILLS, FINAL, NOTED, REVERSALS, OrderEvent, OrderStatus, cell
from algo_royale.phases import Phase
from algo_royale.risk import TradingState, is_flattening, reduces
from algo_royale.sessions import Calendar, send_window

UNCERTAIN_RETRY_S = 2.0
UNCERTAIN_RETRIES_MAX = 32  # times as long it is between two looks at most
UNCERTAIN_TRIES = 12  # about seven minutes
ABSENCES = 2  # so often, one after the other, the broker must not show an order before it certainly does not hold it
DAY_NS = 86_400 * 1_000_000_000
LOOKBACK_NS = 7 * DAY_NS
# An order may fill days after it was sent (submitted before a long weekend), so orders are asked for further back than fills.
ORDERS_LOOKBACK_NS = LOOKBACK_NS
# These overlap with what the comparison before has seen (entries carry dates, and come a day late); others look at all of the days.
OFTEN = frozenset({"periodic", Phase.AFTER_CLOSE.value})
OVERLAP_NS, ORDERS_OVERLAP_NS = 2 * DAY_NS, 3_600_000_000_000

FINAL_STATUSES = frozenset(status.value for status in FINAL)
# What a snapshot's status says has happened; the two of fills say nothing, for fills are told apart with their numbers.
FILLED_WORDS = ("partially_filled", "filled")
ANSWERS = frozenset({OrderEvent.ACCEPTED, OrderEvent.PENDING_NEW, OrderEvent.NEW, OrderEvent.HELD})
# An order that the broker works on again is not being canceled or replaced any more.
UNDONE = {
    OrderStatus.PENDING_CANCEL: OrderEvent.ORDER_CANCEL_REJECTED,
    OrderStatus.PENDING_REPLACE: OrderEvent.ORDER_REPLACE_REJECTED,
}


class OrdersActor(Actor[OrdersMessage]):
    """Sends nothing before the ledger has committed it and the broker has been reconciled with.

    Recovery needs no memory: the ledger's open orders and one broker snapshot say what is to be adopted, what is to be
    looked up by its client id (and sent only if the broker certainly does not know it), and what is too old to send.

    Whatever an order had to wait for (the connection, its window, sales, the broker's rate limit, look-ups, a person), it is
    judged anew right before it leaves: one at a time, the next when the broker has answered. What waits in the broker's
    mailbox all the same comes back from there unsent. What has become too late, or is not allowed any more, is recorded as such.

    While trading is reducing or halted, only what that allows is sent, and what it does not allow is taken back (`cancels`)
    or left at the broker; a wish to flatten takes back everything that is open.

    `buys_wait`: purchases are sent once the sales of the same decision have ended, because the broker counts their proceeds as
    buying power only then.

    A difference between ledger and broker is looked at again after `second_look_s`, and nothing is sent meanwhile: only one
    that is still there counts.
    """

    def __init__(
        self, calendar: Calendar, *, ledger: Ref[LedgerMessage], broker: Ref[BrokerMessage],
        timeframe: Timeframe = Timeframe.DAY_1, retry_s: float = UNCERTAIN_RETRY_S, cancels: bool = True,
        second_look_s: float = 0.0, buys_wait: bool = False,
    ) -> None:  # fmt: skip
        self._second_look_ns = round(second_look_s * 1e9)
        self._doubt_ns: int | None = None  # when a difference was seen first
        self._calendar, self._timeframe, self._retry_s, self._cancels = calendar, timeframe, retry_s, cancels
        self._ledger, self._broker, self._buys_wait = ledger, broker, buys_wait
        self._orders: dict[str, OrderRecord] | None = None
        self._reconciled = False
        self._trading = TradingState.TRADING
        self._ending = False  # the process is about to end
        self._held: dict[str, Decimal] = {}
        self._unwanted: set[str] = set()  # open when a person wished to flatten
        self._canceling: set[str] = set()  # asked for since the last reconciliation
        self._blind = False  # nothing was heard of the broker since the session opened
        self._ended: dict[str, OrderRecord] = {}  # of the last days; a fill may be told after the end, or not at all
        self._heard: set[tuple[str, object]] = set()  # (client id, cumulative quantity) of the fills told to the ledger
        self._adopted: set[str] = set()  # in the place of ours, and on their way into the ledger
        self._said: set[tuple[str, str, str]] = set()  # (client id, status, word) of what snapshots repeat
        self._sent: set[str] = set()  # with the broker, or asked of it, or ended here
        self._fresh: set[str] = set()  # heard of by a decision of this incarnation: certainly never sent before
        self._absent: dict[str, int] = {}  # how often the broker has not shown an order since it was sent last
        self._look_ns: dict[str, int] = {}  # when to ask for it again
        self._asking: str | None = None  # whose submit or look-up the broker has yet to answer
        self._wait_until_ns = 0  # before that the broker is not to be asked
        self._waited_for: dict[str, str] = {}  # why an order has not left yet
        self._stale: frozenset[str] = frozenset()  # symbols whose feed is quiet
        self._tries: dict[str, int] = {}
        self._resends = 0
        self._asked_for = "start"
        self._window_of: tuple[tuple[str, int], tuple[int, int]] = (("", 0), (0, 0))  # of the last one asked for
        self._jobs: list[SessionJobDue] = []  # of the session: comparisons that somebody waits for
        self._seen_ns = 0  # when the broker was last looked at
        self._compared_ns = 0  # the latest look that the ledger agreed with

    def started(self) -> None:
        self.tell(self._ledger, SnapshotRequested(at_ns=self.now_ns, reply_to=self.path))

    def observe(self) -> dict[str, object]:
        waiting = {order_id: why for order_id, why in self._waited_for.items() if order_id in (self._orders or ())}
        return {
            "open": len(self._orders or ()), "reconciled": self._reconciled, "trading": self._trading.value,
            "resends": self._resends, "waiting": waiting,
        }  # fmt: skip

    def receive(self, message: OrdersMessage) -> None:
        match message:
            case LedgerSnapshot():
                self._orders = {o.client_order_id: o for o in message.open_orders}
                self._ended = {o.client_order_id: o for o in message.ended_orders}
                self._trading = TradingState(message.state)
                self._held = {p.symbol: p.quantity for p in message.positions}
                self._request_snapshot("start")
            case BrokerStateChanged():
                self._reconciled = self._reconciled and message.connected
                if message.connected:
                    self._request_snapshot("reconnect")
            case BrokerSnapshot():
                self._on_snapshot(message)
            case Reconciled():
                self._reconciled, self._blind, self._doubt_ns = True, False, None
                self._compared_ns = 0 if message.differences else self._seen_ns
                self._held = {p.symbol: p.quantity for p in message.positions}
                self._canceling.clear()
                self._answer_jobs(message)
                self._send_recorded()
                self._take_back()
                self._cancel_overdue()
            case Disagreed():
                self._on_disagreed()
            case DecisionRecorded():
                self._on_decision(message)
            case OrderAccepted() | OrderRejected() | SubmissionUncertain() | OrderAbsent() | SubmissionDelayed():
                self._on_answer(message)
                self._send_recorded()
            case FeedHealthChanged():
                self._stale = frozenset(message.stale)
                self._send_recorded()
            case TradeUpdated():
                self._on_update(message)
            case OrderChanged():
                self._on_changed(message)
                self._take_back()
            case TradingEnds():
                self._ending = True
                self._take_back()
            case TradingStateChanged():
                self._on_state(TradingState(message.state), message.reason)
            case JobDue():
                self._request_snapshot("periodic")
            case SessionJobDue():
                self._jobs.append(message)
                self._request_snapshot(message.phase)
            case SessionPhaseChanged(phase="open"):
                self._blind = not self._reconciled
            case SessionPhaseChanged(phase="closed"):
                self._forget()
                if self._blind:  # it would look alive and neither trade nor know what it holds
                    raise Halt(f"the broker could not be reconciled with during the session of {message.session_date}")
            case TimerFired(name="send"):
                self._send_recorded()
            case TimerFired(name="overdue"):
                self._cancel_overdue()
            case TimerFired(name="second look"):
                self._request_snapshot("second look")
            case TimerFired():
                self._request_snapshot(self._asked_for)

    # --- reconciling ---

    def _request_snapshot(self, cause: str) -> None:
        if self._orders is None:
            return  # the ledger's answer will ask
        self._asked_for = cause
        since_ns = self.now_ns - LOOKBACK_NS
        orders_after_ns = since_ns - ORDERS_LOOKBACK_NS
        if cause in OFTEN and self._compared_ns - OVERLAP_NS > since_ns:
            since_ns = self._compared_ns - OVERLAP_NS
            oldest_ns = min((order.bar_end_ns for order in self._orders.values()), default=self._compared_ns)
            orders_after_ns = min(oldest_ns, self._compared_ns) - ORDERS_OVERLAP_NS
        request = BrokerSnapshotRequested(
            at_ns=self.now_ns, cause_of=cause, since_ns=since_ns, orders_after_ns=orders_after_ns
        )
        self.tell(self._broker, request)

    def _forget(self) -> None:
        """Once a session: what ended so long ago that no snapshot will tell of it again."""
        since_ns = self.now_ns - LOOKBACK_NS - ORDERS_LOOKBACK_NS - DAY_NS
        self._ended = {k: order for k, order in self._ended.items() if order.bar_end_ns > since_ns}
        known = {*self._ended, *(self._orders or ()), *self._adopted}
        self._heard = {told for told in self._heard if told[0] in known}
        self._said = {told for told in self._said if told[0] in known}

    def _on_snapshot(self, snapshot: BrokerSnapshot) -> None:
        """Bring the ledger up to the broker's truth event by event, then have both sides compared."""
        if self._orders is None:
            return
        self._seen_ns, self._asking = snapshot.at_ns, None  # whatever became of the answer that was waited for
        fills: dict[str, list[FillRecord]] = {}
        for fill in snapshot.fills:
            fills.setdefault(fill.client_order_id, []).append(fill)
        by_broker_id = {theirs.broker_order_id: theirs for theirs in snapshot.orders}
        for theirs in snapshot.orders:
            if self._is_known(theirs):
                for fill in fills.get(theirs.client_order_id, ()):
                    if (fill.client_order_id, fill.cumulative_quantity) not in self._heard:
                        self._record(
                            fill.client_order_id,
                            theirs.broker_order_id,
                            OrderEvent.FILL,
                            fill=fill,
                            found_by=snapshot.cause_of,
                        )
            else:
                self._check_unknown(theirs)
            ours = self._orders.get(theirs.client_order_id)
            if ours is None and theirs.client_order_id not in self._adopted:
                continue
            self._sent.add(theirs.client_order_id)
            if theirs.status == OrderEvent.REPLACED.value:
                self._adopt(theirs, by_broker_id.get(theirs.replaced_by))
            else:
                self._say(theirs, ours, snapshot.cause_of)
        taken_back = tuple(
            TakenBack(
                client_order_id=theirs.client_order_id, filled_quantity=theirs.filled_quantity,
                listed=tuple(fill.execution_id for fill in fills.get(theirs.client_order_id, ())),
            )
            for theirs in snapshot.orders
            if (ours := self._orders.get(theirs.client_order_id) or self._ended.get(theirs.client_order_id)) is not None
            and theirs.filled_quantity < ours.filled_quantity
        )  # fmt: skip
        known = {order.client_order_id for order in snapshot.orders}
        for order in self._orders.values():
            if order.client_order_id not in known and order.status != OrderStatus.RECORDED.value:
                self._sent.discard(order.client_order_id)
        self.tell(
            self._ledger,
            RecordReconciliation(
                at_ns=self.now_ns,
                cause_of=snapshot.cause_of,
                checked=len(snapshot.orders) + len(snapshot.positions) + 1,
                account_cash_usd=snapshot.cash_usd,
                account_equity_usd=snapshot.equity_usd,
                positions=snapshot.positions,
                entries=snapshot.entries,
                taken_back=taken_back,
                is_final=self.now_ns - self._second_look_ns
                >= (self.now_ns if self._doubt_ns is None else self._doubt_ns),
            ),
        )

    def _on_disagreed(self) -> None:
        """Send nothing and look again; a comparison that something else asks for meanwhile is one too early."""
        self._reconciled, self._compared_ns = False, 0
        if self._doubt_ns is None:
            self._doubt_ns = self.now_ns
            timer = TimerFired(at_ns=self.now_ns, name="second look")
            self.later(self._second_look_ns / 1e9, timer, key="second look")

    def _answer_jobs(self, message: Reconciled) -> None:
        """Tell those who asked for a comparison what came of one that is no older than their question."""
        detail = f"{message.checked} compared, {message.differences} differences"
        for job in [job for job in self._jobs if job.at_ns <= self._seen_ns]:
            self._jobs.remove(job)
            self.tell(self.ref(job.reply_to), SessionJobDone.of(job, self.path, detail, at_ns=self.now_ns))

    def _is_known(self, theirs: TradeUpdated) -> bool:
        """Whether the ledger has this order, or is about to."""
        return any(theirs.client_order_id in known for known in (self._orders or {}, self._ended, self._adopted))

    def _say(self, theirs: TradeUpdated, ours: OrderRecord | None, cause_of: str) -> None:
        """Tell what the status of a snapshot's order says beyond ours, once."""
        word, before = theirs.status, OrderStatus(ours.status) if ours is not None else OrderStatus.RECORDED
        event = OrderEvent.of(word)
        if before in UNDONE and word in (OrderEvent.NEW.value, OrderStatus.PARTIALLY_FILLED.value):
            event = UNDONE[before]
        elif word in FILLED_WORDS:
            return
        key = (theirs.client_order_id, before.value, word)
        if cell(before, event) not in (NOTED, before) and key not in self._said:
            self._said.add(key)
            told = f"{cause_of} snapshot" + (f": {word}" if event is OrderEvent.UNKNOWN else "")
            self._record(theirs.client_order_id, theirs.broker_order_id, event, detail=told, found_by=cause_of)

    def _adopt(self, old: TradeUpdated, new: TradeUpdated | None) -> None:
        """One of our orders goes on as another: both are told to the ledger at once, so that no moment shows neither.

        Nobody but a person at the broker's own screen replaces our orders, and their program chose the new client id."""
        if new is None:
            detail = f"the broker does not show the order {old.replaced_by or 'of no id'} in its place"
            self._record(old.client_order_id, old.broker_order_id, OrderEvent.REPLACED, detail=detail)
            return
        before = (self._orders or {}).get(old.client_order_id)
        if new.client_order_id in self._adopted:
            return
        self._adopted.add(new.client_order_id)
        successor = OrderRecord(
            client_order_id=new.client_order_id, broker_order_id=new.broker_order_id,
            decision_id=before.decision_id if before is not None else "", symbol=new.symbol, side=new.side,
            quantity=new.quantity, filled_quantity=Decimal(0), status=OrderStatus.RECORDED.value,
            order_type=new.order_type, time_in_force=new.time_in_force, limit_price_usd=new.limit_price_usd,
        )  # fmt: skip
        self._record(old.client_order_id, old.broker_order_id, OrderEvent.REPLACED, successor=successor)

    def _check_unknown(self, theirs: TradeUpdated) -> None:
        """An order that carries our mark but is in no ledger of ours: someone else trades this account with our name."""
        if is_ours(theirs.client_order_id) and theirs.status not in FINAL_STATUSES:
            self._halt(f"broker holds order {theirs.client_order_id} that this ledger never recorded")

    def _halt(self, reason: str) -> None:
        self.tell(self._ledger, HaltTrading(at_ns=self.now_ns, reason=reason))

    # --- what trading may do ---

    def _on_state(self, state: TradingState, reason: str) -> None:
        self._trading = state
        self._unwanted = set(self._orders or ()) if is_flattening(state, reason) else set()
        self._take_back()
        self._send_recorded()  # what waited for a person to resume

    def _allows(self, order: OrderRecord) -> bool:
        """Whether this order may be sent, as far as what trading may do is concerned."""
        if self._ending:
            return False
        if self._trading is TradingState.TRADING:
            return True
        if self._trading is TradingState.HALTED or order.client_order_id in self._unwanted:
            return False
        return self._reduces(order)

    def _barrier(self) -> str:
        return "the trader is being stopped" if self._ending else f"trading is {self._trading.value}"

    def _reduces(self, order: OrderRecord) -> bool:
        left = order.quantity - order.filled_quantity
        return reduces(self._held.get(order.symbol, Decimal(0)), left if order.side == BUY else -left)

    def _is_certain(self, order: OrderRecord) -> bool:
        """Whether the broker certainly does not hold this order and never did. One that it had taken and does not show any more may
        have filled and be forgotten: sending it again is for nobody to decide."""
        order_id = order.client_order_id
        return order_id in self._fresh or (order.broker_order_id is None and self._absent.get(order_id, 0) >= ABSENCES)

    def _take_back(self) -> None:
        """End what was certainly never sent, and have the broker cancel the rest of what may not go on."""
        if self._orders is None or (self._trading is TradingState.TRADING and not self._ending):
            return
        for order in list(self._orders.values()):
            order_id = order.client_order_id
            if self._allows(order) or not (self._cancels or self._ending or order_id in self._unwanted):
                continue
            if order_id not in self._sent and self._is_certain(order):
                self._end(order_id, OrderEvent.CANCELED, self._barrier())
            elif order.broker_order_id is not None and order_id not in self._canceling:
                self._canceling.add(order_id)
                self.tell(
                    self._broker,
                    CancelOrder(at_ns=self.now_ns, client_order_id=order_id, broker_order_id=order.broker_order_id),
                )

    def _cancel_overdue(self) -> None:
        """Within a session an order is for one bar; what is left of it is canceled with that bar's last nanosecond, so that nothing
        of the next one fills it, and gives way to the next decision. (A daily bar's order ends with its session by itself.)"""
        for order in (self._orders or {}).values():
            self._cancel_if_overdue(order)

    def _cancel_if_overdue(self, order: OrderRecord) -> None:
        if self._timeframe is Timeframe.DAY_1:
            return
        last_ns = self._window(order)[1] - 1
        if self.now_ns < last_ns:
            self.at(last_ns, TimerFired(at_ns=last_ns, name="overdue"), key=f"overdue {last_ns}")
        elif order.broker_order_id is not None and order.client_order_id not in self._canceling:
            self._canceling.add(order.client_order_id)
            cancel = CancelOrder(
                at_ns=self.now_ns, client_order_id=order.client_order_id, broker_order_id=order.broker_order_id
            )
            self.tell(self._broker, cancel)

    def _window(self, order: OrderRecord) -> tuple[int, int]:
        """`send_window` of the order; the orders of a bar ask one after the other."""
        key = order.time_in_force, order.bar_end_ns
        if key != self._window_of[0]:
            self._window_of = key, send_window(*key, self._timeframe, self._calendar)
        return self._window_of[1]

    # --- submitting ---

    def _on_decision(self, message: DecisionRecorded) -> None:
        if self._orders is None:
            return  # the snapshot that is on its way holds these orders
        for order in message.orders:
            if order.client_order_id not in self._orders and order.status == OrderStatus.RECORDED.value:
                self._orders[order.client_order_id] = order
                self._fresh.add(order.client_order_id)
        self._send_recorded()
        self._take_back()

    def _send_recorded(self) -> None:
        """Hand the next order that may leave to the broker, unless it has yet to answer for the one before."""
        if not self._reconciled or self._orders is None:
            return
        for order in list(self._orders.values()):
            if self._asking is not None or self.now_ns < self._wait_until_ns:
                return
            if order.client_order_id not in self._sent and order.status not in FINAL_STATUSES:
                self._submit(order)

    def _submit(self, order: OrderRecord) -> None:
        """Send it if it may leave now; ask for it first where the broker may hold it, whatever it may do here."""
        order_id = order.client_order_id
        if not self._is_certain(order):
            if self.now_ns >= self._look_ns.get(order_id, 0):
                self._ask(LookUpOrder(at_ns=self.now_ns, client_order_id=order_id))
            return
        from_ns, until_ns = self._window(order)
        last_ns = until_ns - 1  # what is left of it is canceled then
        if self.now_ns >= last_ns:
            waited_for = self._waited_for.get(order_id)
            self._end(
                order_id, OrderEvent.EXPIRED, "the time it was for is over" + (f"; {waited_for}" if waited_for else "")
            )
        elif (reason := self._held_back(order)) is not None:
            self._waited_for[order_id] = reason
            self._send_at(last_ns, order_id)
        elif self.now_ns < from_ns:
            self._send_at(from_ns, order_id)
        else:
            self._resends += order_id not in self._fresh
            self._ask(SubmitOrder(at_ns=self.now_ns, order=order, until_ns=last_ns))
            self._cancel_if_overdue(order)

    def _held_back(self, order: OrderRecord) -> str | None:
        """Why an order that could be sent must wait."""
        if not self._allows(order):
            return self._barrier()
        if order.symbol in self._stale and not self._reduces(order):
            return f"the last price of {order.symbol} is stale"
        if self._waits(order):
            return "the sales that pay for it have not ended"
        return None

    def _ask(self, message: SubmitOrder | LookUpOrder) -> None:
        order_id = message.order.client_order_id if isinstance(message, SubmitOrder) else message.client_order_id
        if not self.tell(self._broker, message):  # its mailbox is full of frames
            self._wait_until_ns = self.now_ns + round(self._retry_s * 1e9)
            self._send_at(self._wait_until_ns)
            return
        self._sent.add(order_id)
        self._asking = order_id

    def _send_at(self, at_ns: int, order_id: str = "") -> None:
        self.at(at_ns, TimerFired(at_ns=at_ns, name="send", key=order_id), key=f"send {order_id}")

    def _end(self, order_id: str, event: OrderEvent, reason: str) -> None:
        """Record the end of an order that the broker certainly does not hold; it is not sent from here on."""
        how = "never sent" if order_id in self._fresh else "not at the broker"
        self._fresh.discard(order_id)
        self._sent.add(order_id)
        self._record(order_id, None, event, detail=f"{how}: {reason}")

    def _waits(self, order: OrderRecord) -> bool:
        """Whether a purchase that was not sent yet needs the proceeds of a sale that is still open."""
        if not self._buys_wait or order.side != BUY or order.status != OrderStatus.RECORDED.value:
            return False
        others = (self._orders or {}).values()
        return any(o.decision_id == order.decision_id and o.side != BUY for o in others)

    def _on_answer(
        self, message: OrderAccepted | OrderRejected | SubmissionUncertain | OrderAbsent | SubmissionDelayed
    ) -> None:
        order_id = message.client_order_id
        self._asking = None if self._asking == order_id else self._asking
        if isinstance(message, SubmissionDelayed):
            self._sent.discard(order_id)
            self._waited_for[order_id] = message.reason
            self._wait_until_ns = max(self._wait_until_ns, self.now_ns + message.wait_ns)
            self._send_at(self._wait_until_ns)
            return
        self._fresh.discard(order_id)
        match message:
            case OrderAccepted():
                detail = "adopted" if message.adopted else ""
                word = OrderEvent.of(message.status)
                event = word if word in ANSWERS else OrderEvent.ACCEPTED
                self._record(order_id, message.broker_order_id, event, detail=detail)
            case OrderRejected():
                detail = f"{message.status}/{message.code}: {message.reason}" if message.status else message.reason
                self._record(order_id, None, OrderEvent.REJECTED, detail=detail)
            case OrderAbsent():
                self._absent[order_id] = 1 if message.reason else self._absent.get(order_id, 0) + 1
                self._on_doubt(order_id, message.reason)
            case SubmissionUncertain():
                self._absent.pop(order_id, None)
                self._on_doubt(order_id, message.reason)

    def _on_doubt(self, order_id: str, reason: str) -> None:
        """Look up again after a while, or at once go by what is certain now."""
        order = (self._orders or {}).get(order_id)
        if order is None:
            return
        self._sent.discard(order_id)
        if not reason and order.broker_order_id is not None:
            reason = f"it was taken as {order.broker_order_id}, and the broker does not show it any more"
        if reason:
            self._waited_for[order_id] = reason
            if order.status == OrderStatus.RECORDED.value:
                self._record(order_id, None, OrderEvent.SUBMITTED, detail=reason)
        tries = self._tries[order_id] = self._tries.get(order_id, 0) + 1
        if tries >= UNCERTAIN_TRIES:
            last = self._waited_for.get(order_id, "it is not shown")
            self._halt(f"cannot find out whether the broker holds {order_id}: {last}")
        elif self._is_certain(order):
            self._take_back()
        else:
            delay_s = self._retry_s * min(2 ** (tries - 1), UNCERTAIN_RETRIES_MAX)
            self._look_ns[order_id] = self.now_ns + round(delay_s * 1e9)
            self._send_at(self._look_ns[order_id], order_id)

    # --- the broker's events ---

    def _on_update(self, update: TradeUpdated) -> None:
        """Every word about one of our orders goes to the ledger, whatever it is; the table says what it does there."""
        if not is_ours(update.client_order_id) and not self._is_known(update):
            if any(o.broker_order_id == update.replaces for o in (self._orders or {}).values() if update.replaces):
                self._request_snapshot("replaced")  # it shows both, and what became of them
            return  # orders that a person placed on the account are the reconciliation's business
        event = OrderEvent.of(update.event)
        if event is OrderEvent.REPLACED:
            self._request_snapshot("replaced")
            return
        fill = None
        if event in FILLS or event is OrderEvent.TRADE_CORRECT:
            fill = _fill_of(update)
            if fill is None:
                self._request_snapshot("periodic")  # a fill without numbers: fetch the truth instead
                return
        taken_back = (update.previous_execution_id or update.execution_id or "") if event in REVERSALS else ""
        self._record(
            update.client_order_id, update.broker_order_id, event, fill=fill, reversed_execution_id=taken_back,
            detail=update.event if event is OrderEvent.UNKNOWN else "",
        )  # fmt: skip
        if event in REVERSALS or event is OrderEvent.RESTATED:
            self._request_snapshot(event.value)  # see what the broker makes of it

    def _record(
        self, client_order_id: str, broker_order_id: str | None, event: OrderEvent, *, detail: str = "",
        fill: FillRecord | None = None, reversed_execution_id: str = "", successor: OrderRecord | None = None,
        found_by: str = "",
    ) -> None:  # fmt: skip
        if fill is not None:
            self._heard.add((client_order_id, fill.cumulative_quantity))
        self.tell(
            self._ledger,
            RecordOrderEvent(
                at_ns=self.now_ns,
                client_order_id=client_order_id,
                broker_order_id=broker_order_id,
                event=event.value,
                detail=detail,
                fill=fill,
                reversed_execution_id=reversed_execution_id,
                successor=successor,
                found_by=found_by,
            ),
        )

    def _on_changed(self, message: OrderChanged) -> None:
        if message.position is not None:
            self._held[message.position.symbol] = message.position.quantity
        if self._orders is None:
            return
        if message.successor is not None:
            self._orders[message.successor.client_order_id] = message.successor
            self._sent.add(message.successor.client_order_id)
            self._adopted.discard(message.successor.client_order_id)
        if message.order.status in FINAL_STATUSES:
            self._orders.pop(message.order.client_order_id, None)
            self._ended[message.order.client_order_id] = message.order
            self._sent.discard(message.order.client_order_id)
            for known in (self._tries, self._absent, self._look_ns, self._waited_for):
                known.pop(message.order.client_order_id, None)
            self.cancel(f"send {message.order.client_order_id}")
            self._fresh.discard(message.order.client_order_id)
            if not self._orders and self._timeframe is not Timeframe.DAY_1:
                self.cancel(f"overdue {self._window(message.order)[1] - 1}")
            if self._buys_wait and message.order.side != BUY:
                self._send_recorded()
        else:
            self._orders[message.order.client_order_id] = message.order
            self._cancel_if_overdue(message.order)  # it may have been accepted late
            if message.order.broker_order_id is not None:  # somebody has seen it
                self._absent.pop(message.order.client_order_id, None)


def _fill_of(update: TradeUpdated) -> FillRecord | None:
    """The execution that a fill, or a correction, tells; None where its numbers are missing."""
    if update.fill_quantity is None or update.fill_price_usd is None:
        return None
    return FillRecord(
        execution_id=update.execution_id or f"{update.client_order_id}/{update.filled_quantity}",
        client_order_id=update.client_order_id, broker_order_id=update.broker_order_id, symbol=update.symbol,
        side=update.side, quantity=update.fill_quantity, cumulative_quantity=update.filled_quantity,
        price_usd=update.fill_price_usd, at_ns=update.at_ns,
    )  # fmt: skip
