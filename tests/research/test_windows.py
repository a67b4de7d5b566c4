"""Windows follow from the configuration and the calendar alone."""

import itertools
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.errors import BadInput, InsufficientHistory
from algo_royale.market import Timeframe
from algo_royale.research.windows import Window, WindowConfig, WindowPlan, add_months, windows
from algo_royale.sessions import calendar, new_york_ns

DAY = Timeframe.DAY_1


def cut(config: WindowConfig, start: date, end: date, timeframe: Timeframe = DAY) -> WindowPlan:
    return windows(calendar(), config, timeframe, start=start, end=end)


def test_published_example_of_three_yearly_windows() -> None:
    """Train 3 years, test 1 year, embargo 5 sessions over 2014 to 2019, nothing held out."""
    plan = cut(WindowConfig(holdout=0), date(2014, 1, 1), date(2019, 12, 31))

    assert [w.window_id for w in plan.windows] == ["20140102_20180108", "20150102_20190108", "20160104_20191231"]
    last = plan.windows[-1]
    assert (last.train_start, last.train_end) == (date(2016, 1, 4), date(2018, 12, 31))
    assert (last.test_start, last.test_end) == (date(2019, 1, 9), date(2019, 12, 31))
    assert len(calendar().sessions(last.test_start, last.test_end)) == 247


def test_bundled_range_holds_the_last_year_out_of_nine_windows() -> None:
    plan = cut(WindowConfig.default(DAY), date(2000, 3, 1), date(2013, 3, 1))

    assert len(plan.windows) == 9
    assert plan.holdout_start == date(2012, 3, 2)
    assert plan.windows[-1].test_end == date(2012, 3, 1)


def test_bounds_are_labels_of_daily_bars_and_half_open() -> None:
    window = cut(WindowConfig(holdout=0), date(2014, 1, 1), date(2019, 12, 31)).windows[0]

    assert window.train_start_ns == new_york_ns(date(2014, 1, 2))
    assert window.train_end_ns == new_york_ns(date(2017, 1, 3)), "the first session after the train range"
    assert window.test_start_ns == new_york_ns(date(2017, 1, 10)), "five sessions later"
    assert window.test_end_ns == new_york_ns(date(2018, 1, 9))


def test_anchored_windows_all_start_at_the_beginning() -> None:
    rolling = cut(WindowConfig(holdout=0), date(2014, 1, 1), date(2019, 12, 31)).windows
    anchored = cut(WindowConfig(holdout=0, mode="anchored"), date(2014, 1, 1), date(2019, 12, 31)).windows

    assert {w.train_start for w in anchored} == {date(2014, 1, 2)}
    assert [(w.train_end, w.test_start, w.test_end) for w in anchored] == [
        (w.train_end, w.test_start, w.test_end) for w in rolling
    ]


def test_sessions_are_counted_exactly() -> None:
    config = WindowConfig(unit="sessions", train=100, test=20, embargo=3, holdout=10)
    days = [s.date for s in calendar().sessions(date(2011, 1, 1), date(2011, 12, 31))]
    plan = cut(config, date(2011, 1, 1), date(2011, 12, 31))

    assert plan.holdout_start == days[-10]
    for k, w in enumerate(plan.windows):
        assert w.train_start == days[20 * k] and w.train_end == days[100 + 20 * k - 1]
        assert w.test_start == days[103 + 20 * k] and w.test_end == min(days[122 + 20 * k], days[-11])


def test_bars_count_the_nominal_grid_and_ids_carry_the_time() -> None:
    """Hour bars: 7 a day, labelled 09:00 to 15:00."""
    config = WindowConfig(unit="bars", train=70, test=14, embargo=2, holdout=7)
    plan = cut(config, date(2011, 3, 1), date(2011, 4, 15), Timeframe.HOUR_1)
    first = plan.windows[0]

    assert first.window_id.startswith("20110301T0900_")
    assert first.train_end_ns == new_york_ns(date(2011, 3, 15)) + 9 * 3_600_000_000_000
    assert first.test_start_ns - first.train_end_ns == 2 * 3_600_000_000_000
    assert first.window_id.endswith("_20110317T1000")
    assert plan.holdout_start == date(2011, 4, 15)


def test_a_cut_last_test_is_kept_from_nine_tenths_of_its_length() -> None:
    config = WindowConfig(unit="sessions", train=50, test=20, embargo=0, holdout=0)
    days = [s.date for s in calendar().sessions(date(2011, 1, 1), date(2011, 12, 31))]

    assert len(cut(config, days[0], days[50 + 20 + 18 - 1]).windows) == 2
    assert len(cut(config, days[0], days[50 + 20 + 17 - 1]).windows) == 1


def test_count_keeps_the_latest_windows() -> None:
    every = cut(WindowConfig(), date(2000, 3, 1), date(2013, 3, 1))
    some = cut(WindowConfig(count=2), date(2000, 3, 1), date(2013, 3, 1))

    assert some.windows == every.windows[-2:]
    assert some.holdout_start == every.holdout_start


def test_month_arithmetic_ends_in_the_month() -> None:
    assert add_months(date(2012, 1, 31), 1) == date(2012, 2, 29)
    assert add_months(date(2012, 2, 29), 12) == date(2013, 2, 28)
    assert add_months(date(2012, 3, 31), -13) == date(2011, 2, 28)


def test_impossible_ranges_say_what_is_wrong() -> None:
    with pytest.raises(InsufficientHistory, match="train 3 \\+ test 1 years"):
        cut(WindowConfig(), date(2010, 1, 1), date(2013, 1, 1))
    with pytest.raises(BadInput, match="empty"):
        cut(WindowConfig(), date(2010, 1, 1), date(2009, 1, 1))
    with pytest.raises(BadInput, match="no trading session"):
        cut(WindowConfig(), date(2011, 1, 1), date(2011, 1, 2))
    with pytest.raises(BadInput, match="overlap"):
        WindowConfig(test=12, step=6)
    with pytest.raises(BadInput, match="at least 1"):
        WindowConfig(train=0)


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["rolling", "anchored"]),
    unit=st.sampled_from(["sessions", "months", "bars"]),
    train=st.integers(1, 8),
    test=st.integers(1, 5),
    embargo=st.integers(0, 6),
    holdout=st.integers(0, 4),
    start=st.dates(date(2003, 1, 1), date(2004, 12, 31)),
    days=st.integers(200, 900),
)
def test_train_then_embargo_then_test_and_tests_are_contiguous_outside_the_holdout(
    mode: str, unit: str, train: int, test: int, embargo: int, holdout: int, start: date, days: int
) -> None:
    scale = 1 if unit == "months" else 15
    config = WindowConfig(
        mode=mode, unit=unit, train=train * scale, test=test * scale, embargo=embargo, holdout=holdout * scale
    )
    try:
        plan = cut(config, start, start + timedelta(days=days))
    except InsufficientHistory:
        return
    found: tuple[Window, ...] = plan.windows
    for w in found:
        assert w.train_start_ns < w.train_end_ns <= w.test_start_ns < w.test_end_ns <= plan.holdout_start_ns
        assert len(calendar().sessions(w.train_end, w.test_start)) == embargo + 2, "both ends and the embargo between"
        assert w.train_start >= start and w.test_end < plan.holdout_start
    for a, b in itertools.pairwise(found):
        assert a.test_end_ns == b.test_start_ns
        assert a.train_end_ns < b.train_end_ns
