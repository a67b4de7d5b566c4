"""The last word before an order is recorded: approved, or refused with a named code and its numbers.

Limits on size and loss hold back orders that add risk. An order that only reduces a long holding passes them, for refusing it
would keep the risk on; it is still refused while trading is halted, in a restricted symbol, without any price, as a
duplicate, or above the order rate.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from algo_royale.costs import BUY
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
MINUTE_NS = 60_000_000_000


class RefusalCode(enum.Enum):
    """Why an intent was refused; the value is what is stored, the sentence what a person reads."""

    sentence: str

    HALTED = "halted", "Trading is halted until a person resumes it."
    SYMBOL_RESTRICTED = "symbol_restricted", "The symbol is on the restricted list."
    QUANTITY_INVALID = "quantity_invalid", "The quantity is not positive."
    PRICE_MISSING = "price_missing", "No price of the symbol is known, so the order cannot be judged."
    PRICE_STALE = "price_stale", "The symbol's last bar is too old to add risk on."
    DUPLICATE_INTENT = "duplicate_intent", "An order of this symbol is still open, or this order was recorded before."
    SHORT_SALE = "short_sale", "The order would sell more than is held."
    ORDER_NOTIONAL = "order_notional", "The order is larger than one order may be."
    POSITION_NOTIONAL = "position_notional", "The position would be larger than one position may be."
    GROSS_EXPOSURE = "gross_exposure", "All positions and open orders together would exceed the limit."
    DAILY_LOSS = "daily_loss", "The session's loss has reached the limit; only reductions are allowed."
    ORDER_RATE = "order_rate", "Too many orders within a minute."
    BUYING_POWER = "buying_power", "The order costs more than the buying power."

    def __new__(cls, code: str, sentence: str) -> "RefusalCode":
        member = object.__new__(cls)
        member._value_ = code
        member.sentence = sentence
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskLimits:
    """None switches a limit off. US dollars, but for fractions of equity where the name says `fraction`."""

    order_notional_usd: Decimal | None = None
    position_notional_usd: Decimal | None = None
    gross_exposure_fraction: Decimal | None = None  # of the equity at the decision
    daily_loss_fraction: Decimal | None = None  # of the equity at the end of the previous session
    orders_per_minute: int | None = None
    restricted: frozenset[str] = frozenset()


class RiskSnapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a verdict is based on, at one instant. `in_flight` is the signed quantity of each symbol's open orders.

    `orders_recent_ns` are the times of earlier orders; `buying_power_usd` None where the account fills what it can pay.
    """

    at_ns: int
    equity_usd: Decimal
    session_start_equity_usd: Decimal
    held: Mapping[str, Decimal]
    in_flight: Mapping[str, Decimal] = {}
    prices_usd: Mapping[str, Decimal] = {}
    stale: frozenset[str] = frozenset()
    open_symbols: frozenset[str] = frozenset()
    known_orders: frozenset[str] = frozenset()
    orders_recent_ns: tuple[int, ...] = ()
    buying_power_usd: Decimal | None = None
    halted_reason: str | None = None

    def projected(self, symbol: str) -> Decimal:
        """Signed quantity when all open orders have filled."""
        return self.held.get(symbol, _ZERO) + self.in_flight.get(symbol, _ZERO)

    def with_order(self, intent: OrderIntent, cost_usd: Decimal) -> "RiskSnapshot":
        """The snapshot with `intent` in flight; `cost_usd` is what it takes from (or, negative, adds to) buying power."""
        signed = intent.quantity if intent.side == BUY else -intent.quantity
        power = self.buying_power_usd
        return replace(
            self,
            in_flight={**self.in_flight, intent.symbol: self.in_flight.get(intent.symbol, _ZERO) + signed},
            open_symbols=self.open_symbols | {intent.symbol},
            known_orders=self.known_orders | {intent.client_order_id},
            orders_recent_ns=(*self.orders_recent_ns, self.at_ns),
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
    found = _permission(intent, snapshot, limits) or _exposure(intent, snapshot, limits, cost_usd)
    if found is None:
        return ApprovedOrder(intent, _SEAL)
    code, detail, limit, value = found
    numbers = f" ({detail})" if detail else ""
    return RefusedOrder(intent=intent, code=code, reason=code.sentence + numbers, limit=limit, value=value)


def _permission(intent: OrderIntent, snapshot: RiskSnapshot, limits: RiskLimits) -> _Finding | None:
    """Limits that hold for every order."""
    if snapshot.halted_reason is not None:
        return RefusalCode.HALTED, snapshot.halted_reason, None, None
    if intent.symbol in limits.restricted:
        return RefusalCode.SYMBOL_RESTRICTED, intent.symbol, None, None
    if intent.quantity <= 0:
        return RefusalCode.QUANTITY_INVALID, "", _ZERO, intent.quantity
    if intent.symbol not in snapshot.prices_usd:
        return RefusalCode.PRICE_MISSING, intent.symbol, None, None
    if intent.symbol in snapshot.open_symbols or intent.client_order_id in snapshot.known_orders:
        return RefusalCode.DUPLICATE_INTENT, intent.client_order_id, None, None
    if limits.orders_per_minute is not None:
        since = snapshot.at_ns - MINUTE_NS
        count = sum(1 for at_ns in snapshot.orders_recent_ns if at_ns > since)
        if count >= limits.orders_per_minute:
            limit, value = Decimal(limits.orders_per_minute), Decimal(count + 1)
            return RefusalCode.ORDER_RATE, f"{value} of {limit}", limit, value
    return None


def _exposure(intent: OrderIntent, snapshot: RiskSnapshot, limits: RiskLimits, cost_usd: Decimal) -> _Finding | None:
    """Limits on what adds risk."""
    projected = snapshot.projected(intent.symbol)
    if intent.side != BUY:
        after = projected - intent.quantity
        return None if after >= 0 else (RefusalCode.SHORT_SALE, "", projected, intent.quantity)
    if intent.symbol in snapshot.stale:
        return RefusalCode.PRICE_STALE, intent.symbol, None, None
    price = snapshot.prices_usd[intent.symbol]
    notional = intent.quantity * price
    if _over(notional, limits.order_notional_usd):
        return _numbers(RefusalCode.ORDER_NOTIONAL, limits.order_notional_usd, notional)
    position = (projected + intent.quantity) * price
    if _over(position, limits.position_notional_usd):
        return _numbers(RefusalCode.POSITION_NOTIONAL, limits.position_notional_usd, position)
    if limits.gross_exposure_fraction is not None:
        gross, limit = gross_exposure(snapshot) + notional, limits.gross_exposure_fraction * snapshot.equity_usd
        if gross > limit:
            return _numbers(RefusalCode.GROSS_EXPOSURE, limit, gross)
    if limits.daily_loss_fraction is not None:
        loss = snapshot.session_start_equity_usd - snapshot.equity_usd
        limit = limits.daily_loss_fraction * snapshot.session_start_equity_usd
        if loss > 0 and loss >= limit:
            return _numbers(RefusalCode.DAILY_LOSS, limit, loss)
    if _over(cost_usd, snapshot.buying_power_usd):
        return _numbers(RefusalCode.BUYING_POWER, snapshot.buying_power_usd, cost_usd)
    return None


def gross_exposure(snapshot: RiskSnapshot) -> Decimal:
    """US dollars of all positions once every open order has filled, each by its absolute value."""
    total = _ZERO
    for symbol in sorted({*snapshot.held, *snapshot.in_flight}):
        price = snapshot.prices_usd.get(symbol)
        if price is not None:
            total += abs(snapshot.projected(symbol)) * price
    return total


def _over(value: Decimal, limit: Decimal | None) -> bool:
    return limit is not None and value > limit


def _numbers(code: RefusalCode, limit: Decimal | None, value: Decimal) -> _Finding:
    return code, f"{value:.2f} against {limit:.2f}", limit, value
