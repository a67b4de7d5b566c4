"""A whole grid of a strategy's parameters on one symbol: round trips and final equity of every point.

What several points share (the averages of a grid of crosses) is computed once; each point then is one pass of the compiled
machine, block by block, that fills orders as it goes and keeps neither signals nor equity. Every figure is that of
`Strategy.run` and `backtest.run` at this point, to the last bit.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types

from algo_royale.compiled import BOOLS_OUT, F64, FLOATS_IN, FLOATS_OUT, I64, compiled
from algo_royale.costs import CostRules
from algo_royale.errors import BadInput
from algo_royale.features import FeatureCache
from algo_royale.machine import BLOCK, FLOAT_ROWS, INT_ROWS, INTS_IN, WINDOW_MAX, advance, decide
from algo_royale.market import Bars, BoolArray, FloatArray, IntArray
from algo_royale.research.backtest import cost_array, purchase, run_arrays, sale
from algo_royale.strategies import Strategy, build, resolve, space
from algo_royale.strategies.compiling import columns
from algo_royale.strategies.space import Params, Value

_tuple_of: Any = types.Tuple  # numba has no annotations
Prices = tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]
_CASH, _SHARES, _TRADES = range(3)


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Complete points in the order they were asked for, round trips and final equity in dollars of each."""

    points: tuple[Params, ...]
    trades: IntArray
    final_equity: FloatArray


@compiled(types.void, BOOLS_OUT, BOOLS_OUT, BOOLS_OUT, FLOATS_IN, I64, I64, F64, FLOATS_IN, FLOATS_OUT)
def _fills(
    enter: BoolArray, gate: BoolArray, leave: BoolArray, open_: FloatArray, first: int, last: int, lot: float,
    costs: FloatArray, account: FloatArray,
) -> None:  # fmt: skip
    """Fill what the flags of the bars [first, last) of a block ask for, at the open of the next bar.

    Eight bars at a time are passed over where nothing is asked for; flags beyond `last` are not looked at.
    """
    e, g, x = enter.view(np.int64), gate.view(np.int64), leave.view(np.int64)
    cash, shares, trades = account[_CASH], account[_SHARES], account[_TRADES]
    for word in range(first // 8, (last + 7) // 8):
        if not ((e[word] & g[word]) | x[word]):
            continue
        for t in range(max(first, 8 * word), min(last, 8 * word + 8)):
            if leave[t]:
                if shares > 0.0:
                    _, proceeds = sale(shares, open_[t + 1], costs)
                    cash += proceeds
                    shares = 0.0
                    trades += 1.0
            elif enter[t] and gate[t] and shares == 0.0:
                shares, _, cash = purchase(cash, open_[t + 1], lot, costs)
    account[_CASH], account[_SHARES], account[_TRADES] = cash, shares, trades


@compiled(
    _tuple_of((F64, F64)), INT_ROWS, FLOATS_IN, *[FLOATS_IN] * 5, FLOAT_ROWS, FLOATS_OUT, I64, I64, INTS_IN, FLOATS_IN,
    FLOATS_OUT, types.boolean, I64, FLOATS_IN, F64, F64,
)  # fmt: skip
def _tally(
    rows: IntArray, levels: FloatArray, open_: FloatArray, high: FloatArray, low: FloatArray, close: FloatArray,
    volume: FloatArray, given: FloatArray, memory: FloatArray, n_numbers: int, n_flags: int, verdicts: IntArray,
    rules: FloatArray, position: FloatArray, has_rules: bool, start: int, costs: FloatArray, lot: float, cash: float,
) -> tuple[float, float]:  # fmt: skip
    """(round trips, final equity) of a program on the bars from `start` on: `judge` and the backtest in one pass."""
    n = len(close)
    size = BLOCK
    numbers, flags = np.empty((n_numbers + 1, size)), np.zeros((n_flags, size), np.bool_)
    wide, places = np.empty(size + WINDOW_MAX), np.empty(size + WINDOW_MAX, np.int64)
    more, signal, state_in = np.empty(size + WINDOW_MAX, np.int64), np.zeros(size, np.int8), np.zeros(size, np.bool_)
    gate, account = np.ones(size, np.bool_), np.zeros(3)
    leave = np.zeros(size, np.bool_)
    account[_CASH] = cash
    for first in range(0, n, BLOCK):
        last = min(first + BLOCK, n)
        advance(
            rows, levels, open_, high, low, close, volume, given, memory, numbers, flags, wide, places, more, first, last
        )  # fmt: skip
        begin = max(first, start)
        a, b, filled = begin - first, last - first, min(last, n - 1) - first  # the last bar's signal has no next open
        if a >= b:
            continue
        enter = flags[verdicts[0]]
        if has_rules:
            decide(
                open_[begin:last], close[begin:last], enter[a:b], flags[verdicts[1], a:b], flags[verdicts[2], a:b],
                flags[verdicts[3], a:b], flags[verdicts[4], a:b], rules, position, signal[a:b], state_in[a:b],
            )  # fmt: skip
            for t in range(a, b):
                state_in[t], leave[t] = signal[t] > 0, signal[t] < 0
            _fills(state_in, gate, leave, open_[first:], a, filled, lot, costs, account)
        else:
            _fills(enter, flags[verdicts[1]], flags[verdicts[2]], open_[first:], a, filled, lot, costs, account)
    if account[_SHARES] > 0.0:
        account[_CASH] += sale(account[_SHARES], close[n - 1], costs)[1]
        account[_TRADES] += 1.0
    return account[_TRADES], account[_CASH]


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
    cache = FeatureCache(bars, bytes_max)
    uses = Counter(f.key for s in strategies if s.plan is not None for _, f in s.plan.dear)
    costs, prices = cost_array(rules), columns(bars)
    done = [_one(bars, s, cache, uses, prices, costs, lot, start, start_equity) for s in strategies]
    return Sweep(complete, np.array([x for x, _ in done], np.int64), np.array([x for _, x in done], np.float64))


def _one(
    bars: Bars, strategy: Strategy, cache: FeatureCache, uses: Mapping[str, int], prices: Prices,
    costs: FloatArray, lot: float | None, start: int, cash: float,
) -> tuple[float, float]:  # fmt: skip
    if strategy.plan is None or not len(bars):
        signal = strategy.run(bars, start=start, cache=cache).signal[start:]
        done = run_arrays(bars.open[start:], bars.close[start:], signal, costs, cash, lot=lot)
        return len(done.trades), float(done.equity[-1]) if len(done.equity) else cash
    strategy.plan.fill(cache, [(at, f) for at, f in strategy.plan.dear if uses[f.key] > 1])
    code, verdicts = strategy.plan.code(cache.rows)
    trades, final = _tally(
        code.rows, code.levels, *prices, cache.values, code.memory, code.n_numbers, code.n_flags, verdicts,
        strategy.rules, strategy.flat(), strategy.logic is not None, start, costs, lot or 0.0, cash,
    )  # fmt: skip
    return trades, final
