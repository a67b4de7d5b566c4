"""The broker's edge: commands to the REST API, its order events to the dispatcher. Disconnected is a state, not a failure."""

from collections.abc import Callable, Mapping
from decimal import Decimal

from actors.endpoint import TIMERS, Endpoint
from actors.kernel import Actor, Ref
from actors.messages import (
    AccountEntry,
    BrokerMessage,
    BrokerSnapshot,
    BrokerSnapshotRequested,
    BrokerStateChanged,
    CancelOrder,
    ConnectionChanged,
    FillRecord,
    FrameReceived,
    LookUpOrder,
    OrderAbsent,
    OrderAccepted,
    OrderRecord,
    OrderRejected,
    OrdersMessage,
    PositionRecord,
    SubmissionDelayed,
    SubmissionUncertain,
    SubmitOrder,
    TimerFired,
    TradeUpdated,
)
from algo_royale.broker import alpaca_wire as wire
from algo_royale.broker.api import ACTIVITIES_PAGE, ORDERS_PAGE
from algo_royale.broker.budget import Budget
from algo_royale.broker.connection import DOWN, PATIENT, SECOND_NS, UP, Event, Reconnect, State, ending
from algo_royale.broker.port import BrokerPort, StreamPort
from algo_royale.broker.prechecks import refusal
from algo_royale.errors import BrokerRejected, BrokerUnavailable
from algo_royale.ids import is_ours

DUPLICATE_CODE = 40010001
DUPLICATE_TEXT = "client_order_id must be unique"
PROMPT_S = 5.0  # an order that has waited longer in the mailbox goes back to be judged again
CALL_S = 60.0  # how long one protected block of REST calls may take before the actor counts as hung
SNAPSHOT_TRIES = 3
ACTIVITIES_KEPT_NS = 8 * 86_400_000_000_000  # longer than a wide snapshot reaches back; narrow ones lie between
PROBED_NS = 3_600_000_000_000  # so far back REST is compared with what the stream has told
_UNTOLD = Decimal(0), 0
SNAPSHOT_REQUESTS = 4  # at least: orders, positions, account, activities
Answer = OrderAccepted | OrderRejected | OrderAbsent | SubmissionUncertain | SubmissionDelayed


