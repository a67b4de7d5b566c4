"""Every way of sending orders does in the simulation what it does at the exchange: the same orders, fills, prices and cash."""

from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pytest

import intraday
from algo_royale.app.stepped import SteppedTrader
from algo_royale.config import Config
from algo_royale.data.catalog import bundled
from algo_royale.market import Timeframe
from algo_royale.orders import FINAL, OrderStatus
from algo_royale.research.handover import TradingPlan, engine_config, simulate_plan
from algo_royale.research.simulate import SimulationResult
from algo_royale.sessions import calendar
from traders import BUSY, _replay, config, last_session, plan, recorded_orders, simulated_orders, truth_errors

SESSIONS = 40
MINUTE_NS = 60_000_000_000
POLICIES: dict[str, dict[str, Any]] = {
    "market": {},
    "limit, wide": {"type": "marketable_limit", "collar_bps": Decimal(75)},
    "limit, tight": {"type": "marketable_limit", "collar_bps": Decimal(10)},
    "limit at the last price": {"type": "marketable_limit", "collar_bps": Decimal(0)},
    "opening auction": {"type": "opening_auction"},
    "closing auction": {"type": "closing_auction"},
}


def configured(**orders: Any) -> Config:
    return config().model_copy(update={"orders": config().orders.model_copy(update=orders)})


def rules_of(the_plan: TradingPlan, cfg: Config) -> Any:
    return engine_config(
        the_plan, ledger_id="0123456789ab", rules=cfg.trader_rules(), limits=cfg.risk.limits(),
        weights=cfg.account.weights(bars_per_year=Timeframe(the_plan.timeframe).bars_per_year),
    )  # fmt: skip


@lru_cache
def both(name: str) -> tuple[SimulationResult, SteppedTrader, int]:
    cfg, end = configured(**POLICIES[name]), last_session(BUSY, SESSIONS)
    expected = simulate_plan(
        plan(), bundled(), rules_of(plan(), cfg), start=BUSY, end=end, cash_usd=cfg.account.cash
    )  # fmt: skip
    live = SteppedTrader(plan(), cfg, _replay(plan().names, end), start=BUSY)
    return expected, live, live.run()


def fills_of(live: SteppedTrader) -> list[tuple[str, Decimal, Decimal]]:
    rows = live.store.database.connection().execute("SELECT client_order_id, quantity, price_usd FROM fill")
    return sorted((name, Decimal(quantity), Decimal(price)) for name, quantity, price in rows)


@pytest.mark.parametrize("policy", POLICIES)
def test_simulation_and_trader_order_and_fill_the_same(policy: str) -> None:
    """Every order and how it ended, every fill with its price, and the final cash."""
    expected, live, exit_code = both(policy)

    assert exit_code == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert fills_of(live) == sorted((f.fill_id.rpartition(".")[0], f.quantity, f.price) for f in expected.fills)
    assert live.exchange.account.cash == expected.state.account.cash
    assert truth_errors(live) == []
    assert len(expected.fills) > 12


def test_the_policies_are_not_all_the_same() -> None:
    """What is compared above differs from policy to policy, so that agreement means something."""
    prices = {name: tuple(f.price for f in both(name)[0].fills) for name in POLICIES}
    assert len(set(prices.values())) == len(POLICIES) - 1
    assert prices["market"] == prices["opening auction"]  # the open, by another door
    ends = {name: [order.status for order in both(name)[0].orders if order.status in FINAL] for name in POLICIES}
    assert OrderStatus.EXPIRED not in ends["market"]
    assert (
        ends["limit at the last price"].count(OrderStatus.EXPIRED) > ends["limit, tight"].count(OrderStatus.EXPIRED) > 0
    )


