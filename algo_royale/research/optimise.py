"""Search for parameters with optuna, repeatable to the last bit.

Before each trial the sampler is seeded anew from what is searched and how many trials are complete, so a study that was
interrupted continues with the very trials it would have had, and no scheduling can change it. Selection is ours: the best
objective among feasible complete trials, ties to the lowest number. A point that optuna proposes again is not computed
again. A space without dimensions has one point, so its study has one trial.
"""

import hashlib
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from algo_royale.errors import AlgoRoyaleError, BadInput
from algo_royale.market import FloatArray
from algo_royale.research.viability import Dimension

if TYPE_CHECKING:
    import optuna

CLIP = 10.0  # ratios beyond this are artefacts of few trades
FAILED_SHARE_MAX = 0.2
RATIOS = ("sharpe_ratio", "sortino_ratio", "calmar_ratio")
OBJECTIVES = ("total_return", *RATIOS)

Point = dict[str, Any]


class StudyFailed(AlgoRoyaleError):
    """More than a fifth of a study's trials raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What to optimise; several names make a multi-objective study."""

    names: tuple[str, ...] = ("sharpe_ratio",)
    directions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise BadInput("objective: at least one name is needed")
        for name in self.names:
            if name not in OBJECTIVES:
                raise BadInput(f"objective: unknown {name!r}; known: {', '.join(OBJECTIVES)}")
        if not self.directions:
            object.__setattr__(self, "directions", ("maximize",) * len(self.names))
        if len(self.directions) != len(self.names) or set(self.directions) - {"maximize", "minimize"}:
            raise BadInput(f"objective: directions {self.directions} must be maximize or minimize, one per name")

    def score(self, metrics: Mapping[str, float | int | None]) -> tuple[float, ...] | None:
        """Values in order, ratios clipped; None (infeasible) if one has no value."""
        values = []
        for name in self.names:
            value = metrics[name]
            if value is None or not math.isfinite(value):
                return None
            values.append(min(CLIP, max(-CLIP, value)) if name in RATIOS else float(value))
        return tuple(values)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What one point did in the train range. `returns`: session returns; `sharpe` per session, NaN if it has none."""

    values: tuple[float, ...] | None
    num_trades: int
    returns: FloatArray
    sharpe: float


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    number: int
    point: Point
    evaluation: Evaluation
    feasible: bool


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Complete trials in order, and the chosen one (None: no trial was feasible)."""

    trials: tuple[Trial, ...]
    best: Trial | None
    failures: tuple[str, ...]

    @property
    def n_feasible(self) -> int:
        return sum(trial.feasible for trial in self.trials)


def trial_seed(seed: int, stage: str, symbol: str, strategy: str, window_id: str, n_complete: int) -> int:
    """Seed of the next trial."""
    text = f"{seed}|{stage}|{symbol}|{strategy}|{window_id}|{n_complete}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _distributions(space: Sequence[Dimension]) -> "dict[str, optuna.distributions.BaseDistribution]":
    import optuna.distributions as d

    out: dict[str, d.BaseDistribution] = {}
    for p in space:
        if p.kind == "categorical":
            out[p.name] = d.CategoricalDistribution(p.choices)
        elif p.kind == "int":
            out[p.name] = d.IntDistribution(int(p.low), int(p.high), log=p.log)
        else:
            out[p.name] = d.FloatDistribution(p.low, p.high, log=p.log)
    return out


