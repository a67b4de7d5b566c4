"""A trading plan by hand and stepped traders over the bundled prices, for the proofs on the whole system."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from algo_royale.app.cli import Settings
from algo_royale.app.stepped import SteppedTrader, market_replay
from algo_royale.config import Config
from algo_royale.data.catalog import bundled
from algo_royale.exchange.replay import MarketReplay
from algo_royale.market import Timeframe
from algo_royale.orders import FINAL, Order
from algo_royale.research.handover import Member, SymbolPlan, TradingPlan, engine_config, simulate_plan
from algo_royale.research.simulate import SimulationResult
from algo_royale.sessions import calendar
from algo_royale.strategies import default_trial, loading, resolve, strategy_id
from db.store import Store

START = date(2012, 3, 2)  # the first session that a default backtest holds back
BUSY = date(2012, 10, 18)  # 8 fills within 4 sessions; then a hurricane closes the exchange and the clocks change
SYMBOLS = ("AAPL", "GOOG", "IBM", "MSFT")
NERVOUS = Path(__file__).with_name("nervous.py")
# Not trend followers: they trade often, and one of them depends on its own position.
STRATEGIES = {"RSIStrategy": 0.5, "BollingerBandsStrategy": 0.3, "MeanReversionStrategy": 0.6}
WEIGHTS = {**STRATEGIES, "VWAPReversionStrategy": 1.0}


def member(name: str, weight: float) -> Member:
    params = resolve(name, default_trial(name, Timeframe.DAY_1), Timeframe.DAY_1)
    return Member(
        strategy=name, strategy_id=strategy_id(name, params, Timeframe.DAY_1), weight=weight, params=params
    )  # fmt: skip


@lru_cache
def plan(
    symbols: Sequence[str] = SYMBOLS, portfolio: str = "EqualWeightPortfolioStrategy",
    strategies: Sequence[str] = tuple(STRATEGIES),
) -> TradingPlan:  # fmt: skip
    members = tuple(member(name, WEIGHTS[name]) for name in strategies)
    return TradingPlan(
        timeframe="1Day", universe="_".join(symbols), portfolio=portfolio,
        symbols=tuple(SymbolPlan(symbol=s, viability=1.0, members=members) for s in symbols),
        portfolio_params={} if portfolio.startswith("EqualWeight") else {"lookback": 40},
        warmup_bars=300, last_session="2012-03-01",
    )  # fmt: skip


@contextmanager
def nervous_plan(symbols: Sequence[str], start: date, timeframe: Timeframe = Timeframe.DAY_1) -> Iterator[TradingPlan]:
    """In after every bar that rose, out after every one that fell: an order for nearly every bar. A strategy of the user's own."""
    loading.load([str(NERVOUS)])
    params = resolve("Nervous", default_trial("Nervous", timeframe), timeframe)
    member = Member(
        strategy="Nervous", strategy_id=strategy_id("Nervous", params, timeframe), weight=1.0, params=params,
        version=loading.versions()["Nervous"],
    )  # fmt: skip
    try:
        yield TradingPlan(
            timeframe=timeframe.value, universe="_".join(symbols), portfolio="EqualWeightPortfolioStrategy", portfolio_params={},
            symbols=tuple(SymbolPlan(symbol=symbol, viability=1.0, members=(member,)) for symbol in symbols),
            warmup_bars=20, last_session=calendar().offset(start, -1).date.isoformat(), strategy_path=(str(NERVOUS),),
        )  # fmt: skip
    finally:
        loading.forget()


@lru_cache
def config() -> Config:
    return Settings().config


def last_session(start: date, count: int) -> date:
    """The date of the `count`-th session from `start` on."""
    return calendar().offset(start, count - 1).date


@lru_cache
def _replay(symbols: tuple[str, ...], end: date) -> MarketReplay:
    return market_replay(plan(symbols), bundled(), end)


def trader(sessions: int, the_plan: TradingPlan | None = None, *, start: date = START, **options: Any) -> SteppedTrader:
    """A stepped trader over so many sessions; the twin's replay is shared between equal ones."""
    the_plan = the_plan or plan()
    replay = _replay(the_plan.names, last_session(start, sessions))
    return SteppedTrader(the_plan, config(), replay, start=start, **options)


