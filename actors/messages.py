"""Every command and event of the trading side, and one union per actor: its protocol.

Commands are imperative and have one receiver; events are in the past tense and are never refused.
Money and quantities at the broker edge are Decimal; feature values and scores are float.
"""

from decimal import Decimal

import msgspec

from actors.kernel.message import Message


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a message that is never told on its own."""


# --- reasons: why a signal, a target, a refusal (explaining an order later needs no recomputation) -------------------


class ConditionVerdict(Part):
    """One condition of a strategy at one bar: what it looked at and what it said."""

    strategy: str
    slot: str  # entry | exit | trend | filter | logic.entry | logic.exit | logic.veto
    condition: str
    inputs: dict[str, float]
    verdict: bool


class Vote(Part):
    """One strategy's voice in a symbol's combined signal."""

    strategy: str
    strategy_id: str
    weight: float
    held: bool


class TargetWeight(Part):
    """What one symbol is to weigh, with what went in."""

    symbol: str
    state_in: bool
    score: float
    viability: float
    weight: float
    price_usd: Decimal
    held_quantity: Decimal
    target_quantity: Decimal


class OrderIntent(Part):
    """What we want, before risk."""

    client_order_id: str
    symbol: str
    side: str  # buy | sell
    quantity: Decimal
    reference_price_usd: Decimal
    order_type: str = "market"
    time_in_force: str = "day"
    limit_price_usd: Decimal | None = None


class ApprovedIntent(OrderIntent):
    """An intent that risk has approved: the only kind that can be recorded as an order. Made by `actors.portfolio` alone, of an
    `algo_royale.risk.ApprovedOrder`."""


class Refusal(Part):
    """Our own no: a named code of `algo_royale.risk.RefusalCode`, a sentence, and its numbers."""

    intent: OrderIntent
    code: str
    reason: str
    limit: Decimal | None = None
    value: Decimal | None = None


class FillRecord(Part):
    """One execution of part of an order."""

    execution_id: str
    client_order_id: str
    broker_order_id: str
    symbol: str
    side: str
    quantity: Decimal
    # of the order after this fill: (client_order_id, cumulative_quantity) is a fill's identity
    cumulative_quantity: Decimal
    price_usd: Decimal
    fees_usd: Decimal = Decimal(0)
    at_ns: int = 0


class PositionRecord(Part):
    """Signed quantity and average cost of a symbol."""

    symbol: str
    quantity: Decimal
    average_cost_usd: Decimal


class AccountEntry(Part):
    """Cash or shares that moved at the broker without an order: a split, a dividend, a fee, a deposit."""

    entry_id: str
    kind: str  # the broker's word, in lower case
    symbol: str
    quantity: Decimal  # shares added
    cash_usd: Decimal  # US dollars added
    at_ns: int


class OrderRecord(Part):
    """Where one of our orders stands."""

    client_order_id: str
    broker_order_id: str | None
    decision_id: str
    symbol: str
    side: str
    quantity: Decimal
    filled_quantity: Decimal
    status: str  # algo_royale.orders.OrderStatus value
    order_type: str = "market"
    time_in_force: str = "day"
    limit_price_usd: Decimal | None = None
    reference_price_usd: Decimal = Decimal(0)
    bar_end_ns: int = 0  # of the decision; the order is for the session after it


class LastTrade(Part):
    """When a symbol was last bought or sold by us."""

    symbol: str
    side: str
    at_ns: int


class Unsettled(Part):
    """Proceeds that are cash already and may be spent from the session `settles_on` (ISO date)."""

    settles_on: str
    amount_usd: Decimal


class ActionRecord(Part):
    """A corporate action as the broker tells it; ex_date is ISO."""

    ex_date: str
    ratio: float = 1.0
    cash_usd: float = 0.0


# --- session, clock --------------------------------------------------------------------------------------------------


class SessionPhaseChanged(Message):
    """The exchange's day moved on."""

    session_date: str
    phase: str  # pre_market | open | closed
    open_ns: int
    close_ns: int


class JobDue(Message):
    """A recurring job of the clock actor is due (reconcile, heartbeat)."""

    job: str


class SessionJobDue(Message):
    """A job of a session's phase is to be done (names are those of algo_royale.phases); the answer goes to `reply_to`."""

    session_date: str
    phase: str
    job: str
    reply_to: str


