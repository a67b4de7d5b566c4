"""A small exchange twin for tests of the broker's edge: two symbols over seven sessions, prices known by heart."""

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.replay import MarketReplay
from algo_royale.market import Bars, CorporateAction, Timeframe
from algo_royale.sessions import calendar

KEY, SECRET = "TWINKEY", "twin-secret"
FIRST, LAST = date(2012, 11, 12), date(2012, 11, 20)
SPLIT = date(2012, 11, 15)
SESSIONS = calendar().sessions(FIRST, LAST)


def flat_bars(symbol: str, price: float, *, halved_from: date | None = None) -> Bars:
    """Daily bars that open and close at `price` (at half of it from a split on), ranging a dollar around it."""
    close = np.array([price / 2 if halved_from is not None and s.date >= halved_from else price for s in SESSIONS])
    n = len(SESSIONS)
    return Bars(
        symbol=symbol, timeframe=Timeframe.DAY_1,
        start_ns=np.array([s.label_ns for s in SESSIONS], np.int64),
        end_ns=np.array([s.close_ns for s in SESSIONS], np.int64),
        open=close, high=close + 1, low=close - 1, close=close, volume=np.full(n, 1000.0), vwap=close,
        trade_count=np.full(n, 10, np.int64),
    )  # fmt: skip


def small_replay() -> MarketReplay:
    split = CorporateAction(symbol="AAPL", ex_date=SPLIT, ratio=2.0)
    bars = {"AAPL": flat_bars("AAPL", 20.0, halved_from=SPLIT), "IBM": flat_bars("IBM", 190.0)}
    return MarketReplay(bars, calendar(), {"AAPL": (split,)})


def small_exchange(replay: MarketReplay | None = None, *, session: int = 1, **rules: Any) -> Exchange:
    """A twin born an hour before the open of that session; 100,000 dollars, slippage of five basis points."""
    start_ns = SESSIONS[session].open_ns - 3_600_000_000_000
    return Exchange(
        replay or small_replay(), ExchangeConfig(start_ns=start_ns, cash=Decimal(100_000), keys={KEY: SECRET}, **rules)
    )


def pass_time(bench: Any, seconds: float) -> None:
    """Let virtual time pass for the `exchange` and the stepped `system` of a test's bench, timer by timer."""
    exchange, system = bench.exchange, bench.system
    end_ns = exchange.now_ns + int(seconds * 1e9)
    while True:
        due = [at for at in (exchange.next_event_ns(), system.next_timer_ns()) if at is not None]
        at_ns = max(exchange.now_ns, min([end_ns, *due]))
        exchange.advance(at_ns)
        system.clock.move_to(at_ns)
        bench.settle()
        system.advance_to(at_ns)
        bench.settle()
        if at_ns >= end_ns:
            return
