"""The last word before an order is recorded: approved, or refused with a named code and its numbers.

Limits on size, exposure and loss hold back orders that add risk. An order that only brings a position nearer to zero passes
them, for refusing it would keep the risk on; it is still refused while trading is halted, in a restricted symbol, without any
price, far from the last price, against another order of ours, or above the order rate.

What trading may do at all is `TradingState`, moved by one table; whoever moves it commits that in the ledger first.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import msgspec
from msgspec.structs import replace

from algo_royale.costs import BUY
from algo_royale.holds import Hold
from algo_royale.orders import OrderIntent


class TradingState(enum.StrEnum):
    """What trading may do. A machine only moves it down this list; a person alone moves it back to the first."""

    TRADING = "trading"  # every order that the limits allow
    REDUCING = "reducing"  # only orders that make a position smaller
    HALTED = "halted"  # none

    @property
    def severity(self) -> int:
        """0 for TRADING; more the less is allowed."""
        return tuple(TradingState).index(self)


_ZERO = Decimal(0)
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS


BY_LIMIT = "risk"  # who set the trading state, where it was no person
BY_CONTRADICTION: Final = frozenset({"ledger", "orders", "trader"})


def person(name: str) -> str:
    """The name of a person, never to be mistaken for one of ours that set the trading state (`risk`, `ledger` and so on)."""
    return f"user {name}" if name in {*BY_CONTRADICTION, BY_LIMIT} else name


class StateEvent(enum.StrEnum):
    """What moves the trading state."""

    LIMIT_REDUCES = "limit_reduces"  # a limit on losses is reached whose answer is to reduce
    LIMIT_HALTS = "limit_halts"  # one whose answer is to halt
    CONTRADICTED = "contradicted"  # ledger and broker contradict each other, or the ledger cannot be written
    PERSON_REDUCES = "person_reduces"
    PERSON_HALTS = "person_halts"
    PERSON_FLATTENS = "person_flattens"  # everything is to be closed, for which orders must be allowed to leave
    PERSON_RESUMES = "person_resumes"

    @classmethod
    def of_halt(cls, state: TradingState, by: str) -> "StateEvent":
        """What it is that `by` wants trading to do no more than `state`."""
        if by in BY_CONTRADICTION:
            return cls.CONTRADICTED
        reduces = state is TradingState.REDUCING
        if by == BY_LIMIT:
            return cls.LIMIT_REDUCES if reduces else cls.LIMIT_HALTS
        return cls.PERSON_REDUCES if reduces else cls.PERSON_HALTS


_T, _R, _H = TradingState
STATE_TRANSITIONS: Final[dict[TradingState, dict[StateEvent, TradingState]]] = {
    _T: {
        StateEvent.LIMIT_REDUCES: _R, StateEvent.LIMIT_HALTS: _H, StateEvent.CONTRADICTED: _H,
        StateEvent.PERSON_REDUCES: _R, StateEvent.PERSON_HALTS: _H, StateEvent.PERSON_FLATTENS: _R,
        StateEvent.PERSON_RESUMES: _T,
    },
    _R: {
        StateEvent.LIMIT_REDUCES: _R, StateEvent.LIMIT_HALTS: _H, StateEvent.CONTRADICTED: _H,
        StateEvent.PERSON_REDUCES: _R, StateEvent.PERSON_HALTS: _H, StateEvent.PERSON_FLATTENS: _R,
        StateEvent.PERSON_RESUMES: _T,
    },
    _H: {
        StateEvent.LIMIT_REDUCES: _H, StateEvent.LIMIT_HALTS: _H, StateEvent.CONTRADICTED: _H,
        StateEvent.PERSON_REDUCES: _H, StateEvent.PERSON_HALTS: _H, StateEvent.PERSON_FLATTENS: _R,
        StateEvent.PERSON_RESUMES: _T,
    },
}  # fmt: skip


_FLATTEN, _ACCEPT = "flatten: ", "accept broker: "


def committed_reason(event: StateEvent, reason: str, *, accepts_broker: bool = False) -> str:
    """`reason` as it is committed with the state that `event` leads to: a person's wish to close everything, or to take the
    broker's word for what differs, is known by how its reason begins, and no other reason begins so, whatever somebody types."""
    while reason.startswith((_FLATTEN, _ACCEPT)):
        reason = reason.removeprefix(_FLATTEN).removeprefix(_ACCEPT)
    if event is StateEvent.PERSON_FLATTENS:
        return f"{_FLATTEN}{reason}"
    return f"{_ACCEPT}{reason}" if accepts_broker and event is StateEvent.PERSON_RESUMES else reason


