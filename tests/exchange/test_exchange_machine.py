"""Random orders, cancels and sessions; after each step the books must agree with a second set of books kept from the stream."""

import json
import re
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from algo_royale.costs import CostRules
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.wire import rfc3339

SYMBOLS = st.sampled_from(["AAPL", "IBM", "FB"])
QUANTITIES = st.sampled_from(["1", "7", "100", "0.5", "3.333333333", "5000", "100000"])
LIMITS = st.sampled_from([None, None, "10.50", "20.00", "20.49", "21.00", "29.90", "189.00", "195.00"])
LIFE = re.compile(r"((accepted|pending_new|held)( new)?|new)( partial_fill)*( fill| canceled| expired| replaced)?")
TIMES = st.sampled_from(["day", "day", "day", "gtc", "ioc", "fok", "opg", "cls"])
STOPS = st.sampled_from(["10.20", "19.50", "20.60", "21.40", "30.00", "188.00", "196.00"])
COSTS = CostRules(slippage_bps=Decimal(5), commission_per_share=Decimal("0.005"), price_tick=Decimal("0.0001"))
CASH = Decimal(100_000)


class Books(RuleBasedStateMachine):
    """`positions` and `cash` here come from trade updates alone."""

    replay: Any = None
    client_class: Any = None

    @initialize(seed=st.integers(0, 3))
    def open_account(self, seed: int) -> None:
        config = ExchangeConfig(
            start_ns=self.replay.sessions[0].close_ns, seed=seed, cash=CASH, costs=COSTS, shorting=seed > 0,
            partial_fills=Decimal("0.3") * (seed % 2),
        )  # fmt: skip
        self.exchange = Exchange(self.replay, config)
        self.client = self.client_class(self.exchange)
        self.stream = self.client.listen()
        self.cash, self.positions = CASH, dict.fromkeys(("AAPL", "IBM", "FB"), Decimal(0))
        self.lives: dict[str, list[str]] = {}
        self.filled: dict[str, Decimal] = {}
        self.stamps: list[str] = []

    @rule(symbol=SYMBOLS, qty=QUANTITIES, side=st.sampled_from(["buy", "sell"]), limit=LIMITS)
    def submit(self, symbol: str, qty: str, side: str, limit: str | None) -> None:
        answer = self.client.order(symbol, qty, side, limit_price=limit, type="market" if limit is None else "limit")
        assert answer.status in (200, 403, 422)
        if answer.status == 200:
            assert answer.json["status"] in ("accepted", "pending_new") and answer.json["filled_qty"] == "0"

    @rule(
        symbol=SYMBOLS,
        qty=QUANTITIES,
        side=st.sampled_from(["buy", "sell"]),
        limit=LIMITS,
        stop=STOPS,
        time=TIMES,
        data=st.data(),
    )
    def submit_any(self, symbol: str, qty: str, side: str, limit: str | None, stop: str, time: str, data: Any) -> None:
        """Every type and time in force; what is refused changes nothing."""
        fields = data.draw(
            st.sampled_from(
                [
                    {"type": "stop", "stop_price": stop}, {"type": "trailing_stop", "trail_percent": "2"},
                    {"type": "trailing_stop", "trail_price": "0.50"}, {"type": "market", "qty": None, "notional": "250.50"},
                    {"type": "stop_limit", "stop_price": stop, "limit_price": limit or stop}, {"type": "market"},
                ]
            )
        )  # fmt: skip
        before = self.exchange.truth()
        answer = self.client.order(symbol, **{"qty": qty, "side": side, "time_in_force": time, **fields})
        assert answer.status in (200, 403, 422)
        if answer.status != 200:
            assert self.exchange.truth() == before

    @rule(
        symbol=SYMBOLS,
        side=st.sampled_from(["buy", "sell"]),
        limit=LIMITS,
        stop=STOPS,
        profit=STOPS,
        kind=st.sampled_from(["bracket", "oco", "oto"]),
    )
    def submit_complex(self, symbol: str, side: str, limit: str | None, stop: str, profit: str, kind: str) -> None:
        legs = {"take_profit": {"limit_price": profit}, "stop_loss": {"stop_price": stop}}
        if kind == "oto":
            del legs["take_profit"]
        price = profit if kind == "oco" else limit
        answer = self.client.order(
            symbol, "7", side, order_class=kind, limit_price=price, type="market" if price is None else "limit",
            time_in_force="gtc", **legs,
        )  # fmt: skip
        assert answer.status in (200, 403, 422)

    @rule(data=st.data(), qty=QUANTITIES, price=STOPS)
    @precondition(lambda self: self.exchange.open_orders)
    def replace(self, data: Any, qty: str, price: str) -> None:
        order = data.draw(st.sampled_from(list(self.exchange.open_orders.values())))
        changes = {"qty": qty, "limit_price": price} if order.limit_price is not None else {"qty": qty}
        answer = self.client.ask("PATCH", f"/v2/orders/{order.id}", body=changes)
        assert answer.status in (200, 403, 422)
        assert (order.status == "replaced") == (answer.status == 200)

    @rule(symbol=SYMBOLS)
    def close_position(self, symbol: str) -> None:
        assert self.client.ask("DELETE", f"/v2/positions/{symbol}").status in (200, 403, 404, 422)

    @rule(data=st.data())
    @precondition(lambda self: self.exchange.orders)
    def cancel(self, data: Any) -> None:
        order = data.draw(st.sampled_from(self.exchange.orders))
        before = order.status
        status = self.client.ask("DELETE", f"/v2/orders/{order.id}").status
        assert status == (422 if before in ("filled", "expired", "replaced") else 204)

    @rule()
    def cancel_all(self) -> None:
        self.client.ask("DELETE", "/v2/orders")
        assert not self.exchange.open_orders

    @rule(count=st.integers(1, 3))
    @precondition(lambda self: self.exchange.next_event_ns() is not None)
    def pass_time(self, count: int) -> None:
        for _ in range(count):
            at = self.exchange.next_event_ns()
            if at is None:
                return
            self.exchange.advance(at)
            split = self.replay.splits(self.replay.sessions[7].date)
            if at == self.replay.sessions[7].open_ns:
                self._hear(until=at)
                for symbol, ratio in split.items():
                    self.positions[symbol] *= ratio
            self._hear()

    def _hear(self, until: int | None = None) -> None:
        """Book what the stream tells; `until`: leave what belongs to that instant or later."""
        while self.stream.outbox:
            update = json.loads(self.stream.outbox[0])["data"]
            if until is not None and _sortable(update["timestamp"]) >= _sortable(rfc3339(until)):
                return
            self.stream.outbox.popleft()
            order = update["order"]
            self.stamps.append(update["timestamp"])
            self.lives.setdefault(order["id"], []).append(update["event"])
            if update["event"] in ("fill", "partial_fill"):
                qty, price = Decimal(update["qty"]), Decimal(update["price"])
                signed = qty if order["side"] == "buy" else -qty
                self.positions[order["symbol"]] += signed
                commission = (qty * COSTS.commission_per_share).quantize(Decimal("0.01"), "ROUND_HALF_UP")
                self.cash -= signed * price + commission
                self.filled[order["id"]] = self.filled.get(order["id"], Decimal(0)) + qty
                assert Decimal(update["position_qty"]) == self.positions[order["symbol"]]

    @invariant()
    def books_agree(self) -> None:
        self._hear()
        account, positions = self.client.get("/v2/account"), self.client.get("/v2/positions")
        truth = self.exchange.truth()
        assert Decimal(truth["cash"]) == self.cash
        assert {p["symbol"]: Decimal(p["qty"]) for p in positions} == {s: q for s, q in self.positions.items() if q}
        value = sum((Decimal(p["qty"]) * Decimal(p["current_price"]) for p in positions), Decimal(0))
        assert abs(Decimal(account["equity"]) - self.cash - value) <= Decimal("0.000001")
        assert Decimal(account["buying_power"]) >= 0

    @invariant()
    def nothing_is_held_or_filled_twice(self) -> None:
        for position in self.client.get("/v2/positions"):
            sign = 1 if position["side"] == "long" else -1
            assert sign * Decimal(position["qty"]) >= sign * Decimal(position["qty_available"]) >= 0
        for order in self.exchange.orders:
            assert order.filled_qty == self.filled.get(order.id, 0)
            assert order.qty is None or order.filled_qty <= order.qty
            assert order.notional is None or order.filled_value <= order.notional
            assert order.is_open == (order.id in self.exchange.open_orders)
            assert not order.is_open or order.expires_ns > self.exchange.now_ns

    @invariant()
    def lives_are_lawful_and_in_order(self) -> None:
        assert all(LIFE.fullmatch(" ".join(life)) for life in self.lives.values())
        assert set(self.lives) == {order.id for order in self.exchange.orders}
        ids = [event["event_id"] for event in self.exchange.events]
        assert ids == sorted(set(ids))
        assert self.stamps == sorted(set(self.stamps), key=_sortable)


def _sortable(stamp: str) -> str:
    head, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{head}.{fraction:0<9}"


def test_the_books_agree_whatever_is_ordered(replay: Any, start: Any) -> None:
    Books.replay, Books.client_class = replay, type(start())
    run_state_machine_as_test(Books, settings=settings(max_examples=60, stateful_step_count=30))
