"""From target weights to intents: quantities on the lot, drift band, minimum notional, sells before buys."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from algo_royale.costs import BUY, SELL, CostRules, commission, fees, fill_price
from algo_royale.errors import BadConfiguration
from algo_royale.holds import HoldRules

_ZERO, _ONE = Decimal(0), Decimal(1)
_BPS, _CENT = Decimal(10_000), Decimal("0.01")


class OrderType(enum.StrEnum):
    """How an order is to be sent."""

    MARKET = "market"  # at what there is; a daily bar's order waits for the open
    MARKETABLE_LIMIT = "marketable_limit"  # at what there is, but not beyond a collar around the last price
    OPENING_AUCTION = "opening_auction"
    CLOSING_AUCTION = "closing_auction"


class Terms(NamedTuple):
    """What an order is sent as, in the broker's words."""

    order_type: str = "market"
    time_in_force: str = "day"
    limit_price_usd: Decimal | None = None


AUCTIONS = (OrderType.OPENING_AUCTION, OrderType.CLOSING_AUCTION)
MARKET_TERMS = Terms()
_AUCTION_TERMS = {
    OrderType.OPENING_AUCTION: Terms(time_in_force="opg"),
    OrderType.CLOSING_AUCTION: Terms(time_in_force="cls"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPolicy:
    """Type and time in force of every order.

    `type`: see `OrderType`. A marketable limit of a daily bar works through the whole session; within a session it trades at
    once or not at all (immediate or cancel), or, with `limit_rests`, waits until the next bar has ended, which decides anew.
    `collar_bps`: how far a limit is from the last price. `round_limits`: to the broker's increments; adjusted prices have none.
    `flatten_at_close`: bars within a session sell everything before it ends.
    """

    type: OrderType = OrderType.MARKET
    collar_bps: Decimal = Decimal(50)
    round_limits: bool = True
    limit_rests: bool = False
    flatten_at_close: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.collar_bps < _BPS:
            raise BadConfiguration(f"collar_bps {self.collar_bps} must be at least 0 and below {_BPS}")

    def terms(self, side: str, last: Decimal, *, is_daily: bool) -> Terms:
        """How an order of `side` is sent when the last price is `last`."""
        if self.type is OrderType.MARKETABLE_LIMIT:
            return Terms("limit", "day" if is_daily or self.limit_rests else "ioc", self.limit(side, last))
        return _AUCTION_TERMS.get(self.type, MARKET_TERMS)

    def limit(self, side: str, last: Decimal) -> Decimal:
        """The worst price a marketable limit takes: `last` and the collar, rounded towards `last` so as not to exceed it."""
        part = self.collar_bps / _BPS
        price = last * (_ONE + part if side == BUY else _ONE - part)
        if not self.round_limits:
            return price
        step = increment(price)
        return (price / step).to_integral_value(ROUND_FLOOR if side == BUY else ROUND_CEILING) * step


def increment(price: Decimal) -> Decimal:
    """The broker's smallest step of a limit price: a cent, and a hundredth of one below a dollar (SEC rule 612)."""
    return _CENT if price >= 1 else _CENT / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRules:
    """How the account trades. `lot` in shares; `drift_band` a fraction of equity; `settlement_days` in sessions.

    `account` "cash": proceeds of sales are spent only after `settlement_days`; "margin": at once, but never on credit.
    `shortfall` "scale": buys that cost more than there is are scaled down when they fill, so cash is never negative;
    "borrow": buys are scaled to buying power when they are decided, and then the whole order fills, as the broker does it,
    so an opening gap may leave cash below zero.
    `shares`: what a symbol with any weight is to hold, however much that is worth; None: what its weight is worth.
    """

    lot: Decimal = Decimal("0.000001")
    min_notional: Decimal = Decimal(1)
    drift_band: Decimal = Decimal("0.005")
    account: str = "margin"
    settlement_days: int = 1
    shortfall: str = "scale"
    shares: Decimal | None = None
    costs: CostRules = field(default_factory=CostRules)
    holds: HoldRules = field(default_factory=HoldRules)
    policy: OrderPolicy = field(default_factory=OrderPolicy)

    def __post_init__(self) -> None:
        if self.account not in ("cash", "margin") or self.shortfall not in ("scale", "borrow"):
            raise BadConfiguration(f"account {self.account!r} or shortfall {self.shortfall!r} is unknown")
        if self.lot <= 0 or self.min_notional < 0 or self.drift_band < 0 or self.settlement_days < 0:
            raise BadConfiguration("lot must be positive; min_notional, drift_band and settlement_days not negative")
        if self.shares is not None and self.shares < self.lot:
            raise BadConfiguration(f"shares {self.shares} are less than the lot {self.lot}")
        if self.shortfall == "borrow" and self.lot % 1 and self.policy.type in AUCTIONS:
            raise BadConfiguration(
                f"fractions of a share ({self.lot}) cannot be sent to an auction: market and limit only"
            )


RESEARCH_RULES = AccountRules()
TRADER_RULES = AccountRules(lot=_ONE, shortfall="borrow", costs=CostRules(price_tick=Decimal("0.0001")))


class Desire(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one symbol is to become. `ordered` is signed: shares to buy (+) or sell (-) now, 0 for none.

    `target_quantity` is what should be held in the end; where the band says "close enough" it is what is held already.
    """

    symbol: str
    target_quantity: Decimal
    ordered: Decimal


def floor_lot(quantity: Decimal, lot: Decimal) -> Decimal:
    """The largest multiple of `lot` not above `quantity` (>= 0)."""
    return (quantity / lot).to_integral_value(ROUND_FLOOR) * lot


def desire(
    symbol: str, weight: float, equity: Decimal, price: Decimal, projected: Decimal, rules: AccountRules
) -> Desire:
    """Size one symbol: target floor_lot(weight * equity / price) against `projected` (held plus in flight), catalogue §14.2.

    A weight of 0 sells everything whatever the band says; otherwise a difference worth less than
    max(min_notional, drift_band * equity) is left alone.
    """
    if weight <= 0.0:
        return Desire(symbol=symbol, target_quantity=_ZERO, ordered=-projected)
    wanted = Decimal(repr(weight)) * equity / price if rules.shares is None else rules.shares
    target = floor_lot(wanted, rules.lot)
    difference = target - projected
    if abs(difference) * price < max(rules.min_notional, rules.drift_band * equity):
        return Desire(symbol=symbol, target_quantity=projected, ordered=_ZERO)
    return Desire(symbol=symbol, target_quantity=target, ordered=difference)


def buy_cost(quantity: Decimal, reference: Decimal, rules: AccountRules) -> Decimal:
    """US dollars that buying at market costs when it meets `reference`: slippage and commission included."""
    price = fill_price(BUY, reference, rules.costs)
    return quantity * price + commission(BUY, quantity, price, rules.costs)


def sell_proceeds(quantity: Decimal, reference: Decimal, rules: AccountRules) -> Decimal:
    """US dollars that selling at market brings when it meets `reference`, after slippage, commission and fees."""
    price = fill_price(SELL, reference, rules.costs)
    costs = commission(SELL, quantity, price, rules.costs) + fees(SELL, quantity, price, rules.costs)
    return quantity * price - costs


def scale_buys(
    quantities: Sequence[Decimal], references: Sequence[Decimal], power: Decimal, rules: AccountRules
) -> list[Decimal]:
    """Buys that `power` can pay: all scaled by one factor and floored to the lot; below `min_notional` dropped (0).

    Unchanged when they fit. A minimum commission does not shrink with the quantity, so the factor is found again until the
    sum fits; should rounding leave every quantity as it was, the largest gives up a lot, so it always ends.
    """
    wanted = list(quantities)
    cost = sum((buy_cost(q, p, rules) for q, p in zip(wanted, references, strict=True)), _ZERO)
    while cost > power and any(wanted):
        factor, before = max(power, _ZERO) / cost, list(wanted)
        for i, (quantity, reference) in enumerate(zip(wanted, references, strict=True)):
            scaled = floor_lot(quantity * factor, rules.lot)
            wanted[i] = scaled if scaled * reference >= rules.min_notional else _ZERO
        if wanted == before:
            wanted[wanted.index(max(wanted))] -= rules.lot
        cost = sum((buy_cost(q, p, rules) for q, p in zip(wanted, references, strict=True)), _ZERO)
    return wanted


def scale_desires(
    desires: Sequence[Desire], prices: Mapping[str, Decimal], power: Decimal, rules: AccountRules
) -> list[Desire]:
    """`desires` with their buys scaled to `power`; targets stay, so that the shortfall is tried again later."""
    buys = [d for d in desires if d.ordered > 0]
    scaled = scale_buys([d.ordered for d in buys], [prices[d.symbol] for d in buys], power, rules)
    ordered = {d.symbol: quantity for d, quantity in zip(buys, scaled, strict=True)}
    return [replace(d, ordered=ordered[d.symbol]) if d.symbol in ordered else d for d in desires]


def in_order(desires: Sequence[Desire]) -> list[Desire]:
    """Those with something to order: sells first, then buys, each in symbol order."""
    return sorted([d for d in desires if d.ordered], key=lambda d: (d.ordered > 0, d.symbol))
