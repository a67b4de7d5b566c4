"""The order table, cell by cell, and what no sequence of the broker's words can break."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.orders import FINAL, NOTED, ODD, TRANSITIONS, Fill, Order, OrderEvent, OrderStatus, apply, cell

# Event by status, written down from Alpaca's order life-cycle. "=": noted, nothing changes; ".": an anomaly that changes nothing.
# What has filled in the orders below: nothing before they are open, all of the filled one, 3 of the others.
TABLE = """
event                  rec sub acc opn par pca pre fil can exp rej rep
submitted              sub  =   .   .   .   .   .   .   .   .   .   .
accepted               acc acc  =   .   .   .   .   .   .   .   .   .
pending_new            acc acc  =   .   .   .   .   .   .   .   .   .
held                   acc acc  =   .   .   .   .   .   .   .   .   .
pending_review         acc acc  =   .   .   .   .   .   .   .   .   .
accepted_for_bidding   acc acc  =   .   .   .   .   .   .   .   .   .
new                    opn opn opn  =   .   .   .   .   .   .   .   .
partial_fill           par par par par par  =   =   .   .   .   .   .
fill                   fil fil fil fil fil fil fil  .   .   .   .   .
canceled               can can can can can can can  .   =   .   .   .
expired                exp exp exp exp exp exp exp  .   .   =   .   .
done_for_day           exp exp exp exp exp exp exp  .   .   =   .   .
rejected               rej rej rej rej rej rej rej  .   .   .   =   .
replaced               rep rep rep rep rep rep rep  .   .   .   .   =
pending_cancel         pca pca pca pca pca  =  pca  .   .   .   .   .
pending_replace        pre pre pre pre pre  .   =   .   .   .   .   .
order_cancel_rejected   .   .   =   =   =  par  =   =   =   =   .   =
order_replace_rejected  .   .   =   =   =   =  par  =   =   =   .   =
stopped                opn opn opn  =   =   =   =   .   .   .   .   .
suspended              acc acc  =   =   =   =   =   .   .   .   .   .
calculated              .   .   =   =   =   =   =   =   =   =   .   =
restated                .   .   =   =   =   =   =   .   .   .   .   .
trade_bust              .   .   .   .   =   =   =   =   =   =   .   =
trade_correct           .   .   .   .   =   =   =   =   =   =   .   =
unknown                 .   .   .   .   .   .   .   .   .   .   .   .
"""
STATUSES = {
    "rec": "recorded", "sub": "submitted", "acc": "accepted", "opn": "open", "par": "partially_filled",
    "pca": "pending_cancel", "pre": "pending_replace", "fil": "filled", "can": "canceled", "exp": "expired",
    "rej": "rejected", "rep": "replaced",
}  # fmt: skip
HEAD, *ROWS = (line.split() for line in TABLE.strip().splitlines())
CELLS = [(STATUSES[status], row[0], result) for row in ROWS for status, result in zip(HEAD[1:], row[1:], strict=True)]
FILLED = {"recorded": 0, "submitted": 0, "accepted": 0, "open": 0, "rejected": 0, "filled": 10}
FILL_EVENTS = (OrderEvent.FILL, OrderEvent.PARTIAL_FILL)


def order(status: str = "open", filled: int | None = None, **fields: str) -> Order:
    """10 shares; what has filled came in two parts, but for the last share in one."""
    filled = FILLED.get(status, 3) if filled is None else filled
    parts = ((filled - 1, filled - 1), (filled, 1)) if filled > 1 else ((filled, filled),) if filled else ()
    return Order(
        client_order_id="c", decision_id="d", symbol="AAPL", side="buy", quantity=Decimal(10), status=OrderStatus(status),
        filled_quantity=Decimal(filled), booked=tuple((Decimal(a), Decimal(b)) for a, b in parts), **fields,
    )  # fmt: skip


def fill(cumulative: int, quantity: int, execution_id: str = "", price: int = 5) -> Fill:
    return Fill(
        execution_id=execution_id or f"e{cumulative}", client_order_id="c", broker_order_id="b", symbol="AAPL", side="buy",
        quantity=Decimal(quantity), cumulative_quantity=Decimal(cumulative), price_usd=Decimal(price),
    )  # fmt: skip


def test_the_table_here_has_every_status_and_every_event() -> None:
    assert set(STATUSES.values()) == set(OrderStatus) == set(TRANSITIONS)
    assert [row[0] for row in ROWS] == sorted({row[0] for row in ROWS}, key=[row[0] for row in ROWS].index)
    assert {row[0] for row in ROWS} == set(OrderEvent)
    assert len(CELLS) == len(OrderStatus) * len(OrderEvent)


@pytest.mark.parametrize(("status", "event", "result"), CELLS)
def test_every_event_in_every_status_is_a_transition_or_a_recorded_word(status: str, event: str, result: str) -> None:
    before = order(status)
    executed = {"partial_fill": fill(4, 4), "fill": fill(10, 10), "trade_correct": fill(13, 1)}.get(event)
    if status == "filled" and event in FILL_EVENTS:
        executed = fill(13, 3)
    last = before.booked[-1] if before.booked else None
    booked = fill(int(last[0]), int(last[1])) if last and event in ("trade_bust", "trade_correct") else None

    change = apply(before, OrderEvent(event), fill=executed, reversal=booked)

    after = change.order.status.value
    if result == ".":
        assert after == status and change.anomaly is not None
        assert cell(OrderStatus(status), OrderEvent(event)) is ODD
    elif result == "=":
        assert after == status and cell(OrderStatus(status), OrderEvent(event)) is NOTED
        if event in ("trade_bust", "trade_correct"):
            assert change.reversal == booked and change.anomaly is not None  # taken back, and kept as odd
        else:
            assert change.anomaly is None
    else:
        assert after == STATUSES[result] and change.anomaly is None


@pytest.mark.parametrize("asked", ["pending_cancel", "pending_replace"])
def test_what_was_asked_in_vain_leaves_an_order_that_nothing_of_filled_open(asked: str) -> None:
    refused = OrderEvent(asked.replace("pending", "order") + "_rejected")

    assert apply(order(asked, 0), refused).order.status is OrderStatus.OPEN


def test_an_order_that_is_good_till_canceled_goes_on_after_the_day() -> None:
    """Only a person's replacement of one of ours is such an order; a second one beside it would be a duplicate."""
    assert not apply(order("open", time_in_force="gtc"), OrderEvent.DONE_FOR_DAY).order.final
    assert apply(order("open", time_in_force="day"), OrderEvent.DONE_FOR_DAY).order.final


