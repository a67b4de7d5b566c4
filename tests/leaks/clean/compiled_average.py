"""The same recursion in numba, a portion of bars at a time: the state goes in and comes out."""

import math

import numba
import numpy as np

from algo_royale.strategies.own import condition, integer, strategy


@numba.njit(cache=True)
def averages(close, mean, alpha):
    out = np.empty(len(close))
    for t in range(len(close)):
        mean = close[t] if math.isnan(mean) else mean + alpha * (close[t] - mean)
        out[t] = mean
    return out, mean


@condition(state=(math.nan,), lookback=lambda span: 12 * span, vectorised=True)
def above_compiled_average(bars, state, span=integer(5, 30, 12)):
    out, mean = averages(bars.close, state[0], 2 / (span + 1))
    return bars.close > out, (mean,)


strategy("CompiledAverage", entry=above_compiled_average, exit="RSIAboveThreshold")