def is_accepting(state: TradingState, reason: str) -> bool:
    """Whether the person who gave trading back takes the broker's word for what differs at the next comparison."""
    return state is TradingState.TRADING and reason.startswith(_ACCEPT)


def is_flattening(state: TradingState, reason: str) -> bool:
    """Whether everything held is to be closed: trading is reducing because a person wished so."""
    return state is TradingState.REDUCING and reason.startswith(_FLATTEN)


class RefusalCode(enum.Enum):
    """Why an intent was refused; the value is what is stored, the sentence what a person reads."""

    sentence: str

    HALTED = "halted", "Trading is halted until a person resumes it."
    SYMBOL_RESTRICTED = "symbol_restricted", "The symbol is on the restricted list."
    QUANTITY_INVALID = "quantity_invalid", "The quantity is not positive."
    PRICE_MISSING = "price_missing", "No price of the symbol is known, so the order cannot be judged."
    DUPLICATE_INTENT = "duplicate_intent", "An order of this symbol is still open, or this order was recorded before."
    WASH_TRADE = "wash_trade", "An order of ours on the other side of this symbol is still open."
    SYMBOL_HOLD = "symbol_hold", "The symbol is held back from orders of this side for now."
    PRICE_COLLAR = "price_collar", "The order's price is too far from the last trade."
    ORDER_RATE = "order_rate", "Too many orders within a minute."
    ORDERS_PER_DAY = "orders_per_day", "Too many orders within a session."
    DAILY_LOSS = "daily_loss", "The session's loss has reached the limit; only reductions are allowed."
    DRAWDOWN = "drawdown", "The loss from the highest equity has reached the limit; only reductions are allowed."
    REDUCING = "reducing", "Until a person resumes trading, only orders that reduce a position are allowed."
    SHORT_SALE = "short_sale", "The order would sell more than is held, and what is missing may not be sold short."
    PRICE_STALE = "price_stale", "The symbol's last bar is too old to add risk on."
    SPREAD_WIDE = "spread_wide", "Bid and ask are too far apart to add risk at."
    SESSION_PHASE = "session_phase", "Positions are not opened this close to the session's open or close."
    ORDER_QUANTITY = "order_quantity", "The order has more shares than one order may have."
    ORDER_NOTIONAL = "order_notional", "The order is larger than one order may be."
    POSITION_NOTIONAL = "position_notional", "The position would be larger than one position may be."
    CONCENTRATION = "concentration", "The position would be too large a part of the equity."
    GROSS_EXPOSURE = "gross_exposure", "All positions and open orders together would exceed the limit."
    NET_EXPOSURE = "net_exposure", "Longs less shorts, with all open orders, would exceed the limit."
    BUYING_POWER = "buying_power", "The order costs more than the buying power."

    def __new__(cls, code: str, sentence: str) -> "RefusalCode":
        member = object.__new__(cls)
        member._value_ = code
        member.sentence = sentence
        return member


class OnBreach(enum.StrEnum):
    """What reaching a limit on losses leads to."""

    REFUSE = "refuse"  # orders that add risk are refused as long as it is so
    REDUCE = "reduce"  # trading only reduces from then on
    HALT = "halt"  # no order leaves from then on


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskLimits:
    """None switches a limit off. US dollars, but for fractions of equity where the name says `fraction`."""

    order_quantity: Decimal | None = None  # shares
    order_notional_usd: Decimal | None = None
    position_notional_usd: Decimal | None = None
    concentration_fraction: Decimal | None = None  # of the equity at the decision, in one symbol
    gross_exposure_fraction: Decimal | None = None  # of the equity at the decision
    net_exposure_fraction: Decimal | None = None  # of the equity at the decision
    daily_loss_fraction: Decimal | None = None  # of the equity at the end of the previous session
    drawdown_fraction: Decimal | None = None  # of the highest equity of any decision since trading was last resumed
    orders_per_minute: int | None = None
    orders_per_day: int | None = None
    collar_fraction: Decimal | None = None  # of the last trade's price
    spread_fraction: Decimal | None = None  # of the middle between bid and ask
    entry_after_open_s: int | None = None
    entry_before_close_s: int | None = None
    restricted: frozenset[str] = frozenset()
    shortable: frozenset[str] = frozenset()  # symbols that account and asset allow to be sold short
    on_daily_loss: OnBreach = OnBreach.REDUCE
    on_drawdown: OnBreach = OnBreach.HALT

    @property
    def guards_equity(self) -> bool:
        """Whether reaching a limit on losses can change what trading may do."""
        return self.daily_loss_fraction is not None or self.drawdown_fraction is not None

    @property
    def minds_the_hour(self) -> bool:
        """Whether the time within a session matters."""
        return self.entry_after_open_s is not None or self.entry_before_close_s is not None


class RiskSnapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a verdict is based on, at one instant. `in_flight` is the signed quantity of each symbol's open orders.

    `prices_usd` are last closes, `trades_usd` last trades and `spreads` (ask - bid) / middle where the market was looked at. `orders_recent_ns` are the times of
    earlier orders, `orders_today` how many this session has had. `session_ns` is the open and the close of the session that
    `at_ns` lies in, None outside of one. `buying_power_usd` None where the account fills what it can pay.
    """

    at_ns: int
    equity_usd: Decimal
    session_start_equity_usd: Decimal
    held: Mapping[str, Decimal]
    peak_equity_usd: Decimal | None = None
    in_flight: Mapping[str, Decimal] = {}
    prices_usd: Mapping[str, Decimal] = {}
    trades_usd: Mapping[str, Decimal] = {}
    spreads: Mapping[str, Decimal] = {}
    stale: frozenset[str] = frozenset()
    open_buys: frozenset[str] = frozenset()
    open_sells: frozenset[str] = frozenset()
    known_orders: frozenset[str] = frozenset()
    orders_recent_ns: tuple[int, ...] = ()
    orders_today: int = 0
    session_ns: tuple[int, int] | None = None
    holds: Mapping[str, Hold] = {}
    buying_power_usd: Decimal | None = None
    trading: TradingState = TradingState.TRADING
    trading_reason: str = ""

    def projected(self, symbol: str) -> Decimal:
        """Signed quantity when all open orders have filled."""
        return self.held.get(symbol, _ZERO) + self.in_flight.get(symbol, _ZERO)

    def with_order(self, intent: OrderIntent, cost_usd: Decimal) -> "RiskSnapshot":
        """The snapshot with `intent` in flight; `cost_usd` is what it takes from (or, negative, adds to) buying power."""
        signed, power, alone = _signed(intent), self.buying_power_usd, frozenset((intent.symbol,))
        return replace(
            self,
            in_flight={**self.in_flight, intent.symbol: self.in_flight.get(intent.symbol, _ZERO) + signed},
            open_buys=self.open_buys | alone if intent.side == BUY else self.open_buys,
            open_sells=self.open_sells if intent.side == BUY else self.open_sells | alone,
            known_orders=self.known_orders | {intent.client_order_id},
            orders_recent_ns=(*self.orders_recent_ns, self.at_ns),
            orders_today=self.orders_today + 1,
            buying_power_usd=None if power is None else power - cost_usd,
        )


_SEAL = object()


@dataclass(frozen=True, slots=True)
class ApprovedOrder:
    """An intent that passed `check`, which alone can make one: whatever records orders takes nothing else."""

    intent: OrderIntent
    seal: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("only risk.check approves an order")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedOrder:
    """An intent that may not become an order; `value` stood against `limit` where the code compares numbers."""

    intent: OrderIntent
    code: RefusalCode
    reason: str
    limit: Decimal | None = None
    value: Decimal | None = None


Verdict = ApprovedOrder | RefusedOrder
_Finding = tuple[RefusalCode, str, Decimal | None, Decimal | None]


def check(intent: OrderIntent, snapshot: RiskSnapshot, limits: RiskLimits, *, cost_usd: Decimal = _ZERO) -> Verdict:
    """Judge `intent`; `cost_usd` is what it would take from buying power. The first limit broken names the refusal."""
    found = _permission(intent, snapshot, limits)
    if found is None and not reduces(snapshot.projected(intent.symbol), _signed(intent)):
        found = _entry(intent, snapshot, limits) or _size(intent, snapshot, limits, cost_usd)
    if found is None:
        return ApprovedOrder(intent, _SEAL)
    code, detail, limit, value = found
    numbers = f" ({detail})" if detail else ""
    return RefusedOrder(intent=intent, code=code, reason=code.sentence + numbers, limit=limit, value=value)


def reduces(position: Decimal, signed: Decimal) -> bool:
    """Whether `signed` shares more bring `position` nearer to zero and not past it."""
    after = position + signed
    return abs(after) < abs(position) and after * position >= 0


def _signed(intent: OrderIntent) -> Decimal:
    return intent.quantity if intent.side == BUY else -intent.quantity


def _permission(intent: OrderIntent, snapshot: RiskSnapshot, limits: RiskLimits) -> _Finding | None:
    """Limits that hold for every order."""
    if snapshot.trading is TradingState.HALTED:
        return RefusalCode.HALTED, snapshot.trading_reason, None, None
    if intent.symbol in limits.restricted:
        return RefusalCode.SYMBOL_RESTRICTED, intent.symbol, None, None
    if intent.quantity <= 0:
        return RefusalCode.QUANTITY_INVALID, "", _ZERO, intent.quantity
    if intent.symbol not in snapshot.prices_usd:
        return RefusalCode.PRICE_MISSING, intent.symbol, None, None
    same, opposite = snapshot.open_buys, snapshot.open_sells
    if intent.side != BUY:
        same, opposite = opposite, same
    if intent.client_order_id in snapshot.known_orders or intent.symbol in same:
        return RefusalCode.DUPLICATE_INTENT, intent.client_order_id, None, None
    if intent.symbol in opposite:
        return RefusalCode.WASH_TRADE, intent.client_order_id, None, None
    if snapshot.holds and not snapshot.holds.get(intent.symbol, Hold.START).allows(intent.side):
        return RefusalCode.SYMBOL_HOLD, snapshot.holds[intent.symbol].value, None, None
    if limits.collar_fraction is not None and (found := _collar(intent, snapshot, limits.collar_fraction)) is not None:
        return found
    if limits.orders_per_minute is not None:
        since = snapshot.at_ns - MINUTE_NS
        count = sum(1 for at_ns in snapshot.orders_recent_ns if at_ns > since)
        if count >= limits.orders_per_minute:
            return _counts(RefusalCode.ORDER_RATE, limits.orders_per_minute, count + 1)
    if limits.orders_per_day is not None and snapshot.orders_today >= limits.orders_per_day:
        return _counts(RefusalCode.ORDERS_PER_DAY, limits.orders_per_day, snapshot.orders_today + 1)
    return None


def _collar(intent: OrderIntent, snapshot: RiskSnapshot, fraction: Decimal) -> _Finding | None:
    """Both prices an order may carry: the one it was sized at and its limit."""
    last = snapshot.trades_usd.get(intent.symbol, snapshot.prices_usd[intent.symbol])
    for price in (intent.reference_price_usd, intent.limit_price_usd):
        if price is not None and abs(price - last) > fraction * last:
            limit = last + (fraction if price > last else -fraction) * last
            return _numbers(RefusalCode.PRICE_COLLAR, limit, price, digits=4)
    return None


def _entry(intent: OrderIntent, snapshot: RiskSnapshot, limits: RiskLimits) -> _Finding | None:
    """Whether risk may be added in this symbol at this moment at all."""
    found = breach(
        limits,
        equity=snapshot.equity_usd,
        session_start=snapshot.session_start_equity_usd,
        peak=snapshot.peak_equity_usd,
    )
    if found is not None:
        return _numbers(found.code, found.limit, found.value)
    if snapshot.trading is TradingState.REDUCING:
        return RefusalCode.REDUCING, snapshot.trading_reason, None, None
    projected = snapshot.projected(intent.symbol)
    is_whole = intent.quantity == intent.quantity.to_integral_value()
    if intent.side != BUY and (projected > 0 or intent.symbol not in limits.shortable or not is_whole):
        # one order never turns a long position into a short one, nor are fractions sold short: no broker takes it
        return RefusalCode.SHORT_SALE, "", projected, intent.quantity
    if intent.symbol in snapshot.stale:
        return RefusalCode.PRICE_STALE, intent.symbol, None, None
    spread = snapshot.spreads.get(intent.symbol)
    if spread is not None and _over(spread, limits.spread_fraction):
        return _numbers(RefusalCode.SPREAD_WIDE, limits.spread_fraction, spread, digits=4)
    return _phase(snapshot, limits)


def _phase(snapshot: RiskSnapshot, limits: RiskLimits) -> _Finding | None:
    """Seconds since the open and until the close, where the order would reach a session that is under way."""
    if snapshot.session_ns is None:
        return None
    open_ns, close_ns = snapshot.session_ns
    since, until = Decimal(snapshot.at_ns - open_ns) / SECOND_NS, Decimal(close_ns - snapshot.at_ns) / SECOND_NS
    for wait, passed in ((limits.entry_after_open_s, since), (limits.entry_before_close_s, until)):
        if wait is not None and passed < wait:
            return _numbers(RefusalCode.SESSION_PHASE, Decimal(wait), passed, digits=0)
    return None


def _size(intent: OrderIntent, snapshot: RiskSnapshot, limits: RiskLimits, cost_usd: Decimal) -> _Finding | None:
    """Limits on how much there may be of it."""
    price, equity = snapshot.prices_usd[intent.symbol], snapshot.equity_usd
    after = snapshot.projected(intent.symbol) + _signed(intent)
    if _over(intent.quantity, limits.order_quantity):
        return _numbers(RefusalCode.ORDER_QUANTITY, limits.order_quantity, intent.quantity)
    if _over(intent.quantity * price, limits.order_notional_usd):
        return _numbers(RefusalCode.ORDER_NOTIONAL, limits.order_notional_usd, intent.quantity * price)
    position = abs(after) * price
    if _over(position, limits.position_notional_usd):
        return _numbers(RefusalCode.POSITION_NOTIONAL, limits.position_notional_usd, position)
    if limits.concentration_fraction is not None and position > limits.concentration_fraction * equity:
        return _numbers(RefusalCode.CONCENTRATION, limits.concentration_fraction * equity, position)
    if limits.gross_exposure_fraction is not None:
        before, limit = gross_exposure(snapshot), limits.gross_exposure_fraction * equity
        gross = before - abs(snapshot.projected(intent.symbol)) * price + position
        if gross > limit:
            return _numbers(RefusalCode.GROSS_EXPOSURE, limit, gross)
    if limits.net_exposure_fraction is not None:
        before, limit = net_exposure(snapshot), limits.net_exposure_fraction * equity
        net = before + _signed(intent) * price
        if abs(net) > limit and abs(net) > abs(before):  # what balances the book may be too little, but is no breach
            return _numbers(RefusalCode.NET_EXPOSURE, limit, abs(net))
    if _over(cost_usd, snapshot.buying_power_usd):
        return _numbers(RefusalCode.BUYING_POWER, snapshot.buying_power_usd, cost_usd)
    return None


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit on losses that is reached: US dollars lost against the US dollars that may be."""

    code: RefusalCode
    limit: Decimal
    value: Decimal
    answer: OnBreach

    @property
    def event(self) -> StateEvent | None:
        """What it means for the trading state; None: nothing beyond the orders of the moment."""
        return {OnBreach.REDUCE: StateEvent.LIMIT_REDUCES, OnBreach.HALT: StateEvent.LIMIT_HALTS}.get(self.answer)

    @property
    def reason(self) -> str:
        """One clause for the record."""
        return f"{self.code.value} of {self.value:.2f} USD has reached its limit of {self.limit:.2f} USD"