class SessionJobDone(Message):
    """How a job of a session ended; `sender` is the path of who did it."""

    session_date: str
    phase: str
    job: str
    sender: str
    ok: bool
    detail: str = ""

    @classmethod
    def of(cls, due: SessionJobDue, sender: str, detail: str, *, at_ns: int, ok: bool = True) -> "SessionJobDone":
        return cls(
            at_ns=at_ns, session_date=due.session_date, phase=due.phase, job=due.job, sender=sender, ok=ok, detail=detail
        )  # fmt: skip


class SessionJobsRequested(Message):
    """Ask the ledger which jobs of the sessions since a date are on record."""

    since: str
    reply_to: str


class SessionJobsKnown(Message):
    """Jobs on record, as (session, phase, job, ended well), oldest first."""

    jobs: tuple[tuple[str, str, str, bool], ...]


class RecordSessionJob(Message):
    """Commit how a job of a session ended, once all who had a part in it have answered, or not in time."""

    session_date: str
    phase: str
    job: str
    ok: bool
    detail: str


class TimerFired(Message):
    """A timer that the actor set for itself."""

    name: str
    key: str = ""


# --- market data -----------------------------------------------------------------------------------------------------


class FrameReceived(Message):
    """One raw websocket frame, told by a reader thread; decoded by the actor, never by the reader."""

    endpoint: str  # data | trading
    connection: int
    text: str


class ConnectionChanged(Message):
    """A reader thread opened or lost its socket."""

    endpoint: str
    connection: int
    connected: bool
    detail: str = ""
    fatal: bool = False


class FeedHealthChanged(Message):
    """The feed went quiet or speaks again; `stale` are the symbols whose last price is too old to add risk on."""

    state: str  # of the connection
    stale: tuple[str, ...]
    detail: str = ""


class FeedStarted(Message):
    """The streamer is subscribed; signal actors answer with HistoryRequested."""


class HistoryRequested(Message):
    """A signal actor wants the closed bars after `after_ns` (start label; 0: everything its warm-up needs)."""

    symbol: str
    after_ns: int
    warmup_bars: int
    live_start_ns: int


class BarRow(Part):
    """A closed bar, raw prices as traded."""

    start_ns: int
    end_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float | None = None
    trade_count: int | None = None


class HistoryLoaded(Message):
    """Closed bars in order and the corporate actions known now, answering HistoryRequested."""

    symbol: str
    after_ns: int
    bars: tuple[BarRow, ...]
    actions: tuple[ActionRecord, ...]
    known_until_ns: int = 0  # every bar that had ended by then is in it; 0: by at_ns


class HistoryUnavailable(Message):
    """The history could not be fetched; the signal actor asks again."""

    symbol: str
    after_ns: int
    reason: str


class BarClosed(Message):
    """A bar of one symbol is complete."""

    symbol: str
    timeframe: str
    bar: BarRow
    actions: tuple[ActionRecord, ...] = ()  # those whose ex_date is this bar's session


class BarCorrected(Message):
    """A bar (or a minute of one) was told again, otherwise, after it had closed here: on record, and nothing is decided anew."""

    symbol: str
    timeframe: str  # of `bar`
    bar: BarRow


# --- signals ---------------------------------------------------------------------------------------------------------


class SymbolWarmed(Message):
    """A symbol's indicator state stands; the adjusted closes that allocators look back on, oldest first."""

    symbol: str
    bar_ends_ns: tuple[int, ...]
    adjusted_closes: tuple[float, ...]
    close_usd: Decimal | None = None  # the last raw close: what a symbol without a bar is valued at
    splits: tuple[ActionRecord, ...] = ()  # all that are known


class SignalReported(Message):
    """A symbol has evaluated one bar: its signal, its state, and why. Told for every bar (the bar barrier)."""

    symbol: str
    bar_end_ns: int
    signal: int  # 1 enter, -1 exit, 0 unchanged
    state_in: bool
    score: float
    changed: bool
    close_usd: Decimal
    adjusted_close: float
    votes: tuple[Vote, ...] = ()
    verdicts: tuple[ConditionVerdict, ...] = ()  # filled when `changed`
    split_ratio: float = 1.0  # new shares per old one, where the symbol splits in the bar's session


class PricesRequested(Message):
    """Before the decision for a bar time: what does the market look like now?"""

    bar_end_ns: int


