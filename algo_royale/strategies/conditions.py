"""Conditions and stateful logic: one table row each. What a bar must look like, as a function of named features.

A condition has no memory of its own: anything it needs from earlier bars (a previous difference, a run of bars) is a
feature. So it can be shown with its inputs, and any NaN among the inputs it names makes it false.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from algo_royale.errors import BadConfiguration, UnknownName, UnsupportedTimeframe
from algo_royale.features import (
    CLOSE,
    PRICES,
    RANGES,
    VOLATILITIES,
    VOLUME,
    VWAP,
    Feature,
    adx,
    atr,
    band,
    body,
    change,
    distance,
    ema,
    extra,
    finite,
    gap,
    highest,
    lag,
    macd,
    moving_average,
    ratio,
    rsi,
    run_above,
    scaled,
    since_above,
    sma,
    smaller,
    vwap,
    wick,
)  # fmt: skip
from algo_royale.market import BoolArray, FloatArray, Timeframe
from algo_royale.strategies.space import (
    Params,
    ParamSpec,
    Shape,
    Value,
    choice,
    constant,
    gap_above,
    identity,
    integer,
    number,
    return_threshold,
    split_pair,
)  # fmt: skip

if TYPE_CHECKING:
    from algo_royale.strategies.own import OwnRule

Test = Callable[..., BoolArray]
Rule = tuple[dict[str, Feature], Test]  # named inputs, and the test over their values in that order
Build = Callable[[Params], Rule]

S6 = (10, 20, 50, 100, 150, 200)
VM5 = (10, 20, 50, 100, 200)
MAS = (*(f"sma_{n}" for n in S6), *(f"ema_{n}" for n in (9, 10, 20, 26, 50, 100, 150, 200)))
SMA_PAIRS = tuple(f"{a}/{b}" for a in (10, 20, 50, 100) for b in (100, 150, 200) if a < b)
EMA_SMA_PAIRS = tuple(f"{a}/{b}" for a in (9, 10, 12, 20, 26, 50, 100, 150) for b in S6 if a < b)


@dataclass(frozen=True, slots=True)
class Component:
    """One row: what may be searched, how a trial becomes arguments, and what the arguments make."""

    name: str
    specs: tuple[ParamSpec, ...]
    resolve: Callable[[Params], Params] = identity
    optional: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    intraday: bool = False  # asks for the time of day, which a daily bar has none of
    version: str = ""  # of a user's own code; what comes with the program has that of the program

    def supports(self, timeframe: Timeframe) -> bool:
        return not self.intraday or timeframe is not Timeframe.DAY_1

    def space(self, timeframe: Timeframe) -> tuple[ParamSpec, ...]:
        return tuple(spec.at(timeframe) for spec in self.specs)

    def fill(self, given: Mapping[str, object], timeframe: Timeframe) -> Params:
        """Complete and check constructor arguments."""
        kept = _SHAPES.get((id(self), timeframe))
        if kept is None or kept[0] is not self:
            defaults = self.resolve({spec.name: spec.default for spec in self.space(timeframe)})
            kept = _SHAPES[id(self), timeframe] = (self, Shape(self.name, defaults, self.optional))
        return kept[1].fill(given)


_SHAPES: dict[tuple[int, Timeframe], tuple[Component, Shape]] = {}  # asked for at every trial of a search


@dataclass(frozen=True, slots=True)
class ConditionRow(Component):
    build: Build = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition with its arguments: its named inputs and what it says about them."""

    name: str
    params: Params
    inputs: dict[str, Feature]
    test: Test

    def verdicts(self, values: Mapping[str, FloatArray], length: int) -> BoolArray:
        """True where it holds and every named input is a number."""
        arrays = [values[feature.key] for feature in self.inputs.values()]
        return self.test(*arrays) & finite(arrays, length)


def _price(params: Params) -> Feature:
    return PRICES[str(params.get("price", "close"))]


def _int(params: Params, name: str) -> int:
    return int(params[name])


