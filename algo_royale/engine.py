"""step(state, event, config) -> (state, decisions): the only composition of target weights, sizing and risk.

Every number is a function of the event sequence and the configuration: no clock, no randomness, no I/O. `research.simulate`
and the portfolio actor call the same function, so what ran live is what was tested.

**When.** A decision is made once per bar time, on `BarsClosed`, from one snapshot in which open orders count as held. Symbols
are always taken in name order. Every `BarsClosed` yields exactly one `Decision`; on a quiet bar its `targets` are empty.

**What makes a bar not quiet** (rebalance "on_signal_change"):
  changed     the vector of effective states (signal in, not stale, history long enough, and for a strategy that ends its
              sessions in cash: not about to) differs from the vector of the last decision that had targets. All weights are
              allocated anew and every symbol is sized.
  unfinished  the vector is the same, but a symbol holds something else than the last `target_quantity`: an order was refused,
              rejected, lost, only partly filled or scaled down, and no order of it is open. These symbols alone are sized
              again, to the last weight at today's equity and price, until the difference is inside the drift band
              (`target_quantity` then becomes what is held).
**After a restart** the outcome is the same, for both conditions are read from committed facts alone: the targets of the last
decision that had any, and the positions and open orders of the ledger. Nothing else is remembered from bar to bar but prices,
which `rebuild` takes from each symbol's recent closes, and the session's starting equity, which is the equity of the last
decision in an earlier session.

**What every bar makes anew** (its event, the state, the decision) is a msgspec struct, which C code fills several times as fast
as Python a frozen dataclass. Nothing in them grows with the number of bars or orders behind.

**A live caller** tells, in order: `rebuild(...)` once; per bar time one `BarsClosed` with what each symbol reported; per
committed fill one `FillApplied`; per order that ended unfilled one `OrderEnded`; `SessionStarted` at each session's start
(settlement only; optional for margin accounts). Fills of an order that the state does not know are counted already and
ignored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Protocol

import msgspec
import numpy as np
from msgspec.structs import replace as replaced

from algo_royale import holds as holding
from algo_royale.costs import BUY, SELL
from algo_royale.errors import BadConfiguration
from algo_royale.holds import Hold, HoldEvent, HoldRules, SymbolHold
from algo_royale.ids import client_order_id, decision_prefix
from algo_royale.ledger import Account, Position
from algo_royale.market import FloatArray, IntArray
from algo_royale.orders import Fill, Order, OrderEvent, OrderIntent, OrderStatus, apply, order_of
from algo_royale.portfolio.sizing import (
    AUCTIONS,
    MARKET_TERMS,
    AccountRules,
    Desire,
    OrderType,
    buy_cost,
    desire,
    in_order,
    scale_desires,
    sell_proceeds,
)
from algo_royale.portfolio.weights import CASH_AT_CLOSE, DAILY, WeightConfig, allocate, lookback, resolve
from algo_royale.risk import (
    MINUTE_NS,
    STATE_TRANSITIONS,
    ApprovedOrder,
    RefusedOrder,
    RiskLimits,
    RiskSnapshot,
    TradingState,
    breach,
    check,
    is_flattening,
)
from algo_royale.sessions import calendar, new_york_date
from algo_royale.strategies.space import Value

_ZERO = Decimal(0)
_NOBODY: frozenset[str] = frozenset()
STALE_DAILY, STALE_INTRADAY = 1, 5
SESSION_MINUTES = 390  # of a whole session
REBALANCES = ("on_signal_change", "every_bar")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What a decision depends on besides events. `symbols` are sorted here; `strategy` is a name of PORTFOLIOS.

    `viability`: highest viability score among a symbol's voting strategies (1.0 where absent).
    `max_stale_bars`: a symbol that missed more bar times than this counts as out; unless given, 1 of daily and 5 of shorter bars.
    """

    ledger_id: str
    symbols: tuple[str, ...]
    strategy: str
    params: Mapping[str, Value] = field(default_factory=dict)
    weights: WeightConfig = field(default_factory=WeightConfig)
    rules: AccountRules = field(default_factory=AccountRules)
    limits: RiskLimits = field(default_factory=RiskLimits)
    viability: Mapping[str, float] = field(default_factory=dict)
    rebalance: str = "on_signal_change"
    max_stale_bars: int = -1
    lookback: int = field(init=False)
    is_daily: bool = field(init=False)
    keeps_holds: bool = field(init=False)
    bar_ns: int = field(init=False)
    cash_at_close_ns: int | None = field(init=False)  # a session's end minus this is when all goes to cash; None: never
    viability_array: FloatArray = field(init=False, compare=False, repr=False)
    none_missed: tuple[int, ...] = field(init=False, compare=False, repr=False)  # these two: what most bars say
    nothing: tuple[Decimal, ...] = field(init=False, compare=False, repr=False)
    no_returns: FloatArray = field(init=False, compare=False, repr=False)  # of a strategy that looks back on none
    decision_prefix: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.symbols or len(set(self.symbols)) != len(self.symbols):
            raise BadConfiguration(f"symbols {self.symbols} must be some and distinct")
        if self.rebalance not in REBALANCES:
            raise BadConfiguration(f"rebalance {self.rebalance!r} is none of {', '.join(REBALANCES)}")
        per_year = self.weights.bars_per_year
        if self.max_stale_bars < 0:
            object.__setattr__(self, "max_stale_bars", STALE_DAILY if per_year <= DAILY else STALE_INTRADAY)
        symbols, params = tuple(sorted(self.symbols)), resolve(self.strategy, self.params, per_year)
        object.__setattr__(self, "symbols", symbols)
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "lookback", lookback(self.strategy, params, per_year))
        bar_ns = DAILY * SESSION_MINUTES // per_year * MINUTE_NS
        flat = self.rules.policy.flatten_at_close
        object.__setattr__(self, "is_daily", per_year <= DAILY)
        object.__setattr__(self, "bar_ns", bar_ns)
        object.__setattr__(self, "keeps_holds", self.rules.holds.matters(is_daily=self.is_daily))
        if self.is_daily and flat:
            raise BadConfiguration("flatten_at_close needs bars within a session: a daily bar ends with it")
        if not self.is_daily and self.rules.policy.type in AUCTIONS:
            raise BadConfiguration("orders for an auction need daily bars: within a session the next bar decides anew")
        limited, real = self.rules.policy.type is OrderType.MARKETABLE_LIMIT, self.rules.shortfall == "borrow"
        if limited and real and not (self.is_daily or self.rules.policy.limit_rests) and self.rules.lot % 1:
            raise BadConfiguration(
                "within a session a marketable limit is immediate or cancel, which takes whole shares only; "
                "with [orders] limit_rests it takes fractions too"
            )
        object.__setattr__(self, "cash_at_close_ns", bar_ns if flat or params.get(CASH_AT_CLOSE) else None)
        object.__setattr__(self, "none_missed", (0,) * len(symbols))
        object.__setattr__(self, "nothing", (_ZERO,) * len(symbols))
        object.__setattr__(self, "no_returns", np.empty((0, len(symbols))))
        object.__setattr__(self, "decision_prefix", decision_prefix(self.ledger_id))
        object.__setattr__(self, "viability_array", np.array([self.viability.get(s, 1.0) for s in symbols]))


