"""Signal strategies: conditions and logic composed into ENTER, EXIT or HOLD at the close of every bar.

    entry = (any entry condition or logic.entry) and all(trend) and all(filter) and not logic.veto
    exit  = any exit condition or logic.exit            (never gated)
    signal = EXIT if exit else ENTER if entry else HOLD  (exit dominates)

A signal of bar t uses bars up to t and is filled at the open of bar t+1. A strategy is a pure function of a chunk of
bars and a state; any partition of a series into chunks gives the same bits.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from algo_royale.errors import BadConfiguration, BadInput, BadMarketData, UnknownName
from algo_royale.features import FeatureCache, Program
from algo_royale.machine import Code, decide, judge
from algo_royale.market import ENTER, EXIT, Bars, BoolArray, FloatArray, IntArray, SignalArray, Timeframe
from algo_royale.strategies.compiling import Plan, columns, compile_strategy
from algo_royale.strategies.conditions import (
    CONDITIONS,
    LOGICS,
    Component,
    Condition,
    ConditionRow,
    Logic,
    LogicRow,
    condition,
    logic,
)  # fmt: skip
from algo_royale.strategies.space import Params, ParamSpec, Value, choice, integer

SLOTS = ("entry", "exit", "trend", "filter")

# The position as the strategy models it: moved by its own signals and the next open, never by the broker's fills.
_POSITION = np.array([0.0, 0.0, 0.0, 1e9, 0.0])  # pos, entry_price, high_since_entry, bars_since_exit, pending signal
_POS, _ENTRY_PRICE, _HIGH, _SINCE_EXIT, _PENDING = range(5)


class State:
    """What a strategy remembers between bars: memories of its features, then its position; float64 of fixed length."""

    __slots__ = ("memory", "owner")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, owner: str, memory: FloatArray) -> None:
        self.owner, self.memory = owner, memory
        memory.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self.to_bytes() == other.to_bytes()

    def to_bytes(self) -> bytes:
        """Owner (16 ASCII characters) and little-endian float64; every NaN as the same one."""
        return self.owner.encode() + np.where(np.isnan(self.memory), np.nan, self.memory).astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "State":
        if len(data) < 16 or len(data) % 8:
            raise BadInput(f"{len(data)} bytes are not the state of a strategy")
        return cls(data[:16].decode(), np.frombuffer(data[16:], "<f8").astype(np.float64))


class Run(NamedTuple):
    """Per bar: the signal, and whether the strategy is in after it (from ENTER until EXIT)."""

    signal: SignalArray
    state_in: BoolArray


class Reason(NamedTuple):
    """One line of an explanation: a condition in its slot, the numbers it looked at and what it said."""

    slot: str
    condition: str
    inputs: dict[str, float]
    verdict: bool


class Strategy:
    """A composition with its arguments. Use `build` or `compose` to make one."""

    def __init__(
        self, name: str, timeframe: Timeframe, conditions: tuple[tuple[str, Condition], ...], rule: Logic | None,
        version: str = "",
    ) -> None:  # fmt: skip
        self.name, self.timeframe, self.conditions, self.logic = name, timeframe, conditions, rule
        self._version = version
        rule = rule or Logic("", {})
        self._slots = {slot: [c for s, c in conditions if s == slot] for slot in SLOTS}
        self._logic_entry = [rule.entry] if rule.entry else []
        self._logic_exit = [rule.exit] if rule.exit else []
        self.rules = np.array([rule.stop_pct, rule.profit_target_pct, float(rule.cooldown)])
        if not (self._slots["entry"] or self._logic_entry or rule.rule):
            raise BadConfiguration(f"{name} has neither an entry condition nor a logic that enters: it can never trade")
        if not (self._slots["exit"] or self.logic):
            raise BadConfiguration(f"{name} has neither an exit condition nor a logic that exits: it can never sell")
        self._own_rule = rule.rule

    # What follows is worked out when it is first asked for: a search builds many strategies and asks few for all of it.

    @cached_property
    def params(self) -> dict[str, Any]:
        """Complete arguments, as `best_params` of an artifact has them."""
        return _artifact(
            {slot: [(c.name, c.params) for s, c in self.conditions if s == slot] for slot in SLOTS},
            (self.logic.name, self.logic.params) if self.logic else None,
        )

    @cached_property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of name, complete arguments and timeframe."""
        return _digest(self.name, self.params, self.timeframe, self._version)

    @cached_property
    def _program(self) -> Program:
        wanted = [*(c for _, c in self.conditions), *self._logic_entry, *self._logic_exit]
        history = [self._own_rule.history] if self._own_rule else []
        return Program([*(f for c in wanted for f in c.inputs.values()), *history])

    @property
    def settle(self) -> int:
        """Bars after which where history began no longer matters."""
        return self._program.settle

    @property
    def columns(self) -> frozenset[str]:
        """The extra columns of the bars that its conditions read."""
        inputs = (f for _, c in self.conditions for f in c.inputs.values())
        return frozenset(f.extra for f in inputs if f.extra is not None)

    @staticmethod
    def flat() -> FloatArray:
        """The position before the first bar, as `decide` takes it."""
        return _POSITION.copy()

    @property
    def in_order(self) -> list[Condition]:
        """Its conditions in the order in which `plan` looks at them."""
        slots = self._slots
        return [
            *slots["entry"], *slots["trend"], *slots["filter"], *slots["exit"], *self._logic_entry, *self._logic_exit
        ]  # fmt: skip

    @cached_property
    def plan(self) -> Plan | None:
        """All of it as one program of the compiled machine; None if some of it has to be computed array by array."""
        if self._own_rule is not None:
            return None
        return compile_strategy(self._slots, self._logic_entry, self._logic_exit)

    @cached_property
    def _step_code(self) -> tuple[Code, IntArray]:
        assert self.plan is not None
        return self.plan.code({f.key: i for i, f in enumerate(self.plan.columns)}, self._program.slots)

    @staticmethod
    def _given(plan: Plan, bars: Bars, cache: FeatureCache | None) -> tuple[Mapping[str, int], FloatArray]:
        if cache is None:
            return plan.given(bars)
        plan.fill(cache)
        return cache.rows, cache.values

    def init(self) -> State:
        """The state before the first bar, flat."""
        return State(self.id, np.concatenate((self._program.initial, _POSITION)))

    def reset_position(self, state: State) -> State:
        """The same memory of the past with a flat position, as at the first bar of a period."""
        self._own(state)
        memory = state.memory.copy()
        memory[-5:] = _POSITION
        return State(state.owner, memory)

    def is_in(self, state: State) -> bool:
        """Whether the last signals say in (from ENTER until EXIT)."""
        self._own(state)
        pos, pending = state.memory[-5 + _POS], state.memory[-5 + _PENDING]
        return bool(pending == ENTER or (pos == 1.0 and pending != EXIT))

    def update(self, bars: Bars, state: State) -> tuple[SignalArray, State]:
        """Signals of a chunk of bars, and the state after it."""
        run, after = self.step(bars, state)
        return run.signal, after

    def step(self, bars: Bars, state: State) -> tuple[Run, State]:
        """As `update`, with what is held after each bar."""
        if self.plan is None:
            run, after, _ = self._advance(bars, state)
            return run, after
        self._own(state)
        self._check(bars)
        memory = state.memory.copy()
        run = Run(np.empty(len(bars), np.int8), np.empty(len(bars), np.bool_))
        code, verdicts = self._step_code
        _, values = self.plan.given(bars)
        judge(
            code.rows, code.levels, *columns(bars), values, memory[:-5], code.n_numbers, code.n_flags, verdicts,
            self.rules, memory[-5:], True, 0, run.signal, run.state_in,
        )  # fmt: skip
        return run, State(self.id, memory)

    def run(self, bars: Bars, *, start: int = 0, cache: FeatureCache | None = None) -> Run:
        """All bars at once from the initial state, with the position flat at bar `start` and HOLD before it.

        The same as updating to `start`, resetting the position and going on; with a cache of these very bars
        features computed by earlier calls are reused.
        """
        if cache is not None and cache.bars is not bars:
            raise BadInput("the cache belongs to other bars")
        self._check(bars)
        run = Run(np.zeros(len(bars), np.int8), np.zeros(len(bars), np.bool_))
        if self.plan is not None:
            given, rows = self._given(self.plan, bars, cache)
            code, verdicts = self.plan.code(given)
            judge(
                code.rows, code.levels, *columns(bars), rows, code.memory, code.n_numbers, code.n_flags, verdicts,
                self.rules, _POSITION.copy(), self.logic is not None, start, run.signal, run.state_in,
            )  # fmt: skip
            return run
        with np.errstate(all="ignore"):
            values = self._program.run_cached(cache or FeatureCache(bars))
            parts = self._verdicts(values, len(bars))
        late = bars.slice(start, len(bars)) if start else bars
        flat, shown = _POSITION.copy(), Run(run.signal[start:], run.state_in[start:])
        self._decide(late, [x[start:] for x in parts], flat, shown, values)
        return run

    def judged(self, bars: Bars, state: State) -> tuple[Run, dict[str, BoolArray], State]:
        """As `step`, with what each condition says at each bar, by slot and name: for proofs."""
        run, after, values = self._advance(bars, state)
        named = {f"{slot} {c.name}": c for slot, c in self.conditions}
        named |= {f"logic {c.name}": c for c in (*self._logic_entry, *self._logic_exit)}
        return run, {name: c.verdicts(values, len(bars)) for name, c in named.items()}, after

    def explain(self, bars: Bars, state_before: State) -> list[Reason]:
        """Why the last bar of `bars` got its signal: every condition with its inputs and verdict."""
        if not len(bars):
            raise BadInput("there is no bar to explain")
        state, last = state_before, bars.slice(len(bars) - 1, len(bars))
        if len(bars) > 1:
            _, state, _ = self._advance(bars.slice(0, len(bars) - 1), state_before)
        _, after, values = self._advance(last, state)
        reasons = [_reason(slot, c, values) for slot, c in self.conditions]
        if self.logic:
            reasons += _logic_reasons(self.logic, values, float(last.close[0]), after.memory[-5:])
        return reasons

    def _advance(self, bars: Bars, state: State) -> tuple[Run, State, dict[str, FloatArray]]:
        self._own(state)
        self._check(bars)
        memory = state.memory.copy()
        run = Run(np.empty(len(bars), np.int8), np.empty(len(bars), np.bool_))
        with np.errstate(all="ignore"):
            values = self._program.run(bars, memory[:-5])
            parts = self._verdicts(values, len(bars))
        self._decide(bars, parts, memory[-5:], run, values)
        return run, State(self.id, memory), values

    def _decide(
        self, bars: Bars, verdicts: list[BoolArray], position: FloatArray, run: Run, values: Mapping[str, FloatArray]
    ) -> None:
        enter, gate, leave, logic_enter, logic_leave = verdicts
        open_, close = np.ascontiguousarray(bars.open), np.ascontiguousarray(bars.close)
        if self._own_rule is not None:
            ask = self._own_rule.asker(values[self._own_rule.history.key], len(bars))
            for t in range(len(bars)):
                wish = ask(t, *_seen(position, open_[t], close[t]))
                one, held_before = slice(t, t + 1), position[_POS]
                decide(
                    open_[one], close[one], enter[one], gate[one], leave[one], np.array([wish == ENTER]),
                    np.array([wish == EXIT]), self.rules, position, run.signal[one], run.state_in[one],
                )  # fmt: skip
                if position[_POS] == 1.0:  # a count that `decide` has no use for while it is in
                    position[_SINCE_EXIT] = position[_SINCE_EXIT] + 1.0 if held_before else 0.0
            return
        decide(
            open_, close, enter, gate, leave, logic_enter, logic_leave, self.rules, position, run.signal, run.state_in
        )

    def _verdicts(self, values: Mapping[str, FloatArray], n: int) -> list[BoolArray]:
        gate = np.ones(n, np.bool_)
        for c in (*self._slots["trend"], *self._slots["filter"]):
            gate &= c.verdicts(values, n)
        enter, leave = _any(self._slots["entry"], values, n), _any(self._slots["exit"], values, n)
        return [enter, gate, leave, _any(self._logic_entry, values, n), _any(self._logic_exit, values, n)]

    def _own(self, state: State) -> None:
        if state.owner != self.id:
            raise BadInput(f"a state of strategy {state.owner} was given to {self.name} {self.id}")
        if len(state.memory) != len(self._program.initial) + len(_POSITION):
            raise BadInput(f"{len(state.memory)} numbers are not the state of {self.name} {self.id}")

    def _check(self, bars: Bars) -> None:
        if bars.timeframe is not self.timeframe:
            raise BadMarketData(f"{self.name} was built for {self.timeframe.value} bars, not {bars.timeframe.value}")