def _crosses_up(a: tuple[str, Feature], b: tuple[str, Feature]) -> Rule:
    """a - b was not positive on the bar before and is now."""
    (a_name, a_feature), (b_name, b_feature) = a, b
    inputs = {a_name: a_feature, b_name: b_feature, f"previous {a_name} - {b_name}": lag(gap(a_feature, b_feature), 1)}
    return inputs, lambda x, y, before: (before <= 0.0) & (x - y > 0.0)


def _crosses_down(a: tuple[str, Feature], b: tuple[str, Feature]) -> Rule:
    """b - a was not positive on the bar before and is now."""
    (a_name, a_feature), (b_name, b_feature) = a, b
    inputs = {a_name: a_feature, b_name: b_feature, f"previous {b_name} - {a_name}": lag(gap(b_feature, a_feature), 1)}
    return inputs, lambda x, y, before: (before <= 0.0) & (y - x > 0.0)


def _above(a: tuple[str, Feature], b: tuple[str, Feature]) -> Rule:
    return dict((a, b)), lambda x, y: x > y


def _below(a: tuple[str, Feature], b: tuple[str, Feature]) -> Rule:
    return dict((a, b)), lambda x, y: x < y


def _beyond(side: float, name: str, feature: Feature, level: Value) -> Rule:
    """The feature above a number, or below it."""
    if side > 0:
        return {name: feature}, lambda x: x > level
    return {name: feature}, lambda x: x < level


def _bollinger(side: float, params: Params) -> Rule:
    window, num_std = _int(params, "window"), float(params["num_std"])
    if not 0.0 < num_std < math.sqrt(max(window - 1, 0)):
        raise BadConfiguration(
            f"a price never leaves {num_std} deviations over {window} bars (the bound is √(window-1))"
        )
    name = "upper_band" if side > 0 else "lower_band"
    inputs = {"price": _price(params), name: band(window, side * num_std, _price(params))}
    if side > 0:
        return inputs, lambda price, upper: price > upper
    return inputs, lambda price, lower: price < lower


def _momentum(side: float, params: Params) -> Rule:
    moved = change(_int(params, "lookback"))
    if _int(params, "smooth_window"):
        moved = sma(_int(params, "smooth_window"), moved)
    confirm = _int(params, "confirmation_periods")
    beyond = moved if side > 0 else Feature("negative", (moved,))
    run = run_above(beyond, float(params["threshold"]), confirm)
    return {"momentum": moved, "bars_beyond_threshold": run}, lambda moved, run: run >= confirm


def _crossover(side: float, params: Params) -> Rule:
    average = {"EMA": ema, "SMA": sma}.get(str(params["ma_type"]))
    confirm = str(params["confirm"])
    if average is None or confirm not in ("none", "trend", "volume", "both"):
        raise BadConfiguration(f"ma_type is EMA or SMA, confirm is none, trend, volume or both, not {params}")
    short, long = (("short_ma", average(_short(params))), ("long_ma", average(_int(params, "long_window"))))
    inputs, crossed = (_crosses_up if side > 0 else _crosses_down)(short, long)
    trend, volume = confirm in ("trend", "both"), confirm in ("volume", "both")
    if trend:
        inputs |= {"price": _price(params), "trend_ma": average(_int(params, "trend_window"))}
    if volume:
        inputs |= {"volume": VOLUME, "volume_ma": sma(_int(params, "volume_ma_window"), VOLUME)}

    def test(*arrays: FloatArray) -> BoolArray:
        verdict = crossed(*arrays[:3])
        if trend:
            verdict = verdict & (arrays[3] > arrays[4] if side > 0 else arrays[3] < arrays[4])
        if volume:
            verdict = verdict & (arrays[-2] > arrays[-1])
        return verdict

    return inputs, test


def _short(params: Params) -> int:
    short, long = _int(params, "short_window"), _int(params, "long_window")
    if not 1 <= short < long:
        raise BadConfiguration(f"short_window {short} must be at least 1 and below long_window {long}")
    return short


def _sma_cross(side: float, params: Params) -> Rule:
    short, long = ("short_ma", sma(_short(params))), ("long_ma", sma(_int(params, "long_window")))
    return (_crosses_up if side > 0 else _crosses_down)(short, long)


