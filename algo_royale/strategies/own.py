"""What the author of an own strategy writes: plain functions of bars, with their search space in the signature.

    from algo_royale.strategies.own import condition, integer, number, strategy

    @condition(lookback="days")
    def dip(bars, days=integer(10, 60, 20), depth=number(1.0, 3.0, 2.0)):
        return bars.close[-1] < bars.close.mean() - depth * bars.close.std()

    strategy("BuyTheDip", entry=dip, exit="RSIAboveThreshold")

A function sees the last `lookback` bars up to and with the one it answers for, and nothing else: it cannot look ahead,
and research, where a series is passed at once, and the trader, one bar at a time, call it with the same arrays. Where
that is too slow, a function of the whole series may stand in for it (`vectorised`), or one that carries a state from bar
to bar (`state`). These can be wrong, so `algo-royale check` proves them.
"""

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from algo_royale.errors import BadStrategy
from algo_royale.features import CLOSE, HIGH, LOW, OPEN, VOLATILITIES, VOLUME, VWAP, Feature, Operation, catalogue
from algo_royale.market import ENTER, EXIT, HOLD, FloatArray, Timeframe
from algo_royale.strategies.conditions import Condition, ConditionRow, Logic, LogicRow
from algo_royale.strategies.space import Params, ParamSpec, Value
from algo_royale.strategies.strategy import StrategySpec

__all__ = [
    "ENTER", "EXIT", "HOLD", "Position", "Window", "choice", "condition", "feature", "integer", "number",
    "return_threshold", "rule", "strategy", "window",
]  # fmt: skip

LOOKBACK_MAX = 10_000  # bars: forty years of days; a longer one is a sign of a function that never forgets
_COLUMNS = {
    "open": OPEN, "high": HIGH, "low": LOW, "close": CLOSE, "volume": VOLUME, "vwap": VWAP, "minutes": Feature("minutes"),
}  # fmt: skip


def integer(low: int, high: int, default: int) -> Any:
    """A whole number to search, bounds included."""
    return ParamSpec("", "int", low, high, default=default)


def number(low: float, high: float, default: float) -> Any:
    """A real number to search."""
    return ParamSpec("", "float", float(low), float(high), default=float(default))


def return_threshold(low: float, high: float, default: float) -> Any:
    """A fraction of the price for daily bars (0.02 is 2 %), searched on a logarithmic scale, smaller for shorter bars."""
    return ParamSpec("", "float", float(low), float(high), log=True, default=float(default), per_kappa=True)


def choice(*values: Value, default: Value | None = None) -> Any:
    """One of these numbers or words; the default is the first."""
    return ParamSpec("", "categorical", choices=values, default=values[0] if default is None else default)


class Window:
    """Bars as read-only arrays of one length, oldest first: the last element is the bar that is judged.

    `open`, `high`, `low`, `close`, `volume`, `vwap` (the mean of high, low and close where nobody gave one), `time` (what
    a clock in New York showed when the bar began, datetime64[m]), and every feature that `uses` names.
    """

    __slots__ = ("_high", "_low", "_rows")

    def __init__(self, rows: Mapping[str, FloatArray], low: int, high: int) -> None:
        self._rows, self._low, self._high = rows, low, high

    def __len__(self) -> int:
        return self._high - self._low

    def __getattr__(self, name: str) -> FloatArray:
        if name.startswith("__") or name not in self._rows:
            raise AttributeError(
                f"bars have no {name!r} (they have: {', '.join([*self._rows, 'time'])}; others are named with uses=)"
            )
        return self._rows[name][self._low : self._high]

    @property
    def time(self) -> npt.NDArray[np.datetime64]:
        return self._rows["minutes"][self._low : self._high].astype("datetime64[m]")


