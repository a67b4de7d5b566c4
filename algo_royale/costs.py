"""What an execution costs: slippage, commission, regulatory fees. One set of formulas for research and the exchange twin.

Every figure is Decimal and a pure function of its arguments, so that a simulated fill and the twin's agree to the cent.
"""

from dataclasses import dataclass, fields, replace
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

BUY, SELL = "buy", "sell"
CENT = Decimal("0.01")
_ZERO, _ONE = Decimal(0), Decimal(1)
_BPS, _MILLION = Decimal(10_000), Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRules:
    """Basis points of price or notional, US dollars per share or per order; `price_tick` None leaves prices unrounded.

    Where a tick is set, prices and money are real ones: prices are rounded to it, commission and fees to the cent.
    """

    slippage_bps: Decimal = Decimal(5)
    commission_bps: Decimal = _ZERO
    commission_per_share: Decimal = _ZERO
    commission_min: Decimal = _ZERO
    price_tick: Decimal | None = None
    sec_fee_per_million: Decimal = _ZERO
    taf_per_share: Decimal = _ZERO
    taf_cap: Decimal = _ZERO

    def times(self, multiple: int) -> "CostRules":
        """Every cost so many times as high; the tick is a property of the market and stays."""
        dearer = {f.name: getattr(self, f.name) * multiple for f in fields(self) if f.name != "price_tick"}
        return replace(self, **dearer)

    @property
    def sellable_fees(self) -> bool:
        """True where a sell pays more than its commission."""
        return bool(self.sec_fee_per_million or self.taf_per_share)


def usd(price: float) -> Decimal:
    """The shortest decimal that reads back as `price`: 123.45 gives Decimal("123.45"). The only way from float to money."""
    return Decimal(repr(float(price)))


def fill_price(side: str, reference: Decimal, rules: CostRules) -> Decimal:
    """Price per share of a market order that meets `reference`: worse by the slippage, on the nearest tick (half even)."""
    slip = rules.slippage_bps / _BPS
    price = reference * (_ONE + slip if side == BUY else _ONE - slip)
    if rules.price_tick is None:
        return price
    return (price / rules.price_tick).to_integral_value(ROUND_HALF_EVEN) * rules.price_tick


def commission(side: str, quantity: Decimal, price: Decimal, rules: CostRules) -> Decimal:
    """US dollars for one order's execution; `commission_min` holds for any execution of a positive quantity."""
    if quantity <= 0:
        return _ZERO
    asked = quantity * price * rules.commission_bps / _BPS + quantity * rules.commission_per_share
    return _money(max(asked, rules.commission_min), rules)


def fees(side: str, quantity: Decimal, price: Decimal, rules: CostRules) -> Decimal:
    """Regulatory fees in US dollars: SEC on the notional and TAF per share, sells only."""
    if side != SELL or quantity <= 0 or not rules.sellable_fees:
        return _ZERO
    taf = quantity * rules.taf_per_share
    if rules.taf_cap:
        taf = min(taf, rules.taf_cap)
    return _money(quantity * price * rules.sec_fee_per_million / _MILLION + taf, rules)


def _money(amount: Decimal, rules: CostRules) -> Decimal:
    return amount if rules.price_tick is None else amount.quantize(CENT, ROUND_HALF_UP)