def _sma_level(side: float, params: Params) -> Rule:
    n = _int(params, "sma")
    return (_above if side > 0 else _below)(("price", _price(params)), (f"sma_{n}", sma(n)))


def _price_cross(side: float, params: Params, average: str) -> Rule:
    cross = _crosses_up if side > 0 else _crosses_down
    return cross(("price", _price(params)), (average, moving_average(average)))


def _ema_above_sma(params: Params) -> Rule:
    fast, slow, window = ema(_int(params, "fast")), sma(_int(params, "slow")), _int(params, "window")
    rise = gap(fast, lag(fast, 1))
    run = run_above(smaller(gap(fast, slow), rise), 0.0, window)
    inputs = {"fast_ema": fast, "slow_sma": slow, "rise": rise, "bars_above_and_rising": run}
    return inputs, lambda fast, slow, rise, run: run >= window


def _macd_cross(side: float, fast: int = 12, slow: int = 26, signal: int = 9) -> Rule:
    line = macd(fast, slow)
    return (_crosses_up if side > 0 else _crosses_down)(("macd", line), ("macd_signal", ema(signal, line)))


def _combo_inputs(params: Params) -> dict[str, Feature]:
    mean = sma(_int(params, "vol_ma"), VOLUME)
    return {"rsi": rsi(), "macd_per_atr": ratio(macd(), atr()), "volume": VOLUME, "volume_mean": mean}


def _combo_entry(params: Params) -> Rule:
    low, strong = _int(params, "rsi_buy"), float(params["macd_buy"])
    return _combo_inputs(params), lambda x, macd, volume, mean: (x < low) & (macd > strong) & (volume > mean)


def _combo_exit(params: Params) -> Rule:
    high, weak, votes = _int(params, "rsi_sell"), float(params["macd_sell"]), _int(params, "min_votes")
    if not 1 <= votes <= 3:
        raise BadConfiguration(f"min_votes is 1, 2 or 3 of three, not {votes}")

    def test(x: FloatArray, macd: FloatArray, volume: FloatArray, mean: FloatArray) -> BoolArray:
        a, b, c = x > high, macd < weak, volume < mean
        return (a | b | c, (a & b) | (a & c) | (b & c), a & b & c)[votes - 1]

    return _combo_inputs(params), test


def _named(table: Mapping[str, Feature], params: Params, name: str) -> Feature:
    if params[name] not in table:
        raise BadConfiguration(f"{name} is one of {', '.join(table)}, not {params[name]!r}")
    return table[str(params[name])]


def _spread(params: Params) -> dict[str, Feature]:
    """How far the bar reached, and how far it usually does: both fractions of the price."""
    return {"range": _named(RANGES, params, "range_col"), "volatility": _named(VOLATILITIES, params, "volatility_col")}


def _breakout(side: float, params: Params) -> Rule:
    threshold, n = float(params["threshold"]), _int(params, "sma")
    inputs = {**_spread(params), "close": CLOSE, f"sma_{n}": sma(n)}
    if side > 0:
        return inputs, lambda range_, usual, close, mean: (range_ > threshold * usual) & (close > mean)
    return inputs, lambda range_, usual, close, mean: (range_ > threshold * usual) & (close < mean)


def _volatility_spike(params: Params) -> Rule:
    mult = float(params["mult"])
    return _spread(params), lambda range_, usual: range_ > mult * usual


def _return_or_volatility(params: Params) -> Rule:
    threshold, mult = float(params["threshold"]), float(params["mult"])
    inputs = {"pct_return": change(1), **_spread(params)}
    return inputs, lambda moved, range_, usual: (moved < threshold) | (range_ > mult * usual)


def _busy(mean: Feature, threshold: float) -> Rule:
    return {"volume": VOLUME, "volume_mean": mean}, lambda volume, mean: volume > threshold * mean


