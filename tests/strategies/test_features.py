"""Features against published numbers and TA-Lib, and the two properties that make research and live one thing."""

import math
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale import features, machine
from algo_royale.compiled import F64, compiled
from algo_royale.errors import BadConfiguration
from algo_royale.features import CLOSE, NEVER, Feature, FeatureCache, Program, catalogue
from algo_royale.market import Bars, Timeframe
from algo_royale.sessions import calendar, new_york_clock_ns
from algo_royale.strategies import CONDITIONS, LOGICS
from algo_royale.strategies.compiling import shared_code
from algo_royale.strategies.conditions import condition, logic

DAY, HOUR = Timeframe.DAY_1, Timeframe.HOUR_1
COLUMNS = ("entry_signal",)
FEATURES = catalogue(DAY)

# Published with series G: feature, value at bar 299, value at bar 1999.
GOLDEN = """
rsi 41.28859107 36.48032998
atr_14 2.202329982 1.919476128
adx 14.17709321 26.53240240
plus_di_14 15.30745018 15.44321910
macd -0.5835707080 -0.1400578096
macd_signal -0.4539057858 0.9159077744
ema_200 108.8711088 106.7707020
sma_200 111.91525 104.91515
hist_volatility_20 0.2118583983 0.1619739336
volatility_50 0.01246021145 0.01094265744
bollinger_pct_b 0.04494911046 -0.02818425472
stochastic_d 21.53810836 5.064828590
vwap_50 110.2463591 107.3850528
vol_ma_200 736182.1 686839.96
obv -23164658 -14879818
adl -9232799.977 5948139.553
"""
# Bars before the first value, as the catalogue states them.
FIRST = {
    "pct_return": 1, "log_return": 1, "sma_10": 9, "sma_200": 199, "ema_9": 8, "ema_200": 199, "macd": 25,
    "macd_signal": 33, "macd_hist": 33, "rsi": 14, "volatility_10": 10, "volatility_50": 50, "hist_volatility_20": 20,
    "true_range": 1, "atr_14": 14, "atr_pct_14": 14, "range": 0, "range_pct": 0, "body": 0, "upper_wick": 0,
    "lower_wick": 0, "vol_ma_10": 9, "vol_ma_200": 199, "vol_change": 1, "vwap_10": 9, "vwap_200": 199,
    "plus_di_14": 14, "minus_di_14": 14, "adx": 27, "momentum_10": 10, "roc_10": 10, "stochastic_k": 13,
    "stochastic_d": 15, "bollinger_upper": 19, "bollinger_lower": 19, "bollinger_width": 19, "bollinger_pct_b": 19,
    "gap": 1, "high_low_ratio": 0, "obv": 0, "adl": 0, "hour": 0, "minute": 0, "day_of_week": 0, "minute_of_day": 0,
}  # fmt: skip


def everything() -> list[Feature]:
    """Every named feature and every input of every registered condition and logic, at default arguments."""
    conditions = [condition(name, {}, HOUR, COLUMNS) for name in CONDITIONS]
    for rule in (logic(name, {}, HOUR) for name in LOGICS):
        conditions += [c for c in (rule.entry, rule.exit) if c]
    return [*FEATURES.values(), *(f for c in conditions for f in c.inputs.values())]


def values_of(wanted: list[Feature], bars: Bars) -> dict[str, np.ndarray]:
    program = Program(wanted)
    with np.errstate(all="ignore"):
        return program.run(bars, program.initial.copy())


def one(feature: Feature, bars: Bars) -> np.ndarray:
    return values_of([feature], bars)[feature.key]


def differing(wanted: list[Feature], bars: Bars, cuts: list[int]) -> set[str]:
    """Keys of features whose bits depend on how the bars are cut into chunks; "memory" if the final memory does."""
    program = Program(wanted)
    whole_memory, memory = program.initial.copy(), program.initial.copy()
    with np.errstate(all="ignore"):
        whole = program.run(bars, whole_memory)
        parts = [program.run(bars.slice(a, b), memory) for a, b in pairwise([0, *sorted(cuts), len(bars)])]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in whole}
    out = {key for key in whole if not np.array_equal(whole[key], joined[key], equal_nan=True)}
    return out | (set() if np.array_equal(whole_memory, memory, equal_nan=True) else {"memory"})


