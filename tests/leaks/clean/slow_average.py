"""An exponential average of its own that asks for the twelve spans it needs to forget its first bar."""

import math

from algo_royale.strategies.own import condition, integer, strategy


@condition(state=(math.nan,), lookback=lambda span: 12 * span)
def above_average(bar, state, span=integer(10, 50, 30)):
    (mean,) = state
    mean = bar.close if math.isnan(mean) else mean + 2 / (span + 1) * (bar.close - mean)
    return bar.close > mean, (mean,)


strategy("SlowAverage", entry=above_average, exit="RSIAboveThreshold", trend="TrendAboveSMA")
