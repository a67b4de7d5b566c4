"""Local lows, which are known to be lows only once prices have risen from them."""

import numpy as np
from scipy.signal import argrelmin

from algo_royale.strategies.own import condition, integer, strategy


@condition(lookback="days", vectorised=True)
def local_low(bars, days=integer(2, 10, 4)):
    out = np.zeros(len(bars), bool)
    out[argrelmin(bars.low, order=days)[0]] = True
    return out


strategy("TurningPoints", entry=local_low, exit="RSIAboveThreshold")
