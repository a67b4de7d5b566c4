"""Cash, positions at average cost, realised profit and fees, folded from fills. Pure Decimal; the store keeps what this computes."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from algo_royale.costs import BUY
from algo_royale.orders import Fill

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Position:
    """Signed quantity of shares and their average cost in US dollars per share (fees not included)."""

    quantity: Decimal
    average_cost_usd: Decimal


FLAT = Position(_ZERO, _ZERO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """US dollars. `cash` is all of it; `unsettled` lists the parts not yet to be spent as (settles at session index, amount).

    For any fills: cash + sum(quantity * average cost) = starting cash + realised_pnl - fees.
    """

    cash: Decimal
    positions: Mapping[str, Position] = field(default_factory=dict)  # without flat ones
    realised_pnl: Decimal = _ZERO
    fees: Decimal = _ZERO
    unsettled: tuple[tuple[int, Decimal], ...] = ()

    @property
    def unsettled_cash(self) -> Decimal:
        return sum((amount for _, amount in self.unsettled), _ZERO)

    @property
    def settled_cash(self) -> Decimal:
        return self.cash - self.unsettled_cash if self.unsettled else self.cash

    def quantity(self, symbol: str) -> Decimal:
        position = self.positions.get(symbol)
        return _ZERO if position is None else position.quantity

    def equity(self, prices: Mapping[str, Decimal]) -> Decimal:
        """Cash and positions at `prices`; a position without a price counts at its cost."""
        value = self.cash
        for symbol, position in self.positions.items():
            value += position.quantity * prices.get(symbol, position.average_cost_usd)
        return value

    def apply_fill(self, fill: Fill, *, settles_at: int | None = None) -> "Account":
        """The account after `fill`. Proceeds of a sale stay unsettled until session index `settles_at` (None: settled)."""
        signed = fill.quantity if fill.side == BUY else -fill.quantity
        before = self.positions.get(fill.symbol, FLAT)
        after, gained = _trade(before, signed, fill.price_usd)
        positions = dict(self.positions)
        if after.quantity:
            positions[fill.symbol] = after
        else:
            positions.pop(fill.symbol, None)
        change = -signed * fill.price_usd - fill.fees_usd
        unsettled = self.unsettled
        if settles_at is not None and change > 0:
            unsettled = (*unsettled, (settles_at, change))
        return Account(
            cash=self.cash + change, positions=positions, realised_pnl=self.realised_pnl + gained,
            fees=self.fees + fill.fees_usd, unsettled=unsettled,
        )  # fmt: skip

    def take_back(self, fill: Fill, history: "Iterable[Move]", *, realised_usd: Decimal) -> "Account":
        """The account as if `fill`, booked before, had never been; `history` is the rest of the symbol's moves, oldest first,
        and `realised_usd` the profit that was realised in the symbol with it.

        The shares, the cash and the fee go back. Average cost and realised profit become those of the history without the
        fill, which is not what an opposite trade would give: the sales after a busted purchase are of other shares.
        """
        signed = fill.quantity if fill.side == BUY else -fill.quantity
        held, realised = fold(history)
        before = self.positions.get(fill.symbol, FLAT)
        if held.quantity != before.quantity - signed:
            raise ValueError(f"the history of {fill.symbol} leads to {held.quantity}, not {before.quantity - signed}")
        positions = {symbol: position for symbol, position in self.positions.items() if symbol != fill.symbol}
        if held.quantity:
            positions[fill.symbol] = held
        return replace(
            self, cash=self.cash + signed * fill.price_usd + fill.fees_usd, positions=positions,
            realised_pnl=self.realised_pnl + realised - realised_usd, fees=self.fees - fill.fees_usd,
        )  # fmt: skip

    def settle(self, session_index: int) -> "Account":
        """The account at the start of a session: what settles by then may be spent."""
        if not self.unsettled:
            return self
        return replace(self, unsettled=tuple(part for part in self.unsettled if part[0] > session_index))

    def split(self, symbol: str, ratio: Decimal) -> "Account":
        """The account after a split of `ratio` new shares per old one; what it is worth does not change."""
        held = self.positions.get(symbol)
        if held is None:
            return self
        return replace(
            self, positions={**self.positions, symbol: Position(held.quantity * ratio, held.average_cost_usd / ratio)}
        )


class Flow(enum.StrEnum):
    """Why cash moved without a trade."""

    FEE = "fee"
    DIVIDEND = "dividend"
    INTEREST = "interest"
    TRANSFER = "transfer"  # in or out of the account: no profit and no loss
    OTHER = "other"


_FLOWS = {"fee": Flow.FEE, "cfee": Flow.FEE, "ptc": Flow.FEE, "divfee": Flow.FEE, "cgd": Flow.DIVIDEND}
_TRANSFERS = ("csd", "csw", "csr", "jnl", "acat", "trans")


def flow_of(kind: str) -> Flow:
    """The class of a cash entry by the broker's word for it, in lower case (Alpaca's activity types)."""
    if kind in _FLOWS:
        return _FLOWS[kind]
    if kind.startswith("div"):
        return Flow.DIVIDEND
    if kind.startswith("int"):
        return Flow.INTEREST
    return Flow.TRANSFER if kind.startswith(_TRANSFERS) else Flow.OTHER


class Resolution(enum.StrEnum):
    """What was done about a difference between ledger and broker; docs/ledger.md has the rules. There is no other."""

    ADOPTED = "adopted"  # the broker's figures were taken: by a ledger without an account, or after a person's word
    TOOK_OVER = "took_over"  # the broker knew more of one of our orders: its word was booked as an event
    BOOKED = "booked"  # the broker moved cash or shares without an order of ours: booked from its activity
    ROUNDED = "rounded"  # cash apart by rounding alone: an entry of its own
    HALTED = "halted"  # anything else: nothing was changed, and trading stopped


@dataclass(frozen=True, slots=True)
class Move:
    """Shares that came (or, negative, went) at a price; `price_usd` None: given or taken without one, as by a split."""

    quantity: Decimal
    price_usd: Decimal | None


def fold(history: Iterable[Move]) -> tuple[Position, Decimal]:
    """The position that a symbol's moves lead to, and the profit realised on the way."""
    position, realised = FLAT, _ZERO
    for move in history:
        if move.price_usd is None:
            position, gained = moved(position, move.quantity)
        else:
            position, gained = _trade(position, move.quantity, move.price_usd)
        realised += gained
    return position, realised


