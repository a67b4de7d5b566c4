"""A broker that is only looked at: what a dry run trades with."""

from decimal import Decimal

from algo_royale.broker.port import BrokerPort, Wire
from algo_royale.errors import BrokerRejected
from algo_royale.ids import is_ours

NOT_SENT = "dry run: decided, not sent"


class DryBroker:
    """Reads through to `broker` and sends nothing that would change anything there: every order ends as rejected, by us.

    Orders with our mark are another ledger's (a dry run has none of its own at the broker) and are not shown. A method
    that the port may get one day is absent here until somebody decides what a dry run does about it.
    """

    def __init__(self, broker: BrokerPort) -> None:
        self._broker = broker

    def submit(
        self, *, client_order_id: str, symbol: str, side: str, quantity: Decimal,
        order_type: str = "market", time_in_force: str = "day", limit_price: Decimal | None = None,
    ) -> Wire:  # fmt: skip
        raise BrokerRejected(0, None, NOT_SENT)

    def cancel(self, broker_order_id: str) -> None:
        raise BrokerRejected(0, None, NOT_SENT)

    def order_by_client_id(self, client_order_id: str) -> Wire | None:
        return None

    def orders(self, *, status: str, after_ns: int) -> list[Wire]:
        listed = self._broker.orders(status=status, after_ns=after_ns)
        return [order for order in listed if not is_ours(str(order.get("client_order_id")))]

    def activities(self, *, after_ns: int) -> list[Wire]:
        return self._broker.activities(after_ns=after_ns)

    def positions(self) -> list[Wire]:
        return self._broker.positions()

    def account(self) -> Wire:
        return self._broker.account()
