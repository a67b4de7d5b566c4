"""The twin's state: one account, its orders and fills, the session's prices, and who listens. Pure: time moves by `advance` alone.

Where the replay has a tape, orders meet the best bid and offer of each trade and quote, and bars are made of what was told. Where
its trades come without quotes, one stands for the minute it was made in: an order in a minute without any meets the next one
that is made. A limit for which that is not good enough waits, and trades at itself when a later one reaches it.

Without one, fills follow what daily bars can tell. While a session is open its only known price is the open; at its close the range and the
close become known. So a market order meets the open of its session (or, sent during the session, that same last price); a limit
order fills at the open when the open is good enough, else at its limit when the session's range reached it; a DAY order that did
neither expires at the close, and so does any order in a symbol that did not trade that session. Nothing is partially filled.

Each change of an order gets an instant of its own: virtual time, moved on by a microsecond per change, so that orders by time are
orders by cause and pages by time lose nothing. Identifiers come from the seed: same seed and same script, same bytes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import timedelta
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np

from algo_royale.costs import CENT, commission, fees, usd
from algo_royale.errors import BadInput, BrokerUnavailable
from algo_royale.exchange import rest
from algo_royale.exchange.amendments import Amended, Amendment
from algo_royale.exchange.matching import STOPS, Range, Touch, limit_of, price_now, price_within, shares
from algo_royale.exchange.records_rest import CONFIGURATIONS
from algo_royale.exchange.replay import CLOSE, MINUTE, OPEN, DayBar, Event, MarketReplay, Ticks, bar_json
from algo_royale.exchange.streams import DataStream, Stream, TestStream, TradingStream, encode
from algo_royale.exchange.tape import MINUTE_NS, POST_MARKET_NS, PRE_MARKET_NS, Day
from algo_royale.exchange.wire import (
    BAD_FIELD,
    FORBIDDEN,
    NOT_ALLOWED,
    UNKNOWN,
    ExchangeConfig,
    Ids,
    Leg,
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
    quote_json,
    rfc3339,
    trade_json,
)
from algo_royale.ledger import Account
from algo_royale.orders import Fill
from algo_royale.sessions import new_york_date, new_york_ns

__all__ = ["Exchange", "ExchangeConfig", "Response"]

HOUR_NS = 60 * MINUTE_NS
SHORT_RESERVE, SHORT_EQUITY_USD = Decimal("1.03"), Decimal(2000)

AMENDED = {"late": "trades", "correct": "corrections", "cancel": "cancelErrors", "bars": "updatedBars"}
Batch = list[tuple[str, str, str]]  # channel, symbol, message
Entry = Fill | tuple[str, Decimal] | Decimal  # an execution, a split, cash

_ZERO, _ONE = Decimal(0), Decimal(1)
_STAMP_NS = 1000


@dataclass(frozen=True, slots=True)
class Figures:
    """What the account is worth and may spend, in US dollars."""

    equity: Decimal
    long_value: Decimal
    short_value: Decimal
    reserved: Decimal
    buying_power: Decimal


class Exchange:
    """Alpaca in small: `handle` answers REST, `open_stream` gives websockets, `advance` moves time."""

    def __init__(self, replay: MarketReplay, config: ExchangeConfig) -> None:
        self.replay, self.config = replay, config
        self.named = {name: symbol for symbol in replay.symbols for name in (symbol, asset_id(symbol))}
        self.now_ns = config.start_ns
        self.account = Account(cash=config.cash)
        self.orders: list[Order] = []
        self.open_orders: dict[str, Order] = {}
        self.by_id: dict[str, Order] = {}
        self.by_client_id: dict[str, Order] = {}
        self.activities: list[tuple[int, Wire]] = []
        self.events: list[Wire] = []
        self.day: Mapping[str, DayBar] | None = None
        self.halted: set[str] = set()
        self.daily_equity: list[tuple[int, Decimal]] = []
        self.minute_equity: list[tuple[int, Decimal]] = []
        self.watchlists: dict[str, Wire] = {}
        self.configurations: Wire = dict(CONFIGURATIONS)
        self.refuses: Callable[[], bool] = bool  # whether data connections are refused for now: bool() is False
        self.clock_skew_ns = 0  # how far the clock endpoint is from the time, on request
        self.known = Amended(replay, seed=config.seed, share=float(config.amended_trades))
        self._entries: list[Entry] = []  # what the account is made of
        self._opening = 0  # how many of them were there when the latest session opened
        self._day_fees: dict[str, Decimal] = {}  # by execution
        self.frame_messages = config.frame_messages
        self._working: Counter[str] = Counter()
        self.streams: list[Stream] = []
        self.ids = Ids(config.seed)
        self._stamped_ns = 0
        self._minute, self._requests = 0, 0
        self._next_event = replay.events_after(config.start_ns)
        closes = {symbol: replay.last_close(symbol, config.start_ns) for symbol in replay.symbols}
        self.marks: dict[str, Decimal] = {symbol: price for symbol, price in closes.items() if price is not None}
        self.lastday = dict(self.marks)
        self.last_equity = config.cash
        self.last_long_value = _ZERO
        self.balance_date = replay.calendar.previous_session(config.start_ns).date
        self.intraday_basis: dict[str, Decimal] = {}
        self._deposit()
        self.quotes: dict[str, tuple[Decimal, Decimal]] = {}
        self._traded_ns: dict[str, int] = {}  # the last trade that counts of each symbol in this session
        before = replay.events[self._next_event - 1] if self._next_event else None
        self.tick_session = max(0, before.session) if before else 0
        self._ticks, self._cursor = replay.ticks(self.tick_session), 0
        if before and before.kind != CLOSE:  # born while a session is open
            self._see_open(before.session)
        self.known.draw(self.tick_session)
        self._play(config.start_ns)
        while (at := self.known.next_ns()) is not None and at <= config.start_ns:
            self._amend()

    # --- the three ways in

    def handle(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:  # fmt: skip
        """Answer one REST request. `path` is decoded, `query` values are strings. Never raises for what a client sends."""
        return rest.handle(self, method, path, query or {}, body, headers or {})

    def count_request(self) -> dict[str, str] | None:
        """Headers of the rate limit after one request more in this minute of virtual time; remaining -1 is one too many."""
        most = self.config.requests_per_minute
        if most is None:
            return None
        minute = self.now_ns // MINUTE_NS
        if minute != self._minute:
            self._minute, self._requests = minute, 0
        self._requests = min(self._requests + 1, most + 1)
        return {
            "X-RateLimit-Limit": str(most),
            "X-RateLimit-Remaining": str(most - self._requests),
            "X-RateLimit-Reset": str((minute + 1) * 60),
        }

    def open_stream(self, endpoint: str, headers: Mapping[str, str] | None = None) -> Stream:
        """A new connection to `data` (`sip`: that of all exchanges), `trading` or `test`; `headers` are the handshake's.

        Raises BrokerUnavailable where a trading connection is refused with HTTP 429 because the other one still lives.
        """
        if endpoint == "data":
            stream: Stream = DataStream(self, headers or {})
        elif endpoint == "trading":
            if self.connected("trading") >= self.config.connections:
                raise BrokerUnavailable("HTTP 429: another trading connection is open")
            stream = TradingStream(self, headers or {})
        elif endpoint == "sip":
            stream = DataStream(self, headers or {}, feed="sip")
        elif endpoint == "test":
            stream = TestStream(self, headers or {})
        else:
            raise BadInput(f"there is no stream {endpoint!r}; known: data, sip, trading, test")
        self.streams.append(stream)
        return stream

    def next_event_ns(self) -> int | None:
        """When the market next opens or closes, a minute ends, or something is said of an earlier one; None after the end."""
        times = [ns for ns in (self._replay_ns(), self.known.next_ns(), self._test_ns()) if ns is not None]
        at = min(times, default=None)
        return at if at is not None and (self.config.end_ns is None or at <= self.config.end_ns) else None

    def _replay_ns(self) -> int | None:
        events = self.replay.events
        return events[self._next_event].at_ns if self._next_event < len(events) else None

    def advance(self, until_ns: int) -> None:
        """Let everything up to and including `until_ns` happen, in order; then it is `until_ns`. Time never runs backwards."""
        while (at := self.next_event_ns()) is not None and at <= until_ns:
            self._play(at - 1)
            self.now_ns = at
            if self._test_ns(at - 1) == at:
                self._tell_test()
            if self._replay_ns() == at:
                self._pass(self.replay.events[self._next_event])
            elif self.known.next_ns() == at:
                self._amend()
            self._expire()
        if self.config.end_ns is None or until_ns <= self.config.end_ns:
            self._play(until_ns)
        self.now_ns = max(self.now_ns, until_ns)
        self._expire()

    def _test_ns(self, after_ns: int | None = None) -> int | None:
        """The next full minute, where somebody is connected to the test stream."""
        if not any(isinstance(stream, TestStream) and stream.authenticated for stream in self.streams):
            return None
        return ((self.now_ns if after_ns is None else after_ns) // MINUTE_NS + 1) * MINUTE_NS

    def _tell_test(self) -> None:
        """What the test symbol did: a price and a size that follow from the minute alone."""

        def trade(minute: int) -> Wire:
            price, size = 130 + minute * 7919 % 1000 / 100, 1 + minute * 104_729 % 300
            return {
                "t": rfc3339(minute * MINUTE_NS),
                "x": "N",
                "p": price,
                "s": size,
                "c": ["@"],
                "i": minute,
                "z": "A",
            }

        now, before = trade(self.now_ns // MINUTE_NS), trade(self.now_ns // MINUTE_NS - 1)
        quote = {
            "t": now["t"],
            "ax": "R",
            "ap": now["p"],
            "as": 5,
            "bx": "O",
            "bp": now["p"] - 1,
            "bs": 4,
            "c": ["R"],
            "z": "A",
        }
        prices = dict.fromkeys(("o", "h", "l", "c", "vw"), before["p"])
        for stream in self.streams:
            if isinstance(stream, TestStream):
                stream.minute(now, quote, {**prices, "v": before["s"], "n": 1, "t": before["t"]})

    def _pass(self, event: Event) -> None:
        self._next_event += 1
        if event.kind == OPEN:
            self._open(event.session)
        elif event.kind == MINUTE:
            self._tell_minute(event.session, daily=True)
        else:
            self._close(event.session)

    def _play(self, until_ns: int) -> None:
        """Let the trades and quotes up to and including `until_ns` happen."""
        while self.replay.tape is not None:
            ticks = self._ticks
            end = int(np.searchsorted(ticks.at_ns, until_ns, side="right"))
            if end > self._cursor:
                self._play_ticks(ticks, self._cursor, end)
                self._cursor = end
            following = self.tick_session + 1
            if end < len(ticks.at_ns) or following >= len(self.replay.sessions):
                return
            if self.replay.sessions[following].open_ns - PRE_MARKET_NS > until_ns:
                return
            self.tick_session, self._cursor = following, 0
            self._ticks = self.replay.ticks(following)
            self.known.draw(following)

    def _play_ticks(self, ticks: Ticks, start: int, end: int) -> None:
        """Let ticks happen one by one where somebody hears of them or an order may meet them; of the others the last one counts."""
        symbols, part = self.replay.symbols, slice(start, end)
        hears = {name: any(s.wants(name) for s in self._data_streams) for name in ("trades", "quotes")}
        working = np.array([self._working[symbol] > 0 for symbol in symbols], np.bool_)
        owner, trades = ticks.symbol[part], ticks.is_trade[part]
        wanted = np.flatnonzero(working[owner] | np.where(trades, hears["trades"], hears["quotes"]))
        unsaid = [self.known.hidden(symbol, self.tick_session) for symbol in symbols]
        batch: Batch = []
        columns = (c[part][wanted].tolist() for c in (ticks.at_ns, ticks.symbol, ticks.is_trade, ticks.row))
        for at_ns, number, is_trade, row in zip(*columns, strict=True):
            symbol = symbols[number]
            day = ticks.days[symbol]
            if is_trade and row in unsaid[number]:
                continue
            if is_trade and hears["trades"]:
                batch.append(("trades", symbol, encode({"T": "t", "S": symbol} | trade_json(day.trades, row))))
            elif not is_trade and hears["quotes"]:
                batch.append(("quotes", symbol, encode({"T": "q", "S": symbol} | quote_json(day.quotes, row))))
            if self._working[symbol]:
                self._see(symbol, day, row, is_trade)
                self.now_ns = max(self.now_ns, at_ns)
                self._match(symbol)
        for n in range(len(symbols)):
            self._see_last(ticks, start, end, n, unsaid[n])
        self._broadcast(batch)

    def _see(self, symbol: str, day: Day, row: int, is_trade: bool) -> None:
        if not is_trade:
            self.quotes[symbol] = (usd(day.quotes.bid[row]), usd(day.quotes.ask[row]))
        elif day.trades.counts[row]:
            self.marks[symbol] = usd(day.trades.price[row])
            self._traded_ns[symbol] = int(day.trades.at_ns[row])

    def _see_last(self, ticks: Ticks, start: int, end: int, number: int, unsaid: Set[int]) -> None:
        """The last quote and the last trade that counts of a symbol in a stretch of ticks."""
        symbol = self.replay.symbols[number]
        for is_trade in (False, True):
            places = ticks.places[number][is_trade]
            low, high = np.searchsorted(places, [start, end])
            for place in places[low:high][::-1]:
                row = int(ticks.row[place])
                if not is_trade or (ticks.days[symbol].trades.counts[row] and row not in unsaid):
                    self._see(symbol, ticks.days[symbol], row, is_trade)
                    break

    @property
    def _data_streams(self) -> list[DataStream]:
        return [s for s in self.streams if isinstance(s, DataStream) and s.endpoint == "data"]

    def _broadcast(self, batch: Batch) -> None:
        if batch:
            for stream in self._data_streams:
                stream.tell(batch)

    def _tell_minute(self, session: int, *, daily: bool) -> None:
        """The bars of the minute that ends now, and the day's bars as they stand (`daily`)."""
        batch: Batch = []
        for symbol in self.day or ():
            bars = self.known.minutes(symbol, session)
            row = int(np.searchsorted(bars.end_ns, self.now_ns))
            if row < len(bars) and bars.end_ns[row] == self.now_ns:
                batch.append(("bars", symbol, encode({"T": "b", "S": symbol} | bar_json(bars, row))))
        self._broadcast(batch)
        if daily and any(stream.wants("dailyBars") for stream in self._data_streams):
            days = ((s, self.known.day_frame(s, session, self.now_ns)) for s in self.day or ())
            self._broadcast([("dailyBars", symbol, encode(day)) for symbol, day in days if day is not None])
        self.minute_equity.append((self.now_ns, self.figures().equity))

    def _amend(self) -> None:
        """Let the next thing be said of a trade or a minute that is past."""
        amendment, message = self.known.take()
        if message is None:
            return
        symbol, session = amendment.symbol, amendment.session
        batch: Batch = [(AMENDED[amendment.kind], symbol, encode(message))]
        if amendment.kind == "bars":
            day = self.known.day_frame(symbol, session, self.now_ns)
            if day is not None and self.day is None:
                batch.append(("dailyBars", symbol, encode(day)))  # within a session the next minute tells it
        else:
            last = self.known.last_tick(symbol, "trades", amendment.at_ns)
            if last is not None and session == self.tick_session and self.day is not None:
                self.marks[symbol] = usd(last["p"])
        self._broadcast(batch)

    def running_day(self, symbol: str) -> Wire | None:
        """The daily bar of the session that is open, as it stood when the last minute ended; None where there is no such bar."""
        if self.day is None or self.replay.tape is None or symbol not in self.day:
            return None
        frame = self.known.day_frame(symbol, self.tick_session, self.now_ns)
        return None if frame is None else {name: value for name, value in frame.items() if name not in ("T", "S")}

    def amend(self, amendment: Amendment) -> None:
        """Have something said of a trade, now or later."""
        self.known.add(amendment)
        while (at := self.known.next_ns()) is not None and at <= self.now_ns:
            self._amend()

    def _expire(self) -> None:
        """End what has waited until now."""
        for order in list(self.open_orders.values()):
            if order.is_open and order.expires_ns <= self.now_ns and not (self.day and order.time_in_force == "cls"):
                self._finish(order, "expired")

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
        if self.configurations["suspend_trade"]:
            raise Refusal(403, FORBIDDEN, "new orders are rejected by user request")
        self._check_window(request)
        if request.symbol in self.config.whole_shares and request.fractional:
            raise Refusal(403, FORBIDDEN, f'asset "{request.symbol}" is not fractionable')
        reference = self._reference(request, last)
        qty = request.qty if request.qty is not None else request.notional / reference  # type: ignore[operator]  # one is set
        intent = self._intent(request, qty)
        self._check_legs(request, last)
        self._check_wash_trade(request)
        if intent.endswith("open"):
            self._check_buying_power(request.notional or qty * reference)
        order = self._enter(request, reference, intent)
        answer = order_json(order, nested=True)
        if self.day is not None or (order.extended_hours and self.extended):
            self._activate(order)
        return answer

    def cancel(self, order: Order) -> None:
        """Cancel an open order and what hangs on it; canceling a canceled one succeeds, any other final state refuses."""
        if order.status == "canceled":
            return
        if not order.is_open:
            raise Refusal(422, NOT_ALLOWED, f'order is already in "{order.status}" state')
        order.cancel_requested_ns = self._stamp()
        self._finish(order, "canceled")

    def replace(self, order: Order, changes: Mapping[str, Any]) -> Wire:
        """Put a new order in the place of an open one and return it. `changes`: qty, time_in_force, limit_price, stop_price,
        trail, client_order_id. `qty` counts what the old one has filled already; what hangs on the order follows it. Raises Refusal."""
        if order.status not in ("new", "partially_filled"):
            raise Refusal(422, NOT_ALLOWED, "unable to replace order, order is not open")
        if (name := changes.get("client_order_id")) and name in self.by_client_id:
            raise Refusal(422, BAD_FIELD, "client_order_id must be unique")
        asked = changes.get("qty")
        if order.qty is None or (asked is not None and asked <= order.filled_qty):
            raise Refusal(422, NOT_ALLOWED, "unable to replace order, qty must be greater than filled qty")
        qty, last = (asked or order.qty) - order.filled_qty, self.marks[order.symbol]
        request = _replacement(order, changes, qty)
        rest.check_request(request)
        self._check_window(request)
        self._check_legs(request, last)
        reference = self._reference(request, last)
        with self._set_aside(order):
            self._check_wash_trade(request)
            if order.opens:
                self._check_buying_power(qty * reference)
            else:
                self._check_available(order.symbol, order.side, qty)
        return self._put_in_place(order, request, reference)

    def halt(self, symbol: str, *, halted: bool = True) -> None:
        """Stop (or resume) trading in a symbol: while halted nothing fills. Data streams are told."""
        (self.halted.add if halted else self.halted.discard)(symbol)
        code, text = ("H", "Trading Halt") if halted else ("T", "Trading Resumption")
        status = {
            "T": "s", "S": symbol, "sc": code, "sm": text, "rc": "", "rm": "", "t": rfc3339(self.now_ns), "z": "C",
        }  # fmt: skip
        self._broadcast([("statuses", symbol, encode(status))])
        for order in self.open_orders.values():
            order.rests = order.rests and order.symbol != symbol  # and so is a resumption
        if not halted and self.day is not None:
            self._match(symbol)

    def tell_bands(self, symbol: str, up: Decimal, down: Decimal, indicator: str) -> None:
        """Tell the limit-up and limit-down bands of a symbol."""
        bands = {
            "T": "l",
            "S": symbol,
            "u": float(up),
            "d": float(down),
            "i": indicator,
            "t": rfc3339(self.now_ns),
            "z": "C",
        }
        self._broadcast([("lulds", symbol, encode(bands))])

    def undo(self, execution_id: str, price: Decimal | None = None) -> None:
        """Bust an execution, or with a `price` make it one at that price. The books are what they would be without it, but for
        dividends paid; an order that has ended stays so. Raises Refusal for an execution that is unknown."""
        index = next(
            (n for n, e in enumerate(self._entries) if isinstance(e, Fill) and e.execution_id == execution_id), None
        )
        if index is None:
            raise Refusal(404, UNKNOWN, f"execution not found for {execution_id}")
        fill = self._entries[index]
        assert isinstance(fill, Fill)
        order = self.by_id[fill.broker_order_id]
        order.filled_value -= fill.quantity * (fill.price_usd - (price or _ZERO))
        at = order.updated_ns = self._stamp()
        if price is None:
            del self._entries[index]
            self._opening -= index < self._opening
            self._day_fees.pop(execution_id, None)
            order.filled_qty -= fill.quantity
            if order.is_open and not order.filled_qty:
                order.status = "new"
        else:
            self._entries[index] = changed(fill, price_usd=price)
        self._keep_books()
        kept = [(ns, a) for ns, a in self.activities if price is not None or not a["id"].endswith(execution_id)]
        self.activities = [
            (ns, {**a, "price": plain(price)} if price is not None and a["id"].endswith(execution_id) else a)
            for ns, a in kept
        ]
        self._tell(
            order, "trade_bust" if price is None else "trade_correct", at, price=plain(price or fill.price_usd),
            qty=plain(fill.quantity), position_qty=plain(self.account.quantity(order.symbol)),
            execution_id=self.ids.uuid("execution"), previous_execution_id=execution_id,
        )  # fmt: skip
        for other in [o for o in self.open_orders.values() if o.symbol == order.symbol and not o.opens]:
            if other.is_open and self.held(order.symbol) > abs(self.account.quantity(order.symbol)):
                self._finish(other, "canceled")  # what it would have closed is gone

    def _book(self, entry: Entry) -> None:
        """Let the account, and what its positions are worth since the open, follow from one entry more."""
        before = self.account
        if isinstance(entry, tuple):
            self.account = before.split(*entry)
        elif isinstance(entry, Decimal):
            self.account = changed(before, cash=before.cash + entry)
        else:
            self.account = before.apply_fill(entry)
            held, after = before.quantity(entry.symbol), self.account.quantity(entry.symbol)
            basis = self.intraday_basis.get(entry.symbol, _ZERO)
            if held * after < 0:  # through zero, where the purchase before it was busted
                basis = after * entry.price_usd
            elif abs(after) > abs(held):
                basis += (after - held) * entry.price_usd
            else:
                basis = basis * after / held
            self.intraday_basis[entry.symbol] = basis

    def _keep_books(self) -> None:
        """Make the account anew of all its entries."""
        self.account, self.intraday_basis = Account(cash=self.config.cash), {}
        for entry in self._entries[: self._opening]:
            self._book(entry)
        self._mark_positions()
        for entry in self._entries[self._opening :]:
            self._book(entry)

    def _mark_positions(self) -> None:
        """What is held at the open counts at the close before."""
        self.intraday_basis = {s: p.quantity * self.lastday[s] for s, p in self.account.positions.items()}

    def held(self, symbol: str) -> Decimal:
        """Shares that open orders which reduce the position hold back; exits of one group hold theirs once."""
        total, counted = _ZERO, set[str]()
        for order in self.open_orders.values():
            if order.symbol != symbol or order.opens or order.status == "held" or order.id in counted:
                continue
            counted.update(other.id for other in order.group)
            total += order.left
        return total

    def figures(self) -> Figures:
        """Worth and buying power at the last prices. What opens a position holds buying power back; what closes frees none."""
        values = [p.quantity * self.marks[s] for s, p in self.account.positions.items()]
        long_value = sum((v for v in values if v > 0), _ZERO)
        short_value = sum((v for v in values if v < 0), _ZERO)
        equity = self.account.cash + long_value + short_value
        reserved = sum((o.reserved for o in self.open_orders.values()), _ZERO)
        buying_power = max(_ZERO, self.config.multiplier * equity - long_value + short_value - reserved)
        return Figures(equity, long_value, short_value, reserved, buying_power)

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

    def _reference(self, request: OrderRequest, last: Decimal) -> Decimal:
        """What a share of the order is reserved at: its limit or stop, else the last price; a short sale at 3 % above it."""
        price = request.limit_price or request.stop_price or last
        if request.side == "sell" and self.account.quantity(request.symbol) <= 0:
            return max(price, SHORT_RESERVE * last)
        return price

    def _check_window(self, request: OrderRequest) -> None:
        """Auction orders come early enough: at the open's until two minutes, at the close's until five minutes before."""
        if request.time_in_force == "opg":
            opens = self.replay.calendar.next_session(self.now_ns).open_ns
            evening = (
                self.day is None and local(self.now_ns).hour < 19 and local(self.now_ns).date() != local(opens).date()
            )
            if self.day is not None or evening or self.now_ns > opens - 2 * MINUTE_NS:
                raise Refusal(403, FORBIDDEN, "opg orders must be submitted after 7:00pm and before 9:28am")
        elif request.time_in_force == "cls" and self.day is not None:
            session = self.replay.calendar.session_at(self.now_ns)
            if session is None or self.now_ns > session.close_ns - 5 * MINUTE_NS:
                raise Refusal(403, FORBIDDEN, "cls orders must be submitted after 7:00pm and before 3:55pm")

    def _intent(self, request: OrderRequest, qty: Decimal) -> str:
        """Whether the order opens or closes, once it may. No order crosses from long to short or back."""
        symbol, side = request.symbol, request.side
        existing = self.account.quantity(symbol)
        others = [o for o in self.open_orders.values() if o.symbol == symbol and o.opens and o.side != side]
        if existing == 0 and request.order_class == "oco":
            raise Refusal(422, NOT_ALLOWED, "oco orders need an open position")
        if (existing > 0) == (side == "sell") and existing != 0:
            self._check_available(symbol, side, qty)
            return f"{side}_to_close"
        if side == "buy":
            if others:
                raise Refusal(403, FORBIDDEN, "cannot open a long buy while a short sell order is open")
            return "buy_to_open"
        if request.fractional:
            raise Refusal(422, NOT_ALLOWED, "fractional orders cannot be sold short")
        if not self.config.shorting or self.configurations["no_shorting"]:
            raise Refusal(422, NOT_ALLOWED, f'asset "{symbol}" cannot be sold short')
        if self.figures().equity < SHORT_EQUITY_USD:
            raise Refusal(403, FORBIDDEN, "account is not allowed to short")
        if others:
            raise Refusal(403, FORBIDDEN, "cannot open a short sell while a long buy order is open")
        return "sell_to_open"

    def _check_available(self, symbol: str, side: str, qty: Decimal) -> None:
        existing = abs(self.account.quantity(symbol))
        held = self.held(symbol)
        available = existing - held
        if qty <= available:
            return
        closing = [o.id for o in self.open_orders.values() if o.symbol == symbol and not o.opens and o.status != "held"]
        related = {"related_orders": closing} if closing else {}
        raise Refusal(
            403, FORBIDDEN,
            f"insufficient qty available for order (requested: {plain(qty)}, available: {plain(available)})",
            available=plain(available), existing_qty=plain(existing), held_for_orders=plain(held), symbol=symbol, **related,
        )  # fmt: skip

    def _check_legs(self, request: OrderRequest, last: Decimal) -> None:
        """Exits lie a cent or more beyond the price that the entry starts from."""
        base = request.limit_price or last
        if request.order_class not in ("bracket", "oto"):
            return
        sign = 1 if request.side == "buy" else -1
        for leg in request.legs:
            profit, stop = leg.limit_price if leg.stop_price is None else None, leg.stop_price
            if profit is not None and sign * (profit - base) < CENT:
                word = ">= base_price + 0.01" if sign > 0 else "<= base_price - 0.01"
                text = f"take_profit.limit_price must be {word}"
                raise Refusal(422, NOT_ALLOWED, text, base_price=plain(base))
            if stop is not None and sign * (base - stop) < CENT:
                word = "<= base_price - 0.01" if sign > 0 else ">= base_price + 0.01"
                raise Refusal(422, NOT_ALLOWED, f"stop_loss.stop_price must be {word}", base_price=plain(base))

    def _check_wash_trade(self, request: OrderRequest) -> None:
        """Market and stop against any opposite open order; limits only where the two would cross. Complex orders are exempt."""
        if request.order_class != "simple" or request.type == "trailing_stop":
            return
        for other in self.open_orders.values():
            exempt = other.order_class != "simple" or other.type == "trailing_stop"
            if other.symbol != request.symbol or other.side == request.side or exempt:
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

    def _enter(self, request: OrderRequest, reference: Decimal, intent: str) -> Order:
        """The order in the books, with its exits held behind it. The first exit of an oco order is the order itself."""
        status = "accepted" if self.day is None else "pending_new"
        order = self._new_order(request, reference, intent, status)
        self._tell(order, order.status, order.created_ns)
        opposite = "sell" if request.side == "buy" else "buy"
        is_oco = request.order_class == "oco"
        for leg in request.legs[1:] if is_oco else request.legs:
            exit_side = request.side if is_oco else opposite
            below = OrderRequest(
                symbol=request.symbol, side=exit_side, type=leg.type, qty=request.qty, limit_price=leg.limit_price,
                stop_price=leg.stop_price, time_in_force=request.time_in_force, order_class=request.order_class,
            )  # fmt: skip
            price = leg.limit_price or leg.stop_price or reference
            child = self._new_order(below, price, f"{exit_side}_to_close", "held")
            child.parent = order
            order.legs.append(child)
            self._tell(child, "held", child.created_ns)
        exits = [order, *order.legs] if is_oco else order.legs
        if len(exits) > 1:
            for each in exits:
                each.group = exits
        return order

    def _new_order(self, request: OrderRequest, reference: Decimal, intent: str, status: str) -> Order:
        at = self._stamp()
        order = Order(
            id=self.ids.uuid("order"), client_order_id="", serial=len(self.orders), symbol=request.symbol,
            asset_id=asset_id(request.symbol), side=request.side, type=request.type, qty=request.qty,
            notional=request.notional, limit_price=request.limit_price, stop_price=request.stop_price,
            trail_price=request.trail_price, trail_percent=request.trail_percent, time_in_force=request.time_in_force,
            order_class=request.order_class, extended_hours=request.extended_hours, reference=reference, intent=intent,
            active=request.type not in STOPS, status=status, created_ns=at, updated_ns=at, submitted_ns=at,
            expires_ns=self._expiry(request), arrived_ns=self.now_ns,
        )  # fmt: skip
        order.client_order_id = request.client_order_id or self.ids.uuid("client")
        self.orders.append(order)
        self.by_id[order.id] = self.open_orders[order.id] = order
        self._working[order.symbol] += 1
        self.by_client_id[order.client_order_id] = order
        return order

    def _expiry(self, request: OrderRequest) -> int:
        """The close of the session the order is for; 90 days on at 16:15 in New York for one that is good till canceled."""
        calendar = self.replay.calendar
        session = None if self.day is None else calendar.session_at(self.now_ns)
        session = session or calendar.next_session(self.now_ns)
        if request.extended_hours:
            after = calendar.previous_session(self.now_ns).close_ns + POST_MARKET_NS if self.day is None else 0
            return after if self.extended and after > self.now_ns else session.close_ns + POST_MARKET_NS
        if request.time_in_force == "gtc":
            return new_york_ns(new_york_date(self.now_ns) + timedelta(days=90)) + 16 * HOUR_NS + 15 * MINUTE_NS
        return session.close_ns

    def _activate(self, order: Order) -> None:
        """The order reaches the market: it is new, and fills at once where the market is good enough."""
        order.status = "new"
        order.submitted_ns = order.updated_ns = self._stamp()
        self._tell(order, "new", order.updated_ns, execution_id=self.ids.uuid("execution"))
        if order.order_class == "oco":
            for leg in order.legs:
                self._activate(leg)
        self._try(order)

    def _touch(self, order: Order) -> Touch | None:
        """The market that the order sees now; None while nobody trades its symbol, or not at these hours."""
        symbol = order.symbol
        regular = self.day is not None and symbol in self.day
        if symbol in self.halted or not (regular or (order.extended_hours and self.extended)):
            return None
        if not self.replay.has_quotes and self._traded_ns.get(symbol, -1) < order.arrived_ns // MINUTE_NS * MINUTE_NS:
            return None  # nobody has traded since: no price is known
        last = self.marks[symbol]
        bid, ask = self.quotes.get(symbol, (last, last))
        return Touch(last, bid, ask)

    @property
    def extended(self) -> bool:
        """Whether trades are made now outside of the regular session: from 04:00, and to four hours after the close."""
        if self.replay.tape is None or self.day is not None:
            return False
        calendar = self.replay.calendar
        before, after = calendar.next_session(self.now_ns), calendar.previous_session(self.now_ns)
        early, late = before.open_ns - self.now_ns <= PRE_MARKET_NS, self.now_ns - after.close_ns < POST_MARKET_NS
        return early or late

    def _match(self, symbol: str) -> None:
        """Let every open order of the symbol see the market, oldest first."""
        for order in list(self.open_orders.values()):
            if order.symbol == symbol and order.status in ("new", "partially_filled"):
                self._try(order)

    def _try(self, order: Order) -> None:
        """Fill what trades now. An order that must trade at once or not at all ends here."""
        touch = self._touch(order)
        if touch is None or not order.is_open or order.time_in_force == "cls":
            return
        price = price_now(order, touch, self.config.costs)
        if price is not None and order.rests:
            price = limit_of(order)
        order.rests = price is None and order.active and not self.replay.has_quotes
        if price is not None:
            self._fill(order, price, self._part(order, shares(order, price)))
        if order.is_open and order.time_in_force in ("ioc", "fok", "opg"):
            self._finish(order, "canceled")

    def _part(self, order: Order, quantity: Decimal) -> Decimal:
        """How much of `quantity` trades: now and then a part only, never of an order that wants all or nothing."""
        if not self.config.partial_fills or order.time_in_force == "fok" or quantity <= 1:
            return quantity
        if self.ids.chance() >= self.config.partial_fills:
            return quantity
        return max(_ONE, (quantity * self.ids.chance()).to_integral_value(ROUND_DOWN))

    def _fill(self, order: Order, price: Decimal, quantity: Decimal) -> None:
        """Fill `quantity` of the order at `price`, and let its exits follow."""
        if quantity <= 0:  # an order of money that buys nothing at this price
            return
        at, rules = self._stamp(), self.config.costs
        execution_id = self.ids.uuid("execution")
        order.filled_qty += quantity
        order.filled_value += quantity * price
        order.updated_ns = at
        done = order.qty is None or order.filled_qty == order.qty
        order.status = "filled" if done else "partially_filled"
        if done:
            order.filled_ns = at
            self._take_out(order)
        fill = Fill(
            execution_id=execution_id, client_order_id=order.client_order_id, broker_order_id=order.id,
            symbol=order.symbol, side=order.side, quantity=quantity, cumulative_quantity=order.filled_qty, price_usd=price,
            fees_usd=commission(order.side, quantity, price, rules) + fees(order.side, quantity, price, rules), at_ns=at,
        )  # fmt: skip
        self._entries.append(fill)
        self._book(fill)
        if charged := fees(order.side, quantity, price, rules):
            self._day_fees[execution_id] = charged
        self._record_fill(order, fill)
        self._tell(
            order, "fill" if done else "partial_fill", at, price=plain(price), qty=plain(quantity),
            position_qty=plain(self.account.quantity(order.symbol)), execution_id=execution_id,
            settle_date=self.replay.calendar.next_session(self.now_ns).date.isoformat(),
        )  # fmt: skip
        self._after_fill(order)

    def _after_fill(self, order: Order) -> None:
        """One exit of a group leaves the others what is left, or ends them; a filled entry lets its exits go to market."""
        for other in [o for o in order.group if o is not order and o.is_open]:
            if order.is_open:
                other.qty = order.left + other.filled_qty
            else:
                self._finish(other, "canceled")
        if order.status == "filled" and order.order_class in ("bracket", "oto"):
            for leg in order.legs:
                if leg.status == "held":
                    self._activate(leg)

    def _finish(self, order: Order, status: str) -> None:
        """End an order without a fill: canceled or expired. What hangs on it ends with it."""
        at = self._stamp()
        order.status, order.updated_ns = status, at
        if status == "canceled":
            order.canceled_ns = at
        else:
            order.expired_ns = at
        self._take_out(order)
        self._tell(order, status, at, execution_id=self.ids.uuid("execution"))
        for other in [*order.legs, *order.group]:
            if other.is_open:
                self._finish(other, status)

    def _take_out(self, order: Order) -> None:
        del self.open_orders[order.id]
        self._working[order.symbol] -= 1

    @contextmanager
    def _set_aside(self, order: Order) -> Iterator[None]:
        """Judge as if the order, and those that hold the same shares, were not there."""
        kept, gone = self.open_orders, {order.id, *(other.id for other in order.group)}
        self.open_orders = {number: other for number, other in kept.items() if number not in gone}
        try:
            yield
        finally:
            self.open_orders = kept

    def _put_in_place(self, order: Order, request: OrderRequest, reference: Decimal) -> Wire:
        assert request.qty is not None
        more = request.qty - order.left
        new = self._new_order(request, reference, order.intent, "new")
        new.replaces, order.replaced_by = order.id, new.id
        new.parent, new.legs, new.group = order.parent, order.legs, order.group
        for family in (new.group, [] if order.parent is None else order.parent.legs):
            if order in family:
                family[family.index(order)] = new
        for leg in new.legs:
            leg.parent = new
        for other in dict.fromkeys(
            [*new.legs, *new.group]
        ):  # exits are of as many shares as their entry, and as each other
            if other is not new and other.is_open and other.qty is not None:
                other.qty += more
        order.group, order.legs = [], []
        at = order.replaced_ns = order.updated_ns = self._stamp()
        order.status = "replaced"
        self._take_out(order)
        self._tell(order, "replaced", at, execution_id=self.ids.uuid("execution"))
        new.submitted_ns = new.updated_ns = self._stamp()
        self._tell(new, "new", new.updated_ns, execution_id=self.ids.uuid("execution"))
        answer = order_json(new, nested=True)
        self._try(new)
        return answer

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
            "leaves_qty": plain(order.left if order.is_open else _ZERO),
            "price": plain(fill.price_usd),
            "transaction_time": rfc3339(fill.at_ns // 1000 * 1000),
            "type": "partial_fill" if order.is_open else "fill",
            "order_status": order.status,
        }
        self.activities.append((fill.at_ns, activity))

    def _deposit(self) -> None:
        """The journal entry that opened the account, a day before its birth."""
        at_ns = self.config.start_ns - 24 * HOUR_NS
        self._record_other(at_ns, "JNLC", new_york_date(at_ns).isoformat(), net_amount=money(self.config.cash))

    def _record_other(self, at_ns: int, kind: str, day: str, **extra: str) -> None:
        activity = {
            "id": f"{day.replace('-', '')}000000000::{self.ids.uuid('activity')}",
            "activity_type": kind,
            "date": day,
            "created_at": rfc3339(at_ns // 1000 * 1000),
            "description": "",
            **extra,
            "status": "executed",
            "currency": "USD",
        }
        self.activities.append((at_ns, activity))

    def _stamp(self) -> int:
        self._stamped_ns = max(self.now_ns, self._stamped_ns + _STAMP_NS)
        return self._stamped_ns

    # --- sessions

    def _see_open(self, session: int) -> None:
        """Yesterday's figures become fixed, shares split, and the opening prices are known."""
        opened_ns = self.replay.sessions[session].open_ns
        self.balance_date = self.replay.calendar.previous_session(opened_ns).date
        figures = self.figures()
        self.last_equity, self.last_long_value = figures.equity, figures.long_value
        today = self.replay.sessions[session].date
        if self.config.pay_dividends:
            for symbol, cash in self.replay.dividends(today).items():
                self._pay_dividend(symbol, cash, today.isoformat())
        for symbol, ratio in self.replay.splits(today).items():
            self._split(symbol, ratio, today.isoformat())
        self.lastday = dict(self.marks)
        self._opening = len(self._entries)
        self._mark_positions()
        self.day = self.replay.day(session)
        self._traded_ns = {}
        if self.replay.has_quotes:
            self.marks.update((symbol, bar.open) for symbol, bar in self.day.items())
        for order in self.open_orders.values():
            order.rests = False  # the open is an auction

    def _pay_dividend(self, symbol: str, cash: Decimal, day: str) -> None:
        """Those who hold the shares overnight are paid, those who owe them pay, on the ex-date."""
        held = self.account.quantity(symbol)
        if held:
            amount = (held * cash).quantize(CENT, ROUND_HALF_EVEN)
            self._entries.append(amount)
            self._book(amount)
            self._record_other(
                self._stamp(), "DIV", day, symbol=symbol, qty=plain(held), per_share_amount=plain(cash),
                net_amount=plain(amount),
            )  # fmt: skip

    def _split(self, symbol: str, ratio: Decimal, day: str) -> None:
        if symbol in self.marks:
            self.marks[symbol] /= ratio
        before = self.account.quantity(symbol)
        if before:
            self._entries.append((symbol, ratio))
            self._book(self._entries[-1])
            gained = self.account.quantity(symbol) - before
            self._record_other(self._stamp(), "SPLIT", day, symbol=symbol, qty=plain(gained), net_amount="0")

    def _open(self, session: int) -> None:
        """The auction of the open: orders that waited reach the market, and those that are there see it again."""
        self._see_open(session)
        self._play(self.now_ns)
        for order in list(self.open_orders.values()):
            if order.status == "accepted" and order.time_in_force != "cls":
                self._activate(order)
            elif order.status in ("new", "partially_filled"):
                self._try(order)

    def _close(self, session: int) -> None:
        """The auction of the close, and the session's bars. Without a tape its range becomes known, and fills come of it."""
        day = self.day or {}
        if self.replay.tape is None:
            self._fill_within(day)
        else:
            self._tell_minute(session, daily=False)
            day = self.known.day(session)
        self.marks.update((symbol, bar.close) for symbol, bar in day.items())
        self._closing_auction()
        self._charge_fees(session)
        self.daily_equity.append((self.now_ns, self.figures().equity))
        self.day = None
        for stream in self._data_streams:
            stream.daily_bars(day)

    def _charge_fees(self, session: int) -> None:
        """The activity that tells of the session's regulatory fees; their cash went with each sale."""
        if self._day_fees:
            day, sales = self.replay.sessions[session].date.isoformat(), len(self._day_fees)
            self._record_other(
                self._stamp(), "FEE", day, net_amount=plain(-sum(self._day_fees.values(), _ZERO)),
                description=f"Regulatory fees of {sales} sales",
            )  # fmt: skip
            self._day_fees = {}

    def _fill_within(self, day: Mapping[str, DayBar]) -> None:
        """Limits and stops that the range of the session reached."""
        for order in list(self.open_orders.values()):
            bar = day.get(order.symbol)
            if bar is None or order.status not in ("new", "partially_filled") or order.symbol in self.halted:
                continue
            if order.time_in_force == "cls":
                continue
            price = price_within(order, Range(bar.low, bar.high, bar.close), self.config.costs)
            if price is not None:
                self._fill(order, price, shares(order, price))

    def _closing_auction(self) -> None:
        """Orders for the close meet it; what it does not fill is canceled."""
        for order in [o for o in self.open_orders.values() if o.time_in_force == "cls"]:
            if order.status == "accepted":
                self._activate(order)
            touch = self._touch(order)
            price = None if touch is None else price_now(order, touch, self.config.costs)
            if price is not None:
                self._fill(order, price, shares(order, price))
            else:
                self._finish(order, "canceled")


def _replacement(order: Order, changes: Mapping[str, Any], qty: Decimal) -> OrderRequest:
    """The order with `changes`, of `qty` shares, as a request; with the exits that wait for it."""
    limit, stop = (changes.get(name) or getattr(order, name) for name in ("limit_price", "stop_price"))
    trail_price, trail_percent = order.trail_price, order.trail_percent
    if order.type == "trailing_stop":
        stop = changes.get("stop_price")  # its own follows the market
    if trail_price is not None:
        trail_price = changes.get("trail") or trail_price
    else:
        trail_percent = changes.get("trail") or trail_percent
    return OrderRequest(
        symbol=order.symbol, side=order.side, type=order.type, qty=qty, order_class=order.order_class, limit_price=limit,
        time_in_force=changes.get("time_in_force") or order.time_in_force, extended_hours=order.extended_hours,
        stop_price=stop, trail_price=trail_price, trail_percent=trail_percent, client_order_id=changes.get("client_order_id"),
        legs=tuple(Leg(limit_price=leg.limit_price, stop_price=leg.stop_price) for leg in order.legs if leg.status == "held"),
    )  # fmt: skip
