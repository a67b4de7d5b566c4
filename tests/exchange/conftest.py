"""A small made-up market: three symbols over twelve sessions, one split, one dividend, one day without a bar."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.replay import MarketReplay
from algo_royale.market import Bars, CorporateAction, Timeframe
from algo_royale.sessions import calendar

FIRST, LAST = date(2012, 11, 12), date(2012, 11, 30)  # the 23rd is a half day, the 22nd Thanksgiving
EXPENSIVE, CHEAP, YOUNG = "IBM", "AAPL", "FB"


def bars_of(symbol: str, closes: list[float], start: date, skip: frozenset[date] = frozenset()) -> Bars:
    """Daily bars that open at the close before them and range one per cent beyond open and close."""
    sessions = [s for s in calendar().sessions(start, LAST) if s.date not in skip]
    close = np.array(closes[: len(sessions)])
    opened = np.concatenate([close[:1], close[:-1]])
    n = len(close)
    return Bars(
        symbol=symbol, timeframe=Timeframe.DAY_1,
        start_ns=np.array([s.label_ns for s in sessions[:n]], np.int64),
        end_ns=np.array([s.close_ns for s in sessions[:n]], np.int64),
        open=opened, high=np.round(np.maximum(opened, close) * 1.01, 2), low=np.round(np.minimum(opened, close) * 0.99, 2),
        close=close, volume=np.full(n, 1000.0), vwap=np.full(n, np.nan), trade_count=np.full(n, -1, np.int64),
    ).check()  # fmt: skip


@pytest.fixture(scope="session")
def replay() -> MarketReplay:
    closes = {
        EXPENSIVE: [190.0 + i for i in range(14)],
        CHEAP: [20.0, 20.5, 21.0, 20.25, 21.5, 22.0, 21.75, 11.0, 11.25, 11.5, 11.0, 10.75, 10.5, 10.25],
        YOUNG: [30.0, 29.5, 31.0, 32.0, 31.5, 30.5],
    }
    bars = {
        EXPENSIVE: bars_of(EXPENSIVE, closes[EXPENSIVE], FIRST, frozenset({date(2012, 11, 20)})),
        CHEAP: bars_of(CHEAP, closes[CHEAP], FIRST),
        YOUNG: bars_of(YOUNG, closes[YOUNG], date(2012, 11, 23)),
    }
    split = date(2012, 11, 21)  # the eighth session
    actions = {
        CHEAP: (CorporateAction(symbol=CHEAP, ex_date=split, ratio=2.0),),
        EXPENSIVE: (CorporateAction(symbol=EXPENSIVE, ex_date=date(2012, 11, 15), cash_usd=0.85),),
    }
    return MarketReplay(bars, calendar(), actions)
