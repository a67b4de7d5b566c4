"""What ran live is what was tested: `research.simulate` and the whole actor system give the same orders and equity."""

import dataclasses
import json
from collections import Counter
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import intraday
from algo_royale.app.stepped import SteppedTrader
from algo_royale.data.catalog import bundled, open_catalog
from algo_royale.exchange.replay import MarketReplay
from algo_royale.market import Bars, CorporateAction, Timeframe
from algo_royale.research.handover import TradingPlan, engine_config, simulate_plan
from algo_royale.sessions import calendar, new_york_date
from algo_royale.strategies.combined import CombinedSignal
from conftest import shared
from db.admin import check
from traders import (
    BUSY,
    config,
    last_session,
    ledger_of,
    plan,
    recorded_orders,
    simulated,
    simulated_orders,
    trader,
    truth_errors,
)

PORTFOLIOS = ("EqualWeightPortfolioStrategy", "InverseVolatilityPortfolioStrategy", "MinimumVariancePortfolioStrategy")
HELD_BACK = 250  # sessions from START to the end of the bundled data


@pytest.mark.prove
@pytest.mark.parametrize("portfolio", PORTFOLIOS)
def test_stepped_trader_and_simulation_order_the_same_to_the_last_cent(portfolio: str, proving: bool) -> None:
    """Every order over the held-back period (bar, symbol, side, quantity, end), and the final equity."""
    sessions = HELD_BACK if proving else 90
    the_plan = plan(portfolio=portfolio)
    expected = simulated(sessions, the_plan)

    live = trader(sessions, the_plan)
    exit_code = live.run()

    assert exit_code == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert live.exchange.account.equity(live.exchange.marks) == expected.final_equity
    assert truth_errors(live) == []
    assert len(expected.orders) > 20  # a comparison of nothing proves nothing


def test_a_symbol_with_a_short_history_is_in_parity_too() -> None:
    """FB lists in May 2012: it joins when its warm-up allows, without being special-cased."""
    the_plan = plan(symbols=("AAPL", "FB", "MSFT"), strategies=("RSIStrategy",))
    expected = simulated(150, the_plan)

    live = trader(150, the_plan)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert any(order.symbol == "FB" for order in expected.orders)


class LateSignal:
    """A combined signal that says everything one bar too late."""

    def __init__(self, inner: CombinedSignal) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def update(self, bars: Bars, state: Any) -> Any:
        signal, score, state_in, after = self._inner.update(bars, state)
        return signal, score, np.concatenate(([state.is_in], state_in[:-1])) if len(bars) else state_in, after


def test_a_signal_one_bar_late_on_one_side_breaks_parity() -> None:
    """The comparison can fail: an off-by-one in the live path is seen."""
    expected = simulated(40)
    live = trader(40)
    in_time = live.parts

    live.parts = lambda **changes: dataclasses.replace(  # type: ignore[method-assign]
        in_time(**changes), combined=lambda symbol: LateSignal(live.plan.combined(symbol))
    )
    live.run()

    assert recorded_orders(live.store.database.connection()) != simulated_orders(expected)


def test_dropping_a_bar_of_warm_up_breaks_parity() -> None:
    """Feature state has the same origin on both sides or not at all: exponential averages remember where they began."""
    shorter = {name: getattr(plan(), name) for name in TradingPlan.__struct_fields__} | {"warmup_bars": 12}
    expected = simulated(90)

    live = trader(90, TradingPlan(**shorter))
    live.run()

    assert recorded_orders(live.store.database.connection()) != simulated_orders(expected)


def test_ledger_reports_the_equity_of_every_session() -> None:
    """The ledger's daily equity is the simulation's equity curve, to the cent."""
    expected = simulated(60)
    live = trader(60)
    live.run()

    rows = ledger_of(live)["session_equity"]

    assert [Decimal(str(row[2])) for row in rows] == [
        Decimal(str(v)).quantize(Decimal("0.0001")) for v in expected.equity
    ]
    closes = ledger_of(live)["session_close"]
    assert len({row[0] for row in closes}) == 60
    assert [Decimal(str(row[1])).quantize(Decimal("0.0001")) for row in closes] == [
        Decimal(str(v)).quantize(Decimal("0.0001")) for v in expected.equity
    ]
    assert check(live.store.database) == []