def _surge_ended(params: Params) -> Rule:
    """Bars since volume - threshold·mean was above 0, which is when VolumeSurgeEntry with these arguments was true."""
    hold = _int(params, "hold_bars")
    usual = scaled(lag(sma(_int(params, "ma_window"), VOLUME), 1), float(params["threshold"]))
    return {"bars_since_surge": since_above(gap(VOLUME, usual), 0.0)}, lambda since: since >= hold


def _vwap_distance(side: float, params: Params) -> Rule:
    return _beyond(side, "vwap_distance", distance(VWAP, vwap(_int(params, "vwap"))), side * float(params["dev"]))


def _long_wick(params: Params, *, upper: bool) -> Rule:
    length = float(params["ratio"])
    inputs = {"upper_wick" if upper else "lower_wick": wick(upper=upper), "body": body(), "close": CLOSE}
    return inputs, lambda wick, body, close: wick > length * np.maximum(body, 1e-4 * close)


def _below_high(params: Params) -> Rule:
    stop = float(params["stop_pct"])
    if not 0.0 < stop < 1.0:
        raise BadConfiguration(f"stop_pct lies in (0, 1), not {stop}")
    inputs = {"price": _price(params), "highest": highest(_int(params, "lookback"), _price(params))}
    return inputs, lambda price, high: price < high * (1.0 - stop)


def _hours(params: Params, *, closed: bool) -> Rule:
    """The bar ends in [start_hour, end_hour) of New York, or at the end of it if that is included."""
    start, end = _int(params, "start_hour"), _int(params, "end_hour")
    if not 0 <= start < end <= 24:
        raise BadConfiguration(f"hours rise within a day, not from {start} to {end}")
    last = 60 * end + closed
    return {"minute_of_day": Feature("minute_of_day")}, lambda at: (at >= 60 * start) & (at < last)


_PRICE = {"price": tuple(PRICES)}
_BOLLINGER = (integer("window", 10, 30, 20), choice("num_std", (1.0, 1.5, 2.0, 2.5), 2.0))
_MOMENTUM = (
    integer("lookback", 2, 30, 10), return_threshold("threshold", 0.005, 0.10, 0.02),
    choice("smooth_window", (0, 3, 5, 10), 0), integer("confirmation_periods", 1, 5, 1),
)  # fmt: skip
_SMA_CROSS = (integer("short_window", 5, 50, 50), integer("gap", 20, 150, 150))
_LONG = gap_above("short_window", "gap", "long_window")
_PAIR = split_pair("pair", "fast", "slow")
_SMA_200, _SMA_50, _MA = choice("sma", S6, 200), choice("sma", S6, 50), choice("ma", MAS, "sma_20")
_VOL_MA = choice("vol_ma", VM5, 20)
_VOLATILITY = choice("volatility_col", tuple(VOLATILITIES), "volatility_20")
_RANGE = choice("range_col", tuple(RANGES), "range_pct")
_BREAKOUT = (number("threshold", 1.0, 4.0, 2.0), choice("sma", S6, 20), _VOLATILITY, _RANGE)
_SURGE = (number("threshold", 1.2, 4.0, 2.0), integer("ma_window", 10, 50, 20))
_VWAP = (return_threshold("dev", 0.005, 0.05, 0.01), choice("vwap", S6, 20))
_WICK = (number("ratio", 1.2, 4.0, 2.0),)
_STOP = return_threshold("stop_pct", 0.02, 0.20, 0.05)


def _crossover_specs(confirm: str) -> tuple[ParamSpec, ...]:
    return (
        integer("short_window", 5, 20, 10), integer("gap", 10, 180, 40), choice("trend_window", (100, 200, 300), 200),
        integer("volume_ma_window", 10, 30, 20), choice("ma_type", ("EMA", "SMA"), "EMA"),
        choice("confirm", ("none", "trend", "volume", "both"), confirm),
    )  # fmt: skip


def _negative_threshold(params: Params) -> Params:
    """A loss of 0.02 is a return of -0.02: the logarithmic dimension is the size of the loss."""
    return {("threshold" if k == "loss" else k): (-float(v) if k == "loss" else v) for k, v in params.items()}


