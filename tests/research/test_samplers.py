"""Where a search looks: what is proposed follows from seed and past alone, is as good as optuna's own, and is never lost."""

import itertools
import math
import statistics

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc, truncnorm

from algo_royale.errors import ArtifactError, BadInput
from algo_royale.research import backtest, samplers, signal_stages
from algo_royale.research.artifacts import identity
from algo_royale.research.optimise import (
    SAMPLERS,
    Evaluation,
    Objective,
    Search,
    Study,
    optimise,
    over_folds,
    trial_seed,
)
from algo_royale.research.optuna_study import CompiledTPESampler, StudyRecord, open_storage
from algo_royale.research.plan import ResearchConfig, plan, series, warmup_bars
from algo_royale.research.viability import Check
from algo_royale.research.windows import WindowConfig
from algo_royale.strategies import build
from algo_royale.strategies.space import choice, integer, number, return_threshold

SPACE = (
    choice("a_kind", ("x", "y", "z"), "x"), number("b_level", 0.0, 1.0, 0.5), integer("c_window", 2, 60, 20),
    return_threshold("d_threshold", 0.005, 0.1, 0.02),
)  # fmt: skip
ONE = Objective()
TWO = Objective(names=("total_return", "sharpe_ratio"))


def evaluation(*values: float | None, trades: int = 50, violations: tuple[float, ...] = ()) -> Evaluation:
    found = None if None in values else values
    return Evaluation(found, trades, np.array([v or 0.0 for v in values]), 0.1, violations)  # type: ignore[arg-type]


def height(point: dict, at: float = 0.7) -> float:
    """A hill over the four dimensions."""
    level = (point["b_level"] - at) ** 2 + ((point["c_window"] - 37) / 58) ** 2
    return 1.0 - level - 0.1 * (math.log(point["d_threshold"] / 0.03)) ** 2 + 0.2 * (point["a_kind"] == "y")


def seeds(n_complete: int) -> int:
    return trial_seed(7, "signal", "X", "S", "w", n_complete)


def search(how: Search, n: int = 30, evaluate=None, record=None, objective: Objective = ONE, space=SPACE) -> Study:
    def judge(point: dict, fold: int) -> Evaluation:
        return evaluation(*[height(point, 0.5 + 0.05 * fold + 0.2 * i) for i in range(len(objective.names))])

    return optimise(
        space, evaluate or judge, n_trials=n, next_seed=seeds, objective=objective, min_trades=10, search=how,
        record=record,
    )  # fmt: skip


def as_list(study: Study) -> list:
    complete = [(t.number, t.point, t.evaluation.values, t.feasible, t.parts) for t in study.trials]
    return complete + [(a.number, a.point, a.parts, bool(a.error)) for a in study.attempts]


# --- the estimator -------------------------------------------------------------------------------------------------------


def test_density_is_the_mixture_that_scipy_computes() -> None:
    places = np.array([[0.1, 0.0], [0.35, 2.0], [0.4, 2.0], [0.9, 1.0]])
    table = np.array([samplers.dimension(low=0.0, high=1.0), samplers.dimension(choices=3)])
    sigma, inverse, base = np.empty((5, 2)), np.empty((5, 2)), np.empty(5)
    samplers._widths(places, table, sigma)
    samplers._prepare(places, table, sigma, inverse, base)

    # Widths by hand: the larger distance to a neighbour, at the ends the one there is; at least 1/(5 kernels + 1).
    assert sigma[:, 0] == pytest.approx([0.25, 0.25, 0.5, 0.5, 1.0])
    for x in (np.array([0.2, 2.0]), np.array([0.95, 0.0])):
        expected = 0.0
        for k, (mu, s) in enumerate(zip([*places[:, 0], 0.5], sigma[:, 0], strict=True)):
            share = 1 / 3 if k == 4 else (0.2 + (places[k, 1] == x[1])) / 1.6  # prior of 1/5 for each of three choices
            expected += 0.2 * share * truncnorm.pdf(x[0], (0 - mu) / s, (1 - mu) / s, mu, s)
        found = samplers._log_density(x, places, table, inverse, base) + math.log(math.sqrt(2 * math.pi)) * -1
        assert found == pytest.approx(math.log(expected), rel=1e-9)