class BrokerActor(Actor[BrokerMessage]):
    """REST calls one at a time, and the trading stream by the table of `algo_royale.broker.connection`.

    `BrokerStateChanged(connected=True)` is told only when the stream is authorized and listening: an order sent before could
    fill unheard. A submit is sent at once or goes back to the dispatcher, which alone knows whether it may still leave; one
    whose answer is lost is looked up by its client id, and what that says is told. Each is answered exactly once.
    """

    def __init__(
        self, broker: BrokerPort, streams: StreamPort, *, keys: tuple[str, str], orders: Ref[OrdersMessage],
        reconnect: Reconnect = PATIENT, requests_per_minute: int | None = None, prompt_s: float = PROMPT_S,
    ) -> None:  # fmt: skip
        self._broker, self._keys, self._orders, self._prompt_ns = broker, keys, orders, round(prompt_s * SECOND_NS)
        self._reconnect = reconnect
        self._line = Endpoint(self, "trading", streams, reconnect, self._on_state, often_quiet=True)
        self._budget = Budget(requests_per_minute)
        self._snapshot_due: BrokerSnapshotRequested | None = None
        self._snapshot_failures = 0
        self._told: dict[str, tuple[Decimal, int]] = {}  # by the stream of late: quantity filled and when, by order id
        self._activities: dict[str, int] = {}  # ids of late, and when they were read last
        self._counts = dict.fromkeys(
            ("frames", "bad_frames", "unknown_frames", "lookups", "cancels_refused", "unheard", "delayed"), 0
        )

    def started(self) -> None:
        self._line.open()

    def stopped(self, reason: object) -> None:
        self._line.close()

    def observe(self) -> Mapping[str, object]:
        return {**self._line.observe(), **self._counts, "requests_left": self._budget.left(self.now_ns)}

    def receive(self, message: BrokerMessage) -> None:
        match message:
            case SubmitOrder():
                self._on_submit(message)
            case LookUpOrder(client_order_id=order_id):
                self._answer(order_id, lambda: self._look_up(order_id))
            case CancelOrder():
                self._cancel_order(message.broker_order_id)
            case BrokerSnapshotRequested():
                self._on_snapshot_requested(message)
            case FrameReceived():
                if self._line.is_of(message):
                    self._on_frame(message.text)
            case ConnectionChanged():
                if self._line.on_connection(message):
                    self._line.send(wire.authenticate_text(*self._keys))
            case TimerFired(name=name) if name in TIMERS:
                self._line.on_timer(name)
            case TimerFired(name="snapshot"):
                if self._snapshot_due is not None:
                    self._on_snapshot_requested(self._snapshot_due)
            case TimerFired():
                self._cancel_order(message.key)

    # --- the stream ---

    def _on_state(self, before: State, after: State) -> None:
        """Even a fatal refusal (wrong keys) is tried again, rarely: positions are still held, and the person who mends the
        keys should not have to restart us; until then the dispatcher sends nothing."""
        if after is State.LIVE and before not in UP:
            self._told.clear()
            self._tell_state(True, "listening")
        elif after in DOWN and (before in UP or after is State.FATAL or self._line.connection.failures == 1):
            self._tell_state(False, self._line.connection.detail)

    def _on_frame(self, text: str) -> None:
        self._counts["frames"] += 1
        try:
            frame = wire.parse_trading_frame(text)
        except wire.BadWire:
            self._counts["bad_frames"] += 1  # one bad frame never stops the stream; the message log keeps it
            return
        match frame.kind:
            case "update" if frame.update is not None:
                self._line.on(Event.HEARD)
                order = frame.update.order
                known, _ = self._told.get(order.broker_order_id, _UNTOLD)
                self._told[order.broker_order_id] = max(known, order.filled_quantity), self.now_ns
                self.tell(self._orders, _updated(frame.update, self.now_ns))
            case "authorization" if frame.ok:
                if self._line.on(Event.AUTHENTICATED):
                    self._line.send(wire.listen_text())
            case "authorization":
                self._line.on(Event.FORBIDDEN, f"not authorized: {frame.detail}")
            case "listening" if frame.ok:
                self._line.on(Event.SUBSCRIBED)
            case "listening" | "error":
                self._line.on(ending(frame.detail), f"{frame.kind}: {frame.detail}")
            case _:
                self._counts["unknown_frames"] += 1

    def _tell_state(self, connected: bool, detail: str) -> None:
        self.tell(self._orders, BrokerStateChanged(at_ns=self.now_ns, connected=connected, detail=detail[:300]))

    # --- orders ---

    def _on_submit(self, message: SubmitOrder) -> None:
        order = message.order
        if self.now_ns >= min(message.at_ns + self._prompt_ns, message.until_ns):
            waited_s = (self.now_ns - message.at_ns) / SECOND_NS
            self._delay(order.client_order_id, 0, f"it waited {waited_s:.0f} s for its turn")
        elif (reason := refusal(order)) is not None:
            self.tell(self._orders, self._rejected(order.client_order_id, 0, None, f"not sent: {reason}"))
        else:
            self._answer(order.client_order_id, lambda: self._submit(order))

    def _answer(self, client_order_id: str, ask: Callable[[], Answer]) -> None:
        """Ask if the broker may be asked now, and tell what came of it."""
        if (wait_ns := self._budget.wait_ns(self.now_ns)) > 0:
            self._delay(client_order_id, wait_ns, "the requests of this minute are used up")
            return
        answer: Answer
        try:
            with self.protected(CALL_S):
                answer = ask()
        except (BrokerUnavailable, wire.BadWire) as error:  # BadWire: it answered, but we cannot read what
            self._budget.heed(error, self.now_ns)
            answer = SubmissionUncertain(at_ns=self.now_ns, client_order_id=client_order_id, reason=str(error)[:300])
        self.tell(self._orders, answer)

    def _delay(self, client_order_id: str, wait_ns: int, reason: str) -> None:
        self._counts["delayed"] += 1
        self.tell(self._orders, self._delayed(client_order_id, wait_ns, reason))

    def _delayed(self, client_order_id: str, wait_ns: int, reason: str) -> SubmissionDelayed:
        return SubmissionDelayed(at_ns=self.now_ns, client_order_id=client_order_id, wait_ns=wait_ns, reason=reason)

    def _rejected(self, client_order_id: str, status: int, code: int | None, reason: str) -> OrderRejected:
        return OrderRejected(
            at_ns=self.now_ns, client_order_id=client_order_id, status=status, code=code, reason=reason
        )

    def _submit(self, order: OrderRecord) -> Answer:
        """Send. Where no answer comes that says what became of it, look it up, and leave it at that: the broker may show an
        order a moment after it has taken it, so only the dispatcher's second look, later, tells that it did not arrive."""
        order_id = order.client_order_id
        self._budget.spend(self.now_ns)
        try:
            answer = self._broker.submit(
                client_order_id=order_id, symbol=order.symbol, side=order.side, quantity=order.quantity,
                order_type=order.order_type, time_in_force=order.time_in_force, limit_price=order.limit_price_usd,
            )  # fmt: skip
            return self._accepted(wire.parse_order(answer), adopted=False)
        except BrokerRejected as error:
            # the code alone is also that of every malformed field
            if error.code != DUPLICATE_CODE or DUPLICATE_TEXT not in error.message:
                return self._rejected(order_id, error.status, error.code, error.message)
            reason = "the broker calls the id a duplicate"
        except BrokerUnavailable as error:
            if error.retry_after_s is not None:  # a rate limit: it was not taken, and asking more would only prolong it
                self._budget.heed(error, self.now_ns)
                return self._delayed(order_id, round(error.retry_after_s * SECOND_NS), str(error)[:300])
            reason = f"no answer to the submit: {error}"[:300]
        except wire.BadWire as error:
            reason = f"the answer to the submit cannot be read: {error}"[:300]
        return self._look_up(order_id, reason)

    def _look_up(self, client_order_id: str, reason: str = "") -> Answer:
        self._counts["lookups"] += 1
        self._budget.spend(self.now_ns)
        try:
            found = self._broker.order_by_client_id(client_order_id)
        except BrokerRejected as error:  # it refused to say, not to hold the order
            raise BrokerUnavailable(f"no look-up: {error.status} {error.message}") from error
        if found is None:
            return OrderAbsent(at_ns=self.now_ns, client_order_id=client_order_id, reason=reason)
        return self._accepted(wire.parse_order(found), adopted=True)

    def _accepted(self, order: wire.WireOrder, *, adopted: bool) -> OrderAccepted | OrderRejected:
        if order.status == "rejected":
            return self._rejected(order.client_order_id, 200, None, f"the broker holds it as {order.status}")
        return OrderAccepted(
            at_ns=self.now_ns, client_order_id=order.client_order_id, broker_order_id=order.broker_order_id,
            status=order.status, filled_quantity=order.filled_quantity, adopted=adopted,
        )  # fmt: skip

    def _cancel_order(self, broker_order_id: str) -> None:
        """What became of the order comes by the stream or the next snapshot; here only the attempt can fail."""
        again = TimerFired(at_ns=self.now_ns, name="cancel", key=broker_order_id)
        if (wait_ns := self._budget.wait_ns(self.now_ns, urgent=True)) > 0:
            self.later(wait_ns / SECOND_NS, again, key=f"cancel {broker_order_id}")
            return
        self._budget.spend(self.now_ns)
        try:
            with self.protected(CALL_S):
                self._broker.cancel(broker_order_id)
        except BrokerUnavailable as error:
            self._budget.heed(error, self.now_ns)
            self.later(self._reconnect.base_s, again, key=f"cancel {broker_order_id}")
        except BrokerRejected:
            self._counts["cancels_refused"] += 1  # final already, or unknown: a reconciliation tells which

    # --- the broker's truth ---

    def _on_snapshot_requested(self, message: BrokerSnapshotRequested) -> None:
        """Answered only while the stream is live: a snapshot before that would let orders go whose fills nobody hears.
        The dispatcher asks again when it is told that the broker is connected."""
        self._snapshot_due = None
        if self._line.state not in UP:
            return
        if (wait_ns := self._budget.wait_ns(self.now_ns, SNAPSHOT_REQUESTS)) > 0:
            self._snapshot_later(message, wait_ns / SECOND_NS)
            return
        try:
            with self.protected(CALL_S * 2):
                snapshot = self._snapshot(message)
        except (BrokerUnavailable, BrokerRejected, wire.BadWire) as error:
            if isinstance(error, BrokerUnavailable):
                self._budget.heed(error, self.now_ns)
            self._tell_state(False, f"no snapshot: {error}")
            base_s, limit_s = self._reconnect.base_s * 2, self._reconnect.limit_s
            delay_s = min(limit_s, base_s * 2.0 ** min(self._snapshot_failures, 16)) * self.rng.uniform(0.75, 1.25)
            self._snapshot_failures += 1
            self._snapshot_later(message, delay_s)
            return
        self._snapshot_failures = 0
        self.tell(self._orders, snapshot)
        self._probe(snapshot)

    def _snapshot_later(self, message: BrokerSnapshotRequested, delay_s: float) -> None:
        self._snapshot_due = message
        self.later(delay_s, TimerFired(at_ns=self.now_ns, name="snapshot"), key="snapshot")

    def _probe(self, snapshot: BrokerSnapshot) -> None:
        """The stream may be open and mute: what happened while it was live, and long enough ago, it must have told."""
        rules, live_ns = self._reconnect, self._line.connection.live_ns
        grace_ns = round(rules.unheard_s * SECOND_NS)
        since_ns = max(live_ns + grace_ns, self.now_ns - PROBED_NS)
        due = [f for f in snapshot.fills if since_ns <= f.at_ns <= self.now_ns - grace_ns]
        unheard = [f for f in due if self._told.get(f.broker_order_id, _UNTOLD)[0] < f.cumulative_quantity]
        late_ns = self.now_ns - 2 * PROBED_NS
        self._told = {order_id: told for order_id, told in self._told.items() if told[1] > late_ns}
        if unheard:
            self._counts["unheard"] += len(unheard)
            self._line.on(Event.SILENT, f"the stream did not tell {len(unheard)} fills")
            self._line.on(Event.SILENT, f"the stream did not tell {len(unheard)} fills")

    def _snapshot(self, message: BrokerSnapshotRequested) -> BrokerSnapshot:
        """Orders, positions and cash of one instant, and what led to them.

        Activities are read last. Where they hold nothing that former readings did not, nothing moved in between, so
        all four are of one instant; otherwise everything is read again.
        """
        for _ in range(SNAPSHOT_TRIES):
            listed = self._broker.orders(status="all", after_ns=max(0, message.orders_after_ns))
            positions, account = self._broker.positions(), wire.parse_account(self._broker.account())
            activities = self._broker.activities(after_ns=message.since_ns)
            self._budget.spend(
                self.now_ns, SNAPSHOT_REQUESTS + len(listed) // ORDERS_PAGE + len(activities) // ACTIVITIES_PAGE
            )
            known, ids = self._activities, {str(item.get("id")) for item in activities}
            forgotten_ns = self.now_ns - ACTIVITIES_KEPT_NS
            self._activities = {known_id: read_ns for known_id, read_ns in known.items() if read_ns > forgotten_ns}
            self._activities |= dict.fromkeys(ids, self.now_ns)
            if ids <= known.keys():
                break
        else:
            raise BrokerUnavailable(f"the account kept moving through {SNAPSHOT_TRIES} attempts at a snapshot")
        fills = [item for item in activities if item.get("activity_type") == "FILL"]
        entries = [item for item in activities if item.get("activity_type") != "FILL"]
        orders = [order for item in listed if (order := _read(item)) is not None]
        client_ids = {order.broker_order_id: order.client_order_id for order in orders}
        booked: dict[str, Decimal] = {}
        for item in fills:
            order_id = str(item.get("order_id"))
            booked[order_id] = booked.get(order_id, Decimal(0)) + wire.decimal(item, "qty")
        family = wire.family(orders, is_ours)
        ours = [o for o in orders if o.broker_order_id in family and o.submitted_ns >= message.since_ns]
        if late := [o.client_order_id for o in ours if booked.get(o.broker_order_id, Decimal(0)) != o.filled_quantity]:
            raise BrokerUnavailable(f"the fills of {', '.join(late)} are not all listed yet")
        return BrokerSnapshot(
            at_ns=self.now_ns,
            cause_of=message.cause_of,
            orders=tuple(_polled(order, self.now_ns) for order in orders),
            fills=tuple(
                _fill(wire.parse_fill(item), client_ids) for item in fills if item.get("order_id") in client_ids
            ),
            positions=tuple(_position(wire.parse_position(item)) for item in positions),
            cash_usd=account.cash_usd,
            equity_usd=account.equity_usd,
            entries=tuple(_entry(wire.parse_entry(item)) for item in entries if item.get("status") != "canceled"),
        )