def _seen(position: FloatArray, open_: float, close: float) -> tuple[bool, float, float, int, int]:
    """What a rule of the user's is told at this bar: in, entry price, highest close since, bars held, bars since the exit.

    The first steps of `decide`, which takes them too; while in, the fourth number of the position counts the bars held.
    """
    pos, entry_price, high, count, pending = position.tolist()
    if pending == ENTER:
        return True, open_, max(open_, close), 0, 0
    if pos == 1.0 and pending != EXIT:
        return True, entry_price, max(high, close), int(count) + 1, 0
    return False, np.nan, np.nan, 0, 0 if pending == EXIT else int(count) + 1


def _any(conditions: list[Condition], values: Mapping[str, FloatArray], n: int) -> BoolArray:
    out = np.zeros(n, np.bool_)
    for c in conditions:
        out |= c.verdicts(values, n)
    return out


def _reason(slot: str, c: Condition, values: Mapping[str, FloatArray]) -> Reason:
    inputs = {name: float(values[feature.key][-1]) for name, feature in c.inputs.items()}
    numbers = {name: float(x) for name, x in c.params.items() if not isinstance(x, str)}
    return Reason(slot, c.name, inputs | numbers, bool(c.verdicts(values, 1)[-1]))


def _logic_reasons(
    rule: Logic, values: Mapping[str, FloatArray], close: float, position: FloatArray
) -> Iterator[Reason]:
    """What the logic said: `position` is that after the bar, whose prices and counts are those it was judged with."""
    if rule.rule is not None:
        told = {"close": close, "is_in": position[_POS], "entry_price": position[_ENTRY_PRICE], "high": position[_HIGH]}
        yield Reason("logic", rule.name, {k: float(v) for k, v in told.items()}, bool(position[_PENDING]))
        return
    held = position[_POS] == 1.0
    for slot, c in (("logic.entry", rule.entry), ("logic.exit", rule.exit)):
        if c is not None:
            reason = _reason(slot, c, values)
            yield reason._replace(verdict=reason.verdict and (slot == "logic.entry" or bool(held)))
    stop = {"in_position": float(held), "close": close, "high_since_entry": float(position[_HIGH])}
    breached = held and close < position[_HIGH] * (1.0 - rule.stop_pct)
    yield Reason("logic.exit", f"{rule.name}.stop", stop | {"stop_pct": rule.stop_pct}, bool(breached))
    if np.isfinite(rule.profit_target_pct):
        inputs = {"in_position": float(held), "close": close, "entry_price": float(position[_ENTRY_PRICE])}
        reached = held and close >= position[_ENTRY_PRICE] * (1.0 + rule.profit_target_pct)
        inputs["profit_target_pct"] = rule.profit_target_pct
        yield Reason("logic.exit", f"{rule.name}.profit_target", inputs, bool(reached))
    inputs = {
        "in_position": float(held),
        "bars_since_exit": float(position[_SINCE_EXIT]),
        "cooldown": float(rule.cooldown),
    }
    yield Reason(
        "logic.veto", f"{rule.name}.cooldown", inputs, bool(not held and position[_SINCE_EXIT] < rule.cooldown)
    )


