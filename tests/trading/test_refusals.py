"""Where each of risk's refusals comes from: a whole trader over the exchange's core, set up so that one of its decisions runs into it.
And what risk approves, the exchange takes."""

import json
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import intraday
from actors.direct import DirectBroker, DirectFaults
from algo_royale.app.stepped import SteppedTrader
from algo_royale.config import Config
from algo_royale.costs import CostRules
from algo_royale.engine import BarsClosed, EngineConfig, FillApplied, OrderEnded, SessionStarted, SymbolBar, start, step
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.replay import MarketReplay
from algo_royale.exchange.wire import OrderRequest
from algo_royale.market import Bars, Timeframe
from algo_royale.orders import Fill, OrderStatus
from algo_royale.portfolio.sizing import AUCTIONS, AccountRules, OrderPolicy, OrderType
from algo_royale.portfolio.weights import WeightConfig
from algo_royale.risk import RefusalCode
from algo_royale.sessions import calendar
from traders import BUSY, _replay, config, last_session, plan

D = Decimal
HALF = date(2012, 11, 23)
HOUR_NS = 3_600_000_000_000
NEVER = {  # what no decision asks for: these guard against a defect
    RefusalCode.QUANTITY_INVALID,  # a quantity of nothing is no order
    RefusalCode.SHORT_SALE,  # weights are never negative, and a sale is never of more than is held
}
DAILY: dict[RefusalCode, dict[str, Any]] = {
    RefusalCode.SYMBOL_RESTRICTED: {"restricted": ("AAPL", "GOOG", "IBM", "MSFT")},
    RefusalCode.ORDER_RATE: {"orders_per_minute": 1},
    RefusalCode.ORDERS_PER_DAY: {"orders_per_day": 1},
    RefusalCode.DAILY_LOSS: {"daily_loss_fraction": D("0.0001"), "on_daily_loss": "refuse"},
    RefusalCode.DRAWDOWN: {"drawdown_fraction": D("0.0001"), "on_drawdown": "refuse"},
    RefusalCode.REDUCING: {"daily_loss_fraction": D("0.0001"), "on_daily_loss": "reduce"},
    RefusalCode.HALTED: {"drawdown_fraction": D("0.0001"), "on_drawdown": "halt"},
    RefusalCode.ORDER_QUANTITY: {"order_quantity": D(5)},
    RefusalCode.ORDER_NOTIONAL: {"order_notional_usd": D(1000)},
    RefusalCode.POSITION_NOTIONAL: {"position_notional_usd": D(1000)},
    RefusalCode.CONCENTRATION: {"concentration_fraction": D("0.1")},
    RefusalCode.GROSS_EXPOSURE: {"gross_exposure_fraction": D("0.1")},
    RefusalCode.NET_EXPOSURE: {"net_exposure_fraction": D("0.1")},
}


def limited(risk: dict[str, Any], **orders: Any) -> Config:
    shipped = config()
    return shipped.model_copy(
        update={"risk": shipped.risk.model_copy(update=risk), "orders": shipped.orders.model_copy(update=orders)}
    )  # fmt: skip


def refused(live: SteppedTrader) -> set[str]:
    rows = live.store.database.connection().execute("SELECT DISTINCT code FROM refusal")
    return {code for (code,) in rows}


def until_refused(live: SteppedTrader, code: RefusalCode, **changes: Any) -> None:
    """Run until the code is on record."""
    assert live.run(should_stop=lambda: code.value in refused(live), changes=changes) == 0
    assert code.value in refused(live)


def daily(cfg: Config, sessions: int = 20) -> SteppedTrader:
    return SteppedTrader(plan(), cfg, _replay(plan().names, last_session(BUSY, sessions)), start=BUSY)


@pytest.mark.parametrize("code", DAILY, ids=lambda code: code.value)
def test_a_limit_of_the_configuration_refuses_on_daily_bars(code: RefusalCode) -> None:
    until_refused(daily(limited(DAILY[code])), code)