def test_a_word_that_nobody_knows_is_an_event_of_its_own() -> None:
    assert OrderEvent.of("pending_cancel") is OrderEvent.PENDING_CANCEL
    assert OrderEvent.of("quantum_entangled") is OrderEvent.UNKNOWN


def test_a_busted_execution_is_taken_back_once_and_never_booked_again() -> None:
    filled = apply(order("open"), OrderEvent.FILL, fill=fill(10, 10)).order

    busted = apply(filled, OrderEvent.TRADE_BUST, reversal=fill(10, 10))
    again = apply(busted.order, OrderEvent.TRADE_BUST, reversal=fill(10, 10))
    late = apply(busted.order, OrderEvent.FILL, fill=fill(10, 10))

    assert (busted.order.status, busted.order.filled_quantity) == (
        OrderStatus.FILLED,
        0,
    )  # the venue does not try again
    assert (again.order, again.reversal, again.repeated) == (busted.order, None, True)
    assert (late.order, late.fill) == (busted.order, None)


def test_a_working_order_whose_only_fill_was_busted_is_open_and_may_fill_anew() -> None:
    part = apply(order("open"), OrderEvent.PARTIAL_FILL, fill=fill(4, 4)).order

    busted = apply(part, OrderEvent.TRADE_BUST, reversal=fill(4, 4)).order
    anew = apply(busted, OrderEvent.PARTIAL_FILL, fill=fill(4, 4, "other"))

    assert (busted.status, busted.open_quantity) == (OrderStatus.OPEN, 10)
    assert anew.fill is not None and anew.order.filled_quantity == 4


def test_a_corrected_execution_stands_in_for_the_one_it_corrects() -> None:
    part = apply(order("open"), OrderEvent.PARTIAL_FILL, fill=fill(4, 4)).order

    change = apply(part, OrderEvent.TRADE_CORRECT, reversal=fill(4, 4), fill=fill(3, 3, "better", price=6))

    assert (change.reversal, change.fill) == (fill(4, 4), fill(4, 3, "better", price=6))  # known by the same place
    assert (change.order.filled_quantity, change.order.gap_quantity) == (3, 0)


def test_a_bust_of_what_is_not_booked_takes_nothing_back() -> None:
    change = apply(order("partially_filled"), OrderEvent.TRADE_BUST)

    assert change.order == order("partially_filled") and change.reversal is None
    assert change.anomaly == "trade_bust of an execution that is not booked"


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
    with pytest.raises(ValueError, match="canceled"):
        apply(order(), OrderEvent.CANCELED, reversal=fill(4, 4))


WORDS = [e for e in OrderEvent if e not in (*FILL_EVENTS, OrderEvent.TRADE_BUST, OrderEvent.TRADE_CORRECT)]
told = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.sampled_from([(3, 3), (5, 2), (10, 5)]),
        st.tuples(st.just("bust"), st.sampled_from([3, 5, 10])),
        st.tuples(st.just("correct"), st.sampled_from([3, 5, 10])),
    ),
    max_size=40,
)


@given(told)
def test_no_order_of_events_loses_shares_or_leaves_a_final_status(events: list[Any]) -> None:
    """Whatever is told, repeated and in any order: the fills booked less those taken back are the order's position."""
    now, position, executions = order("recorded"), Decimal(0), dict[str, Fill]()
    for event in events:
        before = now
        if isinstance(event, OrderEvent):
            change = apply(now, event)
        elif event[0] in ("bust", "correct"):
            taken = executions.get(f"e{event[1]}")
            fixed = fill(event[1], 1, f"f{event[1]}") if event[0] == "correct" else None
            change = apply(now, OrderEvent("trade_" + event[0]), reversal=taken, fill=fixed)
        else:
            change = apply(now, OrderEvent.PARTIAL_FILL, fill=fill(*event))
        now = change.order
        position += change.fill.quantity if change.fill else 0
        position -= change.reversal.quantity if change.reversal else 0
        if change.fill:
            executions[change.fill.execution_id] = change.fill
        assert now.filled_quantity >= before.filled_quantity or change.reversal is not None
        assert before.status not in FINAL or now.status == before.status
        assert sum(quantity for _, quantity in now.booked) == position
        assert now.gap_quantity >= 0
    if not any(isinstance(event, tuple) and event[0] in ("bust", "correct") for event in events):
        seen = {event for event in events if isinstance(event, tuple)}
        assert position == sum(quantity for _, quantity in seen)
        assert now.filled_quantity == max((cumulative for cumulative, _ in seen), default=0)