def _read(item: Mapping[str, object]) -> wire.WireOrder | None:
    """An order; None for a person's that cannot be read (of several legs, without a symbol): it must not hide ours."""
    try:
        return wire.parse_order(item)
    except wire.BadWire:
        if is_ours(str(item.get("client_order_id"))):
            raise
        return None


def _updated(update: wire.WireTradeUpdate, now_ns: int) -> TradeUpdated:
    order = update.order
    return TradeUpdated(
        at_ns=update.at_ns or now_ns, event=update.event, client_order_id=order.client_order_id,
        broker_order_id=order.broker_order_id, symbol=order.symbol, side=order.side, status=order.status,
        quantity=order.quantity, filled_quantity=order.filled_quantity, execution_id=update.execution_id,
        fill_price_usd=update.fill_price_usd, fill_quantity=update.fill_quantity,
        position_quantity=update.position_quantity, previous_execution_id=update.previous_execution_id,
        replaces=order.replaces, replaced_by=order.replaced_by, order_type=order.order_type,
        time_in_force=order.time_in_force, limit_price_usd=order.limit_price_usd,
    )  # fmt: skip


def _polled(order: wire.WireOrder, now_ns: int) -> TradeUpdated:
    """An order of a snapshot; its event is "snapshot", its status the broker's."""
    return TradeUpdated(
        at_ns=now_ns, event="snapshot", client_order_id=order.client_order_id, broker_order_id=order.broker_order_id,
        symbol=order.symbol, side=order.side, status=order.status, quantity=order.quantity,
        filled_quantity=order.filled_quantity, execution_id=None, fill_price_usd=None, fill_quantity=None,
        position_quantity=None, replaces=order.replaces, replaced_by=order.replaced_by, order_type=order.order_type,
        time_in_force=order.time_in_force, limit_price_usd=order.limit_price_usd,
    )  # fmt: skip