class SeenPrice(Part):
    """The last trade of a symbol and the spread of its last quote, (ask - bid) / middle; None: not known."""

    symbol: str
    trade_usd: Decimal | None = None
    spread: Decimal | None = None


class PricesSeen(Message):
    """The answer; without a symbol where nobody could say."""

    bar_end_ns: int
    prices: tuple[SeenPrice, ...]


# --- decisions and the ledger ----------------------------------------------------------------------------------------


class SnapshotRequested(Message):
    """Someone who has just started wants the ledger's facts; the answer goes to `reply_to`."""

    reply_to: str


class LedgerSnapshot(Message):
    """The facts as committed: cash, positions, open orders, the last decision."""

    ledger_id: str
    cash_usd: Decimal | None  # None: the ledger does not know yet (no account seen)
    positions: tuple[PositionRecord, ...]
    open_orders: tuple[OrderRecord, ...]
    last_decision_bar_end_ns: int
    live_start_ns: int
    session_start_equity_usd: Decimal | None = None  # equity of the last decision in a session before last_session_date
    orders_recent_ns: tuple[int, ...] = ()  # bar_end_ns of the decisions of the latest orders, one entry per order
    orders_session_count: int = 0  # orders decided in last_session_date
    peak_equity_usd: Decimal | None = None  # highest of any decision since trading was last resumed
    state: str = "trading"  # algo_royale.risk.TradingState value
    state_reason: str = ""
    last_targets: tuple[TargetWeight, ...] = ()  # of the latest decision that had any (a quiet bar's decision has none)
    last_targets_date: str = ""  # the session of that decision
    last_equity_usd: Decimal | None = None  # of the latest decision, quiet or not
    last_session_date: str = ""  # of the latest decision
    ended_orders: tuple[OrderRecord, ...] = ()  # of the last days: a fill may be told of them late
    last_trades: tuple[LastTrade, ...] = ()  # the latest purchase and the latest sale of each symbol
    unsettled: tuple[Unsettled, ...] = ()  # parts of the cash that settle in a later session


class RecordDecision(Message):
    """Commit one bar's decision, its targets, its approved and refused intents, before anyone acts on it."""

    decision_id: str
    bar_end_ns: int
    session_date: str
    equity_usd: Decimal
    cash_usd: Decimal
    strategy: str
    targets: tuple[TargetWeight, ...]
    approved: tuple[ApprovedIntent, ...]
    refused: tuple[Refusal, ...]
    missing: tuple[str, ...] = ()  # symbols that had not reported when the watermark fired


class DecisionRecorded(Message):
    """The decision is durable; its orders may be sent."""

    decision_id: str
    bar_end_ns: int
    orders: tuple[OrderRecord, ...]


class RecordOrderEvent(Message):
    """Commit a change of one order's state, with its fill if it had one."""

    client_order_id: str
    broker_order_id: str | None
    event: str  # algo_royale.orders.OrderEvent value
    detail: str = ""
    fill: FillRecord | None = None
    reversed_execution_id: str = ""  # of a bust or correction: the execution that is taken back
    successor: OrderRecord | None = None  # of `replaced`: the order that goes on in its place
    found_by: str = ""  # the comparison with the broker (its cause_of) that brought it to light; empty: we were told


class OrderChanged(Message):
    """An order's state changed and is committed; `cash_usd` and `position` are after the fill, if there was one."""

    order: OrderRecord
    fill: FillRecord | None
    cash_usd: Decimal | None
    position: PositionRecord | None
    event: str = ""
    successor: OrderRecord | None = None  # goes on in the place of an order that was replaced


class TakenBack(Part):
    """An order of which the broker shows less filled than the ledger has, and the executions of it that it still lists."""

    client_order_id: str
    filled_quantity: Decimal
    listed: tuple[str, ...]


class RecordReconciliation(Message):
    """Commit what a comparison with the broker found. A difference halts trading where the comparison `is_final`: the broker's
    positions may lag behind its fills for a moment."""

    cause_of: str  # start | reconnect | periodic
    checked: int
    account_cash_usd: Decimal
    account_equity_usd: Decimal
    positions: tuple[PositionRecord, ...]
    entries: tuple[AccountEntry, ...] = ()
    is_final: bool = True
    taken_back: tuple[TakenBack, ...] = ()


class Disagreed(Message):
    """Ledger and broker differ, which is to be looked at once more before it counts."""

    differences: tuple[str, ...]


