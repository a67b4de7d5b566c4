"""Market types: a bar that cannot be true does not come into being, and columns are what the bars were."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.errors import BadMarketData
from algo_royale.market import Bar, Bars, Timeframe

PRICE = st.floats(0.01, 1e5)


def bar(start: int = 0, **changes: float | None) -> Bar:
    values: dict[str, float | None] = {
        "open": 10.0,
        "high": 12.0,
        "low": 9.0,
        "close": 11.0,
        "volume": 100.0,
        **changes,
    }
    return Bar(symbol="X", timeframe=Timeframe.MIN_1, start_ns=start, end_ns=start + 60, **values)  # type: ignore[arg-type]


@st.composite
def real_bars(draw: st.DrawFn) -> list[Bar]:
    starts = sorted(draw(st.sets(st.integers(0, 60), max_size=20)))
    bars = []
    for start in starts:
        low, *inside, high = sorted(draw(st.lists(PRICE, min_size=4, max_size=4)))
        bars.append(bar(start, open=inside[0], close=inside[1], low=low, high=high, vwap=draw(st.none() | PRICE)))
    return bars


@pytest.mark.parametrize("name", ["open", "high", "low", "close"])
@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_price_is_finite_and_positive(name: str, price: float) -> None:
    with pytest.raises(BadMarketData, match="X at 0"):
        bar(**{name: price})


@pytest.mark.parametrize("changes", [{"high": 10.5}, {"low": 10.5}, {"volume": -1.0}, {"volume": math.nan}])
def test_high_and_low_enclose_and_volume_counts(changes: dict[str, float]) -> None:
    with pytest.raises(BadMarketData):
        bar(**changes)


@given(real_bars())
def test_bars_to_columns_and_back(bars: list[Bar]) -> None:
    columns = Bars.of("X", Timeframe.MIN_1, bars)

    assert list(columns.check()) == bars
    assert len(columns) == len(bars)


@given(real_bars(), st.integers(0, 61), st.integers(0, 61))
def test_between_takes_starts_in_the_half_open_range(bars: list[Bar], low: int, high: int) -> None:
    found = Bars.of("X", Timeframe.MIN_1, bars).between(low, high)

    assert list(found) == [b for b in bars if low <= b.start_ns < high]


def test_columns_cannot_be_written() -> None:
    columns = Bars.of("X", Timeframe.MIN_1, [bar(0), bar(60)])
    with pytest.raises(ValueError, match="read-only"):
        columns.close[0] = 1.0


def test_columns_have_one_length() -> None:
    good = Bars.of("X", Timeframe.MIN_1, [bar(0), bar(60)])
    names = ("start_ns", "end_ns", "open", "high", "low", "close", "volume", "trade_count")
    columns = {name: getattr(good, name) for name in names}
    with pytest.raises(BadMarketData, match="column vwap has 1 of 2 rows"):
        Bars(symbol="X", timeframe=Timeframe.MIN_1, vwap=np.zeros(1), **columns)
    with pytest.raises(BadMarketData, match="column mine has 3 of 2 rows"):
        Bars(symbol="X", timeframe=Timeframe.MIN_1, vwap=np.zeros(2), extra={"mine": np.zeros(3, bool)}, **columns)


@pytest.mark.parametrize(
    ("starts", "says"),
    [([0, 0], "row 1 .*duplicate timestamp"), ([60, 0], "row 1 .*not sorted"), ([0, 60, 60], "row 2")],
)
def test_time_moves_forward(starts: list[int], says: str) -> None:
    with pytest.raises(BadMarketData, match=says):
        Bars.of("X", Timeframe.MIN_1, [bar(start) for start in starts]).check()


def test_timeframes_count_bars_as_the_catalogue_says() -> None:
    """252 days of 390 minutes."""
    assert {t.value: t.bars_per_year for t in Timeframe} == {
        "1Min": 98280, "5Min": 19656, "15Min": 6552, "1Hour": 1638, "1Day": 252,
    }  # fmt: skip