def breach(limits: RiskLimits, *, equity: Decimal, session_start: Decimal, peak: Decimal | None) -> Breach | None:
    """The limit on losses that `equity` has reached, the one with the hardest answer first. Reached is broken."""
    found = []
    for code, fraction, base, answer in (
        (RefusalCode.DAILY_LOSS, limits.daily_loss_fraction, session_start, limits.on_daily_loss),
        (RefusalCode.DRAWDOWN, limits.drawdown_fraction, peak, limits.on_drawdown),
    ):
        if fraction is None or base is None:
            continue
        loss, limit = base - equity, fraction * base
        if loss > 0 and loss >= limit:
            found.append(Breach(code, limit, loss, answer))
    return max(found, key=lambda one: tuple(OnBreach).index(one.answer), default=None)


def gross_exposure(snapshot: RiskSnapshot) -> Decimal:
    """US dollars of all positions once every open order has filled, each by its absolute value."""
    return sum((abs(value) for value in _values(snapshot)), _ZERO)


def net_exposure(snapshot: RiskSnapshot) -> Decimal:
    """US dollars of all long positions less all short ones once every open order has filled."""
    return sum(_values(snapshot), _ZERO)


def _values(snapshot: RiskSnapshot) -> list[Decimal]:
    """Signed value of each position once every open order has filled, in name order; one without a price counts nothing."""
    prices = snapshot.prices_usd
    return [snapshot.projected(s) * prices[s] for s in sorted({*snapshot.held, *snapshot.in_flight}) if s in prices]


def _over(value: Decimal, limit: Decimal | None) -> bool:
    return limit is not None and value > limit


def _numbers(code: RefusalCode, limit: Decimal | None, value: Decimal, *, digits: int = 2) -> _Finding:
    return code, f"{value:.{digits}f} against {limit:.{digits}f}", limit, value


def _counts(code: RefusalCode, limit: int, value: int) -> _Finding:
    return code, f"{value} of {limit}", Decimal(limit), Decimal(value)
