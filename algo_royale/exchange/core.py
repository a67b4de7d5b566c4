"""The twin's state: one account, its orders and fills, the session's prices, and who listens. Pure: time moves by `advance` alone.

Fills follow what daily bars can tell. While a session is open its only known price is the open; at its close the range and the
close become known. So a market order meets the open of its session (or, sent during the session, that same last price); a limit
order fills at the open when the open is good enough, else at its limit when the session's range reached it; a DAY order that did
neither expires at the close, and so does any order in a symbol that did not trade that session. Nothing is partially filled.

Each change of an order gets an instant of its own: virtual time, moved on by a microsecond per change, so that orders by time are
orders by cause and pages by time lose nothing. Identifiers come from the seed: same seed and same script, same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from algo_royale.costs import commission, fees, fill_price
from algo_royale.errors import BadInput, BrokerUnavailable
from algo_royale.exchange import rest
from algo_royale.exchange.replay import OPEN, DayBar, MarketReplay
from algo_royale.exchange.streams import DataStream, Stream, TradingStream, encode
from algo_royale.exchange.wire import (
    BAD_FIELD,
    FORBIDDEN,
    NOT_ALLOWED,
    ExchangeConfig,
    Ids,
    Order,
    OrderRequest,
    Refusal,
    Response,
    Wire,
    asset_id,
    local,
    money,
    order_json,
    plain,
    rfc3339,
)
from algo_royale.ledger import Account
from algo_royale.orders import Fill
from algo_royale.sessions import new_york_date

__all__ = ["Exchange", "ExchangeConfig", "Response"]

_ZERO = Decimal(0)
_STAMP_NS = 1000


@dataclass(frozen=True, slots=True)
class Figures:
    """What the account is worth and may spend, in US dollars."""

    equity: Decimal
    long_value: Decimal
    reserved: Decimal
    buying_power: Decimal


class Exchange:
    """Alpaca in small: `handle` answers REST, `open_stream` gives websockets, `advance` moves time."""

    def __init__(self, replay: MarketReplay, config: ExchangeConfig) -> None:
        self.replay, self.config = replay, config
        self.now_ns = config.start_ns
        self.account = Account(cash=config.cash)
        self.orders: list[Order] = []
        self.open_orders: dict[str, Order] = {}
        self.by_id: dict[str, Order] = {}
        self.by_client_id: dict[str, Order] = {}
        self.activities: list[tuple[int, Wire]] = []
        self.events: list[Wire] = []
        self.day: Mapping[str, DayBar] | None = None
        self.streams: list[Stream] = []
        self.ids = Ids(config.seed)
        self._stamped_ns = 0
        self._next_event = replay.events_after(config.start_ns)
        closes = {symbol: replay.last_close(symbol, config.start_ns) for symbol in replay.symbols}
        self.marks: dict[str, Decimal] = {symbol: price for symbol, price in closes.items() if price is not None}
        self.lastday = dict(self.marks)
        self.last_equity = config.cash
        self.last_long_value = _ZERO
        self.balance_date = replay.calendar.previous_session(config.start_ns).date
        self.intraday_basis: dict[str, Decimal] = {}
        self._deposit()
        if self._next_event and replay.events[self._next_event - 1].kind == OPEN:  # born while a session is open
            self._see_open(self._next_event - 1)

    # --- the three ways in

    def handle(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:  # fmt: skip
        """Answer one REST request. `path` is decoded, `query` values are strings. Never raises for what a client sends."""
        return rest.handle(self, method, path, query or {}, body, headers or {})

    def open_stream(self, endpoint: str, headers: Mapping[str, str] | None = None) -> Stream:
        """A new connection to `data` or `trading`; `headers` are the handshake's.

        Raises BrokerUnavailable where a trading connection is refused with HTTP 429 because the other one still lives.
        """
        if endpoint == "data":
            stream: Stream = DataStream(self, headers or {})
        elif endpoint == "trading":
            if self.connected("trading") >= self.config.connections:
                raise BrokerUnavailable("HTTP 429: another trading connection is open")
            stream = TradingStream(self, headers or {})
        else:
            raise BadInput(f"there is no stream {endpoint!r}; known: data, trading")
        self.streams.append(stream)
        return stream

    def next_event_ns(self) -> int | None:
        """When the market next opens or closes; None once the replay has ended."""
        events = self.replay.events
        if self._next_event >= len(events):
            return None
        at = events[self._next_event].at_ns
        return at if self.config.end_ns is None or at <= self.config.end_ns else None

    def advance(self, until_ns: int) -> None:
        """Let every event up to and including `until_ns` happen, in order; then it is `until_ns`. Time never runs backwards."""
        while (at := self.next_event_ns()) is not None and at <= until_ns:
            event = self.replay.events[self._next_event]
            self._next_event += 1
            self.now_ns = at
            if event.kind == OPEN:
                self._open(self._next_event - 1)
            else:
                self._close()
        self.now_ns = max(self.now_ns, until_ns)

    # --- streams

    def connected(self, endpoint: str) -> int:
        """Live connections that count against the limit: on data the authenticated ones, on trading all."""
        return sum(s.endpoint == endpoint and (s.authenticated or endpoint == "trading") for s in self.streams)

    def forget(self, stream: Stream) -> None:
        """Drop a connection that ended."""
        if stream in self.streams:
            self.streams.remove(stream)

    def sent(self) -> dict[str, int]:
        """Frames sent on the live connection of each endpoint: the authenticated one, else the newest; 0 without any."""
        counts = {}
        for endpoint in ("data", "trading"):
            live = [s for s in self.streams if s.endpoint == endpoint]
            live.sort(key=lambda s: s.authenticated)
            counts[endpoint] = live[-1].sent if live else 0
        return counts

    # --- orders

    def submit(self, request: OrderRequest) -> Wire:
        """Take an order and return the answer to its POST (`pending_new`, or `accepted` while closed). Raises Refusal."""
        if request.client_order_id is not None and request.client_order_id in self.by_client_id:
            raise Refusal(422, BAD_FIELD, "client_order_id must be unique")
        last = self.marks.get(request.symbol)
        if last is None:
            raise Refusal(422, NOT_ALLOWED, f'asset "{request.symbol}" is not tradable')
        if request.side == "sell":
            self._check_quantity(request)
        self._check_wash_trade(request)
        reference = last if request.limit_price is None else request.limit_price
        if request.side == "buy":
            self._check_buying_power(request.qty * reference)
        order = self._enter(request, reference)
        answer = order_json(order)
        if self.day is not None:
            self._activate(order, self.day)
        return answer

    def cancel(self, order: Order) -> None:
        """Cancel an open order; canceling a canceled one succeeds, any other final state refuses."""
        if order.status == "canceled":
            return
        if not order.is_open:
            raise Refusal(422, NOT_ALLOWED, f'order is already in "{order.status}" state')
        order.cancel_requested_ns = self._stamp()
        self._finish(order, "canceled")

    def held(self, symbol: str) -> Decimal:
        """Shares that open sells hold back."""
        sells = (o for o in self.open_orders.values() if o.symbol == symbol and o.side == "sell")
        return sum((o.qty - o.filled_qty for o in sells), _ZERO)

    def figures(self) -> Figures:
        """Worth and buying power at the last prices. Open buys hold back buying power; open sells free none."""
        value = sum((p.quantity * self.marks[s] for s, p in self.account.positions.items()), _ZERO)
        equity = self.account.cash + value
        reserved = sum((o.reserved for o in self.open_orders.values()), _ZERO)
        buying_power = max(_ZERO, self.config.multiplier * equity - value - reserved)
        return Figures(equity, value, reserved, buying_power)

    def truth(self) -> dict[str, Any]:
        """Everything that happened and what is left of it, for tests that compare a client's view with it."""
        return {
            "now_ns": self.now_ns,
            "cash": plain(self.account.cash),
            "equity": plain(self.figures().equity),
            "fees": plain(self.account.fees),
            "positions": {
                s: {"qty": plain(p.quantity), "avg_entry_price": money(p.average_cost_usd)}
                for s, p in sorted(self.account.positions.items())
            },
            "orders": [order_json(order) for order in self.orders],
            "fills": [activity for _, activity in self.activities if activity["activity_type"] == "FILL"],
            "events": list(self.events),
            "sent": self.sent(),
        }

    # --- checks

    def _check_quantity(self, request: OrderRequest) -> None:
        existing = self.account.quantity(request.symbol)
        if existing == 0:
            fractional = request.qty != request.qty.to_integral_value()
            text = (
                "fractional orders cannot be sold short"
                if fractional
                else f'asset "{request.symbol}" cannot be sold short'
            )
            raise Refusal(422, NOT_ALLOWED, text)
        held = self.held(request.symbol)
        available = existing - held
        if request.qty <= available:
            return
        sells = [o.id for o in self.open_orders.values() if o.symbol == request.symbol and o.side == "sell"]
        related = {"related_orders": sells} if sells else {}
        raise Refusal(
            403, FORBIDDEN,
            f"insufficient qty available for order (requested: {plain(request.qty)}, available: {plain(available)})",
            available=plain(available), existing_qty=plain(existing), held_for_orders=plain(held), symbol=request.symbol,
            **related,
        )  # fmt: skip

    def _check_wash_trade(self, request: OrderRequest) -> None:
        """Market against any opposite open order; limit against an opposite limit only where the two would cross."""
        for other in self.open_orders.values():
            if other.symbol != request.symbol or other.side == request.side:
                continue
            if request.limit_price is not None and other.limit_price is not None:
                buy, sell = (request, other) if request.side == "buy" else (other, request)
                if buy.limit_price < sell.limit_price:  # type: ignore[operator]  # both are set, as just checked
                    continue
            kind = "market/stop" if other.limit_price is None else "limit"
            raise Refusal(
                403, FORBIDDEN, "potential wash trade detected. use complex orders",
                existing_order_id=other.id, reject_reason=f"opposite side {kind} order exists",
            )  # fmt: skip

    def _check_buying_power(self, cost: Decimal) -> None:
        power = self.figures().buying_power
        if cost > power:
            raise Refusal(
                403, FORBIDDEN, "insufficient buying power", buying_power=money(power), cost_basis=money(cost)
            )

    # --- the life of an order

    def _enter(self, request: OrderRequest, reference: Decimal) -> Order:
        at = self._stamp()
        session = None if self.day is None else self.replay.calendar.session_at(self.now_ns)
        if session is None:
            session = self.replay.calendar.next_session(self.now_ns)
        order = Order(
            id=self.ids.uuid("order"), client_order_id="", serial=len(self.orders), symbol=request.symbol,
            asset_id=asset_id(request.symbol), side=request.side, type=request.type, qty=request.qty,
            limit_price=request.limit_price, reference=reference,
            status="accepted" if self.day is None else "pending_new", created_ns=at, updated_ns=at, submitted_ns=at,
            expires_ns=session.close_ns,
        )  # fmt: skip
        order.client_order_id = request.client_order_id or self.ids.uuid("client")
        self.orders.append(order)
        self.by_id[order.id] = self.open_orders[order.id] = order
        self.by_client_id[order.client_order_id] = order
        self._tell(order, order.status, at)
        return order

    def _activate(self, order: Order, day: Mapping[str, DayBar]) -> None:
        """The order reaches the market: it is new, and fills at once where the last price is good enough."""
        order.status = "new"
        order.submitted_ns = order.updated_ns = self._stamp()
        self._tell(order, "new", order.updated_ns, execution_id=self.ids.uuid("execution"))
        if order.symbol not in day:
            return
        price = self._price(order, self.marks[order.symbol])
        if price is not None:
            self._fill(order, price)

    def _price(self, order: Order, last: Decimal) -> Decimal | None:
        """Price per share at which the order trades against `last`, or None when its limit is not met."""
        price = fill_price(order.side, last, self.config.costs)
        if order.limit_price is None:
            return price
        if order.side == "buy":
            return min(price, order.limit_price) if last <= order.limit_price else None
        return max(price, order.limit_price) if last >= order.limit_price else None

    def _fill(self, order: Order, price: Decimal) -> None:
        """Fill all that is left of the order."""
        at, quantity, rules = self._stamp(), order.qty - order.filled_qty, self.config.costs
        execution_id = self.ids.uuid("execution")
        before = self.account.quantity(order.symbol)
        order.filled_qty += quantity
        order.filled_value += quantity * price
        order.filled_ns = order.updated_ns = at
        order.status = "filled"
        del self.open_orders[order.id]
        fill = Fill(
            execution_id=execution_id, client_order_id=order.client_order_id, broker_order_id=order.id,
            symbol=order.symbol, side=order.side, quantity=quantity, cumulative_quantity=order.filled_qty, price_usd=price,
            fees_usd=commission(order.side, quantity, price, rules) + fees(order.side, quantity, price, rules), at_ns=at,
        )  # fmt: skip
        self.account = self.account.apply_fill(fill)
        after = self.account.quantity(order.symbol)
        basis = self.intraday_basis.get(order.symbol, _ZERO)
        self.intraday_basis[order.symbol] = basis + quantity * price if after > before else basis * after / before
        self._record_fill(order, fill)
        self._tell(
            order, "fill", at, price=plain(price), qty=plain(quantity), position_qty=plain(after),
            execution_id=execution_id, settle_date=self.replay.calendar.next_session(self.now_ns).date.isoformat(),
        )  # fmt: skip

    def _finish(self, order: Order, status: str) -> None:
        """End an order without a fill: canceled or expired."""
        at = self._stamp()
        order.status, order.updated_ns = status, at
        if status == "canceled":
            order.canceled_ns = at
        else:
            order.expired_ns = at
        del self.open_orders[order.id]
        self._tell(order, status, at, execution_id=self.ids.uuid("execution"))

    def _tell(self, order: Order, event: str, at_ns: int, **extra: str) -> None:
        """Record the event and tell it to whoever listens."""
        head = {"at": rfc3339(at_ns), "event_id": self.ids.ulid(at_ns), "event": event}
        self.events.append({**head, "order_id": order.id, "client_order_id": order.client_order_id, **extra})
        listeners = [s for s in self.streams if isinstance(s, TradingStream) and s.listening]
        if listeners:
            data = {**head, "timestamp": head["at"], "order": order_json(order, stream=True), **extra}
            frame = encode({"stream": "trade_updates", "data": data})
            for stream in listeners:
                stream.push(frame)

    def _record_fill(self, order: Order, fill: Fill) -> None:
        clock = local(fill.at_ns).strftime("%Y%m%d%H%M%S") + f"{fill.at_ns // 1_000_000 % 1000:03d}"
        activity = {
            "activity_type": "FILL",
            "id": f"{clock}::{fill.execution_id}",
            "order_id": order.id,
            "symbol": order.symbol,
            "side": order.side,
            "qty": plain(fill.quantity),
            "cum_qty": plain(order.filled_qty),
            "leaves_qty": plain(order.qty - order.filled_qty),
            "price": plain(fill.price_usd),
            "transaction_time": rfc3339(fill.at_ns // 1000 * 1000),
            "type": "fill",
            "order_status": order.status,
        }
        self.activities.append((fill.at_ns, activity))

    def _deposit(self) -> None:
        """The journal entry that opened the account, a day before its birth."""
        day = new_york_date(self.config.start_ns - 86_400_000_000_000)
        self._record_other(
            self.config.start_ns - 86_400_000_000_000, "JNLC", day.isoformat(), net_amount=money(self.config.cash)
        )

    def _record_other(self, at_ns: int, kind: str, day: str, **extra: str) -> None:
        activity = {
            "id": f"{day.replace('-', '')}000000000::{self.ids.uuid('activity')}",
            "activity_type": kind,
            "date": day,
            "created_at": rfc3339(at_ns // 1000 * 1000),
            **extra,
            "description": "",
            "status": "executed",
            "currency": "USD",
        }
        self.activities.append((at_ns, activity))

    def _stamp(self) -> int:
        self._stamped_ns = max(self.now_ns, self._stamped_ns + _STAMP_NS)
        return self._stamped_ns

    # --- sessions

    def _see_open(self, event: int) -> None:
        """Yesterday's figures become fixed, shares split, and the opening prices are known."""
        opened_ns, session = self.replay.events[event].at_ns, self.replay.events[event].session
        self.balance_date = self.replay.calendar.previous_session(opened_ns).date
        figures = self.figures()
        self.last_equity, self.last_long_value = figures.equity, figures.long_value
        today = self.replay.sessions[session].date
        for symbol, ratio in self.replay.splits(today).items():
            self._split(symbol, ratio, today.isoformat())
        self.lastday = dict(self.marks)
        self.intraday_basis = {s: p.quantity * self.marks[s] for s, p in self.account.positions.items()}
        self.day = self.replay.day(session)
        self.marks.update((symbol, bar.open) for symbol, bar in self.day.items())

    def _split(self, symbol: str, ratio: Decimal, day: str) -> None:
        if symbol in self.marks:
            self.marks[symbol] /= ratio
        before = self.account.quantity(symbol)
        if before:
            self.account = self.account.split(symbol, ratio)
            gained = self.account.quantity(symbol) - before
            self._record_other(self._stamp(), "SPLIT", day, symbol=symbol, qty=plain(gained), net_amount="0")

    def _open(self, event: int) -> None:
        self._see_open(event)
        day = self.day or {}
        for order in list(self.open_orders.values()):
            self._activate(order, day)

    def _close(self) -> None:
        """The range and the close are known: limits fill, bars go out, what is left of the day's orders expires."""
        day = self.day or {}
        self.day = None
        for order in list(self.open_orders.values()):
            bar = day.get(order.symbol)
            if bar is None or order.limit_price is None:
                continue
            reached = bar.low <= order.limit_price if order.side == "buy" else bar.high >= order.limit_price
            if reached:
                self._fill(order, order.limit_price)
        self.marks.update((symbol, bar.close) for symbol, bar in day.items())
        for stream in self.streams:
            if isinstance(stream, DataStream):
                stream.daily_bars(day)
        for order in list(self.open_orders.values()):
            self._finish(order, "expired")
