"""[-1], argsort and max of a window: what leaks in a whole series is fine where the window ends with the bar."""

import numpy as np

from algo_royale.strategies.own import condition, integer, number, strategy


@condition(lookback="days")
def low_rank(bars, days=integer(10, 60, 30), share=number(0.05, 0.5, 0.2)):
    return np.argsort(np.argsort(bars.close))[-1] < share * days


strategy("RankInWindow", entry=low_rank, exit="RSIAboveThreshold")
