"""What may trade: checks on out-of-sample results only, and how steady the chosen parameters were."""

import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from algo_royale.errors import BadInput
from algo_royale.research.metrics import Metrics

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
}


class Dimension(Protocol):
    """One searched parameter."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def low(self) -> Any: ...
    @property
    def high(self) -> Any: ...
    @property
    def log(self) -> bool: ...
    @property
    def choices(self) -> Any: ...
    @property
    def default(self) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`value op threshold`, worth `weight`."""

    name: str
    op: str
    threshold: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.op not in _OPERATORS:
            raise BadInput(f"viability check {self.name}: operator {self.op!r} is none of {' '.join(_OPERATORS)}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise BadInput(f"viability check {self.name}: weight {self.weight} must be a finite number >= 0")


# What makes the score: the measures a trader looks at first (catalogue section 12).
SCORED_CHECKS = (
    Check(name="total_return", op=">", threshold=0.0),
    Check(name="sharpe_ratio", op=">=", threshold=0.5),
    Check(name="win_rate", op=">=", threshold=0.45),
    Check(name="max_drawdown", op="<=", threshold=0.35),
    Check(name="deflated_sharpe", op=">=", threshold=0.5),
    Check(name="num_trades", op=">=", threshold=20),
)
# What luck must not pass, whatever the score: lines of the passport, so they weigh nothing and are hard.
PASSPORT_CHECKS = (
    Check(name="deflated_sharpe_trials", op=">=", threshold=0.5, weight=0.0),
    Check(name="double_costs_total_return", op=">", threshold=0.0, weight=0.0),
)
DEFAULT_CHECKS = SCORED_CHECKS + PASSPORT_CHECKS
HARD_CHECKS = ("num_trades", *(check.name for check in PASSPORT_CHECKS))


@dataclass(frozen=True, slots=True, kw_only=True)
class ViabilityConfig:
    """A strategy is viable if its score reaches `threshold` and every check named in `hard_checks` passes.

    `hard_checks` left out are those of the default ones that are among the checks.
    """

    checks: tuple[Check, ...] = DEFAULT_CHECKS
    threshold: float = 0.75
    hard_checks: tuple[str, ...] = HARD_CHECKS

    def __post_init__(self) -> None:
        names = {check.name for check in self.checks}
        if self.hard_checks is HARD_CHECKS:
            object.__setattr__(self, "hard_checks", tuple(name for name in HARD_CHECKS if name in names))
        unknown = sorted(set(self.hard_checks) - names)
        if unknown:
            raise BadInput(f"viability: hard check {unknown[0]!r} is not among the checks {', '.join(sorted(names))}")
        if not sum(check.weight for check in self.checks) > 0:
            raise BadInput("viability: the weights of the checks sum to zero")

    def among(self, known: Container[str]) -> "ViabilityConfig":
        """The checks whose values are `known` and that weigh something, or all where there is none of them: what can be
        judged before a passport can be made."""
        checks = tuple(check for check in self.checks if check.name in known and check.weight > 0)
        return ViabilityConfig(checks=checks, threshold=self.threshold, hard_checks=()) if checks else self


@dataclass(frozen=True, slots=True)
class Verdict:
    is_viable: bool
    score: float
    checks: list[dict[str, Any]]


def judge(values: Mapping[str, float | int | None], config: ViabilityConfig) -> Verdict:
    """Run the checks on out-of-sample `values`; a value that is missing or None fails. No trades: score 0."""
    rows, passed_weight, passed_names = [], 0.0, set()
    for check in config.checks:
        value = values.get(check.name)
        passed = value is not None and _OPERATORS[check.op](value, check.threshold)
        if passed:
            passed_weight += check.weight
            passed_names.add(check.name)
        rows.append(
            {
                "name": check.name, "value": value, "op": check.op, "threshold": check.threshold,
                "weight": check.weight, "hard": check.name in config.hard_checks, "passed": passed,
            }
        )  # fmt: skip
    score = passed_weight / sum(check.weight for check in config.checks) if values.get("num_trades") else 0.0
    return Verdict(score >= config.threshold and passed_names.issuperset(config.hard_checks), score, rows)


def unit_value(dimension: Dimension, value: Any) -> float:
    """Place of a numeric value in its range, 0 to 1, on a log scale if it is searched on one."""
    if dimension.high == dimension.low:
        return 0.0
    if dimension.log:
        return math.log(value / dimension.low) / math.log(dimension.high / dimension.low)
    return float((value - dimension.low) / (dimension.high - dimension.low))


def param_consistency(space: Sequence[Dimension], points: Sequence[Mapping[str, Any]]) -> float | None:
    """1 for the same parameters in every window, towards 0 for parameters all over their ranges; None for one window."""
    if not space:
        return 1.0
    if len(points) < 2:
        return None
    distances = []
    for dimension in space:
        values = [point[dimension.name] for point in points]
        if dimension.kind == "categorical":
            choices = len(dimension.choices)
            share = max(Counter(values).values()) / len(values)
            distances.append((1.0 - share) / (1.0 - 1.0 / choices) if choices > 1 else 0.0)
        else:
            distances.append(float(np.std([unit_value(dimension, v) for v in values])) / 0.5)
    return 1.0 - sum(distances) / len(distances)


def most_common(space: Sequence[Dimension], points: Sequence[Mapping[str, Any]]) -> int | None:
    """Index of the latest window whose point lies in the most frequent cell (tenths of each range); a tie goes to the
    cell seen latest. None without points."""

    def cell(point: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(
            point[d.name] if d.kind == "categorical" else min(9, math.floor(10 * unit_value(d, point[d.name]) + 1e-9))
            for d in space
        )

    cells = [cell(point) for point in points]
    if not cells:
        return None
    counts = Counter(cells)
    return max(range(len(cells)), key=lambda i: (counts[cells[i]], i))


def vote_weights(scores: Mapping[str, float]) -> dict[str, float]:
    """Share of each name by its viability score, in name order; zeros if nothing scores."""
    total = sum(scores[name] for name in sorted(scores))
    return {name: scores[name] / total if total > 0 else 0.0 for name in sorted(scores)}


def degradation(in_sample: Mapping[str, Metrics], oos: Mapping[str, Metrics]) -> dict[str, float | None]:
    """Share of the in-sample mean that was lost out of sample; None if there was nothing to lose."""
    out: dict[str, float | None] = {}
    for name in ("cagr", "sharpe_ratio", "win_rate"):
        before = in_sample.get(name, {}).get("mean")
        after = oos.get(name, {}).get("mean")
        out[name] = 1.0 - after / before if before is not None and after is not None and before > 0 else None
    return out


def best_first(evaluations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Evaluations by viability, score, stitched Sharpe, consistency (None last), then name."""

    def down(value: float | None) -> tuple[bool, float]:
        return value is None, 0.0 if value is None else -value

    return sorted(
        evaluations,
        key=lambda e: (
            not e["is_viable"],
            -e["viability_score"],
            down(e["oos"]["sharpe_ratio"]),
            down(e["param_consistency"]),
            e["strategy"],
        ),
    )
