"""The portfolio actor: one decision per bar time, from one snapshot, once every symbol has spoken."""

import datetime as dt

from actors.kernel import Actor, Ref
from actors.messages import (
    ApprovedIntent,
    FeedHealthChanged,
    HaltTrading,
    JobDue,
    LedgerMessage,
    LedgerSnapshot,
    MarketDataMessage,
    OrderChanged,
    OrderIntent,
    OrdersMessage,
    PortfolioMessage,
    PricesRequested,
    PricesSeen,
    Reconciled,
    RecordDecision,
    RecordSessionClose,
    Refusal,
    SeenPrice,
    SessionJobDone,
    SessionJobDue,
    SessionPhaseChanged,
    SignalReported,
    SnapshotRequested,
    SymbolPrice,
    SymbolWarmed,
    TargetWeight,
    TimerFired,
    TradingStateChanged,
)
from algo_royale import engine, orders
from algo_royale.costs import usd
from algo_royale.engine import BarsClosed, Decision, EngineConfig, EngineState, RecentCloses, SymbolBar
from algo_royale.holds import Hold
from algo_royale.ledger import Position
from algo_royale.market import Timeframe
from algo_royale.orders import FINAL, Fill, OrderStatus
from algo_royale.phases import Job
from algo_royale.risk import BY_LIMIT, ApprovedOrder, TradingState, is_flattening
from algo_royale.sessions import Calendar, order_window


