"""Strategies: published counts, the position rules against a slow reading of them, and one path for research and live."""

import hashlib
import json
import math
import warnings
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.errors import BadConfiguration, BadInput, BadMarketData, UnknownName, UnsupportedTimeframe
from algo_royale.market import ENTER, EXIT, Bars, Timeframe
from algo_royale.strategies import (
    CONDITIONS,
    STRATEGIES,
    FeatureCache,
    State,
    Strategy,
    StrategySpec,
    build,
    compose,
    default_trial,
    required_history,
    resolve,
    signals,
    space,
    strategy_id,
)
from algo_royale.strategies.strategy import decide

DAY, HOUR = Timeframe.DAY_1, Timeframe.HOUR_1
DAILY = [name for name, row in STRATEGIES.items() if row.supports(DAY)]
GOLDEN = {  # published: bars with ENTER, bars with EXIT, positions opened, on series G at default arguments
    "BollingerBandsStrategy": (46, 122, 11),
    "ComboStrategy": (55, 877, 30),
    "MACDTrailingStopStrategy": (158, 41, 42),
    "MeanReversionStrategy": (95, 19, 20),
    "MomentumStrategy": (600, 560, 54),
    "MovingAverageCrossoverStrategy": (4, 29, 4),
    "MovingAverageStrategy": (6, 6, 6),
    "PullbackEntryStrategy": (132, 132, 132),
    "RSIStrategy": (82, 85, 9),
    "TrailingStopStrategy": (188, 649, 39),
    "TrendScraperStrategy": (521, 989, 51),
    "VolatilityBreakoutStrategy": (347, 355, 80),
    "VolumeSurgeStrategy": (351, 687, 149),
    "VWAPReversionStrategy": (665, 739, 52),
    "WickReversalStrategy": (99, 254, 71),
}
SEEDS = st.integers(0, 2**32 - 1)
names = st.sampled_from(sorted(STRATEGIES))


@st.composite
def drawn(draw: st.DrawFn) -> Strategy:
    """Any strategy at any point of its space, for daily bars where it can read them."""
    name = draw(names)
    return build(name, resolve(name, draw(trials(name, frame(name))), frame(name)), frame(name))


def frame(name: str) -> Timeframe:
    return DAY if STRATEGIES[name].supports(DAY) else HOUR


def trials(name: str, timeframe: Timeframe) -> st.SearchStrategy[dict[str, int | float | str]]:
    """Any point of the search space of a strategy."""
    points: dict[str, st.SearchStrategy[int | float | str]] = {}
    for d in space(name, timeframe):
        if d.kind == "categorical":
            points[d.name] = st.sampled_from(d.choices)
        elif d.kind == "int":
            points[d.name] = st.integers(int(d.low), int(d.high))
        else:
            points[d.name] = st.floats(d.low, d.high)
    return st.fixed_dictionaries(points)


def default(name: str) -> Strategy:
    return build(name, resolve(name, default_trial(name, frame(name)), frame(name)), frame(name))


def counts(strategy: Strategy, bars: Bars) -> tuple[int, int, int]:
    run = strategy.run(bars)
    opened = np.diff(np.concatenate(([0], run.state_in.astype(int)))) == 1
    return int((run.signal == ENTER).sum()), int((run.signal == EXIT).sum()), int(opened.sum())


@pytest.mark.parametrize("name", DAILY)
def test_strategies_trade_series_g_as_published(name: str, g: Bars) -> None:
    assert counts(default(name), g) == GOLDEN[name]


def test_the_catalogue_of_strategies_is_complete() -> None:
    assert len(STRATEGIES) == 16
    assert set(STRATEGIES) == GOLDEN.keys() | {"TimeOfDayBiasStrategy"} == {*DAILY, "TimeOfDayBiasStrategy"}


