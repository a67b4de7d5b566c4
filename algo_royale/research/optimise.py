"""Search for parameters, repeatable to the last bit.

A trial is a function of its seed (what is searched and how many trials are complete) and of the trials before it, so a
study that was interrupted continues with the very trials it would have had, and no scheduling can change it. Selection is
ours: the best objective among feasible complete trials, ties to the lowest number. A point that is proposed again is not
computed again. A space without dimensions has one point, so its study has one trial.
"""

import hashlib
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from algo_royale.errors import AlgoRoyaleError, BadInput
from algo_royale.market import FloatArray
from algo_royale.research import samplers
from algo_royale.research.metrics import session_sharpe
from algo_royale.research.samplers import COMPLETE, INFEASIBLE, PRUNED
from algo_royale.research.viability import Check, Dimension

CLIP = 10.0  # ratios beyond this are artefacts of few trades
FAILED_SHARE_MAX = 0.2
RATIOS = ("sharpe_ratio", "sortino_ratio", "calmar_ratio")
OBJECTIVES = ("total_return", *RATIOS)
CONSTRAINED = (*OBJECTIVES, "cagr", "max_drawdown", "win_rate", "num_trades", "exposure")
SAMPLERS = ("tpe", "qmc", "random", "grid")
PRUNERS = ("none", "median", "hyperband")
STORAGES = {"memory": "", "journal": "study.journal", "sqlite": "study.db"}  # and the file beside the unit's artifact

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

    def losses(self, values: Sequence[float]) -> tuple[float, ...]:
        """The values with their signs turned so that less is better."""
        return tuple(-v if d == "maximize" else v for v, d in zip(values, self.directions, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How to search. With `folds` >= 2 the objective is the mean (or the worst: "min") over that many equal parts of the
    train range, one after the other, and a pruner may give up a trial after any of them. `constraints` are what a trial's
    metrics in train must reach to be chosen."""

    sampler: str = "tpe"
    folds: int = 1
    fold_score: str = "mean"
    pruner: str = "none"
    storage: str = "memory"
    constraints: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (
            ("sampler", SAMPLERS), ("fold_score", ("mean", "min")), ("pruner", PRUNERS), ("storage", STORAGES),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise BadInput(f"search: unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.folds < 1:
            raise BadInput(f"search: folds {self.folds} must be at least 1")
        if self.pruner != "none" and self.folds < 2:
            raise BadInput(
                f"search: the {self.pruner} pruner compares parts of the train range: set folds to 2 or more"
            )
        for check in self.constraints:
            if check.name not in CONSTRAINED:
                raise BadInput(f"search: no constraint on {check.name!r}; known: {', '.join(CONSTRAINED)}")

    def recipe(self) -> dict[str, Any]:
        """What results depend on, as plain values: everything but where trials are kept."""
        checks = [[check.name, check.op, check.threshold] for check in self.constraints]
        plain = {name: getattr(self, name) for name in ("sampler", "folds", "fold_score", "pruner")}
        return plain | {"constraints": checks}

    @classmethod
    def from_recipe(cls, found: Mapping[str, Any]) -> "Search":
        """The search of a recipe. Raises KeyError, TypeError or ValueError for what is none."""
        checks = tuple(Check(name=name, op=op, threshold=limit) for name, op, limit in found["constraints"])
        return cls(**{**found, "constraints": checks})

    def wanted(self, objective: Objective) -> frozenset[str]:
        """Names of the metrics that trials are chosen by."""
        return frozenset(objective.names) | {check.name for check in self.constraints}

    def violations(self, metrics: Mapping[str, float | int | None]) -> tuple[float, ...]:
        """By how much each constraint is missed, relative to its threshold; 0 or less is met, a missing value misses by 1.

        A strict inequality that is met exactly misses by the smallest amount there is.
        """
        out = []
        for check in self.constraints:
            value = metrics[check.name]
            if value is None or not math.isfinite(value):
                out.append(1.0)
                continue
            over = (value - check.threshold) / (abs(check.threshold) or 1.0)
            over = over if check.op in ("<", "<=") else -over
            out.append(over or (math.ulp(0.0) if check.op in ("<", ">") else 0.0))
        return tuple(out)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What one point did in the train range (or in a fold of it). `returns`: session returns; `sharpe` per session, NaN if
    it has none; `violations` as `Search.violations`."""

    values: tuple[float, ...] | None
    num_trades: int
    returns: FloatArray
    sharpe: float
    violations: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A complete trial; `parts` are the objective after each fold, if there are folds and one objective."""

    number: int
    point: Point
    evaluation: Evaluation
    feasible: bool
    parts: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A trial that did not complete: pruned after `parts`, or failed with `error`."""

    number: int
    point: Point
    parts: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Complete trials in order, and the chosen one (None: no trial was feasible); what was pruned or failed."""

    trials: tuple[Trial, ...]
    best: Trial | None
    attempts: tuple[Attempt, ...]

    @property
    def n_feasible(self) -> int:
        return sum(trial.feasible for trial in self.trials)

    @property
    def failures(self) -> tuple[str, ...]:
        return tuple(a.error for a in self.attempts if a.error)


Evaluate = Callable[[Point, int], Evaluation]


class Record(Protocol):
    """Where finished trials are kept, so that an interrupted study can go on."""

    def finished(self) -> "list[Trial | Attempt]": ...
    def add(self, trial: "Trial | Attempt") -> None: ...


class Pruner(Protocol):
    """Sees the trials in order, each fold's objective so far, and says whether to give a trial up."""

    def begin(self) -> None: ...
    def gives_up(self, value: float) -> bool: ...
    def end(self, trial: "Trial | Attempt") -> None: ...


def trial_seed(seed: int, stage: str, symbol: str, strategy: str, window_id: str, n_complete: int) -> int:
    """Seed of the next trial."""
    text = f"{seed}|{stage}|{symbol}|{strategy}|{window_id}|{n_complete}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


class _Course:
    """A study under way: its trials, and what the sampler knows of them."""

    def __init__(self, space: Sequence[Dimension], n_trials: int, objective: Objective, min_trades: int) -> None:
        self.space, self.objective, self.min_trades = space, objective, min_trades
        self.table = samplers.layout(space)
        self.trials: list[Trial] = []
        self.attempts: list[Attempt] = []
        self._history = np.empty((n_trials, len(space)))
        self._rank, self._loss = np.empty(n_trials), np.empty(n_trials)
        self._known = 0  # trials that the sampler learns from: complete and pruned ones
        self._losses: list[tuple[float, ...]] = []  # of feasible trials

    @property
    def count(self) -> int:
        return len(self.trials) + len(self.attempts)

    def next_point(self, sampler: samplers.Sampler, next_seed: Callable[[int], int]) -> Point:
        """The default point first, then what the sampler says."""
        if self.count == 0:
            return {p.name: p.default for p in self.space}
        known, out = self._known, np.empty(len(self.space))
        seed = samplers.stream(next_seed(len(self.trials)), self.count)
        sampler(self.count, seed, self._history[:known], self._rank[:known], self._loss[:known], out)
        return samplers.named(self.space, out)

    def add(self, trial: "Trial | Attempt") -> None:
        """Take note of a finished trial."""
        if isinstance(trial, Trial):
            self.trials.append(trial)
            self._learn(trial)
        else:
            self.attempts.append(trial)
            if not trial.error:
                loss = self.objective.losses(trial.parts[-1:])[0]
                self._note(trial.point, PRUNED, -2.0 * len(trial.parts) + loss / (1.0 + abs(loss)))

    def _learn(self, trial: Trial) -> None:
        values = trial.evaluation.values
        if not trial.feasible or values is None:
            self._note(trial.point, INFEASIBLE, violation(trial.evaluation, self.min_trades))
            return
        self._losses.append(self.objective.losses(values))
        self._note(trial.point, COMPLETE, self._losses[-1][0])
        if len(self.objective.names) > 1:
            complete = self._rank[: self._known] == COMPLETE
            self._loss[: self._known][complete] = samplers.pareto_losses(np.array(self._losses))

    def _note(self, point: Point, rank: float, loss: float) -> None:
        samplers.encode(samplers.numbers(self.space, point), self.table, self._history[self._known])
        self._rank[self._known], self._loss[self._known] = rank, loss
        self._known += 1


class _Judge:
    """Evaluates points fold by fold, each point once."""

    def __init__(self, space: Sequence[Dimension], evaluate: Evaluate, course: _Course, search: Search) -> None:
        self._names, self._evaluate, self._course, self._search = [p.name for p in space], evaluate, course, search
        self._done: dict[tuple[Any, ...], Evaluation] = {}

    def __call__(self, number: int, point: Point, pruner: "Pruner | None") -> "Trial | Attempt":
        search, course = self._search, self._course
        done: list[Evaluation] = []
        parts: tuple[float, ...] = ()
        for fold in range(search.folds):
            try:
                done.append(self._part(point, fold))
            except (ArithmeticError, ValueError, LookupError, AlgoRoyaleError):
                return Attempt(number, point, parts, traceback.format_exc())
            if search.folds > 1 and len(course.objective.names) == 1:
                so_far = joined(done, course.objective, search.fold_score).values
                parts += (math.nan if so_far is None else so_far[0],)
                if pruner is not None and fold + 1 < search.folds and so_far is not None and pruner.gives_up(so_far[0]):
                    return Attempt(number, point, parts)
        whole = joined(done, course.objective, search.fold_score) if search.folds > 1 else done[0]
        return Trial(number, point, whole, violation(whole, course.min_trades) <= 0.0, parts)

    def _part(self, point: Point, fold: int) -> Evaluation:
        key = (fold, *(point[name] for name in self._names))
        if key not in self._done:
            self._done[key] = self._evaluate(point, fold)
        return self._done[key]


def optimise(
    space: Sequence[Dimension],
    evaluate: Evaluate,
    *,
    n_trials: int,
    next_seed: Callable[[int], int],
    objective: Objective,
    min_trades: int,
    search: Search | None = None,
    record: "Record | None" = None,
) -> Study:
    """Run (or, given a record that holds a part of it, finish) a study of `n_trials`.

    `evaluate(point, fold)` must be a pure function (fold 0 is all there is without folds); what it raises (arithmetic,
    value and lookup errors, and our own) fails the trial, and more than a fifth of failed trials raise StudyFailed.
    `next_seed` maps the number of complete trials to a seed. A trial is feasible with at least `min_trades` trades, a
    value for every objective and every constraint met.
    """
    search = search or Search()
    if search.pruner != "none" and len(objective.names) > 1:
        raise BadInput("search: a pruner can compare trials by one objective only")
    n_trials = n_trials if space else 1
    course = _Course(space, n_trials, objective, min_trades)
    sampler, n_points = samplers.sampler(search.sampler, course.table, n_trials, next_seed(0))
    judge, pruner = _Judge(space, evaluate, course, search), _pruner(search, objective)
    for old in record.finished() if record else ():
        _tell(pruner, old)
        course.add(old)
    while course.count < min(n_trials, n_points):
        point = course.next_point(sampler, next_seed)
        if pruner:
            pruner.begin()
        trial = judge(course.count, point, pruner)
        if pruner:
            pruner.end(trial)
        if record:
            record.add(trial)
        course.add(trial)
        _give_up_if_rotten(course, n_trials)
    return Study(tuple(course.trials), select(course.trials, objective), tuple(course.attempts))


def _give_up_if_rotten(course: _Course, n_trials: int) -> None:
    errors = [attempt.error for attempt in course.attempts if attempt.error]
    if len(errors) > FAILED_SHARE_MAX * n_trials:
        raise StudyFailed(f"{len(errors)} of {n_trials} trials failed; the last one:\n{errors[-1]}")


def _pruner(search: Search, objective: Objective) -> "Pruner | None":
    if search.pruner == "none":
        return None
    from algo_royale.research.optuna_study import FoldPruner

    return FoldPruner(search.pruner, search.folds, objective.directions[0])


def _tell(pruner: "Pruner | None", old: "Trial | Attempt") -> None:
    """Let the pruner see a trial of an earlier, interrupted run."""
    if pruner:
        pruner.begin()
        for value in old.parts[: len(old.parts) - isinstance(old, Trial)]:
            if not math.isnan(value):
                pruner.gives_up(value)
        pruner.end(old)


def violation(done: Evaluation, min_trades: int) -> float:
    """By how much a trial misses what makes it feasible, in all; 0 if it is feasible."""
    missing = max(0, min_trades - done.num_trades) / max(1, min_trades)
    return missing + sum(v for v in done.violations if v > 0.0) + (done.values is None)


def joined(parts: Sequence[Evaluation], objective: Objective, fold_score: str) -> Evaluation:
    """One evaluation of several folds: the mean or worst of each objective, all trades and sessions, the worst of each
    constraint."""
    values: tuple[float, ...] | None = None
    rows = [part.values for part in parts if part.values is not None]
    if len(rows) == len(parts):
        columns = list(zip(*rows, strict=True))
        worst = [min if direction == "maximize" else max for direction in objective.directions]
        values = tuple(
            sum(column) / len(column) if fold_score == "mean" else pick(column)
            for column, pick in zip(columns, worst, strict=True)
        )
    returns = np.concatenate([part.returns for part in parts])
    sharpe = session_sharpe(returns)
    return Evaluation(
        values, sum(part.num_trades for part in parts), returns, math.nan if sharpe is None else sharpe,
        tuple(map(max, zip(*(part.violations for part in parts), strict=True))),
    )  # fmt: skip


def over_folds(evaluate: Evaluate, search: Search, objective: Objective) -> Callable[[Point], Evaluation]:
    """A point's evaluation over all folds together, as trials are judged."""
    if search.folds == 1:
        return lambda point: evaluate(point, 0)
    return lambda point: joined([evaluate(point, i) for i in range(search.folds)], objective, search.fold_score)


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