_ROWS = (
    ConditionRow(
        "ADXAboveThreshold", (integer("threshold", 20, 50, 25),),
        build=lambda p: _beyond(1.0, "adx", adx(), p["threshold"]),
    ),
    ConditionRow(
        "ADXBelowThreshold", (integer("threshold", 10, 40, 25),),
        build=lambda p: _beyond(-1.0, "adx", adx(), p["threshold"]),
    ),
    ConditionRow("BollingerBandsEntry", _BOLLINGER, optional=_PRICE, build=lambda p: _bollinger(-1.0, p)),
    ConditionRow("BollingerBandsExit", _BOLLINGER, optional=_PRICE, build=lambda p: _bollinger(1.0, p)),
    ConditionRow(
        "BooleanColumnEntry", (), constant("column", "entry_signal"),
        build=lambda p: _beyond(1.0, "is_true", extra(str(p["column"])), 0.5),
    ),
    ConditionRow(
        "ComboEntry", (integer("rsi_buy", 30, 60, 50), number("macd_buy", -1.0, 0.5, 0.0), _VOL_MA), build=_combo_entry
    ),
    ConditionRow(
        "ComboExit",
        (
            integer("rsi_sell", 55, 80, 60), number("macd_sell", -0.5, 1.0, 0.0), _VOL_MA,
            integer("min_votes", 1, 2, 2),
        ),
        build=_combo_exit,
    ),
    ConditionRow(
        "EMAAboveSMARolling", (choice("pair", EMA_SMA_PAIRS, "20/50"), integer("window", 2, 20, 3)), _PAIR,
        build=_ema_above_sma,
    ),
    ConditionRow("MACDBearishCross", (), build=lambda p: _macd_cross(-1.0)),
    ConditionRow("MACDBullishCross", (), build=lambda p: _macd_cross(1.0)),
    ConditionRow("MomentumEntry", _MOMENTUM, build=lambda p: _momentum(1.0, p)),
    ConditionRow("MomentumExit", _MOMENTUM, build=lambda p: _momentum(-1.0, p)),
    ConditionRow("MovingAverageCrossoverEntry", _crossover_specs("both"), _LONG, _PRICE, build=lambda p: _crossover(1.0, p)),
    ConditionRow("MovingAverageCrossoverExit", _crossover_specs("none"), _LONG, _PRICE, build=lambda p: _crossover(-1.0, p)),
    ConditionRow("MovingAverageEntry", _SMA_CROSS, _LONG, build=lambda p: _sma_cross(1.0, p)),
    ConditionRow("MovingAverageExit", _SMA_CROSS, _LONG, build=lambda p: _sma_cross(-1.0, p)),
    ConditionRow("PriceAboveSMA", (_SMA_200,), optional=_PRICE, build=lambda p: _sma_level(1.0, p)),
    ConditionRow("PriceBelowSMA", (_SMA_200,), optional=_PRICE, build=lambda p: _sma_level(-1.0, p)),
    ConditionRow(
        "PriceCrossesAboveSMA", (_SMA_50,), optional=_PRICE, build=lambda p: _price_cross(1.0, p, f"sma_{p['sma']}")
    ),
    ConditionRow(
        "PriceCrossesBelowSMA", (_SMA_50,), optional=_PRICE, build=lambda p: _price_cross(-1.0, p, f"sma_{p['sma']}")
    ),
    ConditionRow("PullbackEntry", (_MA,), optional=_PRICE, build=lambda p: _price_cross(1.0, p, str(p["ma"]))),
    ConditionRow("PullbackExit", (_MA,), optional=_PRICE, build=lambda p: _price_cross(-1.0, p, str(p["ma"]))),
    ConditionRow(
        "ReturnVolatilityExit",
        (return_threshold("loss", 0.01, 0.10, 0.02), number("mult", 1.5, 4.0, 3.0), _RANGE, _VOLATILITY),
        _negative_threshold, build=_return_or_volatility,
    ),
    ConditionRow(
        "RSIAboveThreshold", (integer("threshold", 50, 85, 70),),
        build=lambda p: _beyond(1.0, "rsi", rsi(), p["threshold"]),
    ),
    ConditionRow(
        "RSIBelowThreshold", (integer("threshold", 15, 50, 30),),
        build=lambda p: _beyond(-1.0, "rsi", rsi(), p["threshold"]),
    ),
    ConditionRow(
        "RSIEntry", (integer("period", 5, 30, 14), integer("oversold", 20, 40, 30)),
        build=lambda p: _beyond(-1.0, "rsi", rsi(_int(p, "period")), p["oversold"]),
    ),
    ConditionRow(
        "RSIExit", (integer("period", 5, 30, 14), integer("overbought", 60, 80, 70)),
        build=lambda p: _beyond(1.0, "rsi", rsi(_int(p, "period")), p["overbought"]),
    ),
    ConditionRow(
        "SMATrend", (choice("pair", SMA_PAIRS, "50/200"),), _PAIR,
        build=lambda p: _above(("fast_sma", sma(_int(p, "fast"))), ("slow_sma", sma(_int(p, "slow")))),
    ),
    ConditionRow(
        "TimeOfDayEntry", (integer("start_hour", 9, 12, 10), integer("len", 1, 3, 2)),
        gap_above("start_hour", "len", "end_hour"), intraday=True, build=lambda p: _hours(p, closed=False),
    ),
    ConditionRow(
        "TimeOfDayExit", (integer("start_hour", 10, 15, 14),), constant("end_hour", 16), intraday=True,
        build=lambda p: _hours(p, closed=True),
    ),
    ConditionRow("TrailingStopExit", (integer("lookback", 10, 100, 50), _STOP), optional=_PRICE, build=_below_high),
    ConditionRow("TrendAboveSMA", (_SMA_200,), optional=_PRICE, build=lambda p: _sma_level(1.0, p)),
    ConditionRow("VolatilityBreakoutEntry", _BREAKOUT, build=lambda p: _breakout(1.0, p)),
    ConditionRow("VolatilityBreakoutExit", _BREAKOUT, build=lambda p: _breakout(-1.0, p)),
    ConditionRow("VolatilitySpike", (number("mult", 1.5, 4.0, 2.0), _VOLATILITY, _RANGE), build=_volatility_spike),
    ConditionRow(
        "VolumeSurge", (number("threshold", 1.2, 4.0, 2.0), _VOL_MA),
        build=lambda p: _busy(sma(_int(p, "vol_ma"), VOLUME), float(p["threshold"])),
    ),
    ConditionRow(
        "VolumeSurgeEntry", _SURGE,
        build=lambda p: _busy(lag(sma(_int(p, "ma_window"), VOLUME), 1), float(p["threshold"])),
    ),
    ConditionRow("VolumeSurgeExit", (*_SURGE, integer("hold_bars", 1, 30, 5)), build=_surge_ended),
    ConditionRow("VWAPReversionEntry", _VWAP, build=lambda p: _vwap_distance(-1.0, p)),
    ConditionRow("VWAPReversionExit", _VWAP, build=lambda p: _vwap_distance(1.0, p)),
    ConditionRow("WickReversalEntry", _WICK, build=lambda p: _long_wick(p, upper=False)),
    ConditionRow("WickReversalExit", _WICK, build=lambda p: _long_wick(p, upper=True)),
)  # fmt: skip
CONDITIONS = {row.name: row for row in _ROWS}


