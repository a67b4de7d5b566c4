"""Only out-of-sample numbers decide, by the configured thresholds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.errors import BadInput
from algo_royale.research.viability import (
    DEFAULT_CHECKS,
    SCORED_CHECKS,
    Check,
    ViabilityConfig,
    best_first,
    degradation,
    judge,
    most_common,
    param_consistency,
    vote_weights,
)
from algo_royale.strategies.space import choice, integer, return_threshold

DEFAULT = ViabilityConfig(checks=SCORED_CHECKS)  # the catalogue's six
# The numbers of the catalogue's example evaluation.
EXAMPLE = {
    "total_return": 0.063233, "sharpe_ratio": 0.62, "win_rate": 0.543478, "max_drawdown": 0.1485,
    "deflated_sharpe": 0.437827, "num_trades": 46,
}  # fmt: skip
LOOKBACK = (integer("lookback", 20, 250, 60),)


def test_published_example_scores_five_of_six() -> None:
    verdict = judge(EXAMPLE, DEFAULT)

    assert verdict.score == pytest.approx(0.833333, abs=1e-6) and verdict.is_viable
    assert [c["name"] for c in verdict.checks if not c["passed"]] == ["deflated_sharpe"]


def test_a_hard_check_that_fails_is_the_end_whatever_the_score() -> None:
    verdict = judge(EXAMPLE | {"deflated_sharpe": 0.9, "num_trades": 19}, DEFAULT)

    assert verdict.score == pytest.approx(5 / 6) and not verdict.is_viable


def test_by_default_a_line_of_the_passport_that_fails_is_the_end_too() -> None:
    """They weigh nothing: the score stays what the six make of it."""
    lucky = {"deflated_sharpe_trials": 0.49, "double_costs_total_return": 0.2}
    solid = {"deflated_sharpe_trials": 0.50, "double_costs_total_return": 0.2}

    assert judge(EXAMPLE | solid, ViabilityConfig()).is_viable
    for values in (EXAMPLE, EXAMPLE | lucky, EXAMPLE | solid | {"double_costs_total_return": 0.0}):
        verdict = judge(values, ViabilityConfig())
        assert not verdict.is_viable and verdict.score == pytest.approx(5 / 6)
    assert [row["name"] for row in judge(EXAMPLE | solid, ViabilityConfig()).checks if row["hard"]] == [
        "num_trades", "deflated_sharpe_trials", "double_costs_total_return",
    ]  # fmt: skip


def test_before_there_is_a_passport_the_other_checks_make_the_score() -> None:
    """As of an early window the allocator's voters are chosen by what test sessions alone can say."""
    weighted = ViabilityConfig(
        checks=(*SCORED_CHECKS, Check(name="pbo", op="<=", threshold=0.5, weight=6.0)), hard_checks=("pbo",)
    )

    assert judge(EXAMPLE, weighted).score == pytest.approx(5 / 12)
    assert judge(EXAMPLE, weighted.among(EXAMPLE)).score == pytest.approx(5 / 6)
    assert judge(EXAMPLE, weighted.among(EXAMPLE)).is_viable
    assert ViabilityConfig().among(EXAMPLE).checks == SCORED_CHECKS
    assert weighted.among(()) is weighted


def test_no_trades_scores_zero_and_a_missing_value_fails() -> None:
    assert judge(EXAMPLE | {"num_trades": 0}, DEFAULT).score == 0.0
    assert judge(EXAMPLE | {"win_rate": None}, DEFAULT).score == pytest.approx(4 / 6)


def test_thresholds_and_weights_come_from_the_configuration() -> None:
    mild = ViabilityConfig(
        checks=(Check(name="sharpe_ratio", op=">=", threshold=0.6, weight=3.0), Check(name="win_rate", op=">", threshold=0.9)),
        hard_checks=(),
    )  # fmt: skip

    assert judge(EXAMPLE, mild).score == pytest.approx(0.75) and judge(EXAMPLE, mild).is_viable


@given(
    st.fixed_dictionaries(
        {
            "total_return": st.floats(-1, 1), "sharpe_ratio": st.none() | st.floats(-2, 2),
            "win_rate": st.floats(0, 1), "max_drawdown": st.floats(0, 1), "deflated_sharpe": st.floats(0, 1),
            "num_trades": st.integers(1, 60),
        }
    )
)  # fmt: skip
def test_score_is_the_passed_share_and_rises_with_each_check_passed(values: dict) -> None:
    verdict = judge(values, DEFAULT)

    assert verdict.score == pytest.approx(sum(c["passed"] for c in verdict.checks) / 6)
    better = values | {"total_return": 0.5, "max_drawdown": 0.01}
    assert judge(better, DEFAULT).score >= verdict.score