class SymbolPrice(Part):
    """What a share of the symbol was worth."""

    symbol: str
    price_usd: Decimal


class RecordSessionClose(Message):
    """Commit what the account is worth at the end of a session; each session once."""

    session_date: str
    prices: tuple[SymbolPrice, ...]


class Reconciled(Message):
    """Ledger and broker agree; trading may go on."""

    checked: int
    differences: int
    cash_usd: Decimal
    positions: tuple[PositionRecord, ...]
    split: tuple[str, ...] = ()  # symbols of which the broker has told a split lately


class HaltTrading(Message):
    """Let trading do no more than `state` (an algo_royale.risk.TradingState value); it stays so until a person resumes.

    `by`: a person's name, or "risk" for a limit on losses. The default is for a contradiction with the broker, which ends
    the process as well.
    """

    reason: str
    state: str = "halted"
    by: str = "orders"


class ResumeTrading(Message):
    """A person has looked and lets trading go on; losses are counted anew from here."""

    reason: str
    by: str


class FlattenRequested(Message):
    """A person wants all open orders canceled and all positions closed; buys nothing until resumed."""

    reason: str
    by: str


class TradingStateChanged(Message):
    """What trading may do from now on, as committed."""

    state: str
    reason: str


# --- broker ----------------------------------------------------------------------------------------------------------


class SubmitOrder(Message):
    """Send one committed order, now or not at all: an `OrderRecord` is what the ledger has, never an intent, and the broker
    certainly does not hold it. From `until_ns` on it would be too late."""

    order: OrderRecord
    until_ns: int


class TradingEnds(Message):
    """The process is about to end: nothing more is to be sent, and what the broker holds of ours to be canceled."""


class LookUpOrder(Message):
    """Ask the broker by client id whether it holds an order that may have been sent."""

    client_order_id: str


class CancelOrder(Message):
    """Ask the broker to cancel one order."""

    client_order_id: str
    broker_order_id: str


class OrderAccepted(Message):
    """The broker holds the order (answer to a submit, or found by its client id)."""

    client_order_id: str
    broker_order_id: str
    status: str
    filled_quantity: Decimal
    adopted: bool = False


class OrderRejected(Message):
    """The broker said no."""

    client_order_id: str
    status: int
    code: int | None
    reason: str


class SubmissionUncertain(Message):
    """No usable answer and the look-up failed too: we do not know whether the broker holds the order."""

    client_order_id: str
    reason: str


class OrderAbsent(Message):
    """The broker does not show the order under its client id. It may yet: what it has taken it may show a moment later.

    `reason`: what became of the submit just before this look-up; empty where there was none."""

    client_order_id: str
    reason: str = ""


class SubmissionDelayed(Message):
    """Certainly not sent (or looked up), and nothing is to be asked for the next `wait_ns`."""

    client_order_id: str
    wait_ns: int
    reason: str


class TradeUpdated(Message):
    """One trade_updates event, decoded."""

    event: str
    client_order_id: str
    broker_order_id: str
    symbol: str
    side: str
    status: str
    quantity: Decimal
    filled_quantity: Decimal
    execution_id: str | None
    fill_price_usd: Decimal | None
    fill_quantity: Decimal | None
    position_quantity: Decimal | None
    previous_execution_id: str | None = None  # of a bust or correction: the execution that is taken back
    replaces: str = ""  # the broker's id of the order in whose place this one stands
    replaced_by: str = ""  # and of the one in the place of this
    order_type: str = "market"
    time_in_force: str = "day"
    limit_price_usd: Decimal | None = None


class BrokerSnapshotRequested(Message):
    """The order dispatcher wants the broker's truth: what moved since, and the orders submitted after `orders_after_ns`."""

    cause_of: str
    since_ns: int
    orders_after_ns: int


class BrokerSnapshot(Message):
    """The broker's truth at one instant: orders (open, and closed since), fills, positions, cash."""

    cause_of: str
    orders: tuple[TradeUpdated, ...]
    fills: tuple[FillRecord, ...]
    positions: tuple[PositionRecord, ...]
    cash_usd: Decimal
    equity_usd: Decimal
    entries: tuple[AccountEntry, ...] = ()


class BrokerStateChanged(Message):
    """The broker's REST and stream are usable, or not."""

    connected: bool
    detail: str = ""


# --- notifications ---------------------------------------------------------------------------------------------------