WITHIN: dict[RefusalCode, tuple[dict[str, Any], dict[str, Any]]] = {
    RefusalCode.SYMBOL_HOLD: ({}, {"day_trades": False}),
    RefusalCode.PRICE_COLLAR: ({"collar_fraction": D("0.001")}, {"type": "marketable_limit", "collar_bps": D(20)}),
    RefusalCode.SESSION_PHASE: ({"entry_after_open_s": 9000}, {}),
    RefusalCode.PRICE_STALE: ({}, {}),
    RefusalCode.WASH_TRADE: ({}, {}),
    RefusalCode.DUPLICATE_INTENT: ({}, {}),
}


@pytest.mark.parametrize("code", WITHIN, ids=lambda code: code.value)
def test_what_refuses_within_a_session(code: RefusalCode) -> None:
    """A symbol that is silent for a quarter of an hour and more; orders in halted symbols that the broker does not cancel either,
    so that they are still open when the next bars decide."""
    the_plan = intraday.plan("15Min", strategies=intraday.BUSY)
    catalog = intraday.seeded(gaps=0.9 if code is RefusalCode.PRICE_STALE else 0.0, seed=7)
    replay = intraday._replay(the_plan.names, catalog, HALF)
    start = date(2012, 11, 21) if code is RefusalCode.DUPLICATE_INTENT else HALF
    live = SteppedTrader(the_plan, limited(*WITHIN[code][:1], **WITHIN[code][1]), replay, start=start)
    if code in (RefusalCode.WASH_TRADE, RefusalCode.DUPLICATE_INTENT):
        exchange: Any = live.exchange
        exchange.cancel = lambda order: None
        for symbol in the_plan.names:
            exchange.halt(symbol)

    until_refused(live, code)


class Blind(DirectBroker):
    """History knows nothing of IBM."""

    def bars(self, *, symbol: str, **rest: Any) -> Any:
        return [] if symbol == "IBM" else super().bars(symbol=symbol, **rest)


def without_ibm(endpoint: str, frames: Sequence[str]) -> Sequence[str]:
    """And neither does the stream."""
    if endpoint != "data":
        return frames
    return [json.dumps([each for each in json.loads(frame) if each.get("S") != "IBM"]) for frame in frames]


def holding_ibm(cfg: Config, shares: int, faults: DirectFaults | None = None) -> SteppedTrader:
    """A trader that finds a position on its account when it starts for the first time."""
    live = SteppedTrader(plan(), cfg, _replay(plan().names, last_session(BUSY, 6)), start=BUSY, faults=faults)
    live.exchange.advance(live.exchange.now_ns + 2 * HOUR_NS)
    live.exchange.submit(OrderRequest(symbol="IBM", side="buy", type="market", qty=D(shares), time_in_force="day"))
    assert live.exchange.account.quantity("IBM") == shares
    return live


def test_a_purchase_that_counted_on_a_sale_which_is_refused_lacks_buying_power() -> None:
    """All is in IBM, which may not be sold."""
    off = dict.fromkeys(("gross_exposure_fraction", "order_notional_usd", "position_notional_usd"))

    until_refused(holding_ibm(limited({**off, "restricted": ("IBM",)}), 500), RefusalCode.BUYING_POWER)


def test_what_is_held_without_a_price_cannot_be_judged() -> None:
    faults = DirectFaults(frames=without_ibm)
    live = holding_ibm(config(), 100, faults)
    key, secret = live.keys
    data = Blind(live.exchange, key=key, secret=secret, faults=faults)

    until_refused(live, RefusalCode.PRICE_MISSING, data=data)


def test_every_code_has_its_place_here_or_can_never_be() -> None:
    elsewhere = RefusalCode.SPREAD_WIDE  # test_trading_state looks at a market with a wide spread
    shown = {*DAILY, *WITHIN, RefusalCode.BUYING_POWER, RefusalCode.PRICE_MISSING, elsewhere}
    assert shown | NEVER == set(RefusalCode) and not shown & NEVER