class _Row:
    """One bar as numbers, for functions that go from bar to bar."""

    __slots__ = ("_rows", "_t")

    def __init__(self, rows: Mapping[str, list[float]], t: int) -> None:
        self._rows, self._t = rows, t

    def __getattr__(self, name: str) -> float:
        if name.startswith("__") or name not in self._rows:
            raise AttributeError(f"a bar has no {name!r} (it has: {', '.join([*self._rows, 'time'])})")
        return self._rows[name][self._t]

    @property
    def time(self) -> np.datetime64:
        return np.datetime64(int(self._rows["minutes"][self._t]), "m")


def window(close: Sequence[float], **columns: Sequence[float]) -> Window:
    """Bars for a test of one's own; what is not given is the close, volume 1 and days from 2024-01-01 on."""
    n = len(close)
    rows = {name: np.array(close, np.float64) for name in ("open", "high", "low", "close", "vwap")}
    rows["volume"] = np.ones(n)
    rows["minutes"] = (np.datetime64("2024-01-01", "m") + np.arange(n) * np.timedelta64(1440, "m")).astype(np.float64)
    rows |= {name: np.array(values, np.float64) for name, values in columns.items()}
    return Window(rows, 0, n)


class Position(NamedTuple):
    """What the strategy holds at the close of the bar that is judged, by its own signals and the next open."""

    is_in: bool
    entry_price: float  # NaN while out
    high_since_entry: float  # highest close, NaN while out
    bars_held: int  # 0 at the bar of the fill and while out
    bars_since_exit: int  # 0 at the bar of the fill; huge before any


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Own:
    """A function of the author's with its parameters. Calling it calls the function, with defaults filled in."""

    name: str
    kind: str  # "condition" | "feature" | "rule"
    function: Callable[..., Any]
    lookback: int | str | Callable[..., int]
    specs: tuple[ParamSpec, ...]
    uses: "tuple[str | Own, ...]" = ()
    state: tuple[float, ...] | None = None
    series: bool = False
    positioned: bool = False
    fast: list[Callable[..., Any]] = field(default_factory=list)

    def __call__(self, *arguments: Any, **params: Any) -> Any:
        return self.function(*arguments, **{s.name: s.at(Timeframe.DAY_1).default for s in self.specs} | params)

    def vectorised(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: `function` gives for every bar of a series what this one gives for the last bar of a window."""
        self.fast.append(function)
        return function

    @property
    def place(self) -> str:
        code: CodeType = inspect.unwrap(self.function).__code__
        return f"{code.co_filename}:{code.co_firstlineno}"

    @property
    def dimensions(self) -> tuple[ParamSpec, ...]:
        """Those of the features it uses too; a parameter of one name is one parameter."""
        found = {spec.name: spec for spec in self.specs}
        for used in self.uses:
            if isinstance(used, Own):
                found = {spec.name: spec for spec in used.dimensions} | found
        return tuple(found.values())

    def bars_needed(self, params: Params) -> int:
        """`lookback` as a number."""
        given = self.lookback
        if isinstance(given, str):
            given = params.get(given, given)  # type: ignore[assignment]
        elif callable(given):
            wanted = inspect.signature(given).parameters
            given = _called(self, given, **{name: params[name] for name in wanted if name in params})
        if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 1 <= given <= LOOKBACK_MAX:
            raise BadStrategy(
                f"{self.place}: {self.name}: lookback is a number of bars from 1 to {LOOKBACK_MAX}, the name of an integer "
                f"parameter, or a function of parameters that gives one; not {given!r}"
            )
        return int(given)

    def inputs(self, params: Params) -> dict[str, Feature]:
        found = dict(_COLUMNS)
        for used in self.uses:
            if isinstance(used, Own):
                found[used.name] = used.feature(params)
            elif used in found:
                continue
            elif used in _catalogue():
                found[used] = _catalogue()[used]
            else:
                raise BadStrategy(f"{self.place}: {self.name} uses {used!r}, which is no feature of the catalogue")
        return found

    def feature(self, params: Params, *, slow: bool = False) -> Feature:
        """What it says at every bar: 1 or 0, a number, or a signal; NaN where it cannot know. `slow` is for checks: without
        the vectorised stand-in."""
        own = {spec.name: params[spec.name] for spec in self.specs}
        inputs = self.inputs(params)
        length, kept = self.bars_needed(params), len(inputs)
        form = _form(self, slow=slow)
        history = 0 if self.state is not None else length - 1
        carried = np.array([0.0, *(self.state or ())]) if self.state is not None else np.full(history * kept, np.nan)
        operation = Operation(
            run=lambda f, values, memory: form(self, dict(zip(inputs, values, strict=True)), memory, length, own),
            warm_up=lambda n: (length - 1, 0),
            memory=lambda n: carried.copy(),
            searched=any(spec.kind == "float" for spec in self.dimensions),
        )
        shown = ",".join(f"{name}={value!r}" for name, value in sorted(params.items()) if _concerns(self, name))
        return Feature(f"own:{self.name}[{shown}]{'/slow' if slow else ''}", tuple(inputs.values()), own=operation)

    def history(self, params: Params) -> Feature:
        """The bars that a rule which knows the position looks at: a row per input, `lookback` - 1 columns before the
        chunk's."""
        inputs, length = self.inputs(params), self.bars_needed(params)

        def run(f: Feature, values: list[FloatArray], memory: FloatArray) -> FloatArray:
            rows = _extended(dict(zip(inputs, values, strict=True)), memory, length - 1)
            return np.array(list(rows.values()))

        operation = Operation(
            run=run, warm_up=lambda n: (length - 1, 0),
            memory=lambda n: np.full((length - 1) * len(inputs), np.nan), searched=True,
        )  # fmt: skip
        return Feature(f"own:history:{length}", tuple(inputs.values()), own=operation)


def _concerns(own: Own, name: str) -> bool:
    return any(spec.name == name for spec in own.dimensions)


@lru_cache(maxsize=1)
def _catalogue() -> dict[str, Feature]:
    """By name; as in conditions, every volatility is per bar."""
    return catalogue(Timeframe.DAY_1) | VOLATILITIES


# --- how the functions are called: run(own, inputs by name, memory, lookback, arguments) -> values ---------------------------

Form = Callable[[Own, dict[str, FloatArray], FloatArray, int, Params], FloatArray]


def _form(own: Own, *, slow: bool) -> Form:
    if own.fast and not slow:
        return _fast_states if own.state is not None else _fast_series
    if own.state is not None:
        return _states if own.series else _steps
    return _series if own.series else _windows


def _extended(inputs: Mapping[str, FloatArray], memory: FloatArray, kept: int) -> dict[str, FloatArray]:
    """Each input with what is remembered of it before the chunk; the memory then holds the last values after it."""
    old, rows = memory.reshape(len(inputs), kept), {}
    for i, (name, values) in enumerate(inputs.items()):
        rows[name] = np.concatenate((old[i], values))
        old[i] = rows[name][len(values) :]
        rows[name].flags.writeable = False
    return rows


def _known(rows: Mapping[str, FloatArray], length: int, n: int) -> npt.NDArray[np.bool_]:
    """Where, among the last n bars, no input of the window that ends there is NaN."""
    missing = np.zeros(n + length - 1, np.int64)
    for row in rows.values():
        missing |= np.isnan(row)
    total = np.concatenate(([0], np.cumsum(missing)))
    known: npt.NDArray[np.bool_] = total[length:] == total[: len(total) - length]
    return known


def _windows(
    own: Own, inputs: dict[str, FloatArray], memory: FloatArray, length: int, params: Params
) -> FloatArray:  # fmt: skip
    n = len(inputs["close"])
    rows, out = _extended(inputs, memory, length - 1), np.full(n, np.nan)
    for t in np.flatnonzero(_known(rows, length, n)).tolist():
        out[t] = _one(own, _called(own, own.function, Window(rows, t, t + length), **params))
    return out


def _series(own: Own, inputs: dict[str, FloatArray], memory: FloatArray, length: int, params: Params) -> FloatArray:
    return _whole(own, own.function, inputs, memory, length, params)


def _fast_series(
    own: Own, inputs: dict[str, FloatArray], memory: FloatArray, length: int, params: Params
) -> FloatArray:
    return _whole(own, own.fast[-1], inputs, memory, length, params)


def _whole(
    own: Own, function: Callable[..., Any], inputs: dict[str, FloatArray], memory: FloatArray, length: int, params: Params
) -> FloatArray:  # fmt: skip
    """The function over all bars that are there, from the first one on whose inputs are all known."""
    n = len(inputs["close"])
    rows, out = _extended(inputs, memory, length - 1), np.full(n, np.nan)
    known = _known(rows, length, n)
    if known.any():
        first = int(np.argmax(known))
        bars = Window(rows, first, n + length - 1)
        values = _many(own, _called(own, function, bars, **params), len(bars))
        late = values[length - 1 :]
        out[first:] = np.where(known[first:], late, np.nan)
    return out


def _steps(own: Own, inputs: dict[str, FloatArray], memory: FloatArray, length: int, params: Params) -> FloatArray:
    n = len(inputs["close"])
    rows, out = {name: values.tolist() for name, values in inputs.items()}, np.full(n, np.nan)
    for t in np.flatnonzero(_known(inputs, 1, n)).tolist():
        answer = _called(own, own.function, _Row(rows, t), tuple(memory[1:].tolist()), **params)
        value, memory[1:] = _pair(own, answer)
        memory[0] += 1.0
        if memory[0] >= length:
            out[t] = _one(own, value)
    return out


def _states(own: Own, inputs: dict[str, FloatArray], memory: FloatArray, length: int, params: Params) -> FloatArray:
    return _scan(own, own.function, inputs, memory, length, params)


def _fast_states(
    own: Own, inputs: dict[str, FloatArray], memory: FloatArray, length: int, params: Params
) -> FloatArray:
    return _scan(own, own.fast[-1], inputs, memory, length, params)


def _scan(
    own: Own, function: Callable[..., Any], inputs: dict[str, FloatArray], memory: FloatArray, length: int, params: Params
) -> FloatArray:  # fmt: skip
    n = len(inputs["close"])
    known, out = _known(inputs, 1, n), np.full(n, np.nan)
    if not known.any():
        return out
    at = np.flatnonzero(known)
    rows = {name: np.ascontiguousarray(values[at]) for name, values in inputs.items()}
    for row in rows.values():
        row.flags.writeable = False
    answer = _called(own, function, Window(rows, 0, len(at)), tuple(memory[1:].tolist()), **params)
    values, memory[1:] = _pair(own, answer)
    counted = memory[0] + np.arange(1.0, len(at) + 1)
    out[at] = np.where(counted >= length, _many(own, values, len(at)), np.nan)
    memory[0] = counted[-1]
    return out


def _called(own: Own, function: Callable[..., Any], *arguments: Any, **params: Any) -> Any:
    """Call it; whatever it raises becomes one line with the author's file and line."""
    try:
        return function(*arguments, **params)
    except Exception as error:
        raise BadStrategy(f"{where(error, own.place)}: {own.name}: {reason(error)}") from error


def where(error: BaseException, place: str) -> str:
    """file:line of the innermost frame in the author's file, or `place` (file:line) if the error is from none of it."""
    file, found, frame = place.rpartition(":")[0], place, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == file:
            found = f"{file}:{frame.tb_lineno}"
        frame = frame.tb_next
    return found


def reason(error: BaseException) -> str:
    """Kind and text of an error, on one line that is not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


_WANTED = {
    "condition": "True or False",
    "feature": "a number",
    "rule": "ENTER, EXIT or HOLD",
}


def _one(own: Own, value: Any) -> float:
    """An answer for one bar."""
    if own.kind == "condition":
        good = isinstance(value, bool | np.bool_)
    else:
        good = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        good = good and (own.kind == "feature" or value in (ENTER, EXIT, HOLD))
    if not good:
        raise BadStrategy(f"{own.place}: {own.name} returned {_shown(value)}, not {_WANTED[own.kind]}")
    return float(value) if math.isfinite(value) else math.nan


def _many(own: Own, values: Any, n: int) -> FloatArray:
    """Answers for n bars, as floats."""
    array = np.asarray(values)
    good = array.dtype == np.bool_ if own.kind == "condition" else array.dtype.kind in "iuf"
    if array.shape != (n,) or not good:
        wanted = {"condition": "bool", "feature": "float64", "rule": "int8"}[own.kind]
        raise BadStrategy(f"{own.place}: {own.name} returned {_shown(values)}, not {n} values of {wanted}, one per bar")
    if own.kind == "rule" and not np.isin(array, (ENTER, EXIT, HOLD)).all():
        raise BadStrategy(f"{own.place}: {own.name} returned values other than {_WANTED[own.kind]}")
    floats = array.astype(np.float64)
    return np.where(np.isfinite(floats), floats, np.nan)


def _pair(own: Own, answer: Any) -> tuple[Any, list[float]]:
    """(value, state after it), the state as it was declared."""
    assert own.state is not None
    if isinstance(answer, tuple) and len(answer) == 2:
        value, state = answer
        fits = isinstance(state, tuple | list) and len(state) == len(own.state)
        if fits and all(isinstance(x, int | float | np.integer | np.floating | np.bool_) for x in state):
            return value, [float(x) for x in state]
    raise BadStrategy(
        f"{own.place}: {own.name} returned {_shown(answer)}, not its answer and a state of {len(own.state)} numbers"
    )


def _shown(value: Any) -> str:
    if isinstance(value, str | int | float | np.generic) or value is None:
        return repr(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


# --- what the author calls -------------------------------------------------------------------------------------------------


@overload
def condition(function: Callable[..., Any], /) -> Own: ...
@overload
def condition(
    function: None = None, /, *, lookback: int | str | Callable[..., int] = 1, uses: "Sequence[str | Own]" = (),
    state: Sequence[float] | None = None, vectorised: bool = False,
) -> Callable[[Callable[..., Any]], Own]: ...  # fmt: skip
def condition(function: Any = None, /, **options: Any) -> Any:
    """Decorator: the function says of the last bar whether something holds (True or False).

    `lookback`: how many bars it looks at, with the last one: a number, the name of an integer parameter, or a function of
    parameters. Before there are so many bars, and where any input is unknown (NaN), the condition is false.
    `uses`: features of the catalogue by name ("rsi", "atr_14"), or own ones: arrays beside the prices.
    `vectorised`: the function gets a whole series and returns an array of bool, one per bar.
    `state`: numbers that it carries: it is called as f(bar, state, ...) for each bar and returns (answer, state); with
    `vectorised` too, as f(bars, state, ...) for a chunk of bars. `lookback` then says after how many bars the answer no
    longer depends on the first one.
    """
    return _decorated("condition", function, options)


@overload
def feature(function: Callable[..., Any], /) -> Own: ...
@overload
def feature(
    function: None = None, /, *, lookback: int | str | Callable[..., int] = 1, uses: "Sequence[str | Own]" = (),
    state: Sequence[float] | None = None, vectorised: bool = False,
) -> Callable[[Callable[..., Any]], Own]: ...  # fmt: skip
def feature(function: Any = None, /, **options: Any) -> Any:
    """As `condition`, but the function returns a number, for conditions that name it in `uses`; NaN is unknown."""
    return _decorated("feature", function, options)


@overload
def rule(function: Callable[..., Any], /) -> Own: ...
@overload
def rule(
    function: None = None, /, *, lookback: int | str | Callable[..., int] = 1, uses: "Sequence[str | Own]" = (),
    state: Sequence[float] | None = None, vectorised: bool = False,
) -> Callable[[Callable[..., Any]], Own]: ...  # fmt: skip
def rule(function: Any = None, /, **options: Any) -> Any:
    """As `condition`, but the function returns ENTER, EXIT or HOLD. With a second argument named `position` it is also told
    what the strategy holds, and is called for one window after the other."""
    return _decorated("rule", function, options)


def _decorated(kind: str, function: Any, options: dict[str, Any]) -> Any:
    if function is None:
        return lambda f: _own(kind, f, **options)
    return _own(kind, function, **options)


def _own(
    kind: str, function: Callable[..., Any], *, lookback: Any = 1, uses: Sequence[Any] = (), state: Any = None,
    vectorised: bool = False,
) -> Own:  # fmt: skip
    arguments = list(inspect.signature(function).parameters.values())
    positioned = kind == "rule" and len(arguments) > 1 and arguments[1].name == "position"
    given = [a for a in arguments if a.default is inspect.Parameter.empty]
    wanted = 1 + positioned + (state is not None)
    place = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    name = function.__name__
    if len(given) != wanted:
        names = "bars" + (", position" if positioned else "") + (", state" if state is not None else "")
        raise BadStrategy(
            f"{place}: {name} takes {names}, then parameters with what they may be, as in days=integer(5, 60, 20)"
        )
    if positioned and (state is not None or vectorised):
        raise BadStrategy(f"{place}: {name} knows the position, so it is called with windows: no state, not vectorised")
    specs = tuple(replace(a.default, name=a.name) for a in arguments if isinstance(a.default, ParamSpec))
    for spec in specs:
        if not spec.contains(spec.default) or (spec.log and not (spec.low or 0) > 0):
            raise BadStrategy(f"{place}: {name}: the default of {spec.name}, {spec.default!r}, is not among its values")
    if isinstance(lookback, str) and not any(s.name == lookback and s.kind != "float" for s in specs):
        raise BadStrategy(f"{place}: {name}: lookback {lookback!r} is none of its integer parameters")
    carried = None if state is None else tuple(float(x) for x in state)
    if isinstance(uses, str | Own):
        uses = (uses,)
    for used in uses:
        if isinstance(used, Own) and used.kind != "feature":
            raise BadStrategy(f"{place}: {name} uses {used.name}, which is a {used.kind} and not a feature")
    return Own(
        name=name, kind=kind, function=function, lookback=lookback, specs=specs, uses=tuple(uses), state=carried,
        series=vectorised, positioned=positioned,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class OwnStrategy:
    """A row for the table of strategies, and the own functions that it is made of."""

    spec: StrategySpec
    functions: tuple[Own, ...]
    place: str

    def all_functions(self) -> tuple[Own, ...]:
        """With the features that they use."""
        found: dict[str, Own] = {}

        def add(functions: Sequence[str | Own]) -> None:
            for own in functions:
                if isinstance(own, Own) and own.name not in found:
                    found[own.name] = own
                    add(own.uses)

        add(self.functions)
        return tuple(found.values())

    def rows(self, version: str) -> tuple[list[ConditionRow], list[LogicRow], StrategySpec]:
        """As the tables hold them; `version` tells one state of the author's code from another."""
        conditions = [condition_row(own, version) for own in self.functions if own.kind == "condition"]
        logics = [logic_row(own, version) for own in self.functions if own.kind == "rule"]
        return conditions, logics, replace(self.spec, version=version)


MADE: list[OwnStrategy] = []  # in the order they were made; whoever runs a file finds here what it made


def strategy(
    name: str, *, entry: Any = (), exit: Any = (), trend: Any = (), logic: "str | Own | None" = None,
    shared: Sequence[str] = (), limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> OwnStrategy:  # fmt: skip
    """Compose a strategy: any of `entry` enters if all of `trend` hold, any of `exit` exits, and an exit wins.

    Each is a condition (a name of the catalogue or an own one) or several. `logic` is an own rule or a stateful logic of the
    catalogue. `shared`: parameters that are one dimension for all conditions that take them. `limits`: what a condition of
    the catalogue may be asked to try here, as in {"RSIEntry": {"period": integer(10, 20, 14)}}.
    """
    frame: FrameType = sys._getframe(1)
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    if not (isinstance(name, str) and name.isidentifier() and name.isascii() and not name.startswith("_")):
        raise BadStrategy(
            f"{place}: {name!r} is no name for a strategy: letters, digits and underscores, as MyStrategy"
        )
    functions: dict[str, Own] = {}

    def names(slot: str, given: Any, kind: str) -> tuple[str, ...]:
        found = []
        for item in given if isinstance(given, Sequence) and not isinstance(given, str) else (given,):
            if isinstance(item, Own):
                if item.kind != kind:
                    raise BadStrategy(f"{place}: {name}: {item.name} is a {item.kind}, and {slot} takes a {kind}")
                functions[item.name] = item
                item = item.name
            elif not isinstance(item, str):
                raise BadStrategy(
                    f"{place}: {name}: {slot} takes names of the catalogue and functions with @{kind}, not {item!r}"
                )
            found.append(item)
        return tuple(found)

    rules = names("logic", () if logic is None else logic, "rule")
    bounds = {
        row: tuple(replace(spec, name=parameter) for parameter, spec in given.items())
        for row, given in (limits or {}).items()
    }
    spec = StrategySpec(
        name, names("entry", entry, "condition"), names("exit", exit, "condition"), names("trend", trend, "condition"),
        logic=rules[0] if rules else None, shared=tuple(shared), limits=bounds,
    )  # fmt: skip
    found = OwnStrategy(spec, tuple(functions.values()), place)
    MADE.append(found)
    return found


def condition_row(own: Own, version: str) -> ConditionRow:
    """An own condition as the table has it: its inputs are its answer and the features that it uses."""

    def build(params: Params) -> tuple[dict[str, Feature], Callable[..., Any]]:
        shown = {name: f for name, f in own.inputs(params).items() if name not in _COLUMNS}
        return {own.name: own.feature(params), **shown}, lambda answer, *_: answer > 0.5

    return ConditionRow(own.name, own.dimensions, build=build, version=version)


def logic_row(own: Own, version: str) -> LogicRow:
    """An own rule as the table has it."""

    def make(params: Params) -> Logic:
        if own.positioned:
            return Logic(own.name, params, rule=OwnRule(own, params, own.history(params), tuple(own.inputs(params))))
        inputs = {own.name: own.feature(params)}
        return Logic(
            own.name, params,
            entry=Condition(f"{own.name}.entry", params, inputs, lambda answer: answer == ENTER),
            exit=Condition(f"{own.name}.exit", params, inputs, lambda answer: answer == EXIT),
        )  # fmt: skip

    return LogicRow(own.name, own.dimensions, make=make, version=version)


@dataclass(frozen=True, slots=True, eq=False)
class OwnRule:
    """A rule that knows the position, with its arguments and the history that it looks at."""

    own: Own
    params: Params
    history: Feature
    names: tuple[str, ...]

    def asker(self, history: FloatArray, n: int) -> Callable[..., int]:
        """ask(t, *position) -> signal, for the last n bars of `history`, in any order."""
        length, own = self.own.bars_needed(self.params), self.own
        history = history[:, history.shape[1] - (n + length - 1) :]
        rows = dict(zip(self.names, history, strict=True))
        for row in rows.values():
            row.flags.writeable = False
        known = _known(rows, length, n)
        given = {spec.name: self.params[spec.name] for spec in own.specs}

        def ask(t: int, *position: Any) -> int:
            if not known[t]:
                return HOLD
            return int(_one(own, _called(own, own.function, Window(rows, t, t + length), Position(*position), **given)))

        return ask
