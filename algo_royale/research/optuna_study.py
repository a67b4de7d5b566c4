"""Where the search meets optuna: studies kept in its storages, its pruners, and our sampler behind its interface.

The only module that imports optuna, so that a search without them does not pay for it.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from algo_royale.errors import ArtifactError
from algo_royale.market import FloatArray
from algo_royale.research import samplers
from algo_royale.research.optimise import CLIP, STORAGES, Attempt, Evaluation, Objective, Trial
from algo_royale.research.samplers import COMPLETE, INFEASIBLE, PRUNED
from algo_royale.research.viability import Dimension

_CONSTRAINTS = "constraints"  # optuna's own name, which every version reads


def open_storage(kind: str, folder: Path) -> optuna.storages.BaseStorage:
    """The storage of kind "journal" or "sqlite" in `folder`, made if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / STORAGES[kind]).absolute()
    if kind == "sqlite":
        return optuna.storages.RDBStorage(f"sqlite:///{file}")
    return optuna.storages.JournalStorage(JournalFileBackend(str(file)))


class StudyRecord:
    """Finished trials of a study in an optuna storage, written whole: a trial that was under way leaves nothing.

    `name` says what is searched under which configuration, so that a changed one begins anew.
    """

    def __init__(
        self, storage: optuna.storages.BaseStorage, name: str, space: Sequence[Dimension], objective: Objective
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            storage=storage, study_name=name, load_if_exists=True, directions=_directions(objective.directions),
            sampler=optuna.samplers.RandomSampler(seed=0),
        )  # fmt: skip
        self._distributions, self._objective = _distributions(space), objective

    def finished(self) -> list[Trial | Attempt]:
        """Trials in order. Raises ArtifactError if somebody else has written to the study."""
        out: list[Trial | Attempt] = []
        for old in self._study.get_trials(deepcopy=False):
            found = _thawed(old, len(out))
            if found is None:
                raise ArtifactError(
                    f"study {self._study.study_name}: trial {old.number} ({old.state.name.lower()}) is not ours;"
                    " delete the study's file to search anew"
                )
            out.append(found)
        return out

    def add(self, trial: Trial | Attempt) -> None:
        done = trial.evaluation if isinstance(trial, Trial) else None
        attrs: dict[str, Any] = {"error": trial.error} if isinstance(trial, Attempt) and trial.error else {}
        system: dict[str, Any] = {}
        state, values = (TrialState.FAIL if attrs else TrialState.PRUNED), None
        if done is not None and isinstance(trial, Trial):
            state, values = TrialState.COMPLETE, _told(done, self._objective)
            system = {_CONSTRAINTS: [0.0 if trial.feasible else 1.0]}
            attrs = {
                "has_values": done.values is not None, "num_trades": done.num_trades, "violations": list(done.violations),
                "sharpe": repr(done.sharpe), "returns": base64.b64encode(done.returns.astype("<f8").tobytes()).decode(),
            }  # fmt: skip
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state, values=values, params=trial.point, distributions=self._distributions, user_attrs=attrs,
                system_attrs=system, intermediate_values=dict(enumerate(trial.parts, 1)),
            )
        )  # fmt: skip


def _told(done: Evaluation, objective: Objective) -> list[float]:
    """Values to store; a trial without a value gets the worst a ratio can have."""
    if done.values is not None:
        return list(done.values)
    return [-CLIP if direction == "maximize" else CLIP for direction in objective.directions]


def _thawed(old: FrozenTrial, number: int) -> Trial | Attempt | None:
    """The trial as it was when it finished; None if `StudyRecord` has not written it."""
    point, parts, attrs = dict(old.params), tuple(old.intermediate_values.values()), old.user_attrs
    if old.state is TrialState.PRUNED:
        return Attempt(number, point, parts)
    if old.state is TrialState.FAIL and "error" in attrs:
        return Attempt(number, point, parts, attrs["error"])
    if old.state is not TrialState.COMPLETE or "returns" not in attrs:
        return None
    done = Evaluation(
        tuple(old.values) if attrs["has_values"] else None, attrs["num_trades"],
        np.frombuffer(base64.b64decode(attrs["returns"]), "<f8").astype(np.float64), float(attrs["sharpe"]),
        tuple(attrs["violations"]),
    )  # fmt: skip
    return Trial(number, point, done, old.system_attrs[_CONSTRAINTS][0] <= 0.0, parts)