# The table.


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """One row: the components in their slots, and which parameters they share.

    `shared` names parameters that are one dimension for all components which take them; `limits` narrows dimensions of
    a component; `linked` replaces all dimensions of a component, and `link` then tells the arguments that follow from
    those of others: both by class, from and to arguments as constructors take them.
    """

    name: str
    entry: tuple[str, ...] = ()
    exit: tuple[str, ...] = ()
    trend: tuple[str, ...] = ()
    logic: str | None = None
    shared: tuple[str, ...] = ()
    limits: Mapping[str, tuple[ParamSpec, ...]] = field(default_factory=dict)
    linked: Mapping[str, tuple[ParamSpec, ...]] = field(default_factory=dict)
    version: str = ""  # of a user's own code
    link: Callable[[Mapping[str, Params]], Mapping[str, Params]] = lambda arguments: {}

    def rows(self) -> Iterator[tuple[str, ConditionRow | LogicRow]]:
        """(slot, component), in the order of the search space."""
        for slot in ("entry", "exit", "trend"):
            for name in getattr(self, slot):
                yield slot, CONDITIONS[name]
        if self.logic:
            yield "logic", LOGICS[self.logic]

    def components(self) -> Iterator[tuple[str, Component]]:
        """(slot, component with its dimensions as searched here), in the order of the search space."""
        return ((slot, self._limited(row)) for slot, row in self.rows())

    def supports(self, timeframe: Timeframe) -> bool:
        """Whether bars of this length tell all that its components ask for."""
        return all(row.supports(timeframe) for _, row in self.rows())

    def _limited(self, row: ConditionRow | LogicRow) -> Component:
        if row.name in self.linked:
            return replace(row, specs=self.linked[row.name])
        limits = {spec.name: spec for spec in self.limits.get(row.name, ())}
        return replace(row, specs=tuple(limits.get(spec.name, spec) for spec in row.specs))

    def trial_name(self, slot: str, component: Component, spec: ParamSpec) -> str:
        return f"shared.{spec.name}" if spec.name in self.shared else f"{slot}.{component.name}.{spec.name}"


