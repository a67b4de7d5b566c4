"""The life of an order, as one table.

    recorded --submitted--> submitted --accepted--> accepted --new--> open --partial_fill--> partially_filled --fill--> filled
                                          pending_cancel and pending_replace beside open; and from each of them
                                          canceled, expired, rejected, replaced

Every word of the broker's (Alpaca's trade_updates) in every status is one of three things, and there is no fourth:
  a status  the order moves there;
  NOTED     the word fits and changes nothing that we act on;
  ODD       the word does not fit: an anomaly. It changes no status either; shares that really changed hands count all the same.
All three are recorded, each once: the broker's word arrives at least once, in any order and with gaps, so that the same word
told again is not.

What follows for money: `filled_quantity` only grows, but for an execution that the venue takes back (trade_bust) or corrects
(trade_correct); a final status absorbs everything. A fill is identified by (client_order_id, cumulative_quantity): the same
fill told twice counts once, and a late one that fills a gap still counts. An execution taken back is known by its id.

An order that was replaced goes on as another one, under ids of its own: its successor, an order of the same decision.
"""

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec
from msgspec.structs import replace

_ZERO = Decimal(0)


class OrderStatus(enum.StrEnum):
    """Where an order stands."""

    RECORDED = "recorded"  # committed in the ledger, not known to have been sent
    SUBMITTED = "submitted"  # sent, and no answer yet that can be used
    ACCEPTED = "accepted"  # the broker holds it, the venue does not yet
    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"  # asked to be canceled; it may fill until it is
    PENDING_REPLACE = "pending_replace"  # asked to be replaced; likewise
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    REPLACED = "replaced"  # another order goes on in its place


class OrderEvent(enum.StrEnum):
    """What happens to an order; all but `submitted` and `unknown` are the broker's words (trade_updates)."""

    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    PENDING_NEW = "pending_new"
    HELD = "held"
    NEW = "new"
    PARTIAL_FILL = "partial_fill"
    FILL = "fill"
    CANCELED = "canceled"
    EXPIRED = "expired"
    DONE_FOR_DAY = "done_for_day"
    REJECTED = "rejected"
    REPLACED = "replaced"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    ORDER_CANCEL_REJECTED = "order_cancel_rejected"
    ORDER_REPLACE_REJECTED = "order_replace_rejected"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    CALCULATED = "calculated"
    RESTATED = "restated"
    PENDING_REVIEW = "pending_review"
    ACCEPTED_FOR_BIDDING = "accepted_for_bidding"
    TRADE_BUST = "trade_bust"
    TRADE_CORRECT = "trade_correct"
    UNKNOWN = "unknown"  # a word that nobody told us of; whoever records it says which

    @classmethod
    def of(cls, word: str) -> "OrderEvent":
        """The event that a word of the broker's names; UNKNOWN for one that we do not know."""
        try:
            return cls(word)
        except ValueError:
            return cls.UNKNOWN


FINAL: Final = frozenset(
    {OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REJECTED, OrderStatus.REPLACED}
)
FILLS: Final = frozenset({OrderEvent.PARTIAL_FILL, OrderEvent.FILL})
REVERSALS: Final = frozenset({OrderEvent.TRADE_BUST, OrderEvent.TRADE_CORRECT})


class Same(enum.Enum):
    """A cell of the table that leaves the status as it is."""

    NOTED = "noted"
    ODD = "odd"


NOTED, ODD = Same.NOTED, Same.ODD
Cell = OrderStatus | Same
_S, _E = OrderStatus, OrderEvent

_ENDS: Final[dict[OrderEvent, Cell]] = {
    _E.FILL: _S.FILLED, _E.CANCELED: _S.CANCELED, _E.EXPIRED: _S.EXPIRED, _E.DONE_FOR_DAY: _S.EXPIRED,
    _E.REJECTED: _S.REJECTED, _E.REPLACED: _S.REPLACED,
}  # fmt: skip
# What may be said of an order that the broker works on. `restated` makes the dispatcher look; the others say nothing to act on.
_WORKING: Final[dict[OrderEvent, Cell]] = {
    **_ENDS, _E.PARTIAL_FILL: _S.PARTIALLY_FILLED, _E.PENDING_CANCEL: _S.PENDING_CANCEL,
    _E.PENDING_REPLACE: _S.PENDING_REPLACE, _E.ORDER_CANCEL_REJECTED: NOTED, _E.ORDER_REPLACE_REJECTED: NOTED,
    _E.STOPPED: NOTED, _E.SUSPENDED: NOTED, _E.CALCULATED: NOTED, _E.RESTATED: NOTED,
}  # fmt: skip
_AT_BROKER: Final[dict[OrderEvent, Cell]] = dict.fromkeys(
    (_E.ACCEPTED, _E.PENDING_NEW, _E.HELD, _E.PENDING_REVIEW, _E.ACCEPTED_FOR_BIDDING, _E.SUSPENDED), _S.ACCEPTED
)
# Not known to be sent: sent before a crash all the same, and found again by its id or heard of by the stream.
_UNHEARD: Final[dict[OrderEvent, Cell]] = {
    **_WORKING, **_AT_BROKER, _E.NEW: _S.OPEN, _E.STOPPED: _S.OPEN, _E.CALCULATED: ODD, _E.RESTATED: ODD,
    _E.ORDER_CANCEL_REJECTED: ODD, _E.ORDER_REPLACE_REJECTED: ODD,
}  # fmt: skip
_TAKEN_BACK: Final[dict[OrderEvent, Cell]] = dict.fromkeys(REVERSALS, NOTED)
# After the end: the venue settles, a cancel or replace came too late, an execution is taken back.
_ENDED: Final[dict[OrderEvent, Cell]] = {
    _E.CALCULATED: NOTED, _E.ORDER_CANCEL_REJECTED: NOTED, _E.ORDER_REPLACE_REJECTED: NOTED, **_TAKEN_BACK,
}  # fmt: skip