def optimise(
    space: Sequence[Dimension],
    evaluate: Callable[[Point], Evaluation],
    *,
    n_trials: int,
    next_seed: Callable[[int], int],
    objective: Objective,
    min_trades: int,
    storage: "optuna.storages.BaseStorage | None" = None,
) -> Study:
    """Run (or, given a storage that holds a part of it, finish) a study of `n_trials`.

    `evaluate` must be a pure function of the point; what it raises (arithmetic, value and lookup errors, and our own)
    fails the trial, and more than a fifth of failed trials raise StudyFailed. `next_seed` maps the number of complete
    trials to a seed. A trial is feasible with at least `min_trades` trades and a value for every objective.
    """
    from optuna.trial import TrialState

    n_trials = n_trials if space else 1
    study, distributions = _open(objective, storage), _distributions(space)
    cache: dict[tuple[Any, ...], Evaluation] = {}

    def cached(point: Point) -> Evaluation:
        key = tuple(point[p.name] for p in space)
        if key not in cache:
            cache[key] = evaluate(point)
        return cache[key]

    trials, failures = _resumed(study, cached, min_trades)
    if not trials and not failures and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial({p.name: p.default for p in space})
    while len(trials) + len(failures) < n_trials:
        study.sampler = _sampler(next_seed(len(trials)))
        asked = study.ask(distributions)
        point = dict(asked.params)
        try:
            done = cached(point)
        except (ArithmeticError, ValueError, LookupError, AlgoRoyaleError):
            failures.append(traceback.format_exc())
            asked.set_user_attr("error", failures[-1])
            _fail(study, asked.number)
            if len(failures) > FAILED_SHARE_MAX * n_trials:
                raise StudyFailed(
                    f"{len(failures)} of {n_trials} trials failed; the last one:\n{failures[-1]}"
                ) from None
            continue
        trial = _trial(asked.number, point, done, min_trades)
        asked.set_constraint("feasible", _violation(done, min_trades))
        study.tell(asked, _told(done, objective))
        trials.append(trial)
    return Study(tuple(trials), select(trials, objective), tuple(failures))


def _open(objective: Objective, storage: "optuna.storages.BaseStorage | None") -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [optuna.study.StudyDirection[direction.upper()] for direction in objective.directions]
    return optuna.create_study(study_name="study", storage=storage, load_if_exists=True, directions=directions)


def _sampler(seed: int) -> "optuna.samplers.BaseSampler":
    import optuna

    return optuna.samplers.TPESampler(seed=seed)


def _resumed(
    study: "optuna.Study", cached: Callable[[Point], Evaluation], min_trades: int
) -> tuple[list[Trial], list[str]]:
    """Complete and failed trials of an earlier, interrupted run; one that was under way counts for nothing."""
    from optuna.trial import TrialState

    trials, failures = [], []
    for old in study.get_trials(deepcopy=False):
        if old.state == TrialState.RUNNING:
            _fail(study, old.number)
        elif old.state == TrialState.COMPLETE:
            trials.append(_trial(old.number, dict(old.params), cached(dict(old.params)), min_trades))
        elif old.state == TrialState.FAIL and "error" in old.user_attrs:
            failures.append(old.user_attrs["error"])
    return trials, failures


def _fail(study: "optuna.Study", number: int) -> None:
    from optuna.trial import TrialState

    study.tell(number, state=TrialState.FAIL)


def _violation(done: Evaluation, min_trades: int) -> float:
    """Positive is infeasible, as optuna has it."""
    missing = float(min_trades - done.num_trades)
    return missing if done.values is not None else max(missing, 1.0)


def _told(done: Evaluation, objective: Objective) -> list[float]:
    """Values for the sampler; a trial without a value gets the worst a ratio can have."""
    if done.values is not None:
        return list(done.values)
    return [-CLIP if direction == "maximize" else CLIP for direction in objective.directions]


def _trial(number: int, point: Point, done: Evaluation, min_trades: int) -> Trial:
    return Trial(number, point, done, _violation(done, min_trades) <= 0.0)


def select(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """The best feasible trial, ties to the lowest number; among several objectives the best mean rank on the Pareto
    front."""
    able = [t for t in trials if t.feasible and t.evaluation.values is not None]
    if not able:
        return None
    sign = np.array([1.0 if d == "maximize" else -1.0 for d in objective.directions])
    values = np.array([t.evaluation.values for t in able]) * sign
    if values.shape[1] == 1:
        return able[int(np.argmax(values[:, 0]))]  # the first of equals
    beaten = np.array([bool(((values >= row).all(axis=1) & (values > row).any(axis=1)).any()) for row in values])
    front, candidates = values[~beaten], [t for t, lost in zip(able, beaten, strict=True) if not lost]
    ranks = np.array([[(column > x).sum() + ((column == x).sum() + 1) / 2 for x in column] for column in front.T])
    return candidates[int(np.argmin(ranks.mean(axis=0)))]
