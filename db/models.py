"""The ledger's tables as peewee sees them, for reading. The schema itself is owned by `db.migrations`."""

import peewee

from db.database import DecimalText


class Row(peewee.Model):
    """Every row says which run wrote it; models are bound to a database per query, never globally."""

    seq = peewee.AutoField()
    run_id = peewee.TextField()


class Run(Row):
    """One life of the trader process on this ledger."""

    started_ns = peewee.BigIntegerField()


class Meta_(Row):
    """Who this ledger is; one row."""

    ledger_id = peewee.TextField()
    created_ns = peewee.BigIntegerField()
    live_start_ns = peewee.BigIntegerField()

    class Meta:
        table_name = "meta"


class Entry(Row):
    """A fact with the UTC time of its recording."""

    at_ns = peewee.BigIntegerField()


class Decision(Entry):
    """What was decided for one bar; `targets` and `missing` are JSON."""

    decision_id = peewee.TextField()
    bar_end_ns = peewee.BigIntegerField()
    session_date = peewee.TextField()
    equity_usd = DecimalText()
    cash_usd = DecimalText()
    strategy = peewee.TextField()
    targets = peewee.TextField()
    missing = peewee.TextField()


class Order(Entry):
    """An order as approved; where it stands is its last OrderEvent."""

    client_order_id = peewee.TextField()
    decision_id = peewee.TextField()
    bar_end_ns = peewee.BigIntegerField()
    symbol = peewee.TextField()
    side = peewee.TextField()
    quantity = DecimalText()
    order_type = peewee.TextField()
    time_in_force = peewee.TextField()
    limit_price_usd = DecimalText(null=True)
    reference_price_usd = DecimalText()

    class Meta:
        table_name = "orders"


class OrderEvent(Entry):
    """One step of an order, with its state after it."""

    client_order_id = peewee.TextField()
    event = peewee.TextField()
    broker_order_id = peewee.TextField(null=True)
    status = peewee.TextField()
    filled_quantity = DecimalText()
    detail = peewee.TextField()

    class Meta:
        table_name = "order_event"


class Fill(Entry):
    """One execution; known by its execution id and by (order, cumulative quantity)."""

    execution_id = peewee.TextField()
    client_order_id = peewee.TextField()
    broker_order_id = peewee.TextField()
    symbol = peewee.TextField()
    side = peewee.TextField()
    quantity = DecimalText()
    cumulative_quantity = DecimalText()
    price_usd = DecimalText()
    fees_usd = DecimalText()
    filled_ns = peewee.BigIntegerField()


class RefusalRow(Entry):
    """An intent that our own risk limits refused."""

    decision_id = peewee.TextField()
    client_order_id = peewee.TextField()
    symbol = peewee.TextField()
    side = peewee.TextField()
    quantity = DecimalText()
    reference_price_usd = DecimalText()
    code = peewee.TextField()
    reason = peewee.TextField()
    limit_value = DecimalText(null=True)
    actual_value = DecimalText(null=True)

    class Meta:
        table_name = "refusal"


class CashEntry(Entry):
    """A movement of cash, with the balance after it."""

    kind = peewee.TextField()
    reference = peewee.TextField()
    amount_usd = DecimalText()
    balance_usd = DecimalText()
    settles_on = peewee.TextField()

    class Meta:
        table_name = "cash_entry"


class PositionEntry(Entry):
    """A movement of a position, with the position after it."""

    kind = peewee.TextField()
    reference = peewee.TextField()
    symbol = peewee.TextField()
    quantity_change = DecimalText()
    price_usd = DecimalText()
    quantity = DecimalText()
    average_cost_usd = DecimalText()
    realised_usd = DecimalText()

    class Meta:
        table_name = "position_entry"


class SessionEquity(Entry):
    """Equity at a phase of a session."""

    session_date = peewee.TextField()
    phase = peewee.TextField()
    equity_usd = DecimalText()
    cash_usd = DecimalText()

    class Meta:
        table_name = "session_equity"


class Reconciliation(Entry):
    """A comparison with the broker: both sides, and whether they agreed."""

    cause_of = peewee.TextField()
    checked = peewee.IntegerField()
    agreed = peewee.IntegerField()
    differences = peewee.TextField()
    ledger_cash_usd = DecimalText(null=True)
    broker_cash_usd = DecimalText()
    broker_equity_usd = DecimalText()
    ledger_positions = peewee.TextField()
    broker_positions = peewee.TextField()


class Reversal(Entry):
    """An execution that the venue took back; `corrected_execution_id` is booked in its place, if anything is."""

    execution_id = peewee.TextField()
    event = peewee.TextField()
    corrected_execution_id = peewee.TextField(null=True)


class SessionClose(Entry):
    """The account at the end of a session; the sums are since the ledger's opening."""

    session_date = peewee.TextField()
    equity_usd = DecimalText()
    cash_usd = DecimalText()
    unsettled_usd = DecimalText()
    positions_usd = DecimalText()
    cost_usd = DecimalText()
    opening_usd = DecimalText()
    realised_usd = DecimalText()
    fees_usd = DecimalText()
    dividends_usd = DecimalText()
    interest_usd = DecimalText()
    transfers_usd = DecimalText()
    other_usd = DecimalText()
    positions = peewee.TextField()
    cash_seq = peewee.BigIntegerField()
    position_seq = peewee.BigIntegerField()

    class Meta:
        table_name = "session_close"


class Difference(Entry):
    """Something that ledger and broker saw differently: both sides, and what was done about it."""

    cause_of = peewee.TextField()
    subject = peewee.TextField()
    ours = peewee.TextField()
    theirs = peewee.TextField()
    resolution = peewee.TextField()


class SessionJob(Entry):
    """How a job of a session's phase ended."""

    session_date = peewee.TextField()
    phase = peewee.TextField()
    job = peewee.TextField()
    ok = peewee.IntegerField()
    detail = peewee.TextField()

    class Meta:
        table_name = "session_job"


class TradingStateRow(Entry):
    """What trading may do from here on, who said so and why."""

    state = peewee.TextField()
    reason = peewee.TextField()
    set_by = peewee.TextField()

    class Meta:
        table_name = "trading_state"


MODELS: tuple[type[Row], ...] = (
    Run, Meta_, Decision, Order, OrderEvent, Fill, RefusalRow, CashEntry, PositionEntry, SessionEquity, Reconciliation,
    TradingStateRow, Reversal, SessionClose, Difference, SessionJob,
)  # fmt: skip
