"""np.gradient takes the difference between the bar after and the bar before."""

import numpy as np

from algo_royale.strategies.own import condition, strategy


@condition(lookback=3, vectorised=True)
def turns_up(bars):
    slope = np.gradient(bars.close)
    return (slope > 0) & (np.roll(slope, 1) <= 0)


strategy("Slope", entry=turns_up, exit="RSIAboveThreshold")
