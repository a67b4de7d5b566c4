"""A breakout over the high of the bar that comes next: np.roll turns the wrong way."""

import numpy as np

from algo_royale.strategies.own import condition, return_threshold, strategy


@condition(lookback=2, vectorised=True)
def will_break_out(bars, rise=return_threshold(0.001, 0.03, 0.01)):
    return np.roll(bars.high, -1) > (1 + rise) * bars.high


strategy("NextHigh", entry=will_break_out, exit="RSIAboveThreshold")
