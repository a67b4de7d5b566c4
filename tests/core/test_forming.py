"""Bars under way: what a stream sends ends in the bars that research has of the same minutes, by the clock and whole."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.data.forming import FormingBars
from algo_royale.data.resample import resample
from algo_royale.market import Bar, Bars, Timeframe
from algo_royale.sessions import bar_at, bar_before, calendar
from markets import minutes

HALF_DAY = calendar().offset(date(2012, 11, 23), 0)
TWO = calendar().sessions(date(2012, 11, 21), date(2012, 11, 23))  # a whole session and the half one after Thanksgiving
MINUTE_NS = 60_000_000_000
LENGTHS = [Timeframe.MIN_1, Timeframe.MIN_5, Timeframe.MIN_15, Timeframe.HOUR_1]


def bars_of(symbol: str, seed: int, timeframe: Timeframe) -> list[Bar]:
    made = minutes(symbol, seed, TWO)
    return list(made if timeframe is Timeframe.MIN_1 else resample(made, timeframe))


@pytest.mark.parametrize("timeframe", LENGTHS)
def test_whole_bars_are_those_of_research_each_at_its_own_end(timeframe: Timeframe) -> None:
    """Two symbols over a session boundary and a half day: nothing early, nothing twice, every number the same."""
    streamed = sorted([*minutes("A", 1, TWO), *minutes("B", 2, TWO)], key=lambda bar: bar.end_ns)
    forming, told = FormingBars(timeframe, calendar()), []
    for part in streamed:
        assert forming.take(part)
        for bar in forming.due(part.end_ns):
            assert bar.end_ns == part.end_ns
            told.append(bar)
    expected = [*bars_of("A", 1, timeframe), *bars_of("B", 2, timeframe)]

    assert sorted(told, key=lambda bar: (bar.symbol, bar.start_ns)) == expected
    assert forming.next_due_ns() is None


@given(st.data())
def test_order_repetition_and_corrections_of_minutes_make_no_difference_until_a_bar_is_told(
    data: st.DataObject,
) -> None:
    """Minutes of one bar in any order, some twice, some wrong at first."""
    part = list(minutes("A", data.draw(st.integers(0, 50)), [HALF_DAY]))[:15]
    expected = resample(Bars.of("A", Timeframe.MIN_1, part), Timeframe.MIN_15).bar(0)
    wrong = [
        replace(bar, volume=bar.volume + 1, high=bar.high + 5)
        for bar in data.draw(st.lists(st.sampled_from(part), max_size=8))
    ]
    forming = FormingBars(Timeframe.MIN_15, calendar())
    for bar in [*wrong, *data.draw(st.permutations([*part, *part[:3]]))]:
        assert forming.take(bar)

    assert forming.due(part[-1].end_ns) == [expected]
    assert not forming.take(part[3])  # its bar is told


def test_a_bar_that_lacks_a_minute_is_not_told_but_the_next_one_is() -> None:
    """Whether the minute was silent or lost only history knows; `told` is how its answer is heard."""
    part = list(minutes("A", 3, [HALF_DAY]))[:30]
    forming = FormingBars(Timeframe.MIN_15, calendar())
    for bar in part[:7] + part[8:15]:
        forming.take(bar)

    assert forming.due(part[29].end_ns) == []
    for bar in part[15:]:
        forming.take(bar)
    assert [bar.start_ns for bar in forming.due(part[29].end_ns)] == [part[15].start_ns]
    assert not forming.take(part[7])

    other = FormingBars(Timeframe.MIN_15, calendar())
    other.take(part[0])
    other.told("A", part[0].start_ns)
    assert not other.take(part[1])
    assert other.told_ns("A") == part[0].start_ns


def test_a_bar_waits_for_its_grace_and_what_is_outside_of_the_session_is_nobodys_part() -> None:
    """The minute before the open and the one after the close belong to no bar."""
    part = list(minutes("A", 4, [HALF_DAY]))
    forming = FormingBars(Timeframe.MIN_5, calendar(), grace_ns=2_000_000_000)
    early = Bar(
        symbol="A", timeframe=Timeframe.MIN_1, start_ns=HALF_DAY.open_ns - MINUTE_NS, end_ns=HALF_DAY.open_ns, open=9.0,
        high=9.0, low=9.0, close=9.0, volume=1.0,
    )  # fmt: skip
    assert forming.take(early)
    for bar in part[:5]:
        forming.take(bar)

    end_ns = part[4].end_ns
    assert forming.due(end_ns + 1_999_999_999) == []
    assert forming.next_due_ns() == end_ns + 2_000_000_000
    (told,) = forming.due(end_ns + 2_000_000_000)
    assert told.open == part[0].open


@given(st.integers(0, 4 * 86_400), st.sampled_from([*LENGTHS, Timeframe.DAY_1]))
def test_every_instant_has_a_bar_before_it_and_one_that_is_under_way_or_next(second: int, timeframe: Timeframe) -> None:
    """Against the list of all bars that minutes add up to."""
    at_ns = TWO[0].open_ns - 86_400 * 1_000_000_000 + second * 1_000_000_000
    sessions = calendar().sessions(date(2012, 11, 16), date(2012, 11, 28))
    made = minutes("A", 1, sessions)
    bars = made if timeframe is Timeframe.MIN_1 else resample(made, timeframe)
    over = int(np.searchsorted(bars.end_ns, at_ns, side="right"))

    assert bar_before(at_ns, timeframe, calendar()) == (bars.start_ns[over - 1], bars.end_ns[over - 1])
    assert bar_at(at_ns, timeframe, calendar()) == (bars.start_ns[over], bars.end_ns[over])