def simulated(sessions: int, the_plan: TradingPlan | None = None, *, start: date = START) -> SimulationResult:
    """The research side of parity: the same plan, rules, limits and cash through `research.simulate`."""
    the_plan, cfg = the_plan or plan(), config()
    rules = engine_config(
        the_plan, ledger_id="0123456789ab", rules=cfg.trader_rules(), limits=cfg.risk.limits(),
        weights=cfg.account.weights(),
    )  # fmt: skip
    return simulate_plan(
        the_plan, bundled(), rules, start=start, end=last_session(start, sessions), cash_usd=cfg.account.cash
    )


OrderRow = tuple[str, str, str, str, str]


def order_row(order: Order) -> OrderRow:
    """What parity compares: the id names the bar; an order that is still open at the end is just that."""
    status = order.status.value if order.final else "open"
    return order.client_order_id, order.symbol, order.side, f"{order.quantity.normalize():f}", status


def simulated_orders(result: SimulationResult) -> list[OrderRow]:
    return [order_row(order) for order in result.orders]


def recorded_orders(database: sqlite3.Connection) -> list[OrderRow]:
    """Every order of a ledger, in the order of recording."""
    final = {status.value for status in FINAL}
    rows = database.execute(
        "SELECT o.client_order_id, o.symbol, o.side, o.quantity, e.status FROM orders o JOIN order_event e ON e.seq ="
        " (SELECT max(seq) FROM order_event WHERE client_order_id = o.client_order_id) ORDER BY o.seq"
    )
    return [
        (id, symbol, side, f"{Decimal(quantity).normalize():f}", status if status in final else "open")
        for id, symbol, side, quantity, status in rows
    ]


LEDGER = {
    "decision": "decision_id, bar_end_ns, session_date, equity_usd, cash_usd, strategy, targets, missing",
    "orders": "client_order_id, decision_id, symbol, side, quantity, reference_price_usd",
    "fill": "client_order_id, symbol, side, quantity, cumulative_quantity, price_usd",
    "refusal": "decision_id, client_order_id, symbol, side, quantity, code",
    "session_equity": "session_date, phase, equity_usd, cash_usd",
    "trading_state": "state, reason",
    "session_close": "session_date, equity_usd, cash_usd, unsettled_usd, cost_usd, realised_usd, fees_usd, positions",
}


def ledger_of(trader: SteppedTrader) -> dict[str, list[tuple[object, ...]]]:
    return money_facts(trader.store)


def money_facts(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """All money facts of a ledger, without when and in which order they were written."""
    database = store.database.connection()
    found = {t: sorted(set(database.execute(f"SELECT {columns} FROM {t}"))) for t, columns in LEDGER.items()}
    account = store.account
    assert account is not None
    held = {s: (str(p.quantity), str(p.average_cost_usd)) for s, p in account.positions.items() if p.quantity}
    return found | {
        "status": sorted(recorded_orders(database)),
        "account": [(str(account.cash), str(sorted(held.items())))],
    }


def truth_errors(trader: SteppedTrader) -> list[str]:
    """Where the ledger is not the exchange's truth: orders held twice, fills lost or doubled, positions, cash."""
    exchange, account, errors = trader.exchange, trader.store.account, []
    assert account is not None
    ids = [order.client_order_id for order in exchange.orders]
    errors += [f"two orders {i}" for i in sorted({i for i in ids if ids.count(i) > 1})]
    rows = trader.store.database.connection().execute("SELECT client_order_id, quantity FROM fill")
    filled: dict[str, Decimal] = {}
    for client_order_id, quantity in rows:
        filled[client_order_id] = filled.get(client_order_id, Decimal(0)) + Decimal(quantity)
    for order in exchange.orders:
        if filled.get(order.client_order_id, Decimal(0)) != order.filled_qty:
            errors.append(
                f"{order.client_order_id}: ledger {filled.get(order.client_order_id)}, exchange {order.filled_qty}"
            )
    for symbol in sorted(set(account.positions) | set(exchange.account.positions)):
        ours, theirs = account.quantity(symbol), exchange.account.quantity(symbol)
        if ours != theirs:
            errors.append(f"{symbol}: ledger holds {ours}, exchange {theirs}")
    if account.cash != exchange.account.cash:
        errors.append(f"cash: ledger {account.cash}, exchange {exchange.account.cash}")
    return errors
