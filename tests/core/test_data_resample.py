"""Longer bars of shorter ones: nothing is lost, nothing crosses a session, and real hours and days come out of real minutes."""

import itertools
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.data.catalog import open_catalog
from algo_royale.data.resample import Resampler, resample
from algo_royale.errors import BadInput, BadMarketData
from algo_royale.market import Bars, Timeframe
from algo_royale.sessions import calendar
from conftest import shared
from markets import minutes

MIN, HOUR, DAY = Timeframe.MIN_1, Timeframe.HOUR_1, Timeframe.DAY_1
LONGER = [t for t in Timeframe if t is not MIN]
NAMES = ("start_ns", "end_ns", "open", "high", "low", "close", "volume", "vwap", "trade_count")
# Thanksgiving with its half day, and the two sessions around the end of summer time in New York
SESSIONS = [*calendar().sessions(date(2012, 11, 2), date(2012, 11, 5)), *calendar().sessions(date(2012, 11, 21), date(2012, 11, 26))]  # fmt: skip
HALF_DAY = date(2012, 11, 23)

bars_of_minutes = st.builds(
    lambda seed, gaps, whole: minutes("X", seed, SESSIONS, gaps=gaps, whole=whole),
    st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.98]), st.booleans(),
)  # fmt: skip


@given(bars_of_minutes, st.sampled_from(LONGER))
def test_volume_and_prices_are_conserved(bars: Bars, timeframe: Timeframe) -> None:
    """As pandas sees it, which knows nothing of our sessions: groups by the clock of New York."""
    made = resample(bars, timeframe)
    frame = pd.DataFrame({name: getattr(bars, name) for name in NAMES})
    frame["paid"] = frame["vwap"] * frame["volume"]
    clock = pd.to_datetime(bars.start_ns, utc=True).tz_convert("America/New_York")
    minute = clock.hour * 60 + clock.minute
    length = 1440 if timeframe is DAY else timeframe.minutes
    groups = frame.groupby([clock.strftime("%Y-%m-%d"), minute // length], sort=True)

    assert len(made) == groups.ngroups
    assert made.open.tolist() == groups["open"].first().tolist()
    assert made.high.tolist() == groups["high"].max().tolist()
    assert made.low.tolist() == groups["low"].min().tolist()
    assert made.close.tolist() == groups["close"].last().tolist()
    assert made.trade_count.tolist() == groups["trade_count"].sum().tolist()
    assert np.allclose(made.volume, groups["volume"].sum(), rtol=1e-12, atol=0)
    known = made.volume > 0
    paid = (groups["paid"].sum() / groups["volume"].sum()).to_numpy()
    assert np.allclose(made.vwap[known], paid[known], rtol=1e-12, atol=0)
    assert np.isnan(made.vwap[~known]).all()
    made.check()


@given(bars_of_minutes, st.sampled_from(LONGER))
def test_no_bar_crosses_a_session_and_a_half_day_ends_at_one(bars: Bars, timeframe: Timeframe) -> None:
    made = resample(bars, timeframe)
    for start, end in zip(made.start_ns.tolist(), made.end_ns.tolist(), strict=True):
        session = next(s for s in SESSIONS if s.label_ns <= start < s.close_ns)
        assert session.open_ns < end <= session.close_ns
        inside = (bars.start_ns >= start) & (bars.start_ns < end)
        assert inside.any()
    half = next(s for s in SESSIONS if s.date == HALF_DAY)
    last = np.flatnonzero((made.start_ns >= half.label_ns) & (made.start_ns < half.close_ns))
    if bars.start_ns[bars.start_ns < half.close_ns][-1] == half.close_ns - 60 * 10**9:
        assert made.end_ns[last[-1]] == half.close_ns
        assert pd.Timestamp(half.close_ns, tz="America/New_York").strftime("%H:%M") == "13:00"


def test_hours_are_labelled_as_the_catalogue_says() -> None:
    """Seven of them, 09:00 to 15:00; the first holds half an hour. A half day has four. 5Min: 78, 15Min: 26."""
    made = {t: resample(minutes("X", 1, SESSIONS), t) for t in LONGER}
    clock = pd.to_datetime(made[HOUR].start_ns, utc=True).tz_convert("America/New_York").strftime("%d %H:%M").tolist()

    assert clock[:7] == [f"02 {hour:02}:00" for hour in range(9, 16)]
    assert [c for c in clock if c.startswith("23")] == [f"23 {hour:02}:00" for hour in range(9, 13)]
    full = len(SESSIONS) - 1
    counts = {t: len(b) for t, b in made.items()}
    assert counts == {
        Timeframe.MIN_5: 78 * full + 42, Timeframe.MIN_15: 26 * full + 14, HOUR: 7 * full + 4, DAY: full + 1,
    }  # fmt: skip
    assert made[DAY].start_ns.tolist() == [s.label_ns for s in SESSIONS]


@given(bars_of_minutes, st.sampled_from(LONGER), st.lists(st.integers(0, 2_200), max_size=12))
def test_chunks_make_no_difference(bars: Bars, timeframe: Timeframe, cuts: list[int]) -> None:
    """Not to a bit, empty and single-bar chunks included; and the bar under way is told last."""
    whole = resample(bars, timeframe)
    edges = [0, *sorted(min(cut, len(bars)) for cut in cuts), len(bars)]
    resampler, parts = Resampler(timeframe), []
    for low, high in itertools.pairwise(edges):
        parts.append(resampler.update(bars.slice(low, high)))
        told = sum(map(len, parts))
        assert whole.end_ns[told - 1] <= bars.end_ns[high - 1] if told else True
    if resampler.under_way:
        parts.append(resampler.flush())
    for name in NAMES:
        assert np.concatenate([getattr(p, name) for p in parts]).tobytes() == getattr(whole, name).tobytes()


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3]))
def test_the_way_there_makes_no_difference(seed: int, gaps: float) -> None:
    """Minutes to hours to days, or at once. (Whole volumes: fractions may differ in the last digit.)"""
    bars = minutes("X", seed, SESSIONS, gaps=gaps)
    steps = bars
    for timeframe in LONGER:
        steps = resample(steps, timeframe)
        at_once = resample(bars, timeframe)
        for name in NAMES:
            if name != "vwap":
                assert getattr(steps, name).tobytes() == getattr(at_once, name).tobytes()
        assert np.allclose(steps.vwap, at_once.vwap, rtol=1e-12, atol=0, equal_nan=True)