def _average_of_the_pair(arguments: Mapping[str, Params]) -> dict[str, Params]:
    """TrendScraper looks at the price against the very average that its trend is measured by."""
    slow = {"sma": arguments["EMAAboveSMARolling"]["slow"]}
    return {"PriceAboveSMA": slow, "PriceBelowSMA": slow}


def _exit_after_entry(arguments: Mapping[str, Params]) -> dict[str, Params]:
    """The hours to sell begin `delay` hours after those to buy have ended, and not after 15."""
    end, delay = int(arguments["TimeOfDayEntry"]["end_hour"]), int(arguments["TimeOfDayExit"]["delay"])
    return {"TimeOfDayExit": {"start_hour": min(end + delay, 15)}}


_ROWS = (
    StrategySpec(
        "BollingerBandsStrategy", entry=("BollingerBandsEntry",), exit=("BollingerBandsExit",), trend=("SMATrend",),
        shared=("window", "num_std"),
    ),
    StrategySpec("ComboStrategy", entry=("ComboEntry",), exit=("ComboExit",), shared=("vol_ma",)),
    StrategySpec(
        "MACDTrailingStopStrategy", entry=("VolumeSurgeEntry",), trend=("SMATrend",), logic="MACDTrailing",
    ),
    StrategySpec(
        "MeanReversionStrategy", trend=("PriceAboveSMA",), logic="MeanReversion",
        limits={"PriceAboveSMA": (choice("sma", (100, 150, 200), 200),)},  # slower than any window of the logic
    ),
    StrategySpec(
        "MomentumStrategy", entry=("MomentumEntry",), exit=("MomentumExit",),
        shared=("lookback", "threshold", "smooth_window"),
    ),
    StrategySpec(
        "MovingAverageCrossoverStrategy", entry=("MovingAverageCrossoverEntry",), exit=("MovingAverageCrossoverExit",),
        shared=("short_window", "gap", "trend_window", "volume_ma_window", "ma_type"),
    ),
    StrategySpec(
        "MovingAverageStrategy", entry=("MovingAverageEntry",), exit=("MovingAverageExit",),
        shared=("short_window", "gap"),
    ),
    StrategySpec("PullbackEntryStrategy", entry=("PullbackEntry",), exit=("PullbackExit",), shared=("ma",)),
    StrategySpec("RSIStrategy", entry=("RSIEntry",), exit=("RSIExit",), shared=("period",)),
    StrategySpec(
        "TimeOfDayBiasStrategy", entry=("TimeOfDayEntry",), exit=("TimeOfDayExit",),
        linked={"TimeOfDayExit": (integer("delay", 0, 3, 2),)}, link=_exit_after_entry,
    ),
    StrategySpec(
        "TrailingStopStrategy", entry=("MomentumEntry", "PullbackEntry", "MovingAverageEntry"),
        exit=("MovingAverageExit", "RSIExit", "MomentumExit"), trend=("TrendAboveSMA", "SMATrend"), logic="TrailingStop",
        shared=("lookback", "threshold", "smooth_window", "confirmation_periods", "short_window", "gap"),
    ),
    StrategySpec(
        "TrendScraperStrategy", entry=("PriceAboveSMA",), exit=("ReturnVolatilityExit", "PriceBelowSMA"),
        trend=("EMAAboveSMARolling",), linked={"PriceAboveSMA": (), "PriceBelowSMA": ()}, link=_average_of_the_pair,
    ),
    StrategySpec(
        "VolatilityBreakoutStrategy", entry=("VolatilityBreakoutEntry",), exit=("VolatilityBreakoutExit",),
        shared=("threshold", "sma", "volatility_col", "range_col"),
    ),
    StrategySpec(
        "VolumeSurgeStrategy", entry=("VolumeSurgeEntry",), exit=("VolumeSurgeExit",), shared=("threshold", "ma_window"),
    ),
    StrategySpec(
        "VWAPReversionStrategy", entry=("VWAPReversionEntry",), exit=("VWAPReversionExit",), shared=("vwap",),
    ),
    StrategySpec("WickReversalStrategy", entry=("WickReversalEntry",), exit=("WickReversalExit",)),
)  # fmt: skip
STRATEGIES: dict[str, StrategySpec] = {row.name: row for row in _ROWS}