# --- events ----------------------------------------------------------------------------------------------------------


class SymbolBar(msgspec.Struct, frozen=True, gc=False):
    """One symbol at a bar time: the close orders are sized at (US dollars; None: unknown, after a restart), the adjusted close
    that returns are made of, and the symbol's combined signal after this bar."""

    close_usd: Decimal | None
    adjusted_close: float
    state_in: bool
    score: float


class BarsClosed(msgspec.Struct, frozen=True, gc=False):
    """All bars that ended at `bar_end_ns` (UTC ns) in `session` (ISO date); a symbol of the universe not in `bars` had none.

    Nothing of the symbols in `stale` is bought: their feed is quiet, so that nobody knows what they trade at. `splits` are the
    new shares per old one of what splits in this session, for targets alone: a live account has its shares from the broker.
    """

    bar_end_ns: int
    session: str
    bars: Mapping[str, SymbolBar]
    stale: frozenset[str] = _NOBODY
    splits: Mapping[str, Decimal] = {}


@dataclass(frozen=True, slots=True)
class MarketSeen:
    """What the market looks like just before a decision: last trades in US dollars, and (ask - bid) / middle. It counts for the
    next decision alone, and only for risk: what is ordered does not depend on it."""

    trades_usd: Mapping[str, Decimal]
    spreads: Mapping[str, Decimal]


NOTHING_SEEN = MarketSeen({}, {})


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """A session begins: proceeds that settle today may be spent."""

    session: str


@dataclass(frozen=True, slots=True)
class FillApplied:
    """An execution was committed."""

    fill: Fill


@dataclass(frozen=True, slots=True)
class OrderEnded:
    """An order will not fill any further."""

    client_order_id: str
    status: OrderStatus


@dataclass(frozen=True, slots=True)
class OrderAdopted:
    """An open order stands so from now on: one that goes on in the place of ours, or one of which fills were taken back."""

    order: Order


@dataclass(frozen=True, slots=True)
class AccountReconciled:
    """Cash and positions as compared with the broker stand in for what was folded from fills. `split`: symbols of which the
    broker has told a split lately."""

    cash_usd: Decimal
    positions: Mapping[str, Position]
    split: frozenset[str] = _NOBODY


@dataclass(frozen=True, slots=True)
class SymbolSplit:
    """`ratio` new shares per old one from now on; prices known so far and targets follow."""

    symbol: str
    ratio: Decimal


@dataclass(frozen=True, slots=True)
class StateSet:
    """What trading may do from now on, as committed. Where a person resumes it, losses are counted anew from here."""

    state: TradingState
    reason: str


@dataclass(frozen=True, slots=True)
class Flatten:
    """A person wants everything closed at `at_ns` (UTC ns). Decided once, and only while no order is open."""

    at_ns: int


Event = (
    BarsClosed | SessionStarted | FillApplied | OrderEnded | OrderAdopted | AccountReconciled | SymbolSplit | StateSet | Flatten | MarketSeen
)  # fmt: skip


# --- decisions and state ---------------------------------------------------------------------------------------------


