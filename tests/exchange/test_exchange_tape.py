"""Trades and quotes of a session: drawn ones make exactly the bars they were drawn from, recorded ones the bars of their source."""

import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.data.catalog import bundled
from algo_royale.data.resample import resample
from algo_royale.exchange.tape import PathTape, TickTape, minute_bars, path
from algo_royale.market import Timeframe
from algo_royale.sessions import calendar
from markets import minutes

REFERENCE = Path(os.environ.get("ALGO_ROYALE_REFERENCE", Path(__file__).parents[3] / "shared"))
TICKS = REFERENCE / "data" / "lean" / "ticks"

CENTS = st.integers(100, 60_000)


@given(
    low=CENTS,
    spans=st.tuples(*[st.integers(0, 900)] * 3),
    volume=st.integers(0, 10**9),
    n=st.integers(4, 400),
    seed=st.integers(0, 99),
)
def test_a_path_meets_open_high_low_close_and_volume_exactly(
    low: int, spans: tuple[int, int, int], volume: int, n: int, seed: int
) -> None:
    opened, close, top = (low + span for span in spans)
    high = max(opened, close, top)
    prices = (opened / 100, high / 100, low / 100, close / 100)

    at, price, size = path(np.random.default_rng(seed), 10**18, 10**18 + 390 * 60 * 10**9, prices, float(volume), n)

    assert (price[0], price.max(), price.min(), price[-1]) == prices
    assert size.sum() == volume and (size >= 0).all() and (size == np.floor(size)).all()
    assert at[0] == 10**18 and at[-1] < 10**18 + 390 * 60 * 10**9 and (np.diff(at) > 0).all()


def test_daily_bars_made_of_a_drawn_path_are_the_bars_it_was_drawn_from() -> None:
    daily = bundled().bars("IBM", Timeframe.DAY_1, date(2012, 11, 19), date(2012, 12, 7))
    tape = PathTape({"IBM": daily}, seed=3)
    for bar, session in zip(daily, calendar().sessions(date(2012, 11, 19), date(2012, 12, 7)), strict=True):
        whole = next(iter(resample(minute_bars("IBM", tape.day("IBM", session).trades, session), Timeframe.DAY_1)))

        assert (whole.open, whole.high, whole.low, whole.close, whole.volume) == (
            bar.open,
            bar.high,
            bar.low,
            bar.close,
            bar.volume,
        )
        assert (whole.start_ns, whole.end_ns) == (bar.start_ns, bar.end_ns)


@given(st.integers(0, 99), st.sampled_from([Timeframe.MIN_1, Timeframe.MIN_15]))
def test_within_the_day_drawn_trades_have_the_recorded_volume_weighted_price(seed: int, timeframe: Timeframe) -> None:
    """With every other number of the bar as recorded; where no such price is recorded the minutes tell none."""
    session = calendar().sessions(date(2012, 11, 23), date(2012, 11, 23))[0]
    bars = minutes("A", seed, [session], gaps=0.1)
    vwap = bars.low + (bars.high - bars.low) * np.random.default_rng(seed).random(len(bars))
    bars = replace(bars, vwap=np.where(np.arange(len(bars)) % 7 == 0, np.nan, vwap))
    bars = bars if timeframe is Timeframe.MIN_1 else resample(replace(bars, vwap=vwap), timeframe)
    tape = PathTape({"A": bars}, seed=seed, spread_bps=0.0)

    told = tape.told("A", minute_bars("A", tape.day("A", session).trades, session))

    made = told if timeframe is Timeframe.MIN_1 else resample(told, timeframe)
    for name in ("start_ns", "open", "high", "low", "close", "volume"):
        assert getattr(made, name).tolist() == getattr(bars, name).tolist()
    exact = 0.0 if timeframe is Timeframe.MIN_1 else 1e-12
    np.testing.assert_allclose(made.vwap, bars.vwap, rtol=exact, atol=0)


def test_a_path_depends_on_its_seed_symbol_and_day_and_on_nothing_asked_before() -> None:
    daily = bundled().bars("IBM", Timeframe.DAY_1, date(2012, 11, 19), date(2012, 12, 7))
    first, second = calendar().sessions(date(2012, 11, 19), date(2012, 11, 20))
    one, other = PathTape({"IBM": daily}, seed=3), PathTape({"IBM": daily}, seed=4)
    wanted = one.day("IBM", second).trades.price
    one.day("IBM", first)

    assert (one.day("IBM", second).trades.price == wanted).all()
    assert (other.day("IBM", second).trades.price != wanted).any()


def test_quotes_enclose_their_trades() -> None:
    daily = bundled().bars("IBM", Timeframe.DAY_1, date(2012, 11, 19), date(2012, 11, 20))
    day = PathTape({"IBM": daily}).day("IBM", calendar().sessions(date(2012, 11, 19), date(2012, 11, 19))[0])

    assert (day.quotes.bid < day.trades.price).all() and (day.trades.price < day.quotes.ask).all()


@pytest.mark.skipif(not TICKS.is_dir(), reason="no reference ticks on this machine")
@pytest.mark.parametrize("symbol", ["AIG", "BAC", "IBM"])
def test_minute_bars_of_recorded_trades_are_those_of_their_source(symbol: str) -> None:
    """Within two basis points: the source made its bars of another feed, whose order within a second is not this one's."""
    import pyarrow.parquet as pq

    session = calendar().sessions(date(2013, 10, 8), date(2013, 10, 8))[0]
    made = minute_bars(symbol, TickTape(TICKS).day(symbol, session).trades, session)
    table = pq.read_table(REFERENCE / "data" / "lean" / "minute_raw" / f"{symbol}.parquet").to_pandas()
    starts = table.timestamp.astype("datetime64[ns, UTC]").astype("int64")
    theirs = table[(starts >= session.open_ns) & (starts < session.close_ns)].reset_index(drop=True)

    assert len(made) == len(theirs)
    for name in ("open", "high", "low", "close"):
        agree = np.isclose(getattr(made, name), theirs[name], rtol=2e-4, atol=0.0101).mean()
        assert agree > 0.97, (name, agree)
    assert made.volume.sum() == pytest.approx(theirs.volume.sum(), rel=0.04)
