"""Search spaces: what a component may be asked to try, and how a trial becomes constructor arguments."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from algo_royale.errors import BadConfiguration
from algo_royale.market import Timeframe

Value = int | float | str
Params = dict[str, Value]


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One dimension of a search space: bounds inclusive, `choices` for a categorical one. `default` is trial 0."""

    name: str
    kind: str  # "int" | "float" | "categorical"
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()
    default: Value = 0
    per_kappa: bool = False  # bounds and default are for daily bars and are still to be scaled

    def at(self, timeframe: Timeframe) -> "ParamSpec":
        """The same dimension for bars of this length: return thresholds shrink with it."""
        if not self.per_kappa:
            return self
        assert self.low is not None and self.high is not None and isinstance(self.default, float)
        k = timeframe.kappa
        return replace(self, low=self.low * k, high=self.high * k, default=self.default * k, per_kappa=False)

    def contains(self, value: Value) -> bool:
        """Whether a trial may take this value."""
        if self.kind == "categorical":
            return value in self.choices
        assert self.low is not None and self.high is not None
        return not isinstance(value, str) and self.low <= value <= self.high


def integer(name: str, low: int, high: int, default: int) -> ParamSpec:
    return ParamSpec(name, "int", low, high, default=default)


def number(name: str, low: float, high: float, default: float) -> ParamSpec:
    return ParamSpec(name, "float", low, high, default=default)


def return_threshold(name: str, low: float, high: float, default: float) -> ParamSpec:
    """A log-uniform fraction, scaled to the timeframe."""
    return ParamSpec(name, "float", low, high, log=True, default=default, per_kappa=True)


def choice(name: str, choices: tuple[Value, ...], default: Value) -> ParamSpec:
    return ParamSpec(name, "categorical", choices=choices, default=default)


def identity(params: Params) -> Params:
    return params


def gap_above(short: str, gap: str, long: str) -> Callable[[Params], Params]:
    """long = short + gap, so short < long in every draw."""

    def resolve(params: Params) -> Params:
        return {(long if k == gap else k): (int(params[short]) + int(v) if k == gap else v) for k, v in params.items()}

    return resolve


def split_pair(pair: str, first: str, second: str) -> Callable[[Params], Params]:
    """The choice "50/200" as two numbers."""

    def resolve(params: Params) -> Params:
        rest = {k: v for k, v in params.items() if k != pair}
        a, _, b = str(params[pair]).partition("/")
        return {first: int(a), second: int(b), **rest}

    return resolve


def constant(name: str, value: Value) -> Callable[[Params], Params]:
    """An argument that is never searched."""
    return lambda params: {**params, name: value}


@dataclass(frozen=True, slots=True)
class Shape:
    """The constructor arguments of a component, taken from its space at the default point."""

    owner: str
    defaults: Mapping[str, Value]
    optional: Mapping[str, tuple[Value, ...]]

    def fill(self, given: Mapping[str, Any]) -> Params:
        """All arguments, typed as the defaults are; an optional one only where it differs from its first choice."""
        for name in given:
            if name not in self.defaults and name not in self.optional:
                known = ", ".join([*self.defaults, *self.optional]) or "none"
                raise BadConfiguration(f"{self.owner} takes no parameter {name!r} (it takes: {known})")
        params = {name: self._typed(name, given.get(name, default)) for name, default in self.defaults.items()}
        for name, choices in self.optional.items():
            value = given.get(name, choices[0])
            if value not in choices:
                raise BadConfiguration(f"{self.owner}.{name}: {value!r} is none of {', '.join(map(str, choices))}")
            if value != choices[0]:
                params[name] = value
        return params

    def _typed(self, name: str, value: Any) -> Value:
        like = self.defaults[name]
        if isinstance(like, str):
            if isinstance(value, str):
                return value
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            if isinstance(like, float):
                return float(value)
            if value == int(value):
                return int(value)
        raise BadConfiguration(f"{self.owner}.{name}: {value!r} is not of type {type(like).__name__}")