class PortfolioActor(Actor[PortfolioMessage]):
    """Collects the signals of a bar time and decides once: when every symbol has reported, or when the watermark fires.
    Without this barrier the same bars would give different portfolios on different thread schedules. Then it has the ledger
    compared with the broker once more before it decides: a fill may have been told unheard, shares may have split since.

    After a (re)start it takes no decision before the ledger has been reconciled with the broker; then it rebuilds its
    state from the ledger and the symbols' recent closes. A bar whose decision the ledger has is not decided again, and
    one whose orders would come too late is only taken note of.
    """

    def __init__(
        self, config: EngineConfig, calendar: Calendar, *, ledger: Ref[LedgerMessage], orders: Ref[OrdersMessage],
        market_data: Ref[MarketDataMessage] | None = None,
        timeframe: Timeframe = Timeframe.DAY_1, watermark_s: float = 5.0,
    ) -> None:  # fmt: skip
        self._market_data = market_data
        self._looks = market_data is not None and config.limits.spread_fraction is not None
        self._looking = self._looked = 0  # the bar time for which the market is being looked at, and has been
        self._market = engine.NOTHING_SEEN
        self._config, self._calendar, self._timeframe, self._watermark_s = config, calendar, timeframe, watermark_s
        self._ledger, self._orders = ledger, orders
        self._state: EngineState | None = None
        self._closes: dict[str, RecentCloses] = {}
        self._reports: dict[int, dict[str, SignalReported]] = {}
        self._reconciled = False
        self._asked = False
        self._patience: dict[int, int] = {}  # until when a bar time waits for symbols that have not reported
        self._late: int = 0  # the bar time whose watermark has fired
        self._checking: int = 0  # the bar time for which the ledger is being compared with the broker again
        self._checked: int = 0  # the one for which it has been
        self._session = ""
        self._stale: frozenset[str] = frozenset()  # symbols whose feed is quiet
        self._flatten = ""  # a person's wish: first "asked" how things stand at the broker, then "ready" to be decided

    def started(self) -> None:
        """Have the ledger compared with the broker: what happened while this actor was away must be in it first."""
        self.tell(self._orders, JobDue(at_ns=self.now_ns, job="reconcile"))

    def observe(self) -> dict[str, object]:
        waiting = {str(end): sorted(set(self._config.symbols) - set(got)) for end, got in self._reports.items()}
        return {"reconciled": self._reconciled, "waiting_for": waiting, "held_back": self._held_back()}

    def _held_back(self) -> dict[str, str]:
        """The hold that each symbol was under at the last decision, where it was under any."""
        held = {} if self._state is None else self._state.holds
        return {symbol: now.hold.value for symbol, now in sorted(held.items()) if now.hold is not Hold.START}

    def receive(self, message: PortfolioMessage) -> None:
        match message:
            case SymbolWarmed():
                self._closes[message.symbol] = RecentCloses(
                    message.bar_ends_ns, message.adjusted_closes, message.close_usd,
                    tuple((split.ex_date, usd(split.ratio)) for split in message.splits),
                )  # fmt: skip
            case SignalReported():
                self._on_report(message)
            case FeedHealthChanged():
                self._stale = frozenset(message.stale)
            case LedgerSnapshot():
                self._asked = False
                self._rebuild(message)
            case Reconciled():
                self._reconciled, self._checked = True, self._checking
                self._flatten = self._flatten and "ready"
                self._on_reconciled(message)
            case OrderChanged():
                self._on_order(message)
            case SessionPhaseChanged():
                self._on_phase(message)
            case SessionJobDue():
                self._on_job(message)
            case TradingStateChanged():
                self._on_state(TradingState(message.state), message.reason)
            case PricesSeen():
                self._on_prices(message.bar_end_ns, message.prices)
            case TimerFired(name="prices"):
                self._on_prices(int(message.key), ())
            case TimerFired():
                self._on_watermark(int(message.key))

    # --- facts ---

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self.tell(self._ledger, SnapshotRequested(at_ns=self.now_ns, reply_to=self.path))

    def _apply(self, event: engine.Event) -> tuple[Decision, ...]:
        if self._state is None:
            return ()  # the snapshot that the rebuild starts from will have it
        self._state, decisions = engine.step(self._state, event, self._config)
        return decisions

    def _on_state(self, state: TradingState, reason: str) -> None:
        self._apply(engine.StateSet(state, reason))
        self._flatten = "asked" if is_flattening(state, reason) else ""
        if self._flatten:
            self.tell(self._orders, JobDue(at_ns=self.now_ns, job="reconcile"))

    def _flatten_if_ready(self) -> None:
        if self._flatten == "ready" and self._state is not None and not self._state.orders:
            self._flatten = ""
            self._record(self._apply(engine.Flatten(self.now_ns)))

    def _on_reconciled(self, message: Reconciled) -> None:
        positions = {p.symbol: Position(p.quantity, p.average_cost_usd) for p in message.positions if p.quantity}
        self._apply(engine.AccountReconciled(message.cash_usd, positions, frozenset(message.split)))
        self._flatten_if_ready()
        self._decide_if_complete()

    def _on_order(self, message: OrderChanged) -> None:
        fill, order = message.fill, message.order
        if fill is not None:
            names = (name for name in fill.__struct_fields__)
            self._apply(engine.FillApplied(Fill(**{name: getattr(fill, name) for name in names})))
        if OrderStatus(order.status) in FINAL:
            self._apply(engine.OrderEnded(order.client_order_id, OrderStatus(order.status)))
        if message.successor is not None:  # before anything is decided: its shares are on their way
            self._apply(engine.OrderAdopted(engine.order_of_facts(message.successor)))
        self._flatten_if_ready()
        self._decide_if_complete()

    def _on_phase(self, message: SessionPhaseChanged) -> None:
        if message.phase == "open" and message.session_date != self._session:
            self._session = message.session_date
            self._apply(engine.SessionStarted(message.session_date))

    def _on_job(self, message: SessionJobDue) -> None:
        """Say which symbols are held back; or what was decided at the session's close, or who is waited for."""
        ok, state = True, self._state
        if message.job == Job.HOLDS.value:
            held = (f"{symbol} {hold}" for symbol, hold in self._held_back().items())
            detail = ", ".join(held) or "no symbol is held back"
        else:
            session = self._calendar.session_on(dt.date.fromisoformat(message.session_date))
            decided_ns = 0 if state is None else state.bar_end_ns
            ok = session is not None and decided_ns >= session.close_ns
            reported = sorted(self._reports.get(0 if session is None else session.close_ns, ()))
            missing = sorted(set(self._config.symbols) - set(reported))
            detail = "decided" if ok else f"not decided: no bar of the close from {', '.join(missing)}"
        done = SessionJobDone.of(message, self.path, detail, at_ns=self.now_ns, ok=ok)
        self.tell(self.ref(message.reply_to), done)

    # --- the bar barrier ---

    def _on_report(self, report: SignalReported) -> None:
        if report.symbol not in self._config.symbols:
            return
        if self._state is not None and report.bar_end_ns <= self._state.bar_end_ns:
            return  # told again after a restart of its actor
        first = report.bar_end_ns not in self._reports
        self._reports.setdefault(report.bar_end_ns, {})[report.symbol] = report
        if first:
            self._patience[report.bar_end_ns] = self.now_ns + round(self._watermark_s * 1e9)
            timer = TimerFired(at_ns=self.now_ns, name="watermark", key=str(report.bar_end_ns))
            self.later(self._watermark_s, timer, key=f"watermark {report.bar_end_ns}")
        self._decide_if_complete()

    def _on_watermark(self, bar_end_ns: int) -> None:
        """A timer that a former incarnation set may still be in the mailbox: the symbols that report to this one again
        have had no time yet."""
        if self.now_ns >= self._patience.pop(bar_end_ns, self.now_ns + 1):
            self._late = max(self._late, bar_end_ns)
            self._decide_if_complete()

    def _ready(self) -> int:
        """The latest bar time that every symbol has reported or that has waited long enough; 0 while there is none."""
        everybody = len(self._config.symbols)
        return max([end for end, got in self._reports.items() if end <= self._late or len(got) == everybody], default=0)

    def _decide_if_complete(self) -> None:
        end_ns = self._ready()
        if not end_ns or not self._reconciled:
            return
        if self._state is None:
            self._ask()
            return
        if (self._checked < end_ns or (self._looks and self._looked < end_ns)) and self._in_time(end_ns):
            if self._checking < end_ns:
                self._checking = end_ns
                self.tell(self._orders, JobDue(at_ns=self.now_ns, job="reconcile"))
                self._look(end_ns)
            return
        if self._state.orders and self._late < end_ns and self._in_time(end_ns):
            return  # they are for an earlier bar, and about to end
        for bar_end_ns in sorted(end for end in self._reports if end <= end_ns):
            event = self._event(bar_end_ns, self._reports.pop(bar_end_ns))
            if bar_end_ns < end_ns or not self._in_time(bar_end_ns):
                self._state = engine.observe(self._state, event, self._config)
            else:
                self._record(self._apply(event))
            self._close_session(bar_end_ns)

    def _look(self, bar_end_ns: int) -> None:
        """Ask what the market looks like, where a limit wants to know; no answer in time is one that knows nothing."""
        if self._looks and self._market_data is not None and self._looking < bar_end_ns:
            self._looking = bar_end_ns
            self.tell(self._market_data, PricesRequested(at_ns=self.now_ns, bar_end_ns=bar_end_ns))
            timer = TimerFired(at_ns=self.now_ns, name="prices", key=str(bar_end_ns))
            self.later(self._watermark_s, timer, key=f"prices {bar_end_ns}")

    def _on_prices(self, bar_end_ns: int, prices: tuple[SeenPrice, ...]) -> None:
        if bar_end_ns != self._looking or self._looked >= bar_end_ns:
            return
        self._looked = bar_end_ns
        trades = {p.symbol: p.trade_usd for p in prices if p.trade_usd is not None}
        spreads = {p.symbol: p.spread for p in prices if p.spread is not None}
        self._market = engine.MarketSeen(trades, spreads)
        self._apply(self._market)
        self._decide_if_complete()

    def _rebuild(self, snapshot: LedgerSnapshot) -> None:
        """The ledger answered: with the reports at hand, stand where the last bar left us, and decide it if it is ours."""
        last = self._ready()
        if not self._reconciled or not last or snapshot.cash_usd is None or self._state is not None:
            return
        if self._looks and self._looked < last and self._in_time(last):
            self._look(last)
            return
        for bar_end_ns in sorted(end for end in self._reports if end <= last):
            event = self._event(bar_end_ns, self._reports.pop(bar_end_ns))
            if self._state is None:
                decide = bar_end_ns == last and self._in_time(last)
                self._state, decisions = engine.rebuild(
                    self._config, snapshot, self._closes, event, decide=decide, seen=self._market
                )
                self._record(decisions)
            elif bar_end_ns == last and self._in_time(last) and last > snapshot.last_decision_bar_end_ns:
                self._apply(self._market)
                self._record(self._apply(event))
            else:
                self._state = engine.observe(self._state, event, self._config)
            self._close_session(bar_end_ns)
        if is_flattening(TradingState(snapshot.state), snapshot.state_reason):  # and had perhaps not got to it
            self._flatten = "ready"
            self._flatten_if_ready()

    def _close_session(self, bar_end_ns: int) -> None:
        """Have the account valued at the closes of a session's last bar, while nothing can have been traded since."""
        session = self._calendar.session_at(bar_end_ns - 1)
        if self._state is None or session is None or bar_end_ns != session.close_ns:
            return
        if self.now_ns < self._calendar.next_session(bar_end_ns).open_ns:
            prices = tuple(
                SymbolPrice(symbol=symbol, price_usd=bar.close_usd)
                for symbol, bar in sorted(self._state.last.items())
                if bar.close_usd is not None
            )
            self.tell(
                self._ledger,
                RecordSessionClose(at_ns=self.now_ns, session_date=session.date.isoformat(), prices=prices),
            )

    def _in_time(self, bar_end_ns: int) -> bool:
        """Whether the orders of this bar still come when they should: before the session that they are for has opened, or
        within one before the next bar has ended."""
        opens_ns, ends_ns = order_window(bar_end_ns, self._timeframe, self._calendar)
        return self.now_ns < (opens_ns if opens_ns > bar_end_ns else ends_ns)

    def _event(self, bar_end_ns: int, reports: dict[str, SignalReported]) -> BarsClosed:
        session = self._calendar.session_at(bar_end_ns - 1)
        assert session is not None
        bars = {
            symbol: SymbolBar(r.close_usd, r.adjusted_close, r.state_in, r.score)
            for symbol, r in sorted(reports.items())
        }
        splits = {symbol: usd(r.split_ratio) for symbol, r in sorted(reports.items()) if r.split_ratio != 1.0}
        return BarsClosed(bar_end_ns, session.date.isoformat(), bars, self._stale, splits)

    # --- decisions ---

    def _record(self, decisions: tuple[Decision, ...]) -> None:
        """What tightens trading is committed before what was decided under it."""
        for decision in decisions:
            if decision.tightened is not None:
                state, reason = decision.tightened.state.value, decision.tightened.reason
                self.tell(self._ledger, HaltTrading(at_ns=self.now_ns, reason=reason, state=state, by=BY_LIMIT))
            self.tell(self._ledger, record_of(decision, self.now_ns))