def test_dividends_that_the_broker_pays_are_cash_for_the_shares_held_overnight_and_no_shares() -> None:
    """As a live account is paid: three of them in November 2012, by the bundled prices' own list."""
    live = trader(18, start=BUSY)
    live.exchange.config = dataclasses.replace(live.exchange.config, pay_dividends=True)

    assert live.run() == 0

    closes = {
        day: {symbol: Decimal(quantity) for symbol, quantity, *_ in json.loads(held)}
        for day, held in live.store.database.connection().execute("SELECT session_date, positions FROM session_close")
    }
    before = {day: max(d for d in closes if d < day) for day in sorted(closes)[1:]}
    due = [
        closes[before[day]].get(symbol, 0) * Decimal(str(action.cash_usd))
        for symbol in live.plan.names
        for action in bundled().actions(symbol)
        if (day := action.ex_date.isoformat()) in before
    ]
    paid = [
        Decimal(amount)
        for (amount,) in live.store.database.connection().execute(
            "SELECT amount_usd FROM cash_entry WHERE kind = 'div'"
        )
    ]
    assert sorted(paid) == sorted(amount for amount in due if amount) and len(paid) == 3
    ((booked,),) = live.store.database.connection().execute(
        "SELECT dividends_usd FROM session_close ORDER BY seq DESC LIMIT 1"
    )
    assert Decimal(booked) == sum(paid)
    assert truth_errors(live) == [] and check(live.store.database) == []


def test_the_configuration_under_test_is_the_shipped_one() -> None:
    """Parity holds under the limits that a user gets, not under none."""
    assert config().risk.orders_per_minute == 60


# --- within the day --------------------------------------------------------------------------------------------------

BEFORE, HALF = date(2012, 11, 21), date(2012, 11, 23)  # a whole session, and the half one after Thanksgiving
WITHIN = [  # length of bar, share of minutes without a trade, silent ones after an open, first and last session, least orders
    ("1Min", 0.05, 0, BEFORE, HALF, 20),
    ("5Min", 0.5, 2, BEFORE, HALF, 20),
    ("15Min", 0.3, 30, BEFORE, HALF, 10),
    ("1Hour", 0.0, 0, date(2012, 11, 19), date(2012, 11, 27), 3),
]


@pytest.mark.parametrize(("timeframe", "gaps", "silent", "start", "end", "least"), WITHIN)
def test_within_the_day_too_they_order_the_same_to_the_last_cent(
    timeframe: str, gaps: float, silent: int, start: date, end: date, least: int
) -> None:
    """Whole sessions, the night between them and a half day, with minutes in which nobody traded, also the first ones of a bar and
    of a session: bars are made of the stream's minutes and closed by the clock, and an order meets the first trade after it."""
    busy = timeframe in ("5Min", "15Min")
    the_plan = intraday.plan(timeframe, strategies=intraday.BUSY if busy else tuple(intraday.STRATEGIES.items()))
    catalog = intraday.seeded(gaps=gaps, silent=silent)
    expected = intraday.simulated(the_plan, catalog, start, end)
    live = intraday.trader(the_plan, catalog, start, end)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert live.exchange.account.equity(live.exchange.marks) == expected.final_equity
    assert truth_errors(live) == []
    assert len(expected.orders) >= least
    bars = [row[1] for row in ledger_of(live)["decision"]]
    assert bars == expected.bar_end_ns.tolist()  # a decision for every bar time, and for no other
    assert bars[-1] == calendar().sessions(end, end)[0].close_ns


@pytest.mark.parametrize("timeframe", ["15Min", "1Hour"])
def test_who_is_flat_at_every_close_is_so_in_both(timeframe: str) -> None:
    """Sold at the open of the session's last bar, also on a half day, and bought again in the next session at the earliest."""
    cfg = config().model_copy(update={"orders": config().orders.model_copy(update={"flatten_at_close": True})})
    end = HALF if timeframe == "15Min" else date(2012, 11, 28)
    the_plan, catalog = intraday.plan(timeframe, strategies=intraday.BUSY), intraday.seeded(gaps=0.05, seed=5)
    expected = intraday.simulated(the_plan, catalog, BEFORE, end, cfg)
    live = intraday.trader(the_plan, catalog, BEFORE, end, cfg)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert live.exchange.account.cash == expected.final_equity  # nothing is held
    closes = [session.close_ns for session in calendar().sessions(BEFORE, end)]
    at_close = np.isin(expected.bar_end_ns, closes)
    assert (expected.cash[at_close] == expected.equity[at_close]).all()
    assert (expected.cash != expected.equity).any()
    assert len(expected.orders) >= 8


def test_where_nobody_traded_for_a_minute_an_order_gives_way_in_both() -> None:
    """Three minutes in ten are silent, now and then all of them at once: nobody knows a price then, and the next bar decides anew."""
    the_plan = intraday.plan("1Min", portfolio="MinimumVariance", strategies=intraday.BUSY)
    catalog = intraday.seeded(gaps=0.3, seed=5)
    expected = intraday.simulated(the_plan, catalog, HALF, HALF)
    live = intraday.trader(the_plan, catalog, HALF, HALF)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert live.exchange.account.equity(live.exchange.marks) == expected.final_equity
    assert len(expected.orders) >= 40 and len(expected.bar_end_ns) < 210
    ends = Counter(order.status.value for order in expected.orders)
    assert set(ends) == {"filled", "canceled"} and min(ends.values()) >= 8