def altered_after(bars: Bars, t: int) -> Bars:
    """The same bars up to and with t, and twice the price from then on."""
    factor = np.where(np.arange(len(bars)) > t, 2.0, 1.0)
    columns = {name: getattr(bars, name) * factor for name in ("open", "high", "low", "close", "volume", "vwap")}
    times = {name: getattr(bars, name) for name in ("start_ns", "end_ns", "trade_count")}
    extra = {name: column ^ (factor > 1.0) for name, column in bars.extra.items()}
    return Bars(symbol=bars.symbol, timeframe=bars.timeframe, extra=extra, **columns, **times)


def looking_ahead(wanted: list[Feature], bars: Bars, t: int) -> set[str]:
    """Keys of features whose values up to and with t change when the bars after it do."""
    before, after = values_of(wanted, bars), values_of(wanted, altered_after(bars, t))
    return {key for key in before if not np.array_equal(before[key][: t + 1], after[key][: t + 1], equal_nan=True)}


def test_series_g_is_the_published_one(g: Bars) -> None:
    first, last = g.bar(0), g.bar(1999)

    assert (first.open, first.high, first.low, first.close, first.volume) == (100.01, 100.80, 99.23, 100.33, 295924)
    assert (last.open, last.high, last.low, last.close, last.volume) == (107.21, 107.25, 106.00, 106.32, 307782)


