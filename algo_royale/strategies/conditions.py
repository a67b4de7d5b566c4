"""Conditions and stateful logic: one table row each. What a bar must look like, as a function of named features.

A condition has no memory of its own: anything it needs from earlier bars (a previous difference, a run of bars) is a
feature. So it can be shown with its inputs, and any NaN among the inputs it names makes it false.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from algo_royale.errors import BadConfiguration, UnknownName
from algo_royale.features import (
    CLOSE,
    PRICES,
    VOLUME,
    Feature,
    band,
    change,
    distance,
    ema,
    finite,
    gap,
    lag,
    moving_average,
    rsi,
    run_above,
    sma,
)  # fmt: skip
from algo_royale.market import BoolArray, FloatArray, Timeframe
from algo_royale.strategies.space import (
    Params,
    ParamSpec,
    Shape,
    Value,
    choice,
    gap_above,
    identity,
    integer,
    return_threshold,
    split_pair,
)  # fmt: skip

Test = Callable[..., BoolArray]
Rule = tuple[dict[str, Feature], Test]  # named inputs, and the test over their values in that order
Build = Callable[[Params], Rule]

S6 = (10, 20, 50, 100, 150, 200)
MAS = (*(f"sma_{n}" for n in S6), *(f"ema_{n}" for n in (9, 10, 20, 26, 50, 100, 150, 200)))
SMA_PAIRS = tuple(f"{a}/{b}" for a in (10, 20, 50, 100) for b in (100, 150, 200) if a < b)


@dataclass(frozen=True, slots=True)
class Component:
    """One row: what may be searched, how a trial becomes arguments, and what the arguments make."""

    name: str
    specs: tuple[ParamSpec, ...]
    resolve: Callable[[Params], Params] = identity
    optional: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def space(self, timeframe: Timeframe) -> tuple[ParamSpec, ...]:
        return tuple(spec.at(timeframe) for spec in self.specs)

    def fill(self, given: Mapping[str, object], timeframe: Timeframe) -> Params:
        """Complete and check constructor arguments."""
        defaults = self.resolve({spec.name: spec.default for spec in self.space(timeframe)})
        return Shape(self.name, defaults, self.optional).fill(given)


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
    run = run_above(moved if side > 0 else Feature("negative", (moved,)), float(params["threshold"]))
    confirm = _int(params, "confirmation_periods")
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


def _rsi(side: float, params: Params) -> Rule:
    inputs = {"rsi": rsi(_int(params, "period"))}
    if side > 0:
        overbought = _int(params, "overbought")
        return inputs, lambda x: x > overbought
    oversold = _int(params, "oversold")
    return inputs, lambda x: x < oversold


def _above_sma(params: Params) -> Rule:
    n = _int(params, "sma")
    return _above(("price", _price(params)), (f"sma_{n}", sma(n)))


_PRICE = {"price": tuple(PRICES)}
_BOLLINGER = (integer("window", 10, 30, 20), choice("num_std", (1.0, 1.5, 2.0, 2.5), 2.0))
_MOMENTUM = (
    integer("lookback", 2, 30, 10), return_threshold("threshold", 0.005, 0.10, 0.02),
    choice("smooth_window", (0, 3, 5, 10), 0), integer("confirmation_periods", 1, 5, 1),
)  # fmt: skip
_SMA_CROSS = (integer("short_window", 5, 50, 50), integer("gap", 20, 150, 150))
_LONG = gap_above("short_window", "gap", "long_window")


def _crossover_specs(confirm: str) -> tuple[ParamSpec, ...]:
    return (
        integer("short_window", 5, 20, 10), integer("gap", 10, 180, 40), choice("trend_window", (100, 200, 300), 200),
        integer("volume_ma_window", 10, 30, 20), choice("ma_type", ("EMA", "SMA"), "EMA"),
        choice("confirm", ("none", "trend", "volume", "both"), confirm),
    )  # fmt: skip


_ROWS = (
    ConditionRow("BollingerBandsEntry", _BOLLINGER, optional=_PRICE, build=lambda p: _bollinger(-1.0, p)),
    ConditionRow("BollingerBandsExit", _BOLLINGER, optional=_PRICE, build=lambda p: _bollinger(1.0, p)),
    ConditionRow("MomentumEntry", _MOMENTUM, build=lambda p: _momentum(1.0, p)),
    ConditionRow("MomentumExit", _MOMENTUM, build=lambda p: _momentum(-1.0, p)),
    ConditionRow("MovingAverageCrossoverEntry", _crossover_specs("both"), _LONG, _PRICE, build=lambda p: _crossover(1.0, p)),
    ConditionRow("MovingAverageCrossoverExit", _crossover_specs("none"), _LONG, _PRICE, build=lambda p: _crossover(-1.0, p)),
    ConditionRow("MovingAverageEntry", _SMA_CROSS, _LONG, build=lambda p: _sma_cross(1.0, p)),
    ConditionRow("MovingAverageExit", _SMA_CROSS, _LONG, build=lambda p: _sma_cross(-1.0, p)),
    ConditionRow("PriceAboveSMA", (choice("sma", S6, 200),), optional=_PRICE, build=_above_sma),
    ConditionRow(
        "PullbackEntry", (choice("ma", MAS, "sma_20"),), optional=_PRICE,
        build=lambda p: _crosses_up(("price", _price(p)), (str(p["ma"]), moving_average(str(p["ma"])))),
    ),
    ConditionRow("RSIEntry", (integer("period", 5, 30, 14), integer("oversold", 20, 40, 30)), build=lambda p: _rsi(-1.0, p)),
    ConditionRow("RSIExit", (integer("period", 5, 30, 14), integer("overbought", 60, 80, 70)), build=lambda p: _rsi(1.0, p)),
    ConditionRow(
        "SMATrend", (choice("pair", SMA_PAIRS, "50/200"),), split_pair("pair", "fast", "slow"),
        build=lambda p: _above(("fast_sma", sma(_int(p, "fast"))), ("slow_sma", sma(_int(p, "slow")))),
    ),
    ConditionRow("TrendAboveSMA", (choice("sma", S6, 200),), optional=_PRICE, build=_above_sma),
)  # fmt: skip
CONDITIONS = {row.name: row for row in _ROWS}


def condition(name: str, given: Mapping[str, object], timeframe: Timeframe) -> Condition:
    """Build a condition by name; raises UnknownName or BadConfiguration."""
    if name not in CONDITIONS:
        raise UnknownName("condition", name, CONDITIONS)
    params = CONDITIONS[name].fill(given, timeframe)
    inputs, test = CONDITIONS[name].build(params)
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


_STOP = return_threshold("stop_pct", 0.02, 0.20, 0.05)
LOGICS = {
    row.name: row
    for row in (
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
    if not (0.0 < made.stop_pct < 1.0 and made.profit_target_pct > 0.0 and made.cooldown >= 0):
        raise BadConfiguration(f"{name}: stop_pct lies in (0, 1), targets and cooldowns are not negative: {params}")
    return made