def condition(
    name: str, given: Mapping[str, object], timeframe: Timeframe, columns: Collection[str] | None = ()
) -> Condition:
    """Build a condition by name; `columns` are the extra ones that the bars will have (None: not known before they are there).

    Raises UnknownName, BadConfiguration or UnsupportedTimeframe.
    """
    if name not in CONDITIONS:
        raise UnknownName("condition", name, CONDITIONS)
    row = CONDITIONS[name]
    if not row.supports(timeframe):
        raise UnsupportedTimeframe(f"{name} asks for the time of day, which {timeframe.value} bars do not have")
    params = row.fill(given, timeframe)
    inputs, test = row.build(params)
    for feature in inputs.values():
        if feature.extra is not None and columns is not None and feature.extra not in columns:
            raise BadConfiguration(f"{name} reads the extra column {feature.extra!r}, which nobody declared")
    return Condition(name, params, inputs, test)


@dataclass(frozen=True, slots=True)
class Logic:
    """A rule that knows the position: conditions that hold without it, and the prices and counts it watches.

    Entry if `entry` holds; exit if in a position and `exit` holds, or the close is below the highest close since the
    entry times (1 - stop_pct), or at least the entry price times (1 + profit_target_pct); no entry while flat and fewer
    than `cooldown` bars have passed since the exit. Stops look at closes only and do not wait for any feature.
    """

    name: str
    params: Params
    entry: Condition | None = None
    exit: Condition | None = None
    stop_pct: float = 1.0  # never breached: a close is positive
    profit_target_pct: float = math.inf  # never reached
    cooldown: int = 0
    rule: "OwnRule | None" = None  # a user's function that asks for signals and knows the position


