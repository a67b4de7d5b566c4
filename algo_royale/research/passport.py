"""The overfit passport: everything that says how much of an out-of-sample result is luck, search or thin air.

`is_viable` is a function of it (`viability.judge`). What is measured in the train ranges (degradation, plateau, the search's
own probability of overfitting) is shown beside it, and by default nothing of that decides: verdicts read test ranges only.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from algo_royale.market import FloatArray
from algo_royale.research import metrics, overfitting
from algo_royale.research.metrics import Metrics
from algo_royale.research.optimise import Evaluation, Objective, Point, Study
from algo_royale.research.viability import Dimension, unit_value

NEIGHBOUR_STEP = 0.1  # of a dimension's range, on its own scale
KEPT_SHARE = 0.5  # a neighbour that keeps this share of the best objective belongs to the plateau
COST_MULTIPLE = 2


def search_size(study: Study) -> dict[str, Any]:
    """How much was tried: complete trials, pruned ones, distinct points, and how many independent trials these amount to.

    A pruned trial has no returns to compare, so it counts for as much as a complete one does on average.
    """
    distinct = {tuple(t.point.values()): t.evaluation.returns for t in study.trials}
    rho, independent = None, 0.0
    if distinct:
        rho, independent = overfitting.independent_trials(np.column_stack(list(distinct.values())))
    pruned = len(study.attempts) - len(study.failures)
    return {
        "recorded": len(study.trials), "pruned": pruned, "distinct": len(distinct), "mean_correlation": rho,
        "independent": independent * (1.0 + pruned / len(study.trials)) if study.trials else 0.0,
    }  # fmt: skip


def neighbours(space: Sequence[Dimension], point: Point) -> list[Point]:
    """Points one step away in one dimension: a tenth of its range (of its logarithm, if it is searched on one), at least 1
    for whole numbers, the next choice for a choice. What would leave the range stops at its end."""
    found = []
    for d in space:
        for value in dict.fromkeys((_moved(d, point[d.name], -1), _moved(d, point[d.name], +1))):
            if value != point[d.name]:
                found.append(point | {d.name: value})
    return found


def _moved(dimension: Dimension, value: Any, way: int) -> Any:
    if dimension.kind == "categorical":
        at = dimension.choices.index(value) + way
        return dimension.choices[min(max(at, 0), len(dimension.choices) - 1)]
    low, high = dimension.low, dimension.high
    if dimension.log:
        moved = low * (high / low) ** (unit_value(dimension, value) + way * NEIGHBOUR_STEP)
    else:
        moved = value + way * NEIGHBOUR_STEP * (high - low)
    if dimension.kind == "int":
        step = max(1, round(abs(moved - value)))
        return int(min(max(value + way * step, low), high))
    return float(min(max(moved, low), high))


def plateau(
    space: Sequence[Dimension],
    study: Study,
    evaluate: Callable[[Point], Evaluation],
    objective: Objective,
    min_trades: int,
) -> dict[str, Any] | None:
    """The chosen point's neighbourhood in train: how many neighbours keep half of its (first) objective.

    A neighbour with too few trades or without a value keeps nothing. None without a chosen point, and for a point whose
    objective is not above 0, which leaves nothing to keep; likewise for a space without dimensions.
    """
    if study.best is None or study.best.evaluation.values is None or not space:
        return None
    sign = 1.0 if objective.directions[0] == "maximize" else -1.0
    best = sign * study.best.evaluation.values[0]
    if not best > 0.0:
        return None
    values = []
    for done in map(evaluate, neighbours(space, study.best.point)):
        usable = done.values is not None and done.num_trades >= min_trades
        values.append(sign * done.values[0] if usable and done.values is not None else -math.inf)
    kept = sum(value >= KEPT_SHARE * best for value in values)
    return {"share": kept / len(values), "neighbours": len(values), "kept": kept, "best": best, "worst": min(values)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is known of one strategy that was compared: its stitched test returns, and the size of its searches."""

    returns: FloatArray
    recorded: int
    independent: float


def passport(
    oos: Metrics,
    candidates: Sequence[Candidate],
    returns: FloatArray,
    dear: FloatArray,
    *,
    rf: float,
    lost: Mapping[str, float | None],
    search_pbo: Sequence[float],
    plateaus: Sequence[float],
) -> dict[str, float | int | None]:
    """The block of an evaluation; every value may be named by a check.

    `oos` are the stitched measures, `returns` the stitched session returns, `dear` the same at twice the costs, `lost` the
    shares lost from train to test, `search_pbo` and `plateaus` one value per window that has one.
    """
    record, n = oos["min_track_record"], len(returns)
    independent = sum(c.independent for c in candidates)
    sharpe, (skewness, kurtosis) = (
        metrics.session_sharpe(returns - rf / metrics.SESSIONS_PER_YEAR),
        metrics.moments(returns),
    )
    bar, compared = (overfitting.worthless_benchmark(n, k) for k in (independent, len(candidates)))

    def above(benchmark: float) -> float | None:
        if sharpe is None or skewness is None or kurtosis is None or n < metrics.N_MIN:
            return None
        return overfitting.psr(sharpe, n, skewness, kurtosis, benchmark)

    total = float(np.prod(1.0 + dear)) - 1.0
    widths = {len(c.returns) for c in candidates}
    chosen = overfitting.pbo(np.column_stack([c.returns for c in candidates])) if len(widths) == 1 else None
    return {
        "psr": oos["psr"],
        "psr_candidates": above(compared),
        "deflated_sharpe": oos["deflated_sharpe"],
        "deflated_sharpe_trials": above(bar),
        "sr_benchmark": oos["sr_benchmark"],
        "sr_benchmark_candidates": compared,
        "sr_benchmark_trials": bar,
        "n_candidates": len(candidates),
        "n_trials": sum(c.recorded for c in candidates),
        "n_trials_independent": independent,
        "min_track_record": record,
        "track_record": n / record if record else None,
        "n_sessions": n,
        "pbo": chosen.probability if chosen else None,
        "pbo_blocks": chosen.blocks if chosen else None,
        "pbo_search": float(np.mean(search_pbo)) if search_pbo else None,
        "degradation": lost["sharpe_ratio"],
        "double_costs_total_return": total,
        "double_costs_sharpe_ratio": metrics.sharpe_ratio(dear, rf=rf),
        "double_costs_max_drawdown": metrics.drawdown(metrics.stitch([dear], 1.0)[1], 1.0)[0],
        "plateau": float(np.mean(plateaus)) if plateaus else None,
    }