SESSIONS = calendar().sessions(date(2012, 11, 12), date(2012, 11, 30))


def wild(symbol: str, seed: int) -> Bars:
    """Days that open and close many percent away from the one before."""
    rng = np.random.default_rng(seed)
    n = len(SESSIONS)
    close = np.round(40 * np.exp(np.cumsum(rng.normal(0, 0.08, n))) + 1, 2)
    opened = np.round(np.append(41.0, close[:-1]) * np.exp(rng.normal(0, 0.05, n)), 2)
    high, low = np.maximum(opened, close) + 0.5, np.minimum(opened, close) - 0.5
    return Bars(
        symbol=symbol, timeframe=Timeframe.DAY_1, start_ns=np.array([s.label_ns for s in SESSIONS]),
        end_ns=np.array([s.close_ns for s in SESSIONS]), open=opened, high=high, low=low, close=close,
        volume=np.full(n, 1e6), vwap=np.full(n, np.nan), trade_count=np.full(n, -1, np.int64),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([("cash", 1), ("margin", 2), ("margin", 4)]), st.sampled_from(OrderType),
    st.sampled_from(["1", "0.001"]), st.sampled_from([(1.0, 0.0), (0.35, 0.02), (0.6, 0.1)]),
)  # fmt: skip
def test_what_risk_approves_the_exchange_takes(
    seed: int, account: tuple[str, int], order_type: OrderType, lot: str, weights: tuple[float, float]
) -> None:
    """Random targets over wild days: no order lacks buying power or shares at the exchange, has a price or a quantity that it
    does not take, or meets an order of ours on the other side."""
    names, costs = ("A", "B", "C"), CostRules(slippage_bps=D(20), commission_bps=D(3), price_tick=D("0.0001"))
    replay = MarketReplay({name: wild(name, seed + n) for n, name in enumerate(names)}, calendar())
    rules = AccountRules(
        lot=D(1) if order_type in AUCTIONS else D(lot), account=account[0], shortfall="borrow", costs=costs,
        policy=OrderPolicy(type=order_type),
    )  # fmt: skip
    cfg = EngineConfig(
        ledger_id="t", symbols=names, strategy="EqualWeightPortfolioStrategy", rules=rules, rebalance="every_bar",
        weights=WeightConfig(max_weight=weights[0], cash_buffer=weights[1]),
    )  # fmt: skip
    begin_ns = SESSIONS[0].open_ns - HOUR_NS
    exchange = Exchange(
        replay, ExchangeConfig(start_ns=begin_ns, cash=D(100_000), costs=costs, multiplier=account[1])
    )  # fmt: skip
    state, rng, told, sent = start(cfg, D(100_000)), np.random.default_rng(seed), 0, 0
    for number, session in enumerate(SESSIONS[:-1]):
        exchange.advance(session.close_ns)
        day = session.date.isoformat()
        state, _ = step(state, SessionStarted(day), cfg)
        for fill in exchange._entries[told:]:
            assert isinstance(fill, Fill)
            state, _ = step(state, FillApplied(fill), cfg)
        told = len(exchange._entries)
        for name in list(state.orders):
            state, _ = step(state, OrderEnded(name, OrderStatus.EXPIRED), cfg)
        assert state.account.cash == exchange.account.cash
        bars = {
            name: SymbolBar(exchange.marks[name], float(exchange.marks[name]), bool(rng.random() < 0.6), 1.0)
            for name in names
        }
        state, (decision,) = step(state, BarsClosed(session.close_ns, day, bars), cfg)
        exchange.advance(SESSIONS[number + 1].open_ns - HOUR_NS)
        for approved in decision.approved:
            intent = approved.intent
            exchange.submit(
                OrderRequest(
                    symbol=intent.symbol, side=intent.side, type=intent.order_type, qty=intent.quantity,
                    limit_price=intent.limit_price_usd, time_in_force=intent.time_in_force,
                    client_order_id=intent.client_order_id,
                )
            )  # fmt: skip
            sent += 1
    assert sent > 3
