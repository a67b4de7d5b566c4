"""An average that takes hundreds of bars to forget where it began, declared to take twenty."""

import math

from algo_royale.strategies.own import condition, integer, strategy


@condition(state=(math.nan,), lookback=20)
def above_slow_average(bar, state, span=integer(50, 200, 100)):
    (mean,) = state
    mean = bar.close if math.isnan(mean) else mean + 2 / (span + 1) * (bar.close - mean)
    return bar.close > mean, (mean,)


strategy("ShortWarmUp", entry=above_slow_average, exit="RSIAboveThreshold")