# What is not in a row is ODD.
TRANSITIONS: Final[Mapping[OrderStatus, Mapping[OrderEvent, Cell]]] = {
    _S.RECORDED: {**_UNHEARD, _E.SUBMITTED: _S.SUBMITTED},
    _S.SUBMITTED: {**_UNHEARD, _E.SUBMITTED: NOTED},
    _S.ACCEPTED: {**_WORKING, **dict.fromkeys(_AT_BROKER, NOTED), _E.NEW: _S.OPEN, _E.STOPPED: _S.OPEN},
    _S.OPEN: {**_WORKING, _E.NEW: NOTED},
    _S.PARTIALLY_FILLED: {**_WORKING, **_TAKEN_BACK},
    _S.PENDING_CANCEL: {
        **_WORKING, **_TAKEN_BACK, _E.PARTIAL_FILL: NOTED, _E.PENDING_CANCEL: NOTED, _E.PENDING_REPLACE: ODD,
        _E.ORDER_CANCEL_REJECTED: _S.OPEN,
    },
    _S.PENDING_REPLACE: {
        **_WORKING, **_TAKEN_BACK, _E.PARTIAL_FILL: NOTED, _E.PENDING_REPLACE: NOTED, _E.ORDER_REPLACE_REJECTED: _S.OPEN,
    },
    _S.FILLED: _ENDED,
    _S.CANCELED: {**_ENDED, _E.CANCELED: NOTED},
    _S.EXPIRED: {**_ENDED, _E.EXPIRED: NOTED, _E.DONE_FOR_DAY: NOTED},
    _S.REJECTED: {_E.REJECTED: NOTED},
    _S.REPLACED: {**_ENDED, _E.REPLACED: NOTED},
}  # fmt: skip


def cell(status: OrderStatus, event: OrderEvent) -> Cell:
    """What `event` does to an order that is `status`."""
    return TRANSITIONS[status].get(event, ODD)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderIntent:
    """What we want, before risk. `quantity` is positive, in shares; `reference_price_usd` the close it was sized at."""

    client_order_id: str
    symbol: str
    side: str
    quantity: Decimal
    reference_price_usd: Decimal
    order_type: str = "market"
    time_in_force: str = "day"
    limit_price_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """One execution of part of an order; `cumulative_quantity` is the order's filled quantity after it."""

    execution_id: str
    client_order_id: str
    broker_order_id: str
    symbol: str
    side: str
    quantity: Decimal
    cumulative_quantity: Decimal
    price_usd: Decimal
    fees_usd: Decimal = _ZERO
    at_ns: int = 0

    @property
    def identity(self) -> tuple[str, Decimal]:
        return self.client_order_id, self.cumulative_quantity


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One of our orders. `filled_quantity` is the largest cumulative quantity told; `booked` the fills counted so far."""

    client_order_id: str
    decision_id: str
    symbol: str
    side: str
    quantity: Decimal
    broker_order_id: str | None = None
    filled_quantity: Decimal = _ZERO
    status: OrderStatus = OrderStatus.RECORDED
    order_type: str = "market"
    time_in_force: str = "day"
    limit_price_usd: Decimal | None = None
    reference_price_usd: Decimal = _ZERO
    booked: tuple[tuple[Decimal, Decimal], ...] = ()  # (cumulative, quantity) of each fill
    reversed: tuple[str, ...] = ()  # ids of the executions that were taken back

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @property
    def open_quantity(self) -> Decimal:
        """Shares that may still change hands."""
        return _ZERO if self.final else max(self.quantity - self.filled_quantity, _ZERO)

    @property
    def gap_quantity(self) -> Decimal:
        """Shares the broker said were filled but whose fills we have not seen."""
        return self.filled_quantity - sum((quantity for _, quantity in self.booked), _ZERO)


class Change(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an event did: the order after it; the fill to book (None: none, or counted before); the booked fill to take back
    first; and what was odd. `repeated`: a fill or a reversal that was counted before, told again in the same words."""

    order: Order
    fill: Fill | None = None
    reversal: Fill | None = None
    anomaly: str | None = None
    repeated: bool = False