@dataclass(frozen=True, slots=True)
class LogicRow(Component):
    make: Callable[[Params], Logic] = field(kw_only=True)


def _trailing_stop(params: Params) -> Logic:
    stop, cooldown = float(params["stop_pct"]), _int(params, "reentry_cooldown")
    return Logic("TrailingStop", params, stop_pct=stop, cooldown=cooldown)


def _mean_reversion(params: Params) -> Logic:
    threshold = float(params["threshold"])
    inputs = {"deviation": distance(CLOSE, sma(_int(params, "window")))}
    return Logic(
        "MeanReversion", params,
        entry=Condition("MeanReversion.entry", params, inputs, lambda x: x < -threshold),
        exit=Condition("MeanReversion.exit", params, inputs, lambda x: x > threshold),
        stop_pct=float(params["stop_pct"]), profit_target_pct=float(params["profit_target_pct"]),
        cooldown=_int(params, "reentry_cooldown"),
    )  # fmt: skip


def _macd_trailing(params: Params) -> Logic:
    fast, slow, signal = (_int(params, name) for name in ("fast", "slow", "signal"))
    if not 1 <= fast < slow:
        raise BadConfiguration(f"fast {fast} must be at least 1 and below slow {slow}")
    return Logic(
        "MACDTrailing", params,
        entry=Condition("MACDTrailing.entry", params, *_macd_cross(1.0, fast, slow, signal)),
        exit=Condition("MACDTrailing.exit", params, *_macd_cross(-1.0, fast, slow, signal)),
        stop_pct=float(params["stop_pct"]),
    )  # fmt: skip


LOGICS = {
    row.name: row
    for row in (
        LogicRow(
            "MACDTrailing",
            (integer("fast", 8, 16, 12), integer("gap", 8, 20, 14), integer("signal", 7, 13, 9), _STOP),
            gap_above("fast", "gap", "slow"), make=_macd_trailing,
        ),
        LogicRow("TrailingStop", (_STOP, integer("reentry_cooldown", 0, 20, 0)), make=_trailing_stop),
        LogicRow(
            "MeanReversion",
            (
                integer("window", 5, 50, 20), return_threshold("threshold", 0.005, 0.06, 0.02), _STOP,
                return_threshold("profit_target_pct", 0.01, 0.20, 0.04), integer("reentry_cooldown", 0, 30, 5),
            ),
            make=_mean_reversion,
        ),
    )
}  # fmt: skip


def logic(name: str, given: Mapping[str, object], timeframe: Timeframe) -> Logic:
    """Build a stateful logic by name; raises UnknownName or BadConfiguration."""
    if name not in LOGICS:
        raise UnknownName("stateful logic", name, LOGICS)
    params = LOGICS[name].fill(given, timeframe)
    made = LOGICS[name].make(params)
    never_stops = "stop_pct" not in params
    if not ((never_stops or 0.0 < made.stop_pct < 1.0) and made.profit_target_pct > 0.0 and made.cooldown >= 0):
        raise BadConfiguration(f"{name}: stop_pct lies in (0, 1), targets and cooldowns are not negative: {params}")
    return made
