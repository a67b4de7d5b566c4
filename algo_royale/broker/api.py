"""Alpaca's trading API over any transport: which requests make up each call of `BrokerPort`, and how lists are paged.

A transport supplies `request`; the network's is in `actors.alpaca`, the one over the twin's core in `actors.direct`.
"""

import abc
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from algo_royale.broker import alpaca_wire
from algo_royale.broker.port import Wire
from algo_royale.errors import BrokerRejected, BrokerUnavailable

ORDERS_PAGE, ACTIVITIES_PAGE = 500, 100


class TradingApi(abc.ABC):
    """`BrokerPort` in terms of one method."""

    @abc.abstractmethod
    def request(self, method: str, path: str, data: Mapping[str, Any] | None = None) -> Any:
        """JSON of the answer (None for an empty one). `path` follows "/v2"; `data` is the query, or the body of a POST.

        Raises BrokerRejected for a no (4xx), BrokerUnavailable when there is no usable answer.
        """

    def submit(
        self, *, client_order_id: str, symbol: str, side: str, quantity: Decimal,
        order_type: str = "market", time_in_force: str = "day", limit_price: Decimal | None = None,
    ) -> Wire:  # fmt: skip
        body = alpaca_wire.order_body(
            client_order_id=client_order_id, symbol=symbol, side=side, quantity=quantity,
            order_type=order_type, time_in_force=time_in_force, limit_price=limit_price,
        )  # fmt: skip
        return of(client_order_id, self.request("POST", "/orders", body))

    def order_by_client_id(self, client_order_id: str) -> Wire | None:
        try:
            found = self.request("GET", "/orders:by_client_order_id", {"client_order_id": client_order_id})
            return of(client_order_id, found)
        except BrokerRejected as error:
            if error.status == 404:
                return None
            raise

    def cancel(self, broker_order_id: str) -> None:
        self.request("DELETE", f"/orders/{broker_order_id}")

    def orders(self, *, status: str, after_ns: int) -> list[Wire]:
        """Paged by submission time, since the API has no page token; pages overlap by a microsecond so that orders of one
        instant are not parted, and known ids are dropped."""
        found: dict[str, Wire] = {}
        while True:
            query: dict[str, Any] = {"status": status, "limit": ORDERS_PAGE, "direction": "asc"}
            if after_ns > 0:
                query["after"] = alpaca_wire.format_time(after_ns)
            page = many(self.request("GET", "/orders", query))
            fresh = {str(order.get("id")): order for order in page if order.get("id") not in found}
            found |= fresh
            if len(page) < ORDERS_PAGE:
                return list(found.values())
            if not fresh:
                raise BrokerUnavailable(f"more than {ORDERS_PAGE} orders of one instant cannot be paged")
            after_ns = alpaca_wire.parse_order(page[-1]).submitted_ns - 1_000

    def activities(self, *, after_ns: int) -> list[Wire]:
        found: list[Wire] = []
        query: dict[str, Any] = {"direction": "asc", "page_size": ACTIVITIES_PAGE}
        if after_ns > 0:
            query["after"] = alpaca_wire.format_time(after_ns)
        while True:
            page = many(self.request("GET", "/account/activities", query))
            found += page
            if len(page) < ACTIVITIES_PAGE:
                return found
            if page[-1].get("id") in (None, query.get("page_token")):
                raise BrokerUnavailable("the activities do not end: the same page came again")
            query = {**query, "page_token": page[-1].get("id")}

    def positions(self) -> list[Wire]:
        return many(self.request("GET", "/positions"))

    def account(self) -> Wire:
        return one(self.request("GET", "/account"))


def one(value: Any) -> Wire:
    """An answer that must be an object."""
    if not isinstance(value, dict):
        raise BrokerUnavailable(f"the answer is a {type(value).__name__}, not an object")
    return value


def of(client_order_id: str, value: Any) -> Wire:
    """An answer that must be about this order."""
    found = one(value)
    if found.get("client_order_id") != client_order_id:
        raise BrokerUnavailable(f"the answer is not about {client_order_id}")
    return found


def many(value: Any) -> list[Wire]:
    """An answer that must be a list of objects."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BrokerUnavailable(f"the answer is a {type(value).__name__}, not a list of objects")
    return value


def failure(
    status: int, body: Any, text: str, retry_after_s: float | None = None
) -> BrokerRejected | BrokerUnavailable:
    """The error an answer of `status` stands for. `body` is its JSON if it has any; it may lack a code, or be HTML."""
    fields = body if isinstance(body, dict) else {}
    message = alpaca_wire.plain(fields.get("message") or text or "no message")
    if status == 429:
        return BrokerUnavailable(f"429: {message}", retry_after_s=retry_after_s if retry_after_s is not None else 1.0)
    if status == 408 or not 400 <= status < 500:
        return BrokerUnavailable(f"{status}: {message}")
    code = fields.get("code")
    return BrokerRejected(status, code if isinstance(code, int) else None, message)