def _fill(fill: wire.WireFill, client_ids: Mapping[str, str]) -> FillRecord:
    """An activity names its order by the broker's id; "" where that order is older than the snapshot's reach."""
    # The activity's id ends with what the stream calls the execution's id, unless it is only the order's again.
    execution_id = fill.activity_id.rpartition("::")[2]
    if execution_id == fill.broker_order_id:
        execution_id = fill.activity_id
    return FillRecord(
        execution_id=execution_id, client_order_id=client_ids.get(fill.broker_order_id, ""),
        broker_order_id=fill.broker_order_id, symbol=fill.symbol, side=fill.side, quantity=fill.quantity,
        cumulative_quantity=fill.cumulative_quantity, price_usd=fill.price_usd, fees_usd=Decimal(0), at_ns=fill.at_ns,
    )  # fmt: skip


def _entry(entry: wire.WireEntry) -> AccountEntry:
    return AccountEntry(
        entry_id=entry.activity_id, kind=entry.kind, symbol=entry.symbol, quantity=entry.quantity,
        cash_usd=entry.cash_usd, at_ns=entry.at_ns,
    )  # fmt: skip


def _position(position: wire.WirePosition) -> PositionRecord:
    return PositionRecord(
        symbol=position.symbol, quantity=position.quantity, average_cost_usd=position.average_cost_usd
    )
