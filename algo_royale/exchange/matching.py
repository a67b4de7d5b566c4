"""When an order trades, and at what price per share. Pure: the exchange keeps the books.

Sources: Alpaca's paper fill model (an order trades when it is marketable against the best bid and offer) and order types.
"""

from decimal import ROUND_DOWN, Decimal
from typing import NamedTuple

from algo_royale.costs import BUY, CostRules, fill_price
from algo_royale.exchange.wire import Order

STOPS = ("stop", "stop_limit", "trailing_stop")
NINE_PLACES = Decimal("0.000000001")
HELD_BACK_USD = Decimal("0.01")  # what Alpaca keeps of an order of money
CHEAP_USD, CHEAP_COLLAR, COLLAR = Decimal(50), Decimal("1.04"), Decimal("1.025")
_TICK, _FINE_TICK = Decimal("0.01"), Decimal("0.0001")


class Touch(NamedTuple):
    """The market of a symbol in US dollars per share: last trade, best bid, best offer."""

    last: Decimal
    bid: Decimal
    ask: Decimal


class Range(NamedTuple):
    """What a closed bar tells, where nothing within it is known."""

    low: Decimal
    high: Decimal
    close: Decimal


def trail(order: Order) -> Decimal:
    """Distance of a trailing stop from its high water mark."""
    assert order.high_water_mark is not None
    if order.trail_price is not None:
        return order.trail_price
    assert order.trail_percent is not None
    return order.high_water_mark * order.trail_percent / 100


def follow(order: Order, last: Decimal) -> None:
    """Let a trailing stop follow the market: a sale's mark rises, a purchase's falls, and its stop goes with it."""
    mark = order.high_water_mark
    if mark is None:
        order.high_water_mark = last
    else:
        order.high_water_mark = min(mark, last) if order.side == BUY else max(mark, last)
    distance = trail(order)
    order.stop_price = order.high_water_mark + distance if order.side == BUY else order.high_water_mark - distance


def reached(order: Order, last: Decimal) -> bool:
    """Whether a trade at `last` sets the stop off."""
    assert order.stop_price is not None
    return last >= order.stop_price if order.side == BUY else last <= order.stop_price


def awaken(order: Order, last: Decimal) -> None:
    """Let a stop see a trade. A bought stop becomes a limit order a few per cent above its stop, as Alpaca's does."""
    if order.active or order.type not in STOPS:
        return
    if order.type == "trailing_stop":
        follow(order, last)
    order.active = reached(order, last)


def limit_of(order: Order) -> Decimal | None:
    """The worst price at which the order may trade; None for any."""
    if order.type in ("limit", "stop_limit"):
        return order.limit_price
    if order.type == "stop" and order.side == BUY:
        assert order.stop_price is not None
        return order.stop_price * (CHEAP_COLLAR if order.stop_price < CHEAP_USD else COLLAR)
    return None


def price_now(order: Order, touch: Touch, costs: CostRules) -> Decimal | None:
    """Price per share at which the order trades against `touch`, or None. Slippage never makes it worse than the limit."""
    awaken(order, touch.last)
    if not order.active:
        return None
    opposite, limit = (touch.ask if order.side == BUY else touch.bid), limit_of(order)
    price = fill_price(order.side, opposite, costs)
    if limit is None:
        return price
    if order.side == BUY:
        return min(price, limit) if opposite <= limit else None
    return max(price, limit) if opposite >= limit else None


def price_within(order: Order, bar: Range, costs: CostRules) -> Decimal | None:
    """Price at which the order traded inside a bar of which only the range is known, or None.

    A limit trades at itself where the range reached it; a stop at itself, made worse by the slippage. A stop-limit whose
    limit lies beyond its stop needs the close to be good enough, since nobody knows what came first. A trailing stop follows
    the close alone: the mark before this bar decides first.
    """
    buys = order.side == BUY
    if not order.active:
        assert order.type in STOPS
        if order.stop_price is None or not reached(order, bar.high if buys else bar.low):
            awaken(order, bar.close)
            return fill_price(order.side, bar.close, costs) if order.active else None
        order.active = True
        stop, limit = order.stop_price, limit_of(order)
        price = fill_price(order.side, stop, costs)
        if limit is None:
            return price
        if stop <= limit if buys else stop >= limit:
            return min(price, limit) if buys else max(price, limit)
        return limit if (bar.close <= limit if buys else bar.close >= limit) else None
    limit = limit_of(order)
    if limit is None:
        return None
    return limit if (bar.low <= limit if buys else bar.high >= limit) else None


def shares(order: Order, price: Decimal) -> Decimal:
    """How many shares the order asks for at `price`; an order of money is cut to nine places after a cent was kept."""
    if order.qty is not None:
        return order.qty - order.filled_qty
    assert order.notional is not None
    spent = order.filled_value
    return max(Decimal(0), ((order.notional - HELD_BACK_USD - spent) / price).quantize(NINE_PLACES, ROUND_DOWN))


def increment(price: Decimal) -> Decimal:
    """The smallest step of a price: a cent, and a hundredth of one below a dollar."""
    return _TICK if price >= 1 else _FINE_TICK