def spec(name: str) -> StrategySpec:
    """The row of a strategy; raises UnknownName with the nearest name."""
    if name not in STRATEGIES:
        raise UnknownName("strategy", name, STRATEGIES)
    return STRATEGIES[name]


@lru_cache(maxsize=256)
def space(name: str, timeframe: Timeframe) -> tuple[ParamSpec, ...]:
    """The joint search space: fixed names and bounds, shared dimensions once."""
    row = spec(name)
    out: dict[str, ParamSpec] = {}
    for slot, component in row.components():
        for dimension in component.space(timeframe):
            out.setdefault(row.trial_name(slot, component, dimension), dimension)
    return tuple(replace(dimension, name=trial_name) for trial_name, dimension in out.items())


def default_trial(name: str, timeframe: Timeframe) -> Params:
    """The default point, which is trial 0 of every study."""
    return {dimension.name: dimension.default for dimension in space(name, timeframe)}


@lru_cache(maxsize=256)
def _drawn(name: str, timeframe: Timeframe) -> tuple[list[tuple[Component, list[tuple[str, str]]]], frozenset[str]]:
    """Each component with its dimensions and what a trial calls them; and all that a trial names."""
    row = spec(name)
    parts = [(c, [(d.name, row.trial_name(slot, c, d)) for d in c.specs]) for slot, c in row.components()]
    return parts, frozenset(dimension.name for dimension in space(name, timeframe))


