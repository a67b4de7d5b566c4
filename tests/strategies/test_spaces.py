"""Search spaces: static, linked, alive in every dimension, and never able to draw what cannot be built."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.errors import BadConfiguration
from algo_royale.market import Timeframe
from algo_royale.strategies import (
    STRATEGIES,
    FeatureCache,
    ParamSpec,
    build,
    default_trial,
    required_history,
    resolve,
    space,
)

DAY = Timeframe.DAY_1
HOUR = Timeframe.HOUR_1
EVERY = [(name, timeframe) for name in STRATEGIES for timeframe in Timeframe]
BUILDABLE = [(name, timeframe) for name, timeframe in EVERY if STRATEGIES[name].supports(timeframe)]


def values(d: ParamSpec, count: int) -> list[int | float | str]:
    """Some values of a dimension, both ends among them."""
    if d.kind == "categorical":
        return list(d.choices)
    if d.kind == "int":
        return sorted({round(x) for x in np.linspace(d.low, d.high, count)})
    points = np.geomspace(d.low, d.high, count) if d.log else np.linspace(d.low, d.high, count)
    return [float(min(max(x, d.low), d.high)) for x in points]


@st.composite
def points(draw: st.DrawFn) -> tuple[str, Timeframe, dict[str, int | float | str]]:
    name, timeframe = draw(st.sampled_from(BUILDABLE))
    trial = {}
    for d in space(name, timeframe):
        trial[d.name] = draw(st.sampled_from(values(d, 9)))
    return name, timeframe, trial


def test_spaces_have_the_stated_dimensions() -> None:
    dimensions = {name: len(space(name, DAY)) for name in STRATEGIES}

    assert dimensions == {
        "BollingerBandsStrategy": 3, "ComboStrategy": 6, "MACDTrailingStopStrategy": 7, "MeanReversionStrategy": 6,
        "MomentumStrategy": 5, "MovingAverageCrossoverStrategy": 7, "MovingAverageStrategy": 2,
        "PullbackEntryStrategy": 1, "RSIStrategy": 3, "TimeOfDayBiasStrategy": 3, "TrailingStopStrategy": 13,
        "TrendScraperStrategy": 6, "VolatilityBreakoutStrategy": 4, "VolumeSurgeStrategy": 3, "VWAPReversionStrategy": 3,
        "WickReversalStrategy": 2,
    }  # fmt: skip


def test_dimensions_are_named_by_slot_and_class_unless_shared() -> None:
    assert [d.name for d in space("RSIStrategy", DAY)] == [
        "shared.period", "entry.RSIEntry.oversold", "exit.RSIExit.overbought",
    ]  # fmt: skip
    assert [d.name for d in space("MeanReversionStrategy", DAY)] == [
        "trend.PriceAboveSMA.sma", "logic.MeanReversion.window", "logic.MeanReversion.threshold",
        "logic.MeanReversion.stop_pct", "logic.MeanReversion.profit_target_pct", "logic.MeanReversion.reentry_cooldown",
    ]  # fmt: skip
    assert {d.name for d in space("TrailingStopStrategy", DAY)} == {
        "shared.lookback", "shared.threshold", "shared.smooth_window", "shared.confirmation_periods",
        "shared.short_window", "shared.gap", "entry.PullbackEntry.ma", "exit.RSIExit.period", "exit.RSIExit.overbought",
        "trend.TrendAboveSMA.sma", "trend.SMATrend.pair", "logic.TrailingStop.stop_pct",
        "logic.TrailingStop.reentry_cooldown",
    }  # fmt: skip


def arguments(name: str, timeframe: Timeframe = DAY, **drawn: int | float | str) -> dict[str, dict[str, object]]:
    """Resolved arguments by class, of the default point with some dimensions (by their last name) at other values."""
    trial = default_trial(name, timeframe)
    assert drawn.keys() <= {d.rpartition(".")[2] for d in trial}
    params = resolve(name, {d: drawn.get(d.rpartition(".")[2], x) for d, x in trial.items()}, timeframe)
    rows = [*params["entry_conditions"], *params["exit_conditions"], *params["trend_conditions"]]
    return {k: v for row in [*rows, params["stateful_logic"] or {}] for k, v in row.items()}


@pytest.mark.parametrize("pair", ["20/50", "9/10", "150/200"])
def test_trend_scraper_compares_the_price_with_the_average_of_its_trend(pair: str) -> None:
    fast, slow = (int(x) for x in pair.split("/"))

    assert arguments("TrendScraperStrategy", pair=pair, loss=0.03) == {
        "PriceAboveSMA": {"sma": slow},
        "ReturnVolatilityExit": {
            "threshold": -0.03, "mult": 3.0, "range_col": "range_pct", "volatility_col": "volatility_20",
        },
        "PriceBelowSMA": {"sma": slow},
        "EMAAboveSMARolling": {"fast": fast, "slow": slow, "window": 3},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("start", "length", "delay", "exit_start"),
    [(10, 2, 2, 14), (9, 1, 0, 10), (9, 3, 3, 15), (12, 3, 0, 15), (12, 3, 3, 15)],
)
def test_the_hours_to_sell_follow_those_to_buy(start: int, length: int, delay: int, exit_start: int) -> None:
    assert arguments("TimeOfDayBiasStrategy", HOUR, start_hour=start, len=length, delay=delay) == {
        "TimeOfDayEntry": {"start_hour": start, "end_hour": start + length},
        "TimeOfDayExit": {"start_hour": exit_start, "end_hour": 16},
    }


def test_pairs_are_those_of_the_catalogue() -> None:
    pairs = {d.name: d for d in space("TrendScraperStrategy", DAY)}["trend.EMAAboveSMARolling.pair"].choices

    assert len(pairs) == 30
    assert {int(p.split("/")[0]) for p in pairs} == {9, 10, 12, 20, 26, 50, 100, 150}
    assert len({d.name: d for d in space("BollingerBandsStrategy", DAY)}["trend.SMATrend.pair"].choices) == 11


@pytest.mark.parametrize(("name", "timeframe"), EVERY)
def test_the_default_point_lies_in_the_space(name: str, timeframe: Timeframe) -> None:
    for d in space(name, timeframe):
        assert d.contains(d.default), d
        assert d.kind in ("int", "float", "categorical") and not d.per_kappa
        assert (d.kind == "categorical") == (d.low is None)


def test_return_thresholds_shrink_with_the_bar() -> None:
    daily = {d.name: d for d in space("MeanReversionStrategy", DAY)}["logic.MeanReversion.threshold"]
    minute = {d.name: d for d in space("MeanReversionStrategy", Timeframe.MIN_1)}["logic.MeanReversion.threshold"]

    assert (daily.low, daily.high, daily.default, daily.log) == (0.005, 0.06, 0.02, True)
    assert (minute.low, minute.high, minute.default) == pytest.approx((0.0005, 0.006, 0.002))


def test_a_trial_becomes_the_arguments_of_the_artifact() -> None:
    trial = {**default_trial("TrailingStopStrategy", DAY), "shared.short_window": 9, "shared.gap": 21}

    assert resolve("TrailingStopStrategy", trial, DAY) == {
        "entry_conditions": [
            {"MomentumEntry": {"lookback": 10, "threshold": 0.02, "smooth_window": 0, "confirmation_periods": 1}},
            {"PullbackEntry": {"ma": "sma_20"}},
            {"MovingAverageEntry": {"short_window": 9, "long_window": 30}},
        ],
        "exit_conditions": [
            {"MovingAverageExit": {"short_window": 9, "long_window": 30}},
            {"RSIExit": {"period": 14, "overbought": 70}},
            {"MomentumExit": {"lookback": 10, "threshold": 0.02, "smooth_window": 0, "confirmation_periods": 1}},
        ],
        "trend_conditions": [{"TrendAboveSMA": {"sma": 200}}, {"SMATrend": {"fast": 50, "slow": 200}}],
        "filter_conditions": [],
        "stateful_logic": {"TrailingStop": {"stop_pct": 0.05, "reentry_cooldown": 0}},
    }


def test_default_arguments_are_those_of_the_catalogue() -> None:
    crossover = {
        "short_window": 10, "long_window": 50, "trend_window": 200, "volume_ma_window": 20, "ma_type": "EMA",
    }  # fmt: skip
    assert arguments("MovingAverageCrossoverStrategy") == {
        "MovingAverageCrossoverEntry": {**crossover, "confirm": "both"},
        "MovingAverageCrossoverExit": {**crossover, "confirm": "none"},
    }
    assert arguments("BollingerBandsStrategy") == {
        "BollingerBandsEntry": {"window": 20, "num_std": 2.0},
        "BollingerBandsExit": {"window": 20, "num_std": 2.0},
        "SMATrend": {"fast": 50, "slow": 200},
    }
    assert arguments("MeanReversionStrategy") == {
        "PriceAboveSMA": {"sma": 200},
        "MeanReversion": {
            "window": 20, "threshold": 0.02, "stop_pct": 0.05, "profit_target_pct": 0.04, "reentry_cooldown": 5,
        },
    }  # fmt: skip


@settings(max_examples=200)
@given(points())
def test_every_draw_can_be_built_with_fast_below_slow(point) -> None:  # type: ignore[no-untyped-def]
    name, timeframe, trial = point

    strategy = build(name, resolve(name, trial, timeframe), timeframe)

    assert strategy.settle <= required_history(name, timeframe)
    for c in (*(c for _, c in strategy.conditions), *([strategy.logic] if strategy.logic else [])):
        for fast, slow in (("short_window", "long_window"), ("fast", "slow"), ("start_hour", "end_hour")):
            assert slow not in c.params or c.params[fast] < c.params[slow]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_dimension_can_change_a_signal(name: str, g_of) -> None:  # type: ignore[no-untyped-def]
    timeframe = DAY if STRATEGIES[name].supports(DAY) else HOUR
    cache = FeatureCache(g_of(timeframe))

    def signal(trial: dict) -> np.ndarray:  # type: ignore[type-arg]
        return build(name, resolve(name, trial, timeframe), timeframe).run(cache.bars, cache=cache).signal

    base = default_trial(name, timeframe)
    for d in space(name, timeframe):
        assert any((signal({**base, d.name: x}) != signal(base)).any() for x in values(d, 5)), d.name


def test_required_history_covers_the_slowest_point() -> None:
    """An average of 30 Wilder periods needs 30 + 21·30 bars; an exponential one of 300 needs 299 + 11·300."""
    assert required_history("RSIStrategy", DAY) == 660
    assert required_history("MovingAverageCrossoverStrategy", DAY) == 3599
    assert required_history("BollingerBandsStrategy", DAY) == 199
    # A run of 20 bars of an average of 150 above one of 200; changes over 30 smoothed over 10, in a run of 5.
    assert required_history("TrendScraperStrategy", DAY) == 199 + 11 * 150 + 19
    assert required_history("MomentumStrategy", DAY) == 30 + 9 + 4
    assert required_history("MACDTrailingStopStrategy", DAY) == 35 + 12 + 11 * (36 + 13) + 1
    assert required_history("TimeOfDayBiasStrategy", DAY) == 0


@pytest.mark.parametrize("change", [{"shared.period": None}, {"entry.RSIEntry.period": 3}])
def test_a_trial_that_is_not_a_point_of_the_space_is_refused(change: dict) -> None:  # type: ignore[type-arg]
    trial = {**default_trial("RSIStrategy", DAY), **change}

    with pytest.raises(BadConfiguration, match="period"):
        resolve("RSIStrategy", {k: v for k, v in trial.items() if v is not None}, DAY)