def test_hours_of_the_day_are_traded_as_a_clock_shows_them(g_of) -> None:  # type: ignore[no-untyped-def]
    """Bars that end from 10:00 to before 12:00 enter, those that end from 14:00 to 16:00 exit; a half day ends at 13:00."""
    bars, held, opened = g_of(HOUR), False, 0
    expected = []
    for end_ns in bars.end_ns.tolist():
        hour = datetime.fromtimestamp(end_ns // 10**9, tz=ZoneInfo("America/New_York")).hour
        expected.append(ENTER if 10 <= hour < 12 else EXIT if 14 <= hour <= 16 else 0)
        opened += expected[-1] == ENTER and not held
        held = {ENTER: True, EXIT: False, 0: held}[expected[-1]]

    assert default("TimeOfDayBiasStrategy").run(bars).signal.tolist() == expected
    assert counts(default("TimeOfDayBiasStrategy"), bars) == (expected.count(ENTER), expected.count(EXIT), opened)
    assert opened > 250


def test_one_more_row_is_one_more_strategy(g: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds on the RSI of 14 bars at 30 and 70 are the RSI strategy by other names."""
    row = StrategySpec("DipStrategy", entry=("RSIBelowThreshold",), exit=("RSIAboveThreshold",))
    monkeypatch.setitem(STRATEGIES, row.name, row)

    assert counts(default(row.name), g) == GOLDEN["RSIStrategy"]


def slow_decisions(rows: list[tuple], stop: float, target: float, cooldown: int) -> list[tuple[int, bool]]:  # type: ignore[type-arg]
    """The rules for signals and positions, read off the specification one by one."""
    in_position, entry_price, high, since_exit, pending = False, math.nan, math.nan, 10**9, None
    out, state_in = [], False
    for open_, close, enter, gate, leave, logic_enter, logic_leave in rows:
        if pending == "enter":
            in_position, entry_price, high = True, open_, open_
        if pending == "exit":
            in_position, since_exit = False, -1
        if in_position:
            high = max(high, close)
        else:
            since_exit += 1
        breach = in_position and close < high * (1 - stop)
        logic_exit = in_position and (logic_leave or breach or close >= entry_price * (1 + target))
        veto = not in_position and since_exit < cooldown
        wants_out = leave or logic_exit
        wants_in = (enter or logic_enter) and gate and not veto
        signal = EXIT if wants_out else ENTER if wants_in else 0
        pending = "enter" if signal == ENTER and not in_position else "exit" if signal == EXIT and in_position else None
        state_in = {ENTER: True, EXIT: False, 0: state_in}[signal]
        out.append((signal, state_in))
    return out


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from([9.0, 10.0, 10.5, 11.0]), st.sampled_from([5.0, 9.0, 9.9, 10.0, 10.5, 12.0, 15.0]),
                  *[st.booleans()] * 5),
        max_size=30,
    ),
    st.sampled_from([1.0, 0.05, 0.5]), st.sampled_from([math.inf, 0.04, 0.5]), st.integers(0, 4),
)  # fmt: skip
def test_signals_and_positions_follow_the_rules(rows: list, stop: float, target: float, cooldown: int) -> None:  # type: ignore[type-arg]
    columns = [np.array(x) for x in zip(*rows, strict=True)] or [np.empty(0)] * 2 + [np.empty(0, bool)] * 5
    signal, state_in = np.empty(len(rows), np.int8), np.empty(len(rows), np.bool_)
    position = np.array([0.0, 0.0, 0.0, 1e9, 0.0])

    decide(*columns, np.array([stop, target, float(cooldown)]), position, signal, state_in)

    assert list(zip(signal.tolist(), state_in.tolist(), strict=True)) == slow_decisions(rows, stop, target, cooldown)


@pytest.mark.parametrize(
    ("close", "stop", "target", "expected"),
    [(5.0, 0.5, math.inf, ENTER), (4.99, 0.5, math.inf, EXIT), (14.99, 1.0, 0.5, ENTER), (15.0, 1.0, 0.5, EXIT)],
)
def test_a_stop_is_passed_and_a_target_is_reached(close: float, stop: float, target: float, expected: int) -> None:
    """Bought at 10 and never closed above it: half of that is not yet below the stop, half more is the target."""
    always, never = np.ones(2, np.bool_), np.zeros(2, np.bool_)
    signal, state_in = np.empty(2, np.int8), np.empty(2, np.bool_)

    decide(
        np.array([10.0, 10.0]), np.array([10.0, close]), always, always, never, never, never,
        np.array([stop, target, 0.0]), np.array([0.0, 0.0, 0.0, 1e9, 0.0]), signal, state_in,
    )  # fmt: skip

    assert signal.tolist() == [ENTER, expected]


@settings(max_examples=60)
@given(drawn(), SEEDS, st.lists(st.integers(0, 600), max_size=8))
def test_any_partition_gives_the_same_signals_and_state(walk, strategy: Strategy, seed: int, cuts: list[int]) -> None:  # type: ignore[no-untyped-def]
    """The state goes through bytes at every cut."""
    bars = walk(seed, 600, strategy.timeframe)
    whole, after_whole = strategy.step(bars, strategy.init())

    state, parts, held = strategy.init(), [], []
    for a, b in pairwise([0, *sorted(cuts), len(bars)]):
        run, state = strategy.step(bars.slice(a, b), State.from_bytes(state.to_bytes()))
        parts.append(run.signal)
        held.append(run.state_in)
        assert strategy.is_in(state) == (bool(run.state_in[-1]) if b > a else strategy.is_in(state))

    np.testing.assert_array_equal(np.concatenate(parts), whole.signal)
    np.testing.assert_array_equal(np.concatenate(held), whole.state_in)
    assert state == after_whole
    np.testing.assert_array_equal(strategy.run(bars).signal, whole.signal)


@pytest.mark.parametrize("name", STRATEGIES)
def test_bar_by_bar_is_the_backtest(name: str, g_of) -> None:  # type: ignore[no-untyped-def]
    strategy, g = default(name), g_of(frame(name))
    state, live = strategy.init(), []
    for t in range(700):
        signal, state = strategy.update(g.slice(t, t + 1), state)
        live.append(int(signal[0]))

    assert live == signals(name, strategy.params, g)[:700].tolist()


@settings(max_examples=40)
@given(drawn(), SEEDS, st.integers(0, 499))
def test_no_signal_depends_on_later_bars(walk, strategy: Strategy, seed: int, t: int) -> None:  # type: ignore[no-untyped-def]
    bars, others = (walk(x, 500, strategy.timeframe) for x in (seed, seed + 1))
    columns = {}
    for column in ("open", "high", "low", "close", "volume", "vwap"):
        columns[column] = np.where(np.arange(500) > t, getattr(others, column), getattr(bars, column))
    times = {name: getattr(bars, name) for name in ("start_ns", "end_ns", "trade_count")}
    altered = Bars(symbol="G", timeframe=strategy.timeframe, **columns, **times)

    expected = strategy.run(bars).signal[: t + 1]

    np.testing.assert_array_equal(strategy.run(altered).signal[: t + 1], expected)
    np.testing.assert_array_equal(strategy.run(bars.slice(0, t + 1)).signal, expected)


@settings(max_examples=40)
@given(drawn(), SEEDS, st.integers(-6, 6), st.integers(-6, 6))
def test_signals_do_not_depend_on_units(walk, strategy: Strategy, seed: int, prices: int, volumes: int) -> None:  # type: ignore[no-untyped-def]
    bars = walk(seed, 500, strategy.timeframe)
    scaled = Bars(
        symbol="G", timeframe=strategy.timeframe, start_ns=bars.start_ns, end_ns=bars.end_ns, trade_count=bars.trade_count,
        volume=bars.volume * 2.0**volumes,
        **{n: getattr(bars, n) * 2.0**prices for n in ("open", "high", "low", "close", "vwap")},
    )  # fmt: skip

    np.testing.assert_array_equal(strategy.run(scaled).signal, strategy.run(bars).signal)


@settings(max_examples=40)
@given(drawn(), SEEDS, st.integers(0, 500))
def test_a_period_begins_flat_with_warm_features(walk, strategy: Strategy, seed: int, start: int) -> None:  # type: ignore[no-untyped-def]
    """The shortcut of research is: update to the start, reset the position, go on."""
    bars = walk(seed, 500, strategy.timeframe)
    _, state = strategy.update(bars.slice(0, start), strategy.init())
    run, _ = strategy.step(bars.slice(start, 500), strategy.reset_position(state))

    cache = FeatureCache(bars)
    for found in (strategy.run(bars, start=start), *(strategy.run(bars, start=start, cache=cache) for _ in range(2))):
        np.testing.assert_array_equal(found.signal[start:], run.signal)
        np.testing.assert_array_equal(found.state_in[start:], run.state_in)
        assert not found.signal[:start].any() and not found.state_in[:start].any()


@settings(max_examples=60)
@given(drawn())
def test_a_market_that_does_not_move_is_not_entered(make_bars, strategy: Strategy) -> None:  # type: ignore[no-untyped-def]
    flat = np.full(400, 64.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        signal = strategy.run(make_bars(flat, flat, flat, flat, np.zeros(400), timeframe=strategy.timeframe)).signal

    assert not (signal == ENTER).any() or strategy.name == "TimeOfDayBiasStrategy"


def rsi_between(low: int, high: int, **more: object) -> Strategy:
    """Enter while the RSI is below `high`, exit while it is above `low`: both at once between them."""
    params = {
        "entry_conditions": [{"RSIEntry": {"period": 14, "oversold": high}}],
        "exit_conditions": [{"RSIExit": {"period": 14, "overbought": low}}],
        **more,
    }
    return compose("Both", params, DAY)


def test_exit_dominates_on_a_bar_that_wants_both(g: Bars) -> None:
    both = rsi_between(40, 60).run(g).signal
    enter, leave = rsi_between(100, 60).run(g).signal == ENTER, rsi_between(40, 0).run(g).signal == EXIT

    assert (enter & leave).sum() > 500
    np.testing.assert_array_equal(both, np.where(leave, EXIT, np.where(enter, ENTER, 0)))


@pytest.mark.parametrize("slot", ["trend_conditions", "filter_conditions"])
def test_trend_and_filter_stop_entries_and_never_exits(slot: str, g: Bars) -> None:
    free = rsi_between(60, 40).run(g).signal
    gated = rsi_between(60, 40, **{slot: [{"PriceAboveSMA": {"sma": 50}}, {"SMATrend": {}}]}).run(g).signal
    above = rsi_between(100, 100, **{slot: [{"PriceAboveSMA": {"sma": 50}}, {"SMATrend": {}}]}).run(g).signal == ENTER

    np.testing.assert_array_equal(gated == EXIT, free == EXIT)
    np.testing.assert_array_equal(gated == ENTER, (free == ENTER) & above)
    assert 0 < (gated == ENTER).sum() < (free == ENTER).sum()


def test_a_trailing_stop_follows_closes_since_the_fill(make_bars) -> None:  # type: ignore[no-untyped-def]
    """Bought at 100 after a high of 200; the close of 120 lifts the stop of 10 % to 108, which only a close breaches."""
    close = [200.0, 100.0, 100.0, 120.0, 109.0, 107.0, 100.0, 100.0]
    low = [min(c, 100.0) for c in close]
    bars = make_bars([*close[:1], *close[:-1]], np.full(8, 210.0), np.array(low) / 2, close, np.ones(8))
    params = {
        "entry_conditions": [{"PriceAboveSMA": {"sma": 1, "price": "hlc3"}}],
        "stateful_logic": {"TrailingStop": {"stop_pct": 0.1, "reentry_cooldown": 0}},
    }
    strategy = compose("Always", {**params, "entry_conditions": [{"RSIEntry": {"period": 1, "oversold": 101}}]}, DAY)

    # RSI(1) exists from bar 1: ENTER there, filled at the open of bar 2 (100).
    assert strategy.run(bars).signal.tolist() == [0, 1, 1, 1, 1, -1, 1, 1]
    assert strategy.run(bars).state_in.tolist() == [False, True, True, True, True, False, True, True]


def test_a_cooldown_counts_bars_after_the_exit_was_filled(make_bars) -> None:  # type: ignore[no-untyped-def]
    close = [100.0, 100.0, 100.0, 80.0, 80.0, 80.0, 80.0, 80.0, 80.0]
    bars = make_bars(close, close, close, close, np.ones(9))
    params = {
        "entry_conditions": [{"RSIEntry": {"period": 1, "oversold": 101}}],
        "stateful_logic": {"TrailingStop": {"stop_pct": 0.1, "reentry_cooldown": 3}},
    }

    # Exit at bar 3, filled at bar 4 (0 bars since), vetoed at 4, 5 and 6, free at 7.
    assert compose("Again", params, DAY).run(bars).signal.tolist() == [0, 1, 1, -1, 0, 0, 0, 1, 1]


@settings(max_examples=30)
@given(drawn(), SEEDS, st.integers(0, 399))
def test_an_explanation_adds_up_to_the_signal(walk, strategy: Strategy, seed: int, t: int) -> None:  # type: ignore[no-untyped-def]
    bars = walk(seed, 400, strategy.timeframe)
    _, before = strategy.update(bars.slice(0, t), strategy.init())
    signal, _ = strategy.update(bars.slice(t, t + 1), before)

    said: dict[str, list[bool]] = {}
    for slot, _, inputs, verdict in strategy.explain(bars.slice(t, t + 1), before):
        said.setdefault(slot, []).append(verdict)
        assert all(isinstance(x, float) for x in inputs.values()) and inputs
    wants_in = any(said.get("entry", [])) or any(said.get("logic.entry", []))
    open_gate = all(said.get("trend", [])) and all(said.get("filter", [])) and not any(said.get("logic.veto", []))
    wants_out = any(said.get("exit", [])) or any(said.get("logic.exit", []))

    assert signal[0] == (EXIT if wants_out else ENTER if wants_in and open_gate else 0)
    from_afar, from_near = (
        strategy.explain(bars.slice(0, t + 1), strategy.init()),
        strategy.explain(bars.slice(t, t + 1), before),
    )
    assert str(from_afar) == str(from_near)  # as text, where NaN equals NaN


def test_an_explanation_names_the_numbers(g: Bars) -> None:
    reasons = {r.condition: r for r in default("RSIStrategy").explain(g, default("RSIStrategy").init())}

    assert reasons["RSIEntry"].slot == "entry" and reasons["RSIEntry"].verdict is False
    assert reasons["RSIEntry"].inputs == {"rsi": pytest.approx(36.48032998, rel=1e-9), "period": 14.0, "oversold": 30.0}


def test_the_id_of_a_strategy_is_the_published_one() -> None:
    params = {
        "entry_conditions": [{"RSIEntry": {"period": 11, "oversold": 28}}],
        "exit_conditions": [{"RSIExit": {"period": 11, "overbought": 66}}],
        "trend_conditions": [], "filter_conditions": [], "stateful_logic": None,
    }  # fmt: skip
    document = json.dumps({"params": params, "strategy": "RSIStrategy", "timeframe": "1Day"}, sort_keys=True)
    expected = hashlib.sha256(document.replace(", ", ",").replace(": ", ":").encode()).hexdigest()[:16]

    assert strategy_id("RSIStrategy", params, DAY) == "d369e775a145d649" == expected
    assert strategy_id("RSIStrategy", params, Timeframe.HOUR_1) != "d369e775a145d649"


@settings(max_examples=60)
@given(drawn())
def test_arguments_survive_json(g_of, strategy: Strategy) -> None:  # type: ignore[no-untyped-def]
    again = build(strategy.name, json.loads(json.dumps(strategy.params, allow_nan=False)), strategy.timeframe)
    bars = g_of(strategy.timeframe).slice(0, 500)

    assert (again.id, again.params) == (strategy.id, strategy.params)
    np.testing.assert_array_equal(again.run(bars).signal, strategy.run(bars).signal)


def test_a_state_belongs_to_its_strategy(g: Bars) -> None:
    rsi, bands = default("RSIStrategy"), default("BollingerBandsStrategy")

    with pytest.raises(BadInput, match="was given to RSIStrategy"):
        rsi.update(g, bands.init())
    with pytest.raises(BadInput, match="not the state"):
        State.from_bytes(b"short")
    with pytest.raises(BadInput, match="are not the state of RSIStrategy"):
        rsi.update(g, State.from_bytes(rsi.init().to_bytes()[:-8]))
    with pytest.raises(BadInput, match="no bar"):
        rsi.explain(g.slice(0, 0), rsi.init())
    assert rsi.init() != bands.init() and rsi.init() == rsi.init()
    assert rsi.update(g, rsi.init())[1] != rsi.init()


def test_updating_leaves_the_state_it_began_with_alone(g: Bars) -> None:
    strategy = default("TrailingStopStrategy")
    before = strategy.init()
    kept = before.to_bytes()

    strategy.update(g, before)

    assert before.to_bytes() == kept


def test_bars_of_another_length_are_refused(g: Bars) -> None:
    strategy = build("RSIStrategy", resolve("RSIStrategy", default_trial("RSIStrategy", DAY), DAY), Timeframe.HOUR_1)

    with pytest.raises(BadMarketData, match="1Hour"):
        strategy.run(g)


def test_a_cache_of_other_bars_is_refused(g: Bars) -> None:
    with pytest.raises(BadInput, match="other bars"):
        default("RSIStrategy").run(g, cache=FeatureCache(g.slice(0, 10)))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"exit_conditions": [{"RSIExit": {}}]}, "never trade"),
        ({"entry_conditions": [{"RSIEntry": {}}]}, "never sell"),
        ({"stateful_logic": {"TrailingStop": {}}}, "never trade"),
        ({"entry_conditions": [{"RSIEntry": {}}], "stop": 1}, "unknown key"),
        ({"stateful_logic": {"TrailingStop": {}, "MeanReversion": {}}}, "at most one"),
    ],
)
def test_compositions_that_cannot_work_are_refused(params: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(BadConfiguration, match=words):
        compose("Custom", params, DAY)


def test_logic_alone_can_trade() -> None:
    assert compose("Custom", {"stateful_logic": {"MeanReversion": {}}}, DAY).params["entry_conditions"] == []


def test_a_named_strategy_holds_what_its_row_says() -> None:
    params = resolve("RSIStrategy", default_trial("RSIStrategy", DAY), DAY)

    with pytest.raises(BadConfiguration, match="entry conditions"):
        build("RSIStrategy", {**params, "entry_conditions": [{"PullbackEntry": {}}]}, DAY)
    with pytest.raises(BadConfiguration, match="logic None"):
        build("RSIStrategy", {**params, "stateful_logic": {"TrailingStop": {}}}, DAY)
    filtered = build("RSIStrategy", {**params, "filter_conditions": [{"PriceAboveSMA": {"sma": 50}}]}, DAY)
    assert filtered.id != strategy_id("RSIStrategy", params, DAY)


def test_an_unknown_strategy_offers_the_nearest() -> None:
    for ask in (space, required_history, default_trial):
        with pytest.raises(UnknownName, match="did you mean 'RSIStrategy'"):
            ask("RSIStrateg", DAY)


@pytest.mark.parametrize("name", CONDITIONS)
def test_any_condition_can_be_a_filter(name: str, g_of) -> None:  # type: ignore[no-untyped-def]
    """Alone it says when; as a filter it stops the entries of another strategy at all other times, and no exit."""
    bars = g_of(HOUR)
    free = default_at(HOUR, "WickReversalStrategy")
    params = {**free.params, "filter_conditions": [{name: {}}]}
    filtered = build("WickReversalStrategy", params, HOUR, columns=("entry_signal",)).run(bars).signal
    alone = {"entry_conditions": [{name: {}}], "exit_conditions": [{"RSIAboveThreshold": {"threshold": 101}}]}
    holds = compose("Alone", alone, HOUR, columns=("entry_signal",)).run(bars).signal == ENTER

    unfiltered = free.run(bars).signal
    np.testing.assert_array_equal(filtered, np.where((unfiltered == ENTER) & ~holds, 0, unfiltered))
    assert holds.any()


def default_at(timeframe: Timeframe, name: str) -> Strategy:
    return build(name, resolve(name, default_trial(name, timeframe), timeframe), timeframe)


@settings(max_examples=40)
@given(drawn().filter(lambda strategy: strategy.timeframe is DAY))
def test_what_is_held_does_not_depend_on_where_history_begins(long_g: Bars, strategy: Strategy) -> None:
    """After the history that a strategy asks for. An EXIT while out may differ: a surge may lie further back."""
    needed, start = required_history(strategy.name, DAY), 4000
    assert strategy.settle <= needed

    whole = strategy.run(long_g, start=start)
    late = strategy.run(long_g.slice(start - needed, len(long_g)), start=needed)

    np.testing.assert_array_equal(late.state_in[needed:], whole.state_in[start:])


def test_macd_trailing_follows_its_crosses_and_its_stop(g: Bars) -> None:
    """With a stop that is never met it enters at every cross up and exits at every cross down after the first."""

    def says(**components: object) -> np.ndarray:
        return compose("Some", components, DAY).run(g).signal

    exit_never = [{"RSIAboveThreshold": {"threshold": 101}}]
    up = says(entry_conditions=[{"MACDBullishCross": {}}], exit_conditions=exit_never) == ENTER
    down = says(entry_conditions=[{"MACDBearishCross": {}}], exit_conditions=exit_never) == ENTER
    first = int(np.argmax(up))

    loose = says(stateful_logic={"MACDTrailing": {"stop_pct": 0.99}})
    tight = says(stateful_logic={"MACDTrailing": {"stop_pct": 0.02}})

    np.testing.assert_array_equal(loose == ENTER, up)
    np.testing.assert_array_equal(np.flatnonzero(loose == EXIT), [t for t in np.flatnonzero(down) if t > first])
    np.testing.assert_array_equal(tight == ENTER, up)
    stopped = np.flatnonzero((tight == EXIT) & ~down)
    assert len(stopped) > 10
    for t in stopped:  # below the highest close since the fill, which is at the open after the latest cross up
        bought = max(np.flatnonzero(up[:t])) + 1
        assert g.close[t] < 0.98 * max(g.open[bought], *g.close[bought : t + 1])


@pytest.mark.parametrize(("fast", "slow", "signal"), [(12, 26, 9), (8, 28, 13), (16, 24, 7)])
def test_macd_trailing_crosses_where_ta_lib_does(fast: int, slow: int, signal: int, g: Bars) -> None:
    """From bar 400 on, where its other seeds are forgotten; the stop is never met."""
    line, smoothed, _ = talib.MACD(g.close, fast, slow, signal)
    above = line > smoothed
    turned = np.flatnonzero(above[400:] != above[399:-1]) + 400

    given_ = {"fast": fast, "slow": slow, "signal": signal, "stop_pct": 0.99}
    found = compose("Macd", {"stateful_logic": {"MACDTrailing": given_}}, DAY).run(g, start=300).signal

    assert len(turned) > 50
    assert (np.flatnonzero(found[400:]) + 400).tolist() == turned.tolist()
    assert found[turned].tolist() == [ENTER if above[t] else EXIT for t in turned]


def test_a_strategy_of_hours_refuses_daily_bars() -> None:
    name = "TimeOfDayBiasStrategy"

    assert resolve(name, default_trial(name, DAY), DAY)["exit_conditions"]
    with pytest.raises(UnsupportedTimeframe, match="1Day"):
        build(name, resolve(name, default_trial(name, DAY), DAY), DAY)
    assert [t.value for t in Timeframe if STRATEGIES[name].supports(t)] == ["1Min", "5Min", "15Min", "1Hour"]


def test_a_declared_column_reaches_the_strategy(g: Bars) -> None:
    """Somebody else's entries, as a column of the bars; a state keeps nothing of it."""
    params = {"entry_conditions": [{"BooleanColumnEntry": {}}], "exit_conditions": [{"RSIAboveThreshold": {}}]}
    with pytest.raises(BadConfiguration, match="nobody declared"):
        compose("Theirs", params, DAY)

    theirs = compose("Theirs", params, DAY, columns=("entry_signal",))
    signal, state = theirs.update(g.slice(0, 500), theirs.init())
    more, _ = theirs.update(g.slice(500, 1000), state)

    leave = default("RSIStrategy").run(g).signal == EXIT
    expected = np.where(leave, EXIT, np.where(g.close > g.open, ENTER, 0))[:1000]
    np.testing.assert_array_equal(np.concatenate((signal, more)), expected)
