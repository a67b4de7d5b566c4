"""The life of an order, as one table.

    recorded --submitted--> submitted --accepted--> accepted --new--> open --partial_fill--> partially_filled --fill--> filled
                                                                       and from each of them canceled, expired, rejected, replaced

The broker's word arrives at least once, in any order and with gaps. So: an event that moves an order backwards or repeats
itself changes nothing and comes back as an anomaly to be recorded; `filled_quantity` only grows; a final status absorbs
everything, except that shares which really changed hands are counted whatever the status says.
A fill is identified by (client_order_id, cumulative_quantity): the same fill told twice counts once, and a late one that
fills a gap still counts.
"""

import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec
from msgspec.structs import replace

_ZERO = Decimal(0)


class OrderStatus(enum.StrEnum):
    """Where an order stands."""

    RECORDED = "recorded"  # committed in the ledger, not sent
    SUBMITTED = "submitted"  # sent, no answer yet
    ACCEPTED = "accepted"  # the broker holds it, the venue does not yet
    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    REPLACED = "replaced"


class OrderEvent(enum.StrEnum):
    """What happens to an order; all but `submitted` are the broker's words (trade_updates)."""

    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    NEW = "new"
    PARTIAL_FILL = "partial_fill"
    FILL = "fill"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    REPLACED = "replaced"


FINAL: Final = frozenset(
    {OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REJECTED, OrderStatus.REPLACED}
)

_ENDINGS: Final = {
    OrderEvent.PARTIAL_FILL: OrderStatus.PARTIALLY_FILLED,
    OrderEvent.FILL: OrderStatus.FILLED,
    OrderEvent.CANCELED: OrderStatus.CANCELED,
    OrderEvent.EXPIRED: OrderStatus.EXPIRED,
    OrderEvent.REJECTED: OrderStatus.REJECTED,
    OrderEvent.REPLACED: OrderStatus.REPLACED,
}
TRANSITIONS: Final[dict[OrderStatus, dict[OrderEvent, OrderStatus]]] = {
    OrderStatus.RECORDED: {
        OrderEvent.SUBMITTED: OrderStatus.SUBMITTED,
        OrderEvent.ACCEPTED: OrderStatus.ACCEPTED,  # adopted: sent before a crash, found by its id
        OrderEvent.NEW: OrderStatus.OPEN,
        **_ENDINGS,
    },
    OrderStatus.SUBMITTED: {OrderEvent.ACCEPTED: OrderStatus.ACCEPTED, OrderEvent.NEW: OrderStatus.OPEN, **_ENDINGS},
    OrderStatus.ACCEPTED: {OrderEvent.NEW: OrderStatus.OPEN, **_ENDINGS},
    OrderStatus.OPEN: dict(_ENDINGS),
    OrderStatus.PARTIALLY_FILLED: dict(_ENDINGS),
    OrderStatus.FILLED: {},
    OrderStatus.CANCELED: {},
    OrderStatus.EXPIRED: {},
    OrderStatus.REJECTED: {},
    OrderStatus.REPLACED: {},
}


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
    """What an event did: the order after it, the fill to book (None: none, or counted before), and what was odd."""

    order: Order
    fill: Fill | None = None
    anomaly: str | None = None


def order_of(intent: OrderIntent, decision_id: str) -> Order:
    """The order an intent becomes when it is recorded."""
    return Order(
        client_order_id=intent.client_order_id, decision_id=decision_id, symbol=intent.symbol, side=intent.side,
        quantity=intent.quantity, order_type=intent.order_type, time_in_force=intent.time_in_force,
        limit_price_usd=intent.limit_price_usd, reference_price_usd=intent.reference_price_usd,
    )  # fmt: skip


def apply(order: Order, event: OrderEvent, *, fill: Fill | None = None, broker_order_id: str | None = None) -> Change:
    """Move `order` by `event`. Never raises on what the broker says; what does not fit comes back in `anomaly`.

    A fill event must carry its `fill`, and no other event may: ValueError otherwise, for that is our own mistake.
    """
    if (event in (OrderEvent.PARTIAL_FILL, OrderEvent.FILL)) != (fill is not None):
        raise ValueError(f"event {event.value} of {order.client_order_id} with fill {fill}")
    if order.broker_order_id is None and broker_order_id is not None:
        order = replace(order, broker_order_id=broker_order_id)
    if fill is not None:
        return _apply_fill(order, fill)
    status = TRANSITIONS[order.status].get(event)
    if status is None:
        return Change(order=order, anomaly=f"{event.value} told of an order that is {order.status.value}")
    return Change(order=replace(order, status=status))


def _apply_fill(order: Order, fill: Fill) -> Change:
    """Book a fill once; the status follows from the quantities, not from which of the two fill events was named."""
    if order.booked and any(cumulative == fill.cumulative_quantity for cumulative, _ in order.booked):
        return Change(order=order, anomaly=f"fill up to {fill.cumulative_quantity} told again")
    filled = max(order.filled_quantity, fill.cumulative_quantity)
    event = OrderEvent.FILL if filled >= order.quantity else OrderEvent.PARTIAL_FILL
    status = TRANSITIONS[order.status].get(event)
    anomaly = None
    if status is None:
        anomaly = f"fill of {fill.quantity} told of an order that is {order.status.value}"
    elif filled > order.quantity:
        anomaly = f"filled {filled} of {order.quantity}"
    booked = (*order.booked, (fill.cumulative_quantity, fill.quantity))
    after = replace(order, status=status or order.status, filled_quantity=filled, booked=booked)
    return Change(order=after, fill=fill, anomaly=anomaly)