def test_old_trials_weigh_less_as_in_optuna() -> None:
    from optuna.samplers._tpe.sampler import default_weights

    for m in (1, 24, 25, 26, 27, 60):
        assert [samplers._weight(k, m) for k in range(m)] == pytest.approx(default_weights(m).tolist())


def test_good_trials_are_the_lowest_by_rank_then_loss_then_age() -> None:
    rank = np.array([0.0, 2.0, 0.0, 1.0, 0.0, 0.0])
    loss = np.array([0.5, -9.0, 0.1, -5.0, 0.5, 0.1])
    good = np.empty(6, np.bool_)
    for n, expected in ((1, [2]), (2, [2, 5]), (3, [0, 2, 5]), (5, [0, 2, 3, 4, 5])):
        samplers._choose_good(rank, loss, n, good)
        assert np.flatnonzero(good).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 40), st.integers(1, 4))
def test_every_proposal_lies_in_the_space_and_encodes_back(seed: int, n: int, steps: int) -> None:
    table = samplers.layout(SPACE)
    history, out, back = np.empty((n, 4)), np.empty(4), np.empty(4)
    for row in history:
        samplers.uniform(seed + 1, table, out)
        samplers.encode(out, table, row)
    propose, _ = samplers.sampler("tpe", table, 50, 0)
    propose(n, seed, history, np.zeros(n), np.arange(n, dtype=float), out)
    point = samplers.named(SPACE, out)

    assert all(p.contains(point[p.name]) for p in SPACE)
    samplers.encode(out, table, back)
    samplers.decode(np.where(table[:, 0] > 0, (back + 0.5) / np.maximum(table[:, 0], 1), back), table, back)
    assert back == pytest.approx(out, rel=1e-12)


def test_numbers_are_spread_evenly() -> None:
    table, out = samplers.layout((integer("n", 1, 8, 1),)), np.empty(1)
    counts = np.zeros(9)
    for seed in range(8000):
        samplers.uniform(seed, table, out)
        counts[int(out[0])] += 1

    assert counts[0] == 0 and np.abs(counts[1:] - 1000).max() < 5 * math.sqrt(1000)


def test_a_grid_is_even_and_searches_a_small_space_whole() -> None:
    space = (integer("n", 3, 5, 4), choice("kind", ("a", "b"), "a"))
    study = search(Search(sampler="grid"), n=50, space=space, evaluate=lambda point, fold: evaluation(point["n"] * 1.0))
    assert len(study.trials) == 1 + 6  # the default point, then every point
    assert {tuple(t.point.values()) for t in study.trials[1:]} == set(itertools.product((3, 4, 5), ("a", "b")))

    places = samplers.grid(samplers.layout(SPACE), 50)
    assert places.shape == (48, 4)  # 3 choices, 4, 2 and 2 parts: one more of any is over 50
    assert sorted(set(places[:, 0])) == pytest.approx([1 / 6, 1 / 2, 5 / 6])


def test_quasi_random_points_fill_the_space_better_than_random_ones() -> None:
    space = tuple(number(name, 0.0, 1.0, 0.5) for name in "abc")

    def spread(kind: str) -> float:
        study = search(Search(sampler=kind), 65, lambda point, fold: evaluation(0.0), space=space)
        return float(qmc.discrepancy(np.array([list(t.point.values()) for t in study.trials[1:]])))

    assert spread("qmc") < 0.2 * spread("random")


# --- as good as optuna's -------------------------------------------------------------------------------------------------


def wavy(space, centre):
    """A hill with waves on it, over whole numbers."""

    def value(point: dict) -> float:
        u = np.array([(point[d.name] - d.low) / (d.high - d.low) for d in space]) - centre
        return float(-(u**2).sum() + 0.2 * np.cos(9 * u).sum())

    return value


