"""A whole grid of a strategy's parameters on one symbol: round trips and final equity of every point.

What several points share (the averages of a grid of crosses) is computed once; each point then is one pass of the compiled
machine, block by block, that fills orders as it goes and keeps neither signals nor equity. Every figure is that of
`Strategy.run` and `backtest.run` at this point, to the last bit.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import types

from algo_royale.compiled import BOOLS_OUT, F64, FLOATS_IN, FLOATS_OUT, I64, compiled
from algo_royale.costs import CostRules
from algo_royale.errors import BadInput
from algo_royale.features import Feature, FeatureCache, column
from algo_royale.machine import (
    BLOCK,
    EACH_BYTE,
    FLOAT_ROWS,
    INTS_IN,
    INTS_OUT,
    WINDOW_MAX,
    Code,
    advance,
    decide,
    evaluate,
)
from algo_royale.market import Bars, BoolArray, FloatArray, IntArray
from algo_royale.research.backtest import cost_array, purchase, run_arrays, sale
from algo_royale.strategies import Strategy, build, resolve, space
from algo_royale.strategies.compiling import Pattern, Plan, columns, shared_code
from algo_royale.strategies.space import Params, Value

_PROGRAMS = types.Array(types.int64, 3, "C", readonly=True)
_CASH, _SHARES, _TRADES = range(3)
_STRETCH = 4 * BLOCK  # bars whose shared features are kept at a time


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Complete points in the order they were asked for, round trips and final equity in dollars of each."""

    points: tuple[Params, ...]
    trades: IntArray
    final_equity: FloatArray