class Noticed(Message):
    """Something happened that a person may want to hear of; `key` says what was lost or found."""

    event: str  # lost | found, or one of [notify] events
    text: str
    key: str = ""


class HeartbeatDue(Message):
    """It is time to show that the trader is alive, by the machine's clock."""


class NotificationDelivered(Message):
    """Edge: a service took a notification, or did not. `service` is its kind and place in the list; addresses are secrets."""

    event: str
    service: str
    delivered: bool
    detail: str = ""


NotifierMessage = Noticed | HeartbeatDue | NotificationDelivered | TimerFired
SessionMessage = JobDue | SessionJobDone | SessionJobsKnown | TimerFired
ClockMessage = TimerFired
MarketDataMessage = (
    FrameReceived | ConnectionChanged | HistoryRequested | PricesRequested | SessionPhaseChanged | SessionJobDue | TimerFired
)  # fmt: skip
SignalMessage = FeedStarted | HistoryLoaded | HistoryUnavailable | BarClosed | BarCorrected | SessionJobDue | TimerFired
PortfolioMessage = (
    PricesSeen
    | SymbolWarmed
    | SessionJobDue
    | FeedHealthChanged
    | SignalReported
    | LedgerSnapshot
    | OrderChanged
    | Reconciled
    | SessionPhaseChanged
    | TradingStateChanged
    | TimerFired
)
OrdersMessage = (
    DecisionRecorded | LedgerSnapshot | OrderAccepted | OrderRejected | SubmissionUncertain | OrderAbsent | SubmissionDelayed
    | TradingEnds | TradeUpdated | BrokerSnapshot | FeedHealthChanged | BrokerStateChanged | OrderChanged | Reconciled | Disagreed | SessionPhaseChanged | TradingStateChanged | JobDue
    | SessionJobDue | TimerFired
)  # fmt: skip
LedgerMessage = (
    RecordDecision | RecordOrderEvent | RecordReconciliation | RecordSessionClose | SnapshotRequested | HaltTrading
    | ResumeTrading | FlattenRequested | SessionJobDue | SessionJobsRequested | RecordSessionJob
)  # fmt: skip
BrokerMessage = (
    SubmitOrder | LookUpOrder | CancelOrder | BrokerSnapshotRequested | FrameReceived | ConnectionChanged | TimerFired
)  # fmt: skip


# --- backtest --------------------------------------------------------------------------------------------------------


class WorkerStarting(Message):
    """A stage worker begins anew: what its earlier incarnation was computing is lost. It may be long until it is ready."""

    worker: str


class WorkerReady(Message):
    """A stage worker has an idle child process."""

    worker: str
    generation: int
    pid: int


class RunStage(Message):
    """Compute one unit of the plan. Meant for one incarnation of the worker: the next one is asked anew."""

    unit: str
    generation: int


class Headline(Part):
    """What a unit found, for whoever watches the run; results never depend on it.

    `objective` names the measure of `in_sample` and `out_of_sample`: of the window for an optimisation, else of all windows
    (mean, and stitched where the artifact stitches it). None: no feasible trial, or a measure without value. `symbol` is
    empty for a portfolio, `window_id` for everything but an optimisation; an optimisation has no `viable` and no `score`.
    """

    stage: str
    symbol: str
    strategy: str
    window_id: str
    objective: str
    in_sample: float | None
    out_of_sample: float | None
    viable: bool | None
    score: float | None


class StageCompleted(Message):
    """A unit's artifact is written."""

    unit: str
    worker: str
    took_s: float
    headline: Headline | None = None


class StageFailed(Message):
    """A unit raised; the worker lives on."""

    unit: str
    worker: str
    error: str


class ChildStarted(Message):
    """Edge: the child process can be given work."""

    generation: int
    pid: int


class ChildAnswered(Message):
    """Edge: what the child process sent over its pipe."""

    generation: int
    unit: str
    error: str | None
    took_s: float
    headline: Headline | None = None


class ChildExited(Message):
    """Edge: the child process is gone."""

    generation: int
    exit_code: int | None


class StopAfterRunning(Message):
    """Give out no more units; finish when the running ones have ended (first Ctrl-C)."""


CoordinatorMessage = WorkerStarting | WorkerReady | StageCompleted | StageFailed | StopAfterRunning
StageWorkerMessage = RunStage | ChildStarted | ChildAnswered | ChildExited | TimerFired