class FoldPruner:
    """optuna's median or hyperband pruner over the folds of each trial; steps are the folds done, from 1."""

    def __init__(self, kind: str, folds: int, direction: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruner: optuna.pruners.BasePruner = optuna.pruners.MedianPruner()
        if kind == "hyperband":
            pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=folds, reduction_factor=2)
        # Brackets of hyperband depend on the study's name, and nothing on what this sampler would say.
        self._study = optuna.create_study(
            study_name="folds",
            directions=_directions((direction,)),
            pruner=pruner,
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        self._folds = 0

    def begin(self) -> None:
        self._trial, self._folds = self._study.ask(), 0

    def gives_up(self, value: float) -> bool:
        self._folds += 1
        self._trial.report(value, self._folds)
        return self._trial.should_prune()

    def end(self, trial: Trial | Attempt) -> None:
        if isinstance(trial, Attempt):
            self._study.tell(self._trial, state=TrialState.FAIL if trial.error else TrialState.PRUNED)
        else:
            values = trial.evaluation.values
            self._study.tell(self._trial, None if values is None else values[0], state=_ended(values))


def _ended(values: tuple[float, ...] | None) -> TrialState:
    return TrialState.FAIL if values is None else TrialState.COMPLETE


def _directions(names: Sequence[str]) -> list[StudyDirection]:
    return [StudyDirection[name.upper()] for name in names]


def _distributions(space: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    out: dict[str, BaseDistribution] = {}
    for p in space:
        if p.kind == "categorical":
            out[p.name] = CategoricalDistribution(p.choices)
        elif p.kind == "int":
            out[p.name] = IntDistribution(int(p.low), int(p.high), log=p.log)
        else:
            out[p.name] = FloatDistribution(p.low, p.high, log=p.log)
    return out


class CompiledTPESampler(BaseSampler):
    """`samplers.tpe` for any optuna study, also with constraints, several objectives and pruned trials.

    Parameters that all trials have are drawn jointly, others one by one. A trial depends on the seed, its number and the
    finished trials; running ones are not looked at.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._space = optuna.search_space.IntersectionSearchSpace(include_pruned=True)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: found for name, found in self._space.calculate(study).items() if not found.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sample(study, trial, search_space, 0) if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        found = self._sample(study, trial, {param_name: param_distribution}, crc32(param_name.encode()))
        return found[param_name]

    def _sample(
        self, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution], salt: int
    ) -> dict[str, Any]:
        table = np.array([_row(distribution) for distribution in space.values()])
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        trials = [t for t in study.get_trials(deepcopy=False, states=states) if space.keys() <= t.params.keys()]
        history = np.empty((len(trials), len(space)))
        for row, old in zip(history, trials, strict=True):
            values = [d.to_internal_repr(old.params[name]) for name, d in space.items()]
            samplers.encode(np.array(values, np.float64), table, row)
        rank, loss = _ranked(trials, study.directions)
        out = np.empty(len(space))
        propose, _ = samplers.sampler("tpe", table, 1, 0)
        propose(trial.number, samplers.stream(self._seed ^ salt, trial.number), history, rank, loss, out)
        return {name: d.to_external_repr(float(x)) for (name, d), x in zip(space.items(), out, strict=True)}


def _row(distribution: BaseDistribution) -> tuple[float, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return samplers.dimension(choices=len(distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    d = distribution
    return samplers.dimension(low=d.low, high=d.high, step=float(d.step or 0.0), log=d.log)


def _ranked(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> tuple[FloatArray, FloatArray]:
    """Rank and loss of each trial as `samplers.tpe` wants them."""
    signs = [-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in directions]
    rank, loss = np.full(len(trials), COMPLETE), np.empty(len(trials))
    for i, trial in enumerate(trials):
        missed = sum(v for v in _constraints(trial) if v > 0.0)
        if missed > 0.0:
            rank[i], loss[i] = INFEASIBLE, missed
        elif trial.state is TrialState.PRUNED:
            step, value = max(trial.intermediate_values.items(), default=(-1, math.nan))
            signed = signs[0] * value
            rank[i] = PRUNED
            loss[i] = -2.0 * step + (1.0 if math.isnan(signed) else signed / (1.0 + abs(signed)))
        elif len(signs) == 1:
            loss[i] = signs[0] * trial.values[0]
    complete = rank == COMPLETE
    if len(signs) > 1 and complete.any():
        values = [
            [s * v for s, v in zip(signs, t.values, strict=True)] for t, c in zip(trials, complete, strict=True) if c
        ]
        loss[complete] = samplers.pareto_losses(np.array(values))
    return rank, loss


def _constraints(trial: FrozenTrial) -> Sequence[float]:
    named: Mapping[str, float] | None = getattr(trial, "constraints", None)
    return tuple(named.values()) if named is not None else trial.system_attrs.get(_CONSTRAINTS) or ()