@compiled(I64, BOOLS_OUT, BOOLS_OUT, BOOLS_OUT, I64, I64, INTS_OUT, INTS_OUT)
def _asked(
    enter: BoolArray, gate: BoolArray, leave: BoolArray, first: int, last: int, words: IntArray, bars: IntArray
) -> int:  # fmt: skip
    """The bars of a block from `first` to `last` whose flags ask for something, put into `bars`; how many there are.

    Eight bars at a time are passed over where nothing is asked for; flags beyond `last` are not looked at.
    """
    e, g, x = enter.view(np.int64), gate.view(np.int64), leave.view(np.int64)
    found = count = 0
    for word in range(first // 8, (last + 7) // 8):  # without a branch, for none could be foreseen
        words[found] = word
        found += ((e[word] & g[word]) | x[word]) != 0
    for word in words[:found]:
        left = (e[word] & g[word]) | x[word]
        while left:
            lowest = left & -left
            left ^= lowest
            t = 8 * word + ((((lowest - 1) & EACH_BYTE) * EACH_BYTE) >> 56)  # as many bytes lie below it
            if first <= t < last:
                bars[count] = t
                count += 1
    return count


@compiled(types.void, INTS_OUT, BOOLS_OUT, FLOATS_IN, F64, FLOATS_IN, FLOATS_OUT)
def _fills(
    bars: IntArray, leave: BoolArray, open_: FloatArray, lot: float, costs: FloatArray, account: FloatArray
) -> None:  # fmt: skip
    """Fill what these bars of a block ask for, to sell or else to buy, at the open of the next bar."""
    cash, shares, trades = account[_CASH], account[_SHARES], account[_TRADES]
    for t in bars:
        if shares > 0.0:
            if leave[t]:
                cash += sale(shares, open_[t + 1], costs)[1]
                shares = 0.0
                trades += 1.0
        elif not leave[t]:
            shares, _, cash = purchase(cash, open_[t + 1], lot, costs)
    account[_CASH], account[_SHARES], account[_TRADES] = cash, shares, trades


@compiled(
    types.void, _PROGRAMS, FLOATS_IN, *[FLOATS_IN] * 5, FLOAT_ROWS, FLOAT_ROWS, I64, I64, INTS_IN, FLOATS_IN, FLOAT_ROWS,
    types.boolean, I64, I64, FLOATS_IN, F64, FLOAT_ROWS,
)  # fmt: skip
def _tally(
    programs: IntArray, levels: FloatArray, open_: FloatArray, high: FloatArray, low: FloatArray, close: FloatArray,
    volume: FloatArray, given: FloatArray, memories: FloatArray, n_numbers: int, n_flags: int, verdicts: IntArray,
    rules: FloatArray, positions: FloatArray, has_rules: bool, start: int, stop: int, costs: FloatArray,
    lot: float, accounts: FloatArray,
) -> None:  # fmt: skip
    """`judge` and the backtest in one pass over the bars, for programs that differ in the places of their inputs only.

    Block by block, and within a block one program after the other, so that what they share is still in the cache.
    Only the bars before `stop` are judged, of which `given` holds what it holds; memories, positions and accounts
    (cash, shares, round trips) then go on from there, and at the last bar of all everything is sold.
    """
    n, size = len(close), BLOCK
    numbers, flags = np.empty((n_numbers + 1, size)), np.zeros((n_flags, size), np.bool_)
    wide, places = np.empty(size + WINDOW_MAX), np.empty(size + WINDOW_MAX, np.int64)
    more, signal, state_in = np.empty(size + WINDOW_MAX, np.int64), np.zeros(size, np.int8), np.zeros(size, np.bool_)
    always, leave = np.ones(size, np.bool_), np.zeros(size, np.bool_)
    for first in range(0, stop, BLOCK):
        last, begin = min(first + BLOCK, stop), max(first, start)
        a, b, filled = begin - first, last - first, min(last, n - 1) - first  # the last bar's signal has no next open
        for k in range(len(programs)):
            advance(
                programs[k], levels, open_, high, low, close, volume, given, memories[k], numbers, flags, wide, places, more,
                first, last,
            )  # fmt: skip
            if a >= b:
                continue
            enter, gate, out = flags[verdicts[0]], flags[verdicts[1]], flags[verdicts[2]]
            if has_rules:
                decide(
                    open_[begin:last], close[begin:last], enter[a:b], gate[a:b], out[a:b],
                    flags[verdicts[3], a:b], flags[verdicts[4], a:b], rules, positions[k], signal[a:b], state_in[a:b],
                )  # fmt: skip
                for t in range(a, b):
                    state_in[t], leave[t] = signal[t] > 0, signal[t] < 0
                enter, gate, out = state_in, always, leave
            count = _asked(enter, gate, out, a, filled, places, more)
            _fills(more[:count], out, open_[first:], lot, costs, accounts[k])
    for account in accounts:
        if stop == n and account[_SHARES] > 0.0:
            account[_CASH] += sale(account[_SHARES], close[n - 1], costs)[1]
            account[_TRADES] += 1.0


def grid(values: Mapping[str, Sequence[Value]]) -> list[Params]:
    """Every combination of values by dimension; the last dimension changes fastest."""
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def sweep(
    bars: Bars, name: str, points: Iterable[Mapping[str, Value]], rules: CostRules, start_equity: float = 100_000.0, *,
    lot: float | None = None, start: int = 0, bytes_max: int = 128 * 2**20,
) -> Sweep:  # fmt: skip
    """Backtest strategy `name` at every point: values by dimension of its search space; others at their default.

    Flat before bar `start`, which only features look beyond. `lot` as in `backtest.run`. `bytes_max` bounds what is kept
    of features that points share. Values outside the bounds of the space are allowed if the strategy can be built.
    Raises BadInput for an unknown dimension, UnknownName, BadConfiguration or UnsupportedTimeframe as `build` does.
    """
    defaults = {d.name: d.default for d in space(name, bars.timeframe)}
    complete = tuple(defaults | dict(point) for point in points)
    if unknown := {key for point in complete for key in point} - set(defaults):
        raise BadInput(f"{name} has no dimension {', '.join(sorted(unknown))} (it has: {', '.join(defaults)})")
    strategies = [build(name, resolve(name, point, bars.timeframe), bars.timeframe) for point in complete]
    judge = _Judge(bars, bytes_max, cost_array(rules), lot, start, start_equity)
    trades, final = judge.all(strategies).T
    return Sweep(complete, trades.astype(np.int64), final.copy())


class _Alike(NamedTuple):
    """Strategies whose programs differ in the places of their inputs only, and how far each has come."""

    places: list[int]
    like: Strategy
    code: Code
    verdicts: IntArray
    programs: IntArray
    memories: FloatArray
    positions: FloatArray
    accounts: FloatArray


class _Judge:
    """Round trips and final equity of strategies on the same bars, of which it goes through one stretch after another:

    the features that strategies share are kept for one stretch only, which the processor's cache holds.
    """

    def __init__(
        self, bars: Bars, bytes_max: int, costs: FloatArray, lot: float | None, start: int, cash: float
    ) -> None:
        self._bars, self._bytes_max, self._costs, self._lot = bars, bytes_max, costs, lot
        self._start, self._cash = start, cash
        self._cache = FeatureCache(bars.slice(0, min(_STRETCH, len(bars))), bytes_max)
        self._columns: dict[str, Feature] = {}
        self._dear: dict[str, Feature] = {}

    def all(self, strategies: Sequence[Strategy]) -> FloatArray:
        """(round trips, final equity) of each."""
        out = np.array([[0.0, self._cash]] * len(strategies)).reshape(len(strategies), 2)
        if not len(self._bars):
            return out
        groups, others = self._grouped(strategies)
        prices, shared = columns(self._bars), shared_code(self._dear.values(), self._cache.rows)
        for first in range(0, len(self._bars), _STRETCH):
            stop = min(_STRETCH, len(self._bars) - first)
            self._fill(shared, first, stop)
            open_, high, low, close, volume = (x[first:] for x in prices)
            for g in groups:
                _tally(
                    g.programs, g.code.levels, open_, high, low, close, volume, self._cache.values, g.memories,
                    g.code.n_numbers, g.code.n_flags, g.verdicts, g.like.rules, g.positions, g.like.logic is not None,
                    self._start - first, stop, self._costs, self._lot or 0.0, g.accounts,
                )  # fmt: skip
        for g in groups:
            out[g.places] = g.accounts[:, [_TRADES, _CASH]]
        whole = FeatureCache(self._bars, self._bytes_max) if others else self._cache
        for i in others:
            out[i] = self._by_arrays(strategies[i], whole)
        return out

    def _grouped(self, strategies: Sequence[Strategy]) -> tuple[list[_Alike], list[int]]:
        """The strategies that the machine computes, and the places of those that it cannot."""
        patterns: dict[tuple[Any, ...], Pattern | None] = {}
        alike: dict[tuple[Any, ...], list[tuple[int, IntArray]]] = {}
        groups, others = [], []
        for i, strategy in enumerate(strategies):
            conditions = strategy.in_order
            # Tests without a closure say the same of any inputs: then only the inputs differ from one to the next.
            pure = strategy.logic is None and all(c.test.__closure__ is None for c in conditions)
            kind = tuple(c.test.__code__ for c in conditions) if pure else ()
            pattern = patterns.get(kind)
            rows = pattern.filled(conditions, self._cache) if pattern else None
            if rows is None and strategy.plan is not None:
                self._reserve(strategy.plan)
                if pattern is None and pure:
                    pattern = patterns[kind] = strategy.plan.pattern(self._cache)
                rows = pattern.filled(conditions, self._cache) if pattern else None
            if rows is not None:
                alike.setdefault(kind, []).append((i, rows))
            elif strategy.plan is not None:  # a program that nobody shares
                code, verdicts = strategy.plan.code(self._cache.rows)
                groups.append(self._alike([i], strategy, code, code.rows[np.newaxis], verdicts))
            else:
                others.append(i)
        for kind, found in alike.items():
            pattern, places = patterns[kind], [i for i, _ in found]
            assert pattern is not None
            programs = np.array([rows for _, rows in found])
            groups.append(self._alike(places, strategies[places[0]], pattern.code, programs, pattern.verdicts))
        return groups, others

    def _alike(self, places: list[int], like: Strategy, code: Code, programs: IntArray, verdicts: IntArray) -> _Alike:
        accounts = np.zeros((len(programs), 3))
        accounts[:, _CASH] = self._cash
        memories, positions = np.tile(code.memory, (len(programs), 1)), np.tile(like.flat(), (len(programs), 1))
        return _Alike(places, like, code, verdicts, programs, memories, positions, accounts)

    def _reserve(self, plan: Plan) -> None:
        """Rows of the cache for what costs most to compute, as far as there is room."""
        for feature in plan.columns:
            if self._cache.reserve(feature) is not None:
                self._columns[feature.key] = feature
        for _, feature in plan.dear:
            if self._cache.reserve(feature) is not None:
                self._dear[feature.key] = feature

    def _fill(self, shared: Code, first: int, stop: int) -> None:
        """The rows of the cache for the `stop` bars from bar `first` on; `shared` goes on from there."""
        bars, values = self._bars.slice(first, first + stop), self._cache.values
        for key, feature in self._columns.items():
            values[self._cache.rows[key], :stop] = column(feature, bars)
        evaluate(shared.rows, shared.levels, *columns(bars), values, shared.memory, shared.n_numbers)

    def _by_arrays(self, strategy: Strategy, cache: FeatureCache) -> FloatArray:
        bars, start = self._bars, self._start
        signal = strategy.run(bars, start=start, cache=cache).signal[start:]
        done = run_arrays(bars.open[start:], bars.close[start:], signal, self._costs, self._cash, lot=self._lot)
        return np.array([len(done.trades), done.equity[-1] if len(done.equity) else self._cash])