@pytest.mark.parametrize("line", GOLDEN.split("\n")[1:-1])
def test_features_of_series_g_are_the_published_ones(line: str, g: Bars) -> None:
    name, at_299, at_1999 = line.split()

    found = one(FEATURES[name], g)

    assert found[299] == pytest.approx(float(at_299), rel=1e-9)
    assert found[1999] == pytest.approx(float(at_1999), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "expected", "skip"),
    [
        *((f"ema_{n}", lambda b, n=n: talib.EMA(b.close, n), 0) for n in (9, 26, 200)),
        *((f"sma_{n}", lambda b, n=n: talib.SMA(b.close, n), 0) for n in (10, 200)),
        ("rsi", lambda b: talib.RSI(b.close, 14), 0),
        ("atr_14", lambda b: talib.ATR(b.high, b.low, b.close, 14), 0),
        ("bollinger_upper", lambda b: talib.BBANDS(b.close, 20, 2, 2)[0], 0),
        ("bollinger_lower", lambda b: talib.BBANDS(b.close, 20, 2, 2)[2], 0),
        ("adl", lambda b: talib.AD(b.high, b.low, b.close, b.volume), 0),
        ("obv", lambda b: talib.OBV(b.close, b.volume) - b.volume[0], 0),
        ("stochastic_k", lambda b: talib.STOCHF(b.high, b.low, b.close, 14, 3)[0], 2),  # TA-Lib waits for its %D
        ("stochastic_d", lambda b: talib.STOCHF(b.high, b.low, b.close, 14, 3)[1], 0),
        ("roc_10", lambda b: talib.ROCP(b.close, 10), 0),
        ("adx", lambda b: talib.ADX(b.high, b.low, b.close, 14), 420),  # other seeds, forgotten by then
        ("plus_di_14", lambda b: talib.PLUS_DI(b.high, b.low, b.close, 14), 310),
        ("minus_di_14", lambda b: talib.MINUS_DI(b.high, b.low, b.close, 14), 310),
        ("macd", lambda b: talib.MACD(b.close, 12, 26, 9)[0], 310),
        ("macd_signal", lambda b: talib.MACD(b.close, 12, 26, 9)[1], 310),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_features_agree_with_ta_lib(name: str, expected, skip: int, g: Bars) -> None:  # type: ignore[no-untyped-def]
    feature = FEATURES[name]
    first = max(feature.lb + skip, skip)
    unit = g.close[first:] if name.startswith("macd") else 1.0  # its level crosses zero: relative to the price

    found, theirs = one(feature, g)[first:], expected(g)[first:]

    assert np.isfinite(theirs).all()
    np.testing.assert_allclose(found / unit, theirs / unit, rtol=1e-9, atol=1e-9 if name.startswith("macd") else 1e-12)


def test_windows_longer_and_odder_than_the_named_ones_agree_with_a_slow_loop(g: Bars) -> None:
    for n in (1, 2, 7, 33, 300):
        means, deviations = one(features.sma(n), g), one(features.sd(n, CLOSE, ddof=0), g)
        for t in (n - 1, 500, 1999):
            window = [float(x) for x in g.close[t - n + 1 : t + 1]]
            mean = math.fsum(window) / n
            assert means[t] == pytest.approx(mean, rel=1e-13)
            assert deviations[t] == pytest.approx(math.sqrt(math.fsum((x - mean) ** 2 for x in window) / n), rel=1e-9)


sizes = st.sampled_from([1e-300, 1e-12, 0.01, 1.0, 1.0, 1.0, 100.0, 1e6, 1e14, 1e300])
numbers = st.one_of(
    st.builds(lambda cents: cents / 100, st.integers(1, 10**6)),
    st.builds(lambda x, size: x * size, st.floats(-2.0, 2.0), sizes),
    st.sampled_from([0.0, -0.0, math.nan, math.inf, 1.0 - 2**-53, 2.0**-53]),
)


@settings(max_examples=300)
@given(st.lists(numbers, min_size=1, max_size=60), st.integers(1, 60))
def test_sums_over_a_window_are_exact_and_rounded_once(x: list[float], n: int) -> None:
    """Of prices, which take one integer each, of numbers of all sizes, which take two or more, and with gaps."""
    n = min(n, len(x))
    out, places = np.empty(len(x) - n + 1), np.empty((2, len(x) + 1), np.int64)

    machine.exact_sums(np.array(x), n, 1.0, out, *places)

    windows = [x[t : t + n] for t in range(len(out))]
    np.testing.assert_array_equal(out, [math.fsum(w) if np.isfinite(w).all() else math.nan for w in windows])


@settings(max_examples=200)
@given(
    st.lists(numbers, min_size=1, max_size=90),
    st.lists(st.integers(1, 20), min_size=2, max_size=5, unique=True),
    st.lists(st.integers(0, 90), max_size=4),
)
def test_windows_over_one_thing_share_their_running_sums_and_give_the_bits_of_each_alone(
    x: list[float], windows: list[int], cuts: list[int]
) -> None:
    wanted = [features.sma(n) for n in windows] + [Feature("sum", (CLOSE,), n) for n in windows]
    code = shared_code(wanted, {f.key: row for row, f in enumerate(wanted)})
    found, close = np.empty((len(wanted), len(x))), np.array(x)

    for low, high in pairwise(sorted({0, len(x), *(cut % len(x) for cut in cuts)})):  # in chunks of any length
        part, out = close[low:high], np.empty((len(wanted), high - low))
        machine.evaluate(code.rows, code.levels, part, part, part, part, part, out, code.memory, code.n_numbers)
        found[:, low:high] = out

    for row, feature in zip(found, wanted, strict=True):
        n, divisor = feature.n, feature.n if feature.op == "mean" else 1
        ends = [x[t + 1 - n : t + 1] if t + 1 >= n else [math.nan] for t in range(len(x))]
        exact = [math.fsum(w) / divisor if np.isfinite(w).all() else math.nan for w in ends]
        np.testing.assert_array_equal(row, exact)


def test_the_long_mean_of_a_rising_price_is_exact_across_powers_of_two(make_bars) -> None:  # type: ignore[no-untyped-def]
    """Where the price doubles, and doubles again, within a window of 300."""
    close = [round(40 * 1.005**i, 2) for i in range(900)]
    bars = make_bars(close, close, close, close, [1.0] * 900)

    found = one(features.sma(300), bars)

    assert found[299:].tolist() == [math.fsum(close[t - 299 : t + 1]) / 300 for t in range(299, 900)]


def test_every_feature_begins_where_its_window_is_full(g: Bars) -> None:
    found = values_of(list(FEATURES.values()), g)

    for name, feature in FEATURES.items():
        assert np.flatnonzero(np.isfinite(found[feature.key]))[0] == feature.lb == FIRST.get(name, feature.lb), name
        assert np.isfinite(found[feature.key][feature.lb :]).all(), name


def test_where_history_begins_no_longer_matters_once_a_feature_has_settled(long_g: Bars) -> None:
    origin = 1234
    whole = values_of(list(FEATURES.values()), long_g)
    later = values_of(list(FEATURES.values()), long_g.slice(origin, len(long_g)))

    for name, feature in FEATURES.items():
        if feature.settle >= NEVER:
            continue
        a, b = whole[feature.key][origin + feature.settle :], later[feature.key][feature.settle :]
        unit = long_g.close[origin + feature.settle :] if name.startswith("macd") else a
        assert len(a) > 100
        assert (np.abs(a - b) < 1e-9 * np.abs(unit) + 1e-300).all(), name


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 700), max_size=12))
def test_any_partition_of_the_bars_gives_the_same_bits(walk, seed: int, cuts: list[int]) -> None:  # type: ignore[no-untyped-def]
    assert differing(everything(), walk(seed, 700, HOUR), cuts) == set()