def resolve(name: str, trial: Mapping[str, Value], timeframe: Timeframe) -> dict[str, Any]:
    """Constructor arguments (the `best_params` of an artifact) of a complete trial; raises BadConfiguration."""
    row = spec(name)
    parts, wanted = _drawn(name, timeframe)
    if wanted != trial.keys():
        raise BadConfiguration(
            f"{name}: a trial has exactly the dimensions of its space, not {sorted(wanted ^ set(trial))}"
        )
    arguments: dict[str, Params] = {
        component.name: component.resolve({d: trial[t] for d, t in names}) for component, names in parts
    }
    arguments |= row.link(arguments)
    slots: dict[str, list[tuple[str, Params]]] = {slot: [] for slot in (*SLOTS, "logic")}
    for slot, component in row.rows():
        slots[slot].append((component.name, component.fill(arguments[component.name], timeframe)))
    return _artifact(slots, slots["logic"][0] if slots["logic"] else None)


def compose(
    name: str, params: Mapping[str, Any], timeframe: Timeframe, columns: Collection[str] | None = ()
) -> Strategy:
    """A strategy of any conditions in any slots, from the shape that `resolve` returns.

    `columns` declares the extra columns that the bars will have, for conditions that read one; with None the run finds out.
    """
    known = {*(f"{slot}_conditions" for slot in SLOTS), "stateful_logic"}
    if not set(params) <= known:
        raise BadConfiguration(f"{name}: unknown key {sorted(set(params) - known)}; known: {', '.join(sorted(known))}")
    conditions = []
    for slot in SLOTS:
        for entry in params.get(f"{slot}_conditions", ()):
            conditions += [(slot, condition(c, given, timeframe, columns)) for c, given in entry.items()]
    rules = [logic(x, given, timeframe) for x, given in (params.get("stateful_logic") or {}).items()]
    if len(rules) > 1:
        raise BadConfiguration(f"{name}: at most one stateful logic, not {[x.name for x in rules]}")
    version = _version(name, *(c.name for _, c in conditions), *(x.name for x in rules))
    return Strategy(name, timeframe, tuple(conditions), rules[0] if rules else None, version)