def order_of(intent: OrderIntent, decision_id: str) -> Order:
    """The order an intent becomes when it is recorded."""
    return Order(
        client_order_id=intent.client_order_id, decision_id=decision_id, symbol=intent.symbol, side=intent.side,
        quantity=intent.quantity, order_type=intent.order_type, time_in_force=intent.time_in_force,
        limit_price_usd=intent.limit_price_usd, reference_price_usd=intent.reference_price_usd,
    )  # fmt: skip


def apply(
    order: Order, event: OrderEvent, *, fill: Fill | None = None, reversal: Fill | None = None,
    broker_order_id: str | None = None,
) -> Change:  # fmt: skip
    """Move `order` by `event`. Never raises on what the broker says; what does not fit comes back in `anomaly`.

    `reversal` is the booked fill that a bust or correction names (None: no such fill is booked), `fill` the execution of a
    fill, or the corrected one of a correction. A fill event must carry its `fill` and no event what it cannot have:
    ValueError otherwise, for that is our own mistake.
    """
    may_fill = event in FILLS or event is OrderEvent.TRADE_CORRECT
    if (event in FILLS and fill is None) or (fill and not may_fill) or (reversal and event not in REVERSALS):
        raise ValueError(f"event {event.value} of {order.client_order_id} with fill {fill} and reversal {reversal}")
    if order.broker_order_id is None and broker_order_id is not None:
        order = replace(order, broker_order_id=broker_order_id)
    if event in REVERSALS:
        return _take_back(order, event, reversal, fill)
    if fill is not None:
        return _apply_fill(order, fill)
    found = cell(order.status, event)
    if event is OrderEvent.DONE_FOR_DAY and order.time_in_force == "gtc" and not order.final:
        found = NOTED  # it goes on tomorrow
    if found is ODD:
        return Change(order=order, anomaly=f"{event.value} told of an order that is {order.status.value}")
    return Change(order=order if isinstance(found, Same) else _moved(order, found))


def _moved(order: Order, status: OrderStatus) -> Order:
    """`order` in `status`; one that works is partially filled exactly when some of it has filled."""
    if status in (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED):
        status = OrderStatus.PARTIALLY_FILLED if order.filled_quantity else OrderStatus.OPEN
    return order if status is order.status else replace(order, status=status)


def _apply_fill(order: Order, fill: Fill) -> Change:
    """Book a fill once; the status follows from the quantities, not from which of the two fill events was named."""
    for cumulative, quantity in order.booked:
        if cumulative == fill.cumulative_quantity:
            same = quantity == fill.quantity
            otherwise = "" if same else f" as {fill.quantity}, booked as {quantity}"
            return Change(order=order, anomaly=f"fill up to {cumulative} told again{otherwise}", repeated=same)
    if fill.execution_id in order.reversed:
        told = f"execution {fill.execution_id} told again, which was taken back"
        return Change(order=order, anomaly=told, repeated=True)
    filled = max(order.filled_quantity, fill.cumulative_quantity)
    found = cell(order.status, OrderEvent.FILL if filled >= order.quantity else OrderEvent.PARTIAL_FILL)
    anomaly = None
    if found is ODD:
        anomaly = f"fill of {fill.quantity} told of an order that is {order.status.value}"
    elif filled > order.quantity:
        anomaly = f"filled {filled} of {order.quantity}"
    after = replace(
        order, filled_quantity=filled, booked=(*order.booked, (fill.cumulative_quantity, fill.quantity))
    )  # fmt: skip
    return Change(order=after if isinstance(found, Same) else _moved(after, found), fill=fill, anomaly=anomaly)


def _take_back(order: Order, event: OrderEvent, reversal: Fill | None, fill: Fill | None) -> Change:
    """Undo a booked fill, and book what it was corrected to. No final status is left by that: an order whose execution was
    busted does not go back to the venue."""
    if event is OrderEvent.TRADE_CORRECT and fill is None:
        return Change(order=order, anomaly="a correction that does not say what was corrected to")
    if reversal is None:
        return Change(order=order, anomaly=f"{event.value} of an execution that is not booked")
    if reversal.execution_id in order.reversed:
        told = f"{event.value} of execution {reversal.execution_id} told again"
        return Change(order=order, anomaly=told, repeated=True)
    left = tuple(entry for entry in order.booked if entry[0] != reversal.cumulative_quantity)
    filled = order.filled_quantity - reversal.quantity
    if fill is not None:  # it stands where the corrected one stood
        fill = dataclasses.replace(fill, cumulative_quantity=reversal.cumulative_quantity)
        left, filled = (*left, (fill.cumulative_quantity, fill.quantity)), filled + fill.quantity
    after = replace(order, filled_quantity=filled, booked=left, reversed=(*order.reversed, reversal.execution_id))
    anomaly = f"{event.value} of execution {reversal.execution_id}: {reversal.quantity} at {reversal.price_usd}"
    if fill is not None:
        anomaly += f", now {fill.quantity} at {fill.price_usd}"
    works = after.status in (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED)
    return Change(order=_moved(after, after.status) if works else after, fill=fill, reversal=reversal, anomaly=anomaly)