def test_one_bar_at_a_time_gives_the_same_bits(walk) -> None:  # type: ignore[no-untyped-def]
    assert differing(everything(), walk(5, 420, HOUR), list(range(420))) == set()


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(0, 699))
def test_no_feature_looks_ahead(walk, seed: int, t: int) -> None:  # type: ignore[no-untyped-def]
    assert looking_ahead(everything(), walk(seed, 700, HOUR), t) == set()


def test_a_feature_that_reads_the_next_bar_is_caught(g: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    """A centred mean, planted: it looks harmless over a whole series and is caught by both properties."""
    peek = features._Op(run=lambda feature, inputs, memory: np.convolve(inputs[0], np.full(3, 1 / 3), "same"))
    monkeypatch.setitem(features._OPS, "centred", peek)
    planted = Feature("centred", (CLOSE,))

    assert planted.key in differing([planted, *everything()], g.slice(0, 300), [100, 200])
    assert looking_ahead([planted, *everything()], g.slice(0, 300), 150) == {planted.key}


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_values_stay_within_what_they_mean(walk, seed: int) -> None:  # type: ignore[no-untyped-def]
    bars = walk(seed, 400, HOUR)
    found = {name: values for name, f in FEATURES.items() for values in [values_of([f], bars)[f.key][f.lb :]]}

    for name in ("rsi", "adx", "plus_di_14", "minus_di_14", "stochastic_k", "stochastic_d"):
        assert ((found[name] >= -1e-9) & (found[name] <= 100 + 1e-9)).all(), name
    for name in ("atr_14", "true_range", "range", "body", "upper_wick", "lower_wick", "volatility_20"):
        assert (found[name] >= 0).all(), name
    middle = values_of([features.sma(20)], bars)[features.sma(20).key][19:]
    assert (found["bollinger_lower"] <= middle).all() and (middle <= found["bollinger_upper"]).all()
    candle = found["upper_wick"] + found["lower_wick"] + found["body"]
    np.testing.assert_allclose(candle, found["range"], atol=1e-12 * bars.high.max())


def shown_in_new_york(at_ns: int) -> datetime:
    return datetime.fromtimestamp(at_ns // 10**9, tz=ZoneInfo("America/New_York"))


def test_the_catalogue_is_complete() -> None:
    assert len(FEATURES) == 64


def test_clock_features_show_what_a_clock_in_new_york_shows(g_of) -> None:  # type: ignore[no-untyped-def]
    """Label and end of every hourly bar of a year and more, both switches of the clock among them."""
    bars = g_of(HOUR)
    found = {name: one(FEATURES[name], bars) for name in ("hour", "minute", "day_of_week", "minute_of_day")}

    starts, ends = ([shown_in_new_york(int(x)) for x in times] for times in (bars.start_ns, bars.end_ns))
    assert found["hour"].tolist() == [x.hour for x in starts]
    assert found["minute"].tolist() == [x.minute for x in starts]
    assert found["day_of_week"].tolist() == [x.weekday() for x in starts]
    assert found["minute_of_day"].tolist() == [60 * x.hour + x.minute for x in ends]
    assert sorted(set(found["minute_of_day"])) == [600, 660, 720, 780, 840, 900, 960]


@settings(max_examples=200)
@given(st.lists(st.integers(-(2**31), 2**32), min_size=1, max_size=20))
def test_any_instant_has_its_place_on_the_clock(seconds: list[int]) -> None:
    """Half hours as well, in any order; before 1970 and after the last rule of the tz database."""
    at_ns = np.array(seconds, np.int64) // 1800 * 1800 * 10**9

    found = new_york_clock_ns(at_ns)

    for x, shown in zip(at_ns.tolist(), found.tolist(), strict=True):
        clock = shown_in_new_york(x).replace(tzinfo=UTC)
        assert shown == int(clock.timestamp()) * 10**9


def test_clocks_change_at_two_in_the_morning() -> None:
    """2024-03-10 and 2024-11-03: 06:59:59 UTC shows 01:59:59 before the first; 05:59:59 shows 01:59:59 before the second."""
    seconds = [1710053999 + 1, 1710053999 + 2, 1730613600 - 1, 1730613600]
    shown = [
        str(np.datetime64(int(x), "ns").astype("datetime64[s]")) for x in new_york_clock_ns(np.array(seconds) * 10**9)
    ]

    assert shown == ["2024-03-10T03:00:00", "2024-03-10T03:00:01", "2024-11-03T01:59:59", "2024-11-03T01:00:00"]


def test_clocks_change_between_sessions_and_not_within() -> None:
    """Every session of ten years, half days and both switches among them, opens at 570 minutes of its day."""
    sessions = calendar().sessions(date(2010, 1, 1), date(2019, 12, 31))
    opens, closes = (np.array(x, np.int64) for x in zip(*((s.open_ns, s.close_ns) for s in sessions), strict=True))

    assert set((new_york_clock_ns(opens) // 60_000_000_000 % 1440).tolist()) == {570}
    assert set((new_york_clock_ns(closes) // 60_000_000_000 % 1440).tolist()) == {780, 960}
    assert len(new_york_clock_ns(np.empty(0, np.int64))) == 0


def slow_since(x: list[float], level: float) -> list[float]:
    """Bars since the latest one above the level, by looking back from each."""
    out = []
    for t in range(len(x)):
        above = [t - i for i in range(t + 1) if x[i] > level]
        out.append(float(min(above)) if above else math.nan)
    return out


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan]), max_size=30), st.lists(st.integers(0, 30), max_size=4),
       st.integers(1, 5))  # fmt: skip
def test_runs_and_what_was_last_are_counted_across_chunks(x: list[float], cuts: list[int], n: int) -> None:
    """As if the input were given in pieces to the operation itself."""
    run, since = features.run_above(CLOSE, 1.0, n), features.since_above(CLOSE, 1.0)
    memories = {f: features._OPS[f.op].memory(f.n) for f in (run, since)}
    found: dict[Feature, list[float]] = {run: [], since: []}
    for a, b in pairwise([0, *sorted(min(cut, len(x)) for cut in cuts), len(x)]):
        for feature, memory in memories.items():
            found[feature] += features._OPS[feature.op].run(feature, [np.array(x[a:b])], memory).tolist()

    runs = [next((i for i in range(t + 1) if not x[t - i] > 1.0), t + 1) for t in range(len(x))]
    assert found[run] == [float(min(r, n)) for r in runs]
    np.testing.assert_array_equal(found[since], slow_since(x, 1.0))


def test_flat_bars_give_the_stated_values(make_bars) -> None:  # type: ignore[no-untyped-def]
    flat = np.full(300, 64.0)
    bars = make_bars(flat, flat, flat, flat, np.zeros(300))
    stated = {"rsi": 50.0, "stochastic_k": 50.0, "bollinger_pct_b": 0.5, "adx": 0.0, "plus_di_14": 0.0, "adl": 0.0}

    for name, value in stated.items():
        assert one(FEATURES[name], bars)[-1] == value, name
    for name in ("vol_change", "vwap_10"):
        assert np.isnan(one(FEATURES[name], bars)[-1]), name


def test_a_number_that_is_missing_never_enters_a_recursion() -> None:
    x = np.array([np.nan, 1.0, 3.0, np.inf, 5.0])
    out, memory = np.empty(5), np.zeros(2)

    machine.smooth(x, 2, 0.5, 1.0, memory, out)

    np.testing.assert_array_equal(out, [np.nan, np.nan, 2.0, np.nan, 3.5])
    assert memory.tolist() == [2.0, 3.5]


def test_cached_values_are_those_computed_afresh(g: Bars) -> None:
    cache, none = FeatureCache(g), FeatureCache(g, bytes_max=0)
    program = Program(everything())
    with np.errstate(all="ignore"):
        fresh, first, second, without = (program.run_cached(c) for c in (FeatureCache(g), cache, cache, none))

    for key in fresh:
        for other in (first, second, without):
            np.testing.assert_array_equal(fresh[key], other[key])
    assert second[features.rsi().key] is first[features.rsi().key]
    assert none.get(features.rsi().key) is None
    searched = features.gap(CLOSE, features.band(20, 2.0))
    Program([searched]).run_cached(cache)
    for feature in (features.band(20, 2.0), searched):  # these would fill it with what never comes again
        assert cache.get(feature.key) is None


def test_a_kernel_that_cannot_be_kept_on_disk_is_compiled_all_the_same() -> None:
    """A function without a file is to numba what a package in a read-only place is: nowhere to put its cache."""
    made: dict[str, Any] = {}
    exec("def twice(x):\n    return 2.0 * x\n", made)

    assert compiled(F64, F64)(made["twice"])(21.0) == 42.0


def test_a_window_beyond_the_bound_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="301"):
        features.sma(301)