def test_what_reads_the_volume_weighted_price_reads_the_same_in_both() -> None:
    """The minutes that the twin draws have the recorded one, and none where none is known: then it is the mean of high, low and close."""
    known, minute = intraday.seeded(gaps=0.05), 60_000_000_000
    series = {symbol: known.bars(symbol, Timeframe.MIN_1) for symbol in known.symbols()}
    unknown = {symbol: np.where(bars.start_ns // minute % 3 == 0, np.nan, bars.vwap) for symbol, bars in series.items()}
    catalog = intraday.catalog_of({s: dataclasses.replace(bars, vwap=unknown[s]) for s, bars in series.items()})
    the_plan = intraday.plan("1Min", strategies=(("VWAPReversionStrategy", 1.0),))
    expected = intraday.simulated(the_plan, catalog, HALF, HALF)
    live = intraday.trader(the_plan, catalog, HALF, HALF)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert len(expected.orders) >= 40


def test_daily_bars_without_a_volume_weighted_price_have_none_for_the_trader_either() -> None:
    assert np.isnan(bundled().bars("IBM", Timeframe.DAY_1).vwap).all()
    the_plan = plan(strategies=("VWAPReversionStrategy",))
    expected = simulated(12, the_plan, start=BUSY)
    live = trader(12, the_plan, start=BUSY)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert len(expected.orders) >= 8


RECORDED = [
    ("1Min", ("AIG", "BAC", "IBM", "SPY"), date(2013, 10, 7), date(2013, 10, 7)),  # AIG lacks a minute
    ("15Min", ("AIG", "BAC", "IBM", "SPY"), date(2013, 10, 8), date(2013, 10, 10)),
    ("1Min", ("GOOG",), date(2015, 12, 24), date(2015, 12, 28)),  # a half day, and one with seven silent minutes
]


@pytest.mark.parametrize(("timeframe", "symbols", "start", "end"), RECORDED)
def test_on_recorded_minutes_they_order_the_same_to_the_last_cent(
    timeframe: str, symbols: tuple[str, ...], start: date, end: date
) -> None:
    """Real minutes with what happens in them, and with pre-market and post-market ones, which belong to no bar."""
    folder, length = shared("data/lean/minute_raw"), 20 if timeframe == "15Min" else 60
    catalog = intraday.catalog_of({s: open_catalog(folder).bars(s, Timeframe.MIN_1) for s in symbols})
    the_plan = intraday.plan(timeframe, symbols, warmup_bars=length)
    expected = intraday.simulated(the_plan, catalog, start, end)
    live = intraday.trader(the_plan, catalog, start, end)

    assert live.run() == 0
    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert live.exchange.account.equity(live.exchange.marks) == expected.final_equity
    assert expected.orders


def test_a_signal_one_bar_late_within_the_day_breaks_parity() -> None:
    """The comparison can fail within the day, too."""
    the_plan, catalog = intraday.plan("15Min"), intraday.seeded()
    expected = intraday.simulated(the_plan, catalog, BEFORE, HALF)
    live = intraday.trader(the_plan, catalog, BEFORE, HALF)
    in_time = live.parts

    live.parts = lambda **changes: dataclasses.replace(  # type: ignore[method-assign]
        in_time(**changes), combined=lambda symbol: LateSignal(live.plan.combined(symbol))
    )
    live.run()

    assert recorded_orders(live.store.database.connection()) != simulated_orders(expected)


class Held:
    """A combined signal that holds its symbol whatever happens."""

    def __init__(self, inner: CombinedSignal) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def update(self, bars: Bars, state: Any) -> Any:
        signal, score, state_in, after = self._inner.update(bars, state)
        return signal, score, np.ones_like(state_in), after

    def run(self, bars: Bars, start: int = 0) -> Any:
        run = self._inner.run(bars, start=start)
        return run._replace(state_in=np.arange(len(bars)) >= start)


class HeldPlan(TradingPlan):
    def combined(self, symbol: str) -> Any:
        return Held(super().combined(symbol))


SPLIT = date(2005, 2, 28)  # AAPL, two for one


@pytest.mark.parametrize("rebalance", ["on_signal_change", "every_bar"])
def test_a_split_of_what_is_held_orders_nothing_and_leaves_goals_right(rebalance: str) -> None:
    """Nobody tells the trader's engine of a split: it reconciles before it decides. The simulation is told of it."""
    whole = plan(symbols=("AAPL", "IBM", "MSFT"))
    held = HeldPlan(**{name: getattr(whole, name) for name in TradingPlan.__struct_fields__})
    start, sessions = date(2005, 2, 18), 12
    cfg = config()
    rules = engine_config(
        held,
        ledger_id="0123456789ab",
        rules=cfg.trader_rules(),
        limits=cfg.risk.limits(),
        weights=cfg.account.weights(),
    )
    rules = dataclasses.replace(rules, rebalance=rebalance)
    end = calendar().offset(start, sessions - 1).date
    expected = simulate_plan(held, bundled(), rules, start=start, end=end, cash_usd=cfg.account.cash)
    live = trader(sessions, held, start=start)
    parts = live.parts
    live.parts = lambda **ports: dataclasses.replace(parts(**ports), engine=rules)  # type: ignore[method-assign]

    assert live.run() == 0

    assert recorded_orders(live.store.database.connection()) == simulated_orders(expected)
    assert truth_errors(live) == []
    assert live.store.account is not None and expected.state.account.quantity("AAPL") > 0
    assert live.store.account.quantity("AAPL") == expected.state.account.quantity("AAPL")
    bought = [order for order in expected.orders if order.symbol == "AAPL" and order.status.value == "filled"]
    assert live.store.account.quantity("AAPL") > 1.9 * float(bought[0].quantity)  # it did split while it was held


def test_a_reverse_split_leaves_a_fraction_at_the_same_cost_and_trading_goes_on() -> None:
    """IBM, one for ten, of 125 shares: equity is that of the run without it, but for whole shares that are ten times as large."""
    day, sessions, the_plan = date(2012, 10, 31), 9, plan()
    end = last_session(BUSY, sessions)
    bars = {symbol: bundled().bars(symbol, Timeframe.DAY_1, end=end) for symbol in the_plan.names}
    actions = {symbol: bundled().actions(symbol) for symbol in the_plan.names}
    ibm = bars["IBM"]
    times = np.where(ibm.start_ns >= calendar().offset(day, 0).label_ns, 10.0, 1.0)
    prices = {name: getattr(ibm, name) * times for name in ("open", "high", "low", "close")}
    bars["IBM"] = dataclasses.replace(ibm, **prices, volume=ibm.volume / times)
    actions["IBM"] = (*actions["IBM"], CorporateAction(symbol="IBM", ex_date=day, ratio=0.1))
    live, without = (
        SteppedTrader(the_plan, config(), MarketReplay(bars, calendar(), actions), start=BUSY),
        trader(sessions, start=BUSY),
    )

    assert live.run() == without.run() == 0

    rows = live.store.database.connection().execute(
        "SELECT kind, quantity, average_cost_usd FROM position_entry WHERE symbol = 'IBM' ORDER BY seq"
    )
    before, split, after = list(rows)[-3:]
    assert (before[0], Decimal(before[1]), split[0], Decimal(split[1])) == ("fill", 125, "split", Decimal("12.5"))
    assert Decimal(split[2]) == 10 * Decimal(before[2])
    assert (after[0], Decimal(after[1]) % 1) == ("fill", 0)  # the next order is for the fraction, too
    assert truth_errors(live) == [] and check(live.store.database) == []
    equities = [[float(str(row[1])) for row in ledger_of(run)["session_close"]] for run in (live, without)]
    assert len(equities[0]) == sessions and equities[0] == pytest.approx(equities[1], rel=2e-3)


def test_a_target_that_a_split_finds_unfinished_is_met_in_new_shares() -> None:
    """Only 100 old shares of the target were bought before the split; after it the rest is bought at the new price."""
    whole = plan(symbols=("AAPL", "IBM", "MSFT"))
    held = HeldPlan(**{name: getattr(whole, name) for name in TradingPlan.__struct_fields__})
    live = trader(8, held, start=date(2005, 2, 22))
    exchange: Any = live.exchange
    fill = exchange._fill

    def partly(order: Any, price: Any, quantity: Any) -> None:
        """Until the split 100 shares of AAPL, in whatever order for more of them."""
        if order.symbol != "AAPL" or new_york_date(exchange.now_ns) >= SPLIT:
            fill(order, price, quantity)
        elif not exchange.account.quantity("AAPL"):
            fill(order, price, Decimal(100))

    exchange._fill = partly

    assert live.run() == 0

    account, rows = live.store.account, live.store.database.connection().execute(
        "SELECT targets, equity_usd FROM decision WHERE targets != '[]' ORDER BY bar_end_ns DESC LIMIT 1"
    )  # fmt: skip
    ((targets, equity),) = rows
    (aapl,) = (target for target in json.loads(targets) if target["symbol"] == "AAPL")
    assert account is not None and truth_errors(live) == []
    assert account.quantity("AAPL") == Decimal(aapl["target_quantity"]) > 600  # some 360 old ones
    worth = Decimal(aapl["target_quantity"]) * Decimal(aapl["price_usd"]) / Decimal(equity)
    assert float(worth) == pytest.approx(0.98 / 3, abs=0.001)