def test_what_is_not_known_of_a_minute_is_not_known_of_its_hour() -> None:
    bars = minutes("X", 3, SESSIONS[:1])
    vwap, counts = bars.vwap.copy(), bars.trade_count.copy()
    vwap[40], counts[100] = np.nan, -1
    odd = Bars(
        symbol="X", timeframe=MIN, vwap=vwap, trade_count=counts,
        extra={"mine": np.arange(len(bars)) == 40},
        **{name: getattr(bars, name) for name in NAMES if name not in ("vwap", "trade_count")},
    )  # fmt: skip
    made = resample(odd, HOUR)

    assert np.isnan(made.vwap).tolist() == [False, True, *[False] * 5]
    assert (made.trade_count < 0).tolist() == [False, False, True, *[False] * 4]
    assert made.extra["mine"].tolist() == [False, True, *[False] * 5]


def test_only_a_bar_whose_time_is_over_is_told() -> None:
    """59 of the 60 minutes of 10:00: nothing more than 09:00 yet; one more, and the hour is there without a later bar."""
    bars, resampler = minutes("X", 4, SESSIONS[:1]), Resampler(HOUR)

    assert len(resampler.update(bars.slice(0, 89))) == 1
    assert (len(resampler.update(bars.slice(89, 90))), resampler.under_way) == (1, False)
    with pytest.raises(BadInput, match="no 1Hour bar is under way"):
        resampler.flush()


def test_what_cannot_be_resampled_is_refused() -> None:
    bars = minutes("X", 5, SESSIONS[:2])
    with pytest.raises(BadInput, match="1Hour bars cannot be made of 1Hour bars, only of shorter ones"):
        resample(resample(bars, HOUR), HOUR)
    with pytest.raises(BadMarketData, match="X 1Min: bars are not in order of time"):
        resampler = Resampler(HOUR)
        resampler.update(bars.slice(10, 20))
        resampler.update(bars.slice(0, 10))
    late = minutes("X", 5, SESSIONS[:1])
    moved = {name: getattr(late, name) + 86_400 * 10**9 * (name.endswith("_ns")) for name in NAMES}
    with pytest.raises(BadMarketData, match=r"X 1Min 2012-11-03T13:30:00Z: not within a session"):
        resample(Bars(symbol="X", timeframe=MIN, **moved), HOUR)  # a Saturday


@pytest.mark.parametrize("symbol", ["AAPL", "IBM", "SPY"])
def test_real_hours_add_up_to_real_days(symbol: str) -> None:
    """23 years, exactly, but for the early closes, on which the source's hours run past the end."""
    hours = open_catalog(shared("data/lean/hourly_raw")).bars(symbol, HOUR)
    days = open_catalog(shared("data/lean/daily_raw")).bars(symbol, DAY)
    made = resample(hours, DAY)
    full = np.array([s.close_ns - s.open_ns == 23_400 * 10**9 for s in calendar().sessions(date(1998, 1, 2), date(2021, 3, 31))])  # fmt: skip

    assert made.start_ns.tolist() == days.start_ns.tolist()
    for name in ("open", "high", "low", "close", "volume"):
        assert (getattr(made, name) == getattr(days, name))[full].all()
    assert int((~full).sum()) >= 40


@pytest.mark.parametrize("symbol", ["AAPL", "AIG", "BAC", "GOOG", "IBM", "SPY"])
def test_real_minutes_add_up_to_real_days(symbol: str) -> None:
    """To what the source's README promises; Christmas Eve of 2015 ends at 13:00 in New York."""
    bars = open_catalog(shared("data/lean/minute_raw")).bars(symbol, MIN)
    days = open_catalog(shared("data/lean/daily_raw")).bars(symbol, DAY)
    made = resample(bars, DAY)
    _, mine, theirs = np.intersect1d(made.start_ns, days.start_ns, return_indices=True)

    assert len(mine) == len(made)
    assert made.open[mine].tolist() == days.open[theirs].tolist()
    assert made.close[mine].tolist() == days.close[theirs].tolist()
    for name in ("high", "low"):
        assert np.abs(getattr(made, name)[mine] - getattr(days, name)[theirs]).max() < 0.225
    assert np.abs(made.volume[mine] / days.volume[theirs] - 1).max() < 0.021
    if symbol == "GOOG":
        assert pd.Timestamp(int(made.end_ns[1]), tz="America/New_York") == pd.Timestamp("2015-12-24 13:00", tz="America/New_York")  # fmt: skip
