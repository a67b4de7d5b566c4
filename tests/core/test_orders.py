"""The order table, cell by cell, and what no sequence of the broker's words can break."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.orders import FINAL, TRANSITIONS, Fill, Order, OrderEvent, OrderStatus, apply

# Status by event, written down from Alpaca's order life-cycle; "." is an anomaly that changes nothing.
TABLE = """
                 submitted accepted new  partial_fill     fill   canceled expired rejected replaced
recorded         submitted accepted open partially_filled filled canceled expired rejected replaced
submitted        .         accepted open partially_filled filled canceled expired rejected replaced
accepted         .         .        open partially_filled filled canceled expired rejected replaced
open             .         .        .    partially_filled filled canceled expired rejected replaced
partially_filled .         .        .    partially_filled filled canceled expired rejected replaced
filled           .         .        .    .                .      .        .       .        .
canceled         .         .        .    .                .      .        .       .        .
expired          .         .        .    .                .      .        .       .        .
rejected         .         .        .    .                .      .        .       .        .
replaced         .         .        .    .                .      .        .       .        .
"""
EVENTS, *ROWS = (line.split() for line in TABLE.strip().splitlines())
CELLS = [(row[0], event, result) for row in ROWS for event, result in zip(EVENTS, row[1:], strict=True)]


def order(status: str = "open", filled: int = 0) -> Order:
    booked = ((Decimal(filled), Decimal(filled)),) if filled else ()
    return Order(
        client_order_id="c", decision_id="d", symbol="AAPL", side="buy", quantity=Decimal(10), status=OrderStatus(status),
        filled_quantity=Decimal(filled), booked=booked,
    )  # fmt: skip


def fill(cumulative: int, quantity: int) -> Fill:
    return Fill(
        execution_id=f"e{cumulative}", client_order_id="c", broker_order_id="b", symbol="AAPL", side="buy",
        quantity=Decimal(quantity), cumulative_quantity=Decimal(cumulative), price_usd=Decimal(5),
    )  # fmt: skip


def test_the_table_here_has_every_status_and_every_event() -> None:
    assert {row[0] for row in ROWS} == set(OrderStatus) == set(TRANSITIONS)
    assert set(EVENTS) == set(OrderEvent)
    assert len(CELLS) == len(OrderStatus) * len(OrderEvent)


@pytest.mark.parametrize(("status", "event", "result"), CELLS)
def test_every_event_in_every_status_is_a_transition_or_an_anomaly(status: str, event: str, result: str) -> None:
    executed = {"partial_fill": fill(4, 4), "fill": fill(10, 10)}.get(event)

    change = apply(order(status), OrderEvent(event), fill=executed)

    if result == ".":
        assert change.order.status == status and change.anomaly is not None
    else:
        assert change.order.status == result and change.anomaly is None


def test_shares_that_changed_hands_count_even_after_a_final_status() -> None:
    change = apply(order("canceled", filled=3), OrderEvent.FILL, fill=fill(10, 7))

    assert (change.order.status, change.order.filled_quantity) == (OrderStatus.CANCELED, Decimal(10))
    assert change.fill is not None and change.anomaly is not None


def test_the_same_fill_told_twice_counts_once() -> None:
    once = apply(order(), OrderEvent.PARTIAL_FILL, fill=fill(4, 4)).order

    again = apply(once, OrderEvent.PARTIAL_FILL, fill=fill(4, 4))

    assert again.fill is None and again.order == once and again.anomaly is not None


def test_a_late_fill_that_closes_a_gap_counts() -> None:
    gap = apply(order(), OrderEvent.FILL, fill=fill(10, 6)).order
    assert gap.gap_quantity == 4

    late = apply(gap, OrderEvent.PARTIAL_FILL, fill=fill(4, 4))

    assert late.fill is not None and late.order.gap_quantity == 0 and late.order.filled_quantity == 10


def test_more_filled_than_ordered_is_counted_and_reported() -> None:
    change = apply(order(), OrderEvent.FILL, fill=fill(12, 12))

    assert change.order.status is OrderStatus.FILLED and change.fill is not None
    assert change.anomaly == "filled 12 of 10"


def test_a_fill_event_without_its_fill_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="fill"):
        apply(order(), OrderEvent.FILL)
    with pytest.raises(ValueError, match="canceled"):
        apply(order(), OrderEvent.CANCELED, fill=fill(4, 4))


told = st.lists(
    st.one_of(
        st.sampled_from([e for e in OrderEvent if e not in (OrderEvent.FILL, OrderEvent.PARTIAL_FILL)]),
        st.sampled_from([(3, 3), (5, 2), (10, 5)]),
    ),
    max_size=30,
)


@given(told)
def test_no_order_of_events_loses_shares_or_leaves_a_final_status(events: list[OrderEvent | tuple[int, int]]) -> None:
    now, counted = order("recorded"), Decimal(0)
    for event in events:
        before = now
        if isinstance(event, tuple):
            change = apply(now, OrderEvent.PARTIAL_FILL, fill=fill(*event))
            counted += change.fill.quantity if change.fill else 0
        else:
            change = apply(now, event)
        now = change.order
        assert now.filled_quantity >= before.filled_quantity
        assert before.status not in FINAL or now.status == before.status
    seen = {event for event in events if isinstance(event, tuple)}
    assert counted == sum(quantity for _, quantity in seen)
    assert now.filled_quantity == max((cumulative for cumulative, _ in seen), default=0)
