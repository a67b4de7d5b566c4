"""What the broker certainly refuses, found before it is asked. The broker stays the authority: what passes here it may still refuse.

Sources: Alpaca's documentation of order types, and the refusals it was seen to give (status 422).
"""

import re
from decimal import Decimal
from typing import Protocol

CLIENT_ORDER_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
TYPES = frozenset({"market", "limit", "stop", "stop_limit", "trailing_stop"})
TIMES_IN_FORCE = frozenset({"day", "gtc", "opg", "cls", "ioc", "fok"})
LACKING = {  # what an order of ours never has
    "stop": "stop orders require a stop price", "stop_limit": "stop limit orders require both stop and limit price",
    "trailing_stop": "trailing stop orders must specify one of trail_price or trail_percent",
}  # fmt: skip
QUANTITY_STEP, PENNY, SUB_PENNY = Decimal("0.000000001"), Decimal("0.01"), Decimal("0.0001")


class Asked(Protocol):
    """What of an order is looked at."""

    @property
    def client_order_id(self) -> str: ...
    @property
    def quantity(self) -> Decimal: ...
    @property
    def order_type(self) -> str: ...
    @property
    def time_in_force(self) -> str: ...
    @property
    def limit_price_usd(self) -> Decimal | None: ...


def refusal(order: Asked) -> str | None:
    """Why the broker would refuse `order`, in its own words where they are known; None: no reason is known."""
    quantity, kind, tif = order.quantity, order.order_type, order.time_in_force
    whole = quantity == quantity.to_integral_value()
    found = [
        (not CLIENT_ORDER_ID.fullmatch(order.client_order_id), "client_order_id must be no more than 128 characters"),
        (quantity <= 0, "qty must be > 0"),
        (quantity % QUANTITY_STEP != 0, "qty has more than nine decimal places"),
        (kind not in TYPES, f"invalid order type {kind}"),
        (tif not in TIMES_IN_FORCE, f"invalid time in force {tif}"),
        (kind in LACKING, LACKING.get(kind, "")),
        (not whole and tif != "day", "fractional orders must be DAY orders"),
    ]  # fmt: skip
    return next((reason for broken, reason in found if broken), None) or _of_price(kind, order.limit_price_usd)


def _of_price(kind: str, price: Decimal | None) -> str | None:
    if kind == "market":
        return None if price is None else "market orders require no stop or limit price"
    if price is None:
        return "limit orders require a limit price"
    if price <= 0:
        return "limit price must be > 0"
    step = PENNY if price >= 1 else SUB_PENNY
    if price % step:
        return f"invalid limit_price {price}. sub-penny increment does not fulfill minimum pricing criteria"
    return None