class Target(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one symbol is to weigh, with what went in. `state_in` is the effective state that a change is measured against."""

    symbol: str
    state_in: bool
    score: float
    viability: float
    weight: float
    price_usd: Decimal
    held_quantity: Decimal
    target_quantity: Decimal


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One bar's decision; `targets` is empty on a quiet bar. `fallback`: the solver's weights were replaced."""

    decision_id: str
    bar_end_ns: int
    session_date: str
    equity_usd: Decimal
    cash_usd: Decimal
    strategy: str
    targets: tuple[Target, ...] = ()
    approved: tuple[ApprovedOrder, ...] = ()
    refused: tuple[RefusedOrder, ...] = ()
    missing: tuple[str, ...] = ()
    fallback: bool = False
    tightened: StateSet | None = None  # a limit on losses was reached: what trading may do from this decision on


class EngineState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything remembered between events. Tuples are in the order of `EngineConfig.symbols`."""

    account: Account
    history: tuple[tuple[float, ...], ...]  # lookback + 1 times the last known adjusted closes, oldest first
    missed: tuple[int, ...]  # bar times since each symbol's last bar
    decided: tuple[bool, ...]  # effective states of the last decision with targets
    weights: tuple[float, ...]  # its weights
    goals: tuple[Decimal, ...]  # its target quantities
    last: Mapping[str, SymbolBar] = {}  # each symbol's last bar
    orders: Mapping[str, Order] = {}  # open ones by client_order_id
    bar_end_ns: int = 0
    session: str = ""
    session_index: int = 0
    started: str = ""  # the session that `session_index` counts to, once one was told to begin
    session_start_equity: Decimal | None = None
    equity: Decimal | None = None  # at the last bar
    peak_equity: Decimal | None = None  # highest at a bar since the start, or since trading was last resumed
    recent_ns: tuple[int, ...] = ()
    orders_today: int = 0  # approved in `session`
    stale: frozenset[str] = _NOBODY  # whose feed was quiet at the last bar
    trading: TradingState = TradingState.TRADING
    trading_reason: str = ""
    seen: MarketSeen = NOTHING_SEEN
    splits_done: frozenset[tuple[str, str]] = frozenset()  # (symbol, session) of the splits that the goals have
    holds: Mapping[str, SymbolHold] = {}  # of symbols that were traded, held or ordered, where there are holds at all
    ignored_fills: int = 0

    @property
    def prices(self) -> dict[str, Decimal]:
        """Last known closes in US dollars."""
        return {symbol: bar.close_usd for symbol, bar in self.last.items() if bar.close_usd is not None}


def start(config: EngineConfig, cash_usd: Decimal, history: FloatArray | None = None) -> EngineState:
    """State of a flat account before the first bar; `history` as `history_before` gives it."""
    n = len(config.symbols)
    return EngineState(
        account=Account(cash=cash_usd), history=((math.nan,) * n,) * (config.lookback + 1) if history is None else _rows(history),
        missed=(0,) * n, decided=(False,) * n, weights=(0.0,) * n, goals=(_ZERO,) * n,
    )  # fmt: skip


def _rows(history: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, history.tolist()))


def step(state: EngineState, event: Event, config: EngineConfig) -> tuple[EngineState, tuple[Decision, ...]]:
    """The state after `event` and what was decided. A `BarsClosed` not after the last one is ignored."""
    match event:
        case BarsClosed():
            if event.bar_end_ns <= state.bar_end_ns:
                return state, ()
            state = _observe(state, event, config, mark=True)
            tightened = None
            if config.limits.guards_equity:
                state, tightened = _guard(state, config.limits)
            state, decisions = _decide(state, event, config, tightened)
            return (state if state.seen is NOTHING_SEEN else replaced(state, seen=NOTHING_SEEN)), decisions
        case FillApplied():
            return _fill(state, event.fill, config), ()
        case OrderEnded():
            left = {k: order for k, order in state.orders.items() if k != event.client_order_id}
            return replaced(state, orders=left), ()
        case OrderAdopted():
            return replaced(state, orders={**state.orders, event.order.client_order_id: event.order}), ()
        case SessionStarted():
            return _begin(state, event.session), ()
        case AccountReconciled():
            return _reconcile(state, event, config), ()
        case SymbolSplit():
            return _split(state, event, config), ()
        case StateSet():
            return _set(state, event), ()
        case Flatten():
            return _flatten(state, event, config)
        case MarketSeen():
            return replaced(state, seen=event), ()


def _set(state: EngineState, event: StateSet) -> EngineState:
    if event.state is TradingState.TRADING and state.trading is not TradingState.TRADING:
        state = replaced(state, session_start_equity=state.equity, peak_equity=state.equity)
    return replaced(state, trading=event.state, trading_reason=event.reason)


def _guard(state: EngineState, limits: RiskLimits) -> tuple[EngineState, StateSet | None]:
    """The state with the highest equity so far, and tightened where a limit on losses is reached."""
    equity, base = state.equity, state.session_start_equity
    assert equity is not None and base is not None
    if state.peak_equity is None or equity > state.peak_equity:
        state = replaced(state, peak_equity=equity)
    found = breach(limits, equity=equity, session_start=base, peak=state.peak_equity)
    if found is None or found.event is None:
        return state, None
    after = STATE_TRANSITIONS[state.trading][found.event]
    if after is state.trading:
        return state, None
    tightened = StateSet(after, found.reason)
    return replaced(state, trading=after, trading_reason=found.reason), tightened


def _begin(state: EngineState, session: str) -> EngineState:
    """A session begins, once; a fill of it may be told before its start is."""
    if state.started and session <= state.started:
        return state
    index = state.session_index + 1
    return replaced(state, started=session, session_index=index, account=state.account.settle(index))


def _fill(state: EngineState, fill: Fill, config: EngineConfig) -> EngineState:
    order = state.orders.get(fill.client_order_id)
    change = None if order is None else apply(order, OrderEvent.FILL, fill=fill)
    if change is None or change.fill is None:
        return replaced(state, ignored_fills=state.ignored_fills + 1)
    orders = {**state.orders, fill.client_order_id: change.order}
    if change.order.final:
        del orders[fill.client_order_id]
    holds = state.holds
    if config.keeps_holds:
        holds = {**holds, fill.symbol: _traded(holds.get(fill.symbol, SymbolHold()), fill, config)}
    later = config.rules.account == "cash" and fill.side == SELL and config.rules.settlement_days > 0
    if later and (known := state.started or state.session):
        traded = new_york_date(fill.at_ns).isoformat()
        state = _begin(state, traded) if traded > known else state
    settles_at = state.session_index + config.rules.settlement_days if later else None
    return replaced(state, orders=orders, holds=holds, account=state.account.apply_fill(fill, settles_at=settles_at))


def _traded(before: SymbolHold, fill: Fill, config: EngineConfig) -> SymbolHold:
    """The symbol's hold after an execution."""
    at_ns = _counts_from(fill.at_ns, config)
    if fill.side == BUY:
        now, event = replaced(before, bought_ns=max(before.bought_ns, at_ns)), HoldEvent.BOUGHT
    else:
        now, event = replaced(before, sold_ns=max(before.sold_ns, at_ns)), HoldEvent.SOLD
    return holding.move(now, event, config.rules.holds, at_ns, new_york_date(at_ns).isoformat())


def _counts_from(traded_ns: int, config: EngineConfig) -> int:
    """Since when a symbol counts as traded: the start of the bar within its session, for when in it a simulation does not know."""
    return traded_ns if config.is_daily else traded_ns - traded_ns % config.bar_ns


def _held_back(state: EngineState, rules: HoldRules) -> dict[str, SymbolHold]:
    """The holds on orders that are decided now, for the session in which they can be sent."""
    session = calendar().session_at(state.bar_end_ns)
    at_ns = state.bar_end_ns
    if session is None:
        session = calendar().next_session(at_ns)
        at_ns = session.open_ns
    date_of, out, open_symbols = session.date.isoformat(), {}, {order.symbol for order in state.orders.values()}
    for symbol in sorted({*state.holds, *state.account.positions, *open_symbols}):
        before = state.holds.get(symbol, SymbolHold())
        now = replaced(before, is_open=symbol in open_symbols, is_held=state.account.quantity(symbol) != 0)
        if now.is_open and not before.is_open:
            now = holding.move(now, HoldEvent.ORDERED, rules, at_ns, date_of)
        out[symbol] = holding.passed(now, rules, at_ns, date_of)
    return out


def _reconcile(state: EngineState, event: AccountReconciled, config: EngineConfig) -> EngineState:
    """What a person moved at the broker is no shortfall: a target that was met stays met. A split is another thing: an order of
    before may have filled in new shares, so the target follows the ratio, and not whatever is held."""
    account = replace(
        state.account, cash=event.cash_usd, positions=dict(event.positions)
    )  # settlement is our own count
    goals = tuple(
        account.quantity(symbol) if goal == state.account.quantity(symbol) and symbol not in event.split else goal
        for symbol, goal in zip(config.symbols, state.goals, strict=True)
    )
    return replaced(state, account=account, goals=goals)


def _split(state: EngineState, event: SymbolSplit, config: EngineConfig) -> EngineState:
    last, known = dict(state.last), state.last.get(event.symbol)
    if known is not None and known.close_usd is not None:
        last[event.symbol] = replaced(known, close_usd=known.close_usd / event.ratio)
    pairs = zip(config.symbols, state.goals, strict=True)
    goals = tuple(goal * event.ratio if symbol == event.symbol else goal for symbol, goal in pairs)
    return replaced(state, account=state.account.split(event.symbol, event.ratio), last=last, goals=goals)


def _split_goals(state: EngineState, event: BarsClosed, config: EngineConfig) -> EngineState:
    """Targets in the shares of `event`'s session, once for each split."""
    due = {s: ratio for s, ratio in event.splits.items() if (s, event.session) not in state.splits_done}
    goals = tuple(goal * due.get(symbol, 1) for symbol, goal in zip(config.symbols, state.goals, strict=True))
    return replaced(state, goals=goals, splits_done=state.splits_done | {(s, event.session) for s in due})


def observe(state: EngineState, event: BarsClosed, config: EngineConfig) -> EngineState:
    """Take in the prices and signals of a bar time that is not to be decided; equity and session stay the last decision's."""
    return _observe(state, event, config, mark=False)


def _observe(state: EngineState, event: BarsClosed, config: EngineConfig, *, mark: bool) -> EngineState:
    if event.splits:
        state = _split_goals(state, event, config)
    if state.started and event.session > state.started and config.rules.account == "cash":
        state = _begin(state, event.session)  # nobody told: bars that a restarted trader takes in again
    last, missed, history = event.bars, config.none_missed, state.history
    try:
        closes = tuple([last[symbol].adjusted_close for symbol in config.symbols])
    except KeyError:  # some had no bar
        bars = tuple(map(last.get, config.symbols))
        missed = tuple([0 if bar else before + 1 for bar, before in zip(bars, state.missed, strict=True)])
        closes = tuple([b.adjusted_close if b else old for b, old in zip(bars, history[-1], strict=True)])
        last = {**state.last, **last}
    history = (*history[1:], closes) if len(history) > 1 else (closes,)
    equity, base, session = state.equity, state.session_start_equity, state.session
    today = state.orders_today
    if mark:
        equity = _equity(state.account, last) if state.account.positions else state.account.cash
        if event.session != session or base is None:
            base, session, today = equity if state.equity is None else state.equity, event.session, 0
    recent = state.recent_ns
    if recent:
        recent = tuple(t for t in recent if t > event.bar_end_ns - MINUTE_NS)
    return replaced(
        state, history=history, missed=missed, last=last, bar_end_ns=event.bar_end_ns,
        session=session, session_start_equity=base, equity=equity, recent_ns=recent, orders_today=today,
        stale=event.stale,
    )  # fmt: skip


def _equity(account: Account, last: Mapping[str, SymbolBar]) -> Decimal:
    """As `Account.equity`, without spelling out every price first."""
    value = account.cash
    for symbol, position in account.positions.items():
        price = last[symbol].close_usd if symbol in last else None
        value += position.quantity * (position.average_cost_usd if price is None else price)
    return value


def _decide(
    state: EngineState, event: BarsClosed, config: EngineConfig, tightened: StateSet | None
) -> tuple[EngineState, tuple[Decision, ...]]:
    if config.keeps_holds:
        state = replaced(state, holds=_held_back(state, config.rules.holds))
    assert state.equity is not None
    symbols, effective = config.symbols, _effective(state, event, config)
    changed = config.rebalance == "every_bar" or effective != state.decided
    held, positions = config.nothing, state.account.positions
    if positions:
        held = tuple([positions[symbol].quantity if symbol in positions else _ZERO for symbol in symbols])
    missing = tuple(s for s in symbols if s not in event.bars) if len(event.bars) < len(symbols) else ()
    decision = Decision(
        decision_id=f"{config.decision_prefix}{event.bar_end_ns}", bar_end_ns=event.bar_end_ns,
        session_date=event.session, equity_usd=state.equity, cash_usd=state.account.cash, strategy=config.strategy,
        missing=missing, tightened=tightened,
    )  # fmt: skip
    if not changed and held == state.goals:
        return state, (decision,)
    in_flight = _in_flight(state) if state.orders else {}
    unfinished = [h != g and s not in in_flight for s, h, g in zip(symbols, held, state.goals, strict=True)]
    if not changed and not any(unfinished):
        return state, (decision,)
    prices, scores = state.prices, [state.last[s].score if s in state.last else 0.0 for s in symbols]
    weights, fallback = _weigh(state, effective, scores, config) if changed else (state.weights, False)
    desires = [
        _desire(
            state,
            symbol,
            prices.get(symbol),
            weights[i],
            held[i] + in_flight.get(symbol, _ZERO),
            state.goals[i],
            config,
        )
        if changed or unfinished[i]
        else Desire(symbol=symbol, target_quantity=state.goals[i], ordered=_ZERO)
        for i, symbol in enumerate(symbols)
    ]
    approved, refused = _judge(state, prices, desires, in_flight, config)
    targets = tuple(
        Target(
            symbol=symbol, state_in=effective[i], score=scores[i], viability=float(config.viability_array[i]),
            weight=weights[i], price_usd=prices.get(symbol, _ZERO), held_quantity=held[i],
            target_quantity=desires[i].target_quantity,
        )
        for i, symbol in enumerate(symbols)
    )  # fmt: skip
    orders = {a.intent.client_order_id: order_of(a.intent, decision.decision_id) for a in approved}
    after = replaced(
        state, decided=effective, weights=weights, goals=tuple([d.target_quantity for d in desires]),
        orders={**state.orders, **orders}, recent_ns=state.recent_ns + (event.bar_end_ns,) * len(approved),
        orders_today=state.orders_today + len(approved),
    )  # fmt: skip
    full = replaced(decision, targets=targets, approved=tuple(approved), refused=tuple(refused), fallback=fallback)
    return after, (full,)


def _flatten(state: EngineState, event: Flatten, config: EngineConfig) -> tuple[EngineState, tuple[Decision, ...]]:
    """Close every position, also of symbols that are not traded here, at its last price or, where none is known, its cost.
    How many orders leave at a time is no reason to keep a position that a person wants closed."""
    positions = state.account.positions
    if not positions or state.orders:
        return state, ()
    prices = {symbol: position.average_cost_usd for symbol, position in positions.items()} | state.prices
    at_ns = event.at_ns | 1  # never a bar's end, whose decision is another one
    desires = [
        Desire(symbol=symbol, target_quantity=_ZERO, ordered=-positions[symbol].quantity)
        for symbol in sorted(positions)
    ]
    limits = replace(config.limits, orders_per_minute=None, orders_per_day=None)
    now = replaced(
        state, holds={}, bar_end_ns=at_ns, equity=state.account.equity(prices) if state.equity is None else state.equity
    )
    rules = replace(config.rules, policy=replace(config.rules.policy, type=OrderType.MARKET))  # at what there is, now
    approved, refused = _judge(now, prices, desires, {}, replace(config, limits=limits, rules=rules))
    targets = tuple(
        Target(
            symbol=symbol, state_in=False, score=0.0, viability=config.viability.get(symbol, 1.0), weight=0.0,
            price_usd=prices.get(symbol, _ZERO), held_quantity=state.account.quantity(symbol), target_quantity=_ZERO,
        )
        for symbol in sorted({*config.symbols, *positions})
    )  # fmt: skip
    assert now.equity is not None
    decision = Decision(
        decision_id=f"{config.decision_prefix}{at_ns}", bar_end_ns=at_ns, session_date=state.session,
        equity_usd=now.equity, cash_usd=state.account.cash, strategy=config.strategy, targets=targets,
        approved=tuple(approved), refused=tuple(refused),
    )  # fmt: skip
    n = len(config.symbols)
    after = replaced(
        state, decided=(False,) * n, weights=(0.0,) * n, goals=(_ZERO,) * n,
        orders={a.intent.client_order_id: order_of(a.intent, decision.decision_id) for a in approved},
        recent_ns=state.recent_ns + (at_ns,) * len(approved), orders_today=state.orders_today + len(approved),
    )  # fmt: skip
    return after, (decision,)


def _effective(state: EngineState, event: BarsClosed, config: EngineConfig) -> tuple[bool, ...]:
    if state.trading is not TradingState.TRADING and is_flattening(state.trading, state.trading_reason):
        return (False,) * len(config.symbols)
    if config.cash_at_close_ns is not None and _ends_in_cash(event, config.cash_at_close_ns):
        return (False,) * len(config.symbols)
    last, stale, oldest, missed = state.last, config.max_stale_bars, state.history[0], state.missed
    if missed is config.none_missed and math.isfinite(sum(oldest)):  # as on most bars
        return tuple([last[symbol].state_in for symbol in config.symbols])
    return tuple(
        [
            symbol in last
            and last[symbol].state_in
            and missed[i] <= stale
            and oldest[i] == oldest[i]  # not a number where history is too short
            for i, symbol in enumerate(config.symbols)
        ]
    )


def _ends_in_cash(event: BarsClosed, before_ns: int) -> bool:
    """From the close of a session's last bar but one, so that the last bar's open is where everything is sold."""
    session = calendar().session_on(date.fromisoformat(event.session))
    return session is not None and event.bar_end_ns >= session.close_ns - before_ns


def _weigh(
    state: EngineState, effective: tuple[bool, ...], scores: Sequence[float], config: EngineConfig
) -> tuple[tuple[float, ...], bool]:
    if True not in effective:
        return (0.0,) * len(effective), False
    returns = config.no_returns
    if config.lookback:
        history = np.array(state.history)
        returns = history[1:] / history[:-1] - 1.0
    allocation = allocate(
        config.strategy, config.params, returns, np.array(effective), np.array(scores), config.viability_array,
        config.weights,
    )  # fmt: skip
    return tuple(allocation.weights.tolist()), allocation.fallback


def _in_flight(state: EngineState) -> dict[str, Decimal]:
    """Signed shares of open orders by symbol."""
    out: dict[str, Decimal] = {}
    for order in state.orders.values():
        signed = order.open_quantity if order.side == BUY else -order.open_quantity
        out[order.symbol] = out.get(order.symbol, _ZERO) + signed
    return out


def _desire(
    state: EngineState, symbol: str, price: Decimal | None, weight: float, projected: Decimal, goal: Decimal,
    config: EngineConfig,
) -> Desire:  # fmt: skip
    if price is None:  # cannot be sized; a sale still goes to risk, which names the missing price
        price = _ZERO
        if weight > 0.0:
            return Desire(symbol=symbol, target_quantity=goal, ordered=_ZERO)
    assert state.equity is not None
    return desire(symbol, weight, state.equity, price, projected, config.rules)


def _judge(
    state: EngineState,
    prices: Mapping[str, Decimal],
    desires: Sequence[Desire],
    in_flight: Mapping[str, Decimal],
    config: EngineConfig,
) -> tuple[list[ApprovedOrder], list[RefusedOrder]]:
    """Intents of `desires`, sells before buys, each judged with the ones approved before it already in flight."""
    rules, policy = config.rules, config.rules.policy
    snapshot = _risk_snapshot(state, prices, in_flight, config)
    proceeds_count, power = rules.account == "margin", snapshot.buying_power_usd
    is_limited = policy.type is OrderType.MARKETABLE_LIMIT
    if power is not None:
        if proceeds_count:
            sells = (d for d in desires if d.ordered < 0 and d.symbol in prices)
            power += sum((sell_proceeds(-d.ordered, prices[d.symbol], rules) for d in sells), _ZERO)
            # the sales are still to fill: until then the broker grants what a multiplier of 2 leaves
            power = min(power, snapshot.equity_usd + state.account.cash)
        dearest = {s: policy.limit(BUY, price) for s, price in prices.items()} if is_limited else prices
        desires = scale_desires(desires, dearest, power, rules)
    approved: list[ApprovedOrder] = []
    refused: list[RefusedOrder] = []
    orders = in_order(desires)
    for wanted in orders:
        side, price = (BUY if wanted.ordered > 0 else SELL), prices.get(wanted.symbol, _ZERO)
        terms = policy.terms(side, price, is_daily=config.is_daily) if price else MARKET_TERMS
        intent = OrderIntent(
            client_order_id=client_order_id(config.ledger_id, state.bar_end_ns, wanted.symbol), symbol=wanted.symbol,
            side=side, quantity=abs(wanted.ordered), reference_price_usd=price, order_type=terms.order_type,
            time_in_force=terms.time_in_force, limit_price_usd=terms.limit_price_usd,
        )  # fmt: skip
        cost = _ZERO
        if power is None:  # the account fills what it can pay, and nobody asks
            pass
        elif side == BUY:
            cost = buy_cost(intent.quantity, terms.limit_price_usd or price, rules)
        elif proceeds_count:
            cost = -sell_proceeds(intent.quantity, price, rules)
        verdict = check(intent, snapshot, config.limits, cost_usd=cost)
        if isinstance(verdict, RefusedOrder):
            refused.append(verdict)
        else:
            approved.append(verdict)
            if wanted is not orders[-1]:
                snapshot = snapshot.with_order(intent, cost)
    return approved, refused


def _risk_snapshot(
    state: EngineState, prices: Mapping[str, Decimal], in_flight: Mapping[str, Decimal], config: EngineConfig
) -> RiskSnapshot:
    assert state.equity is not None and state.session_start_equity is not None
    rules, power = config.rules, None
    if rules.shortfall == "borrow":
        power = state.account.settled_cash
        for order in state.orders.values():
            reference = prices.get(order.symbol, order.reference_price_usd)
            if order.side == BUY:
                power -= buy_cost(order.open_quantity, reference, rules)
            elif rules.account == "margin":
                power += sell_proceeds(order.open_quantity, reference, rules)
    stale, open_buys, open_sells, orders = state.stale, _NOBODY, _NOBODY, state.orders
    if orders:
        open_buys = frozenset([order.symbol for order in orders.values() if order.side == BUY])
        open_sells = frozenset([order.symbol for order in orders.values() if order.side != BUY])
    if state.missed is not config.none_missed:
        pairs = zip(config.symbols, state.missed, strict=True)
        stale = stale.union([symbol for symbol, missed in pairs if missed > config.max_stale_bars])
    return RiskSnapshot(
        at_ns=state.bar_end_ns, equity_usd=state.equity, session_start_equity_usd=state.session_start_equity,
        held={symbol: position.quantity for symbol, position in state.account.positions.items()}, in_flight=in_flight,
        prices_usd=prices, stale=stale, open_buys=open_buys, open_sells=open_sells, peak_equity_usd=state.peak_equity,
        known_orders=frozenset(orders) if orders else _NOBODY, orders_recent_ns=state.recent_ns, buying_power_usd=power,
        orders_today=state.orders_today, session_ns=_session_ns(state.bar_end_ns) if config.limits.minds_the_hour else None,
        trading=state.trading, trading_reason=state.trading_reason,
        trades_usd=state.seen.trades_usd, spreads=state.seen.spreads, holds=_holds(state),
    )  # fmt: skip


def _holds(state: EngineState) -> dict[str, Hold]:
    """Holds as risk sees them. None of them keeps on a position that a person wants closed."""
    if not state.holds or is_flattening(state.trading, state.trading_reason):
        return {}
    return {symbol: now.hold for symbol, now in state.holds.items() if now.hold is not Hold.START}


def _session_ns(at_ns: int) -> tuple[int, int] | None:
    session = calendar().session_at(at_ns)
    return None if session is None else (session.open_ns, session.close_ns)


# --- rebuilding ------------------------------------------------------------------------------------------------------


class PositionFacts(Protocol):
    """What `actors.messages.PositionRecord` says."""

    @property
    def symbol(self) -> str: ...
    @property
    def quantity(self) -> Decimal: ...
    @property
    def average_cost_usd(self) -> Decimal: ...


class OrderFacts(Protocol):
    """What `actors.messages.OrderRecord` says."""

    @property
    def client_order_id(self) -> str: ...
    @property
    def broker_order_id(self) -> str | None: ...
    @property
    def decision_id(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def quantity(self) -> Decimal: ...
    @property
    def filled_quantity(self) -> Decimal: ...
    @property
    def status(self) -> str: ...
    @property
    def reference_price_usd(self) -> Decimal: ...


class UnsettledFacts(Protocol):
    """What `actors.messages.Unsettled` says."""

    @property
    def settles_on(self) -> str: ...
    @property
    def amount_usd(self) -> Decimal: ...


class TradeFacts(Protocol):
    """What `actors.messages.LastTrade` says."""

    @property
    def symbol(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def at_ns(self) -> int: ...


class TargetFacts(Protocol):
    """What `actors.messages.TargetWeight` says."""

    @property
    def symbol(self) -> str: ...
    @property
    def state_in(self) -> bool: ...
    @property
    def score(self) -> float: ...
    @property
    def weight(self) -> float: ...
    @property
    def target_quantity(self) -> Decimal: ...


class LedgerFacts(Protocol):
    """What `actors.messages.LedgerSnapshot` says; a snapshot message is passed as it is."""

    @property
    def cash_usd(self) -> Decimal | None: ...
    @property
    def positions(self) -> Sequence[PositionFacts]: ...
    @property
    def open_orders(self) -> Sequence[OrderFacts]: ...
    @property
    def last_decision_bar_end_ns(self) -> int: ...
    @property
    def session_start_equity_usd(self) -> Decimal | None: ...
    @property
    def orders_recent_ns(self) -> Sequence[int]: ...
    @property
    def state(self) -> str: ...
    @property
    def state_reason(self) -> str: ...
    @property
    def peak_equity_usd(self) -> Decimal | None: ...
    @property
    def orders_session_count(self) -> int: ...
    @property
    def last_targets(self) -> Sequence[TargetFacts]: ...
    @property
    def last_targets_date(self) -> str: ...
    @property
    def last_equity_usd(self) -> Decimal | None: ...
    @property
    def last_session_date(self) -> str: ...
    @property
    def last_trades(self) -> Sequence[TradeFacts]: ...
    @property
    def unsettled(self) -> Sequence[UnsettledFacts]: ...


@dataclass(frozen=True, slots=True)
class RecentCloses:
    """A symbol's latest adjusted closes, oldest first, with their bar ends (UTC ns): at least lookback + 2 where there are.

    `close_usd` is the last close as traded, at which a symbol is valued that has no bar in `rebuild`'s `last`.
    """

    bar_ends_ns: Sequence[int] | IntArray
    adjusted_closes: Sequence[float] | FloatArray
    close_usd: Decimal | None = None
    splits: Sequence[tuple[str, Decimal]] = ()  # session (ISO date), new shares per old one


def history_before(
    config: EngineConfig, closes: Mapping[str, RecentCloses], before_ns: int
) -> tuple[FloatArray, tuple[int, ...]]:
    """Adjusted closes [lookback + 1, n] of the last bar times before `before_ns`, and the bar times each symbol missed."""
    n, rows = len(config.symbols), config.lookback + 1
    ends = sorted({t for recent in closes.values() for t in recent.bar_ends_ns if t < before_ns})[-rows:]
    history, missed = np.full((rows, n), np.nan), [0] * n
    if not ends:
        return history, tuple(missed)
    grid = np.array(ends, np.int64)
    for i, symbol in enumerate(config.symbols):
        recent = closes.get(symbol)
        times = np.asarray(recent.bar_ends_ns if recent else (), np.int64)
        at = np.searchsorted(times, grid, side="right") - 1
        if recent is None or not (at >= 0).any():
            continue
        values = np.asarray(recent.adjusted_closes, np.float64)
        history[rows - len(ends) :, i] = np.where(at >= 0, values[np.maximum(at, 0)], np.nan)
        missed[i] = int((grid > times[at[-1]]).sum())
    return history, tuple(missed)


def rebuild(
    config: EngineConfig,
    snapshot: LedgerFacts,
    closes: Mapping[str, RecentCloses],
    last: BarsClosed,
    *,
    decide: bool,
    seen: MarketSeen = NOTHING_SEEN,
) -> tuple[EngineState, tuple[Decision, ...]]:
    """The state after the bar time `last` from committed facts, and its decision where it is still to be made.

    `closes` may or may not contain the bars of `last`. `decide`: the session that `last`'s orders would fill in has not opened.
    A decision that the ledger has already is never made twice. `seen`: as by a `MarketSeen` before it. Raises BadConfiguration while the ledger knows no cash.
    """
    if snapshot.cash_usd is None:
        raise BadConfiguration("the ledger knows no cash yet; reconcile with the broker first")
    history, missed = history_before(config, closes, last.bar_end_ns)
    positions = {p.symbol: Position(p.quantity, p.average_cost_usd) for p in snapshot.positions if p.quantity}
    targets = {t.symbol: t for t in snapshot.last_targets}
    held = [positions[s].quantity if s in positions else _ZERO for s in config.symbols]
    known = [targets.get(s) for s in config.symbols]
    # a symbol without a bar in `last` keeps the state that the last decision knew: had it changed, there would be a later one
    decided = tuple(t.state_in if t else q > 0 for t, q in zip(known, held, strict=True))
    state = EngineState(
        account=Account(
            cash=snapshot.cash_usd, positions=positions, unsettled=_unsettled(snapshot.unsettled, last.session, config.rules)
        ), started=last.session, history=_rows(history), missed=missed,
        last=_as_decided(config, targets, decided, closes, history), decided=decided,
        weights=tuple(t.weight if t else 0.0 for t in known),
        goals=_goals(config, targets, held, closes, snapshot.last_targets_date, last.session),
        splits_done=frozenset((s, day) for s, recent in closes.items() for day, _ in recent.splits if day <= last.session),
        orders={o.client_order_id: order_of_facts(o) for o in snapshot.open_orders}, session=snapshot.last_session_date,
        session_start_equity=snapshot.session_start_equity_usd, equity=snapshot.last_equity_usd,
        recent_ns=tuple(snapshot.orders_recent_ns), peak_equity=snapshot.peak_equity_usd,
        orders_today=snapshot.orders_session_count, trading=TradingState(snapshot.state),
        trading_reason=snapshot.state_reason, holds=_traded_before(snapshot.last_trades, config),
    )  # fmt: skip
    if not decide or last.bar_end_ns <= snapshot.last_decision_bar_end_ns:
        return observe(state, last, config), ()
    return step(state if seen is NOTHING_SEEN else replaced(state, seen=seen), last, config)


def _unsettled(parts: Sequence[UnsettledFacts], session: str, rules: AccountRules) -> tuple[tuple[int, Decimal], ...]:
    """What has not settled by `session`, by how many sessions after it that happens."""
    out = []
    for part in parts if rules.account == "cash" else ():
        if part.settles_on > session:
            after = date.fromisoformat(session) + timedelta(days=1)
            count = len(calendar().sessions(after, date.fromisoformat(part.settles_on)))
            out.append((count, part.amount_usd))
    return tuple(out)


def _traded_before(trades: Sequence[TradeFacts], config: EngineConfig) -> dict[str, SymbolHold]:
    """Holds as the last trades alone have them; what is held and open, and the time that passed, the next decision adds."""
    out: dict[str, SymbolHold] = {}
    rules = config.rules.holds
    for trade in sorted(trades, key=lambda one: one.at_ns) if config.keeps_holds else ():
        before, at_ns = out.get(trade.symbol, SymbolHold()), _counts_from(trade.at_ns, config)
        now = replaced(before, bought_ns=at_ns) if trade.side == BUY else replaced(before, sold_ns=at_ns)
        out[trade.symbol] = holding.of_facts(now, rules, at_ns, new_york_date(at_ns).isoformat())
    return out


def _goals(
    config: EngineConfig, targets: Mapping[str, TargetFacts], held: Sequence[Decimal], closes: Mapping[str, RecentCloses],
    after: str, until: str,
) -> tuple[Decimal, ...]:  # fmt: skip
    """The targets decided in the session `after`, in the shares of the session `until`."""
    goals = []
    for symbol, quantity in zip(config.symbols, held, strict=True):
        goal = targets[symbol].target_quantity if symbol in targets else None
        if goal is not None and symbol in closes:
            for day, ratio in closes[symbol].splits:
                goal = goal * ratio if after < day <= until else goal
        goals.append(quantity if goal is None else goal)
    return tuple(goals)


def _as_decided(
    config: EngineConfig, targets: Mapping[str, TargetFacts], decided: Sequence[bool], closes: Mapping[str, RecentCloses],
    history: FloatArray,
) -> dict[str, SymbolBar]:  # fmt: skip
    """What each symbol last said, as far as the ledger and the recent closes know."""
    last = {}
    for i, symbol in enumerate(config.symbols):
        close = closes[symbol].close_usd if symbol in closes else None
        score = targets[symbol].score if symbol in targets else 0.0
        last[symbol] = SymbolBar(close, float(history[-1, i]), decided[i], score)
    return last


def order_of_facts(facts: OrderFacts) -> Order:
    """An open order as a message tells it; what has filled counts as one fill."""
    booked = ((facts.filled_quantity, facts.filled_quantity),) if facts.filled_quantity else ()
    return Order(
        client_order_id=facts.client_order_id, broker_order_id=facts.broker_order_id, decision_id=facts.decision_id,
        symbol=facts.symbol, side=facts.side, quantity=facts.quantity, filled_quantity=facts.filled_quantity,
        status=OrderStatus(facts.status), reference_price_usd=facts.reference_price_usd, booked=booked,
    )  # fmt: skip
