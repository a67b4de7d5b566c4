"""What the trading actors need of a broker, whoever plays it: Alpaca over the network, or the twin's core in process.

Answers are the broker's own JSON objects (`dict`), decoded by `algo_royale.broker.alpaca_wire`. Calls block; they raise
`BrokerUnavailable` when we do not know what happened and `BrokerRejected` when the broker said no.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Protocol

Wire = dict[str, Any]


class BrokerPort(Protocol):
    """Orders, positions, account."""

    def submit(
        self, *, client_order_id: str, symbol: str, side: str, quantity: Decimal,
        order_type: str = "market", time_in_force: str = "day", limit_price: Decimal | None = None,
    ) -> Wire: ...  # fmt: skip

    def order_by_client_id(self, client_order_id: str) -> Wire | None:
        """The order, or None when the broker certainly does not know it."""
        ...

    def cancel(self, broker_order_id: str) -> None: ...

    def orders(self, *, status: str, after_ns: int) -> list[Wire]:
        """All orders with that status (open | closed | all) submitted after `after_ns`, oldest first, all pages."""
        ...

    def activities(self, *, after_ns: int) -> list[Wire]:
        """What moved the account after `after_ns`: fills, splits, dividends, fees, deposits; oldest first, all pages."""
        ...

    def positions(self) -> list[Wire]: ...

    def account(self) -> Wire: ...


class MarketDataPort(Protocol):
    """Bars, corporate actions, and what the market looks like now."""

    def bars(self, *, symbol: str, timeframe: str, start_ns: int, end_ns: int) -> list[Wire]:
        """Closed raw bars with start in [start_ns, end_ns), oldest first, all pages."""
        ...

    def corporate_actions(self, *, symbol: str, start: str, end: str) -> Wire:
        """Splits and cash dividends with ex-date in [start, end] (ISO dates)."""
        ...

    def snapshots(self, *, symbols: Sequence[str]) -> Wire:
        """By symbol its latestTrade and latestQuote, as far as there are any."""
        ...


class StreamHandle(Protocol):
    def send(self, text: str) -> bool:
        """False when the connection is gone."""
        ...

    def close(self) -> None: ...


class StreamPort(Protocol):
    """Opens a websocket. Frames and state changes arrive through the callbacks, from any thread, in order."""

    def open(
        self,
        endpoint: str,
        connection: int,
        on_frame: Callable[[int, str], object],
        on_state: Callable[[int, bool, str, bool], object],
    ) -> StreamHandle:
        """A new connection; the endpoint's former one is closed, whoever holds it.

        `on_frame(connection, text)`; `on_state(connection, connected, detail, fatal)`; endpoint: data | trading."""
        ...  # fmt: skip
