"""The vote of several strategies: what the weights decide, and that it too is one path for research and live."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.errors import BadConfiguration, BadInput
from algo_royale.market import ENTER, EXIT, Bars, Timeframe
from algo_royale.strategies import (
    STRATEGIES,
    CombinedSignal,
    CombinedState,
    Strategy,
    build,
    default_trial,
    resolve,
)

DAY = Timeframe.DAY_1
NAMES = sorted(name for name, row in STRATEGIES.items() if row.supports(DAY))


def default(name: str) -> Strategy:
    return build(name, resolve(name, default_trial(name, DAY), DAY), DAY)


def members(*weights: float) -> list[tuple[Strategy, float]]:
    """The first strategies in name order with these weights."""
    return [(default(name), weight) for name, weight in zip(NAMES, weights, strict=False)]


def test_one_strategy_alone_is_its_own_state(g: Bars) -> None:
    alone = default("RSIStrategy").run(g)
    signal, score, state_in, _ = CombinedSignal([(default("RSIStrategy"), 0.7)]).update(
        g, CombinedSignal([(default("RSIStrategy"), 0.7)]).init()
    )

    np.testing.assert_array_equal(state_in, alone.state_in)
    np.testing.assert_array_equal(score, alone.state_in.astype(float))
    np.testing.assert_array_equal(signal, np.where(alone.state_in, ENTER, EXIT))


def slow_vote(weights: list[float], held: list[list[bool]], buy: float, sell: float) -> list[int]:
    """The rule in decimal-free arithmetic, bar by bar."""
    total = sum(weights)
    out = []
    for bar in zip(*held, strict=True):
        yes = sum(w for w, is_in in zip(weights, bar, strict=True) if is_in) / total
        no = sum(w for w, is_in in zip(weights, bar, strict=True) if not is_in) / total
        out.append(EXIT if no >= sell - 1e-9 else ENTER if yes >= buy - 1e-9 else 0)
    return out


@pytest.mark.parametrize(("buy", "sell"), [(0.5, 0.5), (0.8, 0.6), (0.2, 0.9)])
def test_weights_decide_as_a_slow_count_of_them_does(buy: float, sell: float, g: Bars) -> None:
    weights = [3.0, 1.0, 4.0, 1.0, 5.0]
    combined = CombinedSignal(members(*weights), buy, sell)
    held = [strategy.run(g).state_in.tolist() for strategy, _ in members(*weights)]

    run = combined.run(g)

    assert run.signal.tolist() == slow_vote(weights, held, buy, sell)
    assert sum(combined.weights) == pytest.approx(1.0, abs=1e-15)
    assert len(set(run.signal.tolist())) > 1


def test_a_tie_is_an_exit(g: Bars) -> None:
    a, b = default("RSIStrategy"), default("TrailingStopStrategy")
    tie = a.run(g).state_in != b.run(g).state_in

    run = CombinedSignal([(a, 0.3), (b, 0.3)]).run(g)

    assert tie.any() and (run.signal[tie] == EXIT).all() and (run.score[tie] == 0.5).all()


def test_the_symbol_is_in_from_enter_until_exit(g: Bars) -> None:
    run = CombinedSignal(members(1, 1, 1, 1, 1), buy_threshold=0.6, sell_threshold=0.8).run(g)
    is_in, expected = False, []
    for signal in run.signal.tolist():
        is_in = {ENTER: True, EXIT: False, 0: is_in}[signal]
        expected.append(is_in)

    assert run.state_in.tolist() == expected
    assert (run.signal == 0).any() and 0 < sum(expected) < len(expected)


def test_counting_signals_instead_of_states_looks_at_this_bar_only(g: Bars) -> None:
    pair = members(1, 3)
    emitted = [strategy.run(g).signal for strategy, _ in pair]

    run = CombinedSignal(pair, vote_mode="signal").run(g)

    np.testing.assert_array_equal(
        run.signal, np.where(emitted[1] == EXIT, EXIT, np.where(emitted[1] == ENTER, ENTER, 0))
    )


def test_the_order_of_strategies_is_irrelevant(g: Bars) -> None:
    listed = members(0.1, 0.2, 0.3, 0.15, 0.25)
    expected = CombinedSignal(listed).run(g)
    for seed in range(5):
        shuffled = random.Random(seed).sample(listed, len(listed))
        for found, wanted in zip(CombinedSignal(shuffled).run(g), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_nobody_to_vote_means_no_entry(g: Bars) -> None:
    combined = CombinedSignal([])

    signal, score, state_in, state = combined.update(g, combined.init())

    assert not signal.any() and not score.any() and not state_in.any()
    assert combined.votes(state) == [] and CombinedState.from_bytes(state.to_bytes()) == state


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 500), max_size=8), st.sampled_from(["state", "signal"]))
def test_any_partition_gives_the_same_vote(walk, seed: int, cuts: list[int], mode: str) -> None:  # type: ignore[no-untyped-def]
    bars = walk(seed, 500)
    combined = CombinedSignal(members(*range(1, len(NAMES) + 1)), 0.4, 0.7, mode)
    *whole, after_whole = combined.update(bars, combined.init())

    state, parts = combined.init(), []
    for a, b in pairwise([0, *sorted(cuts), len(bars)]):
        *part, state = combined.update(bars.slice(a, b), CombinedState.from_bytes(state.to_bytes()))
        parts.append(part)

    for found, wanted in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(found), wanted)
    assert state == after_whole


def test_a_period_begins_with_everyone_out(g: Bars) -> None:
    combined = CombinedSignal(members(1, 2, 3, 4, 5), 0.3, 0.7)
    *_, state = combined.update(g.slice(0, 900), combined.init())
    assert any(vote.is_in for vote in combined.votes(state))
    signal, score, state_in, _ = combined.update(g.slice(900, 2000), combined.reset_position(state))

    run = combined.run(g, start=900)

    assert not any(vote.is_in for vote in combined.votes(combined.reset_position(state)))
    for found, part in zip(run, (signal, score, state_in), strict=True):
        np.testing.assert_array_equal(found[900:], part)
        assert not found[:900].any()


def test_votes_and_their_reasons_name_each_strategy(g: Bars) -> None:
    combined = CombinedSignal(members(1, 1, 2))
    *_, before = combined.update(g.slice(0, 1998), combined.init())
    *_, after = combined.update(g.slice(1998, 2000), before)

    explained = combined.explain(g.slice(1998, 2000), before)

    assert [x.vote for x in explained] == combined.votes(after)
    assert [vote.strategy for vote in combined.votes(after)] == NAMES[:3]
    assert [vote.weight for vote in combined.votes(after)] == [0.25, 0.25, 0.5]
    assert [x.signal for x in explained] == [int(default(name).run(g).signal[-1]) for name in NAMES[:3]]
    assert all(x.reasons for x in explained)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(BadConfiguration, match="positive"):
        CombinedSignal(members(1.0, weight))


def test_thresholds_and_modes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadConfiguration, match="threshold"):
        CombinedSignal([], buy_threshold=0.0)
    with pytest.raises(BadConfiguration, match="threshold"):
        CombinedSignal([], sell_threshold=1.1)
    with pytest.raises(BadConfiguration, match="vote_mode"):
        CombinedSignal([], vote_mode="loud")


def test_a_state_of_others_is_refused(g: Bars) -> None:
    one, two = CombinedSignal(members(1.0)), CombinedSignal(members(1.0, 1.0))

    with pytest.raises(BadInput, match="other strategies"):
        one.update(g, two.init())
    for data in (b"", b"\x00" * 5, two.init().to_bytes()[:-1]):
        with pytest.raises(BadInput, match="combined signal"):
            CombinedState.from_bytes(data)
