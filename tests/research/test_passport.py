"""The lines of the passport: published formulas, closed forms, and what must be true of them."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from algo_royale.costs import CostRules
from algo_royale.research import metrics, overfitting, passport
from algo_royale.research.optimise import Attempt, Evaluation, Objective, Point, Study, Trial
from algo_royale.strategies.space import choice, integer, number, return_threshold

SPACE = (
    integer("n", 5, 50, 20), number("x", 0.0, 2.0, 1.0), return_threshold("t", 0.01, 1.0, 0.1),
    choice("kind", ("a", "b", "c"), "b"),
)  # fmt: skip
POINT: Point = {"n": 20, "x": 1.0, "t": 0.1, "kind": "b"}


def evaluated(value: float | None, trades: int = 20, returns: np.ndarray | None = None) -> Evaluation:
    found = np.zeros(3) if returns is None else returns
    return Evaluation(None if value is None else (value,), trades, found, 0.0)


def study(best: float | None, point: Point = POINT) -> Study:
    chosen = None if best is None else Trial(0, point, evaluated(best), True)
    return Study((chosen,) if chosen else (), chosen, ())


# --- how many trials -----------------------------------------------------------------------------------------------------


def test_trials_that_are_one_another_are_one_and_strangers_are_all() -> None:
    rng = np.random.default_rng(3)
    one, many = rng.normal(0, 0.01, (5000, 1)), rng.normal(0, 0.01, (5000, 30))

    assert overfitting.independent_trials(np.repeat(one, 30, axis=1)) == (pytest.approx(1.0), pytest.approx(1.0))
    rho, count = overfitting.independent_trials(many)
    assert rho == pytest.approx(0.0, abs=0.005) and count == pytest.approx(30, abs=0.2)


def test_mean_correlation_is_the_one_numpy_finds() -> None:
    """Bailey and Lopez de Prado (2014), appendix 3: rho + (1 - rho) k."""
    rng = np.random.default_rng(4)
    returns = rng.normal(0, 0.01, (300, 1)) + rng.normal(0, 0.02, (300, 12))
    matrix = np.corrcoef(returns.T)
    expected = (matrix.sum() - 12) / (12 * 11)

    rho, count = overfitting.independent_trials(returns)

    assert rho == pytest.approx(expected, rel=1e-9)
    assert count == pytest.approx(expected + (1 - expected) * 12, rel=1e-9)


def test_trials_that_never_traded_are_none_and_fewer_than_two_have_no_correlation() -> None:
    returns = np.zeros((50, 4))
    assert overfitting.independent_trials(returns) == (None, 0.0)
    returns[:, 1] = np.random.default_rng(1).normal(0, 1, 50)
    assert overfitting.independent_trials(returns) == (None, 1.0)


def test_the_best_of_k_normal_draws_is_expected_where_a_simulation_finds_it() -> None:
    """False strategy theorem, against the exact integral of the largest order statistic."""
    grid = np.linspace(-8, 8, 40_001)
    for k in (2, 15, 400, 5400):  # the formula is an approximation: 8 % low at 2, 2 % high at 15
        exact = np.trapezoid(grid * k * norm.pdf(grid) * norm.cdf(grid) ** (k - 1), grid)
        assert overfitting.expected_maximum(k) == pytest.approx(exact, rel=0.1 if k == 2 else 0.025)
    assert overfitting.expected_maximum(1) == 0.0


def test_the_bar_of_worthless_trials_is_what_simulated_ones_show() -> None:
    rng = np.random.default_rng(8)
    best = [max(metrics.session_sharpe(row) or 0.0 for row in rng.normal(0, 0.01, (40, 500))) for _ in range(60)]

    assert overfitting.worthless_benchmark(500, 40) == pytest.approx(np.mean(best), rel=0.05)


def test_a_point_that_was_tried_twice_is_one_trial() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 400), rng.normal(0, 1, 400)
    trials = [Trial(i, {"n": n}, evaluated(0.1, returns=r), True) for i, (n, r) in enumerate([(5, a), (6, b), (5, a)])]

    found = passport.search_size(Study(tuple(trials), trials[0], ()))

    assert (found["recorded"], found["distinct"]) == (3, 2)
    assert found["independent"] == pytest.approx(2.0, abs=0.1)
    assert passport.search_size(Study((), None, ())) == {
        "recorded": 0, "pruned": 0, "distinct": 0, "independent": 0.0, "mean_correlation": None,
    }  # fmt: skip
    pruned = passport.search_size(
        Study(tuple(trials), trials[0], (Attempt(3, {"n": 7}), Attempt(4, {"n": 8}, error="broken")))
    )
    assert pruned["pruned"] == 1, "a trial that raised was no chance"
    assert pruned["independent"] == pytest.approx(found["independent"] * 4 / 3)


# --- the plateau ---------------------------------------------------------------------------------------------------------


def test_neighbours_are_a_tenth_of_the_range_away_one_dimension_at_a_time() -> None:
    found = passport.neighbours(SPACE, POINT)

    assert [p["n"] for p in found[:2]] == [16, 24]  # a tenth of 45 is 4.5, and halves are rounded to even
    assert [p["x"] for p in found[2:4]] == pytest.approx([0.8, 1.2])
    assert [p["t"] for p in found[4:6]] == pytest.approx([0.1 / 10**0.2, 0.1 * 10**0.2])
    assert [p["kind"] for p in found[6:]] == ["a", "c"]
    assert all(sum(p[k] != POINT[k] for k in POINT) == 1 for p in found)


@given(
    st.fixed_dictionaries(
        {"n": st.integers(5, 50), "x": st.floats(0, 2), "t": st.floats(0.01, 1.0), "kind": st.sampled_from("abc")}
    )
)
def test_neighbours_stay_inside_and_differ(point: Point) -> None:
    found = passport.neighbours(SPACE, point)

    assert 4 <= len(found) <= 8
    for p in found:
        assert p != point and all(d.contains(p[d.name]) for d in SPACE)


def test_a_narrow_whole_number_moves_by_one() -> None:
    space = (integer("n", 1, 4, 2),)

    assert passport.neighbours(space, {"n": 2}) == [{"n": 1}, {"n": 3}]
    assert passport.neighbours(space, {"n": 4}) == [{"n": 3}]


def test_the_plateau_is_the_share_that_keeps_half() -> None:
    """Neighbours in n keep 60 % and 40 %; one in x has too few trades, one no value; the others keep all."""
    values = {16: evaluated(0.6), 24: evaluated(0.4)}

    def evaluate(point: Point) -> Evaluation:
        if point["n"] != 20:
            return values[point["n"]]
        if point["x"] < 1.0:
            return evaluated(9.0, trades=9)
        return evaluated(None if point["x"] > 1.0 else 1.0)

    found = passport.plateau(SPACE, study(1.0), evaluate, Objective(), min_trades=10)

    assert found is not None
    assert (found["neighbours"], found["kept"], found["share"]) == (8, 5, 5 / 8)
    assert found["best"] == 1.0 and found["worst"] == -math.inf


def test_there_is_no_plateau_without_something_to_keep() -> None:
    def never(point: Point) -> Evaluation:
        raise AssertionError("nothing is computed")

    assert passport.plateau(SPACE, study(None), never, Objective(), 10) is None
    assert passport.plateau(SPACE, study(0.0), never, Objective(), 10) is None
    assert passport.plateau((), study(1.0), never, Objective(), 10) is None
    lower = Objective(names=("total_return",), directions=("minimize",))
    assert passport.plateau(SPACE, study(1.0), never, lower, 10) is None


# --- the block -----------------------------------------------------------------------------------------------------------


def block(
    returns: np.ndarray, others: int, independent: float, dear: np.ndarray | None = None
) -> dict[str, float | int | None]:
    rng = np.random.default_rng(6)
    candidates = [passport.Candidate(returns=returns, recorded=40, independent=independent)]
    candidates += [
        passport.Candidate(returns=rng.normal(-0.001, 0.01, len(returns)), recorded=40, independent=independent)
        for _ in range(others)
    ]
    oos = {**metrics.luck(returns, [0.1, 0.0]), "n_sessions": len(returns)}
    return passport.passport(
        oos, candidates, returns, returns if dear is None else dear, rf=0.0, lost={"sharpe_ratio": 0.25},
        search_pbo=[0.2, 0.4], plateaus=[0.5, 1.0],
    )  # fmt: skip


STRONG = np.random.default_rng(9).normal(0.0012, 0.01, 1000)


def test_the_block_counts_every_trial_and_deflates_by_the_independent_ones() -> None:
    found = block(STRONG, others=4, independent=20.0)

    assert (found["n_candidates"], found["n_trials"], found["n_trials_independent"]) == (5, 200, 100.0)
    sharpe, (skewness, kurtosis) = metrics.session_sharpe(STRONG), metrics.moments(STRONG)
    bar = overfitting.expected_maximum(100) / math.sqrt(999)
    spread = 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2
    assert found["sr_benchmark_trials"] == pytest.approx(bar)
    assert found["deflated_sharpe_trials"] == pytest.approx(norm.cdf((sharpe - bar) * math.sqrt(999 / spread)))
    assert (found["pbo_search"], found["plateau"], found["degradation"]) == (pytest.approx(0.3), 0.75, 0.25)
    assert found["pbo"] == 0.0, "the others lose"
    assert found["track_record"] == pytest.approx(1000 / found["min_track_record"])


@given(st.floats(2, 1e4), st.floats(1.1, 10))
def test_more_trials_never_raise_the_odds(independent: float, factor: float) -> None:
    few, many = block(STRONG, 3, independent), block(STRONG, 3, independent * factor)

    assert many["deflated_sharpe_trials"] <= few["deflated_sharpe_trials"] <= few["psr"]


def test_double_costs_are_measured_on_their_own_returns() -> None:
    found = block(STRONG, 1, 5.0, dear=np.full(1000, -0.001))

    assert found["double_costs_total_return"] == pytest.approx(0.999**1000 - 1)
    assert found["double_costs_max_drawdown"] == pytest.approx(1 - 0.999**1000)
    assert found["psr"] == block(STRONG, 1, 5.0)["psr"]


def test_a_passport_of_nothing_has_no_odds_and_raises_nothing() -> None:
    for returns in (np.zeros(100), np.empty(0), np.full(10, 0.01)):
        found = block(returns, 0, 0.0)
        assert found["psr"] is None and found["deflated_sharpe_trials"] is None and found["pbo"] is None


def test_twice_the_costs_is_twice_of_each_and_the_tick_stays() -> None:
    rules = CostRules(
        slippage_bps=Decimal(5), commission_bps=Decimal(1), commission_per_share=Decimal("0.005"), commission_min=Decimal(1),
        price_tick=Decimal("0.01"), sec_fee_per_million=Decimal("22.9"), taf_per_share=Decimal("0.0001"), taf_cap=Decimal(7),
    )  # fmt: skip

    assert rules.times(2) == CostRules(
        slippage_bps=Decimal(10), commission_bps=Decimal(2), commission_per_share=Decimal("0.010"), commission_min=Decimal(2),
        price_tick=Decimal("0.01"), sec_fee_per_million=Decimal("45.8"), taf_per_share=Decimal("0.0002"), taf_cap=Decimal(14),
    )  # fmt: skip
