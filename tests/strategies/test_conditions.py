"""Conditions one by one: what they say on hand-made numbers, and the rules that hold for all of them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.errors import BadConfiguration, UnknownName
from algo_royale.features import CLOSE, OPEN, Program, sma
from algo_royale.market import Bars, Timeframe
from algo_royale.strategies import CONDITIONS, LOGICS
from algo_royale.strategies.conditions import Condition, condition, logic

DAY = Timeframe.DAY_1
MIRRORS = [
    ("MovingAverageEntry", "MovingAverageExit", {"short_window": 5, "long_window": 25}),
    (
        "MovingAverageCrossoverEntry",
        "MovingAverageCrossoverExit",
        {"short_window": 5, "long_window": 15, "ma_type": "SMA", "confirm": "none"},
    ),
    ("MovingAverageCrossoverEntry", "MovingAverageCrossoverExit", {"confirm": "none"}),
]


def says(c: Condition, bars: Bars) -> np.ndarray:
    program = Program(c.inputs.values())
    with np.errstate(all="ignore"):
        return c.verdicts(program.run(bars, program.initial.copy()), len(bars))


@pytest.fixture
def closes(make_bars):  # type: ignore[no-untyped-def]
    """Bars of nothing but closes, with a volume that may be given."""

    def make(close: list[float], volume: list[float] | None = None) -> Bars:
        return make_bars(close, close, close, close, volume or [1.0] * len(close))

    return make


def test_a_cross_needs_the_other_side_on_the_bar_before(closes) -> None:  # type: ignore[no-untyped-def]
    """Touching from below and then rising is a cross; being above from the first known bar is not."""
    bars = closes([10, 9, 9, 12, 12, 12, 9, 9, 9, 20])

    up = condition("MovingAverageEntry", {"short_window": 1, "long_window": 2}, DAY)
    down = condition("MovingAverageExit", {"short_window": 1, "long_window": 2}, DAY)

    # close - mean of 2:              -   -.5   0  1.5   0    0  -1.5   0    0   5.5
    assert says(up, bars).tolist() == [False, False, False, True, False, False, False, False, False, True]
    assert says(down, bars).tolist() == [False, False, False, False, False, False, True, False, False, False]


def test_the_first_known_bar_is_never_a_cross(closes) -> None:  # type: ignore[no-untyped-def]
    up = condition("MovingAverageEntry", {"short_window": 1, "long_window": 2}, DAY)

    assert not says(up, closes([1, 2, 4, 8])).any()


@pytest.mark.parametrize(("up", "down", "params"), MIRRORS)
def test_mirrored_crosses_alternate_and_never_meet(up: str, down: str, params: dict, g: Bars) -> None:  # type: ignore[type-arg]
    ups, downs = says(condition(up, params, DAY), g), says(condition(down, params, DAY), g)
    where = np.flatnonzero(ups)

    assert ups.sum() > 5 and downs.sum() > 5
    assert not (ups & downs).any()
    c = condition(up, params, DAY)
    program = Program(c.inputs.values())
    values = program.run(g, program.initial.copy())
    short, long = (values[f.key] for f in list(c.inputs.values())[:2])
    for a, b in pairwise(where):
        assert (short[a : b + 1] <= long[a : b + 1]).any()


def test_bollinger_bands_are_left_by_the_price_only(closes) -> None:  # type: ignore[no-untyped-def]
    """Of ten prices 10 and 12 by turns the mean is 11 and the deviation 1: bands at 9.5 and 12.5 with the jump left out."""
    calm = [10.0, 12.0] * 10
    params = {"window": 10, "num_std": 1.5}

    low = says(condition("BollingerBandsEntry", params, DAY), closes([*calm, 5.0]))
    high = says(condition("BollingerBandsExit", params, DAY), closes([*calm, 19.0]))

    assert low.nonzero()[0].tolist() == [20] == high.nonzero()[0].tolist()


def test_a_band_that_no_price_can_leave_is_refused() -> None:
    """Among n values none is farther than √(n-1) deviations from the mean (Samuelson 1968)."""
    with pytest.raises(BadConfiguration, match="never"):
        condition("BollingerBandsEntry", {"window": 5, "num_std": 2.0}, DAY)


def test_momentum_must_hold_for_the_bars_of_its_confirmation(closes) -> None:  # type: ignore[no-untyped-def]
    bars = closes([100, 100, 103, 104, 100, 105, 109, 113, 90, 80])
    # over two bars, in percent:    -    -   3.0  4.0 -2.9  1.0  9.0  7.6 -17.4 -29.2
    base = {"lookback": 2, "threshold": 0.02, "smooth_window": 0}

    one = says(condition("MomentumEntry", {**base, "confirmation_periods": 1}, DAY), bars)
    two = says(condition("MomentumEntry", {**base, "confirmation_periods": 2}, DAY), bars)
    out = says(condition("MomentumExit", {**base, "confirmation_periods": 2}, DAY), bars)

    assert one.nonzero()[0].tolist() == [2, 3, 6, 7]
    assert two.nonzero()[0].tolist() == [3, 7]
    assert out.nonzero()[0].tolist() == [9]


def test_momentum_is_smoothed_before_it_is_compared(closes) -> None:  # type: ignore[no-untyped-def]
    bars = closes([100, 100, 110, 110, 110])  # one bar of +10 %, over three bars 3.3 %
    params = {"lookback": 1, "threshold": 0.05, "smooth_window": 3, "confirmation_periods": 1}

    assert not says(condition("MomentumEntry", params, DAY), bars).any()
    assert (
        says(condition("MomentumEntry", {**params, "threshold": 0.03}, DAY), bars).tolist() == [False] * 3 + [True] * 2
    )


@pytest.mark.parametrize(
    ("confirm", "trend_up", "busy", "expected"),
    [
        ("none", False, False, True),
        ("trend", True, False, True),
        ("trend", False, True, False),
        ("volume", False, True, True),
        ("volume", True, False, False),
        ("both", True, True, True),
        ("both", True, False, False),
        ("both", False, True, False),
    ],
)
def test_a_crossover_waits_for_what_confirms_it(
    closes, confirm: str, trend_up: bool, busy: bool, expected: bool
) -> None:  # type: ignore[no-untyped-def]
    past = 5.0 if trend_up else 50.0
    close = [past] * 10 + [10.0, 9.0, 8.0, 12.0]
    volume = [100.0] * 13 + [200.0 if busy else 50.0]
    params = {
        "short_window": 1, "long_window": 3, "trend_window": 12, "volume_ma_window": 4, "ma_type": "SMA",
        "confirm": confirm,
    }  # fmt: skip

    assert says(condition("MovingAverageCrossoverEntry", params, DAY), closes(close, volume))[-1] == expected


def test_the_price_of_a_condition_can_be_another_one(make_bars) -> None:  # type: ignore[no-untyped-def]
    bars = make_bars([1, 1, 3], [2, 2, 3], [1, 1, 1], [2, 2, 1], [1, 1, 1])
    by_close = condition("PriceAboveSMA", {"sma": 2}, DAY)
    by_open = condition("PriceAboveSMA", {"sma": 2, "price": "open"}, DAY)

    assert says(by_close, bars).tolist() == [False, False, False]
    assert says(by_open, bars).tolist() == [False, False, True]
    assert by_close.params == {"sma": 2} and by_open.params == {"sma": 2, "price": "open"}


def test_a_threshold_that_is_just_reached_is_not_passed(closes) -> None:  # type: ignore[no-untyped-def]
    """The RSI of a price that does not move is 50, exactly; its average is the price itself."""
    still = closes([64.0] * 30)

    assert not says(condition("RSIEntry", {"period": 14, "oversold": 50}, DAY), still).any()
    assert not says(condition("RSIExit", {"period": 14, "overbought": 50}, DAY), still).any()
    assert says(condition("RSIEntry", {"period": 14, "oversold": 51}, DAY), still).sum() == 16
    assert not says(condition("PriceAboveSMA", {"sma": 10}, DAY), still).any()
    assert not says(condition("SMATrend", {"fast": 5, "slow": 10}, DAY), still).any()


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_missing_input_makes_a_condition_false(name: str, g: Bars) -> None:
    c = condition(name, {}, DAY)
    program = Program(c.inputs.values())
    with np.errstate(all="ignore"):
        values = program.run(g, program.initial.copy())
    assert c.verdicts(values, len(g)).any()

    for feature in c.inputs.values():
        missing = {**values, feature.key: np.full(len(g), np.nan)}
        assert not c.verdicts(missing, len(g)).any()


def test_a_missing_input_makes_even_an_either_or_false() -> None:
    c = Condition("Either", {}, {"a": CLOSE, "b": OPEN}, lambda a, b: (a > 1) | (b > 1))

    assert c.verdicts({"close": np.array([2.0, 2.0]), "open": np.array([np.nan, 0.0])}, 2).tolist() == [False, True]


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(-6, 6), st.integers(-6, 6))
def test_units_of_price_and_volume_do_not_matter(walk, seed: int, prices: int, volumes: int) -> None:  # type: ignore[no-untyped-def]
    bars = walk(seed, 500)
    p, v = 2.0**prices, 2.0**volumes
    scaled = Bars(
        symbol="G", timeframe=DAY, start_ns=bars.start_ns, end_ns=bars.end_ns, trade_count=bars.trade_count,
        volume=bars.volume * v, **{n: getattr(bars, n) * p for n in ("open", "high", "low", "close", "vwap")},
    )  # fmt: skip

    for name in CONDITIONS:
        np.testing.assert_array_equal(
            says(condition(name, {}, DAY), bars), says(condition(name, {}, DAY), scaled), name
        )


@pytest.mark.parametrize("name", [*CONDITIONS, *LOGICS])
def test_a_parameter_that_a_component_does_not_take_is_refused(name: str) -> None:
    make = condition if name in CONDITIONS else logic

    with pytest.raises(BadConfiguration, match=rf"{name} takes no parameter 'colour'"):
        make(name, {"colour": 1}, DAY)


@pytest.mark.parametrize(
    ("name", "given_", "words"),
    [
        ("RSIEntry", {"period": "14"}, "period: '14'"),
        ("RSIEntry", {"period": 14.5}, "period: 14.5"),
        ("RSIEntry", {"period": True}, "period: True"),
        ("RSIEntry", {"oversold": float("nan")}, "oversold: nan"),
        ("PriceAboveSMA", {"sma": 301}, "301"),
        ("PriceAboveSMA", {"price": "median"}, "'median'"),
        ("PullbackEntry", {"ma": "wma_20"}, "wma_20"),
        ("PullbackEntry", {"ma": "sma_x"}, "sma_x"),
        ("SMATrend", {"fast": 0}, "0"),
        ("MovingAverageEntry", {"short_window": 50, "long_window": 50}, "below long_window"),
        ("MovingAverageCrossoverEntry", {"ma_type": "HMA"}, "ma_type"),
        ("MovingAverageCrossoverEntry", {"confirm": "maybe"}, "confirm"),
        ("TrailingStop", {"stop_pct": 1.5}, "stop_pct"),
        ("TrailingStop", {"reentry_cooldown": -1}, "cooldown"),
        ("MeanReversion", {"profit_target_pct": 0.0}, "profit_target_pct"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(name: str, given_: dict, words: str) -> None:  # type: ignore[type-arg]
    make = condition if name in CONDITIONS else logic

    with pytest.raises(BadConfiguration, match=words):
        make(name, given_, DAY)


def test_an_unknown_condition_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'RSIEntry'"):
        condition("RSIEnter", {}, DAY)
    with pytest.raises(UnknownName, match="did you mean 'TrailingStop'"):
        logic("TrailStop", {}, DAY)


def test_whole_numbers_are_the_same_argument_in_any_type() -> None:
    a = condition("BollingerBandsEntry", {"window": 20.0, "num_std": 2}, DAY)

    assert a.params == {"window": 20, "num_std": 2.0}
    assert [type(x) for x in a.params.values()] == [int, float]


def test_names_of_inputs_and_arguments_do_not_collide() -> None:
    """Both are shown in one explanation."""
    for name in CONDITIONS:
        c = condition(name, {}, DAY)
        assert not set(c.inputs) & set(c.params), name


def test_a_condition_names_every_feature_it_reads() -> None:
    c = condition("SMATrend", {"fast": 10, "slow": 100}, DAY)

    assert c.inputs == {"fast_sma": sma(10), "slow_sma": sma(100)}