def _version(name: str, *parts: str) -> str:
    """Of the user's own code in a strategy and its parts, or an empty text: the same arguments with other code are another
    strategy."""
    rows = [STRATEGIES.get(name), *(table[part] for part in parts for table in (CONDITIONS, LOGICS) if part in table)]
    return "+".join(sorted({row.version for row in rows if row is not None and row.version}))


def build(
    name: str, params: Mapping[str, Any], timeframe: Timeframe, columns: Collection[str] | None = None
) -> Strategy:
    """The named strategy with these arguments. Its filter slot is free; the others hold what its row says.

    `columns` as for `compose`.
    """
    row, strategy = spec(name), compose(name, params, timeframe, columns)
    for slot in ("entry", "exit", "trend"):
        found = tuple(c.name for s, c in strategy.conditions if s == slot)
        if found != getattr(row, slot):
            raise BadConfiguration(f"{name} has {getattr(row, slot)} as {slot} conditions, not {found}")
    if (strategy.logic.name if strategy.logic else None) != row.logic:
        raise BadConfiguration(f"{name} has the logic {row.logic}, not {params.get('stateful_logic')}")
    return strategy


def strategy_id(name: str, params: Mapping[str, Any], timeframe: Timeframe) -> str:
    """First 16 hex digits of the SHA-256 of name, complete arguments and timeframe: the same on every machine."""
    return build(name, params, timeframe).id


@lru_cache(maxsize=256)
def required_history(name: str, timeframe: Timeframe) -> int:
    """Bars before the first that counts so that nothing in the whole search space depends on where history begins."""
    return max(s for _, row in spec(name).rows() for s in _settles(row, timeframe))


def _settles(row: ConditionRow | LogicRow, timeframe: Timeframe) -> Iterator[int]:
    """Settle times over the categorical choices, with every window at its longest."""
    dimensions = row.space(timeframe)
    own = bool(row.version)  # whose windows may grow the other way
    ends = (d.choices or ((d.low or 0, d.high or 0) if own else (d.high or 0,)) for d in dimensions)
    for point in itertools.product(*ends):
        drawn: Params = {d.name: x for d, x in zip(dimensions, point, strict=True)}
        arguments = row.fill(row.resolve(drawn), timeframe)
        if isinstance(row, ConditionRow):
            inputs = [row.build(arguments)[0]]
        else:
            rule = row.make(arguments)
            inputs = [c.inputs for c in (rule.entry, rule.exit) if c]
            inputs += [{"history": rule.rule.history}] if rule.rule else []
        yield max((f.settle for found in inputs for f in found.values()), default=0)


def signals(
    name: str, params: Mapping[str, Any], bars: Bars, *, start: int = 0, cache: FeatureCache | None = None
) -> SignalArray:
    """Signals over all bars, flat at bar `start` and HOLD before it; see Strategy.run."""
    return build(name, params, bars.timeframe).run(bars, start=start, cache=cache).signal


def _artifact(slots: Mapping[str, list[tuple[str, Params]]], rule: tuple[str, Params] | None) -> dict[str, Any]:
    out: dict[str, Any] = {f"{slot}_conditions": [{name: dict(p)} for name, p in slots[slot]] for slot in SLOTS}
    out["stateful_logic"] = {rule[0]: dict(rule[1])} if rule else None
    return out


def _digest(name: str, params: Mapping[str, Any], timeframe: Timeframe, version: str) -> str:
    document = {"params": params, "strategy": name, "timeframe": timeframe.value} | (
        {"version": version} if version else {}
    )
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