def moved(held: Position, quantity: Decimal) -> tuple[Position, Decimal]:
    """A position after shares were added or taken without a price, and the profit realised by that.

    What was paid is spread over what is left. Where nothing is left of it (a merger, a worthless removal) it is realised as a
    loss, of a short position as a gain; what was paid for the shares is an entry of cash.
    """
    after, cost = held.quantity + quantity, held.average_cost_usd * held.quantity
    if after * held.quantity > 0:
        return Position(after, cost / after), _ZERO
    return Position(after, _ZERO), -cost


def _trade(position: Position, signed: Decimal, price: Decimal) -> tuple[Position, Decimal]:
    """Position after buying (+) or selling (-) `signed` shares at `price`, and the profit realised by what was closed."""
    quantity = position.quantity + signed
    if position.quantity == 0 or (position.quantity > 0) == (signed > 0):  # opening or adding
        cost = position.average_cost_usd * abs(position.quantity) + price * abs(signed)
        return Position(quantity, cost / abs(quantity)), _ZERO
    closed = min(abs(signed), abs(position.quantity))
    gained = (price - position.average_cost_usd) * (closed if position.quantity > 0 else -closed)
    if quantity == 0:
        return FLAT, gained
    if (quantity > 0) == (position.quantity > 0):  # reduced: the average stays
        return Position(quantity, position.average_cost_usd), gained
    return Position(quantity, price), gained  # crossed zero: the rest is a new position
