"""Features: values per bar that depend on the past only, as small expressions over a few compiled kernels.

A `Feature` is an expression (an operation over other features). A `Program` orders the features a strategy needs and
lays their memories out in one float64 array; running it over a chunk of bars reads and advances that memory. Feeding
bars one by one or all at once gives the same bits: sums over a window are exact and rounded once, deviations are computed
anew over their window in a fixed order (oldest to newest), recursive statistics carry their value, and element-wise
arithmetic is exact per IEEE 754. The kernels are in machine.py.

Warm-up is NaN, never zero: `lb` is the index of the first finite value. `settle` is the number of bars after which the
choice of the first bar changes a value by less than 1e-9 relative.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from algo_royale.errors import BadConfiguration, BadMarketData
from algo_royale.machine import NUMBER, WINDOW_MAX, operate_whole
from algo_royale.market import Bars, BoolArray, FloatArray, IntArray, Timeframe
from algo_royale.sessions import new_york_clock_ns

NEVER = 10**9  # settle of running totals: their level always depends on where they began


# Operations: each is run(feature, inputs, memory) -> values, and may change its memory in place.

Memory = FloatArray
Run = Callable[["Feature", list[FloatArray], Memory], FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One operation over other features. `n` is its window, lag or span in bars; `level` a number it compares with.

    `own` is an operation that is not in the table: somebody's own function, which `op` then names with its arguments.
    """

    op: str
    inputs: tuple["Feature", ...] = ()
    n: int = 0
    level: float = 0.0
    own: "Operation | None" = None
    key: str = field(init=False)
    searched: bool = field(init=False)  # whether it depends on a number drawn from a continuum

    def __post_init__(self) -> None:
        operation = self.operation
        n_min = operation.n_min if operation else 0
        if not n_min <= self.n <= WINDOW_MAX:
            raise BadConfiguration(f"{self.op}: a window of {self.n} bars is outside {n_min}..{WINDOW_MAX}")
        parts = [x.key for x in self.inputs]
        if self.n:
            parts.append(str(self.n))
        if self.level:
            parts.append(repr(self.level))
        drawn = self.level != 0.0 or (self.own is not None and self.own.searched)
        object.__setattr__(self, "key", f"{self.op}({','.join(parts)})" if parts else self.op)
        object.__setattr__(self, "searched", drawn or any(x.searched for x in self.inputs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Feature) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def lb(self) -> int:
        """Index of the first finite value."""
        return max((x.lb for x in self.inputs), default=0) + (
            self.operation.warm_up(self.n)[0] if self.operation else 0
        )

    @property
    def decay(self) -> int:
        """Bars after the first value until the origin no longer matters."""
        own = self.operation.warm_up(self.n)[1] if self.operation else 0
        return max((x.decay for x in self.inputs), default=0) + own

    @property
    def operation(self) -> "Operation | None":
        """How it is computed from its inputs; None for a column of the bars."""
        return self.own or _OPS.get(self.op)

    @property
    def extra(self) -> str | None:
        """The extra column of the bars that this is, if it is one."""
        return self.op.removeprefix(_EXTRA) if self.op.startswith(_EXTRA) else None

    @property
    def settle(self) -> int:
        """Bars after which the origin no longer matters (1e-9 relative)."""
        return self.lb + self.decay


@dataclass(frozen=True, slots=True)
class Operation:
    """How values follow from the inputs' and from a memory of fixed length; `searched` if a continuum is drawn from."""

    run: Run
    warm_up: Callable[[int], tuple[int, int]] = lambda n: (0, 0)  # (bars until finite, bars until settled after that)
    memory: Callable[[int], FloatArray] = lambda n: np.empty(0)
    n_min: int = 0
    searched: bool = False
    number: int = -1  # what the compiled machine calls it; -1 for somebody's own function
    dear: bool = False  # whether it costs enough to be kept across trials of an optimisation


_Op = Operation


def _compiled(name: str, **about: Any) -> Operation:
    """An operation of the compiled machine on whole arrays."""
    number = NUMBER[name]

    def run(feature: Feature, inputs: list[FloatArray], memory: Memory) -> FloatArray:
        out = np.empty(len(inputs[0]))
        a, b, c, d = (*inputs, *[inputs[0]] * 3)[:4]
        operate_whole(number, feature.n, feature.level, a, b, c, d, memory, out)
        return out

    return Operation(run=run, number=number, **about)


def _windowed(name: str) -> Operation:
    """An operation over the last n inputs. NaN as the missing past makes every incomplete window NaN by itself."""
    return _compiled(name, warm_up=lambda n: (n - 1, 0), memory=lambda n: np.full(n - 1, np.nan), n_min=1, dear=True)


def _deviation(name: str, n_min: int) -> Operation:
    # The second input is the mean, which already waits for the window, so it adds nothing to the warm-up.
    return _compiled(name, memory=lambda n: np.full(n - 1, np.nan), n_min=n_min, dear=True)


def _recursive(name: str, decay: int) -> Operation:
    return _compiled(
        name, warm_up=lambda n: (n - 1, decay * n), memory=lambda n: np.zeros(2), n_min=1, dear=True
    )  # fmt: skip


_OPS: dict[str, Operation] = {
    "lag": _compiled("lag", warm_up=lambda n: (n, 0), memory=lambda n: np.full(n, np.nan), n_min=1),
    "sum": _windowed("sum"),
    "mean": _windowed("mean"),
    "sd0": _deviation("sd0", 1),
    "sd1": _deviation("sd1", 2),
    "ema": _recursive("ema", 11),
    "rma": _recursive("rma", 21),
    # A run of n bars is known after n bars: where there are fewer, counting from a later bar gives less.
    "run_above": _compiled("run_above", warm_up=lambda n: (0, n - 1), memory=lambda n: np.zeros(1), n_min=1),
    "since_above": _compiled("since_above", memory=lambda n: np.full(1, np.inf)),
    "highest": _windowed("highest"),
    "cumulative": _compiled("cumulative", warm_up=lambda n: (0, NEVER), memory=lambda n: np.zeros(1)),
    "logarithm": _compiled("logarithm", dear=True),
    # The first bar counts as unchanged: the one bar that its input waits for is given back.
    "signed": _compiled("signed", warm_up=lambda n: (-1, 0)),
    **{
        name: _compiled(name)
        for name in (
            "subtract", "negative", "ratio", "change", "gain", "loss", "strength", "band", "scaled", "times", "size",
            "larger", "smaller", "directional", "index", "imbalance", "position", "percent", "pressure",
        )
    },
}  # fmt: skip
_COLUMNS: dict[str, Callable[[Bars], FloatArray]] = {
    "open": lambda bars: bars.open,
    "high": lambda bars: bars.high,
    "low": lambda bars: bars.low,
    "close": lambda bars: bars.close,
    "volume": lambda bars: bars.volume,
    "hlc3": lambda bars: (bars.high + bars.low + bars.close) / 3.0,
    "vwap": lambda bars: np.where(np.isnan(bars.vwap), (bars.high + bars.low + bars.close) / 3.0, bars.vwap),
    "hour": lambda bars: _clock(bars.start_ns, 60, 24),
    "minute": lambda bars: _clock(bars.start_ns, 1, 60),
    # 1970-01-01 was a Thursday, and Monday is 0.
    "day_of_week": lambda bars: _clock(bars.start_ns, 1440, 7, first=3),
    "minute_of_day": lambda bars: _clock(bars.end_ns, 1, 1440),
    "minutes": lambda bars: _clock(bars.start_ns, 1, 2**62 // (60 * 10**9)),  # since 1970-01-01 00:00, New York's clock
}
_EXTRA = "extra:"


def _clock(at_ns: IntArray, unit_minutes: int, modulus: int, first: int = 0) -> FloatArray:
    """Whole units since 1970-01-01 00:00, as a clock in New York shows them, plus `first`; modulo."""
    shown: FloatArray = ((new_york_clock_ns(at_ns) // (unit_minutes * 60 * 10**9) + first) % modulus).astype(np.float64)
    return shown


def _extra_column(bars: Bars, name: str) -> FloatArray:
    if name not in bars.extra:
        raise BadMarketData(
            f"{bars.symbol}: the bars have no extra column {name!r} (they have: {', '.join(bars.extra)})"
        )
    return bars.extra[name].astype(np.float64)


class FeatureCache:
    """Values of features over one `Bars` from its first bar, kept across trials of an optimisation.

    With or without it results are the same; `bytes_max` bounds what is kept. Features that depend on a `level` are not
    kept: a search draws those from a continuum.
    """

    def __init__(self, bars: Bars, bytes_max: int = 256 * 2**20) -> None:
        self.bars = bars
        n_rows = min(bytes_max // (8 * len(bars)), 4096) if len(bars) else 0
        self.values = np.empty((n_rows, len(bars)))  # a row takes memory when it is first written to
        self.rows: dict[str, int] = {}  # which row holds a feature, by key
        self._shown: dict[str, FloatArray] = {}

    def get(self, key: str) -> FloatArray | None:
        """The values of a feature, read-only, if they are kept."""
        if key not in self.rows:
            return None
        if key not in self._shown:
            self._shown[key] = self.values[self.rows[key]]
            self._shown[key].flags.writeable = False
        return self._shown[key]

    def reserve(self, feature: Feature) -> int | None:
        """A row for the feature, which the caller fills at once; None if it is not to be kept or there is no room."""
        if feature.searched or len(self.rows) == len(self.values):
            return None
        return self.rows.setdefault(feature.key, len(self.rows))

    def put(self, feature: Feature, values: FloatArray) -> None:
        """Keep the values of a feature, if they are to be kept and there is room."""
        row = self.reserve(feature)
        if row is not None:
            self.values[row] = values


class Program:
    """The features a strategy needs, inputs before users, and the layout of their memories in one array."""

    def __init__(self, wanted: Iterable[Feature]) -> None:
        self.features: list[Feature] = []
        self._slots: list[slice] = []
        self._add(wanted, set())
        initial = [f.operation.memory(f.n) if f.operation else np.empty(0) for f in self.features]
        ends = np.cumsum([0, *(len(x) for x in initial)]).tolist()
        self._slots = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.initial: FloatArray = np.concatenate([np.empty(0), *initial])
        self.settle = max((f.settle for f in self.features), default=0)

    @property
    def slots(self) -> dict[str, slice]:
        """Where in the memory that of each feature lies."""
        return {feature.key: slot for feature, slot in zip(self.features, self._slots, strict=True)}

    def _add(self, wanted: Iterable[Feature], seen: set[str]) -> None:
        for feature in wanted:
            if feature.key not in seen:
                self._add(feature.inputs, seen)
                seen.add(feature.key)
                self.features.append(feature)

    def run(self, bars: Bars, memory: FloatArray) -> dict[str, FloatArray]:
        """Values of every feature at every bar, by key. `memory` (shape of `initial`) is advanced in place."""
        values: dict[str, FloatArray] = {}
        for feature, slot in zip(self.features, self._slots, strict=True):
            values[feature.key] = _values(feature, bars, values, memory[slot])
        return values

    def run_cached(self, cache: FeatureCache) -> dict[str, FloatArray]:
        """As `run` from the first bar of the cache's bars, computing only what no earlier call has computed."""
        values: dict[str, FloatArray] = {}
        missing = []
        for feature, slot in zip(self.features, self._slots, strict=True):
            kept = cache.get(feature.key)
            if kept is None:
                missing.append((feature, slot))
            else:
                values[feature.key] = kept
        for feature, slot in missing:
            values[feature.key] = _values(feature, cache.bars, values, self.initial[slot].copy())
            if feature.operation is not None:  # columns are there already
                cache.put(feature, values[feature.key])
                values[feature.key] = found if (found := cache.get(feature.key)) is not None else values[feature.key]
        return values


def column(feature: Feature, bars: Bars) -> FloatArray:
    """The values of a feature that is a column of the bars."""
    if feature.extra is not None:
        return _extra_column(bars, feature.extra)
    return np.ascontiguousarray(_COLUMNS[feature.op](bars))


def _values(feature: Feature, bars: Bars, values: dict[str, FloatArray], memory: Memory) -> FloatArray:
    operation = feature.operation
    if operation is None:
        return column(feature, bars)
    return operation.run(feature, [values[x.key] for x in feature.inputs], memory)


# The catalogue. Sources: Hunter 1986 (EMA), Wilder 1978 (RSI, RMA), Appel 1979 (MACD), Wilder 1978 (RSI, RMA, true
# range, directional movement), Bollinger 2001 (bands, population deviation), Lane 1984 (stochastics), Granville 1963
# (OBV), Chaikin (ADL), Berkowitz 1988 (VWAP).

_kept = lru_cache(maxsize=4096)  # a search and a grid ask for the same few again and again

OPEN, HIGH, LOW, CLOSE, VOLUME = (Feature(name) for name in ("open", "high", "low", "close", "volume"))
HLC3, VWAP = Feature("hlc3"), Feature("vwap")
PRICES = {"close": CLOSE, "open": OPEN, "hlc3": HLC3, "vwap": VWAP}


@_kept
def lag(x: Feature, n: int) -> Feature:
    """x_{t-n}."""
    return Feature("lag", (x,), n)


@_kept
def sma(n: int, x: Feature = CLOSE) -> Feature:
    """Mean of the last n values."""
    return Feature("mean", (x,), n)


@_kept
def ema(n: int, x: Feature = CLOSE) -> Feature:
    """Exponential average with weight 2/(n+1), seeded with the mean of the first n."""
    return Feature("ema", (x,), n)


@_kept
def rma(n: int, x: Feature) -> Feature:
    """Wilder's average: weight 1/n, seeded with the mean of the first n."""
    return Feature("rma", (x,), n)


def sd(n: int, x: Feature, *, ddof: int) -> Feature:
    """Standard deviation of the last n values, two-pass."""
    return Feature(f"sd{ddof}", (x, sma(n, x)), n)


def rsi(n: int = 14) -> Feature:
    """Wilder's relative strength index, 0..100; 50 where nothing moved."""
    previous = lag(CLOSE, 1)
    return Feature("strength", (rma(n, Feature("gain", (CLOSE, previous))), rma(n, Feature("loss", (CLOSE, previous)))))


def change(n: int, x: Feature = CLOSE) -> Feature:
    """x_t/x_{t-n} - 1, a fraction."""
    return Feature("change", (x, lag(x, n)))


def distance(x: Feature, base: Feature) -> Feature:
    """x/base - 1, a fraction."""
    return Feature("change", (x, base))


def band(n: int, deviations: float, x: Feature = CLOSE) -> Feature:
    """mean_n(x) + deviations·sd_n(x; ddof 0); a negative number gives the lower band."""
    return Feature("band", (sma(n, x), sd(n, x, ddof=0)), level=deviations)


@_kept
def gap(a: Feature, b: Feature) -> Feature:
    """a - b: its change of sign is a cross."""
    return Feature("subtract", (a, b))


def run_above(x: Feature, level: float, n: int) -> Feature:
    """How many bars in a row, counted up to n, x has been above the level; 0 where it is not."""
    return Feature("run_above", (x,), n, level)


def since_above(x: Feature, level: float) -> Feature:
    """How many bars ago x was above the level; 0 where it is, NaN where it has not been yet.

    What came before the first bar it does not know, so however long it runs, NaN may stand for a number.
    """
    return Feature("since_above", (x,), level=level)


def scaled(x: Feature, factor: float) -> Feature:
    """factor·x."""
    return Feature("scaled", (x,), level=factor)


def smaller(a: Feature, b: Feature) -> Feature:
    """The smaller one of a and b; NaN where one of them is."""
    return Feature("smaller", (a, b))


def extra(name: str) -> Feature:
    """1 where the bars' extra column of this name is true, else 0."""
    return Feature(_EXTRA + name)


def moving_average(name: str) -> Feature:
    """The average that `sma_20` or `ema_9` names."""
    kind, _, n = name.partition("_")
    if kind not in ("sma", "ema") or not n.isdecimal():
        raise BadConfiguration(f"{name!r} names no moving average; sma_20 and ema_9 do")
    return sma(int(n)) if kind == "sma" else ema(int(n))


def macd(fast: int = 12, slow: int = 26) -> Feature:
    """ema_fast - ema_slow of the close."""
    return gap(ema(fast), ema(slow))


def true_range() -> Feature:
    """Range of the bar including the close before it."""
    before = lag(CLOSE, 1)
    return gap(Feature("larger", (HIGH, before)), smaller(LOW, before))


def atr(n: int = 14) -> Feature:
    """Wilder's average true range."""
    return rma(n, true_range())


def highest(n: int, x: Feature) -> Feature:
    """Maximum of the last n values."""
    return Feature("highest", (x,), n)


def ratio(a: Feature, b: Feature) -> Feature:
    """a/b; NaN where b is 0."""
    return Feature("ratio", (a, b))


def body() -> Feature:
    """Size of the candle between open and close."""
    return Feature("size", (CLOSE, OPEN))


def wick(*, upper: bool) -> Feature:
    """What the bar reached beyond its body."""
    return gap(HIGH, Feature("larger", (OPEN, CLOSE))) if upper else gap(smaller(OPEN, CLOSE), LOW)


def directional_index(n: int, *, plus: bool) -> Feature:
    """Wilder's +DI or -DI, 0..100."""
    up, down = gap(HIGH, lag(HIGH, 1)), gap(lag(LOW, 1), LOW)
    movement = Feature("directional", (up, down) if plus else (down, up))
    return Feature("index", (rma(n, movement), atr(n)))


def adx(n: int = 14) -> Feature:
    """Wilder's average directional index, 0..100."""
    return rma(n, Feature("imbalance", (directional_index(n, plus=True), directional_index(n, plus=False))))


def stochastic(n: int = 14) -> Feature:
    """Where the close lies between the lowest low and the highest high of n bars, 0..100; 50 if they are equal."""
    lowest = Feature("negative", (highest(n, Feature("negative", (LOW,))),))
    return Feature("percent", (CLOSE, lowest, highest(n, HIGH)))


def vwap(n: int) -> Feature:
    """Mean price of n bars weighted by volume; NaN where nothing was traded."""
    return ratio(Feature("sum", (Feature("times", (VWAP, VOLUME)),), n), Feature("sum", (VOLUME,), n))


def log_return() -> Feature:
    """ln(c_t/c_{t-1})."""
    return Feature("logarithm", (ratio(CLOSE, lag(CLOSE, 1)),))


RANGES = {"range_pct": ratio(gap(HIGH, LOW), CLOSE), "atr_pct_14": ratio(atr(), CLOSE)}
VOLATILITIES = {  # per bar; hist_volatility_20 is named for what it is a year
    **{f"volatility_{n}": sd(n, change(1), ddof=1) for n in (10, 20, 50)},
    "hist_volatility_20": sd(20, log_return(), ddof=1),
}


def _bands() -> dict[str, Feature]:
    lower, upper = band(20, -2.0), band(20, 2.0)
    return {
        "bollinger_upper": upper,
        "bollinger_lower": lower,
        "bollinger_width": ratio(gap(upper, lower), sma(20)),
        "bollinger_pct_b": Feature("position", (CLOSE, lower, upper)),
    }


def _candles() -> dict[str, Feature]:
    return {
        "true_range": true_range(),
        "atr_14": atr(),
        "range": gap(HIGH, LOW),
        **RANGES,
        "body": body(),
        "upper_wick": wick(upper=True),
        "lower_wick": wick(upper=False),
        "gap": distance(OPEN, lag(CLOSE, 1)),
        "high_low_ratio": ratio(HIGH, LOW),
    }


def catalogue(timeframe: Timeframe) -> dict[str, Feature]:
    """Every named feature. Only the annualised volatility depends on the timeframe."""
    return {
        "pct_return": change(1),
        "log_return": log_return(),
        **{f"sma_{n}": sma(n) for n in (10, 20, 50, 100, 150, 200)},
        **{f"ema_{n}": ema(n) for n in (9, 10, 12, 20, 26, 50, 100, 150, 200)},
        "macd": macd(),
        "macd_signal": ema(9, macd()),
        "macd_hist": gap(macd(), ema(9, macd())),
        "rsi": rsi(),
        **VOLATILITIES,
        "hist_volatility_20": scaled(VOLATILITIES["hist_volatility_20"], math.sqrt(timeframe.bars_per_year)),
        **_candles(),
        **{f"vol_ma_{n}": sma(n, VOLUME) for n in (10, 20, 50, 100, 200)},
        "vol_change": change(1, VOLUME),
        **{f"vwap_{n}": vwap(n) for n in (10, 20, 50, 100, 150, 200)},
        "plus_di_14": directional_index(14, plus=True),
        "minus_di_14": directional_index(14, plus=False),
        "adx": adx(),
        "momentum_10": gap(CLOSE, lag(CLOSE, 10)),
        "roc_10": change(10),
        "stochastic_k": stochastic(),
        "stochastic_d": sma(3, stochastic()),
        **_bands(),
        "obv": Feature("cumulative", (Feature("signed", (CLOSE, lag(CLOSE, 1), VOLUME)),)),
        "adl": Feature("cumulative", (Feature("pressure", (HIGH, LOW, CLOSE, VOLUME)),)),
        **{name: Feature(name) for name in ("hour", "minute", "day_of_week", "minute_of_day")},
    }


def finite(arrays: Iterable[FloatArray], length: int) -> BoolArray:
    """True where no array is NaN."""
    out = np.ones(length, np.bool_)
    for array in arrays:
        out &= array == array
    return out