def test_contradictory_configurations_are_refused() -> None:
    with pytest.raises(BadInput, match="'win' is not among"):
        ViabilityConfig(hard_checks=("win",))
    with pytest.raises(BadInput, match="operator"):
        Check(name="x", op="==", threshold=0.0)
    with pytest.raises(BadInput, match="sum to zero"):
        ViabilityConfig(checks=tuple(Check(name=c.name, op=c.op, threshold=0, weight=0) for c in DEFAULT_CHECKS))


def test_consistency_of_the_published_portfolio_example() -> None:
    points = [{"lookback": 60}, {"lookback": 60}, {"lookback": 85}]

    assert param_consistency(LOOKBACK, points) == pytest.approx(0.8975, abs=1e-4)
    assert most_common(LOOKBACK, points) == 1


def test_consistency_of_the_published_signal_example() -> None:
    """RSI over three windows, as the strategy's own space has it."""
    from algo_royale.market import Timeframe
    from algo_royale.strategies import space

    names = {d.name.rsplit(".", 1)[1]: d.name for d in space("RSIStrategy", Timeframe.DAY_1)}
    rows = [(13, 32, 70), (14, 33, 71), (11, 28, 66)]
    points = [{names["period"]: p, names["oversold"]: a, names["overbought"]: b} for p, a, b in rows]

    assert param_consistency(space("RSIStrategy", Timeframe.DAY_1), points) == pytest.approx(0.8227, abs=1e-4)
    assert most_common(space("RSIStrategy", Timeframe.DAY_1), points) == 1


def test_consistency_at_its_ends() -> None:
    kind = (choice("kind", ("a", "b", "c"), "a"),)

    assert param_consistency((), [{}, {}]) == 1.0
    assert param_consistency(LOOKBACK, [{"lookback": 60}]) is None
    assert param_consistency(LOOKBACK, [{"lookback": 20}, {"lookback": 250}]) == pytest.approx(0.0)
    assert param_consistency(kind, [{"kind": "a"}, {"kind": "b"}, {"kind": "c"}]) == pytest.approx(0.0)
    assert param_consistency(kind, [{"kind": "a"}] * 3) == 1.0


def test_cells_of_a_log_range_are_tenths_of_its_logarithm() -> None:
    space = (return_threshold("t", 0.01, 1.0, 0.1),)

    assert most_common(space, [{"t": 0.011}, {"t": 0.012}, {"t": 0.5}]) == 1
    assert most_common(space, [{"t": 0.011}, {"t": 0.5}]) == 1, "a tie goes to the cell seen latest"
    assert most_common(space, []) is None


def test_votes_are_shares_of_the_scores() -> None:
    assert vote_weights({"b": 1.0, "a": 0.8}) == {"a": pytest.approx(0.8 / 1.8), "b": pytest.approx(1 / 1.8)}
    assert vote_weights({}) == {}


def test_degradation_is_the_share_lost() -> None:
    found = degradation({"cagr": {"mean": 0.2}, "sharpe_ratio": {"mean": -1.0}}, {"cagr": {"mean": 0.05}})

    assert found == {"cagr": pytest.approx(0.75), "sharpe_ratio": None, "win_rate": None}


def test_the_best_comes_first_and_none_last() -> None:
    def row(name: str, viable: bool, score: float, sharpe: float | None, steady: float | None) -> dict:
        return {
            "strategy": name, "is_viable": viable, "viability_score": score, "oos": {"sharpe_ratio": sharpe},
            "param_consistency": steady,
        }  # fmt: skip

    rows = [
        row("f", False, 1.0, 9.0, 1.0), row("e", True, 0.8, None, 1.0), row("d", True, 0.8, 0.1, None),
        row("c", True, 0.8, 0.1, 0.5), row("b", True, 0.8, 0.1, 0.5), row("a", True, 0.9, 0.0, 0.0),
    ]  # fmt: skip

    assert [r["strategy"] for r in best_first(rows)] == ["a", "b", "c", "d", "e", "f"]