def best_values(n_studies: int, n_sets: int) -> tuple[np.ndarray, np.ndarray]:
    """The best value of each study under each set of seeds: ours, and stock TPE's."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = tuple(integer(f"p{i}", 5, 30 + 20 * i, 10) for i in range(6))
    hills = [wavy(space, c) for c in np.random.default_rng(1).uniform(0.1, 0.9, (n_studies, 6))]
    ours, stock = np.empty((n_sets, n_studies)), np.empty((n_sets, n_studies))
    for (s, i), hill in zip(np.ndindex(n_sets, n_studies), hills * n_sets, strict=True):
        study = optimise(
            space, lambda point, fold, hill=hill: evaluation(hill(point)), n_trials=50, objective=ONE, min_trades=0,
            next_seed=lambda n, s=s, i=i: trial_seed(s, "signal", f"{i}", "S", "w", n),
        )  # fmt: skip
        ours[s, i] = study.best.evaluation.values[0]
        sampler = optuna.samplers.TPESampler(seed=trial_seed(s, "stock", f"{i}", "S", "w", 0))
        other = optuna.create_study(direction="maximize", sampler=sampler)
        other.enqueue_trial({d.name: d.default for d in space})
        other.optimize(
            lambda t, hill=hill: hill({d.name: t.suggest_int(d.name, d.low, d.high) for d in space}), n_trials=50
        )
        stock[s, i] = other.best_value
    return ours, stock


def is_not_worse(ours: np.ndarray, stock: np.ndarray) -> bool:
    """Whether the mean difference, study by study, is above twice its standard error below nothing."""
    difference = (ours - stock).ravel()
    print(f"mean of best values: {ours.mean():.4f}, stock TPE {stock.mean():.4f}")
    return bool(difference.mean() > -2.0 * difference.std(ddof=1) / math.sqrt(len(difference)))


@pytest.mark.prove
def test_the_best_found_is_not_worse_than_stock_tpe(proving: bool) -> None:
    assert is_not_worse(*best_values(*((16, 8) if proving else (3, 2))))


def test_the_sampler_serves_a_plain_optuna_study() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=CompiledTPESampler(seed=3))

    def bowl(trial: optuna.Trial) -> float:
        x, n = trial.suggest_float("x", -5.0, 5.0), trial.suggest_int("n", 0, 100, step=5)
        if trial.suggest_categorical("more", (True, False)):
            x += trial.suggest_float("rate", 1e-4, 1.0, log=True)
        return (x - 2.0) ** 2 + abs(n - 35) / 50

    study.optimize(bowl, n_trials=80)

    assert study.best_value < 0.05 and study.best_params["n"] == 35
    assert all(t.params["n"] % 5 == 0 for t in study.trials)


def test_behind_optuna_it_proposes_what_it_proposes_to_us() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ours = search(Search(), 25)
    distributions = {
        "a_kind": optuna.distributions.CategoricalDistribution(("x", "y", "z")),
        "b_level": optuna.distributions.FloatDistribution(0.0, 1.0),
        "c_window": optuna.distributions.IntDistribution(2, 60),
        "d_threshold": optuna.distributions.FloatDistribution(0.005, 0.1, log=True),
    }
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({p.name: p.default for p in SPACE})
    for n in range(25):
        study.sampler = CompiledTPESampler(seed=seeds(n))
        asked = study.ask(distributions)
        study.tell(asked, height(asked.params, 0.5))

    assert [t.params for t in study.trials] == [t.point for t in ours.trials]


def test_optuna_studies_with_constraints_pruning_and_two_objectives_are_served() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=CompiledTPESampler(seed=1))

    def front(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.set_constraint("low", x - 0.8)
        return x, (x + trial.suggest_float("y", 0.0, 1.0)) ** 2

    study.optimize(front, n_trials=60)
    late = study.trials[30:]
    assert statistics.median(t.params["y"] for t in late) < 0.2  # y only costs
    assert sum(t.params["x"] > 0.8 for t in late) <= 6

    pruned = optuna.create_study(pruner=optuna.pruners.MedianPruner(), sampler=CompiledTPESampler(seed=1))

    def slow(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1.0, 1.0)
        for step in range(3):
            trial.report(x * x + 0.1 * (3 - step), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x * x

    pruned.optimize(slow, n_trials=40)
    assert pruned.best_value < 0.01
    assert any(t.state is optuna.trial.TrialState.PRUNED for t in pruned.trials)


# --- several objectives, constraints, folds ------------------------------------------------------------------------------


def test_fronts_come_first_and_within_one_whoever_has_room() -> None:
    losses = np.array([[0.0, 3.0], [1.0, 1.0], [1.2, 0.9], [3.0, 0.0], [2.0, 2.0], [4.0, 4.0]])

    found = samplers.pareto_losses(losses)

    assert [math.floor(x) for x in found] == [0, 0, 0, 0, 1, 2]
    assert found[0] == found[3] == 0.0  # the ends of the first front
    # Extents 3 and 3: (1, 1) has neighbours (0, 3) and (1.2, .9), (1.2, .9) has (1, 1) and (3, 0).
    assert found[1] == pytest.approx(0.5 / (1 + 1.2 / 3 + 2.1 / 3))
    assert found[2] == pytest.approx(0.5 / (1 + 2.0 / 3 + 1.0 / 3))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_for_two_objectives_ends_on_their_front(sampler: str) -> None:
    study = search(Search(sampler=sampler), 60, objective=TWO)

    values = [t.evaluation.values for t in study.trials]
    assert study.best is not None
    assert not any(v[0] > study.best.evaluation.values[0] and v[1] > study.best.evaluation.values[1] for v in values)


def test_tpe_learns_from_two_objectives() -> None:
    tpe, random = (search(Search(sampler=kind), 80, objective=TWO).trials[40:] for kind in ("tpe", "random"))

    def mean(trials) -> float:
        return statistics.mean(sum(t.evaluation.values) for t in trials)

    assert mean(tpe) > mean(random) + 0.2


def test_what_is_chosen_meets_the_constraints_and_tpe_goes_where_they_are_met() -> None:
    rule = Search(constraints=(Check(name="max_drawdown", op="<=", threshold=0.3),))

    def judge(point: dict, fold: int) -> Evaluation:
        drawdown = 0.2 + 0.4 * point["b_level"]  # 0.3 at level 0.25: the hill's top at 0.7 is out of bounds
        return evaluation(height(point), violations=rule.violations({"max_drawdown": drawdown}))

    study = search(rule, 60, judge)

    assert study.best is not None and study.best.point["b_level"] <= 0.25
    assert study.best.evaluation.values[0] == max(t.evaluation.values[0] for t in study.trials if t.feasible)
    late = [t.feasible for t in study.trials[30:]]
    assert (
        sum(late) > 0.6 * len(late) > sum(t.feasible for t in search(Search(sampler="random"), 60, judge).trials[30:])
    )


@pytest.mark.parametrize(
    ("op", "value", "missed"),
    [
        ("<=", 0.3, 0.0),
        ("<", 0.3, math.ulp(0.0)),
        ("<=", 0.45, 0.5),
        (">=", 0.15, 0.5),
        (">", 0.6, -1.0),
        (">", None, 1.0),
    ],
)
def test_a_constraint_is_missed_by_its_share(op: str, value: float | None, missed: float) -> None:
    (found,) = Search(constraints=(Check(name="exposure", op=op, threshold=0.3),)).violations({"exposure": value})
    assert found == pytest.approx(missed)


def test_folds_are_judged_by_their_mean_or_their_worst() -> None:
    def judge(point: dict, fold: int) -> Evaluation:
        return evaluation((1.0, 4.0, -2.0)[fold], trades=5 + fold, violations=(float(fold - 1),))

    for score, expected in (("mean", 1.0), ("min", -2.0)):
        (first, *_) = search(Search(folds=3, fold_score=score), 3, judge).trials
        assert first.evaluation.values == (expected,)
        assert first.evaluation.num_trades == 18 and first.evaluation.returns.tolist() == [1.0, 4.0, -2.0]
        assert first.evaluation.violations == (1.0,) and not first.feasible
        assert over_folds(judge, Search(folds=3, fold_score=score), ONE)({}).values == (expected,)
    assert first.parts == (1.0, 1.0, -2.0)
    assert search(Search(folds=3, fold_score="mean"), 3, judge).trials[0].parts == (1.0, 2.5, 1.0)


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_pruner_spares_the_later_folds_of_poor_trials(pruner: str) -> None:
    asked: list[int] = []

    def judge(point: dict, fold: int) -> Evaluation:
        asked.append(fold)
        return evaluation(height(point))

    study = search(Search(folds=4, pruner=pruner), 60, judge)
    pruned = [a for a in study.attempts if not a.error]

    assert len(study.trials) + len(pruned) == 60 and pruned
    assert asked.count(3) <= len(study.trials) < asked.count(0) <= 60
    assert study.best is not None and study.best.evaluation.values[0] > 1.0
    middle = statistics.median(t.evaluation.values[0] for t in study.trials)
    assert statistics.mean(a.parts[-1] for a in pruned) < middle


def test_a_trial_that_failed_is_not_asked_again() -> None:
    calls = itertools.count()

    def judge(point: dict, fold: int) -> Evaluation:
        if next(calls) in (1, 2):
            raise ZeroDivisionError("nothing to divide by")
        return evaluation(height(point))

    study = search(Search(), 20, judge)

    points = [tuple(a.point.values()) for a in study.attempts] + [tuple(t.point.values()) for t in study.trials]
    assert len(study.failures) == 2 and len(set(points)) == 20


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"sampler": "cmaes"}, "sampler"), ({"folds": 0}, "folds"), ({"pruner": "median"}, "folds"),
        ({"storage": "redis"}, "storage"), ({"fold_score": "max"}, "fold_score"),
        ({"constraints": (Check(name="beauty", op=">", threshold=1.0),)}, "beauty"),
    ],
)  # fmt: skip
def test_a_wrong_search_is_refused(wrong: dict, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        Search(**wrong)


def test_a_pruner_cannot_compare_by_two_objectives() -> None:
    with pytest.raises(BadInput, match="one objective"):
        search(Search(folds=2, pruner="median"), objective=TWO)


def test_a_search_is_its_recipe() -> None:
    for how in (
        Search(),
        Search(sampler="qmc", folds=3, fold_score="min", pruner="median"),
        Search(constraints=(Check(name="max_drawdown", op="<=", threshold=0.3),)),
    ):
        assert Search.from_recipe(how.recipe()) == how


# --- interrupted ---------------------------------------------------------------------------------------------------------

HOWS = [
    Search(storage="journal"), Search(storage="journal", folds=3, pruner="median"),
    Search(storage="journal", folds=4, pruner="hyperband"), Search(storage="journal", sampler="qmc"),
    Search(storage="journal", sampler="random"), Search(storage="journal", sampler="grid"), Search(storage="sqlite"),
]  # fmt: skip


@pytest.mark.parametrize("how", HOWS, ids=lambda how: f"{how.sampler}-{how.pruner}-{how.storage}")
def test_a_killed_study_goes_on_with_the_very_same_trials_and_computes_none_twice(how: Search, tmp_path) -> None:
    asked: list[tuple] = []
    n_trials, deaths = (14, {5, 11}) if how.storage == "sqlite" else (30, {13, 26})

    def judge(point: dict, fold: int) -> Evaluation:
        asked.append((*point.values(), fold))
        if len(asked) in deaths:
            raise KeyboardInterrupt
        if point["c_window"] % 13 == 0:
            raise LookupError("no such window")
        return evaluation(height(point, 0.5 + 0.05 * fold), trades=20 - point["c_window"] // 5)

    def record() -> StudyRecord:
        return StudyRecord(open_storage(how.storage, tmp_path), "study", SPACE, ONE)

    for _ in deaths:
        with pytest.raises(KeyboardInterrupt):
            search(how, n_trials, judge, record())
    study = search(how, n_trials, judge, record())

    twice = len(asked) - len(set(asked))
    assert twice <= how.folds * len(deaths)  # of the two trials that were under way
    deaths.clear()
    whole = search(how, n_trials, judge)
    assert as_list(study) == as_list(whole)
    for mine, theirs in zip(study.trials, whole.trials, strict=True):
        assert mine.evaluation.returns.tobytes() == theirs.evaluation.returns.tobytes()
        assert mine.evaluation.num_trades == theirs.evaluation.num_trades

    asked.clear()
    assert as_list(search(how, n_trials, judge, record())) == as_list(whole) and not asked


def test_a_record_with_a_foreign_trial_is_refused(tmp_path) -> None:
    storage = open_storage("journal", tmp_path)
    record = StudyRecord(storage, "study", SPACE, ONE)
    optuna.load_study(study_name="study", storage=storage).ask()

    with pytest.raises(ArtifactError, match="not ours"):
        record.finished()


# --- in the pipeline -----------------------------------------------------------------------------------------------------


def unit_result(root, how: Search, **rest):
    """One signal optimisation on real bars, and the configuration and unit it is of."""
    config = ResearchConfig(
        artifacts_root=root, symbols=("AAPL",), strategies=("RSIStrategy",), portfolios=(), trials=25, min_trades=0,
        windows=WindowConfig(unit="sessions", train=300, test=60, embargo=2, holdout=0, count=1), search=how, **rest,
    )  # fmt: skip
    unit = plan(config).units[0]
    return signal_stages.optimise_signal(unit, config), config, unit


def test_a_unit_over_folds_is_chosen_by_the_mean_of_its_parts(tmp_path) -> None:
    result, config, unit = unit_result(tmp_path, Search(folds=3, pruner="median"))
    data, found = series("bundled", "AAPL", config.timeframe), result.document["optimization"]

    low, high = data.span(unit.window.train_start_ns, unit.window.train_end_ns)
    assert high - low == 300
    origin = max(0, low - warmup_bars(config, "RSIStrategy"))
    strategy, sharpes = build("RSIStrategy", found["best_params"], config.timeframe), []
    for start in (low, low + 100, low + 200):
        signal = strategy.run(data.bars.slice(origin, start + 100), start=start - origin).signal[start - origin :]
        done = backtest.run(data.bars.slice(start, start + 100), signal, config.costs, config.start_equity)
        daily = np.diff(np.append(config.start_equity, done.equity)) / np.append(config.start_equity, done.equity[:-1])
        sharpes.append(daily.mean() / daily.std(ddof=1) * math.sqrt(252) if daily.std() > 1e-12 else 0.0)
    assert found["best_value"] == pytest.approx(statistics.mean(sharpes), rel=1e-9)

    arrays, meta = result.arrays, found["meta"]
    assert meta["n_pruned"] == len(arrays["other_points"]) > 0 and meta["n_failed"] == 0
    assert sorted([*arrays["numbers"], *arrays["other_numbers"]]) == list(range(25))
    assert arrays["parts"].shape == (len(arrays["numbers"]), 3) and set(arrays["other_errors"]) == {""}


def test_a_unit_with_a_storage_goes_on_with_it_and_makes_the_same_artifact(tmp_path, monkeypatch) -> None:
    plain, _, _ = unit_result(tmp_path / "a", Search())
    kept, config, unit = unit_result(tmp_path / "b", Search(storage="journal"))
    assert (unit.path(config).parent / "study.journal").is_file()
    assert identity(kept.document) == identity(plain.document)

    judged = []
    real = signal_stages.quick_judge
    monkeypatch.setattr(
        signal_stages, "quick_judge", lambda *of: lambda signal: judged.append(signal) or real(*of)(signal)
    )
    again, _, _ = unit_result(tmp_path / "b", Search(storage="journal"))
    neighbours = again.document["optimization"]["plateau"]
    assert len(judged) == (neighbours["neighbours"] if neighbours else 0)  # the plateau's, and no trial
    assert identity(again.document) == identity(plain.document)


def test_what_is_chosen_in_a_unit_keeps_within_the_constraint(tmp_path) -> None:
    free, _, _ = unit_result(tmp_path, Search())
    limit = free.document["optimization"]["metrics"]["max_drawdown"] * 0.8
    bound, _, _ = unit_result(tmp_path, Search(constraints=(Check(name="max_drawdown", op="<=", threshold=limit),)))

    assert bound.document["optimization"]["metrics"]["max_drawdown"] <= limit
    assert bound.document["optimization"]["meta"]["n_feasible"] < free.document["optimization"]["meta"]["n_feasible"]