def record_of(decision: Decision, at_ns: int) -> RecordDecision:
    """The decision as the message that the ledger commits."""
    return RecordDecision(
        at_ns=at_ns,
        decision_id=decision.decision_id,
        bar_end_ns=decision.bar_end_ns,
        session_date=decision.session_date,
        equity_usd=decision.equity_usd,
        cash_usd=decision.cash_usd,
        strategy=decision.strategy,
        targets=tuple(
            TargetWeight(
                symbol=t.symbol, state_in=t.state_in, score=t.score, viability=t.viability, weight=t.weight,
                price_usd=t.price_usd, held_quantity=t.held_quantity, target_quantity=t.target_quantity,
            )
            for t in decision.targets
        ),
        approved=tuple(_approved(approved) for approved in decision.approved),
        refused=tuple(
            Refusal(intent=_intent(r.intent), code=r.code.value, reason=r.reason, limit=r.limit, value=r.value)
            for r in decision.refused
        ),
        missing=decision.missing,
    )  # fmt: skip


def _approved(order: ApprovedOrder) -> ApprovedIntent:
    return ApprovedIntent(**{name: getattr(order.intent, name) for name in OrderIntent.__struct_fields__})


def _intent(intent: orders.OrderIntent) -> OrderIntent:
    return OrderIntent(**{name: getattr(intent, name) for name in OrderIntent.__struct_fields__})
