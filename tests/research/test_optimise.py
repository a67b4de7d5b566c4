"""The search is repeatable, resumable and selects by our rules."""

import itertools
import math

import numpy as np
import optuna
import pytest

from algo_royale.errors import BadInput, BadMarketData
from algo_royale.research.optimise import (
    Evaluation,
    Objective,
    Search,
    Study,
    StudyFailed,
    Trial,
    optimise,
    select,
    trial_seed,
)
from algo_royale.research.optuna_study import StudyRecord
from algo_royale.strategies.space import choice, integer, number

SPACE = (integer("window", 2, 60, 20), number("level", 0.0, 1.0, 0.5), choice("kind", ("a", "b"), "a"))
SHARPE = Objective()


def evaluation(value: float | None, trades: int = 50) -> Evaluation:
    values = None if value is None else (value,)
    return Evaluation(values, trades, np.array([0.0 if value is None else value]), 0.0)


def hill(point: dict, fold: int = 0) -> Evaluation:
    """Best at window 37, level 0.8, kind b; few trades for long windows."""
    value = 1.0 - ((point["window"] - 37) / 58) ** 2 - (point["level"] - 0.8) ** 2 + 0.1 * (point["kind"] == "b")
    return evaluation(value, trades=5 if point["window"] > 45 else 50)


def seeds(n_complete: int) -> int:
    return trial_seed(7, "signal", "X", "S", "w", n_complete)


def search(n: int, evaluate=hill, storage=None, min_trades: int = 10, how: Search | None = None) -> Study:
    record = StudyRecord(storage, "study", SPACE, SHARPE) if storage else None
    return optimise(
        SPACE, evaluate, n_trials=n, next_seed=seeds, objective=SHARPE, min_trades=min_trades, search=how, record=record
    )


def as_list(study: Study) -> list:
    return [(t.point, t.evaluation.values, t.feasible) for t in study.trials]


def test_trial_seed_is_the_published_one() -> None:
    assert trial_seed(20240501, "signal", "AAPL", "RSIStrategy", "20160104_20191231", 0) == 3433749562


def test_trial_zero_is_the_default_point_and_the_best_feasible_trial_is_chosen() -> None:
    study = search(30)

    assert study.trials[0].point == {"window": 20, "level": 0.5, "kind": "a"}
    feasible = [t for t in study.trials if t.point["window"] <= 45]
    assert study.n_feasible == len(feasible)
    assert study.best is max(feasible, key=lambda t: t.evaluation.values)
    assert len(study.trials) == 30


def test_search_beats_the_default_clearly() -> None:
    study = search(60)

    assert study.best is not None
    assert study.best.evaluation.values[0] > 1.05 > hill(study.trials[0].point).values[0]


def test_two_searches_are_equal() -> None:
    assert as_list(search(25)) == as_list(search(25))


def test_a_search_killed_at_any_trial_and_resumed_is_the_search_that_was_never_killed() -> None:
    whole = as_list(search(20))

    for kill_at in (1, 2, 8, 15):
        storage, calls = optuna.storages.InMemoryStorage(), itertools.count(1)

        def dies(point: dict, fold: int, calls=calls, kill_at=kill_at) -> Evaluation:
            if next(calls) == kill_at:
                raise KeyboardInterrupt
            return hill(point)

        with pytest.raises(KeyboardInterrupt):
            search(20, dies, storage)
        assert as_list(search(20, storage=storage)) == whole


def test_a_point_is_computed_once_however_often_it_is_proposed() -> None:
    asked: list[tuple] = []

    def one_of_two(point: dict, fold: int) -> Evaluation:
        asked.append(tuple(point.items()))
        return evaluation(1.0)

    study = optimise(
        (choice("kind", ("a", "b"), "a"),), one_of_two, n_trials=12, next_seed=seeds, objective=SHARPE, min_trades=0
    )

    assert len(study.trials) == 12
    assert sorted(asked) == [(("kind", "a"),), (("kind", "b"),)]


def test_a_space_without_dimensions_has_one_trial() -> None:
    study = optimise(
        (), lambda point, fold: evaluation(0.3), n_trials=50, next_seed=seeds, objective=SHARPE, min_trades=0
    )

    assert [t.point for t in study.trials] == [{}]
    assert study.best is study.trials[0]


def test_no_feasible_trial_gives_no_best() -> None:
    study = search(8, lambda point, fold: evaluation(2.0, trades=3))

    assert study.best is None and study.n_feasible == 0 and len(study.trials) == 8


def test_a_trial_without_a_value_is_complete_but_infeasible() -> None:
    study = search(8, lambda point, fold: evaluation(None if point["kind"] == "a" else 0.1))

    assert all(t.feasible == (t.point["kind"] == "b") for t in study.trials)


def test_a_few_failed_trials_are_kept_and_many_fail_the_study() -> None:
    calls = itertools.count()

    def sometimes(point: dict, fold: int) -> Evaluation:
        if next(calls) in (2, 5):
            raise ZeroDivisionError("nothing to divide by")
        return hill(point)

    study = search(20, sometimes)
    assert len(study.failures) == 2 and len(study.trials) == 18
    assert "nothing to divide by" in study.failures[0]

    def always(point: dict, fold: int) -> Evaluation:
        raise BadMarketData("rotten")

    with pytest.raises(StudyFailed, match="rotten"):
        search(20, always)


def test_ties_go_to_the_lowest_number() -> None:
    trials = [Trial(i, {}, evaluation(v), True) for i, v in enumerate((0.1, 0.5, 0.5))]

    assert select(trials, SHARPE) is trials[1]


def test_of_several_objectives_the_best_mean_rank_on_the_front_wins() -> None:
    objective = Objective(names=("total_return", "sharpe_ratio"), directions=("maximize", "maximize"))
    points = [(1.0, 9.0), (5.0, 5.0), (4.0, 4.0), (9.0, 1.0), (6.0, 4.9)]  # (4, 4) is dominated by (5, 5)
    trials = [Trial(i, {}, Evaluation(v, 9, np.empty(0), 0.0), True) for i, v in enumerate(points)]

    # Ranks on the front: (1,9): 4,1; (5,5): 3,2; (9,1): 1,4; (6,4.9): 2,3. All mean 2.5: the lowest number wins.
    assert select(trials, objective) is trials[0]
    assert select([*trials[1:3], *trials[4:]], objective) is trials[1]


def test_objective_clips_ratios_and_refuses_what_has_no_value() -> None:
    assert Objective().score({"sharpe_ratio": 55.0}) == (10.0,)
    assert Objective(names=("total_return",)).score({"total_return": 55.0}) == (55.0,)
    assert Objective().score({"sharpe_ratio": None}) is None
    assert Objective().score({"sharpe_ratio": math.inf}) is None


@pytest.mark.parametrize(
    ("names", "directions"),
    [(("shape_ratio",), ()), ((), ()), (("total_return",), ("up",)), (("total_return",), ("maximize",) * 2)],
)
def test_a_wrong_objective_is_refused(names: tuple, directions: tuple) -> None:
    with pytest.raises(BadInput, match="objective"):
        Objective(names=names, directions=directions)