ACCOUNTS: dict[str, dict[str, Any]] = {
    "fractions of a share": {"trader_lot": Decimal("0.001")},
    "cash, settled the next session": {"kind": "cash"},
    "cash, settled after three sessions": {"kind": "cash", "settlement_days": 3},
}


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("account", ACCOUNTS)
def test_simulation_and_trader_agree_for_every_kind_of_account(account: str, restarts: bool) -> None:
    """Unsettled proceeds are not spent, and a trader that is started anew every day knows of them from its ledger."""
    cfg, end = configured(), last_session(BUSY, 20)
    cfg = cfg.model_copy(update={"account": cfg.account.model_copy(update=ACCOUNTS[account])})
    expected = simulate_plan(plan(), bundled(), rules_of(plan(), cfg), start=BUSY, end=end, cash_usd=cfg.account.cash)
    live = SteppedTrader(plan(), cfg, _replay(plan().names, end), start=BUSY)
    for session in calendar().sessions(BUSY, end)[:-1] if restarts else ():
        assert live.run(until_ns=session.close_ns + 3_600_000_000_000) == 0

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert fills_of(live) == sorted((f.fill_id.rpartition(".")[0], f.quantity, f.price) for f in expected.fills)
    assert live.exchange.account.cash == expected.state.account.cash
    assert len(expected.fills) > 10


def with_multiplier_1(**orders: Any) -> tuple[SimulationResult, SteppedTrader]:
    """An account that the broker lends nothing, over sessions in which sales pay for purchases."""
    cfg, end = configured(**orders), last_session(BUSY, 20)
    cfg = cfg.model_copy(update={"exchange": cfg.exchange.model_copy(update={"multiplier": 1})})
    expected = simulate_plan(plan(), bundled(), rules_of(plan(), cfg), start=BUSY, end=end, cash_usd=cfg.account.cash)
    live = SteppedTrader(plan(), cfg, _replay(plan().names, end), start=BUSY)
    assert live.run() == 0 and truth_errors(live) == []
    return expected, live


def test_purchases_that_need_the_proceeds_of_sales_wait_for_them() -> None:
    """Sent together, the broker refuses some for want of buying power; one after the other, all fill as decided."""
    _, together = with_multiplier_1()
    expected, after = with_multiplier_1(wait_for_sells=True)

    refused = [row for row in recorded_orders(together.store.database.connection()) if row[4] == "rejected"]
    assert refused and all(side == "buy" for _, _, side, _, _ in refused)
    assert recorded_orders(after.store.database.connection()) == simulated_orders(expected)
    assert fills_of(after) == sorted((f.fill_id.rpartition(".")[0], f.quantity, f.price) for f in expected.fills)


# --- within the day ---

WITHIN: dict[str, dict[str, Any]] = {
    "limit": {"type": "marketable_limit", "collar_bps": Decimal(1)},
    "limit, flat at the close": {"type": "marketable_limit", "collar_bps": Decimal(5), "flatten_at_close": True},
}


@pytest.mark.parametrize("policy", WITHIN)
def test_simulation_and_trader_order_and_fill_the_same_within_the_day(policy: str) -> None:
    """Minutes that a seed makes, with a half day among them; a limit trades at once or is canceled."""
    cfg, the_plan, catalog = configured(**WITHIN[policy]), intraday.plan("15Min"), intraday.seeded()
    start, end = date(2012, 11, 19), date(2012, 11, 23)
    expected = simulate_plan(
        the_plan, catalog, rules_of(the_plan, cfg), start=start, end=end, cash_usd=cfg.account.cash
    )  # fmt: skip
    live = SteppedTrader(the_plan, cfg, intraday._replay(the_plan.names, catalog, end), start=start)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert fills_of(live) == sorted((f.fill_id.rpartition(".")[0], f.quantity, f.price) for f in expected.fills)
    assert live.exchange.account.cash == expected.state.account.cash
    assert truth_errors(live) == []
    assert len(expected.fills) > 8
    canceled = [order for order in expected.orders if order.status is OrderStatus.CANCELED]
    assert canceled


RESTING = [  # length of bar, share of minutes without a trade, silent ones after an open, collar
    ("1Min", 0.3, 30, "2", intraday.HALF),
    ("5Min", 0.5, 7, "0", date(2012, 11, 21)),
    ("15Min", 0.05, 0, "1", date(2012, 11, 21)),
    ("1Hour", 0.6, 40, "0", date(2012, 11, 19)),
]


