"""Conditions one by one: what they say on hand-made numbers, and the rules that hold for all of them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.errors import BadConfiguration, BadMarketData, UnknownName, UnsupportedTimeframe
from algo_royale.features import CLOSE, OPEN, Program, catalogue, sma
from algo_royale.market import Bars, Timeframe
from algo_royale.strategies import CONDITIONS, LOGICS
from algo_royale.strategies.conditions import Condition, condition, logic

DAY, HOUR = Timeframe.DAY_1, Timeframe.HOUR_1
COLUMNS = ("entry_signal",)
MIRRORS = [
    ("MovingAverageEntry", "MovingAverageExit", {"short_window": 5, "long_window": 25}),
    (
        "MovingAverageCrossoverEntry",
        "MovingAverageCrossoverExit",
        {"short_window": 5, "long_window": 15, "ma_type": "SMA", "confirm": "none"},
    ),
    ("MovingAverageCrossoverEntry", "MovingAverageCrossoverExit", {"confirm": "none"}),
    ("MACDBullishCross", "MACDBearishCross", {}),
    ("PriceCrossesAboveSMA", "PriceCrossesBelowSMA", {"sma": 20}),
    ("PullbackEntry", "PullbackExit", {"ma": "ema_26"}),
]


def says(c: Condition, bars: Bars) -> np.ndarray:
    program = Program(c.inputs.values())
    with np.errstate(all="ignore"):
        return c.verdicts(program.run(bars, program.initial.copy()), len(bars))


def default(name: str, **params: object) -> Condition:
    """For hourly bars, which all of them can read."""
    return condition(name, params, HOUR, COLUMNS)


@st.composite
def drawn(draw: st.DrawFn) -> Condition:
    """Any condition at any point of its space."""
    row = CONDITIONS[draw(st.sampled_from(sorted(CONDITIONS)))]
    trial: dict = {}  # type: ignore[type-arg]
    for d in row.space(HOUR):
        if d.kind == "categorical":
            trial[d.name] = draw(st.sampled_from(d.choices))
        elif d.kind == "int":
            trial[d.name] = draw(st.integers(int(d.low), int(d.high)))
        else:
            trial[d.name] = draw(st.floats(d.low, d.high))
    return condition(row.name, row.resolve(trial), HOUR, COLUMNS)


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
def test_a_missing_input_makes_a_condition_false(name: str, g_of) -> None:  # type: ignore[no-untyped-def]
    c, g = default(name), g_of(HOUR)
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
    bars = walk(seed, 500, HOUR)
    p, v = 2.0**prices, 2.0**volumes
    scaled = Bars(
        symbol="G", timeframe=DAY, start_ns=bars.start_ns, end_ns=bars.end_ns, trade_count=bars.trade_count,
        extra=bars.extra, volume=bars.volume * v, **{n: getattr(bars, n) * p for n in ("open", "high", "low", "close", "vwap")},
    )  # fmt: skip

    for name in CONDITIONS:
        np.testing.assert_array_equal(says(default(name), bars), says(default(name), scaled), name)


@settings(max_examples=60)
@given(drawn(), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 400), max_size=6))
def test_any_partition_gives_the_same_verdicts(walk, c: Condition, seed: int, cuts: list[int]) -> None:  # type: ignore[no-untyped-def]
    bars, program = walk(seed, 400, HOUR), Program(c.inputs.values())
    memory, parts = program.initial.copy(), []
    with np.errstate(all="ignore"):
        for a, b in pairwise([0, *sorted(cuts), 400]):
            parts.append(c.verdicts(program.run(bars.slice(a, b), memory), b - a))

    np.testing.assert_array_equal(np.concatenate(parts), says(c, bars))


@settings(max_examples=60)
@given(drawn(), st.integers(0, 2**32 - 1), st.integers(0, 399))
def test_no_verdict_depends_on_later_bars(walk, c: Condition, seed: int, t: int) -> None:  # type: ignore[no-untyped-def]
    bars = walk(seed, 400, HOUR)

    np.testing.assert_array_equal(says(c, bars.slice(0, t + 1)), says(c, bars)[: t + 1])


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_dimension_of_a_condition_can_change_a_verdict(name: str, g_of) -> None:  # type: ignore[no-untyped-def]
    row, bars = CONDITIONS[name], g_of(HOUR)

    def verdict(trial: dict) -> np.ndarray:  # type: ignore[type-arg]
        return says(condition(name, row.resolve(trial), HOUR, COLUMNS), bars)

    base = {d.name: d.default for d in row.space(HOUR)}
    base |= {"confirm": "both"} if name == "MovingAverageCrossoverExit" else {}  # by default nothing confirms it
    for d in row.space(HOUR):
        assert d.contains(d.default)
        others = d.choices or (d.low, d.high)
        assert any((verdict({**base, d.name: x}) != verdict(base)).any() for x in others), d.name


@pytest.mark.parametrize("name", [*CONDITIONS, *LOGICS])
def test_a_parameter_that_a_component_does_not_take_is_refused(name: str) -> None:
    make = condition if name in CONDITIONS else logic

    with pytest.raises(BadConfiguration, match=rf"{name} takes no parameter 'colour'"):
        make(name, {"colour": 1}, HOUR)


def spread(v: dict[str, np.ndarray], t: int, vol: str = "volatility_20", rng: str = "range_pct") -> float:
    """How many usual moves the bar is wide."""
    usual = v[vol][t] / (np.sqrt(HOUR.bars_per_year) if vol.startswith("hist") else 1.0)
    return float(v[rng][t] / usual)


def surged(v: dict[str, np.ndarray], t: int) -> bool:
    return t >= 20 and bool(v["volume"][t] > 2 * np.mean(v["volume"][t - 20 : t]))


def crossed(a: np.ndarray, b: np.ndarray, t: int) -> bool:
    return bool(a[t - 1] <= b[t - 1] and a[t] > b[t])


SLOW = {  # each condition at default arguments, read off the catalogue: v holds its features and the columns of the bars
    "ADXAboveThreshold": lambda v, t: v["adx"][t] > 25,
    "ADXBelowThreshold": lambda v, t: v["adx"][t] < 25,
    "BooleanColumnEntry": lambda v, t: v["entry_signal"][t],
    "ComboEntry": lambda v, t: (
        v["rsi"][t] < 50 and v["macd"][t] / v["atr_14"][t] > 0 and v["volume"][t] > v["vol_ma_20"][t]
    ),
    "ComboExit": lambda v, t: (
        sum([v["rsi"][t] > 60, v["macd"][t] / v["atr_14"][t] < 0, v["volume"][t] < v["vol_ma_20"][t]]) >= 2
    ),
    "EMAAboveSMARolling": lambda v, t: all(
        v["ema_20"][i] > v["sma_50"][i] and v["ema_20"][i] > v["ema_20"][i - 1] for i in (t - 2, t - 1, t)
    ),
    "MACDBearishCross": lambda v, t: crossed(v["macd_signal"], v["macd"], t),
    "MACDBullishCross": lambda v, t: crossed(v["macd"], v["macd_signal"], t),
    "PriceBelowSMA": lambda v, t: v["close"][t] < v["sma_200"][t],
    "PriceCrossesAboveSMA": lambda v, t: crossed(v["close"], v["sma_50"], t),
    "PriceCrossesBelowSMA": lambda v, t: crossed(v["sma_50"], v["close"], t),
    "PullbackExit": lambda v, t: crossed(v["sma_20"], v["close"], t),
    "ReturnVolatilityExit": lambda v, t: v["pct_return"][t] < -0.02 * HOUR.kappa or spread(v, t) > 3,
    "RSIAboveThreshold": lambda v, t: v["rsi"][t] > 70,
    "RSIBelowThreshold": lambda v, t: v["rsi"][t] < 30,
    "TimeOfDayEntry": lambda v, t: 600 <= v["minute_of_day"][t] < 720,
    "TimeOfDayExit": lambda v, t: 840 <= v["minute_of_day"][t] <= 960,
    "TrailingStopExit": lambda v, t: v["close"][t] < max(v["close"][t - 49 : t + 1]) * (1 - 0.05 * HOUR.kappa),
    "VolatilityBreakoutEntry": lambda v, t: spread(v, t) > 2 and v["close"][t] > v["sma_20"][t],
    "VolatilityBreakoutExit": lambda v, t: spread(v, t) > 2 and v["close"][t] < v["sma_20"][t],
    "VolatilitySpike": lambda v, t: spread(v, t) > 2,
    "VolumeSurge": lambda v, t: v["volume"][t] > 2 * v["vol_ma_20"][t],
    "VolumeSurgeEntry": surged,
    "VolumeSurgeExit": lambda v, t: (
        any(surged(v, i) for i in range(t + 1)) and not any(surged(v, i) for i in range(t - 4, t + 1))
    ),
    "VWAPReversionEntry": lambda v, t: v["typical"][t] / v["vwap_20"][t] - 1 < -0.01 * HOUR.kappa,
    "VWAPReversionExit": lambda v, t: v["typical"][t] / v["vwap_20"][t] - 1 > 0.01 * HOUR.kappa,
    "WickReversalEntry": lambda v, t: v["lower_wick"][t] > 2 * max(v["body"][t], 1e-4 * v["close"][t]),
    "WickReversalExit": lambda v, t: v["upper_wick"][t] > 2 * max(v["body"][t], 1e-4 * v["close"][t]),
}
OTHERS = {  # and some away from the default
    "VolatilitySpike": (
        {"volatility_col": "hist_volatility_20", "range_col": "atr_pct_14"},
        lambda v, t: spread(v, t, "hist_volatility_20", "atr_pct_14") > 2,
    ),
    "VolatilityBreakoutEntry": (
        {"volatility_col": "volatility_50", "sma": 100, "threshold": 1.5},
        lambda v, t: spread(v, t, "volatility_50") > 1.5 and v["close"][t] > v["sma_100"][t],
    ),
    "ReturnVolatilityExit": (
        {"threshold": -0.01, "mult": 1.5, "volatility_col": "volatility_10"},
        lambda v, t: v["pct_return"][t] < -0.01 or spread(v, t, "volatility_10") > 1.5,
    ),
    "ComboExit": (
        {"min_votes": 1, "rsi_sell": 70, "macd_sell": -0.5, "vol_ma": 100},
        lambda v, t: v["rsi"][t] > 70 or v["macd"][t] / v["atr_14"][t] < -0.5 or v["volume"][t] < v["vol_ma_100"][t],
    ),
    "PriceCrossesAboveSMA": ({"price": "hlc3", "sma": 10}, lambda v, t: crossed(v["typical"], v["sma_10"], t)),
    "TimeOfDayExit": ({"start_hour": 11, "end_hour": 13}, lambda v, t: 660 <= v["minute_of_day"][t] <= 780),
}


@pytest.mark.parametrize(
    ("name", "params", "slow"),
    [*((name, {}, slow) for name, slow in SLOW.items()), *((name, *more) for name, more in OTHERS.items())],
)
def test_conditions_say_what_the_catalogue_says(name: str, params: dict, slow, g_of) -> None:  # type: ignore[no-untyped-def,type-arg]
    """Once every feature has begun, bar by bar. Series G has no vwap, so that is the mean of high, low and close."""
    bars, named = g_of(HOUR), catalogue(HOUR)
    program = Program(named.values())
    found = program.run(bars, program.initial.copy())
    v = {feature: found[f.key] for feature, f in named.items()} | dict(bars.extra)
    v |= {"close": bars.close, "volume": bars.volume, "typical": (bars.high + bars.low + bars.close) / 3}

    expected = [bool(slow(v, t)) for t in range(210, 1200)]

    assert says(default(name, **params), bars)[210:1200].tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_the_catalogue_of_conditions_is_complete() -> None:
    shown_elsewhere = {
        "BollingerBandsEntry", "BollingerBandsExit", "MomentumEntry", "MomentumExit", "MovingAverageCrossoverEntry",
        "MovingAverageCrossoverExit", "MovingAverageEntry", "MovingAverageExit", "PriceAboveSMA", "PullbackEntry",
        "RSIEntry", "RSIExit", "SMATrend", "TrendAboveSMA",
    }  # fmt: skip

    assert set(CONDITIONS) == SLOW.keys() | shown_elsewhere
    assert (len(CONDITIONS), sorted(LOGICS)) == (42, ["MACDTrailing", "MeanReversion", "TrailingStop"])


def test_no_surge_is_over_before_there_was_one(closes) -> None:  # type: ignore[no-untyped-def]
    """Volumes of 10 with one of 21 at bar 5: over the mean of two before it, twice."""
    bars = closes([64.0] * 10, [10.0] * 5 + [21.0] + [10.0] * 4)
    params = {"threshold": 2.0, "ma_window": 2}

    assert says(default("VolumeSurgeEntry", **params), bars).nonzero()[0].tolist() == [5]
    assert says(default("VolumeSurgeExit", **params, hold_bars=3), bars).nonzero()[0].tolist() == [8, 9]
    assert says(default("VolumeSurgeExit", threshold=3.0, ma_window=2, hold_bars=1), bars).sum() == 0
    assert says(default("VolumeSurgeEntry", **params), closes([64.0] * 4, [0.0, 0.0, 1.0, 0.0])).tolist()[2]


def test_the_time_of_day_is_not_asked_of_daily_bars() -> None:
    for name in CONDITIONS:
        if name in ("TimeOfDayEntry", "TimeOfDayExit"):
            with pytest.raises(UnsupportedTimeframe, match=f"{name} .* 1Day"):
                condition(name, {}, DAY, COLUMNS)
        else:
            condition(name, {}, DAY, COLUMNS)


def test_an_extra_column_is_declared_before_it_is_read(make_bars) -> None:  # type: ignore[no-untyped-def]
    bars = make_bars([1, 2, 2], [2, 2, 3], [1, 1, 1], [2, 1, 3], [1, 1, 1])
    with pytest.raises(BadConfiguration, match="'entry_signal', which nobody declared"):
        condition("BooleanColumnEntry", {}, DAY)
    with pytest.raises(BadConfiguration, match="'mine', which nobody declared"):
        condition("BooleanColumnEntry", {"column": "mine"}, DAY, COLUMNS)

    assert says(condition("BooleanColumnEntry", {}, DAY, COLUMNS), bars).tolist() == [True, False, True]
    with pytest.raises(BadMarketData, match="no extra column 'mine' .*entry_signal"):
        says(condition("BooleanColumnEntry", {"column": "mine"}, DAY, ("mine",)), bars)


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
        ("ComboExit", {"min_votes": 4}, "min_votes"),
        ("EMAAboveSMARolling", {"window": 0}, "window of 0"),
        ("VolatilitySpike", {"range_col": "gap"}, "range_col is one of range_pct, atr_pct_14"),
        ("VolatilitySpike", {"volatility_col": "atr"}, "volatility_col is one of"),
        ("TrailingStopExit", {"stop_pct": 1.0}, "stop_pct"),
        ("TimeOfDayEntry", {"start_hour": 12, "end_hour": 12}, "from 12 to 12"),
        ("TimeOfDayExit", {"end_hour": 25}, "from 14 to 25"),
        ("MACDTrailing", {"fast": 26}, "below slow 26"),
        ("MACDTrailing", {"stop_pct": 0.0}, "stop_pct"),
        ("TrailingStop", {"stop_pct": 1.5}, "stop_pct"),
        ("TrailingStop", {"reentry_cooldown": -1}, "cooldown"),
        ("MeanReversion", {"profit_target_pct": 0.0}, "profit_target_pct"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(name: str, given_: dict, words: str) -> None:  # type: ignore[type-arg]
    make = condition if name in CONDITIONS else logic

    with pytest.raises(BadConfiguration, match=words):
        make(name, given_, HOUR)


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
        c = default(name)
        assert not set(c.inputs) & set(c.params), name


def test_a_condition_names_every_feature_it_reads() -> None:
    c = condition("SMATrend", {"fast": 10, "slow": 100}, DAY)

    assert c.inputs == {"fast_sma": sma(10), "slow_sma": sma(100)}