@pytest.mark.parametrize(("timeframe", "gaps", "silent", "collar", "start"), RESTING)
def test_a_limit_that_rests_until_the_next_bars_end_does_the_same_in_both(
    timeframe: str, gaps: float, silent: int, collar: str, start: date
) -> None:
    """At the first trade if that is good enough, else at itself if the bar's range reaches it, and canceled with the bar: also
    where a bar, a session or a whole minute begins without a trade. In fractions of a share, which no other limit takes."""
    cfg = configured(type="marketable_limit", collar_bps=Decimal(collar), limit_rests=True)
    cfg = cfg.model_copy(update={"account": cfg.account.model_copy(update={"trader_lot": Decimal("0.01")})})
    the_plan, catalog = intraday.plan(timeframe, strategies=intraday.BUSY), intraday.seeded(gaps=gaps, silent=silent)
    expected = intraday.simulated(the_plan, catalog, start, intraday.HALF, cfg)
    live = intraday.trader(the_plan, catalog, start, intraday.HALF, cfg)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert fills_of(live) == sorted((f.fill_id.rpartition(".")[0], f.quantity, f.price) for f in expected.fills)
    assert live.exchange.account.cash == expected.state.account.cash
    assert truth_errors(live) == []
    limits = {order.client_order_id: order.limit_price_usd for order in expected.orders}
    at_limit = [f for f in expected.fills if f.price == limits[f.fill_id.rpartition(".")[0]]]
    canceled = [order for order in expected.orders if order.status is OrderStatus.CANCELED]
    assert len(at_limit) >= 3 and canceled and len(expected.fills) > 5


def test_a_trader_that_goes_flat_holds_nothing_overnight() -> None:
    cfg, the_plan, catalog = configured(flatten_at_close=True), intraday.plan("15Min"), intraday.seeded()
    start, end = date(2012, 11, 19), date(2012, 11, 23)
    result = simulate_plan(the_plan, catalog, rules_of(the_plan, cfg), start=start, end=end, cash_usd=cfg.account.cash)

    closes = {session.close_ns for session in calendar().sessions(start, end)}
    at_close = [row for row, end_ns in enumerate(result.bar_end_ns.tolist()) if end_ns in closes]

    assert len(at_close) == 4 and (result.equity[at_close] == result.cash[at_close]).all()
    assert (result.equity != result.cash).sum() > 30  # but within the day it does hold something


@pytest.mark.parametrize("late", [False, True])
def test_an_order_that_its_bar_could_not_fill_gives_way_to_the_next_decision(late: bool) -> None:
    """Trading in the symbol is halted: what waits is canceled as the next bar ends, and decided anew at its end, also where the first
    cancel is lost and the decision has to wait for the second."""
    cfg, the_plan, catalog = configured(), intraday.plan("15Min"), intraday.seeded()
    start, end = date(2012, 11, 19), date(2012, 11, 21)
    expected = simulate_plan(
        the_plan, catalog, rules_of(the_plan, cfg), start=start, end=end, cash_usd=cfg.account.cash
    )
    first = expected.orders[0]
    decided_ns = int(first.decision_id.rpartition("-")[2])
    live = SteppedTrader(the_plan, cfg, intraday._replay(the_plan.names, catalog, end), start=start)

    def halted() -> bool:
        now_ns, name = live.exchange.now_ns, first.symbol
        if (decided_ns - MINUTE_NS <= now_ns < decided_ns + 20 * MINUTE_NS) != (name in live.exchange.halted):
            live.exchange.halt(name, halted=name not in live.exchange.halted)
        return False

    exchange: Any = live.exchange
    cancel, lost = exchange.cancel, []

    def lose(order: Any) -> None:
        if late and order.client_order_id not in lost:
            lost.append(order.client_order_id)
        else:
            cancel(order)

    exchange.cancel = lose

    assert live.run(should_stop=halted) == 0 and truth_errors(live) == []
    orders = [order for order in live.exchange.orders if order.symbol == first.symbol]
    assert orders[0].client_order_id == first.client_order_id
    assert (orders[0].status, orders[0].filled_qty) == ("canceled", 0)
    assert orders[0].canceled_ns is not None
    assert abs(orders[0].canceled_ns - decided_ns - 15 * MINUTE_NS) < (MINUTE_NS if late else 1000)
    assert (
        live.store.database.connection().execute("SELECT code FROM refusal").fetchall() == []
    )  # no sale of what is on its way
    assert orders[1].status == "filled"  # when the signal came back
